#![forbid(unsafe_code)]
//! Owns the manifest of a backup directory: which moments of which disks it keeps, and how that is spelled in JSON. Must never
//! touch a file.

use super::names::{date, encode};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::LAYERED_FORMAT;
use crate::geometry::MAX_DISK_BYTES;
use crate::memory;
use serde_json::{Map, Value, json};

const TITLE: &str = "checkmap-backup";
const VERSION: u64 = 1;

/// One kept moment of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backup {
    /// The checkpoint of that moment.
    pub checkpoint: Vec<u8>,
    /// Whether the file holds all, instead of lying on the one before.
    pub is_full: bool,
    /// Why it is full, in a sentence; none where it is the first one, or was folded.
    pub reason: Option<String>,
    /// The disk's size in bytes at that moment.
    pub size_bytes: u64,
    /// The seconds since 1970 at that moment.
    pub time: u64,
    /// How many bytes of data the file holds, how many that read as zeros, and its length.
    pub data_bytes: u64,
    /// See `data_bytes`.
    pub zero_bytes: u64,
    /// See `data_bytes`.
    pub file_bytes: u64,
    /// Whether the disk got a checkpoint of that moment, so that the next backup can be an increment.
    pub has_checkpoint: bool,
    /// The image that got it. Another image can have a checkpoint of the same name, which tells nothing of this moment.
    pub(crate) image: Vec<u8>,
    /// The checksum of the list of sums.
    pub(crate) sums: u32,
    /// Whether its files may still have the names of their successors, see [`super::directory`].
    pub(crate) is_moving: bool,
    /// Whether the moment is given up, and its file only serves a fold that is not finished, see [`super::fold`].
    pub(crate) is_given_up: bool,
    /// The fold by which the backup becomes a full one, where it is noted.
    pub(crate) fold: Option<Fold>,
}

/// What the manifest is to say of a backup once a fold is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fold {
    pub(crate) sums: u32,
    pub(crate) data_bytes: u64,
    pub(crate) zero_bytes: u64,
}

impl Backup {
    /// The name of its file.
    pub fn file_name(&self) -> String {
        file_name(&self.checkpoint)
    }

    /// Its checkpoint, where it has one.
    pub(crate) fn mark(&self) -> Mark {
        Mark { checkpoint: self.checkpoint.clone(), image: self.image.clone() }
    }

    /// The name of its list of sums.
    pub fn sums_name(&self) -> String {
        sums_name(&self.checkpoint)
    }
}

/// The name of the file of the backup of a checkpoint.
pub(crate) fn file_name(checkpoint: &[u8]) -> String {
    format!("{}.{LAYERED_FORMAT}", encode(checkpoint))
}

/// The name of the list of sums of the backup of a checkpoint.
pub(crate) fn sums_name(checkpoint: &[u8]) -> String {
    format!("{}.sums", encode(checkpoint))
}

/// A checkpoint that this directory made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) checkpoint: Vec<u8>,
    /// The image that got it: the top one of the disk at that moment.
    pub(crate) image: Vec<u8>,
}

/// A disk and its kept moments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskRecord {
    /// The name of the disk in the directory.
    pub name: Vec<u8>,
    /// The image by which the directory knows the disk. It can have got overlays since.
    pub image: Vec<u8>,
    /// The kept moments, oldest first, and those that serve a fold.
    pub(crate) backups: Vec<Backup>,
    /// Checkpoints of backups that are not complete: they may be on the disk, and files of theirs in the folder.
    pub(crate) pending: Vec<Mark>,
    /// Checkpoints of this directory that may still be on the disk although their backup is not kept any more.
    pub(crate) left: Vec<Mark>,
    /// Checkpoints of moments that were given up, whose files may still be there.
    pub(crate) gone: Vec<Vec<u8>>,
}

impl DiskRecord {
    pub(crate) fn new(name: Vec<u8>, image: Vec<u8>) -> Self {
        let (backups, pending, left, gone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { name, image, backups, pending, left, gone }
    }

    /// The kept moments, oldest first.
    pub fn moments(&self) -> impl Iterator<Item = &Backup> {
        self.backups.iter().filter(|backup| !backup.is_given_up)
    }

    /// The folder of its files.
    pub fn folder(&self) -> String {
        encode(&self.name)
    }

    /// The place of the full backup that the one at `place` stands on.
    pub(crate) fn root_of(&self, place: usize) -> usize {
        let is_full = |at: &usize| self.backups.get(*at).is_some_and(|backup| backup.is_full);
        (0..=place).rev().find(is_full).unwrap_or(0)
    }

    /// Takes note that the fold into the backup at `place` is done.
    pub(crate) fn end_fold(&mut self, place: usize, file_bytes: u64) {
        let root = self.root_of(place);
        if let Some(kept) = self.backups.get_mut(place)
            && let Some(fold) = kept.fold.take()
        {
            (kept.is_full, kept.is_moving, kept.file_bytes) = (true, true, file_bytes);
            (kept.sums, kept.data_bytes, kept.zero_bytes) = (fold.sums, fold.data_bytes, fold.zero_bytes);
            let older = self.backups.drain(root..place);
            self.gone.extend(older.map(|backup| backup.checkpoint));
        }
    }

    /// The place of the moment of this checkpoint.
    pub(crate) fn place_of(&self, checkpoint: &[u8]) -> Option<usize> {
        self.backups.iter().position(|backup| backup.checkpoint == checkpoint)
    }
}

/// What a backup directory keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    /// Tells this directory from others.
    pub(crate) id: String,
    pub(crate) disks: Vec<DiskRecord>,
}

impl Manifest {
    pub(crate) fn disk(&self, name: &[u8]) -> Option<&DiskRecord> {
        self.disks.iter().find(|disk| disk.name == name)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let document = json!({
            "format": TITLE,
            "version": VERSION,
            "id": self.id,
            "disks": self.disks.iter().map(disk_value).collect::<Vec<_>>(),
        });
        let mut text = serde_json::to_vec_pretty(&document)
            .map_err(|error| Error::new(ErrorKind::Io, "cannot spell the manifest").with_source(error))?;
        memory::push(&mut text, b'\n')?;
        Ok(text)
    }

    pub(crate) fn decode(text: &[u8]) -> Result<Self> {
        let document: Value =
            serde_json::from_slice(text).map_err(|error| damaged("it is no JSON").with_source(error))?;
        if document.get("format").and_then(Value::as_str) != Some(TITLE) {
            return Err(damaged("it is none of a backup directory"));
        }
        match document.get("version").and_then(Value::as_u64) {
            Some(VERSION) => {}
            Some(version) if version > VERSION => {
                let message = format!("a newer checkmap made this directory: its version is {version}");
                return Err(Error::new(ErrorKind::Unsupported, message).advise("use that version"));
            }
            _ => return Err(damaged("its version is none")),
        }
        let id = document.get("id").and_then(Value::as_str).ok_or_else(|| damaged("it has no id"))?;
        let disks = document.get("disks").and_then(Value::as_array).ok_or_else(|| damaged("it has no disks"))?;
        let mut manifest = Self { id: id.to_owned(), disks: memory::room(disks.len())? };
        for disk in disks {
            let disk = disk_of(disk)?;
            if manifest.disk(&disk.name).is_some() {
                return Err(damaged("two of its disks have one name"));
            }
            manifest.disks.push(disk);
        }
        Ok(manifest)
    }
}

/// Puts a name, in text and where that loses something in hexadecimal digits too.
fn put_name(object: &mut Map<String, Value>, key: &str, name: &[u8]) {
    object.insert(key.to_owned(), String::from_utf8_lossy(name).into());
    if std::str::from_utf8(name).is_err() {
        let digits = name.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        object.insert(format!("{key}_hex"), digits.into());
    }
}

fn name_of(value: &Value, key: &str) -> Result<Vec<u8>> {
    if let Some(digits) = value.get(format!("{key}_hex")).and_then(Value::as_str) {
        let pair = |at: usize| digits.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
        let bytes: Option<Vec<u8>> = (0..digits.len()).step_by(2).map(pair).collect();
        return bytes.ok_or_else(|| damaged(format!("its {key}_hex is no bytes")));
    }
    let text = value.get(key).and_then(Value::as_str).ok_or_else(|| damaged(format!("a {key} is missing")))?;
    Ok(text.as_bytes().to_vec())
}

fn names_value(names: &[Vec<u8>]) -> Value {
    let value = |name: &Vec<u8>| {
        let mut object = Map::new();
        put_name(&mut object, "name", name);
        Value::Object(object)
    };
    names.iter().map(value).collect()
}

fn marks_value(marks: &[Mark]) -> Value {
    let value = |mark: &Mark| {
        let mut object = Map::new();
        put_name(&mut object, "name", &mark.checkpoint);
        put_name(&mut object, "image", &mark.image);
        Value::Object(object)
    };
    marks.iter().map(value).collect()
}

fn marks_of(value: &Value, key: &str, image: &[u8]) -> Result<Vec<Mark>> {
    let marks = value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mark = |mark| Ok(Mark { checkpoint: name_of(mark, "name")?, image: image_of(mark, image)? });
    marks.iter().map(mark).collect()
}

/// The image that got a checkpoint; early manifests tell that of the disk alone.
fn image_of(value: &Value, of_disk: &[u8]) -> Result<Vec<u8>> {
    match value.get("image") {
        None => Ok(of_disk.to_vec()),
        Some(_) => name_of(value, "image"),
    }
}

fn names_of(value: &Value, key: &str) -> Result<Vec<Vec<u8>>> {
    let names = value.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    names.iter().map(|name| name_of(name, "name")).collect()
}

fn disk_value(disk: &DiskRecord) -> Value {
    let mut object = Map::new();
    put_name(&mut object, "name", &disk.name);
    object.insert("folder".to_owned(), disk.folder().into());
    put_name(&mut object, "image", &disk.image);
    object.insert("pending".to_owned(), marks_value(&disk.pending));
    object.insert("left".to_owned(), marks_value(&disk.left));
    object.insert("gone".to_owned(), names_value(&disk.gone));
    let mut before: Option<&Backup> = None;
    let mut backups = Vec::new();
    for backup in &disk.backups {
        backups.push(backup_value(backup, before.filter(|_| !backup.is_full)));
        before = Some(backup);
    }
    object.insert("backups".to_owned(), backups.into());
    Value::Object(object)
}

fn backup_value(backup: &Backup, parent: Option<&Backup>) -> Value {
    let mut object = Map::new();
    put_name(&mut object, "checkpoint", &backup.checkpoint);
    match parent {
        Some(parent) => put_name(&mut object, "parent", &parent.checkpoint),
        None => drop(object.insert("parent".to_owned(), Value::Null)),
    }
    let (year, month, day, rest) = date(backup.time);
    let time = format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60);
    let rest = json!({
        "file": backup.file_name(),
        "sums": backup.sums_name(),
        "sums_crc32c": backup.sums,
        "full": backup.is_full,
        "reason": backup.reason,
        "size_bytes": backup.size_bytes,
        "time": time,
        "time_seconds": backup.time,
        "data_bytes": backup.data_bytes,
        "zero_bytes": backup.zero_bytes,
        "file_bytes": backup.file_bytes,
        "has_checkpoint": backup.has_checkpoint,
    });
    if let Value::Object(rest) = rest {
        object.extend(rest);
    }
    put_name(&mut object, "image", &backup.image);
    if backup.is_moving {
        object.insert("moving".to_owned(), true.into());
    }
    if backup.is_given_up {
        object.insert("given_up".to_owned(), true.into());
    }
    if let Some(Fold { sums, data_bytes, zero_bytes }) = backup.fold {
        let fold = json!({ "sums_crc32c": sums, "data_bytes": data_bytes, "zero_bytes": zero_bytes });
        object.insert("fold".to_owned(), fold);
    }
    Value::Object(object)
}

fn disk_of(value: &Value) -> Result<DiskRecord> {
    let mut disk = DiskRecord::new(name_of(value, "name")?, name_of(value, "image")?);
    if disk.name.is_empty() {
        return Err(damaged("a disk has no name"));
    }
    (disk.pending, disk.left) = (marks_of(value, "pending", &disk.image)?, marks_of(value, "left", &disk.image)?);
    disk.gone = names_of(value, "gone")?;
    let backups = value.get("backups").and_then(Value::as_array);
    for backup in backups.ok_or_else(|| damaged("a disk has no backups"))? {
        let (backup, parent) = backup_of(backup, &disk.image)?;
        if disk.place_of(&backup.checkpoint).is_some() {
            return Err(damaged("two backups of a disk have one name"));
        }
        if !backup.is_full && disk.backups.last().map(|before| &before.checkpoint) != parent.as_ref() {
            return Err(damaged("a backup does not follow the one before it"));
        }
        memory::push(&mut disk.backups, backup)?;
    }
    Ok(disk)
}

fn number_of(value: &Value, key: &str) -> Result<u64> {
    value.get(key).and_then(Value::as_u64).ok_or_else(|| damaged(format!("a backup has no number '{key}'")))
}

fn sums_of(value: &Value) -> Result<u32> {
    u32::try_from(number_of(value, "sums_crc32c")?).map_err(|_| damaged("a checksum is none"))
}

fn backup_of(value: &Value, image: &[u8]) -> Result<(Backup, Option<Vec<u8>>)> {
    let number = |key: &str| number_of(value, key);
    let fold = |value: &Value| -> Result<Fold> {
        let (data_bytes, zero_bytes) = (number_of(value, "data_bytes")?, number_of(value, "zero_bytes")?);
        Ok(Fold { sums: sums_of(value)?, data_bytes, zero_bytes })
    };
    let flag = |key: &str| {
        value.get(key).and_then(Value::as_bool).ok_or_else(|| damaged(format!("a backup does not tell '{key}'")))
    };
    let parent = match value.get("parent") {
        None | Some(Value::Null) => None,
        Some(_) => Some(name_of(value, "parent")?),
    };
    let backup = Backup {
        checkpoint: name_of(value, "checkpoint")?,
        is_full: flag("full")?,
        reason: value.get("reason").and_then(Value::as_str).map(str::to_owned),
        size_bytes: number("size_bytes")?,
        time: number("time_seconds")?,
        data_bytes: number("data_bytes")?,
        zero_bytes: number("zero_bytes")?,
        file_bytes: number("file_bytes")?,
        has_checkpoint: flag("has_checkpoint")?,
        image: image_of(value, image)?,
        is_moving: value.get("moving").and_then(Value::as_bool).unwrap_or(false),
        sums: sums_of(value)?,
        is_given_up: value.get("given_up").and_then(Value::as_bool).unwrap_or(false),
        fold: value.get("fold").map(fold).transpose()?,
    };
    if backup.checkpoint.is_empty() || backup.size_bytes > MAX_DISK_BYTES {
        return Err(damaged("a backup has no name, or a size that no disk has"));
    }
    Ok((backup, parent))
}

fn damaged(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Damaged, message).at("manifest", None)
}
