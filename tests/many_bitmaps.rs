//! Images with many bitmaps: each is read once and no more of them than the answer needs, in bounded memory, and a plan
//! is good for the image it was made for. Work is counted, since time is nobody's promise.

#[path = "support/counting.rs"]
mod counting;
mod support;

use checkmap::chain::{Chain, Model, Name};
use checkmap::image::{Access, DiffRequest, Layers, Scope};
use checkmap::io::Storage;
use checkmap::progress::{Step, Unobserved};
use checkmap::{Bitmap, ErrorKind, Granularity, Image};
use counting::alone;
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use support::memory::{Memory, open};

const CLUSTER: usize = 512;
const RECORDING: u32 = 2;

/// A bitmap as it will stand in the image: name, flags, the logarithm of its granularity, and its bits.
struct Drawn {
    name: String,
    flags: u32,
    granularity_bits: u8,
    bits: Vec<u8>,
}

/// An image of the format's own bytes, with clusters of 512 bytes, and the clusters that hold bits of bitmaps.
fn image(size_bytes: u64, bitmaps: &[Drawn]) -> (Vec<u8>, Vec<usize>) {
    image_of(CLUSTER, size_bytes, bitmaps)
}

/// The same with clusters of any size.
fn image_of(cluster: usize, size_bytes: u64, bitmaps: &[Drawn]) -> (Vec<u8>, Vec<usize>) {
    let mut file = vec![0; cluster];
    let mut add = |bytes: &[u8]| {
        let first = file.len() / cluster;
        file.extend(bytes);
        file.resize(file.len().next_multiple_of(cluster), 0);
        first
    };
    let l1_entries = usize::try_from(size_bytes).expect("small").div_ceil(cluster * cluster / 8).max(1);
    let l1 = add(&vec![0; l1_entries * 8]);
    let (mut directory, mut data) = (Vec::new(), Vec::new());
    for Drawn { name, flags, granularity_bits, bits } in bitmaps {
        let granules = usize::try_from(size_bytes.div_ceil(1 << granularity_bits)).expect("small");
        let parts = bits.chunks(cluster).map(|part| match part.iter().all(|byte| *byte == 0) {
            true => 0,
            false => {
                data.push(add(part));
                data[data.len() - 1] * cluster
            }
        });
        let mut table: Vec<u8> = parts.flat_map(|offset| (offset as u64).to_be_bytes()).collect();
        table.resize(granules.div_ceil(8 * cluster) * 8, 0);
        directory.extend(((add(&table) * cluster) as u64).to_be_bytes());
        directory.extend(u32::try_from(table.len() / 8).expect("small").to_be_bytes());
        directory.extend(flags.to_be_bytes());
        directory.extend([1, *granularity_bits]);
        directory.extend(u16::try_from(name.len()).expect("short").to_be_bytes());
        directory.extend([0; 4]);
        directory.extend(name.as_bytes());
        directory.resize(directory.len().next_multiple_of(8), 0);
    }
    let directory_at = add(&directory);
    // Each block counts as many clusters as it has numbers of 16 bits, those of the refcounts among them.
    let counted = cluster / 2;
    let used = file.len() / cluster;
    let (mut blocks, mut table) = (0, 0);
    while (used + blocks + table).div_ceil(counted) > blocks {
        blocks += 1;
        table = (blocks * 8).div_ceil(cluster);
    }
    let is_used = |at: usize| u16::from(at < used + blocks + table).to_be_bytes();
    file.extend((0..blocks * counted).flat_map(is_used));
    file.extend((used..used + blocks).flat_map(|at| ((at * cluster) as u64).to_be_bytes()));
    file.resize((used + blocks + table) * cluster, 0);
    let mut header = Vec::new();
    let offset = |number: usize| ((number * cluster) as u64).to_be_bytes();
    header.extend(b"QFI\xfb\0\0\0\x03");
    header.extend([0; 12]);
    header.extend(cluster.ilog2().to_be_bytes());
    header.extend(size_bytes.to_be_bytes());
    header.extend([0; 4]);
    header.extend(u32::try_from(l1_entries).expect("small").to_be_bytes());
    header.extend(offset(l1));
    header.extend(offset(used + blocks));
    header.extend(u32::try_from(table).expect("small").to_be_bytes());
    header.extend([0; 12 + 16]);
    header.extend(1_u64.to_be_bytes());
    header.extend(4_u32.to_be_bytes());
    header.extend(104_u32.to_be_bytes());
    header.extend(0x2385_2875_u32.to_be_bytes());
    header.extend(24_u32.to_be_bytes());
    header.extend(u32::try_from(bitmaps.len()).expect("few").to_be_bytes());
    header.extend([0; 4]);
    header.extend((directory.len() as u64).to_be_bytes());
    header.extend(offset(directory_at));
    file[..header.len()].copy_from_slice(&header);
    (file, data)
}

/// Counts how often each cluster is read.
#[derive(Debug)]
struct Watched {
    file: Memory,
    reads: Mutex<BTreeMap<usize, usize>>,
}

impl Watched {
    fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { file: Memory::new(bytes), reads: Mutex::default() })
    }

    fn reads(&self) -> MutexGuard<'_, BTreeMap<usize, usize>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often each of these clusters was read since this was last asked.
    fn reads_of(&self, clusters: &[usize]) -> Vec<usize> {
        let reads = std::mem::take(&mut *self.reads());
        clusters.iter().map(|cluster| reads.get(cluster).copied().unwrap_or_default()).collect()
    }
}

impl Storage for Watched {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let first = usize::try_from(offset).expect("small") / CLUSTER;
        let last = (usize::try_from(offset).expect("small") + buffer.len().max(1) - 1) / CLUSTER;
        (first..=last).for_each(|cluster| *self.reads().entry(cluster).or_default() += 1);
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        self.file.truncate(len_bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }

    fn can_grow(&self) -> bool {
        true
    }
}

const MIB: u64 = 1 << 20;

/// Cumulative checkpoints, the oldest with the largest number; nothing was written between some of them.
fn cumulative(count: usize) -> Vec<Drawn> {
    let draw = |number: usize| {
        let bits = (0..256).map(|at| if at * count < (number / 2 + 1) * 256 { 0xff } else { 0 }).collect();
        Drawn { name: format!("c{number:05}"), flags: RECORDING, granularity_bits: 9, bits }
    };
    (0..count).map(draw).collect()
}

/// A chain of intervals, the first `1`, whose bits this gives for each byte of each.
fn intervals(count: usize, granularity_bits: impl Fn(usize) -> u8, bits: impl Fn(usize) -> Vec<u8>) -> Vec<Drawn> {
    let draw = |number: usize| Drawn {
        name: if number == 0 { "0".into() } else { format!("{}->{number}", number - 1) },
        flags: if number + 1 == count { RECORDING } else { 0 },
        granularity_bits: granularity_bits(number),
        bits: bits(number),
    };
    (0..count).map(draw).collect()
}

#[test]
fn what_does_not_need_the_bits_reads_none_and_what_does_reads_them_once() {
    let _alone = alone();
    let (bytes, data) = image(MIB, &cumulative(40));
    assert_eq!(data.len(), 40);
    let file = Watched::new(bytes);
    let image = open(&file, Access::Write).expect("an image");
    let chain = image.chain(None).expect("a chain");
    assert_eq!((chain.model(), chain.checkpoints().len()), (Model::Cumulative, 40));
    image.plan_create(b"new", None, None).expect("a plan");
    image.plan_delete(b"c00007", false, Layers::Check, None).expect("a plan");
    image.plan_rename(b"c00007", b"other", Layers::Check, None).expect("a plan");
    image.plan_merge(&[b"c00001"], b"c00002").expect("a plan");
    assert_eq!(file.reads_of(&data), [0; 40], "a plan reads no bits");

    image.diff(&DiffRequest::since(b"c00007"), &mut Unobserved).expect("a diff");
    let reads = file.reads_of(&data);
    assert_eq!((reads[7], reads.iter().sum()), (1, 1), "a diff reads its own bitmap");

    for scope in [Scope::Bitmaps, Scope::Checkpoints] {
        let overview = image.overview(None, scope, &mut Unobserved).expect("an overview");
        assert_eq!(file.reads_of(&data), [1; 40], "each is read once");
        let chain = overview.chain.as_ref().expect("a chain");
        assert!(overview.damage().next().is_none() && !chain.is_ordered());
        let order: Vec<&[u8]> = chain.checkpoints().iter().map(|checkpoint| checkpoint.name.as_bytes()).collect();
        assert_eq!(order[..4], [b"c00038", b"c00039", b"c00036", b"c00037"]);
        for checkpoint in chain.checkpoints() {
            assert_eq!(overview.summary(&checkpoint.bitmap), image.summarize(&checkpoint.bitmap).expect("a summary"));
        }
        file.reads_of(&data);
    }
}

#[test]
fn names_and_a_damaged_bitmap_do_not_keep_the_rest_from_being_shown() {
    let _alone = alone();
    let (mut bytes, data) = image(MIB, &cumulative(6));
    let names_only = open(&Watched::new(bytes.clone()), Access::Names).expect("an image");
    let overview = names_only.overview(None, Scope::Bitmaps, &mut Unobserved).expect("an overview");
    assert_eq!(overview.summary(&Name::new("c00003")), checkmap::image::Summary::default());
    assert!(!overview.chain.expect("a chain").is_ordered());

    // The table of the bitmap whose data comes first follows it; its entry is bent.
    bytes[(data[3] + 1) * CLUSTER + 7] |= 2;
    let file = Watched::new(bytes);
    let damaged = open(&file, Access::Read).expect("an image");
    let overview = damaged.overview(None, Scope::Bitmaps, &mut Unobserved).expect("an overview");
    let errors: Vec<ErrorKind> = overview.damage().map(checkmap::Error::kind).collect();
    assert_eq!(errors, [ErrorKind::Damaged]);
    assert!(overview.summary(&Name::new("c00002")).dirty_bytes.is_some());
    assert!(!overview.chain.expect("a chain").is_ordered());
}

/// Something that reads an image under an observer.
type Reading<'a> = &'a dyn Fn(&Image, &mut dyn FnMut(Step) -> ControlFlow<()>);

#[test]
fn an_observer_stops_an_overview_and_a_diff_at_every_step() {
    let _alone = alone();
    let run = |file: &Arc<Watched>, stop_at: usize, what: Reading<'_>| {
        let mut steps = 0;
        let mut observer = |step: Step| {
            assert!(step.done <= step.total, "{step:?}");
            steps += 1;
            if steps > stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        what(&open(file, Access::Read).expect("an image"), &mut observer);
        steps
    };
    let (cumulative, _) = image(MIB, &cumulative(20));
    let (chain, _) = image(MIB, &intervals(20, |_| 9, |number| vec![1 << (number % 8); 256]));
    let overview = |stopped: bool| {
        move |image: &Image, mut observer: &mut dyn FnMut(Step) -> ControlFlow<()>| {
            let answer = image.overview(None, Scope::Checkpoints, &mut observer);
            assert_eq!(answer.err().map(|error| error.kind()), stopped.then_some(ErrorKind::Cancelled));
        }
    };
    let diff = |stopped: bool| {
        move |image: &Image, mut observer: &mut dyn FnMut(Step) -> ControlFlow<()>| {
            let answer = image.diff(&DiffRequest::since(b"0"), &mut observer);
            assert_eq!(answer.err().map(|error| error.kind()), stopped.then_some(ErrorKind::Cancelled));
        }
    };
    let (cumulative, chain) = (Watched::new(cumulative), Watched::new(chain));
    let all = run(&cumulative, usize::MAX, &overview(false));
    assert!(all >= 20 + 19, "{all} steps: one for each bitmap, and one for each comparison");
    (0..all).for_each(|stop_at| assert_eq!(run(&cumulative, stop_at, &overview(true)), stop_at + 1));
    let all = run(&chain, usize::MAX, &diff(false));
    assert!(all >= 20, "{all} steps");
    (0..all).for_each(|stop_at| assert_eq!(run(&chain, stop_at, &diff(true)), stop_at + 1));
}

/// The dirty bytes of a disk, one flag for each smallest unit.
fn naive(drawn: &[Drawn], unit_bits: u8, units: usize) -> Vec<bool> {
    let dirty = |unit: usize| {
        drawn.iter().any(|bitmap| {
            let granule = unit >> (bitmap.granularity_bits - unit_bits);
            bitmap.bits.get(granule / 8).is_some_and(|byte| byte >> (granule % 8) & 1 == 1)
        })
    };
    (0..units).map(dirty).collect()
}

#[test]
fn a_bitmap_and_a_diff_are_cut_to_the_window_they_are_asked_for() {
    let _alone = alone();
    let size = 3 * MIB - 1024;
    let drawn = intervals(
        4,
        |number| [10, 12, 9, 11][number],
        |number| {
            let bytes = (size >> [10, 12, 9, 11][number]).div_ceil(8);
            let mut bits: Vec<u8> =
                (0..bytes).map(|at| if at % (number as u64 + 2) == 0 { 0b1001_0111 } else { 0 }).collect();
            let used = size.div_ceil(1 << [10, 12, 9, 11][number]) % 8;
            if let (Some(last), 1..) = (bits.last_mut(), used) {
                *last &= (1 << used) - 1;
            }
            bits
        },
    );
    let (bytes, _) = image(size, &drawn);
    let image = open(&Watched::new(bytes), Access::Read).expect("an image");
    let units = usize::try_from(size / 512).expect("small");
    let truth = naive(&drawn, 9, units);
    let windows =
        [(0, u64::MAX), (0, 1), (size - 1, 1), (size, 5), (700_000, 0), (512, 1024), (5000, 3), (1 << 20, 77_777)];
    for (offset, len_bytes) in windows {
        let request = DiffRequest::since(b"0").window(offset, len_bytes);
        let diff = image.diff(&request, &mut Unobserved).expect("a diff").bitmap;
        assert_eq!(diff.granularity().bits(), 9);
        let end = offset.saturating_add(len_bytes).min(size);
        for (unit, dirty) in truth.iter().enumerate() {
            let start = unit as u64 * 512;
            let touches = start < end && start + 512 > offset && offset < end;
            assert_eq!(diff.get(start).expect("inside"), *dirty && touches, "{start} in {offset}+{len_bytes}");
        }
        for bitmap in &drawn {
            let name = Name::new(bitmap.name.as_str());
            let stored = image.read_bitmap(&name, offset, len_bytes).expect("a bitmap");
            let mut whole = image.read_bitmap(&name, 0, u64::MAX).expect("a bitmap");
            assert!(stored.extents(offset, len_bytes).eq(whole.extents(offset, len_bytes)), "nothing is missing");
            let granule = stored.granularity().bytes();
            let inside = |extent: checkmap::Extent| extent.offset + granule > offset && extent.end() < end + granule;
            assert!(stored.extents(0, u64::MAX).all(|extent| len_bytes > 0 && inside(extent)), "nothing is too much");
            whole.keep(offset, len_bytes).expect("memory");
            assert_eq!(stored, whole);
        }
    }
}

#[test]
fn a_diff_takes_as_much_memory_as_it_is_allowed_and_says_the_same() {
    let _alone = alone();
    // Bitmaps of 256 chunks, in each of which a third of the granules is dirty.
    let size = 256 << 25;
    let bits: Vec<u8> = (0..256 * 8192).map(|at| [0x55, 0x11, 0x42][at % 3]).collect();
    let small = |number: usize| vec![1 << (number % 8); 700];
    let (few, _) = image(size >> 8, &intervals(48, |number| [9, 12, 10][number % 3], small));
    let image = open(&Arc::new(Memory::new(few)), Access::Read).expect("an image");
    let whole = |memory: u64| {
        let request = DiffRequest::since(b"0").memory_bytes(memory);
        image.diff(&request, &mut Unobserved).expect("a diff").bitmap
    };
    let answer = whole(u64::MAX);
    assert!(answer.dirty_granules() > 0);
    for memory in [0, 1, 2000, 20_000, 200_000] {
        assert_eq!(whole(memory), answer, "{memory} bytes");
    }

    let granularity = Granularity::from_bits(9).expect("a granularity");
    let one = Bitmap::from_bits(size, granularity, &bits).expect("a bitmap").heap_bytes();
    assert!(one > 2 << 20);
    let (bytes, _) = image_of(1 << 16, size, &intervals(24, |_| 9, |_| bits.clone()));
    let image = open(&Arc::new(Memory::new(bytes)), Access::Read).expect("an image");
    let peak = |memory: u64| {
        let request = DiffRequest::since(b"0").memory_bytes(memory);
        counting::peak(|| image.diff(&request, &mut Unobserved).expect("a diff").bitmap)
    };
    let (all, answer) = peak(u64::MAX);
    assert!(answer.dirty_granules() > 256 * 20_000);
    assert!(all > 24 * one, "{all} bytes for 24 bitmaps of {one}");
    for held in [2, 6] {
        let (bounded, same) = peak((held * one) as u64);
        assert_eq!(same, answer);
        assert!(bounded < (held + 5) * one, "{bounded} bytes, where {held} bitmaps of {one} may be held");
    }
}

#[test]
fn a_plan_is_good_for_the_open_image_it_was_made_for_and_only_until_that_changes() {
    let _alone = alone();
    let (bytes, _) = image(MIB, &intervals(4, |_| 9, |number| vec![1 << number; 256]));
    let (mine, twin) = (Watched::new(bytes.clone()), Watched::new(bytes.clone()));
    let mut image = open(&mine, Access::Write).expect("an image");
    let mut other = open(&twin, Access::Write).expect("an image");
    let plan = image.plan_delete(b"2", false, Layers::Check, None).expect("a plan");
    let refused =
        |answer: checkmap::Result<Vec<String>>| assert_eq!(answer.expect_err("refused").kind(), ErrorKind::Changed);
    refused(other.commit(&plan, &mut Unobserved));
    refused(other.rehearse(&plan, &mut Unobserved));
    assert_eq!(twin.file.bytes(), bytes);

    // What the chain plans by itself has not looked at the layers below.
    let alone = Chain::read(&image.bitmaps(), None).expect("a chain").plan_delete(b"2", false).expect("a plan");
    assert_eq!(alone.actions(), plan.actions());
    refused(image.commit(&alone, &mut Unobserved));
    assert_eq!(mine.file.bytes(), bytes);

    // There and back: the same names and flags, and other bits.
    image.rehearse(&plan, &mut Unobserved).expect("a rehearsal changes nothing");
    let states = image.bitmaps();
    for (from, to) in [(&b"2"[..], &b"x"[..]), (b"x", b"2")] {
        let rename = image.plan_rename(from, to, Layers::Check, None).expect("a plan");
        image.commit(&rename, &mut Unobserved).expect("a change");
    }
    assert_eq!(image.bitmaps(), states);
    refused(image.commit(&plan, &mut Unobserved));
    let again = image.plan_delete(b"2", false, Layers::Check, None).expect("a plan");
    image.commit(&again, &mut Unobserved).expect("it is carried out");
    assert_eq!(image.bitmaps().len(), 3);
}

#[test]
fn thousands_of_bitmaps_are_removed_in_one_step() {
    let _alone = alone();
    let drawn: Vec<Drawn> = cumulative(3000).into_iter().map(|bitmap| Drawn { flags: 3, ..bitmap }).collect();
    let (bytes, _) = image(MIB, &drawn);
    let file = Watched::new(bytes);
    let mut image = open(&file, Access::Write).expect("an image");
    let plan = image.plan_delete_all_inconsistent(Layers::Check, None).expect("a plan");
    assert_eq!(plan.actions().len(), 3000);
    image.commit(&plan, &mut Unobserved).expect("it is carried out");
    assert!(image.bitmaps().is_empty());
    let report = image.check(&mut Unobserved).expect("a check");
    assert_eq!((report.errors, report.leaked_bytes), (0, 0), "{report:?}");
}

#[test]
fn what_changed_since_each_checkpoint_is_summed_up_in_one_reading() {
    let _alone = alone();
    // Of three granularities, so that the finest of the span is another one as it grows.
    let granularity = |number: usize| [11, 9, 10][number / 4 % 3];
    let bits = |number: usize| {
        let bytes = (1 << 20 >> granularity(number)) / 8;
        (0..bytes)
            .map(|byte| if (byte + number).is_multiple_of(7) { 1 << (number % 8) } else { 0 })
            .collect::<Vec<u8>>()
    };
    let (bytes, data) = image(MIB, &intervals(40, granularity, bits));
    let file = Watched::new(bytes);
    let image = open(&file, Access::Read).expect("an image");
    file.reads_of(&data);
    let overview = image.overview(None, Scope::Increments, &mut Unobserved).expect("an overview");
    assert_eq!(file.reads_of(&data), vec![1; data.len()], "each is read once");
    for number in 0..40 {
        let name = number.to_string();
        let diff = image.diff(&DiffRequest::since(name.as_bytes()), &mut Unobserved).expect("a diff");
        assert_eq!(overview.since_bytes(&Name::from(name.as_str())), Some(diff.bitmap.dirty_bytes()), "{name}");
    }
    let checkpoints = image.overview(None, Scope::Checkpoints, &mut Unobserved).expect("an overview");
    assert_eq!(checkpoints.since_bytes(&Name::from("0")), None, "nobody asked for it");
}
