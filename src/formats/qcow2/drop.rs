#![forbid(unsafe_code)]
//! Owns the removal of the bitmap directory with every bitmap in it, readable or not. Must never take room in the file,
//! nor free a cluster that may be somebody else's.

use super::commit::{self, Undo};
use super::directory::Entry;
use super::draft::Draft;
use super::header::{DirectoryRef, Header};
use super::occupied::{Occupied, Purpose};
use super::ranges::Ranges;
use super::space::Space;
use crate::error::{ErrorKind, Result};
use crate::io::bytes::file_len;
use crate::io::{Memory, Storage};
use crate::memory;
use crate::progress::Observer;

/// An image whose bitmaps shall go.
#[derive(Debug)]
pub(crate) struct DropAll<'a> {
    pub(crate) storage: &'a dyn Storage,
    pub(crate) header: &'a Header,
    /// The directory, where the header says a place that can be one.
    pub(crate) place: Option<DirectoryRef>,
    /// What could be read of it.
    pub(crate) entries: &'a [Entry],
    /// Whether clusters may be freed: not where refcounts cannot be trusted.
    pub(crate) free: bool,
}

/// What happens to the clusters of the bitmaps.
struct Release {
    clusters: Vec<u64>,
    warnings: Vec<String>,
}

impl DropAll<'_> {
    /// Carries it out in one atomic step, and leaves in `header` what the file has then; the strings say what is leaked.
    ///
    /// The step itself writes to the header alone, so that it works whatever else is damaged.
    pub(crate) fn write(&self, header: &mut Header, observer: &mut dyn Observer) -> Result<Vec<String>> {
        if !self.header.has_bitmaps_extension() {
            return Ok(Vec::new());
        }
        let stages = self.stages()?;
        let occupied = self.occupied(observer)?;
        let Release { clusters, mut warnings } = self.release(occupied.as_ref())?;
        let (len_before, states) = (file_len(self.storage)?, commit::states(header, stages)?);
        commit::commit(self.storage, header, states)?;
        if let Some(occupied) = &occupied {
            let mut undo = Undo::new(self.storage, len_before);
            let freed = Space::new(self.storage, self.header, occupied).and_then(|mut space| {
                space.release(&clusters)?;
                commit::store_in_place(self.storage, &space, &mut undo)
            });
            warnings.extend(freed.err().map(|error| commit::not_released(&error)));
        }
        Ok(warnings)
    }

    /// The warnings that [`DropAll::write`] would give, without writing.
    pub(crate) fn rehearse(&self, observer: &mut dyn Observer) -> Result<Vec<String>> {
        if !self.header.has_bitmaps_extension() {
            return Ok(Vec::new());
        }
        self.stages()?;
        let occupied = self.occupied(observer)?;
        Ok(self.release(occupied.as_ref())?.warnings)
    }

    /// What occupies the file; `None` where that cannot be known, so that nothing can be freed.
    fn occupied(&self, observer: &mut dyn Observer) -> Result<Option<Occupied>> {
        if !self.free {
            return Ok(None);
        }
        let bitmaps = self.place.map(|place| (place, self.entries));
        let purpose = Purpose::Writing { all_tables: true };
        match Occupied::read(self.storage, self.header, bitmaps, purpose, observer) {
            Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported) => Ok(None),
            occupied => occupied.map(Some),
        }
    }

    fn release(&self, occupied: Option<&Occupied>) -> Result<Release> {
        let Some(occupied) = occupied else {
            let warning = "which clusters the bitmaps used cannot be known, so they stay counted as used: `qemu-img check \
                           -r leaks` releases them";
            return Ok(Release { clusters: Vec::new(), warnings: vec![warning.into()] });
        };
        let mut draft = Draft::new(self.storage, self.header, self.entries, occupied, 0)?;
        draft.bitmaps.clear();
        let dropped = draft.dropped()?;
        let mut clusters = dropped.clusters;
        let mut warnings: Vec<String> = commit::leaked(&dropped.unknown).into_iter().collect();
        let is_whole = match self.place {
            Some(place) => {
                let directory = place.clusters(self.header.cluster_bits);
                let is_in_file = occupied.is_in_file(&directory);
                if is_in_file {
                    memory::extend(&mut clusters, directory.map(|cluster| cluster << self.header.cluster_bits))?;
                }
                is_in_file && place.bitmaps as usize == self.entries.len()
            }
            None => false,
        };
        if !is_whole {
            let warning = "the directory is damaged, so the clusters of the bitmaps that could not be read in it stay \
                           counted as used: `qemu-img check -r leaks` releases them";
            warnings.push(warning.into());
        }
        let mut space = Space::new(self.storage, self.header, occupied)?;
        let clusters = space.releasable(clusters, &Ranges::default())?;
        warnings.extend(space.warning());
        Ok(Release { clusters, warnings })
    }

    /// The stages of the header that leave it without a bitmaps extension, however often it stands there.
    fn stages(&self) -> Result<Vec<Vec<u8>>> {
        let (mut stages, mut next) = (Vec::new(), self.header.try_clone()?);
        while next.has_bitmaps_extension() {
            let more = next.with_directory(None)?;
            if let Some(last) = more.last() {
                next = Header::read(&Memory(last))?;
            }
            memory::extend(&mut stages, more)?;
        }
        Ok(stages)
    }
}
