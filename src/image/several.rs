#![forbid(unsafe_code)]
//! Owns the change of several images in files in one step: prepared in each without effect, recorded in a journal, marked in each, then
//! switched one after the other. Must never know how an image is changed.
//!
//! 1. Each image: everything but its header is written. A kill leaks clusters.
//! 2. The journal appears, whole and durable. A kill leaves it behind; no image names it.
//! 3. Each image gets the mark that names the journal. A kill leaves marks on images that have not changed.
//! 4. Each image switches. A kill between two switches is what the journal is for, see `recover`.
//! 5. The journal says that all have switched; the marks go; the journal goes. A kill leaves marks that mean nothing.

use super::journal::{self, Journal, Member, Purpose};
use super::recover::open_member;
use super::{Access, Group, Image, OpenOptions};
use crate::chain::{Origin, Plan};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::host::{Ground, Mark, Prepared};
use crate::io::FileId;
use crate::memory;
use crate::progress::Observer;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The step of a group whose images share no transaction.
#[derive(Debug)]
pub(super) struct Several {
    journal: PathBuf,
    purpose: Purpose,
    step: [u8; 16],
}

impl<'a> Group<'a> {
    /// Images that are to change together: by the transaction that their hosts share, or, where none of several takes part in one, by a
    /// journal beside the first image.
    ///
    /// Fails as [`Group::new`] and [`Group::journaled`].
    pub fn of(images: impl IntoIterator<Item = &'a mut Image>, purpose: Purpose) -> Result<Self> {
        let images = memory::gather(images)?;
        match images.len() > 1 && images.iter().all(|image| image.host.membership().is_none()) {
            true => Self::journaled(images, None, purpose),
            false => Self::new(images),
        }
    }

    /// Images in files that are to change together, by a journal: at `journal`, or beside the first image, which must then be no
    /// device. `purpose` is what the plans are for; each plan of [`Group::commit`] must have something to do.
    ///
    /// A kill or a power cut in the step leaves every image sound, and marked, so that [`Image::unfinished`] tells of it and
    /// [`Image::recover`] ends the step on all of them; until then nothing else changes them. Fails with
    /// [`ErrorKind::InvalidArgument`] for the same file twice, or for a device without a place for the journal;
    /// [`ErrorKind::Unsupported`] where a format cannot be changed so, [`ErrorKind::CannotStore`] where an image has no room for the
    /// mark or takes none, [`ErrorKind::BackingLayer`] where one of the images is a layer of another, [`ErrorKind::Exists`] where a
    /// journal is there already.
    pub fn journaled(
        images: impl IntoIterator<Item = &'a mut Image>,
        journal: Option<&Path>,
        purpose: Purpose,
    ) -> Result<Self> {
        let images = memory::gather(images)?;
        let Some(first) = images.first() else {
            return Err(Error::new(ErrorKind::InvalidArgument, "there is no image to change"));
        };
        if let Some(image) = images.iter().find(|image| image.storage.is_none()) {
            let message = "lies in no file, and cannot change in one step with other images";
            return Err(image.name_it(Error::new(ErrorKind::Unsupported, message)));
        }
        let journal = match journal {
            Some(path) => std::path::absolute(path)
                .map_err(|error| Error::io("cannot find the place of the journal", error).in_file(path))?,
            None => journal::beside(&first.path)?,
        };
        journal::check_place(&journal)?;
        let several = Several { journal, purpose, step: journal::new_step()? };
        for (number, image) in (0..).zip(&images) {
            let before = images.iter().take(number as usize);
            if let Some(other) = before.clone().find(|other| is_same(other, image)) {
                let message = format!("is the same image as {}", other.path.display());
                return Err(image.name_it(Error::new(ErrorKind::InvalidArgument, message)));
            }
            if let Some(error) = layer_of(image, &images) {
                return Err(error);
            }
            image.host.check_mark(&several.mark(number)).map_err(|error| image.name_it(error))?;
        }
        several.is_left_over(&images)?;
        Ok(Self { images, members: Vec::new(), several: Some(several) })
    }
}

/// The refusal where another of these images is a layer of this one: a checkpoint of the upper one may follow those of the lower one,
/// which change at the same time.
fn layer_of(image: &Image, images: &[&mut Image]) -> Option<Error> {
    let files = image.files();
    let id = |image: &Image| image.storage.as_ref().and_then(|storage| storage.file_id());
    let others = images.iter().filter(|other| id(other) != id(image));
    let (other, file) =
        others.filter_map(|other| Some((other, files.iter().find(|file| Some(file.id) == id(other))?))).next()?;
    let message = format!("cannot change in one step with {}, {}", other.path.display(), file.role);
    let error = Error::new(ErrorKind::BackingLayer, message).advise("change the top image alone");
    Some(image.name_it(error.nothing_changed()))
}

/// Whether two images lie in one file, or on one device.
fn is_same(one: &Image, other: &Image) -> bool {
    let (Some(one), Some(other)) = (&one.file, &other.file) else { return false };
    let (Ok(one), Ok(other)) = (one.metadata(), other.metadata()) else { return false };
    let is_device = one.file_type().is_block_device() && other.file_type().is_block_device();
    (one.dev(), one.ino()) == (other.dev(), other.ino()) || is_device && one.rdev() == other.rdev()
}

impl Several {
    fn mark(&self, number: u32) -> Mark {
        Mark::new(self.step, number, &self.journal)
    }

    /// Whether the journal of a step that no image took is still there; refuses any other file in its place.
    fn is_left_over(&self, images: &[&mut Image]) -> Result<bool> {
        if self.journal.symlink_metadata().is_err() {
            return Ok(false);
        }
        let Ok(Some(journal)) = Journal::read(&self.journal) else { return Err(self.exists()) };
        let options = OpenOptions::new(Access::Names);
        let id = |path: &Path| std::fs::metadata(path).ok().map(|metadata| FileId::of(&metadata));
        let is_ours = |member: &Member| {
            let own = images.iter().filter_map(|image| image.storage.as_ref()?.file_id());
            id(&member.path).is_some_and(|id| own.into_iter().any(|own| own == id))
        };
        let is_unmarked = |member: &Member| {
            open_member(member, &options)
                .is_ok_and(|image| image.host.mark().is_none_or(|mark| mark.step != journal.step))
        };
        // While this one locks the first image, the process that wrote the journal is gone.
        match journal.members.first().is_some_and(is_ours) && journal.members.iter().all(is_unmarked) {
            true => Ok(true),
            false => Err(self.exists()),
        }
    }

    fn exists(&self) -> Error {
        let way_out = WayOut::from("another step may be interrupted: let it end by ")
            .control(Control::Recover)
            .words(" on an image that it names; remove the file if no image names it");
        Error::new(ErrorKind::Exists, "there is a journal already").advise(way_out).in_file(&self.journal)
    }

    /// Carries out the plans, one for each image; warnings of each.
    pub(super) fn commit(
        &self,
        images: &mut [&mut Image],
        plans: &[Plan],
        observer: &mut dyn Observer,
    ) -> Result<Vec<Vec<String>>> {
        for (image, plan) in images.iter().zip(plans) {
            if !plan.below().is_empty() {
                let message = "layers below would have to change too, which is not done in one step with other images";
                return Err(image.name_it(Error::new(ErrorKind::Unsupported, message).nothing_changed()));
            }
            image.look().map_err(Error::nothing_changed)?;
        }
        if self.is_left_over(images).map_err(Error::nothing_changed)? {
            journal::remove(&self.journal).map_err(Error::nothing_changed)?;
        }
        let outcome = self.carry_out(images, plans, observer);
        let changed = outcome.as_ref().map_or_else(|error| error.kind() == ErrorKind::CommitInDoubt, |_| true);
        let mut unread = Vec::new();
        for image in images.iter_mut() {
            let read = image.host.read_again();
            if changed {
                image.origin = Origin::default();
            }
            unread.push(read.err().map(|error| image.name_it(error)));
        }
        let mut warnings = outcome?;
        for (own, error) in warnings.iter_mut().zip(unread) {
            // The change is done, also where the image cannot be read again.
            own.extend(error.map(|error| format!("done, but the image could not be read again: {}", error.reason())));
        }
        Ok(warnings)
    }

    fn carry_out(
        &self,
        images: &[&mut Image],
        plans: &[Plan],
        observer: &mut dyn Observer,
    ) -> Result<Vec<Vec<String>>> {
        let mut grounds: Vec<Box<dyn Ground + '_>> = memory::room(images.len())?;
        for image in images {
            let ground = image.host.ground(observer);
            grounds.push(ground.map_err(|error| image.name_it(error).nothing_changed())?);
        }
        let mut parts: Vec<Box<dyn Prepared + '_>> = memory::room(images.len())?;
        for (number, (ground, (image, plan))) in (0..).zip(grounds.iter_mut().zip(images.iter().zip(plans))) {
            match ground.prepare(plan.actions(), &self.mark(number), observer) {
                Ok(part) => parts.push(part),
                Err(error) => return Err(give_up(&mut parts, image.name_it(error))),
            }
        }
        let mut journal =
            match self.journal(images, &parts).and_then(|journal| journal.create(&self.journal).map(|()| journal)) {
                Ok(journal) => journal,
                Err(error) if error.errno() == libc::EEXIST => return Err(give_up(&mut parts, self.exists())),
                Err(error) => return Err(give_up(&mut parts, error)),
            };
        if let Err((place, error)) = each(&mut parts, |part| part.mark()) {
            let error = images.get(place).map_or(error.clone(), |image| image.name_it(error));
            return Err(self.call_off(&mut parts, error));
        }
        if let Err((place, error)) = each(&mut parts, |part| part.switch()) {
            let error = images.get(place).map_or(error.clone(), |image| image.name_it(error));
            let switched = parts.get_mut(..place).unwrap_or_default();
            // The last one first, as it was done.
            let taken_back = switched.iter_mut().rev().try_for_each(|part| part.switch_back());
            return Err(match taken_back {
                Ok(()) if error.kind() != ErrorKind::CommitInDoubt => self.call_off(&mut parts, error),
                _ => in_doubt(error),
            });
        }
        // Without this, marks that are gone would look like images that changed since.
        let ended = journal.end(&self.journal);
        let mut warnings: Vec<Vec<String>> = parts.iter().map(|_| Vec::new()).collect();
        let ended = ended.map(|()| {
            let finished = parts.iter_mut().zip(&mut warnings).map(|(part, warnings)| part.finish(warnings));
            finished.fold(true, |all, one| all & one)
        });
        let removed = match ended {
            Ok(true) => journal::remove(&self.journal),
            // The mark that stays names it.
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        if let (Err(error), Some(first)) = (removed, warnings.first_mut()) {
            first.push(format!("done, but the journal of the step stays: {}", error.reason()));
        }
        Ok(warnings)
    }

    fn journal(&self, images: &[&mut Image], parts: &[Box<dyn Prepared + '_>]) -> Result<Journal> {
        let mut members = memory::room(images.len())?;
        for (image, part) in images.iter().zip(parts) {
            members.push(Member { path: journal::lasting(&image.path)?, switch: part.switch_record().clone() });
        }
        Ok(Journal { step: self.step, purpose: self.purpose.clone(), is_done: false, members })
    }

    /// Ends a step that no image has taken: the marks go, then the journal.
    fn call_off(&self, parts: &mut [Box<dyn Prepared + '_>], error: Error) -> Error {
        let error = give_up(parts, error);
        if error.kind() == ErrorKind::CommitInDoubt {
            return error;
        }
        match journal::remove(&self.journal) {
            Ok(()) => error,
            Err(_) => {
                error.advise(format!("the journal {} stays, and no image names it: remove it", self.journal.display()))
            }
        }
    }
}

/// Does the same with each part; the place of the first that fails, and its error.
fn each(
    parts: &mut [Box<dyn Prepared + '_>],
    mut call: impl FnMut(&mut dyn Prepared) -> Result<()>,
) -> std::result::Result<(), (usize, Error)> {
    for (place, part) in parts.iter_mut().enumerate() {
        call(&mut **part).map_err(|error| (place, error))?;
    }
    Ok(())
}

/// Takes back everything that was prepared; the error says whether all of it is gone.
fn give_up(parts: &mut [Box<dyn Prepared + '_>], error: Error) -> Error {
    // All of them, whatever becomes of one.
    let mut given_up = Ok(());
    for part in parts.iter_mut().rev() {
        given_up = given_up.and(part.give_up());
    }
    let doubtful = |error: &Error| error.kind() == ErrorKind::CommitInDoubt;
    match given_up {
        _ if doubtful(&error) => in_doubt(error),
        Ok(()) => error.nothing_changed(),
        Err(failed) if doubtful(&failed) => in_doubt(error),
        Err(failed) => match failed.way_out() {
            Some(way_out) => error.advise(way_out.clone()),
            None => error,
        },
    }
}

fn in_doubt(error: Error) -> Error {
    let way_out = WayOut::from("some images may have changed and others not: end the step on all of them with ");
    let error = error.with_kind(ErrorKind::CommitInDoubt);
    error.advise(way_out.control(Control::Recover))
}
