#![forbid(unsafe_code)]
//! Owns the portable loops over runs. Must never ask what the CPU is.

use crate::kernels::table::{FEW_RUNS, GROUP, Pair, RunBlock, SavedRun, SavedRuns, Words};

/// Where runs begin and where they end, in sorted groups that are filled up with the last position.
pub(in crate::kernels) struct Groups {
    pub(in crate::kernels) firsts: [[u16; GROUP]; FEW_RUNS],
    pub(in crate::kernels) lasts: [[u16; GROUP]; FEW_RUNS],
    pub(in crate::kernels) groups: usize,
    pub(in crate::kernels) runs: usize,
}

impl Groups {
    #[inline(always)]
    pub(in crate::kernels) fn new(runs: &[&[Pair]], bits: &[&[u16]]) -> Self {
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

#[inline(always)]
pub(in crate::kernels) fn scatter_runs(runs: &[Pair], words: &mut Words) {
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
pub(in crate::kernels) fn unite_runs(a: &[Pair], b: &[Pair], out: &mut [Pair]) -> usize {
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
pub(in crate::kernels) fn intersect_runs(a: &[Pair], b: &[Pair], out: &mut [Pair]) -> usize {
    let (mut i, mut j, mut count) = (0, 0, 0);
    let out = &mut out[..=a.len() + b.len()];
    // Two pieces of the result never touch: where both begin anew, both had a gap.
    while i < a.len() && j < b.len() {
        let ([first, last], [other_first, other_last]) = (a[i], b[j]);
        let both = [first.max(other_first), last.min(other_last)];
        out[count] = both;
        count += usize::from(both[0] <= both[1]);
        i += usize::from(last <= other_last);
        j += usize::from(other_last <= last);
    }
    count
}

#[inline(always)]
pub(in crate::kernels) fn unite_few_runs(runs: &[&[Pair]], bits: &[&[u16]], out: &mut [Pair]) -> usize {
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
pub(super) fn pair(first: u32, last: u32) -> Pair {
    [first as u16, last as u16]
}

#[inline(always)]
pub(in crate::kernels) fn run_ones(runs: &[Pair]) -> u32 {
    runs.iter().map(|&[first, last]| u32::from(last.wrapping_sub(first)) + 1).sum()
}

#[inline(always)]
pub(in crate::kernels) fn run_ones_within(runs: &[Pair], first: u32, end: u32) -> u32 {
    runs.iter().map(|run| (u32::from(run[1]) + 1).min(end).saturating_sub(u32::from(run[0]).max(first))).sum()
}

#[inline(always)]
pub(in crate::kernels) fn apart_ones(runs: &[Pair]) -> Option<u32> {
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
pub(in crate::kernels) fn load_runs(saved: &[SavedRun], out: &mut [Pair]) -> Option<u32> {
    let runs = &mut out[..saved.len()];
    for (run, &saved) in runs.iter_mut().zip(saved) {
        // As whole numbers: a last position past the chunk loses its highest bit, so that it comes before the first.
        let both = u32::from_le_bytes(saved);
        let both = both.wrapping_add(both << 16);
        let both = if cfg!(target_endian = "little") { both } else { both.rotate_left(16) };
        *run = bytemuck::cast(both);
    }
    apart_ones(runs)
}

#[inline(always)]
pub(in crate::kernels) fn save_runs(runs: &[RunBlock], out: &mut [SavedRuns]) {
    for (saved, block) in out.iter_mut().zip(runs) {
        for (saved, run) in saved.as_chunks_mut().0.iter_mut().zip(block) {
            // As whole numbers, the first in the lower half: pairs are taken apart and put together again.
            let both: u32 = bytemuck::cast(*run);
            let both = if cfg!(target_endian = "little") { both } else { both.rotate_left(16) };
            *saved = both.wrapping_sub(both << 16).to_le_bytes();
        }
    }
}
