//! Round trips with the real tools over a matrix of images: what QEMU recorded we read, what we changed QEMU reads,
//! records into and stores again. Pairwise by default; `CHECKMAP_MATRIX=all` plays every combination.

mod support;

use checkmap::image::{Access, DiffRequest, Layers, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{Extent, Granularity, Image};
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use support::nbd::Served;
use support::random::Random;
use support::{TestImage, run};

const CLUSTERS: &[u64] = &[512, 1 << 10, 2 << 10, 4 << 10, 64 << 10, 256 << 10, 2 << 20];
const REFCOUNT_BITS: &[u64] = &[1, 2, 4, 8, 16, 32, 64];
const GRANULARITIES: &[u64] = &[512, 4 << 10, 64 << 10, 1 << 20, 1 << 31];
const SIZES: &[Size] = &[
    Size::OneGranule,
    Size::Bytes(512),
    Size::Bytes((1 << 20) + 512),
    Size::Bytes((1 << 30) - 512),
    Size::Bytes(100 << 30),
    Size::Bytes((1 << 40) + 4096 * 7 + 512),
    Size::Bytes(16 << 40),
];
const KINDS: &[Kind] = &[Kind::Plain, Kind::DataFile, Kind::ExtendedL2, Kind::Snapshot, Kind::Backing];
const MOST_IMAGES: usize = 250;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Size {
    OneGranule,
    Bytes(u64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    DataFile,
    ExtendedL2,
    Snapshot,
    Backing,
}

/// One cell of the matrix: an index into each of the lists above.
type Cell = [usize; 5];

#[derive(Clone, Copy, Debug)]
struct Case {
    cluster: u64,
    refcount_bits: u64,
    granularity: u64,
    size: u64,
    kind: Kind,
}

impl Case {
    /// The case of a cell, or `None` where QEMU cannot make such an image, or only with tables of many MiB.
    fn of(cell: Cell) -> Option<Self> {
        let granularity = GRANULARITIES[cell[2]];
        let size = match SIZES[cell[3]] {
            Size::OneGranule => granularity,
            Size::Bytes(bytes) => bytes,
        };
        let case = Self {
            cluster: CLUSTERS[cell[0]],
            refcount_bits: REFCOUNT_BITS[cell[1]],
            granularity,
            size,
            kind: KINDS[cell[4]],
        };
        let l1_bytes = size.div_ceil(case.cluster * case.cluster / 8) * 8;
        let payload = size.div_ceil(granularity).div_ceil(8);
        let possible = match case.kind {
            Kind::ExtendedL2 => case.cluster >= 16 << 10,
            Kind::Snapshot => case.refcount_bits > 1,
            // File systems end at 16 TiB or earlier.
            Kind::DataFile => size <= 1 << 40,
            _ => true,
        };
        (possible && l1_bytes <= 1 << 20 && payload <= 32 << 20).then_some(case)
    }
}

fn every_cell() -> Vec<Cell> {
    let mut cells = Vec::new();
    for cluster in 0..CLUSTERS.len() {
        for refcount in 0..REFCOUNT_BITS.len() {
            for granularity in 0..GRANULARITIES.len() {
                for size in 0..SIZES.len() {
                    for kind in 0..KINDS.len() {
                        cells.push([cluster, refcount, granularity, size, kind]);
                    }
                }
            }
        }
    }
    cells.retain(|cell| Case::of(*cell).is_some());
    cells
}

fn pairs(cell: Cell) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    (0..5).flat_map(move |a| (a + 1..5).map(move |b| (a, cell[a], b, cell[b])))
}

/// A sample in which every possible pair of values stands together at least once.
fn pairwise(random: &mut Random) -> Vec<Cell> {
    let mut cells = every_cell();
    random.shuffle(&mut cells);
    let mut open: HashSet<_> = cells.iter().flat_map(|cell| pairs(*cell)).collect();
    let mut sample = Vec::new();
    while !open.is_empty() {
        let best = cells.iter().max_by_key(|cell| pairs(**cell).filter(|pair| open.contains(pair)).count());
        let best = *best.expect("every open pair comes from a cell");
        pairs(best).for_each(|pair| {
            open.remove(&pair);
        });
        sample.push(best);
    }
    assert!(sample.len() <= MOST_IMAGES, "{} images are too many for CI", sample.len());
    sample
}

/// Plays the cells on as many threads as there are processors; each failure names its case.
fn play(cells: &[Cell], seed: u64) {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let case = Case::of(*cell).expect("only possible cells are played");
                    eprintln!("{case:?}");
                    RoundTrip::start(
                        case,
                        Random::from_seed(seed ^ cell.iter().fold(1, |hash, v| hash * 31 + *v as u64)),
                    )
                    .play();
                }
            });
        }
    });
}

#[test]
fn images_of_every_shape_survive_the_round_trip() {
    if !support::tools_are_here() {
        return;
    }
    let mut random = Random::fresh();
    let cells = if std::env::var("CHECKMAP_MATRIX").is_ok_and(|which| which == "all") {
        every_cell()
    } else {
        pairwise(&mut random)
    };
    eprintln!("{} images", cells.len());
    play(&cells, random.next());
}

/// The extents of each bitmap, by its stored name.
type Dirty = BTreeMap<String, Vec<Extent>>;

struct RoundTrip {
    case: Case,
    image: TestImage,
    random: Random,
}

impl RoundTrip {
    fn start(case: Case, random: Random) -> Self {
        let mut options = format!("cluster_size={},refcount_bits={}", case.cluster, case.refcount_bits);
        match case.kind {
            Kind::DataFile => options += ",data_file=here",
            Kind::ExtendedL2 => options += ",extended_l2=on",
            _ => {}
        }
        let image = TestImage::create(&options, &case.size.to_string());
        if case.kind == Kind::Backing {
            let base = image.folder.path().join("base.qcow2");
            run("qemu-img", &["create", "-q", "-f", "qcow2", base.to_str().expect("UTF-8"), &case.size.to_string()]);
            let path = image.path.to_str().expect("UTF-8");
            run("qemu-img", &["rebase", "-u", "-b", "base.qcow2", "-F", "qcow2", path]);
        }
        Self { case, image, random }
    }

    fn open(&self) -> Image {
        Image::open(&self.image.path, &OpenOptions::new(Access::Write))
            .unwrap_or_else(|error| panic!("{:?}: {error}", self.case))
    }

    /// The whole life of a chain of checkpoints, each step compared with what QEMU sees.
    fn play(&mut self) {
        self.image.bitmap(&["--add", "-g", &self.case.granularity.to_string()], "a");
        let written = self.write();
        let seen = self.compare("QEMU recorded", true);
        assert_eq!(seen["a"], rounded(&written, self.case.granularity, self.case.size), "{:?}", self.case);

        self.create("b", None);
        self.write();
        let other = if self.case.granularity == 1 << 20 { 64 << 10 } else { 1 << 20 };
        self.create("c", Some(other));
        self.write();
        if self.case.kind == Kind::Snapshot {
            run("qemu-img", &["snapshot".as_ref(), "-c".as_ref(), "snap".as_ref(), self.image.path.as_os_str()]);
            self.write();
        }
        let before = self.compare("QEMU recorded into ours", false);
        self.diff_is(&before, "a", None, &["a", "a->b", "b->c"]);
        self.diff_is(&before, "a", Some("c"), &["a", "a->b"]);

        self.delete("b");
        let after = self.compare("b was deleted", false);
        assert_eq!(
            after["a"],
            united(&before, &["a", "a->b"], self.case.granularity, self.case.size),
            "{:?}",
            self.case
        );
        assert_eq!(after["a->c"], before["b->c"], "{:?}", self.case);

        self.commit(|image| image.plan_rename(b"a", b"z", Layers::Check, None));
        let renamed = self.compare("a was renamed", false);
        assert_eq!((&renamed["z"], &renamed["z->c"]), (&after["a"], &after["a->c"]), "{:?}", self.case);

        // QEMU goes on with what we wrote: records, merges, disables, stores again.
        self.write();
        let before = self.compare("QEMU recorded after a rename", false);
        self.image.bitmap(&["--add", "-g", "65536", "--merge", "z", "--disable"], "foreign");
        let with_foreign = self.compare("QEMU merged ours", false);
        assert_eq!(with_foreign["foreign"], united(&before, &["z"], 65536, self.case.size), "{:?}", self.case);

        self.commit(|image| image.plan_merge(&[b"z->c"], b"foreign"));
        let merged = self.compare("we merged into QEMU's", true);
        assert_eq!(
            merged["foreign"],
            united(&with_foreign, &["foreign", "z->c"], 65536, self.case.size),
            "{:?}",
            self.case
        );
        self.image.bitmap(&["--remove"], "foreign");

        self.delete("c");
        let absorbed = self.compare("the newest was deleted", false);
        assert_eq!(
            absorbed["z"],
            united(&before, &["z", "z->c"], self.case.granularity, self.case.size),
            "{:?}",
            self.case
        );
        self.write();
        self.compare("the absorber records", false);
        self.delete("z");
        assert!(self.compare("all were deleted", false).is_empty(), "{:?}", self.case);
    }

    fn commit(&self, plan: impl Fn(&Image) -> checkmap::Result<checkmap::chain::Plan>) {
        let mut image = self.open();
        let plan = plan(&image).unwrap_or_else(|error| panic!("{:?}: {error}", self.case));
        let warnings = image.commit(&plan, &mut Unobserved).unwrap_or_else(|error| panic!("{:?}: {error}", self.case));
        assert!(warnings.is_empty(), "{:?}: {warnings:?}", self.case);
    }

    fn create(&self, name: &str, granularity: Option<u64>) {
        let granularity = granularity.map(|bytes| Granularity::from_bytes(bytes).expect("a granularity"));
        self.commit(|image| image.plan_create(name.as_bytes(), granularity, None));
    }

    fn delete(&self, name: &str) {
        self.commit(|image| image.plan_delete(name.as_bytes(), false, Layers::Check, None));
    }

    /// A few writes through QEMU, one of them at the disk's end; returns them.
    fn write(&mut self) -> Vec<Extent> {
        let sectors = self.case.size / 512;
        let mut written = vec![Extent { offset: (sectors - 1) * 512, len_bytes: 512 }];
        for _ in 0..3 {
            let offset = self.random.below(sectors);
            let len = 1 + self.random.below(sectors - offset).min(self.random.below(200));
            written.push(Extent { offset: offset * 512, len_bytes: len.min(sectors - offset) * 512 });
        }
        let kinds = ["write -P 5", "write -z", "discard"];
        let commands: Vec<String> = written
            .iter()
            .map(|extent| format!("{} {} {}", self.random.pick(&kinds), extent.offset, extent.len_bytes))
            .collect();
        self.image.io(&commands);
        written
    }

    /// Every bitmap as QEMU serves it, after we saw the same; the image is clean by QEMU's check and by ours.
    fn compare(&self, when: &str, by_map: bool) -> Dirty {
        self.image.assert_clean(&format!("{when}: {:?}", self.case));
        let image = self.open();
        let report = image.check(&mut Unobserved).expect("the check runs");
        assert_eq!(
            (report.errors, report.unusable, report.leaked_bytes),
            (0, 0, 0),
            "{when}: {:?}: {report:?}",
            self.case
        );
        let mut dirty = Dirty::new();
        for state in image.bitmaps() {
            let bitmap =
                image.read_bitmap(&state.name, 0, u64::MAX).unwrap_or_else(|error| panic!("{:?}: {error}", self.case));
            bitmap.validate().expect("the bitmap's invariants hold");
            dirty.insert(state.name.to_string_lossy().into_owned(), bitmap.extents(0, u64::MAX).collect());
        }
        drop(image);
        let listed = self.image.qemu_bitmaps();
        let names: Vec<&String> = dirty.keys().collect();
        let mut listed_names: Vec<&String> = listed.iter().map(|bitmap| &bitmap.name).collect();
        listed_names.sort();
        assert_eq!(names, listed_names, "{when}: {:?}", self.case);
        for (name, ours) in &dirty {
            let served = Served::start(&self.image.path, name);
            assert_eq!(*ours, served.dirty(), "{when}: {name}: {:?}", self.case);
            if by_map && self.case.size <= 100 << 30 {
                assert_eq!(*ours, served.dirty_by_map(), "{when}: {name}: {:?}", self.case);
            }
        }
        dirty
    }

    fn diff_is(&self, dirty: &Dirty, since: &str, until: Option<&str>, bitmaps: &[&str]) {
        let request = DiffRequest::since(since.as_bytes());
        let request = until.map_or(request, |until| request.until(until.as_bytes()));
        let diff =
            self.open().diff(&request, &mut Unobserved).unwrap_or_else(|error| panic!("{:?}: {error}", self.case));
        let ours: Vec<Extent> = diff.bitmap.extents(0, u64::MAX).collect();
        let finest = diff.bitmap.granularity().bytes();
        assert_eq!(ours, united(dirty, bitmaps, finest, self.case.size), "{:?}", self.case);
    }
}

/// The union of bitmaps, rounded outward to a granularity: computed from extents alone.
fn united(dirty: &Dirty, names: &[&str], granularity: u64, size: u64) -> Vec<Extent> {
    let all: Vec<Extent> = names.iter().flat_map(|name| dirty[*name].clone()).collect();
    rounded(&all, granularity, size)
}

fn rounded(extents: &[Extent], granularity: u64, size: u64) -> Vec<Extent> {
    let outward = |extent: &Extent| {
        let start = extent.offset / granularity * granularity;
        (start, extent.end().div_ceil(granularity).saturating_mul(granularity).min(size))
    };
    let mut ranges: Vec<(u64, u64)> = extents.iter().map(outward).collect();
    ranges.sort_unstable();
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined.into_iter().map(|(start, end)| Extent { offset: start, len_bytes: end - start }).collect()
}
