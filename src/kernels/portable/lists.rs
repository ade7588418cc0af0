#![forbid(unsafe_code)]
//! Owns the portable loops over sorted lists of positions. Must never ask what the CPU is.

use crate::geometry::Extent;
use crate::kernels::table::{Block, FEW, Pair, Words};
use std::hint::select_unpredictable;

/// How many items of a list `scatter` takes between two jumps.
const UNROLLED: usize = 8;

/// How many items of a list `extents` looks at together.
const BLOCK: usize = 8;

/// A list that is at least this many times as long as the other is searched for each item of the shorter one; otherwise both
/// lists are walked from end to end.
const SEARCHED_FROM_RATIO: usize = 32;

#[inline(always)]
pub(in crate::kernels) fn list_runs(list: &[u16]) -> usize {
    let Some((_, rest)) = list.split_first() else { return 0 };
    let mut breaks = 0;
    // Counted in 16 bits, block by block, so that as many items as fit are compared at once.
    for (low, high) in list.chunks(8192).zip(rest.chunks(8192)) {
        let found: u16 = low.iter().zip(high).map(|(&low, &high)| u16::from(high.wrapping_sub(low) != 1)).sum();
        breaks += usize::from(found);
    }
    breaks + 1
}

#[inline(always)]
pub(in crate::kernels) fn is_ascending(list: &[u16]) -> bool {
    let rest = list.get(1..).unwrap_or_default();
    list.iter().zip(rest).fold(true, |fine, (low, high)| fine & (low < high))
}

#[inline(always)]
pub(in crate::kernels) fn ascending_runs(list: &[u16]) -> Option<usize> {
    is_ascending(list).then(|| list_runs(list))
}

#[inline(always)]
pub(in crate::kernels) fn block(list: &[u16], out: &mut Block) {
    out.fill(u16::MAX);
    out.iter_mut().zip(list).for_each(|(to, from)| *to = *from);
}

#[inline(always)]
pub(in crate::kernels) fn extents(list: &[u16], base: u64, bits: u32, out: &mut [Extent], filled: usize) -> usize {
    let (granule, mut rest, mut filled) = (1 << bits, list, filled);
    let mut last = last_of(&out[..filled]);
    let offset = |item: u16| base + (u64::from(item) << bits);
    loop {
        // Most often no item follows the one before it: then each is an extent of its own.
        while let Some(block) = rest.first_chunk::<{ BLOCK + 1 }>()
            && !(0..BLOCK).fold(false, |any, place| any | (block[place + 1].wrapping_sub(block[place]) == 1))
            && last.end() != offset(block[0])
            && let Some(room) = out[filled..].first_chunk_mut::<BLOCK>()
        {
            for (place, &item) in room.iter_mut().zip(block) {
                *place = Extent { offset: offset(item), len_bytes: granule };
            }
            last = room[BLOCK - 1];
            filled += BLOCK;
            rest = &rest[BLOCK..];
        }
        if rest.is_empty() {
            return filled;
        }
        // Else there is no branch that depends on how they lie.
        let (some, later) = rest.split_at(BLOCK.min(rest.len()));
        for &item in some {
            let offset = offset(item);
            let touches = offset == last.end();
            let start = select_unpredictable(touches, last.offset, offset);
            filled += usize::from(!touches);
            last = Extent { offset: start, len_bytes: offset + granule - start };
            out[filled - 1] = last;
        }
        rest = later;
    }
}

/// The last of some extents, or what no extent touches.
#[inline(always)]
pub(in crate::kernels) fn last_of(extents: &[Extent]) -> Extent {
    extents.last().copied().unwrap_or(Extent { offset: u64::MAX, len_bytes: 0 })
}

#[inline(always)]
pub(in crate::kernels) fn scatter(list: &[u16], words: &mut Words) {
    let (blocks, rest) = list.as_chunks::<UNROLLED>();
    for block in blocks {
        for &item in block {
            words[usize::from(item / 64)] |= 1 << (item % 64);
        }
    }
    for &item in rest {
        words[usize::from(item / 64)] |= 1 << (item % 64);
    }
}

#[inline(always)]
pub(in crate::kernels) fn unite(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if let Some((few, many)) = skewed(a, b) {
        return unite_few(few, many, out);
    }
    unite_evenly(a, b, out)
}

/// Both lists are walked.
#[inline(always)]
pub(in crate::kernels) fn unite_evenly(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    let (mut i, mut j, mut count) = (0, 0, 0);
    let out = &mut out[..a.len() + b.len()];
    while i < a.len() && j < b.len() {
        let (x, y) = (a[i], b[j]);
        out[count] = x.min(y);
        count += 1;
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    let tail = if i < a.len() { &a[i..] } else { &b[j..] };
    out[count..count + tail.len()].copy_from_slice(tail);
    count + tail.len()
}

/// The shorter and the longer list, if one is much longer.
#[inline(always)]
pub(in crate::kernels) fn skewed<'a>(a: &'a [u16], b: &'a [u16]) -> Option<(&'a [u16], &'a [u16])> {
    let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    (few.len() * SEARCHED_FROM_RATIO < many.len()).then_some((few, many))
}

/// Copies the longer list piece by piece.
#[inline(always)]
pub(in crate::kernels) fn unite_few(few: &[u16], many: &[u16], out: &mut [u16]) -> usize {
    let (mut rest, mut count) = (many, 0);
    for &item in few {
        let (piece, tail) = rest.split_at(gallop(rest, item));
        out[count..count + piece.len()].copy_from_slice(piece);
        count += piece.len();
        out[count] = item;
        count += 1;
        rest = tail.strip_prefix(&[item]).unwrap_or(tail);
    }
    out[count..count + rest.len()].copy_from_slice(rest);
    count + rest.len()
}

/// How many items are below `item`, which is likely near the front.
#[inline(always)]
fn gallop(list: &[u16], item: u16) -> usize {
    let mut reach = 1;
    while reach < list.len() && list[reach] < item {
        reach *= 2;
    }
    let from = reach / 2;
    from + list[from..list.len().min(reach + 1)].partition_point(|&other| other < item)
}

#[inline(always)]
pub(in crate::kernels) fn intersect(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    let mut count = 0;
    if let Some((few, many)) = skewed(a, b) {
        let mut rest = many;
        for &item in few {
            rest = &rest[gallop(rest, item)..];
            out[count] = item;
            count += usize::from(rest.first() == Some(&item));
        }
        return count;
    }
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        let (x, y) = (a[i], b[j]);
        out[count] = x;
        count += usize::from(x == y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    count
}

#[inline(always)]
pub(in crate::kernels) fn subtract(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    let (mut i, mut j, mut count) = (0, 0, 0);
    if a.len() * SEARCHED_FROM_RATIO < b.len() {
        let mut rest = b;
        for &item in a {
            rest = &rest[gallop(rest, item)..];
            out[count] = item;
            count += usize::from(rest.first() != Some(&item));
        }
        return count;
    }
    while i < a.len() && j < b.len() {
        let (x, y) = (a[i], b[j]);
        out[count] = x;
        count += usize::from(x < y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    let tail = &a[i..];
    out[count..count + tail.len()].copy_from_slice(tail);
    count + tail.len()
}

#[inline(always)]
pub(in crate::kernels) fn xor_lists(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    let (mut i, mut j, mut count) = (0, 0, 0);
    let out = &mut out[..a.len() + b.len() + 1];
    while i < a.len() && j < b.len() {
        let (x, y) = (a[i], b[j]);
        out[count] = x.min(y);
        count += usize::from(x != y);
        i += usize::from(x <= y);
        j += usize::from(y <= x);
    }
    let tail = if i < a.len() { &a[i..] } else { &b[j..] };
    out[count..count + tail.len()].copy_from_slice(tail);
    count + tail.len()
}

#[inline(always)]
pub(in crate::kernels) fn filter(list: &[u16], words: &Words, kept: bool, out: &mut [u16]) -> usize {
    let mut count = 0;
    let out = &mut out[..=list.len()];
    for &item in list {
        out[count] = item;
        count += usize::from((words[usize::from(item / 64)] >> (item % 64) & 1 == 1) == kept);
    }
    count
}

#[inline(always)]
pub(in crate::kernels) fn filter_by_runs(list: &[u16], runs: &[Pair], kept: bool, out: &mut [u16]) -> usize {
    let (mut i, mut j, mut count) = (0, 0, 0);
    let out = &mut out[..=list.len()];
    while i < list.len() && j < runs.len() {
        let (item, [first, last]) = (list[i], runs[j]);
        // An item behind the run is looked at again with the next run.
        let is_decided = item <= last;
        out[count] = item;
        count += usize::from(is_decided & ((first <= item) == kept));
        i += usize::from(is_decided);
        j += usize::from(!is_decided);
    }
    let tail = if kept { &[] } else { &list[i..] };
    out[count..count + tail.len()].copy_from_slice(tail);
    count + tail.len()
}

#[inline(always)]
pub(in crate::kernels) fn flip(list: &[u16], words: &mut Words) {
    for &item in list {
        words[usize::from(item / 64)] ^= 1 << (item % 64);
    }
}

/// Every item is counted to its place: the square of their number, but sixteen comparisons at a time and no branch.
#[inline(always)]
pub(in crate::kernels) fn sort_few(lists: &[&[u16]], out: &mut [u16]) -> usize {
    let mut packed = [u16::MAX; FEW];
    let mut count = 0;
    for list in lists {
        // What fills the last block is no item.
        let items = list.strip_suffix(&[u16::MAX]).unwrap_or(list);
        packed[count..count + items.len()].copy_from_slice(items);
        count += items.len();
    }
    let blocks = &packed.as_chunks::<16>().0[..count.div_ceil(16)];
    let out = &mut out[..FEW + 1];
    out[..count].fill(0);
    for &item in &packed[..count] {
        let mut below = [0u16; 16];
        for block in blocks {
            for (below, &other) in below.iter_mut().zip(block) {
                *below += u16::from(other < item);
            }
        }
        let place: u16 = below.iter().sum();
        out[usize::from(place) % FEW] = item;
    }
    // An item that is there twice leaves the second of its places 0, which otherwise stands in the first place only.
    let mut kept = 1;
    for place in 1..count {
        out[kept] = out[place];
        kept += usize::from(out[place] != 0);
    }
    close(lists, out, kept.min(count))
}

/// Adds the last position to the first `count` items if a list has it: kernels take it for the end of what there is.
#[inline(always)]
pub(in crate::kernels) fn close(lists: &[&[u16]], out: &mut [u16], count: usize) -> usize {
    out[count] = u16::MAX;
    count + usize::from(lists.iter().fold(false, |any, list| any | (list.last() == Some(&u16::MAX))))
}
