#![forbid(unsafe_code)]
//! checkmap beside the best of CRoaring and roaring in every operation on one or two bitmaps, in interleaved pairs of one run,
//! the answers compared. Prints a line for each cell and leaves a CSV.

use checkmap_benchmarks::engines::{Checkmap, Croaring, Croaring64, Roaring, Roaring64};
use checkmap_benchmarks::measure::{self, Scale};
use checkmap_benchmarks::operations::{Field, Pairing};
use checkmap_benchmarks::patterns::{Disk, Pattern, Scenario, Trace};
use std::fmt::Write as _;
use std::path::Path;

#[global_allocator]
static SCALE: Scale = Scale;

const USAGE: &str = "\
Usage: bench-operations [OPTION]...

  --patterns LETTERS    such as abdef; a to g; all but g where there is no trace
  --granules-log2 N     the disk, as a power of two of granules; 28
  --operations LIST     parts of names, such as intersect,xor_new
  --pairs NUMBER        the pairs of each cell; 21
  --csv FILE            where the results go; target/bench-operations.csv of the project
";

fn main() {
    let mut letters = "abcdefg".to_owned();
    let (mut log2, mut pairs, mut names) = (28, 21, Vec::<String>::new());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut csv = root.join("target/bench-operations.csv");
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        match name.as_str() {
            "--patterns" => letters = value,
            "--granules-log2" => log2 = number(&value),
            "--operations" => names = value.split(',').map(str::to_owned).collect(),
            "--pairs" => pairs = number(&value) as usize,
            "--csv" => csv = value.into(),
            _ => {
                eprint!("{USAGE}");
                std::process::exit(1);
            }
        }
    }
    measure::weigh_croaring();
    let trace = Trace::find(&root).unwrap_or_else(|error| {
        eprintln!("{error}");
        std::process::exit(1)
    });
    let wanted = |operation: &str| names.is_empty() || names.iter().any(|name| operation.contains(name.as_str()));
    let mut rows = Vec::new();
    println!(
        "{:<2} {:<3} {:<18} {:>8} {:>8} {:>8} {:>12} {:>12}  {:<15} {:>6}",
        "", "log", "operation", "ratio", "low", "high", "ns", "peer's", "peer", "memory"
    );
    for pattern in Pattern::ALL.into_iter().filter(|pattern| letters.contains(pattern.letter())) {
        let disk = match (pattern, &trace) {
            (Pattern::Trace, None) => continue,
            (Pattern::Trace, Some(trace)) if !trace.fits(Disk::of_granules(log2)) => trace.own_disk(),
            _ => Disk::of_granules(log2),
        };
        let scenario = Scenario::new(pattern, disk, 2, 0x0063_6865_636B_6D61, trace.as_ref());
        let mut field = Field::new(&scenario);
        field.enter::<Checkmap>(&wanted);
        field.enter::<Croaring<false>>(&wanted);
        field.enter::<Croaring<true>>(&wanted);
        field.enter::<Croaring64<false>>(&wanted);
        field.enter::<Croaring64<true>>(&wanted);
        field.enter::<Roaring<false>>(&wanted);
        field.enter::<Roaring<true>>(&wanted);
        field.enter::<Roaring64<true>>(&wanted);
        field.measure(pairs, |pairing| {
            print(&pairing);
            rows.push(pairing);
        });
    }
    means(&rows);
    if let Err(error) = std::fs::write(&csv, text(&rows)) {
        eprintln!("{}: {error}", csv.display());
        std::process::exit(1);
    }
}

fn number(text: &str) -> u32 {
    text.parse().unwrap_or_else(|_| {
        eprint!("{text}: not a number\n\n{USAGE}");
        std::process::exit(1)
    })
}

fn memory(row: &Pairing) -> f64 {
    if row.peer_heap == 0 { 0.0 } else { row.heap as f64 / row.peer_heap as f64 }
}

fn print(row: &Pairing) {
    let Pairing { granules_log2, operation, ratio, low, high, nanos, peer_nanos, peer, .. } = row;
    let (letter, memory) = (row.pattern.letter(), memory(row));
    println!(
        "{letter:<2} {granules_log2:<3} {operation:<18} {ratio:>8.2} {low:>8.2} {high:>8.2} {nanos:>12.0} {peer_nanos:>12.0}  {peer:<15} {memory:>6.2}"
    );
}

fn means(rows: &[Pairing]) {
    let mean = |keep: &dyn Fn(&&Pairing) -> bool| {
        let logs: Vec<f64> = rows.iter().filter(keep).map(|row| row.ratio.ln()).collect();
        (logs.len(), (logs.iter().sum::<f64>() / logs.len().max(1) as f64).exp())
    };
    let (all, with) = mean(&|_| true);
    let (some, without) = mean(&|row| row.pattern != Pattern::HalfFull && row.operation != "count");
    let behind = rows.iter().filter(|row| row.high < 1.0).count();
    println!(
        "\nGeometric mean {with:.2} of {all} cells; {without:.2} of the {some} without f and the counts; behind in {behind}."
    );
}

fn text(rows: &[Pairing]) -> String {
    let mut text =
        "pattern,granules_log2,operation,ratio,low,high,ns,peer_ns,peer,heap_bytes,peer_heap_bytes\n".to_owned();
    for row in rows {
        let Pairing { granules_log2, operation, ratio, low, high, nanos, peer_nanos, peer, heap, peer_heap, .. } = row;
        let letter = row.pattern.letter();
        let _ = writeln!(
            text,
            "{letter},{granules_log2},{operation},{ratio:.3},{low:.3},{high:.3},{nanos:.0},{peer_nanos:.0},{peer},{heap},{peer_heap}"
        );
    }
    text
}
