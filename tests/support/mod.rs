//! What the tests against real tools share: finding and running QEMU's tools, reading bitmaps back through NBD, and
//! seeded randomness. Must never know what a test is about.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses its own part of it")]

pub mod c_library;
pub mod hypervisor;
pub mod memory;
pub mod mutate;
pub mod nbd;
pub mod nbd_server;
pub mod ours;
pub mod parallels;
pub mod power;
pub mod qmp_server;
pub mod random;
pub mod raw;
pub mod trace;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The real tools that the tests compare with.
const TOOLS: &[&str] = &["qemu-img", "qemu-io", "qemu-nbd", "qemu-storage-daemon", "nbdinfo", "nbdcopy"];

/// False, loudly, where a tool is absent; in CI that is a failure.
pub fn tools_are_here() -> bool {
    let missing: Vec<&&str> =
        TOOLS.iter().filter(|tool| Command::new(tool).arg("--version").output().is_err()).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "{missing:?} are missing: install qemu-utils and libnbd-bin");
    eprintln!("SKIPPED, NOT PASSED: {missing:?} are missing: install qemu-utils and libnbd-bin");
    false
}

/// As [`tools_are_here`], with the hypervisor that runs machines.
pub fn hypervisors_are_here() -> bool {
    const SYSTEM: &str = "qemu-system-x86_64";
    if !tools_are_here() {
        return false;
    }
    let is_here = Command::new(SYSTEM).arg("--version").output().is_ok();
    assert!(is_here || std::env::var_os("CI").is_none(), "{SYSTEM} is missing: install qemu-system-x86");
    if !is_here {
        eprintln!("SKIPPED, NOT PASSED: {SYSTEM} is missing: install qemu-system-x86");
    }
    is_here
}

/// A folder that goes away with the test.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("checkmap-test-").tempdir().expect("a temporary folder")
}

/// Runs a tool and returns what it printed, failing the test if it fails.
pub fn run<S: AsRef<OsStr>>(tool: &str, args: &[S]) -> String {
    let output = try_run(tool, args);
    assert!(output.status.success(), "{}", told(tool, args, &output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a tool and returns its outcome, whatever it is.
pub fn try_run<S: AsRef<OsStr>>(tool: &str, args: &[S]) -> Output {
    Command::new(tool).args(args).output().unwrap_or_else(|error| panic!("cannot run {tool}: {error}"))
}

fn told<S: AsRef<OsStr>>(tool: &str, args: &[S], output: &Output) -> String {
    let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
    format!(
        "{tool} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// An image that QEMU made in a folder of its own.
pub struct TestImage {
    pub folder: TempDir,
    pub path: PathBuf,
}

impl TestImage {
    /// `options` are those of `qemu-img create -o`; empty for none.
    pub fn create(options: &str, size: &str) -> Self {
        let folder = folder();
        let path = folder.path().join("disk.qcow2");
        let mut args = vec!["create".as_ref(), "-q".as_ref(), "-f".as_ref(), "qcow2".as_ref()];
        let data_file = format!("data_file={}", folder.path().join("disk.raw").display());
        let options = options.replace("data_file=here", &data_file);
        if !options.is_empty() {
            args.extend(["-o".as_ref(), OsStr::new(&options)]);
        }
        args.extend([path.as_os_str(), OsStr::new(size)]);
        run("qemu-img", &args);
        Self { folder, path }
    }

    /// `qemu-img bitmap` with these arguments before the image.
    pub fn bitmap<S: AsRef<OsStr>>(&self, args: &[&str], name: S) {
        let mut all: Vec<&OsStr> = vec!["bitmap".as_ref()];
        all.extend(args.iter().map(OsStr::new));
        all.extend(["--".as_ref(), self.path.as_os_str(), name.as_ref()]);
        run("qemu-img", &all);
    }

    /// Runs qemu-io commands on the image, each one string.
    pub fn io(&self, commands: &[String]) {
        qemu_io(&self.path, commands);
    }

    pub fn write(&self, offset: u64, len_bytes: u64) {
        self.io(&[format!("write -P 1 {offset} {len_bytes}")]);
    }

    /// `qemu-img check` finds neither errors nor leaks.
    pub fn assert_clean(&self, when: &str) {
        let output = try_run("qemu-img", &["check".as_ref(), "-f".as_ref(), "qcow2".as_ref(), self.path.as_os_str()]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "after {when}: qemu-img check: {}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// The bitmaps as `qemu-img info` lists them.
    pub fn qemu_bitmaps(&self) -> Vec<QemuBitmap> {
        qemu_bitmaps(&self.path)
    }
}

pub fn qemu_io(path: &Path, commands: &[String]) {
    let mut args: Vec<&OsStr> = Vec::new();
    for command in commands {
        args.extend(["-c".as_ref(), OsStr::new(command)]);
    }
    args.push(path.as_os_str());
    let output = try_run("qemu-io", &args);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !printed.contains("failed"), "{}", told("qemu-io", &args, &output));
}

/// One bitmap as `qemu-img info --output=json` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QemuBitmap {
    pub name: String,
    pub granularity: u64,
    pub recording: bool,
    pub in_use: bool,
}

pub fn qemu_bitmaps(path: &Path) -> Vec<QemuBitmap> {
    let printed = run("qemu-img", &["info".as_ref(), "--output=json".as_ref(), path.as_os_str()]);
    let info: serde_json::Value = serde_json::from_str(&printed).expect("qemu-img prints JSON");
    let Some(bitmaps) = info["format-specific"]["data"]["bitmaps"].as_array() else { return Vec::new() };
    bitmaps
        .iter()
        .map(|bitmap| {
            let has = |flag: &str| bitmap["flags"].as_array().is_some_and(|flags| flags.iter().any(|f| f == flag));
            QemuBitmap {
                name: bitmap["name"].as_str().expect("a name").to_owned(),
                granularity: bitmap["granularity"].as_u64().expect("a granularity"),
                recording: has("auto"),
                in_use: has("in-use"),
            }
        })
        .collect()
}
