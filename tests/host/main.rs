#![forbid(unsafe_code)]
//! Owns the proof that images work on any host: a second one, which is no file, has no rehearsal, is sometimes busy, and
//! changes several disks in one step.

mod histories;
mod machine;
#[path = "../support/mod.rs"]
mod support;

use checkmap::chain::{Action, Model, Name, Plan};
use checkmap::image::{Access, DiffRequest, Group, Layers, OpenOptions, Scope};
use checkmap::progress::{Step, Unobserved};
use checkmap::{ErrorKind, Image};
use machine::{Kept, Machine, Node, Weather};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use support::TestImage;

const DISKS: [(&str, u64, u64); 3] = [("vda", 1 << 30, 1 << 16), ("vdb", 1 << 20, 1 << 12), ("vdc", 4096, 512)];

fn machine(checkpoints: &[&[u8]]) -> (Arc<Machine>, Vec<Image>) {
    let machine = Machine::new(&DISKS);
    let mut images: Vec<Image> = DISKS.iter().map(|(name, ..)| machine.open(name)).collect();
    for checkpoint in checkpoints {
        let mut group = Group::new(&mut images).unwrap();
        let plans = group.plan(|image| image.plan_create(checkpoint, None, None)).unwrap();
        group.commit(&plans, &mut Unobserved).unwrap();
    }
    (machine, images)
}

fn deletion(image: &Image) -> checkmap::Result<Plan> {
    image.plan_delete(b"2", false, Layers::Check, None)
}

#[test]
fn what_fails_on_the_second_disk_leaves_the_first_as_it_was() {
    let (machine, mut images) = machine(&[b"1", b"2", b"3"]);
    for (name, ..) in DISKS {
        machine.write(name, 0, 512);
    }
    let before = machine.content();
    let mut group = Group::new(&mut images).unwrap();
    let plans = group.plan(deletion).unwrap();
    assert!(plans.iter().all(|plan| plan.actions().len() > 1));
    for weather in [Weather::Fails("vdb".into()), Weather::Busy("vdb".into()), Weather::Fails("vdc".into())] {
        let expected = if weather == Weather::Busy("vdb".into()) { ErrorKind::InUse } else { ErrorKind::Io };
        machine.set_weather(weather);
        let error = group.commit(&plans, &mut Unobserved).unwrap_err();
        assert_eq!(error.kind(), expected);
        assert!(error.to_string().contains("nothing was changed"), "{error}");
        assert_eq!(machine.content(), before);
    }
    let mut stop = |_: Step| ControlFlow::Break(());
    assert_eq!(group.commit(&plans, &mut stop).unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(machine.content(), before);
    // A plan is good as long as nothing changed, and once.
    group.commit(&plans, &mut Unobserved).unwrap();
    assert!(group.images().all(|image| image.chain(None).unwrap().checkpoint(b"2").is_none()));
    assert_eq!(group.commit(&plans, &mut Unobserved).unwrap_err().kind(), ErrorKind::Changed);
}

#[test]
fn a_disk_that_has_nothing_to_do_takes_no_part() {
    let (machine, mut images) = machine(&[b"1", b"2"]);
    let mut group = Group::new(&mut images).unwrap();
    let mut plans = group.plan(deletion).unwrap();
    plans[1] = Plan::default();
    // The second disk's trouble is none of the step's.
    machine.set_weather(Weather::Fails("vdb".into()));
    let warnings = group.commit(&plans, &mut Unobserved).unwrap();
    let said: Vec<usize> = warnings.iter().map(Vec::len).collect();
    assert_eq!(said, [1, 0, 1]);
    let left: Vec<usize> = group.images().map(|image| image.bitmaps().len()).collect();
    assert_eq!(left, [1, 2, 1]);
    let nothing = [Plan::default(), Plan::default(), Plan::default()];
    assert_eq!(group.commit(&nothing, &mut Unobserved).unwrap().concat(), Vec::<String>::new());
}

#[test]
fn a_plan_serves_its_own_disk_only() {
    let (machine, mut images) = machine(&[b"1", b"2"]);
    let before = machine.content();
    let mut group = Group::new(&mut images).unwrap();
    let mut plans = group.plan(deletion).unwrap();
    plans.swap(0, 1);
    assert_eq!(group.commit(&plans, &mut Unobserved).unwrap_err().kind(), ErrorKind::Changed);
    assert_eq!(group.commit(&plans[..2], &mut Unobserved).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(group.rehearse(&plans[..2], &mut Unobserved).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(machine.content(), before);
}

#[test]
fn images_that_share_no_transaction_are_refused() {
    let (first, mut images) = machine(&[b"1"]);
    let (other, mut others) = machine(&[b"1"]);
    let before = (first.content(), other.content());
    let refused = |images: Vec<&mut Image>| {
        let error = Group::new(images).unwrap_err();
        (error.kind(), error.to_string())
    };
    let (kind, message) = refused(vec![&mut images[0], &mut others[1]]);
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(message.contains("vdb: cannot change in one step with vda"), "{message}");
    if !support::tools_are_here() {
        return;
    }
    let files = [TestImage::create("", "1M"), TestImage::create("", "1M")];
    let open = |file: &TestImage| Image::open(&file.path, &OpenOptions::new(Access::Write)).unwrap();
    let (mut in_file, mut second) = (open(&files[0]), open(&files[1]));
    assert_eq!(refused(vec![&mut images[0], &mut in_file]).0, ErrorKind::Unsupported);
    assert_eq!(refused(vec![&mut in_file, &mut images[0]]).0, ErrorKind::Unsupported);
    assert_eq!(refused(vec![&mut in_file, &mut second]).0, ErrorKind::Unsupported);
    assert_eq!(refused(vec![]).0, ErrorKind::InvalidArgument);
    let mut again = first.open("vda");
    assert_eq!(refused(vec![&mut images[0], &mut again]).0, ErrorKind::InvalidArgument);
    assert_eq!((first.content(), other.content()), before);
    // One by itself needs no transaction.
    let mut alone = Group::new([&mut in_file]).unwrap();
    let plans = alone.plan(|image| image.plan_create(b"1", None, None)).unwrap();
    alone.rehearse(&plans, &mut Unobserved).unwrap();
    alone.commit(&plans, &mut Unobserved).unwrap();
    assert_eq!(in_file.bitmaps().len(), 1);
}

#[test]
fn another_client_that_changes_the_list_is_noticed() {
    let (machine, mut images) = machine(&[b"1"]);
    let plan = images[0].plan_create(b"2", None, None).unwrap();
    let mut other = machine.open("vda");
    let theirs = other.plan_create(b"3", None, None).unwrap();
    other.commit(&theirs, &mut Unobserved).unwrap();
    let after = machine.content();
    let image = &mut images[0];
    assert_eq!(image.chain(None).unwrap_err().kind(), ErrorKind::Changed);
    assert_eq!(image.diff(&DiffRequest::since(b"1"), &mut Unobserved).unwrap_err().kind(), ErrorKind::Changed);
    assert_eq!(image.commit(&plan, &mut Unobserved).unwrap_err().kind(), ErrorKind::Changed);
    let mut group = Group::new(&mut images).unwrap();
    let plans = [plan, Plan::default(), Plan::default()];
    assert_eq!(group.commit(&plans, &mut Unobserved).unwrap_err().kind(), ErrorKind::Changed);
    assert_eq!(machine.content(), after);
}

#[test]
fn what_lies_below_a_host_without_a_file_is_not_guessed() {
    let (machine, _) = machine(&[b"1", b"2"]);
    let mut node = Node::new(&machine, "vda");
    node.below = Some(b"base.qcow2".to_vec());
    let image = Image::on(Box::new(node), Path::new("vda"), &OpenOptions::new(Access::Write));
    let refused = image.diff(&DiffRequest::since(b"1"), &mut Unobserved).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::BackingLayer);
    assert_eq!(deletion(&image).unwrap_err().kind(), ErrorKind::BackingLayer);
    image.diff(&DiffRequest::since(b"1").layers(Layers::TopOnly), &mut Unobserved).unwrap();
    assert_eq!(image.files(), []);
}

#[test]
fn an_answer_for_another_disk_is_refused() {
    let (machine, _) = machine(&[b"1"]);
    let mut node = Node::new(&machine, "vda");
    node.answers_for = Some("vdb".into());
    let image = Image::on(Box::new(node), Path::new("vda"), &OpenOptions::new(Access::Read));
    let short = image.diff(&DiffRequest::since(b"1"), &mut Unobserved).unwrap_err();
    assert_eq!(short.kind(), ErrorKind::SizeMismatch);
    assert_eq!(image.read_bitmap(&Name::new("1"), 0, u64::MAX).unwrap_err().kind(), ErrorKind::SizeMismatch);
}

#[test]
fn a_host_says_what_it_is() {
    let (machine, mut images) = machine(&[b"1"]);
    let image = &mut images[2];
    assert_eq!((image.format(), image.format_version(), image.virtual_size()), ("machine", 0, 4096));
    assert_eq!((image.cluster_bytes(), image.backing_file(), image.data_file()), (0, None, None));
    assert_eq!(image.default_granularity().unwrap().bytes(), 512);
    assert!(!image.is_locked() && !image.has_unclean_mark() && image.trouble().is_none());
    let mine = checkmap::Granularity::from_bytes(1).unwrap();
    assert_eq!(image.plan_create(b"2", Some(mine), None).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(image.upgrade().err().map(|error| error.kind()), None);
    let mut readable =
        Image::on(Box::new(Node::new(&machine, "vdc")), Path::new("vdc"), &OpenOptions::new(Access::Read));
    let plan = readable.plan_create(b"2", None, None).unwrap();
    assert_eq!(readable.commit(&plan, &mut Unobserved).unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(readable.upgrade().unwrap_err().kind(), ErrorKind::ReadOnly);
}

#[test]
fn everything_can_be_dropped_from_a_host_that_knows_only_single_removals() {
    let (machine, mut images) = machine(&[b"1", b"2"]);
    assert_eq!(images[0].rehearse_drop_all(false, &mut Unobserved).unwrap().len(), 1);
    machine.set_weather(Weather::Busy("vda".into()));
    assert_eq!(images[0].drop_all(false, &mut Unobserved).unwrap_err().kind(), ErrorKind::InUse);
    assert_eq!(images[0].bitmaps().len(), 2);
    images[0].drop_all(false, &mut Unobserved).unwrap();
    assert_eq!((images[0].bitmaps().len(), images[1].bitmaps().len()), (0, 2));
}

#[test]
fn cumulative_checkpoints_are_put_in_order_by_what_they_hold() {
    let (machine, _) = machine(&[]);
    {
        let mut disks = machine.disks();
        let disk = disks.get_mut("vda").unwrap();
        for (name, blocks) in [("a", 1), ("b", 3), ("c", 2)] {
            let mut bits = checkmap::Bitmap::new(disk.size_bytes, disk.granularity).unwrap();
            bits.set(0, blocks << 16).unwrap();
            disk.bitmaps.push((Name::new(name), Kept { bits, recording: true, inconsistent: false }));
        }
    }
    let image = machine.open("vda");
    let overview = image.overview(None, Scope::Bitmaps, &mut Unobserved).unwrap();
    let chain = overview.chain.unwrap();
    assert_eq!(chain.model(), Model::Cumulative);
    let names: Vec<&[u8]> = chain.checkpoints().iter().map(|one| one.name.as_bytes()).collect();
    assert_eq!(names, [b"b", b"c", b"a"]);
}

#[test]
fn an_inconsistent_bitmap_is_reported_and_given_up_as_in_a_file() {
    let (machine, _) = machine(&[b"1", b"2", b"3"]);
    machine.disks().get_mut("vda").unwrap().bitmaps[1].1.inconsistent = true;
    let mut image = machine.open("vda");
    assert_eq!(image.check(&mut Unobserved).unwrap().unusable, 1);
    assert_eq!(image.diff(&DiffRequest::since(b"1"), &mut Unobserved).unwrap_err().kind(), ErrorKind::Inconsistent);
    assert_eq!(image.read_bitmap(&Name::new("1->2"), 0, u64::MAX).unwrap_err().kind(), ErrorKind::Inconsistent);
    let plan = image.plan_delete_all_inconsistent(Layers::Check, None).unwrap();
    assert!(plan.actions().iter().any(|action| matches!(action, Action::Remove { .. })));
    image.commit(&plan, &mut Unobserved).unwrap();
    let left = image.chain(None).unwrap();
    assert_eq!(left.checkpoints().iter().map(|one| one.name.as_bytes()).collect::<Vec<_>>(), [b"3"]);
}
