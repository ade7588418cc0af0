#![forbid(unsafe_code)]
//! Owns the proof that no sequence of operations on checkpoints ever makes a diff short: a naive log of every write
//! stands beside an image that knows nothing but names, bits and flags. Must never use what the chain itself believes.

mod both;
mod cumulative;
mod gaps;
mod interval;

use checkmap::Granularity;
use checkmap::chain::{Action, BitmapState, CreateOptions, KnownModel, Name, Plan};
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
#[derive(Clone, Debug, Default, PartialEq)]
struct Image(BTreeMap<Name, Stored>);

impl Image {
    /// The states in an order that has nothing to do with time, as in a real directory.
    fn states(&self, turn: usize) -> Vec<BitmapState> {
        let mut states: Vec<BitmapState> = self
            .0
            .iter()
            .map(|(name, stored)| {
                let mut state = BitmapState::new(name.clone(), granularity(), stored.recording);
                state.inconsistent = stored.inconsistent;
                state
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
        for action in plan.actions() {
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
                other => panic!("the model does not know {other}"),
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

fn options(model: Option<KnownModel>) -> CreateOptions {
    let mut options = CreateOptions::new(granularity());
    options.model = model;
    options
}

#[derive(Clone, Debug)]
enum Event {
    Write(u32),
    Create(u8),
    Delete { at: usize, force: bool },
    DeleteMany { mask: u8, force: bool },
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
        2 => (any::<u8>(), prop::bool::weighted(0.3)).prop_map(|(mask, force)| Event::DeleteMany { mask, force }),
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

fn cases(many: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(many);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
