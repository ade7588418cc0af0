//! What may happen in the middle of a look: a writer that comes while the program reads is kept out, or seen.

use super::support::trace::Stopped;
use super::support::{TestImage, run, try_run};
use super::{args, checkmap, needs_tools, program, succeeded, three_checkpoints};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Stops the program at every read of `file`, where QEMU tries to change what it answers. It is kept out while the answer
/// is looked up; where it comes in, before that, the answer is the new one.
#[track_caller]
fn assert_steady(file: &Path, args: &[OsString], writer: &[&str], undo: &[&str]) {
    let mut kept_out = 0;
    for read in 1.. {
        let Some(stopped) = Stopped::at_read(file, read, program(), args) else { break };
        let tried = try_run(writer[0], &writer[1..]);
        let answered = stopped.go_on();
        let asked_again = Command::new(program()).args(args).output().expect("it runs");
        let when = format!("{args:?}: a writer came at read {read} of {}: {tried:?}", file.display());
        assert_eq!(answered.status, asked_again.status, "{when}: {answered:?}");
        assert_eq!(answered.stdout, asked_again.stdout, "{when}");
        if tried.status.success() {
            run(undo[0], &undo[1..]);
        } else {
            assert!(String::from_utf8_lossy(&tried.stderr).contains("lock"), "{when}");
            kept_out += 1;
        }
    }
    assert!(kept_out > 0, "{args:?}: nothing keeps a writer out of {}", file.display());
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
fn no_writer_changes_an_image_or_a_layer_below_it_while_an_answer_is_looked_up() {
    needs_tools!();
    let (base, middle, top) = three_layers();
    checkmap(&args!["create", top, "mon"]);
    super::support::qemu_io(&top, &["write 1M 64k".into()]);
    let diff = args!["diff", top, "--since", "mon", "--json"];
    for layer in [&base.path, &middle] {
        let path = layer.to_str().expect("UTF-8");
        // With a bitmap of that name the layer takes part, and the answer is a refusal.
        let [add, remove] = ["--add", "--remove"].map(|how| ["qemu-img", "bitmap", how, path, "mon"]);
        assert_steady(layer, &diff, &add, &remove);
    }
    let write = ["qemu-io", "-c", "write 9M 64k", top.to_str().expect("UTF-8")];
    assert_steady(&top, &diff, &write, &["true"]);
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

/// What a running QEMU has in use it will store, so nobody may be told that it is lost.
#[test]
fn a_writer_that_opens_an_image_while_its_names_are_read_is_seen() {
    needs_tools!();
    let mut seen = 0;
    for read in 1.. {
        let image = three_checkpoints();
        let args = args!["info", "--force-share", image.path, "--json"];
        let Some(stopped) = Stopped::at_read(&image.path, read, program(), &args) else { break };
        let writer = Writer::open(&image.path);
        let output = stopped.go_on();
        drop(writer);
        if output.status.code() == Some(3) {
            assert!(String::from_utf8_lossy(&output.stderr).contains("was changed by somebody else"), "{output:?}");
            continue;
        }
        let told: serde_json::Value = serde_json::from_slice(&succeeded(&output)).expect("JSON");
        // A writer that comes after the last read is not seen; the answer is true of the moment before.
        seen += u32::from(told["held_by_writer"] == true);
        for bitmap in told["bitmaps"].as_array().expect("a list") {
            assert_eq!(bitmap["inconsistent"], false, "the writer came at read {read}: {told}");
        }
    }
    assert!(seen > 0, "no writer was ever seen");
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
