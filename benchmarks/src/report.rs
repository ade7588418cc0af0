#![forbid(unsafe_code)]
//! Owns the results: the samples, the table, the CSV, and the verdict on every bar.

use crate::input::{Input, digest};
use crate::matrix::{Matrix, Row as Paired};
use crate::measure::median;
use crate::patterns::{Pattern, Scenario};
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

/// The engine that is held against the others.
pub const OURS: &str = "checkmap";

/// What caches may hold, so that the memory's bandwidth does not bound it.
const CACHED: u64 = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Union,
    CountRanges,
    ExtentsAll,
    ExtentsWindows,
    Serialize,
    OpenQuery,
    Mark,
}

impl Operation {
    pub const ALL: [Self; 7] = [
        Self::Union,
        Self::CountRanges,
        Self::ExtentsAll,
        Self::ExtentsWindows,
        Self::Serialize,
        Self::OpenQuery,
        Self::Mark,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Union => "union",
            Self::CountRanges => "count_ranges",
            Self::ExtentsAll => "extents_all",
            Self::ExtentsWindows => "extents_windows",
            Self::Serialize => "serialize",
            Self::OpenQuery => "open_query",
            Self::Mark => "mark",
        }
    }
}

/// One thing that every engine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    pub pattern: Pattern,
    pub granules_log2: u32,
    pub k: usize,
    pub operation: Operation,
    pub threads: usize,
}

impl Cell {
    /// Its name in the matrix that is measured in pairs.
    fn paired_name(&self) -> String {
        match (self.operation, self.k) {
            (Operation::Union, 2) => "union_in_place".to_owned(),
            (Operation::Union, k) => format!("union_{k}"),
            (operation, _) => operation.name().to_owned(),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pattern, granules_log2, k, operation, threads } = self;
        let plural = if *threads == 1 { "" } else { "s" };
        write!(f, "{} 2^{granules_log2} k={k} {} {threads} thread{plural}", pattern.letter(), operation.name())
    }
}

/// The samples of one form of one engine in one cell.
#[derive(Default)]
struct Entry {
    times: Vec<f64>,
    heap: u64,
}

/// All results.
#[derive(Default)]
pub struct Book {
    entries: BTreeMap<(Cell, &'static str, &'static str), Entry>,
    input_bytes: BTreeMap<(Cell, &'static str), u64>,
    unions: BTreeMap<(Pattern, u32, usize), u64>,
    answers: BTreeMap<Cell, u64>,
    left_out: Vec<String>,
}

impl Book {
    /// Notes the times of some runs, and the bytes of the bitmap in question.
    pub fn add(&mut self, cell: Cell, engine: &'static str, form: &'static str, times: &[f64], heap: u64) {
        let entry = self.entries.entry((cell, engine, form)).or_default();
        entry.times.extend(times);
        entry.heap = heap;
    }

    /// Notes the bytes of all inputs of a union.
    pub fn set_input_bytes(&mut self, cell: Cell, engine: &'static str, bytes: u64) {
        self.input_bytes.insert((cell, engine), bytes);
    }

    pub fn leave_out(&mut self, what: String) {
        if !self.left_out.contains(&what) {
            self.left_out.push(what);
        }
    }

    /// The answer that the engines so far agree on.
    pub fn answer(&self, cell: Cell) -> Option<u64> {
        self.answers.get(&cell).copied()
    }

    pub fn set_answer(&mut self, cell: Cell, answer: u64) {
        self.answers.insert(cell, answer);
    }

    /// The digest of the union of the first `k` inputs, its count and its extents, from the inputs themselves.
    pub fn union_digest(&mut self, scenario: &Scenario, k: usize) -> u64 {
        let key = (scenario.pattern, scenario.disk.granules_log2, k);
        *self.unions.entry(key).or_insert_with(|| {
            let inputs: Vec<&Input> = scenario.inputs[..k].iter().collect();
            let union = Input::union(&inputs);
            digest([union.cardinality(), union.tally().digest()])
        })
    }

    /// The rows, each engine with the best of its forms.
    pub fn rows(&self) -> Rows {
        let mut best: BTreeMap<(Cell, &'static str), Row> = BTreeMap::new();
        for (&(cell, engine, form), entry) in &self.entries {
            let nanos = median(&mut entry.times.clone());
            let inputs = self.input_bytes.get(&(Cell { threads: 1, ..cell }, engine)).copied();
            let touched = inputs.map_or(0, |inputs| inputs + entry.heap);
            let row = Row { cell, engine, form, nanos, runs: entry.times.len(), heap: entry.heap, touched };
            let so_far = best.entry((cell, engine)).or_insert(row);
            if row.nanos < so_far.nanos {
                *so_far = row;
            }
        }
        let mut cells: BTreeMap<Cell, Vec<Row>> = BTreeMap::new();
        for row in best.into_values() {
            cells.entry(row.cell).or_default().push(row);
        }
        cells.values_mut().for_each(|rows| rows.sort_by(|one, other| one.nanos.total_cmp(&other.nanos)));
        Rows { cells, left_out: self.left_out.clone() }
    }
}

/// One engine in one cell, in its best form.
#[derive(Clone, Copy)]
struct Row {
    cell: Cell,
    engine: &'static str,
    form: &'static str,
    nanos: f64,
    runs: usize,
    heap: u64,
    /// The bytes of the inputs and the result of a union; of anything else 0.
    touched: u64,
}

impl Row {
    fn is_peer(&self) -> bool {
        self.engine.contains("roaring")
    }

    /// Bytes a nanosecond, so GB/s.
    fn bandwidth(&self) -> f64 {
        self.touched as f64 / self.nanos
    }
}

/// The results, cell by cell.
pub struct Rows {
    cells: BTreeMap<Cell, Vec<Row>>,
    left_out: Vec<String>,
}

/// checkmap against others in one cell. Of speed, it is ahead above 1; of memory, below.
struct Ratio {
    cell: Cell,
    value: f64,
}

impl Rows {
    pub fn write_csv(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "pattern,granules_log2,k,operation,threads,engine,median_ns,heap_bytes")?;
        for row in self.cells.values().flatten() {
            let Cell { pattern, granules_log2, k, operation, threads } = row.cell;
            let (letter, operation, engine) = (pattern.letter(), operation.name(), row.engine);
            let nanos = row.nanos.round();
            writeln!(out, "{letter},{granules_log2},{k},{operation},{threads},{engine},{nanos},{}", row.heap)?;
        }
        Ok(())
    }

    pub fn write_table(&self, out: &mut impl Write) -> io::Result<()> {
        for (cell, rows) in &self.cells {
            write!(out, "\n{cell}")?;
            if let Some(ours) = find(rows, OURS) {
                for (name, other) in [
                    ("the best peer", best_peer(rows)),
                    ("flat", find(rows, "flat")),
                    ("extents", find(rows, "extents")),
                    ("hbitmap-model", find(rows, "hbitmap-model")),
                ] {
                    if let Some(other) = other {
                        write!(out, ", {:.2} x {name}", other.nanos / ours.nanos)?;
                    }
                }
                if let Some(heap) = smallest_peer(rows) {
                    write!(out, ", memory {:.2}", ours.heap as f64 / heap as f64)?;
                }
            }
            writeln!(out)?;
            for row in rows {
                let (time, heap) = (Time(row.nanos).to_string(), Bytes(row.heap).to_string());
                let Row { engine, runs, form, .. } = row;
                writeln!(out, "  {engine:<15} {time:>10}  {heap:>10}  {runs:>3} runs  {form}")?;
            }
        }
        if !self.left_out.is_empty() {
            writeln!(out, "\nLeft out:")?;
            self.left_out.iter().try_for_each(|what| writeln!(out, "  {what}"))?;
        }
        Ok(())
    }

    /// The geometric means, and the bars of the issue; `bandwidth` is that of an OR in memory, in GB/s.
    pub fn write_verdict(&self, bandwidth: f64, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "\nTimes as fast as the best of croaring and roaring, 1 thread, geometric means")?;
        let peers = self.ratios(|cell| cell.threads == 1, best_peer);
        for operation in Operation::ALL {
            let ratios: Vec<&Ratio> = peers.iter().filter(|ratio| ratio.cell.operation == operation).collect();
            let Some(least) = least(ratios.iter().copied()) else { continue };
            let mean = geometric_mean(ratios.iter().map(|ratio| ratio.value));
            writeln!(out, "  {:<16} {mean:>8.2}   least {:.2} at {}", operation.name(), least.value, least.cell)?;
        }
        let mut behind: Vec<&Ratio> = peers.iter().filter(|ratio| ratio.value < 1.0).collect();
        behind.sort_by(|one, other| one.value.total_cmp(&other.value));
        if !behind.is_empty() {
            writeln!(out, "\nBehind in {} of {} cells, most at", behind.len(), peers.len())?;
            behind.iter().take(10).try_for_each(|ratio| writeln!(out, "  {:>8.4}  {}", ratio.value, ratio.cell))?;
        }
        writeln!(out, "\n{:<88} {:>8} {:>9}  {:<4}", "Bar", "wanted", "measured", "met")?;
        for bar in self.bars(bandwidth) {
            writeln!(out, "{bar}")?;
        }
        Ok(())
    }

    /// The matrix of all operations: the cells that were measured in pairs before, and those of here that are not among them.
    pub fn matrix(&self, paired: Matrix) -> Matrix {
        let mut matrix = paired;
        for (cell, rows) in self.cells.iter().filter(|(cell, _)| cell.threads == 1) {
            let (Some(ours), Some(peer)) = (find(rows, OURS), best_peer(rows)) else { continue };
            let ratio = peer.nanos / ours.nanos;
            let beside = |name: &str| find(rows, name).map(|row| row.nanos / ours.nanos);
            let row = Paired {
                pattern: cell.pattern.letter(),
                granules_log2: cell.granules_log2,
                operation: cell.paired_name(),
                ratio,
                low: ratio,
                high: ratio,
                nanos: ours.nanos,
                peer_nanos: peer.nanos,
                peer: peer.engine.to_owned(),
                form: peer.form.to_owned(),
                heap: ours.heap,
                peer_heap: smallest_peer(rows).unwrap_or(0),
                hbitmap: beside("hbitmap-model"),
                flat: beside("flat"),
            };
            if !matrix.has(&row) {
                matrix.put(row);
            }
        }
        matrix
    }

    /// How fast checkmap is against what `pick` picks, in the cells that both have.
    fn ratios(&self, within: impl Fn(&Cell) -> bool, pick: impl Fn(&[Row]) -> Option<Row>) -> Vec<Ratio> {
        let cells = self.cells.iter().filter(|(cell, _)| within(cell));
        let ratios = cells.filter_map(|(&cell, rows)| {
            let (ours, other) = (find(rows, OURS)?, pick(rows)?);
            Some(Ratio { cell, value: other.nanos / ours.nanos })
        });
        ratios.collect()
    }

    fn bars(&self, bandwidth: f64) -> Vec<Bar> {
        let mut bars = Vec::new();
        let peers = self.ratios(|cell| cell.threads == 1, best_peer);
        let (bound, free): (Vec<Ratio>, Vec<Ratio>) =
            peers.into_iter().partition(|ratio| self.is_bound(ratio.cell, bandwidth));
        bars.push(Bar::least("any cell against the best of croaring and roaring", 1.0, &free));
        bars.push(Bar::least("  where both move 2/3 of the memory bandwidth or more", 0.95, &bound));
        for pattern in Pattern::ALL {
            let wanted = match pattern {
                Pattern::Sparse | Pattern::Runs | Pattern::HalfFull => 4.0,
                Pattern::Random | Pattern::VmLike | Pattern::Trace => 3.0,
                Pattern::Dense => continue,
            };
            let within = |cell: &Cell| union_of(cell, 8) && cell.pattern == pattern;
            let name = format!("union of 8, pattern {}", pattern.letter());
            bars.push(Bar::least(&name, wanted, &self.ratios(within, best_peer)));
        }
        for (k, wanted) in [(2, 0.5), (8, 1.0)] {
            let within = |cell: &Cell| union_of(cell, k) && matches!(cell.pattern, Pattern::Random | Pattern::VmLike);
            let ratios = self.ratios(within, |rows| find(rows, "flat"));
            bars.push(Bar::least(&format!("union of {k}, patterns b and e, against the flat OR"), wanted, &ratios));
        }
        let within =
            |cell: &Cell| cell.operation == Operation::Union && cell.threads == 1 && cell.pattern == Pattern::Runs;
        let ratios = self.ratios(within, |rows| find(rows, "extents"));
        bars.push(Bar::least("union, pattern d, against the extent vector", 0.5, &ratios));
        let within = |cell: &Cell| cell.operation == Operation::CountRanges && cell.threads == 1;
        bars.push(Bar::least("count in a random range, any pattern", 5.0, &self.ratios(within, best_peer)));
        bars.push(Bar::least("union of 8 on 2 threads against 1", 1.6, &self.on_two_threads()));
        bars.push(self.memory_bar());
        for elsewhere in ["`checkmap delete` of a middle checkpoint against qemu-img", "union of 8 segments on disk"] {
            bars.push(Bar {
                name: format!("{elsewhere} (not part of this benchmark)"),
                wanted: String::new(),
                found: None,
            });
        }
        bars
    }

    /// Whether both are at the memory bandwidth in this cell: a union of more than caches hold.
    fn is_bound(&self, cell: Cell, bandwidth: f64) -> bool {
        let bound = |row: Row| row.touched > CACHED && row.bandwidth() >= bandwidth * 2.0 / 3.0;
        let rows = &self.cells[&cell];
        find(rows, OURS).is_some_and(bound) && best_peer(rows).is_some_and(bound)
    }

    fn on_two_threads(&self) -> Vec<Ratio> {
        let cells =
            self.cells.iter().filter(|(cell, _)| union_of(&Cell { threads: 1, ..**cell }, 8) && cell.threads == 2);
        let ratios = cells.filter_map(|(&cell, rows)| {
            let alone = find(self.cells.get(&Cell { threads: 1, ..cell })?, OURS)?;
            Some(Ratio { cell, value: alone.nanos / find(rows, OURS)?.nanos })
        });
        ratios.collect()
    }

    /// Bytes on the heap; a bitmap that borrows the bytes it was opened from has none to speak of, so opening is left out.
    fn memory_bar(&self) -> Bar {
        let cells = self.cells.iter().filter(|(cell, _)| cell.operation != Operation::OpenQuery && cell.threads == 1);
        let shares = cells.filter_map(|(&cell, rows)| {
            let (ours, peer) = (find(rows, OURS)?, smallest_peer(rows)?);
            Some(Ratio { cell, value: ours.heap as f64 / peer as f64 })
        });
        let shares: Vec<Ratio> = shares.collect();
        let above = shares.iter().filter(|share| share.value > 1.0).count();
        let worst = shares.iter().max_by(|one, other| one.value.total_cmp(&other.value));
        let found = worst.map(|worst| Found {
            value: worst.value,
            met: above == 0,
            remark: format!("most at {}; {above} of {} above", worst.cell, shares.len()),
        });
        Bar {
            name: "heap bytes of a bitmap, against the smallest of croaring and roaring".into(),
            wanted: "<= 1.0".into(),
            found,
        }
    }
}

fn union_of(cell: &Cell, k: usize) -> bool {
    cell.operation == Operation::Union && cell.threads == 1 && cell.k == k
}

fn find(rows: &[Row], engine: &str) -> Option<Row> {
    rows.iter().find(|row| row.engine == engine).copied()
}

/// The fastest of croaring and roaring; the rows are sorted by time.
fn best_peer(rows: &[Row]) -> Option<Row> {
    rows.iter().find(|row| row.is_peer()).copied()
}

fn smallest_peer(rows: &[Row]) -> Option<u64> {
    rows.iter().filter(|row| row.is_peer()).map(|row| row.heap).min().filter(|&heap| heap > 0)
}

fn least<'a>(ratios: impl IntoIterator<Item = &'a Ratio>) -> Option<&'a Ratio> {
    ratios.into_iter().min_by(|one, other| one.value.total_cmp(&other.value))
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let logs: Vec<f64> = values.map(f64::ln).collect();
    (logs.iter().sum::<f64>() / logs.len() as f64).exp()
}

/// One bar of the issue.
struct Bar {
    name: String,
    wanted: String,
    found: Option<Found>,
}

struct Found {
    value: f64,
    met: bool,
    remark: String,
}

impl Bar {
    /// The least of these ratios must be `wanted`.
    fn least(name: &str, wanted: f64, ratios: &[Ratio]) -> Self {
        let below = ratios.iter().filter(|ratio| ratio.value < wanted).count();
        let found = least(ratios).map(|least| Found {
            value: least.value,
            met: below == 0,
            remark: format!("least at {}; {below} of {} below", least.cell, ratios.len()),
        });
        Self { name: name.into(), wanted: format!(">= {wanted}"), found }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, wanted, found } = self;
        match found {
            Some(Found { value, met, remark }) => {
                let met = if *met { "yes" } else { "no" };
                write!(f, "{name:<88} {wanted:>8} {value:>9.3}  {met:<4} {remark}")
            }
            None => write!(f, "{name:<88} {wanted:>8} {:>9}  -", "-"),
        }
    }
}

/// Nanoseconds for a reader.
struct Time(f64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            nanos if nanos < 1e3 => write!(f, "{nanos:.0} ns"),
            nanos if nanos < 1e6 => write!(f, "{:.2} us", nanos / 1e3),
            nanos if nanos < 1e9 => write!(f, "{:.2} ms", nanos / 1e6),
            nanos => write!(f, "{:.2} s", nanos / 1e9),
        }
    }
}

/// Bytes for a reader.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes < 1 << 10 => write!(f, "{bytes} B"),
            bytes if bytes < 1 << 20 => write!(f, "{:.1} KiB", bytes as f64 / 1024.0),
            bytes => write!(f, "{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        }
    }
}
