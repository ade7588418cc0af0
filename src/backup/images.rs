#![forbid(unsafe_code)]
//! Owns image files as the disks of a backup. Must never know the directory.
//!
//! Nobody writes to an image while it is read, as its lock keeps writers out: so the moment is the time of the reading, which takes
//! in what changed between the checkpoint and the reading, and the next increment has these blocks once more.

use super::origin::{Disk, Origin, Reading};
use super::{Options, Source, SourceFile};
use crate::bitmap::Bitmap;
use crate::chain::Name;
use crate::content::{self, Chain, Content};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Access, DiffRequest, Edit, Image, Layers, OpenOptions};
use crate::progress::{Observer, Unobserved};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Images, each with the checkpoint made by itself, one right after the other.
#[derive(Debug)]
pub(super) struct Images(Vec<ImageDisk>);

impl Images {
    pub(super) fn of(sources: &[Source<'_>], options: &Options<'_>) -> Result<Self> {
        let mut disks = Vec::new();
        for source in sources {
            let place = fs::canonicalize(source.image)
                .map_err(|error| Error::io("cannot find", error).in_file(source.image).nothing_changed())?;
            disks.push(ImageDisk {
                name: source.name.clone(),
                path: source.image.to_owned(),
                place,
                layers: Vec::new(),
                no_lock: options.no_lock,
                threads: options.threads,
                secret_file: options.secret_file.map(PathBuf::from),
            });
        }
        Ok(Self(disks))
    }

    /// Where the images are, links followed.
    pub(super) fn places(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(|disk| disk.place.as_path())
    }
}

impl Origin for Images {
    fn disks(&mut self) -> Vec<&mut dyn Disk> {
        self.0.iter_mut().map(|disk| disk as &mut dyn Disk).collect()
    }

    fn create(
        &mut self,
        checkpoint: &[u8],
        wanted: &[bool],
        _observer: &mut dyn Observer,
    ) -> Result<Vec<Result<Vec<String>>>> {
        let disks = self.0.iter().zip(wanted);
        Ok(disks.map(|(disk, wanted)| if *wanted { disk.create(checkpoint) } else { Ok(Vec::new()) }).collect())
    }
}

#[derive(Debug)]
struct ImageDisk {
    name: Vec<u8>,
    path: PathBuf,
    place: PathBuf,
    /// Where all images of its chain are, links followed, once it was opened.
    layers: Vec<PathBuf>,
    no_lock: bool,
    threads: usize,
    secret_file: Option<PathBuf>,
}

impl ImageDisk {
    fn image(&self, access: Access) -> Result<Image> {
        Image::open(&self.path, &OpenOptions::new(access).no_lock(self.no_lock).threads(self.threads))
    }

    fn create(&self, checkpoint: &[u8]) -> Result<Vec<String>> {
        let mut image = self.image(Access::Write)?;
        let plan = image.plan_create(checkpoint, None, None)?;
        let mut warnings: Vec<String> = plan.risks().iter().chain(plan.warnings()).cloned().collect();
        warnings.extend(image.commit(&plan, &mut Unobserved)?);
        Ok(warnings)
    }
}

impl Disk for ImageDisk {
    fn name(&self) -> &[u8] {
        &self.name
    }

    fn place(&self) -> &[u8] {
        self.place.as_os_str().as_bytes()
    }

    fn is_at(&self, place: &[u8]) -> bool {
        self.place() == place || self.layers.iter().any(|layer| layer.as_os_str().as_bytes() == place)
    }

    fn named(&self, error: Error) -> Error {
        error.in_file(&self.path)
    }

    fn check_usable(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.image(Access::Write)?.unclean().map_or(Ok(()), Err)?;
        self.open(observer).map(drop)
    }

    fn check_create(&mut self, checkpoint: &[u8]) -> Result<Option<Error>> {
        match self.image(Access::Write)?.plan_create(checkpoint, None, None) {
            Ok(_) => Ok(None),
            Err(error) if keeps_no_checkpoint(&error) => Ok(Some(error)),
            Err(error) => Err(error),
        }
    }

    fn delete(&mut self, checkpoints: &[Vec<u8>]) -> Result<(Vec<Vec<u8>>, Vec<String>)> {
        let mut image = self.image(Access::Write)?;
        let chain = image.chain(None)?;
        let there: Vec<&Vec<u8>> = checkpoints.iter().filter(|name| chain.checkpoint(name).is_some()).collect();
        if there.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let names: Vec<Name> = there.iter().map(|name| Name::new(name.as_slice())).collect();
        let edit = Edit::Delete(&names);
        // Layers below that know a checkpoint give it up too.
        let warnings = match image.spans_layers(&edit, None)? {
            true => image.change_layers(&edit, None, &mut Unobserved)?.warnings,
            false => {
                let plan = image.plan_delete_many(&there, false, Layers::Check, None)?;
                image.commit(&plan, &mut Unobserved)?
            }
        };
        Ok((there.into_iter().cloned().collect(), warnings))
    }

    fn open(&mut self, observer: &mut dyn Observer) -> Result<Box<dyn Reading>> {
        let time = SystemTime::now();
        let image = self.image(Access::Read)?;
        let chain = Chain::of(&image, content::Options { no_lock: image.is_without_locks() })?;
        let (files, warnings) = (chain.files(), chain.warnings().to_vec());
        self.layers = files.iter().filter_map(|file| fs::canonicalize(&file.path).ok()).collect();
        let (content, through_qemu) = content::open(chain, self.secret_file.as_deref(), observer)?;
        if content.size_bytes() != image.virtual_size() {
            let message = format!("its content has {} bytes, its map {}", content.size_bytes(), image.virtual_size());
            return Err(Error::new(ErrorKind::Damaged, message));
        }
        Ok(Box::new(Frozen { image, content, time, files, warnings, through_qemu }))
    }
}

/// An image whose lock is held.
#[derive(Debug)]
struct Frozen {
    image: Image,
    content: Box<dyn Content>,
    time: SystemTime,
    files: Vec<SourceFile>,
    warnings: Vec<String>,
    through_qemu: Option<String>,
}

impl Reading for Frozen {
    fn content(&self) -> &dyn Content {
        &*self.content
    }

    fn time(&self) -> SystemTime {
        self.time
    }

    fn changed_since(
        &self,
        checkpoint: &[u8],
        observer: &mut dyn Observer,
    ) -> Result<std::result::Result<Bitmap, String>> {
        match self.image.diff(&DiffRequest::since(checkpoint), observer) {
            Err(error) if is_of_the_map(&error) => Ok(Err(error.reason().to_string())),
            diff => Ok(Ok(diff?.bitmap)),
        }
    }

    fn files(&self) -> Vec<SourceFile> {
        self.files.clone()
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn through_qemu(&self) -> Option<&str> {
        self.through_qemu.as_deref()
    }
}

/// Whether the disk is one that can be copied, and that keeps no new checkpoint.
pub(super) fn keeps_no_checkpoint(error: &Error) -> bool {
    use ErrorKind::{BrokenChain, CannotStore, Inconsistent, Model, OldVersion, Recording, Stale};
    matches!(
        error.kind(),
        OldVersion | CannotStore | Stale | Inconsistent | Recording | BrokenChain | Model | ErrorKind::Unsupported
    )
}

/// Whether an error tells that the map of changes cannot be had, and nothing of the disk's data.
pub(super) fn is_of_the_map(error: &Error) -> bool {
    use ErrorKind::{BackingLayer, NotFound, Order, SizeMismatch};
    keeps_no_checkpoint(error) || matches!(error.kind(), NotFound | Order | SizeMismatch | BackingLayer)
}
