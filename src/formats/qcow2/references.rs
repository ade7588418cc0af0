#![forbid(unsafe_code)]
//! Owns the number of references to each cluster of a file, counted anew by a check. Must never know their kinds.

use crate::memory::{self, Result};
use std::collections::BTreeMap;
use std::ops::Range;

/// Neighbouring clusters that are counted together. A run of at least this length is kept as a run.
const PAGE_LEN: usize = 32;
const PAGE: u64 = PAGE_LEN as u64;

/// The number of references to each cluster. Memory grows with the references, not with the file's size.
#[derive(Debug, Default)]
pub(super) struct References {
    pages: BTreeMap<u64, [u16; PAGE_LEN]>,
    runs: Vec<Range<u64>>,
    /// The runs in parts that do not overlap, ascending, each with how many runs hold it.
    parts: Vec<(Range<u64>, u64)>,
}

impl References {
    /// Notes that each of `clusters` is referred to `times` times.
    pub(super) fn add(&mut self, clusters: Range<u64>, times: u16) -> Result<()> {
        if clusters.end.saturating_sub(clusters.start) >= PAGE {
            return memory::extend(&mut self.runs, std::iter::repeat_n(clusters, times.into()));
        }
        for cluster in clusters {
            let page = self.pages.entry(cluster / PAGE).or_insert([0; PAGE_LEN]);
            if let Some(count) = usize::try_from(cluster % PAGE).ok().and_then(|index| page.get_mut(index)) {
                *count = count.saturating_add(times);
            }
        }
        Ok(())
    }

    /// Ends the counting: only now can be asked.
    pub(super) fn settle(&mut self) -> Result<()> {
        let runs = std::mem::take(&mut self.runs);
        let mut edges = memory::gather(runs.iter().flat_map(|run| [(run.start, true), (run.end, false)]))?;
        edges.sort_unstable();
        let (mut since, mut depth) = (0, 0);
        for (at, begins) in edges {
            if depth > 0 && since < at {
                memory::push(&mut self.parts, (since..at, depth))?;
            }
            since = at;
            depth = if begins { depth + 1 } else { depth - 1 };
        }
        Ok(())
    }

    fn parts_in(&self, clusters: Range<u64>) -> impl Iterator<Item = &(Range<u64>, u64)> {
        let at = self.parts.partition_point(|(part, _)| part.end <= clusters.start);
        self.parts.get(at..).unwrap_or_default().iter().take_while(move |(part, _)| part.start < clusters.end)
    }

    fn pages_in(&self, clusters: Range<u64>) -> impl Iterator<Item = (u64, u64)> + '_ {
        let pages = self.pages.range(clusters.start / PAGE..clusters.end.div_ceil(PAGE));
        pages
            .flat_map(|(page, counts)| (page * PAGE..).zip(counts.iter().map(|count| u64::from(*count))))
            .filter(move |(cluster, count)| *count > 0 && clusters.contains(cluster))
    }

    /// Whether there is a reference to any of `clusters`.
    pub(super) fn any(&self, clusters: Range<u64>) -> bool {
        self.parts_in(clusters.clone()).next().is_some() || self.pages_in(clusters).next().is_some()
    }

    /// Whether any of `clusters` is referred to more than once.
    pub(super) fn any_repeated(&self, clusters: Range<u64>) -> bool {
        self.parts_in(clusters.clone()).any(|(_, depth)| *depth > 1)
            || self.pages_in(clusters).any(|(cluster, count)| count > 1 || self.get(cluster) > 1)
    }

    pub(super) fn get(&self, cluster: u64) -> u64 {
        let page = self.pages.get(&(cluster / PAGE));
        let index = usize::try_from(cluster % PAGE).unwrap_or_default();
        let single = page.and_then(|page| page.get(index)).copied().map_or(0, u64::from);
        single + self.parts_in(cluster..cluster + 1).next().map_or(0, |(_, depth)| *depth)
    }

    /// The runs that are referred to, in parts that do not overlap.
    pub(super) fn runs(&self) -> Result<Vec<Range<u64>>> {
        memory::gather(self.parts.iter().map(|(part, _)| part.clone()))
    }

    /// Every cluster that is referred to and lies in none of the runs.
    pub(super) fn singles(&self) -> Result<Vec<u64>> {
        let all = self.pages_in(0..u64::MAX).map(|(cluster, _)| cluster);
        memory::gather(all.filter(|cluster| self.parts_in(*cluster..cluster + 1).next().is_none()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_short_runs_count_as_a_plain_array_does() {
        let mut seed = 7_u64;
        let mut below = |limit: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % limit
        };
        let index = |cluster: u64| usize::try_from(cluster).expect("small");
        for _ in 0..200 {
            let (mut references, mut plain) = (References::default(), vec![0_u64; 700]);
            for _ in 0..below(12) {
                let (start, len, times) = (below(300), below(120), 1 + below(3));
                references.add(start..start + len, u16::try_from(times).expect("small")).unwrap();
                plain.iter_mut().skip(index(start)).take(index(len)).for_each(|count| *count += times);
            }
            references.settle().unwrap();
            for (cluster, count) in (0..).zip(&plain) {
                assert_eq!(references.get(cluster), *count, "cluster {cluster}");
            }
            let (start, end) = (below(200), 200 + below(200));
            let window = &plain[index(start)..index(end)];
            assert_eq!(references.any(start..end), window.iter().any(|count| *count > 0));
            assert_eq!(references.any_repeated(start..end), window.iter().any(|count| *count > 1));
            let mut listed: Vec<u64> =
                references.runs().unwrap().into_iter().flatten().chain(references.singles().unwrap()).collect();
            listed.sort_unstable();
            let counted = (0..).zip(&plain).filter(|(_, count)| **count > 0).map(|(cluster, _)| cluster);
            assert_eq!(listed, counted.collect::<Vec<u64>>());
        }
    }
}
