#![forbid(unsafe_code)]
//! Owns the course of one engine through one scenario: which of its forms are measured, how, and that its answers are
//! right. Knows no engine.

use crate::engine::{Engine, Form, Saved, Union};
use crate::input::{Span, Tally, digest};
use crate::measure::{Effort, heap_bytes, median, once, sample};
use crate::patterns::{Disk, Scenario};
use crate::report::{Book, Cell, Operation};
use std::cell::Cell as Shared;
use std::collections::BTreeMap;
use std::time::Duration;

/// The measurements of each scenario.
pub struct Settings {
    pub effort: Effort,
    pub operations: Vec<Operation>,
    pub ks: Vec<usize>,
}

/// The bytes that 64 inputs may take.
const MANY_BYTES: u64 = 4 << 30;

/// A form is measured only if its trial took at most this many times that of the best, and this much more.
const CLOSE: f64 = 1.3;
const CLOSE_ENOUGH: Duration = Duration::from_micros(2);

/// A trial that is shorter is run twice, and the quicker one counts.
const TRIED_AGAIN: Duration = Duration::from_millis(20);

/// A trial of ranges, windows or writes is this part of all.
const TRIAL: usize = 16;

/// Takes one engine through a scenario: in memory are its bitmaps only, beside the inputs that all share.
pub fn run<E: Engine>(scenario: &Scenario, settings: &Settings, book: &mut Book) {
    let mut course = Course::<E> { scenario, settings, book, bitmaps: Vec::new() };
    for k in course.admitted() {
        course.load(k);
        course.unite(k);
    }
    course.bitmaps.clear();
    if settings.ks.contains(&2) {
        match E::refuses(&scenario.asked) {
            Some(reason) => course.leave_out(2, "the questions", &reason),
            None => course.ask(),
        }
        course.mark();
    }
}

/// A form under measure.
struct Entrant<'a> {
    name: &'static str,
    threads: usize,
    /// Runs it once, or a part of it, which warms it up.
    trial: Box<dyn Fn() -> Duration + 'a>,
    /// Runs it as often as the effort says; gets the time of the trial.
    measure: Box<dyn Fn(Duration) -> Vec<f64> + 'a>,
    /// Checks the answer, where measuring does not.
    verify: Box<dyn Fn() + 'a>,
}

/// The answer of a cell, once it is known: from the inputs, or else from the first engine that gave one; and the bytes of
/// the bitmap in question.
struct Answer {
    cell: Cell,
    engine: &'static str,
    right: Shared<Option<u64>>,
    heap: Shared<u64>,
}

impl Answer {
    /// Ends the run if the answer is wrong: nothing that was measured would mean anything.
    fn check(&self, form: &str, found: u64) {
        let right = self.right.get().unwrap_or(found);
        if found != right {
            let Self { cell, engine, .. } = self;
            eprintln!("{cell}: {engine} ({form}) answers {found:#x}, not {right:#x} as the inputs or the others do");
            std::process::exit(1);
        }
        self.right.set(Some(right));
    }

    /// Frees a result and notes its size.
    fn weigh<T>(&self, result: T) {
        self.heap.set(heap_bytes(result));
    }
}

struct Course<'a, E: Engine> {
    scenario: &'a Scenario,
    settings: &'a Settings,
    book: &'a mut Book,
    bitmaps: Vec<E::Bitmap>,
}

impl<E: Engine> Course<'_, E> {
    fn leave_out(&mut self, k: usize, what: &str, reason: &str) {
        let Scenario { pattern, disk, .. } = self.scenario;
        let place = format!("{} 2^{} k={k} {what}", pattern.letter(), disk.granules_log2);
        self.book.leave_out(format!("{place}: {}: {reason}", E::NAME));
    }

    /// The numbers of inputs that this engine can take.
    fn admitted(&mut self) -> Vec<usize> {
        let (scenario, settings) = (self.scenario, self.settings);
        if !settings.operations.contains(&Operation::Union) {
            return Vec::new();
        }
        let mut admitted = Vec::new();
        for k in settings.ks.iter().copied().filter(|&k| k <= scenario.inputs.len()) {
            let bytes = self.input_bytes(k);
            if k >= 64 && bytes > MANY_BYTES {
                let reason = format!("{k} inputs take {:.1} GiB, above 4", bytes as f64 / (1_u64 << 30) as f64);
                self.leave_out(k, "union", &reason);
            } else if let Some(reason) = scenario.inputs[..k].iter().find_map(E::refuses) {
                self.leave_out(k, "union", &reason);
            } else {
                admitted.push(k);
            }
        }
        admitted
    }

    /// About what this engine holds of the first `k` inputs.
    fn input_bytes(&self, k: usize) -> u64 {
        let granules = self.scenario.disk.granules();
        self.scenario.inputs[..k].iter().map(|input| input.bytes(E::SHAPE, granules)).sum()
    }

    fn load(&mut self, k: usize) {
        for input in &self.scenario.inputs[self.bitmaps.len()..k] {
            self.bitmaps.push(E::build(input, &self.scenario.disk));
        }
    }

    /// Where a cell's answer comes together, unless the cell is not wanted.
    fn answer(&self, k: usize, operation: Operation, known: Option<u64>) -> Option<Answer> {
        let Scenario { pattern, disk, .. } = *self.scenario;
        let cell = Cell { pattern, granules_log2: disk.granules_log2, k, operation, threads: 1 };
        let right = Shared::new(known.or_else(|| self.book.answer(cell)));
        let wanted = self.settings.operations.contains(&operation);
        wanted.then(|| Answer { cell, engine: E::NAME, right, heap: Shared::new(0) })
    }

    /// Tries every form once, measures those that may be the best for their number of threads, and verifies the best.
    fn race(&mut self, answer: &Answer, entrants: &[Entrant<'_>]) {
        let mut trials: Vec<Duration> = entrants.iter().map(|entrant| (entrant.trial)()).collect();
        // The first one has paid for fresh memory that the others found ready.
        for (trial, entrant) in trials.iter_mut().zip(entrants).filter(|(trial, _)| **trial < TRIED_AGAIN) {
            *trial = (entrant.trial)().min(*trial);
        }
        let mut winners: BTreeMap<usize, (f64, &Entrant<'_>)> = BTreeMap::new();
        for (entrant, &trial) in entrants.iter().zip(&trials) {
            let rivals = entrants.iter().zip(&trials).filter(|(rival, _)| rival.threads == entrant.threads);
            let best = rivals.map(|(_, trial)| *trial).min().unwrap_or_default();
            if trial > best.mul_f64(CLOSE) + CLOSE_ENOUGH {
                continue;
            }
            let mut times = (entrant.measure)(trial);
            let cell = Cell { threads: entrant.threads, ..answer.cell };
            self.book.add(cell, E::NAME, entrant.name, &times, answer.heap.get());
            let time = median(&mut times);
            let winner = winners.entry(entrant.threads).or_insert((time, entrant));
            if time < winner.0 {
                *winner = (time, entrant);
            }
        }
        winners.values().for_each(|(_, winner)| (winner.verify)());
        if let Some(right) = answer.right.get() {
            self.book.set_answer(answer.cell, right);
        }
    }

    fn unite(&mut self, k: usize) {
        let disk = self.scenario.disk;
        let expected = self.book.union_digest(self.scenario, k);
        let Some(answer) = self.answer(k, Operation::Union, Some(expected)) else { return };
        let bitmaps = std::mem::take(&mut self.bitmaps);
        let inputs: Vec<&E::Bitmap> = bitmaps[..k].iter().collect();
        let forms = E::unions(k);
        let entrants = forms.iter().map(|form| {
            let (answer, inputs, effort) = (&answer, &inputs, self.settings.effort);
            let prepare = move || match form.run {
                Union::InPlace(_) if k == 2 => Some(inputs[0].clone()),
                _ => None,
            };
            let unite = move |prepared| unite::<E>(&form.run, prepared, inputs);
            Entrant {
                name: form.name,
                threads: form.threads,
                trial: Box::new(move || {
                    let prepared = prepare();
                    once(|| unite(prepared)).0
                }),
                measure: Box::new(move |trial| sample(effort, trial, prepare, unite, |sum| answer.weigh(sum))),
                verify: Box::new(move || answer.check(form.name, digest_of::<E>(&unite(prepare()), &disk))),
            }
        });
        let entrants: Vec<Entrant<'_>> = entrants.collect();
        self.book.set_input_bytes(answer.cell, E::NAME, self.input_bytes(k));
        self.race(&answer, &entrants);
        drop(entrants);
        self.bitmaps = bitmaps;
    }

    /// Everything that is asked of one bitmap, the union of the first two inputs.
    fn ask(&mut self) {
        let Scenario { asked, disk, ranges, windows, .. } = self.scenario;
        let heap = heap_bytes(E::build(asked, disk));
        let bitmap = &E::build(asked, disk);
        let known = asked.tally().digest();
        let mut tally = |operation, known, questions: Vec<Question<'_>>| {
            if let Some(answer) = self.answer(2, operation, known) {
                answer.heap.set(heap);
                let effort = self.settings.effort;
                let entrants = questions.into_iter().map(|question| question.entrant(&answer, effort));
                self.race(&answer, &entrants.collect::<Vec<_>>());
            }
        };
        let (counts, extents, walks) = (E::counts(), E::extents(), E::windows());
        let counts =
            counts.iter().map(|form| Question::of_spans(form, ranges, |spans| (form.run)(bitmap, disk, spans)));
        tally(Operation::CountRanges, None, counts.collect());
        let extents = extents.iter().map(|form| Question::new(form, |sum| (form.run)(bitmap, disk, sum)));
        tally(Operation::ExtentsAll, Some(known), extents.collect());
        let walks = walks.iter().map(|form| {
            Question::of_spans(form, windows, |spans| {
                let mut sum = Tally::default();
                (form.run)(bitmap, disk, spans, &mut sum);
                sum.digest()
            })
        });
        tally(Operation::ExtentsWindows, None, walks.collect());
        self.serialize(bitmap, heap, known);
        self.open(bitmap, known);
    }

    fn serialize(&mut self, bitmap: &E::Bitmap, heap: u64, known: u64) {
        let Some(answer) = self.answer(2, Operation::Serialize, Some(known)) else { return };
        answer.heap.set(heap);
        let (forms, opens) = (E::saves(), E::opens());
        let entrants = forms.iter().map(|form| {
            let (answer, effort, disk) = (&answer, self.settings.effort, &self.scenario.disk);
            let open = opens.iter().find(|open| open.run.saved_by == form.name);
            Entrant {
                name: form.name,
                threads: form.threads,
                trial: Box::new(move || once(|| (form.run)(bitmap)).0),
                measure: Box::new(move |trial| sample(effort, trial, || (), |()| (form.run)(bitmap), drop)),
                verify: Box::new(move || {
                    let saved = (form.run)(bitmap);
                    let opened = open.map(|open| (open.run.open)(saved.bytes(), disk));
                    let found = opened.map(|opened| E::tally_opened(&opened, disk).digest());
                    answer.check(form.name, found.expect("every save has an open"));
                }),
            }
        });
        let entrants: Vec<Entrant<'_>> = entrants.collect();
        self.race(&answer, &entrants);
    }

    /// Opens the segment written before, in memory, and counts in one window.
    fn open(&mut self, bitmap: &E::Bitmap, known: u64) {
        let Some(answer) = self.answer(2, Operation::OpenQuery, None) else { return };
        let window = self.scenario.windows[0];
        let (forms, saves) = (E::opens(), E::saves());
        let saved: Vec<Saved> = saves.iter().map(|save| (save.run)(bitmap)).collect();
        let entrants = forms.iter().filter_map(|form| {
            let (answer, effort, disk) = (&answer, self.settings.effort, &self.scenario.disk);
            let bytes = saved[saves.iter().position(|save| save.name == form.run.saved_by)?].bytes();
            let open = move || {
                let opened = (form.run.open)(bytes, disk);
                (E::count_opened(&opened, disk, window), opened)
            };
            let check = move |(found, opened)| {
                answer.check(form.name, found);
                answer.weigh::<E::Opened<'_>>(opened);
            };
            let verify = move || {
                let whole = E::tally_opened(&open().1, disk).digest();
                let answer = Answer { right: Shared::new(Some(known)), heap: Shared::new(0), ..*answer };
                answer.check(form.name, whole);
            };
            Some(Entrant {
                name: form.name,
                threads: form.threads,
                trial: Box::new(move || once(open).0),
                measure: Box::new(move |trial| sample(effort, trial, || (), |()| open(), check)),
                verify: Box::new(verify),
            })
        });
        let entrants: Vec<Entrant<'_>> = entrants.collect();
        self.race(&answer, &entrants);
    }

    fn mark(&mut self) {
        let Some(answer) = self.answer(2, Operation::Mark, None) else { return };
        let forms = E::marks();
        let entrants = forms.iter().map(|form| {
            let (answer, effort) = (&answer, self.settings.effort);
            let Scenario { disk, writes, .. } = self.scenario;
            let (part, mark) = (&writes[..writes.len() / TRIAL], move || (form.run)(disk, writes));
            Entrant {
                name: form.name,
                threads: form.threads,
                trial: Box::new(move || once(|| (form.run)(disk, part)).0 * TRIAL as u32),
                measure: Box::new(move |trial| {
                    let mut first = true;
                    let take = |bitmap| {
                        if std::mem::replace(&mut first, false) {
                            answer.check(form.name, digest_of::<E>(&bitmap, disk));
                        }
                        answer.weigh(bitmap);
                    };
                    sample(effort, trial, || (), |()| mark(), take)
                }),
                verify: Box::new(|| ()),
            }
        });
        let entrants: Vec<Entrant<'_>> = entrants.collect();
        self.race(&answer, &entrants);
    }
}

fn unite<E: Engine>(form: &Union<E::Bitmap>, prepared: Option<E::Bitmap>, inputs: &[&E::Bitmap]) -> E::Bitmap {
    match form {
        Union::New(unite) => unite(inputs),
        Union::InPlace(add) => {
            let mut sum = prepared.unwrap_or_else(|| inputs[0].clone());
            inputs[1..].iter().for_each(|other| add(&mut sum, other));
            sum
        }
    }
}

/// The digest of a bitmap: of its own count, and of all its extents.
fn digest_of<E: Engine>(bitmap: &E::Bitmap, disk: &Disk) -> u64 {
    let mut tally = Tally::default();
    (E::extents()[0].run)(bitmap, disk, &mut tally);
    digest([E::cardinality(bitmap), tally.digest()])
}

/// A form that answers with a digest.
struct Question<'a> {
    name: &'static str,
    threads: usize,
    trial: Box<dyn Fn() -> u64 + 'a>,
    whole: Box<dyn Fn() -> u64 + 'a>,
    /// The trial is this part of the whole.
    part: u32,
}

impl<'a> Question<'a> {
    fn new<F>(form: &Form<F>, ask: impl Fn(&mut Tally) + Clone + 'a) -> Self {
        let ask = move || {
            let mut sum = Tally::default();
            ask(&mut sum);
            sum.digest()
        };
        Self { name: form.name, threads: form.threads, trial: Box::new(ask.clone()), whole: Box::new(ask), part: 1 }
    }

    fn of_spans<F>(form: &Form<F>, spans: &'a [Span], ask: impl Fn(&[Span]) -> u64 + Clone + 'a) -> Self {
        let (part, whole) = (&spans[..spans.len() / TRIAL], ask.clone());
        Self {
            name: form.name,
            threads: form.threads,
            trial: Box::new(move || ask(part)),
            whole: Box::new(move || whole(spans)),
            part: TRIAL as u32,
        }
    }

    fn entrant(self, answer: &'a Answer, effort: Effort) -> Entrant<'a> {
        let Self { name, threads, trial, whole, part } = self;
        let check = move |found| answer.check(name, found);
        Entrant {
            name,
            threads,
            trial: Box::new(move || once(&trial).0 * part),
            measure: Box::new(move |trial| sample(effort, trial, || (), |()| whole(), check)),
            verify: Box::new(|| ()),
        }
    }
}
