package checkmap

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Every long call, with a context: what it makes or changes is left as it is where the context is done.
func TestContext(t *testing.T) {
	path := imageCopy(t, "chain.qcow2")
	image := openImage(t, path, ReadWrite)
	a, b := bitmapOf(t, mib, kib), bitmapOf(t, mib, kib)
	fine(t, b.Set(0, 1))
	place := filepath.Join(t.TempDir(), "segment")
	ok(b.WriteSegment(place))
	segment := ok(OpenSegment(place))
	merged := filepath.Join(t.TempDir(), "merged")
	dry := &Options{Flags: DryRun}
	calls := map[string]func(context.Context, *Options) error{
		"union": func(ctx context.Context, options *Options) error { return a.UnionContext(ctx, []*Bitmap{b}, options) },
		"union of": func(ctx context.Context, options *Options) error {
			return second(UnionOfContext(ctx, []*Bitmap{b}, 0, options))
		},
		"check":  func(ctx context.Context, options *Options) error { return second(image.CheckContext(ctx, options)) },
		"create": func(ctx context.Context, options *Options) error { return image.CreateContext(ctx, "d", 0, options) },
		"delete": func(ctx context.Context, options *Options) error { return image.DeleteContext(ctx, "b", options) },
		"delete inconsistent": func(ctx context.Context, options *Options) error {
			return image.DeleteInconsistentContext(ctx, options)
		},
		"drop before": func(ctx context.Context, options *Options) error { return image.DropBeforeContext(ctx, "b", options) },
		"rename":      func(ctx context.Context, options *Options) error { return image.RenameContext(ctx, "b", "z", options) },
		"diff": func(ctx context.Context, options *Options) error {
			return second(image.DiffContext(ctx, "a", Now, options))
		},
		"merge stored": func(ctx context.Context, options *Options) error {
			return image.MergeStoredContext(ctx, []string{"a"}, "a->b", options)
		},
		"drop stored": func(ctx context.Context, options *Options) error {
			return image.DropStoredContext(ctx, "a->b", options)
		},
		"drop all": func(ctx context.Context, options *Options) error { return image.DropAllContext(ctx, options) },
		"segment check": func(ctx context.Context, options *Options) error {
			return second(segment.CheckContext(ctx, options))
		},
		"merge": func(ctx context.Context, options *Options) error {
			return second(MergeSegmentsContext(ctx, []*Segment{segment}, merged, options))
		},
		"merge info": func(ctx context.Context, options *Options) error {
			return second(MergeSegmentsInfoContext(ctx, []*Segment{segment}, options))
		},
	}
	ended, end := context.WithCancel(context.Background())
	end()
	late, endLate := context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer endLate()
	for name, call := range calls {
		for _, done := range []context.Context{ended, late} {
			err := call(done, nil)
			fails(t, err, ErrCancelled, syscall.ECANCELED)
			check(t, errors.Is(err, done.Err()))
		}
		// In the middle: the first that is told ends it, and what Progress says still counts.
		if name == "delete inconsistent" {
			continue
		}
		ctx, cancel := context.WithCancel(context.Background())
		told := 0
		err := call(ctx, &Options{Progress: func(string, uint64, uint64) error {
			told++
			cancel()
			return nil
		}, Flags: DryRun})
		if told > 1 {
			t.Errorf("%s: told %d times, and went on", name, told)
		}
		if err != nil {
			fails(t, err, ErrCancelled, syscall.ECANCELED)
			check(t, errors.Is(err, context.Canceled))
		}
		enough := errors.New("enough")
		err = call(context.Background(), &Options{Progress: func(string, uint64, uint64) error { return enough }, Flags: DryRun})
		check(t, err == nil || errors.Is(err, enough))
		cancel()
	}
	equal(t, ok(a.IsEmpty()), true)
	equal(t, len(ok(image.Checkpoints())), 3)
	check(t, second(OpenSegment(merged)) != nil)
	// One that is not done stops nothing, and changes nothing of the options.
	fine(t, image.CreateContext(context.Background(), "d", 0, dry))
	equal(t, len(ok(image.Checkpoints())), 3)
	check(t, dry.ctx == nil)
	fine(t, image.CreateContext(context.Background(), "d", 0, nil))
	equal(t, len(ok(image.Checkpoints())), 4)
	for name, call := range calls {
		if err := call(context.Background(), dry); err != nil && name != "create" && name != "drop all" {
			t.Errorf("%s: %v", name, err)
		}
	}
	func() {
		defer func() { check(t, recover() != nil) }()
		var none context.Context
		dry.WithContext(none)
	}()
}
