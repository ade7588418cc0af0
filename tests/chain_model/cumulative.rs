#![forbid(unsafe_code)]
//! Owns the proof for cumulative checkpoints, and for the order that their bits tell.

use super::{Blocks, Event, Image, cases, event, name, options};
use checkmap::chain::{Action, Chain, Contents, KnownModel, Name};
use checkmap::{ErrorKind, Result};
use proptest::prelude::*;

/// What really happened since one cumulative checkpoint.
#[derive(Clone, Debug)]
struct Since {
    name: String,
    writes: Blocks,
    trusted: bool,
    recording: bool,
}

fn cumulative_chain(image: &Image, turn: usize) -> Chain {
    Chain::read(&image.states(turn), Some(KnownModel::Cumulative)).unwrap()
}

fn cumulative_event(image: &mut Image, truth: &mut Vec<Since>, event: Event, turn: usize) {
    let chain = cumulative_chain(image, turn);
    let pick = |at: usize| at.checked_rem(truth.len());
    match event {
        Event::Write(block) => {
            image.write(block);
            truth.iter_mut().for_each(|since| since.writes.extend([block]));
        }
        Event::Create(number) => {
            let name = name(number);
            let plan = chain.plan_create(name.as_bytes(), options(Some(KnownModel::Cumulative)));
            if truth.iter().any(|since| since.name == name) {
                return assert_eq!(plan.unwrap_err().kind(), ErrorKind::Exists);
            }
            if truth.iter().any(|since| !since.trusted) {
                return assert_eq!(plan.unwrap_err().kind(), ErrorKind::Inconsistent);
            }
            let plan = plan.unwrap();
            assert_eq!(plan.actions().len(), 1);
            image.carry_out(&plan);
            truth.push(Since { name, writes: Blocks::new(), trusted: true, recording: true });
        }
        Event::Delete { at, force } => {
            let Some(at) = pick(at) else { return };
            let plan = chain.plan_delete(truth[at].name.as_bytes(), force);
            if !truth[at].trusted && !force {
                return assert_eq!(plan.unwrap_err().kind(), ErrorKind::Inconsistent);
            }
            let plan = plan.unwrap();
            assert_eq!(plan.actions(), [Action::Remove { name: Name::new(truth[at].name.as_str()) }]);
            image.carry_out(&plan);
            truth.remove(at);
        }
        Event::DeleteMany { mask, force } => {
            let is_meant = |at: &usize| mask & (1 << (at % 8)) != 0;
            let names: Vec<String> = (0..truth.len()).filter(is_meant).map(|at| truth[at].name.clone()).collect();
            let plan = chain.plan_delete_many(&names, force);
            if !force && truth.iter().any(|since| names.contains(&since.name) && !since.trusted) {
                return assert_eq!(plan.unwrap_err().kind(), ErrorKind::Inconsistent);
            }
            image.carry_out(&plan.unwrap());
            truth.retain(|since| !names.contains(&since.name));
        }
        Event::DeleteAllInconsistent => {
            image.carry_out(&chain.plan_delete_all_inconsistent().unwrap());
            truth.retain(|since| since.trusted);
        }
        Event::Rename { at, to } => {
            let (Some(at), to) = (pick(at), name(to)) else { return };
            let plan = chain.plan_rename(truth[at].name.as_bytes(), to.as_bytes());
            if truth.iter().any(|since| since.name == to) {
                return assert_eq!(plan.unwrap_err().kind(), ErrorKind::Exists);
            }
            image.carry_out(&plan.unwrap());
            truth[at].name = to;
        }
        Event::Crash { mask } => {
            for (at, since) in truth.iter_mut().enumerate().filter(|(at, _)| mask & (1 << (at % 8)) != 0) {
                let stored = image.0.get_mut(&Name::new(since.name.as_str())).unwrap();
                (stored.inconsistent, since.trusted) = (true, false);
                if at % 2 == 0 {
                    stored.bits.clear();
                }
            }
        }
        Event::Disable { at } => {
            if let Some(at) = pick(at).filter(|at| truth[*at].trusted) {
                image.0.get_mut(&Name::new(truth[at].name.as_str())).unwrap().recording = false;
                truth[at].recording = false;
            }
        }
        Event::EnableFrozen { .. } | Event::MergeRaw { .. } => {}
    }
}

fn check_cumulative(image: &Image, truth: &[Since], turn: usize) {
    let mut chain = cumulative_chain(image, turn);
    assert_eq!(chain.checkpoints().len(), truth.len());
    let until_now = chain.answer_until_now().unwrap();
    let answers = chain.checkpoints().iter().map(|own| chain.plan_diff(own.name.as_bytes(), None).is_ok());
    assert!(answers.eq(until_now));
    for since in truth {
        let diff = chain.plan_diff(since.name.as_bytes(), None);
        match (since.trusted, since.recording) {
            (false, _) => assert_eq!(diff.unwrap_err().kind(), ErrorKind::Inconsistent),
            (true, false) => assert_eq!(diff.unwrap_err().kind(), ErrorKind::Recording),
            (true, true) => assert_eq!(image.union(&diff.unwrap().bitmaps), since.writes),
        }
        let until = chain.plan_diff(since.name.as_bytes(), Some(since.name.as_bytes()));
        assert_eq!(until.unwrap_err().kind(), ErrorKind::Model);
    }

    let bits = |name: &Name| image.0.get(name).filter(|stored| !stored.inconsistent).map(|stored| &stored.bits);
    let contains = |a: &Name, b: &Name| Some(bits(a)?.is_superset(bits(b)?) && bits(a) != bits(b));
    chain.order_cumulative(&mut Bits(image)).unwrap();
    let order: Vec<&Name> = chain.checkpoints().iter().map(|checkpoint| &checkpoint.bitmap).collect();
    for (at, checkpoint) in chain.checkpoints().iter().enumerate() {
        let mut decided = true;
        for (other_at, other) in order.iter().enumerate().filter(|(other_at, _)| *other_at != at) {
            match (contains(&checkpoint.bitmap, other), contains(other, &checkpoint.bitmap)) {
                (Some(true), _) => assert!(at < other_at),
                (_, Some(true)) => assert!(at > other_at),
                _ => decided = false,
            }
        }
        assert_eq!(checkpoint.ordered, decided);
    }
    let mut again = cumulative_chain(image, turn + 1);
    again.order_cumulative(&mut Bits(image)).unwrap();
    assert_eq!(again.checkpoints(), chain.checkpoints(), "the order depends on nothing but names and bits");
    if truth.iter().all(|since| since.trusted && since.recording) && chain.is_ordered() {
        let names: Vec<Name> = truth.iter().map(|since| Name::new(since.name.as_str())).collect();
        assert!(order.iter().copied().eq(&names), "what the bits decide is the order of time");
    }
}

/// What the order may ask of the image.
struct Bits<'a>(&'a Image);

impl Contents for Bits<'_> {
    fn dirty_bytes(&mut self, bitmap: &Name) -> Result<Option<u64>> {
        let trusted = self.0.0.get(bitmap).filter(|stored| !stored.inconsistent);
        Ok(trusted.map(|stored| stored.bits.len() as u64))
    }

    fn contains(&mut self, large: &Name, small: &Name) -> Result<bool> {
        Ok(self.0.0[small].bits.is_subset(&self.0.0[large].bits))
    }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn every_diff_of_cumulative_checkpoints_equals_the_writes_or_is_refused(
        events in prop::collection::vec(event(), 1..70),
    ) {
        let (mut image, mut truth) = (Image::default(), Vec::new());
        for (turn, event) in events.into_iter().enumerate() {
            cumulative_event(&mut image, &mut truth, event, turn);
            check_cumulative(&image, &truth, turn);
        }
    }
}
