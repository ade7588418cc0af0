#![forbid(unsafe_code)]
//! Owns the union of many directories in one pass over their chunks. Must never know disks or granularities.

use super::container::{View, Words, Workspace};
use super::directory::{Directory, Entry};

/// The chunk of a source that is done.
const DONE: u32 = u32::MAX;

/// The union of any number of directories.
pub(super) fn unite(sources: &[&Directory]) -> Directory {
    let chunks = sources.iter().map(|source| source.entries().len()).max().unwrap_or(0);
    let bytes: usize = sources.iter().map(|source| source.bytes()).sum();
    let mut result = Directory::with_capacity(chunks, bytes.min(chunks.saturating_mul(size_of::<Words>())));
    unite_within(sources, 0, DONE, &mut result);
    result.shrink();
    result
}

/// Appends the union of the chunks `from..to`.
fn unite_within(sources: &[&Directory], from: u32, to: u32, result: &mut Directory) {
    let mut workspace = Workspace::new();
    // What is left of each source.
    let mut rest: Vec<&[Entry]> = Vec::with_capacity(sources.len());
    // The next chunk of each source, beside each other so that the least is found at once.
    let mut heads: Vec<u32> = Vec::with_capacity(sources.len());
    for source in sources {
        let entries = source.within(from, to);
        heads.push(entries.first().map_or(DONE, |entry| entry.key.max(from)));
        rest.push(entries);
    }
    let mut group: Vec<View<'_>> = Vec::with_capacity(sources.len());
    loop {
        let key = heads.iter().copied().min().unwrap_or(DONE);
        if key == DONE {
            return;
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
                *head = others.first().map_or(DONE, |entry| entry.key);
            }
        }
        if full_end > key {
            pass(&mut heads, &mut rest, full_end, to);
            result.push_full(key, full_end - key);
        } else if let ([_], Some((source, entry))) = (&group[..], only) {
            result.push_entry(source, entry);
        } else {
            let made = workspace.unite(&group);
            result.push(key, made.ones, made.view);
        }
    }
}

/// Skips what is left of the chunks before `end`: full ones swallow all that others have of them.
fn pass(heads: &mut [u32], rest: &mut [&[Entry]], end: u32, to: u32) {
    for (head, left) in heads.iter_mut().zip(rest) {
        if *head < end {
            let passed = left.partition_point(|entry| entry.end() <= end);
            *left = &left[passed..];
            *head = left.first().filter(|_| end < to).map_or(DONE, |entry| entry.key.max(end));
        }
    }
}
