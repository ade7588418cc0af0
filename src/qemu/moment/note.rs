#![forbid(unsafe_code)]
//! Owns the note of a moment inside of a hypervisor: which things belong to it, so that another client can use or remove them.
//! Must never know how they are made.
//!
//! The note is an object of type `authz-simple` with one fixed id, so that a hypervisor has one moment at a time. Its text is JSON.
//! It is there before the first thing of the moment, and goes after the last.

use super::super::answer::{self, Field};
use super::super::owner;
use crate::error::Result;
use serde_json::{Value, json};
use std::path::PathBuf;

/// The id of the note.
pub(super) const NOTE: &str = "checkmap-moment";

/// The form of a moment in the hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A backup job that copies nothing by itself, begun in the transaction of the checkpoint.
    Job,
    /// A filter above the node of each disk, put there after the transaction.
    Filter,
}

/// A disk of a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NotedDisk {
    /// The top node, which has the bitmaps.
    pub(super) node: String,
    /// The node that the guest's device had: the top one, or a filter above it.
    pub(super) above: String,
    /// The guest's device, where there is one.
    pub(super) qdev: Option<String>,
    pub(super) size_bytes: u64,
}

/// The note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// The folder of the owner, with its lock file.
    pub(super) folder: PathBuf,
    /// The name under which its owner looks for it again.
    pub(super) id: Option<String>,
    /// The seconds since 1970 at which it began.
    pub(super) began_s: u64,
    pub(super) form: Form,
    /// The folder of the scratch images.
    pub(super) scratch: PathBuf,
    /// Where the NBD server listens.
    pub(super) server: PathBuf,
    pub(super) is_own_server: bool,
    pub(super) disks: Vec<NotedDisk>,
}

impl Note {
    /// The name of a thing of the disk at this place.
    pub(super) fn name(&self, thing: Thing, at: usize) -> String {
        let id = self.folder.file_name().unwrap_or_default().to_string_lossy();
        let letter = match thing {
            Thing::Scratch => 's',
            Thing::Room => 'r',
            Thing::File => 'p',
            Thing::Filter => 'f',
            Thing::Job => 'j',
            Thing::Access => 'a',
        };
        format!("{id}-{letter}{at}")
    }

    pub(super) fn text(&self) -> String {
        let disks: Vec<Value> = self.disks.iter().map(write_disk).collect();
        json!({
            "folder": self.folder.to_string_lossy(), "id": self.id, "began": self.began_s, "filter": self.form == Form::Filter,
            "scratch": self.scratch.to_string_lossy(), "server": self.server.to_string_lossy(),
            "own-server": self.is_own_server, "disks": disks,
        })
        .to_string()
    }

    /// The note with this text, which comes from the hypervisor.
    pub(super) fn read(text: &str) -> Result<Self> {
        let wrong = |why: &str| answer::wrong("identity", format_args!("of {NOTE} {why}"));
        let value: Value = serde_json::from_str(text).map_err(|_| wrong("is no JSON"))?;
        let folder =
            owner::left_by(&String::take(&value, "folder")?).ok_or_else(|| wrong("names no folder of checkmap"))?;
        let disks = answer::items(answer::field(&value, "disks")?, "disks")?;
        Ok(Self {
            folder,
            id: value.get("id").and_then(Value::as_str).map(str::to_owned),
            began_s: u64::take(&value, "began")?,
            form: if bool::take(&value, "filter")? { Form::Filter } else { Form::Job },
            scratch: String::take(&value, "scratch")?.into(),
            server: String::take(&value, "server")?.into(),
            is_own_server: bool::take(&value, "own-server")?,
            disks: disks.iter().map(read_disk).collect::<Result<_>>()?,
        })
    }
}

/// A thing of a moment that is there once for each disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thing {
    /// The node of the scratch image.
    Scratch,
    /// The node below it, which ends where the room ends that the scratch may take.
    Room,
    /// The node of its file.
    File,
    /// The filter that copies blocks before they are overwritten.
    Filter,
    Job,
    /// The node that reads as the disk did at the moment, and its export.
    Access,
}

fn write_disk(disk: &NotedDisk) -> Value {
    json!({ "node": disk.node, "above": disk.above, "qdev": disk.qdev, "size": disk.size_bytes })
}

fn read_disk(value: &Value) -> Result<NotedDisk> {
    Ok(NotedDisk {
        node: String::take(value, "node")?,
        above: String::take(value, "above")?,
        qdev: value.get("qdev").and_then(Value::as_str).map(str::to_owned),
        size_bytes: u64::take(value, "size")?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Form, Note, NotedDisk, Thing};

    #[test]
    fn a_note_reads_back_as_it_was_written() {
        let disk = NotedDisk {
            node: "d0".into(),
            above: "throttled".into(),
            qdev: Some("/machine/peripheral/vda/virtio-backend".into()),
            size_bytes: 1 << 40,
        };
        let note = Note {
            folder: "/run/vm/checkmap-abcdefghijkl".into(),
            id: Some("a backup \"directory\"".into()),
            began_s: 1_795_572_000,
            form: Form::Filter,
            scratch: "/var/tmp/checkmap-scratch-mnopqrstuvwx".into(),
            server: "/run/vm/checkmap-abcdefghijkl/nbd.sock".into(),
            is_own_server: true,
            disks: vec![disk.clone(), NotedDisk { qdev: None, ..disk }],
        };
        assert_eq!(Note::read(&note.text()).expect("it reads"), note);
        // QEMU takes names of at most 31 bytes.
        assert!(note.name(Thing::Scratch, 9_999_999).len() <= 31);
    }

    #[test]
    fn a_note_that_names_no_folder_of_ours_is_refused() {
        for text in ["", "{}", "{\"folder\": \"/etc\"}", "[]"] {
            assert!(Note::read(text).is_err(), "{text}");
        }
    }
}
