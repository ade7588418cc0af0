#![forbid(unsafe_code)]
//! Owns the form of a chunk that holds few set bits as sorted 16-bit indices. Knows nothing of chunk keys, disks or
//! bytes.

use super::{ARRAY_MAX, Run, small};
use crate::kernels::{ROOM, select};
use std::ops::Range;

/// Longer runs go into an array by way of the smallest form of the result.
const SPLICE_MAX: u32 = 4;

/// The sorted indices of the set bits, none twice.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::bitmap) struct Array(pub(super) Vec<u16>);

impl Array {
    pub(super) fn contains(&self, bit: u16) -> bool {
        self.0.binary_search(&bit).is_ok()
    }

    pub(super) fn within(&self, window: Run) -> &[u16] {
        &self.0[self.places(window)]
    }

    pub(super) fn count(&self, window: Run) -> u32 {
        small(self.within(window).len())
    }

    /// Sets the bits of `new` and returns true; where they are many, or too many for the form, changes nothing.
    pub(super) fn try_set(&mut self, new: Run) -> bool {
        let places = self.places(new);
        let added = new.len() as usize - places.len();
        if new.len() > SPLICE_MAX || self.0.len() + added > ARRAY_MAX {
            return added == 0;
        }
        if new.len() > 1 {
            self.0.splice(places, new.first..=new.last);
        } else if added > 0 {
            self.0.insert(places.start, new.first);
        }
        true
    }

    pub(super) fn clear(&mut self, gone: Run) {
        self.0.drain(self.places(gone));
    }

    /// Where the bits inside `window` are: as many places at most as the window has bits.
    fn places(&self, window: Run) -> Range<usize> {
        let from = self.0.partition_point(|&bit| bit < window.first);
        let reach = self.0.len().min(from + window.len() as usize);
        from..from + self.0[from..reach].partition_point(|&bit| bit <= window.last)
    }

    pub(super) fn validate(&self) -> Result<(), &'static str> {
        if self.0.is_empty() || self.0.len() > ARRAY_MAX {
            return Err("an array container has no bit or too many");
        }
        if self.0.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err("the bits of an array container are out of order");
        }
        Ok(())
    }
}

/// The number of leading bits of the non-empty `bits` that follow each other without a gap.
pub(super) fn leading_run(bits: &[u16]) -> usize {
    1 + bits.windows(2).take_while(|pair| pair[1] - pair[0] == 1).count()
}

/// The number of trailing bits of the non-empty `bits` that follow each other without a gap.
pub(super) fn trailing_run(bits: &[u16]) -> usize {
    1 + bits.windows(2).rev().take_while(|pair| pair[1] - pair[0] == 1).count()
}

pub(super) fn run_count(bits: &[u16]) -> usize {
    (select().list_runs)(bits)
}

pub(super) fn intersect(a: &[u16], b: &[u16]) -> Vec<u16> {
    let mut out = [0; ARRAY_MAX + ROOM];
    let count = (select().intersect)(a, b, &mut out);
    out[..count].to_vec()
}

pub(super) fn subtract(a: &[u16], b: &[u16]) -> Vec<u16> {
    let mut out = [0; ARRAY_MAX + ROOM];
    let count = (select().subtract)(a, b, &mut out);
    out[..count].to_vec()
}
