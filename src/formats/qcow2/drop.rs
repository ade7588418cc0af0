#![forbid(unsafe_code)]
//! Owns the removal of the bitmap directory with every bitmap in it, readable or not. Must never take room in the file,
//! nor free a cluster that another structure may use.

use super::commit::{self, Undo};
use super::draft::Draft;
use super::file::Qcow2File;
use super::header::Header;
use super::occupied::{Occupied, Purpose};
use super::ranges::Ranges;
use super::space::Space;
use super::steps;
use crate::error::{ErrorKind, Result};
use crate::io::Memory;
use crate::io::bytes::file_len;
use crate::memory;
use crate::progress::Observer;

/// An image whose bitmaps shall go.
#[derive(Debug)]
pub(crate) struct DropAll<'a> {
    pub(super) file: Qcow2File<'a>,
    /// Whether clusters may be freed: not where refcounts cannot be trusted.
    pub(crate) free: bool,
}

/// The fate of the clusters of the bitmaps.
struct Release {
    clusters: Vec<u64>,
    warnings: Vec<String>,
}

impl DropAll<'_> {
    /// Carries it out in one atomic step; `header` is the file's afterwards. The strings name the clusters that leak.
    ///
    /// The step itself writes to the header alone, so that it works also where other structures are damaged.
    pub(crate) fn write(&self, header: &mut Header, observer: &mut dyn Observer) -> Result<Vec<String>> {
        if !self.file.header.has_bitmaps_extension() {
            return Ok(Vec::new());
        }
        let stages = self.stages()?;
        let occupied = self.occupied(observer)?;
        let Release { clusters, mut warnings } = self.release(occupied.as_ref())?;
        let (len_before, states) = (file_len(self.file.storage)?, steps::states(header, stages)?);
        steps::commit(self.file.storage, header, states)?;
        if let Some(occupied) = &occupied {
            let mut undo = Undo::new(self.file.storage, len_before);
            let freed = Space::new(self.file, occupied).and_then(|mut space| {
                space.release(&clusters)?;
                commit::store_in_place(&space, &mut undo)
            });
            warnings.extend(freed.err().map(|error| commit::not_released(&error)));
        }
        Ok(warnings)
    }

    /// The warnings that [`DropAll::write`] would give, without writing.
    pub(crate) fn rehearse(&self, observer: &mut dyn Observer) -> Result<Vec<String>> {
        if !self.file.header.has_bitmaps_extension() {
            return Ok(Vec::new());
        }
        self.stages()?;
        let occupied = self.occupied(observer)?;
        Ok(self.release(occupied.as_ref())?.warnings)
    }

    /// The map of the file; `None` where it cannot be known, so that nothing can be freed.
    fn occupied(&self, observer: &mut dyn Observer) -> Result<Option<Occupied>> {
        if !self.free {
            return Ok(None);
        }
        match Occupied::read(self.file, Purpose::Writing { all_tables: true }, observer) {
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
        let mut draft = Draft::new(self.file, occupied, 0)?;
        draft.bitmaps.clear();
        let dropped = draft.dropped()?;
        let mut clusters = dropped.clusters;
        let mut warnings: Vec<String> = commit::leaked(&dropped.unknown).into_iter().collect();
        let is_whole = match self.file.directory {
            Some(place) => {
                let directory = place.clusters(self.file.header.cluster_bits);
                let is_in_file = occupied.is_in_file(&directory);
                if is_in_file {
                    memory::extend(&mut clusters, directory.map(|cluster| cluster << self.file.header.cluster_bits))?;
                }
                is_in_file && place.bitmaps as usize == self.file.entries.len()
            }
            None => false,
        };
        if !is_whole {
            let warning = "the directory is damaged, so the clusters of the bitmaps that could not be read in it stay \
                           counted as used: `qemu-img check -r leaks` releases them";
            warnings.push(warning.into());
        }
        let mut space = Space::new(self.file, occupied)?;
        let clusters = space.releasable(clusters, &Ranges::default())?;
        warnings.extend(space.warning());
        Ok(Release { clusters, warnings })
    }

    /// The stages of the header that leave it without a bitmaps extension, however often it stands there.
    fn stages(&self) -> Result<Vec<Vec<u8>>> {
        let (mut stages, mut next) = (Vec::new(), self.file.header.try_clone()?);
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
