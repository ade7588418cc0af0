package checkmap

import (
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func Test300ImageInfo(t *testing.T) {
	image := openImage(t, imageCopy(t, "chain.qcow2"), ReadOnly)
	equal(t, ok(image.Info()), ImageInfo{Format: "qcow2", FormatVersion: 3, DiskSize: 64 * mib, ClusterSize: 64 * kib,
		DefaultGranularity: 64 * kib, Model: ModelInterval})
	fine(t, image.Trouble())
	equal(t, len(ok(image.Warnings())), 0)
	overlay := openImage(t, imageCopy(t, "overlay.qcow2", "chain.qcow2"), ReadOnly)
	equal(t, ok(overlay.Info()).BackingFile, "chain.qcow2")
}

func Test301ImageOpen(t *testing.T) {
	path := imageCopy(t, "chain.qcow2")
	folder := filepath.Dir(path)
	invalid(t, second(Open(path, 0x100)))
	invalid(t, second(Open(path, ReadWrite|ForceShare)))
	invalid(t, second(Open("", ReadOnly)))
	invalid(t, second(Open("a\x00b", ReadOnly)))
	check(t, second(Open(strings.Repeat("n", 1<<20), ReadOnly)) != nil)
	err := second(Open(filepath.Join(folder, "nowhere"), ReadOnly))
	check(t, errors.Is(err, syscall.ENOENT) && strings.Contains(err.Error(), "nowhere"))
	fine(t, os.Rename(path, filepath.Join(folder, "\xff\xfe")))
	openImage(t, filepath.Join(folder, "\xff\xfe"), ReadOnly)
	raw := filepath.Join(folder, "raw")
	fine(t, os.WriteFile(raw, make([]byte, 65536), 0o644))
	fails(t, second(Open(raw, ReadOnly)), ErrUnknownFormat, syscall.ENOTSUP)
	check(t, errors.Is(second(Open("/dev/null", ReadOnly)), syscall.EIO))
	check(t, errors.Is(second(Open(".", ReadWrite)), syscall.EISDIR))
}

func Test302ImageOpenFile(t *testing.T) {
	path := imageCopy(t, "chain.qcow2")
	file := ok(os.Open(path))
	image := ok(OpenFile(file, ReadOnly))
	fine(t, file.Close())
	equal(t, len(ok(image.Checkpoints())), 3)
	fine(t, image.Close())
	check(t, errors.Is(second(OpenFile(file, ReadOnly)), os.ErrClosed))
	file = ok(os.Open(path))
	fails(t, second(OpenFile(file, ReadWrite)), ErrReadOnly, syscall.EROFS)
	fine(t, file.Close())
	file = ok(os.OpenFile(path, os.O_RDWR, 0))
	image = ok(OpenFile(file, ReadWrite))
	fine(t, image.Create("d", 0))
	fine(t, image.Close())
	ok(file.Stat())
	fine(t, file.Close())
	reader, writer, err := os.Pipe()
	fine(t, err)
	defer writer.Close()
	check(t, second(OpenFile(reader, ReadOnly)) != nil)
	fine(t, reader.Close())
}

func Test303List(t *testing.T) {
	image := openImage(t, imageCopy(t, "chain.qcow2"), ReadOnly)
	list := ok(image.Checkpoints())
	expected := []Checkpoint{{"a", "", 64 * kib, 64 * 1024, 0}, {"b", "a", 64 * kib, 128 * 1024, 0},
		{"c", "b", 64 * kib, 64 * 1024, Recording}}
	equal(t, len(list), 3)
	for at := range list {
		equal(t, list[at], expected[at])
	}
	equal(t, len(ok(openImage(t, imageCopy(t, "plain.qcow2"), ReadOnly).Checkpoints())), 0)
}

func Test304Diff(t *testing.T) {
	image := openImage(t, imageCopy(t, "chain.qcow2"), ReadOnly)
	for _, is := range []struct {
		since, until string
		bytes        uint64
	}{{"a", Now, 256 * kib}, {"b", Now, 192 * kib}, {"a", "b", 64 * kib}, {"a", "c", 192 * kib}, {"b", "b", 0}} {
		equal(t, ok(ok(image.Diff(is.since, is.until)).DirtyBytes()), is.bytes)
	}
	fails(t, second(image.Diff("b", "a")), ErrOrder, syscall.EPROTO)
	fails(t, second(image.Diff("x", Now)), ErrNotFound, syscall.ENOENT)
	fails(t, second(image.Diff("a", "x")), ErrNotFound, syscall.ENOENT)
	fails(t, second(image.Diff("", Now)), ErrInvalidName, syscall.EINVAL)
	fine(t, image.SetThreads(3))
	equal(t, ok(ok(image.Diff("a", Now)).DirtyBytes()), 256*kib)
	invalid(t, image.SetThreads(^uint32(0)))
	window := ok(image.DiffWith("a", Now, 2*mib, 64*kib, nil))
	equal(t, ok(window.DirtyBytes()), 64*kib)
	equal(t, at(window.NextDirty(0, ToEnd)), 2*mib)
}

func Test305Create(t *testing.T) {
	path := imageCopy(t, "chain.qcow2")
	image := openImage(t, path, ReadWrite)
	fine(t, image.Create("d", 0))
	list := ok(image.Checkpoints())
	equal(t, len(list), 4)
	check(t, list[2].Flags == 0 && list[3].Flags == Recording && list[3].DirtyBytes == 0)
	fails(t, image.Create("d", 0), ErrExists, syscall.EEXIST)
	invalid(t, image.Create("e", 3))
	invalid(t, image.Create("e", 1))
	fine(t, image.CreateWith("e", 4096, &Options{Flags: DryRun}))
	equal(t, len(ok(image.Checkpoints())), 4)
	fine(t, image.Create("e", 4096))
	fine(t, image.Close())
	image = openImage(t, path, ReadOnly)
	equal(t, len(ok(image.Checkpoints())), 5)
	fails(t, image.Create("f", 0), ErrReadOnly, syscall.EROFS)
	plain := openImage(t, imageCopy(t, "plain.qcow2"), ReadWrite)
	fine(t, plain.Create("first", 0))
	equal(t, ok(plain.Checkpoints())[0].Granularity, 64*kib)
}

func Test306Delete(t *testing.T) {
	image := openImage(t, imageCopy(t, "chain.qcow2"), ReadWrite)
	fine(t, image.Delete("b"))
	list := ok(image.Checkpoints())
	check(t, len(list) == 2 && list[0].DirtyBytes == 192*1024 && list[1].Name == "c" && list[1].Parent == "a")
	fails(t, image.Delete("b"), ErrNotFound, syscall.ENOENT)
	fine(t, image.Delete("c"))
	list = ok(image.Checkpoints())
	check(t, len(list) == 1 && list[0].DirtyBytes == 256*1024 && list[0].Flags == Recording)
	fine(t, image.Delete("a"))
	equal(t, len(ok(image.Checkpoints())), 0)
	fine(t, image.DeleteInconsistent(nil))
}

func Test307Rename(t *testing.T) {
	image := openImage(t, imageCopy(t, "chain.qcow2"), ReadWrite)
	fine(t, image.Rename("b", "monday"))
	list := ok(image.Checkpoints())
	check(t, list[1].Name == "monday" && list[2].Parent == "monday" && list[1].DirtyBytes == 128*1024)
	fails(t, image.Rename("b", "x"), ErrNotFound, syscall.ENOENT)
	fails(t, image.Rename("a", "c"), ErrExists, syscall.EEXIST)
	fails(t, image.Rename("a", "x->y"), ErrInvalidName, syscall.EINVAL)
}

func Test308Names(t *testing.T) {
	image := openImage(t, imageCopy(t, "chain.qcow2"), ReadWrite)
	tooLong := func(err error) {
		t.Helper()
		fails(t, err, ErrNameTooLong, syscall.ENAMETOOLONG)
	}
	name := func(length int) string { return strings.Repeat("n", length) }
	fails(t, image.Create("", 0), ErrInvalidName, syscall.EINVAL)
	tooLong(image.Create(name(511), 0))
	tooLong(image.Create(name(1024), 0))
	tooLong(image.Create(name(1<<20), 0))
	fails(t, image.Delete(""), ErrInvalidName, syscall.EINVAL)
	fails(t, image.Delete(name(1023)), ErrNotFound, syscall.ENOENT)
	tooLong(image.Delete(name(1024)))
	tooLong(image.Rename("a", name(1<<20)))
	tooLong(second(image.Diff(name(1<<20), Now)))
	fails(t, image.Create("a\x00b", 0), ErrInvalidName, syscall.EINVAL)
	equal(t, len(ok(image.Checkpoints())), 3)
	fine(t, image.Create(name(510), 0))
	warnings := ok(image.Warnings())
	check(t, len(warnings) > 0 && warnings[0] != "")
	fine(t, image.Create("\xff\xfe\x80", 0))
	list := ok(image.Checkpoints())
	check(t, len(list) == 5 && list[3].Name == name(510) && list[4].Name == "\xff\xfe\x80" && list[4].Parent == name(510))
	fine(t, image.Delete("\xff\xfe\x80"))
	fine(t, image.Delete(name(510)))
}

func Test309InUse(t *testing.T) {
	path := imageCopy(t, "chain.qcow2")
	writer := openImage(t, path, ReadWrite)
	fails(t, second(Open(path, ReadWrite)), ErrInUse, syscall.EBUSY)
	fails(t, second(Open(path, ReadOnly)), ErrInUse, syscall.EBUSY)
	// A writer that can be seen is refused without locks of our own too.
	fails(t, second(Open(path, NoLock)), ErrInUse, syscall.EBUSY)
	other := openImage(t, path, ForceShare)
	list := ok(other.Checkpoints())
	check(t, len(list) == 3 && list[0].DirtyBytes == -1)
	check(t, ok(other.Info()).Flags&ImageHeldByWriter != 0)
	invalid(t, second(other.Diff("a", Now)))
	fine(t, other.Close())
	fine(t, writer.Close())
	readers := []*Image{openImage(t, path, ReadOnly), openImage(t, path, ReadOnly)}
	fails(t, second(Open(path, ReadWrite)), ErrInUse, syscall.EBUSY)
	fails(t, readers[0].Upgrade(), ErrInUse, syscall.EBUSY)
	fine(t, readers[1].Close())
	fine(t, readers[0].Upgrade())
	fails(t, second(Open(path, ReadOnly)), ErrInUse, syscall.EBUSY)
	fine(t, readers[0].Create("d", 0))
	fine(t, readers[0].Close())
	openImage(t, path, ReadWrite)
}

func Test310Stale(t *testing.T) {
	path := imageCopy(t, "chain.qcow2")
	ours := openImage(t, path, ReadWrite|NoLock)
	fine(t, ours.Create("ours", 0))
	equal(t, len(ok(ours.Checkpoints())), 4)
	theirs := openImage(t, path, ReadWrite)
	fine(t, theirs.Create("theirs", 0))
	fine(t, theirs.Close())
	for _, err := range []error{second(ours.Checkpoints()), ours.Create("x", 0), ours.Delete("a"),
		second(ours.Diff("a", Now)), second(ours.Info()), second(ours.Check(nil))} {
		fails(t, err, ErrChanged, syscall.ESTALE)
	}
	equal(t, len(ok(openImage(t, path, ReadOnly).Checkpoints())), 5)
}

func Test311Deleted(t *testing.T) {
	path := imageCopy(t, "chain.qcow2")
	image := openImage(t, path, ReadWrite)
	fine(t, os.Remove(path))
	equal(t, ok(ok(image.Diff("a", Now)).DirtyBytes()), 256*kib)
	fine(t, image.Create("d", 0))
	path = imageCopy(t, "chain.qcow2")
	image = openImage(t, path, ReadWrite)
	fine(t, os.Truncate(path, 100))
	check(t, second(image.Diff("a", Now)) != nil && image.Delete("b") != nil)
	if report, err := image.Check(nil); err == nil {
		check(t, report.Errors+report.Unusable > 0)
	}
}

func Test312ReadOnly(t *testing.T) {
	image := openImage(t, imageCopy(t, "chain.qcow2"), ReadOnly)
	fails(t, image.Delete("a"), ErrReadOnly, syscall.EROFS)
	fails(t, image.Rename("a", "z"), ErrReadOnly, syscall.EROFS)
}

func Test313Check(t *testing.T) {
	image := openImage(t, imageCopy(t, "chain.qcow2"), ReadOnly)
	report := ok(image.Check(nil))
	check(t, report.Errors == 0 && report.Unusable == 0 && report.LeakedBytes == 0)
	calls := 0
	stop := &Options{Progress: func(string, uint64, uint64) error {
		calls++
		return errors.New("enough")
	}}
	fails(t, second(image.Check(stop)), ErrCancelled, syscall.ECANCELED)
	equal(t, calls, 1)
	report = ok(openImage(t, imageCopy(t, "inconsistent.qcow2"), ReadOnly).Check(nil))
	check(t, report.Unusable > 0 && len(report.Problems) > 0 && report.Problems[0].Message != "")
}

func Test314Stored(t *testing.T) {
	image := openImage(t, imageCopy(t, "chain.qcow2"), ReadWrite)
	list := ok(image.StoredBitmaps())
	arrows, recording := 0, 0
	for _, stored := range list {
		equal(t, stored.Granularity, 64*kib)
		if strings.Contains(stored.Name, "->") {
			arrows++
		}
		if stored.Flags == Recording {
			recording++
		}
	}
	check(t, len(list) == 3 && arrows == 2 && recording == 1)
	equal(t, ok(ok(image.ReadStored("a->b", 0, ToEnd)).DirtyBytes()), 128*kib)
	equal(t, ok(ok(image.ReadStored("a->b", 0, mib)).IsEmpty()), true)
	fails(t, second(image.ReadStored("b", 0, mib)), ErrNotFound, syscall.ENOENT)
	summary := ok(image.SummarizeStored("b->c"))
	check(t, summary.DirtyBytes == 64*1024 && summary.DirtyExtents == 1 && summary.StoredBytes > 0)
	fails(t, second(image.SummarizeStored("x")), ErrNotFound, syscall.ENOENT)
	hash := ok(image.SHA256Stored("a->b"))
	equal(t, hash, ok(ok(image.ReadStored("a->b", 0, ToEnd)).SHA256()))
	check(t, hash != ok(image.SHA256Stored("b->c")))
	fails(t, second(image.SHA256Stored("x")), ErrNotFound, syscall.ENOENT)
	equal(t, ok(bitmapOf(t, mib, 64*kib).SHA256()), sha256.Sum256(make([]byte, 8)))
	fine(t, image.MergeStored([]string{"a", "b->c"}, "a->b", nil))
	equal(t, ok(image.SummarizeStored("a->b")).DirtyBytes, 256*1024)
	invalid(t, image.MergeStored(nil, "a->b", nil))
}

func Test319Drop(t *testing.T) {
	image := openImage(t, imageCopy(t, "chain.qcow2"), ReadWrite)
	fine(t, image.DropStored("a->b", &Options{Flags: DryRun}))
	equal(t, len(ok(image.StoredBitmaps())), 3)
	fine(t, image.DropStored("a->b", nil))
	list := ok(image.Checkpoints())
	check(t, len(list) == 2 && list[0].Flags == 0 && list[1].Flags == Recording|Gap)
	err := second(image.Diff("a", Now))
	fails(t, err, ErrBrokenChain, syscall.EPROTO)
	check(t, strings.Contains(err.Error(), "Image.DropBefore of 'c'"))
	equal(t, ok(ok(image.Diff("c", Now)).DirtyBytes()), 64*1024)
	fails(t, image.Create("b", 0), ErrExists, syscall.EEXIST)
	fails(t, image.DropBefore("b", nil), ErrNotFound, syscall.ENOENT)
	fine(t, image.DropBefore("c", nil))
	list = ok(image.Checkpoints())
	check(t, len(list) == 1 && list[0].Flags == Recording)

	image = openImage(t, imageCopy(t, "chain.qcow2"), ReadWrite)
	fine(t, image.DropStored("a->b", nil))
	fine(t, image.DropStored("b->c", nil))
	err = image.DropAll(nil)
	fails(t, err, ErrExists, syscall.EEXIST)
	check(t, strings.Contains(err.Error(), "ForeignToo"))
	fine(t, image.DropAll(&Options{Flags: ForeignToo | DryRun}))
	equal(t, len(ok(image.StoredBitmaps())), 1)
	fine(t, image.DropAll(&Options{Flags: ForeignToo}))
	equal(t, len(ok(image.StoredBitmaps())), 0)
	fine(t, image.DropAll(nil))
}

func Test315Progress(t *testing.T) {
	image := openImage(t, imageCopy(t, "chain.qcow2"), ReadWrite)
	calls := 0
	var answer error
	options := &Options{Progress: func(phase string, done, total uint64) error {
		check(t, phase != "" && done <= total)
		calls++
		return answer
	}}
	answer = errors.New("enough")
	fails(t, second(image.DiffWith("a", Now, 0, ToEnd, options)), ErrCancelled, syscall.ECANCELED)
	equal(t, calls, 1)
	fails(t, image.DeleteWith("b", options), ErrCancelled, syscall.ECANCELED)
	equal(t, len(ok(image.Checkpoints())), 3)
	answer, calls = nil, 0
	ok(image.DiffWith("a", Now, 0, ToEnd, options))
	check(t, calls > 0)
	options.Flags = DryRun
	fine(t, image.DeleteWith("b", options))
	fine(t, image.RenameWith("b", "z", options))
	equal(t, len(ok(image.Checkpoints())), 3)
	options.Flags = 0
	fine(t, image.RenameWith("b", "z", options))
	fine(t, image.DeleteWith("z", options))
	equal(t, len(ok(image.Checkpoints())), 2)
}

func Test316Inconsistent(t *testing.T) {
	image := openImage(t, imageCopy(t, "inconsistent.qcow2"), ReadWrite)
	list := ok(image.Checkpoints())
	check(t, len(list) == 3 && list[2].Flags&Inconsistent != 0 && list[2].DirtyBytes == -1)
	fails(t, second(image.Diff("a", Now)), ErrInconsistent, syscall.EUCLEAN)
	fails(t, image.Create("d", 0), ErrInconsistent, syscall.EUCLEAN)
	fine(t, image.DeleteInconsistent(nil))
	check(t, len(ok(image.Checkpoints())) < 3)
}

func Test317Layers(t *testing.T) {
	path := imageCopy(t, "overlay.qcow2", "chain.qcow2")
	image := openImage(t, path, ReadWrite)
	ok(image.Diff("a", Now))
	fine(t, image.DeleteWith("a", &Options{Flags: DryRun}))
	used := openImage(t, filepath.Join(filepath.Dir(path), "chain.qcow2"), ReadOnly)
	fails(t, image.Delete("a"), ErrInUse, syscall.EBUSY)
	fine(t, used.Close())
	top := &Options{Flags: TopLayerOnly}
	ok(image.DiffWith("a", Now, 0, ToEnd, top))
	fine(t, os.Remove(filepath.Join(filepath.Dir(path), "chain.qcow2")))
	fails(t, second(image.Diff("a", Now)), ErrBackingLayer, syscall.EPROTO)
	fine(t, image.DeleteWith("a", top))
}

func Test325ChangeLayers(t *testing.T) {
	folder := filepath.Dir(imageCopy(t, "chain.qcow2"))
	qemuIn(folder, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "chain.qcow2", "-F", "qcow2", "top.qcow2")
	qemuIn(folder, "qemu-img", "bitmap", "--add", "--disable", "top.qcow2", "b->c")
	qemuIn(folder, "qemu-img", "bitmap", "--add", "top.qcow2", "c->d")
	has := func(file string, names ...string) {
		t.Helper()
		image := ok(Open(filepath.Join(folder, file), ReadOnly))
		defer image.Close()
		list := ok(image.Checkpoints())
		equal(t, len(list), len(names))
		for at, point := range list {
			equal(t, point.Name, names[at])
		}
	}
	image := openImage(t, filepath.Join(folder, "top.qcow2"), ReadWrite)
	fails(t, image.Rename("c", "a"), ErrExists, syscall.EEXIST)
	fails(t, image.Rename("d", "a"), ErrExists, syscall.EEXIST)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	check(t, errors.Is(image.RenameWith("c", "x", (*Options)(nil).WithContext(ctx)), context.Canceled))
	has("chain.qcow2", "a", "b", "c")
	fine(t, image.Rename("c", "x"))
	has("chain.qcow2", "a", "b", "x")
	fine(t, image.Delete("x"))
	fails(t, image.Delete("x"), ErrNotFound, syscall.ENOENT)
	fine(t, image.Close())
	has("chain.qcow2", "a", "b")
	has("top.qcow2", "b", "d")
}

func Test326CommitBitmaps(t *testing.T) {
	folder := filepath.Dir(imageCopy(t, "chain.qcow2", "plain.qcow2"))
	qemuIn(folder, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "chain.qcow2", "-F", "qcow2", "top.qcow2")
	top := openImage(t, filepath.Join(folder, "top.qcow2"), ReadWrite)
	fine(t, top.Create("d", 0))
	other := openImage(t, filepath.Join(folder, "plain.qcow2"), ReadWrite)
	fails(t, top.CommitBitmaps(other, nil), ErrBackingLayer, syscall.EPROTO)
	fails(t, top.CommitBitmaps(top, nil), ErrInvalidArgument, syscall.EINVAL)
	base := openImage(t, filepath.Join(folder, "chain.qcow2"), ReadOnly)
	fails(t, top.CommitBitmaps(base, nil), ErrReadOnly, syscall.EROFS)
	fine(t, base.Upgrade())
	fine(t, top.CommitBitmaps(base, &Options{Flags: DryRun}))
	equal(t, len(ok(base.Checkpoints())), 3)
	fine(t, top.CommitBitmapsContext(context.Background(), base, nil))
	fine(t, top.CommitBitmaps(base, nil))
	list := ok(base.Checkpoints())
	equal(t, len(list), 4)
	equal(t, list[3].Name, "d")
}

func Test318Damaged(t *testing.T) {
	path := imageCopy(t, "chain.qcow2")
	data, file, refused := ok(os.ReadFile(path)), ok(os.OpenFile(path, os.O_RDWR, 0)), 0
	for place, step := 0, 1; place < len(data); place += step {
		if place == 512 {
			step = 8191
		}
		ok(file.WriteAt([]byte{data[place] ^ 0x81}, int64(place)))
		image, err := Open(path, NoLock)
		if err == nil {
			_, _ = image.Checkpoints()
			_ = image.Trouble()
			_, err = image.Diff("a", Now)
			check(t, !errors.Is(err, ErrPoisoned))
			check(t, !errors.Is(second(image.Check(nil)), ErrPoisoned))
			fine(t, image.Close())
		}
		if err != nil {
			refused++
		}
		ok(file.WriteAt(data[place:place+1], int64(place)))
	}
	check(t, refused > 10)
}

func Test400Threads(t *testing.T) {
	bitmap := bitmapOf(t, gib, 4*kib)
	fine(t, bitmap.Set(0, mib))
	path := filepath.Join(t.TempDir(), "segment")
	ok(bitmap.WriteSegment(path))
	segment := ok(OpenSegment(path))
	image := openImage(t, imageCopy(t, "chain.qcow2"), ReadOnly)
	var group sync.WaitGroup
	for worker := 0; worker < 8; worker++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for round := 0; round < 20; round++ {
				if ok(bitmap.Count()) != 256 || ok(segment.CountRange(0, ToEnd)) != 256 {
					t.Error("another count")
				}
				list := ok(image.Checkpoints())
				if len(list) != 3 || list[0].Name != "a" || list[0].DirtyBytes != 64*1024 {
					t.Error("another list")
				}
				diff := ok(image.Diff("a", Now))
				all := ok(UnionOf([]*Bitmap{bitmap, bitmap}, 0, nil))
				walk := all.Extents(0, ToEnd)
				if !walk.Next() || walk.Extent().Length != mib || walk.Next() {
					t.Error("another extent")
				}
				if !errors.Is(second(bitmap.Get(ToEnd)), ErrOutOfRange) {
					t.Error("another error")
				}
				all.Close()
				diff.Close()
			}
		}()
	}
	group.Wait()
}

func Test330Several(t *testing.T) {
	paths := []string{imageCopy(t, "chain.qcow2"), imageCopy(t, "plain.qcow2")}
	images := []*Image{openImage(t, paths[0], ReadWrite), openImage(t, paths[1], ReadWrite)}
	fine(t, CreateMany(images, "m", 0, &Options{Flags: DryRun}))
	fails(t, CreateMany(images, "a", 0, nil), ErrExists, syscall.EEXIST)
	equal(t, len(ok(images[1].Checkpoints())), 0)
	fine(t, CreateMany(images, "m", 0, nil))
	check(t, len(ok(images[0].Checkpoints())) == 4 && len(ok(images[1].Checkpoints())) == 1)
	for _, image := range images {
		equal(t, ok(image.Recover(nil)), NoStep)
		equal(t, ok(image.RecoverContext(context.Background(), nil)), NoStep)
		fine(t, image.ForgetStep())
	}
	fine(t, DeleteMany(images, []string{"m"}, nil))
	equal(t, len(ok(images[1].Checkpoints())), 0)
	check(t, StepFinished != StepUndone && StepUndone != StepLeftApart)
}
