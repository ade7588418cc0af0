package checkmap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"
)

func Test001Version(t *testing.T) {
	check(t, strings.Count(Version(), ".") == 2)
	library, header := ABIVersion()
	check(t, header >= 1 && library >= header)
}

func Test002LastError(t *testing.T) {
	bitmap, err := NewBitmap(1, 3)
	invalid(t, err)
	check(t, bitmap == nil)
	check(t, strings.Contains(err.Error(), "granularity 3"))
	other := second(bitmapOf(t, 1, 1).Get(1))
	outOfRange(t, other)
	check(t, !strings.Contains(other.Error(), "granularity 3"))
	check(t, strings.Contains(err.Error(), "granularity 3"))
}

func TestWaysOutAreInTheWordsOfGo(t *testing.T) {
	said := func(err error, word string) {
		t.Helper()
		check(t, err != nil && strings.Contains(err.Error(), word))
		for _, foreign := range []string{"CHECKMAP_", "checkmap_", " --", "::", "\x1e", "\x1f", "os error"} {
			check(t, !strings.Contains(err.Error(), foreign))
		}
	}
	path := imageCopy(t, "overlay.qcow2", "chain.qcow2")
	image := openImage(t, path, ReadWrite)
	said(second(Open(path, ReadOnly)), "ForceShare")
	fine(t, os.Remove(filepath.Join(filepath.Dir(path), "chain.qcow2")))
	said(second(image.Diff("a", Now)), "TopLayerOnly")
	image = openImage(t, imageCopy(t, "chain.qcow2"), ReadWrite)
	said(image.CreateWith("d", 0, &Options{Model: ModelCumulative}), "leave out Options.Model, or ask for Options.Model of")
	image = openImage(t, imageCopy(t, "inconsistent.qcow2"), ReadWrite)
	said(image.Create("d", 0), "Image.DeleteInconsistent")
	said(image.Delete("c"), "ForceInconsistent")
	equal(t, spelled("a\x1eNEW=1\x1fof C\x1eb\x1eNO_LOCK\x1fx\x1e"), "aof CbNoLock")
	equal(t, spelled("cut \x1eNO_LO"), "cut \x1eNO_LO")
}

// The message of an error is that of its own call, whatever thread the goroutine was on.
func Test003LastErrorThreads(t *testing.T) {
	var group sync.WaitGroup
	for worker := uint64(0); worker < 16; worker++ {
		granularity := 3 + 2*worker
		word := fmt.Sprintf("granularity %d", granularity)
		group.Add(1)
		go func() {
			defer group.Done()
			for round := 0; round < 500; round++ {
				_, err := NewBitmap(1, granularity)
				if err == nil || !strings.Contains(err.Error(), word) {
					t.Errorf("%v has no %q", err, word)
					return
				}
				runtime.Gosched()
			}
		}()
	}
	group.Wait()
}

func Test004ErrorNames(t *testing.T) {
	names := map[Kind]string{
		ErrIO: "IO", ErrNoSpace: "NO_SPACE", ErrInvalidArgument: "INVALID_ARGUMENT", ErrOutOfRange: "OUT_OF_RANGE",
		ErrSizeMismatch: "SIZE_MISMATCH", ErrInvalidName: "INVALID_NAME", ErrNameTooLong: "NAME_TOO_LONG",
		ErrNotFound: "NOT_FOUND", ErrExists: "EXISTS", ErrUnknownFormat: "UNKNOWN_FORMAT",
		ErrUnsupported: "UNSUPPORTED", ErrDamaged: "DAMAGED", ErrInUse: "IN_USE", ErrNoLocks: "NO_LOCKS",
		ErrReadOnly: "READ_ONLY", ErrUnclean: "UNCLEAN", ErrStale: "STALE", ErrInconsistent: "INCONSISTENT",
		ErrRecording: "RECORDING", ErrBrokenChain: "BROKEN_CHAIN", ErrModel: "MODEL", ErrOrder: "ORDER",
		ErrBackingLayer: "BACKING_LAYER", ErrCancelled: "CANCELLED", ErrCommitInDoubt: "COMMIT_IN_DOUBT",
		ErrChanged: "CHANGED", ErrOldVersion: "OLD_VERSION", ErrCannotStore: "CANNOT_STORE", ErrPoisoned: "POISONED",
		ErrOutOfMemory: "OUT_OF_MEMORY", ErrTornByFork: "TORN_BY_FORK",
		ErrHypervisor: "HYPERVISOR",
	}
	for kind := Kind(1); ; kind++ {
		if kind.Errno() == 0 {
			equal(t, int(kind)-1, len(names)) // every kind that the library knows has a constant
			equal(t, kind.Error(), "no kind of error")
			break
		}
		equal(t, kind.Error(), "CHECKMAP_ERROR_"+names[kind])
	}
	equal(t, ErrDamaged.Errno(), syscall.EBADMSG)
	err := second(Open("nowhere", ReadOnly))
	check(t, errors.Is(err, ErrIO) && errors.Is(err, syscall.ENOENT) && errors.Is(err, fs.ErrNotExist))
	check(t, !errors.Is(err, ErrNotFound) && !errors.Is(err, syscall.EINVAL))
	var ours *Error
	check(t, errors.As(err, &ours) && ours.Kind == ErrIO && ours.Errno == syscall.ENOENT)
}

// A closed value stands where C has NULL.
func Test005Closed(t *testing.T) {
	b, good := bitmapOf(t, mib, kib), bitmapOf(t, mib, kib)
	i := openImage(t, imageCopy(t, "chain.qcow2"), ReadWrite)
	path := filepath.Join(t.TempDir(), "segment")
	ok(good.WriteSegment(path))
	s := ok(OpenSegment(path))
	for twice := 0; twice < 2; twice++ {
		fine(t, b.Close())
		fine(t, i.Close())
		fine(t, s.Close())
	}
	invalid(t, second(b.Clone()))
	invalid(t, b.Set(0, 1))
	invalid(t, b.Clear(0, 1))
	invalid(t, b.SetAll())
	invalid(t, b.ClearAll())
	invalid(t, b.Resize(1))
	invalid(t, b.Optimize())
	invalid(t, b.Validate())
	invalid(t, second(b.Get(0)))
	equal(t, b.Size(), 0)
	equal(t, b.Granularity(), 0)
	invalid(t, second(b.Granules()))
	invalid(t, second(b.Count()))
	invalid(t, second(b.CountRange(0, 1)))
	invalid(t, second(b.DirtyBytes()))
	invalid(t, second(b.CountExtents()))
	invalid(t, second(b.HeapBytes()))
	invalid(t, second(b.IsEmpty()))
	invalid(t, third(b.NextDirty(0, 1)))
	invalid(t, third(b.NextClean(0, 1)))
	invalid(t, third(b.PreviousDirty(0, 1)))
	invalid(t, third(b.PreviousClean(0, 1)))
	invalid(t, second(b.FillExtents(0, 1, make([]Extent, 1))))
	invalid(t, b.Union())
	invalid(t, good.Union(b))
	invalid(t, good.Union(nil))
	invalid(t, second(UnionOf([]*Bitmap{b}, 0, nil)))
	for _, other := range []*Bitmap{b, nil} {
		invalid(t, good.Intersect(other))
		invalid(t, good.Subtract(other))
		invalid(t, good.Xor(other))
		invalid(t, second(good.Equal(other)))
		invalid(t, second(good.IsSubset(other)))
	}
	invalid(t, second(b.ToGranularity(1)))
	invalid(t, second(b.SHA256()))
	invalid(t, second(b.ToBits(0, 1)))
	invalid(t, b.FromBits(0, nil))
	invalid(t, second(b.Serialize()))
	invalid(t, second(b.WriteSegment(path)))
	invalid(t, second(b.WriteSegmentFile(os.Stdout)))
	walk := b.Extents(0, ToEnd)
	check(t, !walk.Next() && !walk.Next())
	invalid(t, walk.Err())

	invalid(t, i.SetThreads(1))
	invalid(t, second(i.Info()))
	invalid(t, i.Trouble())
	invalid(t, second(i.Warnings()))
	invalid(t, second(i.Check(nil)))
	invalid(t, i.Create("a", 0))
	invalid(t, i.Delete("a"))
	invalid(t, i.DeleteInconsistent(nil))
	invalid(t, i.Rename("a", "b"))
	invalid(t, second(i.Checkpoints()))
	invalid(t, second(i.Diff("a", Now)))
	invalid(t, second(i.StoredBitmaps()))
	invalid(t, second(i.ReadStored("a", 0, 1)))
	invalid(t, second(i.SummarizeStored("a")))
	invalid(t, second(i.SHA256Stored("a")))
	invalid(t, i.MergeStored([]string{"a"}, "b", nil))

	invalid(t, second(s.Info()))
	invalid(t, second(s.HeapBytes()))
	invalid(t, second(s.Count()))
	invalid(t, second(s.DirtyBytes()))
	invalid(t, second(s.CountRange(0, 1)))
	invalid(t, second(s.Get(0)))
	invalid(t, third(s.NextDirty(0, 1)))
	invalid(t, third(s.NextClean(0, 1)))
	invalid(t, second(s.FillExtents(0, 1, make([]Extent, 1))))
	invalid(t, second(s.Load(0, 1)))
	invalid(t, second(s.Check(nil)))
	differ := s.Diff(nil, 0, ToEnd)
	check(t, !differ.Next())
	invalid(t, differ.Err())
	invalid(t, second(MergeSegments([]*Segment{s, nil}, path, nil)))
	invalid(t, second(MergeSegmentsInfo([]*Segment{s}, nil)))
}

func Test008Poisoned(t *testing.T) {
	bitmap, good := bitmapOf(t, mib, kib), bitmapOf(t, mib, kib)
	// No call has such a fault on purpose: this is the mark that it would leave behind the tag of eight bytes.
	*(*byte)(unsafe.Add(unsafe.Pointer(bitmap.handle), 8)) = 1
	const errno = syscall.ENOTRECOVERABLE
	fails(t, bitmap.Set(0, 1), ErrPoisoned, errno)
	fails(t, second(bitmap.Count()), ErrPoisoned, errno)
	fails(t, second(bitmap.Clone()), ErrPoisoned, errno)
	fails(t, good.Union(bitmap), ErrPoisoned, errno)
	equal(t, bitmap.Size(), 0)
	equal(t, ok(good.Count()), 0)
	fine(t, bitmap.Close())
}

// What the garbage collector finds is freed, and what is in use is not.
func Test009Finalizers(t *testing.T) {
	for round := 0; round < 200; round++ {
		bitmap := ok(NewBitmap(gib, 4*kib))
		fine(t, bitmap.Set(uint64(round)*mib, mib))
		if round%20 == 0 {
			runtime.GC()
		}
		equal(t, ok(ok(bitmap.Clone()).Count()), 256)
	}
	path := imageCopy(t, "chain.qcow2")
	ok(Open(path, ReadWrite)) // its locks go with it
	for tries := 0; ; tries++ {
		runtime.GC()
		image, err := Open(path, ReadWrite)
		if err == nil {
			fine(t, image.Close())
			break
		}
		check(t, tries < 1000)
		runtime.Gosched()
	}
}

func Test140Options(t *testing.T) {
	bitmap := bitmapOf(t, mib, kib)
	all := []*Bitmap{bitmap}
	for threads := uint32(0); threads < 5; threads++ {
		fine(t, bitmap.UnionWith(all, &Options{Threads: threads}))
		fine(t, bitmap.IntersectWith(bitmap, &Options{Threads: threads}))
		fine(t, bitmap.XorWith(bitmap, &Options{Threads: threads}))
		fine(t, bitmap.SubtractWith(bitmap, &Options{Threads: threads}))
	}
	invalid(t, bitmap.UnionWith(all, &Options{Threads: ^uint32(0)}))
	invalid(t, bitmap.UnionWith(all, &Options{Flags: 0x80000000}))
	invalid(t, bitmap.UnionWith(all, &Options{Model: ModelUnknown}))
}

func Test142Cancel(t *testing.T) {
	a, b := bitmapOf(t, mib, kib), bitmapOf(t, mib, kib)
	fine(t, b.Set(0, 1))
	ctx, cancel := context.WithCancel(context.Background())
	calls, last, whole := 0, uint64(0), uint64(0)
	options := &Options{Threads: 2, Progress: func(phase string, done, total uint64) error {
		check(t, phase != "" && done <= total)
		calls, last, whole = calls+1, done, total
		return ctx.Err()
	}}
	fine(t, a.UnionWith([]*Bitmap{b}, options))
	check(t, calls > 0 && last == whole && whole > 0)
	fine(t, a.ClearAll())
	cancel()
	calls = 0
	err := a.UnionWith([]*Bitmap{b}, options)
	fails(t, err, ErrCancelled, syscall.ECANCELED)
	check(t, errors.Is(err, context.Canceled))
	equal(t, calls, 1)
	equal(t, ok(a.IsEmpty()), true)
	fails(t, second(UnionOf([]*Bitmap{b}, 0, options)), ErrCancelled, syscall.ECANCELED)
	fails(t, b.IntersectWith(a, options), ErrCancelled, syscall.ECANCELED)
	fails(t, b.SubtractWith(b, options), ErrCancelled, syscall.ECANCELED)
	fails(t, b.XorWith(b, options), ErrCancelled, syscall.ECANCELED)
	equal(t, ok(b.Count()), 1)
	// A panic goes through.
	func() {
		defer func() { check(t, recover() == "stop") }()
		_ = a.UnionWith([]*Bitmap{b}, &Options{Progress: func(string, uint64, uint64) error { panic("stop") }})
		t.Error("no panic came")
	}()
	// A callback may use other values, even with errors.
	fine(t, a.UnionWith([]*Bitmap{b}, &Options{Progress: func(string, uint64, uint64) error {
		invalid(t, second(NewBitmap(1, 3)))
		runtime.GC()
		return nil
	}}))
	equal(t, ok(a.Count()), 1)
}
