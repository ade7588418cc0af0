package checkmap

import (
	"context"
	"syscall"
)

// WithContext gives options that stop a call when ctx is done, beside what Progress says: the call then has changed
// nothing, and fails with ErrCancelled; errors.Is finds ctx.Err() too. It is looked at before the call and whenever
// Progress would be told; while an image is being committed nothing stops it. For nil it gives the defaults with ctx.
func (options *Options) WithContext(ctx context.Context) *Options {
	if ctx == nil {
		panic("checkmap: nil context")
	}
	var with Options
	if options != nil {
		with = *options
	}
	with.ctx = ctx
	return &with
}

// begun is the error of a call whose context is done before it begins.
func (options *Options) begun() error {
	if options == nil || options.ctx == nil || options.ctx.Err() == nil {
		return nil
	}
	err := options.ctx.Err()
	return &Error{Kind: ErrCancelled, Errno: syscall.ECANCELED, Message: "the call was not begun: " + err.Error(), cause: err}
}

// progress is what C calls: nil where nobody wants to be told.
func (options *Options) progress() func(phase string, done, total uint64) error {
	if options.ctx == nil {
		return options.Progress
	}
	return func(phase string, done, total uint64) error {
		if err := options.ctx.Err(); err != nil {
			return err
		}
		if options.Progress == nil {
			return nil
		}
		return options.Progress(phase, done, total)
	}
}

// UnionContext is UnionWith that stops when ctx is done.
func (b *Bitmap) UnionContext(ctx context.Context, others []*Bitmap, options *Options) error {
	return b.UnionWith(others, options.WithContext(ctx))
}

// UnionOfContext is UnionOf that stops when ctx is done.
func UnionOfContext(ctx context.Context, bitmaps []*Bitmap, granularity uint64, options *Options) (*Bitmap, error) {
	return UnionOf(bitmaps, granularity, options.WithContext(ctx))
}

// CheckContext is Check that stops when ctx is done.
func (i *Image) CheckContext(ctx context.Context, options *Options) (*Report, error) {
	return i.Check(options.WithContext(ctx))
}

// CreateContext is CreateWith that stops when ctx is done.
func (i *Image) CreateContext(ctx context.Context, name string, granularity uint64, options *Options) error {
	return i.CreateWith(name, granularity, options.WithContext(ctx))
}

// DeleteContext is DeleteWith that stops when ctx is done.
func (i *Image) DeleteContext(ctx context.Context, name string, options *Options) error {
	return i.DeleteWith(name, options.WithContext(ctx))
}

// DeleteInconsistentContext is DeleteInconsistent that stops when ctx is done.
func (i *Image) DeleteInconsistentContext(ctx context.Context, options *Options) error {
	return i.DeleteInconsistent(options.WithContext(ctx))
}

// DropBeforeContext is DropBefore that stops when ctx is done.
func (i *Image) DropBeforeContext(ctx context.Context, name string, options *Options) error {
	return i.DropBefore(name, options.WithContext(ctx))
}

// CommitBitmapsContext is CommitBitmaps that stops when ctx is done.
func (i *Image) CommitBitmapsContext(ctx context.Context, base *Image, options *Options) error {
	return i.CommitBitmaps(base, options.WithContext(ctx))
}

// RenameContext is RenameWith that stops when ctx is done.
func (i *Image) RenameContext(ctx context.Context, name, to string, options *Options) error {
	return i.RenameWith(name, to, options.WithContext(ctx))
}

// DiffContext is Diff that stops when ctx is done; for a window of the disk, DiffWith takes options.WithContext.
func (i *Image) DiffContext(ctx context.Context, since, until string, options *Options) (*Bitmap, error) {
	return i.DiffWith(since, until, 0, ToEnd, options.WithContext(ctx))
}

// MergeStoredContext is MergeStored that stops when ctx is done.
func (i *Image) MergeStoredContext(ctx context.Context, names []string, into string, options *Options) error {
	return i.MergeStored(names, into, options.WithContext(ctx))
}

// DropStoredContext is DropStored that stops when ctx is done.
func (i *Image) DropStoredContext(ctx context.Context, name string, options *Options) error {
	return i.DropStored(name, options.WithContext(ctx))
}

// DropAllContext is DropAll that stops when ctx is done.
func (i *Image) DropAllContext(ctx context.Context, options *Options) error {
	return i.DropAll(options.WithContext(ctx))
}

// CheckContext is Check that stops when ctx is done.
func (s *Segment) CheckContext(ctx context.Context, options *Options) (*Report, error) {
	return s.Check(options.WithContext(ctx))
}

// MergeSegmentsContext is MergeSegments that stops when ctx is done; what was at path stays.
func MergeSegmentsContext(ctx context.Context, segments []*Segment, path string, options *Options) (SegmentInfo, error) {
	return MergeSegments(segments, path, options.WithContext(ctx))
}

// MergeSegmentsInfoContext is MergeSegmentsInfo that stops when ctx is done.
func MergeSegmentsInfoContext(ctx context.Context, segments []*Segment, options *Options) (SegmentInfo, error) {
	return MergeSegmentsInfo(segments, options.WithContext(ctx))
}
