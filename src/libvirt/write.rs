#![forbid(unsafe_code)]
//! Owns the documents that are handed to libvirt: a new one for a bitmap that has none, or one of its own with other disks. Must
//! never know why.

use super::{DiskEntry, DomainCheckpoint};
use crate::chain::Name;
use crate::error::{Error, ErrorKind, Result};
use std::fmt::Write;

impl DomainCheckpoint {
    /// A checkpoint of these disks that libvirt is to be told of: `virsh checkpoint-create --redefine` takes its [text](Self::text).
    ///
    /// Fails with [`ErrorKind::InvalidName`] where a name is none that XML and libvirt can carry.
    pub fn new(name: &Name, parent: Option<&Name>, time_seconds: u64, disks: &[DiskEntry]) -> Result<Self> {
        let mut text = format!("<domaincheckpoint>\n  <name>{}</name>\n", escaped(name)?);
        if let Some(parent) = parent {
            let _ = writeln!(text, "  {}", parent_element(parent)?);
        }
        let _ = write!(
            text,
            "  <creationTime>{time_seconds}</creationTime>\n  {}\n</domaincheckpoint>\n",
            disks_element(disks)?
        );
        Self::read(text.into_bytes())
    }

    /// The same document with these disks.
    pub fn with_disks(&self, disks: &[DiskEntry]) -> Result<Self> {
        let element = disks_element(disks)?;
        let text = match &self.parts.disks {
            Some(range) => spliced(self.text(), range.start, range.end, &element),
            None => spliced(self.text(), self.parts.behind_name, self.parts.behind_name, &element),
        };
        self.read_again(text)
    }

    /// The same document behind another parent.
    pub fn with_parent(&self, parent: Option<&Name>) -> Result<Self> {
        let element = parent.map(parent_element).transpose()?.unwrap_or_default();
        let behind = self.parts.behind_name;
        let range = self.parts.parent.clone().unwrap_or(behind..behind);
        self.read_again(spliced(self.text(), range.start, range.end, &element))
    }

    /// The same document without the domain as it was then.
    pub(crate) fn without_domain(&self) -> Result<Self> {
        match &self.parts.domain {
            Some(range) => self.read_again(spliced(self.text(), range.start, range.end, "")),
            None => Ok(self.clone()),
        }
    }

    fn read_again(&self, text: String) -> Result<Self> {
        let again = Self::read(text.into_bytes())?;
        Ok(self.file().map_or(again.clone(), |file| again.kept_in(file)))
    }
}

fn spliced(text: &str, from: usize, to: usize, between: &str) -> String {
    let (before, behind) = (text.get(..from).unwrap_or_default(), text.get(to..).unwrap_or_default());
    [before, between, behind].concat()
}

fn parent_element(parent: &Name) -> Result<String> {
    Ok(format!("<parent>\n    <name>{}</name>\n  </parent>", escaped(parent)?))
}

fn disks_element(disks: &[DiskEntry]) -> Result<String> {
    let mut text = "<disks>\n".to_owned();
    for disk in disks {
        let target = escaped_text(&Name::new(disk.target.as_str()), &disk.target)?;
        let _ = match &disk.bitmap {
            Some(bitmap) => {
                writeln!(text, "    <disk name='{target}' checkpoint='bitmap' bitmap='{}'/>", of_bitmap(bitmap)?)
            }
            None => writeln!(text, "    <disk name='{target}' checkpoint='no'/>"),
        };
    }
    text.push_str("  </disks>");
    Ok(text)
}

/// Whether libvirt can have a checkpoint of this name.
pub(crate) fn can_be_named(name: &Name) -> bool {
    escaped(name).is_ok()
}

fn refused(name: &Name, why: &str) -> Error {
    Error::new(ErrorKind::InvalidName, format!("libvirt's notes can have no {name}: {why}"))
}

/// Whether libvirt can make the name of a file of this name of a checkpoint.
pub(super) fn can_be_file(text: &str) -> bool {
    const MOST_FILE_NAME: usize = 255 - ".xml".len();
    !text.is_empty() && !text.contains(['/', '\0']) && !text.starts_with('.') && text.len() <= MOST_FILE_NAME
}

/// The name of a checkpoint as XML carries it. libvirt makes the name of a file of it.
fn escaped(name: &Name) -> Result<String> {
    let Ok(text) = std::str::from_utf8(name.as_bytes()) else { return Err(refused(name, "it is no text")) };
    if !can_be_file(text) {
        return Err(refused(name, "it can be the name of no file"));
    }
    escaped_text(name, text)
}

/// The name of a bitmap, which need be none of a file.
fn of_bitmap(name: &Name) -> Result<String> {
    match std::str::from_utf8(name.as_bytes()) {
        Ok(text) => escaped_text(name, text),
        Err(_) => Err(refused(name, "it is no text")),
    }
}

fn escaped_text(name: &Name, text: &str) -> Result<String> {
    if text.chars().any(|char| char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}')) {
        return Err(refused(name, "it has characters that XML does not carry"));
    }
    let mut escaped = String::new();
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            char => escaped.push(char),
        }
    }
    Ok(escaped)
}
