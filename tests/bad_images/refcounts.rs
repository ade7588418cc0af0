//! Damage to refcounts and to the guest's own tables: what our check counts is what QEMU's check counts.

use crate::bases::Base;
use crate::support::random::Random;
use crate::support::raw::Raw;
use crate::support::{folder, tools_are_here, try_run};
use crate::table::{Operation, READS, Row, WRITES, play, unlocked};
use checkmap::image::{Access, Layers, Severity};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Image};
use std::path::Path;

#[test]
fn a_table_of_the_disk_that_breaks_its_rule_keeps_us_from_writing() {
    play(&[
        Row::new("a reserved bit in an L1 entry", |raw| raw.put_u64(raw.l1(), raw.u64(raw.l1()) | 1))
            .refuses(WRITES, ErrorKind::Damaged, "qcow2 L1 table", Raw::l1)
            .works(READS)
            .found(Severity::Error, "qcow2 L1 table")
            .qemu_opens(),
        Row::new("an L2 table out of step", |raw| raw.put_u64(raw.l1(), raw.u64(raw.l1()) + 512))
            .of(Base::Clusters4K)
            .refuses(WRITES, ErrorKind::Damaged, "qcow2 L1 table", Raw::l1)
            .works(READS)
            .found(Severity::Error, "qcow2 L1 table"),
        Row::new("an L2 table past the end of the file", |raw| {
            raw.put_u64(raw.l1(), raw.past_the_end() as u64 | 1 << 63)
        })
        .refuses(WRITES, ErrorKind::Damaged, "qcow2 L2 table", Raw::past_the_end)
        .works(READS)
        .found(Severity::Error, "qcow2 L2 table")
        .qemu_opens(),
        Row::new("an L2 table in the header", |raw| raw.put_u64(raw.l1(), raw.refcount_table() as u64 | 1 << 63))
            .refuses(WRITES, ErrorKind::Damaged, "qcow2 L2 table", Raw::refcount_table)
            .works(READS)
            .found(Severity::Error, "qcow2 cluster")
            .qemu_opens(),
        Row::new("a guest cluster out of step", |raw| raw.put_u64(raw.l2(), raw.u64(raw.l2()) + 512))
            .of(Base::Clusters4K)
            .works(&[Operation::Diff, Operation::Create])
            .found(Severity::Error, "qcow2 L2 table"),
        Row::new("a reserved bit in a refcount table entry", |raw| {
            raw.put_u64(raw.refcount_table(), raw.u64(raw.refcount_table()) | 1);
        })
        .refuses(WRITES, ErrorKind::Damaged, "qcow2 refcount table", Raw::refcount_table)
        .works(READS)
        .found(Severity::Error, "qcow2 refcount table")
        .qemu_opens(),
        Row::new("a refcount block out of step", |raw| {
            raw.put_u64(raw.refcount_table(), raw.u64(raw.refcount_table()) + 512);
        })
        .of(Base::Clusters4K)
        .refuses(WRITES, ErrorKind::Damaged, "qcow2 refcount table", Raw::refcount_table)
        .works(READS)
        .found(Severity::Error, "qcow2 refcount table")
        .qemu_opens(),
        Row::new("a refcount block past the end of the file", |raw| {
            raw.put_u64(raw.refcount_table(), raw.past_the_end() as u64);
        })
        .refuses(WRITES, ErrorKind::Damaged, "qcow2 refcount block", Raw::past_the_end)
        .works(READS)
        .found(Severity::Error, "qcow2 refcount block")
        .qemu_opens(),
        Row::new("a refcount block inside the L1 table", |raw| {
            raw.put_u64(raw.refcount_table(), raw.l1() as u64);
        })
        .refuses(WRITES, ErrorKind::Damaged, "qcow2 refcount block", Raw::l1)
        .works(READS)
        .found(Severity::Error, "qcow2 cluster")
        .qemu_opens(),
    ]);
}

/// What a check counts, ours or QEMU's.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    has_errors: bool,
    leaked_bytes: u64,
}

fn ours(path: &Path) -> Counts {
    let image = Image::open(path, &unlocked(Access::Read)).expect("the image opens");
    let report = image.check(&mut Unobserved).expect("the check goes to its end");
    Counts { has_errors: report.errors > 0, leaked_bytes: report.leaked_bytes }
}

fn qemus(path: &Path, cluster_bytes: u64) -> Counts {
    let path = path.to_str().expect("a path in UTF-8");
    let output = try_run("qemu-img", &["check", "--output=json", "-f", "qcow2", path]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("qemu-img check: {error}: {}", String::from_utf8_lossy(&output.stderr)));
    let number = |key: &str| report[key].as_u64().unwrap_or(0);
    Counts { has_errors: number("corruptions") > 0, leaked_bytes: number("leaks") * cluster_bytes }
}

#[test]
fn damage_to_refcounts_is_counted_as_qemu_counts_it() {
    if !tools_are_here() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("damaged.qcow2");
    let mut random = Random::seeded(4);
    for base in [Base::Chain, Base::Snapshot, Base::Clusters4K, Base::TwoEntries] {
        for number in 0..12 {
            let mut raw = base.raw();
            let mut told = Vec::new();
            for _ in 0..=random.below(3) {
                let cluster = random.index(raw.bytes.len() / raw.cluster());
                let place = raw.refcount_of(cluster * raw.cluster());
                let refcount = u16::try_from(random.below(4)).expect("small");
                told.push((cluster, raw.u16(place), refcount));
                raw.put_u16(place, refcount);
            }
            std::fs::write(&path, &raw.bytes).expect("the image can be written");
            let what = format!("{base:?} {number}: (cluster, was, is) {told:?}");
            assert_eq!(ours(&path), qemus(&path, raw.cluster() as u64), "{what}");
        }
    }
}

/// Who holds the second count is unknown, and may still use the cluster.
#[test]
fn what_is_counted_twice_is_released_once() {
    if !tools_are_here() {
        return;
    }
    let folder = folder();
    let path = folder.path().join("counted-twice.qcow2");
    let mut raw = Base::Chain.raw();
    let data = raw.data(0);
    let refcount = raw.refcount_of(data);
    assert_eq!(raw.u16(refcount), 1, "the data of the first bitmap");
    raw.put_u16(refcount, 2);
    std::fs::write(&path, &raw.bytes).expect("the image can be written");
    let mut image = Image::open(&path, &unlocked(Access::Write)).expect("it opens");
    let first = image.chain(None).expect("a chain").checkpoints()[0].name.clone();
    let plan = image.plan_delete(first.as_bytes(), false, Layers::Check, None).expect("a plan");
    image.commit(&plan, &mut Unobserved).expect("it can be written");
    let after = Raw::read(&path);
    assert_eq!(after.u16(after.refcount_of(data)), 1);
}
