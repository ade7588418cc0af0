//! `checkmap backup`, `restore`, `verify`, `list` and `prune`: every kept moment against a copy that `qemu-img convert` made of the
//! disk at that moment, restored by us and by stock qemu-img.

mod bad;
mod days;
mod fold;
mod kill;
mod limits;
mod names;
mod plan;
mod power;
mod review;
mod steps;
#[path = "../support/mod.rs"]
mod support;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::{run, try_run};
use tempfile::TempDir;

fn checkmap<S: AsRef<OsStr>>(args: &[S]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
    command.args(args).stdin(Stdio::null()).output().expect("checkmap runs")
}

#[track_caller]
fn works<S: AsRef<OsStr>>(args: &[S]) -> String {
    let output = checkmap(args);
    let told = String::from_utf8_lossy(&output.stderr);
    let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
    assert!(output.status.success(), "{args:?}: {}: {told}", output.status);
    told.into_owned()
}

#[track_caller]
fn fails<S: AsRef<OsStr>>(args: &[S], status: i32, text: &str) {
    let output = checkmap(args);
    let told = String::from_utf8_lossy(&output.stderr);
    let args: Vec<_> = args.iter().map(AsRef::as_ref).collect();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {told}");
    assert!(told.contains(text), "{args:?}: {told:?} says nothing of {text:?}");
}

/// A disk, its backup directory, and a copy of the disk at each moment.
struct Disk {
    folder: TempDir,
    image: PathBuf,
    directory: PathBuf,
}

impl Disk {
    fn create(options: &str, size: &str) -> Self {
        let folder = support::folder();
        let image = folder.path().join("disk.qcow2");
        let mut args = vec!["create", "-q", "-f", "qcow2"];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        args.extend([image.to_str().expect("a plain path"), size]);
        run("qemu-img", &args);
        let directory = folder.path().join("backup");
        Self { folder, image, directory }
    }

    fn io(&self, commands: &[String]) {
        support::qemu_io(&self.image, commands);
    }

    fn backup_args<'a>(&'a self, checkpoint: &'a str, options: &'a [&'a str]) -> Vec<&'a OsStr> {
        let mut args: Vec<&OsStr> = vec!["backup".as_ref(), self.image.as_os_str(), "-o".as_ref()];
        args.extend([self.directory.as_os_str(), "--checkpoint".as_ref(), checkpoint.as_ref()]);
        args.extend(options.iter().map(OsStr::new));
        args
    }

    /// Takes a backup, and keeps a copy of the disk as it is.
    #[track_caller]
    fn backup(&self, checkpoint: &str, options: &[&str]) -> String {
        self.keep(checkpoint);
        works(&self.backup_args(checkpoint, options))
    }

    fn truth(&self, checkpoint: &str) -> PathBuf {
        self.folder.path().join(format!("{checkpoint}.truth"))
    }

    fn keep(&self, checkpoint: &str) {
        convert(&self.image, &self.truth(checkpoint));
    }

    /// The moments that the directory keeps, oldest first.
    fn moments(&self) -> Vec<String> {
        moments(&self.directory)
    }

    fn file(&self, checkpoint: &str) -> PathBuf {
        self.directory.join("disk.qcow2").join(format!("{checkpoint}.qcow2"))
    }

    /// Every kept moment is that of its day.
    #[track_caller]
    fn check(&self, when: &str) {
        self.check_moments(when);
        works(&["verify".as_ref(), self.directory.as_os_str()]);
        self.check_files();
    }

    #[track_caller]
    fn check_moments(&self, when: &str) {
        let out = self.folder.path().join("restored");
        for moment in self.moments() {
            let truth = fs::read(self.truth(&moment)).expect("a copy");
            convert(&self.file(&moment), &out);
            assert!(fs::read(&out).expect("restored") == truth, "{when}: qemu-img restores {moment} wrong");
            fs::remove_file(&out).expect("it was there");
            let args = ["restore".as_ref(), self.directory.as_os_str(), "--at".as_ref(), moment.as_ref()];
            let raw = ["--format=raw".as_ref(), "-o".as_ref(), out.as_os_str()];
            works(&[&args[..], &raw[..]].concat());
            assert!(fs::read(&out).expect("restored") == truth, "{when}: {moment} is restored wrong");
            fs::remove_file(&out).expect("it was there");
        }
    }

    /// Each file by itself is one that QEMU finds no fault with.
    fn check_files(&self) {
        for moment in self.moments() {
            let file = self.file(&moment);
            let output = try_run("qemu-img", &["check".as_ref(), file.as_os_str()]);
            assert!(output.status.success(), "{moment}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }

    /// The checkpoints on the disk.
    fn checkpoints(&self) -> Vec<String> {
        let output = checkmap(&["list".as_ref(), self.image.as_os_str(), "--json".as_ref()]);
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let names = list.as_array().expect("a list").iter().map(|row| row["name"].as_str().expect("a name").to_owned());
        names.collect()
    }
}

fn moments(directory: &Path) -> Vec<String> {
    let output = checkmap(&["list".as_ref(), directory.as_os_str(), "--json".as_ref()]);
    let list: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let Some(backups) = list["disks"][0]["backups"].as_array() else { return Vec::new() };
    backups.iter().map(|backup| backup["checkpoint"].as_str().expect("a name").to_owned()).collect()
}

fn convert(from: &Path, to: &Path) {
    run("qemu-img", &["convert".as_ref(), "-O".as_ref(), "raw".as_ref(), from.as_os_str(), to.as_os_str()]);
}

/// The names in a folder.
fn entries(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}
