//! Owns the proof that `checkmap doctor` and the reading of libvirt's documents find each disagreement, mend what they list and nothing
//! else, and refuse everything that is no document. Disks are QEMU's own; libvirt's daemon is in `tests/libvirt`.

mod documents;
mod faults;
mod offline;
mod pure;
mod running;
#[path = "../support/mod.rs"]
mod support;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// libvirt's notes of the disk `vda`, in a folder of their own.
struct Notes {
    folder: TempDir,
}

impl Notes {
    fn new() -> Self {
        Self { folder: support::folder() }
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().expect("UTF-8")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.xml"))
    }

    /// A checkpoint on the disks of these names.
    fn add(&self, name: &str, parent: Option<&str>, time: u64, targets: &[&str]) -> &Self {
        let parent = parent.map(|parent| format!("<parent><name>{parent}</name></parent>")).unwrap_or_default();
        let disk = |target: &&str| format!("<disk name='{target}' checkpoint='bitmap' bitmap='{name}'/>");
        let disks: String = targets.iter().map(disk).collect();
        let text = format!(
            "<!-- made by hand -->\n<domaincheckpoint>\n<name>{name}</name>{parent}<creationTime>{time}</creationTime>\
             <disks>{disks}</disks></domaincheckpoint>"
        );
        fs::write(self.file(name), text).expect("written");
        self
    }

    /// The names of the files, each with its text.
    fn all(&self) -> Vec<(String, String)> {
        let mut all: Vec<_> = fs::read_dir(self.folder.path())
            .expect("listed")
            .map(|entry| entry.expect("listed").path())
            .map(|path| {
                (
                    path.file_name().expect("a name").to_string_lossy().into_owned(),
                    fs::read_to_string(path).expect("read"),
                )
            })
            .collect();
        all.sort();
        all
    }
}

fn try_checkmap(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_checkmap")).args(words).output().expect("checkmap runs")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", told(output)))
}

/// The kinds of all findings.
fn kinds(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().expect("findings").iter();
    findings.map(|found| found["kind"].as_str().expect("a kind").to_owned()).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
