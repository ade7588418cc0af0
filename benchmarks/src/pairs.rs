#![forbid(unsafe_code)]
//! Owns the measurement in interleaved pairs: checkmap beside the best peer of each cell, in turns, so that what else the
//! machine does falls on both; and checkmap on threads beside itself on one. Knows no other engine.

use crate::engine::Engine;
use crate::engines::{Checkmap, ON_THREADS};
use crate::matrix::Row;
use crate::measure::median;
use crate::operations::{Job, Operations, Questions, Stable};
use crate::patterns::Scenario;
use std::time::Duration;

/// A measurement shorter than this is repeated within the same look at the clock.
const SHORT: Duration = Duration::from_micros(20);

/// A form is tried again only if its first run took at most this many times that of the best, and these nanoseconds more.
const CLOSE: f64 = 1.6;
const CLOSE_ENOUGH: f64 = 20e3;

/// How often the candidates for the best peer are tried, unless that takes longer than this.
const TRIALS: f64 = 5.0;
const TRIAL_NANOS: f64 = 2e8;

/// The pairs with an engine that is not compressed, and the time for them.
const ASIDE_PAIRS: usize = 7;
const ASIDE_NANOS: f64 = 1e9;

/// All that can take part: ours, the peers that decide, and those that get a column of their own.
pub struct Field<'a> {
    jobs: Vec<Job<'a>>,
    asides: Vec<Job<'a>>,
    scenario: &'a Scenario,
    wanted: &'a dyn Fn(&str) -> bool,
}

impl<'a> Field<'a> {
    pub fn new(scenario: &'a Scenario, wanted: &'a dyn Fn(&str) -> bool) -> Self {
        Self { jobs: Vec::new(), asides: Vec::new(), scenario, wanted }
    }

    /// The first one to enter is ours.
    pub fn enter<E: Operations<Bitmap: 'a> + 'a>(&mut self) {
        if let Some(mut stable) = Stable::<E>::new(self.scenario, self.wanted) {
            stable.basics();
            stable.questions();
            stable.sets();
            self.jobs.append(&mut stable.jobs);
        }
    }

    /// An engine that is not compressed.
    pub fn enter_aside<E: Engine<Bitmap: 'a> + 'a>(&mut self) {
        if let Some(mut stable) = Stable::<E>::new(self.scenario, self.wanted) {
            stable.basics();
            self.asides.append(&mut stable.jobs);
        }
    }

    /// One that also answers for single granules.
    pub fn enter_aside_with_questions<E: Questions<Bitmap: 'a> + 'a>(&mut self) {
        if let Some(mut stable) = Stable::<E>::new(self.scenario, self.wanted) {
            stable.basics();
            stable.questions();
            self.asides.append(&mut stable.jobs);
        }
    }

    /// Measures every operation of ours in `pairs` pairs, after a trial of every form of every peer.
    pub fn measure(&self, pairs: usize, mut take: impl FnMut(Row)) {
        let Some(ours) = self.jobs.first().map(|job| job.engine) else { return };
        let mut done: Vec<&str> = Vec::new();
        for job in self.jobs.iter().filter(|job| job.engine == ours) {
            let operation = job.operation.as_str();
            if done.contains(&operation) {
                continue;
            }
            done.push(operation);
            let (mine, peers): (Vec<&Job<'_>>, Vec<&Job<'_>>) =
                self.jobs.iter().filter(|job| job.operation == operation).partition(|job| job.engine == ours);
            let asides: Vec<&Job<'_>> = self.asides.iter().filter(|job| job.operation == operation).collect();
            if let Some(row) = self.row(operation, &mine, &peers, &asides, pairs) {
                take(row);
            }
        }
    }

    fn row(
        &self,
        operation: &str,
        mine: &[&Job<'_>],
        peers: &[&Job<'_>],
        asides: &[&Job<'_>],
        pairs: usize,
    ) -> Option<Row> {
        let (job, first) = best(mine, None)?;
        let (peer, found) = best(peers, Some(first.digest))?;
        let Paired { ratio, low, high, nanos, other_nanos } = paired(job, peer, pairs);
        let aside = |name: &str| {
            let forms: Vec<&Job<'_>> = asides.iter().copied().filter(|job| job.engine == name).collect();
            let (aside, found) = best(&forms, Some(first.digest))?;
            let pairs = (ASIDE_NANOS / (found.nanos + nanos)).clamp(1.0, ASIDE_PAIRS as f64) as usize;
            Some(paired(job, aside, pairs).ratio)
        };
        Some(Row {
            pattern: self.scenario.pattern.letter(),
            granules_log2: self.scenario.disk.granules_log2,
            operation: operation.to_owned(),
            ratio,
            low,
            high,
            nanos,
            peer_nanos: other_nanos,
            peer: peer.engine.to_owned(),
            form: peer.form.to_owned(),
            heap: first.heap,
            peer_heap: found.heap,
            hbitmap: aside("hbitmap-model"),
            flat: aside("flat"),
        })
    }
}

/// What the forms of one operation came to: the answer, the least memory, and the nanoseconds of the best.
struct Found {
    digest: u64,
    heap: u64,
    nanos: f64,
}

/// The best of some forms. An answer that is not `right`, or not that of the first one, ends the run.
fn best<'j, 'a>(jobs: &[&'j Job<'a>], right: Option<u64>) -> Option<(&'j Job<'a>, Found)> {
    let mut found = Found { digest: 0, heap: u64::MAX, nanos: f64::INFINITY };
    let mut trials = Vec::new();
    let mut right = right;
    for job in jobs {
        let outcome = (job.run)((1, true));
        let expected = *right.get_or_insert(outcome.digest);
        if outcome.digest != expected {
            eprintln!("{} of {} ({}): another answer than the first one's", job.operation, job.engine, job.form);
            std::process::exit(1);
        }
        found.digest = expected;
        found.heap = found.heap.min(outcome.heap);
        trials.push(outcome.nanos);
    }
    let least = trials.iter().copied().fold(f64::INFINITY, f64::min);
    let mut best: Option<&'j Job<'a>> = None;
    for (&job, &trial) in jobs.iter().zip(&trials) {
        if trial > CLOSE * least + CLOSE_ENOUGH {
            continue;
        }
        let mut nanos = trial;
        if jobs.len() > 1 {
            let trials = (TRIAL_NANOS / trial).clamp(1.0, TRIALS) as usize;
            let mut times: Vec<f64> = (0..trials).map(|_| (job.run)((batch(trial), false)).nanos).collect();
            nanos = median(&mut times);
        }
        if nanos < found.nanos {
            (best, found.nanos) = (Some(job), nanos);
        }
    }
    Some((best?, found))
}

struct Paired {
    /// The other's time by ours: the median, and the ends of its interval of 95 %.
    ratio: f64,
    low: f64,
    high: f64,
    nanos: f64,
    other_nanos: f64,
}

fn paired(job: &Job<'_>, other: &Job<'_>, pairs: usize) -> Paired {
    let batch_of = |job: &Job<'_>| batch((job.run)((1, false)).nanos);
    let (our_batch, other_batch) = (batch_of(job), batch_of(other));
    let mut measured: Vec<[f64; 2]> = Vec::with_capacity(pairs);
    for pair in 0..pairs {
        let (mut mine, mut theirs) = (0.0, 0.0);
        for turn in [pair % 2, 1 - pair % 2] {
            match turn {
                0 => mine = (job.run)((our_batch, false)).nanos,
                _ => theirs = (other.run)((other_batch, false)).nanos,
            }
        }
        measured.push([mine, theirs]);
    }
    let mut ratios: Vec<f64> = measured.iter().map(|[ours, other]| other / ours).collect();
    let ratio = median(&mut ratios);
    // The interval of a median by order statistics: half the number, less and more about its square root.
    let reach = 0.98 * (pairs as f64).sqrt();
    let place = |at: f64| ratios[(at.max(0.0) as usize).min(pairs - 1)];
    let (low, high) = (place(pairs as f64 / 2.0 - reach), place(pairs as f64 / 2.0 + reach));
    let mut mine: Vec<f64> = measured.iter().map(|pair| pair[0]).collect();
    let mut others: Vec<f64> = measured.iter().map(|pair| pair[1]).collect();
    Paired { ratio, low, high, nanos: median(&mut mine), other_nanos: median(&mut others) }
}

/// One cell of a comparison of threads: how many times as fast `threads` are as one, and what one takes.
pub struct Threaded {
    pub operation: &'static str,
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
    pub nanos: f64,
}

/// Our operations on `threads` threads beside one, in pairs.
pub fn on_threads(scenario: &Scenario, threads: usize, pairs: usize, mut take: impl FnMut(Threaded)) {
    let bitmaps: Vec<_> = scenario.inputs.iter().map(|input| Checkmap::build(input, &scenario.disk)).collect();
    for (operation, count, run) in ON_THREADS {
        let Some(inputs) = bitmaps.get(..count) else { continue };
        let inputs: Vec<_> = inputs.iter().collect();
        let job = |threads: usize| {
            let inputs = &inputs;
            let run = move |runs| Stable::<Checkmap>::making(runs, &scenario.disk, || run(inputs, threads));
            Job { operation: operation.to_owned(), engine: Checkmap::NAME, form: "threads", run: Box::new(run) }
        };
        let (many, one) = (job(threads), job(1));
        let [found, right] = [&many, &one].map(|job| (job.run)((1, true)).digest);
        if found != right {
            eprintln!("{operation}: {threads} threads give another answer than one");
            std::process::exit(1);
        }
        let Paired { ratio, low, high, other_nanos: nanos, .. } = paired(&many, &one, pairs);
        take(Threaded { operation, ratio, low, high, nanos });
    }
}

/// How many runs of this many nanoseconds are long enough for the clock.
fn batch(nanos: f64) -> usize {
    (SHORT.as_nanos() as f64 / nanos.max(1.0)).clamp(1.0, 256.0) as usize
}
