#![forbid(unsafe_code)]
//! The matrix: checkmap beside the best form of CRoaring and roaring in every operation and pattern, in interleaved pairs of one run,
//! the answers compared; in columns of their own our model of QEMU's HBitmap, and plain words. Prints a line for each cell,
//! the table and the verdict, and leaves a CSV.

use checkmap_benchmarks::engines::{Checkmap, Croaring, Croaring64, Flat, Hbitmap, Roaring, Roaring64};
use checkmap_benchmarks::matrix::{Matrix, Row};
use checkmap_benchmarks::measure::{self, Scale};
use checkmap_benchmarks::pairs::{self, Field, Threaded};
use checkmap_benchmarks::patterns::{Disk, Pattern, Scenario, Trace};
use std::path::{Path, PathBuf};

#[global_allocator]
static SCALE: Scale = Scale;

const USAGE: &str = "\
Usage: bench-operations [OPTION]...

  --patterns LETTERS    such as abdef; a to g; all but g where there is no trace. G is g on the traced disk alone
  --granules-log2 N     the disk, as a power of two of granules; 28
  --operations LIST     parts of names, such as intersect,xor_new
  --engines LIST        peers, such as croaring+run,roaring; where all of them do not fit in memory
  --pairs NUMBER        the pairs of each cell; 21
  --csv FILE            where the results go; target/bench-operations.csv of the project
  --threads NUMBER      measures instead our operations on so many threads beside one
  --keep                the cells that FILE has and this run does not measure stay in it, in the table and in the means
";

struct Options {
    letters: String,
    granules_log2: u32,
    pairs: usize,
    names: Vec<String>,
    engines: Vec<String>,
    csv: PathBuf,
    threads: usize,
    keep: bool,
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if let Err(error) = parse(&root).and_then(|options| bench(&root, &options)) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn parse(root: &Path) -> Result<Options, String> {
    let mut options = Options {
        letters: "abcdefgG".to_owned(),
        granules_log2: 28,
        pairs: 21,
        names: Vec::new(),
        engines: Vec::new(),
        csv: root.join("target/bench-operations.csv"),
        threads: 1,
        keep: false,
    };
    let list = |value: String| value.split(',').map(str::to_owned).collect();
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--keep" {
            options.keep = true;
            continue;
        }
        let value = arguments.next().ok_or(USAGE)?;
        let number = |value: &str| value.parse().map_err(|_| format!("{value}: not a number\n\n{USAGE}"));
        match name.as_str() {
            "--patterns" => options.letters = value,
            "--granules-log2" => options.granules_log2 = number(&value)?,
            "--operations" => options.names = list(value),
            "--engines" => options.engines = list(value),
            "--pairs" => options.pairs = number(&value)?.max(1) as usize,
            "--threads" => options.threads = number(&value)? as usize,
            "--csv" => options.csv = value.into(),
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(options)
}

fn bench(root: &Path, options: &Options) -> Result<(), String> {
    measure::weigh_croaring();
    let trace = Trace::find(root)?;
    if options.threads > 1 {
        return on_threads(options, trace.as_ref());
    }
    let of_csv = |error: String| format!("{}: {error}", options.csv.display());
    let mut matrix = match std::fs::read_to_string(&options.csv) {
        Ok(text) if options.keep => Matrix::parse(&text).map_err(of_csv)?,
        _ => Matrix::default(),
    };
    let is_wanted = |operation: &str| {
        options.names.is_empty() || options.names.iter().any(|name| operation.contains(name.as_str()))
    };
    println!("{}", Row::titles());
    for (pattern, disk) in scenarios(options, trace.as_ref()) {
        // 8 inputs are drawn where the union of 8 is asked for.
        let count = if is_wanted("union_8") { 8 } else { 2 };
        let scenario = Scenario::new(pattern, disk, count, 0x0063_6865_636B_6D61, trace.as_ref());
        let mut field = Field::new(&scenario, &is_wanted);
        let has = |name: &str| options.engines.is_empty() || options.engines.iter().any(|engine| engine == name);
        field.enter::<Checkmap>();
        macro_rules! enter {
            ($($name:literal: $enter:ident $engine:ty),*) => {
                $(if has($name) {
                    field.$enter::<$engine>();
                })*
            };
        }
        enter!(
            "croaring": enter Croaring<false>, "croaring+run": enter Croaring<true>,
            "croaring64": enter Croaring64<false>, "croaring64+run": enter Croaring64<true>,
            "roaring": enter Roaring<false>, "roaring+run": enter Roaring<true>,
            "roaring64": enter Roaring64<false>, "roaring64+run": enter Roaring64<true>,
            "hbitmap-model": enter_aside_with_questions Hbitmap, "flat": enter_aside Flat
        );
        field.measure(options.pairs, |row| {
            println!("{}", row.line());
            matrix.put(row);
        });
        // A run that is ended early leaves the patterns that are done.
        std::fs::write(&options.csv, matrix.to_csv()).map_err(|error| of_csv(error.to_string()))?;
    }
    println!("\n{}\n{}", matrix.table(), matrix.verdict());
    println!("Written to {}.", options.csv.display());
    Ok(())
}

/// Our operations on threads beside one; leaves a CSV of its own kind.
fn on_threads(options: &Options, trace: Option<&Trace>) -> Result<(), String> {
    let mut csv = "case,operation,pattern,threads,ratio,low,high,one_thread_ms\n".to_owned();
    for (pattern, disk) in scenarios(options, trace) {
        let scenario = Scenario::new(pattern, disk, 8, 0x0063_6865_636B_6D61, trace);
        pairs::on_threads(&scenario, options.threads, options.pairs, |cell| {
            let Threaded { operation, ratio, low, high, nanos } = cell;
            let (letter, millis) = (pattern.letter(), nanos / 1e6);
            println!("{letter} {operation:<14} {ratio:>6.2} ({low:.2} to {high:.2}), {millis:.2} ms on one thread");
            let case = format!("{operation} of {letter}, {millis:.1} ms");
            let row =
                format!("{case}\",{operation},{letter},{},{ratio:.3},{low:.3},{high:.3},{millis:.3}", options.threads);
            csv += &format!("\"{row}\n");
        });
    }
    std::fs::write(&options.csv, csv).map_err(|error| format!("{}: {error}", options.csv.display()))
}

/// Every pattern that is wanted with its disk; the trace comes with a disk of its own, and as tiles on the larger one.
fn scenarios(options: &Options, trace: Option<&Trace>) -> Vec<(Pattern, Disk)> {
    let disk = Disk::of_granules(options.granules_log2);
    let wanted = Pattern::ALL.into_iter().filter(|pattern| options.letters.contains(pattern.letter()));
    let mut scenarios: Vec<(Pattern, Disk)> = wanted.map(|pattern| (pattern, disk)).collect();
    let Some(trace) = trace else {
        eprintln!("g is left out: there is no trace; CHECKMAP_TRACE names one");
        scenarios.retain(|(pattern, _)| *pattern != Pattern::Trace);
        return scenarios;
    };
    if !trace.fits(disk) {
        scenarios.retain(|(pattern, _)| *pattern != Pattern::Trace);
    }
    if options.letters.contains('G') {
        scenarios.push((Pattern::Trace, trace.own_disk()));
    }
    scenarios
}
