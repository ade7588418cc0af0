#![forbid(unsafe_code)]
//! Owns what a command line says of further images that change in the same step. Must never know the change.

use crate::disks::{Disk, Disks};
use crate::exit::Failure;
use crate::recover;
use crate::session::Session;
use crate::target::Target;
use checkmap::Image;
use checkmap::image::{Access, Group, Purpose};
use clap::{Args, ValueHint};
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

const SEVERAL: &str = "Several images in one step";

#[derive(Debug, Args)]
pub(crate) struct AlsoArgs {
    /// Another image that changes in the same step, all or none; can be repeated
    #[arg(long, value_name = "IMAGE", value_hint = ValueHint::FilePath, conflicts_with_all = ["qmp", "libvirt"], help_heading = SEVERAL)]
    also: Vec<PathBuf>,
    /// Where the journal of that step lies while it lasts [default: beside the first image, which must then be no device]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "also", help_heading = SEVERAL)]
    journal: Option<PathBuf>,
}

impl AlsoArgs {
    /// The step over all images; `None` where there is no further one.
    pub(crate) fn step(&self, purpose: Purpose) -> Option<Step<'_>> {
        (!self.also.is_empty()).then(|| Step { also: &self.also, journal: self.journal.as_deref(), purpose })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.also.is_empty()
    }
}

/// A step over several images.
#[derive(Clone, Debug)]
pub(crate) struct Step<'a> {
    also: &'a [PathBuf],
    journal: Option<&'a Path>,
    purpose: Purpose,
}

impl Step<'_> {
    /// Opens all images, the first one among them, by `open`.
    fn disks(
        &self,
        target: Target<'_>,
        mut open: impl FnMut(&Path) -> Result<Image, Failure>,
    ) -> Result<Disks, Failure> {
        let paths: Vec<&Path> = target.image().into_iter().chain(self.also.iter().map(PathBuf::as_path)).collect();
        for (number, path) in paths.iter().enumerate() {
            if let Some(other) = paths.iter().take(number).find(|other| is_same(other, path)) {
                let message = format!("{} and {} are the same image", other.display(), path.display());
                return Err(Failure::Usage(message));
            }
        }
        let mut disks = Vec::new();
        for path in paths {
            disks.push(Disk { image: open(path)?, of_machine: None });
        }
        Ok(Disks { disks, machine: None, is_named: true, is_single: false })
    }

    /// Opens all images for the change. What an interrupted step left is ended before, as it may hold any of them.
    pub(crate) fn open(&self, session: &Session, target: Target<'_>) -> Result<Disks, Failure> {
        let mended = self.disks(target, |path| session.open(path, Access::Read))?;
        let marked = mended.disks.iter().filter(|disk| disk.image.unfinished().is_some());
        let marked: Vec<PathBuf> = marked.map(|disk| disk.image.path().to_owned()).collect();
        drop(mended);
        for path in marked {
            recover::mend(session, &mut session.open(&path, Access::Write)?)?;
        }
        self.disks(target, |path| session.open(path, Access::Write).map_err(Failure::nothing_changed))
    }

    /// Opens all images for a dry run, with the first refusal that the real one would meet for a file that cannot be written.
    pub(crate) fn open_to_plan(
        &self,
        session: &Session,
        target: Target<'_>,
    ) -> Result<(Disks, Option<checkmap::Error>), Failure> {
        let mut refusal = None;
        let disks = self.disks(target, |path| {
            let (image, refused) = crate::change::open_to_plan(session, path)?;
            refusal = refusal.take().or(refused);
            Ok(image)
        })?;
        Ok((disks, refusal))
    }

    /// The images as a group that changes in one step.
    pub(crate) fn group<'a>(&self, disks: &'a mut Disks) -> checkmap::Result<Group<'a>> {
        let images = disks.disks.iter_mut().map(|disk| &mut disk.image);
        Group::journaled(images, self.journal, self.purpose.clone())
    }
}

/// Whether two paths lead to one file, or to one device.
fn is_same(one: &Path, other: &Path) -> bool {
    let (Ok(one), Ok(other)) = (one.metadata(), other.metadata()) else { return false };
    let is_device = |metadata: &Metadata| metadata.file_type().is_block_device();
    (one.dev(), one.ino()) == (other.dev(), other.ino())
        || is_device(&one) && is_device(&other) && one.rdev() == other.rdev()
}
