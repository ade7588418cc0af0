#![forbid(unsafe_code)]
//! Ten days of backups: QEMU writes into an image at random, every evening a checkpoint and a backup are made, and
//! checkpoints come, go and change their names in between. Every restored disk must be that of its day, byte for byte.

mod support;

use checkmap::Extent;
use checkmap::chain::KnownModel;
use checkmap::image::Access;
use std::collections::HashSet;
use std::ffi::OsStr;
use support::ours::{bytes_of, changed, copy, first_difference};
use support::random::Random;
use support::{TestImage, run};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The image and the way its checkpoints are used.
#[derive(Clone, Copy)]
struct Setup {
    options: &'static str,
    size: u64,
    /// Each new checkpoint gets one of these at random; with none, the default of 64 KiB.
    granularities: &'static [u64],
    model: KnownModel,
    /// Whether internal snapshots are taken as well, so that later writes go to other clusters.
    snapshots: bool,
}

/// A checkpoint that exists, and the day at whose end it was made.
struct Point {
    name: String,
    day: usize,
}

/// What a backup program stores.
enum Backup {
    Full(Vec<u8>),
    /// The extents that the diff since the end of day `base` names, and their content.
    Incremental {
        base: usize,
        extents: Vec<Extent>,
        data: Vec<u8>,
    },
}

/// Which checkpoint goes.
#[derive(Clone, Copy, Debug)]
enum Which {
    First,
    Middle,
    Newest,
}

/// What happens between two evenings.
#[derive(Clone, Copy)]
enum Chore {
    Writes,
    Delete,
    Rename,
    Snapshot,
}

struct Days {
    setup: Setup,
    image: TestImage,
    random: Random,
    points: Vec<Point>,
    /// The content of the disk at the end of each day.
    contents: Vec<Vec<u8>>,
    /// The writes of each day.
    written: Vec<Vec<Extent>>,
    backups: Vec<Backup>,
    deletions: Vec<Which>,
    renamings: usize,
}

impl Days {
    fn new(setup: Setup, seed: u64) -> Self {
        let image = TestImage::create(setup.options, &setup.size.to_string());
        Self {
            setup,
            image,
            random: Random::seeded(seed),
            points: Vec::new(),
            contents: Vec::new(),
            written: Vec::new(),
            backups: Vec::new(),
            deletions: Vec::new(),
            renamings: 0,
        }
    }

    fn play(&mut self, days: usize) {
        for _ in 0..days {
            self.written.push(Vec::new());
            let mut chores = vec![Chore::Writes, Chore::Writes, Chore::Rename, Chore::Delete];
            chores.extend(self.random.chance(3).then_some(Chore::Delete));
            chores.extend((self.setup.snapshots && self.random.chance(3)).then_some(Chore::Snapshot));
            self.random.shuffle(&mut chores);
            for chore in chores {
                match chore {
                    Chore::Writes => self.write(),
                    Chore::Rename => self.rename_one(),
                    Chore::Delete => self.delete_one(),
                    Chore::Snapshot => self.snapshot(),
                }
            }
            self.evening();
        }
    }

    fn today(&self) -> usize {
        self.written.len() - 1
    }

    /// A burst of writes, write-zeroes and discards by QEMU.
    fn write(&mut self) {
        let mut commands = Vec::new();
        for _ in 0..4 + self.random.below(12) {
            let extent = self.somewhere();
            let pattern = 1 + self.random.below(255);
            let verb = match self.random.below(10) {
                0 => "discard".to_owned(),
                1 => "write -z".to_owned(),
                2 => "write -z -u".to_owned(),
                _ => format!("write -P {pattern}"),
            };
            commands.push(format!("{verb} {} {}", extent.offset, extent.len_bytes));
            self.written.last_mut().expect("a day has begun").push(extent);
        }
        self.image.io(&commands);
        self.step("a burst of writes");
    }

    /// A range of the disk, most of them unaligned, and some of them at the disk's end.
    fn somewhere(&mut self) -> Extent {
        let size = self.setup.size;
        let longest = *self.random.pick(&[1, 512, 4 * KIB, 64 * KIB, size / 64]);
        let len_bytes = 1 + self.random.below(longest);
        let offset = match self.random.below(6) {
            0 => (size - 1).saturating_sub(self.random.below(2 * len_bytes)),
            // A hot area, so that the same blocks change again and again.
            1 | 2 => self.random.below(size / 16),
            3 => self.random.below(size) / (4 * KIB) * (4 * KIB),
            _ => self.random.below(size),
        };
        Extent { offset, len_bytes: len_bytes.min(size - offset) }
    }

    fn snapshot(&mut self) {
        let name = format!("snapshot of day {}", self.today());
        run("qemu-img", &["snapshot".as_ref(), "-c".as_ref(), OsStr::new(&name), self.image.path.as_os_str()]);
        self.step("an internal snapshot");
    }

    fn rename_one(&mut self) {
        if self.points.is_empty() {
            return;
        }
        let at = self.random.index(self.points.len());
        self.renamings += 1;
        let name = format!("renamed {} times", self.renamings);
        self.image.rename_checkpoint(&self.points[at].name, &name);
        self.points[at].name = name;
        self.step("a renaming");
    }

    /// Deletes the first, a middle or the newest checkpoint, each in its turn, but never the last one that is left.
    fn delete_one(&mut self) {
        if self.deletions.is_empty() {
            self.deletions = vec![Which::First, Which::Middle, Which::Newest];
            self.random.shuffle(&mut self.deletions);
        }
        let newest = self.points.len().saturating_sub(1);
        let which = *self.deletions.last().expect("filled above");
        let at = match which {
            Which::First if newest >= 1 => 0,
            Which::Newest if newest >= 1 => newest,
            Which::Middle if newest >= 2 => 1 + self.random.index(newest - 1),
            _ => return,
        };
        self.deletions.pop();
        self.delete(at);
        eprintln!("day {}: deleted the {which:?} of {} checkpoints", self.today(), newest + 1);
    }

    fn delete(&mut self, at: usize) {
        let gone = self.points.remove(at);
        self.image.delete_checkpoint(&gone.name);
        self.step("a deletion");
    }

    /// The day ends: a checkpoint, a backup since an earlier one, and the proof.
    fn evening(&mut self) {
        let day = self.today();
        self.contents.push(self.image.content());
        let base = match self.points.len() {
            0 => None,
            points if self.random.chance(3) => Some(self.random.index(points)),
            points => Some(points - 1),
        };
        let before = base.map(|base| self.image.changed(&self.points[base].name, None));

        let name = format!("day {day}");
        let granularity = (!self.setup.granularities.is_empty()).then(|| *self.random.pick(self.setup.granularities));
        self.image.create_checkpoint(&name, granularity, Some(self.setup.model));
        self.points.push(Point { name, day });
        self.step("a new checkpoint");

        self.backups.push(match (base, before) {
            (Some(base), Some(before)) => {
                let extents = self.diff(base, self.points.len() - 1);
                assert_eq!(extents, before, "nothing was written while the checkpoint was made");
                self.incremental(self.points[base].day, extents)
            }
            _ => Backup::Full(self.contents[day].clone()),
        });
        let restored = self.restore(day);
        self.assert_disk_of_day(day, &restored, "the restored chain of backups");
        self.prove_past_diffs();
    }

    /// What our diff between two checkpoints names; the later one is the newest in the cumulative model, and nothing
    /// has been written since.
    fn diff(&self, since: usize, until: usize) -> Vec<Extent> {
        let image = self.image.open(Access::Read);
        let until_name = (self.setup.model == KnownModel::Interval).then_some(self.points[until].name.as_str());
        let extents = changed(&image, &self.points[since].name, until_name);
        self.assert_only_written(&extents, self.points[since].day, self.points[until].day);
        extents
    }

    fn incremental(&self, base: usize, extents: Vec<Extent>) -> Backup {
        let content = self.contents.last().expect("a day has ended");
        let data = extents.iter().flat_map(|extent| &content[bytes_of(*extent)]).copied().collect();
        Backup::Incremental { base, extents, data }
    }

    /// A full backup, and then every increment on the way to `day`.
    fn restore(&self, day: usize) -> Vec<u8> {
        match &self.backups[day] {
            Backup::Full(disk) => disk.clone(),
            Backup::Incremental { base, extents, data } => {
                let mut disk = self.restore(*base);
                let mut rest = data.as_slice();
                for extent in extents {
                    let range = bytes_of(*extent);
                    let (own, after) = rest.split_at(range.len());
                    disk[range].copy_from_slice(own);
                    rest = after;
                }
                disk
            }
        }
    }

    /// The disk of an earlier checkpoint and the blocks changed until a later one, with the later one's content, are the
    /// disk of the later one.
    fn prove_past_diffs(&mut self) {
        for _ in 0..3 {
            let newest = self.points.len() - 1;
            let since = self.random.index(newest + 1);
            let until = match self.setup.model {
                KnownModel::Cumulative => newest,
                _ => since + self.random.index(newest + 1 - since),
            };
            let extents = self.diff(since, until);
            let (from, to) = (self.points[since].day, self.points[until].day);
            let mut disk = self.contents[from].clone();
            copy(&extents, &self.contents[to], &mut disk);
            self.assert_disk_of_day(to, &disk, &format!("the disk of day {from} with the blocks changed since"));
        }
    }

    fn assert_disk_of_day(&self, day: usize, disk: &[u8], what: &str) {
        if let Some(at) = first_difference(disk, &self.contents[day]) {
            panic!("{what} differs from the disk of day {day} at byte {at}");
        }
    }

    /// A diff names nothing that was not written after day `from` until the end of day `to`, but for rounding.
    fn assert_only_written(&self, extents: &[Extent], from: usize, to: usize) {
        // A deletion can have spread the bits of a coarse bitmap, long gone, over a finer one.
        let coarsest = self.setup.granularities.iter().copied().max().unwrap_or(64 * KIB);
        let granules = |extent: &Extent| extent.offset / coarsest..extent.end().div_ceil(coarsest);
        let written: HashSet<u64> = self.written[from + 1..=to].iter().flatten().flat_map(granules).collect();
        for extent in extents {
            let unwritten = granules(extent).find(|granule| !written.contains(granule));
            assert_eq!(unwritten, None, "{extent:?} was not written between days {from} and {to}");
        }
    }

    /// After every step the image is sound and has the checkpoints it should have.
    fn step(&self, what: &str) {
        let when = format!("{what} on day {}", self.today());
        self.image.assert_sound(&when);
        let mut found = self.image.checkpoints();
        let mut expected: Vec<&str> = self.points.iter().map(|point| point.name.as_str()).collect();
        if self.setup.model == KnownModel::Cumulative {
            // Nothing stores their order.
            found.sort_unstable();
            expected.sort_unstable();
        }
        assert_eq!(found, expected, "after {when}");
    }
}

/// Plays ten days, in as many rounds as `CHECKMAP_ROUNDS` says, or one.
fn ten_days(setup: Setup, seed: u64) {
    if !support::tools_are_here() {
        return;
    }
    let rounds = std::env::var("CHECKMAP_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    for round in 0..rounds {
        Days::new(setup, seed + 100 * round).play(10);
    }
}

/// What QEMU and the library do where nothing else is asked for.
const PLAIN: Setup =
    Setup { options: "", size: 16 * MIB + 7 * 512, granularities: &[], model: KnownModel::Interval, snapshots: false };

#[test]
fn every_day_is_restored_from_an_image_of_qemus_defaults() {
    ten_days(Setup { size: 64 * MIB + 7 * 512, snapshots: true, ..PLAIN }, 1);
}

#[test]
fn every_day_is_restored_with_the_smallest_clusters_and_granules() {
    let options = "cluster_size=512";
    ten_days(Setup { options, size: 3 * MIB + 512, granularities: &[512], snapshots: true, ..PLAIN }, 2);
}

#[test]
fn every_day_is_restored_from_an_external_data_file() {
    let options = "data_file=here,cluster_size=4096";
    ten_days(Setup { options, granularities: &[4 * KIB], ..PLAIN }, 3);
}

#[test]
fn every_day_is_restored_with_extended_l2_entries_and_granules_of_a_mebibyte() {
    let options = "extended_l2=on,cluster_size=128k";
    ten_days(Setup { options, size: 24 * MIB + 7 * 512, granularities: &[MIB], ..PLAIN }, 4);
}

#[test]
fn every_day_is_restored_though_each_checkpoint_has_another_granularity() {
    let options = "cluster_size=16k,refcount_bits=1";
    ten_days(Setup { options, granularities: &[512, 4 * KIB, 64 * KIB, 2 * MIB], ..PLAIN }, 5);
}

#[test]
fn every_day_is_restored_with_cumulative_checkpoints() {
    ten_days(Setup { model: KnownModel::Cumulative, snapshots: true, ..PLAIN }, 6);
}

#[test]
fn every_day_is_restored_with_cumulative_checkpoints_of_different_granularity() {
    let options = "cluster_size=1k";
    let granularities = &[512, 8 * KIB, MIB];
    ten_days(Setup { options, granularities, model: KnownModel::Cumulative, ..PLAIN }, 7);
}

#[test]
fn after_the_last_checkpoint_is_gone_a_full_backup_begins_a_new_chain() {
    if !support::tools_are_here() {
        return;
    }
    let mut days = Days::new(Setup { options: "cluster_size=2M", ..PLAIN }, 8);
    days.play(4);
    while !days.points.is_empty() {
        let at = days.random.index(days.points.len());
        days.delete(at);
    }
    assert!(days.image.qemu_bitmaps().is_empty());
    days.play(4);
    let full = days.backups.iter().filter(|backup| matches!(backup, Backup::Full(_))).count();
    assert_eq!(full, 2, "the first backup of each of the two chains is full, and no other");
}
