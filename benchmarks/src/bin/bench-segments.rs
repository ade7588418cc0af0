//! The union of eight segments on disk, 4 GiB in all, page cache warm: `checkmap segment merge`, counted and written, beside
//! `cat` of the same bytes to /dev/null, and beside that `cat` plus `dd conv=fdatasync` of the output; as whole processes, in
//! turn. And what it costs to open a segment in memory and to count one range of it. Every answer is compared with a count
//! made from the inputs without checkmap.
//!
//! `make bench-segments` in the project's root runs it, in the folder that TMPDIR names.

#[path = "../child.rs"]
mod child;

use checkmap::io::Memory;
use checkmap::{Bitmap, Granularity, Segment, segment};
use child::wait;
use std::error::Error;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const INPUTS: u64 = 8;
const GRANULE: u64 = 4096;
/// The granules of a chunk, as 64-bit words.
const WORDS: usize = 1024;

/// What the chunks of all inputs look like.
#[derive(Clone, Copy, PartialEq)]
enum Pattern {
    /// 30 % random granules: words.
    Words,
    /// 1 % random granules: arrays.
    Arrays,
    /// Runs of 16 granules that cover 6 %.
    Runs,
}

impl Pattern {
    fn name(self) -> &'static str {
        match self {
            Self::Words => "30 % random (words)",
            Self::Arrays => "1 % random (arrays)",
            Self::Runs => "runs of 16, 6 % (runs)",
        }
    }

    /// Chunk `chunk` of input `input`: the same each time it is asked.
    fn fill(self, input: u64, chunk: u64, words: &mut [u64; WORDS]) {
        let mut state = (input << 40 | chunk).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = || {
            // xorshift64*
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d)
        };
        match self {
            Self::Words => words.fill_with(|| random() & (random() | random() & random())),
            Self::Arrays => {
                words.fill(0);
                for _ in 0..660 {
                    let bit = random() >> 48;
                    words[bit as usize / 64] |= 1 << (bit % 64);
                }
            }
            Self::Runs => {
                words.fill(0);
                for _ in 0..250 {
                    let first = (random() >> 48).min(65_535 - 16) as usize;
                    (first..first + 16).for_each(|bit| words[bit / 64] |= 1 << (bit % 64));
                }
            }
        }
    }
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if_eq("make").is_some() {
        return make(args);
    }
    if args.next_if_eq("open").is_some() {
        return open_and_count();
    }
    let checkmap =
        PathBuf::from(args.next().ok_or("usage: bench-segments open, or CHECKMAP [RUNS [CHUNKS [THREADS]]]")?);
    let runs: usize = args.next().map_or(Ok(5), |runs| runs.parse())?;
    let chunks: u64 = args.next().map_or(Ok(65536), |chunks| chunks.parse())?;
    let threads: String = args.next().unwrap_or_else(|| "2".into());
    for pattern in PATTERNS {
        let folder = std::env::temp_dir().join(format!("checkmap-bench-segments-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let outcome = play(pattern, &checkmap, runs, chunks, &threads, &folder);
        fs::remove_dir_all(&folder)?;
        outcome?;
    }
    open_and_count()
}

const PATTERNS: [Pattern; 3] = [Pattern::Words, Pattern::Arrays, Pattern::Runs];

/// Writes one input in a process of its own: what a child has resident counts from its parent's on.
fn write(pattern: Pattern, input: u64, chunks: u64, path: &Path) -> Result<u64> {
    let number = PATTERNS.iter().position(|other| *other == pattern).ok_or("a pattern")?;
    let numbers = [number.to_string(), input.to_string(), chunks.to_string()];
    match Command::new(std::env::current_exe()?).arg("make").args(numbers).arg(path).status()?.success() {
        true => Ok(fs::metadata(path)?.len()),
        false => Err("an input cannot be made".into()),
    }
}

fn make(mut args: impl Iterator<Item = String>) -> Result<()> {
    let mut number = || -> Result<u64> { Ok(args.next().ok_or("a number is missing")?.parse()?) };
    let (pattern, input, chunks) = (PATTERNS[number()? as usize], number()?, number()?);
    let path = PathBuf::from(args.next().ok_or("a path is missing")?);
    let mut words = [0; WORDS];
    let mut bitmap = Bitmap::new((chunks << 16) * GRANULE, Granularity::from_bytes(GRANULE)?)?;
    for chunk in 0..chunks {
        pattern.fill(input, chunk, &mut words);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bitmap.set_bits((chunk << 16) * GRANULE, &bytes)?;
    }
    let file = File::create(path)?;
    segment::write(&bitmap, &mut BufWriter::new(&file))?;
    Ok(file.sync_all()?)
}

/// The dirty granules of the union, from the words alone.
fn count(pattern: Pattern, chunks: u64) -> u64 {
    let (mut one, mut all) = ([0; WORDS], [0; WORDS]);
    let mut count = 0;
    for chunk in 0..chunks {
        all.fill(0);
        for input in 0..INPUTS {
            pattern.fill(input, chunk, &mut one);
            all.iter_mut().zip(&one).for_each(|(all, one)| *all |= one);
        }
        count += all.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
    }
    count
}

fn play(pattern: Pattern, checkmap: &Path, runs: usize, chunks: u64, threads: &str, folder: &Path) -> Result<()> {
    // As many chunks as make segments of the same length.
    let chunks = match pattern {
        Pattern::Words => chunks,
        Pattern::Arrays => chunks * 8192 / 1344,
        Pattern::Runs => chunks * 8192 / 1024,
    };
    let paths: Vec<PathBuf> = (0..INPUTS).map(|input| folder.join(format!("input-{input}"))).collect();
    let mut bytes = 0;
    for (input, path) in (0..).zip(&paths) {
        bytes += write(pattern, input, chunks, path)?;
    }
    let expected = count(pattern, chunks);
    let (output, copy) = (folder.join("output"), folder.join("copy"));
    let cat = || {
        let mut cat = Command::new("cat");
        cat.args(&paths).stdout(Stdio::from(File::options().write(true).open("/dev/null")?));
        run(&mut cat)
    };
    let merge = |how: &[&str]| {
        let mut merge = Command::new(checkmap);
        merge.args(["-q", "segment", "merge", "--threads", threads]).args(how).args(&paths);
        merge
    };
    let (mut cats, mut counts, mut writes, mut copies) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let answer = merge(&["--count"]).output()?;
    let answer = String::from_utf8(answer.stdout)?;
    if !answer.starts_with(&format!("{expected} granules ")) {
        return Err(format!("{}: {expected} granules are dirty, not: {answer}", pattern.name()).into());
    }
    let to = output.to_str().ok_or("a folder whose name is text")?;
    for number in 0..runs {
        for turn in 0..2 {
            match (turn + number) % 2 {
                0 => cats.push(cat()?),
                _ => counts.push(run(merge(&["--count"]).stdout(Stdio::null()))?),
            }
        }
        // Both begin with a disk that has nothing left to do.
        for turn in 0..2 {
            let _ = fs::remove_file(if (turn + number) % 2 == 0 { &output } else { &copy });
            Command::new("sync").status()?;
            match (turn + number) % 2 {
                0 => writes.push(run(&mut merge(&["-o", to]))?),
                _ => {
                    let source = if output.exists() { &output } else { &paths[0] };
                    let mut dd = Command::new("dd");
                    dd.args(["bs=1M", "conv=fdatasync", "status=none"]);
                    dd.arg(format!("if={}", source.display())).arg(format!("of={}", copy.display()));
                    let (one, two) = (cat()?, run(&mut dd)?);
                    // Before the first output there is, the first input stands for it.
                    let scale = fs::metadata(&copy)?.len() as f64;
                    copies.push((one.wall_ms, two.wall_ms, scale));
                }
            }
        }
    }
    let made = Segment::open_file(&output)?;
    if made.dirty_granules() != expected || !made.check(&mut checkmap::progress::Unobserved)?.is_empty() {
        return Err(format!("{}: what was written is not the union", pattern.name()).into());
    }
    let written = made.summary().file_bytes as f64;
    let directories: usize =
        paths.iter().map(|path| directory_bytes(path)).sum::<Result<usize>>()? + 41 * chunks as usize;
    let both: Vec<f64> = copies.iter().map(|(cat, dd, scale)| cat + dd * written / scale).collect();
    let (cat, count, write, both) = (wall(&cats), wall(&counts), wall(&writes), middle(both));
    let speed = |ms: f64| bytes as f64 / ms / 1e6;
    let peak = |runs: &[Run]| runs.iter().map(|run| run.peak_kib).max().unwrap_or(0) as f64 / 1024.0;
    println!(
        "{}, {:.2} GiB, {threads} threads: cat {cat:.0} ms ({:.2} GB/s); counted {count:.0} ms (cpu {:.0}, {:.2} GB/s): {:.0} % of cat, \
         peak {:.0} MiB; written ({:.2} GiB) {write:.0} ms (cpu {:.0}), cat and dd {both:.0} ms: {:.0} %, peak {:.0} MiB; directories {:.0} MiB",
        pattern.name(),
        bytes as f64 / (1_u64 << 30) as f64,
        speed(cat),
        cpu(&counts),
        speed(count),
        100.0 * cat / count,
        peak(&counts),
        written / (1_u64 << 30) as f64,
        cpu(&writes),
        100.0 * both / write,
        peak(&writes),
        directories as f64 / (1 << 20) as f64,
    );
    Ok(())
}

fn directory_bytes(path: &Path) -> Result<usize> {
    let segment = Segment::open_file(path)?;
    segment.forms()?;
    Ok(segment.heap_bytes())
}

/// A segment of 4096 chunks in memory, as `open_query` of `make bench-peers` has it.
fn open_and_count() -> Result<()> {
    for pattern in PATTERNS {
        let size = (4096 << 16) * GRANULE;
        let mut bitmap = Bitmap::new(size, Granularity::from_bytes(GRANULE)?)?;
        let mut words = [0; WORDS];
        for chunk in 0..4096 {
            pattern.fill(0, chunk, &mut words);
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            bitmap.set_bits((chunk << 16) * GRANULE, &bytes)?;
        }
        let mut bytes = Vec::new();
        segment::write(&bitmap, &mut bytes)?;
        let bytes: Arc<Memory<Vec<u8>>> = Arc::new(Memory(bytes));
        let (offset, len) = (size / 3 + 12_345, 1 << 30);
        let expected = bitmap.count_range(offset, len);
        let (mut opens, mut both) = (Vec::new(), Vec::new());
        for _ in 0..2000 {
            let started = Instant::now();
            let segment = Segment::open(bytes.clone())?;
            opens.push(started.elapsed().as_nanos() as f64);
            let counted = segment.count_range(offset, len)?;
            both.push(started.elapsed().as_nanos() as f64);
            if black_box(counted) != expected {
                return Err("a count is wrong".into());
            }
        }
        println!(
            "open a segment of 4096 chunks in memory, {}: {:.0} ns; with a count in 1 GiB: {:.0} ns",
            pattern.name(),
            middle(opens),
            middle(both)
        );
    }
    Ok(())
}

/// What one run took: wall clock, processor and the largest resident set.
#[derive(Clone, Copy)]
struct Run {
    wall_ms: f64,
    cpu_ms: f64,
    peak_kib: i64,
}

fn run(command: &mut Command) -> Result<Run> {
    let started = Instant::now();
    let child = command.spawn()?;
    let (status, usage) = wait(child)?;
    let wall_ms = started.elapsed().as_secs_f64() * 1e3;
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    match status.success() {
        true => Ok(Run { wall_ms, cpu_ms: ms(usage.ru_utime) + ms(usage.ru_stime), peak_kib: usage.ru_maxrss }),
        false => Err(format!("{command:?}: {status}").into()),
    }
}

fn wall(runs: &[Run]) -> f64 {
    middle(runs.iter().map(|run| run.wall_ms).collect())
}

fn cpu(runs: &[Run]) -> f64 {
    middle(runs.iter().map(|run| run.cpu_ms).collect())
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
