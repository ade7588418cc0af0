#![forbid(unsafe_code)]
//! Owns the way from cumulative checkpoints to intervals. Must never know bits: each bitmap is taken whole.

use super::plan::{self, Action, Plan};
use super::{Chain, Model, Name, check_checkpoint_name};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::memory;

impl Chain {
    /// Plans that cumulative checkpoints become a chain of intervals: each bitmap but the newest is frozen, and stands for the time until
    /// the next checkpoint.
    ///
    /// It has later writes too, so a past diff becomes too large, and never too short: a block can have been written before
    /// *and* after the next checkpoint. The order must be known, by the bits or by [`Chain::follow`].
    pub fn plan_to_interval(&self) -> Result<Plan> {
        self.check_known()?;
        if self.model != Model::Cumulative {
            return Err(Error::new(ErrorKind::Model, format!("the checkpoints are {}, not cumulative", self.model))
                .advise("nothing has to be converted"));
        }
        if let Some(unordered) = self.checkpoints.iter().find(|own| !own.ordered) {
            let message = format!("whether {} is older than the others cannot be told", unordered.name);
            return Err(Error::new(ErrorKind::Order, message)
                .advise("let libvirt's notes tell it, or delete one of those that are alike"));
        }
        if let Some(link) = self.states.iter().find(|state| state.name.has_arrow()) {
            let message = format!("there is a chain of intervals already, with {}", link.name);
            return Err(Error::new(ErrorKind::Model, message).advise("delete one of the two chains first"));
        }
        let mut actions = Vec::new();
        let mut before: Option<&Name> = None;
        for (at, own) in self.checkpoints.iter().enumerate() {
            check_checkpoint_name(own.name.as_bytes()).map_err(|error| error.advise("rename that checkpoint first"))?;
            if own.unusable {
                return Err(plan::unusable(&own.bitmap));
            }
            if own.inconsistent {
                return Err(plan::inconsistent(&own.bitmap).advise(
                    WayOut::from("delete what cannot be trusted with ").control(Control::DeleteAllInconsistent),
                ));
            }
            if !own.recording {
                let message = format!("the bitmap {} does not record, so writes are missing", own.bitmap);
                return Err(Error::new(ErrorKind::Recording, message)
                    .advise(WayOut::from("drop it first with ").control(own.bitmap.drop_it())));
            }
            let (name, to) = (own.bitmap.clone(), Name::chained(before, &own.name));
            if at + 1 < self.checkpoints.len() {
                memory::push(&mut actions, Action::SetRecording { name: name.clone(), recording: false })?;
            }
            if name != to {
                memory::push(&mut actions, Action::Rename { from: name, to })?;
            }
            before = Some(&own.name);
        }
        let expected = memory::gather(self.names().cloned())?;
        self.finish(Plan::of(actions), Model::Interval, &expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::{BitmapState, KnownModel, Record};
    use crate::geometry::Granularity;

    fn states(names: &[&str]) -> Vec<BitmapState> {
        let granularity = Granularity::from_bytes(65536).expect("a power of two");
        names.iter().map(|name| BitmapState::new(Name::new(*name), granularity, true)).collect()
    }

    #[test]
    fn each_bitmap_but_the_newest_is_frozen_whole() {
        let states = states(&["a", "b", "c"]);
        let mut chain = Chain::read(&states, None).expect("a chain");
        assert_eq!(chain.plan_to_interval().expect_err("no order").kind(), ErrorKind::Order);
        let record = |name: &str, parent: Option<&str>| Record::new(Name::new(name), parent.map(Name::new), Some(1));
        chain.follow(&[record("b", None), record("c", Some("b")), record("a", Some("c"))]).expect("an order");
        let plan = chain.plan_to_interval().expect("a plan");
        let steps: Vec<String> = plan.actions().iter().map(ToString::to_string).collect();
        let expected =
            ["stop recording in 'b'", "stop recording in 'c'", "rename 'c' to 'b->c'", "rename 'a' to 'c->a'"];
        assert_eq!(steps, expected);
        let after = plan::carry_out(&states, plan.actions()).expect("it can be done");
        let after = Chain::read(&after, None).expect("a chain");
        assert_eq!(after.model(), Model::Interval);
        assert_eq!(after.names().map(Name::as_bytes).collect::<Vec<_>>(), [b"b", b"c", b"a"]);
    }

    #[test]
    fn what_cannot_be_converted_is_refused() {
        let mut frozen = states(&["a", "b"]);
        frozen[0].recording = false;
        let refused = |states: &[BitmapState], model| {
            let mut chain = Chain::read(states, model).expect("a chain");
            let record = |name: &str, parent: Option<&str>| Record::new(Name::new(name), parent.map(Name::new), None);
            chain.follow(&[record("a", None), record("b", Some("a"))]).expect("an order");
            chain.plan_to_interval().expect_err("refused").kind()
        };
        assert_eq!(refused(&frozen, Some(KnownModel::Cumulative)), ErrorKind::Recording);
        let mut dead = states(&["a", "b"]);
        dead[1].inconsistent = true;
        assert_eq!(refused(&dead, None), ErrorKind::Inconsistent);
        let mut both = states(&["a", "b", "->x"]);
        assert_eq!(refused(&both, Some(KnownModel::Cumulative)), ErrorKind::Model);
        both.remove(0);
        both.remove(0);
        assert_eq!(refused(&both, None), ErrorKind::Model);
    }
}
