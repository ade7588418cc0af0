#![forbid(unsafe_code)]
//! Owns the matrix of all operations and patterns: its rows as CSV, its table, its means, and the bars that hold for it.
//! Knows no engine and no clock.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// checkmap beside the best peer in one cell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub pattern: char,
    pub granules_log2: u32,
    pub operation: String,
    /// The peer's time by ours, in pairs: the median, and the ends of its interval of 95 %.
    pub ratio: f64,
    pub low: f64,
    pub high: f64,
    pub nanos: f64,
    pub peer_nanos: f64,
    pub peer: String,
    /// Which of its forms was the best.
    pub form: String,
    pub heap: u64,
    /// The least heap of any peer.
    pub peer_heap: u64,
    /// The times of engines that do not compress, by ours: our model of QEMU's bitmap, and plain words.
    pub hbitmap: Option<f64>,
    pub flat: Option<f64>,
}

const HEADER: &str = "pattern,granules_log2,operation,ratio,low,high,ns,peer_ns,peer,form,heap_bytes,peer_heap_bytes,\
                      hbitmap_model_ratio,flat_ratio";

impl Row {
    fn is_of(&self, other: &Self) -> bool {
        (self.pattern, self.granules_log2, &self.operation) == (other.pattern, other.granules_log2, &other.operation)
    }

    /// Our heap bytes by those of the smallest peer; views have none, and saved bytes have formats of their own.
    pub fn memory(&self) -> Option<f64> {
        let is_known = self.heap > 0 && self.peer_heap > 0 && !matches!(&*self.operation, "open_query" | "serialize");
        is_known.then(|| self.heap as f64 / self.peer_heap as f64)
    }

    fn is_of_f_or_counts(&self) -> bool {
        self.pattern == 'f' || self.operation.starts_with("count")
    }

    /// One line of the table.
    pub fn line(&self) -> String {
        let Self { pattern, granules_log2, operation, ratio, low, high, nanos, peer_nanos, peer, form, .. } = self;
        let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
        let (memory, hbitmap, flat) = (or_dash(self.memory()), or_dash(self.hbitmap), or_dash(self.flat));
        format!(
            "{pattern:<2} {granules_log2:<3} {operation:<18} {ratio:>8.2} {low:>8.2} {high:>8.2} {nanos:>12.0} {peer_nanos:>12.0} \
             {memory:>6} {hbitmap:>8} {flat:>8}  {peer} ({form})"
        )
    }

    pub fn titles() -> String {
        format!(
            "{:<2} {:<3} {:<18} {:>8} {:>8} {:>8} {:>12} {:>12} {:>6} {:>8} {:>8}  peer",
            "", "log", "operation", "ratio", "low", "high", "ns", "peer's", "memory", "hbitmap", "flat"
        )
    }
}

/// The rows, those of one run or of several.
#[derive(Default)]
pub struct Matrix(pub Vec<Row>);

impl Matrix {
    /// Reads what [`Matrix::to_csv`] wrote, also before it had all of today's columns.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lines = text.lines();
        let names: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
        let mut rows = Vec::new();
        for (number, line) in (2..).zip(lines) {
            let fields: Vec<&str> = line.split(',').collect();
            let field = |name: &str| {
                let at = names.iter().position(|&column| column == name)?;
                fields.get(at).copied().filter(|field| !field.is_empty())
            };
            let row = || {
                Some(Row {
                    pattern: field("pattern")?.chars().next()?,
                    granules_log2: field("granules_log2")?.parse().ok()?,
                    operation: field("operation")?.to_owned(),
                    ratio: field("ratio")?.parse().ok()?,
                    low: field("low")?.parse().ok()?,
                    high: field("high")?.parse().ok()?,
                    nanos: field("ns")?.parse().ok()?,
                    peer_nanos: field("peer_ns")?.parse().ok()?,
                    peer: field("peer")?.to_owned(),
                    form: field("form").unwrap_or_default().to_owned(),
                    heap: field("heap_bytes")?.parse().ok()?,
                    peer_heap: field("peer_heap_bytes")?.parse().ok()?,
                    hbitmap: field("hbitmap_model_ratio").and_then(|field| field.parse().ok()),
                    flat: field("flat_ratio").and_then(|field| field.parse().ok()),
                })
            };
            rows.push(row().ok_or_else(|| format!("line {number}: not a row of the matrix"))?);
        }
        Ok(Self(rows))
    }

    /// Adds a row in the place of one of the same cell, else behind those of its pattern and disk.
    pub fn put(&mut self, row: Row) {
        let disk = |row: &Row| (row.pattern, row.granules_log2);
        if let Some(old) = self.0.iter_mut().find(|old| old.is_of(&row)) {
            *old = row;
            return;
        }
        let at = self.0.iter().rposition(|old| disk(old) <= disk(&row)).map_or(0, |at| at + 1);
        self.0.insert(at, row);
    }

    /// Whether it has the cell of this row.
    pub fn has(&self, row: &Row) -> bool {
        self.0.iter().any(|old| old.is_of(row))
    }

    pub fn to_csv(&self) -> String {
        let mut text = format!("{HEADER}\n");
        for row in &self.0 {
            let Row { pattern, granules_log2, operation, ratio, low, high, nanos, peer_nanos, .. } = row;
            let Row { peer, heap, peer_heap, .. } = row;
            let form = row.form.replace(',', ";");
            let or_empty = |value: Option<f64>| value.map(|value| format!("{value:.3}")).unwrap_or_default();
            let (hbitmap, flat) = (or_empty(row.hbitmap), or_empty(row.flat));
            let _ = writeln!(
                text,
                "{pattern},{granules_log2},{operation},{ratio:.3},{low:.3},{high:.3},{nanos:.0},{peer_nanos:.0},{peer},{form},\
                 {heap},{peer_heap},{hbitmap},{flat}"
            );
        }
        text
    }

    /// The ratios as operations by patterns, one column for each pattern and disk.
    pub fn table(&self) -> String {
        let columns: BTreeSet<(char, u32)> = self.0.iter().map(|row| (row.pattern, row.granules_log2)).collect();
        let mut operations: Vec<&str> = Vec::new();
        for row in &self.0 {
            if !operations.contains(&row.operation.as_str()) {
                operations.push(&row.operation);
            }
        }
        let mut text = format!("{:<18}", "");
        for (pattern, log2) in &columns {
            let _ = write!(text, " {:>8}", format!("{pattern} 2^{log2}"));
        }
        for operation in operations {
            let _ = write!(text, "\n{operation:<18}");
            for &(pattern, log2) in &columns {
                let cell = Row { pattern, granules_log2: log2, operation: operation.to_owned(), ..Row::default() };
                let ratio = self.0.iter().find(|row| row.is_of(&cell)).map(|row| format!("{:.2}", row.ratio));
                let _ = write!(text, " {:>8}", ratio.unwrap_or_else(|| "-".to_owned()));
            }
        }
        text + "\n"
    }

    /// The geometric means, then each bar with how many cells miss it. A cell reaches a bar if the upper end of its interval does.
    pub fn verdict(&self) -> String {
        let mut text = String::new();
        let rows = || self.0.iter();
        let (all, with) = mean(rows().map(|row| row.ratio));
        let (some, without) = mean(rows().filter(|row| !row.is_of_f_or_counts()).map(|row| row.ratio));
        let _ = writeln!(
            text,
            "Geometric mean {with:.2} of {all} cells; {without:.2} of the {some} without f and the counts (bar: 2.5 with AVX-512, 1.8 \
             with AVX2)."
        );
        for (name, value) in [
            ("our model of QEMU's HBitmap", mean(rows().filter_map(|row| row.hbitmap))),
            ("plain words", mean(rows().filter_map(|row| row.flat))),
        ] {
            if value.0 > 0 {
                let _ = writeln!(text, "Beside {name}: {:.2} of {} cells.", value.1, value.0);
            }
        }
        let is_own_trace = |row: &Row| row.pattern == 'g' && row.granules_log2 < 24;
        let is_set = |row: &Row| ["intersect", "subtract", "xor"].iter().any(|name| row.operation.starts_with(name));
        let bars: [Bar<'_>; 4] = [
            ("every operation on 2^28 granules", 1.0, &|row| !is_own_trace(row) && row.granules_log2 == 28),
            ("every operation on g's own disk", 0.9, &is_own_trace),
            ("every operation on 2^32 granules", 0.9, &|row| row.granules_log2 == 32),
            ("intersect, subtract, xor on a, b, d, e", 1.5, &|row| {
                is_set(row) && "abde".contains(row.pattern) && row.granules_log2 == 28
            }),
        ];
        for (name, bar, holds_for) in bars {
            let cells: Vec<&Row> = rows().filter(|row| holds_for(row)).collect();
            let mut missed: Vec<&&Row> = cells.iter().filter(|row| row.high < bar).collect();
            if cells.is_empty() {
                continue;
            }
            missed.sort_by(|one, other| one.high.total_cmp(&other.high));
            let _ = writeln!(text, "{name}, >= {bar}: missed in {} of {} cells", missed.len(), cells.len());
            for Row { pattern, granules_log2, operation, ratio, low, high, .. } in missed {
                let _ =
                    writeln!(text, "  {pattern} 2^{granules_log2} {operation:<18} {ratio:.2} ({low:.2} to {high:.2})");
            }
        }
        for row in rows().filter(|row| row.pattern == 'c' && row.operation == "union_in_place") {
            if let Some(flat) = row.flat {
                let _ = writeln!(text, "union of 2 on c beside plain words, >= 0.9: {flat:.2}");
            }
        }
        let above: Vec<&Row> = rows().filter(|row| row.memory().is_some_and(|memory| memory > 1.02)).collect();
        if !above.is_empty() {
            let _ = writeln!(text, "More memory than the smallest peer (by more than 2 %):");
        }
        for row in above {
            let Row { pattern, granules_log2, operation, heap, peer_heap, .. } = row;
            let _ = writeln!(text, "  {pattern} 2^{granules_log2} {operation:<18} {heap} beside {peer_heap} bytes");
        }
        text
    }
}

/// A bar: its name, the ratio that is wanted, and the cells that it holds for.
type Bar<'a> = (&'a str, f64, &'a dyn Fn(&Row) -> bool);

/// How many, and their geometric mean.
fn mean(values: impl Iterator<Item = f64>) -> (usize, f64) {
    let logs: Vec<f64> = values.map(f64::ln).collect();
    (logs.len(), (logs.iter().sum::<f64>() / logs.len().max(1) as f64).exp())
}
