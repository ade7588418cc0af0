#![forbid(unsafe_code)]
//! Owns the tables: what each plan does to the bitmaps step by step, and which operation is refused with which kind.
//! Must never compute an expectation; every one is written down.

mod gaps;
mod plans;
mod reading;

use checkmap::chain::{BitmapState, Chain, CreateOptions, Model, Name, Plan, Span};
use checkmap::{ErrorKind, Granularity, Result};

/// Bitmaps written as `name`, a space and flags: `r` records, `i` inconsistent, `u` unusable, `m` granularity 1 MiB.
fn bitmaps(specs: &[&str]) -> Vec<BitmapState> {
    specs
        .iter()
        .map(|spec| {
            let (name, flags) = spec.rsplit_once(' ').unwrap();
            BitmapState {
                name: Name::new(name),
                granularity: granularity(if flags.contains('m') { 1 << 20 } else { 65536 }),
                recording: flags.contains('r'),
                inconsistent: flags.contains('i'),
                unusable: flags.contains('u'),
            }
        })
        .collect()
}

fn granularity(bytes: u64) -> Granularity {
    Granularity::from_bytes(bytes).unwrap()
}

fn read(specs: &[&str]) -> Chain {
    Chain::read(&bitmaps(specs), None).unwrap()
}

fn insist(specs: &[&str], model: Model) -> Chain {
    Chain::read(&bitmaps(specs), Some(model)).unwrap()
}

fn create(chain: &Chain, name: &str) -> Result<Plan> {
    let default_granularity = granularity(4096);
    chain.plan_create(name.as_bytes(), CreateOptions { granularity: None, default_granularity, model: None })
}

fn create_as(chain: &Chain, name: &str, model: Model) -> Result<Plan> {
    let options = CreateOptions { granularity: None, default_granularity: granularity(4096), model: Some(model) };
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
    let steps: Vec<String> = plan.actions.iter().map(ToString::to_string).collect();
    assert_eq!(steps, expected);
    plan
}

#[track_caller]
fn warned(plan: &Plan, of: &str) {
    assert!(plan.warnings.iter().any(|warning| warning.contains(of)), "{:?}", plan.warnings);
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
