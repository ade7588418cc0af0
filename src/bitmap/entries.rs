#![forbid(unsafe_code)]
//! Owns the list of the entries in the order of their chunks, into which new ones come anywhere. Must never know what an
//! entry holds.
//!
//! In a long list each new entry would move half of the others. So new ones wait in a short list of their own until they
//! are many, or were searched in often, or somebody wants to see them all.

use super::entry::Entry;
use super::search::partition_point_near;
use crate::fork::{Section, Torn};
use crate::memory::{self, Result};
use std::mem::take;
use std::sync::{Mutex, OnceLock};

/// Where no more entries than these have to move, nothing waits.
const MOVES_MAX: usize = 512;

/// In fewer entries a plain binary search finds all it looks at in a near cache.
const FAR_FROM: usize = 256;

/// Where the place of an entry is known up to this number, a plain binary search is made of so few steps that none is saved.
const FEW_MOVED: usize = 64;

/// A list that grows takes room for one entry more in this many, at most.
const SPARE_ONE_IN: usize = 16;

/// A search in two lists takes longer than a search in one; the difference is the time in which this many entries are moved.
const SEARCHES: usize = 4;

/// A list that is half joined must never be taken for a whole one.
const NOT_BROKEN: &str = "no join was broken off";

/// Entries in ascending order that do not overlap.
#[derive(Default)]
pub(super) struct Entries {
    /// All of them, unless some wait; empty at the very beginning, too.
    joined: OnceLock<Vec<Entry>>,
    /// All of them, if some wait.
    parted: Mutex<Parted>,
    /// Where a reader makes one list of two, and others wait for it.
    joining: Section,
}

#[derive(Default)]
struct Parted {
    /// With room for those that wait.
    most: Vec<Entry>,
    waiting: Vec<Entry>,
    /// How often something was searched for since the first one waits.
    searches: usize,
}

impl Entries {
    pub(super) fn with_capacity(entries: usize) -> Result<Self> {
        Ok(Self { joined: OnceLock::from(memory::room(entries)?), ..Self::default() })
    }

    #[inline]
    pub(super) fn all(&self) -> &[Entry] {
        match self.joined.get() {
            Some(all) => all,
            None => self.join().expect("the process was not forked while another thread was here"),
        }
    }

    #[inline]
    pub(super) fn all_mut(&mut self) -> &mut Vec<Entry> {
        if self.joined.get().is_none() {
            self.join_alone();
        }
        self.joined.get_mut().expect("they were just joined")
    }

    #[cold]
    fn join_alone(&mut self) {
        let parted = take(self.parted.get_mut().expect(NOT_BROKEN));
        self.joined = OnceLock::from(parted.join());
    }

    pub(super) fn into_all(mut self) -> Vec<Entry> {
        take(self.all_mut())
    }

    /// Whether a fork caught another thread while it made one list of all entries.
    #[cfg(feature = "capi")]
    pub(super) fn is_torn(&self) -> bool {
        self.joining.is_torn()
    }

    #[cold]
    fn join(&self) -> std::result::Result<&[Entry], Torn> {
        let _inside = self.joining.enter()?;
        let join = || take(&mut *self.parted.lock().expect(NOT_BROKEN)).join();
        Ok(self.joined.get_or_init(join))
    }

    /// What `look` says of the last entry, which is found without making one list of two.
    pub(super) fn look_at_last<R>(&self, look: impl FnOnce(Option<&Entry>) -> R) -> R {
        if self.joined.get().is_none()
            && let Ok(_inside) = self.joining.enter()
        {
            let parted = self.parted.lock().expect(NOT_BROKEN);
            let last = [parted.most.last(), parted.waiting.last()].into_iter().flatten().max_by_key(|entry| entry.key);
            // Where none waits, another thread is joining them just now.
            if last.is_some() {
                return look(last);
            }
        }
        look(self.all().last())
    }

    /// The entry that holds chunk `key`.
    #[inline]
    pub(super) fn find_mut(&mut self, key: u32) -> Option<&mut Entry> {
        if self.joined.get().is_some() || self.is_ripe() {
            return holder(self.all_mut(), key);
        }
        let Parted { most, waiting, searches } = self.parted.get_mut().expect(NOT_BROKEN);
        *searches += 1;
        holder(most, key).or_else(|| holder(waiting, key))
    }

    /// Makes room for that number of entries, in the long list or the short one.
    pub(super) fn reserve(&mut self, entries: usize) -> Result<()> {
        let Parted { most, waiting, .. } = self.parted.get_mut().expect(NOT_BROKEN);
        if let Some(all) = self.joined.get_mut() {
            return Ok(all.try_reserve(entries)?);
        }
        let needed = waiting.len() + entries;
        if most.capacity() - most.len() < needed {
            most.try_reserve_exact(needed.max(most.len() / SPARE_ONE_IN))?;
        }
        Ok(())
    }

    /// Adds an entry of one chunk that no other holds, for which [`Entries::reserve`] has made room.
    pub(super) fn insert(&mut self, entry: Entry) {
        let parted = self.parted.get_mut().expect(NOT_BROKEN);
        if let Some(all) = self.joined.get_mut() {
            let at = place(all, entry.key);
            // Where there is no memory to wait in, all that lie behind move.
            if all.len() - at <= MOVES_MAX || parted.waiting.try_reserve(1).is_err() {
                return all.insert(at, entry);
            }
            parted.most = take(all);
            self.joined.take();
        } else if parted.waiting.try_reserve(1).is_err() {
            let all = self.all_mut();
            return all.insert(place(all, entry.key), entry);
        }
        let at = place(&parted.waiting, entry.key);
        parted.waiting.insert(at, entry);
    }

    /// Whether the work with two lists has come to that of making them one.
    fn is_ripe(&mut self) -> bool {
        let Parted { most, waiting, searches } = self.parted.get_mut().expect(NOT_BROKEN);
        waiting.len() > most.len().isqrt() || *searches > most.len() / SEARCHES
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.all();
        self.joined.get().map_or(0, Vec::capacity) * size_of::<Entry>()
    }

    pub(super) fn try_clone(&self) -> Result<Self> {
        let mut entries = memory::room(self.all().len())?;
        for entry in self.all() {
            entries.push(entry.try_clone()?);
        }
        Ok(Self { joined: OnceLock::from(entries), ..Self::default() })
    }
}

impl Parted {
    /// Moves all that wait to where they belong, from the last one on.
    fn join(self) -> Vec<Entry> {
        let Self { mut most, mut waiting, .. } = self;
        let mut left = most.len();
        if waiting.len() == 1
            && let Some(entry) = waiting.pop()
        {
            most.insert(place(&most, entry.key), entry);
            return most;
        }
        most.resize_with(left + waiting.len(), || Entry::full(0, 0));
        for (before, entry) in waiting.drain(..).enumerate().rev() {
            let at = place(&most[..left], entry.key);
            for from in (at..left).rev() {
                most.swap(from, from + before + 1);
            }
            most[at + before] = entry;
            left = at;
        }
        most
    }
}

/// The place of the first entry that ends after chunk `key`.
pub(super) fn place(entries: &[Entry], key: u32) -> usize {
    // Where every chunk so far has an entry of its own, its number is its place.
    if entries.get(key as usize).is_some_and(|entry| entry.key == key) {
        return key as usize;
    }
    let is_before = |entry: &Entry| entry.end() <= key;
    // Each chunk that has no entry of its own moves the entries behind it by one place.
    if let Some(last) = entries.last()
        && let moved = last.end() as usize - entries.len()
        && moved <= FEW_MOVED
    {
        let (low, high) = ((key as usize).saturating_sub(moved), entries.len().min(key as usize));
        let low = low.min(high);
        return low + entries[low..high].partition_point(is_before);
    }
    if let [first, .., last] = entries
        && entries.len() >= FAR_FROM
    {
        let (above, range) = (u64::from(key.saturating_sub(first.key)), u64::from(last.key - first.key));
        #[allow(clippy::cast_possible_truncation, reason = "it is at most the number of entries")]
        let guess = (above.min(range) * entries.len() as u64 / range) as usize;
        return partition_point_near(entries, guess, is_before);
    }
    entries.partition_point(is_before)
}

/// The entry that holds chunk `key`.
fn holder(entries: &mut [Entry], key: u32) -> Option<&mut Entry> {
    let at = place(entries, key);
    entries.get_mut(at).filter(|entry| entry.key <= key)
}

#[cfg(test)]
mod tests {
    use super::super::container::{Container, Run};
    use super::{Entries, Entry, MOVES_MAX, holder};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// As many that new ones wait.
    const MANY: usize = if cfg!(miri) { 2 } else { 12 } * MOVES_MAX;
    /// Cases, and the most steps of each: Miri takes a second for a few hundred entries.
    const CASES: (u32, usize) = if cfg!(miri) { (1, 20) } else { (64, 400) };

    fn one_bit(key: u32) -> Entry {
        let mut container = Container::empty();
        container.set(Run { first: 7, last: 7 }).unwrap();
        Entry::own(key, container)
    }

    fn insert(entries: &mut Entries, key: u32) {
        entries.reserve(1).unwrap();
        entries.insert(one_bit(key));
    }

    fn keys(entries: &Entries) -> Vec<u32> {
        entries.all().iter().map(|entry| entry.key).collect()
    }

    /// Every other key, from `first` on: long enough that new ones wait.
    fn long(first: u32) -> Entries {
        let mut entries = Entries::default();
        let count = u32::try_from(MANY).unwrap();
        (0..count).for_each(|n| entries.all_mut().push(one_bit(first + 2 * n)));
        entries
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(CASES.0))]

        #[test]
        fn each_entry_is_found_wherever_it_waits(
            first in 0..3u32,
            steps in prop::collection::vec((0..u32::try_from(2 * MANY + 700).unwrap(), 0..200u32), 1..CASES.1),
        ) {
            let mut entries = long(first);
            let mut model: BTreeSet<u32> = keys(&entries).into_iter().collect();
            for (key, then) in steps {
                let last = entries.look_at_last(|entry| entry.map(|entry| entry.key));
                prop_assert_eq!(last, model.last().copied());
                let found = entries.find_mut(key).map(|entry| entry.key);
                prop_assert_eq!(found, model.get(&key).copied());
                if model.insert(key) {
                    insert(&mut entries, key);
                }
                prop_assert!(entries.find_mut(key).is_some_and(|entry| entry.key == key));
                match then {
                    0 => prop_assert_eq!(keys(&entries), Vec::from_iter(model.iter().copied())),
                    1 => prop_assert_eq!(keys(&entries.try_clone().unwrap()), Vec::from_iter(model.iter().copied())),
                    2 => for _ in 0..entries.all().len() / 2 {
                        prop_assert!(entries.find_mut(key).is_some());
                    },
                    _ => {}
                }
            }
            prop_assert_eq!(keys(&entries), Vec::from_iter(model.iter().copied()));
        }
    }

    #[test]
    fn a_long_full_entry_holds_all_of_its_chunks() {
        let mut entries = Entries::default();
        entries.all_mut().push(Entry::full(10, 1_000_000));
        let more = u32::try_from(MANY).unwrap();
        (0..more).for_each(|n| entries.all_mut().push(one_bit(1_000_001 + 3 * n)));
        for (key, holder_key) in
            [(9, None), (10, Some(10)), (999_999, Some(10)), (1_000_000, None), (1_000_004, Some(1_000_004))]
        {
            assert_eq!(holder(entries.all_mut(), key).map(|entry| entry.key), holder_key);
        }
    }

    #[test]
    fn readers_on_many_threads_see_all_that_waits() {
        let mut entries = long(0);
        let more = MANY / 102;
        (0..u32::try_from(more).unwrap()).for_each(|n| insert(&mut entries, 101 * (2 * n + 1)));
        assert!(entries.joined.get().is_none(), "nothing waits, so this tests nothing");
        let count = MANY + more;
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(entries.all().len(), count));
            }
        });
        assert!(keys(&entries).is_sorted());
    }
}
