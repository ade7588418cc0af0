#![forbid(unsafe_code)]
//! Owns the reading of one document: which of its elements count, and everything it may not have. Must never know other documents.

use super::MOST_DOCUMENT_BYTES;
use crate::chain::Name;
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use roxmltree::{Document, Node, ParsingOptions};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A document of more elements, attributes and texts than these is none of a checkpoint.
const MOST_NODES: u32 = 1 << 20;

/// More attributes in one tag, or more namespaces in all, are not of libvirt's; the parser compares each with all others.
const MOST_ATTRIBUTES: usize = 256;

/// How long a name in a document may be: that of a bitmap, or of a file.
const MOST_NAME_BYTES: usize = 4096;

/// A disk that a checkpoint speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskEntry {
    /// Its name in the domain, such as `vda`.
    pub target: String,
    /// The bitmap that begins at the checkpoint; `None` where the disk takes no part.
    pub bitmap: Option<Name>,
}

impl DiskEntry {
    /// A disk with a bitmap, or one that takes no part.
    pub fn new(target: impl Into<String>, bitmap: Option<Name>) -> Self {
        Self { target: target.into(), bitmap }
    }
}

/// A checkpoint, as its document tells of it.
#[derive(Clone, Debug)]
pub struct DomainCheckpoint {
    name: Name,
    parent: Option<Name>,
    time_seconds: Option<u64>,
    disks: Vec<DiskEntry>,
    /// The disks of the domain at that time, each with the file of its image.
    sources: Vec<(String, String)>,
    text: String,
    pub(super) parts: Parts,
    file: Option<PathBuf>,
}

/// Where in the text the elements stand that a mend changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) parent: Option<Range<usize>>,
    pub(super) disks: Option<Range<usize>>,
    pub(super) domain: Option<Range<usize>>,
    /// Behind the name.
    pub(super) behind_name: usize,
}

impl DomainCheckpoint {
    /// Reads a document.
    ///
    /// Fails with [`ErrorKind::Damaged`]: it is longer than [`MOST_DOCUMENT_BYTES`], no XML, has a document type (and with it entities of
    /// its own) or hundreds of attributes in one tag, or is none of a checkpoint.
    pub fn read(bytes: Vec<u8>) -> Result<Self> {
        if bytes.len() as u64 > MOST_DOCUMENT_BYTES {
            return Err(damaged(format!("is longer than {MOST_DOCUMENT_BYTES} bytes")));
        }
        let text = String::from_utf8(bytes).map_err(|error| damaged(format!("is no UTF-8: {error}")))?;
        check_tags(&text)?;
        let options = ParsingOptions { allow_dtd: false, nodes_limit: MOST_NODES, ..ParsingOptions::default() };
        let document = Document::parse_with_options(&text, options).map_err(|error| match error {
            roxmltree::Error::DtdDetected => damaged("has a document type: entities of its own are not read"),
            error => damaged(format!("is no XML: {error}")),
        })?;
        let root = document.root_element();
        if root.tag_name().name() != "domaincheckpoint" {
            return Err(damaged(format!("is of <{}>, not of <domaincheckpoint>", short(root.tag_name().name()))));
        }
        let named = child(root, "name")?.ok_or_else(|| damaged("has no <name>"))?;
        let name = name_in(named)?;
        let parent = child(root, "parent")?;
        let above = parent.map(|parent| child(parent, "name")).transpose()?.flatten().map(name_in).transpose()?;
        let time = child(root, "creationTime")?.map(|time| {
            let words = time.text().unwrap_or_default().trim();
            words
                .parse()
                .map_err(|_| damaged(format!("its <creationTime> is no number of seconds: {:?}", short(words))))
        });
        let listed = child(root, "disks")?;
        let disks = listed.map(|listed| disks_in(listed, &name)).transpose()?.unwrap_or_default();
        let domain = child(root, "domain")?;
        let devices = domain.map(|domain| child(domain, "devices")).transpose()?.flatten();
        let sources = devices.map(sources_in).transpose()?.unwrap_or_default();
        let parts = Parts {
            parent: parent.map(|parent| parent.range()),
            disks: listed.map(|listed| listed.range()),
            domain: domain.map(|domain| domain.range()),
            behind_name: named.range().end,
        };
        let time_seconds = time.transpose()?;
        drop(document);
        Ok(Self { name, parent: above, time_seconds, disks, sources, text, parts, file: None })
    }

    /// The same, kept in this file.
    #[must_use]
    pub(super) fn kept_in(self, file: &Path) -> Self {
        Self { file: Some(file.to_owned()), ..self }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The name of the checkpoint before it.
    pub fn parent(&self) -> Option<&Name> {
        self.parent.as_ref()
    }

    /// When it was made, in seconds since 1970 (UTC).
    pub fn time_seconds(&self) -> Option<u64> {
        self.time_seconds
    }

    /// The disks that it speaks of.
    pub fn disks(&self) -> &[DiskEntry] {
        &self.disks
    }

    /// The bitmap that it has on the disk of this name, if any.
    pub fn bitmap_on(&self, target: &str) -> Option<&Name> {
        self.disks.iter().find(|disk| disk.target == target).and_then(|disk| disk.bitmap.as_ref())
    }

    /// The disks of the domain when the checkpoint was made, by target, each with the file or device of its image. Empty where
    /// libvirt was told of the checkpoint without its domain.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sources.iter().map(|(target, source)| (target.as_str(), source.as_str()))
    }

    /// The document.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file that has the document, where it came from one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

fn damaged(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Damaged, message.into())
        .advise("it must be a document as `virsh checkpoint-dumpxml` prints it")
}

/// Refuses a document that would keep the parser busy for long. A comment that looks like such a tag is refused, too.
fn check_tags(text: &str) -> Result<()> {
    if text.matches("xmlns").nth(MOST_ATTRIBUTES).is_some() {
        return Err(damaged(format!("has more than {MOST_ATTRIBUTES} namespaces")));
    }
    // No tag has a '<' inside, and each of its attributes has a '='.
    let has_many = |tag: &str| !tag.starts_with(['!', '?']) && tag.matches('=').nth(MOST_ATTRIBUTES).is_some();
    let end_of_tag = |tag: &str| {
        let mut quote = None;
        tag.char_indices().find(|(_, char)| {
            match (quote, char) {
                (None, '>') => return true,
                (None, '\'' | '"') => quote = Some(*char),
                (Some(open), close) if open == *close => quote = None,
                _ => {}
            }
            false
        })
    };
    let tags = text.split('<').skip(1);
    match tags.map(|tag| end_of_tag(tag).map_or(tag, |(end, _)| tag.get(..end).unwrap_or(tag))).any(has_many) {
        true => Err(damaged(format!("has a tag with more than {MOST_ATTRIBUTES} attributes"))),
        false => Ok(()),
    }
}

/// The words of a document for a message.
fn short(words: &str) -> String {
    words.chars().take(40).collect()
}

/// The only child of this name, in no namespace.
fn child<'a, 'i>(node: Node<'a, 'i>, name: &str) -> Result<Option<Node<'a, 'i>>> {
    let mut found = node.children().filter(|child| child.has_tag_name(name));
    match (found.next(), found.next()) {
        (found, None) => Ok(found),
        (_, Some(_)) => Err(damaged(format!("<{}> has more than one <{name}>", short(node.tag_name().name())))),
    }
}

fn checked(word: &str, of: &str) -> Result<()> {
    match word.len() {
        0 => Err(damaged(format!("a name of {of} is empty"))),
        1..=MOST_NAME_BYTES => Ok(()),
        length => Err(damaged(format!("a name of {of} has {length} bytes"))),
    }
}

fn name_in(node: Node<'_, '_>) -> Result<Name> {
    if node.children().any(|child| child.is_element()) {
        return Err(damaged("a <name> has elements inside"));
    }
    // A comment inside divides it into several texts.
    let name: String = node.children().filter(Node::is_text).filter_map(|part| part.text()).collect();
    checked(&name, "a checkpoint")?;
    Ok(Name::new(name))
}

fn disks_in(listed: Node<'_, '_>, checkpoint: &Name) -> Result<Vec<DiskEntry>> {
    let mut disks: Vec<DiskEntry> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for disk in listed.children().filter(|child| child.has_tag_name("disk")) {
        let target = disk.attribute("name").unwrap_or_default();
        checked(target, "a disk")?;
        if !seen.insert(target) {
            return Err(damaged(format!("speaks twice of the disk {:?}", short(target))));
        }
        let bitmap = match disk.attribute("checkpoint") {
            Some("no") => None,
            Some("bitmap") | None => {
                let named = disk.attribute("bitmap");
                named.map_or(Ok(()), |name| checked(name, "a bitmap"))?;
                Some(named.map_or_else(|| checkpoint.clone(), Name::new))
            }
            Some(other) => return Err(damaged(format!("a disk has checkpoint={:?}", short(other)))),
        };
        memory::push(&mut disks, DiskEntry { target: target.to_owned(), bitmap })?;
    }
    Ok(disks)
}

fn sources_in(devices: Node<'_, '_>) -> Result<Vec<(String, String)>> {
    let mut sources = Vec::new();
    for disk in devices.children().filter(|child| child.has_tag_name("disk")) {
        let Some(target) = child(disk, "target")?.and_then(|target| target.attribute("dev")) else { continue };
        let source = child(disk, "source")?.and_then(|source| source.attribute("file").or(source.attribute("dev")));
        if let Some(source) = source {
            memory::push(&mut sources, (target.to_owned(), source.to_owned()))?;
        }
    }
    Ok(sources)
}
