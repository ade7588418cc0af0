#![forbid(unsafe_code)]
//! Owns stretches of granules, and how the chunks cut them. Must never know what the granules hold.

use super::container::{CHUNK, Run};

/// Consecutive granules, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) first: u64,
    pub(super) last: u64,
}

/// The chunk of a granule, and the granule's index in it.
#[allow(clippy::cast_possible_truncation, reason = "granules are below 2^41, and the index takes 16 bits of them")]
pub(super) fn split(granule: u64) -> (u32, u16) {
    debug_assert!(granule >> 48 == 0);
    ((granule >> 16) as u32, granule as u16)
}

/// The granules of `span` that lie in the chunk at `base`, which `span` must touch.
pub(super) fn window_in_chunk(span: Span, base: u64) -> Run {
    let (_, first) = split(span.first.max(base));
    let (_, last) = split(span.last.min(base + u64::from(CHUNK) - 1));
    Run { first, last }
}
