#![forbid(unsafe_code)]
//! Owns the end of a step over several images that was interrupted: found by the mark on any of them, finished where none has changed since,
//! else undone. Must never know how an image is changed.

use super::journal::{self, Journal, Member, Purpose};
use super::{Access, Image, Layers, OpenOptions};
use crate::chain::{KnownModel, Name, Origin};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::host::{Mark, Progress, Switch};
use crate::memory;
use crate::progress::Observer;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// A step over several images that was interrupted, as one of them tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Unfinished {
    /// The file that records the step.
    pub journal: PathBuf,
    /// Whether nothing else has opened this image for writing since.
    pub is_untouched: bool,
}

/// What became of an interrupted step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Every image has the change.
    Finished,
    /// No image has the change.
    Undone,
    /// An image has changed since, and the change cannot be undone: some images have it and others not.
    LeftApart,
}

/// What [`Image::recover`] did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Recovered {
    /// What became of the step.
    pub outcome: Outcome,
    /// The step in words, such as "the creation of checkpoint 'monday'".
    pub purpose: String,
    /// The images of the step, in its order.
    pub images: Vec<PathBuf>,
    /// What the user has to know, one sentence each.
    pub warnings: Vec<String>,
}

/// On which side of its switch an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// As the step left it.
    Left(Progress),
    /// As the step left it within its switch, where the way back is closed: it may have been written to while its bitmaps did not count.
    Bound,
    /// Something else has changed it since, after its switch had come this far.
    Changed(Progress),
    /// It has no mark of the step: none was set yet, or another image stands in its place.
    Unmarked,
}

impl Side {
    fn has_switched(self) -> bool {
        matches!(self, Side::Left(Progress::After) | Side::Changed(Progress::After) | Side::Bound)
    }

    fn is_left(self) -> bool {
        matches!(self, Side::Left(_) | Side::Bound)
    }

    /// Whether the switch had begun, as far as the image tells.
    fn has_begun(self) -> bool {
        match self {
            Side::Left(progress) | Side::Changed(progress) => progress != Progress::Before,
            Side::Bound => true,
            Side::Unmarked => false,
        }
    }
}

impl Image {
    /// The step over several images that was interrupted while this one took part. Until it has ended no call changes the image;
    /// the answers of reading calls are true.
    pub fn unfinished(&self) -> Option<Unfinished> {
        let Mark { journal, is_untouched, .. } = self.host.mark()?;
        Some(Unfinished { journal, is_untouched })
    }

    /// Ends the step that was interrupted, on all images that took part; `None` where there is none. The image must be open for
    /// writing, and the others are opened so.
    ///
    /// Where nothing has changed any of them since, the step is finished on those that lack it. Else a checkpoint that it
    /// created is deleted from those that have it, its bits merged back, so that no block is missed; checkpoints that were deleted or
    /// renamed stay as they are on each image, and a warning says so. A step that all images had taken is done, whatever wrote to them
    /// since.
    ///
    /// On an error the step is still unfinished, and every image is sound. [`ErrorKind::InUse`] where another program has one of
    /// them, [`ErrorKind::Unclean`] where the journal or an image is not to be found or belongs to another step,
    /// [`ErrorKind::Damaged`] where the journal is.
    pub fn recover(&mut self, observer: &mut dyn Observer) -> Result<Option<Recovered>> {
        let Some(mark) = self.host.mark() else { return Ok(None) };
        self.check_changeable()?;
        let mut journal = self.journal_of(&mark)?;
        if journal.is_done {
            return self.clear_away(&journal, &mark).map(Some);
        }
        let mut others = Vec::new();
        let (number, options) = (mark.number as usize, self.options);
        for (other, member) in journal.members.iter().enumerate().filter(|(other, _)| *other != number) {
            let opened = open_member(member, &options).map_err(|error| missing(error, &mark.journal))?;
            memory::push(&mut others, (other, opened))?;
        }
        let mut images: Vec<&mut Image> = memory::room(journal.members.len())?;
        let mut own = Some(self);
        let mut rest = others.iter_mut().peekable();
        for place in 0..journal.members.len() {
            match rest.next_if(|(other, _)| *other == place) {
                Some((_, other)) => images.push(other),
                None => images.extend(own.take()),
            }
        }
        let recovered = recover(&mut journal, &mut images, &mark, observer);
        // Plans made before are void.
        images.iter_mut().for_each(|image| image.origin = Origin::default());
        recovered.map(Some)
    }

    /// What [`Image::recover`] would do, with its refusals but those that come with writing; `None` where no step was interrupted. Nothing is
    /// changed. The other images are opened as this one is.
    pub fn preview_recover(&self) -> Result<Option<Recovered>> {
        let Some(mark) = self.host.mark() else { return Ok(None) };
        let journal = self.journal_of(&mark)?;
        if journal.is_done {
            return Ok(Some(journal.recovered(Outcome::Finished, Vec::new())));
        }
        let mut sides = memory::room(journal.members.len())?;
        for (number, member) in journal.members.iter().enumerate() {
            sides.push(match number == mark.number as usize {
                true => self.side(&journal, number),
                false => open_member(member, &self.options)
                    .map_err(|error| missing(error, &mark.journal))?
                    .side(&journal, number),
            });
        }
        Ok(Some(journal.recovered(outcome_of(&sides, &journal.purpose), Vec::new())))
    }

    /// Takes out the marks of a step that every image has taken: this one's, and those of all that can be opened.
    fn clear_away(&mut self, journal: &Journal, mark: &Mark) -> Result<Recovered> {
        let mut is_all = true;
        for (number, member) in journal.members.iter().enumerate().filter(|(number, _)| *number != mark.number as usize)
        {
            let other = open_member(member, &self.options);
            is_all &= other.and_then(|mut other| other.take_own_mark_out(journal, number)).is_ok();
        }
        self.take_own_mark_out(journal, mark.number as usize)?;
        let mut warnings = Vec::new();
        if is_all {
            journal::remove_at_end(&mark.journal, &mut warnings);
        }
        Ok(journal.recovered(Outcome::Finished, warnings))
    }

    fn take_own_mark_out(&mut self, journal: &Journal, number: usize) -> Result<()> {
        match self.own_mark(journal, number) {
            None => Ok(()),
            Some(_) => {
                let taken = self.host.take_mark_out();
                self.note_change(taken)
            }
        }
    }

    /// Takes out the mark of a step that was interrupted, and leaves this image as it is: for a step whose journal or images are lost.
    /// The other images of the step may differ from it.
    pub fn forget_step(&mut self) -> Result<()> {
        self.check_changeable()?;
        match self.host.mark() {
            None => Ok(()),
            Some(_) => {
                let taken = self.host.take_mark_out();
                self.note_change(taken)
            }
        }
    }

    fn check_changeable(&self) -> Result<()> {
        match self.options.access {
            Access::Write => Ok(()),
            _ => {
                let read_only = Error::new(ErrorKind::ReadOnly, "was not opened for writing");
                Err(self.name_it(read_only.advise("open it for writing").nothing_changed()))
            }
        }
    }

    /// The journal that the mark names, of which this image is the one that the mark says.
    fn journal_of(&self, mark: &Mark) -> Result<Journal> {
        let refused = |message: String| {
            let error = Error::new(ErrorKind::Unclean, message).nothing_changed();
            Err(self.name_it(error.advise(forgetting())))
        };
        if !mark.journal.is_absolute() {
            return refused("the mark of an interrupted step is damaged, and names no journal".into());
        }
        let place = mark.journal.display();
        let unreadable = |error: Error| error.nothing_changed().advise(forgetting());
        let Some(journal) = Journal::read(&mark.journal).map_err(unreadable)? else {
            return refused(format!(
                "a step over several images was interrupted, and its journal {place} is not there"
            ));
        };
        if journal.step != mark.step {
            return refused(format!("{place} is the journal of another step"));
        }
        let member = journal.members.get(mark.number as usize);
        let own = self.storage.as_ref().and_then(|storage| storage.file_id());
        let there = member.and_then(|member| std::fs::metadata(&member.path).ok());
        match there.map(|there| crate::io::FileId::of(&there)) == own && own.is_some() {
            true => Ok(journal),
            false => refused(format!(
                "is not where the journal {place} says: {}; it was moved, or is a copy",
                member.map(|member| member.path.display().to_string()).unwrap_or_default()
            )),
        }
    }

    fn side(&self, journal: &Journal, number: usize) -> Side {
        let (Some(mark), Some(member)) = (self.own_mark(journal, number), journal.members.get(number)) else {
            return Side::Unmarked;
        };
        let (is_untouched, sum) = (mark.is_untouched, self.host.state_sum());
        match mark.progress {
            Progress::Before if is_untouched && sum == Some(member.switch.before) => Side::Left(Progress::Before),
            Progress::After if is_untouched && sum == Some(member.switch.after) => Side::Left(Progress::After),
            Progress::Within => match [true, false].map(|forward| self.host.can_switch(&member.switch, forward)) {
                [true, true] => Side::Left(Progress::Within),
                [true, false] => Side::Bound,
                // As it stands, its bitmaps count as lost or as they are, and nothing makes more of them.
                _ => Side::Changed(Progress::Within),
            },
            progress => Side::Changed(progress),
        }
    }

    /// The mark, where it is that of this step.
    fn own_mark(&self, journal: &Journal, number: usize) -> Option<Mark> {
        self.host.mark().filter(|mark| mark.step == journal.step && mark.number as usize == number)
    }

    /// Deletes the checkpoint that an unfinished step created, where it is there; says that, or why it cannot go.
    fn take_checkpoint_out(
        &mut self,
        checkpoint: &Name,
        model: Option<KnownModel>,
        has_changed: bool,
        observer: &mut dyn Observer,
    ) -> Result<Option<String>> {
        let name = checkpoint.as_bytes();
        self.host.mend(true);
        let deleted = match self.chain_for(model, &[name]) {
            Ok(chain) if chain.checkpoint(name).is_none() => Ok(None),
            Ok(_) => {
                let plan = self.plan_delete(name, false, Layers::TopOnly, model);
                plan.and_then(|plan| self.commit(&plan, observer)).map(Some)
            }
            Err(error) => Err(error),
        };
        self.host.mend(false);
        match deleted {
            Ok(None) => Ok(None),
            Ok(Some(_)) => Ok(Some(format!(
                "{}: the checkpoint {checkpoint} is taken out again, its bits merged back{}",
                self.path.display(),
                if has_changed {
                    "; if another program replaced it by one of this name since, that one is gone"
                } else {
                    ""
                }
            ))),
            // What a killed hypervisor left can never be merged; a diff since such a checkpoint is refused anyway.
            Err(error) if matches!(error.kind(), ErrorKind::Inconsistent | ErrorKind::Stale) => Ok(Some(format!(
                "{}: the checkpoint {checkpoint} stays here, as its bitmap cannot be merged back: {}",
                self.path.display(),
                error.message()
            ))),
            Err(error) => Err(error),
        }
    }

    /// Switches forward or back, where the switch was interrupted or never begun.
    fn switch_again(&mut self, switch: &Switch, forward: bool, warnings: &mut Vec<String>) -> Result<()> {
        let said = self.host.switch_again(switch, forward).map_err(|error| self.name_it(error))?;
        warnings.extend(said.into_iter().map(|warning| format!("{}: {warning}", self.path.display())));
        Ok(())
    }
}

/// Opens an image of a journal that is a file or a block device: nothing else is opened only because an image or a journal names it.
pub(super) fn open_member(member: &Member, options: &OpenOptions) -> Result<Image> {
    let there = std::fs::metadata(&member.path).map_err(|error| Error::io("cannot be found", error));
    match there.map(|there| there.is_file() || there.file_type().is_block_device()) {
        Ok(true) => Image::open(&member.path, options),
        Ok(false) => {
            let error =
                Error::new(ErrorKind::Unclean, "is neither a file nor a block device, and so no image of the step");
            Err(error.in_file(&member.path))
        }
        Err(error) => Err(error.in_file(&member.path)),
    }
}

/// Ends the step on these images, which are those of the journal in its order.
fn recover(
    journal: &mut Journal,
    images: &mut [&mut Image],
    mark: &Mark,
    observer: &mut dyn Observer,
) -> Result<Recovered> {
    let mut warnings = Vec::new();
    let ended = end(journal, images, mark, &mut warnings, observer);
    let outcome = ended.map_err(|error| error.telling(&warnings))?;
    journal::remove_at_end(&mark.journal, &mut warnings);
    Ok(journal.recovered(outcome, warnings))
}

fn end(
    journal: &mut Journal,
    images: &mut [&mut Image],
    mark: &Mark,
    warnings: &mut Vec<String>,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    let sides: Vec<Side> = images.iter().enumerate().map(|(number, image)| image.side(journal, number)).collect();
    let outcome = outcome_of(&sides, &journal.purpose);
    if outcome == Outcome::Finished {
        for ((image, member), side) in images.iter_mut().zip(&journal.members).zip(&sides) {
            if !side.has_switched() || *side == Side::Bound {
                image.switch_again(&member.switch, true, warnings)?;
            }
        }
        // Before a mark goes: without it, an image would look as if it had never been marked.
        journal.end(&mark.journal)?;
    } else if sides.iter().any(|side| side.has_begun()) {
        take_back(journal, images, &sides, warnings, observer)?;
    }
    // Those that have the change come last: as long as one of them has its mark, the next recovery knows that the step had begun.
    for has_switched in [false, true] {
        for (number, image) in images.iter_mut().enumerate() {
            if sides.get(number).is_some_and(|side| side.has_switched() == has_switched) {
                image.take_own_mark_out(journal, number)?;
            }
        }
    }
    Ok(outcome)
}

/// How a step ends whose images are on these sides.
fn outcome_of(sides: &[Side], purpose: &Purpose) -> Outcome {
    let (has_begun, is_left) = (sides.iter().any(|side| side.has_begun()), sides.iter().all(|side| side.is_left()));
    match has_begun && (is_left || sides.iter().all(|side| side.has_switched())) {
        true => Outcome::Finished,
        false if !has_begun || matches!(purpose, Purpose::Create(..)) => Outcome::Undone,
        false => Outcome::LeftApart,
    }
}

/// Undoes a creation on the images that have it; anything else stays as it is on each image, which is told.
fn take_back(
    journal: &Journal,
    images: &mut [&mut Image],
    sides: &[Side],
    warnings: &mut Vec<String>,
    observer: &mut dyn Observer,
) -> Result<()> {
    for ((image, member), side) in images.iter_mut().zip(&journal.members).zip(sides) {
        match (side, &journal.purpose) {
            (Side::Left(Progress::Within), _) => image.switch_again(&member.switch, false, warnings)?,
            (Side::Bound, _) => image.switch_again(&member.switch, true, warnings)?,
            // A checkpoint of that name on an image whose switch had not begun is somebody else's.
            (side, Purpose::Create(checkpoint, model)) if side.has_begun() => {
                warnings.extend(image.take_checkpoint_out(checkpoint, *model, !side.is_left(), observer)?);
            }
            _ => {}
        }
    }
    if matches!(journal.purpose, Purpose::Create(..)) {
        return Ok(());
    }
    for (image, side) in images.iter().zip(sides) {
        let what = match side {
            Side::Left(Progress::After) | Side::Changed(Progress::After) | Side::Bound => "has been changed",
            Side::Changed(Progress::Within) => {
                "may have been changed, and another program may have written to it since: its bitmaps may be lost"
            }
            Side::Unmarked => {
                "is not the one of the step, or another recovery was interrupted: look whether it has been changed"
            }
            _ => "has not been changed",
        };
        warnings.push(format!("{}: {} cannot be undone; this image {what}", image.path.display(), journal.purpose));
    }
    Ok(())
}

impl Journal {
    fn recovered(&self, outcome: Outcome, warnings: Vec<String>) -> Recovered {
        let images = self.members.iter().map(|member| member.path.clone()).collect();
        Recovered { outcome, purpose: self.purpose.to_string(), images, warnings }
    }
}

/// The refusal where an image of the step cannot be opened.
fn missing(error: Error, journal: &Path) -> Error {
    let way_out = WayOut::from(format!("all images that {} names are needed to end the step", journal.display()));
    match error.kind() {
        ErrorKind::Io => error.with_kind(ErrorKind::Unclean).nothing_changed().advise(forgetting()),
        _ => error.nothing_changed().advise(way_out),
    }
}

fn forgetting() -> WayOut {
    WayOut::from("bring back what is missing; if it is lost, leave this image as it is with ")
        .control(Control::ForgetStep)
}
