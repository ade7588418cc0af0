#![forbid(unsafe_code)]
//! Owns the part of one qcow2 image in a step over several: everything but the header is written as in any change, then the header gets the
//! mark, and the switch is that of any change. Must never know the other images.

use super::Qcow2;
use super::commit::{self, Begun};
use super::directory;
use super::header::{AUTOCLEAR_BITMAPS, DirectoryRef, EXTENSION_BITMAPS, Header};
use super::occupied::Occupied;
use super::steps;
use crate::chain::Action;
use crate::checksum::crc32c;
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::host::{Ground, Host, Mark, Prepared, Progress, Switch};
use crate::io::Memory;
use crate::io::bytes::{le_u32, le_u64};
use crate::memory;
use crate::progress::Observer;
use std::sync::Arc;

/// The bytes that say where a directory is: how many bitmaps, its length and its place.
const PLACE_LEN: usize = 20;
/// The directory before the switch, then the one after it.
const REDO_LEN: usize = 2 * PLACE_LEN;

/// The image as it is, with the map of its clusters.
struct Stand<'h> {
    image: &'h Qcow2,
    occupied: Occupied,
    header: Header,
}

/// A change whose header can be marked and switched; all its states are in memory.
struct Part<'a> {
    begun: Begun<'a>,
    switch: Switch,
    /// From the header without a mark to the marked one; from there to the switched one; from there to that without a mark.
    marking: Vec<Vec<u8>>,
    switching: Vec<Vec<u8>>,
    unmarking: Vec<Vec<u8>>,
    is_marked: bool,
}

impl Ground for Stand<'_> {
    fn prepare<'a>(
        &'a mut self,
        actions: &[Action],
        mark: &Mark,
        observer: &mut dyn Observer,
    ) -> Result<Box<dyn Prepared + 'a>> {
        check_place(&self.header).map_err(Error::nothing_changed)?;
        let change = self.image.change(actions, &[], &self.occupied).map_err(Error::nothing_changed)?;
        let begun = change.begin(&mut self.header, observer)?;
        Ok(Box::new(Part::new(begun, mark)?))
    }
}

impl<'a> Part<'a> {
    fn new(begun: Begun<'a>, mark: &Mark) -> Result<Self> {
        match States::of(&begun, mark) {
            Ok(States { switch, marking, switching, unmarking }) => {
                Ok(Self { begun, switch, marking, switching, unmarking, is_marked: false })
            }
            Err(error) => Err(begun.give_up(error)),
        }
    }
}

struct States {
    switch: Switch,
    marking: Vec<Vec<u8>>,
    switching: Vec<Vec<u8>>,
    unmarking: Vec<Vec<u8>>,
}

impl States {
    fn of(begun: &Begun<'_>, mark: &Mark) -> Result<Self> {
        let (plain, directory) = (begun.header(), begun.directory());
        let marking = steps::states(plain, plain.with_mark(mark)?)?;
        let marked = last(&marking)?;
        let switching = switching(&marked, directory, Progress::After)?;
        let switched = last(&switching)?;
        let unmarking = steps::states(&switched, switched.without_mark()?)?;
        let mut redo = memory::room(REDO_LEN)?;
        for place in [plain.directory.as_ref().ok().copied().flatten(), directory] {
            let DirectoryRef { bitmaps, len_bytes, offset } =
                place.unwrap_or(DirectoryRef { bitmaps: 0, len_bytes: 0, offset: 0 });
            redo.extend(bitmaps.to_le_bytes());
            redo.extend(len_bytes.to_le_bytes());
            redo.extend(offset.to_le_bytes());
        }
        let switch = Switch::new(crc32c(&marked.raw), crc32c(&switched.raw), redo);
        Ok(Self { switch, marking, switching, unmarking })
    }
}

/// From this marked header to that of another directory, whose mark tells how far the switch came, at each moment.
fn switching(marked: &Header, directory: Option<DirectoryRef>, end: Progress) -> Result<Vec<Vec<u8>>> {
    let mut states = steps::states(marked, marked.with_progress(Progress::Within)?)?;
    let begun = last(&states)?;
    memory::extend(&mut states, begun.with_directory(directory)?)?;
    let switched = last(&states)?;
    memory::extend(&mut states, switched.with_progress(end)?)?;
    steps::joined(states)
}

/// Refuses a directory whose place changes by halves: between them the bitmaps do not count, and an image that is left so cannot tell
/// whether a guest wrote to it.
pub(super) fn check_place(header: &Header) -> Result<()> {
    if !header.directory_crosses_sectors() {
        return Ok(());
    }
    let message = "the place of the bitmap directory crosses two sectors of the header, so that a change in one step with other \
                   images could not be ended after a power cut";
    Err(Error::new(ErrorKind::CannotStore, message)
        .at("qcow2 header cluster", header.extension(EXTENSION_BITMAPS).map(|found| found.at as u64))
        .advise("change this image by itself"))
}

/// The header that the last of these states is.
fn last(states: &[Vec<u8>]) -> Result<Header> {
    Header::read(&Memory(states.last().map(Vec::as_slice).unwrap_or_default()))
}

impl Prepared for Part<'_> {
    fn switch_record(&self) -> &Switch {
        &self.switch
    }

    fn mark(&mut self) -> Result<()> {
        steps::walk(self.begun.storage(), &self.marking)?;
        self.is_marked = true;
        Ok(())
    }

    fn switch(&mut self) -> Result<()> {
        steps::walk(self.begun.storage(), &self.switching)
    }

    fn switch_back(&mut self) -> Result<()> {
        steps::take_back(self.begun.storage(), &self.switching)
    }

    fn finish(&mut self, warnings: &mut Vec<String>) -> bool {
        warnings.append(&mut self.begun.take_warnings());
        let walked = steps::walk(self.begun.storage(), &self.unmarking);
        match &walked {
            Ok(()) => warnings.extend(self.begun.release()),
            Err(error) => {
                warnings.push(format!("done, but the mark of the step stays in the image: {}", error.reason()));
            }
        }
        walked.is_ok()
    }

    fn give_up(&mut self) -> Result<()> {
        if self.is_marked {
            // The mark may still be there, so its journal must stay.
            steps::take_back(self.begun.storage(), &self.marking)
                .map_err(|error| error.with_kind(ErrorKind::CommitInDoubt))?;
            self.is_marked = false;
        }
        match self.begun.undo() {
            true => Ok(()),
            false => {
                Err(Error::new(ErrorKind::Io, "what was prepared could not be taken back").advise(commit::not_undone()))
            }
        }
    }
}

impl Qcow2 {
    pub(super) fn stand(&self, observer: &mut dyn Observer) -> Result<Box<dyn Ground + '_>> {
        let occupied = self.occupied_to_write(observer)?;
        Ok(Box::new(Stand { image: self, occupied, header: self.header.try_clone()? }))
    }

    /// Refuses a mark for which the header has no room.
    pub(super) fn check_room_for(&self, mark: &Mark) -> Result<()> {
        self.header.with_mark(mark).map(drop)
    }

    /// Switches to the directory that a step left behind, or back to the one before.
    pub(super) fn switch_again(&mut self, switch: &Switch, forward: bool) -> Result<Vec<String>> {
        let mut header = self.header.try_clone().map_err(Error::nothing_changed)?;
        let states = self.states_of(switch, forward).map_err(Error::nothing_changed)?;
        let written = steps::commit(&*self.storage, &mut header, states).map(|()| {
            vec![
                "room that the step no longer needs stays counted as used: `qemu-img check -r leaks` releases it"
                    .into(),
            ]
        });
        self.conclude(&header, written)
    }

    fn states_of(&self, switch: &Switch, forward: bool) -> Result<Vec<Vec<u8>>> {
        let (states, directory) = self.way(switch, forward)?;
        if let Some(place) = directory
            && let Some(fault) = directory::read(&*self.storage, &last(&states)?, place)?.fault
        {
            return Err(fault);
        }
        Ok(states)
    }

    /// The way forward or back, and the directory at its end, where nothing else has changed the image since.
    pub(super) fn way(&self, switch: &Switch, forward: bool) -> Result<(Vec<Vec<u8>>, Option<DirectoryRef>)> {
        let changed = || {
            Error::new(ErrorKind::Changed, "the image is no longer the one that the step left behind")
                .advise(WayOut::from("verify it with ").control(Control::Check))
        };
        let mark = self.header.mark().filter(|mark| mark.is_untouched).ok_or_else(changed)?;
        let [old, new] = [0, PLACE_LEN].map(|at| DirectoryRef {
            bitmaps: le_u32(&switch.redo, at),
            len_bytes: le_u64(&switch.redo, at + 4),
            offset: le_u64(&switch.redo, at + 12),
        });
        let (place, end) = if forward { (new, Progress::After) } else { (old, Progress::Before) };
        let directory = (place.bitmaps > 0).then_some(place);
        // While the bit is off, QEMU sees an image without bitmaps: where it reopens that for writing, it writes no header. So the
        // old bits, and the new ones that come from them, may lack writes, and must not count again.
        let is_off = self.header.autoclear & AUTOCLEAR_BITMAPS == 0;
        let may_lack_writes = is_off && old.bitmaps > 0 && directory.is_some();
        let states = switching(&self.header, directory, end)?;
        let leads_there = !forward || crc32c(&last(&states)?.raw) == switch.after;
        let is_as_recorded = match mark.progress {
            Progress::Before => crc32c(&self.header.raw) == switch.before,
            // Both directories are as they were: nothing has opened the image for writing while it had bitmaps.
            Progress::Within => !may_lack_writes,
            Progress::After => false,
        };
        match switch.redo.len() == REDO_LEN && is_as_recorded && leads_there {
            true => Ok((states, directory)),
            false => Err(changed()),
        }
    }

    /// Takes the mark out, however often it stands there.
    pub(super) fn take_mark_out(&mut self) -> Result<()> {
        let mut header = self.header.try_clone()?;
        let mut states: Vec<Vec<u8>> = steps::states(&header, Vec::new())?;
        while header.mark().is_some() {
            memory::extend(&mut states, header.without_mark()?)?;
            header = last(&states)?;
        }
        let mut header = self.header.try_clone()?;
        let written = steps::commit(&*self.storage, &mut header, states).map(|()| Vec::new());
        self.conclude(&header, written).map(drop)
    }

    /// Reads the file anew; where that fails, everything is refused from now on.
    pub(super) fn renew(&mut self) -> Result<()> {
        match Self::open(Arc::clone(&self.storage)) {
            Ok(now) => {
                *self = Self { threads: self.threads, mends: self.mends, ..now };
                Ok(())
            }
            Err(error) => {
                self.give_up(error.clone());
                Err(error)
            }
        }
    }

    /// The refusal of a change while a step over several images is unfinished.
    pub(super) fn unfinished(&self) -> Option<Error> {
        let mark = self.mark().filter(|_| !self.mends)?;
        let message = format!(
            "a change of this image and others in one step was interrupted; {} says which",
            mark.journal.display()
        );
        Some(Error::new(ErrorKind::Unclean, message).advise(WayOut::from("end it with ").control(Control::Recover)))
    }
}
