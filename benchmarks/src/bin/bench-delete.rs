//! Deleting a checkpoint in the middle of three, on a qcow2 image of 16 TiB: `checkmap delete` beside
//! `qemu-img bitmap --merge` and `--remove`, as whole processes, in turn, on copies of one image. The bitmaps that
//! both leave are compared.
//!
//! `make bench-delete` in the project's root runs it. The images are made by qemu-img and by discards through qemu-io,
//! which mark bitmaps without allocating data.

#[path = "../child.rs"]
mod child;

use child::wait;
use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const DISK: u64 = 16 << 40;
const BITMAPS: [&str; 3] = ["1", "1->2", "2->3"];

/// A state of the image: how many discards of 4 to 64 KiB each bitmap has recorded.
struct Case {
    name: &'static str,
    granularity: u64,
    discards: u64,
}

const CASES: &[Case] = &[
    Case { name: "64 KiB, nearly empty", granularity: 64 << 10, discards: 3 },
    Case { name: "64 KiB, 100,000 random writes", granularity: 64 << 10, discards: 100_000 },
    Case { name: "4 KiB, 100,000 random writes", granularity: 4 << 10, discards: 100_000 },
    Case { name: "64 KiB, 1 % random", granularity: 64 << 10, discards: 2_700_000 },
];

/// What one run took: wall clock, processor and the largest resident set.
#[derive(Clone, Copy)]
struct Run {
    wall_ms: f64,
    cpu_ms: f64,
    peak_kib: u64,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let checkmap = PathBuf::from(args.next().ok_or("usage: bench-delete CHECKMAP [RUNS [CASE,...]]")?);
    let runs: usize = args.next().map_or(Ok(5), |runs| runs.parse())?;
    let cases = args.next().map_or_else(|| Ok(CASES.iter().collect()), |numbers| chosen(&numbers))?;
    let folder = std::env::temp_dir().join(format!("checkmap-bench-{}", std::process::id()));
    fs::create_dir(&folder)?;
    let outcome = cases.into_iter().try_for_each(|case| play(case, &checkmap, runs, &folder));
    fs::remove_dir_all(&folder)?;
    outcome
}

/// The cases of a list of numbers, which count from 1.
fn chosen(numbers: &str) -> Result<Vec<&'static Case>> {
    let case = |number: &str| {
        let index: usize = number.trim().parse()?;
        CASES.get(index.wrapping_sub(1)).ok_or_else(|| format!("there is no case {number}").into())
    };
    numbers.split(',').map(case).collect()
}

fn play(case: &Case, checkmap: &Path, runs: usize, folder: &Path) -> Result<()> {
    let image = folder.join("image.qcow2");
    make(case, &image)?;
    let (ours, theirs) = (folder.join("ours.qcow2"), folder.join("theirs.qcow2"));
    let (mut our_runs, mut their_runs) = (Vec::new(), Vec::new());
    for number in 0..runs {
        // The copies are on the disk before the clock starts, and who begins takes turns.
        fs::copy(&image, &ours)?;
        fs::copy(&image, &theirs)?;
        Command::new("sync").status()?;
        for turn in [number % 2, 1 - number % 2] {
            if turn == 0 {
                our_runs.push(run(Command::new(checkmap).args(["-q", "delete"]).arg(&ours).arg("2"))?);
            } else {
                let merge = run(Command::new("qemu-img").args(["bitmap", "--merge", "1->2"]).arg(&theirs).arg("1"))?;
                let remove = run(Command::new("qemu-img").args(["bitmap", "--remove"]).arg(&theirs).arg("1->2"))?;
                their_runs.push(Run {
                    wall_ms: merge.wall_ms + remove.wall_ms,
                    cpu_ms: merge.cpu_ms + remove.cpu_ms,
                    peak_kib: merge.peak_kib.max(remove.peak_kib),
                });
            }
        }
    }
    if dump(checkmap, &ours)? != dump(checkmap, &theirs)? {
        return Err(format!("{}: the bitmaps differ", case.name).into());
    }
    let (ours, theirs) = (median(&our_runs), median(&their_runs));
    println!(
        "{}: checkmap {:.1} ms (cpu {:.1}), {} KiB; qemu-img {:.1} ms (cpu {:.1}), {} KiB; {:.1} times faster, cpu {:.1} times, \
         memory 1/{:.1}",
        case.name,
        ours.wall_ms,
        ours.cpu_ms,
        ours.peak_kib,
        theirs.wall_ms,
        theirs.cpu_ms,
        theirs.peak_kib,
        theirs.wall_ms / ours.wall_ms,
        theirs.cpu_ms / ours.cpu_ms,
        theirs.peak_kib as f64 / ours.peak_kib as f64,
    );
    Ok(())
}

/// The bits of the absorber, as one file of csv.
fn dump(checkmap: &Path, image: &Path) -> Result<Vec<u8>> {
    let output = Command::new(checkmap).args(["dump", "--bitmap", "1", "--format", "csv"]).arg(image).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(output.stdout)
}

fn make(case: &Case, image: &Path) -> Result<()> {
    let _ = fs::remove_file(image);
    command("qemu-img", &["create", "-q", "-f", "qcow2"], image, &[&DISK.to_string()])?;
    let mut random = 1_u64;
    for (number, name) in BITMAPS.iter().enumerate() {
        if number > 0 {
            command("qemu-img", &["bitmap", "--disable"], image, &[BITMAPS[number - 1]])?;
        }
        command("qemu-img", &["bitmap", "--add", "-g", &case.granularity.to_string()], image, &[name])?;
        let mut child = Command::new("qemu-io")
            .args(["-t", "unsafe", "-d", "unmap"])
            .arg(image)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let mut stdin = child.stdin.take().ok_or("qemu-io has no stdin")?;
        let mut commands = String::new();
        for _ in 0..case.discards {
            // xorshift64*
            random ^= random >> 12;
            random ^= random << 25;
            random ^= random >> 27;
            let value = random.wrapping_mul(0x2545_f491_4f6c_dd1d);
            let offset = ((value >> 20) % (DISK >> 12)) << 12;
            let len = (1 + value % 16) << 12;
            commands += &format!("discard {offset} {}\n", len.min(DISK - offset));
        }
        stdin.write_all(commands.as_bytes())?;
        drop(stdin);
        if !child.wait()?.success() {
            return Err("qemu-io failed".into());
        }
    }
    Ok(())
}

fn command(program: &str, before: &[&str], image: &Path, after: &[&str]) -> Result<()> {
    match Command::new(program).args(before).arg(image).args(after).status()?.success() {
        true => Ok(()),
        false => Err(format!("{program} {before:?} failed").into()),
    }
}

fn run(command: &mut Command) -> Result<Run> {
    let started = Instant::now();
    let child = command.spawn()?;
    let (status, usage) = wait(child)?;
    let wall_ms = started.elapsed().as_secs_f64() * 1e3;
    if !status.success() {
        return Err(format!("{command:?}: {status}").into());
    }
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    Ok(Run { wall_ms, cpu_ms: ms(usage.ru_utime) + ms(usage.ru_stime), peak_kib: usage.ru_maxrss.try_into()? })
}

fn median(runs: &[Run]) -> Run {
    let middle = |pick: fn(&Run) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Run {
        wall_ms: middle(|run| run.wall_ms),
        cpu_ms: middle(|run| run.cpu_ms),
        peak_kib: runs.iter().map(|run| run.peak_kib).max().unwrap_or(0),
    }
}
