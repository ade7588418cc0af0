#![forbid(unsafe_code)]
//! Owns the set operations that change a directory where it lies: few chunks one by one, and words in their places. Must never
//! know disks or granularities.
//!
//! What becomes smaller is drawn together at once, so that the arena has no gaps and takes no more memory than a result that
//! is built anew.

use super::arena::ArenaOffset;
use super::container::{Container, Operation, View, Workspace};
use super::directory::{Directory, packed_of};
use super::entry::{Body, Entry};
use crate::kernels::WORDS;
use crate::memory::{self, Result};

/// Nothing may fail while words are changed.
const PREPARED: &str = "all rooms were made before";

impl Directory {
    /// Combines with few chunks, one by one. An intersection, and an exclusive or with whole chunks, are no such change: they
    /// are built anew. Where it fails nothing has changed.
    pub(super) fn combine_few(&mut self, operation: Operation, other: &Self) -> Result<()> {
        let mut workspace = Workspace::new();
        let mut made = memory::room(other.entries().len())?;
        for theirs in other.entries().iter().filter(|theirs| !theirs.is_full()) {
            let view = other.view(theirs);
            let container = match (operation, self.find(theirs.key)) {
                (Operation::Subtract, None) => continue,
                (Operation::Union, Some(Entry { body: Body::Full, .. })) => continue,
                // A chunk that is united in its place needs no memory.
                (Operation::Union, Some(Entry { body: Body::Own(Container::Bits { .. }), .. })) => continue,
                (_, None) => Container::copy(view, theirs.ones_of_chunk())?,
                (_, Some(ours)) => {
                    let made = match self.view(ours) {
                        View::Full => workspace.complement(view)?,
                        ours => workspace.combine(operation, ours, view)?,
                    };
                    Container::copy(made.view, made.measure.ones)?
                }
            };
            made.push((theirs.key, container));
        }
        self.reserve(other.entries().len())?;
        let mut made = made.into_iter().peekable();
        for theirs in other.entries() {
            if let Some((key, container)) = made.next_if(|(key, _)| *key == theirs.key) {
                self.put(key, container);
            } else if operation == Operation::Subtract {
                if theirs.is_full() {
                    self.take_out(theirs.key, theirs.end());
                }
            } else if theirs.is_full() {
                self.put_full(theirs.key, theirs.end());
            } else {
                self.edit(theirs.key, |ours| ours.unite_with(other.view(theirs), &mut workspace).map(i64::from))?;
            }
        }
        Ok(())
    }

    /// Combines with all of `other` if that changes only words of this, which are changed in their place, as fresh pages for a
    /// new result cost more than the operation. Else nothing changes; whether it was done.
    pub(super) fn combine_in_place(&mut self, operation: Operation, other: &Self) -> Result<bool> {
        if !self.has_words_for(operation, other) {
            return Ok(false);
        }
        let mut workspace = Workspace::new();
        workspace.prepare()?;
        let (mut added, mut taken) = (0, 0);
        let mut rest = other.entries();
        // The end of the part of the arena that is done.
        let mut end = ArenaOffset::start_of(0);
        let entries = self.entries.all_mut();
        for ours in entries.iter_mut() {
            let Some(place) = ours.place() else { continue };
            if place.block() != end.block() {
                self.arena.cut(end, place.block());
                end = ArenaOffset::start_of(place.block());
            }
            let start = end;
            let theirs = theirs_of(ours, &mut rest).filter(|_| matches!(ours.body, Body::Words(..)));
            let Some(theirs) = theirs else {
                end = self.arena.draw(place, ours.bytes().div_ceil(size_of::<u64>()), start);
                ours.move_to(start);
                continue;
            };
            if let Some(next) = rest.get(1) {
                other.prefetch(next);
            }
            let words = self.arena.words_mut(place);
            let changed = workspace.change_words(operation, words, other.view(theirs));
            let measure = changed.expect(PREPARED);
            taken += u64::from(ours.size);
            added += u64::from(measure.ones);
            (*ours, end) = match workspace.smaller_than(words, measure).expect(PREPARED) {
                Some(View::Full) => (Entry::full(ours.key, ours.key + 1), start),
                Some(view) => (Entry::packed(ours.key, measure, view, start), self.arena.put(start, view)),
                None => (Entry::words(ours.key, measure, start), self.arena.draw(place, WORDS, start)),
            };
        }
        self.arena.cut(end, self.arena.blocks());
        // What holds nothing has no entry, and full ones are joined.
        entries.retain(|entry| entry.size > 0);
        entries.dedup_by(|entry, before| {
            let touch = before.is_full() && entry.is_full() && before.end() == entry.key;
            before.size += if touch { entry.size } else { 0 };
            touch
        });
        self.packed = packed_of(entries);
        self.recount(added, taken);
        self.shrink();
        Ok(true)
    }

    /// Whether an operation with `other` changes only words of this, which lie in the arena in the order of their chunks, and
    /// all that is in it.
    fn has_words_for(&self, operation: Operation, other: &Self) -> bool {
        let (mut rest, mut matched, mut before) = (other.entries(), 0, None::<ArenaOffset>);
        for ours in self.entries() {
            let theirs = theirs_of(ours, &mut rest);
            let is_fine = match (&ours.body, theirs) {
                (Body::Words(..), Some(theirs)) => !theirs.is_full(),
                (Body::Own(_), _) | (_, Some(_)) => false,
                (_, None) => operation != Operation::Intersect,
            };
            let is_behind = match ours.place() {
                Some(place) => before.replace(place).is_none_or(|last| last.is_before(place)),
                None => true,
            };
            if !is_fine || !is_behind {
                return false;
            }
            matched += usize::from(theirs.is_some());
        }
        matched > 0 && (operation == Operation::Subtract || matched == other.entries().len())
    }
}

/// What another has in the chunks of an entry, at least in some; `rest` holds the entries that are left of it, and loses those that lie before.
fn theirs_of<'a>(ours: &Entry, rest: &mut &'a [Entry]) -> Option<&'a Entry> {
    while let Some((theirs, later)) = rest.split_first()
        && theirs.end() <= ours.key
    {
        *rest = later;
    }
    rest.first().filter(|theirs| theirs.key < ours.end())
}
