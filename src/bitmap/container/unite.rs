#![forbid(unsafe_code)]
//! Owns the union of what any number of bitmaps hold of one chunk, and the choice of the way to it. Knows nothing of chunk
//! keys, disks or bytes.
//!
//! Few bits are sorted by counting; lists of like length are merged two by two; many lists are scattered into words that
//! stay in the cache. The ways are those that measurements on x86-64 with AVX2 favour.

use super::{ARRAY_MAX, Array, Bits, CHUNK, Container, RUNS_MAX, Run, Runs, Words, no_words, small};
use crate::kernels::{FEW, Kernels, ROOM, select};

/// What a merge of two lists costs for each item, and a scattered item, in tenths of a nanosecond.
const MERGE_COST: usize = 6;
const SCATTER_COST: usize = 9;

/// What it costs to find the bits of scattered words again.
const SCAN_COST: usize = 12_000;

/// Above this many runs and single bits, words are the quicker way.
const SWEEP_MAX: usize = 1024;

/// Memory for unions, to be used again for the next chunk.
pub(in crate::bitmap) struct Workspace {
    kernels: &'static Kernels,
    /// All zero between two unions.
    words: Box<Words>,
    lists: [Box<[u16]>; 2],
    runs: [Vec<u32>; 2],
}

impl Workspace {
    pub(in crate::bitmap) fn new() -> Self {
        let list = || vec![0; 2 * ARRAY_MAX + ROOM].into_boxed_slice();
        Self { kernels: select(), words: no_words(), lists: [list(), list()], runs: [Vec::new(), Vec::new()] }
    }

    /// The smallest form of the words, which are zero again afterwards.
    fn take_words(&mut self) -> Container {
        let measure = (self.kernels.measure)(&self.words);
        match Container::without_words(&self.words, measure) {
            Some(container) => {
                self.words.fill(0);
                container
            }
            None => Container::Bits(Bits { ones: measure.ones, words: std::mem::replace(&mut self.words, no_words()) }),
        }
    }

    /// The smallest form of a sorted list.
    fn form(&self, list: &[u16]) -> Container {
        if list.len() <= 2 * (self.kernels.list_runs)(list) {
            return Container::Array(Array(list.to_vec()));
        }
        Container::from_sorted(list.to_vec())
    }

    fn unite_two_lists(&mut self, a: &[u16], b: &[u16]) -> Container {
        let count = (self.kernels.unite)(a, b, &mut self.lists[0]);
        if count <= ARRAY_MAX {
            return self.form(&self.lists[0][..count]);
        }
        (self.kernels.scatter)(a, &mut self.words);
        (self.kernels.scatter)(b, &mut self.words);
        self.take_words()
    }

    /// Unites more than two lists, or any number with few items.
    fn unite_lists(&mut self, group: &[&Container], items: usize) -> Container {
        let lists = group.iter().filter_map(|container| match container {
            Container::Array(array) => Some(&array.0[..]),
            _ => None,
        });
        if items <= FEW {
            return self.sort(lists, items);
        }
        let levels = group.len().next_power_of_two().trailing_zeros() as usize;
        if items <= ARRAY_MAX && items * levels * MERGE_COST < items * SCATTER_COST + SCAN_COST {
            return self.merge(lists);
        }
        lists.for_each(|list| (self.kernels.scatter)(list, &mut self.words));
        self.take_words()
    }

    fn sort<'a>(&mut self, lists: impl Iterator<Item = &'a [u16]>, items: usize) -> Container {
        let mut all = [u16::MAX; FEW];
        let (mut count, mut has_last) = (0, false);
        for list in lists {
            for &item in list {
                all[count % FEW] = item;
                count += 1;
            }
            has_last |= list.last() == Some(&u16::MAX);
        }
        debug_assert_eq!(count, items);
        if has_last {
            // The kernel's mark for the end cannot be an item.
            let mut list = all[..count].to_vec();
            list.sort_unstable();
            list.dedup();
            return Container::from_sorted(list);
        }
        let mut sorted = [0; FEW];
        let count = (self.kernels.sort_few)(&all, &mut sorted);
        self.form(&sorted[..count])
    }

    /// Unites lists two by two, neighbours first.
    fn merge<'a>(&mut self, lists: impl Iterator<Item = &'a [u16]>) -> Container {
        let [from, to] = &mut self.lists;
        let mut ends = Vec::with_capacity(64);
        let mut filled = 0;
        let mut lists = lists;
        while let Some(list) = lists.next() {
            filled += match lists.next() {
                Some(other) => (self.kernels.unite)(list, other, &mut from[filled..]),
                None => {
                    from[filled..filled + list.len()].copy_from_slice(list);
                    list.len()
                }
            };
            ends.push(filled);
        }
        while ends.len() > 1 {
            let (mut filled, mut start, mut kept) = (0, 0, 0);
            for pair in 0..ends.len().div_ceil(2) {
                let (middle, end) = (ends[2 * pair], *ends.get(2 * pair + 1).unwrap_or(&ends[2 * pair]));
                filled += (self.kernels.unite)(&from[start..middle], &from[middle..end], &mut to[filled..]);
                start = end;
                ends[kept] = filled;
                kept += 1;
            }
            ends.truncate(kept);
            std::mem::swap(from, to);
        }
        let count = ends.first().copied().unwrap_or(0);
        self.form(&self.lists[0][..count])
    }

    /// Unites runs and single bits, two by two, the first with the second, the result with the third.
    fn sweep(&mut self, group: &[&Container]) -> Container {
        let [from, to] = &mut self.runs;
        let mut ends = Vec::with_capacity(64);
        from.clear();
        for container in group {
            match container {
                Container::Runs(runs) => from.extend(runs.0.iter().map(|run| run.packed())),
                Container::Array(array) => {
                    from.extend(array.0.iter().map(|&bit| u32::from(bit) << 16 | u32::from(bit)));
                }
                Container::Bits(_) | Container::Full => {}
            }
            ends.push(from.len());
        }
        to.resize(from.len().max(to.len()), 0);
        from.resize(to.len(), 0);
        while ends.len() > 1 {
            let (mut filled, mut start, mut kept) = (0, 0, 0);
            for pair in 0..ends.len().div_ceil(2) {
                let (middle, end) = (ends[2 * pair], *ends.get(2 * pair + 1).unwrap_or(&ends[2 * pair]));
                filled += (self.kernels.unite_runs)(&from[start..middle], &from[middle..end], &mut to[filled..]);
                start = end;
                ends[kept] = filled;
                kept += 1;
            }
            ends.truncate(kept);
            std::mem::swap(from, to);
        }
        let count = ends.first().copied().unwrap_or(0);
        form_of_runs(&self.runs[0][..count])
    }
}

/// The smallest form of packed runs, which neither overlap nor touch.
fn form_of_runs(runs: &[u32]) -> Container {
    let ones: u32 = runs.iter().map(|&run| (run & 0xffff) - (run >> 16) + 1).sum();
    if ones == CHUNK {
        return Container::Full;
    }
    if runs.len() <= RUNS_MAX && (ones as usize > 2 * runs.len() || ones as usize > ARRAY_MAX) {
        return Container::Runs(Runs(runs.iter().map(|&run| Run::unpacked(run)).collect()));
    }
    Container::from_runs(runs.iter().map(|&run| Run::unpacked(run)).collect())
}

impl Container {
    /// Adds the bits of `other`.
    pub(in crate::bitmap) fn unite_with(&mut self, other: &Self, workspace: &mut Workspace) {
        let united = match (&mut *self, other) {
            (Self::Full, _) => return,
            (_, Self::Full) => Self::Full,
            (Self::Array(a), Self::Array(b)) => workspace.unite_two_lists(&a.0, &b.0),
            (Self::Bits(a), other) => {
                let measure = match other {
                    Self::Bits(b) => (workspace.kernels.or)(&mut a.words, &b.words),
                    _ => {
                        other.add_to(&mut a.words);
                        (workspace.kernels.measure)(&a.words)
                    }
                };
                a.ones = measure.ones;
                match Self::without_words(&a.words, measure) {
                    Some(container) => container,
                    None => return,
                }
            }
            (ours, other) => Self::union_of(&[ours, other], workspace),
        };
        *self = united;
    }

    /// What is set in any of `group`.
    pub(in crate::bitmap) fn union_of(group: &[&Self], workspace: &mut Workspace) -> Self {
        let (mut items, mut runs) = (0, 0);
        let mut first_bits = None;
        match group {
            [] => return Self::empty(),
            [one] => return (*one).clone(),
            [Self::Array(a), Self::Array(b)] if a.0.len() + b.0.len() > FEW => {
                return workspace.unite_two_lists(&a.0, &b.0);
            }
            _ => {}
        }
        for (index, container) in group.iter().enumerate() {
            match container {
                Self::Array(array) => items += array.0.len(),
                Self::Runs(list) => runs += list.0.len(),
                Self::Bits(bits) => first_bits = first_bits.or(Some((index, bits))),
                Self::Full => return Self::Full,
            }
        }
        if let Some((index, bits)) = first_bits {
            let mut words = bits.words.clone();
            let others = group.iter().enumerate().filter(|&(other, _)| other != index);
            others.for_each(|(_, container)| container.add_to(&mut words));
            let measure = (workspace.kernels.measure)(&words);
            return match Self::without_words(&words, measure) {
                Some(container) => container,
                None => Self::Bits(Bits { ones: measure.ones, words }),
            };
        }
        if runs == 0 {
            return workspace.unite_lists(group, items);
        }
        if items + runs <= SWEEP_MAX || small(group.len()) == 2 && items == 0 {
            return workspace.sweep(group);
        }
        group.iter().for_each(|container| container.add_to(&mut workspace.words));
        workspace.take_words()
    }
}
