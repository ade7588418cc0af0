#![forbid(unsafe_code)]
//! Owns the proof for chains that lost bitmaps: no gap is ever bridged, and what lies on either side stays usable.

use super::{Blocks, Image, Stored, cases, name, options};
use checkmap::chain::{Chain, KnownModel, Model, Name, Plan, plan_drop_bitmap};
use checkmap::{ErrorKind, Result};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Event {
    Write(u32),
    Create(u8),
    Delete {
        at: usize,
        force: bool,
    },
    DeleteMany {
        mask: u8,
    },
    DeleteAllInconsistent,
    Rename {
        at: usize,
        to: u8,
    },
    /// A bitmap goes, by our own hand or by another's.
    Lose {
        at: usize,
    },
    DropBefore {
        at: usize,
    },
    Crash {
        at: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (0..40_u32).prop_map(Event::Write),
        8 => (0..14_u8).prop_map(Event::Create),
        3 => (0..8_usize, prop::bool::weighted(0.3)).prop_map(|(at, force)| Event::Delete { at, force }),
        3 => any::<u8>().prop_map(|mask| Event::DeleteMany { mask }),
        1 => Just(Event::DeleteAllInconsistent),
        2 => (0..8_usize, 0..14_u8).prop_map(|(at, to)| Event::Rename { at, to }),
        4 => (0..8_usize).prop_map(|at| Event::Lose { at }),
        1 => (0..8_usize).prop_map(|at| Event::DropBefore { at }),
        1 => (0..8_usize).prop_map(|at| Event::Crash { at }),
    ]
}

/// An interval that really was; one without a name has no bitmap any more.
#[derive(Clone, Debug, Default)]
struct Past {
    name: Option<String>,
    writes: Blocks,
    trusted: bool,
}

#[derive(Default)]
struct World {
    image: Image,
    past: Vec<Past>,
    turn: usize,
}

impl World {
    fn chain(&mut self) -> Chain {
        self.turn += 1;
        let states = self.image.states(self.turn);
        let chain = Chain::read(&states, None).expect("gaps never break a chain");
        match chain.model() {
            Model::Unknown => {
                Chain::read(&states, Some(KnownModel::Interval)).expect("a root without anything behind it")
            }
            _ => chain,
        }
    }

    /// The places of the intervals that have a bitmap.
    fn alive(&self) -> Vec<usize> {
        (0..self.past.len()).filter(|at| self.past[*at].name.is_some()).collect()
    }

    fn pick(&self, at: usize) -> Option<(usize, String)> {
        let alive = self.alive();
        let at = *alive.get(at.checked_rem(alive.len())?)?;
        Some((at, self.past[at].name.clone()?))
    }

    fn taken(&self, name: &str) -> bool {
        self.image.0.keys().any(|bitmap| bitmap.mentions().contains(&Name::from(name)))
    }

    /// Carries out a plan; the intervals whose checkpoints are gone then have no bitmap.
    fn carry_out(&mut self, plan: &Plan) {
        self.image.carry_out(plan);
        let chain = self.chain();
        for past in &mut self.past {
            past.name.take_if(|name| chain.checkpoint(name.as_bytes()).is_none());
        }
    }

    fn happen(&mut self, event: Event) {
        let chain = self.chain();
        match event {
            Event::Write(block) => {
                self.image.write(block);
                if let Some(newest) = self.past.last_mut() {
                    newest.writes.insert(block);
                }
            }
            Event::Create(number) => self.create(&chain, &name(number)),
            Event::Delete { at, force } => {
                if let Some((at, own)) = self.pick(at) {
                    self.delete(at, &own, force);
                }
            }
            Event::DeleteMany { mask } => {
                let is_meant = |(number, _): &(usize, usize)| mask & (1 << (number % 8)) != 0;
                let meant = self.alive().into_iter().enumerate().filter(is_meant);
                let names: Vec<String> = meant.filter_map(|(_, at)| self.past[at].name.clone()).collect();
                let plan = chain.plan_delete_many(&names, false);
                let Ok(plan) = plan else {
                    assert!(self.past.iter().any(|past| past.name.is_some() && !past.trusted), "{plan:?}");
                    return;
                };
                let mut at_once = self.image.clone();
                at_once.carry_out(&plan);
                for name in &names {
                    let at = self.past.iter().position(|past| past.name.as_ref() == Some(name)).expect("it is there");
                    assert!(self.delete(at, name, false), "{name} is deleted with others, but not alone");
                }
                assert_eq!(at_once, self.image);
            }
            Event::DeleteAllInconsistent => {
                let plan = chain.plan_delete_all_inconsistent().unwrap();
                self.carry_out(&plan);
                assert!(self.past.iter().all(|past| past.name.is_none() || past.trusted));
            }
            Event::Rename { at, to } => {
                let (Some((at, own)), to) = (self.pick(at), name(to)) else { return };
                let plan = chain.plan_rename(own.as_bytes(), to.as_bytes());
                if self.taken(&to) {
                    assert_eq!(plan.unwrap_err().kind(), ErrorKind::Exists);
                    return;
                }
                self.image.carry_out(&plan.unwrap());
                self.past[at].name = Some(to);
            }
            Event::Lose { at } => {
                let Some((_, own)) = self.pick(at) else { return };
                let bitmap = chain.checkpoint(own.as_bytes()).unwrap().bitmap.clone();
                let plan = plan_drop_bitmap(&self.image.states(self.turn), bitmap.as_bytes()).unwrap();
                self.carry_out(&plan);
            }
            Event::DropBefore { at } => {
                let Some((at, own)) = self.pick(at) else { return };
                match chain.plan_drop_before(own.as_bytes()) {
                    Ok(plan) => {
                        self.carry_out(&plan);
                        self.past.drain(..at);
                        assert!(self.image.0.contains_key(&Name::from(own.as_str())), "{own} is the root");
                        let left: Vec<String> = self.past.iter().filter_map(|past| past.name.clone()).collect();
                        assert_eq!(self.chain().checkpoints().len(), left.len(), "nothing older is left: {left:?}");
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::BrokenChain);
                        assert!(!chain.is_ordered());
                    }
                }
            }
            Event::Crash { at } => {
                let Some((at, own)) = self.pick(at) else { return };
                let bitmap = chain.checkpoint(own.as_bytes()).unwrap().bitmap.clone();
                let stored: &mut Stored = self.image.0.get_mut(&bitmap).unwrap();
                (stored.inconsistent, self.past[at].trusted) = (true, false);
                stored.bits.clear();
            }
        }
    }

    /// Deletes one, unless that is refused for a good reason.
    fn delete(&mut self, at: usize, own: &str, force: bool) -> bool {
        let is_cut = self.past[at.saturating_sub(1)..=at].iter().any(|past| past.name.is_some() && !past.trusted);
        let Ok(plan) = self.chain().plan_delete(own.as_bytes(), force) else {
            assert!(is_cut, "{own}");
            return false;
        };
        self.carry_out(&plan);
        if !is_cut {
            let gone = self.past.remove(at);
            if let Some(before) = at.checked_sub(1) {
                self.past[before].writes.extend(gone.writes);
            }
        }
        true
    }

    fn create(&mut self, chain: &Chain, name: &str) {
        let plan = chain.plan_create(name.as_bytes(), options(None));
        let alive = self.alive();
        let expected = if self.taken(name) {
            Some(ErrorKind::Exists)
        } else if alive.iter().any(|at| !self.past[*at].trusted) {
            Some(ErrorKind::Inconsistent)
        } else if !alive.is_empty() && self.past.last().is_some_and(|newest| newest.name.is_none()) {
            Some(ErrorKind::Recording)
        } else {
            None
        };
        assert_eq!(plan.as_ref().err().map(|error| error.kind()), expected);
        let Ok(plan) = plan else { return };
        self.image.carry_out(&plan);
        self.past.push(Past { name: Some(name.to_owned()), trusted: true, ..Past::default() });
    }

    fn check(&mut self) {
        let chain = self.chain();
        let alive = self.alive();
        assert_eq!(chain.checkpoints().len(), alive.len());
        for checkpoint in chain.checkpoints() {
            let own = Some(checkpoint.name.to_string_lossy().into_owned());
            let at = self.past.iter().position(|past| past.name == own).expect("no checkpoint but the real ones");
            let before = at.checked_sub(1).and_then(|before| self.past[before].name.clone());
            assert_eq!(checkpoint.parent.as_ref().map(|parent| parent.to_string_lossy().into_owned()), before);
        }
        if chain.is_ordered() {
            let names = chain.checkpoints().iter().map(|checkpoint| checkpoint.name.to_string_lossy().into_owned());
            assert!(names.eq(alive.iter().filter_map(|at| self.past[*at].name.clone())), "the order is the real one");
        }
        let until_now = chain.answer_until_now().unwrap();
        let answers = chain.checkpoints().iter().map(|own| chain.plan_diff(own.name.as_bytes(), None).is_ok());
        assert!(answers.eq(until_now));
        for &since in &alive {
            for until in alive.iter().copied().chain([self.past.len()]) {
                let diff = diff(&chain, &self.past, since, until);
                if until < since {
                    assert!(diff.is_err());
                    continue;
                }
                let span = &self.past[since..until];
                let answerable = span.iter().all(|past| past.name.is_some() && past.trusted);
                assert_eq!(diff.is_ok(), answerable, "{since} {until}: {diff:?}");
                if let Ok(bitmaps) = diff {
                    let writes: Blocks = span.iter().flat_map(|past| past.writes.iter().copied()).collect();
                    assert_eq!(self.image.union(&bitmaps), writes);
                }
            }
        }
    }
}

fn diff(chain: &Chain, past: &[Past], since: usize, until: usize) -> Result<Vec<Name>> {
    let name = |at: usize| past.get(at).and_then(|past| past.name.as_ref()).map(|name| name.as_bytes());
    chain.plan_diff(name(since).expect("one with a bitmap"), name(until)).map(|span| span.bitmaps)
}

proptest! {
    #![proptest_config(cases(3000))]

    #[test]
    fn no_gap_is_bridged_and_what_lies_beside_it_stays_usable(events in prop::collection::vec(event(), 1..60)) {
        let mut world = World::default();
        for event in events {
            world.happen(event);
            world.check();
        }
    }
}
