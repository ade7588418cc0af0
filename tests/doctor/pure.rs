//! Disks that are described, not read: which disk libvirt's notes mean, and what they become.

use checkmap::Granularity;
use checkmap::chain::{BitmapState, KnownModel, Name};
use checkmap::doctor::{Case, Diagnosis, FindingKind, Options, Patient, Sight, diagnose};
use checkmap::libvirt::{Change, DomainCheckpoint, Metadata};

/// A disk with recording bitmaps of these names in its top layer, and layers in these files.
fn disk(target: &str, bitmaps: &[&str], files: &[&str]) -> Patient {
    let granularity = Granularity::from_bytes(65536).expect("a power of two");
    let bitmaps = bitmaps.iter().map(|name| BitmapState::new(Name::new(*name), granularity, true)).collect();
    let files = files.iter().map(|file| format!("/no/such/{file}")).collect();
    Patient::new(target, Some(target), vec![Sight::new("top", bitmaps)]).files(files)
}

/// libvirt's notes of a checkpoint on a disk, which had this file.
fn note(name: &str, target: &str, file: &str) -> DomainCheckpoint {
    let text = format!(
        "<domaincheckpoint><name>{name}</name><description>kept</description><creationTime>5</creationTime><disks><disk \
         name='{target}' checkpoint='bitmap' bitmap='{name}'/></disks><domain><devices><disk><source file='/no/such/{file}'/>\
         <target dev='{target}'/></disk></devices></domain></domaincheckpoint>"
    );
    DomainCheckpoint::read(text.into_bytes()).expect("a document")
}

fn examine(disks: &[Patient], notes: Vec<DomainCheckpoint>) -> (Vec<FindingKind>, Diagnosis) {
    let metadata = Metadata::of(notes).expect("an order");
    let found = diagnose(&Case::new(disks).metadata(Some(&metadata)), &Options::new(9)).expect("a diagnosis");
    (found.findings.iter().map(|found| found.kind).collect(), found)
}

#[test]
fn a_disk_with_another_name_is_found_by_its_file() {
    let disks = [disk("vda", &["c2", "c2b"], &["b"]), disk("vdb", &["c1", "c1b"], &["a"])];
    let (kinds, found) = examine(
        &disks,
        vec![note("c1", "vda", "a"), note("c1b", "vda", "a"), note("c2", "vdb", "b"), note("c2b", "vdb", "b")],
    );
    assert_eq!(kinds, [FindingKind::ShiftedDisk; 4]);
    assert!(found.actions.iter().all(Vec::is_empty));
    let told: Vec<_> = found
        .changes
        .iter()
        .map(|change| match change {
            Change::Tell(told) => (told.name().to_string_lossy(), told.bitmap_on("vda").is_some(), told.text()),
            other => panic!("{other}"),
        })
        .collect();
    for (name, is_on_vda, text) in told {
        assert_eq!(is_on_vda, name.starts_with("c2"), "{text}");
        assert!(text.contains("kept") && !text.contains("<domain>"), "{text}");
    }
}

/// Clones share their base, and an overlay keeps the name of its disk: neither is a shift.
#[test]
fn a_base_that_several_disks_share_moves_nothing() {
    let on_base = [disk("vda", &["x", "y"], &["clone", "base"]), disk("vdb", &["c1", "c2"], &["over", "base"])];
    assert_eq!(
        examine(&on_base, vec![note("c1", "vdb", "base"), note("c2", "vdb", "base")]).0,
        [FindingKind::BitmapWithoutMetadata, FindingKind::BitmapWithoutMetadata]
    );
    let two = [disk("vdb", &["c1", "c2"], &["base"]), disk("vdc", &["c1", "c2"], &["over", "base"])];
    let (kinds, _) = examine(&two, vec![note("c1", "vda", "base"), note("c2", "vda", "base")]);
    assert!(!kinds.contains(&FindingKind::ShiftedDisk), "{kinds:?}");
    // The image has another bitmap: libvirt is told nothing of it.
    let (kinds, _) = examine(&[disk("vdb", &["x", "y"], &["a"])], vec![note("c1", "vda", "a")]);
    assert!(!kinds.contains(&FindingKind::ShiftedDisk), "{kinds:?}");
}

/// The checkpoint goes from one disk and comes to another in one document.
#[test]
fn a_checkpoint_that_moves_between_disks_is_told_once() {
    let disks = [disk("vda", &["c1", "x"], &["a"]), disk("vdb", &[], &["b"])];
    let (kinds, found) = examine(&disks, vec![note("c1", "vdb", "b"), note("x", "vda", "a")]);
    assert_eq!(kinds, [FindingKind::BitmapWithoutMetadata, FindingKind::MetadataWithoutBitmap]);
    match found.changes.as_slice() {
        [Change::Tell(told)] => {
            assert_eq!((told.name(), told.bitmap_on("vdb")), (&Name::new("c1"), None));
            assert!(told.bitmap_on("vda").is_some());
        }
        other => panic!("{other:?}"),
    }
}

/// The disk took another one's name, and the checkpoint has a bitmap on that one: neither entry may be lost.
#[test]
fn a_disk_whose_new_name_is_taken_is_told_and_not_moved() {
    let text = "<domaincheckpoint><name>c1</name><creationTime>5</creationTime><disks><disk name='vda' checkpoint='bitmap' bitmap='c1'/>\
        <disk name='vdb' checkpoint='bitmap' bitmap='c1'/></disks><domain><devices><disk><source file='/no/such/a'/><target \
        dev='vda'/></disk></devices></domain></domaincheckpoint>";
    let note = || DomainCheckpoint::read(text.as_bytes().to_vec()).expect("a document");
    let (kinds, found) = examine(&[disk("vdb", &["c1", "c1b"], &["a"])], vec![note()]);
    assert_eq!(kinds, [FindingKind::ShiftedDisk, FindingKind::BitmapWithoutMetadata]);
    assert_eq!(found.findings[0].mend, None);
    assert!(found.changes.iter().all(|change| *change.name() != Name::new("c1")), "{:?}", found.changes);
}

#[test]
fn two_checkpoints_with_one_bitmap_take_it_away_once() {
    let mut patient = disk("vda", &["c1", "c2"], &["a"]);
    patient.layers[0].bitmaps[0].recording = false;
    let text = "<domaincheckpoint><name>again</name><disks><disk name='vda' checkpoint='bitmap' bitmap='c1'/></disks></domaincheckpoint>";
    let again = DomainCheckpoint::read(text.as_bytes().to_vec()).expect("a document");
    let (kinds, found) = examine(&[patient], vec![note("c1", "vda", "a"), note("c2", "vda", "a"), again]);
    assert_eq!(kinds, [FindingKind::BrokenBitmap; 2]);
    assert_eq!((found.actions[0].len(), found.changes.len()), (1, 2), "{found:?}");
}

/// A chain of ours keeps the bitmap that it needs, whatever libvirt's notes say of it.
#[test]
fn a_short_bitmap_of_a_chain_of_ours_stays() {
    let mut patient = disk("vda", &["c1"], &["a"]);
    patient.lacking = vec![(Name::new("c1"), Name::new("c2"))];
    let metadata = Metadata::of(vec![note("c1", "vda", "a")]).expect("an order");
    for (model, actions) in [(KnownModel::Interval, 0), (KnownModel::Cumulative, 1)] {
        let disks = [patient.clone()];
        let options = Options::new(9).model(Some(model));
        let found = diagnose(&Case::new(&disks).metadata(Some(&metadata)), &options).expect("a diagnosis");
        assert_eq!(found.findings[0].kind, FindingKind::LacksBlocks);
        assert_eq!((found.actions[0].len(), found.changes.len()), (actions, 1), "{model:?}");
    }
}
