//! Rules of the bitmap directory and its entries.

use crate::bases::Base;
use crate::support::raw::{self, Raw};
use crate::table::{Operation, Row, USES, play};
use checkmap::ErrorKind;
use checkmap::image::Severity;

const DIRECTORY: &str = "qcow2 bitmap directory";
const FIRST: &str = "qcow2 bitmap directory entry 0";
const LAST: &str = "qcow2 bitmap directory entry 2";

/// A row whose first entry is damaged: the whole directory is refused, and the field is named.
const fn entry(rule: &'static str, damage: fn(&mut Raw), place: fn(&Raw) -> usize) -> Row {
    Row::new(rule, damage).refuses(USES, ErrorKind::Damaged, FIRST, place).found(Severity::Error, FIRST)
}

#[test]
fn a_directory_that_does_not_add_up_is_named() {
    play(&[
        Row::new("fewer entries than the header counts", |raw| {
            raw.put_u32(raw.extension(raw::EXTENSION_COUNT), 4);
        })
        .refuses(USES, ErrorKind::Damaged, "qcow2 bitmap directory entry 3", |raw| {
            raw.directory() + raw.directory_bytes().len()
        })
        .found(Severity::Error, DIRECTORY),
        Row::new("more entries than the header counts", |raw| {
            raw.put_u32(raw.extension(raw::EXTENSION_COUNT), 2);
        })
        .refuses(USES, ErrorKind::Damaged, DIRECTORY, |raw| raw.entry(2))
        .found(Severity::Error, DIRECTORY),
        Row::new("bytes after the last entry", |raw| {
            raw.resize_directory(8);
            raw.bytes.extend([0; 8]);
        })
        .refuses(USES, ErrorKind::Damaged, DIRECTORY, |raw| raw.directory() + raw.directory_bytes().len())
        .found(Severity::Error, DIRECTORY),
        Row::new("a directory that ends inside its last entry", |raw| raw.resize_directory(-8))
            .refuses(USES, ErrorKind::Damaged, LAST, |raw| raw.entry(2) + 24)
            .found(Severity::Error, LAST),
        Row::new("a name that reaches past the end of the directory", |raw| {
            raw.put_u16(raw.entry(2) + raw::ENTRY_NAME_LEN, 200);
        })
        .refuses(USES, ErrorKind::Damaged, LAST, |raw| raw.entry(2) + 24)
        .found(Severity::Error, LAST),
        Row::new("extra data of 4 GiB", |raw| raw.put_u32(raw.entry(2) + raw::ENTRY_EXTRA_LEN, u32::MAX))
            .refuses(USES, ErrorKind::Damaged, LAST, |raw| raw.entry(2) + 24)
            .found(Severity::Error, LAST),
        Row::new("two bitmaps of one name", |raw| raw.replace_entry(2, &[], b"1->2"))
            .refuses(USES, ErrorKind::Damaged, LAST, |raw| {
                raw.bytes.len().next_multiple_of(raw.cluster()) + raw.entry(2) - raw.directory()
            })
            .found(Severity::Error, LAST),
    ]);
}

#[test]
fn a_field_of_an_entry_that_breaks_its_rule_is_named() {
    play(&[
        entry("a table at offset 0", |raw| raw.put_u64(raw.entry(0), 0), |raw| raw.entry(0)),
        entry("a table out of step", |raw| raw.put_u64(raw.entry(0), raw.u64(raw.entry(0)) + 8), |raw| raw.entry(0)),
        entry(
            "a table without entries",
            |raw| raw.put_u32(raw.entry(0) + raw::ENTRY_TABLE_SIZE, 0),
            |raw| raw.entry(0) + raw::ENTRY_TABLE_SIZE,
        ),
        entry(
            "a table of more entries than any may have",
            |raw| raw.put_u32(raw.entry(0) + raw::ENTRY_TABLE_SIZE, 0x800_0001),
            |raw| raw.entry(0) + raw::ENTRY_TABLE_SIZE,
        ),
        entry(
            "a table that stands for more than 512 MiB",
            |raw| raw.put_u32(raw.entry(0) + raw::ENTRY_TABLE_SIZE, (1 << 20) + 1),
            |raw| raw.entry(0) + raw::ENTRY_TABLE_SIZE,
        ),
        entry(
            "a table too large for the disk",
            |raw| raw.put_u32(raw.entry(0) + raw::ENTRY_TABLE_SIZE, 2),
            |raw| raw.entry(0) + raw::ENTRY_TABLE_SIZE,
        ),
        entry(
            "a table too small for the disk",
            |raw| raw.put_u32(raw.entry(0) + raw::ENTRY_TABLE_SIZE, 1),
            |raw| raw.entry(0) + raw::ENTRY_TABLE_SIZE,
        )
        .of(Base::TwoEntries),
        entry(
            "a reserved flag",
            |raw| raw.put_u32(raw.entry(0) + raw::ENTRY_FLAGS, 1 << 3),
            |raw| raw.entry(0) + raw::ENTRY_FLAGS,
        ),
        entry(
            "a granularity of 256 bytes",
            |raw| raw.put(raw.entry(0) + raw::ENTRY_GRANULARITY, &[8]),
            |raw| raw.entry(0) + raw::ENTRY_GRANULARITY,
        ),
        entry(
            "a granularity of 4 GiB",
            |raw| raw.put(raw.entry(0) + raw::ENTRY_GRANULARITY, &[32]),
            |raw| raw.entry(0) + raw::ENTRY_GRANULARITY,
        ),
        entry(
            "a name without bytes",
            |raw| raw.put_u16(raw.entry(0) + raw::ENTRY_NAME_LEN, 0),
            |raw| raw.entry(0) + raw::ENTRY_NAME_LEN,
        ),
        entry(
            "a name of 1024 bytes",
            |raw| raw.replace_entry(0, &[], &[b'x'; 1024]),
            |raw| raw.bytes.len().next_multiple_of(raw.cluster()) + raw::ENTRY_NAME_LEN,
        ),
        Row::new("a NUL in a name", |raw| raw.put(raw.name(2) + 1, &[0]))
            .refuses(USES, ErrorKind::Damaged, LAST, |raw| raw.name(2))
            .found(Severity::Error, LAST)
            .qemu_opens(),
    ]);
}

#[test]
fn a_bitmap_that_cannot_be_used_is_shown_and_kept() {
    const KEPT: &str = "qcow2 bitmap '1->2'";
    play(&[
        Row::new("another type", |raw| raw.put(raw.entry(1) + raw::ENTRY_TYPE, &[2]))
            .refuses_saying(USES, ErrorKind::Unsupported, "'1->2'")
            .works(&[Operation::Summarize])
            .found(Severity::Unusable, KEPT),
        Row::new("extra data", |raw| raw.replace_entry(1, b"what is this", b"1->2"))
            .refuses_saying(USES, ErrorKind::Unsupported, "'1->2'")
            .works(&[Operation::Summarize])
            .found(Severity::Unusable, KEPT),
        Row::new("an inconsistent bitmap", |raw| raw.put_u32(raw.entry(1) + raw::ENTRY_FLAGS, 1))
            .refuses_saying(USES, ErrorKind::Inconsistent, "'1->2'")
            .works(&[Operation::Summarize])
            .found(Severity::Unusable, KEPT)
            .qemu_opens(),
        // An unclean resize leaves the old table, so the size of such a table means nothing.
        Row::new("an inconsistent bitmap with a table too small for the disk", |raw| {
            raw.put_u32(raw.entry(0) + raw::ENTRY_FLAGS, 3);
            raw.put_u32(raw.entry(0) + raw::ENTRY_TABLE_SIZE, 1);
        })
        .of(Base::TwoEntries)
        .refuses_saying(&[Operation::Diff, Operation::Create], ErrorKind::Inconsistent, "'1'")
        .works(&[Operation::Summarize])
        .found(Severity::Unusable, "qcow2 bitmap '1'")
        .qemu_opens(),
    ]);
}
