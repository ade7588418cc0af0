//! Owns the proof that a running disk with snapshots is one disk: its diffs are gathered over all its layers.

use crate::histories::{connect, dirty_granules, open};
use crate::support::hypervisor::{DiskSpec, Hypervisor, Program};
use crate::support::random::Random;
use crate::support::run;
use checkmap::Image;
use checkmap::image::{DiffRequest, Group};
use checkmap::progress::Unobserved;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const GRANULE: u64 = 65536;
pub(crate) const DISK: [DiskSpec; 1] = [DiskSpec { node: "d0", size_bytes: 64 << 20, options: "" }];

/// Puts an overlay on top of a node. With `copied`, these bitmaps go on recording there, as libvirt does it.
pub(crate) fn snapshot(hypervisor: &mut Hypervisor, node: &str, overlay: &str, copied: &[&str]) {
    let path = hypervisor.folder.path().join(format!("{overlay}.qcow2"));
    let below = hypervisor.folder.path().join(format!("{node}.qcow2"));
    let (path, below) = (path.to_str().expect("UTF-8"), below.to_str().expect("UTF-8"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-u", "-b", below, "-F", "qcow2", path, "64M"]);
    let file = json!({ "driver": "qcow2", "node-name": overlay, "backing": null,
        "file": { "driver": "file", "filename": path, "node-name": format!("{overlay}-file") } });
    hypervisor.command("blockdev-add", file);
    let mut actions = vec![json!({ "type": "blockdev-snapshot", "data": { "node": node, "overlay": overlay } })];
    for name in copied {
        actions.push(json!({ "type": "block-dirty-bitmap-add", "data": {
            "node": overlay, "name": name, "persistent": true, "granularity": GRANULE } }));
    }
    hypervisor.command("transaction", json!({ "actions": actions }));
}

pub(crate) fn create(images: &mut [Image], name: &str) {
    let mut group = Group::new(images).expect("one machine");
    let plans = group.plan(|image| image.plan_create(name.as_bytes(), None, None)).expect("planned");
    group.commit(&plans, &mut Unobserved).expect("created");
}

fn diff(image: &Image, since: &str, until: Option<&str>) -> BTreeSet<u64> {
    let request = DiffRequest::since(since.as_bytes());
    let request = until.map_or(request, |until| request.until(until.as_bytes()));
    let diff = image.diff(&request, &mut Unobserved).unwrap_or_else(|error| panic!("{since} to {until:?}: {error}"));
    dirty_granules(&diff.bitmap, GRANULE)
}

fn bits(image: &Image, name: &str) -> BTreeSet<u64> {
    dirty_granules(&image.read_bitmap(&name.into(), 0, u64::MAX).expect("it is read"), GRANULE)
}

#[test]
fn a_checkpoint_on_an_empty_overlay_merges_nothing() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISK);
    create(&mut open(&connect(&hypervisor)), "mon");
    snapshot(&mut hypervisor, "d0", "o1", &[]);
    let machine = connect(&hypervisor);
    let mut images = open(&machine);
    create(&mut images, "tue");
    hypervisor.write(0, 7 * GRANULE, 512);
    assert_eq!((bits(&images[0], "mon"), bits(&images[0], "mon->tue")), (BTreeSet::new(), BTreeSet::from([7])));
    drop((images, machine));
    hypervisor.assert_tidy();
}

/// While it is made, a guest writes: each write is in the bitmap from before or in the one from then on.
#[test]
fn a_checkpoint_gathers_what_is_written_meanwhile() {
    if !crate::support::tools_are_here() {
        return;
    }
    for round in 0..6 {
        let mut hypervisor = Hypervisor::start(Program::StorageDaemon, &DISK);
        create(&mut open(&connect(&hypervisor)), "mon");
        snapshot(&mut hypervisor, "d0", "o1", &[]);
        let machine = connect(&hypervisor);
        let mut images = open(&machine);
        let mut writer = hypervisor.another_writer(0);
        let (is_made, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        let (before, after) = std::thread::scope(|scope| {
            let writes = scope.spawn(|| {
                let (mut random, mut before, mut after) = (Random::from_seed(round), BTreeSet::new(), BTreeSet::new());
                while !is_over.load(Ordering::SeqCst) {
                    let granule = random.below(DISK[0].size_bytes / GRANULE);
                    // Begun after the checkpoint was made.
                    let is_after = is_made.load(Ordering::SeqCst);
                    writer.write(granule * GRANULE, 512);
                    if is_after {
                        after.insert(granule)
                    } else {
                        before.insert(granule)
                    };
                    std::thread::sleep(Duration::from_micros(300));
                }
                (before, after)
            });
            std::thread::sleep(Duration::from_millis(20));
            create(&mut images, "tue");
            is_made.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(20));
            is_over.store(true, Ordering::SeqCst);
            writes.join().expect("the writer ends")
        });
        // Frozen, as an own server could not run beside that of the writer.
        create(&mut images, "wed");
        let (frozen, recording) = (bits(&images[0], "mon"), bits(&images[0], "mon->tue"));
        assert!(after.is_subset(&recording), "{after:?} and {recording:?}");
        let both: BTreeSet<u64> = frozen.union(&recording).copied().collect();
        assert!(before.is_subset(&both), "{:?} is nowhere", before.difference(&both));
        assert!(!frozen.is_empty() && frozen.is_subset(&before), "{frozen:?} of {before:?}");
        drop((images, machine));
        hypervisor.assert_tidy();
    }
}

#[test]
fn a_snapshot_that_carries_the_recording_bitmap_loses_nothing() {
    if !crate::support::tools_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::StorageDaemon, &DISK);
    let write = |hypervisor: &mut Hypervisor, granule: u64| hypervisor.write(0, granule * GRANULE, 512);
    {
        let machine = connect(&hypervisor);
        let mut images = open(&machine);
        create(&mut images, "mon");
        write(&mut hypervisor, 1);
        create(&mut images, "tue");
        write(&mut hypervisor, 2);
    }
    snapshot(&mut hypervisor, "d0", "o1", &["mon->tue"]);
    write(&mut hypervisor, 3);
    let machine = connect(&hypervisor);
    let mut images = open(&machine);
    assert_eq!(images.len(), 1);
    create(&mut images, "wed");
    write(&mut hypervisor, 4);
    create(&mut images, "thu");
    let image = &images[0];
    assert_eq!(diff(image, "mon", Some("tue")), BTreeSet::from([1]));
    // Nothing proves that the copied bitmap recorded from the first write to the overlay on, so all that it holds counts.
    assert_eq!(diff(image, "tue", Some("wed")), BTreeSet::from([2, 3, 4]));
    assert_eq!(diff(image, "wed", Some("thu")), BTreeSet::from([4]));
    assert_eq!(diff(image, "mon", Some("thu")), BTreeSet::from([1, 2, 3, 4]));
    drop((images, machine));
    hypervisor.assert_tidy();
    let folder = hypervisor.quit();
    // The same offline.
    let options = checkmap::image::OpenOptions::new(checkmap::image::Access::Read);
    let image = Image::open(&folder.path().join("o1.qcow2"), &options).expect("it opens offline");
    assert_eq!(diff(&image, "tue", Some("wed")), BTreeSet::from([2, 3, 4]));
    assert_eq!(diff(&image, "mon", None), BTreeSet::from([1, 2, 3, 4]));
}

#[test]
fn a_snapshot_without_bitmaps_counts_with_all_that_it_holds() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISK);
    {
        let machine = connect(&hypervisor);
        let mut images = open(&machine);
        create(&mut images, "mon");
        hypervisor.write(0, GRANULE, 512);
    }
    snapshot(&mut hypervisor, "d0", "o1", &[]);
    hypervisor.write(0, 5 * GRANULE, 512);
    let machine = connect(&hypervisor);
    let mut images = open(&machine);
    assert_eq!(diff(&images[0], "mon", None), BTreeSet::from([1, 5]));
    // A checkpoint needs a bitmap of all that the overlay holds.
    create(&mut images, "tue");
    hypervisor.write(0, 7 * GRANULE, 512);
    assert_eq!(bits(&images[0], "mon"), BTreeSet::from([5]));
    // Nothing proves that the bitmap of mon is complete, so the allocation counts too.
    assert_eq!(diff(&images[0], "mon", Some("tue")), BTreeSet::from([1, 5, 7]));
    assert_eq!(diff(&images[0], "tue", None), BTreeSet::from([7]));
    drop((images, machine));
    hypervisor.assert_tidy();
}
