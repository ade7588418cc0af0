#![forbid(unsafe_code)]
//! Owns the tables: what each plan does to the bitmaps step by step, and which operation is refused with which kind.
//! Must never compute an expectation; every one is written down.

mod beside;
mod gaps;
mod many;
mod order;
mod plans;
mod reading;

use checkmap::chain::{BitmapState, Chain, Contents, CreateOptions, KnownModel, Model, Name, Plan, Span};
use checkmap::{Error, ErrorKind, Granularity, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Bitmaps written as `name`, a space and flags: `r` records, `i` inconsistent, `u` unusable, `m` granularity 1 MiB.
fn bitmaps(specs: &[&str]) -> Vec<BitmapState> {
    specs
        .iter()
        .map(|spec| {
            let (name, flags) = spec.rsplit_once(' ').unwrap();
            let granularity = granularity(if flags.contains('m') { 1 << 20 } else { 65536 });
            let mut state = BitmapState::new(Name::new(name), granularity, flags.contains('r'));
            (state.inconsistent, state.unusable) = (flags.contains('i'), flags.contains('u'));
            state
        })
        .collect()
}

fn granularity(bytes: u64) -> Granularity {
    Granularity::from_bytes(bytes).unwrap()
}

fn read(specs: &[&str]) -> Chain {
    Chain::read(&bitmaps(specs), None).unwrap()
}

fn insist(specs: &[&str], model: KnownModel) -> Chain {
    Chain::read(&bitmaps(specs), Some(model)).unwrap()
}

fn create(chain: &Chain, name: &str) -> Result<Plan> {
    chain.plan_create(name.as_bytes(), CreateOptions::new(granularity(4096)))
}

fn create_as(chain: &Chain, name: &str, model: KnownModel) -> Result<Plan> {
    let mut options = CreateOptions::new(granularity(4096));
    options.model = Some(model);
    chain.plan_create(name.as_bytes(), options)
}

fn delete(chain: &Chain, name: &str) -> Result<Plan> {
    chain.plan_delete(name.as_bytes(), false)
}

fn force(chain: &Chain, name: &str) -> Result<Plan> {
    chain.plan_delete(name.as_bytes(), true)
}

fn rename(chain: &Chain, from: &str, to: &str) -> Result<Plan> {
    chain.plan_rename(from.as_bytes(), to.as_bytes())
}

fn diff(chain: &Chain, since: &str, until: Option<&str>) -> Result<Span> {
    chain.plan_diff(since.as_bytes(), until.map(str::as_bytes))
}

#[track_caller]
fn steps(plan: Result<Plan>, expected: &[&str]) -> Plan {
    let plan = plan.unwrap();
    let steps: Vec<String> = plan.actions().iter().map(ToString::to_string).collect();
    assert_eq!(steps, expected);
    plan
}

#[track_caller]
fn warned(plan: &Plan, of: &str) {
    assert!(plan.warnings().iter().any(|warning| warning.contains(of)), "{:?}", plan.warnings());
}

/// Refused with this kind, a message that holds this, and a way out.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind, message: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(message), "{error}");
    let says_all = matches!(kind, ErrorKind::InvalidName | ErrorKind::NameTooLong | ErrorKind::InvalidArgument);
    assert!(error.way_out().is_some() || says_all, "no way out: {error}");
}

fn names(names: &[Name]) -> Vec<String> {
    names.iter().map(|name| name.to_string_lossy().into_owned()).collect()
}

fn checkpoints(chain: &Chain) -> Vec<String> {
    chain.checkpoints().iter().map(|checkpoint| checkpoint.name.to_string_lossy().into_owned()).collect()
}

const FOUR: [&str; 4] = ["3->4 r", "1->2 -", "1 -", "2->3 -"];

/// What bitmaps hold, as sets of numbers; one that is not here cannot be known.
#[derive(Clone, Debug, Default)]
struct Sets {
    of: BTreeMap<Name, BTreeSet<u32>>,
    comparisons: usize,
    fails: bool,
}

impl Sets {
    fn new(sets: &[(&str, &[u32])]) -> Self {
        let of = sets.iter().map(|(name, numbers)| (Name::new(*name), numbers.iter().copied().collect()));
        Self { of: of.collect(), ..Self::default() }
    }
}

impl Contents for Sets {
    fn dirty_bytes(&mut self, bitmap: &Name) -> Result<Option<u64>> {
        match self.fails {
            true => Err(Error::new(ErrorKind::Damaged, "a table")),
            false => Ok(self.of.get(bitmap).map(|set| set.len() as u64)),
        }
    }

    fn contains(&mut self, large: &Name, small: &Name) -> Result<bool> {
        let (large, small) = (&self.of[large], &self.of[small]);
        assert!(large.len() >= small.len(), "the answer is known without a look");
        self.comparisons += 1;
        Ok(small.is_subset(large))
    }
}
