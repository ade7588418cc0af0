package checkmap

/*
#include <checkmap.h>
*/
import "C"

import (
	"context"
	"fmt"
	"os"
	"runtime"
)

// OpenFlags say how an image is opened.
type OpenFlags uint32

// The flags of Open.
const (
	ReadOnly  OpenFlags = C.CHECKMAP_OPEN_RDONLY // For everything that changes nothing.
	ReadWrite OpenFlags = C.CHECKMAP_OPEN_RDWR   // For changes as well.
	// NoLock takes no locks, for file systems that have none: the caller makes sure that nothing else changes the image.
	// A writer that is seen is ErrInUse all the same, and every call is ErrChanged once somebody else changed it.
	NoLock OpenFlags = C.CHECKMAP_OPEN_NO_LOCK
	// ForceShare gives names and flags only, without locks, also while a running QEMU holds the image.
	ForceShare OpenFlags = C.CHECKMAP_OPEN_FORCE_SHARE
)

// CheckpointFlags say what a checkpoint or a stored bitmap is.
type CheckpointFlags uint32

// The flags of checkpoints and stored bitmaps.
const (
	Recording    CheckpointFlags = C.CHECKMAP_CHECKPOINT_RECORDING    // Records the writes of now.
	Inconsistent CheckpointFlags = C.CHECKMAP_CHECKPOINT_INCONSISTENT // Not stored by its writer, not to be trusted.
	Unusable     CheckpointFlags = C.CHECKMAP_CHECKPOINT_UNUSABLE     // Of a type this library does not know.
	Unordered    CheckpointFlags = C.CHECKMAP_CHECKPOINT_UNORDERED    // Nobody can tell its place among the others.
	Gap          CheckpointFlags = C.CHECKMAP_CHECKPOINT_GAP          // The bitmap before it is missing.
)

// ImageFlags say in which state an image is.
type ImageFlags uint32

// The flags of images.
const (
	ImageUnclean      ImageFlags = C.CHECKMAP_IMAGE_UNCLEAN        // Marked dirty or corrupt.
	ImageHeldByWriter ImageFlags = C.CHECKMAP_IMAGE_HELD_BY_WRITER // A running writer was seen (ForceShare only).
	ImageTrouble      ImageFlags = C.CHECKMAP_IMAGE_TROUBLE        // No bitmap can be used; see Image.Trouble.
)

// Image is an open disk image. Its locks are held until Close.
type Image struct {
	handle *C.struct_checkmap_image
}

// ImageInfo is what an image is.
type ImageInfo struct {
	Format             string // such as "qcow2"
	FormatVersion      uint32
	DiskSize           uint64 // of the virtual disk, in bytes
	ClusterSize        uint64 // the unit of allocation, in bytes
	DefaultGranularity uint64 // of a new bitmap, in bytes; 0 where the image can have none
	BackingFile        string // as stored; empty if there is none
	DataFile           string // as stored; empty if there is none
	Model              Model
	Flags              ImageFlags
}

// Checkpoint is a point in time.
type Checkpoint struct {
	Name        string
	Parent      string // the one before; empty where there is none, or nothing stores it
	Granularity uint64 // bytes that one bit stands for
	DirtyBytes  int64  // in the bitmap that begins here; -1 is unknown
	Flags       CheckpointFlags
}

// StoredBitmap is a bitmap as it is stored in an image, whatever it belongs to.
type StoredBitmap struct {
	Name        string
	Granularity uint64
	Flags       CheckpointFlags
}

// Summary is what a stored bitmap amounts to; -1 is unknown.
type Summary struct {
	DirtyBytes, DirtyExtents, StoredBytes int64
}

func newImage(handle *C.struct_checkmap_image) *Image {
	image := &Image{handle}
	runtime.SetFinalizer(image, (*Image).Close)
	return image
}

// Open opens the image file or block device at path, whose format is told by its content. It fails with ErrInUse where
// another process, or another Image of this one, has the image, ErrNoLocks, ErrReadOnly, ErrUnknownFormat, ErrDamaged,
// or with what the system says: for a missing file ErrIO, with ENOENT. An image whose bitmaps cannot be used still
// opens, see Image.Trouble.
func Open(path string, flags OpenFlags) (*Image, error) {
	bytes, length := textOf(path)
	var out *C.struct_checkmap_image
	if err := status(func() C.int { return C.checkmap_image_open(bytes, length, C.uint32_t(flags), &out) }); err != nil {
		return nil, err
	}
	return newImage(out), nil
}

// OpenFile opens the image in an open file, which stays the caller's and may be closed at once, as Open does. The file is
// opened anew, so the Image has locks of its own; where that cannot be done it is ErrNoLocks. A file that was opened
// for appending or only for writing is ErrInvalidArgument, for ReadWrite one that was opened for reading ErrReadOnly.
func OpenFile(file *os.File, flags OpenFlags) (*Image, error) {
	var out *C.struct_checkmap_image
	err := withDescriptor(file, func(fd C.int) error {
		return status(func() C.int { return C.checkmap_image_open_fd(fd, C.uint32_t(flags), &out) })
	})
	if err != nil {
		return nil, err
	}
	return newImage(out), nil
}

// withDescriptor keeps the file open meanwhile, and in the mode it has.
func withDescriptor(file *os.File, call func(fd C.int) error) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if conn.Control(func(fd uintptr) { result = call(C.int(fd)) }) != nil {
		return fmt.Errorf("%s: %w", file.Name(), os.ErrClosed)
	}
	return result
}

// Close closes the image and releases its locks. It needs the image alone, may be called again, and returns nil.
func (i *Image) Close() error {
	if i.handle != nil {
		runtime.SetFinalizer(i, nil)
		C.checkmap_image_close(i.handle)
		i.handle = nil
	}
	return nil
}

// Upgrade makes an image that was opened ReadOnly one that can be changed as well. Its locks keep every writer out the
// whole time, so a Diff made before is still true. It fails with ErrInUse where another reader has the image,
// ErrReadOnly, ErrNoLocks, and leaves the image as it was then. Needs the image alone.
func (i *Image) Upgrade() error {
	defer runtime.KeepAlive(i)
	return status(func() C.int { return C.checkmap_image_upgrade(i.handle) })
}

// StepOutcome says what became of a change of several images that was interrupted.
type StepOutcome uint32

// The outcomes of Recover.
const (
	NoStep        StepOutcome = 0                          // no change was interrupted
	StepFinished  StepOutcome = C.CHECKMAP_STEP_FINISHED   // every image has the change
	StepUndone    StepOutcome = C.CHECKMAP_STEP_UNDONE     // no image has the change
	StepLeftApart StepOutcome = C.CHECKMAP_STEP_LEFT_APART // some have it: it cannot be undone, and a program wrote to one since
)

// Recover ends a change of several images in files that was interrupted, on all of them; this one tells which. It fails with
// ErrUnclean where the journal or an image is not there, ErrInUse, ErrDamaged, and as a change. Options: progress. Changes the image.
func (i *Image) Recover(options *Options) (StepOutcome, error) {
	defer runtime.KeepAlive(i)
	var outcome C.int
	err := options.with(func(opts *C.struct_checkmap_opts) C.int {
		outcome = C.checkmap_image_recover(i.handle, opts)
		return outcome
	})
	if err != nil {
		return NoStep, err
	}
	return StepOutcome(outcome), nil
}

// RecoverContext is Recover that stops when ctx is done.
func (i *Image) RecoverContext(ctx context.Context, options *Options) (StepOutcome, error) {
	return i.Recover(options.WithContext(ctx))
}

// ForgetStep leaves an image as a change of several images left it that was interrupted: for one whose journal or whose other images
// are lost. Changes the image.
func (i *Image) ForgetStep() error {
	defer runtime.KeepAlive(i)
	return status(func() C.int { return C.checkmap_image_forget_step(i.handle) })
}

// SetThreads says how many threads the calls on this image may use from now on, 0 to 1024; 0 and 1 mean the caller's
// alone. Needs the image alone.
func (i *Image) SetThreads(threads uint32) error {
	defer runtime.KeepAlive(i)
	return status(func() C.int { return C.checkmap_image_set_threads(i.handle, C.uint32_t(threads)) })
}

// Info tells what the image is.
func (i *Image) Info() (ImageInfo, error) {
	defer runtime.KeepAlive(i)
	info := C.struct_checkmap_image_info{size: C.sizeof_struct_checkmap_image_info}
	if err := status(func() C.int { return C.checkmap_image_get_info(i.handle, &info) }); err != nil {
		return ImageInfo{}, err
	}
	return ImageInfo{
		Format:             C.GoString(info.format),
		FormatVersion:      uint32(info.format_version),
		DiskSize:           uint64(info.disk_size),
		ClusterSize:        uint64(info.cluster_size),
		DefaultGranularity: uint64(info.default_granularity),
		BackingFile:        textFrom(info.backing_file, info.backing_file_len),
		DataFile:           textFrom(info.data_file, info.data_file_len),
		Model:              Model(info.model),
		Flags:              ImageFlags(info.flags),
	}, nil
}

// Trouble is why no bitmap of the image can be used: the error that a Diff would give; nil if they can be used.
func (i *Image) Trouble() error {
	defer runtime.KeepAlive(i)
	return status(func() C.int { return C.checkmap_image_trouble(i.handle) })
}

// Warnings are those of the opening, or of the last call that changed the image or tried to.
func (i *Image) Warnings() ([]string, error) {
	defer runtime.KeepAlive(i)
	count, err := number(func() int64 { return int64(C.checkmap_image_warnings(i.handle)) })
	var warnings []string
	for at := uint64(0); at < count; at++ {
		if text := C.checkmap_image_warning(i.handle, C.size_t(at)); text != nil {
			warnings = append(warnings, C.GoString(text))
		}
	}
	return warnings, err
}

// Check verifies every structure and rule of the image, and changes nothing. What is wrong is in the report, and no
// error. Options: progress.
func (i *Image) Check(options *Options) (*Report, error) {
	defer runtime.KeepAlive(i)
	return reported(options, func(opts *C.struct_checkmap_opts, out **C.struct_checkmap_report) C.int {
		return C.checkmap_image_check(i.handle, opts, out)
	})
}

// Create creates a checkpoint of now, in one atomic step. The name has 1 to 510 bytes without "->"; granularity 0 is
// that of the newest checkpoint, else the image's default. It fails with ErrExists, ErrInvalidName, ErrNameTooLong,
// ErrInvalidArgument, ErrInconsistent, ErrRecording, ErrReadOnly, ErrCannotStore; only after ErrCommitInDoubt may
// something have changed. Changes the image.
func (i *Image) Create(name string, granularity uint64) error {
	return i.CreateWith(name, granularity, nil)
}

// CreateWith is Create with options: progress, model, DryRun.
func (i *Image) CreateWith(name string, granularity uint64, options *Options) error {
	defer runtime.KeepAlive(i)
	bytes, length := textOf(name)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_checkpoint_create_with(i.handle, bytes, length, C.uint64_t(granularity), opts)
	})
}

// Delete deletes a checkpoint in one atomic step: the interval before it absorbs the one after it. Layers below that know it
// change too, each in an atomic step of its own after all were tried; the same call finishes what was cut short, after
// ErrCommitInDoubt too. It fails with ErrNotFound, ErrInconsistent, ErrBackingLayer, ErrBrokenChain, and as Create. Changes the
// image.
func (i *Image) Delete(name string) error { return i.DeleteWith(name, nil) }

// DeleteWith is Delete with options: progress, model, TopLayerOnly, ForceInconsistent, DryRun.
func (i *Image) DeleteWith(name string, options *Options) error {
	defer runtime.KeepAlive(i)
	bytes, length := textOf(name)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_checkpoint_delete_with(i.handle, bytes, length, opts)
	})
}

// DeleteInconsistent deletes every inconsistent checkpoint, and all that depend on them, in one atomic step; the next
// backup is full. Where nothing is inconsistent nothing happens. Options as DeleteWith. Changes the image.
func (i *Image) DeleteInconsistent(options *Options) error {
	defer runtime.KeepAlive(i)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_checkpoint_delete_inconsistent(i.handle, opts)
	})
}

// DropBefore makes a checkpoint the first one, in one atomic step: the bitmaps of all older ones are dropped, also those
// before gaps. ErrBrokenChain where several gaps leave it open which are older, ErrModel for cumulative checkpoints.
// Options: progress, model, DryRun. Changes the image.
func (i *Image) DropBefore(name string, options *Options) error {
	defer runtime.KeepAlive(i)
	bytes, length := textOf(name)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_checkpoint_drop_before(i.handle, bytes, length, opts)
	})
}

// Rename renames a checkpoint in one atomic step; layers below that know it change as those of Delete. It fails with ErrNotFound, ErrExists, ErrInvalidName,
// ErrNameTooLong, and as Delete. Changes the image.
func (i *Image) Rename(name, to string) error { return i.RenameWith(name, to, nil) }

// RenameWith is Rename with options: progress, model, TopLayerOnly, DryRun.
func (i *Image) RenameWith(name, to string, options *Options) error {
	defer runtime.KeepAlive(i)
	bytes, length := textOf(name)
	toBytes, toLength := textOf(to)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_checkpoint_rename_with(i.handle, bytes, length, toBytes, toLength, opts)
	})
}

// CommitBitmaps lets base, a layer below this image, take in the checkpoints of this one and of the layers between, in one
// atomic step: before or after the data are committed there, and again, as bits are only added. It fails with ErrBackingLayer
// where base is no layer below, ErrModel for cumulative checkpoints, ErrInvalidArgument for the image itself, and as Create.
// Options: progress, DryRun. Changes base.
func (i *Image) CommitBitmaps(base *Image, options *Options) error {
	defer runtime.KeepAlive(i)
	defer runtime.KeepAlive(base)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_commit_bitmaps(i.handle, base.handle, opts)
	})
}

// Checkpoints lists the checkpoints, oldest first. ErrBrokenChain where the bitmaps form no chain.
func (i *Image) Checkpoints() ([]Checkpoint, error) { return i.CheckpointsWith(nil) }

// CheckpointsWith is Checkpoints with options: progress, and the model, which says which are listed where libvirt's
// checkpoints stand beside intervals.
func (i *Image) CheckpointsWith(options *Options) ([]Checkpoint, error) {
	defer runtime.KeepAlive(i)
	var total C.int64_t
	listed := func(out *C.struct_checkmap_checkpoint, max int) error {
		return options.with(func(opts *C.struct_checkmap_opts) C.int {
			total = C.checkmap_checkpoint_list_with(i.handle, opts, out, C.size_t(max))
			if total < 0 {
				return C.int(total)
			}
			return 0
		})
	}
	if err := listed(nil, 0); err != nil || total == 0 {
		return nil, err
	}
	list := make([]C.struct_checkmap_checkpoint, total)
	if err := listed(&list[0], len(list)); err != nil {
		return nil, err
	}
	checkpoints := make([]Checkpoint, total)
	for at := range checkpoints {
		from := &list[at]
		checkpoints[at] = Checkpoint{textFrom(from.name, from.name_len), textFrom(from.parent, from.parent_len),
			uint64(from.granularity), int64(from.dirty_bytes), CheckpointFlags(from.flags)}
	}
	return checkpoints, nil
}

// Now, as the end of a Diff, is the image as it is stored.
const Now = ""

// Diff makes a bitmap of the blocks that changed since a checkpoint, until another one, or until Now. Never short: it
// fails with ErrInconsistent, ErrDamaged, ErrRecording for a gap, ErrBackingLayer, ErrOrder, ErrNotFound. A running
// QEMU holds newer writes than the image.
func (i *Image) Diff(since, until string) (*Bitmap, error) {
	return i.DiffWith(since, until, 0, ToEnd, nil)
}

// DiffWith is Diff of a window of the disk, outside of whose granules the bitmap is clean, with options: progress,
// model, TopLayerOnly.
func (i *Image) DiffWith(since, until string, offset, length uint64, options *Options) (*Bitmap, error) {
	defer runtime.KeepAlive(i)
	sinceBytes, sinceLength := textOf(since)
	untilBytes, untilLength := textOf(until)
	if until == Now {
		untilBytes = nil
	}
	var out *C.struct_checkmap_bitmap
	err := options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_diff_with(i.handle, sinceBytes, sinceLength, untilBytes, untilLength, C.uint64_t(offset),
			C.uint64_t(length), opts, &out)
	})
	if err != nil {
		return nil, err
	}
	return newBitmap(out), nil
}

// StoredBitmaps lists the bitmaps in the order of the image.
func (i *Image) StoredBitmaps() ([]StoredBitmap, error) {
	defer runtime.KeepAlive(i)
	total, err := number(func() int64 { return int64(C.checkmap_stored_list(i.handle, nil, 0)) })
	if err != nil || total == 0 {
		return nil, err
	}
	list := make([]C.struct_checkmap_stored, total)
	_, err = number(func() int64 { return int64(C.checkmap_stored_list(i.handle, &list[0], C.size_t(len(list)))) })
	if err != nil {
		return nil, err
	}
	stored := make([]StoredBitmap, total)
	for at := range stored {
		from := &list[at]
		stored[at] = StoredBitmap{textFrom(from.name, from.name_len), uint64(from.granularity),
			CheckpointFlags(from.flags)}
	}
	return stored, nil
}

// ReadStored reads a stored bitmap; outside of the granules that the window touches it is clean. It fails with
// ErrNotFound, or where the content cannot be trusted: ErrInconsistent, ErrStale, ErrUnsupported, ErrDamaged.
func (i *Image) ReadStored(name string, offset, length uint64) (*Bitmap, error) {
	defer runtime.KeepAlive(i)
	bytes, nameLength := textOf(name)
	return made(func(out **C.struct_checkmap_bitmap) C.int {
		return C.checkmap_stored_read(i.handle, bytes, nameLength, C.uint64_t(offset), C.uint64_t(length), out)
	})
}

// SummarizeStored tells what a stored bitmap amounts to. It fails with ErrNotFound and ErrDamaged.
func (i *Image) SummarizeStored(name string) (Summary, error) {
	defer runtime.KeepAlive(i)
	bytes, length := textOf(name)
	var summary C.struct_checkmap_summary
	err := status(func() C.int { return C.checkmap_stored_summarize(i.handle, bytes, length, &summary) })
	return Summary{int64(summary.dirty_bytes), int64(summary.dirty_extents), int64(summary.stored_bytes)}, err
}

// SHA256Stored tells the SHA-256 of a stored bitmap, see Bitmap.SHA256; a running hypervisor computes its own, so no bit is
// moved. It fails as ReadStored.
func (i *Image) SHA256Stored(name string) ([32]byte, error) {
	defer runtime.KeepAlive(i)
	bytes, length := textOf(name)
	return hashed(func(out *C.struct_checkmap_sha256) C.int {
		return C.checkmap_stored_sha256(i.handle, bytes, length, out)
	})
}

// MergeStored makes the stored bitmap into the union of itself and others, in one atomic step; the others stay. It
// fails as Delete. Options: progress, DryRun. Changes the image.
func (i *Image) MergeStored(names []string, into string, options *Options) error {
	defer runtime.KeepAlive(i)
	// Go pointers in Go memory are not for C, so the names are copied into C's.
	pointers, lengths, free := namesInC(names)
	defer free()
	intoBytes, intoLength := textOf(into)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_stored_merge(i.handle, &pointers[0], &lengths[0], C.size_t(len(names)), intoBytes, intoLength,
			opts)
	})
}

// DropStored drops one stored bitmap, in one atomic step, whatever it belongs to and in whatever state it is. A checkpoint
// that loses its bitmap leaves a gap. Options: progress, DryRun. Changes the image.
func (i *Image) DropStored(name string, options *Options) error {
	defer runtime.KeepAlive(i)
	bytes, length := textOf(name)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_stored_drop(i.handle, bytes, length, opts)
	})
}

// DropAll drops all bitmaps with their directory, in one atomic step, damaged or not; Warnings says what is lost. Without
// ForeignToo, ErrExists where bitmaps that belong to no checkpoint would go too. Options: progress, DryRun, ForeignToo.
// Changes the image.
func (i *Image) DropAll(options *Options) error {
	defer runtime.KeepAlive(i)
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_stored_drop_all(i.handle, opts)
	})
}
