//! The power is cut at every call of a prune: writes without a flush behind them are there in part, or not at all. Every kept
//! moment restores right then, and the next prune ends the work.
//!
//! Assumed of the disk: a sector is written as a whole or not, writes before a flush are there after the cut, names change in the
//! order of the calls.

use crate::support::random::Random;
use crate::support::tools_are_here;
use crate::support::trace::strace_works;
use crate::{Disk, works};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const CALLS: &str =
    "trace=openat,write,pwrite64,ftruncate,fallocate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat";
const SECTOR: usize = 512;

/// What a program did. Files are numbers: their names change.
#[derive(Debug)]
enum Event {
    Made(PathBuf, usize),
    Write(usize, usize, Vec<u8>),
    Length(usize, usize),
    Synced(usize),
    SyncedFolder(PathBuf),
    Renamed(PathBuf, PathBuf),
    Gone(PathBuf),
}

/// The files below a folder.
#[derive(Clone, Debug, Default)]
struct Files {
    names: BTreeMap<PathBuf, usize>,
    bytes: Vec<Vec<u8>>,
}

impl Files {
    fn read(folder: &Path) -> Self {
        let mut files = Self::default();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.names.insert(path.clone(), files.bytes.len());
                    files.bytes.push(fs::read(path).expect("a file"));
                }
            }
        }
        files
    }

    fn write(&self) {
        for (path, file) in &self.names {
            fs::write(path, &self.bytes[*file]).expect("a file");
        }
    }

    fn put(&mut self, file: usize, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        let all = &mut self.bytes[file];
        all.resize(all.len().max(end), 0);
        all[offset..end].copy_from_slice(bytes);
    }

    fn rename(&mut self, event: &Event) {
        match event {
            Event::Made(path, file) => drop(self.names.insert(path.clone(), *file)),
            Event::Renamed(from, to) => {
                let file = self.names.remove(from).expect("it had that name");
                self.names.insert(to.clone(), file);
            }
            Event::Gone(path) => drop(self.names.remove(path)),
            _ => {}
        }
    }
}

/// Text that strace wrote in hexadecimal digits.
fn bytes(text: &str) -> Vec<u8> {
    let text = text.trim_matches('"');
    let pairs = text.split("\\x").skip(1);
    pairs.map(|pair| u8::from_str_radix(&pair[..2], 16).expect("digits")).collect()
}

fn path(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    std::ffi::OsString::from_vec(bytes(text)).into()
}

/// The path in `3</the/path>`.
fn opened(text: &str) -> PathBuf {
    path(text.split_once('<').expect("a descriptor with its path").1.trim_end_matches('>'))
}

/// Runs a prune, and tells what it did to the files of `folder`.
fn traced(folder: &Path, log: &Path, args: &[&OsStr], files: &mut Files) -> Vec<Event> {
    let mut strace = Command::new("strace");
    strace.args(["-y", "-xx", "-s", "10000000", "-e", CALLS, "-e", "signal=none", "-o"]).arg(log);
    let output = strace.arg(env!("CARGO_BIN_EXE_checkmap")).args(args).output().expect("strace runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut events = Vec::new();
    for line in fs::read_to_string(log).expect("strace wrote it").lines() {
        let Some((name, rest)) = line.split_once('(') else { continue };
        let Some((args, result)) = rest.rsplit_once(") = ") else { continue };
        if result.starts_with('-') {
            continue;
        }
        let args: Vec<&str> = args.split(", ").collect();
        let number = |at: usize| args[at].parse::<usize>().expect("a number");
        let below = |path: PathBuf| path.starts_with(folder).then_some(path);
        let event = match name {
            "openat" if args[2].contains("O_CREAT") => {
                let Some(path) = below(path(args[1])) else { continue };
                assert!(args[2].contains("O_EXCL"), "{line}");
                files.bytes.push(Vec::new());
                Event::Made(path, files.bytes.len() - 1)
            }
            "write" | "pwrite64" | "ftruncate" | "fallocate" | "fsync" | "fdatasync" => {
                let Some(path) = below(opened(args[0])) else { continue };
                if path.is_dir() {
                    Event::SyncedFolder(path)
                } else {
                    let file = *files.names.get(&path).unwrap_or_else(|| panic!("{} has no name", path.display()));
                    match name {
                        // A file that is written from its beginning on.
                        "write" => Event::Write(file, files.bytes[file].len(), bytes(args[1])),
                        "pwrite64" => Event::Write(file, number(3), bytes(args[1])),
                        "ftruncate" => Event::Length(file, number(1)),
                        "fallocate" => Event::Write(file, number(2), vec![0; number(3)]),
                        _ => Event::Synced(file),
                    }
                }
            }
            "rename" => {
                let Some(from) = below(path(args[0])) else { continue };
                Event::Renamed(from, path(args[1]))
            }
            "renameat" | "renameat2" => {
                let Some(from) = below(path(args[1])) else { continue };
                Event::Renamed(from, path(args[3]))
            }
            "unlink" | "unlinkat" => {
                let Some(path) = below(path(args[usize::from(name == "unlinkat")])) else { continue };
                Event::Gone(path)
            }
            _ => continue,
        };
        files.rename(&event);
        match &event {
            Event::Write(file, offset, bytes) => files.put(*file, *offset, bytes),
            Event::Length(file, len) => files.bytes[*file].resize(*len, 0),
            _ => {}
        }
        events.push(event);
    }
    events
}

/// The files after a cut behind the first `cut` events. `fate` says how much is there of later writes
/// than the last flush: 0 nothing, 1 all of them, else some.
fn after_cut(before: &Files, events: &[Event], cut: usize, fate: u64, random: &mut Random) -> Files {
    let mut files = before.clone();
    let all = events.iter().filter(|event| matches!(event, Event::Made(..))).count();
    files.bytes.resize(before.bytes.len() + all, Vec::new());
    let done = &events[..cut];
    let mut names_end = false;
    for (at, event) in done.iter().enumerate() {
        let later = &done[at + 1..];
        let luck = |random: &mut Random| fate == 1 || fate > 1 && random.chance(2);
        let durable = |file: &usize| later.iter().any(|event| matches!(event, Event::Synced(synced) if synced == file));
        let named = |path: &Path| {
            let folder = path.parent().expect("it lies in a folder");
            later.iter().any(|event| matches!(event, Event::SyncedFolder(synced) if synced == folder))
        };
        match event {
            Event::Write(file, offset, bytes) => {
                let durable = durable(file);
                for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                    if durable || luck(random) {
                        files.put(*file, offset + number * SECTOR, sector);
                    }
                }
            }
            Event::Length(file, len) if durable(file) || luck(random) => files.bytes[*file].resize(*len, 0),
            Event::Made(path, _) | Event::Gone(path) | Event::Renamed(_, path) => {
                names_end |= !named(path) && !luck(random);
                if named(path) || !names_end {
                    files.rename(event);
                }
            }
            _ => {}
        }
    }
    files
}

/// A disk that grew and shrank, by parts of clusters too, with moments of six days.
fn six_days() -> Disk {
    let disk = Disk::create("", "2M");
    let image = disk.image.to_str().expect("a plain path");
    for (day, size) in ["2M", "3147264", "3M", "1049088", "2M", "2M"].into_iter().enumerate() {
        crate::support::run("qemu-img", &["resize", "-q", "--shrink", image, size]);
        let offset = day * 150 * 1024;
        disk.io(&[
            format!("write -P {} {offset} 300k", day + 1),
            format!("write -P {} 960k 64k", day + 11),
            format!("write -P {} 1M 512", day + 21),
            format!("write -z {} 70k", offset + 64 * 1024),
        ]);
        disk.backup(&format!("d{day}"), &[]);
    }
    disk
}

fn cut_everywhere(options: &[&str]) {
    if !tools_are_here() || !strace_works() {
        return;
    }
    let disk = six_days();
    let mut random = Random::seeded(21);
    let args = ["prune".as_ref(), disk.directory.as_os_str()].into_iter().chain(options.iter().map(OsStr::new));
    let prune: Vec<&OsStr> = args.collect();
    let folder = disk.directory.canonicalize().expect("a folder");
    let before = Files::read(&folder);
    let mut files = before.clone();
    let events = traced(&folder, &disk.folder.path().join("log"), &prune, &mut files);
    let after = Files::read(&folder);
    let same = |path: &PathBuf| after.bytes[after.names[path]] == files.bytes[files.names[path]];
    assert!(after.names.keys().eq(files.names.keys()) && after.names.keys().all(same), "the trace is not whole");
    assert!(events.len() > 30, "{events:?}");
    for cut in 0..=events.len() {
        let fate = random.below(4);
        let when = format!("{options:?}, cut behind {cut} of {}, fate {fate}", events.len());
        fs::remove_dir_all(&folder).expect("a folder");
        fs::create_dir_all(folder.join("disk.qcow2")).expect("a folder");
        after_cut(&before, &events, cut, fate, &mut random).write();
        disk.check(&when);
        works(&prune);
        disk.check(&format!("{when}, finished"));
        let left = Files::read(&folder).names.len();
        assert_eq!(left, 2 * disk.moments().len() + 1, "{when}: {:?}", Files::read(&folder).names);
    }
}

#[test]
fn a_fold_of_all_into_the_oldest_can_be_cut() {
    cut_everywhere(&["--keep-last=1"]);
}

/// The disk of the kept moment is shorter than that of the oldest one.
#[test]
fn a_fold_into_a_shorter_disk_can_be_cut() {
    cut_everywhere(&["--keep-last=3"]);
}

#[test]
fn a_new_full_file_can_be_cut() {
    cut_everywhere(&["--keep-last=4", "--rewrite"]);
}
