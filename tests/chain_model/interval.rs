#![forbid(unsafe_code)]
//! Owns the proof for chains of intervals, with crashes, gaps and meddling from outside.

use super::{Blocks, Event, Image, Stored, cases, event, name, options};
use checkmap::chain::{Chain, Interval, KnownModel, Model, Name, Until, plan_merge};
use checkmap::{ErrorKind, Result};
use proptest::prelude::*;

/// What really happened after one checkpoint.
#[derive(Clone, Debug)]
struct Truth {
    name: String,
    writes: Blocks,
    /// Whether a write passed unseen by the bitmap: no diff may ever cover it.
    missing: bool,
    /// Whether the bitmap holds nothing but these writes.
    exact: bool,
    trusted: bool,
    recording: bool,
}

/// The image and the truth side by side.
struct World {
    image: Image,
    truth: Vec<Truth>,
    foreign: Option<(Name, Stored)>,
    turn: usize,
}

impl World {
    fn bitmap(&self, at: usize) -> Name {
        let own = &self.truth[at].name;
        match at {
            // Beside bitmaps of others, a root that is alone is marked.
            0 => match Name::new(format!("->{own}")) {
                marked if self.image.0.contains_key(&marked) => marked,
                _ => Name::new(own.as_str()),
            },
            at => Name::new(format!("{}->{own}", self.truth[at - 1].name)),
        }
    }

    /// The chain as a caller gets it; insists on intervals only where it has to.
    fn chain(&mut self) -> Result<Chain> {
        self.turn += 1;
        let states = self.image.states(self.turn);
        let chain = Chain::read(&states, None)?;
        match chain.model() {
            Model::Unknown => Chain::read(&states, Some(KnownModel::Interval)),
            _ => Ok(chain),
        }
    }

    fn pick(&self, at: usize) -> Option<usize> {
        at.checked_rem(self.truth.len())
    }

    fn happen(&mut self, event: Event) {
        let Ok(chain) = self.chain() else {
            // Only a root that was disabled from outside beside a foreign bitmap leaves it open which is the root.
            assert!(self.foreign.is_some() && self.truth.len() == 1 && !self.truth[0].recording);
            return;
        };
        match event {
            Event::Write(block) => self.write(block),
            Event::Create(number) => self.create(&chain, &name(number)),
            Event::Delete { at, force } => {
                if let Some(at) = self.pick(at) {
                    self.delete(&chain, at, force);
                }
            }
            Event::DeleteMany { mask, force } => self.delete_many(&chain, mask, force),
            Event::DeleteAllInconsistent => {
                let plan = chain.plan_delete_all_inconsistent().unwrap();
                self.image.carry_out(&plan);
                if let Some(last) = self.truth.iter().rposition(|truth| !truth.trusted) {
                    self.truth.drain(..=last);
                }
            }
            Event::Rename { at, to } => {
                let (Some(at), to) = (self.pick(at), name(to)) else { return };
                let plan = chain.plan_rename(self.truth[at].name.as_bytes(), to.as_bytes());
                if self.taken(&to) {
                    assert_eq!(plan.unwrap_err().kind(), ErrorKind::Exists);
                    return;
                }
                self.image.carry_out(&plan.unwrap());
                self.truth[at].name = to;
            }
            Event::Crash { mask } => {
                for at in 0..self.truth.len() {
                    if mask & (1 << (at % 8)) != 0 {
                        let bitmap = self.bitmap(at);
                        let stored = self.image.0.get_mut(&bitmap).unwrap();
                        (stored.inconsistent, self.truth[at].trusted) = (true, false);
                        stored.bits.clear();
                    }
                }
            }
            Event::Disable { at } => self.set_recording(at, false),
            Event::EnableFrozen { at } => {
                // To enable the last one again would hide its gap: no rule can help where another program does that.
                if self.pick(at).is_some_and(|at| at + 1 < self.truth.len()) {
                    self.set_recording(at, true);
                }
            }
            Event::MergeRaw { from, into } => {
                let (Some(from), Some(into)) = (self.pick(from), self.pick(into)) else { return };
                let (source, target) = (self.bitmap(from), self.bitmap(into));
                let plan = plan_merge(&self.image.states(self.turn), &[source.as_bytes()], target.as_bytes());
                if let Ok(plan) = plan {
                    assert_eq!(plan.warnings().len(), 1);
                    self.image.carry_out(&plan);
                    self.truth[into].exact = false;
                } else {
                    assert!(from == into || !self.truth[from].trusted || !self.truth[into].trusted);
                }
            }
        }
        if self.truth.is_empty()
            && let Some((name, stored)) = self.foreign.take()
        {
            // A new beginning has to say what the foreign bitmap means; here it goes.
            assert_eq!(self.image.0.remove(&name), Some(stored));
        }
    }

    fn write(&mut self, block: u32) {
        self.image.write(block);
        let newest = self.truth.len().wrapping_sub(1);
        for (at, truth) in self.truth.iter_mut().enumerate() {
            let seen = truth.recording && truth.trusted;
            if at == newest {
                truth.writes.insert(block);
                truth.missing |= !seen;
            } else if seen {
                truth.exact = false;
            }
        }
    }

    fn set_recording(&mut self, at: usize, recording: bool) {
        let Some(at) = self.pick(at).filter(|at| self.truth[*at].trusted) else { return };
        let bitmap = self.bitmap(at);
        self.image.0.get_mut(&bitmap).unwrap().recording = recording;
        self.truth[at].recording = recording;
    }

    fn taken(&self, name: &str) -> bool {
        self.truth.iter().any(|truth| truth.name == name)
            || self.foreign.as_ref().is_some_and(|(foreign, _)| foreign.as_bytes() == name.as_bytes())
    }

    fn create(&mut self, chain: &Chain, name: &str) {
        let plan = chain.plan_create(name.as_bytes(), options(None));
        let expected = if self.taken(name) {
            Some(ErrorKind::Exists)
        } else if self.truth.iter().any(|truth| !truth.trusted) {
            Some(ErrorKind::Inconsistent)
        } else if self.truth.last().is_some_and(|truth| !truth.recording) {
            Some(ErrorKind::Recording)
        } else {
            None
        };
        assert_eq!(plan.as_ref().err().map(|error| error.kind()), expected);
        let Ok(plan) = plan else { return };
        self.image.carry_out(&plan);
        // One that went on recording beside the last one stops too.
        self.truth.iter_mut().for_each(|truth| truth.recording = false);
        self.truth.push(Truth {
            name: name.to_owned(),
            writes: Blocks::new(),
            missing: false,
            exact: true,
            trusted: true,
            recording: true,
        });
    }

    fn delete(&mut self, chain: &Chain, at: usize, force: bool) {
        let plan = chain.plan_delete(self.truth[at].name.as_bytes(), force);
        let newest = at + 1 == self.truth.len();
        let parts = at.saturating_sub(1)..=at;
        if self.truth[parts].iter().any(|truth| !truth.trusted) {
            if !force {
                assert_eq!(plan.unwrap_err().kind(), ErrorKind::Inconsistent);
                return;
            }
            let plan = plan.unwrap();
            assert!(!plan.warnings().is_empty(), "the user has to hear what is lost");
            self.image.carry_out(&plan);
            self.truth.drain(..=at);
            return;
        }
        if at > 0 && (self.truth[at - 1].recording || self.truth[at].recording && !newest) {
            assert_eq!(plan.unwrap_err().kind(), ErrorKind::Recording);
            return;
        }
        self.image.carry_out(&plan.unwrap());
        let gone = self.truth.remove(at);
        if at > 0 {
            let before = &mut self.truth[at - 1];
            before.writes.extend(gone.writes);
            before.missing |= gone.missing;
            before.exact &= gone.exact;
            before.recording = gone.recording;
        }
    }

    /// Deletes several in one step, and one after the other: the image must be the same.
    fn delete_many(&mut self, chain: &Chain, mask: u8, force: bool) {
        let is_meant = |at: &usize| mask & (1 << (at % 8)) != 0;
        let mut meant: Vec<usize> = (0..self.truth.len()).filter(is_meant).collect();
        // With force those go first that need it: their own bitmap cannot be trusted, or the one that would absorb it.
        let absorber = |at: usize| (0..at).rev().find(|older| !is_meant(older));
        let needs_force = |at: usize| [Some(at), absorber(at)].into_iter().flatten().any(|at| !self.truth[at].trusted);
        meant.sort_by_key(|at| !(force && needs_force(*at)));
        let mut names: Vec<String> = meant.into_iter().map(|at| self.truth[at].name.clone()).collect();
        let (image, truth) = (self.image.clone(), self.truth.clone());
        let mut is_refused = false;
        for name in &names {
            let Some(at) = self.truth.iter().position(|truth| truth.name == *name) else { continue };
            let Ok(chain) = self.chain() else {
                // A silent root beside a foreign bitmap: see happen().
                (self.image, self.truth) = (image, truth);
                return;
            };
            is_refused = chain.plan_delete(name.as_bytes(), force).is_err();
            if is_refused {
                break;
            }
            self.delete(&chain, at, force);
        }
        names.reverse();
        names.extend(names.first().cloned());
        let plan = chain.plan_delete_many(&names, force);
        if is_refused {
            (self.image, self.truth) = (image, truth);
            let kind = plan.unwrap_err().kind();
            assert!(matches!(kind, ErrorKind::Inconsistent | ErrorKind::Recording), "{kind:?}");
            return;
        }
        let mut at_once = image;
        at_once.carry_out(&plan.unwrap());
        assert_eq!(at_once, self.image);
    }

    /// Compares the chain, and the diff between any two points in time, with what really happened.
    fn check(&mut self) {
        let Ok(chain) = self.chain() else { return };
        let names: Vec<&[u8]> = chain.checkpoints().iter().map(|checkpoint| checkpoint.name.as_bytes()).collect();
        let expected: Vec<&[u8]> = self.truth.iter().map(|truth| truth.name.as_bytes()).collect();
        assert_eq!(names, expected);
        for (at, checkpoint) in chain.checkpoints().iter().enumerate() {
            assert_eq!(checkpoint.bitmap, self.bitmap(at));
            let next = self.truth.get(at + 1).map(|truth| Name::new(truth.name.as_str()));
            let until = next.map_or(Until::Now, Until::Checkpoint);
            let since = checkpoint.name.clone();
            assert_eq!(chain.interval_of(&checkpoint.bitmap), Some(Interval { since, until }));
        }
        if let Some((name, stored)) = &self.foreign {
            assert_eq!(self.image.0.get(name), Some(stored), "foreign bitmaps are never touched");
        }
        let until_now = chain.answer_until_now().unwrap();
        assert_eq!(until_now.len(), self.truth.len());
        for (since, is_answered) in until_now.into_iter().enumerate() {
            let diff = chain.plan_diff(self.truth[since].name.as_bytes(), None);
            assert_eq!(is_answered, diff.is_ok(), "{diff:?}");
            for until in 0..=self.truth.len() {
                let until_name = self.truth.get(until).map(|truth| truth.name.as_bytes());
                let diff = chain.plan_diff(self.truth[since].name.as_bytes(), until_name);
                if until < since {
                    assert_eq!(diff.unwrap_err().kind(), ErrorKind::Order);
                    continue;
                }
                let span = &self.truth[since..until];
                let answerable = span.iter().enumerate().all(|(at, truth)| {
                    let must_record = until_name.is_none() && at + 1 == span.len();
                    truth.trusted && (truth.recording || !must_record) && !(truth.recording && until_name.is_some())
                });
                let Ok(diff) = diff else {
                    assert!(!answerable, "a sound diff is refused");
                    continue;
                };
                assert!(answerable, "an unsound diff is answered");
                assert!(!span.iter().any(|truth| truth.missing), "a gap in recording became invisible");
                let writes: Blocks = span.iter().flat_map(|truth| truth.writes.iter().copied()).collect();
                let answer = self.image.union(&diff.bitmaps);
                assert!(answer.is_superset(&writes), "a write is missing");
                assert!(answer == writes || span.iter().any(|truth| !truth.exact), "the answer is too large");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn every_diff_of_an_interval_chain_equals_the_writes_or_is_refused(
        events in prop::collection::vec(event(), 1..70),
        foreign in any::<bool>(),
    ) {
        let foreign = foreign.then(|| (Name::new("11"), Stored { bits: [7].into(), ..Stored::default() }));
        let mut world = World { image: Image::default(), truth: Vec::new(), foreign: None, turn: 0 };
        world.happen(Event::Create(10));
        if let Some((name, stored)) = &foreign {
            world.image.0.insert(name.clone(), stored.clone());
        }
        world.foreign = foreign;
        for event in events {
            world.happen(event);
            world.check();
        }
    }
}
