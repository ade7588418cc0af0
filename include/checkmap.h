/*
 * checkmap: which blocks of this disk changed between these two points in time? checkmap(3) begins with the concepts.
 *
 * This file is made from the documents of src/capi/.
 *
 * Rules for every call:
 *
 * - It returns 0, a count, an offset or a truth; or -errno. The calls that look for an offset return -1 for "none", and
 *   no error is ever -EPERM, which is -1. checkmap_last_error() has the message of the last failure of this thread,
 *   checkmap_last_error_kind() its exact kind, CHECKMAP_ERROR_...
 * - Offsets and lengths are bytes of the virtual disk. Queries cut their range at the end of the disk.
 * - Names and paths are bytes, given as a pointer and a length, without a NUL. A length of 0 is -EINVAL, one that no
 *   name or path has is -ENAMETOOLONG.
 * - A place for a result holds NULL or zero from the beginning of the call, whatever happens then.
 * - A NULL or misaligned pointer, a handle of another type, one that looks freed, and an argument that cannot be are
 *   -EINVAL. Calls that end a handle take NULL.
 * - A const handle may be used by many threads at once; any other call has the handle alone.
 * - A fault of the library itself is -ENOTRECOVERABLE, with the handles of that call poisoned: every later call on them
 *   returns the same, but for the one that frees them.
 * - Where the system has no memory for what a call needs, it is -ENOMEM and nothing has changed.
 * - The library prints nothing, takes no signal, and starts threads only for a call whose options ask for them; none of
 *   them lives longer than the call.
 * - What the library hands out by pointer may be handed back to it. What belongs to an image lives until a call that
 *   changes the image succeeds: one that fails, or only rehearses, leaves it.
 * - After fork() without exec a child may go on with bitmaps and segments. A bitmap that another thread was changing at the
 *   fork, or putting in order to read it, is -EDEADLK there at every call but the one that frees it. A child must not use
 *   or close images, machines and directories of backups, whose locks and connections it shares with its parent. What the first calls of a process
 *   prepare, no child waits for.
 */

#ifndef CHECKMAP_H
#define CHECKMAP_H

#include <stddef.h>
#include <stdint.h>

/** The version of the library this header belongs to: its first number. */
#define CHECKMAP_VERSION_MAJOR 0

/** The version of the library this header belongs to: its second number. */
#define CHECKMAP_VERSION_MINOR 1

/** The version of the library this header belongs to: its third number. */
#define CHECKMAP_VERSION_PATCH 0

/**
 * The number of this header's ABI, which grows with every addition. A program needs a library whose
 * checkmap_abi_version() is not smaller than that of the header it was compiled with.
 */
#define CHECKMAP_ABI_VERSION 1

/** As a length: up to the end of the disk. */
#define CHECKMAP_TO_END UINT64_MAX

/** The extent is dirty. */
#define CHECKMAP_EXTENT_DIRTY 1

/** The extent is dirty in the first of two, and clean in the second. */
#define CHECKMAP_EXTENT_ONLY_IN_FIRST 2

/** The extent is dirty in the second of two, and clean in the first. */
#define CHECKMAP_EXTENT_ONLY_IN_SECOND 4

/** The bitmap that begins at this checkpoint records the writes of now. */
#define CHECKMAP_CHECKPOINT_RECORDING 1

/** What this checkpoint knows cannot be trusted: its writer did not store it. */
#define CHECKMAP_CHECKPOINT_INCONSISTENT 2

/** The bitmap has a type or extra data that this library does not know. */
#define CHECKMAP_CHECKPOINT_UNUSABLE 4

/** Nobody can tell where among the others this checkpoint stands: a cumulative one, or one between several gaps. */
#define CHECKMAP_CHECKPOINT_UNORDERED 8

/** The bitmap before this checkpoint is missing: no diff can cross this gap. The parent is NULL then. */
#define CHECKMAP_CHECKPOINT_GAP 16

/** A rule is broken; data may be lost when the file is written to. */
#define CHECKMAP_SEVERITY_ERROR 1

/** A bitmap cannot be used for a backup. */
#define CHECKMAP_SEVERITY_UNUSABLE 2

/** Room is counted as used that nothing uses. */
#define CHECKMAP_SEVERITY_LEAK 3

/** Odd, and harmless. */
#define CHECKMAP_SEVERITY_WARNING 4

/** The operating system refused; the errno is its own. (EIO where it gave none) */
#define CHECKMAP_ERROR_IO 1

/** The disk, or the block device that cannot grow, is full. (ENOSPC) */
#define CHECKMAP_ERROR_NO_SPACE 2

/** An argument that no disk could make right: a granularity that is no power of two, an unaligned clear. (EINVAL) */
#define CHECKMAP_ERROR_INVALID_ARGUMENT 3

/** A range that ends past the last granule of the disk. (ERANGE) */
#define CHECKMAP_ERROR_OUT_OF_RANGE 4

/** Two bitmaps of disks of different size. (EINVAL) */
#define CHECKMAP_ERROR_SIZE_MISMATCH 5

/** A name that is empty or holds what a name may not hold. (EINVAL) */
#define CHECKMAP_ERROR_INVALID_NAME 6

/** A name above the limit. (ENAMETOOLONG) */
#define CHECKMAP_ERROR_NAME_TOO_LONG 7

/** No checkpoint or bitmap has this name. (ENOENT, as CHECKMAP_ERROR_IO for a missing file: only the kind tells.) */
#define CHECKMAP_ERROR_NOT_FOUND 8

/** A checkpoint or bitmap of this name is there already. (EEXIST) */
#define CHECKMAP_ERROR_EXISTS 9

/** The content is no format that checkmap knows. (ENOTSUP) */
#define CHECKMAP_ERROR_UNKNOWN_FORMAT 10

/** The format is known, this version or feature of it is not. (ENOTSUP) */
#define CHECKMAP_ERROR_UNSUPPORTED 11

/** The bytes break a rule of their format. (EBADMSG) */
#define CHECKMAP_ERROR_DAMAGED 12

/** Another process, or another handle of this one, has the image open in a way that excludes this one. (EBUSY) */
#define CHECKMAP_ERROR_IN_USE 13

/** The file system cannot lock, so nothing protects the image from a running QEMU. (ENOLCK) */
#define CHECKMAP_ERROR_NO_LOCKS 14

/** The image, or the handle to it, does not allow writing. (EROFS) */
#define CHECKMAP_ERROR_READ_ONLY 15

/** The image carries the mark of a crash (dirty) or of damage (corrupt), so its free space cannot be trusted. (EUCLEAN) */
#define CHECKMAP_ERROR_UNCLEAN 16

/** Software that knows nothing of bitmaps wrote to the image: every bitmap in it is out of date. (EUCLEAN) */
#define CHECKMAP_ERROR_STALE 17

/** A bitmap was not stored when its writer ended: its content cannot be trusted. (EUCLEAN) */
#define CHECKMAP_ERROR_INCONSISTENT 18

/** A bitmap that must record does not, or one that must be frozen records. (EPROTO) */
#define CHECKMAP_ERROR_RECORDING 19

/** The names of the bitmaps do not form one chain of checkpoints. (EPROTO) */
#define CHECKMAP_ERROR_BROKEN_CHAIN 20

/** The model of the checkpoints is unknown, or does not offer this operation. (EPROTO) */
#define CHECKMAP_ERROR_MODEL 21

/** The checkpoints asked for are in the wrong order. (EPROTO) */
#define CHECKMAP_ERROR_ORDER 22

/** A layer below the image takes part, or cannot be read, so the answer would be short. (EPROTO) */
#define CHECKMAP_ERROR_BACKING_LAYER 23

/** The caller asked to stop, and nothing was changed. (ECANCELED) */
#define CHECKMAP_ERROR_CANCELLED 24

/** Writing failed after the commit began: the image holds the state before or the state after, whole. (EIO) */
#define CHECKMAP_ERROR_COMMIT_IN_DOUBT 25

/** The image changed under a handle that holds no locks. (ESTALE) */
#define CHECKMAP_ERROR_CHANGED 26

/** The image is of a version that cannot hold bitmaps. (ENOTSUP) */
#define CHECKMAP_ERROR_OLD_VERSION 27

/** This image cannot take the change: no room in its header, a disk of size zero, a limit of its format. (ENOTSUP) */
#define CHECKMAP_ERROR_CANNOT_STORE 28

/** A call on this handle was cut short by a fault of checkmap itself: what it holds may be half a state. (ENOTRECOVERABLE) */
#define CHECKMAP_ERROR_POISONED 29

/** The system has no memory for what the call needs, and nothing was changed. (ENOMEM) */
#define CHECKMAP_ERROR_OUT_OF_MEMORY 30

/** A fork caught another thread in the middle of a change of this object: what the child holds may be half a state. (EDEADLK) */
#define CHECKMAP_ERROR_TORN_BY_FORK 31

/** A running hypervisor refused a command, or the connection to it broke. (EREMOTEIO) */
#define CHECKMAP_ERROR_HYPERVISOR 32

/** Do not look at the layers below the image, and change none of them: the caller knows that they do not matter. */
#define CHECKMAP_OPT_TOP_LAYER_ONLY 1

/** Delete the checkpoint even if what it holds is inconsistent, giving up what older checkpoints know with it. */
#define CHECKMAP_OPT_FORCE_INCONSISTENT 2

/** Find out whether the change could be made, and make none. */
#define CHECKMAP_OPT_DRY_RUN 4

/** Drop also the bitmaps that belong to no checkpoint: somebody else may need them. */
#define CHECKMAP_OPT_FOREIGN_TOO 8

/** In options: the model that the image's bitmaps show. In facts: there are no bitmaps. */
#define CHECKMAP_MODEL_NONE 0

/** Each bitmap covers the interval from its checkpoint to the next; only the last one records. */
#define CHECKMAP_MODEL_INTERVAL 1

/** Each bitmap records since its checkpoint, until it is deleted. */
#define CHECKMAP_MODEL_CUMULATIVE 2

/** In facts: the bitmaps could be either, or their names form no chain. */
#define CHECKMAP_MODEL_UNKNOWN 3

/** Open for everything that changes nothing. */
#define CHECKMAP_OPEN_RDONLY 0

/** Open for changes as well. */
#define CHECKMAP_OPEN_RDWR 1

/**
 * Take no locks, for file systems that have none: the caller makes sure that nothing else changes the image. A writer
 * whose locks can be seen is -EBUSY all the same. Each call reads header and bitmap directory before and after, and
 * returns -ESTALE if they changed under it. No way to an image that a running QEMU has open: docs/embedding.md has one.
 */
#define CHECKMAP_OPEN_NO_LOCK 2

/** Names and flags only, without locks: works while a running QEMU holds the image, and trusts no content. */
#define CHECKMAP_OPEN_FORCE_SHARE 4

/** The image is marked dirty or corrupt: it can be read, and must be repaired before it is written. */
#define CHECKMAP_IMAGE_UNCLEAN 1

/** A running writer was seen (CHECKMAP_OPEN_FORCE_SHARE only): the bitmaps are in use, and not inconsistent. */
#define CHECKMAP_IMAGE_HELD_BY_WRITER 2

/** No bitmap of this image can be used; checkmap_image_trouble() says why. */
#define CHECKMAP_IMAGE_TROUBLE 4

/** No checkpoint can be made on the disk: its format keeps no bitmaps, or it is read-only. */
#define CHECKMAP_DISK_UNFIT 1

/** The step has been finished: every image has the change. */
#define CHECKMAP_STEP_FINISHED 1

/** The step has been undone: no image has the change. */
#define CHECKMAP_STEP_UNDONE 2

/** Some images have the change and others not: a program wrote to one since, and a deletion or a renaming cannot be undone. */
#define CHECKMAP_STEP_LEFT_APART 3

/** A new checkpoint: name, granularity, model. */
#define CHECKMAP_PLAN_CREATE 1

/** Checkpoints deleted in one step: names, model, flags. */
#define CHECKMAP_PLAN_DELETE 2

/** Another name for a checkpoint: name, other, model. */
#define CHECKMAP_PLAN_RENAME 3

/** The union of stored bitmaps into one of them: names, and name for the one that grows. */
#define CHECKMAP_PLAN_MERGE 4

/** The exports whose union is a diff, on an NBD server that runs: since name, until other or now, export_name, model. */
#define CHECKMAP_PLAN_DIFF 5

/** The backup holds all of the disk, instead of lying on the one before. */
#define CHECKMAP_MOMENT_FULL 1

/** The disk got a checkpoint of that moment, so that the next backup can be an increment. */
#define CHECKMAP_MOMENT_HAS_CHECKPOINT 2

/** The moment is in the directory, complete. */
#define CHECKMAP_MOMENT_COMPLETE 4

/** Not all was done; checkmap_outcome_error() tells the cause. */
#define CHECKMAP_MOMENT_FAILED 8

/**
 * The checkpoints of a row: those dropped from the disk by a backup, the moments that a prune gave up, or the moments that a
 * damaged file costs. Oldest first.
 */
#define CHECKMAP_TEXTS_CHECKPOINTS 1

/** The warnings of a backup, in UTF-8. */
#define CHECKMAP_TEXTS_WARNINGS 2

/** The files that a backup read, the top one first. */
#define CHECKMAP_TEXTS_FILES 3

/** One text in UTF-8, or none: why the disk was read by a private qemu-nbd. */
#define CHECKMAP_TEXTS_READER 4

/** Open for everything that changes nothing; many can at once. */
#define CHECKMAP_BACKUPS_RDONLY 0

/** Open for changes as well: what an interrupted run left is finished or cleared. */
#define CHECKMAP_BACKUPS_RDWR 1

/** As CHECKMAP_BACKUPS_RDWR; where there is no directory, or an empty one, it becomes one with mode 0700. */
#define CHECKMAP_BACKUPS_CREATE 2

/** Copy all, also where an increment could be taken; and take an image that was moved for the disk of that name. */
#define CHECKMAP_BACKUP_FULL 1

/** Take no locks on the images, as CHECKMAP_OPEN_NO_LOCK. */
#define CHECKMAP_BACKUP_NO_LOCK 2

/** End the moment that an interrupted run of this directory left in the machine, instead of backing it up. */
#define CHECKMAP_BACKUP_ABANDON 4

/** Replace a file that is there, or write over a device; never one that somebody uses. */
#define CHECKMAP_RESTORE_REPLACE 1

/** A new file gets the bytes of the disk themselves, instead of being an image that can keep bitmaps. A device gets them always. */
#define CHECKMAP_RESTORE_RAW 2

/** Where the oldest moments go, write a new full file, and leave the old one as it is until then. */
#define CHECKMAP_KEEP_REWRITE 1

/** What changed since the checkpoint has to be read. */
#define CHECKMAP_TIER_CHANGED 1

/** The allocated part has to be read, as it cannot be told what changed. */
#define CHECKMAP_TIER_ALLOCATED 2

/** All has to be read, as nobody can tell the allocated part either. */
#define CHECKMAP_TIER_ALL 3

/** Find out where bitmaps, chains and libvirt's notes disagree, and change nothing. */
#define CHECKMAP_DOCTOR_LOOK 0

/** Mend the findings: bitmaps first, then libvirt's notes. */
#define CHECKMAP_DOCTOR_REPAIR 1

/** Turn cumulative checkpoints into a chain of intervals: each bitmap is frozen whole, and libvirt forgets the checkpoints. */
#define CHECKMAP_DOCTOR_TO_INTERVAL 2

/** The finding is still there after the repair. */
#define CHECKMAP_FINDING_LEFT 1

/** The steps of the mend in their order, done or not. */
#define CHECKMAP_DIAGNOSIS_STEPS 1

/** Sentences for the user beside the findings, such as how much too large a past diff becomes. */
#define CHECKMAP_DIAGNOSIS_REMARKS 2

/** The warnings of the change. */
#define CHECKMAP_DIAGNOSIS_WARNINGS 3

/**
 * A directory of backups. It is locked until it is closed: many can read it at once, one can change it.
 *
 * A forked child must not use or close it.
 */
typedef struct checkmap_backups checkmap_backups;

/**
 * Which granules of a disk are dirty: one bit for each.
 *
 * Offsets and lengths are bytes of the virtual disk. Calls that take it as const may run concurrently.
 */
typedef struct checkmap_bitmap checkmap_bitmap;

/** What a doctor found and did. It outlives the image and the machine. */
typedef struct checkmap_diagnosis checkmap_diagnosis;

/**
 * An open disk image. Its locks are held until it is closed.
 *
 * Calls that take it as const may run concurrently.
 */
typedef struct checkmap_image checkmap_image;

/**
 * A running hypervisor: one connection, which all images of its disks share.
 *
 * A monitor of QEMU talks to one client at a time. So disks that a program uses together come from one machine, by
 * checkmap_machine_image(); a second connection to the same socket would wait for the first one, and be -EBUSY.
 */
typedef struct checkmap_machine checkmap_machine;

/** libvirt's notes of the checkpoints of one domain, oldest first. */
typedef struct checkmap_notes checkmap_notes;

/** What came of the disks of a backup or a prune, or what a verification found. It outlives the directory. */
typedef struct checkmap_outcome checkmap_outcome;

/** The findings of a check. A report outlives the thing that was checked. */
typedef struct checkmap_report checkmap_report;

/**
 * A bitmap in a file, which may be larger than memory: only its directory is in memory.
 *
 * Calls that take it as const may run concurrently. Every query reads what it needs, and checks it before it
 * believes it: what breaks a rule is -EBADMSG.
 */
typedef struct checkmap_segment checkmap_segment;

/** A range of bytes of the virtual disk. Frozen. */
typedef struct checkmap_extent {
    /** The first byte. */
    uint64_t offset;
    /** The number of bytes; never 0. */
    uint64_t length;
    /** CHECKMAP_EXTENT_... */
    uint32_t flags;
    /** 0. */
    uint32_t reserved;
} checkmap_extent;

/**
 * Told how far a long call has come; returns 0 to go on, anything else to stop.
 *
 * It runs on the thread of the call, inside of it: it may ask other handles anything, and must not use the ones of this
 * call, nor others of the same running machine, nor leave by longjmp or an exception. phase names the step of the work, and is good until the callback returns.
 * done and total compare only with each other. A call that was stopped returns -ECANCELED and has changed nothing;
 * once a change of an image is being committed, the answer is ignored. A backup or a prune that has begun with its disks returns
 * their rows instead: those that were done before, and the stopped one with -ECANCELED.
 */
typedef int (*checkmap_progress_fn)(void *user_data, const char *phase, uint64_t done, uint64_t total);

/**
 * Options of the calls that can take long; begin with CHECKMAP_OPTS_INIT. Wherever one is asked for, NULL stands for
 * the defaults. A call ignores the members that mean nothing to it.
 *
 * The struct can grow. size tells which members the caller knows: one that is smaller than the first version of the
 * struct is -EINVAL; a larger one is fine as long as what this library does not know is zero, else -E2BIG.
 */
typedef struct checkmap_opts {
    /** sizeof(struct checkmap_opts) */
    uint32_t size;
    /**
     * How many threads may be used; 0 and 1 both mean the caller's alone. At most 1024, else -EINVAL. None of them runs
     * after the call has returned. Calls on an image do not read it: see checkmap_image_set_threads().
     */
    uint32_t threads;
    /**
     * The most memory a merge of segments takes, in bytes; 0 is the default of 64 MiB. A diff holds bitmaps of as many
     * bytes at once, beside its result and the one that is being read: a larger span is united in several passes.
     */
    uint64_t memory_bytes;
    /** Told how far the call has come, and asked whether to go on; or NULL. */
    checkmap_progress_fn progress;
    /** Handed to progress. */
    void *user_data;
    /** CHECKMAP_OPT_...; an unknown one is -EINVAL. */
    uint32_t flags;
    /**
     * The CHECKMAP_MODEL_... to insist on where the image's own is unknown, or has checkpoints of both; 0, INTERVAL or
     * CUMULATIVE. With 0 a name picks the chain that has it, and one in both is -EPROTO.
     */
    uint32_t model;
} checkmap_opts;

/** A SHA-256. Frozen. */
typedef struct checkmap_sha256 {
    /** Its bytes, in the order of its digits. */
    uint8_t bytes[32];
} checkmap_sha256;

/** One finding of a check. Frozen. The texts live as long as the report. */
typedef struct checkmap_problem {
    /** The structure that is wrong, in UTF-8. */
    const char *structure;
    /** The fault, in UTF-8. */
    const char *message;
    /** Where it is in the file, in bytes; -1 where that cannot be said. */
    int64_t offset;
    /** CHECKMAP_SEVERITY_... */
    uint32_t severity;
    /** 0. */
    uint32_t reserved;
} checkmap_problem;

/**
 * What an image is; begin with CHECKMAP_IMAGE_INFO_INIT. It can grow, see checkmap_opts. The texts live until a call
 * that changes the image succeeds, or its end, and may be passed to that call.
 */
typedef struct checkmap_image_info {
    /** sizeof(struct checkmap_image_info) */
    uint32_t size;
    /** The version of the format. */
    uint32_t format_version;
    /** The name of the format, such as "qcow2". */
    const char *format;
    /** The size of the virtual disk in bytes. */
    uint64_t disk_size;
    /** The unit in which the image allocates room, in bytes. */
    uint64_t cluster_size;
    /** The granularity of a new bitmap where nothing else says one; 0 where the image can have none. */
    uint64_t default_granularity;
    /** The name of the backing file as it is stored, without a NUL behind it; NULL if there is none. */
    const char *backing_file;
    /** The bytes of that name. */
    size_t backing_file_len;
    /** The name of the external data file as it is stored, without a NUL behind it; NULL if there is none. */
    const char *data_file;
    /** The bytes of that name. */
    size_t data_file_len;
    /** CHECKMAP_MODEL_... */
    uint32_t model;
    /** CHECKMAP_IMAGE_... */
    uint32_t flags;
} checkmap_image_info;

/** A point in time. Frozen. */
typedef struct checkmap_checkpoint {
    /** The name: name_len bytes, not necessarily UTF-8, without a NUL behind them. */
    const char *name;
    /** The bytes of the name. */
    size_t name_len;
    /** The checkpoint before this one; NULL where there is none, or where nothing stores it. */
    const char *parent;
    /** The bytes of the parent's name. */
    size_t parent_len;
    /** The bytes that one bit stands for. */
    uint64_t granularity;
    /** How many bytes are dirty in the bitmap that begins here; -1 is unknown. */
    int64_t dirty_bytes;
    /** CHECKMAP_CHECKPOINT_... */
    uint32_t flags;
    /** 0. */
    uint32_t reserved;
    /** 0. */
    uint64_t reserved2[4];
} checkmap_checkpoint;

/** A bitmap as it is stored in an image, whatever it belongs to. Frozen. */
typedef struct checkmap_stored {
    /** The name: name_len bytes, not necessarily UTF-8, without a NUL behind them. */
    const char *name;
    /** The bytes of the name. */
    size_t name_len;
    /** The bytes that one bit stands for. */
    uint64_t granularity;
    /** CHECKMAP_CHECKPOINT_... */
    uint32_t flags;
    /** 0. */
    uint32_t reserved;
    /** 0. */
    uint64_t reserved2[4];
} checkmap_stored;

/** What a stored bitmap amounts to; -1 is unknown. Frozen. */
typedef struct checkmap_summary {
    /** The sum of its dirty extents, in bytes. */
    int64_t dirty_bytes;
    /** The number of its dirty extents. */
    int64_t dirty_extents;
    /** The bytes that it takes in the image. */
    int64_t stored_bytes;
    /** 0. */
    int64_t reserved;
} checkmap_summary;

/**
 * How a running hypervisor is worked with; begin with CHECKMAP_QMP_OPTS_INIT. NULL stands for the defaults. It can grow,
 * see checkmap_opts.
 */
typedef struct checkmap_qmp_opts {
    /** sizeof(struct checkmap_qmp_opts) */
    uint32_t size;
    /**
     * How long to wait for a monitor that says nothing, as another client has it, for each answer of an NBD server, and for
     * another client of checkmap at work, in milliseconds; 0 is 30 seconds.
     */
    uint32_t timeout_ms;
    /**
     * A change that is expected to stop the disks of the machine for longer than these milliseconds is -EBUSY; 0 is no
     * limit.
     */
    uint64_t max_stall_ms;
    /**
     * The Unix socket of the NBD server that runs in the hypervisor already; NULL where none runs: one is started for as
     * long as a diff needs it.
     */
    const char *nbd_socket;
    /** The bytes of that path. */
    size_t nbd_socket_len;
    /** Told of the opening, and asked whether to go on; or NULL. The images take that of checkmap_opts. */
    checkmap_progress_fn progress;
    /** Handed to progress. */
    void *user_data;
} checkmap_qmp_opts;

/** A disk of a running hypervisor. Frozen. */
typedef struct checkmap_disk {
    /** The name of its device, or of its node where there is no device: UTF-8 without a NUL behind it. */
    const char *title;
    /** The bytes of that name. */
    size_t title_len;
    /** The name of the block node at its top, without a NUL behind it. */
    const char *node;
    /** The bytes of that name. */
    size_t node_len;
    /** The file of that node, as the hypervisor names it, without a NUL behind it. */
    const char *file;
    /** The bytes of that name. */
    size_t file_len;
    /** Its size in bytes. */
    uint64_t disk_size;
    /** CHECKMAP_DISK_... */
    uint32_t flags;
    /** 0. */
    uint32_t reserved;
    /** 0. */
    uint64_t reserved2[4];
} checkmap_disk;

/** What to plan; begin with CHECKMAP_PLAN_REQUEST_INIT. It can grow, see checkmap_opts. */
typedef struct checkmap_plan_request {
    /** sizeof(struct checkmap_plan_request) */
    uint32_t size;
    /** CHECKMAP_PLAN_... */
    uint32_t verb;
    /** The names of the disk's block nodes in UTF-8, the top one first. */
    const char *const *nodes;
    /** The bytes of each of these names. */
    const size_t *node_lens;
    /** The number of the nodes. */
    size_t node_count;
    /** The checkpoint or the bitmap that the verb is about. */
    const char *name;
    /** The bytes of that name. */
    size_t name_len;
    /** The second checkpoint, or the new name; NULL for none. */
    const char *other;
    /** The bytes of that name. */
    size_t other_len;
    /** The checkpoints to delete, or the bitmaps to merge. */
    const char *const *names;
    /** The bytes of each of these names. */
    const size_t *name_lens;
    /** The number of these names. */
    size_t name_count;
    /** What the exports of a diff and their nodes are called, in UTF-8. */
    const char *export_name;
    /** The bytes of that name. */
    size_t export_name_len;
    /** The granularity of a new bitmap in bytes; 0 is the default. */
    uint64_t granularity;
    /** The CHECKMAP_MODEL_... to insist on, as that of checkmap_opts. */
    uint32_t model;
    /** 0, or CHECKMAP_OPT_FORCE_INCONSISTENT. */
    uint32_t flags;
} checkmap_plan_request;

/** A moment of a disk in a backup directory. Frozen. */
typedef struct checkmap_moment {
    /** The name of the disk in the directory: any bytes, without a NUL behind them. */
    const char *disk;
    /** The bytes of that name. */
    size_t disk_len;
    /** The image by which the directory knows the disk, in lists of a directory; else NULL. It can have got overlays since. */
    const char *image;
    /** The bytes of that path. */
    size_t image_len;
    /** The checkpoint of the moment, without a NUL behind it; NULL where there is no moment. */
    const char *checkpoint;
    /** The bytes of that name. */
    size_t checkpoint_len;
    /** Why the backup is full, in UTF-8 without a NUL behind it; NULL where it is the first one, was folded, or is not full. */
    const char *reason;
    /** The bytes of that text. */
    size_t reason_len;
    /** The size of the disk at the moment, in bytes. */
    uint64_t disk_size;
    /** The moment, in seconds since 1970. */
    uint64_t time;
    /** How many bytes of data the backup's file holds. */
    uint64_t data_bytes;
    /** How many bytes it stores as zeros without data. */
    uint64_t zero_bytes;
    /** The bytes of the file. */
    uint64_t file_bytes;
    /** CHECKMAP_MOMENT_... */
    uint32_t flags;
    /** 0. */
    uint32_t reserved;
    /** 0. */
    uint64_t reserved2[4];
} checkmap_moment;

/** A text, a name or a path. Frozen. */
typedef struct checkmap_text {
    /** Its bytes, not necessarily UTF-8, without a NUL behind them. */
    const char *bytes;
    /** How many there are. */
    size_t len;
} checkmap_text;

/** A disk that is to be backed up. Frozen. */
typedef struct checkmap_backup_source {
    /** The path of its image; of a running machine the name of a node, of a device or its id, or the file of an image, in UTF-8. */
    const char *disk;
    /** The bytes of that text. */
    size_t disk_len;
    /**
     * Its name in the directory, any bytes; NULL for the name by which the directory knows the disk of a running machine already,
     * or else that of the file.
     */
    const char *name;
    /** The bytes of that name. */
    size_t name_len;
} checkmap_backup_source;

/**
 * Told at once what a user should know, in a sentence of UTF-8 that is good until the callback returns.
 *
 * It runs on the thread of the call, inside of it, under the rules of checkmap_progress_fn.
 */
typedef void (*checkmap_say_fn)(void *user_data, const char *sentence, size_t len);

/** How a backup is taken; begin with CHECKMAP_BACKUP_OPTS_INIT. NULL stands for the defaults. It can grow, see checkmap_opts. */
typedef struct checkmap_backup_opts {
    /** sizeof(struct checkmap_backup_opts) */
    uint32_t size;
    /** How many threads may be used, as that of checkmap_opts; from 2 on a disk is read on one while another writes. */
    uint32_t threads;
    /** CHECKMAP_BACKUP_...; an unknown one is -EINVAL. */
    uint32_t flags;
    /** How many checkpoints of the directory stay on each disk, the new one among them; 0 is 1. */
    uint32_t keep_checkpoints;
    /**
     * The name of the moment, which is that of the checkpoint on every disk; NULL for one from the clock, in UTC, such as
     * 20261126T020000Z.
     */
    const char *checkpoint;
    /** The bytes of that name. */
    size_t checkpoint_len;
    /** The file with the passphrase of encrypted layers of images; NULL for none. */
    const char *secret_file;
    /** The bytes of that path. */
    size_t secret_file_len;
    /** The folder for scratch images of running disks; NULL for TMPDIR, or /var/tmp. */
    const char *scratch;
    /** The bytes of that path. */
    size_t scratch_len;
    /** How many bytes the scratch images of all disks may take together; 0 is half of the free room of their folder. */
    uint64_t scratch_max_bytes;
    /** Told what a user should know while a running machine is backed up, such as a pause or a scratch that is nearly full; or NULL. */
    checkmap_say_fn say;
    /** Told how far the call has come, and asked whether to go on; or NULL. */
    checkmap_progress_fn progress;
    /** Handed to say and progress. */
    void *user_data;
} checkmap_backup_opts;

/** What to restore; begin with CHECKMAP_RESTORE_REQUEST_INIT. It can grow, see checkmap_opts. */
typedef struct checkmap_restore_request {
    /** sizeof(struct checkmap_restore_request) */
    uint32_t size;
    /** CHECKMAP_RESTORE_...; an unknown one is -EINVAL. */
    uint32_t flags;
    /** The name of the disk in the directory. */
    const char *disk;
    /** The bytes of that name. */
    size_t disk_len;
    /** The checkpoint of the moment; NULL for the newest moment of the disk. */
    const char *checkpoint;
    /** The bytes of that name. */
    size_t checkpoint_len;
    /** The path of the new file, of one that may be replaced, or of a block device. */
    const char *target;
    /** The bytes of that path. */
    size_t target_len;
} checkmap_restore_request;

/**
 * Which moments a prune keeps: those that any rule keeps, and the newest one of each disk. Begin with CHECKMAP_KEEP_INIT. It can
 * grow, see checkmap_opts.
 */
typedef struct checkmap_keep {
    /** sizeof(struct checkmap_keep) */
    uint32_t size;
    /** CHECKMAP_KEEP_...; an unknown one is -EINVAL. */
    uint32_t flags;
    /** How many of the newest moments of each disk are kept; 0 is no such rule. */
    uint64_t last;
    /** The moments that are no older than these seconds are kept; 0 is no such rule. */
    uint64_t within_seconds;
} checkmap_keep;

/** What a backup of a disk since a checkpoint has to read. Frozen. */
typedef struct checkmap_planned {
    /** CHECKMAP_TIER_... */
    uint32_t tier;
    /** 0. */
    uint32_t reserved;
    /** How many bytes changed; -1 where that cannot be told. */
    int64_t changed_bytes;
    /** How many bytes are allocated; -1 where that cannot be told. */
    int64_t allocated_bytes;
    /** The size of the disk in bytes. */
    uint64_t disk_size;
    /** 0. */
    uint64_t reserved2[4];
} checkmap_planned;

/** A checkpoint as libvirt notes it. Frozen. */
typedef struct checkmap_noted {
    /** Its name: name_len bytes, without a NUL behind them. */
    const char *name;
    /** The bytes of the name. */
    size_t name_len;
    /** The name of the checkpoint before it; NULL where there is none. */
    const char *parent;
    /** The bytes of that name. */
    size_t parent_len;
    /** When it was made, in seconds since 1970; -1 where nobody noted it. */
    int64_t time;
    /** On how many disks of the domain it has a bitmap. */
    uint64_t disk_count;
    /** 0. */
    uint64_t reserved[4];
} checkmap_noted;

/** A disagreement. Frozen. The texts have no NUL behind them, and are UTF-8 but for the name. */
typedef struct checkmap_finding {
    /** Its kind in lower-case words with hyphens, such as bitmap-without-metadata. */
    const char *kind;
    /** The bytes of that text. */
    size_t kind_len;
    /** The disk; NULL where it is of no single one. */
    const char *disk;
    /** The bytes of that text. */
    size_t disk_len;
    /** The bitmap or checkpoint; NULL where it is of no single one. */
    const char *name;
    /** The bytes of that text. */
    size_t name_len;
    /** The fault, in a sentence. */
    const char *message;
    /** The bytes of that text. */
    size_t message_len;
    /** The price of leaving it so. */
    const char *cost;
    /** The bytes of that text. */
    size_t cost_len;
    /** The mend that is among the steps; NULL where a person has to decide. */
    const char *mend;
    /** The bytes of that text. */
    size_t mend_len;
    /** CHECKMAP_FINDING_... */
    uint32_t flags;
    /** 0. */
    uint32_t reserved;
    /** 0. */
    uint64_t reserved2[4];
} checkmap_finding;

/** What a segment holds, and what it takes; begin with CHECKMAP_SEGMENT_INFO_INIT. It can grow, see checkmap_opts. */
typedef struct checkmap_segment_info {
    /** sizeof(struct checkmap_segment_info) */
    uint32_t size;
    /** 0. */
    uint32_t reserved;
    /** The size of the disk in bytes. */
    uint64_t disk_size;
    /** The bytes that one bit stands for. */
    uint64_t granularity;
    /** The dirty granules. */
    uint64_t dirty_granules;
    /** The dirty extents of the whole disk. */
    uint64_t extents;
    /** The chunks of 65536 granules that have dirty ones. */
    uint64_t chunks;
    /** The entries of the directory. */
    uint64_t entries;
    /** The length of the file in bytes. */
    uint64_t file_bytes;
} checkmap_segment_info;

#ifdef __cplusplus
extern "C" {
#endif

/**
 * The version of the library, such as "0.1.0".
 *
 * Returns: a text that ends with NUL.
 *
 * Ownership: the text lives as long as the library.
 */
const char *checkmap_version(void);

/**
 * The number of the library's ABI.
 *
 * Returns: a number that is not smaller than CHECKMAP_ABI_VERSION of the header that the program was compiled with,
 * else the library is too old for the program.
 */
uint32_t checkmap_abi_version(void);

/**
 * The message of the last error of this thread, in UTF-8.
 *
 * Its form: file: structure, offset: fault (advice): cause. A call that succeeds leaves it as it is.
 *
 * Returns: the text, never NULL; "no error" before the first error.
 *
 * Ownership: the text is the library's, and good until the next call that fails in this thread: copy it at once, above
 * all where a coroutine may go on in another thread.
 */
const char *checkmap_last_error(void);

/**
 * The message of the last error of this thread, with a mark in the place of each call and option that it names.
 *
 * It is for programs and other languages that have words of their own for them. A mark is the byte 0x1e, a name, the
 * byte 0x1f, what checkmap_last_error() has in this place, and the byte 0x1e again. The names are OPEN_FOR_NAMES,
 * NO_LOCK, TOP_LAYER_ONLY, FORCE_INCONSISTENT, DELETE_INCONSISTENT, DROP_BEFORE, DROP_BITMAP, DROP_ALL, FOREIGN_TOO,
 * MODEL, UNTIL, CHECK, LIST, CREATE, NBD_SOCKET, MAX_STALL, JOURNAL, RECOVER and FORGET_STEP; one may be followed by = and
 * what to call it with, as in MODEL=interval. More can come, so take the second part for a name that is unknown.
 *
 * Returns: the text, never NULL; "no error" before the first error.
 *
 * Ownership: the text is the library's, and good until the next call that fails in this thread.
 */
const char *checkmap_last_error_marked(void);

/**
 * The kind of the last error of this thread.
 *
 * Returns: one of CHECKMAP_ERROR_...; 0 before the first error.
 */
uint32_t checkmap_last_error_kind(void);

/**
 * The errno of the last error of this thread, for the calls that cannot return one, such as checkmap_bitmap_size().
 *
 * Returns: a positive errno; 0 before the first error.
 */
int checkmap_last_error_errno(void);

/**
 * The name of a kind of error, such as "CHECKMAP_ERROR_DAMAGED".
 *
 * Returns: the name; NULL for a number that is no kind.
 *
 * Ownership: the text lives as long as the library.
 */
const char *checkmap_error_name(uint32_t kind);

/**
 * The errno that a kind of error has where the system gave none.
 *
 * Returns: a positive errno; 0 for a number that is no kind.
 */
int checkmap_error_errno(uint32_t kind);

/**
 * Makes a bitmap of a disk of disk_size bytes, all clean.
 *
 * granularity, the bytes that one bit stands for, is a power of two from 1 to 2^31; the size is 0 to 2^63-1, and not
 * more than 2^41 granules.
 *
 * Errors:
 * - -EINVAL: a size or a granularity out of these bounds.
 */
int checkmap_bitmap_new(uint64_t disk_size,
                        uint64_t granularity,
                        struct checkmap_bitmap **out);

/**
 * Frees a bitmap, a poisoned one too.
 *
 * NULL is fine.
 */
void checkmap_bitmap_free(struct checkmap_bitmap *bitmap);

/** Makes a copy of a bitmap. */
int checkmap_bitmap_clone(const struct checkmap_bitmap *bitmap, struct checkmap_bitmap **out);

/**
 * Marks every granule that the range touches: it rounds outward.
 *
 * A length of 0 does nothing, CHECKMAP_TO_END is up to the end of the disk. On error nothing is marked.
 *
 * Errors:
 * - -ERANGE: the range ends past the last granule of the disk.
 */
int checkmap_bitmap_set(struct checkmap_bitmap *bitmap, uint64_t offset, uint64_t length);

/**
 * Makes the range clean, and never a byte outside of it.
 *
 * So the offset must be a multiple of the granularity, and the end too unless it is the end of the disk. A length of 0
 * does nothing, CHECKMAP_TO_END is up to the end of the disk. On error nothing is cleaned.
 *
 * Errors:
 * - -EINVAL: the offset or the end of the range is inside of a granule.
 * - -ERANGE: the range ends past the last granule of the disk.
 */
int checkmap_bitmap_clear(struct checkmap_bitmap *bitmap,
                          uint64_t offset,
                          uint64_t length);

/** Marks the whole disk; takes the same little time and memory for every size. */
int checkmap_bitmap_set_all(struct checkmap_bitmap *bitmap);

/** Makes the whole disk clean. */
int checkmap_bitmap_clear_all(struct checkmap_bitmap *bitmap);

/**
 * Changes the size of the disk, as QEMU's truncate does.
 *
 * disk_size is in bytes. Granules that lie wholly past the new end are dropped, new ones are clean, and a granule that
 * was partial keeps its bit, which now speaks for all of its bytes. On error nothing changes.
 *
 * Errors:
 * - -EINVAL: a size that checkmap_bitmap_new() would refuse.
 */
int checkmap_bitmap_resize(struct checkmap_bitmap *bitmap,
                           uint64_t disk_size);

/**
 * Takes the smallest form for every part of the bitmap, and no more memory than that needs.
 *
 * Marks keep the form that a part has, and room for more. What other calls return is in its smallest form already.
 */
int checkmap_bitmap_optimize(struct checkmap_bitmap *bitmap);

/**
 * Whether the granule that holds the byte at offset is dirty.
 *
 * Returns: 0 or 1; or a negative errno.
 *
 * Errors:
 * - -ERANGE: an offset past the last granule of the disk.
 */
int checkmap_bitmap_get(const struct checkmap_bitmap *bitmap, uint64_t offset);

/**
 * The size of the disk in bytes.
 *
 * Returns: a number of bytes; 0 on error.
 */
uint64_t checkmap_bitmap_size(const struct checkmap_bitmap *bitmap);

/**
 * The bytes that one bit stands for.
 *
 * Returns: a number of bytes; 0 on error.
 */
uint64_t checkmap_bitmap_granularity(const struct checkmap_bitmap *bitmap);

/**
 * The number of granules of the disk.
 *
 * Returns: a number from 0 to 2^41; or a negative errno.
 */
int64_t checkmap_bitmap_granules(const struct checkmap_bitmap *bitmap);

/**
 * The number of dirty granules, which is kept at all times.
 *
 * Returns: a number of granules; or a negative errno.
 */
int64_t checkmap_bitmap_count(const struct checkmap_bitmap *bitmap);

/**
 * The number of dirty granules that touch the range.
 *
 * The range is cut at the end of the disk; CHECKMAP_TO_END is up to there.
 *
 * Returns: a number of granules; or a negative errno.
 */
int64_t checkmap_bitmap_count_range(const struct checkmap_bitmap *bitmap, uint64_t offset, uint64_t length);

/**
 * The number of dirty bytes: the sum of all extents, never above the size of the disk.
 *
 * Returns: a number of bytes; or a negative errno.
 */
int64_t checkmap_bitmap_dirty_bytes(const struct checkmap_bitmap *bitmap);

/**
 * The number of dirty extents of the whole disk; counted, not walked.
 *
 * Returns: a number of extents; or a negative errno.
 */
int64_t checkmap_bitmap_count_extents(const struct checkmap_bitmap *bitmap);

/**
 * Whether no granule is dirty.
 *
 * Returns: 0 or 1; or a negative errno.
 */
int checkmap_bitmap_is_empty(const struct checkmap_bitmap *bitmap);

/**
 * The bytes that the bitmap takes on the heap.
 *
 * Returns: a number of bytes; or a negative errno.
 */
int64_t checkmap_bitmap_heap_bytes(const struct checkmap_bitmap *bitmap);

/**
 * Checks every rule inside of the bitmap, for tests.
 *
 * Errors:
 * - -EBADMSG: a rule does not hold.
 */
int checkmap_bitmap_validate(const struct checkmap_bitmap *bitmap);

/**
 * The first dirty byte of the range, which is cut at the end of the disk.
 *
 * If the granule that holds offset is dirty, the answer is offset itself, as in QEMU.
 *
 * Returns: an offset in bytes; -1 if there is none; or another negative errno.
 */
int64_t checkmap_bitmap_next_dirty(const struct checkmap_bitmap *bitmap, uint64_t offset, uint64_t length);

/**
 * The first clean byte of the range, which is cut at the end of the disk.
 *
 * Returns: an offset in bytes; -1 if there is none; or another negative errno.
 */
int64_t checkmap_bitmap_next_clean(const struct checkmap_bitmap *bitmap, uint64_t offset, uint64_t length);

/**
 * The last dirty byte of the range, which is cut at the end of the disk.
 *
 * Returns: an offset in bytes; -1 if there is none; or another negative errno.
 */
int64_t checkmap_bitmap_previous_dirty(const struct checkmap_bitmap *bitmap,
                                       uint64_t offset,
                                       uint64_t length);

/**
 * The last clean byte of the range, which is cut at the end of the disk.
 *
 * Returns: an offset in bytes; -1 if there is none; or another negative errno.
 */
int64_t checkmap_bitmap_previous_clean(const struct checkmap_bitmap *bitmap,
                                       uint64_t offset,
                                       uint64_t length);

/**
 * The number of dirty granules before the one that holds the byte at offset; at the end of the disk and past it, all.
 *
 * Returns: a number of granules; or a negative errno.
 */
int64_t checkmap_bitmap_rank(const struct checkmap_bitmap *bitmap,
                             uint64_t offset);

/**
 * Where the dirty granule of this number begins, counted from 0.
 *
 * Returns: an offset in bytes; -1 if fewer granules are dirty; or another negative errno.
 */
int64_t checkmap_bitmap_select(const struct checkmap_bitmap *bitmap, uint64_t number);

/**
 * Fills out with the dirty extents of the range, in ascending order.
 *
 * The range is cut at the end of the disk, the extents at the edges of the range, to the byte; two of them never touch.
 * To go on, ask again from the end of the last extent.
 *
 * Returns: how many extents were written; fewer than max is all; or a negative errno.
 *
 * Errors:
 * - -EINVAL: a max of 0, or an out that is NULL or misaligned.
 */
int64_t checkmap_bitmap_extents(const struct checkmap_bitmap *bitmap,
                                uint64_t offset,
                                uint64_t length,
                                struct checkmap_extent *out,
                                size_t max);

/**
 * Makes dst the union of itself and the n bitmaps of src, at its own granularity, rounded outward.
 *
 * dst may be among the sources. With n 0 nothing happens. On error nothing changes.
 *
 * Errors:
 * - -EINVAL: disks of different size.
 */
int checkmap_bitmap_union(struct checkmap_bitmap *dst, const struct checkmap_bitmap *const *src, size_t n);

/**
 * checkmap_bitmap_union() with options.
 *
 * Options: threads, progress.
 *
 * Errors:
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_bitmap_union()
 */
int checkmap_bitmap_union_with(struct checkmap_bitmap *dst,
                               const struct checkmap_bitmap *const *src,
                               size_t n,
                               const struct checkmap_opts *opts);

/**
 * Makes a new bitmap of all that is dirty in any of the n bitmaps of src, at granularity, rounded outward.
 *
 * A granularity of 0 is the finest of theirs. All are read in one pass, however many they are.
 *
 * Errors:
 * - -EINVAL: disks of different size, an n of 0, or a granularity at which the disk has more than 2^41 granules.
 */
int checkmap_bitmap_union_new(const struct checkmap_bitmap *const *src,
                              size_t n,
                              uint64_t granularity,
                              struct checkmap_bitmap **out);

/**
 * checkmap_bitmap_union_new() with options.
 *
 * Options: threads, progress.
 *
 * Errors:
 * - -ECANCELED: the call was stopped.
 * - as checkmap_bitmap_union_new()
 */
int checkmap_bitmap_union_new_with(const struct checkmap_bitmap *const *src,
                                   size_t n,
                                   uint64_t granularity,
                                   const struct checkmap_opts *opts,
                                   struct checkmap_bitmap **out);

/**
 * Keeps in dst only granules that are dirty in src too; a coarser or finer src rounds outward.
 *
 * On error nothing changes.
 *
 * Errors:
 * - -EINVAL: disks of different size.
 */
int checkmap_bitmap_intersect(struct checkmap_bitmap *dst, const struct checkmap_bitmap *src);

/**
 * checkmap_bitmap_intersect() with options.
 *
 * Options: threads, progress.
 *
 * Errors:
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_bitmap_intersect()
 */
int checkmap_bitmap_intersect_with(struct checkmap_bitmap *dst,
                                   const struct checkmap_bitmap *src,
                                   const struct checkmap_opts *opts);

/**
 * Removes from dst the granules that are dirty in src; a granule goes only where src covers all of it.
 *
 * On error nothing changes.
 *
 * Errors:
 * - -EINVAL: disks of different size.
 */
int checkmap_bitmap_subtract(struct checkmap_bitmap *dst, const struct checkmap_bitmap *src);

/**
 * checkmap_bitmap_subtract() with options.
 *
 * Options: threads, progress.
 *
 * Errors:
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_bitmap_subtract()
 */
int checkmap_bitmap_subtract_with(struct checkmap_bitmap *dst,
                                  const struct checkmap_bitmap *src,
                                  const struct checkmap_opts *opts);

/**
 * Leaves in dst the granules that are dirty in one of the two only.
 *
 * On error nothing changes.
 *
 * Errors:
 * - -EINVAL: disks of different size, or bitmaps of different granularity.
 */
int checkmap_bitmap_xor(struct checkmap_bitmap *dst, const struct checkmap_bitmap *src);

/**
 * checkmap_bitmap_xor() with options.
 *
 * Options: threads, progress.
 *
 * Errors:
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_bitmap_xor()
 */
int checkmap_bitmap_xor_with(struct checkmap_bitmap *dst,
                             const struct checkmap_bitmap *src,
                             const struct checkmap_opts *opts);

/**
 * Makes the clean granules of the disk dirty, and the dirty ones clean.
 *
 * On error nothing changes.
 */
int checkmap_bitmap_complement(struct checkmap_bitmap *bitmap);

/**
 * Whether two bitmaps have the same size, the same granularity and the same dirty granules.
 *
 * Returns: 0 or 1; or a negative errno.
 */
int checkmap_bitmap_equal(const struct checkmap_bitmap *a, const struct checkmap_bitmap *b);

/**
 * Whether every dirty byte of a is dirty in b.
 *
 * Returns: 0 or 1; or a negative errno.
 *
 * Errors:
 * - -EINVAL: disks of different size.
 */
int checkmap_bitmap_is_subset(const struct checkmap_bitmap *a, const struct checkmap_bitmap *b);

/**
 * Makes a bitmap of another granularity, rounded outward: every dirty byte stays dirty.
 *
 * Going coarser and back gives more than there was.
 *
 * Errors:
 * - -EINVAL: no power of two from 1 to 2^31, or a granularity at which the disk has more than 2^41 granules.
 */
int checkmap_bitmap_to_granularity(const struct checkmap_bitmap *bitmap,
                                   uint64_t granularity,
                                   struct checkmap_bitmap **out);

/**
 * Writes the bits of the granules that the range touches; with out NULL it only tells how many bytes they take.
 *
 * Bit n, in byte n/8, counted from the least significant bit, is granule n after offset; bits that stand for no
 * granule of the range are 0. The range is cut at the end of the disk.
 *
 * Returns: how many bytes they take; or a negative errno.
 *
 * Errors:
 * - -EINVAL: an offset that is no multiple of 8 granules.
 * - -ERANGE: a cap that is too small.
 */
int64_t checkmap_bitmap_to_bits(const struct checkmap_bitmap *bitmap,
                                uint64_t offset,
                                uint64_t length,
                                uint8_t *out,
                                size_t cap);

/**
 * Replaces the granules from offset on, as many as bits has bits, in the order of checkmap_bitmap_to_bits().
 *
 * Bits past the last granule of the disk are ignored.
 *
 * Errors:
 * - -EINVAL: an offset that is no multiple of 8 granules.
 * - -ERANGE: an offset past the end of the disk.
 */
int checkmap_bitmap_from_bits(struct checkmap_bitmap *bitmap,
                              uint64_t offset,
                              const uint8_t *bits,
                              size_t len);

/**
 * Computes the SHA-256 of the bits, as QEMU does for x-debug-block-dirty-bitmap-sha256; zeros on error.
 *
 * It is that of the bits in the order of checkmap_bitmap_to_bits(), in zeros up to a multiple of 8 bytes, and 8 bytes at least. Size
 * and granularity of the disk are not part of it.
 */
int checkmap_bitmap_sha256(const struct checkmap_bitmap *bitmap,
                           struct checkmap_sha256 *out);

/**
 * Writes the bitmap as portable 64-bit Roaring, its values being granules; with out NULL it only tells how many bytes
 * it takes.
 *
 * Size and granularity of the disk are not part of it.
 *
 * Returns: how many bytes it takes; or a negative errno.
 *
 * Errors:
 * - -ERANGE: a cap that is too small.
 */
int64_t checkmap_bitmap_serialize(const struct checkmap_bitmap *bitmap,
                                  uint8_t *out,
                                  size_t cap);

/**
 * Reads portable 64-bit Roaring, from wherever it comes, as a bitmap of a disk of this size and granularity.
 *
 * The memory taken is at most a small multiple of len.
 *
 * Errors:
 * - -EBADMSG: what breaks the format, bytes left over, or a granule past the end of the disk.
 * - -EINVAL: a disk that checkmap_bitmap_new() would refuse.
 */
int checkmap_bitmap_deserialize(const uint8_t *bytes,
                                size_t len,
                                uint64_t disk_size,
                                uint64_t granularity,
                                struct checkmap_bitmap **out);

/**
 * Frees a report.
 *
 * NULL is fine.
 */
void checkmap_report_free(struct checkmap_report *report);

/**
 * How many rules are broken.
 *
 * Returns: a number of findings; or a negative errno.
 */
int64_t checkmap_report_errors(const struct checkmap_report *report);

/**
 * How many bitmaps, or all of them together, cannot be used for a backup.
 *
 * Returns: a number of findings; or a negative errno.
 */
int64_t checkmap_report_unusable(const struct checkmap_report *report);

/**
 * How many bytes are counted as used that nothing uses.
 *
 * Returns: a number of bytes; or a negative errno.
 */
int64_t checkmap_report_leaked_bytes(const struct checkmap_report *report);

/**
 * Fills out with the findings from number first on; with out NULL it only tells how many are kept.
 *
 * The first thousand are kept, while the counts of the other calls are complete.
 *
 * Returns: how many findings were written; fewer than max is all; with out NULL how many there are in all; or a
 * negative errno.
 *
 * Ownership: the texts live as long as the report.
 *
 * Errors:
 * - -EINVAL: a max of 0, or an out that is misaligned.
 */
int64_t checkmap_report_problems(const struct checkmap_report *report,
                                 size_t first,
                                 struct checkmap_problem *out,
                                 size_t max);

/**
 * Opens the image file or block device at path, whose format is told by its content.
 *
 * flags are CHECKMAP_OPEN_.... The path has path_len bytes and needs no NUL behind them. An image whose bitmaps
 * cannot be used still opens, see checkmap_image_trouble().
 *
 * Errors:
 * - -EBUSY: another process, or another handle of this one, has the image in use.
 * - -ENOLCK: the file system cannot lock. Only for writing; reading warns.
 * - -EROFS: the file system is for reading only, and CHECKMAP_OPEN_RDWR was asked for.
 * - -ENOTSUP: an unknown format, or a feature of it that is unknown.
 * - -EBADMSG: the image is damaged.
 * - -EINVAL: unknown flags, an empty path, or one with a NUL inside.
 * - -ENAMETOOLONG: a path that is too long.
 * - -ENOENT: no such file, with kind CHECKMAP_ERROR_IO.
 * - -EACCES: the file may not be opened; for CHECKMAP_OPEN_RDWR with kind CHECKMAP_ERROR_READ_ONLY.
 * - -EISDIR: a folder.
 * - what the system says, such as -EIO.
 */
int checkmap_image_open(const char *path,
                        size_t path_len,
                        uint32_t flags,
                        struct checkmap_image **out);

/**
 * Opens the image behind an open descriptor, which stays the caller's and may be closed at once.
 *
 * The descriptor can be read, and written for CHECKMAP_OPEN_RDWR; O_DIRECT does not matter. flags are
 * CHECKMAP_OPEN_.... The file is opened anew through /proc/self/fd, so the handle has locks of its own, which exclude
 * those of every other handle, and of the caller's descriptor too.
 *
 * Errors:
 * - -EROFS: a descriptor for reading only, and CHECKMAP_OPEN_RDWR was asked for.
 * - -EINVAL: a descriptor with O_APPEND or O_PATH, or one only for writing.
 * - -EBADF: no open descriptor.
 * - -ENOLCK: the file system cannot lock, or the file cannot be opened anew.
 * - as checkmap_image_open() without -ENAMETOOLONG, -ENOENT, -EROFS, -EINVAL, -ENOLCK
 */
int checkmap_image_open_fd(int fd,
                           uint32_t flags,
                           struct checkmap_image **out);

/**
 * Makes an image that was opened with CHECKMAP_OPEN_RDONLY one that can be changed as well.
 *
 * Nothing happens to one that can be already. The handle's locks keep every writer out the whole time, so a diff made
 * before is still true afterwards. On error the handle is what it was.
 *
 * Errors:
 * - -EBUSY: another reader has the image.
 * - -EROFS: the file system is for reading only, or the descriptor was.
 * - -EACCES: the file may not be written, with kind CHECKMAP_ERROR_READ_ONLY.
 * - -ENOLCK: the file system cannot lock.
 * - -EINVAL: an image that was opened with CHECKMAP_OPEN_FORCE_SHARE.
 * - -ESTALE: the image changed under a handle that holds no locks.
 * - what the system says, such as -EIO.
 */
int checkmap_image_upgrade(struct checkmap_image *image);

/**
 * Closes an image, a poisoned one too, and releases its locks.
 *
 * NULL is fine.
 */
void checkmap_image_close(struct checkmap_image *image);

/**
 * How many threads the calls on this image may use from now on where there is much to read, write or unite.
 *
 * 0, which an image begins with, and 1 both mean the caller's alone. None of them runs after the call that started them
 * has returned, and they block every signal but those of a fault.
 *
 * Errors:
 * - -EINVAL: more than 1024 threads.
 */
int checkmap_image_set_threads(struct checkmap_image *image,
                               uint32_t threads);

/**
 * Tells what an image is.
 *
 * Everything but info->size, which the caller sets, is zero on error.
 *
 * Ownership: the texts of info live until a call that changes the image succeeds, or its end, and may be passed to
 * that call.
 *
 * Errors:
 * - -ESTALE: the image changed under a handle that holds no locks.
 * - what the system says, such as -EIO.
 */
int checkmap_image_get_info(const struct checkmap_image *image,
                            struct checkmap_image_info *info);

/**
 * Why no bitmap of the image can be used: the error that a diff would give.
 *
 * Returns: 0 if they can be used; or a negative errno.
 *
 * Errors:
 * - -EUCLEAN: software that knows nothing of bitmaps wrote to the image.
 * - -EBADMSG: the bitmaps, or their directory, are damaged.
 * - -ENOTSUP: the image needs something of its format that is unknown.
 * - -ESTALE: the image changed under a handle that holds no locks.
 * - what the system says, such as -EIO.
 */
int checkmap_image_trouble(const struct checkmap_image *image);

/**
 * The number of warnings: of the opening, or of the last call that changed the image or tried to.
 *
 * Returns: a number of warnings; or a negative errno.
 */
int64_t checkmap_image_warnings(const struct checkmap_image *image);

/**
 * A warning, in UTF-8.
 *
 * Returns: the text; NULL where there is none with that index.
 *
 * Ownership: the text lives until a call that changes the image succeeds, or its end, and may be passed to that call.
 */
const char *checkmap_image_warning(const struct checkmap_image *image,
                                   size_t index);

/**
 * Verifies every structure and rule of the image, and changes nothing.
 *
 * Faults of the image stand in the report, and are no error.
 *
 * Options: progress.
 *
 * Errors:
 * - -ECANCELED: the call was stopped.
 * - -ESTALE: the image changed under a handle that holds no locks.
 * - what the system says, such as -EIO.
 */
int checkmap_image_check(const struct checkmap_image *image,
                         const struct checkmap_opts *opts,
                         struct checkmap_report **out);

/**
 * Creates a checkpoint of now, in one atomic step: the bitmap before it is frozen, a new one records.
 *
 * The name has 1 to 510 bytes without ->, which need not be UTF-8. granularity is in bytes; 0 is that of the newest
 * checkpoint, else the image's default. On every error but the one of kind CHECKMAP_ERROR_COMMIT_IN_DOUBT nothing
 * changed.
 *
 * Errors:
 * - -EEXIST: a checkpoint of this name is there already.
 * - -EINVAL: a name or a granularity that cannot be.
 * - -ENAMETOOLONG: a name of more than 510 bytes.
 * - -EUCLEAN: a bitmap of the chain is inconsistent, the image is marked dirty or corrupt, or software that knows
 *   nothing of bitmaps wrote to it.
 * - -EPROTO: the newest bitmap does not record, the names form no chain, or the model is unknown.
 * - -EROFS: the image was opened for reading.
 * - -ENOTSUP: the image cannot take it: a limit of its format, no room in its header, a version without bitmaps.
 * - -EBADMSG: the image is damaged.
 * - -ENOSPC: the disk that holds the image is full.
 * - -ESTALE: the image changed under a handle that holds no locks.
 * - -EBUSY: of a running hypervisor: another client of checkmap is at work, a bitmap that takes part is in use, or the step
 *   would stop the machine for longer than max_stall_ms.
 * - -EREMOTEIO: a running hypervisor refused a command, or the connection to it broke.
 * - -EIO: with kind CHECKMAP_ERROR_COMMIT_IN_DOUBT writing failed after the commit began: then the image holds the
 *   state before or the state after, whole.
 * - what the system says, such as -EIO with kind CHECKMAP_ERROR_IO.
 */
int checkmap_checkpoint_create(struct checkmap_image *image,
                               const char *name,
                               size_t len,
                               uint64_t granularity);

/**
 * checkmap_checkpoint_create() with options.
 *
 * Options: progress, model, DRY_RUN.
 *
 * Errors:
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_create()
 */
int checkmap_checkpoint_create_with(struct checkmap_image *image,
                                    const char *name,
                                    size_t len,
                                    uint64_t granularity,
                                    const struct checkmap_opts *opts);

/**
 * Deletes a checkpoint in one atomic step: the interval before it absorbs the one after it; the first one's is dropped.
 *
 * Where layers below the image know the checkpoint too, each of them changes in an atomic step of its own, after all of them were
 * opened for writing and tried: the answers of the disk stay right in between, and the same call finishes what a kill left. On
 * every error but the one of kind CHECKMAP_ERROR_COMMIT_IN_DOUBT nothing changed; after that one a part of the layers can
 * have changed, and the same call finishes it.
 *
 * Errors:
 * - -ENOENT: no checkpoint has this name.
 * - -EUCLEAN: a bitmap that takes part is inconsistent, the image is marked dirty or corrupt, or software that knows
 *   nothing of bitmaps wrote to it.
 * - -EPROTO: a layer below the image cannot be read, or not be changed together with it, the names form no chain, or the model is
 *   unknown.
 * - -EROFS: the image was opened for reading, or a layer that has to change cannot be written.
 * - -EBUSY: somebody else uses a layer that has to change; of a running hypervisor as checkmap_checkpoint_create().
 * - -EINVAL: a name that cannot be.
 * - as checkmap_checkpoint_create() without -EEXIST, -EINVAL, -EUCLEAN, -EPROTO, -EROFS, -EBUSY
 */
int checkmap_checkpoint_delete(struct checkmap_image *image,
                               const char *name,
                               size_t len);

/**
 * checkmap_checkpoint_delete() with options.
 *
 * Options: progress, model, TOP_LAYER_ONLY, FORCE_INCONSISTENT, DRY_RUN.
 *
 * Errors:
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_delete()
 */
int checkmap_checkpoint_delete_with(struct checkmap_image *image,
                                    const char *name,
                                    size_t len,
                                    const struct checkmap_opts *opts);

/**
 * Deletes every inconsistent checkpoint, and all that depend on them, in one atomic step; the next backup is full.
 *
 * Where nothing is inconsistent nothing happens. Layers below with an inconsistent bitmap change too, each in an atomic step of its
 * own, as for checkmap_checkpoint_delete(); what a layer below knows of a checkpoint stays.
 *
 * Options: progress, model, TOP_LAYER_ONLY, FORCE_INCONSISTENT, DRY_RUN.
 *
 * Errors:
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_delete() without -ENOENT, -EINVAL, -ENAMETOOLONG
 */
int checkmap_checkpoint_delete_inconsistent(struct checkmap_image *image,
                                            const struct checkmap_opts *opts);

/**
 * Makes a checkpoint the first one, in one atomic step: the bitmaps of all older ones are dropped, also those before
 * gaps.
 *
 * Options: progress, model, DRY_RUN.
 *
 * Errors:
 * - -EPROTO: cumulative checkpoints, several gaps that leave it open which checkpoints are older, names that form no
 *   chain, or an unknown model.
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_delete() without -EPROTO
 */
int checkmap_checkpoint_drop_before(struct checkmap_image *image,
                                    const char *name,
                                    size_t len,
                                    const struct checkmap_opts *opts);

/**
 * Renames a checkpoint in one atomic step.
 *
 * Where layers below the image know the checkpoint too, each of them changes as for checkmap_checkpoint_delete(): a diff since
 * either name is right in between.
 *
 * Errors:
 * - -EEXIST: a checkpoint of the new name is there already, or a layer below knows one.
 * - as checkmap_checkpoint_delete()
 */
int checkmap_checkpoint_rename(struct checkmap_image *image,
                               const char *name,
                               size_t len,
                               const char *to,
                               size_t to_len);

/**
 * checkmap_checkpoint_rename() with options.
 *
 * Options: progress, model, TOP_LAYER_ONLY, DRY_RUN.
 *
 * Errors:
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_rename()
 */
int checkmap_checkpoint_rename_with(struct checkmap_image *image,
                                    const char *name,
                                    size_t len,
                                    const char *to,
                                    size_t to_len,
                                    const struct checkmap_opts *opts);

/**
 * Fills out with the checkpoints, oldest first, max at most; with out NULL it only counts.
 *
 * To say how much is dirty it reads their bitmaps, once for all calls until the next change; what cannot be read is -1.
 * An image with cumulative checkpoints gives an order only as far as the bits tell one, or libvirt's notes after
 * checkmap_image_follow(), which give parents too. Where it has intervals and libvirt's cumulative checkpoints, these are the intervals; checkmap_checkpoint_list_with() lists the others.
 *
 * Returns: how many checkpoints there are in all; or a negative errno.
 *
 * Ownership: the names live until a call that changes the image succeeds, or its end, and may be passed to that call.
 *
 * Errors:
 * - -EPROTO: the names of the bitmaps form no chain.
 * - -EBADMSG: the bitmaps, or their directory, are damaged.
 * - -ENOTSUP: the image needs something of its format that is unknown.
 * - -ESTALE: the image changed under a handle that holds no locks.
 * - what the system says, such as -EIO.
 */
int64_t checkmap_checkpoint_list(const struct checkmap_image *image,
                                 struct checkmap_checkpoint *out,
                                 size_t max);

/**
 * checkmap_checkpoint_list() with options: of an image with intervals and libvirt's cumulative checkpoints, model says
 * which are listed.
 *
 * Options: progress, model.
 *
 * Returns: how many checkpoints there are in all; or a negative errno.
 *
 * Ownership: the names live until a call that changes the image succeeds, or its end, and may be passed to that call.
 *
 * Errors:
 * - -ECANCELED: the call was stopped.
 * - as checkmap_checkpoint_list()
 */
int64_t checkmap_checkpoint_list_with(const struct checkmap_image *image,
                                      const struct checkmap_opts *opts,
                                      struct checkmap_checkpoint *out,
                                      size_t max);

/**
 * Makes a bitmap of the blocks that changed since a checkpoint, until another one or, with until NULL, until now.
 *
 * It is never short: a gap in the knowledge is an error. A diff until now is that of the image as it is stored: a
 * running QEMU holds newer writes, but where it is asked itself, see checkmap_machine_image().
 *
 * Errors:
 * - -ENOENT: no checkpoint has this name, with kind CHECKMAP_ERROR_NOT_FOUND. A missing file has the same errno, and
 *   kind CHECKMAP_ERROR_IO.
 * - -EUCLEAN: a bitmap of the span is inconsistent, or software that knows nothing of bitmaps wrote to the image.
 * - -EBADMSG: a bitmap of the span is damaged.
 * - -EPROTO: a gap in the recording, a layer below that takes part or cannot be read, an until that is older, names
 *   that form no chain, or an unknown model.
 * - -ENOTSUP: a bitmap of the span is of an unknown type, or the image of a version without bitmaps.
 * - -EINVAL: a name that cannot be.
 * - -ENAMETOOLONG: a name of more than 510 bytes.
 * - -ESTALE: the image changed under a handle that holds no locks.
 * - -EBUSY: of a running hypervisor: another client of checkmap is at work, or a bitmap of the span is in use.
 * - -EREMOTEIO: a running hypervisor refused a command, or the connection to it broke.
 * - what the system says, such as -EIO.
 */
int checkmap_diff(const struct checkmap_image *image,
                  const char *since,
                  size_t since_len,
                  const char *until,
                  size_t until_len,
                  struct checkmap_bitmap **out);

/**
 * checkmap_diff() of a window of the disk, with options.
 *
 * Outside of the granules that offset and length touch the bitmap is clean; CHECKMAP_TO_END is up to the end of
 * the disk.
 *
 * Options: progress, memory_bytes, model, TOP_LAYER_ONLY.
 *
 * Errors:
 * - -ECANCELED: the call was stopped.
 * - as checkmap_diff()
 */
int checkmap_diff_with(const struct checkmap_image *image,
                       const char *since,
                       size_t since_len,
                       const char *until,
                       size_t until_len,
                       uint64_t offset,
                       uint64_t length,
                       const struct checkmap_opts *opts,
                       struct checkmap_bitmap **out);

/**
 * Lets base, a layer below top, take in the checkpoints and the bits of top and of all layers between them, in one
 * atomic step of that file: afterwards every diff of base contains that of top.
 *
 * It is called before or after the data of the layers are committed there, and can be called again: bits are only added. base
 * was opened for reading and writing, top may be open for reading. The layers above base are not changed. On every error
 * but the one of kind CHECKMAP_ERROR_COMMIT_IN_DOUBT nothing changed.
 *
 * Options: progress, DRY_RUN.
 *
 * Errors:
 * - -EINVAL: both are the same image.
 * - -EUCLEAN: a bitmap of a layer is inconsistent, base is marked dirty or corrupt, or software that knows nothing of
 *   bitmaps wrote to it.
 * - -EPROTO: base is no layer below top, a layer cannot be read, the checkpoints are cumulative, or the names would form no
 *   chain.
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_create() without -EEXIST, -EINVAL, -EUCLEAN, -EPROTO, -EREMOTEIO
 */
int checkmap_commit_bitmaps(const struct checkmap_image *top,
                            struct checkmap_image *base,
                            const struct checkmap_opts *opts);

/**
 * Fills out with the bitmaps in the order of the image, max at most; with out NULL it only counts.
 *
 * Returns: how many bitmaps there are in all; or a negative errno.
 *
 * Ownership: the names live until a call that changes the image succeeds, or its end, and may be passed to that call.
 *
 * Errors:
 * - -EBADMSG: the directory of the bitmaps is damaged.
 * - -ENOTSUP: the image needs something of its format that is unknown.
 * - -ESTALE: the image changed under a handle that holds no locks.
 * - what the system says, such as -EIO.
 */
int64_t checkmap_stored_list(const struct checkmap_image *image,
                             struct checkmap_stored *out,
                             size_t max);

/**
 * Reads a stored bitmap; outside of the granules that the window touches it is clean.
 *
 * CHECKMAP_TO_END as a length is up to the end of the disk.
 *
 * Errors:
 * - -ENOENT: no bitmap has this name.
 * - -EUCLEAN: the bitmap is inconsistent, or software that knows nothing of bitmaps wrote to the image.
 * - -ENOTSUP: the bitmap is of an unknown type.
 * - -EBADMSG: the bitmap is damaged.
 * - -EINVAL: a name that cannot be.
 * - -ENAMETOOLONG: a name that is longer than the format allows.
 * - -ESTALE: the image changed under a handle that holds no locks.
 * - what the system says, such as -EIO.
 */
int checkmap_stored_read(const struct checkmap_image *image,
                         const char *name,
                         size_t len,
                         uint64_t offset,
                         uint64_t length,
                         struct checkmap_bitmap **out);

/**
 * Tells what a stored bitmap amounts to; what cannot be known is -1, and so is everything on error.
 *
 * Errors:
 * - -ENOENT: no bitmap has this name.
 * - -EBADMSG: the bitmap is damaged.
 * - -EINVAL: a name that cannot be.
 * - -ENAMETOOLONG: a name that is longer than the format allows.
 * - -ESTALE: the image changed under a handle that holds no locks.
 * - what the system says, such as -EIO.
 */
int checkmap_stored_summarize(const struct checkmap_image *image,
                              const char *name,
                              size_t len,
                              struct checkmap_summary *out);

/**
 * Tells the SHA-256 of a stored bitmap, see checkmap_bitmap_sha256(); zeros on error.
 *
 * Of a disk of a running hypervisor, the hypervisor computes it, and no bit is moved: two calls prove a copy or a migration.
 *
 * Errors:
 * - as checkmap_stored_read()
 */
int checkmap_stored_sha256(const struct checkmap_image *image,
                           const char *name,
                           size_t len,
                           struct checkmap_sha256 *out);

/**
 * Makes the stored bitmap into the union of itself and n others, in one atomic step; the others stay.
 *
 * names and lens have n elements each.
 *
 * Options: progress, DRY_RUN.
 *
 * Errors:
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_delete()
 */
int checkmap_stored_merge(struct checkmap_image *image,
                          const char *const *names,
                          const size_t *lens,
                          size_t n,
                          const char *into,
                          size_t into_len,
                          const struct checkmap_opts *opts);

/**
 * Drops one stored bitmap, in one atomic step, whatever it belongs to and in whatever state it is.
 *
 * Nothing absorbs what it recorded: a checkpoint that loses its bitmap leaves a gap.
 *
 * Options: progress, DRY_RUN.
 *
 * Errors:
 * - -ENOENT: no bitmap has this name.
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_create() without -EEXIST, -EPROTO
 */
int checkmap_stored_drop(struct checkmap_image *image,
                         const char *name,
                         size_t len,
                         const struct checkmap_opts *opts);

/**
 * Drops all bitmaps with their directory, in one atomic step, damaged or not: also where damage in it keeps QEMU from
 * opening the image.
 *
 * Losses, and room that cannot be reclaimed, are told by checkmap_image_warning(). Without bitmaps nothing
 * happens.
 *
 * Options: progress, DRY_RUN, FOREIGN_TOO.
 *
 * Errors:
 * - -EEXIST: bitmaps that belong to no checkpoint would go too, and FOREIGN_TOO was not asked for.
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_create() without -EEXIST, -EINVAL, -ENAMETOOLONG, -EPROTO
 */
int checkmap_stored_drop_all(struct checkmap_image *image,
                             const struct checkmap_opts *opts);

/**
 * Connects to the QMP monitor of a running QEMU, and removes what clients that were killed left in it.
 *
 * The monitor is the caller's from now on until the machine and all images of it are closed: give it one of its own, as QEMU
 * serves one client a monitor. The call reads which disks there are; nothing is changed for the guest.
 *
 * Ownership: the paths in opts are copied.
 *
 * Errors:
 * - -EBUSY: the monitor said nothing in time, as another client has it, or another client of checkmap was at work all
 *   the time.
 * - -ENOENT: no such socket, with kind CHECKMAP_ERROR_IO.
 * - -ECONNREFUSED: nobody listens there, with kind CHECKMAP_ERROR_IO.
 * - -EBADMSG: the answers are not those of QEMU.
 * - -EREMOTEIO: QEMU refused a command, or the connection broke.
 * - -EINVAL: an empty path, or one with a NUL inside.
 * - -ENAMETOOLONG: a path that is too long.
 * - -ECANCELED: the call was stopped.
 * - what the system says, such as -EACCES.
 */
int checkmap_machine_open(const char *socket,
                          size_t len,
                          const struct checkmap_qmp_opts *opts,
                          struct checkmap_machine **out);

/**
 * Connects to a domain of libvirt, and removes what clients that were killed left in its QEMU.
 *
 * uri is that of a connection, such as qemu:///system; domain is the domain's name, id or UUID. Each command is one run of
 * virsh qemu-monitor-command, which is found by PATH; nothing of libvirt is linked. libvirt marks the domain as tainted
 * (custom-monitor). The call reads which disks there are; nothing is changed for the guest.
 *
 * Ownership: the paths in opts are copied.
 *
 * Errors:
 * - -EBUSY: libvirt or another client of checkmap was at work all the time.
 * - -ENOENT: no such domain, with kind CHECKMAP_ERROR_NOT_FOUND; no virsh, with kind CHECKMAP_ERROR_IO.
 * - -EINVAL: an empty text, one that is no UTF-8, or an empty path.
 * - -EREMOTEIO: the connection to libvirt failed, or libvirt or QEMU refused a command.
 * - as checkmap_machine_open() without -EBUSY, -ENOENT, -ECONNREFUSED, -EREMOTEIO, -EINVAL
 */
int checkmap_machine_open_libvirt(const char *uri,
                                  size_t uri_len,
                                  const char *domain,
                                  size_t domain_len,
                                  const struct checkmap_qmp_opts *opts,
                                  struct checkmap_machine **out);

/**
 * Fills out with the disks of the machine, max at most; with out NULL it only counts.
 *
 * They are those of the guest's devices at the time of the opening, in the order of the hypervisor; where it has no devices, all
 * images that nothing stands on.
 *
 * Returns: how many disks there are in all; or a negative errno.
 *
 * Ownership: the texts live as long as the machine.
 */
int64_t checkmap_machine_disks(const struct checkmap_machine *machine,
                               struct checkmap_disk *out,
                               size_t max);

/**
 * Opens a disk of a machine as an image, whose calls go to the hypervisor over the machine's connection.
 *
 * node has node_len bytes: the name of a node, of a device or its id, or the file of an image. Every call on images
 * serves this one; a checkpoint exists in the hypervisor's memory until the disk is closed there, so after a crash of it the
 * chain has ended. Images of one machine change in one step by checkmap_checkpoint_create_many(). The image may outlive the
 * handle of the machine.
 *
 * Errors:
 * - -ENOENT: no disk is called so, with kind CHECKMAP_ERROR_NOT_FOUND.
 * - -EEXIST: two disks are called so.
 * - -EINVAL: an empty name, or one that is no UTF-8.
 * - -EPROTO: the layers below the disk form none that can be read.
 * - -EBADMSG: the answers are not those of QEMU.
 * - -EREMOTEIO: QEMU refused a command, or the connection broke.
 */
int checkmap_machine_image(const struct checkmap_machine *machine,
                           const char *node,
                           size_t node_len,
                           struct checkmap_image **out);

/**
 * Ends a machine, a poisoned one too; its connection ends with the last image of it.
 *
 * NULL is fine.
 */
void checkmap_machine_close(struct checkmap_machine *machine);

/**
 * Opens one disk of a running QEMU as an image, with a connection of its own.
 *
 * It is checkmap_machine_open() and checkmap_machine_image() in one, for programs that need one disk. A second call on the
 * same socket while the image is open is -EBUSY: several disks come from one machine.
 *
 * Ownership: the paths in opts are copied.
 *
 * Errors:
 * - -ENOENT: no such socket, with kind CHECKMAP_ERROR_IO; no disk is called so, with kind CHECKMAP_ERROR_NOT_FOUND.
 * - -EINVAL: an empty path or name, a path with a NUL inside, or a name that is no UTF-8.
 * - as checkmap_machine_open() without -ENOENT, -EINVAL
 * - as checkmap_machine_image() without -ENOENT, -EINVAL
 */
int checkmap_image_open_qmp(const char *socket,
                            size_t len,
                            const char *node,
                            size_t node_len,
                            const struct checkmap_qmp_opts *opts,
                            struct checkmap_image **out);

/**
 * Creates a checkpoint of the same moment on n images, in one atomic step: on all of them, or on none.
 *
 * The images are disks of one machine, see checkmap_machine_image(), or images in files; a single one may be of any kind. Name and
 * granularity are those of checkmap_checkpoint_create(). On every error but the one of kind CHECKMAP_ERROR_COMMIT_IN_DOUBT no image
 * has changed; the message names the image. After that one all disks of a machine hold the state before, or all the state after.
 *
 * Images in files change by a journal beside the first one, which must be a file. After a kill or a power cut, and after an error in
 * doubt, no call changes them until checkmap_image_recover() has ended the step on all of them.
 *
 * Options: progress, model, DRY_RUN.
 *
 * Errors:
 * - -EINVAL: no image, the same one twice, a device as the first image, a name or a granularity that cannot be.
 * - -ENOTSUP: the images cannot change in one step, or one cannot take it: a limit of its format, a version without
 *   bitmaps.
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_create() without -EINVAL, -ENOTSUP
 */
int checkmap_checkpoint_create_many(struct checkmap_image *const *images,
                                    size_t n,
                                    const char *name,
                                    size_t len,
                                    uint64_t granularity,
                                    const struct checkmap_opts *opts);

/**
 * Deletes checkpoints on n images, in one atomic step: on all of them, or on none.
 *
 * names and lens have count elements each; the images are as those of checkmap_checkpoint_create_many(). Each image has
 * all of these checkpoints. On every error but the one of kind CHECKMAP_ERROR_COMMIT_IN_DOUBT no image has changed; the message
 * names the image. In a running hypervisor the bitmaps are merged inside of it, which stops every disk of the machine:
 * max_stall_ms of checkmap_qmp_opts limits that.
 *
 * Options: progress, model, TOP_LAYER_ONLY, FORCE_INCONSISTENT, DRY_RUN.
 *
 * Errors:
 * - -EINVAL: no image, the same one twice, no name, or one that cannot be.
 * - -ENOTSUP: the images cannot change in one step, or one cannot take it: a limit of its format, a version without
 *   bitmaps.
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_delete() without -EINVAL, -ENOTSUP
 */
int checkmap_checkpoint_delete_many(struct checkmap_image *const *images,
                                    size_t n,
                                    const char *const *names,
                                    const size_t *lens,
                                    size_t count,
                                    const struct checkmap_opts *opts);

/**
 * Ends a change of several images in files that was interrupted, on all of them; this one tells which.
 *
 * The image is open for writing, and the others are opened so for the time of the call. Where nothing has changed any of them
 * since, the change is finished; where all of them have it, it is done. Else a checkpoint that it created is deleted from all, its bits merged back, so that no block is
 * missed. checkmap_image_warning() tells what the user has to know.
 *
 * Options: progress.
 *
 * Returns: 0 if no change was interrupted, else a CHECKMAP_STEP_...; or a negative errno.
 *
 * Errors:
 * - -EUCLEAN: the journal or an image of the step is not there, or belongs to another step.
 * - -EBADMSG: the journal is damaged.
 * - -ECANCELED: the call was stopped; the step is still interrupted.
 * - as checkmap_checkpoint_delete() without -ENOENT, -EINVAL, -ENAMETOOLONG, -EUCLEAN, -EBADMSG
 */
int checkmap_image_recover(struct checkmap_image *image,
                           const struct checkmap_opts *opts);

/**
 * Leaves an image as a change of several images left it that was interrupted: for one whose journal or whose other images are lost.
 *
 * Nothing happens to an image that is in no such change.
 *
 * Errors:
 * - as checkmap_checkpoint_delete() without -ENOENT, -EINVAL, -ENAMETOOLONG, -EPROTO, -EUCLEAN, -EBADMSG
 */
int checkmap_image_forget_step(struct checkmap_image *image);

/**
 * Plans a change or a diff of a disk of a running QEMU, for programs that send commands themselves: nothing is sent.
 *
 * nodes_json has len bytes: the answer to query-named-block-nodes. The result is JSON in UTF-8 without a NUL behind it:
 * commands, the QMP commands to send in their order, without one there is nothing to do; stall_ms, how long every disk of the
 * machine is expected to stand still; warnings. For a diff also granularity, exports, each with its name and the contexts
 * to ask for, and cut_off, stretches that changed beside. The union of all these is the diff. With out_json NULL it only tells
 * how many bytes the JSON takes. The same input always gives the same JSON. Between the answer and the commands nobody else may
 * change the bitmaps.
 *
 * Returns: how many bytes the JSON takes; or a negative errno.
 *
 * Ownership: the texts of request are read during the call only.
 *
 * Errors:
 * - -ERANGE: a cap that is too small.
 * - -EBADMSG: nodes_json is none of QEMU's.
 * - -ENOENT: a node, checkpoint or bitmap that is not there.
 * - -EEXIST: a checkpoint of the new name is there already.
 * - -EINVAL: an unknown verb, flag or model, no node, a name or a granularity that cannot be.
 * - -ENAMETOOLONG: a name of more than 510 bytes.
 * - -EUCLEAN: a bitmap that takes part is inconsistent.
 * - -EPROTO: a gap in the recording, an order that cannot be, names that form no chain, an unknown model, or a layer below
 *   that takes part.
 * - -EBUSY: a bitmap that takes part is in use in the hypervisor.
 * - -EROFS: the node is read-only.
 * - -ENOTSUP: the node keeps no bitmaps.
 */
int64_t checkmap_plan_qmp(const char *nodes_json,
                          size_t len,
                          const struct checkmap_plan_request *request,
                          char *out_json,
                          size_t cap);

/**
 * Frees an outcome.
 *
 * NULL is fine.
 */
void checkmap_outcome_free(struct checkmap_outcome *outcome);

/**
 * Fills out with the rows of an outcome, max at most; with out NULL it only counts.
 *
 * A backup, a preview and a prune have a row for each disk, a verification one for each file that is damaged or missing.
 *
 * Returns: how many rows there are in all; or a negative errno.
 *
 * Ownership: the texts live as long as the outcome.
 */
int64_t checkmap_outcome_rows(const struct checkmap_outcome *outcome,
                              struct checkmap_moment *out,
                              size_t max);

/**
 * Fills out with the texts of one kind that a row has, max at most; with out NULL it only counts.
 *
 * row counts from 0, kind is one of CHECKMAP_TEXTS_...
 *
 * Returns: how many texts there are in all; or a negative errno.
 *
 * Ownership: the texts live as long as the outcome.
 *
 * Errors:
 * - -EINVAL: no such row, or an unknown kind.
 */
int64_t checkmap_outcome_texts(const struct checkmap_outcome *outcome,
                               size_t row,
                               uint32_t kind,
                               struct checkmap_text *out,
                               size_t max);

/**
 * Fails with the error of a row, as if this call had met it: with its errno, its kind and its message.
 *
 * row counts from 0.
 *
 * Returns: 0 where all of the row was done; or a negative errno.
 *
 * Errors:
 * - -EINVAL: no such row.
 * - the errno of the row's error.
 */
int checkmap_outcome_error(const struct checkmap_outcome *outcome, size_t row);

/**
 * Opens a directory of backups.
 *
 * flags is one of CHECKMAP_BACKUPS_...
 *
 * Errors:
 * - -ENOENT: there is no such directory, with kind CHECKMAP_ERROR_IO, or it is none of backups, with kind
 *   CHECKMAP_ERROR_NOT_FOUND.
 * - -EBUSY: somebody changes it, or reads it while it is to be changed.
 * - -ENOTSUP: a newer version of checkmap made it.
 * - -EBADMSG: its manifest is damaged.
 * - -EEXIST: it is to be made, and holds other things.
 * - -EINVAL: unknown flags, an empty path, or one with a NUL inside.
 * - -ENAMETOOLONG: a path that is too long.
 * - what the system says, such as -EACCES.
 */
int checkmap_backups_open(const char *path, size_t path_len, uint32_t flags, struct checkmap_backups **out);

/**
 * Closes a directory of backups, a poisoned one too, and releases its lock.
 *
 * NULL is fine.
 */
void checkmap_backups_close(struct checkmap_backups *backups);

/**
 * Fills out with the kept moments of all disks, max at most; with out NULL it only counts.
 *
 * Those of one disk stand together, the oldest first.
 *
 * Returns: how many moments there are in all; or a negative errno.
 *
 * Ownership: the texts live until a call that takes the directory alone, or its end.
 */
int64_t checkmap_backups_list(const struct checkmap_backups *backups,
                              struct checkmap_moment *out,
                              size_t max);

/**
 * Takes a backup of n disk images, all with one checkpoint name.
 *
 * The first backup of a disk is full; later ones hold what changed since the last one, or all with the reason. An error of the call
 * changes nothing, and what came of each disk is in the outcome: a disk that failed leaves the others.
 *
 * Returns: how many disks are not done, each with an error in its row; or a negative errno.
 *
 * Ownership: the texts of sources and opts are copied.
 *
 * Errors:
 * - -ESTALE: the disk of that name in the directory is of another image.
 * - -EEXIST: the checkpoint is there already.
 * - -EBUSY: an image is in use.
 * - -EROFS: the directory was opened for reading, or an image may not be written.
 * - -EUCLEAN: an image must be repaired first.
 * - -EBADMSG: an image is damaged.
 * - -ENOTSUP: an image that cannot be read, or needs a secret_file, or a disk whose last backup lies on 500 files.
 * - -EPROTO: a file below an image is missing, or does not fit it.
 * - -ENOLCK: images of this file system cannot be locked; CHECKMAP_BACKUP_NO_LOCK does without.
 * - -EINVAL: no disk, two of one name, an unknown flag, or an image in the directory itself.
 * - -ENAMETOOLONG: a name of a checkpoint of more than 510 bytes, or a path that is too long.
 * - -ENOENT: no such image, with kind CHECKMAP_ERROR_IO.
 * - -ECANCELED: the call was stopped before the first disk was read.
 * - what the system says, such as -EIO.
 */
int64_t checkmap_backups_take(struct checkmap_backups *backups,
                              const struct checkmap_backup_source *sources,
                              size_t n,
                              const struct checkmap_backup_opts *opts,
                              struct checkmap_outcome **out);

/**
 * Takes a backup of n disks of a running machine while its guest writes on: all as they were at one moment, at which the checkpoint
 * is made.
 *
 * A moment that an interrupted run of this directory left in the machine is backed up in the place of a new one, under its own name,
 * unless CHECKMAP_BACKUP_ABANDON ends it. Where the moment is lost, no disk that was not read yet is backed up, and the next
 * run has all changes. say of opts is told what a user should know at once.
 *
 * Returns: how many disks are not done, each with an error in its row; or a negative errno.
 *
 * Ownership: the texts of sources and opts are copied.
 *
 * Errors:
 * - -EBUSY: a moment of somebody else stands in the machine, or a job works on the disks.
 * - -ENOTSUP: too little room for the scratch, or a disk that cannot be read so.
 * - -ENOENT: no disk is called so, with kind CHECKMAP_ERROR_NOT_FOUND.
 * - -EEXIST: the checkpoint is there already, or two disks are called so.
 * - -EREMOTEIO: QEMU refused a command, or the connection broke.
 * - as checkmap_backups_take() without -EBUSY, -ENOTSUP, -ENOENT, -EEXIST
 */
int64_t checkmap_backups_take_running(struct checkmap_backups *backups,
                                      const struct checkmap_machine *machine,
                                      const struct checkmap_backup_source *sources,
                                      size_t n,
                                      const struct checkmap_backup_opts *opts,
                                      struct checkmap_outcome **out);

/**
 * Tells what checkmap_backups_take() would write into the directory at path, which need not be there: for each disk the moment as
 * it would be, its bytes at most.
 *
 * Nothing is changed.
 *
 * Ownership: the texts of sources and opts are copied.
 *
 * Errors:
 * - as checkmap_backups_take()
 * - as checkmap_backups_open() without -EEXIST, -ENOENT, -EBUSY, -ENOTSUP, -EBADMSG, -EINVAL, -ENAMETOOLONG
 */
int checkmap_backups_preview(const char *path,
                             size_t path_len,
                             const struct checkmap_backup_source *sources,
                             size_t n,
                             const struct checkmap_backup_opts *opts,
                             struct checkmap_outcome **out);

/**
 * Writes a moment of a disk to a new file, to an existing one that may be replaced, or to a device, and compares all that it reads
 * with the checksums.
 *
 * A file gets its name when it is whole and durable; a device may hold a part after an error.
 *
 * Options: progress.
 *
 * Ownership: the texts of request are copied.
 *
 * Errors:
 * - -ENOENT: the directory has no such disk or moment, with kind CHECKMAP_ERROR_NOT_FOUND; a file of the backup or the
 *   target's folder is missing, with kind CHECKMAP_ERROR_IO.
 * - -EEXIST: the target is there, and CHECKMAP_RESTORE_REPLACE was not asked for.
 * - -EBUSY: the target is in use.
 * - -EBADMSG: a file of the backup is damaged.
 * - -ENOSPC: no room, or a device that is too small.
 * - -EINVAL: an unknown flag, an empty name or path, a target that is no file or device, or one inside the directory.
 * - -ENAMETOOLONG: a name or path that is too long.
 * - -ECANCELED: the call was stopped.
 * - what the system says, such as -EIO.
 */
int checkmap_backups_restore(const struct checkmap_backups *backups,
                             const struct checkmap_restore_request *request,
                             const struct checkmap_opts *opts);

/**
 * Reads everything in a directory of backups, and tells which files are damaged or missing, and which moments that costs.
 *
 * The outcome has a row for each such file, named by its disk and its checkpoint, with its error; CHECKMAP_TEXTS_CHECKPOINTS are
 * the moments that cannot be restored for it. Without a row all is well.
 *
 * Options: progress.
 *
 * Returns: how many moments were looked at; or a negative errno.
 *
 * Errors:
 * - -ECANCELED: the call was stopped.
 */
int64_t checkmap_backups_verify(const struct checkmap_backups *backups,
                                const struct checkmap_opts *opts,
                                struct checkmap_outcome **out);

/**
 * Gives up the moments that no rule keeps.
 *
 * Every kept moment can be restored at each instant, also where the process is killed. The outcome has a row for each disk;
 * CHECKMAP_TEXTS_CHECKPOINTS are the moments that were given up, or would be. Where the call is stopped, the last row is that of the
 * disk at which it was, with -ECANCELED.
 *
 * Options: progress, DRY_RUN.
 *
 * Returns: how many disks are not done, each with an error in its row; or a negative errno.
 *
 * Errors:
 * - -EINVAL: no rule, or an unknown flag.
 * - -EROFS: the directory was opened for reading, and DRY_RUN was not asked for.
 */
int64_t checkmap_backups_prune(struct checkmap_backups *backups,
                               const struct checkmap_keep *keep,
                               const struct checkmap_opts *opts,
                               struct checkmap_outcome **out);

/**
 * Tells how much of the disk of an image a backup since a checkpoint has to read: what changed, the allocated part, or all.
 *
 * The image was opened with CHECKMAP_OPEN_RDONLY. secret_file, with the passphrase of encrypted layers, may be NULL. reason
 * gets the reason why no smaller part will do, in UTF-8 without a NUL behind it; of one that does not fit into cap bytes, the
 * beginning. Only what says nothing of the map is an error. Nothing is changed.
 *
 * Options: progress.
 *
 * Returns: how many bytes the whole reason has, 0 for what changed; or a negative errno.
 *
 * Errors:
 * - -EINVAL: a name that cannot be, an empty path, or a cap of 0.
 * - -ENAMETOOLONG: a name of more than 510 bytes, or a path that is too long.
 * - -EBADMSG: the image is damaged.
 * - -ECANCELED: the call was stopped.
 * - what the system says, such as -EIO.
 */
int64_t checkmap_plan_backup(const struct checkmap_image *image,
                             const char *checkpoint,
                             size_t checkpoint_len,
                             const char *secret_file,
                             size_t secret_file_len,
                             const struct checkmap_opts *opts,
                             struct checkmap_planned *out,
                             char *reason,
                             size_t cap);

/**
 * Tells how much of a disk of a running machine a backup since a checkpoint has to read: what changed, the allocated part, or all.
 *
 * node names the disk as for checkmap_machine_image(); the rest is as for checkmap_plan_backup().
 *
 * Options: progress.
 *
 * Returns: how many bytes the whole reason has, 0 for what changed; or a negative errno.
 *
 * Errors:
 * - -ENOENT: no disk is called so, with kind CHECKMAP_ERROR_NOT_FOUND.
 * - -EEXIST: two disks are called so.
 * - -EREMOTEIO: QEMU refused a command, or the connection broke.
 * - as checkmap_plan_backup()
 */
int64_t checkmap_plan_backup_running(const struct checkmap_machine *machine,
                                     const char *node,
                                     size_t node_len,
                                     const char *checkpoint,
                                     size_t checkpoint_len,
                                     const struct checkmap_opts *opts,
                                     struct checkmap_planned *out,
                                     char *reason,
                                     size_t cap);

/**
 * Reads libvirt's documents of checkpoints in a folder, such as /var/lib/libvirt/qemu/checkpoint/DOMAIN, or one with what virsh
 * checkpoint-dumpxml printed, each in a file *.xml.
 *
 * Errors:
 * - -ENOENT: no such folder, with kind CHECKMAP_ERROR_IO.
 * - -EBADMSG: a file is no document of a checkpoint: no XML, too large, with a document type and so with entities of its own.
 * - -EPROTO: two documents tell of one checkpoint, or their parents go round in a circle.
 * - -EINVAL: an empty path, or one with a NUL inside.
 * - -ENAMETOOLONG: a path that is too long.
 * - what the system says, such as -EACCES.
 */
int checkmap_notes_read(const char *folder,
                        size_t len,
                        struct checkmap_notes **out);

/**
 * Asks libvirt for its notes of the checkpoints of the domain that a machine is, see checkmap_machine_open_libvirt().
 *
 * Options: progress.
 *
 * Errors:
 * - -ENOTSUP: the machine was not reached through libvirt.
 * - -EBADMSG: an answer is none of libvirt's.
 * - -EREMOTEIO: libvirt refused a command.
 * - -EBUSY: libvirt did not answer in time.
 * - -ESTALE: a checkpoint went while libvirt was asked.
 * - -ECANCELED: the call was stopped.
 */
int checkmap_notes_of_machine(const struct checkmap_machine *machine,
                              const struct checkmap_opts *opts,
                              struct checkmap_notes **out);

/**
 * Fills out with the checkpoints, oldest first, max at most; with out NULL it only counts.
 *
 * Returns: how many checkpoints there are in all; or a negative errno.
 *
 * Ownership: the texts live as long as the notes.
 */
int64_t checkmap_notes_list(const struct checkmap_notes *notes, struct checkmap_noted *out, size_t max);

/**
 * Lets an image follow libvirt's notes: its cumulative checkpoints are listed in their order, with the parents that the notes tell, and a
 * bitmap of a checkpoint of libvirt's is taken for no other.
 *
 * It is for this handle, until the next call of the same. Nothing is changed in the image, and the notes may be freed after the call.
 * Pointers that were handed out of the image before are not good any more.
 */
int checkmap_image_follow(struct checkmap_image *image,
                          const struct checkmap_notes *notes);

/**
 * Frees notes.
 *
 * NULL is fine.
 */
void checkmap_notes_free(struct checkmap_notes *notes);

/**
 * Finds where the bitmaps of an image, their chain and libvirt's notes disagree, and mends it or converts the checkpoints where aim
 * says so.
 *
 * folder has libvirt's documents, as for checkmap_notes_read(); NULL where libvirt has nothing to do with the image. target is the
 * name of the disk in the domain, such as vda; NULL where the documents tell it by the file of the image. A repair changes the bitmaps
 * in one step, then the documents, one after the other; libvirt's daemon reads its own folder only when it starts. From the change of the bitmaps
 * on progress cannot stop it. With DRY_RUN the
 * steps are listed, and nothing is changed. A change ends the pointers that were handed out
 * of the image. The image follows the notes from then on as after checkmap_image_follow(), but for their order.
 *
 * Options: progress, model, DRY_RUN.
 *
 * Returns: how many findings there are, after a repair how many are left; 0 is well; or a negative errno.
 *
 * Errors:
 * - -ENOENT: no such folder, with kind CHECKMAP_ERROR_IO; the documents do not tell which disk it is, with kind
 *   CHECKMAP_ERROR_NOT_FOUND.
 * - -EEXIST: a file has the name of a new document already.
 * - -EINVAL: an unknown aim, an empty text, or one that is no UTF-8.
 * - -EPROTO: documents that contradict one another, checkpoints without a known order, or both models at once.
 * - -EBADMSG: the image or a document is damaged.
 * - -EIO: with kind CHECKMAP_ERROR_IO also where a document fails behind the bitmaps or behind others: the message says how many are
 *   changed, and the same again goes on from there.
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_create() without -EEXIST, -EINVAL, -EPROTO, -EBADMSG
 */
int64_t checkmap_doctor(struct checkmap_image *image,
                        const char *target,
                        size_t target_len,
                        const char *folder,
                        size_t folder_len,
                        uint32_t aim,
                        const struct checkmap_opts *opts,
                        struct checkmap_diagnosis **out);

/**
 * Finds where the bitmaps of a running machine's disks, their chains and libvirt's notes disagree, and mends it or converts the
 * checkpoints where aim says so.
 *
 * nodes and lens have count elements each and name disks as for checkmap_machine_image(); with a count of 0 all disks take part
 * that can keep bitmaps. Of a domain of libvirt's the notes are asked from libvirt, which is told of their changes; a machine that was
 * not reached through libvirt has none. A repair changes the bitmaps of all disks in one step, then the notes, one after the other.
 * Images of these disks that are open are not good for changes any more: open them anew.
 *
 * Options: progress, model, DRY_RUN.
 *
 * Returns: how many findings there are, after a repair how many are left; 0 is well; or a negative errno.
 *
 * Errors:
 * - -ENOENT: no disk is called so; libvirt does not tell which of its disks one is. Both with kind CHECKMAP_ERROR_NOT_FOUND.
 * - -EEXIST: two disks are called so.
 * - -EINVAL: an unknown aim, the same disk twice, no disk at all, a name that is empty or no UTF-8.
 * - -EPROTO: notes that contradict one another, checkpoints without a known order, or both models at once.
 * - -EBADMSG: an answer is none of QEMU's or libvirt's.
 * - -EREMOTEIO: with kind CHECKMAP_ERROR_HYPERVISOR also where libvirt refuses a note behind the bitmaps or behind others: the message says
 *   how many are changed, and the same again goes on from there.
 * - -ECANCELED: the call was stopped, and nothing has changed.
 * - as checkmap_checkpoint_create() without -EEXIST, -EINVAL, -EPROTO, -EBADMSG
 */
int64_t checkmap_doctor_running(const struct checkmap_machine *machine,
                                const char *const *nodes,
                                const size_t *lens,
                                size_t count,
                                uint32_t aim,
                                const struct checkmap_opts *opts,
                                struct checkmap_diagnosis **out);

/**
 * Fills out with the findings, disk by disk, max at most; with out NULL it only counts.
 *
 * After a repair those that it found come first, then those that are left.
 *
 * Returns: how many there are in all; or a negative errno.
 *
 * Ownership: the texts live as long as the diagnosis.
 */
int64_t checkmap_diagnosis_findings(const struct checkmap_diagnosis *diagnosis,
                                    struct checkmap_finding *out,
                                    size_t max);

/**
 * Fills out with the texts of one kind, in UTF-8, max at most; with out NULL it only counts.
 *
 * kind is one of CHECKMAP_DIAGNOSIS_...
 *
 * Returns: how many texts there are in all; or a negative errno.
 *
 * Ownership: the texts live as long as the diagnosis.
 *
 * Errors:
 * - -EINVAL: an unknown kind.
 */
int64_t checkmap_diagnosis_texts(const struct checkmap_diagnosis *diagnosis,
                                 uint32_t kind,
                                 struct checkmap_text *out,
                                 size_t max);

/**
 * Frees a diagnosis.
 *
 * NULL is fine.
 */
void checkmap_diagnosis_free(struct checkmap_diagnosis *diagnosis);

/**
 * Opens the segment in the file at path: reads and checks its header, its trailer and its directory.
 *
 * The path has path_len bytes and needs no NUL behind them.
 *
 * Errors:
 * - -ENOTSUP: a file that is no segment, or one of another version.
 * - -EBADMSG: a segment that breaks a rule or was cut short.
 * - -EINVAL: an empty path, or one with a NUL inside.
 * - -ENAMETOOLONG: a path that is too long.
 * - -ENOENT: no such file, with kind CHECKMAP_ERROR_IO.
 * - -EISDIR: a folder.
 * - what the system says, such as -EACCES and -EIO.
 */
int checkmap_segment_open(const char *path, size_t path_len, struct checkmap_segment **out);

/**
 * Opens the segment behind an open descriptor, which stays the caller's and may be closed at once.
 *
 * Errors:
 * - -EBADF: no open descriptor.
 * - as checkmap_segment_open() without -EINVAL, -ENAMETOOLONG, -ENOENT
 */
int checkmap_segment_open_fd(int fd, struct checkmap_segment **out);

/**
 * Closes a segment.
 *
 * NULL is fine.
 */
void checkmap_segment_close(struct checkmap_segment *segment);

/**
 * Tells what a segment holds.
 *
 * Everything but info->size, which the caller sets, is zero on error.
 */
int checkmap_segment_get_info(const struct checkmap_segment *segment, struct checkmap_segment_info *info);

/**
 * The bytes that the handle takes on the heap.
 *
 * Returns: a number of bytes; or a negative errno.
 */
int64_t checkmap_segment_heap_bytes(const struct checkmap_segment *segment);

/**
 * The number of dirty granules; from memory.
 *
 * Returns: a number of granules; or a negative errno.
 */
int64_t checkmap_segment_count(const struct checkmap_segment *segment);

/**
 * The number of dirty bytes: the sum of all extents, never above the size of the disk.
 *
 * Returns: a number of bytes; or a negative errno.
 *
 * Errors:
 * - as checkmap_segment_get() without -ERANGE
 */
int64_t checkmap_segment_dirty_bytes(const struct checkmap_segment *segment);

/**
 * The number of dirty granules that touch the range, which is cut at the end of the disk.
 *
 * However long the range, at most two pieces of the file are read.
 *
 * Returns: a number of granules; or a negative errno.
 *
 * Errors:
 * - as checkmap_segment_get() without -ERANGE
 */
int64_t checkmap_segment_count_range(const struct checkmap_segment *segment,
                                     uint64_t offset,
                                     uint64_t length);

/**
 * Whether the granule that holds the byte at offset is dirty.
 *
 * Returns: 0 or 1; or a negative errno.
 *
 * Errors:
 * - -ERANGE: an offset past the last granule of the disk.
 * - -EBADMSG: the bytes that were read break a rule of the format.
 * - what the system says, such as -EIO.
 */
int checkmap_segment_get(const struct checkmap_segment *segment, uint64_t offset);

/**
 * The first dirty byte of the range, which is cut at the end of the disk.
 *
 * Returns: an offset in bytes; -1 if there is none; or another negative errno.
 *
 * Errors:
 * - as checkmap_segment_get() without -ERANGE
 */
int64_t checkmap_segment_next_dirty(const struct checkmap_segment *segment, uint64_t offset, uint64_t length);

/**
 * The first clean byte of the range, which is cut at the end of the disk.
 *
 * Returns: an offset in bytes; -1 if there is none; or another negative errno.
 *
 * Errors:
 * - as checkmap_segment_get() without -ERANGE
 */
int64_t checkmap_segment_next_clean(const struct checkmap_segment *segment, uint64_t offset, uint64_t length);

/**
 * The last dirty byte of the range, which is cut at the end of the disk.
 *
 * Returns: an offset in bytes; -1 if there is none; or another negative errno.
 *
 * Errors:
 * - as checkmap_segment_get() without -ERANGE
 */
int64_t checkmap_segment_previous_dirty(const struct checkmap_segment *segment,
                                        uint64_t offset,
                                        uint64_t length);

/**
 * The last clean byte of the range, which is cut at the end of the disk.
 *
 * Returns: an offset in bytes; -1 if there is none; or another negative errno.
 *
 * Errors:
 * - as checkmap_segment_get() without -ERANGE
 */
int64_t checkmap_segment_previous_clean(const struct checkmap_segment *segment,
                                        uint64_t offset,
                                        uint64_t length);

/**
 * The number of dirty granules before the one that holds the byte at offset; at the end of the disk and past it, all.
 *
 * Returns: a number of granules; or a negative errno.
 *
 * Errors:
 * - as checkmap_segment_get() without -ERANGE
 */
int64_t checkmap_segment_rank(const struct checkmap_segment *segment,
                              uint64_t offset);

/**
 * Where the dirty granule of this number begins, counted from 0.
 *
 * Returns: an offset in bytes; -1 if fewer granules are dirty; or another negative errno.
 *
 * Errors:
 * - as checkmap_segment_get() without -ERANGE
 */
int64_t checkmap_segment_select(const struct checkmap_segment *segment, uint64_t number);

/**
 * Fills out with the dirty extents of the range, as checkmap_bitmap_extents() does.
 *
 * On error some of out may be filled, and none of it is to be believed.
 *
 * Returns: how many extents were written; fewer than max is all; or a negative errno.
 *
 * Errors:
 * - -EINVAL: a max of 0, or an out that is NULL or misaligned.
 * - as checkmap_segment_get() without -ERANGE
 */
int64_t checkmap_segment_extents(const struct checkmap_segment *segment,
                                 uint64_t offset,
                                 uint64_t length,
                                 struct checkmap_extent *out,
                                 size_t max);

/**
 * Fills out with the extents of the range that are dirty in one of two segments only, in ascending order.
 *
 * The flags of an extent say in which. To go on, ask again from the end of the last extent. On error some of out may
 * be filled, and none of it is to be believed.
 *
 * Returns: how many extents were written; fewer than max is all; or a negative errno.
 *
 * Errors:
 * - -EINVAL: disks of different size, a max of 0, or an out that is NULL or misaligned.
 * - as checkmap_segment_get() without -ERANGE
 */
int64_t checkmap_segment_diff(const struct checkmap_segment *first,
                              const struct checkmap_segment *second,
                              uint64_t offset,
                              uint64_t length,
                              struct checkmap_extent *out,
                              size_t max);

/**
 * Makes a bitmap of the granules that touch the range; all others are clean in it.
 *
 * Errors:
 * - as checkmap_segment_get() without -ERANGE
 */
int checkmap_segment_load(const struct checkmap_segment *segment,
                          uint64_t offset,
                          uint64_t length,
                          struct checkmap_bitmap **out);

/**
 * Reads all of the segment and verifies it.
 *
 * Faults of the segment stand in the report, and are no error.
 *
 * Options: progress.
 *
 * Errors:
 * - -ECANCELED: the call was stopped.
 * - what the system says, such as -EIO.
 */
int checkmap_segment_check(const struct checkmap_segment *segment,
                           const struct checkmap_opts *opts,
                           struct checkmap_report **out);

/**
 * Writes a bitmap as a segment to the file at path, which it replaces in one atomic step, durably.
 *
 * info may be NULL. A replaced file keeps its mode, and its owner where the system allows that; a symbolic link is
 * followed. On error the file stays as it was, but for an error of kind CHECKMAP_ERROR_COMMIT_IN_DOUBT: then the new
 * content stands, and may be lost with the power.
 *
 * Errors:
 * - -EINVAL: a folder, a device, a pipe, a socket or a disk image; an empty path, or one with a NUL inside.
 * - -ENAMETOOLONG: a path that is too long.
 * - -ENOENT: the folder of the file is missing.
 * - -ENOSPC: the disk is full.
 * - -EIO: with kind CHECKMAP_ERROR_COMMIT_IN_DOUBT the new content stands, and may be lost with the power.
 * - what the system says, such as -EACCES and -EIO with kind CHECKMAP_ERROR_IO.
 */
int checkmap_segment_write(const struct checkmap_bitmap *bitmap,
                           const char *path,
                           size_t path_len,
                           struct checkmap_segment_info *info);

/**
 * Writes a bitmap as a segment to an open descriptor, from its position on; a pipe will do.
 *
 * The descriptor stays the caller's. info may be NULL. After an error the written bytes are no segment.
 *
 * Errors:
 * - -EBADF: no open descriptor, or one that cannot be written.
 * - -ENOSPC: the disk is full.
 * - what the system says, such as -EPIPE and -EIO.
 */
int checkmap_segment_write_fd(const struct checkmap_bitmap *bitmap,
                              int fd,
                              struct checkmap_segment_info *info);

/**
 * Unites n segments into a new one in the file at path, which it replaces as checkmap_segment_write() does.
 *
 * info may be NULL. The result has the finest granularity of them all. Each is read once, in bounded memory, however
 * large they are.
 *
 * Options: threads, memory_bytes, progress.
 *
 * Errors:
 * - -EINVAL: disks of different size, an n of 0, or memory that cannot suffice.
 * - -EBADMSG: the bytes that were read break a rule of the format.
 * - -ECANCELED: the call was stopped.
 * - as checkmap_segment_write()
 */
int checkmap_segment_merge(const struct checkmap_segment *const *segments,
                           size_t n,
                           const char *path,
                           size_t path_len,
                           const struct checkmap_opts *opts,
                           struct checkmap_segment_info *info);

/**
 * Tells what checkmap_segment_merge() would make, without making it.
 *
 * Options: threads, memory_bytes, progress.
 *
 * Errors:
 * - -EINVAL: disks of different size, an n of 0, or memory that cannot suffice.
 * - -EBADMSG: the bytes that were read break a rule of the format.
 * - -ECANCELED: the call was stopped.
 * - what the system says, such as -EIO.
 */
int checkmap_segment_merge_info(const struct checkmap_segment *const *segments,
                                size_t n,
                                const struct checkmap_opts *opts,
                                struct checkmap_segment_info *info);

/** Empty options. */
#define CHECKMAP_OPTS_INIT { sizeof(struct checkmap_opts), 0, 0, NULL, NULL, 0, 0 }
/** A place for the facts of an image. */
#define CHECKMAP_IMAGE_INFO_INIT \
    { sizeof(struct checkmap_image_info), 0, NULL, 0, 0, 0, NULL, 0, NULL, 0, 0, 0 }
/** A place for the facts of a segment. */
#define CHECKMAP_SEGMENT_INFO_INIT { sizeof(struct checkmap_segment_info), 0, 0, 0, 0, 0, 0, 0, 0 }
/** The defaults of a running hypervisor. */
#define CHECKMAP_QMP_OPTS_INIT { sizeof(struct checkmap_qmp_opts), 0, 0, NULL, 0, NULL, NULL }
/** An empty request. */
#define CHECKMAP_PLAN_REQUEST_INIT \
    { sizeof(struct checkmap_plan_request), 0, NULL, NULL, 0, NULL, 0, NULL, 0, NULL, NULL, 0, NULL, 0, 0, 0, 0 }
/** The defaults of a backup. */
#define CHECKMAP_BACKUP_OPTS_INIT \
    { sizeof(struct checkmap_backup_opts), 0, 0, 0, NULL, 0, NULL, 0, NULL, 0, 0, NULL, NULL, NULL }
/** An empty request to restore. */
#define CHECKMAP_RESTORE_REQUEST_INIT \
    { sizeof(struct checkmap_restore_request), 0, NULL, 0, NULL, 0, NULL, 0 }
/** No rule yet. */
#define CHECKMAP_KEEP_INIT { sizeof(struct checkmap_keep), 0, 0, 0 }

#ifdef __cplusplus
}
#endif

#endif  /* CHECKMAP_H */
