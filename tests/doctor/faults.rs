//! Evidence that a mend must not destroy, errors behind a change, and steps that were interrupted.

use crate::offline::{healthy, names};
use crate::support::trace::strace_works;
use crate::support::{self, TestImage, run};
use crate::{Notes, json, kinds, text, told, try_checkmap};
use checkmap::ErrorKind;
use checkmap::doctor::{Options, Seen, Visit};
use checkmap::image::{Access, Image, OpenOptions};
use checkmap::progress::{Step, Unobserved};
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

const CHECKMAP: &str = env!("CARGO_BIN_EXE_checkmap");

fn doctor(image: &Path, notes: &Notes, words: &[&str]) -> Output {
    try_checkmap(&[&["doctor", text(image), "--libvirt-xml", notes.path()], words].concat())
}

/// It ends with 3, says this, and changes nothing.
#[track_caller]
fn refused(image: &Path, notes: &Notes, words: &[&str], part: &str) {
    let before = (fs::read(image).expect("read"), notes.all());
    let output = doctor(image, notes, words);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert!(told(&output).contains(part), "{}", told(&output));
    assert!(before == (fs::read(image).expect("read"), notes.all()), "{words:?}");
}

/// The findings, as a look has them and a repair leaves them; nothing changes.
#[track_caller]
fn stays(image: &Path, found: &[&str]) {
    let before = fs::read(image).expect("read");
    for words in [&["--json"][..], &["--json", "--repair"]] {
        let output = try_checkmap(&[&["doctor", text(image)], words].concat());
        assert_eq!(kinds(&json(&output)), found, "{}", json(&output));
        assert_eq!(output.status.code(), Some(i32::from(!found.is_empty())), "{}", told(&output));
    }
    assert!(before == fs::read(image).expect("read"), "{found:?}");
}

#[test]
fn a_short_bitmap_becomes_no_interval() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    image.bitmap(&["--clear"], "c1");
    refused(&image.path, &notes, &["--to-interval"], "'c1' misses blocks that the younger 'c2' has");
    // Also where a finer one is older.
    let (image, notes) = healthy();
    image.bitmap(&["--remove"], "c1");
    image.bitmap(&["--add", "-g", "16384"], "c1");
    refused(&image.path, &notes, &["--to-interval"], "'c1' misses blocks that the younger 'c2' has");
    image.write(2 * 65536 + 16384, 512);
    assert_eq!(doctor(&image.path, &notes, &["--to-interval"]).status.code(), Some(0));
}

#[test]
fn a_conversion_that_ended_before_the_notes_is_gone_on_with() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    let texts = notes.all();
    assert_eq!(doctor(&image.path, &notes, &["--to-interval"]).status.code(), Some(0));
    for (file, text) in &texts {
        fs::write(notes.folder.path().join(file), text).expect("written");
    }
    let before = fs::read(&image.path).expect("read");
    let again = doctor(&image.path, &notes, &["--to-interval"]);
    assert_eq!(again.status.code(), Some(0), "{}", told(&again));
    let steps = "let libvirt forget the checkpoint 'c1'\nlet libvirt forget the checkpoint 'c2'\n";
    assert_eq!(String::from_utf8_lossy(&again.stdout), steps, "{}", told(&again));
    assert!(notes.all().is_empty() && before == fs::read(&image.path).expect("read"));
    // A chain of ours takes no note of bitmaps that record.
    let (image, notes) = healthy();
    image.bitmap(&["--add", "--disable"], "ours");
    image.bitmap(&["--add"], "ours->c2");
    let _ = doctor(&image.path, &notes, &["--to-interval", "--model", "interval"]);
    assert_eq!(notes.all().len(), 2);
}

/// A visit of the image with these notes, whose repair is planned, and carried out with an observer that does this at its first step.
fn repair_with(
    image: &Path,
    notes: &Notes,
    mut first: Option<impl FnOnce()>,
) -> (checkmap::Result<()>, checkmap::Result<()>) {
    let mut image = Image::open(image, &OpenOptions::new(Access::Write)).expect("it opens");
    let disks = vec![Seen::image(&mut image, Some("vda".to_owned()))];
    let folder = Some(notes.folder.path());
    let mut visit = Visit::begin(disks, None, folder, Options::new(9), &mut Unobserved).expect("a visit");
    let mut stop = |_: Step| ControlFlow::Break(());
    let stopped = visit.diagnose_again(&mut stop).expect_err("nothing was changed yet");
    assert_eq!(stopped.kind(), ErrorKind::Cancelled);
    let found = visit.diagnose(&mut Unobserved).expect("a diagnosis");
    let plans = visit.plan_repair(&found).expect("plans");
    let mut watch = |_: Step| {
        if let Some(first) = first.take() {
            first();
        }
        ControlFlow::Continue(())
    };
    let done = visit.carry_out(&plans, &found.changes, &mut watch).map(drop);
    (done, visit.diagnose_again(&mut stop).map(drop))
}

#[test]
fn an_error_behind_the_bitmaps_is_no_refusal() {
    if !support::tools_are_here() {
        return;
    }
    let broken = || {
        let (image, notes) = healthy();
        notes.add("c1", None, 1_700_000_000, &["vda", "vdb"]);
        image.bitmap(&["--disable"], "c1");
        (image, notes)
    };
    let (image, notes) = broken();
    let (done, again) = repair_with(&image.path, &notes, None::<fn()>);
    done.expect("a repair");
    again.expect("nobody stops the look after a repair");
    assert_eq!(names(&image.path), ["c2"]);
    // A folder comes to stand where the document goes.
    let (image, notes) = broken();
    let place = notes.file("c1");
    let (done, again) = repair_with(
        &image.path,
        &notes,
        Some(|| {
            fs::remove_file(&place).expect("removed");
            fs::create_dir(&place).expect("a folder");
        }),
    );
    let error = done.expect_err("a folder stands there");
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.message().contains("the bitmaps are changed, and 0 of 1 of libvirt's notes"), "{error}");
    assert!(!error.has_changed_nothing());
    assert_eq!(names(&image.path), ["c2"]);
    let error = again.expect_err("a folder is no document");
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.message().contains("the change is done"), "{error}");
}

#[test]
fn the_notes_of_another_domain_are_left_alone() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    let web = image.folder.path().join("web.qcow2");
    let source = |file: &Path| {
        for (name, parent) in [("c1", ""), ("c2", "<parent><name>c1</name></parent>")] {
            let text = format!(
                "<domaincheckpoint><name>{name}</name>{parent}<creationTime>5</creationTime><disks><disk name='vda' checkpoint='bitmap' \
                 bitmap='{name}'/></disks><domain><devices><disk><source file='{}'/><target dev='vda'/></disk></devices></domain>\
                 </domaincheckpoint>",
                file.display()
            );
            fs::write(notes.file(name), text).expect("written");
        }
    };
    source(&web);
    refused(&image.path, &notes, &["--repair"], "--disk-target");
    refused(&image.path, &notes, &["--to-interval"], "--disk-target");
    assert_eq!(doctor(&image.path, &notes, &["--disk-target", "vda"]).status.code(), Some(0));
    // The image of the note is a layer of this one.
    let over = image.folder.path().join("over.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(&image.path), text(&over)]);
    source(&image.path);
    assert_eq!(kinds(&json(&doctor(&over, &notes, &["--json"]))), ["not-carried", "not-carried"]);
    // Nobody says that it is the folder of any domain.
    let empty = Notes::new();
    let output = doctor(&image.path, &empty, &[]);
    assert!(told(&output).contains("has no document"), "{}", told(&output));
}

#[test]
fn a_chain_that_goes_on_through_layers_has_no_gap() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "4M");
    for name in ["i1", "i2"] {
        run(CHECKMAP, &["create", text(&image.path), name]);
    }
    let over = image.folder.path().join("over.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(&image.path), text(&over)]);
    run("qemu-img", &["bitmap", "-f", "qcow2", "--add", "--disable", text(&over), "i1->i2"]);
    run("qemu-img", &["bitmap", "-f", "qcow2", "--add", text(&over), "i2->i3"]);
    stays(&over, &[]);
    // The layer below has lost it as well: nothing is certain there.
    image.bitmap(&["--remove"], "i1");
    stays(&over, &["gap"]);
    // Nobody can tell whether there is a gap.
    fs::rename(&image.path, image.folder.path().join("away")).expect("renamed");
    stays(&over, &["layer-unread"]);
}

#[test]
fn frozen_bitmaps_that_answer_past_diffs_stay() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "4M");
    for name in ["1", "2"] {
        run(CHECKMAP, &["create", text(&image.path), name]);
    }
    image.bitmap(&["--disable"], "1->2");
    stays(&image.path, &["dead-chain"]);
    run(CHECKMAP, &["diff", text(&image.path), "--since", "1", "--until", "2"]);
    // One alone answers nothing.
    let image = TestImage::create("", "4M");
    run(CHECKMAP, &["create", text(&image.path), "1"]);
    run(CHECKMAP, &["create", text(&image.path), "2"]);
    image.bitmap(&["--remove"], "1");
    image.bitmap(&["--disable"], "1->2");
    let output = try_checkmap(&["doctor", text(&image.path), "--repair"]);
    assert_eq!((output.status.code(), names(&image.path)), (Some(0), Vec::new()), "{}", told(&output));
}

/// Root may write everywhere, so for root the folder is no obstacle.
#[test]
fn a_folder_that_cannot_change_stops_the_mend_before_the_bitmaps() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    image.bitmap(&["--disable"], "c1");
    image.bitmap(&["--remove"], "c2");
    fs::remove_file(notes.file("c2")).expect("removed");
    fs::set_permissions(notes.folder.path(), fs::Permissions::from_mode(0o555)).expect("its mode");
    let is_root = fs::write(notes.file("probe"), "").is_ok();
    let output = doctor(&image.path, &notes, &["--repair"]);
    fs::set_permissions(notes.folder.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    if !is_root {
        assert_eq!((output.status.code(), names(&image.path)), (Some(1), vec!["c1".to_owned()]), "{}", told(&output));
    }
}

#[test]
fn a_step_that_was_interrupted_is_found_and_ended_first() {
    if !support::tools_are_here() || !strace_works() {
        return;
    }
    let marked = (1..20).find_map(|number| {
        let (image, other) = (TestImage::create("", "4M"), TestImage::create("", "4M"));
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"]);
        strace.arg(format!("inject=fdatasync:signal=SIGKILL:when={number}"));
        strace.args([CHECKMAP, "create", text(&image.path), "mon", "--also", text(&other.path)]);
        strace.output().expect("strace runs");
        let opened = Image::open(&image.path, &OpenOptions::new(Access::Read)).expect("it opens");
        opened.unfinished().is_some().then_some((image, other))
    });
    let (image, other) = marked.expect("a step that was interrupted");
    let before = fs::read(&image.path).expect("read");
    let output = try_checkmap(&["doctor", text(&image.path), "--json"]);
    assert_eq!((output.status.code(), kinds(&json(&output))), (Some(1), vec!["leftover".to_owned()]));
    let output = try_checkmap(&["doctor", text(&image.path)]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("the mend: `checkmap recover`"), "{}", told(&output));
    let mut visited = Image::open(&image.path, &OpenOptions::new(Access::Write)).expect("it opens");
    let disks = vec![Seen::image(&mut visited, None)];
    let visit = Visit::begin(disks, None, None, Options::new(9), &mut Unobserved).expect("a visit");
    let found = visit.diagnose(&mut Unobserved).expect("a diagnosis");
    assert_eq!(visit.plan_repair(&found).expect_err("unfinished").kind(), ErrorKind::Unclean);
    assert_eq!(visit.plan_conversion(&mut Unobserved).expect_err("unfinished").kind(), ErrorKind::Unclean);
    drop(visit);
    drop(visited);
    assert!(before == fs::read(&image.path).expect("read"));
    let output = try_checkmap(&["doctor", text(&image.path), "--repair"]);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert!(told(&output).contains("had been interrupted"), "{}", told(&output));
    stays(&image.path, &[]);
    stays(&other.path, &[]);
}
