#![forbid(unsafe_code)]
//! Owns how long lists of runs are compared in parts that fit into the registers of an instruction set. Must never know which
//! one that is, nor how a part is compared.

use crate::kernels::table::Pair;

/// The union of two lists of runs; touching runs are joined. `unite` unites `most` runs of each at most, which is 1 or more.
#[inline(always)]
pub(in crate::kernels) fn unite_parts(
    a: &[Pair],
    b: &[Pair],
    most: usize,
    out: &mut [Pair],
    mut unite: impl FnMut(&[Pair], &[Pair], &mut [Pair]) -> usize,
) -> usize {
    if a.len() <= most && b.len() <= most {
        return unite(a, b, out);
    }
    let (mut a, mut b, mut count) = (a, b, 0);
    while !a.is_empty() || !b.is_empty() {
        // A part goes up to the last run that begins before any that does not fit.
        let [end, other_end] = [a, b].map(|list| list.get(most - 1).map_or(u16::MAX, |run| run[0]));
        let end = end.min(other_end);
        let [ours, theirs] = [&mut a, &mut b].map(|list| {
            let first_runs = &list[..list.len().min(most)];
            let (part, _) = first_runs.split_at(first_runs.partition_point(|run| run[0] <= end));
            *list = &list[part.len()..];
            part
        });
        let added = unite(ours, theirs, &mut out[count..]);
        count += match count.checked_sub(1) {
            Some(last) => added - join(&mut out[last..], added),
            None => added,
        };
    }
    count
}

/// Joins the first run with those of the `added` behind it to which it reaches, and closes the gap; how many they are.
fn join(runs: &mut [Pair], added: usize) -> usize {
    let Some((done, new)) = runs.split_first_mut() else { return 0 };
    let joined = new[..added].partition_point(|run| run[0] <= done[1].saturating_add(1));
    if let Some(last) = new[..joined].last() {
        done[1] = done[1].max(last[1]);
    }
    new.copy_within(joined..added, 0);
    joined
}

/// The positions that lie in runs of both lists. `common` compares `most` runs of each at most, which is 1 or more: those up to
/// the end of one of the lists, or of its first runs.
#[inline(always)]
pub(in crate::kernels) fn intersect_parts(
    a: &[Pair],
    b: &[Pair],
    most: usize,
    out: &mut [Pair],
    mut common: impl FnMut(&[Pair], &[Pair], &mut [Pair]) -> usize,
) -> usize {
    if a.len() <= most && b.len() <= most {
        return common(a, b, out);
    }
    let (mut a, mut b, mut count) = (a, b, 0);
    while let (Some(&[_, a_end]), Some(&[_, b_end])) = (a[..a.len().min(most)].last(), b[..b.len().min(most)].last()) {
        let end = a_end.min(b_end);
        let [ours, theirs] = [(&mut a, a_end), (&mut b, b_end)].map(|(list, list_end)| {
            let first_runs = &list[..list.len().min(most)];
            if list_end == end {
                *list = &list[first_runs.len()..];
                return first_runs;
            }
            // A run that goes on is looked at again.
            *list = &list[first_runs.partition_point(|run| run[1] <= end)..];
            &first_runs[..first_runs.partition_point(|run| run[0] <= end)]
        });
        count += common(ours, theirs, &mut out[count..]);
    }
    count
}

/// The items of a list that lie in runs if `kept`, or in none. `common` gets `MOST` items and `MOST` runs at most, or the gaps
/// between runs in their place, and finds the items that lie in them.
#[inline(always)]
pub(in crate::kernels) fn filter_parts<const MOST: usize>(
    list: &[u16],
    runs: &[Pair],
    kept: bool,
    out: &mut [u16],
    mut common: impl FnMut(&[u16], &[Pair], &mut [u16]) -> usize,
) -> usize {
    let mut room = [[0; 2]; MOST];
    if list.len() <= MOST && runs.len() < MOST {
        return common(list, if kept { runs } else { gaps(runs, &mut room) }, out);
    }
    let (mut list, mut runs, mut count) = (list, runs, 0);
    while let Some(&first) = list.first() {
        runs = &runs[runs.partition_point(|run| run[1] < first)..];
        // Between as many runs there is one gap more.
        let (mut items, mut others) = (&list[..list.len().min(MOST)], &runs[..runs.len().min(MOST - 1)]);
        if let Some(&[next, _]) = runs.get(others.len()) {
            // The first of these runs does not end before the first item, so there is an item before the next run.
            items = &items[..items.partition_point(|item| *item < next)];
        }
        if let Some(last) = items.last() {
            others = &others[..others.partition_point(|run| run[0] <= *last)];
        }
        let others = if kept { others } else { gaps(others, &mut room) };
        count += common(items, others, &mut out[count..]);
        list = &list[items.len()..];
    }
    count
}

/// The runs between runs, of which there is room for one more than there are runs.
#[inline(always)]
fn gaps<'r>(runs: &[Pair], room: &'r mut [Pair]) -> &'r [Pair] {
    let (mut first, mut count) = (Some(0), 0);
    for &[begin, end] in runs {
        if let Some(first) = first.filter(|first| *first < begin) {
            room[count] = [first, begin - 1];
            count += 1;
        }
        first = end.checked_add(1);
    }
    if let Some(first) = first {
        room[count] = [first, u16::MAX];
        count += 1;
    }
    &room[..count]
}
