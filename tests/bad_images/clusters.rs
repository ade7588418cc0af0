//! Rules of bitmap tables and of the clusters of data, which no other structure may use.

use crate::bases::Base;
use crate::support::raw::Raw;
use crate::table::{Operation, READS, Row, USES, WRITES, play};
use checkmap::ErrorKind;
use checkmap::image::Severity;

const TABLE: &str = "qcow2 table of bitmap '1'";

/// A row whose first bitmap has a broken entry in its table, at the entry's own place.
const fn table_entry(rule: &'static str, damage: fn(&mut Raw)) -> Row {
    Row::new(rule, damage).refuses(USES, ErrorKind::Damaged, TABLE, |raw| raw.table(0)).found(Severity::Error, TABLE)
}

/// A row whose first bitmap's data stands where something else does.
const fn overlap(rule: &'static str, damage: fn(&mut Raw)) -> Row {
    Row::new(rule, damage)
        .refuses(READS, ErrorKind::Damaged, TABLE, |raw| raw.table(0))
        .refuses_saying(WRITES, ErrorKind::Damaged, "overlaps another structure, so its bits cannot be trusted")
        .found(Severity::Error, "qcow2 bitmap")
        .qemu_opens()
}

#[test]
fn a_table_entry_that_breaks_its_rule_is_named() {
    play(&[
        table_entry("a low reserved bit", |raw| raw.put_u64(raw.table(0), raw.u64(raw.table(0)) | 1 << 8)),
        table_entry("a high reserved bit", |raw| raw.put_u64(raw.table(0), raw.u64(raw.table(0)) | 1 << 56)),
        table_entry("all ones and an offset", |raw| raw.put_u64(raw.table(0), raw.u64(raw.table(0)) | 1)),
        table_entry("data out of step", |raw| raw.put_u64(raw.table(0), raw.u64(raw.table(0)) + 512))
            .of(Base::Clusters4K),
    ]);
}

#[test]
fn what_lies_past_the_end_of_the_file_is_named() {
    play(&[
        Row::new("a table past the end of the file", |raw| raw.put_u64(raw.entry(0), raw.past_the_end() as u64))
            .refuses(USES, ErrorKind::Damaged, TABLE, Raw::past_the_end)
            .found(Severity::Error, TABLE)
            .qemu_opens(),
        table_entry("data past the end of the file", |raw| raw.put_u64(raw.table(0), raw.past_the_end() as u64))
            .qemu_opens(),
        table_entry("data as far away as an entry can say", |raw| raw.put_u64(raw.table(0), 0x00ff_ffff_ffff_fe00))
            .qemu_opens(),
    ]);
}

#[test]
fn data_that_stands_inside_another_structure_is_refused() {
    play(&[
        overlap("two bitmaps with one cluster of data", |raw| raw.put_u64(raw.table(0), raw.u64(raw.table(1)))),
        overlap("data in the L1 table", |raw| raw.put_u64(raw.table(0), raw.l1() as u64)),
        overlap("data in an L2 table", |raw| raw.put_u64(raw.table(0), raw.l2() as u64)),
        overlap("data in a cluster of the guest", |raw| {
            raw.put_u64(raw.table(0), raw.u64(raw.l2()) & 0x00ff_ffff_ffff_fe00)
        }),
        overlap("data in the refcount table", |raw| raw.put_u64(raw.table(0), raw.refcount_table() as u64)),
        overlap("data in a refcount block", |raw| raw.put_u64(raw.table(0), raw.refcount_block() as u64)),
        overlap("data in the bitmap directory", |raw| raw.put_u64(raw.table(0), raw.directory() as u64)),
        overlap("data in another bitmap's table", |raw| raw.put_u64(raw.table(0), raw.table(1) as u64)),
        overlap("one cluster of data twice in a table", |raw| {
            raw.put_u64(raw.table(0) + 8, raw.u64(raw.table(0)));
        })
        .of(Base::TwoEntries),
        Row::new("two bitmaps with one table", |raw| raw.put_u64(raw.entry(1), raw.table(0) as u64))
            .refuses(READS, ErrorKind::Damaged, TABLE, |raw| raw.table(0))
            .refuses_saying(WRITES, ErrorKind::Damaged, "the table overlaps another structure")
            .found(Severity::Error, "qcow2 bitmap table")
            .qemu_opens(),
    ]);
}

#[test]
fn a_cluster_of_a_bitmap_that_is_not_counted_is_refused() {
    const SECOND: &str = "qcow2 table of bitmap '1->2'";
    let uncounted = |rule, damage| {
        Row::new(rule, damage)
            .refuses(READS, ErrorKind::Damaged, SECOND, |raw| raw.table(1))
            .refuses(WRITES, ErrorKind::Damaged, SECOND, |raw| raw.table(1))
            .found(Severity::Error, "qcow2 cluster")
            .qemu_opens()
    };
    play(&[
        uncounted("data with refcount 0", |raw| raw.put_u16(raw.refcount_of(raw.data(1)), 0)),
        uncounted("a table with refcount 0", |raw| raw.put_u16(raw.refcount_of(raw.table(1)), 0)),
        // That it can be parsed shows that nobody has overwritten it.
        Row::new("a directory with refcount 0", |raw| raw.put_u16(raw.refcount_of(raw.directory()), 0))
            .works(&[Operation::Summarize, Operation::Diff, Operation::Create, Operation::Delete])
            .found(Severity::Error, "qcow2 cluster")
            .qemu_opens(),
    ]);
}
