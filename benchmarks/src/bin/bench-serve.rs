//! nbdcopy of a whole image: from `checkmap serve`, which reads it itself, and from qemu-nbd, in turn. The image is full of data,
//! in clusters of 64 KiB, and in the system's memory; the copies go nowhere, so that the servers alone are measured. One copy
//! of each is compared first.
//!
//! `make bench-serve` in the project's root runs it.

use std::error::Error;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let program = args.next().ok_or("bench-serve PROGRAM [PAIRS] [MIB]")?;
    let pairs: usize = args.next().map_or(Ok(15), |pairs| pairs.parse())?;
    let mib: u64 = args.next().map_or(Ok(1024), |mib| mib.parse())?;
    let folder = PathBuf::from(std::env::var("TMPDIR").unwrap_or("/tmp".into())).join("checkmap-bench-serve");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder)?;
    let measured = measure(&program, &folder, pairs, mib);
    std::fs::remove_dir_all(&folder)?;
    measured
}

fn measure(program: &str, folder: &Path, pairs: usize, mib: u64) -> Result<()> {
    let (raw, image) = (folder.join("raw"), folder.join("disk.qcow2"));
    fill(&raw, mib)?;
    run(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).args([&raw, &image]))?;
    run(Command::new("qemu-img").args(["bitmap", "--add"]).arg(&image).arg("mon"))?;
    let ours = Server::start(folder, "ours", |socket| {
        let mut command = Command::new(program);
        command.arg("serve").arg(&image).args(["--quiet", "--since", "mon", "--socket"]).arg(socket);
        command
    })?;
    let theirs = Server::start(folder, "theirs", |socket| {
        let mut command = Command::new("qemu-nbd");
        command.args(["-r", "-t", "-e", "16", "-f", "qcow2", "-k"]).arg(socket).arg(&image);
        command
    })?;
    for server in [&ours, &theirs] {
        let copy = folder.join("copy");
        server.copy(copy.to_str().ok_or("a folder in UTF-8")?)?;
        run(Command::new("cmp").args([&raw, &copy]))?;
        std::fs::remove_file(&copy)?;
    }
    println!("nbdcopy of {mib} MiB of data to nowhere, in turn");
    println!("{:>5} {:>14} {:>14} {:>8}", "pair", "checkmap s", "qemu-nbd s", "pace");
    let mut paces = Vec::new();
    for pair in 1..=pairs {
        // Who begins changes, so that neither has the better place.
        let (first, second) = if pair % 2 == 0 { (&ours, &theirs) } else { (&theirs, &ours) };
        let (first, second) = (first.copy("null:")?, second.copy("null:")?);
        let (ours, theirs) = if pair % 2 == 0 { (first, second) } else { (second, first) };
        let pace = theirs.as_secs_f64() / ours.as_secs_f64();
        println!("{pair:>5} {:>14.3} {:>14.3} {pace:>8.2}", ours.as_secs_f64(), theirs.as_secs_f64());
        paces.push(pace);
    }
    paces.sort_by(f64::total_cmp);
    let (least, most) = (paces.first().copied(), paces.last().copied());
    let median = paces.get(paces.len() / 2).copied();
    let (Some(least), Some(most), Some(median)) = (least, most, median) else { return Err("no pairs".into()) };
    println!("median {median:.2} times qemu-nbd's pace, {least:.2} to {most:.2}");
    Ok(())
}

/// Bytes that no file system stores as a hole, the same in each run.
fn fill(path: &Path, mib: u64) -> Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut state = 1_u64;
    for _ in 0..mib << 17 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.write_all(&state.to_be_bytes())?;
    }
    file.flush()?;
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// A server that runs.
struct Server {
    child: Child,
    socket: PathBuf,
}

impl Server {
    fn start(folder: &Path, name: &str, command: impl FnOnce(&Path) -> Command) -> Result<Self> {
        let socket = folder.join(name);
        let mut child = command(&socket).stderr(Stdio::piped()).spawn()?;
        let deadline = Instant::now() + Duration::from_secs(60);
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                let mut told = String::new();
                child.stderr.take().ok_or("a pipe")?.read_to_string(&mut told)?;
                return Err(format!("{name} did not start: {told}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { child, socket })
    }

    /// Copies everything; how long it took.
    fn copy(&self, to: &str) -> Result<Duration> {
        let uri = format!("nbd+unix:///?socket={}", self.socket.display());
        let start = Instant::now();
        run(Command::new("nbdcopy").args([&uri, to]))?;
        Ok(start.elapsed())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
