#![forbid(unsafe_code)]
//! Owns the sorted list of the chunks that have dirty granules, what each holds, and how many granules are dirty before
//! each. Knows nothing of disk sizes, granularities or bytes.
//!
//! Consecutive full chunks share one entry, so a whole disk of 2^41 granules is one entry. Chunks without dirty granules
//! have none. Which entries there are depends on the bits alone. What was built in one go lies packed in an arena, in its
//! smallest form; a chunk that is changed afterwards gets a container of its own.

use super::arena::Arena;
use super::container::{Container, Form, Packer, Pair, Plain, Run, View, to_u16};
use super::entries::{self, Entries};
use super::entry::{Body, Entry};
use super::span::{Span, split};
use crate::kernels::{Measure, prefetch, select};
use std::ops::Range;
use std::sync::OnceLock;

/// Where more than one in so many chunks has left the arena, what stays is packed anew.
const LOOSE: usize = 16;

/// The bytes that are worth to be fetched ahead, and those behind which the CPU goes on by itself.
const FETCH_MIN: usize = 512;
const FETCH_MAX: usize = 2048;

/// What of an entry lies in the arena, with whatever follows it there.
pub(super) enum Packed<'a> {
    List(&'a [u16]),
    Runs(&'a [Pair]),
}

/// Sorted entries that do not overlap; full ones do not touch.
#[derive(Clone, Default)]
pub(super) struct Directory {
    entries: Entries,
    arena: Arena,
    /// The entries that lie in the arena.
    packed: usize,
    /// The dirty granules before each entry, and at last all of them; made when first asked for.
    before: OnceLock<Box<[u64]>>,
}

impl Directory {
    /// An empty directory with room for `entries` chunks, prepared for `containers` of them to hold `bytes` bytes at most.
    pub(super) fn with_capacity(entries: usize, containers: usize, bytes: usize) -> Self {
        let arena = Arena::with_capacity(containers, (bytes / 8).saturating_add(containers));
        Self { entries: Entries::with_capacity(entries), arena, packed: 0, before: OnceLock::new() }
    }

    pub(super) fn entries(&self) -> &[Entry] {
        self.entries.all()
    }

    /// What the chunk of `entry`, or each of its chunks, holds.
    #[inline(always)]
    pub(super) fn view<'a>(&'a self, entry: &'a Entry) -> View<'a> {
        entry.view(&self.arena)
    }

    /// Begins to bring what `entry` holds into the cache, if it is worth it.
    pub(super) fn prefetch(&self, entry: &Entry) {
        if let Some(place) = entry.place()
            && entry.bytes() >= FETCH_MIN
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
        self.entries.all_mut().shrink_to_fit();
        self.arena.shrink();
    }

    /// Takes the smallest form everywhere, packed.
    pub(super) fn optimize(&mut self) {
        let mut packer = Packer::new();
        let mut packed = Self::with_capacity(self.entries().len(), self.entries().len(), self.bytes());
        for entry in std::mem::take(&mut self.entries).into_all() {
            match entry.body {
                Body::Full => packed.push_full(entry.key, entry.size),
                Body::Own(mut container) => {
                    container.optimize();
                    packed.push(entry.key, container.measure(), packer.pack(container.view()));
                }
                _ => packed.push(entry.key, entry.measure_of_chunk(), self.view(&entry)),
            }
        }
        packed.shrink();
        *self = packed;
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

    /// The place of the first entry that ends after chunk `key`.
    pub(super) fn place(&self, key: u32) -> usize {
        entries::place(self.entries(), key)
    }

    /// The dirty granules before each entry, and at last all of them.
    pub(super) fn before(&self) -> &[u64] {
        self.before.get_or_init(|| {
            let mut sum = 0;
            let mut before = Vec::with_capacity(self.entries().len() + 1);
            before.push(sum);
            before.extend(self.entries().iter().map(|entry| {
                sum += entry.ones();
                sum
            }));
            before.into()
        })
    }

    /// The number of dirty granules.
    pub(super) fn ones(&self) -> u64 {
        match self.before.get() {
            Some(before) => before.last().copied().unwrap_or(0),
            None => self.entries().iter().map(Entry::ones).sum(),
        }
    }

    /// The last dirty granule.
    pub(super) fn last(&self) -> Option<u64> {
        let entry = self.entries().last()?;
        let run = self.view(entry).runs(Run::WHOLE).next_back()?;
        Some((u64::from(entry.end() - 1) << 16) + u64::from(run.last))
    }

    /// Appends full chunks after the last entry.
    pub(super) fn push_full(&mut self, key: u32, chunks: u32) {
        self.before.take();
        let entries = self.entries.all_mut();
        match entries.last_mut() {
            Some(last) if last.is_full() && last.end() == key => last.size += chunks,
            _ => entries.push(Entry::full(key, key + chunks)),
        }
    }

    /// Appends a copy of `view`, which holds `measure` in its smallest form, after the last entry. Nothing is added by
    /// nothing.
    pub(super) fn push(&mut self, key: u32, measure: Measure, view: View<'_>) {
        let runs = to_u16(measure.runs);
        let body = match view {
            View::Full => return self.push_full(key, 1),
            View::Array([]) => return,
            View::Array(array) => Body::Array(self.arena.push_list(array), runs),
            View::Words(words) => Body::Words(self.arena.push_words(words), runs),
            View::Runs(list) => Body::Runs(self.arena.push_pairs(list), runs),
            #[allow(clippy::cast_possible_truncation, reason = "it is smaller than words")]
            View::Sparse(sparse) => Body::Sparse(self.arena.push_bytes(sparse.bytes), sparse.bytes.len() as u16, runs),
        };
        self.before.take();
        self.packed += 1;
        self.entries.all_mut().push(Entry { key, size: measure.ones, body });
    }

    /// Appends a copy of an entry of `other`.
    pub(super) fn push_entry(&mut self, other: &Self, entry: &Entry) {
        if entry.is_full() {
            return self.push_full(entry.key, entry.size);
        }
        let view = other.view(entry);
        if entry.is_smallest() {
            return self.push(entry.key, entry.measure_of_chunk(), view);
        }
        let mut container = Container::copy(view, entry.ones_of_chunk());
        container.optimize();
        self.push(entry.key, container.measure(), container.view());
    }

    /// Appends all of a directory that begins behind this one.
    pub(super) fn append(&mut self, other: Self) {
        self.before.take();
        let blocks = self.arena.blocks();
        let mut entries = other.entries.into_all().into_iter().peekable();
        if let Some(first) = entries.next_if(Entry::is_full) {
            self.push_full(first.key, first.size);
        }
        self.entries.all_mut().extend(entries.map(|mut entry| {
            entry.put_after(blocks);
            entry
        }));
        self.arena.append(other.arena);
        self.packed += other.packed;
    }

    /// Changes what chunk `key` holds, which is the empty container where there is no entry.
    pub(super) fn edit(&mut self, key: u32, change: impl FnOnce(&mut Container)) {
        self.before.take();
        let entry = self.entries.find_mut(key);
        match entry {
            Some(Entry { body: Body::Own(container), .. }) => {
                change(container);
                if container.is_full() {
                    self.fill(key, key + 1);
                } else if container.is_empty() {
                    self.clear(key, key + 1);
                }
            }
            Some(entry) if entry.is_full() => self.edit_full(key, change),
            _ => {
                let mut container = match &entry {
                    Some(entry) => Container::copy(entry.view(&self.arena), entry.ones_of_chunk()),
                    None => Container::empty(),
                };
                change(&mut container);
                if container.is_full() {
                    self.fill(key, key + 1);
                } else if let Some(entry) = entry {
                    if container.is_empty() {
                        return self.clear(key, key + 1);
                    }
                    *entry = Entry::own(key, container);
                    self.forget(1);
                } else if !container.is_empty() {
                    self.entries.insert(Entry::own(key, container));
                }
            }
        }
    }

    /// Changes what chunk `key` holds, which is one of the chunks of a full entry.
    fn edit_full(&mut self, key: u32, change: impl FnOnce(&mut Container)) {
        let mut container = Container::Full;
        change(&mut container);
        if container.is_full() {
            return;
        }
        let at = self.place(key);
        let entries = self.entries.all_mut();
        let (first, end) = (entries[at].key, entries[at].end());
        let left = (first < key).then(|| Entry::full(first, key));
        let middle = (!container.is_empty()).then(|| Entry::own(key, container));
        let right = (key + 1 < end).then(|| Entry::full(key + 1, end));
        entries.splice(at..=at, left.into_iter().chain(middle).chain(right));
    }

    /// Adds all of `other`, if this has words in every chunk that is dirty there: in their place, as fresh pages for a new
    /// result cost more than the union. Else nothing changes; whether it was done.
    pub(super) fn unite_in_place(&mut self, other: &Self) -> bool {
        let in_words = |theirs: &Entry| {
            let at = self.place(theirs.key);
            match self.entries().get(at)? {
                Entry { key, body: Body::Words(place, _), .. } if *key == theirs.key && !theirs.is_full() => {
                    Some((at, *place))
                }
                _ => None,
            }
        };
        let Some(places) = other.entries().iter().map(in_words).collect::<Option<Vec<_>>>() else { return false };
        self.before.take();
        let (kernels, mut smaller) = (select(), Vec::new());
        let entries = self.entries.all_mut();
        for (theirs, (at, place)) in other.entries().iter().zip(places) {
            let ours = &mut entries[at];
            let words = self.arena.words_mut(place);
            let measure = match other.view(theirs) {
                View::Words(others) => (kernels.or)(words, others),
                view => {
                    view.add_to(words);
                    (kernels.measure)(words)
                }
            };
            (ours.size, ours.body) = (measure.ones, Body::Words(place, to_u16(measure.runs)));
            // More bits can be fewer runs, but neither a list nor smaller packed.
            if Plain::smallest(measure.ones, measure.runs) != Plain::Words {
                smaller.push(ours.key);
            }
        }
        let is_loose = smaller.len() > entries.len() / LOOSE;
        smaller.into_iter().for_each(|key| self.edit(key, Container::optimize));
        if is_loose {
            self.optimize();
        }
        true
    }

    /// Makes the chunks `key..end` full.
    pub(super) fn fill(&mut self, key: u32, end: u32) {
        if key >= end {
            return;
        }
        self.before.take();
        let reach = |entry: &Entry| entry.end() + u32::from(entry.is_full());
        let entries = self.entries();
        let from = entries.partition_point(|entry| reach(entry) <= key);
        let to = entries.partition_point(|entry| entry.key < end + u32::from(entry.is_full()));
        let (mut first, mut last) = (key, end);
        for entry in entries[from..to].iter().filter(|entry| entry.is_full()) {
            first = first.min(entry.key);
            last = last.max(entry.end());
        }
        self.forget(packed_of(&entries[from..to]));
        self.entries.all_mut().splice(from..to, [Entry::full(first, last)]);
    }

    /// Removes the chunks `key..end`.
    pub(super) fn clear(&mut self, key: u32, end: u32) {
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
        self.before.take();
        self.forget(packed);
        self.entries.all_mut().splice(places, left.into_iter().chain(right));
    }

    /// Counts so many packed entries out of the arena, which goes with the last of them.
    fn forget(&mut self, packed: usize) {
        self.packed -= packed;
        if self.packed == 0 {
            self.arena = Arena::default();
        }
    }

    /// Makes every granule of `span` dirty.
    pub(super) fn set_span(&mut self, span: Span) {
        self.for_parts(span, Self::fill, |container, run| container.set(run));
    }

    /// Makes every granule of `span` clean.
    pub(super) fn clear_span(&mut self, span: Span) {
        self.for_parts(span, Self::clear, |container, run| container.clear(run));
    }

    /// Cuts `span` into a partial first chunk, whole chunks and a partial last chunk.
    fn for_parts(&mut self, span: Span, whole: impl FnOnce(&mut Self, u32, u32), part: impl Fn(&mut Container, Run)) {
        let ((mut key, first), (mut end, last)) = (split(span.first), split(span.last));
        if key == end && (first, last) != (0, u16::MAX) {
            self.edit(key, |container| part(container, Run { first, last }));
            return;
        }
        if first != 0 {
            self.edit(key, |container| part(container, Run { first, last: u16::MAX }));
            key += 1;
        }
        if last == u16::MAX {
            end += 1;
        } else {
            self.edit(end, |container| part(container, Run { first: 0, last }));
        }
        if key < end {
            whole(self, key, end);
        }
    }

    /// The bytes of the list, of the arena and of the containers on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let own = |entry: &Entry| match &entry.body {
            Body::Own(container) => container.heap_bytes(),
            _ => 0,
        };
        let before = self.before.get().map_or(0, |before| size_of_val(&before[..]));
        let containers: usize = self.entries().iter().map(own).sum();
        self.entries.heap_bytes() + self.arena.heap_bytes() + before + containers
    }

    /// Checks every container, the order of the entries, and that full ones are joined; names the chunk that is wrong.
    pub(super) fn validate(&self) -> Result<(), (u32, &'static str)> {
        let mut last: Option<&Entry> = None;
        for entry in self.entries() {
            let wrong = |what| Err((entry.key, what));
            let view = self.view(entry);
            view.validate(entry.ones_of_chunk()).map_err(|what| (entry.key, what))?;
            if entry.chunks() == 0 || entry.is_full() != matches!(view.form(), Form::Full) {
                return wrong("an entry of several chunks has none, or holds less than all of them");
            }
            if entry.is_smallest() && !view.is_smallest(view.ones(), view.run_count()) {
                return wrong("what is packed is not in its smallest form");
            }
            if entry.runs_of_chunk() != view.run_count() {
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
        if let Some(before) = self.before.get()
            && before.last() != Some(&self.entries().iter().map(Entry::ones).sum())
        {
            return Err((0, "the counts before the chunks are wrong"));
        }
        Ok(())
    }
}

/// How many entries lie in the arena.
fn packed_of(entries: &[Entry]) -> usize {
    entries.iter().filter(|entry| entry.place().is_some()).count()
}

/// Builds a directory from spans whose first and last granules ascend; they may overlap and touch.
#[derive(Default)]
pub(super) struct Collector {
    directory: Directory,
    /// The chunk whose runs are being gathered.
    key: u32,
    runs: Vec<[u16; 2]>,
    pending: Option<Span>,
    packer: Packer,
}

impl Collector {
    pub(super) fn push(&mut self, span: Span) {
        match &mut self.pending {
            Some(pending) if span.first <= pending.last + 1 => pending.last = span.last,
            _ => {
                let ready = self.pending.replace(span);
                self.store(ready);
            }
        }
    }

    pub(super) fn finish(mut self) -> Directory {
        let ready = self.pending.take();
        self.store(ready);
        self.close_chunk();
        self.directory.shrink();
        self.directory
    }

    fn store(&mut self, span: Option<Span>) {
        let Some(span) = span else { return };
        let ((mut key, mut first), (end, last)) = (split(span.first), split(span.last));
        if key < end && first != 0 {
            self.add(key, [first, u16::MAX]);
            (key, first) = (key + 1, 0);
        }
        if key < end {
            self.close_chunk();
            self.directory.push_full(key, end - key);
        }
        self.add(end, [first, last]);
    }

    fn add(&mut self, key: u32, run: [u16; 2]) {
        if key != self.key {
            self.close_chunk();
            self.key = key;
        }
        self.runs.push(run);
    }

    fn close_chunk(&mut self) {
        let container = Container::from_runs(&self.runs);
        self.runs.clear();
        self.directory.push(self.key, container.measure(), self.packer.pack(container.view()));
    }
}
