#![forbid(unsafe_code)]
//! Owns the raw merge of bitmaps by their own names, outside of any chain. Knows the chain only to warn.

use super::name;
use super::plan::{self, Action, Plan, carry_out};
use super::read::refuse_duplicates;
use super::{BitmapState, Interval, Name, Until, interval_of};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::memory;
use std::collections::HashSet;

/// Plans the raw merge: the bitmap `into` becomes the union of itself and the sources, which stay as they are.
///
/// It only ever adds bits, and no bitmap starts or stops recording, so no diff gets short and no gap gets hidden; a
/// warning says where a bitmap will hold more than its interval.
pub fn plan_merge(bitmaps: &[BitmapState], sources: &[&[u8]], into: &[u8]) -> Result<Plan> {
    refuse_duplicates(bitmaps)?;
    let by_name = memory::map(bitmaps.iter().map(|bitmap| (bitmap.name.as_bytes(), bitmap)))?;
    let find = |name: &[u8]| match by_name.get(name).copied() {
        Some(bitmap) if bitmap.unusable => Err(plan::unusable(&bitmap.name)),
        Some(bitmap) if bitmap.inconsistent => Err(plan::inconsistent(&bitmap.name).advise(
            WayOut::from("nothing can restore its content; delete its checkpoint with ")
                .control(Control::ForceInconsistent),
        )),
        Some(bitmap) => Ok(bitmap),
        None => Err(name::no_bitmap(&Name::new(name), bitmaps.iter().map(|bitmap| &bitmap.name))),
    };
    let target = find(into)?;
    let (mut from, mut seen): (Vec<&BitmapState>, HashSet<&Name>) = Default::default();
    for source in sources {
        let source = find(source)?;
        if source.name == target.name {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{} cannot merge into itself", target.name)));
        }
        seen.try_reserve(1)?;
        if seen.insert(&source.name) {
            memory::push(&mut from, source)?;
        }
    }
    if from.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "a merge needs at least one source"));
    }

    let sources = memory::gather(from.iter().map(|source| source.name.clone()))?;
    let mut plan = Plan::of(vec![Action::Merge { sources, target: target.name.clone() }]);
    carry_out(bitmaps, &plan.actions)?;
    if let Some(Interval { since, until }) = interval_of(bitmaps, &target.name)? {
        let until = match until {
            Until::Checkpoint(next) => next.to_string(),
            Until::Gap => "the gap".to_owned(),
            Until::Now => "now".to_owned(),
        };
        plan.warn(format!(
            "{} will hold more than the writes from {since} until {until}: every diff that needs it grows",
            target.name
        ));
    }
    for source in from.iter().filter(|source| source.granularity < target.granularity) {
        plan.warn(format!(
            "{} has a granularity of {} bytes: what comes from {} becomes coarser",
            target.name,
            target.granularity.bytes(),
            source.name
        ));
    }
    Ok(plan)
}
