#![forbid(unsafe_code)]
//! Owns QEMU's rules for the names of backing files: which file a name means, and which files cannot hold bitmaps whatever it
//! is. Must never touch a file.

use crate::error::{Error, ErrorKind, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// The file that QEMU opens for the name of a backing file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Below {
    /// A format that holds no bitmaps, above nothing that could; and its file, where it is one of this machine.
    Bare(Option<NamedFile>),
    /// A file that is a qcow2 image, or can be one.
    File(FileBelow),
}

/// A file that is a qcow2 image, or can be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileBelow {
    pub(crate) place: NamedFile,
    /// The format, where it is known; else the first bytes tell.
    pub(crate) format: Option<&'static str>,
    /// The part of the file that is the image: its first byte, and its length where it ends before the file does.
    pub(crate) window: (u64, Option<u64>),
    /// The next layer below the image.
    pub(crate) next: Next,
}

/// A file as a name means it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedFile {
    pub(crate) path: PathBuf,
    /// Where a relative path begins.
    pub(crate) origin: Origin,
}

/// Where a relative path begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// In the folder of the image above.
    ImageAbove,
    /// In the folder in which QEMU was started.
    WorkingDirectory,
}

/// The next layer below an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The one that the image records.
    AsRecorded,
    /// Nothing, also where the image records one.
    Nothing,
    /// Something else than the image says.
    Instead(Box<Below>),
}

/// Formats that hold no bitmaps and stand on no other image that could.
const BARE: &[&str] = &[
    "raw",
    "file",
    "host_device",
    "host_cdrom",
    "vmdk",
    "vdi",
    "vhdx",
    "vpc",
    "dmg",
    "bochs",
    "cloop",
    "luks",
    "vvfat",
];

/// Filters that pass the bytes of their child on.
const FILTERS: &[&str] = &["copy-on-read", "throttle", "preallocate", "compress"];

/// Drivers that are files of this machine.
const FILES: &[&str] = &["file", "host_device", "host_cdrom"];

/// Drivers that are files elsewhere, or none: under a raw image they hold plain data, never bitmaps.
const REMOTE: &[&str] = &[
    "nbd", "ssh", "rbd", "iscsi", "nfs", "gluster", "http", "https", "ftp", "ftps", "nvme", "null-co", "null-aio",
    "vvfat",
];

impl Below {
    /// The file that QEMU opens for `name`, as an image records it together with `format`, which wins over the name.
    pub(crate) fn of(name: &[u8], format: Option<&[u8]>) -> Result<Below> {
        let format = format.map(String::from_utf8_lossy);
        let format = format.as_deref();
        if let Some(json) = name.strip_prefix(b"json:") {
            return Options::read(json)?.node("", format);
        }
        let place = place(name);
        if format.is_some_and(|format| BARE.contains(&format)) {
            return Ok(Below::Bare(place.ok()));
        }
        Ok(Below::File(FileBelow {
            place: place?,
            format: with_bitmaps(format)?,
            window: (0, None),
            next: Next::AsRecorded,
        }))
    }

    /// The file, where it is one of this machine.
    pub(crate) fn place(&self) -> Option<&NamedFile> {
        match self {
            Below::Bare(place) => place.as_ref(),
            Below::File(file) => Some(&file.place),
        }
    }
}

/// The file that a name means which is no JSON.
fn place(name: &[u8]) -> Result<NamedFile> {
    let (path, origin) = match protocol(name) {
        None => (name, Origin::ImageAbove),
        Some((protocol, rest)) if FILES.iter().any(|file| file.as_bytes() == protocol) => {
            (rest, Origin::WorkingDirectory)
        }
        Some((protocol, _)) => {
            return Err(unsupported(format!("{} is no file of this machine", String::from_utf8_lossy(protocol))));
        }
    };
    Ok(NamedFile { path: PathBuf::from(OsStr::from_bytes(path)), origin })
}

/// The protocol before the first colon, unless a slash comes earlier, and the text behind it.
fn protocol(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = name.iter().position(|byte| matches!(byte, b':' | b'/')).filter(|at| name.get(*at) == Some(&b':'))?;
    name.split_at_checked(at).and_then(|(protocol, rest)| Some((protocol, rest.get(1..)?)))
}

/// The format, if it is one that can hold bitmaps and is known; refuses those whose bitmaps or layers cannot be read.
fn with_bitmaps(format: Option<&str>) -> Result<Option<&'static str>> {
    match format {
        None => Ok(None),
        Some("qcow2") => Ok(Some("qcow2")),
        Some(format) => Err(unsupported(format!("what a {format} image holds, or stands on, cannot be told"))),
    }
}

fn unsupported(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

/// The options of a `json:` name, each under the names of all objects around it: `file.driver`.
struct Options(BTreeMap<String, Value>);

impl Options {
    fn read(json: &[u8]) -> Result<Options> {
        let object: Map<String, Value> =
            serde_json::from_slice(json).map_err(|error| unsupported("its JSON cannot be read").with_source(error))?;
        let mut options = BTreeMap::new();
        flatten("", object, &mut options)?;
        Ok(Options(options))
    }

    /// The node whose options begin with `prefix`; `format` wins over its driver.
    fn node(&self, prefix: &str, format: Option<&str>) -> Result<Below> {
        let driver = format.or(self.text(prefix, "driver")?);
        match driver {
            Some(driver) if driver == "raw" || FILTERS.contains(&driver) => self.under_filter(prefix, driver),
            Some(driver) if FILES.contains(&driver) => Ok(Below::Bare(self.path(prefix).ok().map(|(place, _)| place))),
            Some(driver) if BARE.contains(&driver) => Ok(self.bare(prefix)),
            driver => {
                let format = with_bitmaps(driver)?;
                let (place, window) = self.file(&format!("{prefix}file"))?;
                let next = self.next(&format!("{prefix}backing"))?;
                Ok(Below::File(FileBelow { place, format, window, next }))
            }
        }
    }

    fn bare(&self, prefix: &str) -> Below {
        Below::Bare(self.file(&format!("{prefix}file")).ok().map(|(place, _)| place))
    }

    /// The layer under a raw image or a filter: often a file, which then holds nothing but the disk.
    fn under_filter(&self, outer: &str, driver: &str) -> Result<Below> {
        let child = format!("{outer}file");
        self.refuse_reference(&child)?;
        let prefix = format!("{child}.");
        match self.text(&prefix, "driver")? {
            None => Ok(self.bare(outer)),
            Some(below) if FILES.contains(&below) || driver == "raw" && REMOTE.contains(&below) => Ok(self.bare(outer)),
            Some(_) => self.node(&prefix, None),
        }
    }

    /// The file that the option `name` describes, and which part of it.
    fn file(&self, name: &str) -> Result<(NamedFile, (u64, Option<u64>))> {
        self.refuse_reference(name)?;
        let prefix = format!("{name}.");
        match self.text(&prefix, "driver")? {
            Some("raw") => {
                let (place, (start, len_bytes)) = self.file(&format!("{prefix}file"))?;
                let offset = self.number(&prefix, "offset")?.unwrap_or(0);
                let start = start.checked_add(offset).ok_or_else(|| unsupported("its offset is above 64 bits"))?;
                let left = len_bytes.map(|len_bytes| len_bytes.saturating_sub(offset));
                let size = self.number(&prefix, "size")?;
                Ok((place, (start, size.into_iter().chain(left).min())))
            }
            Some(filter) if FILTERS.contains(&filter) => self.file(&format!("{prefix}file")),
            None => self.path(&prefix),
            Some(file) if FILES.contains(&file) => self.path(&prefix),
            Some(other) => Err(unsupported(format!("{other} is no file of this machine"))),
        }
    }

    fn path(&self, prefix: &str) -> Result<(NamedFile, (u64, Option<u64>))> {
        match self.text(prefix, "filename")? {
            Some(path) if !path.is_empty() => {
                Ok((NamedFile { path: path.into(), origin: Origin::WorkingDirectory }, (0, None)))
            }
            _ => Err(unsupported("it names no file")),
        }
    }

    fn next(&self, name: &str) -> Result<Next> {
        let prefix = format!("{name}.");
        match self.0.get(name) {
            Some(Value::Null) => Ok(Next::Nothing),
            Some(_) => self.refuse_reference(name).map(|()| Next::AsRecorded),
            None if self.0.keys().any(|key| key.starts_with(&prefix)) => {
                Ok(Next::Instead(Box::new(self.node(&prefix, None)?)))
            }
            None => Ok(Next::AsRecorded),
        }
    }

    /// Refuses a node that is named instead of described: only the QEMU that has it knows it.
    fn refuse_reference(&self, name: &str) -> Result<()> {
        match self.0.get(name) {
            Some(node) => Err(unsupported(format!("only QEMU knows the node {node}"))),
            None => Ok(()),
        }
    }

    fn text(&self, prefix: &str, name: &str) -> Result<Option<&str>> {
        match self.0.get(&format!("{prefix}{name}")) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(unsupported(format!("its {prefix}{name} is {other}"))),
        }
    }

    fn number(&self, prefix: &str, name: &str) -> Result<Option<u64>> {
        let number = match self.0.get(&format!("{prefix}{name}")) {
            None => return Ok(None),
            Some(Value::String(text)) => text.parse().ok(),
            Some(value) => value.as_u64(),
        };
        number.map(Some).ok_or_else(|| unsupported(format!("its {prefix}{name} is no number")))
    }
}

/// Objects within objects and names with dots mean the same to QEMU.
fn flatten(prefix: &str, object: Map<String, Value>, options: &mut BTreeMap<String, Value>) -> Result<()> {
    for (name, value) in object {
        let name = format!("{prefix}{name}");
        match value {
            Value::Object(inner) => flatten(&format!("{name}."), inner, options)?,
            value => {
                if options.insert(name.clone(), value).is_some() {
                    return Err(unsupported(format!("its {name} stands there twice")));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, format: Option<&str>) -> FileBelow {
        match Below::of(name.as_bytes(), format.map(str::as_bytes)).unwrap() {
            Below::File(file) => file,
            Below::Bare(_) => panic!("{name} is bare"),
        }
    }

    #[test]
    fn plain_names_begin_in_the_folder_of_the_image_above() {
        for name in ["base.qcow2", "/abs/base.qcow2", "./a:b", "../file:x", "dir/a:b"] {
            let below = file(name, Some("qcow2"));
            assert_eq!((below.place.path.to_str(), below.place.origin), (Some(name), Origin::ImageAbove));
            assert_eq!((below.format, file(name, None).format), (Some("qcow2"), None));
        }
    }

    #[test]
    fn file_names_are_literal_and_begin_in_the_working_directory() {
        for (name, path) in [
            ("file:base", "base"),
            ("file:../a:b", "../a:b"),
            ("file:/a", "/a"),
            ("file:///a%20b", "///a%20b"),
            ("host_device:/dev/x", "/dev/x"),
        ] {
            let below = file(name, None);
            assert_eq!((below.place.path.to_str(), below.place.origin), (Some(path), Origin::WorkingDirectory));
        }
    }

    #[test]
    fn json_names_the_same_file_in_many_ways() {
        for json in [
            r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"/a"}}"#,
            r#"json: {"driver": "qcow2", "file": {"filename": "/a", "locking": "off"}}"#,
            r#"json:{"driver":"qcow2","file.driver":"file","file.filename":"/a"}"#,
            r#"json:{"driver":"qcow2","file":{"driver":"file"},"file.filename":"/a"}"#,
            r#"json:{"driver":"qcow2","file":{"driver":"host_device","filename":"/a"}}"#,
            r#"json:{"driver":"qcow2","file":{"driver":"raw","file":{"driver":"file","filename":"/a"}}}"#,
            r#"json:{"driver":"qcow2","file":{"driver":"raw","offset":0,"file.filename":"/a"}}"#,
            r#"json:{"driver":"raw","file":{"driver":"qcow2","file":{"driver":"file","filename":"/a"}}}"#,
            r#"json:{"driver":"copy-on-read","file":{"driver":"qcow2","file.filename":"/a"}}"#,
        ] {
            let below = file(json, None);
            let expected = FileBelow {
                place: NamedFile { path: "/a".into(), origin: Origin::WorkingDirectory },
                format: Some("qcow2"),
                window: (0, None),
                next: Next::AsRecorded,
            };
            assert_eq!(below, expected, "{json}");
        }
        assert_eq!(file(r#"json:{"file.filename":"/a"}"#, None).format, None);
        assert_eq!(file(r#"json:{"driver":"raw","file.filename":"/a"}"#, Some("qcow2")).format, Some("qcow2"));
        assert_eq!(file(r#"json:{"file.filename":"a:b"}"#, None).place.path.to_str(), Some("a:b"));
    }

    #[test]
    fn json_can_name_a_part_of_a_file_and_what_lies_below() {
        let part = r#"json:{"driver":"qcow2","file":{"driver":"raw","offset":512,"size":"1024","file":
            {"driver":"raw","offset":"512","size":4096,"file.filename":"/a"}}}"#;
        assert_eq!(file(part, None).window, (1024, Some(1024)));
        let nothing = r#"json:{"driver":"qcow2","file.filename":"/a","backing":null}"#;
        assert_eq!(file(nothing, None).next, Next::Nothing);
        let other = r#"json:{"driver":"qcow2","file.filename":"/a","backing":{"driver":"raw","file.filename":"/b"}}"#;
        let bare = Below::Bare(Some(NamedFile { path: "/b".into(), origin: Origin::WorkingDirectory }));
        assert_eq!(file(other, None).next, Next::Instead(Box::new(bare)));
    }

    #[test]
    fn what_cannot_hold_bitmaps_need_not_be_found() {
        for (name, format, path) in [
            ("gone", Some("raw"), Some("gone")),
            ("nbd:unix:/x", Some("raw"), None),
            ("gone", Some("vmdk"), Some("gone")),
            (r#"json:{"driver":"raw","file":{"driver":"file","filename":"/a"}}"#, None, Some("/a")),
            (r#"json:{"driver":"raw","file":{"driver":"nbd","path":"/a"}}"#, None, None),
            (r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"/a"}}"#, Some("raw"), Some("/a")),
            (r#"json:{"driver":"file","filename":"/a"}"#, None, Some("/a")),
        ] {
            let below = Below::of(name.as_bytes(), format.map(str::as_bytes)).unwrap();
            assert!(matches!(below, Below::Bare(_)), "{name}");
            assert_eq!(below.place().and_then(|place| place.path.to_str()), path, "{name}");
        }
    }

    #[test]
    fn the_rest_is_refused() {
        for (name, format) in [
            ("nbd://host/export", Some("qcow2")),
            ("ssh://host/a", None),
            ("rbd:pool/a", Some("qcow2")),
            ("a:b", Some("qcow2")),
            ("fat:/tmp", None),
            ("FILE:/a", None),
            ("gone", Some("qed")),
            ("gone", Some("parallels")),
            ("json:", None),
            ("json:[]", None),
            ("json:{", None),
            (r#"json:{"driver":"qcow2"}"#, None),
            (r#"json:{"driver":7,"file.filename":"/a"}"#, None),
            (r#"json:{"driver":"qcow2","file":"node"}"#, None),
            (r#"json:{"driver":"raw","file":"node"}"#, None),
            (r#"json:{"driver":"qcow2","file":{"driver":"nbd","path":"/a"}}"#, None),
            (r#"json:{"driver":"quorum","children.0.filename":"/a"}"#, None),
            (r#"json:{"driver":"qcow2","file.filename":"/a","backing":"node"}"#, None),
            (r#"json:{"driver":"qcow2","file":{"filename":"/a"},"file.filename":"/b"}"#, None),
            (r#"json:{"driver":"qcow2","file":{"driver":"raw","offset":"x","file.filename":"/a"}}"#, None),
        ] {
            let refused = Below::of(name.as_bytes(), format.map(str::as_bytes));
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported, "{name}");
        }
        let deep = format!("json:{}1{}", r#"{"file":"#.repeat(5000), "}".repeat(5000));
        assert!(Below::of(deep.as_bytes(), None).is_err());
    }
}
