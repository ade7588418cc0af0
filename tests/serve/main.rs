//! `checkmap serve` and the library behind it: the bytes against `qemu-img convert`, the maps against qemu-nbd's, and every
//! client that is at hand.

mod clients;
mod content;
mod program;
mod refuse;
#[path = "../support/mod.rs"]
mod support;
mod through_qemu;

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use support::TestImage;

/// Nothing here takes so long.
const LONG: Duration = Duration::from_secs(120);

/// `checkmap serve` with these arguments.
fn command<S: AsRef<OsStr>>(args: &[S]) -> Command {
    // The signals have their effect, also where the caller of the tests ignores them.
    let mut command = Command::new("/usr/bin/env");
    command.args(["--default-signal=INT,TERM,HUP", env!("CARGO_BIN_EXE_checkmap"), "serve"]).args(args);
    command
}

/// Runs `checkmap serve` to its end.
fn serve<S: AsRef<OsStr>>(args: &[S]) -> Output {
    command(args).stdin(Stdio::null()).output().expect("checkmap runs")
}

#[track_caller]
fn fails<S: AsRef<OsStr>>(args: &[S], status: i32, text: &str) {
    let output = serve(args);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{told}");
    assert!(told.contains(text), "{told:?} says nothing of {text:?}");
}

/// An image with one checkpoint, mon, and a write after it.
fn image(options: &str, size: &str) -> TestImage {
    let image = TestImage::create(options, size);
    image.create_checkpoint("mon", None, None);
    image.io(&["write -P 7 64k 200k".into()]);
    image
}

/// A running `checkmap serve` with a socket of its own.
struct Serving {
    child: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Serving {
    fn start(image: &Path, options: &[&str]) -> Self {
        Self::launch(image, options, None)
    }

    /// With this folder for temporary files.
    fn start_in(image: &Path, temporary: &Path) -> Self {
        Self::launch(image, &[], Some(temporary))
    }

    fn launch(image: &Path, options: &[&str], temporary: Option<&Path>) -> Self {
        let folder = support::folder();
        let socket = folder.path().join("nbd.sock");
        let mut command =
            command(&[image.as_os_str(), "--since=mon".as_ref(), "--socket".as_ref(), socket.as_os_str()]);
        command.envs(temporary.map(|folder| ("TMPDIR", folder)));
        let child = command.args(options).stderr(Stdio::piped()).spawn().expect("checkmap runs");
        let mut serving = Self { child, socket, _folder: folder };
        wait_until("the socket is there", || {
            let ended = serving.child.try_wait().expect("it can be waited for");
            assert!(ended.is_none(), "{}", serving.said());
            serving.socket.exists()
        });
        serving
    }

    fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).expect("it listens")
    }

    /// Asks it to end; returns its status and what it said.
    fn end(mut self, signal: &str) -> (ExitStatus, String) {
        kill(signal, self.child.id());
        let status = ended(&mut self.child);
        (status, self.said())
    }

    fn said(&mut self) -> String {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().expect("a pipe");
        stderr.read_to_string(&mut said).expect("messages are UTF-8");
        said
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kill(signal: &str, process: u32) {
    support::run("kill", &["-s", signal, &process.to_string()]);
}

fn ended(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("it ends", || {
        status = child.try_wait().expect("it can be waited for");
        status.is_some()
    });
    status.expect("it has ended")
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The disk as `qemu-img convert` reads it.
fn converted<S: AsRef<OsStr>>(from: &[S]) -> Vec<u8> {
    let folder = support::folder();
    let raw = folder.path().join("raw");
    let mut args: Vec<&OsStr> = vec!["convert".as_ref(), "-O".as_ref(), "raw".as_ref()];
    args.extend(from.iter().map(AsRef::as_ref));
    args.push(raw.as_os_str());
    support::run("qemu-img", &args);
    std::fs::read(&raw).expect("the raw copy can be read")
}
