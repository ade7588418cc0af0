#![forbid(unsafe_code)]
//! Owns the operations of the matrix as jobs, each form of each engine one, and the run of a job. Knows no engine.

use crate::engine::{Engine, Form, Union};
use crate::input::{Input, Tally, digest};
use crate::measure::heap_bytes;
use crate::patterns::{Disk, Scenario};
use crate::report::OURS;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;

/// What two bitmaps can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOperation {
    Union,
    Intersect,
    Subtract,
    Xor,
}

impl SetOperation {
    pub const ALL: [Self; 4] = [Self::Union, Self::Intersect, Self::Subtract, Self::Xor];

    fn name(self) -> &'static str {
        match self {
            Self::Union => "union",
            Self::Intersect => "intersect",
            Self::Subtract => "subtract",
            Self::Xor => "xor",
        }
    }
}

/// An engine that answers for single granules, and knows plain bits; those that do not give `None`.
pub trait Questions: Engine {
    fn from_bits(_bits: &[u8], _disk: &Disk) -> Option<Self::Bitmap> {
        None
    }
    /// A digest of some of the bits, once all are in memory.
    fn to_bits(_bitmap: &Self::Bitmap, _disk: &Disk) -> Option<u64> {
        None
    }
    fn next_dirty(bitmap: &Self::Bitmap, disk: &Disk, from: u64) -> Option<u64>;
    fn next_clean(bitmap: &Self::Bitmap, disk: &Disk, from: u64) -> Option<u64>;
    fn get(bitmap: &Self::Bitmap, disk: &Disk, granule: u64) -> bool;
}

/// An engine that has all operations on sets.
pub trait Operations: Questions {
    fn change(operation: SetOperation, ours: &mut Self::Bitmap, theirs: &Self::Bitmap);
    fn make(operation: SetOperation, ours: &Self::Bitmap, theirs: &Self::Bitmap) -> Self::Bitmap;
    fn is_subset(ours: &Self::Bitmap, theirs: &Self::Bitmap) -> bool;
    fn is_equal(ours: &Self::Bitmap, theirs: &Self::Bitmap) -> bool;
    /// Has every container in its smallest form.
    fn optimize(bitmap: &mut Self::Bitmap);
    /// Portable Roaring, of the engine's own width.
    fn write(bitmap: &Self::Bitmap) -> Vec<u8>;
    fn read(bytes: &[u8], disk: &Disk) -> Self::Bitmap;
}

/// The digest of words that [`Questions::to_bits`] answers with.
pub fn digest_of_words(words: impl ExactSizeIterator<Item = u64>) -> u64 {
    digest(words.step_by(1021))
}

/// How often a question is asked in one measurement.
const QUESTIONS: usize = 1000;

/// What one measurement came to.
pub struct Outcome {
    pub nanos: f64,
    pub digest: u64,
    pub heap: u64,
}

/// How often a job is run within one look at the clock, and whether digest and memory are wanted.
pub type Runs = (usize, bool);

/// One form of one operation of one engine.
pub struct Job<'a> {
    pub operation: String,
    pub engine: &'static str,
    pub form: &'static str,
    pub run: Box<dyn Fn(Runs) -> Outcome + 'a>,
}

fn timed<S, R>(
    (times, is_looked_at): Runs,
    prepare: impl Fn() -> S,
    run: impl Fn(S) -> R,
    look: impl FnOnce(&R) -> u64,
) -> Outcome {
    let prepared: Vec<S> = (0..times).map(|_| prepare()).collect();
    let mut results = Vec::with_capacity(times);
    let start = Instant::now();
    for state in prepared {
        results.push(black_box(run(black_box(state))));
    }
    let nanos = start.elapsed().as_nanos() as f64 / times as f64;
    let last = results.pop().expect("it ran at least once");
    drop(results);
    let digest = if is_looked_at { look(&last) } else { 0 };
    let heap = if is_looked_at { heap_bytes(last) } else { 0 };
    Outcome { nanos, digest, heap }
}

/// The bitmaps of one engine, and the jobs that it has been given.
pub struct Stable<'a, E: Engine<Bitmap: 'a> + 'a> {
    scenario: &'a Scenario,
    disk: &'a Disk,
    wanted: &'a dyn Fn(&str) -> bool,
    a: Rc<E::Bitmap>,
    b: Rc<E::Bitmap>,
    both: Rc<E::Bitmap>,
    pub jobs: Vec<Job<'a>>,
}

/// Count and extents.
fn look_at<E: Engine>(bitmap: &E::Bitmap, disk: &Disk) -> u64 {
    let mut tally = Tally::default();
    (E::extents()[0].run)(bitmap, disk, &mut tally);
    digest([E::cardinality(bitmap), tally.digest()])
}

impl<'a, E: Engine<Bitmap: 'a> + 'a> Stable<'a, E> {
    /// `None` if the engine does not take the inputs.
    pub fn new(scenario: &'a Scenario, wanted: &'a dyn Fn(&str) -> bool) -> Option<Self> {
        let disk = &scenario.disk;
        let [first, second, ..] = &scenario.inputs[..] else { return None };
        if E::refuses(first).or(E::refuses(second)).or(E::refuses(&scenario.asked)).is_some() {
            return None;
        }
        let build = |input| Rc::new(E::build(input, disk));
        let (a, b, both) = (build(first), build(second), build(&scenario.asked));
        Some(Self { scenario, disk, wanted, a, b, both, jobs: Vec::new() })
    }

    fn add(&mut self, operation: &str, form: &'static str, run: impl Fn(Runs) -> Outcome + 'a) {
        if (self.wanted)(operation) {
            self.jobs.push(Job { operation: operation.into(), engine: E::NAME, form, run: Box::new(run) });
        }
    }

    /// Runs what makes a bitmap.
    pub fn making(runs: Runs, disk: &Disk, make: impl Fn() -> E::Bitmap) -> Outcome {
        timed(runs, || (), |()| make(), |made| look_at::<E>(made, disk))
    }

    /// Adds a job whose result is a bitmap.
    fn add_making(&mut self, operation: &str, form: &'static str, make: impl Fn() -> E::Bitmap + 'a) {
        let disk = self.disk;
        self.add(operation, form, move |runs| Self::making(runs, disk, &make));
    }

    /// Adds a job that changes a copy of `ours`, which is made before the clock starts.
    fn add_changing(
        &mut self,
        operation: &str,
        form: &'static str,
        ours: Rc<E::Bitmap>,
        change: impl Fn(&mut E::Bitmap) + 'a,
    ) {
        let disk = self.disk;
        let change = move |mut bitmap: E::Bitmap| {
            change(&mut bitmap);
            bitmap
        };
        let prepare = move || E::Bitmap::clone(&ours);
        self.add(operation, form, move |runs| timed(runs, &prepare, &change, |made| look_at::<E>(made, disk)));
    }

    /// Adds a job whose result is a number.
    fn add_asking(&mut self, operation: &str, form: &'static str, ask: impl Fn() -> u64 + 'a) {
        self.add(operation, form, move |runs| timed(runs, || (), |()| ask(), |&answer| answer));
    }

    /// What every engine does.
    pub fn basics(&mut self) {
        self.unions();
        let (disk, scenario) = (self.disk, self.scenario);
        let ours = self.a.clone();
        self.add_making("clone", "clone", move || E::Bitmap::clone(&ours));
        let ours = self.a.clone();
        self.add_asking("count", "count", move || E::cardinality(&ours));
        for Form { name, run, .. } in alone(E::counts()) {
            let ours = self.both.clone();
            self.add_asking("count_ranges", name, move || run(&ours, disk, &scenario.ranges));
        }
        for Form { name, run, .. } in alone(E::extents()) {
            let ours = self.both.clone();
            self.add_asking("extents_all", name, move || {
                let mut sum = Tally::default();
                run(&ours, disk, &mut sum);
                sum.digest()
            });
        }
        for Form { name, run, .. } in alone(E::windows()) {
            let ours = self.both.clone();
            self.add_asking("extents_windows", name, move || {
                let mut sum = Tally::default();
                run(&ours, disk, &scenario.windows, &mut sum);
                sum.digest()
            });
        }
        self.saves();
        for Form { name, run, .. } in alone(E::marks()) {
            self.add_making("mark", name, move || run(disk, &scenario.writes));
        }
    }

    fn unions(&mut self) {
        for Form { name, run, .. } in alone(E::unions(2)) {
            let (a, b) = (self.a.clone(), self.b.clone());
            match run {
                Union::InPlace(add) => {
                    self.add_changing("union_in_place", name, a.clone(), move |sum| add(sum, &b));
                    // We have one form of each job: this is not ours.
                    if E::NAME == OURS {
                        continue;
                    }
                    let b = self.b.clone();
                    self.add_making("union_new", name, move || {
                        let mut sum = E::Bitmap::clone(&a);
                        add(&mut sum, &b);
                        sum
                    });
                }
                Union::New(unite) => {
                    let (one, other) = (a.clone(), b.clone());
                    self.add_making("union_in_place", name, move || unite(&[&one, &other]));
                    self.add_making("union_new", name, move || unite(&[&a, &b]));
                }
            }
        }
        if !(self.wanted)("union_8") || self.scenario.inputs.len() < 8 {
            return;
        }
        let inputs: Rc<Vec<E::Bitmap>> =
            Rc::new(self.scenario.inputs[..8].iter().map(|input| E::build(input, self.disk)).collect());
        for Form { name, run, .. } in alone(E::unions(8)) {
            let inputs = inputs.clone();
            self.add_making("union_8", name, move || match run {
                Union::New(unite) => unite(&inputs.iter().collect::<Vec<_>>()),
                Union::InPlace(add) => {
                    let mut sum = inputs[0].clone();
                    inputs[1..].iter().for_each(|other| add(&mut sum, other));
                    sum
                }
            });
        }
    }

    /// To bytes in the engine's best format, and from them with a count in one window.
    fn saves(&mut self) {
        let (disk, window) = (self.disk, self.scenario.windows[0]);
        for Form { name, run, .. } in alone(E::saves()) {
            let ours = self.both.clone();
            let open = E::opens().into_iter().find(|open| open.run.saved_by == name).expect("every save has an open");
            self.add("serialize", name, move |runs| {
                timed(
                    runs,
                    || (),
                    |()| run(&ours),
                    |saved| E::tally_opened(&(open.run.open)(saved.bytes(), disk), disk).digest(),
                )
            });
        }
        if !(self.wanted)("open_query") {
            return;
        }
        for Form { name, run, .. } in alone(E::opens()) {
            let save = E::saves().into_iter().find(|save| save.name == run.saved_by).expect("every open has a save");
            let saved = (save.run)(&self.both);
            self.add("open_query", name, move |runs| {
                let open = |()| {
                    let opened = (run.open)(saved.bytes(), disk);
                    (E::count_opened(&opened, disk, window), opened)
                };
                timed(runs, || (), open, |(found, opened)| digest([*found, E::tally_opened(opened, disk).digest()]))
            });
        }
    }
}

impl<'a, E: Questions<Bitmap: 'a> + 'a> Stable<'a, E> {
    /// Plain bits, and single granules.
    pub fn questions(&mut self) {
        let (disk, scenario) = (self.disk, self.scenario);
        if (self.wanted)("from_bits") && E::from_bits(&[], disk).is_some() {
            let bits = bits_of(&scenario.inputs[0], disk);
            self.add_making("from_bits", "bits", move || E::from_bits(&bits, disk).expect("it made one before"));
        }
        if (self.wanted)("to_bits") && E::to_bits(&self.a, disk).is_some() {
            let ours = self.a.clone();
            self.add_asking("to_bits", "bits", move || E::to_bits(&ours, disk).unwrap_or(0));
        }
        let places = || scenario.ranges.iter().map(|range| range.first).take(QUESTIONS);
        let ours = self.a.clone();
        let ask = move || digest(places().map(|at| E::next_dirty(&ours, disk, at).unwrap_or(u64::MAX)));
        self.add_asking("next_dirty", "next", ask);
        let ours = self.a.clone();
        let ask = move || digest(places().map(|at| E::next_clean(&ours, disk, at).unwrap_or(u64::MAX)));
        self.add_asking("next_clean", "next", ask);
        let ours = self.a.clone();
        self.add_asking("get", "get", move || digest(places().map(|at| u64::from(E::get(&ours, disk, at)))));
    }
}

impl<'a, E: Operations<Bitmap: 'a> + 'a> Stable<'a, E> {
    pub fn sets(&mut self) {
        let disk = self.disk;
        for operation in SetOperation::ALL {
            let name = operation.name();
            // That of the union is among the forms of `unions`.
            if operation != SetOperation::Union {
                let theirs = self.b.clone();
                let change = move |ours: &mut E::Bitmap| E::change(operation, ours, &theirs);
                self.add_changing(&format!("{name}_in_place"), "in place", self.a.clone(), change);
            }
            let (ours, theirs) = (self.a.clone(), self.b.clone());
            self.add_making(&format!("{name}_new"), "new", move || E::make(operation, &ours, &theirs));
        }
        let (ours, theirs) = (self.a.clone(), self.both.clone());
        self.add_asking("is_subset", "is_subset", move || u64::from(E::is_subset(&ours, &theirs)));
        let (ours, theirs) = (self.a.clone(), E::Bitmap::clone(&self.a));
        self.add_asking("is_equal", "is_equal", move || u64::from(E::is_equal(&ours, &theirs)));
        self.add_changing("optimize", "optimize", self.both.clone(), E::optimize);
        let ours = self.a.clone();
        self.add("write", "portable", move |runs| {
            timed(runs, || (), |()| E::write(&ours), |bytes| look_at::<E>(&E::read(bytes, disk), disk))
        });
        let bytes = E::write(&self.a);
        self.add_making("read", "portable", move || E::read(&bytes, disk));
    }
}

/// The forms on the caller's thread.
fn alone<F>(forms: Vec<Form<F>>) -> impl Iterator<Item = Form<F>> {
    forms.into_iter().filter(|form| form.threads == 1)
}

fn bits_of(input: &Input, disk: &Disk) -> Vec<u8> {
    let mut words = vec![0; (disk.granules().next_multiple_of(1 << 16) / 64) as usize];
    input.write_words(&mut words);
    let mut bits: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bits.truncate(disk.granules().div_ceil(8) as usize);
    bits
}
