#![forbid(unsafe_code)]
//! Owns the list of disks: how it is read, and which lists are refused. Must never know the verb.

use crate::exit::Failure;
use crate::words::one_line;
use checkmap::Error;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A manifest is no longer than this; a million disks take about a tenth of it.
const MOST_BYTES: u64 = 1 << 30;

/// A text of an entry is no longer than this: it becomes an argument of a process, and a line of the state.
const MOST_TEXT_BYTES: usize = 16 << 10;

/// A disk of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) disk: Box<str>,
    pub(super) source: Source,
    pub(super) host: Option<Box<str>>,
    pub(super) since: Option<Box<str>>,
}

/// Where a disk is; paths are as the process opens them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Image(Box<Path>),
    Qmp { socket: Box<Path>, node: Option<Box<str>> },
    Libvirt { uri: Box<str>, domain: Box<str>, node: Option<Box<str>> },
}

/// The whole list.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) entries: Vec<Entry>,
    /// The document as it was read.
    pub(super) bytes: Vec<u8>,
}

impl Manifest {
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = bytes_of(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let entries = Document { folder }
            .deserialize(&mut json)
            .and_then(|entries| json.end().map(|()| entries))
            .map_err(|error| refused(path, &error.to_string()))?;
        let mut seen = HashSet::new();
        for entry in &entries {
            if !seen.insert(&*entry.disk) {
                return Err(refused(
                    path,
                    &format!("two entries have the disk {:?}: give each a name of its own", entry.disk),
                ));
            }
        }
        Ok(Self { entries, bytes })
    }
}

fn refused(path: &Path, why: &str) -> Failure {
    Failure::Usage(format!("{}: {}", path.display(), one_line(why)))
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| {
        let error = Error::io("the manifest cannot be read", error).in_file(path);
        Failure::Usage(crate::words::spelled(&error))
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_end(&mut bytes)).map_err(failed)?;
    match bytes.len() as u64 > MOST_BYTES {
        true => Err(refused(path, "a manifest has 1 GiB at most: split it")),
        false => Ok(bytes),
    }
}

/// Reads `{"disks": [...]}`.
struct Document<'a> {
    folder: &'a Path,
}

impl<'de> DeserializeSeed<'de> for Document<'_> {
    type Value = Vec<Entry>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Entry>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Document<'_> {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the key \"disks\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Entry>, A::Error> {
        let mut entries = None;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "disks" if entries.is_none() => entries = Some(map.next_value_seed(List { folder: self.folder })?),
                "disks" => return Err(A::Error::custom("the key \"disks\" stands there twice")),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    return Err(A::Error::custom(format!("unknown key {key:?} beside \"disks\"")));
                }
            }
        }
        entries.ok_or_else(|| A::Error::custom("the key \"disks\" is missing"))
    }
}

/// Reads the array of entries.
struct List<'a> {
    folder: &'a Path,
}

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = Vec<Entry>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Entry>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of disks")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Entry>, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = seq.next_element_seed(One { folder: self.folder, number: entries.len() + 1 })? {
            entries.push(entry);
        }
        Ok(entries)
    }
}

/// Reads one entry, the `number`th from 1 on.
struct One<'a> {
    folder: &'a Path,
    number: usize,
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = Entry;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Entry, D::Error> {
        deserializer.deserialize_map(self)
    }
}

/// The keys of an entry, in the order of [`Texts`].
const KEYS: [&str; 9] = ["disk", "image", "qmp", "libvirt", "domain", "node", "host", "since", "volume"];

impl<'de> Visitor<'de> for One<'_> {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object for disk number {}", self.number)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let mut texts: [Option<Box<str>>; KEYS.len()] = Default::default();
        let mut wrong = None;
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value::<Value>()?;
            let place = KEYS.iter().position(|known| *known == key).and_then(|at| texts.get_mut(at));
            let why = match (place, value) {
                (None, _) => format!("unknown key {key:?}; the keys are {}", KEYS.join(", ")),
                (Some(Some(_)), _) => format!("the key {key:?} stands there twice"),
                (Some(_), Value::String(text)) if text.is_empty() => format!("{key:?} is empty"),
                (Some(_), Value::String(text)) if text.len() > MOST_TEXT_BYTES => {
                    format!("{key:?} has {} bytes, and {MOST_TEXT_BYTES} at most can be", text.len())
                }
                (Some(_), Value::String(text)) if text.contains('\0') => format!("{key:?} has a NUL in it"),
                (Some(place), Value::String(text)) => {
                    *place = Some(text.into());
                    continue;
                }
                (Some(_), _) => format!("{key:?} is no string"),
            };
            wrong.get_or_insert(why);
        }
        let name = texts.first().cloned().flatten().map_or_else(String::new, |disk| format!(" ({disk:?})"));
        let entry = wrong.map_or_else(|| self.entry(texts), Err);
        entry.map_err(|why| A::Error::custom(format!("disk number {}{name}: {why}", self.number)))
    }
}

impl One<'_> {
    fn entry(&self, texts: [Option<Box<str>>; KEYS.len()]) -> Result<Entry, String> {
        let [disk, image, qmp, libvirt, domain, node, host, since, _volume] = texts;
        let Some(disk) = disk else { return Err("the key \"disk\" is missing".to_owned()) };
        if libvirt.is_none() && domain.is_some() {
            return Err("\"domain\" goes with \"libvirt\" only".to_owned());
        }
        if image.is_some() && node.is_some() {
            return Err("\"node\" goes with \"qmp\" or \"libvirt\", and not with \"image\"".to_owned());
        }
        let source = match (image, qmp, libvirt) {
            (Some(image), None, None) => Source::Image(self.path(&image)),
            (None, Some(socket), None) => Source::Qmp { socket: self.path(&socket), node },
            (None, None, Some(uri)) => {
                let domain = domain.ok_or("\"libvirt\" goes with \"domain\", which is missing")?;
                Source::Libvirt { uri, domain, node }
            }
            (None, None, None) => return Err("one of \"image\", \"qmp\" and \"libvirt\" is missing".to_owned()),
            _ => return Err("only one of \"image\", \"qmp\" and \"libvirt\" can be given".to_owned()),
        };
        Ok(Entry { disk, source, host, since })
    }

    /// A path of the manifest, which begins at its folder. No option and no URI begins as the answer does.
    fn path(&self, path: &str) -> Box<Path> {
        let joined = self.folder.join(path);
        match joined.is_absolute() || joined.starts_with(".") || joined.starts_with("..") {
            true => joined.into(),
            false => PathBuf::from(".").join(joined).into(),
        }
    }
}

/// Two entries that lead to one disk, by whatever names. An entry of a machine without a node has every disk of it.
pub(super) fn same_disk<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Option<(&'a Entry, &'a Entry)> {
    let (mut disks, mut whole, mut parts) = (HashMap::new(), HashMap::new(), HashMap::new());
    for entry in entries {
        let Some((place, node)) = place(&entry.source) else { continue };
        let other = match (&entry.source, node) {
            (Source::Image(_), _) => disks.insert((place, None), entry),
            (_, None) => parts.get(&place).copied().or(whole.insert(place, entry)),
            (_, Some(node)) => {
                parts.insert(place.clone(), entry);
                whole.get(&place).copied().or(disks.insert((place, Some(node)), entry))
            }
        };
        if let Some(other) = other {
            return Some((other, entry));
        }
    }
    None
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Place<'a> {
    File(u64, u64),
    Device(u64),
    Domain(&'a str, &'a str),
}

/// The file, the device or the machine, and the node of that machine; `None` where nothing is there: its own run says so.
fn place(source: &Source) -> Option<(Place<'_>, Option<&str>)> {
    let of_file = |path: &Path| {
        let file = fs::metadata(path).ok()?;
        Some(match file.file_type().is_block_device() {
            true => Place::Device(file.rdev()),
            false => Place::File(file.dev(), file.ino()),
        })
    };
    Some(match source {
        Source::Image(path) => (of_file(path)?, None),
        Source::Qmp { socket, node } => (of_file(socket)?, node.as_deref()),
        Source::Libvirt { uri, domain, node } => (Place::Domain(uri, domain), node.as_deref()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Entry>, String> {
        let mut json = serde_json::Deserializer::from_str(text);
        Document { folder: Path::new("fleet") }.deserialize(&mut json).map_err(|error| error.to_string())
    }

    #[test]
    fn each_kind_of_source_is_read() {
        let text = r#"{"disks": [
            {"disk": "a", "image": "-x.qcow2", "host": "node7", "since": "mon", "volume": "v"},
            {"disk": "b", "image": "/srv/b"},
            {"disk": "c", "qmp": "/run/c", "node": "vda"},
            {"disk": "d", "libvirt": "qemu:///system", "domain": "d"}]}"#;
        let entries = read(text).unwrap_or_default();
        let path = |path: &str| Path::new(path).into();
        let sources: Vec<Source> = entries.iter().map(|entry| entry.source.clone()).collect();
        assert_eq!(
            sources,
            [
                Source::Image(path("./fleet/-x.qcow2")),
                Source::Image(path("/srv/b")),
                Source::Qmp { socket: path("/run/c"), node: Some("vda".into()) },
                Source::Libvirt { uri: "qemu:///system".into(), domain: "d".into(), node: None },
            ]
        );
        assert_eq!(
            entries.first().map(|entry| (entry.host.as_deref(), entry.since.as_deref())),
            Some((Some("node7"), Some("mon")))
        );
        assert_eq!(read(r#"{"disks": []}"#), Ok(Vec::new()));
    }

    #[test]
    fn each_fault_names_its_key_and_its_entry() {
        for (text, says) in [
            ("[]", "an object with the key \"disks\""),
            ("{}", "the key \"disks\" is missing"),
            (r#"{"disks": {}}"#, "an array of disks"),
            (r#"{"disks": [1]}"#, "an object for disk number 1"),
            (r#"{"disks": [], "disk": []}"#, "unknown key \"disk\" beside \"disks\""),
            (
                r#"{"disks": [{"disk": "a", "image": "a"}, {"imag": "b", "disk": "b"}]}"#,
                "disk number 2 (\"b\"): unknown key \"imag\"",
            ),
            (r#"{"disks": [{"image": "a"}]}"#, "disk number 1: the key \"disk\" is missing"),
            (r#"{"disks": [{"disk": "", "image": "a"}]}"#, "disk number 1: \"disk\" is empty"),
            (
                r#"{"disks": [{"disk": "a"}]}"#,
                "disk number 1 (\"a\"): one of \"image\", \"qmp\" and \"libvirt\" is missing",
            ),
            (r#"{"disks": [{"disk": "a", "image": "a", "qmp": "b"}]}"#, "only one of"),
            (r#"{"disks": [{"disk": "a", "image": 7}]}"#, "\"image\" is no string"),
            (r#"{"disks": [{"disk": "a", "image": null}]}"#, "\"image\" is no string"),
            (r#"{"disks": [{"disk": "a", "image": "b", "image": "c"}]}"#, "\"image\" stands there twice"),
            (r#"{"disks": [{"disk": "a", "image": "b\u0000"}]}"#, "has a NUL"),
            (r#"{"disks": [{"disk": "a", "image": "b", "node": "vda"}]}"#, "\"node\" goes with"),
            (r#"{"disks": [{"disk": "a", "libvirt": "b"}]}"#, "\"domain\", which is missing"),
            (r#"{"disks": [{"disk": "a", "image": "b", "domain": "c"}]}"#, "\"domain\" goes with"),
        ] {
            match read(text) {
                Ok(entries) => assert_eq!((text, entries.len()), ("refused", 0)),
                Err(why) => assert!(why.contains(says), "{why:?} says nothing of {says:?}"),
            }
        }
    }
}
