//! Cuts the power at every point of every kind of commit, and looks at what a disk may hold afterwards: the image must
//! pass our check and QEMU's without errors, open in QEMU, and hold the bitmaps before or after the change, whole.

#[path = "power_cut/header_room.rs"]
mod header_room;
mod support;

use checkmap::chain::{KnownModel, Plan};
use checkmap::image::{Access, Layers, OpenOptions, Severity};
use checkmap::io::{Memory, Storage};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Extent, Image};
use std::path::Path;
use std::sync::Arc;
use support::power::{Recorder, Tally};
use support::random::Random;
use support::raw::{self, Raw};
use support::{TestImage, run, try_run};

/// Everything that counts of the bitmaps of an image: name, granularity, recording, dirty extents.
type Bitmaps = Vec<(String, u64, bool, Vec<Extent>)>;

/// What an image holds after a cut.
#[derive(Debug, PartialEq)]
enum Found {
    Bitmaps(Bitmaps),
    /// The extension is there, the autoclear bit is not: nobody uses the bitmaps.
    Ignored,
}

fn options() -> OpenOptions {
    OpenOptions::new(Access::Write).no_lock(true)
}

fn open(storage: Arc<dyn Storage>) -> Image {
    Image::open_storage(storage, Path::new("disk.qcow2"), &options()).expect("the image opens")
}

/// Only to be looked at.
fn open_bytes(disk: &[u8]) -> Image {
    open(Arc::new(Memory(disk.to_vec())))
}

fn bitmaps_of(image: &Image) -> Found {
    match image.trouble().map(|trouble| trouble.kind()) {
        None => {}
        Some(ErrorKind::Stale) => return Found::Ignored,
        Some(_) => panic!("after a cut: {:?}", image.trouble()),
    }
    let content = |state: &checkmap::chain::BitmapState| {
        let bits = image.read_bitmap(&state.name, 0, u64::MAX).expect("the bitmap is readable");
        (state.name.to_string(), state.granularity.bytes(), state.recording, bits.extents(0, u64::MAX).collect())
    };
    let mut bitmaps: Bitmaps = image.bitmaps().iter().map(content).collect();
    bitmaps.sort();
    Found::Bitmaps(bitmaps)
}

struct Scenario {
    name: &'static str,
    image: Vec<u8>,
    plan: fn(&Image) -> checkmap::Result<Plan>,
    /// The place of the directory crosses two sectors of the header: the only case in which a cut may lose bitmaps.
    may_lose: bool,
    /// The name of the backing file, which no change may touch.
    backing: Option<Vec<u8>>,
}

impl Scenario {
    fn play(&self, most: usize, qemu_samples: usize, random: &mut Random) -> Tally {
        let recorder = Arc::new(Recorder::new(self.image.clone()));
        let mut image = open(recorder.clone());
        let old = bitmaps_of(&image);
        let plan = (self.plan)(&image).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let crossing_is_said = plan.risks().iter().any(|risk| risk.contains("crosses two sectors"));
        assert_eq!(crossing_is_said, self.may_lose, "{}: {:?}", self.name, plan.risks());
        assert_eq!(image.commit(&plan, &mut Unobserved).expect("the commit succeeds"), Vec::<String>::new());
        let new = bitmaps_of(&open_bytes(&recorder.image()));
        assert_ne!(old, new, "{}: the commit changes the bitmaps", self.name);
        assert_eq!(new, bitmaps_of(&image), "{}: the handle shows what the file holds", self.name);
        let leaks = |image: &[u8]| open_bytes(image).check(&mut Unobserved).expect("the check runs").leaked_bytes;
        assert_eq!(leaks(&recorder.image()), leaks(&self.image), "{}: all that was replaced is released", self.name);
        let mut tally = Tally::new();
        let mut sampled = Vec::new();
        let count = recorder.cut_everywhere(most, random, |place, disk| {
            let kind = self.judge(place, disk, &old, &new);
            let seen = tally.entry(kind).or_insert(0);
            *seen += 1;
            if *seen <= qemu_samples || random_sample(place, disk.len(), qemu_samples) {
                sampled.push((place.to_owned(), disk.to_vec()));
            }
        });
        random.shuffle(&mut sampled);
        sampled.truncate(qemu_samples);
        sampled.push(("the uncut end".into(), recorder.image()));
        for (place, disk) in &sampled {
            self.ask_qemu(place, disk, &old, &new);
        }
        eprintln!("{}: {count} outcomes, {tally:?}, {} shown to QEMU", self.name, sampled.len());
        tally
    }

    fn judge(&self, place: &str, disk: &[u8], old: &Found, new: &Found) -> &'static str {
        let image = open_bytes(disk);
        let report = image.check(&mut Unobserved).expect("the check runs");
        let errors: Vec<_> = report.problems.iter().filter(|found| found.severity == Severity::Error).collect();
        assert!(errors.is_empty(), "{}: {place}: {errors:?}", self.name);
        assert_eq!(image.backing_file(), self.backing.as_deref(), "{}: {place}: the backing file's name", self.name);
        let found = bitmaps_of(&image);
        let none = Found::Bitmaps(Vec::new());
        match found {
            found if found == *old => "old",
            found if found == *new => "new",
            Found::Ignored if *old == none || *new == none => "ignored",
            Found::Ignored if self.may_lose => "lost",
            found => panic!("{}: {place}: neither the old nor the new bitmaps: {found:?}", self.name),
        }
    }

    /// QEMU finds no errors, opens the image for writing, and lists the old or the new bitmaps.
    fn ask_qemu(&self, place: &str, disk: &[u8], old: &Found, new: &Found) {
        let folder = support::folder();
        let path = folder.path().join("disk.qcow2");
        std::fs::write(&path, disk).expect("the outcome can be written");
        if let Some(name) = open_bytes(disk).backing_file() {
            let base = folder.path().join(std::str::from_utf8(name).expect("the name is whole"));
            std::fs::write(base, vec![0; 1 << 20]).expect("a file to refer to");
        }
        let check = try_run("qemu-img", &["check".as_ref(), "-f".as_ref(), "qcow2".as_ref(), path.as_os_str()]);
        let printed = String::from_utf8_lossy(&check.stdout).into_owned() + &String::from_utf8_lossy(&check.stderr);
        assert!(matches!(check.status.code(), Some(0 | 3)), "{}: {place}: qemu-img check: {printed}", self.name);
        let listed: Vec<(String, bool)> = support::qemu_bitmaps(&path)
            .into_iter()
            .map(|bitmap| (format!("'{}'", bitmap.name), bitmap.recording))
            .collect();
        let lists = |found: &Found| match found {
            Found::Ignored => listed.is_empty(),
            Found::Bitmaps(bitmaps) => {
                let mut listed = listed.clone();
                listed.sort();
                listed == bitmaps.iter().map(|(name, _, recording, _)| (name.clone(), *recording)).collect::<Vec<_>>()
            }
        };
        let lost = self.may_lose && listed.is_empty();
        assert!(lists(old) || lists(new) || lost, "{}: {place}: QEMU lists {listed:?}", self.name);
        run("qemu-io", &["-c".as_ref(), "write 0 512".as_ref(), path.as_os_str()]);
    }
}

/// A deterministic choice of outcomes to show to QEMU, spread over the cuts.
fn random_sample(place: &str, len: usize, samples: usize) -> bool {
    let hash = place.bytes().fold(len as u64, |hash, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
    hash % 97 < samples as u64
}

/// An image of 1 MiB as QEMU makes it, with some guest data.
fn qemu_image(options: &str, prepare: &[&str]) -> TestImage {
    let image = TestImage::create(options, "1M");
    image.io(&["write -P 7 0 70000".into(), "write -P 8 500000 30000".into()]);
    for name in prepare {
        image.bitmap(&["--add", "-g", "512"], name);
        if prepare.last() != Some(name) {
            image.bitmap(&["--disable"], name);
        }
    }
    image
}

/// The same image with writes that each bitmap of an interval chain recorded.
fn recorded_chain(options: &str) -> Vec<u8> {
    let image = qemu_image(options, &[]);
    record_chain(&image);
    std::fs::read(&image.path).expect("the image can be read")
}

fn record_chain(image: &TestImage) {
    let mut random = Random::seeded(5);
    let mut before: Option<&str> = None;
    for name in ["1", "1->2", "2->3", "3->4"] {
        if let Some(before) = before {
            image.bitmap(&["--disable"], before);
        }
        image.bitmap(&["--add", "-g", "512"], name);
        let writes = (0..20).map(|_| format!("write -P 3 {} 512", random.below(2000) * 512));
        image.io(&writes.collect::<Vec<_>>());
        before = Some(name);
    }
}

fn plain(options: &str) -> Vec<u8> {
    std::fs::read(&qemu_image(options, &[]).path).expect("the image can be read")
}

/// The image says that it stands on `base`, which need not be there.
fn put_on(image: &TestImage, base: &str) {
    let path = image.path.to_str().expect("UTF-8");
    run("qemu-img", &["rebase", "-u", "-F", "raw", "-b", base, path]);
}

fn with_backing(options: &str, name_len: usize) -> Vec<u8> {
    let image = qemu_image(options, &[]);
    let base = match name_len {
        0 => "base.qcow2".to_owned(),
        // Such that each part of it differs from the others.
        len => ('a'..='z').cycle().take(len).collect(),
    };
    put_on(&image, &base);
    std::fs::read(&image.path).expect("the image can be read")
}

fn create(image: &Image) -> checkmap::Result<Plan> {
    image.plan_create(b"new", None, Some(KnownModel::Interval))
}

/// Takes three clusters of 512 bytes: two for the directory, one for the table.
fn create_with_long_name(image: &Image) -> checkmap::Result<Plan> {
    image.plan_create(&[b'n'; 500], None, None)
}

fn create_coarse(image: &Image) -> checkmap::Result<Plan> {
    image.plan_create(b"new", Some(checkmap::Granularity::from_bytes(65536)?), None)
}

fn delete(image: &Image, name: &str) -> checkmap::Result<Plan> {
    image.plan_delete(name.as_bytes(), false, Layers::TopOnly, None)
}

fn play_all(scenarios: &[Scenario]) {
    let most = std::env::var("CHECKMAP_CUTS").ok().and_then(|most| most.parse().ok()).unwrap_or(2000);
    let mut random = Random::seeded(2026);
    for scenario in scenarios {
        let tally = scenario.play(most, 6, &mut random);
        assert!(tally.contains_key("old") && tally.contains_key("new"), "{}: {tally:?}", scenario.name);
        assert_eq!(tally.contains_key("lost"), scenario.may_lose, "{}: {tally:?}", scenario.name);
    }
}

fn scenario(name: &'static str, image: Vec<u8>, plan: fn(&Image) -> checkmap::Result<Plan>) -> Scenario {
    let backing = open_bytes(&image).backing_file().map(<[u8]>::to_vec);
    Scenario { name, image, plan, may_lose: false, backing }
}

#[test]
fn the_first_bitmap_is_there_or_not() {
    if !support::tools_are_here() {
        return;
    }
    play_all(&[
        scenario("first, default", plain(""), create),
        scenario("first, 512-byte clusters", plain("cluster_size=512"), create),
        scenario("first, 1 KiB clusters", plain("cluster_size=1k"), create),
        scenario("first, 4 KiB clusters", plain("cluster_size=4k"), create),
        scenario("first, beside a backing name", with_backing("", 0), create),
        scenario("first, beside a long backing name", with_backing("", 200), create),
        scenario("first, backing name in the first sector", with_backing("cluster_size=1k", 0), create),
        scenario("first, long backing name in 1 KiB clusters", with_backing("cluster_size=1k", 200), create),
    ]);
}

#[test]
fn a_change_of_a_chain_is_there_or_not() {
    if !support::tools_are_here() {
        return;
    }
    play_all(&[
        scenario("create", recorded_chain("cluster_size=4k"), create),
        scenario("delete middle", recorded_chain("cluster_size=512"), |image| delete(image, "3")),
        scenario("delete newest", recorded_chain("cluster_size=512"), |image| delete(image, "4")),
        scenario("delete first", recorded_chain("cluster_size=4k"), |image| delete(image, "1")),
        scenario("delete several", recorded_chain("cluster_size=512"), |image| {
            image.plan_delete_many(&["1", "3", "4"], false, Layers::TopOnly, None)
        }),
        scenario("delete all", recorded_chain("cluster_size=4k"), |image| {
            image.plan_delete_many(&["4", "3", "2", "1"], false, Layers::TopOnly, None)
        }),
        scenario("rename", recorded_chain("cluster_size=1k"), |image| {
            image.plan_rename(b"2", b"another name that is longer", Layers::TopOnly, None)
        }),
        scenario("mixed granularities", mixed_granularities(), |image| delete(image, "new")),
    ]);
}

fn mixed_granularities() -> Vec<u8> {
    let recorder = Arc::new(Recorder::new(recorded_chain("cluster_size=512")));
    let mut image = open(recorder.clone());
    let plan = create_coarse(&image).expect("a coarser checkpoint");
    image.commit(&plan, &mut Unobserved).expect("the commit succeeds");
    let folder = support::folder();
    let path = folder.path().join("disk.qcow2");
    std::fs::write(&path, recorder.image()).expect("the image can be written");
    support::qemu_io(&path, &["write 300000 512".into()]);
    std::fs::read(&path).expect("the image can be read")
}

#[test]
fn the_last_bitmap_is_gone_or_not() {
    if !support::tools_are_here() {
        return;
    }
    let last = |options| {
        let image = qemu_image(options, &["last"]);
        image.write(70_000, 512);
        std::fs::read(&image.path).expect("the image can be read")
    };
    play_all(&[
        scenario("last, default", last(""), |image| delete(image, "last")),
        scenario("last, 512-byte clusters", last("cluster_size=512"), |image| delete(image, "last")),
        scenario("last, 1 KiB clusters", last("cluster_size=1k"), |image| delete(image, "last")),
        scenario("last, beside a backing name", last_with_backing(), |image| delete(image, "last")),
    ]);
}

fn last_with_backing() -> Vec<u8> {
    let image = qemu_image("", &[]);
    let base = image.folder.path().join("base.qcow2");
    std::fs::write(&base, vec![0; 1 << 20]).expect("a base");
    put_on(&image, "base.qcow2");
    image.bitmap(&["--add", "-g", "512"], "last");
    std::fs::read(&image.path).expect("the image can be read")
}

#[test]
fn new_refcount_blocks_and_a_new_refcount_table_are_counted_or_leaked() {
    if !support::tools_are_here() {
        return;
    }
    play_all(&[
        scenario("refcount blocks of 64 clusters", recorded_chain("cluster_size=512,refcount_bits=64"), |image| {
            delete(image, "2")
        }),
        scenario("one-bit refcounts", recorded_chain("cluster_size=512,refcount_bits=1"), |image| delete(image, "3")),
    ]);
}

#[test]
fn an_outgrown_refcount_table_moves_and_is_counted() {
    if !support::tools_are_here() {
        return;
    }
    let image = full_refcount_table(0);
    let recorder = Arc::new(Recorder::new(image.clone()));
    let mut grown = open(recorder.clone());
    let plan = create_with_long_name(&grown).expect("a plan");
    grown.commit(&plan, &mut Unobserved).expect("the commit succeeds");
    assert_ne!(image[48..60], recorder.image()[48..60], "the refcount table had room: the test tests nothing");
    play_all(&[scenario("refcount table outgrown", image, create_with_long_name)]);
}

#[test]
fn new_refcount_blocks_in_two_sectors_of_the_table_appear_at_once() {
    if !support::tools_are_here() {
        return;
    }
    let image = almost_full_sector_of_the_refcount_table();
    play_all(&[scenario("refcount blocks in two sectors", image, |image| {
        image.plan_create(b"new", Some(checkmap::Granularity::from_bytes(512)?), None)
    })]);
}

/// A sector of the refcount table covers 2 MiB of file with 512-byte clusters and 64-bit refcounts; this file ends shortly
/// before one, and its next bitmap takes 64 KiB for its table alone.
fn almost_full_sector_of_the_refcount_table() -> Vec<u8> {
    let image = TestImage::create("cluster_size=512,refcount_bits=64", "16G");
    let len = || std::fs::metadata(&image.path).expect("the image is there").len();
    // The last block but one of the sector is the last that is there.
    let end = len().next_multiple_of(2 << 20) - (36 << 10);
    let mut at = 0;
    while len() < end - (24 << 10) {
        let step = ((end - len()).min(256 << 10) / 2).next_multiple_of(512);
        image.io(&[format!("write -P 1 {at} {step}")]);
        at += step;
    }
    assert!(len() < end, "the last block is there: the test tests nothing");
    std::fs::read(&image.path).expect("the image can be read")
}

/// What a second failure, while the first is undone, must not make worse; and what only the order of the undo keeps: a
/// refcount block or table that is still pointed to must stay counted.
#[test]
fn a_cut_while_a_failed_change_is_undone_leaves_the_old_bitmaps() {
    if !support::tools_are_here() {
        return;
    }
    let mut random = Random::seeded(77);
    let blocks = recorded_chain("cluster_size=512,refcount_bits=64");
    let create = create_with_long_name as fn(&Image) -> checkmap::Result<Plan>;
    let mut unknown_autoclear = blocks.clone();
    unknown_autoclear[88] = 0x80;
    for (name, image, plan) in [
        ("a new block", blocks, create),
        ("a new table", full_refcount_table(0), create),
        ("a new block that an old one counts", full_refcount_block(), create),
        ("a new table, and a new block that an old one counts", full_refcount_table(2), create),
        ("an unknown autoclear bit", unknown_autoclear, create),
        ("crossing", move_extension(recorded_chain("cluster_size=4k"), 488), |image| delete(image, "3")),
    ] {
        let mut scenario = scenario(name, image, plan);
        scenario.may_lose = name == "crossing";
        let whole = Arc::new(Recorder::new(scenario.image.clone()));
        let mut opened = open(whole.clone());
        let old = bitmaps_of(&opened);
        let planned = plan(&opened).expect("a plan");
        opened.commit(&planned, &mut Unobserved).expect("the commit succeeds");
        let new = bitmaps_of(&opened);
        if name.ends_with("counts") {
            assert!(added_is_counted_by_old(&scenario.image, &whole.image()), "{name}: the test tests nothing");
        }
        let mut tally = Tally::new();
        for first in 0..whole.operations() {
            let seconds = (first + 1..first + 8).filter(|_| name.ends_with("counts")).map(|second| vec![first, second]);
            for failures in std::iter::once(vec![first]).chain(seconds) {
                let failing = Arc::new(Recorder::failing_at(scenario.image.clone(), &failures));
                let mut opened = open(failing.clone());
                let planned = plan(&opened).expect("a plan");
                let failed = opened.commit(&planned, &mut Unobserved);
                if failures.len() == 1 && failed.as_ref().is_err_and(|error| error.kind() != ErrorKind::CommitInDoubt) {
                    assert_eq!(bitmaps_of(&open_bytes(&failing.image())), old, "{name}: {failed:?}");
                }
                let most = if failures.len() == 1 { 60 } else { 6 };
                failing.cut_everywhere(most, &mut random, |place, disk| {
                    *tally.entry(scenario.judge(place, disk, &old, &new)).or_insert(0) += 1;
                });
            }
        }
        eprintln!("{name}: {tally:?}");
        assert!(tally.contains_key("old") && tally.contains_key("new"), "{name}: {tally:?}");
    }
}

/// Whether the change added a refcount block or table whose own refcount stands in a block that was there before.
fn added_is_counted_by_old(before: &[u8], after: &[u8]) -> bool {
    let (before, after) = (Raw { bytes: before.to_vec() }, Raw { bytes: after.to_vec() });
    let places = |raw: &Raw| -> Vec<usize> {
        let entries = usize::try_from(raw.u32(raw::REFCOUNT_CLUSTERS)).expect("fits") * raw.cluster() / 8;
        let blocks = (0..entries).map(|entry| raw.offset(raw.refcount_table() + entry * 8)).filter(|block| *block != 0);
        blocks.chain([raw.refcount_table()]).collect()
    };
    let old = places(&before);
    let per_block = before.cluster() * before.cluster() / 8;
    let table_bytes = usize::try_from(before.u32(raw::REFCOUNT_CLUSTERS)).expect("fits") * before.cluster();
    let is_counted = |place: &usize| {
        let entry = place / per_block * 8;
        entry < table_bytes && before.offset(before.refcount_table() + entry) != 0
    };
    places(&after).iter().any(|place| !old.contains(place) && is_counted(place))
}

/// With 512-byte clusters and 64-bit refcounts the first refcount table covers 2 MiB of file. This number of clusters before its end is free
/// again.
fn full_refcount_table(holes: u64) -> Vec<u8> {
    let image = TestImage::create("cluster_size=512,refcount_bits=64", "4M");
    let mut at = 0;
    loop {
        let len = std::fs::metadata(&image.path).expect("the image is there").len();
        if len >= (2 << 20) - if holes > 0 { 512 } else { 1024 } {
            break;
        }
        image.io(&[format!("write -P 1 {at} 512")]);
        at += if len < (2 << 20) - 65536 { 32768 } else { 512 };
        if len < (2 << 20) - 65536 {
            image.io(&[format!("write -P 1 {at} 32768")]);
            at += 32768;
        }
    }
    free(&image, holes);
    std::fs::read(&image.path).expect("the image can be read")
}

/// The guest gives up a number of clusters.
fn free(image: &TestImage, clusters: u64) {
    if clusters > 0 {
        let discard = format!("discard 32k {}", clusters * 512);
        run("qemu-io", &["-d".as_ref(), "unmap".as_ref(), "-c".as_ref(), discard.as_ref(), image.path.as_os_str()]);
    }
}

/// The last refcount block of this file is full. Two clusters are free: after the table of a new bitmap took the first, its
/// directory does not fit into the second, but the refcount block that counts the directory does.
fn full_refcount_block() -> Vec<u8> {
    let image = TestImage::create("cluster_size=512,refcount_bits=64", "1M");
    image.io(&["write -P 1 32k 4k".into()]);
    for at in (128..).map(|number| number * 512) {
        image.write(at, 512);
        let len = std::fs::metadata(&image.path).expect("the image is there").len();
        if len.is_multiple_of(64 * 512) {
            break;
        }
    }
    free(&image, 2);
    std::fs::read(&image.path).expect("the image can be read")
}

fn create_with_large_table(image: &Image) -> checkmap::Result<Plan> {
    image.plan_create(b"new", Some(checkmap::Granularity::from_bytes(512)?), None)
}

/// Only a flush between the table's entries and the header keeps the bitmaps' clusters from being counted nowhere.
#[test]
fn new_refcount_blocks_are_pointed_to_before_the_header_needs_them() {
    if !support::tools_are_here() {
        return;
    }
    // A table of 64 KiB, for which the refcount blocks that are there are too few by one; the refcount table has room.
    let image = TestImage::create("cluster_size=512,refcount_bits=64", "16G");
    let image = std::fs::read(&image.path).expect("the image can be read");
    let recorder = Arc::new(Recorder::new(image.clone()));
    let mut changed = open(recorder.clone());
    let plan = create_with_large_table(&changed).expect("a plan");
    changed.commit(&plan, &mut Unobserved).expect("the commit succeeds");
    let (before, after) = (Raw { bytes: image.clone() }, Raw { bytes: recorder.image() });
    let table = before.refcount_table();
    assert_eq!(table, after.refcount_table(), "the refcount table moved: the test tests nothing");
    let entries = usize::try_from(before.u32(raw::REFCOUNT_CLUSTERS)).expect("fits") * before.cluster();
    assert_ne!(
        before.bytes[table..][..entries],
        after.bytes[table..][..entries],
        "no new block: the test tests nothing"
    );
    play_all(&[scenario("a new refcount block, the table in place", image, create_with_large_table)]);
}

#[test]
fn unknown_autoclear_bits_are_cleared_on_the_way() {
    if !support::tools_are_here() {
        return;
    }
    let mut image = recorded_chain("cluster_size=4k");
    image[88] = 0x80;
    play_all(&[scenario("unknown autoclear bit", image, |image| delete(image, "3"))]);
}

/// A writer that does not know the feature of an autoclear bit must not change what the feature may describe while the bit
/// still stands on the disk: not the header, not a cluster that is in use.
#[test]
fn an_unknown_autoclear_bit_is_gone_from_the_disk_before_anything_in_use_changes() {
    if !support::tools_are_here() {
        return;
    }
    let mut before = Raw { bytes: recorded_chain("cluster_size=512") };
    before.bytes[raw::AUTOCLEAR] = 0x80;
    let used: Vec<usize> = (1..before.bytes.len() / 512).filter(|number| !before.is_free(*number)).collect();
    let assert_order = |recorder: &Recorder| {
        recorder.cut_everywhere(500, &mut Random::seeded(9), |place, disk| {
            if disk[raw::AUTOCLEAR] & 0x80 != 0 {
                let of = |bytes: &[u8], number: usize| bytes[number * 512..(number + 1) * 512].to_vec();
                assert_eq!(of(disk, 0), of(&before.bytes, 0), "{place}: the header changed first");
                for number in &used {
                    assert_eq!(
                        of(disk, *number),
                        of(&before.bytes, *number),
                        "{place}: cluster {number} changed first"
                    );
                }
            }
        })
    };
    let whole = Arc::new(Recorder::new(before.bytes.clone()));
    let mut image = open(whole.clone());
    let plan = delete(&image, "3").expect("a plan");
    image.commit(&plan, &mut Unobserved).expect("the commit succeeds");
    assert_eq!(whole.image()[raw::AUTOCLEAR], 0, "the bit is cleared");
    assert_order(&whole);
    for failing in 0..whole.operations() {
        let failing = Arc::new(Recorder::failing_at(before.bytes.clone(), &[failing]));
        let mut opened = open(failing.clone());
        let plan = delete(&opened, "3").expect("a plan");
        let _ = opened.commit(&plan, &mut Unobserved);
        assert_order(&failing);
    }
}

#[test]
fn only_a_directory_place_that_crosses_sectors_can_be_lost_and_that_is_said() {
    if !support::tools_are_here() {
        return;
    }
    let crossing = |start: usize| move_extension(recorded_chain("cluster_size=4k"), start);
    let mut scenarios = Vec::new();
    for start in [488, 496] {
        let mut scenario = scenario("crossing", crossing(start), |image| delete(image, "3"));
        scenario.may_lose = true;
        scenarios.push(scenario);
    }
    play_all(&scenarios);
}

/// Lays the header's extensions out anew, so that the bitmaps extension begins at `start`.
fn move_extension(mut image: Vec<u8>, start: usize) -> Vec<u8> {
    let at = (112..4096).step_by(8).find(|at| image[*at..at + 4] == [0x23, 0x85, 0x28, 0x75]).expect("the extension");
    let record = image[at..at + 32].to_vec();
    image[112..4096].fill(0);
    image[112..116].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    let filler = u32::try_from(start - 120).expect("fits");
    image[116..120].copy_from_slice(&filler.to_be_bytes());
    image[start..start + 32].copy_from_slice(&record);
    image
}
