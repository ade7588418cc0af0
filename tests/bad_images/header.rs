//! Rules of the header, its extensions and the tables it points to.

use crate::bases::Base;
use crate::support::raw::{self, Raw};
use crate::table::{Operation, READS, Row, USES, WRITES, play};
use checkmap::ErrorKind;
use checkmap::image::Severity;

const OPEN: &[Operation] = &[Operation::Open];
const EXTENSION: &str = "qcow2 bitmaps extension";

/// Puts an extension of this kind and length at the end of the others, its data as it may be there.
fn add_extension(raw: &mut Raw, kind: u32, len: u32) {
    let at = raw.extensions_end();
    raw.put_u32(at, kind);
    raw.put_u32(at + 4, len);
}

#[test]
fn a_header_field_that_breaks_its_rule_is_named() {
    play(&[
        Row::new("the magic is another", |raw| raw.put(raw::MAGIC + 3, &[0xfa])).refuses_saying(
            OPEN,
            ErrorKind::UnknownFormat,
            "not a qcow2 image",
        ),
        Row::new("version 1", |raw| raw.put_u32(raw::VERSION, 1)).refuses(
            OPEN,
            ErrorKind::Unsupported,
            "qcow2 header",
            |_| raw::VERSION,
        ),
        Row::new("version 4", |raw| raw.put_u32(raw::VERSION, 4)).refuses(
            OPEN,
            ErrorKind::Unsupported,
            "qcow2 header",
            |_| raw::VERSION,
        ),
        Row::new("clusters of 256 bytes", |raw| raw.put_u32(raw::CLUSTER_BITS, 8)).does_not_open(|_| raw::CLUSTER_BITS),
        Row::new("clusters of 4 MiB", |raw| raw.put_u32(raw::CLUSTER_BITS, 22)).does_not_open(|_| raw::CLUSTER_BITS),
        Row::new("a disk above 2^63", |raw| raw.put_u64(raw::DISK_SIZE, 1 << 63)).does_not_open(|_| raw::DISK_SIZE),
        Row::new("an unknown incompatible feature", |raw| raw.put_u64(raw::INCOMPATIBLE, 1 << 5)).refuses(
            OPEN,
            ErrorKind::Unsupported,
            "qcow2 header",
            |_| raw::INCOMPATIBLE,
        ),
        Row::new("extended L2 entries in small clusters", |raw| raw.put_u64(raw::INCOMPATIBLE, 1 << 4))
            .does_not_open(|_| raw::CLUSTER_BITS),
        Row::new("refcounts of 128 bits", |raw| raw.put_u32(raw::REFCOUNT_ORDER, 7))
            .does_not_open(|_| raw::REFCOUNT_ORDER),
        Row::new("a header of 96 bytes", |raw| raw.put_u32(raw::HEADER_LEN, 96)).does_not_open(|_| raw::HEADER_LEN),
        Row::new("version 3 with the header of version 2", |raw| raw.put_u32(raw::HEADER_LEN, 72))
            .does_not_open(|_| raw::HEADER_LEN),
        Row::new("a header that ends beside a multiple of 8", |raw| raw.put_u32(raw::HEADER_LEN, 108))
            .does_not_open(|_| raw::HEADER_LEN),
        Row::new("a header larger than its cluster", |raw| raw.put_u32(raw::HEADER_LEN, 520))
            .does_not_open(|_| raw::HEADER_LEN),
        Row::new("a backing name past the header cluster", |raw| raw.put_u64(raw::BACKING_OFFSET, 4090))
            .of(Base::Overlay)
            .does_not_open(|_| raw::BACKING_OFFSET),
    ]);
}

#[test]
fn a_table_that_the_header_misplaces_is_named() {
    play(&[
        Row::new("an L1 table out of step", |raw| raw.put_u64(raw::L1_OFFSET, raw.u64(raw::L1_OFFSET) + 8))
            .does_not_open(|_| raw::L1_OFFSET),
        Row::new("an L1 table above 32 MiB", |raw| raw.put_u32(raw::L1_ENTRIES, (4 << 20) + 1))
            .does_not_open(|_| raw::L1_ENTRIES),
        Row::new("an L1 table past the end of the file", |raw| raw.put_u64(raw::L1_OFFSET, raw.past_the_end() as u64))
            .refuses(WRITES, ErrorKind::Damaged, "qcow2 L1 table", Raw::past_the_end)
            .works(READS)
            .found(Severity::Error, "qcow2 L1 table")
            .qemu_opens(),
        Row::new("a refcount table out of step", |raw| raw.put_u64(raw::REFCOUNT_TABLE, 516))
            .does_not_open(|_| raw::REFCOUNT_TABLE),
        Row::new("no refcount table", |raw| raw.put_u32(raw::REFCOUNT_CLUSTERS, 0))
            .does_not_open(|_| raw::REFCOUNT_CLUSTERS),
        Row::new("a refcount table above 8 MiB", |raw| raw.put_u32(raw::REFCOUNT_CLUSTERS, (8 << 11) + 1))
            .does_not_open(|_| raw::REFCOUNT_CLUSTERS),
        Row::new("a refcount table past the end", |raw| raw.put_u64(raw::REFCOUNT_TABLE, raw.past_the_end() as u64))
            .refuses(WRITES, ErrorKind::Damaged, "qcow2 refcount table", Raw::past_the_end)
            .works(READS)
            .found(Severity::Error, "qcow2 refcount table")
            .qemu_opens(),
        Row::new("a snapshot table out of step", |raw| raw.put_u64(raw::SNAPSHOTS_OFFSET, 0x208))
            .of(Base::Snapshot)
            .does_not_open(|_| raw::SNAPSHOTS_OFFSET),
        Row::new("more than 65536 snapshots", |raw| raw.put_u32(raw::SNAPSHOTS, 65537))
            .does_not_open(|_| raw::SNAPSHOTS),
        Row::new("a snapshot table past the end", |raw| raw.put_u64(raw::SNAPSHOTS_OFFSET, raw.past_the_end() as u64))
            .of(Base::Snapshot)
            .refuses(WRITES, ErrorKind::Damaged, "qcow2 snapshot table", Raw::past_the_end)
            .works(READS)
            .found(Severity::Error, "qcow2 snapshot table")
            .qemu_opens(),
        Row::new("a snapshot's L1 table out of step", |raw| {
            let at = raw.offset(raw::SNAPSHOTS_OFFSET);
            raw.put_u64(at, raw.u64(at) + 8);
        })
        .of(Base::Snapshot)
        .refuses(WRITES, ErrorKind::Damaged, "qcow2 L1 table", |raw| raw.offset(raw.offset(raw::SNAPSHOTS_OFFSET)) + 8)
        .works(READS)
        .found(Severity::Error, "qcow2 L1 table")
        .qemu_opens(),
        Row::new("a snapshot's extra data above 1024 bytes", |raw| {
            raw.put_u32(raw.offset(raw::SNAPSHOTS_OFFSET) + 36, 1025);
        })
        .of(Base::Snapshot)
        .refuses(WRITES, ErrorKind::Damaged, "qcow2 snapshot table", |raw| raw.offset(raw::SNAPSHOTS_OFFSET) + 36)
        .works(READS)
        .found(Severity::Error, "qcow2 snapshot table"),
    ]);
}

#[test]
fn an_extension_that_breaks_its_rule_is_named() {
    play(&[
        Row::new("an extension leaves the header", |raw| add_extension(raw, 0x1234_5678, 512)).refuses(
            OPEN,
            ErrorKind::Damaged,
            "qcow2 header extension",
            Raw::extensions_end,
        ),
        Row::new("an extension reaches into the backing name", |raw| {
            let name = usize::try_from(raw.u64(raw::BACKING_OFFSET)).expect("near");
            add_extension(raw, 0x1234_5678, u32::try_from(name - raw.extensions_end()).expect("near"));
        })
        .of(Base::Overlay)
        .refuses(OPEN, ErrorKind::Damaged, "qcow2 header extension", Raw::extensions_end),
        Row::new("an encryption extension of 24 bytes", |raw| add_extension(raw, 0x0537_be77, 24)).refuses(
            OPEN,
            ErrorKind::Damaged,
            "qcow2 header extension",
            |raw| raw.extensions_end() + 4,
        ),
        Row::new("the bitmaps extension twice", |raw| {
            let first = raw.bytes[raw.bitmaps_extension()..][..32].to_vec();
            raw.put(raw.extensions_end(), &first);
        })
        .refuses(USES, ErrorKind::Damaged, EXTENSION, Raw::extensions_end)
        .found(Severity::Error, EXTENSION)
        .qemu_opens(),
        Row::new("a bitmaps extension of 16 bytes", |raw| raw.put_u32(raw.bitmaps_extension() + 4, 16))
            .refuses(USES, ErrorKind::Damaged, EXTENSION, |raw| raw.bitmaps_extension() + 4)
            .found(Severity::Error, EXTENSION),
        Row::new("no bitmaps", |raw| raw.put_u32(raw.extension(raw::EXTENSION_COUNT), 0))
            .refuses(USES, ErrorKind::Damaged, EXTENSION, |raw| raw.extension(raw::EXTENSION_COUNT))
            .found(Severity::Error, EXTENSION),
        Row::new("65536 bitmaps", |raw| raw.put_u32(raw.extension(raw::EXTENSION_COUNT), 65536))
            .refuses(USES, ErrorKind::Damaged, EXTENSION, |raw| raw.extension(raw::EXTENSION_COUNT))
            .found(Severity::Error, EXTENSION),
        Row::new("the reserved field is set", |raw| raw.put_u32(raw.extension(raw::EXTENSION_RESERVED), 1))
            .refuses(USES, ErrorKind::Damaged, EXTENSION, |raw| raw.extension(raw::EXTENSION_RESERVED))
            .found(Severity::Error, EXTENSION),
        Row::new("an empty directory", |raw| raw.put_u64(raw.extension(raw::EXTENSION_SIZE), 0))
            .refuses(USES, ErrorKind::Damaged, EXTENSION, |raw| raw.extension(raw::EXTENSION_SIZE))
            .found(Severity::Error, EXTENSION),
        Row::new("a directory above 64 MiB", |raw| raw.put_u64(raw.extension(raw::EXTENSION_SIZE), 67_107_841))
            .refuses(USES, ErrorKind::Damaged, EXTENSION, |raw| raw.extension(raw::EXTENSION_SIZE))
            .found(Severity::Error, EXTENSION),
        Row::new("a directory at offset 0", |raw| raw.put_u64(raw.extension(raw::EXTENSION_OFFSET), 0))
            .refuses(USES, ErrorKind::Damaged, EXTENSION, |raw| raw.extension(raw::EXTENSION_OFFSET))
            .found(Severity::Error, EXTENSION),
        Row::new("a directory out of step", |raw| {
            let at = raw.extension(raw::EXTENSION_OFFSET);
            raw.put_u64(at, raw.u64(at) + 8);
        })
        .refuses(USES, ErrorKind::Damaged, EXTENSION, |raw| raw.extension(raw::EXTENSION_OFFSET))
        .found(Severity::Error, EXTENSION),
        Row::new("a directory past the end of the file", |raw| {
            raw.put_u64(raw.extension(raw::EXTENSION_OFFSET), raw.past_the_end() as u64);
        })
        .refuses(USES, ErrorKind::Damaged, "qcow2 bitmap directory", Raw::past_the_end)
        .found(Severity::Error, "qcow2 bitmap directory"),
    ]);
}

#[test]
fn an_image_that_its_marks_forbid_is_refused_with_the_right_kind() {
    play(&[
        Row::new("the dirty bit", |raw| raw.put_u64(raw::INCOMPATIBLE, 1))
            .refuses(WRITES, ErrorKind::Unclean, "qcow2 header", |_| raw::INCOMPATIBLE)
            .works(READS)
            .found(Severity::Warning, "qcow2 header")
            .qemu_opens(),
        Row::new("the corrupt bit", |raw| raw.put_u64(raw::INCOMPATIBLE, 2))
            .refuses(WRITES, ErrorKind::Unclean, "qcow2 header", |_| raw::INCOMPATIBLE)
            .works(READS)
            .found(Severity::Error, "qcow2 header")
            .qemu_opens(),
        Row::new("a stale autoclear bit", |raw| raw.put_u64(raw::AUTOCLEAR, 0))
            .refuses(USES, ErrorKind::Stale, "qcow2 header", |_| raw::AUTOCLEAR)
            .works(&[Operation::Summarize])
            .found(Severity::Unusable, "qcow2 header")
            .qemu_opens(),
        // Its extensions begin where version 3 has its features: what reads like an autoclear bit is none.
        Row::new("version 2", |raw| raw.put(raw::AUTOCLEAR + 7, &[1]))
            .of(Base::Version2)
            .refuses(USES, ErrorKind::OldVersion, "qcow2 header", |_| raw::VERSION)
            .works(&[Operation::Summarize])
            .qemu_opens(),
    ]);
}
