#![forbid(unsafe_code)]
//! Owns the file that says which disks are done, so that a run goes on where another one stopped. Must never know how a disk is run.
//!
//! Lines of JSON: the first one names the command by a fingerprint, each other one a disk that has ended. A line counts once its
//! newline is there, and is durable before the next one is begun.

use super::report::Outcome;
use crate::exit::Failure;
use checkmap::{Error, ErrorKind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The longest line of such a file; a message is much shorter.
const MOST_LINE_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct State {
    path: PathBuf,
    /// Locked as long as it is open.
    file: File,
    /// How each disk ended that the file names, by its name: whether it is done.
    ended: HashMap<String, bool>,
}

impl State {
    /// Opens the file, or makes it. A file of another command, and one that another run has, is refused.
    pub(super) fn open(path: &Path, manifest: &[u8], identity: &[Vec<u8>]) -> Result<Self, Failure> {
        let failed =
            |error| Failure::from(Error::io("the state cannot be kept", error).in_file(path).nothing_changed());
        let file = File::options().read(true).append(true).create(true).truncate(false).open(path).map_err(failed)?;
        let kind = file.metadata().map_err(failed)?;
        if !kind.is_file() {
            return Err(refused(path, ErrorKind::InvalidArgument, "it is no regular file", "name another file"));
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let why = "another run of a fleet keeps its state there";
                return Err(refused(path, ErrorKind::InUse, why, "wait until it has ended, or name another file"));
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let first = first_line(manifest, identity);
        let mut state = Self { path: path.to_owned(), file, ended: HashMap::new() };
        state.read(&first)?;
        if state.file.metadata().map_err(failed)?.len() == 0 {
            state.file.write_all(first.as_bytes()).and_then(|()| state.file.sync_all()).map_err(failed)?;
            // So that the file itself is there after a power cut.
            let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
        Ok(state)
    }

    /// Reads the lines, and cuts off the last one where a kill left it half-written.
    fn read(&mut self, first: &str) -> Result<(), Failure> {
        let path = self.path.clone();
        let failed =
            |error| Failure::from(Error::io("the state cannot be read", error).in_file(&path).nothing_changed());
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut reader = BufReader::new(&self.file);
        let (mut line, mut whole_bytes, mut number) = (Vec::new(), 0_u64, 0_u64);
        loop {
            line.clear();
            let read = reader.by_ref().take(MOST_LINE_BYTES).read_until(b'\n', &mut line).map_err(failed)? as u64;
            if read == 0 {
                return Ok(());
            }
            number += 1;
            if line.last() != Some(&b'\n') {
                if read == MOST_LINE_BYTES {
                    let why = format!("line {number} is longer than {} KiB", MOST_LINE_BYTES >> 10);
                    return Err(refused(&path, ErrorKind::Damaged, &why, "remove the file to run all disks again"));
                }
                break;
            }
            if number == 1 {
                check_first(&path, &line, first)?;
            } else if let Some((disk, done)) = serde_json::from_slice(&line).ok().as_ref().and_then(disk_of) {
                self.ended.insert(disk, done);
            } else {
                let why = format!("line {number} does not say how a disk ended");
                return Err(refused(&path, ErrorKind::Damaged, &why, "remove the file to run all disks again"));
            }
            whole_bytes += read;
        }
        // Only the beginning of our own first line can stand there alone: anything else is somebody's file.
        if number == 1 && !first.as_bytes().starts_with(&line) {
            return Err(foreign(&path));
        }
        self.file.set_len(whole_bytes).and_then(|()| self.file.sync_all()).map_err(failed)
    }

    /// Whether the disk is done already.
    pub(super) fn is_done(&self, disk: &str) -> bool {
        self.ended.get(disk) == Some(&true)
    }

    /// Notes how a disk ended. It is durable when this returns.
    pub(super) fn note(&mut self, disk: &str, outcome: &Outcome) -> Result<(), Failure> {
        let value = json!({
            "disk": disk,
            "status": outcome.status.name(),
            "exit_status": outcome.exit_status,
            "message": outcome.message,
            "seconds": outcome.seconds,
        });
        let written = self.file.write_all(format!("{value}\n").as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|error| Error::io("the state cannot be kept any more", error).in_file(&self.path).into())
    }
}

fn disk_of(line: &Value) -> Option<(String, bool)> {
    Some((line.get("disk")?.as_str()?.to_owned(), line.get("status")?.as_str()? == "done"))
}

fn check_first(path: &Path, line: &[u8], first: &str) -> Result<(), Failure> {
    if line == first.as_bytes() {
        return Ok(());
    }
    match serde_json::from_slice::<Value>(line).ok().filter(|line| line.get("checkmap-fleet").is_some()) {
        Some(_) => {
            let why = "it is the state of another command: the manifest, the verb or its arguments differ";
            Err(refused(path, ErrorKind::InvalidArgument, why, "run that command again, or name another file"))
        }
        None => Err(foreign(path)),
    }
}

fn foreign(path: &Path) -> Failure {
    refused(path, ErrorKind::InvalidArgument, "it is no state of a fleet", "name another file")
}

fn refused(path: &Path, kind: ErrorKind, why: &str, way_out: &str) -> Failure {
    Error::new(kind, why.to_owned()).in_file(path).advise(way_out.to_owned()).nothing_changed().into()
}

/// The first line of the file: what binds it to one command.
fn first_line(manifest: &[u8], identity: &[Vec<u8>]) -> String {
    let mut hash = Sha256::new();
    for part in std::iter::once(manifest).chain(identity.iter().map(Vec::as_slice)) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}\n", json!({ "checkmap-fleet": 1, "fingerprint": hash }))
}
