#![forbid(unsafe_code)]
#![cfg(feature = "cli")]
//! Several images in one step, offline: all of them or none, whatever kills the step and whatever QEMU does to one of them before the
//! next verb; and the refusals.

mod bad;
mod kill;
mod power;
#[path = "../support/mod.rs"]
mod support;

use checkmap::Extent;
use checkmap::image::{Access, DiffRequest, Image, OpenOptions};
use checkmap::progress::Unobserved;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::ours::union;
use support::{folder, qemu_io, run, try_run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_checkmap");
const DISK: &str = "16M";
const GRANULE: u64 = 65536;

/// The disks of a machine: each has checkpoint `mon`, and writes after it, all of which stand in a log.
struct Machine {
    folder: tempfile::TempDir,
    disks: Vec<Disk>,
}

struct Disk {
    path: PathBuf,
    /// All writes since `mon`.
    written: Vec<Extent>,
    /// The image as it was made, and the writes until then.
    before: Vec<u8>,
    first: Vec<Extent>,
}

impl Machine {
    fn new(disks: usize) -> Self {
        let folder = folder();
        let disks = (0..disks).map(|number| Disk::new(folder.path(), number)).collect();
        Self { folder, disks }
    }

    /// All images as they were made, and nothing else.
    fn renew(&mut self) {
        for file in std::fs::read_dir(self.folder.path()).expect("the folder can be listed") {
            std::fs::remove_file(file.expect("the folder can be listed").path()).expect("a file can be removed");
        }
        for disk in &mut self.disks {
            std::fs::write(&disk.path, &disk.before).expect("an image can be written");
            disk.written.clone_from(&disk.first);
        }
    }

    /// Makes the images anew by these verbs; each disk is written to afterwards.
    fn prepare(&mut self, verbs: &[&[&str]]) {
        for verb in verbs {
            assert_done(&checkmap(&self.words(verb)));
            for (number, disk) in self.disks.iter_mut().enumerate() {
                disk.write(Extent { offset: (4 + number as u64) << 20, len_bytes: GRANULE });
                disk.first.clone_from(&disk.written);
                disk.before = std::fs::read(&disk.path).expect("the image can be read");
            }
        }
    }

    /// The words of a verb on the first disk and all others.
    fn words(&self, verb: &[&str]) -> Vec<String> {
        let mut words = vec![verb[0].to_owned(), text(&self.disks[0].path)];
        words.extend(verb[1..].iter().map(|word| (*word).to_owned()));
        words.extend(self.disks[1..].iter().map(|disk| format!("--also={}", disk.path.display())));
        words
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join(".disk0.qcow2.checkmap-journal")
    }

    /// Each image is sound, without a mark, and tells all that was written since `mon`; no journal is left. Leaks are no harm.
    fn assert_whole(&self, when: &str) {
        assert!(!self.journal().exists(), "{when}: the journal is left");
        self.disks.iter().for_each(|disk| disk.assert_whole(when));
    }
}

impl Disk {
    fn new(folder: &Path, number: usize) -> Self {
        let path = folder.join(format!("disk{number}.qcow2"));
        run("qemu-img", &["create", "-q", "-f", "qcow2", &text(&path), DISK]);
        assert_done(&checkmap(&["create", &text(&path), "mon"]));
        let mut disk = Self { path, written: Vec::new(), before: Vec::new(), first: Vec::new() };
        disk.write(Extent { offset: (1 + number as u64) << 20, len_bytes: 2 * GRANULE });
        disk.first.clone_from(&disk.written);
        disk.before = std::fs::read(&disk.path).expect("the image can be read");
        disk
    }

    /// QEMU writes, and the log says so.
    fn write(&mut self, extent: Extent) {
        qemu_io(&self.path, &[format!("write -P 7 {} {}", extent.offset, extent.len_bytes)]);
        self.written = union(&self.written, &[extent]);
    }

    fn open(&self) -> Image {
        Image::open(&self.path, &OpenOptions::new(Access::Read)).expect("the image opens")
    }

    fn checkpoints(&self) -> Vec<String> {
        let chain = self.open().chain(None).expect("a chain");
        chain.checkpoints().iter().map(|checkpoint| checkpoint.name.to_string_lossy().into_owned()).collect()
    }

    fn assert_whole(&self, when: &str) {
        let path = self.path.display();
        let check = try_run("qemu-img", &["check".as_ref(), "-q".as_ref(), self.path.as_os_str()]);
        assert!(matches!(check.status.code(), Some(0 | 3)), "{when}: {path}: {check:?}");
        let image = self.open();
        assert_eq!(image.unfinished(), None, "{when}: {path}");
        let report = image.check(&mut Unobserved).expect("it is checked");
        assert_eq!((report.errors, report.unusable), (0, 0), "{when}: {path}: {report:?}");
        // Without this one, nothing tells of the writes in the log.
        let checkpoints = self.checkpoints();
        let Some(since) = checkpoints.iter().find(|name| ["mon", "new"].contains(&name.as_str())) else { return };
        let diff = image.diff(&DiffRequest::since(since.as_bytes()), &mut Unobserved).expect("a diff");
        let found: Vec<Extent> = diff.bitmap.extents(0, u64::MAX).collect();
        assert_eq!(found, self.written, "{when}: {path}");
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("the test's folder is UTF-8").to_owned()
}

fn checkmap<S: AsRef<std::ffi::OsStr>>(words: &[S]) -> Output {
    Command::new(PROGRAM).args(words).output().expect("checkmap runs")
}

#[track_caller]
fn assert_done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}

#[track_caller]
fn assert_status(output: &Output, status: i32) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{said}");
    said
}

#[test]
fn a_whole_step_changes_all_and_leaves_no_trace() {
    if !support::tools_are_here() {
        return;
    }
    let machine = Machine::new(3);
    let names = |machine: &Machine| machine.disks.iter().map(Disk::checkpoints).collect::<Vec<_>>();
    let all = |names: &[&str]| vec![names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(); 3];
    let dry = checkmap(&[machine.words(&["create", "tue"]), vec!["--dry-run".into()]].concat());
    let said = assert_done(&dry);
    let shown = String::from_utf8_lossy(&dry.stdout).into_owned();
    for disk in &machine.disks {
        assert!(shown.contains(&text(&disk.path)), "{shown}{said}");
        assert!(std::fs::read(&disk.path).expect("it is there") == disk.before, "a dry run changed {:?}", disk.path);
    }
    assert_done(&checkmap(&machine.words(&["create", "tue"])));
    assert_eq!(names(&machine), all(&["mon", "tue"]));
    assert_done(&checkmap(&machine.words(&["rename", "tue", "wed"])));
    assert_eq!(names(&machine), all(&["mon", "wed"]));
    machine.assert_whole("rename");
    assert_done(&checkmap(&machine.words(&["delete", "wed"])));
    assert_eq!(names(&machine), all(&["mon"]));
    machine.assert_whole("delete");
    for disk in &machine.disks {
        let check = try_run("qemu-img", &["check".as_ref(), "-q".as_ref(), disk.path.as_os_str()]);
        assert!(check.status.success(), "nothing leaks: {check:?}");
    }
    // Down to images without any bitmap, and up from there.
    assert_done(&checkmap(&machine.words(&["delete", "mon"])));
    assert_eq!(names(&machine), all(&[]));
    assert_done(&checkmap(&machine.words(&["create", "new", "--granularity", "64K"])));
    assert_eq!(names(&machine), all(&["new"]));
    for disk in &machine.disks {
        let check = try_run("qemu-img", &["check".as_ref(), "-q".as_ref(), disk.path.as_os_str()]);
        assert!(check.status.success(), "nothing leaks: {check:?}");
        qemu_io(&disk.path, &["write -P 9 0 64k".into()]);
        let diff = disk.open().diff(&DiffRequest::since(b"new"), &mut Unobserved).expect("a diff");
        assert_eq!(diff.bitmap.dirty_bytes(), GRANULE);
    }
}

/// What the power cuts of `power` assume of the journal.
#[test]
fn the_journal_is_durable_before_a_mark_is_set_and_says_done_before_a_mark_goes() {
    use support::trace::{Event, strace_works, trace};
    if !support::tools_are_here() || !strace_works() {
        return;
    }
    let machine = Machine::new(2);
    let folder = machine.folder.path().canonicalize().expect("the folder is there");
    let journal = folder.join(".disk0.qcow2.checkmap-journal");
    let words: Vec<std::ffi::OsString> = machine.words(&["create", "tue"]).into_iter().map(Into::into).collect();
    let (output, events) = trace(&folder, Path::new(PROGRAM), &words);
    assert_done(&output);
    let places = |wanted: &dyn Fn(&Event) -> bool| -> Vec<usize> {
        events.iter().enumerate().filter(|(_, event)| wanted(event)).map(|(at, _)| at).collect()
    };
    let appears = places(&|event| matches!(event, Event::Rename { to, .. } if *to == journal));
    let [begun, done] = appears[..] else { panic!("the journal appears twice: {events:?}") };
    let headers = places(&|event| {
        matches!(event, Event::Write { path, offset: Some(offset), .. }
            if path.extension().is_some_and(|end| end == "qcow2") && *offset < 65536)
    });
    let is_synced = |path: &Path, from: usize, to: usize| {
        events[from..to].iter().any(|event| matches!(event, Event::Sync { path: synced } if synced == path))
    };
    for appears in [begun, done] {
        let Event::Rename { from, .. } = &events[appears] else { panic!("it is one") };
        let written = places(&|event| matches!(event, Event::Write { path, .. } if path == from));
        assert!(written.iter().all(|at| *at < appears && is_synced(from, *at, appears)), "{from:?}: {events:?}");
        let next = headers.iter().find(|at| **at > appears).expect("a header is written after it");
        assert!(is_synced(&folder, appears, *next), "the name of the journal is not durable: {events:?}");
    }
    assert!(headers[0] > begun, "an image is marked before the journal is there: {events:?}");
    let (before, after): (Vec<usize>, Vec<usize>) = headers.iter().partition(|at| **at < done);
    assert!(before.len() >= 4 && after.len() >= 2, "{headers:?}: {events:?}");
    for at in &headers {
        let Event::Write { path, .. } = &events[*at] else { panic!("it is one") };
        assert!(is_synced(path, *at, *at + 2), "a sector of a header is not flushed at once: {events:?}");
    }
    let removed = places(&|event| matches!(event, Event::Unlink { path } if *path == journal));
    let [removed] = removed[..] else { panic!("the journal goes once: {events:?}") };
    assert!(headers.iter().all(|at| *at < removed), "a mark goes after the journal: {events:?}");
    assert!(is_synced(&folder, removed, events.len()), "that the journal is gone is not durable: {events:?}");
}
