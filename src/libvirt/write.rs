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
            let _ = write!(text, "  {}\n", parent_element(parent)?);
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
        let target = escaped(&Name::new(disk.target.as_str()))?;
        let _ = match &disk.bitmap {
            Some(bitmap) => {
                writeln!(text, "    <disk name='{target}' checkpoint='bitmap' bitmap='{}'/>", escaped(bitmap)?)
            }
            None => writeln!(text, "    <disk name='{target}' checkpoint='no'/>"),
        };
    }
    text.push_str("  </disks>");
    Ok(text)
}

/// A name as XML carries it. libvirt takes it for the name of a file too.
fn escaped(name: &Name) -> Result<String> {
    let refuse =
        |why: &str| Err(Error::new(ErrorKind::InvalidName, format!("libvirt can have no checkpoint {name}: {why}")));
    let Ok(text) = std::str::from_utf8(name.as_bytes()) else { return refuse("its name is no text") };
    if text.chars().any(|char| char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}')) {
        return refuse("its name has characters that XML does not carry");
    }
    if text.contains('/') || text.starts_with('.') {
        return refuse("its name can be none of a file");
    }
    Ok(text.chars().fold(String::with_capacity(text.len()), |mut escaped, char| {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\'' => escaped.push_str("&apos;"),
            '"' => escaped.push_str("&quot;"),
            char => escaped.push(char),
        }
        escaped
    }))
}
