#![forbid(unsafe_code)]
//! Owns the bitmaps of an image as a list of actions would leave them, before anything is written.
//! Must never take room in the file nor write to it.

use super::directory::{self, Entry, FLAG_AUTO};
use super::header::{DirectoryRef, Header};
use super::table::{self, Payload, Shape};
use crate::bitmap::Bitmap;
use crate::chain::{Action, Name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::storage::Storage;
use std::collections::HashMap;

/// What one cluster of payload shall hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    Zeros,
    Ones,
    /// The union of what stands at these offsets of the file.
    Union(Vec<u64>),
}

impl Cluster {
    /// Whether it has to be read to know what it holds.
    pub(crate) fn is_mixed(&self) -> bool {
        matches!(self, Cluster::Union(offsets) if offsets.len() > 1)
    }

    fn unite(&mut self, other: &Cluster) {
        match (&mut *self, other) {
            (_, Cluster::Zeros) | (Cluster::Ones, _) => {}
            (Cluster::Union(offsets), Cluster::Union(more)) => {
                offsets.extend(more);
                offsets.sort_unstable();
                offsets.dedup();
            }
            (_, other) => *self = other.clone(),
        }
    }
}

impl From<Payload> for Cluster {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Zeros => Cluster::Zeros,
            Payload::Ones => Cluster::Ones,
            Payload::At(offset) => Cluster::Union(vec![offset]),
        }
    }
}

/// The bits of a bitmap in a draft.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// The table in the file stays as it is.
    Kept,
    /// A new table, cluster by cluster.
    Clusters(Vec<Cluster>),
    /// A new table from these bits: the outcome of a merge across granularities.
    Bits(Bitmap),
}

/// A bitmap of the draft; `origin` is its place in the directory as read.
#[derive(Clone, Debug)]
pub(crate) struct Drafted {
    pub(crate) entry: Entry,
    pub(crate) origin: Option<usize>,
    pub(crate) content: Content,
}

pub(crate) struct Draft<'a> {
    storage: &'a dyn Storage,
    header: &'a Header,
    originals: &'a [Entry],
    pub(crate) bitmaps: Vec<Drafted>,
    tables: HashMap<usize, Vec<Payload>>,
    /// How many threads may read and write clusters.
    pub(crate) threads: usize,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(storage: &'a dyn Storage, header: &'a Header, originals: &'a [Entry], threads: usize) -> Self {
        let bitmaps = originals
            .iter()
            .enumerate()
            .map(|(number, entry)| Drafted { entry: entry.clone(), origin: Some(number), content: Content::Kept })
            .collect();
        Self { storage, header, originals, bitmaps, tables: HashMap::new(), threads }
    }

    /// Refuses where the file no longer holds the header and the directory that this draft began with.
    pub(crate) fn check_current(&self, place: Option<DirectoryRef>) -> Result<()> {
        let header = Header::read(self.storage)?;
        let listing =
            place.map(|place| directory::read(self.storage, place, header.size_bytes, header.cluster_bytes()));
        let entries = listing.map(|listing| listing.entries).unwrap_or_default();
        if header.raw == self.header.raw && entries == self.originals {
            return Ok(());
        }
        let message = "somebody else wrote to the image while it was being changed";
        Err(Error::new(ErrorKind::Changed, message)
            .advise("the bitmaps were not changed; verify the image with `qemu-img check`, then open it again"))
    }

    pub(crate) fn apply(&mut self, action: &Action) -> Result<()> {
        match action {
            Action::Add { name, granularity } => {
                self.check_absent(name)?;
                directory::check_new(self.header.size_bytes, *granularity)?;
                let entry = Entry::recording(name.clone(), *granularity);
                let clusters = vec![Cluster::Zeros; self.clusters_of(&entry)];
                self.bitmaps.push(Drafted { entry, origin: None, content: Content::Clusters(clusters) });
            }
            Action::Remove { name } => {
                let place = self.place(name)?;
                self.bitmaps.remove(place);
            }
            Action::Rename { from, to } => {
                self.check_absent(to)?;
                self.bitmap(from)?.entry.name = to.clone();
            }
            Action::SetRecording { name, recording } => {
                let bitmap = self.bitmap(name)?;
                check_trusted(&bitmap.entry)?;
                bitmap.entry.flags = if *recording { FLAG_AUTO } else { 0 };
            }
            Action::Merge { sources, target } => {
                for source in sources {
                    self.merge(source, target)?;
                }
            }
        }
        Ok(())
    }

    fn clusters_of(&self, entry: &Entry) -> usize {
        usize::try_from(Shape::of(self.header, entry.granularity).entries()).unwrap_or(usize::MAX)
    }

    fn check_absent(&self, name: &Name) -> Result<()> {
        match self.bitmaps.iter().any(|bitmap| bitmap.entry.name == *name) {
            true => Err(Error::new(ErrorKind::Exists, format!("there is a bitmap {name} already"))),
            false => Ok(()),
        }
    }

    fn place(&self, name: &Name) -> Result<usize> {
        self.bitmaps
            .iter()
            .position(|bitmap| bitmap.entry.name == *name)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no bitmap {name}")))
    }

    fn bitmap(&mut self, name: &Name) -> Result<&mut Drafted> {
        self.bitmaps
            .iter_mut()
            .find(|bitmap| bitmap.entry.name == *name)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no bitmap {name}")))
    }

    fn merge(&mut self, source: &Name, target: &Name) -> Result<()> {
        if source == target {
            return Ok(());
        }
        let from = self.bitmap(source)?.clone();
        let into = self.bitmap(target)?.clone();
        check_trusted(&from.entry)?;
        check_trusted(&into.entry)?;
        let same_granularity = from.entry.granularity == into.entry.granularity;
        let union = match (&from.content, &into.content) {
            (Content::Bits(_), _) | (_, Content::Bits(_)) => None,
            _ if same_granularity => {
                let mut clusters = self.clusters(&into)?;
                for (cluster, more) in clusters.iter_mut().zip(self.clusters(&from)?) {
                    cluster.unite(&more);
                }
                Some(Content::Clusters(clusters))
            }
            _ => None,
        };
        let content = match union {
            Some(content) => content,
            None => {
                let mut bits = self.bits(&into)?;
                bits.union_with(&self.bits(&from)?)?;
                Content::Bits(bits)
            }
        };
        self.bitmap(target)?.content = content;
        Ok(())
    }

    /// The table of the bitmap at `origin`, read once.
    fn table(&mut self, origin: usize) -> Result<&[Payload]> {
        if !self.tables.contains_key(&origin) {
            let entry =
                self.originals.get(origin).ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such bitmap"))?;
            self.tables.insert(origin, table::read(self.storage, self.header, entry)?);
        }
        Ok(self.tables.get(&origin).map_or(&[], Vec::as_slice))
    }

    fn clusters(&mut self, bitmap: &Drafted) -> Result<Vec<Cluster>> {
        match (&bitmap.content, bitmap.origin) {
            (Content::Clusters(clusters), _) => Ok(clusters.clone()),
            (_, Some(origin)) => Ok(self.table(origin)?.iter().map(|payload| Cluster::from(*payload)).collect()),
            (_, None) => Ok(vec![Cluster::Zeros; self.clusters_of(&bitmap.entry)]),
        }
    }

    fn bits(&mut self, bitmap: &Drafted) -> Result<Bitmap> {
        if let Content::Bits(bits) = &bitmap.content {
            return Ok(bits.clone());
        }
        let shape = Shape::of(self.header, bitmap.entry.granularity);
        let mut bits = Bitmap::new(shape.size_bytes, shape.granularity)?;
        for (number, cluster) in (0..).zip(self.clusters(bitmap)?) {
            let payloads = match cluster {
                Cluster::Zeros => continue,
                Cluster::Ones => vec![Payload::Ones],
                Cluster::Union(offsets) => offsets.into_iter().map(Payload::At).collect(),
            };
            for payload in payloads {
                let (bytes, _) = shape.read(self.storage, &bitmap.entry.name.to_string(), number, payload)?;
                bits.set_bits(number * shape.granules_per_cluster(), &bytes)?;
            }
        }
        Ok(bits)
    }

    /// The clusters of data that bitmaps which stay as they are hold, as far as a merge may want to move them.
    pub(crate) fn kept_data(&self) -> impl Iterator<Item = u64> + '_ {
        self.bitmaps
            .iter()
            .filter(|bitmap| matches!(bitmap.content, Content::Kept))
            .filter_map(|bitmap| self.tables.get(&bitmap.origin?))
            .flat_map(|table| table.iter().filter_map(|payload| payload.offset()))
    }

    /// The table and data clusters of every bitmap that the draft removes or writes anew.
    pub(crate) fn dropped(&mut self) -> Result<Vec<u64>> {
        let mut clusters = Vec::new();
        let originals = self.originals;
        for (origin, entry) in originals.iter().enumerate() {
            let kept = |bitmap: &Drafted| bitmap.origin == Some(origin) && matches!(bitmap.content, Content::Kept);
            if self.bitmaps.iter().any(kept) {
                continue;
            }
            let end = entry.table_offset + u64::from(entry.table_entries) * 8;
            clusters.extend((entry.table_offset..end).step_by(self.header.cluster_bytes_usize()));
            clusters.extend(self.table(origin)?.iter().filter_map(|payload| payload.offset()));
        }
        Ok(clusters)
    }
}

fn check_trusted(entry: &Entry) -> Result<()> {
    if entry.is_inconsistent() {
        return Err(Error::new(ErrorKind::Inconsistent, format!("bitmap {} is inconsistent", entry.name)).advise(
            WayOut::from("its content cannot be trusted; remove it with ")
                .control(Control::ForceInconsistent)
                .words(" and make a full backup"),
        ));
    }
    if entry.is_unusable() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("bitmap {} has extra data of an unknown kind", entry.name),
        ));
    }
    Ok(())
}
