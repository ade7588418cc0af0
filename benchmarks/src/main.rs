//! checkmap beside the engines that a hypervisor could link instead: the same inputs, the same questions, the answers
//! compared, one engine in memory at a time. Prints a table and the verdict on every bar, and leaves a CSV.

use checkmap_benchmarks::course::Settings;
use checkmap_benchmarks::engines::{self, Runner, or_into, roomy};
use checkmap_benchmarks::matrix::Matrix;
use checkmap_benchmarks::measure::{self, Effort, Scale, median, once};
use checkmap_benchmarks::patterns::{Disk, INTERVALS, Pattern, Rng, Scenario, Trace};
use checkmap_benchmarks::report::{Book, Operation};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[global_allocator]
static SCALE: Scale = Scale;

const USAGE: &str = "\
Usage: bench-peers [OPTION]...

  --quick               2^28 granules, k = 2 and 8, less time for each cell
  --patterns LETTERS    such as abdef; a to g
  --granules-log2 LIST  such as 28,32; the disks, as powers of two of granules
  --k LIST              such as 2,8,64; the numbers of inputs of a union; the questions are asked where 2 is among them
  --operations LIST     such as union,mark
  --engines LIST        such as checkmap,croaring
  --seed NUMBER         of the inputs and of the order of the engines
  --rounds NUMBER       how often every engine gets its turn, each time in another order
  --budget-ms NUMBER    the time for one engine in one cell, beyond which only what is missing of three runs follows
  --csv FILE            instead of target/bench-peers.csv of the project
  --paired FILE         what bench-operations left, which the matrix at the end begins with, instead of
                        target/bench-operations.csv of the project
";

struct Options {
    patterns: Vec<Pattern>,
    granules_log2: Vec<u32>,
    runners: Vec<Runner>,
    settings: Settings,
    rounds: usize,
    seed: u64,
    csv: PathBuf,
    paired: PathBuf,
}

impl Options {
    fn parse(root: &Path, mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            patterns: Pattern::ALL.to_vec(),
            granules_log2: vec![28, 32],
            runners: engines::all(),
            settings: Settings {
                effort: Effort { budget: Duration::from_millis(500), runs: 51 },
                operations: Operation::ALL.to_vec(),
                ks: vec![2, 8, 64],
            },
            rounds: 2,
            seed: 0x0063_6865_636B_6D61,
            csv: root.join("target/bench-peers.csv"),
            paired: root.join("target/bench-operations.csv"),
        };
        while let Some(name) = arguments.next() {
            if name == "--quick" {
                options.quick();
                continue;
            }
            let value = arguments.next().ok_or_else(|| format!("{name}: unknown, or without a value\n\n{USAGE}"))?;
            options.set(&name, &value).map_err(|error| format!("{name} {value}: {error}\n\n{USAGE}"))?;
        }
        Ok(options)
    }

    fn quick(&mut self) {
        self.granules_log2 = vec![28];
        self.settings.ks = vec![2, 8];
        self.settings.effort = Effort { budget: Duration::from_millis(60), runs: 21 };
        self.rounds = 1;
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "--patterns" => {
                self.patterns = picked(value.chars(), &Pattern::ALL, |pattern| pattern.letter())?;
            }
            "--operations" => {
                self.settings.operations = picked(value.split(','), &Operation::ALL, |operation| operation.name())?;
            }
            "--engines" => {
                let names: Vec<&str> = value.split(',').collect();
                self.runners.retain(|runner| names.contains(&runner.name));
            }
            "--granules-log2" => {
                self.granules_log2 = numbers(value)?;
                if self.granules_log2.iter().any(|log2| !(16..=32).contains(log2)) {
                    return Err("a disk here has 2^16 to 2^32 granules".into());
                }
            }
            "--k" => {
                self.settings.ks = numbers(value)?;
                self.settings.ks.sort_unstable();
                if self.settings.ks.iter().any(|&k| k < 2) {
                    return Err("a union is of 2 or more".into());
                }
            }
            "--seed" => self.seed = number(value)?,
            "--rounds" => self.rounds = number(value)?,
            "--budget-ms" => self.settings.effort.budget = Duration::from_millis(number(value)?),
            "--csv" => self.csv = value.into(),
            "--paired" => self.paired = value.into(),
            _ => return Err("unknown".into()),
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "not a number".to_owned())
}

fn numbers<T: std::str::FromStr>(text: &str) -> Result<Vec<T>, String> {
    text.split(',').map(number).collect()
}

fn picked<T: Copy, N: PartialEq + ToString>(
    names: impl Iterator<Item = N>,
    all: &[T],
    name_of: impl Fn(T) -> N,
) -> Result<Vec<T>, String> {
    let find = |name: N| {
        let found = all.iter().copied().find(|&item| name_of(item) == name);
        found.ok_or_else(|| format!("{} is none of them", name.to_string()))
    };
    names.map(find).collect()
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    if std::env::args().any(|argument| argument == "--help") {
        print!("{USAGE}");
        return;
    }
    let options = Options::parse(&root, std::env::args().skip(1));
    if let Err(error) = options.and_then(|options| bench(&root, &options)) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn bench(root: &Path, options: &Options) -> Result<(), String> {
    measure::weigh_croaring();
    let begin = Instant::now();
    let trace = Trace::find(root)?;
    let bandwidth = bandwidth();
    println!("{}", machine());
    println!("An OR of 256 MiB into 256 MiB moves {bandwidth:.1} GB/s, 1 thread.");
    let mut book = Book::default();
    let mut rng = Rng::new(options.seed);
    for (pattern, disk) in scenarios(options, trace.as_ref(), &mut book) {
        let count = inputs(pattern, disk, &options.settings.ks, &mut book);
        let start = Instant::now();
        let scenario = Scenario::new(pattern, disk, count, options.seed, trace.as_ref());
        let (letter, log2) = (pattern.letter(), disk.granules_log2);
        eprintln!("{letter} 2^{log2}: {count} inputs in {:.1} s", start.elapsed().as_secs_f64());
        for _ in 0..options.rounds {
            let mut runners: Vec<&Runner> = options.runners.iter().collect();
            rng.shuffle(&mut runners);
            for runner in runners {
                let start = Instant::now();
                (runner.run)(&scenario, &options.settings, &mut book);
                eprintln!("{letter} 2^{log2}: {} in {:.1} s", runner.name, start.elapsed().as_secs_f64());
            }
        }
    }
    report(options, &book, bandwidth).map_err(|error| format!("{}: {error}", options.csv.display()))?;
    let paired = match std::fs::read_to_string(&options.paired) {
        Ok(text) => Matrix::parse(&text).map_err(|error| format!("{}: {error}", options.paired.display()))?,
        Err(_) => Matrix::default(),
    };
    println!("\nThe matrix: {} cells measured in pairs before, the others from here.", paired.0.len());
    let matrix = book.rows().matrix(paired);
    println!("{}\n{}", matrix.table(), matrix.verdict());
    println!("\n{:.0} s in all, at most {:.1} GiB in memory.", begin.elapsed().as_secs_f64(), peak_gib());
    Ok(())
}

/// Every pattern on every disk; the trace comes with a disk of its own.
fn scenarios(options: &Options, trace: Option<&Trace>, book: &mut Book) -> Vec<(Pattern, Disk)> {
    let mut scenarios = Vec::new();
    for &pattern in &options.patterns {
        println!("{}: {}", pattern.letter(), pattern.describe());
        let disks = options.granules_log2.iter().map(|&log2| Disk::of_granules(log2));
        match (pattern, trace) {
            (Pattern::Trace, None) => book.leave_out("g: there is no trace; CHECKMAP_TRACE names one".into()),
            (Pattern::Trace, Some(trace)) => {
                scenarios.push((pattern, trace.own_disk()));
                for disk in disks {
                    if trace.fits(disk) {
                        scenarios.push((pattern, disk));
                    } else {
                        book.leave_out(format!("g 2^{}: the disk is too small for the tiles", disk.granules_log2));
                    }
                }
            }
            _ => scenarios.extend(disks.map(|disk| (pattern, disk))),
        }
    }
    scenarios
}

/// The number of inputs to draw: what the largest k needs that this pattern has.
fn inputs(pattern: Pattern, disk: Disk, ks: &[usize], book: &mut Book) -> usize {
    let (letter, log2) = (pattern.letter(), disk.granules_log2);
    let limit = match pattern {
        Pattern::Trace => Some((INTERVALS, "the trace is cut into 8 intervals")),
        Pattern::Dense if log2 >= 32 => Some((8, "8 inputs take 4 GiB already")),
        Pattern::Random if log2 >= 32 => Some((8, "64 inputs take 5.4 GiB, above 4")),
        _ => None,
    };
    if let Some((most, reason)) = limit {
        for k in ks.iter().filter(|&&k| k > most) {
            book.leave_out(format!("{letter} 2^{log2} k={k} union: {reason}"));
        }
    }
    let most = limit.map_or(usize::MAX, |(most, _)| most);
    ks.iter().copied().filter(|&k| k <= most).max().unwrap_or(2)
}

fn report(options: &Options, book: &Book, bandwidth: f64) -> std::io::Result<()> {
    let rows = book.rows();
    let mut out = std::io::stdout().lock();
    rows.write_table(&mut out)?;
    rows.write_verdict(bandwidth, &mut out)?;
    if let Some(folder) = options.csv.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut csv = Vec::new();
    rows.write_csv(&mut csv)?;
    std::fs::write(&options.csv, csv)?;
    writeln!(out, "\nWritten to {}.", options.csv.display())
}

/// What an OR in memory moves, in GB/s: two reads and a write.
fn bandwidth() -> f64 {
    const WORDS: usize = 32 << 20;
    let vector = |word: u64| {
        let mut words = roomy(WORDS);
        words.resize(WORDS, word);
        words
    };
    let (mut sum, other) = (vector(1), vector(2));
    let mut times: Vec<f64> = (0..5).map(|_| once(|| or_into(&mut sum, &other)).0.as_nanos() as f64).collect();
    (3 * 8 * WORDS) as f64 / median(&mut times)
}

/// The machine, as far as the system tells.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let huge = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let model = model.map_or("unknown CPU", |(_, model)| model);
    format!("{model}, {threads} threads; transparent huge pages: {}", huge.trim())
}

fn peak_gib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
    peak.unwrap_or(0.0) / f64::from(1 << 20)
}
