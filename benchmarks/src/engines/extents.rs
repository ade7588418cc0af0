//! The extents themselves, sorted, none touching another, in a vector.

use crate::engine::{Count, Engine, Form, Mark, Open, Save, Union, Walk, WalkSpans, count_each};
use crate::input::{Input, Shape, Span, Tally};
use crate::patterns::Disk;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub struct Extents;

/// Granules `first..=last`, of at most 2^32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct Extent {
    first: u32,
    last: u32,
}

/// The most extents of a vector.
const MOST: u64 = 1 << 26;

fn extent(first: u64, last: u64) -> Extent {
    Extent { first: first as u32, last: last as u32 }
}

/// Adds an extent that begins no earlier than those before.
#[inline(always)]
fn push(list: &mut Vec<Extent>, next: Extent) {
    match list.last_mut() {
        Some(before) if u64::from(next.first) <= u64::from(before.last) + 1 => before.last = before.last.max(next.last),
        _ => list.push(next),
    }
}

fn merge(one: &[Extent], other: &[Extent]) -> Vec<Extent> {
    let mut list = Vec::with_capacity(one.len() + other.len());
    let (mut one, mut other) = (one, other);
    while let (Some((a, rest_of_one)), Some((b, rest_of_other))) = (one.split_first(), other.split_first()) {
        if a.first <= b.first {
            push(&mut list, *a);
            one = rest_of_one;
        } else {
            push(&mut list, *b);
            other = rest_of_other;
        }
    }
    one.iter().chain(other).for_each(|&next| push(&mut list, next));
    list
}

/// Merges pairs, then pairs of the results, until one is left.
fn merge_in_rounds(bitmaps: &[&Vec<Extent>]) -> Vec<Extent> {
    let pair = |pair: &[&Vec<Extent>]| match pair {
        [one, other] => merge(one, other),
        _ => pair[0].clone(),
    };
    let mut round: Vec<Vec<Extent>> = bitmaps.chunks(2).map(pair).collect();
    while round.len() > 1 {
        let inputs: Vec<&Vec<Extent>> = round.iter().collect();
        round = inputs.chunks(2).map(pair).collect();
    }
    round.pop().unwrap_or_default()
}

fn merge_by_heap(bitmaps: &[&Vec<Extent>]) -> Vec<Extent> {
    let mut list = Vec::with_capacity(bitmaps.iter().map(|bitmap| bitmap.len()).sum());
    let mut rests: Vec<_> = bitmaps.iter().map(|bitmap| bitmap.iter()).collect();
    let heads = rests.iter_mut().enumerate();
    let mut heap: BinaryHeap<Reverse<(Extent, usize)>> =
        heads.filter_map(|(index, rest)| Some(Reverse((*rest.next()?, index)))).collect();
    while let Some(mut head) = heap.peek_mut() {
        let Reverse((next, index)) = *head;
        push(&mut list, next);
        match rests[index].next() {
            Some(&after) => head.0.0 = after,
            None => drop(std::collections::binary_heap::PeekMut::pop(head)),
        }
    }
    list
}

/// The extents that touch a span.
fn inside(list: &[Extent], span: Span) -> &[Extent] {
    let from = list.partition_point(|extent| u64::from(extent.last) < span.first);
    let to = from + list[from..].partition_point(|extent| u64::from(extent.first) <= span.last);
    &list[from..to]
}

fn count(list: &[Extent], span: Span) -> u64 {
    let inside = inside(list, span);
    let (Some(first), Some(last)) = (inside.first(), inside.last()) else { return 0 };
    let before = span.first.saturating_sub(first.first.into());
    let after = u64::from(last.last).saturating_sub(span.last);
    inside.len() as u64 + inside.iter().map(|extent| u64::from(extent.last - extent.first)).sum::<u64>()
        - before
        - after
}

/// The extents of a span, cut at its edges.
#[inline(always)]
fn each(list: &[Extent], span: Span, mut each: impl FnMut(u64, u64)) {
    for extent in inside(list, span) {
        each(u64::from(extent.first).max(span.first), u64::from(extent.last).min(span.last));
    }
}

fn tally(list: &[Extent], sum: &mut Tally) {
    list.iter().for_each(|extent| sum.add(extent.first.into(), extent.last.into()));
}

impl Engine for Extents {
    type Bitmap = Vec<Extent>;
    type Opened<'a> = &'a [Extent];

    const NAME: &'static str = "extents";
    const SHAPE: Shape = Shape::Extents;

    fn refuses(input: &Input) -> Option<String> {
        (input.runs() > MOST).then(|| format!("{} extents, above 2^26", input.runs()))
    }

    fn build(input: &Input, _: &Disk) -> Vec<Extent> {
        let mut list = Vec::with_capacity(input.runs() as usize);
        input.each_extent(|first, last| list.push(extent(first, last)));
        list.shrink_to_fit();
        list
    }

    fn cardinality(list: &Vec<Extent>) -> u64 {
        list.iter().map(|extent| u64::from(extent.last) - u64::from(extent.first) + 1).sum()
    }

    fn unions(count: usize) -> Vec<Form<Union<Vec<Extent>>>> {
        match count {
            2 => vec![Form::new("merge", Union::New(|lists| merge(lists[0], lists[1])))],
            _ => vec![
                Form::new("merges in rounds", Union::New(merge_in_rounds)),
                Form::new("one merge by a heap", Union::New(merge_by_heap)),
            ],
        }
    }

    fn counts() -> Vec<Form<Count<Vec<Extent>>>> {
        vec![Form::new("sum", |list, _, spans| count_each(spans, |span| count(list, span)))]
    }

    fn extents() -> Vec<Form<Walk<Vec<Extent>>>> {
        vec![Form::new("walk", |list, _, sum| tally(list, sum))]
    }

    fn windows() -> Vec<Form<WalkSpans<Vec<Extent>>>> {
        vec![Form::new("search and walk", |list, _, spans, sum| {
            for &span in spans {
                each(list, span, |first, last| sum.add(first, last));
                sum.end_list();
            }
        })]
    }

    fn saves() -> Vec<Form<Save<Vec<Extent>>>> {
        vec![Form::new("copy", |list| {
            // SAFETY: an extent is two `u32` without padding, and a `u8` needs no alignment.
            unsafe { list.align_to::<u8>().1 }.to_vec().into()
        })]
    }

    fn opens() -> Vec<Form<Open<Self>>> {
        vec![Form::new(
            "in the bytes",
            Open {
                saved_by: "copy",
                open: |bytes, _| {
                    // SAFETY: an extent is two `u32`, for which every bit pattern is valid.
                    let opened = unsafe { bytes.align_to::<Extent>().1 };
                    assert_eq!(size_of_val(opened), bytes.len(), "the bytes begin at a multiple of 4");
                    opened
                },
            },
        )]
    }

    /// Inserting each write into its place would move half of the vector: these are sorted when all are there, which no
    /// one who asks in between can do.
    fn marks() -> Vec<Form<Mark<Vec<Extent>>>> {
        vec![Form::new("sorted at the end", |disk, writes| {
            let spans = writes.iter().map(|write| write.granules(disk));
            let mut unsorted: Vec<Extent> = spans.map(|span| extent(span.first, span.last)).collect();
            unsorted.sort_unstable();
            let mut list = Vec::with_capacity(unsorted.len());
            unsorted.into_iter().for_each(|next| push(&mut list, next));
            list
        })]
    }

    fn count_opened(opened: &&[Extent], _: &Disk, span: Span) -> u64 {
        count(opened, span)
    }

    fn tally_opened(opened: &&[Extent], _: &Disk) -> Tally {
        let mut sum = Tally::default();
        tally(opened, &mut sum);
        sum
    }
}
