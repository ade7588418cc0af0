//! A disk that is full half-way through a change: the image stays as it was, to the byte and to its length.

mod faulty;
mod fixed;
mod real;
#[path = "../support/mod.rs"]
mod support;

use checkmap::chain::{Name, Plan};
use checkmap::image::{Access, Layers};
use checkmap::progress::Unobserved;
use checkmap::{Bitmap, ErrorKind, Image};
use faulty::{Fault, Faulty};
use std::sync::Arc;
use support::memory::open;
use support::raw::Raw;
use support::{TestImage, tools_are_here};

/// Everything that counts of the bitmaps of an image.
type Bitmaps = Vec<(Name, bool, Bitmap)>;

fn bitmaps(image: &Image) -> Bitmaps {
    let read = |name: &Name| image.read_bitmap(name, 0, u64::MAX).expect("a sound bitmap");
    image.bitmaps().into_iter().map(|state| (state.name.clone(), state.recording, read(&state.name))).collect()
}

/// One change of the checkpoints.
#[derive(Clone, Copy, Debug)]
enum Change {
    Create,
    /// The bitmaps on both sides of a checkpoint become one, in new clusters.
    DeleteMiddle,
    DeleteFirst,
    Rename,
}

use Change::{Create, DeleteFirst, DeleteMiddle, Rename};

fn plan(image: &Image, change: Change) -> Plan {
    let planned = match change {
        Create => image.plan_create(b"new", None, None),
        DeleteMiddle => image.plan_delete(b"2", false, Layers::Check, None),
        DeleteFirst => image.plan_delete(b"1", false, Layers::Check, None),
        Rename => image.plan_rename(b"2", b"a name that is longer than the one before", Layers::Check, None),
    };
    planned.expect("a sound image can be changed")
}

/// The chain of three checkpoints whose bitmaps share clusters of the disk, so that a merge writes a new cluster.
fn chain(options: &str, size: &str, last: u64) -> Vec<u8> {
    let image = TestImage::create(options, size);
    image.bitmap(&["--add", "-g", "512"], "1");
    image.write(0, 512);
    image.write(last, 512);
    image.bitmap(&["--disable"], "1");
    image.bitmap(&["--add", "-g", "512"], "1->2");
    image.write(1024, 512);
    image.bitmap(&["--disable"], "1->2");
    image.bitmap(&["--add", "-g", "1024"], "2->3");
    image.write(2048, 512);
    std::fs::read(&image.path).expect("the image can be read")
}

/// An image without bitmaps whose disk is written up to `bytes`.
fn filled(options: &str, size: &str, bytes: u64) -> Vec<u8> {
    let image = TestImage::create(options, size);
    image.write(0, bytes);
    std::fs::read(&image.path).expect("the image can be read")
}

/// Commits `change` once for each fault of a kind, until one comes too late to matter; returns how many there were.
fn fail_everywhere(image: &[u8], change: Change, fault: fn(u64) -> Fault) -> u64 {
    let before = bitmaps(&open(&Arc::new(Faulty::new(image, Fault::None)), Access::Read).expect("it opens"));
    for number in 0.. {
        let storage = Arc::new(Faulty::new(image, fault(number)));
        let case = format!("{change:?}, {:?}", fault(number));
        let mut handle = open(&storage, Access::Write).expect("it opens");
        let plan = plan(&handle, change);
        let outcome = handle.commit(&plan, &mut Unobserved);
        let struck = storage.has_struck();
        storage.heal();
        let reopened = open(&storage, Access::Read).unwrap_or_else(|error| panic!("{case}: {error:?}"));
        let report = reopened.check(&mut Unobserved).expect("memory can be read");
        assert_eq!((report.errors, report.unusable), (0, 0), "{case}: {report:?}");
        let after = bitmaps(&reopened);
        match outcome {
            Ok(warnings) => {
                assert_ne!(after, before, "{case}: nothing was changed");
                assert!(!struck || !warnings.is_empty(), "{case}: nobody is told");
                assert_eq!(bitmaps(&handle), after, "{case}: the handle shows something else than the file");
                if !struck {
                    return number;
                }
            }
            Err(error) if error.kind() == ErrorKind::CommitInDoubt => {
                assert_eq!(bitmaps(&handle), after, "{case}: the handle shows something else than the file");
                assert!(after == before || after == done(image, change), "{case}: neither before nor after");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{case}: {error:?}");
                assert_eq!(after, before, "{case}");
                if fault(number).spares_the_undo() {
                    assert_untouched(image, &storage.bytes(), &case);
                }
                let said = error.to_string();
                if fault(number).spares_the_undo() {
                    assert!(said.ends_with("(nothing was changed)"), "{case}: {said}");
                }
                // What could not be put back is in the file: the next change begins with that.
                handle.check_unchanged().unwrap_or_else(|error| panic!("{case}: {error:?}"));
                // With room on the disk again, the same handle can do it.
                handle.commit(&plan, &mut Unobserved).unwrap_or_else(|error| panic!("{case}, again: {error:?}"));
                let report =
                    open(&storage, Access::Read).expect("it opens").check(&mut Unobserved).expect("it is read");
                assert_eq!((report.errors, report.unusable), (0, 0), "{case}, again: {report:?}");
            }
        }
    }
    unreachable!("the numbers do not end before the faults do");
}

/// The bitmaps after `change`.
fn done(image: &[u8], change: Change) -> Bitmaps {
    let mut handle = open(&Arc::new(Faulty::new(image, Fault::None)), Access::Write).expect("it opens");
    let plan = plan(&handle, change);
    handle.commit(&plan, &mut Unobserved).expect("nothing is in the way");
    bitmaps(&handle)
}

/// The file is what it was, but for what stands in clusters that nothing uses.
fn assert_untouched(before: &[u8], after: &[u8], case: &str) {
    assert_eq!(before.len(), after.len(), "{case}: the file has another length");
    let raw = Raw { bytes: before.to_vec() };
    for (number, (old, new)) in before.chunks(raw.cluster()).zip(after.chunks(raw.cluster())).enumerate() {
        assert!(old == new || raw.is_free(number), "{case}: cluster {number} changed");
    }
}

/// Every change of every image meets every fault of a kind.
fn play(fault: fn(u64) -> Fault) {
    if !tools_are_here() {
        return;
    }
    let chains = [
        chain("cluster_size=512,refcount_bits=64", "98816", 98304),
        chain("cluster_size=512", "1M", 1 << 19),
        chain("", "64M", 1 << 20),
    ];
    let mut faults = 0;
    // A feature that nobody knows, whose autoclear bit is cleared before anything else in use changes.
    let mut unknown = chains[1].clone();
    unknown[95] |= 0x20;
    faults += fail_everywhere(&unknown, Create, fault);
    let tight = chains.iter().map(|image| {
        let mut raw = Raw { bytes: image.clone() };
        raw.leave_no_room();
        raw.bytes
    });
    for image in tight.chain(chains.iter().cloned()) {
        for change in [Create, DeleteMiddle, DeleteFirst, Rename] {
            faults += fail_everywhere(&image, change, fault);
        }
    }
    // The first bitmap, for which the file needs new refcount blocks, or a larger table of them.
    for bytes in [20_000, 24_000, 27_136] {
        faults += fail_everywhere(&filled("cluster_size=512,refcount_bits=64", "1M", bytes / 512 * 512), Create, fault);
    }
    for kib in [1950, 1960] {
        faults += fail_everywhere(&filled("cluster_size=512,refcount_bits=64", "4M", kib << 10), Create, fault);
    }
    eprintln!("{faults} faults of this kind: {:?}", fault(0));
    assert!(faults > 50, "too few faults to prove anything: {faults}");
}

#[test]
fn a_write_that_fails_once_leaves_the_image_as_it_was() {
    play(Fault::Write);
}

#[test]
fn a_flush_that_fails_once_leaves_the_image_as_it_was() {
    play(Fault::Flush);
}

#[test]
fn a_file_that_cannot_grow_further_stays_as_it_was() {
    play(Fault::Growth);
}

#[test]
fn where_even_the_undo_fails_the_bitmaps_are_still_the_old_ones() {
    play(Fault::Forever);
}
