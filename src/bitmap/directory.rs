#![forbid(unsafe_code)]
//! Owns the sorted list of the chunks that have dirty granules, and the building of such a list in ascending order. Knows
//! nothing of disk sizes, granularities or bytes.
//!
//! Consecutive full chunks share one entry without heap, so a whole disk of 2^41 granules is one entry. Chunks without
//! dirty granules have none. Which entries there are depends on the bits alone.

use super::container::{CHUNK, Container, Run};

/// Consecutive granules, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// One chunk with dirty granules, or several consecutive full ones.
#[derive(Clone)]
pub(super) struct Entry {
    /// The first chunk: its granules' indices shifted right by 16.
    pub(super) key: u32,
    /// How many chunks; more than one only if they are full.
    pub(super) chunks: u32,
    pub(super) container: Container,
}

impl Entry {
    /// The chunk after the last one.
    pub(super) fn end(&self) -> u32 {
        self.key + self.chunks
    }

    /// The index of the first granule of the first chunk.
    pub(super) fn base(&self) -> u64 {
        u64::from(self.key) << 16
    }

    /// All granules of the chunks, clean ones too.
    pub(super) fn span(&self) -> Span {
        Span { first: self.base(), last: (u64::from(self.end()) << 16) - 1 }
    }

    /// The number of dirty granules.
    pub(super) fn ones(&self) -> u64 {
        u64::from(self.chunks) * u64::from(self.container.ones())
    }

    fn full(key: u32, end: u32) -> Self {
        Self { key, chunks: end - key, container: Container::Full }
    }

    fn is_full(&self) -> bool {
        self.container.is_full()
    }
}

/// The chunk of a granule, and the granule's index in it.
#[allow(clippy::cast_possible_truncation, reason = "granules are below 2^41, and the index takes 16 bits of them")]
pub(super) fn split(granule: u64) -> (u32, u16) {
    debug_assert!(granule >> 48 == 0);
    ((granule >> 16) as u32, granule as u16)
}

/// Sorted entries that do not overlap; full ones do not touch.
#[derive(Clone, Default)]
pub(super) struct Directory {
    entries: Vec<Entry>,
}

impl Directory {
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    pub(super) fn with_capacity(entries: usize) -> Self {
        Self { entries: Vec::with_capacity(entries) }
    }

    /// Gives back the memory that is not needed.
    pub(super) fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    /// Takes the smallest form everywhere.
    pub(super) fn optimize(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.container.optimize());
        self.shrink();
    }

    pub(super) fn into_entries(self) -> Vec<Entry> {
        self.entries
    }

    /// The entries that overlap the chunks `key..end`.
    pub(super) fn within(&self, key: u32, end: u32) -> &[Entry] {
        let from = self.entries.partition_point(|entry| entry.end() <= key);
        let to = self.entries.partition_point(|entry| entry.key < end);
        self.entries.get(from..to).unwrap_or_default()
    }

    /// The entry that holds chunk `key`.
    pub(super) fn find(&self, key: u32) -> Option<&Entry> {
        let at = self.entries.partition_point(|entry| entry.end() <= key);
        self.entries.get(at).filter(|entry| entry.key <= key)
    }

    /// Appends chunks after the last entry. An empty container adds nothing.
    pub(super) fn push(&mut self, key: u32, chunks: u32, container: Container) {
        if container.is_empty() {
            return;
        }
        if let Some(last) = self.entries.last_mut()
            && last.is_full()
            && last.end() == key
            && container.is_full()
        {
            last.chunks += chunks;
            return;
        }
        self.entries.push(Entry { key, chunks, container });
    }

    /// Changes the container of chunk `key`, which is the empty one where there is no entry.
    pub(super) fn edit(&mut self, key: u32, change: impl FnOnce(&mut Container)) {
        let at = self.entries.partition_point(|entry| entry.end() <= key);
        let Some(entry) = self.entries.get_mut(at).filter(|entry| entry.key <= key) else {
            let mut container = Container::empty();
            change(&mut container);
            if container.is_full() {
                self.fill(key, key + 1);
            } else if !container.is_empty() {
                self.entries.insert(at, Entry { key, chunks: 1, container });
            }
            return;
        };
        if entry.chunks > 1 {
            let (first, end) = (entry.key, entry.end());
            let mut container = Container::Full;
            change(&mut container);
            if !container.is_full() {
                let left = (first < key).then(|| Entry::full(first, key));
                let middle = (!container.is_empty()).then_some(Entry { key, chunks: 1, container });
                let right = (key + 1 < end).then(|| Entry::full(key + 1, end));
                self.entries.splice(at..=at, left.into_iter().chain(middle).chain(right));
            }
            return;
        }
        let was_full = entry.is_full();
        change(&mut entry.container);
        if entry.container.is_empty() {
            self.entries.remove(at);
        } else if entry.is_full() && !was_full {
            self.fill(key, key + 1);
        }
    }

    /// Makes the chunks `key..end` full.
    pub(super) fn fill(&mut self, key: u32, end: u32) {
        if key >= end {
            return;
        }
        let reach = |entry: &Entry| entry.end() + u32::from(entry.is_full());
        let from = self.entries.partition_point(|entry| reach(entry) <= key);
        let to = self.entries.partition_point(|entry| entry.key < end + u32::from(entry.is_full()));
        let (mut first, mut last) = (key, end);
        for entry in self.entries[from..to].iter().filter(|entry| entry.is_full()) {
            first = first.min(entry.key);
            last = last.max(entry.end());
        }
        self.entries.splice(from..to, [Entry::full(first, last)]);
    }

    /// Removes the chunks `key..end`.
    pub(super) fn clear(&mut self, key: u32, end: u32) {
        let from = self.entries.partition_point(|entry| entry.end() <= key);
        let to = self.entries.partition_point(|entry| entry.key < end);
        if from >= to {
            return;
        }
        let (head, tail) = (&self.entries[from], &self.entries[to - 1]);
        let left = (head.key < key).then(|| Entry::full(head.key, key));
        let right = (tail.end() > end).then(|| Entry::full(end, tail.end()));
        self.entries.splice(from..to, left.into_iter().chain(right));
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

    /// The bytes of the list and of the containers on the heap.
    pub(super) fn heap_bytes(&self) -> usize {
        let containers: usize = self.entries.iter().map(|entry| entry.container.heap_bytes()).sum();
        self.entries.capacity() * size_of::<Entry>() + containers
    }

    /// Checks every container, the order of the entries, and that full ones are joined; names the chunk that is wrong.
    pub(super) fn validate(&self) -> Result<(), (u32, &'static str)> {
        let mut before: Option<&Entry> = None;
        for entry in &self.entries {
            let wrong = |what| Err((entry.key, what));
            entry.container.validate().map_err(|what| (entry.key, what))?;
            if entry.chunks == 0 || (entry.chunks > 1 && !entry.is_full()) {
                return wrong("an entry that is not full spans several chunks");
            }
            match before {
                Some(before) if before.end() > entry.key => return wrong("entries overlap or are out of order"),
                Some(before) if before.end() == entry.key && before.is_full() && entry.is_full() => {
                    return wrong("full entries touch");
                }
                _ => before = Some(entry),
            }
        }
        Ok(())
    }
}

/// Builds a directory from spans whose first and last granules ascend; they may overlap and touch.
#[derive(Default)]
pub(super) struct Collector {
    directory: Directory,
    /// The chunk whose runs are being gathered.
    key: u32,
    runs: Vec<Run>,
    pending: Option<Span>,
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
        self.directory
    }

    fn store(&mut self, span: Option<Span>) {
        let Some(span) = span else { return };
        let ((mut key, mut first), (end, last)) = (split(span.first), split(span.last));
        if key < end && first != 0 {
            self.add(key, Run { first, last: u16::MAX });
            (key, first) = (key + 1, 0);
        }
        if key < end {
            self.close_chunk();
            self.directory.push(key, end - key, Container::Full);
        }
        self.add(end, Run { first, last });
    }

    fn add(&mut self, key: u32, run: Run) {
        if key != self.key {
            self.close_chunk();
            self.key = key;
        }
        self.runs.push(run);
    }

    fn close_chunk(&mut self) {
        self.directory.push(self.key, 1, Container::from_runs(std::mem::take(&mut self.runs)));
    }
}

/// The granules of `span` that lie in the chunk at `base`, which `span` must touch.
pub(super) fn window_in_chunk(span: Span, base: u64) -> Run {
    let (_, first) = split(span.first.max(base));
    let (_, last) = split(span.last.min(base + u64::from(CHUNK) - 1));
    Run { first, last }
}
