#![forbid(unsafe_code)]
//! Owns the union of many directories in one pass over their chunks. Must never know disks or granularities.

use super::container::{Container, Workspace};
use super::directory::{Directory, Entry};

/// The chunk of a source that is done.
const DONE: u32 = u32::MAX;

/// The union of any number of directories.
pub(super) fn unite(sources: &[&[Entry]]) -> Directory {
    let most = sources.iter().map(|entries| entries.len()).max().unwrap_or(0);
    let mut result = Directory::with_capacity(most);
    unite_within(sources, 0, DONE, &mut result);
    result.shrink();
    result
}

/// Appends the union of the chunks `from..to`.
fn unite_within(sources: &[&[Entry]], from: u32, to: u32, result: &mut Directory) {
    let mut workspace = Workspace::new();
    // What is left of each source.
    let mut rest: Vec<&[Entry]> = Vec::with_capacity(sources.len());
    // The next chunk of each source, beside each other so that the least is found at once.
    let mut heads: Vec<u32> = Vec::with_capacity(sources.len());
    for entries in sources {
        let start = entries.partition_point(|entry| entry.end() <= from);
        let end = entries.partition_point(|entry| entry.key < to);
        let entries = entries.get(start..end).unwrap_or_default();
        heads.push(entries.first().map_or(DONE, |entry| entry.key.max(from)));
        rest.push(entries);
    }
    let mut group = Vec::with_capacity(sources.len());
    loop {
        let key = heads.iter().copied().min().unwrap_or(DONE);
        if key == DONE {
            return;
        }
        group.clear();
        let mut full_end = key;
        for (head, source) in heads.iter_mut().zip(&mut rest) {
            if *head == key
                && let Some((entry, others)) = source.split_first()
            {
                if entry.container.is_full() {
                    full_end = full_end.max(entry.end().min(to));
                }
                group.push(&entry.container);
                if entry.chunks == 1 {
                    *source = others;
                    *head = others.first().map_or(DONE, |entry| entry.key);
                }
            }
        }
        if full_end == key {
            result.push(key, 1, Container::union_of(&group, &mut workspace));
            continue;
        }
        // Full chunks swallow all that others have of them, and any full ones that reach on from there.
        for (head, source) in heads.iter_mut().zip(&mut rest) {
            if *head < full_end {
                let passed = source.partition_point(|entry| entry.end() <= full_end);
                *source = &source[passed..];
                *head = source.first().filter(|_| full_end < to).map_or(DONE, |entry| entry.key.max(full_end));
            }
        }
        result.push(key, full_end - key, Container::Full);
    }
}
