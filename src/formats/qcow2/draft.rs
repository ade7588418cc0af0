#![forbid(unsafe_code)]
//! Owns the bitmaps of an image as a list of actions would leave them, before anything is written.
//! Must never take room in the file nor write to it.

use super::allocated;
use super::directory::{self, Entry, FLAG_AUTO, FLAG_IN_USE};
use super::file::Qcow2File;
use super::header::Header;
use super::occupied::Occupied;
use super::ranges::Ranges;
use super::table::{self, Payload, Shape};
use crate::bitmap::Bitmap;
use crate::chain::{Action, Name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::host::Fill;
use crate::memory;
use crate::progress::Unobserved;
use std::collections::{HashMap, HashSet};

/// The planned content of one cluster of payload.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cluster {
    Zeros,
    Ones,
    /// The union of the clusters at these offsets of the file.
    Union(Vec<u64>),
}

impl Cluster {
    /// Whether its content is known only by reading.
    pub(crate) fn is_mixed(&self) -> bool {
        matches!(self, Cluster::Union(offsets) if offsets.len() > 1)
    }

    fn try_clone(&self) -> Result<Cluster> {
        Ok(match self {
            Cluster::Zeros => Cluster::Zeros,
            Cluster::Ones => Cluster::Ones,
            Cluster::Union(offsets) => Cluster::Union(memory::copy(offsets)?),
        })
    }

    fn unite(&mut self, other: Cluster) -> Result<()> {
        match (&mut *self, other) {
            (_, Cluster::Zeros) | (Cluster::Ones, _) => {}
            (Cluster::Union(offsets), Cluster::Union(more)) => {
                memory::extend(offsets, more)?;
                offsets.sort_unstable();
                offsets.dedup();
            }
            (_, other) => *self = other,
        }
        Ok(())
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
#[derive(Debug)]
pub(crate) enum Content {
    /// The table in the file stays as it is.
    Kept,
    /// A new table, cluster by cluster.
    Clusters(Vec<Cluster>),
    /// A new table from these bits: the outcome of a merge across granularities.
    Bits(Bitmap),
}

/// A bitmap of the draft; `origin` is its place in the directory as read.
#[derive(Debug)]
pub(crate) struct Drafted {
    pub(crate) entry: Entry,
    pub(crate) origin: Option<usize>,
    pub(crate) content: Content,
}

impl Drafted {
    fn try_clone(&self) -> Result<Drafted> {
        let content = match &self.content {
            Content::Kept => Content::Kept,
            Content::Clusters(clusters) => Content::Clusters(copy_of(clusters)?),
            Content::Bits(bits) => Content::Bits(bits.try_clone()?),
        };
        Ok(Drafted { entry: self.entry.try_clone()?, origin: self.origin, content })
    }
}

fn copy_of(clusters: &[Cluster]) -> Result<Vec<Cluster>> {
    let mut copy = memory::room(clusters.len())?;
    for cluster in clusters {
        copy.push(cluster.try_clone()?);
    }
    Ok(copy)
}

/// The clusters that a draft no longer uses.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    /// Offsets of clusters of bitmaps that are removed or written anew.
    pub(crate) clusters: Vec<u64>,
    /// The clusters of bitmaps that stay, where some of the dropped ones belong to something else too.
    pub(crate) kept: Ranges,
    /// The bitmaps of which not every cluster is known.
    pub(crate) unknown: Vec<Name>,
}

pub(crate) struct Draft<'a> {
    file: Qcow2File<'a>,
    occupied: &'a Occupied,
    pub(crate) bitmaps: Vec<Drafted>,
    /// The place of each bitmap by its name. One that is removed keeps its place until the end, so that the others do too.
    places: HashMap<Name, usize>,
    removed: HashSet<usize>,
    tables: HashMap<usize, Vec<Payload>>,
    /// How many threads may read and write clusters.
    pub(crate) threads: usize,
}

impl<'a> Draft<'a> {
    /// The bitmaps as they are. One that cannot be trusted is inconsistent from now on: whatever repairs the image makes
    /// its clusters look sound, never its bits.
    pub(super) fn new(file: Qcow2File<'a>, occupied: &'a Occupied, threads: usize) -> Result<Self> {
        let originals = file.entries;
        let mut bitmaps = memory::room(originals.len())?;
        for (place, entry) in originals.iter().enumerate() {
            let mut entry = entry.try_clone()?;
            if occupied.doubt(place).is_some() && !entry.is_unusable() {
                entry.flags |= FLAG_IN_USE;
            }
            bitmaps.push(Drafted { entry, origin: Some(place), content: Content::Kept });
        }
        let places = memory::map(originals.iter().map(|entry| entry.name.clone()).zip(0..))?;
        let (removed, tables) = (HashSet::new(), HashMap::new());
        Ok(Self { file, occupied, bitmaps, places, removed, tables, threads })
    }

    /// Ends the draft: no action follows.
    pub(crate) fn finish(mut self) -> Self {
        let mut places = 0..;
        let removed = std::mem::take(&mut self.removed);
        self.bitmaps.retain(|_| places.next().is_none_or(|place| !removed.contains(&place)));
        self
    }

    /// Refuses where the file no longer holds the header and the directory that this draft began with.
    pub(crate) fn check_current(&self) -> Result<()> {
        let Qcow2File { storage, directory, .. } = self.file;
        let header = Header::read(storage)?;
        let listing = directory.map(|place| directory::read(storage, &header, place)).transpose()?;
        let entries = listing.map(|listing| listing.entries).unwrap_or_default();
        if header.raw == self.file.header.raw && entries == self.file.entries {
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
                directory::check_new(self.file.header.size_bytes, *granularity)?;
                let entry = Entry::recording(name.clone(), *granularity);
                let clusters = self.zeros(&entry)?;
                memory::insert(&mut self.places, name.clone(), self.bitmaps.len())?;
                let born = Drafted { entry, origin: None, content: Content::Clusters(clusters) };
                memory::push(&mut self.bitmaps, born)?;
            }
            Action::AddAllocated { name, granularity } => {
                self.apply(&Action::Add { name: name.clone(), granularity: *granularity })?;
                let whole = 0..self.file.header.size_bytes;
                let held = allocated::allocated(self.file, whole, &mut Unobserved)?;
                self.unite(name, &held)?;
                self.bitmap(name)?.entry.flags = 0;
            }
            Action::Remove { name } => {
                let place = self.place(name)?;
                self.places.remove(name);
                self.removed.try_reserve(1)?;
                self.removed.insert(place);
            }
            Action::Rename { from, to } => {
                self.check_absent(to)?;
                let place = self.place(from)?;
                self.bitmap(from)?.entry.name = to.clone();
                self.places.remove(from);
                memory::insert(&mut self.places, to.clone(), place)?;
            }
            Action::SetRecording { name, recording } => {
                let place = self.place(name)?;
                self.check_trusted(place)?;
                let bitmap = self.bitmap(name)?;
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

    /// Adds the bits of `fill` to its bitmap, and nothing where there are none.
    pub(super) fn fill(&mut self, fill: &Fill) -> Result<()> {
        let place = self.place(&fill.name)?;
        self.check_trusted(place)?;
        self.unite(&fill.name, &fill.bits)
    }

    fn unite(&mut self, name: &Name, more: &Bitmap) -> Result<()> {
        if more.is_empty() {
            return Ok(());
        }
        let into = self.bitmap(name)?.try_clone()?;
        let mut bits = self.bits(&into)?;
        if bits.size_bytes() != more.size_bytes() {
            let message = format!("bits of a disk of {} bytes for one of {}", more.size_bytes(), bits.size_bytes());
            return Err(Error::new(ErrorKind::SizeMismatch, message));
        }
        if more.is_subset(&bits)? {
            return Ok(());
        }
        bits.union_with(more)?;
        self.bitmap(name)?.content = Content::Bits(bits);
        Ok(())
    }

    fn zeros(&self, entry: &Entry) -> Result<Vec<Cluster>> {
        let clusters = usize::try_from(Shape::of(self.file.header, entry.granularity).entries()).unwrap_or(usize::MAX);
        Ok(memory::gather(std::iter::repeat_with(|| Cluster::Zeros).take(clusters))?)
    }

    fn check_absent(&self, name: &Name) -> Result<()> {
        match self.places.contains_key(name) {
            true => Err(Error::new(ErrorKind::Exists, format!("there is a bitmap {name} already"))),
            false => Ok(()),
        }
    }

    fn place(&self, name: &Name) -> Result<usize> {
        let place = self.places.get(name).copied();
        place.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no bitmap {name}")))
    }

    fn bitmap(&mut self, name: &Name) -> Result<&mut Drafted> {
        let place = self.place(name)?;
        let absent = || Error::new(ErrorKind::NotFound, format!("there is no bitmap {name}"));
        self.bitmaps.get_mut(place).ok_or_else(absent)
    }

    fn merge(&mut self, source: &Name, target: &Name) -> Result<()> {
        if source == target {
            return Ok(());
        }
        for name in [source, target] {
            let place = self.place(name)?;
            self.check_trusted(place)?;
        }
        let from = self.bitmap(source)?.try_clone()?;
        let into = self.bitmap(target)?.try_clone()?;
        let same_granularity = from.entry.granularity == into.entry.granularity;
        let union = match (&from.content, &into.content) {
            (Content::Bits(_), _) | (_, Content::Bits(_)) => None,
            _ if same_granularity => {
                let mut clusters = self.clusters(&into)?;
                for (cluster, more) in clusters.iter_mut().zip(self.clusters(&from)?) {
                    cluster.unite(more)?;
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
            let entry = self
                .file
                .entries
                .get(origin)
                .ok_or_else(|| Error::new(ErrorKind::NotFound, "there is no such bitmap"))?;
            memory::insert(&mut self.tables, origin, table::read(self.file, entry)?)?;
        }
        Ok(self.tables.get(&origin).map_or(&[], Vec::as_slice))
    }

    fn clusters(&mut self, bitmap: &Drafted) -> Result<Vec<Cluster>> {
        match (&bitmap.content, bitmap.origin) {
            (Content::Clusters(clusters), _) => copy_of(clusters),
            (_, Some(origin)) => Ok(memory::gather(self.table(origin)?.iter().map(|payload| Cluster::from(*payload)))?),
            (_, None) => self.zeros(&bitmap.entry),
        }
    }

    fn bits(&mut self, bitmap: &Drafted) -> Result<Bitmap> {
        if let Content::Bits(bits) = &bitmap.content {
            return bits.try_clone();
        }
        let shape = Shape::of(self.file.header, bitmap.entry.granularity);
        let mut bits = Bitmap::new(shape.size_bytes, shape.granularity)?;
        for (number, cluster) in (0..).zip(self.clusters(bitmap)?) {
            let payloads = match cluster {
                Cluster::Zeros => continue,
                Cluster::Ones => vec![Payload::Ones],
                Cluster::Union(offsets) => memory::gather(offsets.into_iter().map(Payload::At))?,
            };
            for payload in payloads {
                let (bytes, _) = shape.read(self.file.storage, &bitmap.entry.name, number, payload)?;
                bits.set_bits(number * shape.covered_bytes(), &bytes)?;
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

    /// Whether a bitmap is born, so that there will be more of them.
    pub(crate) fn adds(&self) -> bool {
        self.bitmaps.iter().any(|bitmap| bitmap.origin.is_none())
    }

    /// The bitmaps that become inconsistent because they cannot be trusted, with the reason.
    pub(crate) fn distrusted(&self) -> impl Iterator<Item = (&Name, &Error)> {
        self.bitmaps.iter().filter_map(|bitmap| {
            let original = self.file.entries.get(bitmap.origin?)?;
            let doubt = self.occupied.doubt(bitmap.origin?)?;
            (original.flags != bitmap.entry.flags).then_some((&bitmap.entry.name, &doubt.error))
        })
    }

    /// The table and data clusters of every bitmap that the draft removes or writes anew. Nothing is read of a table that
    /// cannot be trusted.
    pub(crate) fn dropped(&mut self) -> Result<Dropped> {
        let mut dropped = Dropped::default();
        let is_kept = |bitmap: &&Drafted| matches!(bitmap.content, Content::Kept);
        let mut kept = HashSet::new();
        kept.try_reserve(self.bitmaps.len())?;
        kept.extend(self.bitmaps.iter().filter(is_kept).filter_map(|bitmap| bitmap.origin));
        let originals = self.file.entries;
        for (origin, entry) in originals.iter().enumerate().filter(|(origin, _)| !kept.contains(origin)) {
            let table = table::clusters(self.file.header, entry);
            let is_sound = self.occupied.doubt(origin).is_none_or(|doubt| doubt.table_is_sound);
            if self.occupied.is_in_file(&table) {
                memory::extend(&mut dropped.clusters, table.map(|cluster| cluster << self.file.header.cluster_bits))?;
            }
            if is_sound {
                let data = self.table(origin)?.iter().filter_map(|payload| payload.offset());
                memory::extend(&mut dropped.clusters, data)?;
            } else {
                memory::push(&mut dropped.unknown, entry.name.clone())?;
            }
        }
        if self.occupied.has_shared() {
            dropped.kept = self.clusters_of_kept(&kept)?;
        }
        Ok(dropped)
    }

    fn clusters_of_kept(&self, kept: &HashSet<usize>) -> Result<Ranges> {
        let mut clusters = Vec::new();
        for &origin in kept {
            let Some(entry) = self.file.entries.get(origin) else { continue };
            memory::push(&mut clusters, table::clusters(self.file.header, entry))?;
            if self.occupied.doubt(origin).is_none_or(|doubt| doubt.table_is_sound) {
                let data = table::read(self.file, entry)?;
                let cluster = |offset: u64| offset >> self.file.header.cluster_bits;
                let data = data.into_iter().filter_map(Payload::offset).map(|o| cluster(o)..cluster(o) + 1);
                memory::extend(&mut clusters, data)?;
            }
        }
        Ok(Ranges::of(clusters)?)
    }

    fn check_trusted(&self, place: usize) -> Result<()> {
        let Some(bitmap) = self.bitmaps.get(place) else { return Ok(()) };
        match bitmap.origin.and_then(|origin| self.occupied.doubt(origin)) {
            Some(doubt) => Err(doubt.error.clone()),
            None => check_trusted(&bitmap.entry),
        }
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
