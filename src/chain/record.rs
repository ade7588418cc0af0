#![forbid(unsafe_code)]
//! Owns the order of cumulative checkpoints as the program noted it that made them. Must never know where it is noted.

use super::{Chain, Checkpoint, Model, Name};
use crate::error::Result;
use crate::memory;

/// The notes that a program keeps of a checkpoint beside the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The checkpoint's name.
    pub name: Name,
    /// The checkpoint before it.
    pub parent: Option<Name>,
    /// When it was made, in seconds since 1970 (UTC).
    pub time_seconds: Option<u64>,
}

impl Record {
    /// A checkpoint of this name.
    pub fn new(name: Name, parent: Option<Name>, time_seconds: Option<u64>) -> Self {
        Self { name, parent, time_seconds }
    }
}

impl Chain {
    /// Puts cumulative checkpoints in the order of these records, oldest first, with their parents and times; other models
    /// have both in their names, and stay.
    ///
    /// A record stands before those whose parent it is. The parent of a checkpoint is the nearest one that this disk has.
    /// A checkpoint without a record keeps its place.
    pub fn follow(&mut self, records: &[Record]) -> Result<()> {
        if self.model != Model::Cumulative {
            return Ok(());
        }
        let own = memory::map(self.checkpoints.iter().map(|own| (own.name.clone(), own.clone())))?;
        // For each record the nearest checkpoint before it that is here.
        let mut nearest = memory::map(std::iter::empty())?;
        let mut recorded: Vec<Checkpoint> = memory::room(self.checkpoints.len())?;
        for record in records {
            let before = record.parent.as_ref().and_then(|parent| match own.contains_key(parent) {
                true => Some(parent.clone()),
                false => nearest.get(parent).cloned().flatten(),
            });
            if let Some(known) = own.get(&record.name) {
                let (parent, time_seconds) = (before.clone(), record.time_seconds);
                memory::push(&mut recorded, Checkpoint { parent, time_seconds, ..known.clone() })?;
            }
            memory::insert(&mut nearest, record.name.clone(), before)?;
        }
        let are_all = recorded.len() == self.checkpoints.len();
        let mut in_order = recorded.into_iter();
        for place in self.checkpoints.iter_mut().filter(|own| nearest.contains_key(&own.name)) {
            let Some(next) = in_order.next() else { break };
            *place = Checkpoint { ordered: next.ordered || are_all, ..next };
        }
        self.note_places()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::BitmapState;
    use crate::geometry::Granularity;

    fn record(name: &str, parent: Option<&str>, time: u64) -> Record {
        Record::new(Name::new(name), parent.map(Name::new), Some(time))
    }

    fn chain(names: &[&str]) -> Chain {
        let granularity = Granularity::from_bytes(65536).expect("a power of two");
        let states: Vec<_> = names.iter().map(|name| BitmapState::new(Name::new(*name), granularity, true)).collect();
        Chain::read(&states, None).expect("a chain")
    }

    #[test]
    fn records_give_order_parents_and_times() {
        let mut own = chain(&["a", "b", "c"]);
        let records = [
            record("c", None, 3),
            record("gone", Some("c"), 4),
            record("a", Some("gone"), 5),
            record("b", Some("a"), 6),
        ];
        own.follow(&records).expect("it can be followed");
        let read: Vec<_> = own
            .checkpoints()
            .iter()
            .map(|own| (own.name.to_string_lossy().into_owned(), own.parent.clone(), own.time_seconds))
            .collect();
        let name = |name: &str| Some(Name::new(name));
        assert_eq!(
            read,
            [("c".into(), None, Some(3)), ("a".into(), name("c"), Some(5)), ("b".into(), name("a"), Some(6))]
        );
        assert!(own.is_ordered());
    }

    #[test]
    fn what_nobody_noted_keeps_its_place_and_its_doubt() {
        let mut own = chain(&["a", "b", "c"]);
        own.follow(&[record("c", None, 1), record("a", Some("c"), 2)]).expect("it can be followed");
        let names: Vec<_> = own.checkpoints().iter().map(|own| own.name.as_bytes()).collect();
        assert_eq!(names, [&b"c"[..], b"b", b"a"]);
        assert!(!own.is_ordered());
        assert_eq!(own.checkpoints()[1].time_seconds, None);
    }

    #[test]
    fn a_lone_bitmap_of_libvirt_is_no_root_of_ours() {
        let granularity = Granularity::from_bytes(65536).expect("a power of two");
        let mut state = BitmapState::new(Name::new("theirs"), granularity, true);
        assert_eq!(Chain::model_of(&[state.clone()]), Model::Interval);
        state.of_libvirt = true;
        assert_eq!(Chain::model_of(&[state.clone()]), Model::Cumulative);
        let options = crate::chain::CreateOptions::new(granularity);
        let steps = |insist| {
            let plan = Chain::read(&[state.clone()], insist).and_then(|chain| chain.plan_create(b"ours", options));
            plan.expect("a plan").actions().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(steps(None), ["add 'ours', recording, granularity 65536"]);
        let marked = "add '->ours', recording, granularity 65536";
        assert_eq!(steps(Some(crate::chain::KnownModel::Interval)), [marked]);
    }
}
