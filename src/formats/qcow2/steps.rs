#![forbid(unsafe_code)]
//! Owns the way of the header cluster from one state to another on the disk, sector by sector, each flushed, and the way back. Must never know
//! the states: those are `stages`.

use super::commit::{flush, write_at};
use super::header::Header;
use crate::error::{Control, ErrorKind, Result, WayOut};
use crate::io::Storage;
use crate::memory;

pub(super) const SECTOR: usize = 512;

/// The header cluster as it is, and after each of these stages.
pub(super) fn states(header: &Header, stages: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    let mut states = memory::room(stages.len() + 1)?;
    states.push(memory::copy(&header.raw)?);
    states.extend(stages);
    Ok(states)
}

/// The states without those between two that differ in one sector: that one write leads from the first to the last.
pub(super) fn joined(states: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    let mut kept: Vec<Vec<u8>> = memory::room(states.len())?;
    for state in states {
        while let [.., before, _] = &*kept
            && changed_sectors(before, &state).count() <= 1
        {
            kept.pop();
        }
        kept.push(state);
    }
    Ok(kept)
}

/// Changes the header cluster from state to state, and asks for no memory; from the first sector on a failure is
/// [`ErrorKind::CommitInDoubt`]. Where one fails, those before it are taken back, the last first.
pub(super) fn commit(storage: &dyn Storage, header: &mut Header, mut states: Vec<Vec<u8>>) -> Result<()> {
    let (several, crossing) = (states.len() > 2, header.directory_crosses_sectors());
    for (number, step) in states.windows(2).enumerate() {
        let [now, next] = step else { continue };
        let Err(error) = write_stage(storage, now, next) else { continue };
        // A single stage is there or not, and either is whole.
        let begun = states.get(..number + 2).unwrap_or_default();
        let undone = if several { take_back(storage, begun) } else { Ok(()) };
        let error = if undone.is_err() && crossing { error.advise(lost()) } else { error };
        return Err(error.with_kind(ErrorKind::CommitInDoubt).advise(
            WayOut::from("the commit is in doubt: the image holds the bitmaps before or after it, whole; look with ")
                .control(Control::List),
        ));
    }
    header.raw = states.pop().unwrap_or_default();
    Ok(())
}

/// Changes the header cluster from state to state; where one fails, all are taken back, and nothing has changed. It is
/// [`ErrorKind::CommitInDoubt`] where that fails too.
pub(super) fn walk(storage: &dyn Storage, states: &[Vec<u8>]) -> Result<()> {
    for (number, step) in states.windows(2).enumerate() {
        let [now, next] = step else { continue };
        if let Err(error) = write_stage(storage, now, next) {
            let begun = states.get(..number + 2).unwrap_or_default();
            return Err(match take_back(storage, begun) {
                Ok(()) => error,
                Err(_) => error.with_kind(ErrorKind::CommitInDoubt),
            });
        }
    }
    Ok(())
}

/// Changes the header cluster back from the last of these states to the first.
pub(super) fn take_back(storage: &dyn Storage, states: &[Vec<u8>]) -> Result<()> {
    let steps = states.windows(2).rev();
    steps.filter_map(<[_]>::first_chunk).try_for_each(|[before, after]| write_stage(storage, after, before))
}

/// Writes the one sector in which `next` differs.
fn write_stage(storage: &dyn Storage, now: &[u8], next: &[u8]) -> Result<()> {
    changed_sectors(now, next).try_for_each(|sector| write_sector(storage, next, sector))
}

/// The way out where both the new and the old place of the directory may be half written.
fn lost() -> WayOut {
    WayOut::from("the bitmaps may be lost, never the disk's data: look with ")
        .control(Control::List)
        .words(", and make the next backup a full one if they are gone")
}

/// The sectors in which two header clusters differ, ascending.
fn changed_sectors(old: &[u8], new: &[u8]) -> impl Iterator<Item = usize> {
    let differs = |(_, (old, new)): &(usize, (&[u8], &[u8]))| old != new;
    old.chunks(SECTOR).zip(new.chunks(SECTOR)).enumerate().filter(differs).map(|(number, _)| number)
}

pub(super) fn write_sector(storage: &dyn Storage, cluster: &[u8], number: usize) -> Result<()> {
    let bytes = cluster.chunks(SECTOR).nth(number).unwrap_or_default();
    write_at(storage, bytes, (number * SECTOR) as u64)?;
    flush(storage)
}
