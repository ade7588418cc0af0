#![forbid(unsafe_code)]
//! Owns the form of a chunk that holds few set bits as sorted 16-bit indices. Knows nothing of chunk keys, disks or
//! bytes.

use super::list::List;
use super::{ARRAY_MAX, Run, small};
use crate::bitmap::search::partition_point_near;
use crate::kernels::select;
use crate::memory::Result;
use std::ops::Range;

/// The bits around the likely place that are compared at once.
const NEAR: usize = 64;

/// Longer runs go into an array by way of the smallest form of the result.
const SPLICE_MAX: u32 = 4;

/// How many of the sorted bits are below `bit`: likely as many as if they were spread evenly, so that is where the search
/// begins.
pub(super) fn rank(bits: &[u16], bit: u32) -> usize {
    if bits.len() <= NEAR {
        return bits.partition_point(|&other| u32::from(other) < bit);
    }
    let guess = (bits.len() * bit as usize) >> 16;
    if let Some(near) = bits.get(guess.saturating_sub(NEAR / 2)..).and_then(|rest| rest.first_chunk::<NEAR>())
        && let Ok(bit) = u16::try_from(bit)
        && near[0] < bit
        && near[NEAR - 1] >= bit
    {
        let below: u16 = near.iter().map(|&other| u16::from(other < bit)).sum();
        return guess.saturating_sub(NEAR / 2) + usize::from(below);
    }
    partition_point_near(bits, guess, |&other| u32::from(other) < bit)
}

pub(super) fn contains(bits: &[u16], bit: u16) -> bool {
    bits.get(rank(bits, bit.into())) == Some(&bit)
}

/// Where the bits inside `window` are.
fn places(bits: &[u16], window: Run) -> Range<usize> {
    let from = if window.first == 0 { 0 } else { rank(bits, window.first.into()) };
    match window.last {
        u16::MAX => from..bits.len(),
        last if last == window.first => from..from + usize::from(bits.get(from) == Some(&last)),
        _ => from..rank(bits, window.end()),
    }
}

pub(super) fn within(bits: &[u16], window: Run) -> &[u16] {
    &bits[places(bits, window)]
}

/// Sets the bits of `new`, and says how many of them are new; where they are many, or too many for the form, changes nothing.
pub(super) fn try_set(bits: &mut List<'_, u16>, new: Run) -> Result<Option<u32>> {
    let places = places(bits, new);
    let added = new.len() - small(places.len());
    if added == 0 {
        return Ok(Some(0));
    }
    if new.len() > SPLICE_MAX || bits.len() + added as usize > ARRAY_MAX {
        return Ok(None);
    }
    let room = bits.replace(places, new.len() as usize)?;
    room.iter_mut().zip(new.first..=new.last).for_each(|(place, bit)| *place = bit);
    Ok(Some(added))
}

/// Clears the bits of `gone`, and says how many they were.
pub(super) fn clear(bits: &mut List<'_, u16>, gone: Run) -> u32 {
    let places = places(bits, gone);
    let cleared = small(places.len());
    if cleared > 0 {
        bits.remove(places);
    }
    cleared
}

pub(super) fn validate(bits: &[u16]) -> std::result::Result<(), &'static str> {
    if bits.is_empty() || bits.len() > ARRAY_MAX {
        return Err("an array container has no bit or too many");
    }
    if !(select().is_ascending)(bits) {
        return Err("the bits of an array container are out of order");
    }
    Ok(())
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
