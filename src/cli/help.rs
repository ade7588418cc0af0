#![forbid(unsafe_code)]
//! Owns the longer texts of `--help` and of the manual: what a person learns from. Must never know how arguments are
//! parsed.
//!
//! Lines that begin with blanks are pictures and commands: they stay as they are.

/// The model, in front of everything.
pub(crate) const ABOUT: &str = "\
Answers one question for everyone who backs up virtual machines: which blocks of this disk changed between these two \
points in time? QEMU records the changes while the machine runs. The verbs work on qcow2 images that no QEMU has open, and \
with --qmp or --libvirt on the disks of a running QEMU. Dirty bitmaps of Parallels images are read, and never written.

A checkpoint is a point in time. A bitmap belongs to the interval from its own checkpoint to the next one, and marks \
the blocks written in it. Only the last bitmap records:

    checkpoints   mon          tue          wed          (now)
    bitmaps       |---'mon'----|-'mon->tue'-|-'tue->wed'--->
                   frozen       frozen       recording

A bitmap is named after the checkpoint before its own and its own: 'tue->wed' began at wed, and tue came before. So \
what changed since tue is 'mon->tue' and 'tue->wed' together. Deleting a checkpoint joins the intervals on both sides \
of it, and every other checkpoint stays as good as it was.

This is the interval model. The cumulative model, libvirt's, is read and served too: there each checkpoint has a \
bitmap of its own name that records until the checkpoint is deleted. Both can stand in one image: a name picks the chain that has \
it, and --model cumulative picks libvirt's.";

pub(crate) const AFTER: &str = "\
Examples:
    checkmap create disk.qcow2 mon          mon is the point to compare with from now on
    checkmap list disk.qcow2                the checkpoints, oldest first
    checkmap diff disk.qcow2 --since mon    what changed since mon
    checkmap delete disk.qcow2 mon          no backup needs mon any more

Notes:
Quote the names of bitmaps, 'mon->tue': a shell takes a bare > for a redirection. Write --since=-x for a name that \
begins with a dash, and -- before such a name that stands alone.

Running hypervisors: --qmp SOCKET stands in the place of IMAGE, and so do --libvirt URI --domain NAME. create, delete and \
rename change every disk of the machine in one step, or those named by --node; diff, dump and merge want one disk. diff and dump \
read the bitmaps as they are over NBD, so the guest does not wait. delete and rename merge bitmaps inside QEMU, which stops every disk for \
as long: the expected time is said beforehand, and --max-stall refuses a longer one. A checkpoint made on a running QEMU is in its \
memory until the disk is closed; after a kill or a power cut the chain of checkpoints has ended. --dry-run prints the QMP \
commands, one JSON document a line.

    checkmap create --qmp /run/vm/qmp.sock tuesday
    checkmap diff --qmp /run/vm/qmp.sock --node vda --since monday --until tuesday

Answers go to stdout; messages, warnings and progress go to stderr. Changing commands print nothing on stdout, except \
for --dry-run. Where the reader of stdout closes it early, checkmap ends quietly, with status 0 if \
nothing else is wrong; where the whole answer matters, use -o.

Sizes for people are rounded up: there is never more than is said. JSON and csv have every byte.

A signal (SIGINT, SIGTERM, SIGHUP) is honoured until the commit begins, and nothing was changed; after that it is held \
until the change is complete.

Exit status:
    0  done
    1  input or output error, disk full, unknown or unreadable format, damage (also found by check)
    2  usage: syntax, sizes, impossible options, an invalid name for a checkpoint
    3  refused, because going on would be unsafe or the answer wrong

On 2 and 3 nothing was changed. On 1 nothing was changed either, unless the message says that the commit is in doubt: \
then the image holds the state before or the state after, whole.";

pub(crate) const INFO: &str = "\
Shows what an image holds: each bitmap with the interval it covers, whether it records, how much of the disk it marks, \
and what it takes to store; and what to do where something is wrong. Works on damaged images as far as they can be read. \
Tables fit 80 columns, on a terminal and elsewhere: what has no room is left out, and names lose their middle (…); --wide \
shows all.

An image that a running QEMU has open is refused, since its bitmaps in the file are out of date. --force-share shows \
their names and flags all the same, without counts.";

pub(crate) const LIST: &str = "\
Lists the checkpoints, oldest first, each with the bitmap that begins there, how much that one marks (DIRTY), and how \
much changed since the checkpoint (UNTIL NOW): what an incremental backup since then has to copy. Where a diff would be \
refused, or the image is only shared with a running QEMU, there is a question mark instead.

The table fits 80 columns, on a terminal and elsewhere: the bitmaps are left out where they have no room, and names lose \
their middle (…); --wide shows all. Scripts take --json.

Cumulative checkpoints store no order. An older bitmap contains the younger ones, so the order is told by their bits \
where those decide it, and by name elsewhere; JSON then says \"ordered\": false. Where they stand beside intervals, people see both; \
JSON has the intervals, or, with --model cumulative, the others.

Times, and the order and parents of libvirt's checkpoints, come from what libvirt notes of them: with --libvirt its daemon is asked, \
--libvirt-xml names the folder.";

pub(crate) const DOCTOR: &str = "\
Compares the bitmaps of a disk, the chain that their names tell of, and the checkpoints that libvirt notes: of an image with the \
documents in DIR, of a running QEMU, or of a domain of libvirt. It tells what disagrees, what that costs, and the mend. --repair does \
what --repair --dry-run lists: bitmaps first, in one step for all disks, then libvirt's notes. Where tracking can go on, it does.

The exit status is 0 where nothing is wrong, 1 where something was found; after --repair, where something is left.

libvirt takes bitmaps only that all record, so it can be told of none of the checkpoints of checkmap's own chain.";

pub(crate) const DOCTOR_AFTER: &str = "\
Examples:
  checkmap doctor disk.qcow2
  checkmap doctor disk.qcow2 --libvirt-xml /var/lib/libvirt/qemu/checkpoint/web
  checkmap doctor --libvirt qemu:///system --domain web --repair --dry-run
  checkmap doctor --libvirt qemu:///system --domain web --to-interval";

pub(crate) const CREATE: &str = "\
Creates a checkpoint: the point in time to compare with later. The bitmap that recorded until now is frozen, and a new \
one records from now on. Take the backup that belongs to the checkpoint before the machine starts again. With --also, the disks of \
a machine get it in one step, all or none: after a kill the next change of any of them ends the step, see checkmap recover.

    before        |---'mon'----|-'mon->tue'--------------->
    create wed    |---'mon'----|-'mon->tue'-|-'tue->wed'-->

It is refused while the newest bitmap does not record, or one of the chain is inconsistent: a new checkpoint would hide \
the gap in the recording. A single plain bitmap may be a checkpoint of libvirt's, which would break: a warning says so, unless --model interval says \
that it is none. Beside several bitmaps of libvirt's a new one is of their kind; with --model interval a chain of intervals begins \
beside them, whose first bitmap is named with an arrow, '->mon', so that nobody takes it for libvirt's. Internal snapshots cannot be applied any more as long as the image has bitmaps: it is said where \
there are any.";

pub(crate) const CREATE_AFTER: &str = "\
Examples:
    checkmap create disk.qcow2 mon
    checkmap create disk.qcow2 tue --granularity 64K
    checkmap create disk.qcow2 wed --dry-run
    checkmap create root.qcow2 mon --also data.qcow2";

pub(crate) const DELETE: &str = "\
Deletes checkpoints. The interval before one absorbs the one after it, so that every other checkpoint keeps its \
answers; deleting the first one drops its interval.

    before        |---'mon'----|-'mon->tue'-|-'tue->wed'-->
    delete tue    |----------'mon'----------|-'mon->wed'-->

Several go in one step: all of them, or none where one is refused. A..B stands for A, B and all checkpoints between them, \
unless a checkpoint has exactly that name; A must not be younger than B. A name that is given twice counts once. \
Cumulative checkpoints have no order, and are named one by one. Where an image has both kinds, a name picks the kind, and one \
that both have needs --model.

The last checkpoint to go ends the tracking: the next backup must be full.

A bitmap that was not stored when its writer ended is inconsistent, and nothing can restore it. --force-inconsistent \
deletes such a checkpoint together with all older ones, whose answers needed it; --all-inconsistent does so for all of \
them in one step. Where several are named with --force-inconsistent, those that need it go first in this way, and the others \
are then deleted as ever, which loses nothing.

Where layers below the image know a checkpoint too, each of them is changed, one file after the other. A stop between two \
of them makes no diff short, and the same command finishes the work.";

pub(crate) const DELETE_AFTER: &str = "\
Examples:
    checkmap delete disk.qcow2 tue --dry-run
    checkmap delete disk.qcow2 tue
    checkmap delete disk.qcow2 mon..thu sat
    checkmap delete disk.qcow2 --all-inconsistent";

pub(crate) const DROP: &str = "\
Drops bitmaps without joining them to others. What they recorded is lost, and it is said which diffs need it.

Where a bitmap is missing, by somebody else's hand, the chain has a gap: no diff can cross it, and the checkpoints on both \
sides stay as good as they were. --before takes away what lies before a checkpoint, and makes it the first one:

    before              |---'mon'----|   (gap)    |-'tue->wed'-|-'wed->thu'-->
    drop --before wed                             |---'wed'----|-'wed->thu'-->

--bitmap drops one bitmap by its own name, where nothing else can: one that is unreadable, of an unknown kind, or in the \
way of a chain. --all drops the whole bitmap directory, also where damage in it keeps a machine from starting. It names \
bitmaps that belong to no checkpoint, and needs --yes for them. What nothing else uses is freed; what cannot be known stays \
counted as used, and 'qemu-img check -r leaks' gives it back.";

pub(crate) const DROP_AFTER: &str = "\
Examples:
    checkmap drop disk.qcow2 --before wed
    checkmap drop disk.qcow2 --bitmap 'mon->tue' --dry-run
    checkmap drop disk.qcow2 --all";

pub(crate) const RENAME: &str = "\
Gives a checkpoint another name: the bitmaps that carry the old one are renamed, their content stays.

Where layers below the image know the checkpoint too, each of them is changed, one file after the other. A stop between two \
of them makes no diff short, and the same command finishes the work.

A libvirt domain that knows the checkpoint goes on looking for the old name.";

pub(crate) const DIFF: &str = "\
Shows which blocks changed since a checkpoint: until now, or until a younger checkpoint. The answer is the union of the \
bitmaps in between:

    checkpoints   mon          tue          wed          (now)
    bitmaps       |---'mon'----|-'mon->tue'-|-'tue->wed'--->
    --since tue                |===========================>
    --since mon --until wed
                  |=========================|

It is refused wherever the answer could be short: a bitmap of the span is missing, inconsistent or did not record \
throughout, or a layer below the image cannot be read.

An image with backing files is one disk: the bitmaps of every layer count that took part. A layer that was put on top within \
the span counts with all that it holds as well, as no bitmap proves that it recorded from its first write on.

After a disk was shrunk and grown again the image cannot tell: keep the virtual_size of the last backup, compare, and \
make a full backup after any shrink. A disk that only grew is fine; its new end reads as zeros until it is written.";

pub(crate) const DIFF_AFTER: &str = "\
Examples:
    checkmap diff disk.qcow2 --since mon
    checkmap diff disk.qcow2 --since mon --summary
    checkmap diff disk.qcow2 --since mon --until tue --json
    checkmap diff disk.qcow2 --since mon --format csv -o changes.csv
    checkmap diff disk.qcow2 --since mon --start 1G --length 64M
    checkmap diff disk.qcow2 --since mon --each-interval --format parquet -o changes.parquet";

pub(crate) const DUMP: &str = "\
Shows one bitmap as it is stored, by its own name, whatever it means to the checkpoints. For what changed between \
checkpoints use diff.

With an NBD URI in the place of the image it shows a bitmap that a server exports, such as a running QEMU or qemu-nbd -B; \
--context names it. A file whose name looks like a URI is given with ./ before it. NBD does not tell the granularity of a \
bitmap: the answer has the largest power of two from 512 to 64K of which all bounds between dirty and clean are multiples, \
or that of --granularity. The dirty bytes are those of the bitmap either way, only rounded outward where --granularity is \
coarser.";

pub(crate) const DUMP_AFTER: &str = "\
Examples:
    checkmap dump disk.qcow2 --bitmap 'mon->tue'
    checkmap dump disk.qcow2 --bitmap 'mon->tue' --format raw -o bits.raw
    checkmap dump 'nbd+unix:///disk?socket=/run/nbd.sock' --context 'qemu:dirty-bitmap:mon->tue' --json
    checkmap dump nbd://backup.example/disk --context qemu:dirty-bitmap:mon --summary";

pub(crate) const RECOVER: &str = "\
Ends a step of create, delete or rename with --also that a kill or a power cut interrupted: on all its images, found by any of \
them. The next create, delete, rename, drop or merge of such an image does the same before it begins.

Where nothing has written to any of the images since, the step is finished on those that lack it. Else a checkpoint that it \
created is taken out of all, its bits merged back, so that no block is missed: create it again. Checkpoints that were deleted or \
renamed stay as they are on each image, and it is said where. The other images must be there, and no QEMU may have them open.";

pub(crate) const COMPARE: &str = "\
Tells whether two bitmaps mark the same bytes of a disk: two of one image, the same one in an image and its copy, in two running \
QEMUs, or in a segment. The status is 0 where they do and 1 where they do not.

The content is compared byte by byte of the disk, so the granularities may differ. Beside it stands the SHA-256 that QEMU computes \
(x-debug-block-dirty-bitmap-sha256): of the bits, least significant first, in zeros up to a multiple of 8 bytes. Size and granularity \
are not part of it, so the hashes of two granularities differ whatever they mark.

With --hash-only, and with --sha256, the hashes alone are compared. A running QEMU computes its own then, and no bit is moved: so a \
copy or a migration is proved from afar. Ask while the machine is stopped, or of bitmaps that do not record: one that records \
changes with each write of the guest.";

pub(crate) const COMPARE_AFTER: &str = "\
Examples:
    checkmap compare disk.qcow2 copy.qcow2 --bitmap 'mon->tue'
    checkmap compare disk.qcow2 --bitmap mon --other-bitmap 'mon->tue'
    checkmap compare disk.qcow2 changes.segment --since mon
    checkmap compare --qmp /run/a.sock --node vda --bitmap mon --other-qmp /run/b.sock --hash-only
    checkmap compare copy.qcow2 --bitmap mon --sha256 $(checkmap dump disk.qcow2 --bitmap mon --format sha256)";

pub(crate) const SERVE: &str = "\
Serves a disk as its guest reads it, over all its layers, and the map of what changed since a checkpoint, to any NBD client: \
nbdcopy, nbdinfo, qemu-img, backup programs. The contexts are base:allocation and qemu:dirty-bitmap:NAME; clients can only \
read. Several can connect at once.

The image and all files below it stay locked against writers until the end. Each file that is read is printed first. An \
image that is one by its content alone, because the layer above does not record its format, may name no other file: its \
guest can have written that name.

Images that are encrypted, compressed by zstd, or of kinds that checkmap does not read itself are read through a private \
qemu-nbd, which ends with checkmap.

A disk of a running hypervisor is served as of one moment, while the guest writes on: --checkpoint names the new checkpoint \
that is made at that moment. Blocks that the guest overwrites meanwhile are copied to a scratch image. If that is full the guest \
goes on, every read fails, the new checkpoint is merged into the one before, and the status is 1.

Without --run it ends with SIGINT or SIGTERM, with status 0.";

pub(crate) const SERVE_AFTER: &str = "\
Examples:
    checkmap serve disk.qcow2 --since mon --socket /run/backup.sock
    checkmap serve disk.qcow2 --since mon --run 'nbdcopy \"$uri\" full.raw'
    checkmap serve disk.qcow2 --since mon --run 'nbdinfo --map=qemu:dirty-bitmap:checkmap --json \"$uri\"'
    checkmap serve disk.qcow2 --since mon --bitmap-name backup-vda --socket /run/backup.sock
    checkmap serve --qmp /run/vm/qmp.sock --node vda --since mon --checkpoint tue --run 'nbdcopy \"$uri\" vda.raw'";

pub(crate) const RESTORED_FORMATS: &str = "the formats are qcow2 and raw";

pub(crate) const BACKUP: &str = "\
Takes a backup of each disk into the directory DIR, which keeps many moments of many disks. The first backup of a disk is full, \
without what the disk has not allocated; later ones hold what changed since the last complete one in DIR. Each is a qcow2 image over \
the one before it, so `qemu-img convert DIR/DISK/CHECKPOINT.qcow2 OUT` restores it without checkmap; checksums of every extent lie \
beside it, and backup.json tells what there is.

The checkpoint is made on every disk before anything is read. If a disk fails, its new checkpoint is merged into the one before, and \
nothing is lost; whenever checkmap or the machine stops, the next run clears what is left. Once the backup is complete, the older \
checkpoints that DIR made are dropped from the disk.

It is full again, with the reason, where an increment would be wrong: the chain of checkpoints ended, a bitmap is inconsistent, a \
file of DIR is missing or damaged. A disk that can keep no checkpoint is copied whole each time.

Disks of a running machine (--qmp, --libvirt) are copied as they were at one moment, that of the checkpoint, while the guest writes on. \
Before the guest overwrites a block, QEMU copies it to a scratch image below --scratch. No write of the guest fails for that, or waits \
longer than ten seconds: if the scratch is full, the moment is lost, the exit status is 1, and the next run has all changes. Where \
checkmap is killed, the moment stays in the machine, and the next run with the same DIR backs it up; --abandon gives it up. Until the \
moment ends, QEMU refuses to resize the disks, may refuse snapshots, and discards of the guest may do nothing.

DIR and the scratch have mode 0700: they hold plaintext, also of disks that are encrypted.

The exit status is 1 where not all disks are done; each that is done is complete.";

pub(crate) const BACKUP_AFTER: &str = "\
Examples:
    checkmap backup disk.qcow2 -o /backup/vm
    checkmap backup disk.qcow2 data.qcow2 -o /backup/vm --checkpoint mon
    checkmap backup a/disk.qcow2 b/disk.qcow2 -o /backup/vms --disk-name a/disk.qcow2=a --disk-name b/disk.qcow2=b
    checkmap backup --qmp /run/vm/qmp.sock -o /backup/vm --scratch /var/scratch --scratch-max 20G
    checkmap backup --libvirt qemu:///system --domain web -o /backup/web";

pub(crate) const PLAN: &str = "\
Tells for each disk how much a backup since CHECKPOINT has to read: what changed; what is allocated, where it cannot be told what \
changed, with the reason; or all. Nothing is changed.";

pub(crate) const PLAN_AFTER: &str = "\
Examples:
    checkmap plan disk.qcow2 data.qcow2 --since mon
    checkmap plan disk.qcow2 --since mon --json
    checkmap plan disk.qcow2 --since mon --libvirt-xml";

pub(crate) const MAP: &str = "\
Draws each disk as a grid of cells, coloured by how much of them changed since CHECKPOINT. The disk goes through the grid on a \
Hilbert curve, from the top left to the top right: what is near in the picture is near on the disk. A cell is clean only \
where nothing changed in it, and full only where all did. The largest extents are named, and numbered in an SVG.

On a terminal the picture is as wide as the terminal; NO_COLOR or --color never draws it with block characters alone. -o FILE.svg and \
-o FILE.png write an image, --json the numbers: the cells that are not clean, by their place on the disk and in the grid. A PNG has no \
words. Several disks come into one picture.";

pub(crate) const MAP_AFTER: &str = "\
Examples:
    checkmap map disk.qcow2 --since mon
    checkmap map disk.qcow2 data.qcow2 --since mon -o changes.svg
    checkmap map --qmp /run/vm/qmp.sock --since mon --until tue --json";

pub(crate) const TREND: &str = "\
Shows how much changed between the checkpoints of each disk, and how much the next increment, since the newest one, would carry if \
its bitmap had another granularity, from 4 KiB to 4 MiB; beside it the mean of the intervals before, the number of extents, and the \
memory of a bitmap. Take the coarsest granularity that does not carry much more: 'checkmap create --granularity'.

Coarser granularities are exact: the bitmap would have recorded just that. Finer ones cannot be told from what was recorded, and are \
marked as upper bounds. Cumulative checkpoints show what changed since each of them.

Several disks come into one picture, with the sum of all. --json has all numbers.";

pub(crate) const TREND_AFTER: &str = "\
Examples:
    checkmap trend disk.qcow2
    checkmap trend disk.qcow2 data.qcow2 -o trend.svg
    checkmap trend --libvirt qemu:///system --domain web --json";

pub(crate) const REPORT: &str = "\
Writes one HTML page that a browser shows without a network: for each disk the map of what changed since the newest checkpoint, or \
since CHECKPOINT, and the trend, with tables; for a backup directory the data of each moment, and a map of what the newest \
file of each disk holds. Nothing in the page runs, and nothing comes from elsewhere; it is light or dark as the reader's system is.";

pub(crate) const REPORT_AFTER: &str = "\
Examples:
    checkmap report disk.qcow2 -o report.html
    checkmap report --qmp /run/vm/qmp.sock --since mon -o report.html
    checkmap report /backup/vm -o report.html";

pub(crate) const RESTORE: &str = "\
Writes a moment of a disk to a new qcow2 image, a raw file or a device, with the size that the disk had, and compares all that it \
reads with the checksums. The new file appears in one step when it is complete.

A target that is there already is refused, unless --force; one that is in use always.";

pub(crate) const RESTORE_AFTER: &str = "\
Examples:
    checkmap restore /backup/vm -o disk.qcow2
    checkmap restore /backup/vm --at mon --disk disk.qcow2 -o mon.raw --format raw
    checkmap restore /backup/vm --disk disk.qcow2 -o /dev/vg/disk --force";

pub(crate) const VERIFY: &str = "\
Reads every file of a backup directory, compares it with its checksums, and says which files are damaged or missing and which \
moments that costs: all that lie on such a file. Faults end with exit status 1. Nothing is changed.";

pub(crate) const PRUNE: &str = "\
Gives up the moments of each disk that no rule keeps. What any rule keeps is kept, and so is the newest moment. The next kept \
moment takes in what the dropped ones alone hold: its file is written anew, and replaces the old one in one step. Where the oldest \
moments go, their full file takes in what changed, in place, and gets the name of the next kept one; --rewrite writes a new one.

Whenever it is stopped, every kept moment can be restored, and the next run that changes the directory finishes the work.";

pub(crate) const PRUNE_AFTER: &str = "\
Examples:
    checkmap prune /backup/vm --keep-last 14
    checkmap prune /backup/vm --keep-last 7 --keep-within 6m";

pub(crate) const FLEET: &str = "\
Runs a verb on each disk of MANIFEST, a JSON document:

    {\"disks\": [{\"disk\": \"web-1\", \"image\": \"/srv/web-1.qcow2\", \"host\": \"node7\", \"since\": \"mon\"},
               {\"disk\": \"db-1\", \"qmp\": \"/run/db.sock\", \"node\": \"vda\"},
               {\"disk\": \"x\", \"libvirt\": \"qemu:///system\", \"domain\": \"x\", \"node\": \"vda\"}]}

Each disk is run in a process of its own, so that the failure of one never spoils another. The verb has its arguments behind it, \
without the disk; its --since comes from the disk's entry where the command line has none. The options of fleet itself stand before VERB. \
The verbs are info, list, check, diff, dump, plan, map, trend, doctor, create, delete, rename, drop and backup.

The answers are printed as disks end, under the name of each; with --json they stand under \"result\"; with -o DIR behind the verb each has a \
file of its own, named after the disk (for backup: a backup directory). Then comes a table of the disks that are not done, and sums.

Disks of another host are left out: those whose \"host\" is not the name of this one. Two entries that lead to one disk are refused where the verb changes it.

With --state FILE each disk that has ended is noted, and the same command, run again, leaves out those that are done. SIGINT, SIGTERM and \
SIGHUP let no further disk begin; those that run are asked to stop, and waited for.

The exit status is 0 where all disks of this host are done, 1 where not all are, and 2 or 3 where nothing was begun.";

pub(crate) const FLEET_AFTER: &str = "\
Examples:
    checkmap fleet disks.json list
    checkmap fleet disks.json diff --since mon --format parquet -o changes
    checkmap fleet --state tonight.state disks.json create tue
    checkmap fleet --jobs 8 --state tonight.state disks.json backup -o /backup
    checkmap fleet --json disks.json plan --since mon";

pub(crate) const COMMIT_BITMAPS: &str = "\
Lets BASE, a layer below IMAGE, take in the checkpoints and the bits of IMAGE and of all layers between them: afterwards \
every diff of BASE contains that of IMAGE. `qemu-img commit` moves the data alone.

Run it before or after the data are committed, and again if it was stopped: bits are only added, in one step of the file \
BASE. The layers above are read, and not changed. Checkpoints that BASE lacks are added behind its newest one, and BASE \
goes on recording in the last. What a layer did not record counts with all that the layer holds.

In a running hypervisor run it before block-commit; while such a job runs it is refused. BASE is writable for the step, and \
bits are written to it over NBD by way of an empty node.

Cumulative checkpoints, as libvirt makes them, are refused: libvirt commits them itself.";

pub(crate) const COMMIT_BITMAPS_AFTER: &str = "\
Examples:
    checkmap commit-bitmaps top.qcow2 base.qcow2 --dry-run
    checkmap commit-bitmaps top.qcow2 base.qcow2 && qemu-img commit top.qcow2
    checkmap commit-bitmaps --qmp /run/vm/qmp.sock --node vda /var/lib/vm/base.qcow2";

pub(crate) const MERGE: &str = "\
The raw operation, for those who know why: a bitmap becomes the union of itself and the sources, which stay as they \
are. To delete a checkpoint use delete, which merges what has to be merged.";

pub(crate) const MERGE_AFTER: &str = "\
Example:
    checkmap merge disk.qcow2 'mon->tue' 'tue->wed' --into copy";

pub(crate) const CHECK: &str = "\
Verifies every structure and rule of the image, guest data's reference counts included, and changes nothing.

Errors, and bitmaps that cannot be used for a backup, end with exit status 1. Leaks, room that is counted as used by \
nobody, cost disk space only and end with 0.";

pub(crate) const SEGMENT: &str = "\
A segment is one bitmap in a file of checkmap's own: with a directory and checksums, so that it can be queried and merged \
without being loaded, however large it is. 'checkmap dump' and 'checkmap diff' make one with --format segment.";

pub(crate) const SEGMENT_AFTER: &str = "\
Examples:
    checkmap dump disk.qcow2 --bitmap mon --format segment -o mon.seg
    checkmap segment merge mon.seg tue.seg -o both.seg
    checkmap segment diff mon.seg both.seg --format csv
    checkmap segment check both.seg";

pub(crate) const SEGMENT_MERGE: &str = "\
Writes a new segment with everything that is dirty in any of the given ones, at the finest of their granularities. All must \
be of disks of one size. The new file may replace one of the old ones: it appears in one step, when it is complete.";

pub(crate) const SEGMENT_DIFF: &str = "\
Lists the extents that are dirty in one of two segments only, each with the side on which it is: a or b. What is dirty in \
both, or in none, is left out. Extents are compared byte by byte, so the granularities may differ. The exit status is 0 \
whether there are any or not.";
