//! Images that claim huge sizes: none of them makes us allocate, or work, in proportion to its claim.

#[path = "support/counting.rs"]
mod counting;
#[allow(dead_code, unreachable_pub, reason = "other tests need more of it")]
#[path = "support/parallels.rs"]
mod parallels;
#[allow(dead_code, unreachable_pub, reason = "the damage to images needs more of it")]
#[path = "support/raw.rs"]
mod raw;

use checkmap::image::{Access, DiffRequest, Layers, OpenOptions};
use checkmap::io::Storage;
use checkmap::progress::{Observer, Unobserved};
use checkmap::{Bitmap, ErrorKind, Granularity, Image};
use counting::{alone, peak};
use raw::Raw;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

const MIB: usize = 1 << 20;

/// Bytes beyond what the file itself has; the largest cluster, 2 MiB, may be read a few times over.
const SMALL: usize = 16 * MIB;
/// A sparse file is as long as it says, and what it does not hold reads as zeros: the largest directory, 64 MiB, and
/// the largest refcount table, 8 MiB, are then read as they would be in an honest image of that size.
const SPARSE: usize = 160 * MIB;
/// A new bitmap for a disk of the largest size has a table of 8 MiB to be written.
const CHANGE: usize = 96 * MIB;
/// The bytes that we may ask such a file for: work is measured by them, since time is nobody's promise.
const MOST_READ: u64 = 2 << 30;

const ENTRY_NAME: &[u8] = b"1";

/// What a crafted image says of itself.
#[derive(Clone, Copy)]
struct Claims {
    cluster_bits: u32,
    size_bytes: u64,
    l1_entries: u32,
    refcount_clusters: u32,
    refcount_order: u32,
    snapshots: u32,
    directory_bytes: u64,
    bitmaps: u32,
    table_entries: u32,
    granularity_bits: u8,
    name_len: u16,
    extra_len: u32,
    /// Where the L1 table, refcount table, snapshots, directory and bitmap table are said to be, by cluster.
    places: [u64; 5],
    /// The length of the file; more than the image has is a hole.
    file_bytes: u64,
}

/// A sound little image without any guest data, as far as its structures go.
const MODEST: Claims = Claims {
    cluster_bits: 9,
    size_bytes: 1 << 20,
    l1_entries: 32,
    refcount_clusters: 1,
    refcount_order: 4,
    snapshots: 0,
    directory_bytes: 32,
    bitmaps: 1,
    table_entries: 1,
    granularity_bits: 9,
    name_len: 1,
    extra_len: 0,
    places: [1, 2, 0, 4, 5],
    file_bytes: 6 << 9,
};

impl Claims {
    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn file(&self) -> Sparse {
        let [l1, refcounts, snapshots, directory, table] = self.places.map(|number| number * self.cluster());
        let mut header = Raw { bytes: vec![0; 512] };
        header.put(raw::MAGIC, b"QFI\xfb");
        header.put_u32(raw::VERSION, 3);
        header.put_u32(raw::CLUSTER_BITS, self.cluster_bits);
        header.put_u64(raw::DISK_SIZE, self.size_bytes);
        header.put_u32(raw::L1_ENTRIES, self.l1_entries);
        header.put_u64(raw::L1_OFFSET, l1);
        header.put_u64(raw::REFCOUNT_TABLE, refcounts);
        header.put_u32(raw::REFCOUNT_CLUSTERS, self.refcount_clusters);
        header.put_u32(raw::SNAPSHOTS, self.snapshots);
        header.put_u64(raw::SNAPSHOTS_OFFSET, snapshots);
        header.put_u64(raw::AUTOCLEAR, 1);
        header.put_u32(raw::REFCOUNT_ORDER, self.refcount_order);
        header.put_u32(raw::HEADER_LEN, 104);
        header.put_u32(104, 0x2385_2875);
        header.put_u32(108, 24);
        header.put_u32(112, self.bitmaps);
        header.put_u64(120, self.directory_bytes);
        header.put_u64(128, directory);
        let mut entry = Raw { bytes: vec![0; 32] };
        entry.put_u64(raw::ENTRY_TABLE, table);
        entry.put_u32(raw::ENTRY_TABLE_SIZE, self.table_entries);
        entry.put_u32(raw::ENTRY_FLAGS, 2);
        entry.put(raw::ENTRY_TYPE, &[1, self.granularity_bits]);
        entry.put_u16(raw::ENTRY_NAME_LEN, self.name_len);
        entry.put_u32(raw::ENTRY_EXTRA_LEN, self.extra_len);
        entry.put(24, ENTRY_NAME);
        let file = Sparse { len: self.file_bytes, pieces: Mutex::default(), read: AtomicU64::new(0) };
        file.with(0, header.bytes).with(directory, entry.bytes)
    }
}

/// A file that is as long as it says, and holds zeros wherever nothing was written.
#[derive(Debug)]
struct Sparse {
    len: u64,
    pieces: Mutex<Vec<(u64, Vec<u8>)>>,
    read: AtomicU64,
}

impl Sparse {
    fn with(self, offset: u64, bytes: Vec<u8>) -> Self {
        self.pieces.lock().expect("nobody panics inside").push((offset, bytes));
        self
    }

    /// Consecutive big-endian integers.
    fn with_integers(self, offset: u64, integers: impl Iterator<Item = u64>) -> Self {
        self.with(offset, integers.flat_map(u64::to_be_bytes).collect())
    }
}

impl Storage for Sparse {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = self.len.saturating_sub(offset).min(buffer.len() as u64);
        let buffer = &mut buffer[..usize::try_from(count).expect("at most the buffer")];
        buffer.fill(0);
        self.read.fetch_add(count.max(512), Relaxed);
        for (start, bytes) in self.pieces.lock().expect("nobody panics inside").iter() {
            let (from, to) = (offset.max(*start), (offset + count).min(start + bytes.len() as u64));
            if from < to {
                let index = |at: u64, base: u64| usize::try_from(at - base).expect("inside both");
                buffer[index(from, offset)..index(to, offset)]
                    .copy_from_slice(&bytes[index(from, *start)..index(to, *start)]);
            }
        }
        Ok(buffer.len())
    }

    /// The disk is full: the test measures the way there.
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(28))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn can_grow(&self) -> bool {
        true
    }
}

fn open(file: &Arc<Sparse>, access: Access) -> checkmap::Result<Image> {
    let storage: Arc<dyn Storage> = Arc::clone(file) as Arc<dyn Storage>;
    Image::open_storage(storage, Path::new("hostile.qcow2"), &OpenOptions::new(access).no_lock(true))
}

/// Everything that reads the image, whatever it answers.
fn read(file: &Arc<Sparse>) {
    let Ok(image) = open(file, Access::Read) else { return };
    let _ = image.overview(None, checkmap::image::Scope::Bitmaps, &mut Unobserved);
    let _ = diff(&image, &mut Unobserved);
    let _ = image.check(&mut Unobserved);
}

fn diff(image: &Image, observer: &mut dyn Observer) -> checkmap::Result<()> {
    let request = DiffRequest::since(ENTRY_NAME).layers(Layers::TopOnly);
    image.diff(&request, observer).map(drop)
}

/// A change, which may be refused.
fn change(file: &Arc<Sparse>) {
    let Ok(mut image) = open(file, Access::Write) else { return };
    if let Ok(plan) = image.plan_create(b"new", None, None) {
        let _ = image.commit(&plan, &mut Unobserved);
    }
}

/// Reads and changes a file, and holds both to the memory they may take beyond the file's own.
fn measure(name: &str, file: Sparse, most: usize) {
    let file = Arc::new(file);
    for (what, run, most) in [("reading", read as fn(&Arc<Sparse>), most), ("changing", change, most.max(CHANGE))] {
        let read_before = file.read.load(Relaxed);
        let (peak, ()) = peak(|| run(&file));
        let read = file.read.load(Relaxed) - read_before;
        eprintln!("{name}, {what}: {} KiB allocated, {} MiB read", peak >> 10, read >> 20);
        assert!(peak < most, "{name}: {what} it allocated {peak} bytes");
        assert!(read < MOST_READ, "{name}: {what} it read {read} bytes");
    }
}

#[test]
fn a_file_of_a_few_kib_makes_us_allocate_little_whatever_it_claims() {
    let _alone = alone();
    let rows = [
        ("nothing much", MODEST),
        ("a directory of 64 MiB", Claims { directory_bytes: 67_107_840, bitmaps: 65535, ..MODEST }),
        ("a directory of 2^64 bytes", Claims { directory_bytes: u64::MAX, ..MODEST }),
        ("a table of 2^27 entries", Claims { table_entries: 1 << 27, ..MODEST }),
        ("an L1 table of 32 MiB", Claims { l1_entries: 4 << 20, ..MODEST }),
        (
            "a disk of 8 EiB",
            Claims { size_bytes: i64::MAX as u64, granularity_bits: 31, table_entries: 1 << 20, ..MODEST },
        ),
        ("a refcount table of 8 MiB", Claims { refcount_clusters: 8 << 11, ..MODEST }),
        ("a name of 64 KiB", Claims { name_len: u16::MAX, ..MODEST }),
        ("extra data of 4 GiB", Claims { extra_len: u32::MAX, ..MODEST }),
        ("65536 snapshots", Claims { snapshots: 65536, places: [1, 2, 3, 4, 5], ..MODEST }),
        ("clusters of 2 MiB in a file of 512 bytes", Claims { cluster_bits: 21, file_bytes: 512, ..MODEST }),
        ("clusters of 2 MiB in a file of 11 MiB", Claims { cluster_bits: 21, file_bytes: 11 << 20, ..MODEST }),
    ];
    for (name, claims) in rows {
        measure(name, claims.file(), SMALL);
    }
}

/// A hole of 1 EiB.
const HOLE: u64 = 1 << 60;
/// Where the crafted files have their own big tables: far from one another, in steps that suit every cluster size.
const FAR: u64 = 1 << 48;

#[test]
fn a_sparse_file_of_one_eib_makes_us_allocate_no_more_than_an_honest_image() {
    let _alone = alone();
    const LARGEST: Claims = Claims { file_bytes: HOLE, size_bytes: 1 << 41, table_entries: 1 << 20, ..MODEST };
    let far = FAR >> LARGEST.cluster_bits;
    let rows = [
        ("a directory in a hole", Claims { file_bytes: HOLE, directory_bytes: 67_107_840, bitmaps: 65535, ..MODEST }),
        (
            "an L1 table in a hole",
            Claims { file_bytes: HOLE, l1_entries: 4 << 20, places: [far, 2, 0, 4, 5], ..MODEST },
        ),
        (
            "a refcount table in a hole",
            Claims { file_bytes: HOLE, refcount_clusters: 8 << 11, places: [1, far, 0, 4, 5], ..MODEST },
        ),
        ("snapshots in a hole", Claims { file_bytes: HOLE, snapshots: 65536, places: [1, 2, far, 4, 5], ..MODEST }),
        ("a bitmap table in a hole", Claims { places: [1, 2, 0, 4, far], ..LARGEST }),
    ];
    for (name, claims) in rows {
        measure(name, claims.file(), SPARSE);
    }
    // A bitmap of 512 MiB, of which a hole holds every cluster.
    let data = (0..1 << 20).map(|number| FAR * 2 + number * 512);
    let claims = Claims { places: [1, 2, 0, 4, far], ..LARGEST };
    measure("the data of a bitmap in a hole", claims.file().with_integers(FAR, data), SPARSE);
    let all_ones = claims.file().with_integers(FAR, std::iter::repeat_n(1, 1 << 20));
    measure("a bitmap of ones only", all_ones, SPARSE);
}

#[test]
fn a_sparse_file_of_one_eib_does_not_keep_us_busy() {
    let _alone = alone();
    let cluster_bits = 21;
    let far = FAR >> cluster_bits;
    let claims = Claims {
        cluster_bits,
        file_bytes: HOLE,
        refcount_order: 0,
        places: [1, far, 0, 4, 5],
        refcount_clusters: 4,
        ..MODEST
    };
    // 2 TiB of refcount blocks, of 16 million refcounts each.
    let blocks = (0..512).map(|number| FAR * 2 + (number << cluster_bits));
    measure("refcount blocks in a hole", claims.file().with_integers(FAR, blocks), SPARSE);
    let blocks = std::iter::repeat_n(FAR * 2, 512);
    measure("one refcount block for everything", claims.file().with_integers(FAR, blocks), SPARSE);

    let snapshot = |l1: u64| [l1, (4 << 20) << 32, 0, 0, 0];
    let claims = Claims { file_bytes: HOLE, snapshots: 65536, places: [1, 2, FAR >> 9, 4, 5], ..MODEST };
    let apart = (0..65536).flat_map(|number| snapshot(FAR * 2 + (number << 25)));
    measure("2 TiB of L1 tables of snapshots", claims.file().with_integers(FAR, apart), SPARSE);
    let same = (0..65536).flat_map(|_| snapshot(FAR * 2));
    measure("one L1 table for all snapshots", claims.file().with_integers(FAR, same), SPARSE);

    // An encryption header as long as the file.
    let crypto = [0x0537_be77_0000_0010, 0, HOLE].into_iter();
    measure(
        "an encryption header of 1 EiB",
        Claims { file_bytes: HOLE, ..MODEST }.file().with_integers(136, crypto),
        SPARSE,
    );
}

/// A directory of `count` bitmaps that their writer did not store, so that nobody compares their tables' sizes with the
/// disk's: each table has 2^20 entries, QEMU's limit with clusters of 512 bytes, and stands where `table` says.
fn many(count: u32, table: impl Fn(u64) -> u64) -> Sparse {
    let mut directory = Vec::new();
    for number in 0..u64::from(count) {
        let mut entry = Raw { bytes: vec![0; 32] };
        entry.put_u64(raw::ENTRY_TABLE, table(number));
        entry.put_u32(raw::ENTRY_TABLE_SIZE, 1 << 20);
        entry.put_u32(raw::ENTRY_FLAGS, 1);
        entry.put(raw::ENTRY_TYPE, &[1, 9]);
        entry.put_u16(raw::ENTRY_NAME_LEN, 8);
        entry.put(24, format!("{number:08}").as_bytes());
        directory.extend(entry.bytes);
    }
    let place = 8 << 20;
    let claims = Claims {
        bitmaps: count,
        directory_bytes: directory.len() as u64,
        places: [1, 2, 0, place >> 9, 5],
        file_bytes: HOLE,
        ..MODEST
    };
    claims.file().with(place, directory)
}

const TABLE_BYTES: u64 = 8 << 20;

#[test]
fn tables_are_compared_by_their_place_before_any_of_them_is_read() {
    let _alone = alone();
    measure("a table for 4096 bitmaps", many(4096, |_| FAR), SPARSE);
    let itself = || std::iter::repeat_n(FAR, 1 << 20);
    measure("a filled table for 4096", many(4096, |_| FAR).with_integers(FAR, itself()), SPARSE);
    measure("a table for each, shifted by a cluster", many(4096, |number| FAR + number * 512), SPARSE);
    measure("65535 bitmaps with one table", many(65535, |_| FAR), 2 * SPARSE);
    measure("65535 tables past the end of the file", many(65535, |number| HOLE + number * 512), 2 * SPARSE);
    measure("a table of which each entry is one cluster", many(1, |_| FAR).with_integers(FAR, itself()), SPARSE);
    let apart = (0..1 << 20).map(|number| FAR * 2 + number * (1 << 30));
    measure("data far apart", many(1, |_| FAR).with_integers(FAR, apart), 2 * SPARSE);
}

#[test]
fn an_l2_table_is_read_once_however_many_entries_name_it() {
    let _alone = alone();
    let claims = Claims { cluster_bits: 16, l1_entries: 4 << 20, places: [64, 1, 0, 2, 3], file_bytes: HOLE, ..MODEST };
    let same = std::iter::repeat_n((1 << 63) | (4 << 16), 4 << 20);
    measure("one L2 table for the whole disk", claims.file().with_integers(64 << 16, same), SPARSE);
}

/// A Parallels image in a sparse file: `table_entries` of an allocation table that begins in a hole, clusters of `cluster` bytes from
/// `data` on, in the first of which the extension holds these bitmaps: the bits of each, cluster by cluster.
fn hds(cluster: u64, table_entries: u32, size_bytes: u64, bitmaps: &[Vec<u64>]) -> Sparse {
    const DATA: u64 = 1 << 40;
    let mut extension = vec![0; 24];
    for (number, table) in (0_u32..).zip(bitmaps) {
        extension.extend(0x2038_5fae_252c_b34a_u64.to_le_bytes());
        extension.extend([0; 8]);
        extension.extend(u32::try_from(32 + 8 * table.len()).expect("a short table").to_le_bytes());
        extension.extend([0; 4]);
        extension.extend((size_bytes / 512).to_le_bytes());
        extension.extend([&[0; 12], &number.to_le_bytes()[..]].concat());
        extension.extend(1_u32.to_le_bytes());
        extension.extend(u32::try_from(table.len()).expect("a short table").to_le_bytes());
        extension.extend(table.iter().flat_map(|at| ((DATA + at * cluster) / 512).to_le_bytes()));
    }
    extension.resize(usize::try_from(cluster).expect("a cluster"), 0);
    let mut start = vec![0; 64];
    start[..16].copy_from_slice(b"WithouFreSpacExt");
    for (at, field) in [
        (parallels::VERSION, 2),
        (parallels::TRACKS, u32::try_from(cluster / 512).expect("a cluster")),
        (parallels::TABLE_ENTRIES, table_entries),
        (parallels::MARK, parallels::CLOSED),
        (parallels::DATA_OFF, 1 << 31),
    ] {
        start[at..at + 4].copy_from_slice(&field.to_le_bytes());
    }
    start[parallels::SECTORS..parallels::SECTORS + 8].copy_from_slice(&(size_bytes / 512).to_le_bytes());
    // Sealed as if it stood right behind the header.
    let mut file = start.clone();
    file.resize(512, 0);
    file[parallels::EXT_OFF..parallels::EXT_OFF + 8].copy_from_slice(&1_u64.to_le_bytes());
    file.extend(extension);
    parallels::seal(&mut file);
    start[parallels::EXT_OFF..parallels::EXT_OFF + 8].copy_from_slice(&(DATA / 512).to_le_bytes());
    let file_bytes = Sparse { len: HOLE, pieces: Mutex::default(), read: AtomicU64::new(0) };
    file_bytes.with(0, start).with(DATA, file.split_off(512))
}

#[test]
fn a_parallels_image_does_not_keep_us_busy() {
    let _alone = alone();
    measure("a sound one", hds(1 << 20, 16, 16 << 20, &[vec![1]]), SMALL);
    measure("an allocation table of 1 GiB in a hole", hds(1 << 20, 1 << 28, 16 << 20, &[vec![1]]), SMALL);
    // 512 MiB of bits, and more than that.
    let apart = [(1..=256).collect()];
    measure("the bits of a disk in a hole", hds(2 << 20, 16, 1 << 41, &apart), SPARSE);
    let apart = [(1..=1 << 18).collect()];
    measure("more bits than a disk may have", hds(2 << 20, 16, 1 << 51, &apart), SPARSE);
    // The same cluster for all bitmaps, and the list's own, each named by every entry of the allocation table.
    let many: Vec<Vec<u64>> = std::iter::repeat_n(vec![1], 1000).collect();
    for named in [0, 1] {
        let unit = (1_u64 << 40) / (8 << 20) + named;
        let table: Vec<u8> = (0..1 << 20).flat_map(|_| u32::try_from(unit).expect("few").to_le_bytes()).collect();
        let file = hds(8 << 20, 1 << 20, 16 << 20, &many).with(64, table);
        measure("a cluster of 1000 bitmaps that the guest has a million times", file, 2 * SPARSE);
    }
}

/// Stops after a number of steps.
fn stop_after(steps: &mut u32) -> impl FnMut(checkmap::progress::Step) -> std::ops::ControlFlow<()> + '_ {
    move |step| {
        assert!(step.done <= step.total, "{step:?}");
        match steps.checked_sub(1) {
            Some(left) => {
                *steps = left;
                std::ops::ControlFlow::Continue(())
            }
            None => std::ops::ControlFlow::Break(()),
        }
    }
}

#[test]
fn a_walk_through_holes_can_be_stopped_at_any_step() {
    let _alone = alone();
    // 16 GiB of tables that are holes, each for itself.
    let file = || Arc::new(many(2000, |number| FAR + number * TABLE_BYTES));
    for steps in [0, 1, 10, 100, 1000] {
        for work in ["survey", "diff", "check"] {
            let file = file();
            let image = open(&file, Access::Read).expect("it opens");
            let mut left = steps;
            let mut observer = stop_after(&mut left);
            let stopped = match work {
                "survey" => image.survey(&mut observer),
                "diff" => diff(&image, &mut observer),
                _ => image.check(&mut observer).map(drop),
            };
            drop(observer);
            let error = stopped.expect_err("it was stopped");
            assert_eq!(error.kind(), checkmap::ErrorKind::Cancelled, "{work}: {error}");
            let read = file.read.load(Relaxed);
            assert!(read < (2 << 20) * u64::from(steps + 2), "{work}: {read} bytes were read within {steps} steps");
        }
    }
}

/// Bytes of a bitmap may announce 65536 containers of any kind, and hold none of them: the memory depends on the bytes that are
/// there, but for the rooms of one container.
#[test]
fn a_roaring_bitmap_that_ends_early_takes_no_memory_for_what_is_missing() {
    const ROOMS: usize = 32 << 10;
    let _alone = alone();
    let granularity = Granularity::from_bits(0).expect("one byte");
    let words = |words: &[u16]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let flagged = |flags: &[u8], rest: &[u16]| {
        let last = u16::try_from(8 * flags.len() - 1).expect("few containers");
        [&words(&[12_347, last])[..], flags, &words(rest)].concat()
    };
    // One container and its count of runs, many containers, and what the headers announce.
    let one_of_runs = [&words(&[12_347, 0])[..], &[1], &words(&[0, 0xffff, 0xffff])].concat();
    let groups = [
        one_of_runs,
        flagged(&[0xff; 8192], &[]),
        flagged(&[0xff], &[0; 32]),
        words(&[12_346, 0, 0, 1]),
        words(&[12_346, 0, 1, 0, 0, 4095, 16, 0]),
        words(&[12_346, 0, 1, 0, 0, 0xffff, 16, 0]),
    ];
    for group in groups {
        let wide = [&1u64.to_le_bytes()[..], &[0; 4], &group].concat();
        let crowded = [&u64::MAX.to_le_bytes()[..], &[0; 4], &group].concat();
        for bytes in [group, wide, crowded] {
            let (taken, read) = peak(|| Bitmap::from_roaring(&bytes, 1 << 40, granularity));
            assert_eq!(read.expect_err("the bytes end").kind(), ErrorKind::Damaged);
            assert!(taken <= ROOMS + 4 * bytes.len(), "{taken} bytes for {}", bytes.len());
        }
    }
}
