#![forbid(unsafe_code)]
//! Owns what an engine must offer, and the course of one engine through one scenario. Knows no engine.

use crate::input::{Input, Shape, Span, Tally, digest};
use crate::measure::{Effort, heap_bytes, once, sample};
use crate::patterns::{Disk, Scenario, Write};
use crate::report::{Book, Cell, Operation};
use std::cell::Cell as Shared;
use std::time::Duration;

/// One of the ways in which an engine can do a job.
pub struct Form<F> {
    pub name: &'static str,
    pub threads: usize,
    pub run: F,
}

impl<F> Form<F> {
    /// A form on the caller's thread.
    pub fn new(name: &'static str, run: F) -> Self {
        Self { name, threads: 1, run }
    }
}

/// A way to unite bitmaps.
pub enum Union<B> {
    /// Adds the second to the first. For more than two the first is copied and the others added one after the other; the
    /// copy counts.
    InPlace(fn(&mut B, &B)),
    /// Makes a new bitmap of all.
    New(fn(&[&B]) -> B),
}

/// Bytes that a bitmap was written to, from `start` on: some formats must begin at a multiple of 64.
pub struct Saved {
    pub bytes: Vec<u8>,
    pub start: usize,
}

impl From<Vec<u8>> for Saved {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, start: 0 }
    }
}

type Save<B> = fn(&B) -> Saved;

/// A way to open what one of the engine's `saves` wrote.
pub struct Open<E: Engine + ?Sized> {
    /// The name of the save.
    pub saved_by: &'static str,
    pub open: for<'a> fn(&'a [u8], &Disk) -> E::Opened<'a>,
}

/// An engine under measure. Each job may come in several forms; all give the same answer, and the best one counts.
pub trait Engine {
    type Bitmap: Clone;
    /// A bitmap that may borrow the bytes that it was opened from.
    type Opened<'a>;

    const NAME: &'static str;
    const SHAPE: Shape;

    /// Why it cannot take this input, if so.
    fn refuses(_input: &Input) -> Option<String> {
        None
    }

    fn build(input: &Input, disk: &Disk) -> Self::Bitmap;
    fn cardinality(bitmap: &Self::Bitmap) -> u64;

    fn unions(count: usize) -> Vec<Form<Union<Self::Bitmap>>>;
    /// The digest of how many granules are dirty in each span, by [`count_each`].
    fn counts() -> Vec<Form<fn(&Self::Bitmap, &Disk, &[Span]) -> u64>>;
    /// Every extent, into the tally.
    fn extents() -> Vec<Form<fn(&Self::Bitmap, &Disk, &mut Tally)>>;
    /// The extents of each span, cut at its edges, each span a list of the tally.
    fn windows() -> Vec<Form<fn(&Self::Bitmap, &Disk, &[Span], &mut Tally)>>;
    fn saves() -> Vec<Form<Save<Self::Bitmap>>>;
    fn opens() -> Vec<Form<Open<Self>>>;
    /// A bitmap of these writes, which arrive one by one.
    fn marks() -> Vec<Form<fn(&Disk, &[Write]) -> Self::Bitmap>>;

    fn count_opened(opened: &Self::Opened<'_>, disk: &Disk, span: Span) -> u64;
    fn tally_opened(opened: &Self::Opened<'_>, disk: &Disk) -> Tally;
}

/// The digest of what `count` says of each span.
#[inline(always)]
pub fn count_each(spans: &[Span], count: impl Fn(Span) -> u64) -> u64 {
    digest(spans.iter().map(|&span| count(span)))
}

/// What is measured of each scenario.
pub struct Settings {
    pub effort: Effort,
    pub operations: Vec<Operation>,
    pub ks: Vec<usize>,
}

/// The bytes that 64 inputs may take.
const MANY_BYTES: u64 = 4 << 30;

/// A form is measured only if its trial took at most this many times that of the best.
const CLOSE: f64 = 1.5;

/// A trial of ranges, windows or writes is this part of all.
const TRIAL: usize = 16;

/// Takes one engine through a scenario: in memory are its bitmaps only.
pub fn run<E: Engine>(scenario: &Scenario, settings: &Settings, book: &mut Book) {
    let mut course = Course::<E> { scenario, settings, book, bitmaps: Vec::new() };
    let ks = course.admitted();
    for &k in &ks {
        course.load(k);
        course.unite(k);
    }
    course.bitmaps.clear();
    if let Some(reason) = E::refuses(&scenario.asked) {
        return course.leave_out(2, "the questions", &reason);
    }
    if settings.ks.contains(&2) {
        course.ask();
    }
}

/// A form under measure. Both calls check the answers.
struct Entrant<'a> {
    name: &'static str,
    threads: usize,
    /// Runs it once, or a part of it.
    trial: Box<dyn FnMut() -> Duration + 'a>,
    /// Runs it as often as the effort says; gets the time of the trial.
    measure: Box<dyn FnMut(Duration) -> Vec<f64> + 'a>,
}

struct Course<'a, E: Engine> {
    scenario: &'a Scenario,
    settings: &'a Settings,
    book: &'a mut Book,
    bitmaps: Vec<E::Bitmap>,
}

impl<E: Engine> Course<'_, E> {
    fn wants(&self, operation: Operation) -> bool {
        self.settings.operations.contains(&operation)
    }

    fn cell(&self, k: usize, operation: Operation) -> Cell {
        let Scenario { pattern, disk, .. } = self.scenario;
        Cell { pattern: *pattern, granules_log2: disk.granules_log2, k, operation, threads: 1 }
    }

    fn leave_out(&mut self, k: usize, what: &str, reason: &str) {
        let Scenario { pattern, disk, .. } = self.scenario;
        let place = format!("{} 2^{} k={k} {what}", pattern.letter(), disk.granules_log2);
        self.book.leave_out(format!("{place}: {}: {reason}", E::NAME));
    }

    /// The numbers of inputs that this engine can take.
    fn admitted(&mut self) -> Vec<usize> {
        let (scenario, wanted) = (self.scenario, self.settings.ks.clone());
        if !self.wants(Operation::Union) {
            return Vec::new();
        }
        let mut admitted = Vec::new();
        for k in wanted.into_iter().filter(|&k| k <= scenario.inputs.len()) {
            let inputs = &scenario.inputs[..k];
            let bytes: u64 = inputs.iter().map(|input| input.bytes(E::SHAPE, scenario.disk.granules())).sum();
            if k >= 64 && bytes > MANY_BYTES {
                let reason = format!("{k} inputs take {:.1} GiB, above 4", bytes as f64 / f64::from(1 << 30));
                self.leave_out(k, "union", &reason);
            } else if let Some(reason) = inputs.iter().find_map(E::refuses) {
                self.leave_out(k, "union", &reason);
            } else {
                admitted.push(k);
            }
        }
        admitted
    }

    fn load(&mut self, k: usize) {
        for input in &self.scenario.inputs[self.bitmaps.len()..k] {
            self.bitmaps.push(E::build(input, &self.scenario.disk));
        }
    }

    /// Tries every form once, and measures those that may be the best.
    fn race(&mut self, cell: Cell, mut entrants: Vec<Entrant<'_>>) {
        let trials: Vec<Duration> = entrants.iter_mut().map(|entrant| (entrant.trial)()).collect();
        for (entrant, trial) in entrants.iter_mut().zip(&trials) {
            let cell = Cell { threads: entrant.threads, ..cell };
            self.book.tried(cell, E::NAME, entrant.name, *trial);
        }
        for index in 0..entrants.len() {
            let rivals = entrants.iter().zip(&trials).filter(|(rival, _)| rival.threads == entrants[index].threads);
            let best = rivals.map(|(_, trial)| *trial).min().unwrap_or_default();
            let entrant = &mut entrants[index];
            if trials[index] <= best.mul_f64(CLOSE) + Duration::from_micros(2) {
                let times = (entrant.measure)(trials[index]);
                self.book.add_times(Cell { threads: entrant.threads, ..cell }, E::NAME, entrant.name, times);
            }
        }
    }

    fn unite(&mut self, k: usize) {
        let bitmaps = std::mem::take(&mut self.bitmaps);
        let inputs: Vec<&E::Bitmap> = bitmaps[..k].iter().collect();
        let cell = self.cell(k, Operation::Union);
        let expected = self.book.expected_union(cell, self.scenario);
        let (effort, disk) = (self.settings.effort, &self.scenario.disk);
        let forms = E::unions(k);
        let heaps: Vec<Shared<u64>> = forms.iter().map(|_| Shared::new(0)).collect();
        let entrants = forms.iter().zip(&heaps).map(|(form, heap)| {
            let prepare = || matches!(form.run, Union::InPlace(_)).then(|| inputs[0].clone()).filter(|_| k == 2);
            let check = move |bitmap: E::Bitmap, whole: bool| {
                let found = E::cardinality(&bitmap);
                require(cell, E::NAME, form.name, "cardinality", found, expected.cardinality);
                if whole {
                    let mut tally = Tally::default();
                    (E::extents()[0].run)(&bitmap, disk, &mut tally);
                    require(cell, E::NAME, form.name, "extents", tally.digest(), expected.tally.digest());
                }
                heap.set(heap_bytes(bitmap));
            };
            let unite = |prepared: Option<E::Bitmap>| unite::<E>(&form.run, prepared, &inputs);
            let trial = move || {
                let prepared = prepare();
                let (time, bitmap) = once(|| unite(prepared));
                check(bitmap, false);
                time
            };
            let measure = move |expected: Duration| {
                let mut first = true;
                let take = |bitmap| check(bitmap, std::mem::replace(&mut first, false));
                sample(effort, expected, prepare, unite, take)
            };
            Entrant { name: form.name, threads: form.threads, trial: Box::new(trial), measure: Box::new(measure) }
        });
        let entrants = entrants.collect();
        self.race(cell, entrants);
        let touched: u64 = self.scenario.inputs[..k].iter().map(|input| input.bytes(E::SHAPE, disk.granules())).sum();
        for (form, heap) in forms.iter().zip(&heaps) {
            let cell = Cell { threads: form.threads, ..cell };
            self.book.set_heap(cell, E::NAME, form.name, heap.get());
            self.book.set_touched(cell, E::NAME, form.name, touched + heap.get());
        }
        drop(inputs);
        self.bitmaps = bitmaps;
    }

    /// Everything that is asked of one bitmap, the union of the first two inputs.
    fn ask(&mut self) {
        let Scenario { asked, disk, ranges, windows, .. } = self.scenario;
        let heap = heap_bytes(E::build(asked, disk));
        let bitmap = E::build(asked, disk);
        let expected = asked.tally();
        let counts = E::counts();
        let counts = counts.iter().map(|form| question(form, ranges, |spans| (form.run)(&bitmap, disk, spans)));
        self.answer(Operation::CountRanges, heap, None, counts.collect());
        let extents = E::extents();
        let extents = extents.iter().map(|form| {
            question(form, &[()], |_| {
                let mut tally = Tally::default();
                (form.run)(&bitmap, disk, &mut tally);
                tally.digest()
            })
        });
        self.answer(Operation::ExtentsAll, heap, Some(expected.digest()), extents.collect());
        let forms = E::windows();
        let walks = forms.iter().map(|form| {
            question(form, windows, |spans| {
                let mut tally = Tally::default();
                (form.run)(&bitmap, disk, spans, &mut tally);
                tally.digest()
            })
        });
        self.answer(Operation::ExtentsWindows, heap, None, walks.collect());
        self.serialize(&bitmap, heap, expected);
        self.open(&bitmap, expected);
        drop(bitmap);
        self.mark();
    }

    /// Measures forms that answer with a digest: the expected one, or else that of the first engine.
    fn answer(&mut self, operation: Operation, heap: u64, expected: Option<u64>, questions: Vec<Question<'_>>) {
        if !self.wants(operation) {
            return;
        }
        let cell = self.cell(2, operation);
        let effort = self.settings.effort;
        let names: Vec<_> = questions.iter().map(|question| (question.name, question.threads)).collect();
        let known = expected.or_else(|| self.book.answer(cell));
        let answer = Shared::new(known);
        let answer = &answer;
        let entrants = questions.into_iter().map(|question| {
            let Question { name, threads, trial, whole, part } = question;
            let check = move |found: u64| {
                let right = answer.get().unwrap_or(found);
                require(cell, E::NAME, name, "answer", found, right);
                answer.set(Some(right));
            };
            let measure = move |trial: Duration| sample(effort, trial * part, || (), |()| whole(), check);
            Entrant { name, threads, trial: Box::new(move || once(&trial).0), measure: Box::new(measure) }
        });
        let entrants = entrants.collect();
        self.race(cell, entrants);
        for (name, threads) in names {
            self.book.set_heap(Cell { threads, ..cell }, E::NAME, name, heap);
        }
        if let Some(answer) = answer.get() {
            self.book.set_answer(cell, answer);
        }
    }

    fn serialize(&mut self, bitmap: &E::Bitmap, heap: u64, expected: Tally) {
        if !self.wants(Operation::Serialize) {
            return;
        }
        let (cell, effort, disk) = (self.cell(2, Operation::Serialize), self.settings.effort, &self.scenario.disk);
        let (forms, opens) = (E::saves(), E::opens());
        let entrants = forms.iter().map(|form| {
            let open = opens.iter().find(|open| open.run.saved_by == form.name);
            let check = move |saved: Saved| {
                let opened = open.map(|open| (open.run.open)(&saved.bytes[saved.start..], disk));
                let found = opened.map(|opened| E::tally_opened(&opened, disk).digest());
                require(cell, E::NAME, form.name, "what was written", found.unwrap_or(0), expected.digest());
            };
            let trial = move || {
                let (time, saved) = once(|| (form.run)(bitmap));
                check(saved);
                time
            };
            let measure = move |expected| sample(effort, expected, || (), |()| (form.run)(bitmap), drop);
            Entrant { name: form.name, threads: form.threads, trial: Box::new(trial), measure: Box::new(measure) }
        });
        let entrants = entrants.collect();
        self.race(cell, entrants);
        for form in &forms {
            self.book.set_heap(Cell { threads: form.threads, ..cell }, E::NAME, form.name, heap);
        }
    }

    /// Opens what was written before, in memory, and counts in one window.
    fn open(&mut self, bitmap: &E::Bitmap, expected: Tally) {
        if !self.wants(Operation::OpenQuery) {
            return;
        }
        let (cell, effort, disk) = (self.cell(2, Operation::OpenQuery), self.settings.effort, &self.scenario.disk);
        let window = self.scenario.windows[0];
        let (forms, saves) = (E::opens(), E::saves());
        let saved: Vec<Saved> = saves.iter().map(|save| (save.run)(bitmap)).collect();
        let heaps: Vec<Shared<u64>> = forms.iter().map(|_| Shared::new(0)).collect();
        let answer = Shared::new(self.book.answer(cell));
        let entrants = forms.iter().zip(&heaps).filter_map(|(form, heap)| {
            let saved = &saved[saves.iter().position(|save| save.name == form.run.saved_by)?];
            let (bytes, answer) = (&saved.bytes[saved.start..], &answer);
            let run = move || {
                let opened = (form.run.open)(bytes, disk);
                (E::count_opened(&opened, disk, window), opened)
            };
            let check = move |(found, opened): (u64, E::Opened<'_>)| {
                let right = answer.get().unwrap_or(found);
                require(cell, E::NAME, form.name, "answer", found, right);
                answer.set(Some(right));
                heap.set(heap_bytes(opened));
            };
            let trial = move || {
                let (time, (found, opened)) = once(run);
                let all = E::tally_opened(&opened, disk).digest();
                require(cell, E::NAME, form.name, "what was opened", all, expected.digest());
                check((found, opened));
                time
            };
            let measure = move |expected| sample(effort, expected, || (), |()| run(), check);
            let (name, threads) = (form.name, form.threads);
            Some(Entrant { name, threads, trial: Box::new(trial), measure: Box::new(measure) })
        });
        let entrants = entrants.collect();
        self.race(cell, entrants);
        for (form, heap) in forms.iter().zip(&heaps) {
            self.book.set_heap(Cell { threads: form.threads, ..cell }, E::NAME, form.name, heap.get());
        }
        if let Some(answer) = answer.get() {
            self.book.set_answer(cell, answer);
        }
    }

    fn mark(&mut self) {
        if !self.wants(Operation::Mark) {
            return;
        }
        let (cell, effort) = (self.cell(2, Operation::Mark), self.settings.effort);
        let Scenario { disk, writes, .. } = self.scenario;
        let forms = E::marks();
        let heaps: Vec<Shared<u64>> = forms.iter().map(|_| Shared::new(0)).collect();
        let answer = Shared::new(self.book.answer(cell));
        let entrants = forms.iter().zip(&heaps).map(|(form, heap)| {
            let answer = &answer;
            let part = &writes[..writes.len() / TRIAL];
            let trial = move || once(|| (form.run)(disk, part)).0;
            let measure = move |trial: Duration| {
                let mut first = true;
                let take = |bitmap: E::Bitmap| {
                    if std::mem::replace(&mut first, false) {
                        let mut tally = Tally::default();
                        (E::extents()[0].run)(&bitmap, disk, &mut tally);
                        let right = answer.get().unwrap_or(tally.digest());
                        require(cell, E::NAME, form.name, "extents", tally.digest(), right);
                        answer.set(Some(right));
                    }
                    heap.set(heap_bytes(bitmap));
                };
                sample(effort, trial * TRIAL as u32, || (), |()| (form.run)(disk, writes), take)
            };
            Entrant { name: form.name, threads: form.threads, trial: Box::new(trial), measure: Box::new(measure) }
        });
        let entrants = entrants.collect();
        self.race(cell, entrants);
        for (form, heap) in forms.iter().zip(&heaps) {
            self.book.set_heap(Cell { threads: form.threads, ..cell }, E::NAME, form.name, heap.get());
        }
        if let Some(answer) = answer.get() {
            self.book.set_answer(cell, answer);
        }
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

/// A form that answers with a digest.
struct Question<'a> {
    name: &'static str,
    threads: usize,
    trial: Box<dyn Fn() -> u64 + 'a>,
    whole: Box<dyn Fn() -> u64 + 'a>,
    /// The trial is this part of the whole.
    part: u32,
}

fn question<'a, F, Q>(form: &Form<F>, all: &'a [Q], ask: impl Fn(&[Q]) -> u64 + Clone + 'a) -> Question<'a> {
    let count = all.len().div_ceil(TRIAL);
    let (trial, whole) = (ask.clone(), ask);
    Question {
        name: form.name,
        threads: form.threads,
        trial: Box::new(move || trial(&all[..count])),
        whole: Box::new(move || whole(all)),
        part: (all.len() / count) as u32,
    }
}

/// Ends the run if an engine answered wrong: nothing it measured would mean anything.
fn require(cell: Cell, engine: &str, form: &str, what: &str, found: u64, right: u64) {
    if found != right {
        eprintln!(
            "{cell}: {engine} ({form}): {what} {found:#x} is not {right:#x}, which the inputs or the engines before it give"
        );
        std::process::exit(1);
    }
}
