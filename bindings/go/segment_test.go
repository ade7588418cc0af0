package checkmap

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// samePlace asks two for a place that may be none.
func samePlace(t *testing.T, one, other func(uint64) (uint64, bool, error), number uint64) {
	t.Helper()
	at, found, err := one(number)
	fine(t, err)
	otherAt, otherFound, err := other(number)
	fine(t, err)
	equal(t, at, otherAt)
	check(t, found == otherFound)
}

func Test200Segment(t *testing.T) {
	bitmap := bitmapOf(t, 10*gib+1, 4*kib)
	for at := uint64(0); at < 10*gib; at += 37*mib + 4*kib {
		fine(t, bitmap.Set(at, 12*kib))
	}
	fine(t, bitmap.Set(10*gib, 1))
	path := filepath.Join(t.TempDir(), "segment")
	info := ok(bitmap.WriteSegment(path))
	equal(t, info.DiskSize, 10*gib+1)
	equal(t, info.Granularity, 4*kib)
	equal(t, info.DirtyGranules, ok(bitmap.Count()))
	equal(t, info.Extents, ok(bitmap.CountExtents()))
	equal(t, info.FileBytes, uint64(ok(os.Stat(path)).Size()))
	segment := ok(OpenSegment(path))
	defer segment.Close()
	equal(t, ok(segment.Info()), info)
	equal(t, ok(segment.Count()), ok(bitmap.Count()))
	equal(t, ok(segment.DirtyBytes()), ok(bitmap.DirtyBytes()))
	equal(t, ok(segment.Get(10*gib)), true)
	outOfRange(t, second(segment.Get(ToEnd)))
	for place := uint64(0); place < 10*gib; place += 777 * mib {
		equal(t, at(segment.NextDirty(place, ToEnd)), at(bitmap.NextDirty(place, ToEnd)))
		equal(t, at(segment.NextClean(place, mib)), at(bitmap.NextClean(place, mib)))
		equal(t, ok(segment.Rank(place)), ok(bitmap.Rank(place)))
		samePlace(t, segment.Select, bitmap.Select, place/mib)
		first := func(walk func(uint64, uint64) (uint64, bool, error)) func(uint64) (uint64, bool, error) {
			return func(length uint64) (uint64, bool, error) { return walk(0, length) }
		}
		samePlace(t, first(segment.PreviousDirty), first(bitmap.PreviousDirty), place)
		samePlace(t, first(segment.PreviousClean), first(bitmap.PreviousClean), place)
		equal(t, ok(segment.CountRange(place, gib)), ok(bitmap.CountRange(place, gib)))
	}
	check(t, ok(segment.HeapBytes()) > 0)
	ours, theirs := segment.Extents(gib, ToEnd), bitmap.Extents(gib, ToEnd)
	for ours.Next() {
		check(t, theirs.Next())
		equal(t, ours.Extent(), theirs.Extent())
	}
	check(t, !theirs.Next())
	fine(t, ours.Err())
	invalid(t, second(segment.FillExtents(0, 1, nil)))
	equal(t, ok(ok(segment.Load(0, ToEnd)).Equal(bitmap)), true)
	equal(t, ok(ok(segment.Load(0, gib)).Count()), ok(bitmap.CountRange(0, gib)))
}

func Test201SegmentFile(t *testing.T) {
	bitmap := bitmapOf(t, gib, 4*kib)
	fine(t, bitmap.Set(0, mib))
	file := ok(os.Create(filepath.Join(t.TempDir(), "segment")))
	ok(bitmap.WriteSegmentFile(file))
	segment := ok(OpenSegmentFile(file))
	fine(t, file.Close())
	equal(t, ok(segment.Count()), 256)
	fine(t, segment.Close())
	check(t, errors.Is(second(OpenSegmentFile(file)), os.ErrClosed))
	check(t, errors.Is(second(bitmap.WriteSegmentFile(file)), os.ErrClosed))
}

func Test202SegmentMerge(t *testing.T) {
	folder, all := t.TempDir(), bitmapOf(t, gib, 4*kib)
	var segments []*Segment
	for n := uint64(0); n < 8; n++ {
		bitmap := bitmapOf(t, gib, []uint64{64 * kib, 4 * kib}[n%2])
		for at := n * 4 * kib; at < gib; at += (n + 1) * 513 * kib {
			fine(t, bitmap.Set(at, 1))
		}
		fine(t, all.Union(bitmap))
		path := filepath.Join(folder, strconv.Itoa(int(n)))
		ok(bitmap.WriteSegment(path))
		segments = append(segments, ok(OpenSegment(path)))
	}
	merged := filepath.Join(folder, "merged")
	for threads := uint32(0); threads < 4; threads++ {
		options := &Options{Threads: threads}
		info := ok(MergeSegments(segments, merged, options))
		equal(t, ok(MergeSegmentsInfo(segments, options)), info)
		equal(t, info.DirtyGranules, ok(all.Count()))
		equal(t, ok(ok(ok(OpenSegment(merged)).Load(0, ToEnd)).Equal(all)), true)
	}
	invalid(t, second(MergeSegments(segments, merged, &Options{MemoryBytes: 1})))
	invalid(t, second(MergeSegments(nil, merged, nil)))
}

func Test203SegmentMergeFails(t *testing.T) {
	folder := t.TempDir()
	bitmap, other := bitmapOf(t, mib, kib), bitmapOf(t, 2*mib, kib)
	fine(t, bitmap.Set(0, 1))
	ok(bitmap.WriteSegment(filepath.Join(folder, "a")))
	ok(other.WriteSegment(filepath.Join(folder, "b")))
	a, b := ok(OpenSegment(filepath.Join(folder, "a"))), ok(OpenSegment(filepath.Join(folder, "b")))
	enough := errors.New("enough")
	stop := &Options{Progress: func(string, uint64, uint64) error { return enough }}
	err := second(MergeSegments([]*Segment{a, a}, filepath.Join(folder, "a"), stop))
	fails(t, err, ErrCancelled, syscall.ECANCELED)
	check(t, errors.Is(err, enough))
	err = second(MergeSegments([]*Segment{a, a, b}, filepath.Join(folder, "a"), nil))
	fails(t, err, ErrSizeMismatch, syscall.EINVAL)
	err = second(MergeSegments([]*Segment{a, a}, filepath.Join(folder, "no/such/folder"), nil))
	check(t, errors.Is(err, syscall.ENOENT))
	check(t, second(bitmap.WriteSegment(folder)) != nil)
	equal(t, len(ok(os.ReadDir(folder))), 2)
	equal(t, ok(ok(OpenSegment(filepath.Join(folder, "a"))).Count()), 1)
}

func Test204SegmentDamaged(t *testing.T) {
	path, bitmap := filepath.Join(t.TempDir(), "segment"), bitmapOf(t, gib, 4*kib)
	for at := uint64(0); at < gib; at += 64 * kib {
		fine(t, bitmap.Set(at, at%(12*kib)+1))
	}
	ok(bitmap.WriteSegment(path))
	segment := ok(OpenSegment(path))
	report := ok(segment.Check(nil))
	check(t, report.Errors == 0 && len(report.Problems) == 0)
	data := ok(os.ReadFile(path))
	file := ok(os.OpenFile(path, os.O_WRONLY, 0))
	ok(file.WriteAt([]byte{data[5000] ^ 0x40}, 5000))
	report = ok(segment.Check(nil))
	check(t, report.Errors > 0 && report.Unusable == 0 && report.LeakedBytes == 0)
	problem := report.Problems[0]
	check(t, problem.Severity == SeverityError && problem.Offset >= 0 && problem.Message != "" && problem.Structure != "")
	fails(t, second(segment.Load(0, ToEnd)), ErrDamaged, syscall.EBADMSG)
	fine(t, file.Truncate(int64(len(data)/2)))
	fails(t, second(OpenSegment(path)), ErrDamaged, syscall.EBADMSG)
	fails(t, second(OpenSegment("/dev/null")), ErrIO, syscall.EIO)
	fine(t, os.WriteFile(path, []byte("this is no segment, and never was one"), 0o644))
	fails(t, second(OpenSegment(path)), ErrUnknownFormat, syscall.ENOTSUP)
}

func Test205SegmentDiff(t *testing.T) {
	folder := t.TempDir()
	first, next := bitmapOf(t, mib, kib), bitmapOf(t, mib, 4*kib)
	fine(t, first.Set(0, 6*kib))
	fine(t, next.Set(4*kib, 4*kib))
	ok(first.WriteSegment(filepath.Join(folder, "a")))
	ok(next.WriteSegment(filepath.Join(folder, "b")))
	a, b := ok(OpenSegment(filepath.Join(folder, "a"))), ok(OpenSegment(filepath.Join(folder, "b")))
	walk := a.Diff(b, 0, ToEnd)
	check(t, walk.Next())
	equal(t, walk.Extent(), Extent{Offset: 0, Length: 4 * kib, Flags: OnlyInFirst})
	check(t, walk.Next())
	equal(t, walk.Extent(), Extent{Offset: 6 * kib, Length: 2 * kib, Flags: OnlyInSecond})
	check(t, !walk.Next() && walk.Err() == nil)
	check(t, !a.Diff(a, 0, ToEnd).Next())
}

func Test206SegmentPlaces(t *testing.T) {
	folder := t.TempDir()
	at := func(name string) string { return filepath.Join(folder, name) }
	bitmap := bitmapOf(t, mib, kib)
	fine(t, bitmap.Set(0, 3*kib))
	ok(bitmap.WriteSegment(at("source")))
	source := ok(OpenSegment(at("source")))
	fine(t, os.Mkdir(at("folder"), 0o755))
	fine(t, syscall.Mkfifo(at("pipe"), 0o644))
	fine(t, os.Symlink("/dev/null", at("device")))
	disk := imageCopy(t, "plain.qcow2")
	fine(t, os.Symlink(disk, at("image")))
	image := openImage(t, disk, ReadWrite)
	for _, place := range []string{at("folder"), at("pipe"), at("device"), at("image"), disk} {
		before := ok(os.Lstat(place))
		err := second(bitmap.WriteSegment(place))
		fails(t, err, ErrInvalidArgument, syscall.EINVAL)
		check(t, strings.Contains(err.Error(), "cannot be replaced"))
		fails(t, second(MergeSegments([]*Segment{source}, place, nil)), ErrInvalidArgument, syscall.EINVAL)
		check(t, os.SameFile(before, ok(os.Lstat(place))))
	}
	fine(t, image.Close())
	fine(t, os.Symlink("folder/new", at("link")))
	ok(bitmap.WriteSegment(at("link")))
	fine(t, os.Chmod(at("folder/new"), 0o640))
	ok(MergeSegments([]*Segment{source}, at("link"), nil))
	equal(t, ok(os.Stat(at("link"))).Mode(), 0o640)
	check(t, ok(os.Lstat(at("link"))).Mode()&os.ModeSymlink != 0)
	ok(bitmap.WriteSegment(at(strings.Repeat("n", 250))))
	equal(t, len(ok(os.ReadDir(at("folder")))), 1)
}
