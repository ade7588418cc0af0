#![forbid(unsafe_code)]
//! Owns `checkmap list` of a backup directory: the moments of each disk, oldest first.

use crate::exit::{Outcome, Status};
use crate::output::print;
use crate::session::Session;
use crate::table::{Column, Rows};
use crate::words::amount;
use checkmap::backup::{Backup, BackupDirectory, DiskRecord, checkpoint_name};
use checkmap::chain::Name;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

const COLUMNS: [Column; 5] = [
    Column::Names("CHECKPOINT"),
    Column::Words("TIME"),
    Column::Words("KIND"),
    Column::Numbers("DISK SIZE"),
    Column::Numbers("DATA"),
];

pub(crate) fn list(path: &Path, json: bool, wide: bool, session: &Session) -> Outcome {
    let directory = BackupDirectory::open(path)?;
    print(session, |out| {
        if json {
            let disks: Vec<Value> = directory.disks().iter().map(disk_value).collect();
            return Ok(writeln!(out, "{:#}", json!({ "disks": disks }))?);
        }
        for (at, disk) in directory.disks().iter().enumerate() {
            let before = if at > 0 { "\n" } else { "" };
            writeln!(out, "{before}{}, of {}:", Name::new(disk.name.as_slice()), Name::new(disk.image.as_slice()))?;
            let mut rows = Rows::new(&COLUMNS);
            for backup in disk.moments() {
                rows.add(row(backup));
            }
            rows.write(wide, out)?;
        }
        if directory.disks().is_empty() {
            writeln!(out, "no backups")?;
        }
        Ok(())
    })?;
    Ok(Status::Done)
}

fn row(backup: &Backup) -> [String; 5] {
    [
        Name::new(backup.checkpoint.as_slice()).to_string(),
        checkpoint_name(UNIX_EPOCH + Duration::from_secs(backup.time)),
        if backup.is_full { "full" } else { "changes" }.to_owned(),
        amount(backup.size_bytes),
        amount(backup.data_bytes),
    ]
}

fn put_name(object: &mut Map<String, Value>, key: &str, name: &[u8]) {
    let name = Name::new(name);
    object.insert(key.to_owned(), name.to_string_lossy().into());
    if !name.is_utf8() {
        object.insert(format!("{key}_hex"), name.hex().into());
    }
}

fn disk_value(disk: &DiskRecord) -> Value {
    let mut object = Map::new();
    put_name(&mut object, "disk", &disk.name);
    put_name(&mut object, "image", &disk.image);
    let backups = disk.moments().map(|backup| {
        let mut object = Map::new();
        put_name(&mut object, "checkpoint", &backup.checkpoint);
        let rest = json!({
            "full": backup.is_full,
            "reason": backup.reason,
            "file": format!("{}/{}", disk.folder(), backup.file_name()),
            "time": backup.time,
            "size_bytes": backup.size_bytes,
            "data_bytes": backup.data_bytes,
            "zero_bytes": backup.zero_bytes,
            "file_bytes": backup.file_bytes,
        });
        if let Value::Object(rest) = rest {
            object.extend(rest);
        }
        Value::Object(object)
    });
    object.insert("backups".to_owned(), backups.collect());
    Value::Object(object)
}
