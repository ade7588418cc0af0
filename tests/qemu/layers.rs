//! Owns the proof that a running disk with snapshots is one disk: its diffs are gathered over all its layers.

use crate::histories::{connect, dirty_granules, open};
use crate::support::hypervisor::{DiskSpec, Hypervisor, Program};
use crate::support::run;
use checkmap::image::{DiffRequest, Group};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Image};
use serde_json::json;
use std::collections::BTreeSet;

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
    // A checkpoint needs a bitmap of all that the overlay holds, which QEMU cannot be told.
    let mut group = Group::new(&mut images).expect("one machine");
    let plans = group.plan(|image| image.plan_create(b"tue", None, None)).expect("planned");
    let refused = group.commit(&plans, &mut Unobserved).expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::BackingLayer, "{refused}");
    assert_eq!(diff(&images[0], "mon", None), BTreeSet::from([1, 5]));
    drop((images, machine));
    hypervisor.assert_tidy();
}
