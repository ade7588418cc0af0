#![forbid(unsafe_code)]
//! Counts the instructions of every operation on bitmaps, as times are noise on shared machines: callgrind runs this
//! program itself, once for each set of kernels, and the counts are held against those in `instructions.txt`.
//!
//! `make check-instructions` and `make bless-instructions` call it; without an argument it only checks the answers.
#![allow(clippy::print_stdout, reason = "what was counted is what this program is asked for")]

mod common;

use checkmap::kernels::{all_available, select};
use common::Pattern;
use common::operations::{COUNTED, COUNTED_LOG2, Meter, each};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

/// 64 chunks.
const GRANULES: u64 = 1 << 22;

const PATTERNS: [Pattern; 3] = [Pattern::Sparse, Pattern::OnePercent, Pattern::Runs];

/// The sets that are counted: those that valgrind's CPU has.
const KERNELS: [&str; 2] = ["portable", "avx2"];

/// A count may be this part larger or smaller than the committed one.
const TOLERANCE: f64 = 0.25;

/// On a large disk the last entry is looked for in two lists, as new ones wait in a list of their own; on a small one none
/// waits. This many instructions are more than that look takes, and fewer than any walk.
const COUNTED_SLACK: u64 = 100;

/// Name of operation and of kernels, and instructions.
type Counts = BTreeMap<(String, String), u64>;

fn main() -> ExitCode {
    let outcome = match env::args().nth(1).as_deref() {
        Some("check") => check(),
        Some("bless") => bless(),
        Some("run") => {
            println!("kernels {}", select().level.name());
            each(GRANULES, &PATTERNS, &mut Runner { checks: false });
            Ok(())
        }
        _ => {
            each(GRANULES, &PATTERNS, &mut Runner { checks: true });
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

struct Runner {
    checks: bool,
}

impl Meter for Runner {
    fn take<S, R>(
        &mut self,
        operation: &str,
        pattern: &str,
        prepare: impl Fn() -> S,
        run: impl Fn(S) -> R,
        check: impl FnOnce(R),
    ) {
        let result = written_operation(run, prepare());
        if self.checks {
            check(result);
        } else {
            println!("{operation}/{pattern}");
        }
    }
}

/// Where callgrind writes what it has counted; it takes but one order for one function, so there are two.
#[inline(never)]
fn written_operation<S, R>(run: impl Fn(S) -> R, state: S) -> R {
    std::hint::black_box(counted_operation(run, state))
}

/// What callgrind counts, and nothing else: it knows this function by its name.
#[inline(never)]
fn counted_operation<S, R>(run: impl Fn(S) -> R, state: S) -> R {
    std::hint::black_box(run(std::hint::black_box(state)))
}

/// Runs every operation once without callgrind, which checks the answers, and then once for each set of kernels with it.
fn count() -> Result<Counts, String> {
    each(GRANULES, &PATTERNS, &mut Runner { checks: true });
    let mut counts = Counts::new();
    for kernels in KERNELS {
        if !all_available().iter().any(|available| available.level.name() == kernels) {
            println!("this CPU has no {kernels}: not counted");
            continue;
        }
        let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        let names = run_callgrind(kernels, folder.path())?;
        for (number, name) in names.into_iter().enumerate() {
            let part = folder.path().join(format!("out.{}", number + 1));
            counts.insert((name, kernels.to_owned()), sum_of(&part)?);
        }
    }
    Ok(counts)
}

/// The names of the operations, in the order of the files that callgrind leaves in `folder`.
fn run_callgrind(kernels: &str, folder: &Path) -> Result<Vec<String>, String> {
    let program = env::current_exe().map_err(|error| format!("no path to this program: {error}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=*counted_operation*", "--dump-after=*written_operation*"])
        .arg(format!("--callgrind-out-file={}", folder.join("out").display()))
        .arg(program)
        .arg("run")
        .env("CHECKMAP_KERNELS", kernels)
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    if !output.status.success() {
        return Err(format!("valgrind: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    match lines.next() {
        Some(line) if line == format!("kernels {kernels}") => Ok(lines.map(str::to_owned).collect()),
        other => Err(format!("under valgrind this program did not run with {kernels}, but says {other:?}")),
    }
}

fn sum_of(part: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(part).map_err(|error| format!("callgrind left no {}: {error}", part.display()))?;
    let sum = text.lines().find_map(|line| line.strip_prefix("summary: ")?.trim().parse().ok());
    sum.filter(|&sum| sum > 0).ok_or_else(|| format!("{}: callgrind counted nothing", part.display()))
}

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.txt")
}

fn bless() -> Result<(), String> {
    let counts = count()?;
    if KERNELS.iter().any(|&kernels| !counts.keys().any(|(_, counted)| counted == kernels)) {
        return Err("counts are committed for every set of kernels together; this CPU lacks one".to_owned());
    }
    let mut text = String::from(
        "# Instructions by callgrind: operation/pattern, kernels, count. `make bless-instructions` writes this file.\n",
    );
    for ((name, kernels), count) in &counts {
        writeln!(text, "{name} {kernels} {count}").map_err(|error| error.to_string())?;
    }
    fs::write(committed(), text).map_err(|error| format!("{}: {error}", committed().display()))?;
    println!("{} counts are in {}", counts.len(), committed().display());
    Ok(())
}

fn read() -> Result<Counts, String> {
    let text = fs::read_to_string(committed()).map_err(|error| format!("{}: {error}", committed().display()))?;
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let key = (words.next()?.to_owned(), words.next()?.to_owned());
        Some((key, words.next()?.parse().ok()?))
    };
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| parse(line).ok_or_else(|| format!("instructions.txt: no operation, kernels and count: {line}")))
        .collect()
}

fn check() -> Result<(), String> {
    let (mut before, now) = (read()?, count()?);
    // What could not be counted here is not held against anything.
    before.retain(|(_, kernels), _| now.keys().any(|(_, counted)| counted == kernels));
    let mut wrong = 0;
    println!("{:<24} {:<10} {:>12} {:>12} {:>8}", "operation", "kernels", "committed", "now", "change");
    for ((name, kernels), &count) in &now {
        let Some(old) = before.remove(&(name.clone(), kernels.clone())) else {
            println!("{name:<24} {kernels:<10} {:>12} {count:>12} {:>8}  NEW", "-", "-");
            wrong += 1;
            continue;
        };
        #[allow(clippy::cast_precision_loss, reason = "a share is enough")]
        let change = count as f64 / old as f64 - 1.0;
        let verdict = match change {
            _ if change > TOLERANCE => "  MORE",
            _ if change < -TOLERANCE => "  LESS",
            _ => "",
        };
        wrong += usize::from(!verdict.is_empty());
        println!("{name:<24} {kernels:<10} {old:>12} {count:>12} {:>+7.1}%{verdict}", 100.0 * change);
    }
    for ((name, kernels), old) in &before {
        println!("{name:<24} {kernels:<10} {old:>12} {:>12} {:>8}  GONE", "-", "-");
        wrong += 1;
    }
    for kernels in KERNELS {
        let counted = COUNTED_LOG2.map(|log2| now.get(&(format!("{COUNTED}/2^{log2}"), kernels.to_owned())));
        if let [Some(small), Some(large)] = counted
            && small.abs_diff(*large) > COUNTED_SLACK
        {
            return Err(format!("{COUNTED} depends on the disk's size: {counted:?} instructions with {kernels}"));
        }
    }
    if wrong == 0 {
        return Ok(());
    }
    Err(format!(
        "\n{wrong} counts are not within {:.0} % of those in benches/instructions.txt. If that is meant, and a gain or a price \
         worth paying, run `make bless-instructions` and commit the file; if not, find out what the change made the engine do.",
        100.0 * TOLERANCE
    ))
}
