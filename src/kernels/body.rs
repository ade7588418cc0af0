#![forbid(unsafe_code)]
//! Owns the portable bodies of the kernels, which the other files stamp for their instruction sets. Must never ask what the
//! CPU is.

use super::{Measure, Pair, RunBlock, SavedRuns, Words};
use crate::geometry::Extent;
use std::hint::select_unpredictable;

/// The words of one chunk.
pub const WORDS: usize = 1024;

/// How much longer than its contents a slice must be that a kernel fills.
pub const ROOM: usize = 64;

/// The bounds that are decoded at a time; the last 64 are room for those of one word.
pub const EDGES: usize = 128;

/// The runs that are serialized together.
pub const RUN_BLOCK: usize = 32;

/// The most items that `sort_few` unites, and how many of them are a group.
pub const FEW: usize = 128;
pub const GROUP: usize = 8;

/// The most groups of runs that `unite_few_runs` takes.
pub const FEW_RUNS: usize = 32;

/// Where runs begin and where they end, in sorted groups that are filled up with the last position.
pub(super) struct Groups {
    pub(super) firsts: [[u16; GROUP]; FEW_RUNS],
    pub(super) lasts: [[u16; GROUP]; FEW_RUNS],
    pub(super) groups: usize,
    pub(super) runs: usize,
}

impl Groups {
    #[inline(always)]
    pub(super) fn new(runs: &[&[Pair]], bits: &[&[u16]]) -> Self {
        let mut firsts = [[u16::MAX; GROUP]; FEW_RUNS];
        let (mut lasts, mut groups, mut count) = (firsts, 0, 0);
        for part in runs.iter().flat_map(|list| list.chunks(GROUP)) {
            for ((first, last), run) in firsts[groups].iter_mut().zip(&mut lasts[groups]).zip(part) {
                (*first, *last) = (run[0], run[1]);
            }
            groups += 1;
            count += part.len();
        }
        for part in bits.iter().flat_map(|list| list.chunks(GROUP)) {
            firsts[groups][..part.len()].copy_from_slice(part);
            lasts[groups][..part.len()].copy_from_slice(part);
            groups += 1;
            count += part.len();
        }
        Self { firsts, lasts, groups, runs: count }
    }
}

/// The bytes of the upper masks of a packed chunk, and the room that packing one takes.
pub const MASKS: usize = 128;
pub const SPARSE_ROOM: usize = MASKS + 8 * MASKS + 8 * WORDS + ROOM;

/// So many items of a list are scattered without a jump between them.
const UNROLLED: usize = 8;

/// The items of a list that are made extents together.
const BLOCK: usize = 8;

/// A list this many times as long as the other is searched instead of walked.
const SKEW: usize = 32;

/// Puts the items of `part` to the front of a group, without a loop whose end would be guessed wrong most often.
#[inline(always)]
pub(super) fn fill_group(group: &mut [u16; GROUP], part: &[u16]) {
    const HALF: usize = GROUP / 2;
    let len = part.len().min(GROUP);
    if let (Some(head), Some(tail)) = (part.first_chunk::<HALF>(), part[..len].last_chunk::<HALF>()) {
        group[..HALF].copy_from_slice(head);
        group[len - HALF..len].copy_from_slice(tail);
    } else if let [first, .., last] = part {
        (group[0], group[len / 2], group[len - 1]) = (*first, part[len / 2], *last);
    } else if let [only] = part {
        group[0] = *only;
    }
}

#[inline(always)]
pub(super) fn or(to: &mut Words, from: &Words) -> Measure {
    or_only(to, from);
    measure(to)
}

#[inline(always)]
pub(super) fn and(to: &mut Words, from: &Words) -> Measure {
    to.iter_mut().zip(from).for_each(|(to, from)| *to &= from);
    measure(to)
}

#[inline(always)]
pub(super) fn and_not(to: &mut Words, from: &Words) -> Measure {
    to.iter_mut().zip(from).for_each(|(to, from)| *to &= !from);
    measure(to)
}

#[inline(always)]
pub(super) fn xor(to: &mut Words, from: &Words) -> Measure {
    to.iter_mut().zip(from).for_each(|(to, from)| *to ^= from);
    measure(to)
}

#[inline(always)]
pub(super) fn or_only(to: &mut Words, from: &Words) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to |= from);
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "a chunk has 65536 bits")]
pub(super) fn measure(words: &Words) -> Measure {
    let (mut ones, mut runs) =
        (u64::from(words[0].count_ones()), u64::from((words[0] & !(words[0] << 1)).count_ones()));
    for index in 1..WORDS {
        let (word, before) = (words[index], words[index - 1]);
        ones += u64::from(word.count_ones());
        runs += u64::from((word & !(word << 1 | before >> 63)).count_ones());
    }
    Measure { ones: ones as u32, runs: runs as u32 }
}

#[inline(always)]
pub(super) fn ones(words: &[u64]) -> u64 {
    words.iter().map(|word| u64::from(word.count_ones())).sum()
}

#[inline(always)]
pub(super) fn is_subset(a: &Words, b: &Words) -> bool {
    let (a, _) = a.as_chunks::<64>();
    let (b, _) = b.as_chunks::<64>();
    a.iter().zip(b).all(|(a, b)| a.iter().zip(b).fold(0, |left, (a, b)| left | (a & !b)) == 0)
}

#[inline(always)]
#[allow(
    clippy::cast_possible_truncation,
    reason = "positions of a chunk are below 65536; what is above is not counted"
)]
pub(super) fn positions(words: &Words, out: &mut [u16]) -> usize {
    let mut count = 0;
    for (index, &word) in words.iter().enumerate() {
        let Some(room) = out.get_mut(count..).and_then(|rest| rest.first_chunk_mut::<ROOM>()) else { break };
        let base = index as u32 * 64;
        let found = word.count_ones() as usize;
        each_bit(word, |place, bit| room[place] = (base + bit) as u16);
        count += found;
    }
    count
}

/// Puts the positions of a word's bits, four at a time: up to three puts too many, which the next word overwrites.
#[inline(always)]
fn each_bit(word: u64, mut put: impl FnMut(usize, u32)) {
    let mut rest = word;
    let mut place = 0;
    loop {
        for step in 0..4 {
            put((place + step) % ROOM, rest.trailing_zeros());
            rest &= rest.wrapping_sub(1);
        }
        if rest == 0 {
            break;
        }
        place += 4;
    }
}

#[inline(always)]
pub(super) fn edges(words: &Words, from: u32, to: u32, out: &mut [u32; EDGES]) -> (usize, u32) {
    edges_by(words, from, to, out, |changes, base, room| each_bit(changes, |place, bit| room[place] = base + bit))
}

/// [`edges`], where `put` gets a word's changes, the number of its first bit, and where the numbers of the changes go.
#[inline(always)]
pub(super) fn edges_by(
    words: &Words,
    from: u32,
    to: u32,
    out: &mut [u32; EDGES],
    put: impl Fn(u64, u32, &mut [u32; ROOM]),
) -> (usize, u32) {
    if from >= to {
        return (0, to);
    }
    let (first, last) = (from as usize / 64, (to as usize - 1) / 64);
    let (mut count, mut carry) = (0, 0);
    let mut mask = u64::MAX << (from % 64);
    for (index, &word) in words.iter().enumerate().take(last + 1).skip(first) {
        if count > EDGES - ROOM {
            // A run that is open goes to the next call whole.
            let (closed, next) = if count % 2 == 0 { (count, edge(index)) } else { (count - 1, out[count - 1]) };
            return (closed, next);
        }
        if index == last {
            mask &= u64::MAX >> (63 - (to - 1) % 64);
        }
        let word = word & mask;
        mask = u64::MAX;
        let changes = word ^ (word << 1 | carry);
        carry = word >> 63;
        let base = edge(index);
        let room: &mut [u32] = &mut out[count..];
        if let Some(room) = room.first_chunk_mut::<ROOM>() {
            put(changes, base, room);
        }
        count += changes.count_ones() as usize;
    }
    if count % 2 == 1 {
        out[count] = to;
        count += 1;
    }
    (count, to)
}

#[inline(always)]
pub(super) fn runs(words: &Words, out: &mut [Pair]) -> usize {
    let end = edge(WORDS);
    let mut bounds = [0; EDGES];
    let (mut count, mut from) = (0, 0);
    while from < end {
        let (found, next) = edges(words, from, end, &mut bounds);
        let (pairs, _) = bounds[..found].as_chunks::<2>();
        for (run, &[first, end]) in out[count..].iter_mut().zip(pairs) {
            *run = pair(first, end - 1);
        }
        count += pairs.len();
        from = next;
    }
    count
}

/// The first bit of a word.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "a chunk has 1024 words")]
fn edge(index: usize) -> u32 {
    index as u32 * 64
}

#[inline(always)]
pub(super) fn list_runs(list: &[u16]) -> usize {
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
pub(super) fn is_ascending(list: &[u16]) -> bool {
    let rest = list.get(1..).unwrap_or_default();
    list.iter().zip(rest).fold(true, |fine, (low, high)| fine & (low < high))
}

#[inline(always)]
pub(super) fn extents(list: &[u16], base: u64, bits: u32, out: &mut [Extent], filled: usize) -> usize {
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
pub(super) fn last_of(extents: &[Extent]) -> Extent {
    extents.last().copied().unwrap_or(Extent { offset: u64::MAX, len_bytes: 0 })
}

#[inline(always)]
pub(super) fn scatter(list: &[u16], words: &mut Words) {
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
pub(super) fn scatter_runs(runs: &[Pair], words: &mut Words) {
    for &[first, last] in runs {
        let (from, to) = (usize::from(first / 64), usize::from(last / 64));
        let (head, tail) = (u64::MAX << (first % 64), u64::MAX >> (63 - last % 64));
        if from == to {
            words[from] |= head & tail;
            continue;
        }
        words[from] |= head;
        words[to] |= tail;
        for word in words.get_mut(from + 1..to).unwrap_or_default() {
            *word = u64::MAX;
        }
    }
}

#[inline(always)]
pub(super) fn unite(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    if let Some((few, many)) = skewed(a, b) {
        return unite_few(few, many, out);
    }
    unite_evenly(a, b, out)
}

/// Both lists are walked.
#[inline(always)]
pub(super) fn unite_evenly(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
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
pub(super) fn skewed<'a>(a: &'a [u16], b: &'a [u16]) -> Option<(&'a [u16], &'a [u16])> {
    let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    (few.len() * SKEW < many.len()).then_some((few, many))
}

/// Copies the longer list piece by piece.
#[inline(always)]
pub(super) fn unite_few(few: &[u16], many: &[u16], out: &mut [u16]) -> usize {
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
pub(super) fn intersect(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
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
pub(super) fn subtract(a: &[u16], b: &[u16], out: &mut [u16]) -> usize {
    let (mut i, mut j, mut count) = (0, 0, 0);
    if a.len() * SKEW < b.len() {
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

/// Every item is counted to its place: the square of their number, but sixteen comparisons at a time and no branch.
#[inline(always)]
pub(super) fn sort_few(lists: &[&[u16]], out: &mut [u16]) -> usize {
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
pub(super) fn close(lists: &[&[u16]], out: &mut [u16], count: usize) -> usize {
    out[count] = u16::MAX;
    count + usize::from(lists.iter().fold(false, |any, list| any | (list.last() == Some(&u16::MAX))))
}

#[inline(always)]
pub(super) fn unite_runs(a: &[Pair], b: &[Pair], out: &mut [Pair]) -> usize {
    let (mut i, mut j, mut count) = (0, 0, 0);
    let Some(&[first, last]) = [a.first(), b.first()].into_iter().flatten().min() else { return 0 };
    let out = &mut out[..a.len() + b.len()];
    let (mut first, mut last) = (u32::from(first), u32::from(last));
    let mut add = |[run_first, run_last]: Pair| {
        let (run_first, run_last) = (u32::from(run_first), u32::from(run_last));
        let apart = run_first > last + 1;
        out[count] = pair(first, last);
        count += usize::from(apart);
        first = if apart { run_first } else { first };
        last = if apart { run_last } else { last.max(run_last) };
    };
    while i < a.len() && j < b.len() {
        let (x, y) = (a[i], b[j]);
        let is_a = x[0] <= y[0];
        i += usize::from(is_a);
        j += usize::from(!is_a);
        add(if is_a { x } else { y });
    }
    let tail = if i < a.len() { &a[i..] } else { &b[j..] };
    tail.iter().for_each(|&run| add(run));
    out[count] = pair(first, last);
    count + 1
}

#[inline(always)]
pub(super) fn unite_few_runs(runs: &[&[Pair]], bits: &[&[u16]], out: &mut [Pair]) -> usize {
    let Groups { firsts: mut begins, lasts: mut ends, groups, runs } = Groups::new(runs, bits);
    if runs == 0 {
        return 0;
    }
    let (begins, ends) = (begins[..groups].as_flattened_mut(), ends[..groups].as_flattened_mut());
    begins.sort_unstable();
    ends.sort_unstable();
    let mut count = 0;
    let mut first = begins[0];
    for next in 1..runs {
        if begins[next] > ends[next - 1].saturating_add(1) {
            out[count] = [first, ends[next - 1]];
            count += 1;
            first = begins[next];
        }
    }
    out[count] = [first, ends[runs - 1]];
    count + 1
}

#[allow(clippy::cast_possible_truncation, reason = "positions of a chunk are below 65536")]
#[inline(always)]
fn pair(first: u32, last: u32) -> Pair {
    [first as u16, last as u16]
}

#[inline(always)]
pub(super) fn run_ones(runs: &[Pair]) -> u32 {
    runs.iter().map(|&[first, last]| u32::from(last.wrapping_sub(first)) + 1).sum()
}

#[inline(always)]
pub(super) fn run_ones_within(runs: &[Pair], first: u32, end: u32) -> u32 {
    runs.iter().map(|run| (u32::from(run[1]) + 1).min(end).saturating_sub(u32::from(run[0]).max(first))).sum()
}

#[inline(always)]
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

#[inline(always)]
pub(super) fn apart_ones(runs: &[Pair]) -> Option<u32> {
    let Some((&[first, last], others)) = runs.split_last() else { return Some(0) };
    let (mut ones, mut wrong) = (0_u32, 0_u32);
    for (&[first, last], &[next, _]) in others.iter().zip(&runs[1..]) {
        let more = u32::from(last).wrapping_sub(u32::from(first));
        // A difference below 0 has the highest bit.
        wrong |= more | u32::from(next).wrapping_sub(u32::from(last) + 2);
        ones = ones.wrapping_add(more.wrapping_add(1));
    }
    (wrong >> 31 == 0 && first <= last).then(|| ones + u32::from(last - first) + 1)
}

#[inline(always)]
pub(super) fn pack(words: &Words, out: &mut [u8]) -> usize {
    let lower: [u8; WORDS] = std::array::from_fn(|index| mask_of(words[index]));
    let (upper, rest) = out.split_at_mut(MASKS);
    let mut end = 0;
    for (mask, group) in upper.iter_mut().zip(lower.as_chunks::<8>().0) {
        let group = u64::from_le_bytes(*group);
        *mask = mask_of(group);
        end += take_bytes(group, &mut rest[end..]);
    }
    for &word in words {
        end += take_bytes(word, &mut rest[end..]);
    }
    MASKS + end
}

#[inline(always)]
pub(super) fn packed_len(words: &Words) -> usize {
    let lower: [u8; WORDS] = std::array::from_fn(|index| mask_of(words[index]));
    MASKS + lower.iter().filter(|mask| **mask != 0).count() + byte_ones(&lower) as usize
}

/// The highest bit of each byte that is not 0.
#[inline(always)]
fn full_bytes(word: u64) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    (((word & LOW) + LOW) | word) & !LOW
}

/// Which bytes are not 0.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "the product has the eight bits on top")]
pub(super) fn mask_of(word: u64) -> u8 {
    ((full_bytes(word) >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// Takes the bytes that are not 0; their number.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "one byte is taken")]
fn take_bytes(word: u64, out: &mut [u8]) -> usize {
    let mut left = full_bytes(word);
    let mut count = 0;
    while left != 0 {
        out[count] = (word >> (left.trailing_zeros() & !7)) as u8;
        left &= left - 1;
        count += 1;
    }
    count
}

#[inline(always)]
pub(super) fn spread(sparse: &[u8], words: &mut Words) {
    let (upper, mut rest) = sparse.split_at(sparse.len().min(MASKS));
    let mut lower = [0; 8 * MASKS];
    for (group, &mask) in lower.as_chunks_mut::<8>().0.iter_mut().zip(upper) {
        *group = put_bytes(mask, &mut rest);
    }
    for (word, &mask) in words.iter_mut().zip(&lower) {
        *word |= u64::from_le_bytes(put_bytes(mask, &mut rest));
    }
}

#[inline(always)]
pub(super) fn unpack(sparse: &[u8], words: &mut Words) {
    words.fill(0);
    spread(sparse, words);
}

/// The next of `rest` at the places of a mask.
#[inline(always)]
fn put_bytes(mask: u8, rest: &mut &[u8]) -> [u8; 8] {
    let mut bytes = [0; 8];
    let mut left = mask;
    while let (true, Some((&byte, later))) = (left != 0, rest.split_first()) {
        bytes[left.trailing_zeros() as usize % 8] = byte;
        left &= left - 1;
        *rest = later;
    }
    bytes
}

#[inline(always)]
pub(super) fn byte_ones(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<8>();
    let ones: u32 = words.iter().map(|word| u64::from_le_bytes(*word).count_ones()).sum();
    ones + rest.iter().map(|byte| byte.count_ones()).sum::<u32>()
}

#[inline(always)]
pub(super) fn save_runs(runs: &[RunBlock], out: &mut [SavedRuns]) {
    for (saved, block) in out.iter_mut().zip(runs) {
        // As whole numbers, the first in the lower half: pairs are taken apart and put together again.
        let both: [u32; RUN_BLOCK] = bytemuck::cast(*block);
        *saved = bytemuck::cast(both.map(|both| {
            let both = if cfg!(target_endian = "little") { both } else { both.rotate_left(16) };
            both.wrapping_sub(both << 16).to_le()
        }));
    }
}
