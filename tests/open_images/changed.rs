//! Without locks: a writer that comes, writes and goes while a call reads is noticed, and the answer never short.

use crate::support::memory::Memory;
use crate::support::ours::changed;
use crate::support::{TestImage, run};
use crate::{At, Holder, kind, needs_tools, unlocked, written};
use checkmap::image::{Access, DiffRequest, Layers, OpenOptions, Scope};
use checkmap::io::Storage;
use checkmap::progress::Unobserved;
use checkmap::{Bitmap, ErrorKind, Image};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn request(since: &[u8]) -> DiffRequest<'_> {
    DiffRequest::since(since)
}

/// A file of which three states are known: before a writer came, while it is there, and after it went.
#[derive(Debug)]
struct Turning {
    states: [Memory; 3],
    reads: AtomicU64,
    /// The numbers of the reads from which on the second and the third state are seen.
    turns: [AtomicU64; 2],
}

impl Turning {
    fn new(states: &[Vec<u8>; 3]) -> Arc<Self> {
        let never = || AtomicU64::new(u64::MAX);
        let states = states.each_ref().map(|state| Memory::new(state.clone()));
        Arc::new(Self { states, reads: AtomicU64::new(0), turns: [never(), never()] })
    }

    /// The next reads, up to these numbers, see the first state and then the second one.
    fn turn_after(&self, first: u64, second: u64) {
        let now = self.reads.load(Ordering::Relaxed);
        self.turns[0].store(now.saturating_add(first), Ordering::Relaxed);
        self.turns[1].store(now.saturating_add(second), Ordering::Relaxed);
    }

    fn state(&self, read: u64) -> &Memory {
        let turned = self.turns.iter().filter(|turn| read >= turn.load(Ordering::Relaxed)).count();
        &self.states[turned]
    }

    fn now(&self) -> &Memory {
        self.state(self.reads.load(Ordering::Relaxed))
    }
}

impl Storage for Turning {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.state(self.reads.fetch_add(1, Ordering::Relaxed)).read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.states.iter().try_for_each(|state| state.write_at(bytes, offset))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        self.now().truncate(len_bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.now().len_bytes()
    }

    fn can_grow(&self) -> bool {
        true
    }
}

fn in_turn(storage: &Arc<Turning>, access: Access) -> Image {
    // The double's owner claims no locks, and the caller did not say `no_lock` either: the handle has none.
    Image::open_storage(Arc::clone(storage) as Arc<dyn Storage>, Path::new("turning.qcow2"), &OpenOptions::new(access))
        .expect("it opens")
}

/// An image before, during and after the visit of a guest that writes.
fn visit() -> [Vec<u8>; 3] {
    let image = TestImage::create("", "1M");
    image.write(0, 1 << 20);
    image.bitmap(&["--add"], "mon");
    image.write(0, 65536);
    let bytes = || std::fs::read(&image.path).expect("the image can be read");
    let before = bytes();
    let writer = Holder::open(&image.path, &[]);
    let during = bytes();
    assert_ne!(before, during, "a writer leaves its mark");
    drop(writer);
    std::fs::write(&image.path, &before).expect("the image can be put back");
    image.write(1 << 19, 65536);
    [before, during, bytes()]
}

/// Asks while the states change at every pair of reads; `right` says whether an answer may be given.
fn at_every_read<T: std::fmt::Debug>(
    what: &str,
    access: Access,
    ask: impl Fn(&Image) -> checkmap::Result<T>,
    right: impl Fn(&T) -> bool,
) {
    let states = visit();
    let calm = Turning::new(&states);
    let image = in_turn(&calm, access);
    let opened = calm.reads.load(Ordering::Relaxed);
    assert!(right(&ask(&image).expect("an answer in peace")), "{what}: the wrong answer in peace");
    let reads = calm.reads.load(Ordering::Relaxed) - opened;
    let mut refused = 0;
    for first in 0..reads {
        // All pairs where there are few reads.
        for second in (first..=reads).step_by(usize::try_from(reads / 8 + 1).expect("few")) {
            let storage = Turning::new(&states);
            let image = in_turn(&storage, access);
            storage.turn_after(first, second);
            match ask(&image) {
                Ok(answer) => assert!(right(&answer), "{what}, {first}, {second} of {reads}: {answer:?}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Changed, "{what}, {first}, {second}: {error:?}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > reads / 2, "{what}: only {refused} of {reads} were noticed");
}

#[test]
fn at_whatever_read_the_guest_comes_and_goes_no_answer_is_wrong() {
    needs_tools!();
    let dirty = |bitmap: &Bitmap| bitmap.dirty_bytes() == 65536;
    at_every_read(
        "diff",
        Access::Read,
        |image| image.diff(&request(b"mon"), &mut Unobserved),
        |diff| dirty(&diff.bitmap),
    );
    at_every_read("read_bitmap", Access::Read, |image| image.read_bitmap(&image.bitmaps()[0].name, 0, u64::MAX), dirty);
    at_every_read(
        "summarize",
        Access::Read,
        |image| image.summarize(&image.bitmaps()[0].name),
        |summary| summary.dirty_bytes == Some(65536),
    );
    at_every_read(
        "overview",
        Access::Read,
        |image| image.overview(None, Scope::Bitmaps, &mut Unobserved),
        |overview| overview.summary(&"mon".into()).dirty_bytes == Some(65536),
    );
    at_every_read("check", Access::Read, |image| image.check(&mut Unobserved), |report| report.problems.is_empty());
    for access in [Access::Read, Access::Names] {
        at_every_read(
            "chain",
            access,
            |image| image.chain(None),
            |chain| chain.checkpoints().len() == 1 && !chain.checkpoints()[0].inconsistent,
        );
    }
    at_every_read(
        "plan",
        Access::Write,
        |image| image.plan_create(b"tue", None, None),
        |plan| plan.actions().len() == 2,
    );
}

#[test]
fn at_whatever_read_the_guest_comes_a_change_is_refused_before_it_touches_what_is_in_use() {
    needs_tools!();
    let states = visit();
    let mut refused = 0;
    for first in 0.. {
        let storage = Turning::new(&states);
        let mut image = in_turn(&storage, Access::Write);
        let plan = image.plan_create(b"tue", None, None).expect("it can be planned");
        storage.turn_after(first, u64::MAX);
        let Err(error) = image.commit(&plan, &mut Unobserved) else { break };
        if error.kind() == ErrorKind::CommitInDoubt {
            // From here on the header is being written: in this double it is written into all states.
            break;
        }
        assert_eq!(error.kind(), ErrorKind::Changed, "{first}: {error:?}");
        // The guest's header stays as the guest wrote it.
        assert_eq!(storage.states[1].bytes()[..65536], states[1][..65536], "{first}");
        refused += 1;
    }
    assert!(refused > 5, "only {refused} were refused");
}

#[test]
fn a_real_guest_that_comes_and_goes_once_or_twice_while_a_call_reads_is_noticed() {
    needs_tools!();
    for visits in [1, 2, 3] {
        let image = written();
        let handle = unlocked(&image.path, Access::Write).expect("nobody has it");
        // Twice leaves header and directory as they were, to the byte.
        let mut visit = At { step: 1, what: Some(|| (0..visits).for_each(|_| image.write(8 << 20, 65536))) };
        assert_eq!(kind(handle.diff(&request(b"mon"), &mut visit)), ErrorKind::Changed, "{visits} visits");
        assert!(visit.what.is_none(), "the guest never came");
        drop(handle);
        assert_eq!(changed(&unlocked(&image.path, Access::Read).expect("nobody has it"), "mon", None).len(), 2);

        let handle = unlocked(&image.path, Access::Write).expect("nobody has it");
        let mut visit = At { step: 0, what: Some(|| image.write(4 << 20, 65536)) };
        assert_eq!(kind(handle.check(&mut visit)), ErrorKind::Changed);
        drop(handle);

        let mut handle = unlocked(&image.path, Access::Write).expect("nobody has it");
        let plan = handle.plan_create(b"tue", None, None).expect("it can be planned");
        image.write(4 << 20, 65536);
        let stale = handle.commit(&plan, &mut Unobserved).expect_err("it is stale");
        assert!(stale.kind() == ErrorKind::Changed && stale.to_string().contains("nothing was changed"), "{stale}");
        assert_eq!(kind(handle.plan_delete(b"mon", false, Layers::Check, None)), ErrorKind::Changed);
        drop(handle);
        image.assert_sound("a change that was refused");
    }
}

#[test]
fn a_guest_that_starts_is_noticed_by_a_list_of_names() {
    needs_tools!();
    let image = written();
    let names = Image::open(&image.path, &OpenOptions::new(Access::Names)).expect("it opens");
    assert_eq!(names.chain(None).expect("the names").checkpoints().len(), 1);
    let guest = Holder::open(&image.path, &[]);
    assert_eq!(kind(names.chain(None)), ErrorKind::Changed);
    let names = Image::open(&image.path, &OpenOptions::new(Access::Names)).expect("it opens");
    assert!(names.is_held_by_writer() && names.chain(None).is_ok());
    drop(guest);
}

#[test]
fn a_writer_that_can_be_seen_is_refused_without_locks_too() {
    needs_tools!();
    // Without a bitmap a guest that starts leaves no mark in the file.
    let image = TestImage::create("", "16M");
    let handle = unlocked(&image.path, Access::Write).expect("nobody has it");
    let guest = Holder::open(&image.path, &[]);
    for access in [Access::Read, Access::Write] {
        let error = unlocked(&image.path, access).expect_err("a guest has it");
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert!(error.to_string().contains("this or another process has it open for writing"), "{error}");
    }
    assert_eq!(kind(handle.plan_create(b"mon", None, None)), ErrorKind::InUse);
    assert_eq!(kind(handle.chain(None)), ErrorKind::InUse);
    drop(guest);
    assert!(handle.plan_create(b"mon", None, None).is_ok());
    // A reader harms nobody who insists.
    let _reader = Holder::open(&image.path, &["-r"]);
    assert!(unlocked(&image.path, Access::Write).is_ok());
}

#[test]
fn a_layer_below_that_gets_a_bitmap_while_a_diff_reads_is_noticed() {
    needs_tools!();
    let image = written();
    let top = image.folder.path().join("top.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "disk.qcow2", "-F", "qcow2", &top.to_string_lossy()]);
    run("qemu-img", &["bitmap", "--remove", &image.path.to_string_lossy(), "mon"]);
    run("qemu-img", &["bitmap", "--add", &top.to_string_lossy(), "mon"]);
    let handle = unlocked(&top, Access::Read).expect("nobody has it");
    handle.diff(&request(b"mon"), &mut Unobserved).expect("no layer below takes part");
    let mut meddle = At { step: 1, what: Some(|| image.bitmap(&["--add"], "mon")) };
    assert_eq!(kind(handle.diff(&request(b"mon"), &mut meddle)), ErrorKind::Changed);
    assert!(meddle.what.is_none(), "nobody meddled");
    let _guest = Holder::open(&image.path, &[]);
    let refused = handle.diff(&request(b"mon"), &mut Unobserved).expect_err("a writer has the layer below");
    assert!(refused.to_string().contains("open for writing"), "{refused}");
}
