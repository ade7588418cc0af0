//! Owns the proof that checkpoints on a host that is no file work as on every other: histories of two disks, changed
//! together and one by one, beside a naive log of what the guest wrote. Must never use what a chain believes.

use crate::machine::{Machine, Weather};
use checkmap::chain::{Model, Plan};
use checkmap::image::{DiffRequest, Group, Layers, Scope};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Image, Result};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Name, size and granularity; the last granule of the second is cut by the disk's end.
const DISKS: [(&str, u64, u64); 2] = [("vda", 64 << 16, 1 << 16), ("vdb", (40 << 12) - 512, 1 << 12)];

#[derive(Clone, Debug)]
enum Verb {
    Create(u8),
    Delete(u8),
    Rename(u8, u8),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    None,
    Busy,
    Fails,
    InDoubt { done: bool },
}

#[derive(Clone, Debug)]
enum Event {
    Write { disk: usize, granule: u64, count: u64 },
    Together(Verb, Trouble, usize),
    Alone(Verb, Trouble, usize),
}

fn verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        4 => (0..7_u8).prop_map(Verb::Create),
        3 => (0..7_u8).prop_map(Verb::Delete),
        2 => (0..7_u8, 0..7_u8).prop_filter("a name of its own", |(from, to)| from != to).prop_map(|(from, to)| Verb::Rename(from, to)),
    ]
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        6 => Just(Trouble::None),
        1 => Just(Trouble::Busy),
        1 => Just(Trouble::Fails),
        1 => any::<bool>().prop_map(|done| Trouble::InDoubt { done }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..2_usize, 0..64_u64, 1..4_u64).prop_map(|(disk, granule, count)| Event::Write { disk, granule, count }),
        6 => (verb(), trouble(), 0..2_usize).prop_map(|(verb, trouble, disk)| Event::Together(verb, trouble, disk)),
        1 => (verb(), trouble(), 0..2_usize).prop_map(|(verb, trouble, disk)| Event::Alone(verb, trouble, disk)),
    ]
}

/// The checkpoints of one disk, oldest first, each with the granules written after it and before the next.
type Log = Vec<(u8, BTreeSet<u64>)>;

fn text(number: u8) -> Vec<u8> {
    format!("c{number}").into_bytes()
}

/// Does it to the log; false where it cannot be done.
fn note(log: &mut Log, verb: &Verb) -> bool {
    let place = |number: u8| log.iter().position(|(name, _)| *name == number);
    match *verb {
        Verb::Create(name) if place(name).is_none() => log.push((name, BTreeSet::new())),
        Verb::Delete(name) => {
            let Some(at) = place(name) else { return false };
            let (_, written) = log.remove(at);
            if let Some(before) = at.checked_sub(1) {
                log[before].1.extend(written);
            }
        }
        Verb::Rename(from, to) if place(to).is_none() => {
            let Some(at) = place(from) else { return false };
            log[at].0 = to;
        }
        _ => return false,
    }
    true
}

fn plan(image: &Image, verb: &Verb) -> Result<Plan> {
    match *verb {
        Verb::Create(name) => image.plan_create(&text(name), None, None),
        Verb::Delete(name) => image.plan_delete(&text(name), false, Layers::Check, None),
        Verb::Rename(from, to) => image.plan_rename(&text(from), &text(to), Layers::Check, None),
    }
}

struct World {
    machine: Arc<Machine>,
    images: Vec<Image>,
    logs: [Log; 2],
}

impl World {
    fn new() -> Self {
        let machine = Machine::new(&DISKS);
        let images = DISKS.iter().map(|(name, ..)| machine.open(name)).collect();
        Self { machine, images, logs: [Log::new(), Log::new()] }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Write { disk, granule, count } => {
                let (name, size_bytes, granularity) = DISKS[*disk];
                let granules = size_bytes.div_ceil(granularity);
                let (first, end) = (granule % granules, (granule % granules + count).min(granules));
                let (offset, behind) = (first * granularity, (end * granularity).min(size_bytes));
                self.machine.write(name, offset, behind - offset);
                if let Some((_, written)) = self.logs[*disk].last_mut() {
                    written.extend(first..end);
                }
            }
            Event::Together(verb, trouble, disk) => self.change(verb, *trouble, *disk, &[0, 1]),
            Event::Alone(verb, trouble, disk) => self.change(verb, *trouble, *disk, &[*disk]),
        }
    }

    fn change(&mut self, verb: &Verb, trouble: Trouble, troubled: usize, disks: &[usize]) {
        let before = self.machine.content();
        let mut after = self.logs.clone();
        let possible = disks.iter().all(|disk| note(&mut after[*disk], verb));
        let chosen = self.images.iter_mut().enumerate().filter(|(at, _)| disks.contains(at)).map(|(_, image)| image);
        let mut group = Group::new(chosen).unwrap();
        let plans = group.plan(|image| plan(image, verb));
        assert_eq!(plans.is_ok(), possible, "{verb:?}: {plans:?}");
        let Ok(plans) = plans else {
            assert_eq!(self.machine.content(), before);
            return;
        };
        let untried = group.rehearse(&plans, &mut Unobserved).unwrap();
        assert!(untried.iter().all(|said| said.len() == 1 && said[0].contains("not tried")), "{untried:?}");
        assert_eq!(self.machine.content(), before, "a rehearsal changed something");
        let name = DISKS[troubled].0.to_owned();
        self.machine.set_weather(match trouble {
            Trouble::None => Weather::Fine,
            Trouble::Busy => Weather::Busy(name),
            Trouble::Fails => Weather::Fails(name),
            Trouble::InDoubt { done } => Weather::InDoubt { done },
        });
        let committed = group.commit(&plans, &mut Unobserved);
        let kind = committed.as_ref().err().map(checkmap::Error::kind);
        let (expected, done) = match trouble {
            Trouble::None => (None, true),
            Trouble::Busy => (Some(ErrorKind::InUse), false),
            Trouble::Fails => (Some(ErrorKind::Io), false),
            Trouble::InDoubt { done } => (Some(ErrorKind::CommitInDoubt), done),
        };
        assert_eq!(kind, expected);
        if let Ok(warnings) = &committed {
            let said: Vec<String> = disks.iter().map(|disk| format!("{} keeps it in memory", DISKS[*disk].0)).collect();
            assert_eq!(warnings.concat(), said);
        }
        if let Some(error) = committed.err().filter(|error| error.kind() != ErrorKind::CommitInDoubt) {
            assert!(error.to_string().contains("nothing was changed"), "{error}");
        }
        match done {
            true => self.logs = after,
            false => assert_eq!(self.machine.content(), before, "something changed"),
        }
    }

    fn compare(&mut self) {
        for (image, (log, (_, size_bytes, granularity))) in self.images.iter().zip(self.logs.iter().zip(DISKS)) {
            let chain = image.chain(None).unwrap();
            assert_eq!(chain.model(), if log.is_empty() { Model::None } else { Model::Interval });
            let names: Vec<&[u8]> = chain.checkpoints().iter().map(|one| one.name.as_bytes()).collect();
            assert_eq!(names, log.iter().map(|(name, _)| text(*name)).collect::<Vec<_>>());
            let overview = image.overview(None, Scope::Checkpoints, &mut Unobserved).unwrap();
            for (checkpoint, (_, written)) in chain.checkpoints().iter().zip(log) {
                let bytes = |granule: &u64| ((granule + 1) * granularity).min(size_bytes) - granule * granularity;
                let dirty_bytes = overview.summary(&checkpoint.bitmap).dirty_bytes;
                assert_eq!(dirty_bytes, Some(written.iter().map(bytes).sum()));
            }
            let report = image.check(&mut Unobserved).unwrap();
            assert_eq!((report.errors, report.unusable), (0, 0));
            for since in 0..log.len() {
                for until in since..=log.len() {
                    self.machine.unions.store(0, Ordering::Relaxed);
                    let (own, other) = (text(log[since].0), log.get(until).map(|(name, _)| text(*name)));
                    let request = DiffRequest::since(&own);
                    let request = other.as_ref().map_or(request, |other| request.until(other));
                    let diff = image.diff(&request, &mut Unobserved).unwrap();
                    let wanted: BTreeSet<u64> =
                        log[since..until].iter().flat_map(|(_, written)| written).copied().collect();
                    let granules = size_bytes.div_ceil(granularity);
                    let found = (0..granules).filter(|granule| diff.bitmap.get(granule * granularity).unwrap());
                    assert_eq!(found.collect::<BTreeSet<u64>>(), wanted);
                    // However many bitmaps there are, the host is asked once.
                    assert_eq!(self.machine.unions.load(Ordering::Relaxed), usize::from(since < until));
                }
            }
        }
    }
}

fn cases(many: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(many);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn two_disks_of_a_machine_are_what_a_log_of_their_writes_says(events in prop::collection::vec(event(), 1..40)) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
            world.compare();
        }
    }
}
