//! What may happen in the middle of a look: a writer that comes while the program reads is kept out, or seen.

use super::support::trace::Stopped;
use super::support::{TestImage, run, try_run};
use super::{args, checkmap, needs_tools, program, succeeded, three_checkpoints};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// At every read of `file` by the program, QEMU cannot open that file for writing; the program ends as if nobody had tried.
#[track_caller]
fn assert_held(file: &Path, args: &[OsString]) {
    let expected = checkmap(args);
    let mut read = 0;
    while let Some(stopped) = Stopped::at_read(file, read + 1, program(), args) {
        read += 1;
        let writer = try_run("qemu-io", &["-c".as_ref(), "write 0 512".as_ref(), file.as_os_str()]);
        let said = String::from_utf8_lossy(&writer.stderr).into_owned();
        assert!(!writer.status.success(), "{args:?}: a writer came in at read {read} of {}", file.display());
        assert!(said.contains("lock"), "{said}");
        assert_eq!(succeeded(&stopped.go_on()), expected, "{args:?}");
    }
    assert!(read > 0, "{args:?} does not read {}", file.display());
}

/// An overlay of an overlay of a base.
fn three_layers() -> (TestImage, PathBuf, PathBuf) {
    let base = TestImage::create("", "64M");
    let overlay = |name: &str, below: &str| {
        let path = base.folder.path().join(name);
        let text = path.to_str().expect("UTF-8");
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", text]);
        path
    };
    let middle = overlay("middle.qcow2", "disk.qcow2");
    let top = overlay("top.qcow2", "middle.qcow2");
    (base, middle, top)
}

#[test]
fn no_writer_can_open_an_image_or_a_layer_below_it_while_it_is_read() {
    needs_tools!();
    let (base, middle, top) = three_layers();
    checkmap(&args!["create", top, "mon"]);
    super::support::qemu_io(&top, &["write 1M 64k".into()]);
    let diff = args!["diff", top, "--since", "mon", "--json"];
    for file in [&base.path, &middle, &top] {
        assert_held(file, &diff);
    }
}

#[test]
fn a_writer_of_a_layer_below_is_noticed() {
    needs_tools!();
    let (base, middle, top) = three_layers();
    checkmap(&args!["create", top, "mon"]);
    for file in [&base.path, &middle] {
        let _writer = Writer::open(file);
        let output = Command::new(program()).args(args!["diff", top, "--since", "mon"]).output().expect("it runs");
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(&*file.file_name().expect("a name").to_string_lossy()), "{said}");
    }
}

/// A QEMU that has an image open for writing, its bitmaps marked as in use.
struct Writer(Child);

impl Writer {
    fn open(image: &Path) -> Self {
        let mut qemu = Command::new("qemu-io");
        qemu.args(["-f", "qcow2"]).arg(image).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = qemu.spawn().expect("qemu-io starts");
        child.stdin.as_mut().expect("it is piped").write_all(b"write 0 512\n").expect("it listens");
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().expect("it is piped")).read_line(&mut answer).expect("it answers");
        assert!(answer.contains("wrote"), "qemu-io did not open {}: {answer}", image.display());
        Self(child)
    }
}

impl Writer {
    /// It stores its bitmaps and goes.
    fn leave(mut self) {
        self.0.stdin.as_mut().expect("it is piped").write_all(b"quit\n").expect("it listens");
        assert!(self.0.wait().expect("it ends").success());
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_writer_that_opens_an_image_while_its_names_are_read_is_seen() {
    needs_tools!();
    for read in 1.. {
        let image = three_checkpoints();
        let args = args!["info", "--force-share", image.path, "--json"];
        let Some(stopped) = Stopped::at_read(&image.path, read, program(), &args) else {
            assert!(read > 1, "info does not read the image");
            break;
        };
        let writer = Writer::open(&image.path);
        let printed = succeeded(&stopped.go_on());
        drop(writer);
        let told: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
        assert_eq!(told["held_by_writer"], true, "the writer that came at read {read} was not seen: {told}");
        // In use by a QEMU that runs, which will store it.
        for bitmap in told["bitmaps"].as_array().expect("a list") {
            assert_eq!(bitmap["inconsistent"], false, "read {read}: {told}");
        }
    }
}

#[test]
fn a_writer_that_leaves_while_the_names_are_read_was_seen() {
    needs_tools!();
    let image = three_checkpoints();
    let args = args!["info", "--force-share", image.path, "--json"];
    let writer = Writer::open(&image.path);
    let stopped = Stopped::at_read(&image.path, 1, program(), &args).expect("info reads the image");
    writer.leave();
    let told: serde_json::Value = serde_json::from_slice(&succeeded(&stopped.go_on())).expect("JSON");
    assert_eq!(told["held_by_writer"], true, "what was read may be from before it left: {told}");
}
