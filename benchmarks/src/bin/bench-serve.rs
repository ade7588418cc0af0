//! nbdcopy of a whole image: from `checkmap serve`, which reads it itself, and from qemu-nbd, in turn. The image is full of data,
//! in clusters of 64 KiB, and in the system's memory; the copies go nowhere, so that the servers alone are measured. One copy
//! of each is compared first.
//!
//! `make bench-serve` in the project's root runs it.

use checkmap_benchmarks::programs::{Result, connect, fill, in_folder, run, spread};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let program = args.next().ok_or("bench-serve PROGRAM [PAIRS] [MIB]")?;
    let pairs: usize = args.next().map_or(Ok(15), |pairs| pairs.parse())?;
    let mib: u64 = args.next().map_or(Ok(1024), |mib| mib.parse())?;
    in_folder("checkmap-bench-serve", |folder| measure(&program, folder, pairs, mib))
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
    let [least, median, most] = spread(&mut paces)?;
    println!("median {median:.2} times qemu-nbd's pace, {least:.2} to {most:.2}");
    Ok(())
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
        let mut told = child.stderr.take().ok_or("a pipe")?;
        connect(&socket, || match child.try_wait()? {
            None => Ok(()),
            Some(_) => {
                let mut text = String::new();
                told.read_to_string(&mut text)?;
                Err(format!("{name} did not start: {text}").into())
            }
        })?;
        Ok(Self { child, socket })
    }

    /// Copies everything; how long it took.
    fn copy(&self, to: &str) -> Result<Duration> {
        let uri = format!("nbd+unix:///?socket={}", self.socket.display());
        run(Command::new("nbdcopy").args([&uri, to]))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
