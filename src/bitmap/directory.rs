#![forbid(unsafe_code)]
//! Owns the sorted list of the chunks that have dirty granules, what each holds, and how many granules are dirty before
//! each. Knows nothing of disk sizes, granularities or bytes.
//!
//! Consecutive full chunks share one entry, so a whole disk of 2^41 granules is one entry. Chunks without dirty granules
//! have none. Which entries there are depends on the bits alone. Containers built in one go lie packed in an arena, each in its
//! smallest form; a chunk that is changed afterwards gets a container of its own.
//!
//! A change that finds no memory leaves everything as it was: what it needs is asked for before the first step that could not
//! be taken back.

use super::arena::Arena;
use super::container::{Container, Form, Keeper, Operation, Packer, Pair, Run, View, Words, Workspace, packed_len};
use super::entries::{self, Entries};
use super::entry::{Body, Entry};
use super::span::{Span, split};
use crate::kernels::{BLOCK, Measure, prefetch, select};
use crate::memory::{self, Result};
use once_cell::race::OnceBox;
use std::ops::Range;

/// The bytes that are worth to be fetched ahead, and those behind which the CPU goes on by itself.
const FETCH_MIN: usize = 512;
const FETCH_MAX: usize = 2048;

/// The part of an entry that lies in the arena, and the words that follow it there.
pub(super) enum Packed<'a> {
    List(&'a [u16]),
    Runs(&'a [Pair]),
}

/// Sorted entries that do not overlap; full ones do not touch.
#[derive(Default)]
pub(super) struct Directory {
    pub(super) entries: Entries,
    pub(super) arena: Arena,
    /// The entries that lie in the arena.
    pub(super) packed: usize,
    /// The dirty granules of all entries.
    ones: u64,
    /// The dirty granules before each entry, and at last all of them; made when first asked for. Who asks never waits for
    /// another who makes them too.
    before: OnceBox<Box<[u64]>>,
}

impl Directory {
    /// An empty directory with room for `entries` chunks, prepared for `containers` of them to hold `bytes` bytes at most.
    pub(super) fn with_capacity(entries: usize, containers: usize, bytes: usize) -> Result<Self> {
        let arena = Arena::with_capacity(containers, (bytes / 8).saturating_add(containers));
        Ok(Self { entries: Entries::with_capacity(entries)?, arena, ..Self::default() })
    }

    pub(super) fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            entries: self.entries.try_clone()?,
            arena: self.arena.try_clone()?,
            packed: self.packed,
            ones: self.ones,
            before: OnceBox::new(),
        })
    }

    /// Whether a fork caught another thread while it put new entries in their places.
    #[cfg(feature = "capi")]
    pub(super) fn is_torn(&self) -> bool {
        self.entries.is_torn()
    }

    pub(super) fn entries(&self) -> &[Entry] {
        self.entries.all()
    }

    /// What the chunk of `entry`, or each of its chunks, holds.
    #[inline(always)]
    pub(super) fn view<'a>(&'a self, entry: &'a Entry) -> View<'a> {
        entry.view(&self.arena)
    }

    /// Begins to bring what `entry` holds into the cache, if it is worth it. Words are left to the
    /// kernels, of which those by hand ask for the next ones.
    pub(super) fn prefetch(&self, entry: &Entry) {
        if let Some(place) = entry.place()
            && entry.bytes() >= FETCH_MIN
            && !matches!(entry.body, Body::Words(..))
        {
            prefetch(self.arena.bytes(place, entry.bytes().min(FETCH_MAX)));
        }
    }

    /// The list or the runs of `entry` where they are packed, so that they can be read in blocks.
    #[inline]
    pub(super) fn packed(&self, entry: &Entry) -> Option<Packed<'_>> {
        match entry.body {
            Body::Array(place, _) => Some(Packed::List(self.arena.rest(place))),
            Body::Runs(place, _) => Some(Packed::Runs(self.arena.rest(place).as_chunks().0)),
            _ => None,
        }
    }

    /// The bytes of all that the entries hold.
    pub(super) fn bytes(&self) -> usize {
        self.entries().iter().map(Entry::bytes).sum()
    }

    /// Gives back the memory that is not needed.
    pub(super) fn shrink(&mut self) {
        memory::shrink(self.entries.all_mut());
        self.arena.shrink();
    }

    /// Whether both hold the same in the same places.
    pub(super) fn is_copy_of(&self, other: &Self) -> bool {
        let all = self.entries().iter().zip(other.entries());
        self.entries().len() == other.entries().len()
            && all.into_iter().all(|(a, b)| a.is_copy_of(b))
            && self.arena.has_same_words(&other.arena)
    }

    /// Whether each container is packed in its smallest form, and nothing else is in the arena.
    fn is_tight(&self) -> bool {
        let words = |entry: &Entry| entry.is_smallest().then(|| entry.bytes().div_ceil(size_of::<u64>()));
        self.entries().iter().map(words).sum::<Option<usize>>() == Some(self.arena.words_filled())
    }

    /// Takes the smallest form everywhere, packed.
    pub(super) fn optimize(&mut self) -> Result<()> {
        if self.is_tight() {
            self.shrink();
            return Ok(());
        }
        let (mut packer, mut room) = (Packer::new(), Container::empty());
        let mut packed = Self::with_capacity(self.entries().len(), self.entries().len(), self.bytes())?;
        for entry in self.entries() {
            if entry.is_full() {
                packed.push_full(entry.key, entry.size)?;
            } else {
                let view = packer.pack(self.smallest(entry, &mut room)?)?;
                packed.push(entry.key, entry.measure_of_chunk(), view)?;
            }
        }
        packed.shrink();
        *self = packed;
        Ok(())
    }

    /// What one chunk of `entry` holds in its smallest form, which lies in `room` where it has to be made.
    pub(super) fn smallest<'a>(&'a self, entry: &'a Entry, room: &'a mut Container) -> Result<View<'a>> {
        let (view, Measure { ones, runs }) = (self.view(entry), entry.measure_of_chunk());
        if entry.is_smallest() || view.is_smallest(ones, runs) {
            return Ok(view);
        }
        *room = Container::copy(view, ones)?;
        room.optimize()?;
        Ok(room.view())
    }

    /// The places of the entries that overlap the chunks `key..end`.
    pub(super) fn places(&self, key: u32, end: u32) -> Range<usize> {
        let entries = self.entries();
        let from = entries::place(entries, key);
        if entries.get(end as usize).is_some_and(|entry| entry.key == end) {
            return from..end as usize;
        }
        // Most ranges end near where they begin.
        let mut reach = 1;
        while entries.get(from + reach).is_some_and(|entry| entry.key < end) {
            reach *= 2;
        }
        let near = from + reach / 2;
        let far = entries.len().min(from + reach);
        from..near + entries[near.min(far)..far].partition_point(|entry| entry.key < end)
    }

    /// The entries that overlap the chunks `key..end`.
    pub(super) fn within(&self, key: u32, end: u32) -> &[Entry] {
        &self.entries()[self.places(key, end)]
    }

    /// The entry that holds chunk `key`.
    pub(super) fn find(&self, key: u32) -> Option<&Entry> {
        self.entries().get(self.place(key)).filter(|entry| entry.key <= key)
    }

    /// The first dirty granule from `granule` on.
    #[inline]
    pub(super) fn next_dirty(&self, granule: u64) -> Option<u64> {
        let (key, bit) = split(granule);
        let entries = &self.entries()[self.place(key)..];
        let (first, later) = entries.split_first()?;
        if first.key <= key {
            match self.view(first) {
                View::Full => return Some(granule),
                view => {
                    if let Some(bit) = view.next_set(bit) {
                        return Some(first.base() + u64::from(bit));
                    }
                }
            }
        }
        let next = if first.key <= key { later.first()? } else { first };
        Some(next.base() + u64::from(self.view(next).next_set(0)?))
    }

    /// The first clean granule from `granule` on, all beyond the disk being clean.
    #[inline]
    pub(super) fn next_clean(&self, granule: u64) -> u64 {
        let mut granule = granule;
        for entry in &self.entries()[self.place(split(granule).0)..] {
            let (key, bit) = split(granule);
            if entry.key > key {
                break;
            }
            match self.view(entry).next_clear(bit) {
                Some(bit) => return entry.base() + u64::from(bit),
                None => granule = u64::from(entry.end()) << 16,
            }
        }
        granule
    }

    /// The place of the first entry that ends after chunk `key`.
    pub(super) fn place(&self, key: u32) -> usize {
        entries::place(self.entries(), key)
    }

    /// The dirty granules before each entry, and at last all of them, if there is memory for them.
    #[inline]
    fn before(&self) -> Option<&[u64]> {
        self.before.get().map(|before| &**before).or_else(|| self.count_before().ok())
    }

    #[cold]
    fn count_before(&self) -> Result<&[u64]> {
        let mut sum = 0;
        let mut before = memory::room(self.entries().len() + 1)?;
        before.push(sum);
        before.extend(self.entries().iter().map(|entry| {
            sum += entry.ones();
            sum
        }));
        Ok(self.before.get_or_init(|| Box::new(before.into_boxed_slice())))
    }

    /// The number of dirty granules.
    pub(super) fn ones(&self) -> u64 {
        self.ones
    }

    /// The number of dirty granules of the entries at `places`.
    #[inline]
    pub(super) fn ones_at(&self, places: Range<usize>) -> u64 {
        match self.before() {
            Some(before) => before[places.end] - before[places.start],
            None => self.entries()[places].iter().map(Entry::ones).sum(),
        }
    }

    /// The entry that holds the `number`-th dirty granule, from 0, and how many come before it.
    pub(super) fn holder_of(&self, number: u64) -> Option<(&Entry, u64)> {
        if number >= self.ones {
            return None;
        }
        if let Some(before) = self.before() {
            let place = before.partition_point(|&before| before <= number).checked_sub(1)?;
            return Some((self.entries().get(place)?, before[place]));
        }
        let mut sum = 0;
        let mut before = |entry: &Entry| {
            sum += entry.ones();
            sum - entry.ones()
        };
        let counted = self.entries().iter().map(|entry| (entry, before(entry)));
        counted.take_while(|(_, before)| *before <= number).last()
    }

    /// The last dirty granule.
    pub(super) fn last(&self) -> Option<u64> {
        let entry = self.entries().last()?;
        let run = self.view(entry).runs(Run::WHOLE).next_back()?;
        Some((u64::from(entry.end() - 1) << 16) + u64::from(run.last))
    }

    /// Whether a granule is dirty that lies in the last chunk with dirty granules, or in none of them.
    pub(super) fn last_holds(&self, granule: u64) -> bool {
        let (key, bit) = split(granule);
        self.entries.look_at_last(|entry| {
            entry.is_some_and(|entry| entry.key <= key && key < entry.end() && self.view(entry).contains(bit))
        })
    }

    /// Forgets the counts before each entry, and adds the change to the total.
    pub(super) fn recount(&mut self, added: u64, taken: u64) {
        self.before = OnceBox::new();
        self.ones = self.ones + added - taken;
    }

    /// Appends full chunks after the last entry.
    pub(super) fn push_full(&mut self, key: u32, chunks: u32) -> Result<()> {
        let entries = self.entries.all_mut();
        match entries.last_mut() {
            Some(last) if last.is_full() && last.end() == key => last.size += chunks,
            _ => memory::push(entries, Entry::full(key, key + chunks))?,
        }
        self.recount(u64::from(chunks) << 16, 0);
        Ok(())
    }

    /// Appends a copy of `view`, which holds `measure` in its smallest form, after the last entry. Nothing is added by
    /// nothing.
    #[inline(always)]
    pub(super) fn push(&mut self, key: u32, measure: Measure, view: View<'_>) -> Result<()> {
        let place = match view {
            View::Full => return self.push_full(key, 1),
            View::Array([]) => return Ok(()),
            View::Array(array) => self.arena.push_list(array)?,
            View::Words(words) => self.arena.push_words(words)?,
            View::Runs(list) => self.arena.push_pairs(list)?,
            View::Sparse(sparse) => self.arena.push_bytes(sparse.bytes)?,
        };
        memory::push(self.entries.all_mut(), Entry::packed(key, measure, view, place))?;
        self.packed += 1;
        self.recount(measure.ones.into(), 0);
        Ok(())
    }

    /// Appends a list that is the smallest form of its items, the first of these, as many as `measure` says.
    #[inline(always)]
    pub(super) fn push_short(&mut self, key: u32, measure: Measure, items: &[u16; BLOCK]) -> Result<()> {
        let place = self.arena.push_short(items, measure.ones as usize)?;
        memory::push(self.entries.all_mut(), Entry::packed(key, measure, View::Array(&[]), place))?;
        self.packed += 1;
        self.recount(measure.ones.into(), 0);
        Ok(())
    }

    /// Appends what `operation` makes of words and of another view that is not full. It is made where it will lie: made in a
    /// workspace and copied from there it took 1.3 times as long (2^28 granules, half of them dirty).
    pub(super) fn push_combined(
        &mut self,
        key: u32,
        operation: Operation,
        words: &Words,
        other: View<'_>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        let place = self.arena.push_words(words)?;
        let words = self.arena.words_mut(place);
        let measure = workspace.change_words(operation, words, other)?;
        let entry = match workspace.smaller_than(words, measure)? {
            None => Entry::words(key, measure, place),
            Some(View::Full) => {
                self.arena.take_back(place);
                return self.push_full(key, 1);
            }
            Some(View::Array([])) => {
                self.arena.take_back(place);
                return Ok(());
            }
            Some(view) => {
                let end = self.arena.put(place, view);
                self.arena.take_back(end);
                Entry::packed(key, measure, view, place)
            }
        };
        memory::push(self.entries.all_mut(), entry)?;
        self.packed += 1;
        self.recount(measure.ones.into(), 0);
        Ok(())
    }

    /// Appends a copy of an entry of `other`, in its smallest form.
    pub(super) fn push_entry(&mut self, other: &Self, entry: &Entry, workspace: &mut Workspace) -> Result<()> {
        if entry.is_full() {
            return self.push_full(entry.key, entry.size);
        }
        let (view, measure) = (other.view(entry), entry.measure_of_chunk());
        if entry.is_smallest() {
            return self.push(entry.key, measure, view);
        }
        self.push(entry.key, measure, workspace.smallest_of_view(view, measure)?.view)
    }

    /// Appends all of a directory that begins behind this one.
    pub(super) fn append(&mut self, other: Self) -> Result<()> {
        let blocks = self.arena.blocks();
        let mut added = other.ones;
        let mut entries = other.entries.into_all().into_iter().peekable();
        self.entries.all_mut().try_reserve(entries.len())?;
        self.arena.append(other.arena)?;
        if let Some(first) = entries.next_if(Entry::is_full) {
            added -= first.ones();
            self.push_full(first.key, first.size)?;
        }
        self.entries.all_mut().extend(entries.map(|mut entry| {
            entry.put_after(blocks);
            entry
        }));
        self.packed += other.packed;
        self.recount(added, 0);
        Ok(())
    }

    /// Changes what chunk `key` holds, which is the empty container where there is no entry. `change` says how many granules
    /// it added or, below 0, took away; where it fails it has changed nothing, and nothing changes.
    pub(super) fn edit(&mut self, key: u32, change: impl FnOnce(&mut Container) -> Result<i64>) -> Result<()> {
        match self.entries.find_mut(key) {
            Some(Entry { body: Body::Own(container), .. }) => {
                let added = change(container)?;
                let (is_full, is_empty) = (container.is_full(), container.is_empty());
                self.before = OnceBox::new();
                self.ones = self.ones.wrapping_add_signed(added);
                // What stands in the place of one entry is one at most, so there is room.
                if is_full {
                    self.put_full(key, key + 1);
                } else if is_empty {
                    self.take_out(key, key + 1);
                }
            }
            None => {
                let mut container = Container::empty();
                change(&mut container)?;
                self.entries.reserve(1)?;
                self.put_new(key, container);
            }
            Some(_) => {
                let mut container = self.copy(key)?;
                change(&mut container)?;
                self.entries.reserve(2)?;
                self.put(key, container);
            }
        }
        Ok(())
    }

    /// A copy of what chunk `key` holds.
    fn copy(&self, key: u32) -> Result<Container> {
        let entry = self.find(key);
        entry.map_or(Ok(Container::empty()), |entry| Container::copy(self.view(entry), entry.ones_of_chunk()))
    }

    /// Makes room for the entries that `calls` calls of [`Directory::put`], or of filling and clearing, add.
    pub(super) fn reserve(&mut self, calls: usize) -> Result<()> {
        self.entries.reserve(2 * calls)
    }

    /// Puts what chunk `key` is to hold in the place of what it holds. There must be room for two more entries.
    pub(super) fn put(&mut self, key: u32, container: Container) {
        match self.entries.find_mut(key) {
            None => self.put_new(key, container),
            Some(_) if container.is_full() => self.put_full(key, key + 1),
            Some(_) if container.is_empty() => self.take_out(key, key + 1),
            Some(entry) if entry.is_full() => {
                let added = container.ones().into();
                self.take_out(key, key + 1);
                self.entries.insert(Entry::own(key, container));
                self.recount(added, 0);
            }
            Some(entry) => {
                let (added, taken, packed) = (container.ones(), entry.ones(), usize::from(entry.place().is_some()));
                *entry = Entry::own(key, container);
                self.recount(added.into(), taken);
                self.forget(packed);
            }
        }
    }

    /// Puts what chunk `key` is to hold where there is no entry of it. There must be room for one more.
    fn put_new(&mut self, key: u32, container: Container) {
        if container.is_full() {
            self.put_full(key, key + 1);
        } else if !container.is_empty() {
            self.recount(container.ones().into(), 0);
            self.entries.insert(Entry::own(key, container));
        }
    }

    /// Makes the chunks `key..end` full. There must be room for one more entry.
    pub(super) fn put_full(&mut self, key: u32, end: u32) {
        if key >= end {
            return;
        }
        let reach = |entry: &Entry| entry.end() + u32::from(entry.is_full());
        let entries = self.entries();
        let from = entries.partition_point(|entry| reach(entry) <= key);
        let to = entries.partition_point(|entry| entry.key < end + u32::from(entry.is_full()));
        let (mut first, mut last) = (key, end);
        for entry in entries[from..to].iter().filter(|entry| entry.is_full()) {
            first = first.min(entry.key);
            last = last.max(entry.end());
        }
        let (taken, full) = (entries[from..to].iter().map(Entry::ones).sum(), Entry::full(first, last));
        self.forget(packed_of(&entries[from..to]));
        self.recount(full.ones(), taken);
        self.entries.all_mut().splice(from..to, [full]);
    }

    /// Removes the chunks `key..end`. There must be room for one more entry.
    pub(super) fn take_out(&mut self, key: u32, end: u32) {
        let places = self.places(key, end);
        let entries = self.entries();
        let (Some(head), Some(tail)) = (entries.get(places.start), entries[..places.end].last()) else {
            return;
        };
        if places.is_empty() {
            return;
        }
        let left = (head.key < key).then(|| Entry::full(head.key, key));
        let right = (tail.end() > end).then(|| Entry::full(end, tail.end()));
        let packed = packed_of(&entries[places.clone()]);
        let taken = entries[places.clone()].iter().map(Entry::ones).sum();
        self.recount(left.iter().chain(&right).map(Entry::ones).sum(), taken);
        self.forget(packed);
        self.entries.all_mut().splice(places, left.into_iter().chain(right));
    }

    /// Takes a number of packed entries off the count of those in the arena, which is freed with the last of them.
    fn forget(&mut self, packed: usize) {
        self.packed -= packed;
        if self.packed == 0 {
            self.arena = Arena::default();
        }
    }

    /// Makes every granule of `span` dirty.
    pub(super) fn set_span(&mut self, span: Span) -> Result<()> {
        self.for_parts(span, Self::put_full, |container, run| container.set(run).map(i64::from))
    }

    /// Makes every granule of `span` clean.
    pub(super) fn clear_span(&mut self, span: Span) -> Result<()> {
        self.for_parts(span, Self::take_out, |container, run| container.clear(run).map(|cleared| -i64::from(cleared)))
    }

    /// Cuts `span` into a partial first chunk, whole chunks and a partial last chunk.
    #[inline]
    fn for_parts(
        &mut self,
        span: Span,
        whole: impl FnOnce(&mut Self, u32, u32),
        part: impl Fn(&mut Container, Run) -> Result<i64>,
    ) -> Result<()> {
        let ((key, first), (end, last)) = (split(span.first), split(span.last));
        if key == end && (first, last) != (0, u16::MAX) {
            return self.edit(key, |container| part(container, Run { first, last }));
        }
        self.for_many_parts(span, whole, part)
    }

    #[inline(never)]
    fn for_many_parts(
        &mut self,
        span: Span,
        whole: impl FnOnce(&mut Self, u32, u32),
        part: impl Fn(&mut Container, Run) -> Result<i64>,
    ) -> Result<()> {
        let ((mut key, first), (mut end, last)) = (split(span.first), split(span.last));
        let head = (first != 0).then_some((key, Run { first, last: u16::MAX }));
        let tail = (last != u16::MAX).then_some((end, Run { first: 0, last }));
        key += u32::from(head.is_some());
        end += u32::from(tail.is_none());
        // Only one part is changed in its place: where that fails, nothing has changed yet.
        let made = match (head, tail) {
            (Some(_), Some((key, run))) => {
                let mut container = self.copy(key)?;
                part(&mut container, run)?;
                Some((key, container))
            }
            _ => None,
        };
        self.reserve(3)?;
        if let Some((key, run)) = head.or(tail) {
            self.edit(key, |container| part(container, run))?;
        }
        if let Some((key, container)) = made {
            self.put(key, container);
        }
        if key < end {
            whole(self, key, end);
        }
        Ok(())
    }

    /// The bytes of the list, of the arena and of the containers on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let own = |entry: &Entry| match &entry.body {
            Body::Own(container) => container.heap_bytes(),
            _ => 0,
        };
        let before = self.before.get().map_or(0, |before| size_of_val(before) + size_of_val(&before[..]));
        let containers: usize = self.entries().iter().map(own).sum();
        self.entries.heap_bytes() + self.arena.heap_bytes() + before + containers
    }

    /// Checks every container, the order of the entries, and that full ones are joined; names the chunk that is wrong.
    pub(super) fn validate(&self) -> std::result::Result<(), (u32, &'static str)> {
        let (mut last, kernels): (Option<&Entry>, _) = (None, select());
        for entry in self.entries() {
            let wrong = |what| Err((entry.key, what));
            let view = self.view(entry);
            view.validate(entry.ones_of_chunk()).map_err(|what| (entry.key, what))?;
            if entry.chunks() == 0 || entry.is_full() != matches!(view.form(), Form::Full) {
                return wrong("an entry of several chunks has none, or holds less than all of them");
            }
            let measure = Measure { ones: view.ones(), runs: view.run_count() };
            let is_packable = || {
                let is_plain = kernels.traits.packs_quickly && view.form() != Form::Sparse;
                is_plain && packed_len(kernels, &view.words(), measure, Keeper::Memory).is_some()
            };
            if entry.is_smallest() && (!view.is_smallest(measure.ones, measure.runs) || is_packable()) {
                return wrong("what is packed is not in its smallest form");
            }
            if entry.runs_of_chunk() != measure.runs {
                return wrong("the count of runs is wrong");
            }
            match last {
                Some(last) if last.end() > entry.key => return wrong("entries overlap or are out of order"),
                Some(last) if last.end() == entry.key && last.is_full() && entry.is_full() => {
                    return wrong("full entries touch");
                }
                _ => last = Some(entry),
            }
        }
        if self.ones != self.entries().iter().map(Entry::ones).sum::<u64>() {
            return Err((0, "the count of all chunks is wrong"));
        }
        if self.before.get().is_some_and(|before| before.last() != Some(&self.ones)) {
            return Err((0, "the counts before the chunks are wrong"));
        }
        Ok(())
    }
}

/// How many entries lie in the arena.
pub(super) fn packed_of(entries: &[Entry]) -> usize {
    entries.iter().filter(|entry| entry.place().is_some()).count()
}
