//! Cuts the power at every point while bitmaps are removed that cannot be trusted, and while the whole directory is
//! dropped: afterwards the directory is the old or the new one, whole, and no byte of the guest's has changed.

mod support;

use checkmap::Image;
use checkmap::image::{Access, Layers, OpenOptions, Severity};
use checkmap::progress::Unobserved;
use std::path::Path;
use std::sync::Arc;
use support::power::Recorder;
use support::random::Random;
use support::raw::{self, Raw};
use support::{TestImage, folder, tools_are_here, try_run};

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

type Damage = fn(&mut Raw);
type Change = fn(&mut Image) -> checkmap::Result<Vec<String>>;

fn open(image: Vec<u8>) -> (Arc<Recorder>, Image) {
    let recorder = Arc::new(Recorder::new(image));
    let image = reopen(Arc::clone(&recorder));
    (recorder, image)
}

fn reopen(recorder: Arc<Recorder>) -> Image {
    let options = OpenOptions::new(Access::Write).no_lock(true);
    Image::open_storage(recorder, Path::new("disk.qcow2"), &options).expect("the image opens")
}

/// The directory as it is read: names and flags, or its fault.
fn directory(image: &Image) -> Vec<String> {
    let trouble = image.trouble().map(|trouble| trouble.message().to_owned());
    let states = image.bitmaps();
    let told = states.iter().map(|state| format!("{} {} {}", state.name, state.recording, state.inconsistent));
    told.chain(trouble).collect()
}

/// The bytes of every cluster that the guest has.
fn guest(raw: &Raw) -> Vec<(usize, Vec<u8>)> {
    let (l2, cluster) = (raw.l2(), raw.cluster());
    let entries = (0..cluster / 8).map(|number| raw.u64(l2 + number * 8) & OFFSET_MASK);
    let clusters = entries.filter(|offset| *offset != 0).map(|offset| usize::try_from(offset).expect("in the file"));
    // The file may end inside a cluster.
    let end = |offset: usize| (offset + cluster).min(raw.bytes.len());
    clusters.map(|offset| (offset, raw.bytes[offset..end(offset)].to_vec())).collect()
}

fn chain(options: &str) -> Raw {
    let image = TestImage::create(options, "1M");
    image.io(&["write -P 7 0 4k".into()]);
    for name in ["1", "1->2", "2->3"] {
        image.bitmap(&["--add", "-g", "512"], name);
        image.io(&["write -P 3 8k 512".into(), "write -P 3 0 512".into()]);
        image.bitmap(&["--disable"], name);
    }
    image.bitmap(&["--enable"], "2->3");
    image.io(&["write -P 4 512 512".into()]);
    Raw::read(&image.path)
}

const DAMAGES: &[(&str, Damage)] = &[
    ("data of the guest's", |raw| raw.put_u64(raw.table(0), raw.u64(raw.l2()) & OFFSET_MASK)),
    ("a table of the guest's", |raw| raw.put_u64(raw.entry(1), raw.u64(raw.l2()) & OFFSET_MASK)),
    ("one table for two", |raw| raw.put_u64(raw.entry(1), raw.table(0) as u64)),
    ("a table past the end", |raw| raw.put_u64(raw.entry(0), raw.past_the_end() as u64)),
    ("a table that is not counted", |raw| raw.put_u16(raw.refcount_of(raw.table(1)), 0)),
];

const DIRECTORY_DAMAGES: &[(&str, Damage)] = &[
    ("a directory of zeros", |raw| raw.put(raw.directory(), &[0; 96])),
    ("a directory of the guest's", |raw| raw.put_u64(raw.l2() + 8 * 6, raw.directory() as u64 | 1 << 63)),
    ("a directory past the end", |raw| raw.put_u64(raw.extension(raw::EXTENSION_OFFSET), raw.past_the_end() as u64)),
    ("no bitmaps in the extension", |raw| raw.put_u32(raw.extension(raw::EXTENSION_COUNT), 0)),
    ("bitmaps out of date", |raw| raw.put_u64(raw::AUTOCLEAR, 0)),
];

fn delete_by_force(image: &mut Image) -> checkmap::Result<Vec<String>> {
    let plan = image.plan_delete(b"2", true, Layers::TopOnly, None)?;
    image.commit(&plan, &mut Unobserved)
}

fn drop_one(image: &mut Image) -> checkmap::Result<Vec<String>> {
    let plan = image.plan_drop_bitmap(b"1")?;
    image.commit(&plan, &mut Unobserved)
}

fn drop_all(image: &mut Image) -> checkmap::Result<Vec<String>> {
    image.drop_all(true, &mut Unobserved)
}

/// Plays one change of one damaged image; `none` tells of the states in which nobody uses any bitmap.
fn play(what: &str, raw: &Raw, change: Change, drops_all: bool) {
    let (recorder, mut image) = open(raw.bytes.clone());
    let old = directory(&image);
    change(&mut image).unwrap_or_else(|error| panic!("{what}: {error}"));
    let new = directory(&image);
    assert_ne!(old, new, "{what}: nothing changed");
    let guest = guest(raw);
    let (mut seen_old, mut seen_new, mut sampled) = (0, 0, Vec::new());
    recorder.cut_everywhere(400, &mut Random::seeded(3), |place, disk| {
        let case = format!("{what}: {place}");
        for (offset, bytes) in &guest {
            assert!(
                disk[*offset..offset + bytes.len()] == bytes[..],
                "{case}: the guest's cluster at {offset:#x} changed"
            );
        }
        let now = reopen(Arc::new(Recorder::new(disk.to_vec())));
        let found = directory(&now);
        // On the way to no bitmaps the bit that promises them goes first.
        let hidden = drops_all && now.trouble().is_some_and(|trouble| trouble.kind() == checkmap::ErrorKind::Stale);
        match found {
            found if found == old || hidden => seen_old += 1,
            found if found == new => {
                seen_new += 1;
                let report = now.check(&mut Unobserved).expect("the check runs");
                let errors = report.problems.iter().filter(|problem| problem.severity == Severity::Error);
                let kept = errors.filter(|_| drops_all).collect::<Vec<_>>();
                assert!(kept.is_empty(), "{case}: {kept:?}");
                if sampled.len() < 4 {
                    sampled.push(disk.to_vec());
                }
            }
            found => panic!("{case}: neither the old nor the new directory: {found:?}, {old:?}, {new:?}"),
        }
    });
    assert!(seen_old > 0 && seen_new > 0, "{what}: {seen_old} old, {seen_new} new");
    sampled.push(recorder.image());
    let folder = folder();
    let path = folder.path().join("disk.qcow2");
    for disk in sampled {
        std::fs::write(&path, disk).expect("the image can be written");
        let check = try_run("qemu-img", &["check".as_ref(), path.as_os_str()]);
        let clean = matches!(check.status.code(), Some(0 | 3));
        assert!(clean || !drops_all, "{what}: qemu-img check: {}", String::from_utf8_lossy(&check.stdout));
    }
}

#[test]
fn a_bitmap_that_cannot_be_trusted_is_there_or_gone() {
    if !tools_are_here() {
        return;
    }
    for options in ["cluster_size=512", "cluster_size=4k"] {
        for (what, damage) in DAMAGES {
            let mut raw = chain(options);
            damage(&mut raw);
            play(&format!("{options}, {what}, delete by force"), &raw, delete_by_force, false);
            play(&format!("{options}, {what}, drop one"), &raw, drop_one, false);
        }
    }
}

#[test]
fn the_whole_directory_is_there_or_gone() {
    if !tools_are_here() {
        return;
    }
    for options in ["", "cluster_size=512", "cluster_size=4k"] {
        for (what, damage) in DAMAGES.iter().chain(DIRECTORY_DAMAGES) {
            let mut raw = chain(options);
            damage(&mut raw);
            play(&format!("{options}, {what}, drop all"), &raw, drop_all, true);
        }
        play(&format!("{options}, sound, drop all"), &chain(options), drop_all, true);
    }
}
