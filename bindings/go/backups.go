package checkmap

/*
#include <stdlib.h>
#include "bridge.h"
*/
import "C"

import (
	"context"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// BackupsFlags say how a directory of backups is opened.
type BackupsFlags uint32

// The flags of OpenBackups.
const (
	BackupsReadOnly  BackupsFlags = C.CHECKMAP_BACKUPS_RDONLY // For everything that changes nothing.
	BackupsReadWrite BackupsFlags = C.CHECKMAP_BACKUPS_RDWR   // For changes as well: what an interrupted run left is cleared.
	BackupsCreate    BackupsFlags = C.CHECKMAP_BACKUPS_CREATE // As BackupsReadWrite, and made with mode 0700 where there is none.
)

// MomentFlags say what a moment is.
type MomentFlags uint32

// The flags of moments.
const (
	MomentFull          MomentFlags = C.CHECKMAP_MOMENT_FULL           // The backup holds all of the disk.
	MomentHasCheckpoint MomentFlags = C.CHECKMAP_MOMENT_HAS_CHECKPOINT // The next backup can be an increment.
	MomentComplete      MomentFlags = C.CHECKMAP_MOMENT_COMPLETE       // The moment is in the directory.
	MomentFailed        MomentFlags = C.CHECKMAP_MOMENT_FAILED         // Not all was done.
)

// BackupDirectory is a directory of backups, locked until Close: many can read it at once, one can change it.
type BackupDirectory struct {
	handle *C.struct_checkmap_backups
}

// Moment is a moment of a disk in a directory of backups.
type Moment struct {
	Disk       string // the name of the disk in the directory
	Image      string // by which the directory knows the disk; in BackupDirectory.Moments alone
	Checkpoint string // of the moment; empty where there is none
	Reason     string // why the backup is full; empty where it is the first one, was folded, or is not full
	DiskSize   uint64 // at the moment, in bytes
	Time       time.Time
	DataBytes  uint64 // of data in the backup's file
	ZeroBytes  uint64 // that are stored as zeros without data
	FileBytes  uint64 // of the file
	Flags      MomentFlags
}

// TakenBackup is what came of one disk of a backup.
type TakenBackup struct {
	Moment
	Err         error    // why not all was done; with MomentComplete, only older checkpoints stay on the disk
	Dropped     []string // checkpoints that were dropped from the disk
	Warnings    []string // what to tell the user
	Files       []string // that were read for it, the top one first
	ThroughQEMU string   // why the disk was read by a private qemu-nbd; empty where it was not
}

// Damage is a file of a backup that is damaged or missing.
type Damage struct {
	Disk, Checkpoint string   // the moment whose file it is
	Err              error    // the damage
	Lost             []string // the moments that cannot be restored for it, oldest first
}

// Pruned is what became of one disk of a prune.
type Pruned struct {
	Disk    string
	Dropped []string // the moments that were given up, or would be, oldest first
	Err     error    // why some that no rule keeps are still there
}

// BackupSource is a disk that is to be backed up.
type BackupSource struct {
	// Disk is the path of its image; of a running machine a name as for Machine.Image.
	Disk string
	// Name is its name in the directory; empty for the name by which the directory knows the disk of a running machine already,
	// or else that of the file.
	Name string
}

// BackupOptions say how a backup is taken; nil stands for the defaults.
type BackupOptions struct {
	Checkpoint      string // the name of the moment; empty for one from the clock, in UTC
	Full            bool   // copy all, and take an image that was moved for the disk of that name
	NoLock          bool   // take no locks on the images
	KeepCheckpoints uint32 // how many of the directory stay on each disk; 0 is 1
	SecretFile      string // with the passphrase of encrypted layers of images
	Scratch         string // the folder for scratch images of running disks; empty for TMPDIR, or /var/tmp
	ScratchMaxBytes uint64 // that the scratch images may take together; 0 is half of the free room
	Abandon         bool   // end the moment that an interrupted run left in the machine, instead of backing it up
	Threads         uint32 // as that of Options
	// Say is told at once what a user should know while a running machine is backed up, on the goroutine of the call.
	Say func(sentence string)
	// Progress is as that of Options.
	Progress func(phase string, done, total uint64) error
}

// with runs a call that takes options of a backup, and sources in C memory.
func (options *BackupOptions) with(ctx context.Context, sources []BackupSource,
	call func(sources *C.struct_checkmap_backup_source, opts *C.struct_checkmap_backup_opts,
		out **C.struct_checkmap_outcome) C.int64_t) ([]TakenBackup, error) {
	if options == nil {
		options = &BackupOptions{}
	}
	var flags C.uint32_t
	for flag, wanted := range map[C.uint32_t]bool{C.CHECKMAP_BACKUP_FULL: options.Full,
		C.CHECKMAP_BACKUP_NO_LOCK: options.NoLock, C.CHECKMAP_BACKUP_ABANDON: options.Abandon} {
		if wanted {
			flags |= flag
		}
	}
	texts, lengths, free := namesInC([]string{options.Checkpoint, options.SecretFile, options.Scratch})
	defer free()
	array, freeArray := sourcesInC(sources)
	defer freeArray()
	var out *C.struct_checkmap_outcome
	with := (&Options{Threads: options.Threads, Progress: options.Progress}).WithContext(ctx)
	with.say = options.Say
	says := C.int(0)
	if options.Say != nil {
		says = 1
	}
	isRead := false
	defer func() {
		// A callback panicked.
		if !isRead {
			C.checkmap_outcome_free(out)
		}
	}()
	stopped, err := with.asked(func(opts *C.struct_checkmap_opts) C.int {
		own := C.checkmap_go_backup_opts(opts, flags, C.uint32_t(options.KeepCheckpoints), &texts[0], &lengths[0],
			C.uint64_t(options.ScratchMaxBytes), says)
		if own == nil {
			return -C.int(syscall.ENOMEM)
		}
		defer C.free(unsafe.Pointer(own))
		return negative(call(array, own, &out))
	})
	if err != nil {
		return nil, err
	}
	var taken []TakenBackup
	isRead = true
	err = readOutcome(out, func(row int, moment Moment, err error) error {
		stoppedBy(err, stopped)
		each := TakenBackup{Moment: moment, Err: err}
		var reader []string
		for _, list := range []struct {
			kind C.uint32_t
			into *[]string
		}{{C.CHECKMAP_TEXTS_CHECKPOINTS, &each.Dropped}, {C.CHECKMAP_TEXTS_WARNINGS, &each.Warnings},
			{C.CHECKMAP_TEXTS_FILES, &each.Files}, {C.CHECKMAP_TEXTS_READER, &reader}} {
			texts, err := textsOf(out, row, list.kind)
			if err != nil {
				return err
			}
			*list.into = texts
		}
		if len(reader) > 0 {
			each.ThroughQEMU = reader[0]
		}
		taken = append(taken, each)
		return nil
	})
	return taken, err
}

// negative is the errno of a call that returns a count.
func negative(n C.int64_t) C.int {
	if n < 0 {
		return C.int(n)
	}
	return 0
}

// sourcesInC copies sources into C memory, which free frees. There is always an element to point to.
func sourcesInC(sources []BackupSource) (*C.struct_checkmap_backup_source, func()) {
	array := (*C.struct_checkmap_backup_source)(C.calloc(C.size_t(len(sources)+1), C.sizeof_struct_checkmap_backup_source))
	inC := unsafe.Slice(array, len(sources)+1)
	for at, source := range sources {
		inC[at].disk = (*C.char)(C.CBytes(append([]byte(source.Disk), 0)))
		inC[at].disk_len = C.size_t(len(source.Disk))
		if source.Name != "" {
			inC[at].name = (*C.char)(C.CBytes([]byte(source.Name)))
			inC[at].name_len = C.size_t(len(source.Name))
		}
	}
	return array, func() {
		for at := range inC {
			C.free(unsafe.Pointer(inC[at].disk))
			C.free(unsafe.Pointer(inC[at].name))
		}
		C.free(unsafe.Pointer(array))
	}
}

func momentFrom(from *C.struct_checkmap_moment) Moment {
	return Moment{textFrom(from.disk, from.disk_len), textFrom(from.image, from.image_len),
		textFrom(from.checkpoint, from.checkpoint_len), textFrom(from.reason, from.reason_len), uint64(from.disk_size),
		time.Unix(int64(from.time), 0).UTC(), uint64(from.data_bytes), uint64(from.zero_bytes), uint64(from.file_bytes),
		MomentFlags(from.flags)}
}

// momentsOf lists what a call fills in, after it has told how many there are.
func momentsOf(call func(out *C.struct_checkmap_moment, max C.size_t) C.int64_t) ([]Moment, error) {
	total, err := number(func() int64 { return int64(call(nil, 0)) })
	if err != nil || total == 0 {
		return nil, err
	}
	list := make([]C.struct_checkmap_moment, total)
	if _, err = number(func() int64 { return int64(call(&list[0], C.size_t(total))) }); err != nil {
		return nil, err
	}
	moments := make([]Moment, total)
	for at := range list {
		moments[at] = momentFrom(&list[at])
	}
	return moments, nil
}

// readOutcome shows each row of an outcome, with its error, and frees the outcome.
func readOutcome(outcome *C.struct_checkmap_outcome, show func(row int, moment Moment, err error) error) error {
	defer C.checkmap_outcome_free(outcome)
	moments, err := momentsOf(func(out *C.struct_checkmap_moment, max C.size_t) C.int64_t {
		return C.checkmap_outcome_rows(outcome, out, max)
	})
	for row, moment := range moments {
		failed := status(func() C.int { return C.checkmap_outcome_error(outcome, C.size_t(row)) })
		if err == nil {
			err = show(row, moment, failed)
		}
	}
	return err
}

func textsOf(outcome *C.struct_checkmap_outcome, row int, kind C.uint32_t) ([]string, error) {
	return texts(func(out *C.struct_checkmap_text, max C.size_t) C.int64_t {
		return C.checkmap_outcome_texts(outcome, C.size_t(row), kind, out, max)
	})
}

// texts copies the texts that a call fills in.
func texts(call func(out *C.struct_checkmap_text, max C.size_t) C.int64_t) ([]string, error) {
	total, err := number(func() int64 { return int64(call(nil, 0)) })
	if err != nil || total == 0 {
		return nil, err
	}
	list := make([]C.struct_checkmap_text, total)
	if _, err = number(func() int64 { return int64(call(&list[0], C.size_t(total))) }); err != nil {
		return nil, err
	}
	copied := make([]string, total)
	for at, each := range list {
		copied[at] = textFrom(each.bytes, each.len)
	}
	return copied, nil
}

// OpenBackups opens a directory of backups. It fails with ErrNotFound where it is none, ErrInUse where somebody changes it,
// ErrUnsupported where a newer version made it, ErrDamaged, or with what the system says.
func OpenBackups(path string, flags BackupsFlags) (*BackupDirectory, error) {
	bytes, length := textOf(path)
	var out *C.struct_checkmap_backups
	err := status(func() C.int { return C.checkmap_backups_open(bytes, length, C.uint32_t(flags), &out) })
	if err != nil {
		return nil, err
	}
	directory := &BackupDirectory{out}
	runtime.SetFinalizer(directory, (*BackupDirectory).Close)
	return directory, nil
}

// Close releases the lock. It may be called again, and returns nil.
func (d *BackupDirectory) Close() error {
	if d.handle != nil {
		runtime.SetFinalizer(d, nil)
		C.checkmap_backups_close(d.handle)
		d.handle = nil
	}
	return nil
}

// Moments are the kept moments of all disks; those of one disk stand together, the oldest first.
func (d *BackupDirectory) Moments() ([]Moment, error) {
	defer runtime.KeepAlive(d)
	return momentsOf(func(out *C.struct_checkmap_moment, max C.size_t) C.int64_t {
		return C.checkmap_backups_list(d.handle, out, max)
	})
}

// Take takes a backup of images, all with one checkpoint name. The first backup of a disk is full; later ones hold what changed since
// the last one, or all with the reason. An error changed nothing; what came of each disk is in the list, and one that failed leaves
// the others. It fails with ErrChanged where the disk of that name is of another image, ErrExists, ErrInUse, ErrReadOnly. Changes
// the directory.
func (d *BackupDirectory) Take(disks []BackupSource, options *BackupOptions) ([]TakenBackup, error) {
	return d.TakeContext(context.Background(), disks, options)
}

// TakeContext is Take that stops when ctx is done.
func (d *BackupDirectory) TakeContext(ctx context.Context, disks []BackupSource, options *BackupOptions) ([]TakenBackup, error) {
	defer runtime.KeepAlive(d)
	return options.with(ctx, disks, func(sources *C.struct_checkmap_backup_source, opts *C.struct_checkmap_backup_opts,
		out **C.struct_checkmap_outcome) C.int64_t {
		return C.checkmap_backups_take(d.handle, sources, C.size_t(len(disks)), opts, out)
	})
}

// TakeRunning takes a backup of disks of a running machine while its guest writes on: all as they were at one moment, at which the
// checkpoint is made. A moment that an interrupted run left is backed up in the place of a new one, unless Abandon ends it. It fails
// as Take, with ErrInUse where a moment of somebody else stands in the machine or a job works on the disks, ErrCannotStore where
// the scratch has too little room, ErrNotFound, ErrHypervisor. Changes the directory.
func (d *BackupDirectory) TakeRunning(machine *Machine, disks []BackupSource, options *BackupOptions) ([]TakenBackup, error) {
	return d.TakeRunningContext(context.Background(), machine, disks, options)
}

// TakeRunningContext is TakeRunning that stops when ctx is done.
func (d *BackupDirectory) TakeRunningContext(ctx context.Context, machine *Machine, disks []BackupSource,
	options *BackupOptions) ([]TakenBackup, error) {
	defer runtime.KeepAlive(d)
	defer runtime.KeepAlive(machine)
	return options.with(ctx, disks, func(sources *C.struct_checkmap_backup_source, opts *C.struct_checkmap_backup_opts,
		out **C.struct_checkmap_outcome) C.int64_t {
		return C.checkmap_backups_take_running(d.handle, machine.handle, sources, C.size_t(len(disks)), opts, out)
	})
}

// PreviewBackup tells what Take would write into the directory at path, which need not be there: for each disk the moment as it
// would be, its bytes at most. Nothing is changed.
func PreviewBackup(path string, disks []BackupSource, options *BackupOptions) ([]TakenBackup, error) {
	bytes, length := textOf(path)
	return options.with(context.Background(), disks, func(sources *C.struct_checkmap_backup_source,
		opts *C.struct_checkmap_backup_opts, out **C.struct_checkmap_outcome) C.int64_t {
		return C.int64_t(C.checkmap_backups_preview(bytes, length, sources, C.size_t(len(disks)), opts, out))
	})
}

// RestoreRequest is what Restore restores.
type RestoreRequest struct {
	Disk       string // its name in the directory
	Checkpoint string // of the moment; empty for the newest one
	Target     string // the path of a new file, of one that may be replaced, or of a block device
	Replace    bool   // replace a file that is there, or write over a device; never one that somebody uses
	Raw        bool   // a new file gets the bytes of the disk themselves; a device gets them always
}

// Restore writes a moment of a disk to its target, and compares all that it reads with the checksums. It fails with ErrNotFound,
// ErrExists where the target is there, ErrInUse, ErrDamaged, or with what the system says. Options: progress.
func (d *BackupDirectory) Restore(request RestoreRequest, options *Options) error {
	defer runtime.KeepAlive(d)
	inC := (*C.struct_checkmap_restore_request)(C.calloc(1, C.sizeof_struct_checkmap_restore_request))
	if inC == nil {
		return &Error{Kind: ErrIO, Errno: syscall.ENOMEM, Message: "no memory for a request"}
	}
	defer C.free(unsafe.Pointer(inC))
	texts, lengths, free := namesInC([]string{request.Disk, request.Checkpoint, request.Target})
	defer free()
	*inC = C.struct_checkmap_restore_request{size: C.sizeof_struct_checkmap_restore_request, disk: texts[0],
		disk_len: lengths[0], target: texts[2], target_len: lengths[2]}
	if request.Checkpoint != "" {
		inC.checkpoint, inC.checkpoint_len = texts[1], lengths[1]
	}
	if request.Replace {
		inC.flags |= C.CHECKMAP_RESTORE_REPLACE
	}
	if request.Raw {
		inC.flags |= C.CHECKMAP_RESTORE_RAW
	}
	return options.with(func(opts *C.struct_checkmap_opts) C.int {
		return C.checkmap_backups_restore(d.handle, inC, opts)
	})
}

// RestoreContext is Restore that stops when ctx is done.
func (d *BackupDirectory) RestoreContext(ctx context.Context, request RestoreRequest, options *Options) error {
	return d.Restore(request, options.WithContext(ctx))
}

// Verify reads everything, and tells how many moments it looked at and which files are damaged or missing. Options: progress.
func (d *BackupDirectory) Verify(options *Options) (moments uint64, damages []Damage, err error) {
	defer runtime.KeepAlive(d)
	var out *C.struct_checkmap_outcome
	err = options.with(func(opts *C.struct_checkmap_opts) C.int {
		n := C.checkmap_backups_verify(d.handle, opts, &out)
		moments = uint64(n)
		return negative(n)
	})
	if err != nil {
		return 0, nil, err
	}
	err = readOutcome(out, func(row int, moment Moment, failed error) error {
		lost, err := textsOf(out, row, C.CHECKMAP_TEXTS_CHECKPOINTS)
		damages = append(damages, Damage{moment.Disk, moment.Checkpoint, failed, lost})
		return err
	})
	return moments, damages, err
}

// VerifyContext is Verify that stops when ctx is done.
func (d *BackupDirectory) VerifyContext(ctx context.Context, options *Options) (moments uint64, damages []Damage, err error) {
	return d.Verify(options.WithContext(ctx))
}

// Keep says which moments Prune keeps: those that any rule keeps, and the newest one of each disk.
type Keep struct {
	Last    uint64        // so many of the newest of each disk; 0 is no such rule
	Within  time.Duration // those that are no older, in whole seconds; 0 is no such rule
	Rewrite bool          // where the oldest go, write a new full file, and leave the old one as it is until then
}

// Prune gives up the moments that no rule keeps. Every kept moment can be restored at each instant. It fails with
// ErrInvalidArgument without a rule, ErrReadOnly. Options: progress, DryRun. Changes the directory.
func (d *BackupDirectory) Prune(keep Keep, options *Options) ([]Pruned, error) {
	defer runtime.KeepAlive(d)
	rules := C.struct_checkmap_keep{size: C.sizeof_struct_checkmap_keep, last: C.uint64_t(keep.Last)}
	if keep.Within > 0 {
		rules.within_seconds = C.uint64_t(keep.Within / time.Second)
	}
	if keep.Rewrite {
		rules.flags = C.CHECKMAP_KEEP_REWRITE
	}
	var out *C.struct_checkmap_outcome
	err := options.with(func(opts *C.struct_checkmap_opts) C.int {
		return negative(C.checkmap_backups_prune(d.handle, &rules, opts, &out))
	})
	if err != nil {
		return nil, err
	}
	var pruned []Pruned
	err = readOutcome(out, func(row int, moment Moment, failed error) error {
		dropped, err := textsOf(out, row, C.CHECKMAP_TEXTS_CHECKPOINTS)
		pruned = append(pruned, Pruned{moment.Disk, dropped, failed})
		return err
	})
	return pruned, err
}

// PruneContext is Prune that stops when ctx is done.
func (d *BackupDirectory) PruneContext(ctx context.Context, keep Keep, options *Options) ([]Pruned, error) {
	return d.Prune(keep, options.WithContext(ctx))
}

// Tier says which part of a disk a backup has to read.
type Tier uint32

// The tiers.
const (
	TierChanged   Tier = C.CHECKMAP_TIER_CHANGED   // What changed since the checkpoint.
	TierAllocated Tier = C.CHECKMAP_TIER_ALLOCATED // The allocated part, as it cannot be told what changed.
	TierAll       Tier = C.CHECKMAP_TIER_ALL       // All, as nobody can tell the allocated part either.
)

// BackupPlan is what a backup of a disk since a checkpoint has to read.
type BackupPlan struct {
	Tier           Tier
	Reason         string // why it is not a smaller part; empty for what changed
	ChangedBytes   int64  // -1 where that cannot be told
	AllocatedBytes int64  // -1 where that cannot be told
	DiskSize       uint64 // in bytes
}

// planned runs a call that plans a backup.
func planned(options *Options, call func(opts *C.struct_checkmap_opts, out *C.struct_checkmap_planned, reason *C.char,
	room C.size_t) C.int64_t) (*BackupPlan, error) {
	var out C.struct_checkmap_planned
	reason := make([]byte, 4096)
	var length C.int64_t
	err := options.with(func(opts *C.struct_checkmap_opts) C.int {
		length = call(opts, &out, (*C.char)(unsafe.Pointer(&reason[0])), C.size_t(len(reason)))
		return negative(length)
	})
	if err != nil {
		return nil, err
	}
	if int(length) < len(reason) {
		reason = reason[:int(length)]
	}
	return &BackupPlan{Tier(out.tier), string(reason), int64(out.changed_bytes),
		int64(out.allocated_bytes), uint64(out.disk_size)}, nil
}

// PlanBackup tells how much of the disk of an image, which was opened ReadOnly, a backup since a checkpoint has to read. secretFile has
// the passphrase of encrypted layers, or is empty. Options: progress.
func (i *Image) PlanBackup(checkpoint, secretFile string, options *Options) (*BackupPlan, error) {
	defer runtime.KeepAlive(i)
	bytes, length := textOf(checkpoint)
	secret, secretLength := textOf(secretFile)
	if secretFile == "" {
		secret = nil
	}
	return planned(options, func(opts *C.struct_checkmap_opts, out *C.struct_checkmap_planned, reason *C.char,
		room C.size_t) C.int64_t {
		return C.checkmap_plan_backup(i.handle, bytes, length, secret, secretLength, opts, out, reason, room)
	})
}

// PlanBackup tells how much of a disk, named as for Image, a backup since a checkpoint has to read. Options: progress.
func (m *Machine) PlanBackup(node, checkpoint string, options *Options) (*BackupPlan, error) {
	defer runtime.KeepAlive(m)
	nodeBytes, nodeLength := textOf(node)
	bytes, length := textOf(checkpoint)
	return planned(options, func(opts *C.struct_checkmap_opts, out *C.struct_checkmap_planned, reason *C.char,
		room C.size_t) C.int64_t {
		return C.checkmap_plan_backup_running(m.handle, nodeBytes, nodeLength, bytes, length, opts, out, reason, room)
	})
}
