#![forbid(unsafe_code)]
//! Owns the proof that no sequence of operations on checkpoints ever makes a diff short: a naive log of every write
//! stands beside an image that knows nothing but names, bits and flags. Must never use what the chain itself believes.

use checkmap::chain::{Action, BitmapState, Chain, CreateOptions, Model, Name, Plan, plan_merge};
use checkmap::{ErrorKind, Granularity, Result};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

type Blocks = BTreeSet<u32>;

/// A bitmap as it stands in the image.
#[derive(Clone, Debug, Default, PartialEq)]
struct Stored {
    bits: Blocks,
    recording: bool,
    inconsistent: bool,
}

/// Stands for the image: what the actions of a plan are carried out on.
#[derive(Clone, Debug, Default)]
struct Image(BTreeMap<Name, Stored>);

impl Image {
    /// The states in an order that has nothing to do with time, as in a real directory.
    fn states(&self, turn: usize) -> Vec<BitmapState> {
        let mut states: Vec<BitmapState> = self
            .0
            .iter()
            .map(|(name, stored)| BitmapState {
                name: name.clone(),
                granularity: granularity(),
                recording: stored.recording,
                inconsistent: stored.inconsistent,
                unusable: false,
            })
            .collect();
        if !states.is_empty() {
            let by = turn % states.len();
            states.rotate_left(by);
        }
        if turn % 3 == 1 {
            states.reverse();
        }
        states
    }

    fn write(&mut self, block: u32) {
        for stored in self.0.values_mut().filter(|stored| stored.recording && !stored.inconsistent) {
            stored.bits.insert(block);
        }
    }

    fn carry_out(&mut self, plan: &Plan) {
        for action in &plan.actions {
            match action {
                Action::Add { name, .. } => {
                    let born = Stored { recording: true, ..Stored::default() };
                    assert_eq!(self.0.insert(name.clone(), born), None, "{name} was there");
                }
                Action::Merge { sources, target } => {
                    let mut union = Blocks::new();
                    for name in sources.iter().chain([target]) {
                        let stored = &self.0[name];
                        assert!(!stored.inconsistent, "{name} cannot be merged");
                        union.extend(&stored.bits);
                    }
                    self.0.get_mut(target).unwrap().bits = union;
                }
                Action::Remove { name } => assert!(self.0.remove(name).is_some(), "{name} was not there"),
                Action::Rename { from, to } => {
                    let stored = self.0.remove(from).expect("the bitmap to rename");
                    assert_eq!(self.0.insert(to.clone(), stored), None, "{to} was there");
                }
                Action::SetRecording { name, recording } => {
                    let stored = self.0.get_mut(name).unwrap();
                    assert!(!stored.inconsistent, "the flag of {name} cannot be changed");
                    stored.recording = *recording;
                }
            }
        }
    }

    fn union(&self, names: &[Name]) -> Blocks {
        names.iter().flat_map(|name| self.0[name].bits.iter().copied()).collect()
    }
}

fn granularity() -> Granularity {
    Granularity::from_bytes(65536).unwrap()
}

fn options(model: Option<Model>) -> CreateOptions {
    CreateOptions { granularity: None, default_granularity: granularity(), model }
}

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

#[derive(Clone, Debug)]
enum Event {
    Write(u32),
    Create(u8),
    Delete { at: usize, force: bool },
    DeleteAllInconsistent,
    Rename { at: usize, to: u8 },
    Crash { mask: u8 },
    Disable { at: usize },
    EnableFrozen { at: usize },
    MergeRaw { from: usize, into: usize },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => (0..40_u32).prop_map(Event::Write),
        6 => (0..12_u8).prop_map(Event::Create),
        4 => (0..8_usize, prop::bool::weighted(0.3)).prop_map(|(at, force)| Event::Delete { at, force }),
        1 => Just(Event::DeleteAllInconsistent),
        2 => (0..8_usize, 0..12_u8).prop_map(|(at, to)| Event::Rename { at, to }),
        1 => prop_oneof![Just(u8::MAX), any::<u8>()].prop_map(|mask| Event::Crash { mask }),
        1 => (0..8_usize).prop_map(|at| Event::Disable { at }),
        1 => (0..8_usize).prop_map(|at| Event::EnableFrozen { at }),
        1 => (0..8_usize, 0..8_usize).prop_map(|(from, into)| Event::MergeRaw { from, into }),
    ]
}

/// Names with the bytes that arrows are made of.
fn name(number: u8) -> String {
    match number {
        0 => "-".to_owned(),
        1 => ">".to_owned(),
        2 => ">-".to_owned(),
        3 => "a-".to_owned(),
        4 => ">a".to_owned(),
        number => format!("{number}"),
    }
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
            0 => Name::new(own.as_str()),
            at => Name::new(format!("{}->{own}", self.truth[at - 1].name)),
        }
    }

    /// The chain as a caller gets it; insists on intervals only where it has to.
    fn chain(&mut self) -> Result<Chain> {
        self.turn += 1;
        let states = self.image.states(self.turn);
        let chain = Chain::read(&states, None)?;
        match chain.model() {
            Model::Unknown => Chain::read(&states, Some(Model::Interval)),
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
                // Enabling the last one again would hide its gap: whoever does that from outside is beyond our help.
                if self.pick(at).is_some_and(|at| at + 1 < self.truth.len()) {
                    self.set_recording(at, true);
                }
            }
            Event::MergeRaw { from, into } => {
                let (Some(from), Some(into)) = (self.pick(from), self.pick(into)) else { return };
                let (source, target) = (self.bitmap(from), self.bitmap(into));
                let plan = plan_merge(&self.image.states(self.turn), &[source.as_bytes()], target.as_bytes());
                if let Ok(plan) = plan {
                    assert_eq!(plan.warnings.len(), 1);
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
            // Whoever begins anew has to say what the foreign bitmap is; here it goes.
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
        if let Some(last) = self.truth.last_mut() {
            last.recording = false;
        }
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
            assert!(!plan.warnings.is_empty(), "the user has to hear what is lost");
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

    /// Compares the chain, and the diff between any two points in time, with what really happened.
    fn check(&mut self) {
        let Ok(chain) = self.chain() else { return };
        let names: Vec<&[u8]> = chain.checkpoints().iter().map(|checkpoint| checkpoint.name.as_bytes()).collect();
        let expected: Vec<&[u8]> = self.truth.iter().map(|truth| truth.name.as_bytes()).collect();
        assert_eq!(names, expected);
        for (at, checkpoint) in chain.checkpoints().iter().enumerate() {
            assert_eq!(checkpoint.bitmap, self.bitmap(at));
            let next = self.truth.get(at + 1).map(|truth| Name::new(truth.name.as_str()));
            assert_eq!(chain.interval_of(&checkpoint.bitmap), Some((checkpoint.name.clone(), next)));
        }
        if let Some((name, stored)) = &self.foreign {
            assert_eq!(self.image.0.get(name), Some(stored), "foreign bitmaps are never touched");
        }
        for since in 0..self.truth.len() {
            for until in 0..=self.truth.len() {
                let until_name = self.truth.get(until).map(|truth| truth.name.as_bytes());
                let diff = chain.plan_diff(self.truth[since].name.as_bytes(), until_name);
                if until < since {
                    assert_eq!(diff.unwrap_err().kind(), ErrorKind::Order);
                    continue;
                }
                let span = &self.truth[since..until];
                let answerable = span.iter().enumerate().all(|(at, truth)| {
                    truth.trusted && truth.recording == (until_name.is_none() && at + 1 == span.len())
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

/// What really happened since one cumulative checkpoint.
#[derive(Clone, Debug)]
struct Since {
    name: String,
    writes: Blocks,
    trusted: bool,
    recording: bool,
}

fn cumulative_chain(image: &Image, turn: usize) -> Chain {
    Chain::read(&image.states(turn), Some(Model::Cumulative)).unwrap()
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
            let plan = chain.plan_create(name.as_bytes(), options(Some(Model::Cumulative)));
            if truth.iter().any(|since| since.name == name) {
                return assert_eq!(plan.unwrap_err().kind(), ErrorKind::Exists);
            }
            if truth.iter().any(|since| !since.trusted) {
                return assert_eq!(plan.unwrap_err().kind(), ErrorKind::Inconsistent);
            }
            let plan = plan.unwrap();
            assert_eq!(plan.actions.len(), 1);
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
            assert_eq!(plan.actions, [Action::Remove { name: Name::new(truth[at].name.as_str()) }]);
            image.carry_out(&plan);
            truth.remove(at);
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
    chain.order_cumulative(&mut |a, b| Ok(contains(a, b))).unwrap();
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
    again.order_cumulative(&mut |a, b| Ok(contains(a, b))).unwrap();
    assert_eq!(again.checkpoints(), chain.checkpoints(), "the order depends on nothing but names and bits");
    if truth.iter().all(|since| since.trusted && since.recording) && chain.is_ordered() {
        let names: Vec<Name> = truth.iter().map(|since| Name::new(since.name.as_str())).collect();
        assert!(order.iter().copied().eq(&names), "what the bits decide is the order of time");
    }
}

fn cases(many: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(many);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
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
