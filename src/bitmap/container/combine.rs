#![forbid(unsafe_code)]
//! Owns what two bitmaps have in common of one chunk, what one has without the other, and what a chunk does not hold; and the
//! choice of the way to it. Knows nothing of chunk keys, disks or bytes.
//!
//! Where both are lists or runs the result is one too, and is made without words. Else the bits of lists are looked up in the
//! words of the other, or both are words for the time.

use super::unite::{ListRoom, Made, Workspace, made, room_for, room_for_runs};
use super::{ARRAY_MAX, Pair, RUNS_MAX, View, Words, sparse};
use crate::kernels::{Kernels, Measure};
use crate::memory::Result;

/// From this many items and runs on, to walk both takes longer than to set the runs in words and look each item up.
const LOOKED_UP: usize = 64;

/// The way to make one of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bitmap) enum Operation {
    Union,
    Intersect,
    Subtract,
    Xor,
}

impl Workspace {
    /// The smallest form of what `operation` makes of two views, neither of which is full.
    #[inline]
    pub(in crate::bitmap) fn combine<'a>(
        &'a mut self,
        operation: Operation,
        a: View<'a>,
        b: View<'a>,
    ) -> Result<Made<'a>> {
        match (operation, a, b) {
            (Operation::Union, ..) => self.unite(&[a, b]),
            (_, View::Array(x), View::Array(y)) => self.combine_lists(operation, x, y),
            (_, View::Runs(x), View::Runs(y)) => {
                let count = self.combine_runs(operation, x, y)?;
                self.of_runs(count)
            }
            (Operation::Intersect, View::Array(list), other) | (Operation::Intersect, other, View::Array(list)) => {
                self.filter(list, other, true)
            }
            (Operation::Subtract, View::Array(list), other) => self.filter(list, other, false),
            (_, View::Runs(runs), View::Array(list)) | (Operation::Xor, View::Array(list), View::Runs(runs))
                if list.len() <= RUNS_MAX =>
            {
                let mut bits = std::mem::take(&mut self.bits);
                let count = gather_runs(list, &mut bits).and_then(|()| self.combine_runs(operation, runs, &bits));
                self.bits = bits;
                self.of_runs(count?)
            }
            _ => self.combine_in_words(operation, a, b),
        }
    }

    /// What a chunk does not hold that is not full.
    pub(in crate::bitmap) fn complement(&mut self, view: View<'_>) -> Result<Made<'_>> {
        match view {
            View::Runs(runs) => {
                complement(runs, &mut self.pairs[0])?;
                self.of_runs(self.pairs[0].len())
            }
            _ => {
                let words = made(&mut self.words)?;
                view.copy_to(words);
                words.iter_mut().for_each(|word| *word = !*word);
                self.of_words()
            }
        }
    }

    /// Whether every bit of `a` is set in `b`.
    pub(in crate::bitmap) fn is_subset(&mut self, a: View<'_>, b: View<'_>) -> Result<bool> {
        Ok(match (a, b) {
            (_, View::Full) => true,
            (View::Full, _) => false,
            (View::Array(x), View::Array(y)) => {
                x.len() <= y.len() && (self.kernels.intersect)(x, y, room_for(&mut self.lists[0], x.len())?) == x.len()
            }
            (View::Array(list), _) => self.filter_list(list, b, true)? == list.len(),
            (View::Runs(x), View::Runs(y)) => {
                let room = room_for_runs(&mut self.pairs[0], x.len() + y.len())?;
                let count = (self.kernels.intersect_runs)(x, y, room);
                self.pairs[0][..count] == *x
            }
            _ => {
                let words = words_of(a, &mut self.words)?;
                let others = words_of(b, &mut self.others)?;
                (self.kernels.is_subset)(words, others)
            }
        })
    }

    fn combine_lists(&mut self, operation: Operation, a: &[u16], b: &[u16]) -> Result<Made<'_>> {
        let (kernel, most) = match operation {
            Operation::Intersect => (self.kernels.intersect, a.len()),
            Operation::Subtract => (self.kernels.subtract, a.len()),
            _ => (self.kernels.xor_lists, a.len() + b.len()),
        };
        if most > ARRAY_MAX || self.sparse.is_some() && most * size_of::<u16>() >= 2 * sparse::LEAST {
            return self.combine_in_words(operation, View::Array(a), View::Array(b));
        }
        let count = kernel(a, b, room_for(&mut self.lists[0], most)?);
        self.of_list(count)
    }

    /// Puts the runs of the result at the beginning of the first runs; how many there are.
    fn combine_runs(&mut self, operation: Operation, a: &[Pair], b: &[Pair]) -> Result<usize> {
        let [pairs, others] = &mut self.pairs;
        let other = match operation {
            Operation::Xor => return self.xor_runs(a, b),
            Operation::Subtract => {
                complement(b, others)?;
                &others[..]
            }
            _ => b,
        };
        Ok((self.kernels.intersect_runs)(a, other, room_for_runs(pairs, a.len() + other.len())?))
    }

    /// Where runs of the one or of the other begin or end, a run of the result begins or ends; not where both do.
    fn xor_runs(&mut self, a: &[Pair], b: &[Pair]) -> Result<usize> {
        let Self { kernels, lists: [ours, theirs], pairs: [pairs, _], .. } = self;
        let (ours, theirs) = (bounds(a, ours)?, bounds(b, theirs)?);
        let room = room_for_runs(pairs, a.len() + b.len())?.as_flattened_mut();
        let count = (kernels.xor_lists)(ours, theirs, room);
        // A run that has no end goes on to the end of the chunk, of which 16 bits are left.
        room[count] = 0;
        let count = count.div_ceil(2);
        pairs[..count].iter_mut().for_each(|[_, last]| *last = last.wrapping_sub(1));
        Ok(count)
    }

    /// The bits of a list that are set in `other`, or those that are not.
    fn filter(&mut self, list: &[u16], other: View<'_>, kept: bool) -> Result<Made<'_>> {
        let count = self.filter_list(list, other, kept)?;
        self.of_list(count)
    }

    fn filter_list(&mut self, list: &[u16], other: View<'_>, kept: bool) -> Result<usize> {
        let out = room_for(&mut self.lists[0], list.len())?;
        Ok(match other {
            View::Runs(runs) if self.kernels.traits.has_networks || list.len() + runs.len() < LOOKED_UP => {
                (self.kernels.filter_by_runs)(list, runs, kept, out)
            }
            _ => (self.kernels.filter)(list, words_of(other, &mut self.others)?, kept, out),
        })
    }

    /// Makes all that [`Workspace::change_words`] and [`Workspace::smaller_than`] need, which do not fail then.
    pub(in crate::bitmap) fn prepare(&mut self) -> Result<()> {
        made(&mut self.others)?;
        self.sparse.as_mut().map_or(Ok(()), sparse::PackedBytes::prepare)?;
        room_for(&mut self.lists[0], ARRAY_MAX)?;
        room_for_runs(&mut self.pairs[0], RUNS_MAX)?;
        Ok(())
    }

    /// Combines words with a view in their place; what they hold then.
    pub(in crate::bitmap) fn change_words(
        &mut self,
        operation: Operation,
        words: &mut Words,
        other: View<'_>,
    ) -> Result<Measure> {
        let Self { kernels, others, .. } = self;
        change(kernels, operation, words, other, others)
    }

    fn combine_in_words(&mut self, operation: Operation, a: View<'_>, b: View<'_>) -> Result<Made<'_>> {
        let Self { kernels, words, others, .. } = self;
        let words = made(words)?;
        a.copy_to(words);
        let measure = change(kernels, operation, words, b, others)?;
        self.of_measured(measure)
    }
}

/// Combines words with a view, whose words lie in `room` where it has none; what they hold then.
fn change(
    kernels: &Kernels,
    operation: Operation,
    words: &mut Words,
    other: View<'_>,
    room: &mut Option<Box<Words>>,
) -> Result<Measure> {
    let kernel = match (operation, other) {
        (Operation::Xor, View::Array(list)) => {
            (kernels.flip)(list, words);
            return Ok((kernels.measure)(words));
        }
        (Operation::Union, View::Array(_) | View::Runs(_) | View::Sparse(_)) => {
            other.add_to(words);
            return Ok((kernels.measure)(words));
        }
        (Operation::Intersect, _) => kernels.and,
        (Operation::Subtract, _) => kernels.and_not,
        (Operation::Union, _) => kernels.or,
        (Operation::Xor, _) => kernels.xor,
    };
    Ok(kernel(words, words_of(other, room)?))
}

/// The words of a view, which lie in `room` where it has none.
fn words_of<'a>(view: View<'a>, room: &'a mut Option<Box<Words>>) -> Result<&'a Words> {
    if let View::Words(words) = view {
        return Ok(words);
    }
    let words = made(room)?;
    view.copy_to(words);
    Ok(words)
}

/// Puts the runs of a list into `out`. A run is written again for each of its items, as a jump at each run would be guessed wrong
/// too often.
fn gather_runs(list: &[u16], out: &mut Vec<Pair>) -> Result<()> {
    let Some(&start) = list.first() else {
        out.clear();
        return Ok(());
    };
    room_for_runs(out, list.len())?;
    let (mut count, mut first, mut before) = (0, start, start);
    for &item in list {
        let is_apart = item > before.saturating_add(1);
        count += usize::from(is_apart);
        first = if is_apart { item } else { first };
        out[count] = [first, item];
        before = item;
    }
    out.truncate(count + 1);
    Ok(())
}

/// Puts the runs between runs into `out`.
fn complement(runs: &[Pair], out: &mut Vec<Pair>) -> Result<()> {
    out.clear();
    out.try_reserve(runs.len() + 1)?;
    let (first, last) = match runs {
        [[first, _], .., [_, last]] | [[first, last]] => (*first, *last),
        [] => {
            out.push([0, u16::MAX]);
            return Ok(());
        }
    };
    if let Some(before) = first.checked_sub(1) {
        out.push([0, before]);
    }
    out.extend(runs.iter().zip(&runs[1..]).map(|(run, next)| [run[1] + 1, next[0] - 1]));
    if let Some(after) = last.checked_add(1) {
        out.push([after, u16::MAX]);
    }
    Ok(())
}

/// Where runs begin and where they have ended, in `out`; the end of the chunk is left out.
fn bounds<'o>(runs: &[Pair], out: &'o mut ListRoom) -> Result<&'o [u16]> {
    let room = room_for(out, 2 * runs.len())?;
    for (bounds, run) in room.as_chunks_mut().0.iter_mut().zip(runs) {
        *bounds = [run[0], run[1].wrapping_add(1)];
    }
    let is_open = runs.last().is_some_and(|run| run[1] == u16::MAX);
    Ok(&room[..2 * runs.len() - usize::from(is_open)])
}
