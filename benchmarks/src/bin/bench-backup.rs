//! Full backups of a disk of a running QEMU: by `checkmap backup`, which takes a moment of it, copies it and writes the checksums,
//! and by nbdcopy into a qemu-nbd that writes a qcow2 file, from an export of the same QEMU, in turn. Then increments: what each of their
//! bytes takes beside a byte of a full one. The disk is full of data and in the system's memory; the guest stands still, so that
//! nothing has to be copied before it is overwritten. Each copy is compared with the disk.
//!
//! `make bench-backup` in the project's root runs it.

use checkmap_benchmarks::programs::{Monitor, Result, connect, fill, in_folder, run, spread};
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const CLUSTER_BYTES: u64 = 64 << 10;
const CLUSTERS_IN_MIB: u64 = (1 << 20) / CLUSTER_BYTES;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let program = args.next().ok_or("bench-backup PROGRAM [PAIRS] [MIB]")?;
    let pairs: usize = args.next().map_or(Ok(15), |pairs| pairs.parse())?;
    let mib: u64 = args.next().map_or(Ok(1024), |mib| mib.parse())?;
    in_folder("checkmap-bench-backup", |folder| measure(&program, folder, pairs, mib))
}

fn measure(program: &str, folder: &Path, pairs: usize, mib: u64) -> Result<()> {
    let (raw, image) = (folder.join("raw"), folder.join("disk.qcow2"));
    fill(&raw, mib)?;
    run(Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).args([&raw, &image]))?;
    let mut machine = Machine::start(folder)?;
    let taken = folder.join("backup");
    let ours = |checkpoint: &str, is_full: bool| {
        let mut command = Command::new(program);
        command.args(["backup", "--quiet", "--qmp"]).arg(folder.join("qmp")).arg("-o").arg(&taken);
        command.args(["--checkpoint", checkpoint]).arg("--scratch").arg(folder).args(is_full.then_some("--full"));
        run(&mut command)
    };
    let compare = |copy: &Path| run(Command::new("qemu-img").args(["compare", "-q", "-F", "qcow2"]).args([&raw, copy]));
    println!("full backups of {mib} MiB of a running QEMU, in turn");
    println!("{:>5} {:>14} {:>14} {:>8}", "pair", "checkmap s", "nbdcopy s", "pace");
    let (mut paces, mut full, mut copied) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 1..=pairs {
        let checkpoint = format!("full{pair}");
        let by_nbdcopy = folder.join("copy.qcow2");
        // Who begins changes, so that neither has the better place.
        let (ours, theirs) = if pair % 2 == 0 {
            let ours = ours(&checkpoint, true)?;
            (ours, machine.nbdcopy(folder, &by_nbdcopy, mib, None)?)
        } else {
            let theirs = machine.nbdcopy(folder, &by_nbdcopy, mib, None)?;
            (ours(&checkpoint, true)?, theirs)
        };
        let by_checkmap = taken.join("disk.qcow2").join(format!("{checkpoint}.qcow2"));
        for copy in [&by_checkmap, &by_nbdcopy] {
            compare(copy)?;
            std::fs::remove_file(copy)?;
        }
        let pace = theirs.as_secs_f64() / ours.as_secs_f64();
        println!("{pair:>5} {:>14.3} {:>14.3} {pace:>8.2}", ours.as_secs_f64(), theirs.as_secs_f64());
        paces.push(pace);
        full.push(ours.as_secs_f64());
        copied.push(theirs.as_secs_f64());
    }
    let [least, median, most] = spread(&mut paces)?;
    println!("median {median:.2} times nbdcopy's pace, {least:.2} to {most:.2}");

    let ([_, full, _], [_, copied, _]) = (spread(&mut full)?, spread(&mut copied)?);
    let mut by_clusters = Vec::new();
    for _ in 0..pairs {
        let copy = folder.join("copy.qcow2");
        by_clusters.push(machine.nbdcopy(folder, &copy, mib, Some(CLUSTER_BYTES))?.as_secs_f64());
        std::fs::remove_file(copy)?;
    }
    let [_, by_clusters, _] = spread(&mut by_clusters)?;
    println!("nbdcopy with a request for each cluster: median {by_clusters:.3} s");
    let part = mib / 4;
    for is_scattered in [false, true] {
        std::fs::remove_dir_all(&taken)?;
        ours("base", true)?;
        println!("increments of {part} MiB, {}", if is_scattered { "one cluster of four" } else { "in one extent" });
        let (mut increments, mut empty) = (Vec::new(), Vec::new());
        for number in 1..=pairs {
            let (value, quarter) = (number % 200 + 1, number as u64 % 4);
            match is_scattered {
                false => machine.write(&format!("write -P {value} {}M {part}M", part * quarter))?,
                true => {
                    for at in 0..part * CLUSTERS_IN_MIB {
                        machine.write(&format!("write -P {value} {}k 64k", (at * 4 + quarter) * 64))?;
                    }
                }
            }
            increments.push(ours(&format!("increment{is_scattered}{number}"), false)?.as_secs_f64());
            empty.push(ours(&format!("empty{is_scattered}{number}"), false)?.as_secs_f64());
        }
        let ([least, increment, most], [_, empty, _]) = (spread(&mut increments)?, spread(&mut empty)?);
        let a_byte = |took: f64, mib: u64| took / mib as f64;
        println!(
            "median {increment:.3} s, {least:.3} to {most:.3}: a byte takes {:.2} times that of a full one, {:.2} times without the \
             {empty:.3} s that each takes where nothing changed; {:.2} times that of nbdcopy, {:.2} of nbdcopy by clusters",
            a_byte(increment, part) / a_byte(full, mib),
            a_byte(increment - empty, part) / a_byte(full - empty, mib),
            a_byte(increment, part) / a_byte(copied, mib),
            a_byte(increment, part) / a_byte(by_clusters, mib),
        );
    }
    Ok(())
}

/// A machine that stands still, with one disk and two monitors.
struct Machine {
    child: Child,
    monitor: Monitor,
}

impl Machine {
    fn start(folder: &Path) -> Result<Self> {
        let monitor = |name: &str| format!("unix:{},server=on,wait=off", folder.join(name).display());
        let mut child = Command::new("qemu-system-x86_64")
            .args(["-machine", "q35,accel=tcg", "-nodefaults", "-display", "none", "-S", "-m", "64"])
            .args(["-qmp", &monitor("qmp"), "-qmp", &monitor("own")])
            .arg("-blockdev")
            .arg(format!("qcow2,node-name=d0,file.driver=file,file.filename={}", folder.join("disk.qcow2").display()))
            .args(["-device", "virtio-blk-pci,drive=d0,id=vda"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        let is_alive = || match child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("qemu-system-x86_64: {status}").into()),
        };
        let monitor = Monitor::greet(connect(&folder.join("own"), is_alive)?)?;
        Ok(Self { child, monitor })
    }

    /// Writes as the guest would.
    fn write(&mut self, command: &str) -> Result<()> {
        let line = format!("qemu-io -d /machine/peripheral/vda/virtio-backend \"{command}\"");
        let said = self.monitor.command("human-monitor-command", &json!({ "command-line": line }))?;
        match said.as_str() {
            // Its answer goes to QEMU's own output; what went wrong is said here.
            Some(said) if !said.is_empty() => Err(format!("{command}: {said}").into()),
            _ => Ok(()),
        }
    }

    /// Copies the disk into a new qcow2 file, with requests of `request_bytes` each where that is told; how long the copy took.
    fn nbdcopy(&mut self, folder: &Path, copy: &Path, mib: u64, request_bytes: Option<u64>) -> Result<Duration> {
        let socket = folder.join("nbd");
        let address = json!({ "addr": { "type": "unix", "data": { "path": socket } } });
        self.monitor.command("nbd-server-start", &address)?;
        self.monitor
            .command("block-export-add", &json!({ "type": "nbd", "id": "e0", "node-name": "d0", "name": "" }))?;
        run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(copy).arg(format!("{mib}M")))?;
        let mut command = Command::new("nbdcopy");
        command.args(request_bytes.map(|bytes| format!("--request-size={bytes}")));
        command.arg("--").arg(format!("nbd+unix:///?socket={}", socket.display()));
        command.args(["[", "qemu-nbd", "-f", "qcow2"]).arg(copy).arg("]");
        let took = run(&mut command)?;
        self.monitor.command("nbd-server-stop", &json!({}))?;
        Ok(took)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
