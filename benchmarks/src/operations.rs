#![forbid(unsafe_code)]
//! Owns the operations that are measured in interleaved pairs, and their measurement: checkmap beside the best peer of each
//! cell, in turns, so that what else the machine does falls on both. Knows no engine.

use crate::engine::Engine;
use crate::input::{Input, Tally, digest};
use crate::measure::{heap_bytes, median};
use crate::patterns::{Disk, Pattern, Scenario};
use std::hint::black_box;
use std::rc::Rc;
use std::time::{Duration, Instant};

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

/// An engine that has them all; what one of them lacks is `None`.
pub trait Operations: Engine<Bitmap: 'static> + 'static {
    fn change(operation: SetOperation, ours: &mut Self::Bitmap, theirs: &Self::Bitmap);
    fn make(operation: SetOperation, ours: &Self::Bitmap, theirs: &Self::Bitmap) -> Self::Bitmap;
    fn is_subset(ours: &Self::Bitmap, theirs: &Self::Bitmap) -> bool;
    fn is_equal(ours: &Self::Bitmap, theirs: &Self::Bitmap) -> bool;
    /// Has every container in its smallest form.
    fn optimize(bitmap: &mut Self::Bitmap);
    /// Portable Roaring, of the engine's own width.
    fn write(bitmap: &Self::Bitmap) -> Vec<u8>;
    fn read(bytes: &[u8], disk: &Disk) -> Self::Bitmap;
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

/// The digest of words that [`Operations::to_bits`] answers with.
pub fn digest_of_words(words: impl ExactSizeIterator<Item = u64>) -> u64 {
    digest(words.step_by(1021))
}

/// How often a question is asked in one measurement.
const QUESTIONS: usize = 1000;

/// A measurement shorter than this is repeated within the same look at the clock.
const SHORT: Duration = Duration::from_micros(20);

/// What one measurement came to.
struct Outcome {
    nanos: f64,
    digest: u64,
    heap: u64,
}

/// One operation of one engine: runs it as often as it is told; tells digest and memory where these are wanted.
struct Job {
    operation: String,
    engine: &'static str,
    run: Box<dyn Fn(usize, bool) -> Outcome>,
}

fn job<S: 'static, R: 'static>(
    operation: impl Into<String>,
    engine: &'static str,
    prepare: impl Fn() -> S + 'static,
    run: impl Fn(S) -> R + 'static,
    look: impl Fn(&R) -> u64 + 'static,
) -> Job {
    let run = move |times: usize, is_looked_at: bool| {
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
    };
    Job { operation: operation.into(), engine, run: Box::new(run) }
}

/// The jobs of one engine.
fn jobs<E: Operations>(scenario: &Scenario, wanted: &dyn Fn(&str) -> bool) -> Vec<Job> {
    let disk = scenario.disk;
    let [first, second, ..] = &scenario.inputs[..] else { return Vec::new() };
    if E::refuses(first).or(E::refuses(second)).is_some() {
        return Vec::new();
    }
    let (a, b) = (Rc::new(E::build(first, &disk)), Rc::new(E::build(second, &disk)));
    let look = move |bitmap: &E::Bitmap| {
        let mut tally = Tally::default();
        (E::extents()[0].run)(bitmap, &disk, &mut tally);
        digest([E::cardinality(bitmap), tally.digest()])
    };
    let mut jobs = Vec::new();
    let mut add = |job: Job| {
        if wanted(&job.operation) {
            jobs.push(job);
        }
    };
    for operation in SetOperation::ALL {
        let (ours, theirs) = (a.clone(), b.clone());
        let change = move |mut bitmap: E::Bitmap| {
            E::change(operation, &mut bitmap, &theirs);
            bitmap
        };
        add(job(format!("{}_in_place", operation.name()), E::NAME, move || E::Bitmap::clone(&ours), change, look));
        let (ours, theirs) = (a.clone(), b.clone());
        let make = move |()| E::make(operation, &ours, &theirs);
        add(job(format!("{}_new", operation.name()), E::NAME, || (), make, look));
    }
    let both = Rc::new(E::make(SetOperation::Union, &a, &b));
    let (ours, theirs) = (a.clone(), both.clone());
    add(job("is_subset", E::NAME, || (), move |()| E::is_subset(&ours, &theirs), |&is| u64::from(is)));
    let (ours, theirs) = (a.clone(), E::Bitmap::clone(&a));
    add(job("is_equal", E::NAME, || (), move |()| E::is_equal(&ours, &theirs), |&is| u64::from(is)));
    let ours = a.clone();
    add(job("clone", E::NAME, || (), move |()| E::Bitmap::clone(&ours), look));
    let ours = both.clone();
    let optimize = |mut bitmap: E::Bitmap| {
        E::optimize(&mut bitmap);
        bitmap
    };
    add(job("optimize", E::NAME, move || E::Bitmap::clone(&ours), optimize, look));
    let ours = a.clone();
    let read_back = move |bytes: &Vec<u8>| look(&E::read(bytes, &disk));
    add(job("write", E::NAME, || (), move |()| E::write(&ours), read_back));
    let bytes = Rc::new(E::write(&a));
    add(job("read", E::NAME, || (), move |()| E::read(&bytes, &disk), look));
    let bits = Rc::new(bits_of(first, &disk));
    if wanted("from_bits") && E::from_bits(&[], &disk).is_some() {
        let make = move |()| E::from_bits(&bits, &disk).expect("it made one before");
        add(job("from_bits", E::NAME, || (), make, look));
    }
    if wanted("to_bits") && E::to_bits(&a, &disk).is_some() {
        let ours = a.clone();
        add(job("to_bits", E::NAME, || (), move |()| E::to_bits(&ours, &disk), |found| found.unwrap_or(0)));
    }
    let ours = a.clone();
    add(job("count", E::NAME, || (), move |()| E::cardinality(&ours), |&count| count));
    let places: Rc<Vec<u64>> = Rc::new(scenario.ranges.iter().map(|range| range.first).take(QUESTIONS).collect());
    let (ours, at) = (a.clone(), places.clone());
    let dirty = move |()| digest(at.iter().map(|&at| E::next_dirty(&ours, &disk, at).unwrap_or(u64::MAX)));
    add(job("next_dirty", E::NAME, || (), dirty, |&sum| sum));
    let (ours, at) = (a.clone(), places.clone());
    let clean = move |()| digest(at.iter().map(|&at| E::next_clean(&ours, &disk, at).unwrap_or(u64::MAX)));
    add(job("next_clean", E::NAME, || (), clean, |&sum| sum));
    let (ours, at) = (a, places);
    let get = move |()| digest(at.iter().map(|&at| u64::from(E::get(&ours, &disk, at))));
    add(job("get", E::NAME, || (), get, |&sum| sum));
    jobs
}

fn bits_of(input: &Input, disk: &Disk) -> Vec<u8> {
    let mut words = vec![0; (disk.granules().next_multiple_of(1 << 16) / 64) as usize];
    input.write_words(&mut words);
    let mut bits: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bits.truncate(disk.granules().div_ceil(8) as usize);
    bits
}

/// checkmap beside the best peer in one cell.
pub struct Pairing {
    pub pattern: Pattern,
    pub granules_log2: u32,
    pub operation: String,
    /// The peer's time by ours, in pairs: the median, and the ends of its interval of 95 %.
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
    pub nanos: f64,
    pub peer_nanos: f64,
    pub peer: &'static str,
    pub heap: u64,
    /// The least heap of any peer.
    pub peer_heap: u64,
}

/// All that can take part; the first one is ours.
pub struct Field<'a> {
    jobs: Vec<Job>,
    scenario: &'a Scenario,
}

impl<'a> Field<'a> {
    pub fn new(scenario: &'a Scenario) -> Self {
        Self { jobs: Vec::new(), scenario }
    }

    pub fn enter<E: Operations>(&mut self, wanted: &dyn Fn(&str) -> bool) {
        self.jobs.extend(jobs::<E>(self.scenario, wanted));
    }

    /// Measures every operation of the first engine in `pairs` pairs, after a trial of every peer.
    pub fn measure(&self, pairs: usize, mut take: impl FnMut(Pairing)) {
        let Some(ours) = self.jobs.first().map(|job| job.engine) else { return };
        for job in self.jobs.iter().filter(|job| job.engine == ours) {
            let peers = self.jobs.iter().filter(|peer| peer.engine != ours && peer.operation == job.operation);
            let peers: Vec<&Job> = peers.collect();
            if let Some(pairing) = self.pair(job, &peers, pairs) {
                take(pairing);
            }
        }
    }

    fn pair(&self, job: &Job, peers: &[&Job], pairs: usize) -> Option<Pairing> {
        let first = (job.run)(1, true);
        let mut best: Option<(f64, &Job)> = None;
        let mut peer_heap = u64::MAX;
        for &peer in peers {
            let outcome = (peer.run)(1, true);
            if outcome.digest != first.digest {
                eprintln!("{} of {}: another answer than {}'s", job.operation, peer.engine, job.engine);
                std::process::exit(1);
            }
            peer_heap = peer_heap.min(outcome.heap);
            let mut times: Vec<f64> = (0..5).map(|_| (peer.run)(batch(outcome.nanos), false).nanos).collect();
            let time = median(&mut times);
            if best.is_none_or(|(least, _)| time < least) {
                best = Some((time, peer));
            }
        }
        let (_, peer) = best?;
        let (our_batch, peer_batch) = (batch((job.run)(1, false).nanos), batch((peer.run)(1, false).nanos));
        let mut measured: Vec<[f64; 2]> = Vec::with_capacity(pairs);
        for pair in 0..pairs {
            let (mut mine, mut other) = (0.0, 0.0);
            for turn in [pair % 2, 1 - pair % 2] {
                match turn {
                    0 => mine = (job.run)(our_batch, false).nanos,
                    _ => other = (peer.run)(peer_batch, false).nanos,
                }
            }
            measured.push([mine, other]);
        }
        let mut ratios: Vec<f64> = measured.iter().map(|[ours, peer]| peer / ours).collect();
        let ratio = median(&mut ratios);
        // The interval of a median by order statistics: half the number, less and more about its square root.
        let reach = 0.98 * (pairs as f64).sqrt();
        let place = |at: f64| ratios[(at.max(0.0) as usize).min(pairs - 1)];
        let (low, high) = (place(pairs as f64 / 2.0 - reach), place(pairs as f64 / 2.0 + reach));
        let mut mine: Vec<f64> = measured.iter().map(|pair| pair[0]).collect();
        let mut others: Vec<f64> = measured.iter().map(|pair| pair[1]).collect();
        Some(Pairing {
            pattern: self.scenario.pattern,
            granules_log2: self.scenario.disk.granules_log2,
            operation: job.operation.clone(),
            ratio,
            low,
            high,
            nanos: median(&mut mine),
            peer_nanos: median(&mut others),
            peer: peer.engine,
            heap: first.heap,
            peer_heap,
        })
    }
}

/// How many runs of this many nanoseconds are long enough for the clock.
fn batch(nanos: f64) -> usize {
    (SHORT.as_nanos() as f64 / nanos.max(1.0)).clamp(1.0, 256.0) as usize
}
