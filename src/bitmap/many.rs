#![forbid(unsafe_code)]
//! Owns the union of many directories in one pass over their chunks, and the cut of chunks among threads. Must never know disks or granularities.

use super::container::{View, Words, Workspace};
use super::directory::Directory;
use super::entry::Entry;
use crate::memory::{self, Result};
use crate::pool;

/// The chunk of a source that is done.
const DONE: u32 = u32::MAX;

/// About what a container costs, and each of its bytes, in half nanoseconds; as measured on x86-64 with AVX2.
const CONTAINER_COST: usize = 80;
const BYTE_COST: usize = 1;

/// What a thread has to have to do, in half nanoseconds, to be worth its start.
const THREAD_MIN: usize = 1_000_000;

/// Of no more sources the CPU itself foresees what will be read next. With 64 lists of 1 % the union takes two thirds of
/// the time if it is told.
const STREAMS: usize = 32;

/// How many parts there are for each thread, so that none waits long for the last.
const PARTS: usize = 8;

/// The union of any number of directories, on `threads` threads if there is enough to do; 0 and 1 are the caller's.
pub(super) fn unite(sources: &[&Directory], threads: usize) -> Result<Directory> {
    in_parts(sources, threads, |from, to| unite_within(sources, from, to))
}

/// Makes a directory of the chunks of `sources` by `make`, which gets ranges of chunks; several at once on `threads` threads
/// if there is enough to do.
pub(super) fn in_parts(
    sources: &[&Directory],
    threads: usize,
    make: impl Fn(u32, u32) -> Result<Directory> + Sync,
) -> Result<Directory> {
    let cost_of = |source: &&Directory| source.entries().len() * CONTAINER_COST + source.bytes() * BYTE_COST;
    let threads = if threads < 2 { 1 } else { threads.min(sources.iter().map(cost_of).sum::<usize>() / THREAD_MIN) };
    if threads < 2 {
        return make(0, DONE);
    }
    let bounds = balanced(sources, threads * PARTS)?;
    let parts = pool::map_ordered(threads, bounds, |(from, to)| make(from, to))?;
    let entries = parts.iter().flatten().map(|part| part.entries().len()).sum();
    let mut result = Directory::with_capacity(entries, 0, 0)?;
    for part in parts {
        result.append(part?)?;
    }
    Ok(result)
}

/// Cuts all chunks into at most `parts` ranges in which there is about the same work.
fn balanced(sources: &[&Directory], parts: usize) -> Result<Vec<(u32, u32)>> {
    // This many containers are looked at, and stand for the others.
    const SAMPLES: usize = 2048;
    let containers: usize = sources.iter().map(|source| source.entries().len()).sum();
    let step = (containers / SAMPLES).max(1);
    let mut work: Vec<(u32, usize)> = memory::room(containers / step + sources.len())?;
    for source in sources {
        let some = source.entries().iter().step_by(step);
        work.extend(some.map(|entry| (entry.key, entry.bytes() * BYTE_COST + CONTAINER_COST)));
    }
    work.sort_unstable_by_key(|&(key, _)| key);
    let whole: usize = work.iter().map(|&(_, cost)| cost).sum();
    let (mut bounds, mut from, mut done) = (memory::room(parts + 1)?, 0, 0);
    for (key, cost) in work {
        if done * parts >= whole * (bounds.len() + 1) && key > from {
            memory::push(&mut bounds, (from, key))?;
            from = key;
        }
        done += cost;
    }
    memory::push(&mut bounds, (from, DONE))?;
    Ok(bounds)
}

/// The union of the chunks `from..to`.
fn unite_within(sources: &[&Directory], from: u32, to: u32) -> Result<Directory> {
    let (mut most, mut bytes) = (0, 0);
    for source in sources {
        let entries = source.within(from, to);
        most = most.max(entries.len());
        bytes += entries.iter().map(Entry::bytes).sum::<usize>();
    }
    let mut result = Directory::with_capacity(most, most, bytes.min(most.saturating_mul(size_of::<Words>())))?;
    let mut workspace = Workspace::new();
    // The rest of each source.
    let mut rest: Vec<&[Entry]> = memory::room(sources.len())?;
    // The next chunk of each source, beside each other so that the least is found at once.
    let mut heads: Vec<u32> = memory::room(sources.len())?;
    for source in sources {
        let entries = source.within(from, to);
        heads.push(entries.first().map_or(DONE, |entry| entry.key.max(from)));
        rest.push(entries);
    }
    let is_crowded = sources.len() > STREAMS;
    let mut group: Vec<View<'_>> = memory::room(sources.len())?;
    loop {
        let key = heads.iter().copied().min().unwrap_or(DONE);
        if key == DONE {
            result.shrink();
            return Ok(result);
        }
        group.clear();
        let (mut full_end, mut only) = (key, None);
        for (index, (head, left)) in heads.iter_mut().zip(&mut rest).enumerate() {
            if *head == key
                && let Some((entry, others)) = left.split_first()
            {
                if entry.is_full() {
                    full_end = full_end.max(entry.end().min(to));
                    continue;
                }
                group.push(sources[index].view(entry));
                only = Some((sources[index], entry));
                *left = others;
                if let (true, Some(next)) = (is_crowded, others.first()) {
                    sources[index].prefetch(next);
                }
                *head = others.first().map_or(DONE, |entry| entry.key);
            }
        }
        if full_end > key {
            pass(&mut heads, &mut rest, full_end, to);
            result.push_full(key, full_end - key)?;
        } else if let ([_], Some((source, entry))) = (&group[..], only) {
            result.push_entry(source, entry, &mut workspace)?;
        } else {
            let made = workspace.unite(&group)?;
            result.push(key, made.measure, made.view)?;
        }
    }
}

/// Skips the rest of the chunks before `end`: where one source is full, the bits of the others change nothing.
fn pass(heads: &mut [u32], rest: &mut [&[Entry]], end: u32, to: u32) {
    for (head, left) in heads.iter_mut().zip(rest) {
        if *head < end {
            let passed = left.partition_point(|entry| entry.end() <= end);
            *left = &left[passed..];
            *head = left.first().filter(|_| end < to).map_or(DONE, |entry| entry.key.max(end));
        }
    }
}
