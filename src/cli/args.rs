#![forbid(unsafe_code)]
//! Owns the arguments: every option of every subcommand, and what clap can say against them. Must never know what a
//! verb does with them.

use crate::compared::CompareArgs;
use crate::fleet::args::FleetArgs;
use crate::map::Format;
use crate::picture::args::{DrawMapArgs, ReportArgs, TrendArgs};
use crate::progress::When;
use crate::segment::SegmentArgs;
use crate::several::AlsoArgs;
use crate::target::TargetArgs;
use crate::{duration, help, size};
use checkmap::Granularity;
use checkmap::backup::TargetFormat;
use checkmap::chain::KnownModel;
use checkmap::image::Layers;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Which blocks of this disk changed between these two points in time?
#[derive(Debug, Parser)]
#[command(name = "checkmap", version, long_about = help::ABOUT, after_long_help = help::AFTER)]
#[command(max_term_width = 100, propagate_version = false)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every subcommand takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print no messages, warnings or progress, only errors
    #[arg(short, long, global = true, help_heading = "Common options")]
    pub(crate) quiet: bool,
    /// When to show progress on stderr
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        value_enum,
        default_value = "auto",
        help_heading = "Common options"
    )]
    pub(crate) progress: When,
    /// Take no locks on the image, where they do not work: you make sure that nothing else writes to it
    #[arg(long, global = true, help_heading = "Common options")]
    pub(crate) no_lock: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show an image, its bitmaps and the intervals they cover
    #[command(long_about = help::INFO, override_usage = "checkmap info [OPTIONS] IMAGE\n       checkmap info [OPTIONS] --qmp SOCKET [--node NODE]...")]
    Info(InfoArgs),
    /// List the checkpoints, oldest first
    #[command(long_about = help::LIST, override_usage = "checkmap list [OPTIONS] IMAGE\n       checkmap list [OPTIONS] --qmp SOCKET [--node NODE]...")]
    List(ListArgs),
    /// Create a checkpoint
    #[command(long_about = help::CREATE, after_long_help = help::CREATE_AFTER, override_usage = "checkmap create [OPTIONS] IMAGE CHECKPOINT [--also IMAGE]...\n       checkmap create [OPTIONS] --qmp SOCKET [--node NODE]... CHECKPOINT")]
    Create(CreateArgs),
    /// Delete checkpoints, in one step, or all that cannot be trusted
    #[command(long_about = help::DELETE, after_long_help = help::DELETE_AFTER, override_usage = "checkmap delete [OPTIONS] IMAGE CHECKPOINT... [--also IMAGE]...\n       checkmap delete [OPTIONS] IMAGE --all-inconsistent\n       checkmap delete [OPTIONS] --qmp SOCKET [--node NODE]... CHECKPOINT...")]
    Delete(DeleteArgs),
    /// Drop what lies before a checkpoint, one bitmap, or all bitmaps, damaged or not
    #[command(long_about = help::DROP, after_long_help = help::DROP_AFTER)]
    Drop(DropArgs),
    /// Rename a checkpoint
    #[command(long_about = help::RENAME, override_usage = "checkmap rename [OPTIONS] IMAGE CHECKPOINT NEW-NAME [--also IMAGE]...\n       checkmap rename [OPTIONS] --qmp SOCKET [--node NODE]... CHECKPOINT NEW-NAME")]
    Rename(RenameArgs),
    /// End a change of several images that was interrupted
    #[command(long_about = help::RECOVER)]
    Recover(RecoverArgs),
    /// Show which blocks changed between two checkpoints, or since one
    #[command(long_about = help::DIFF, after_long_help = help::DIFF_AFTER, override_usage = "checkmap diff [OPTIONS] IMAGE --since CHECKPOINT [--until CHECKPOINT]\n       checkmap diff [OPTIONS] --qmp SOCKET [--node NODE]... --since CHECKPOINT [--until CHECKPOINT]")]
    Diff(DiffArgs),
    /// Show one bitmap as it is stored, by its own name
    #[command(long_about = help::DUMP, after_long_help = help::DUMP_AFTER, override_usage = "checkmap dump [OPTIONS] IMAGE --bitmap NAME\n       checkmap dump [OPTIONS] NBD-URI --context qemu:dirty-bitmap:NAME\n       checkmap dump [OPTIONS] --qmp SOCKET [--node NODE]... --bitmap NAME")]
    Dump(DumpArgs),
    /// Compare two bitmaps, or what changed since a checkpoint, by content and by hash
    #[command(long_about = help::COMPARE, after_long_help = help::COMPARE_AFTER, override_usage = "checkmap compare [OPTIONS] IMAGE OTHER --bitmap NAME\n       checkmap compare [OPTIONS] IMAGE --bitmap NAME --other-bitmap NAME\n       checkmap compare [OPTIONS] IMAGE --bitmap NAME --sha256 HASH\n       checkmap compare [OPTIONS] --qmp SOCKET [--node NODE] --bitmap NAME [OTHER]")]
    Compare(CompareArgs),
    /// Merge bitmaps by their own names (the raw operation)
    #[command(long_about = help::MERGE, after_long_help = help::MERGE_AFTER, override_usage = "checkmap merge [OPTIONS] IMAGE SOURCE-BITMAP... --into BITMAP\n       checkmap merge [OPTIONS] --qmp SOCKET [--node NODE]... SOURCE-BITMAP... --into BITMAP")]
    Merge(MergeArgs),
    /// Let a base take in the checkpoints of the images above it, before or after their data are committed
    #[command(long_about = help::COMMIT_BITMAPS, after_long_help = help::COMMIT_BITMAPS_AFTER, override_usage = "checkmap commit-bitmaps [OPTIONS] IMAGE BASE\n       checkmap commit-bitmaps [OPTIONS] --qmp SOCKET --node NODE BASE")]
    CommitBitmaps(CommitBitmapsArgs),
    /// Serve a disk and what changed on it to NBD clients, for reading only
    #[command(long_about = help::SERVE, after_long_help = help::SERVE_AFTER, override_usage = "checkmap serve [OPTIONS] IMAGE --since CHECKPOINT --socket PATH\n       checkmap serve [OPTIONS] IMAGE --since CHECKPOINT --run COMMAND\n       checkmap serve [OPTIONS] --qmp SOCKET --node NODE --since CHECKPOINT --checkpoint NEW --run COMMAND")]
    Serve(ServeArgs),
    /// Take a backup of disks into a directory: full at first, then what changed
    #[command(long_about = help::BACKUP, after_long_help = help::BACKUP_AFTER, override_usage = "checkmap backup [OPTIONS] IMAGE... -o DIR")]
    Backup(BackupArgs),
    /// Tell how much of each disk a backup since a checkpoint has to read
    #[command(long_about = help::PLAN, after_long_help = help::PLAN_AFTER, override_usage = "checkmap plan [OPTIONS] IMAGE... --since CHECKPOINT")]
    Plan(PlanArgs),
    /// Draw where on the disks the changes are: in a terminal, as SVG or PNG
    #[command(long_about = help::MAP, after_long_help = help::MAP_AFTER, override_usage = "checkmap map [OPTIONS] IMAGE... --since CHECKPOINT\n       checkmap map [OPTIONS] --qmp SOCKET [--node NODE]... --since CHECKPOINT")]
    Map(DrawMapArgs),
    /// Show how much changed from checkpoint to checkpoint, and what an increment would carry at other granularities
    #[command(long_about = help::TREND, after_long_help = help::TREND_AFTER, override_usage = "checkmap trend [OPTIONS] IMAGE...\n       checkmap trend [OPTIONS] --qmp SOCKET [--node NODE]...")]
    Trend(TrendArgs),
    /// Write one page with pictures about disks, or about a backup directory
    #[command(long_about = help::REPORT, after_long_help = help::REPORT_AFTER, override_usage = "checkmap report [OPTIONS] IMAGE... -o FILE\n       checkmap report [OPTIONS] DIR -o FILE\n       checkmap report [OPTIONS] --qmp SOCKET [--node NODE]... -o FILE")]
    Report(ReportArgs),
    /// Restore a disk from a backup directory
    #[command(long_about = help::RESTORE, after_long_help = help::RESTORE_AFTER)]
    Restore(RestoreArgs),
    /// Read a whole backup directory, and compare it with its checksums
    #[command(long_about = help::VERIFY)]
    Verify(VerifyArgs),
    /// Give up old moments of a backup directory
    #[command(long_about = help::PRUNE, after_long_help = help::PRUNE_AFTER)]
    Prune(PruneArgs),
    /// Verify every structure and rule of an image
    #[command(long_about = help::CHECK, override_usage = "checkmap check [OPTIONS] IMAGE\n       checkmap check [OPTIONS] --qmp SOCKET [--node NODE]...")]
    Check(CheckArgs),
    /// Find where bitmaps, chains and libvirt's notes disagree, and mend it
    #[command(long_about = help::DOCTOR, after_long_help = help::DOCTOR_AFTER, override_usage = "checkmap doctor [OPTIONS] IMAGE [--libvirt-xml DIR]\n       checkmap doctor [OPTIONS] --qmp SOCKET [--node NODE]...\n       checkmap doctor [OPTIONS] --libvirt URI --domain NAME [--node NODE]...")]
    Doctor(DoctorArgs),
    /// Run a verb on each disk of a list, several at a time
    #[command(long_about = help::FLEET, after_long_help = help::FLEET_AFTER, override_usage = "checkmap fleet [OPTIONS] MANIFEST VERB [ARGS]...")]
    Fleet(FleetArgs),
    /// Work with bitmaps in files of checkmap's own, which may be larger than memory
    #[command(long_about = help::SEGMENT, after_long_help = help::SEGMENT_AFTER)]
    Segment(SegmentArgs),
    /// Print the completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual page, for man -l
    Man,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) table: TableArg,
    #[command(flatten)]
    pub(crate) sharing: Sharing,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) table: TableArg,
    #[command(flatten)]
    pub(crate) sharing: Sharing,
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) metadata: MetadataArg,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The name of the new checkpoint: 1 to 510 bytes, without '->'
    #[arg(value_name = "CHECKPOINT", required_unless_present_any = ["qmp", "libvirt"])]
    pub(crate) checkpoint: Option<OsString>,
    /// How much of the disk one bit stands for: a power of two from 512 to 2G. Default: as the newest checkpoint, else
    /// the cluster size, from 4K to 64K; larger where the disk needs it
    #[arg(long, value_name = "SIZE", value_parser = size::parse_granularity)]
    pub(crate) granularity: Option<Granularity>,
    #[command(flatten)]
    pub(crate) also: AlsoArgs,
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) dry_run: DryRun,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The checkpoints to delete, in one step; A..B is A, B and all between them
    #[arg(value_name = "CHECKPOINT", required_unless_present_any = ["all_inconsistent", "qmp", "libvirt"])]
    pub(crate) checkpoints: Vec<OsString>,
    /// Delete also those whose bitmap is inconsistent, and then all older checkpoints with them
    #[arg(long)]
    pub(crate) force_inconsistent: bool,
    /// Delete every checkpoint whose bitmap is inconsistent, and all that are older, in one step
    #[arg(long, conflicts_with_all = ["checkpoints", "force_inconsistent"])]
    pub(crate) all_inconsistent: bool,
    #[command(flatten)]
    pub(crate) also: AlsoArgs,
    #[command(flatten)]
    pub(crate) layers: LayersArg,
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) dry_run: DryRun,
}

#[derive(Debug, Args)]
pub(crate) struct DropArgs {
    /// The image: a file or a block device
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) image: PathBuf,
    #[command(flatten)]
    pub(crate) what: Dropped,
    /// With --all: bitmaps that belong to no checkpoint go too
    #[arg(long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) dry_run: DryRun,
}

/// What `drop` takes away.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Dropped {
    /// Drop the bitmaps of all checkpoints that are older than this one, also before gaps: it becomes the first
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) before: Option<OsString>,
    /// Drop one bitmap by its own name, in quotes: 'mon->tue'. It can be of any kind and in any state
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub(crate) bitmap: Option<OsString>,
    /// Drop the whole bitmap directory, damaged or not
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The checkpoint
    #[arg(value_name = "CHECKPOINT", required_unless_present_any = ["qmp", "libvirt"])]
    pub(crate) checkpoint: Option<OsString>,
    /// Its new name: 1 to 510 bytes, without '->'
    #[arg(value_name = "NEW-NAME", required_unless_present_any = ["qmp", "libvirt"])]
    pub(crate) new_name: Option<OsString>,
    #[command(flatten)]
    pub(crate) also: AlsoArgs,
    #[command(flatten)]
    pub(crate) layers: LayersArg,
    #[command(flatten)]
    pub(crate) model: ModelArg,
    #[command(flatten)]
    pub(crate) dry_run: DryRun,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// Any image of the step: a file or a block device
    #[arg(value_hint = ValueHint::FilePath)]
    pub(crate) image: PathBuf,
    /// Leave this image as it is, and end nothing: where the journal or another image of the step is lost
    #[arg(long)]
    pub(crate) forget: bool,
    #[command(flatten)]
    pub(crate) dry_run: DryRun,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The checkpoint since which
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) since: OsString,
    /// The checkpoint until which; now without it
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) until: Option<OsString>,
    /// With the formats of Parquet: each interval between two checkpoints by itself, instead of their union
    #[arg(long)]
    pub(crate) each_interval: bool,
    #[command(flatten)]
    pub(crate) map: MapArgs,
    #[command(flatten)]
    pub(crate) layers: LayersArg,
    #[command(flatten)]
    pub(crate) model: ModelArg,
}

#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// An image; or an export of an NBD server, as nbd+unix:///EXPORT?socket=PATH or nbd://HOST[:PORT]/EXPORT
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) what: Dumped,
    /// With --context: the granularity of the answer, to which it is rounded outward. NBD does not tell that of the
    /// bitmap; default: the largest power of two from 512 to 64K of which all bounds are multiples
    #[arg(long, value_name = "SIZE", value_parser = size::parse_granularity)]
    pub(crate) granularity: Option<Granularity>,
    #[command(flatten)]
    pub(crate) map: MapArgs,
}

/// The bitmap that `dump` shows.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Dumped {
    /// The bitmap's own name, in quotes: 'mon->tue'
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub(crate) bitmap: Option<OsString>,
    /// The bitmap as the NBD server names it, in quotes: 'qemu:dirty-bitmap:mon->tue'
    #[arg(long, value_name = "CONTEXT")]
    pub(crate) context: Option<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The bitmaps to merge, by their own names
    #[arg(value_name = "SOURCE-BITMAP", required_unless_present_any = ["qmp", "libvirt"])]
    pub(crate) sources: Vec<OsString>,
    /// The bitmap that takes in the others
    #[arg(long, value_name = "BITMAP", allow_hyphen_values = true)]
    pub(crate) into: OsString,
    #[command(flatten)]
    pub(crate) dry_run: DryRun,
}

#[derive(Debug, Args)]
pub(crate) struct CommitBitmapsArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The layer below that takes them in: an image file, or in a running hypervisor also the name of its node
    #[arg(value_name = "BASE", value_hint = ValueHint::FilePath, required_unless_present_any = ["qmp", "libvirt"])]
    pub(crate) base: Option<OsString>,
    #[command(flatten)]
    pub(crate) dry_run: DryRun,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The checkpoint since which changes are told
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) since: OsString,
    /// The checkpoint until which; then the map alone is served, and reads are refused
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) until: Option<OsString>,
    /// Of a disk of a running hypervisor: the new checkpoint that is made at the moment that is served
    #[arg(long, value_name = "NEW")]
    pub(crate) checkpoint: Option<OsString>,
    /// The folder for the blocks that the guest overwrites meanwhile; without it TMPDIR, or /var/tmp
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "checkpoint")]
    pub(crate) scratch: Option<PathBuf>,
    /// How much they may take; then the moment is lost, and the guest goes on. Default: half of the free room
    #[arg(long, value_name = "SIZE", value_parser = size::parse, requires = "checkpoint")]
    pub(crate) scratch_max: Option<u64>,
    /// Listen on this Unix socket; one there on which nobody listens is replaced
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) socket: Option<PathBuf>,
    /// The name of the export; the default one without it
    #[arg(long, value_name = "NAME")]
    pub(crate) export: Option<OsString>,
    /// The map of changes is offered as qemu:dirty-bitmap:NAME
    #[arg(long, value_name = "NAME", default_value = "checkmap")]
    pub(crate) bitmap_name: OsString,
    /// The file that holds the passphrase of encrypted layers
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) secret_file: Option<PathBuf>,
    /// Run this shell command with the address as $uri, and serve until it ends; its status is returned
    #[arg(long, value_name = "COMMAND", value_hint = ValueHint::CommandString)]
    pub(crate) run: Option<OsString>,
    #[command(flatten)]
    pub(crate) layers: LayersArg,
    #[command(flatten)]
    pub(crate) model: ModelArg,
}

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// More images, of disks that get a checkpoint of the same name
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub(crate) others: Vec<OsString>,
    /// The backup directory; it is made where there is none
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) output: PathBuf,
    /// The name of the checkpoint that is made [default: the time in UTC, as 20261125T020000Z]
    #[arg(long, value_name = "NAME")]
    pub(crate) checkpoint: Option<OsString>,
    /// Copy all, also where an increment could be taken; and take an image that was moved for the same disk
    #[arg(long)]
    pub(crate) full: bool,
    /// How many checkpoints of this directory stay on each disk, the new one among them
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) keep_checkpoints: u32,
    /// The name of a disk in the directory; without it, that of its file, or of the disk in its machine. Can be repeated
    #[arg(long, value_name = "IMAGE=NAME")]
    pub(crate) disk_name: Vec<OsString>,
    /// Of a running machine: the folder for the blocks that the guest overwrites meanwhile; without it TMPDIR, or /var/tmp
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) scratch: Option<PathBuf>,
    /// How much they may take; then the moment is lost, and the guest goes on. Default: half of the free room
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) scratch_max: Option<u64>,
    /// Give up a moment that an interrupted run left in the machine, instead of backing it up
    #[arg(long)]
    pub(crate) abandon: bool,
    #[command(flatten)]
    pub(crate) dry_run: DryRun,
    /// The file that holds the passphrase of encrypted layers
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) secret_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// More images
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub(crate) others: Vec<OsString>,
    /// The checkpoint since which
    #[arg(long, value_name = "CHECKPOINT")]
    pub(crate) since: OsString,
    /// Print one JSON document
    #[arg(long, conflicts_with = "libvirt_xml")]
    pub(crate) json: bool,
    /// Print libvirt's <domainbackup>, with a mode for each disk
    #[arg(long)]
    pub(crate) libvirt_xml: bool,
    /// The file that holds the passphrase of encrypted layers
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) secret_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup directory
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) directory: PathBuf,
    /// The checkpoint of the moment; the newest one without it
    #[arg(long, value_name = "NAME")]
    pub(crate) at: Option<OsString>,
    /// The disk, where the directory has several
    #[arg(long, value_name = "DISK")]
    pub(crate) disk: Option<OsString>,
    /// The new file, or a device; for several disks a folder
    #[arg(short, long, value_name = "TARGET", value_hint = ValueHint::AnyPath)]
    pub(crate) output: PathBuf,
    /// The format of the new file; a device gets the bytes of the disk
    #[arg(long, value_name = "FORMAT", value_parser = restored_format)]
    pub(crate) format: Option<TargetFormat>,
    /// Replace a file that is there, or write over a device; never one that is in use
    #[arg(long)]
    pub(crate) force: bool,
}

fn restored_format(word: &str) -> Result<TargetFormat, String> {
    TargetFormat::named(word).ok_or_else(|| help::RESTORED_FORMATS.to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The backup directory
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) directory: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// The backup directory
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) directory: PathBuf,
    /// Keep the newest N moments of each disk
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) keep_last: Option<u32>,
    /// Keep the moments that are no older: a number with h, d, w, m (31 days) or y (366 days)
    #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
    pub(crate) keep_within: Option<Duration>,
    /// Where the oldest moments go, write a new full backup instead of changing the old one in place
    #[arg(long)]
    pub(crate) rewrite: bool,
    #[command(flatten)]
    pub(crate) dry_run: DryRun,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) metadata: MetadataArg,
    /// The name of the disk in libvirt's domain, such as vda, where the documents do not tell it
    #[arg(long, value_name = "TARGET", requires = "libvirt_xml")]
    pub(crate) disk_target: Option<String>,
    /// Mend the findings: bitmaps first, then libvirt's notes
    #[arg(long, conflicts_with = "to_interval")]
    pub(crate) repair: bool,
    /// Turn cumulative checkpoints into a chain of intervals: each bitmap is frozen whole, and libvirt forgets the checkpoints
    #[arg(long)]
    pub(crate) to_interval: bool,
    #[command(flatten)]
    pub(crate) dry_run: DryRun,
    /// Print one JSON document
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) model: ModelArg,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// How a map of dirty blocks is given.
#[derive(Debug, Args)]
pub(crate) struct MapArgs {
    /// The format of the answer [default: table]
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub(crate) format: Option<Format>,
    /// The same as --format json
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the sums alone, without the extents; as a table or as JSON
    #[arg(long)]
    pub(crate) summary: bool,
    /// Write to FILE, which appears or is replaced in one step when all is on the disk
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) output: Option<PathBuf>,
    /// Look at the disk from this byte on; for raw a multiple of 8 granules
    #[arg(long, value_name = "BYTES", value_parser = size::parse, default_value = "0", hide_default_value = true)]
    pub(crate) start: u64,
    /// Look at this many bytes of the disk; to its end without it
    #[arg(long, value_name = "BYTES", value_parser = size::parse)]
    pub(crate) length: Option<u64>,
    /// With the formats of Parquet: the name of the disk in the rows; that of the image or of the node without it
    #[arg(long, value_name = "NAME")]
    pub(crate) disk: Option<OsString>,
}

/// Where libvirt keeps its checkpoints.
#[derive(Debug, Args)]
pub(crate) struct MetadataArg {
    /// The folder with libvirt's XML documents of the checkpoints: those of `virsh checkpoint-dumpxml`, or
    /// /var/lib/libvirt/qemu/checkpoint/DOMAIN
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "libvirt")]
    pub(crate) libvirt_xml: Option<PathBuf>,
}

/// How wide a table may be.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct TableArg {
    /// Show all columns and whole names, however wide the table becomes; else it fits 80 columns
    #[arg(long, conflicts_with = "json")]
    pub(crate) wide: bool,
}

/// How an image is shared with a running QEMU.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Sharing {
    /// Show names and flags even of an image that a running QEMU has open; counts are null
    #[arg(short = 'U', long, conflicts_with_all = ["qmp", "libvirt"])]
    pub(crate) force_share: bool,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct DryRun {
    /// Change nothing: print what would be done, one step a line; the exit status is that of the real run
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct LayersArg {
    /// Do not look at the backing files: you know that what they recorded does not matter
    #[arg(long)]
    top_layer_only: bool,
}

impl LayersArg {
    pub(crate) fn wanted(self) -> Layers {
        if self.top_layer_only { Layers::TopOnly } else { Layers::Check }
    }
}

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ModelArg {
    /// What the bitmaps are, where their names and flags do not tell; or which chain is meant, where an image has both
    #[arg(long, value_name = "MODEL", value_enum)]
    model: Option<ModelWord>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModelWord {
    /// Each bitmap covers the time from its checkpoint to the next
    Interval,
    /// Each bitmap records since its checkpoint
    Cumulative,
}

impl ModelArg {
    pub(crate) fn wanted(self) -> Option<KnownModel> {
        self.model.map(|model| match model {
            ModelWord::Interval => KnownModel::Interval,
            ModelWord::Cumulative => KnownModel::Cumulative,
        })
    }
}
