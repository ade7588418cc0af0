//! The binary as a script sees it: its output, its JSON, its exit status, and what it leaves behind.

mod both;
mod change;
mod complete;
mod draw;
mod drop;
mod fleet;
mod gaps;
mod layers;
mod many;
mod maps;
mod models;
mod pages;
mod parquet;
mod process;
mod refuse;
mod segment;
mod show;
#[path = "../support/mod.rs"]
mod support;
mod trend;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use support::TestImage;

/// The size of the disk of [`three_checkpoints`]: no multiple of the granularity.
const SIZE: u64 = 10_001_920;

/// Runs checkmap with these arguments.
macro_rules! checkmap {
    ($($arg:expr),* $(,)?) => {
        $crate::Ran::of($crate::command(&[$(std::ffi::OsStr::new(&$arg).to_owned()),*]).output().expect("checkmap runs"))
    };
}
pub(crate) use checkmap;

fn command(args: &[OsString]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
    command.args(args);
    command
}

/// How a run ended.
struct Ran {
    status: Option<i32>,
    stdout: Vec<u8>,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).expect("messages are UTF-8");
        let by_clap = stderr.starts_with("error: ") || stderr.contains("Usage:");
        assert!(by_clap || stderr.lines().all(|line| line.starts_with("checkmap: ")), "{stderr}");
        Self { status: output.status.code(), stdout: output.stdout, stderr }
    }

    /// What it printed, if it ended well.
    #[track_caller]
    fn ok(&self) -> &str {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        std::str::from_utf8(&self.stdout).expect("the output is UTF-8")
    }

    #[track_caller]
    fn bytes(&self) -> &[u8] {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        &self.stdout
    }

    #[track_caller]
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(self.ok()).expect("one JSON document, and nothing else")
    }

    /// Asserts that it ended with `status`, printed nothing, and said `what` on stderr.
    #[track_caller]
    fn fails(&self, status: i32, what: &str) {
        assert_eq!(self.status, Some(status), "{}", self.stderr);
        assert!(self.stdout.is_empty(), "{}", String::from_utf8_lossy(&self.stdout));
        assert!(self.stderr.contains(what), "{:?} says nothing of {what:?}", self.stderr);
        for word in ["os error", "CHECKMAP_", "checkmap_", "::"] {
            assert!(!self.stderr.contains(word), "{:?} is not in the words of the command line", self.stderr);
        }
    }

    /// Asserts that it ended well, and said `what` on stderr.
    #[track_caller]
    fn says(&self, what: &str) {
        self.ok();
        assert!(self.stderr.contains(what), "{:?} says nothing of {what:?}", self.stderr);
    }
}

/// An image with the checkpoints mon, tue and wed; 64 KiB were written in the first interval, 128 KiB and 1 byte in the
/// second, the end of the disk in the third.
fn three_checkpoints() -> TestImage {
    let image = TestImage::create("", &SIZE.to_string());
    checkmap!("create", image.path, "mon").ok();
    image.write(65536, 65536);
    checkmap!("create", image.path, "tue").ok();
    image.io(&["write 1M 128k".into(), "write 3M 1".into()]);
    checkmap!("create", image.path, "wed").ok();
    image.write(SIZE - 512, 512);
    image
}

/// The names of the bitmaps as QEMU lists them, with `+` before those that record.
fn bitmaps(image: &TestImage) -> Vec<String> {
    let bitmaps = image.qemu_bitmaps();
    bitmaps.iter().map(|bitmap| format!("{}{}", if bitmap.recording { "+" } else { "" }, bitmap.name)).collect()
}

fn extents(json: &serde_json::Value) -> Vec<(u64, u64)> {
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    let extents = json["extents"].as_array().expect("an array");
    extents.iter().map(|extent| (number(&extent["start"]), number(&extent["length"]))).collect()
}

/// Changes one byte of a file.
fn poke(path: &Path, at: usize, change: impl FnOnce(u8) -> u8) {
    let mut bytes = fs::read(path).expect("the image can be read");
    bytes[at] = change(bytes[at]);
    fs::write(path, bytes).expect("the image can be written");
}

/// Where the entry of a bitmap begins in the directory that the header points to.
fn entry_of(path: &Path, bitmap: &[u8]) -> usize {
    let bytes = fs::read(path).expect("the image can be read");
    let find = |what: &[u8], from: usize| {
        let found = bytes[from..].windows(what.len()).position(|window| window == what);
        from + found.expect("it is in the image")
    };
    let extension = find(&[0x23, 0x85, 0x28, 0x75], 0);
    let place = bytes[extension + 24..extension + 32].try_into().expect("eight bytes");
    let directory = usize::try_from(u64::from_be_bytes(place)).expect("a small image");
    // The length of the name, no extra data, the name.
    let length = u8::try_from(bitmap.len()).expect("a short name");
    find(&[&[0, length, 0, 0, 0, 0], bitmap].concat(), directory) - 18
}

/// Marks a bitmap as a crash of its writer does.
fn mark_inconsistent(path: &Path, bitmap: &[u8]) {
    poke(path, entry_of(path, bitmap) + 15, |flags| flags | 1);
}

/// A `qemu-io` that has the image open.
struct Holder {
    child: Child,
    _stdin: ChildStdin,
}

impl Holder {
    fn open(image: &Path, options: &[&str]) -> Self {
        let mut child = Command::new("qemu-io")
            .args(options)
            .arg(image)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-io starts");
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(b"length\n").expect("qemu-io listens");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("qemu-io answers");
        assert!(!line.is_empty(), "qemu-io did not open {}", image.display());
        Self { child, _stdin: stdin }
    }
}

impl Drop for Holder {
    /// As a crash: what the bitmaps recorded is not stored.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything in a folder, sorted.
fn listing(folder: &Path) -> Vec<OsString> {
    let entries = fs::read_dir(folder).expect("the folder can be read");
    let mut names: Vec<OsString> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
    names.sort();
    names
}

fn same_file(path: &Path, before: &[u8]) -> bool {
    fs::read(path).expect("the image can be read") == before
}

fn bytes_of(name: &[u8]) -> &OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(name)
}

/// Skips the rest of a test where QEMU's tools are absent.
macro_rules! needs_tools {
    () => {
        if !$crate::support::tools_are_here() {
            return;
        }
    };
}
pub(crate) use needs_tools;
