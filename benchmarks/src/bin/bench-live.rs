//! A diff of a running machine: checkmap, which reads the bitmaps as they are over NBD, beside QEMU's own merge into a new
//! bitmap, in turn, on one disk of 16 TiB with five bitmaps of 4 KiB. Measured is the longest time that another client of
//! the disk waits for a read meanwhile. What both find dirty is compared.
//!
//! `make bench-live` in the project's root runs it. The bitmaps are marked by discards over NBD, which allocate no data.

use checkmap::image::{Access, DiffRequest, Image, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::qemu::{Machine, Monitor, Options};
use checkmap_benchmarks::programs::{self, Nbd, Result, connect, in_folder, run, spread};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const DISK: u64 = 16 << 40;
const GRANULARITY: u64 = 4096;
const BITMAPS: usize = 5;

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let runs: usize = args.next().map_or(Ok(5), |runs| runs.parse())?;
    // Each discard of 64 KiB marks 16 granules; 1250 of them make 20,000 for each bitmap.
    let discards: u64 = args.next().map_or(Ok(1250), |discards| discards.parse())?;
    in_folder("checkmap-bench-live", |folder| measure(folder, runs, discards))
}

fn measure(folder: &Path, runs: usize, discards: u64) -> Result<()> {
    let mut daemon = Daemon::start(folder)?;
    let mut writer = Nbd::connect(&daemon.server)?;
    let mut state = 1_u64;
    for at in 0..BITMAPS {
        let name = name_of(at);
        let add = json!({ "node": "d0", "name": name, "granularity": GRANULARITY, "persistent": true });
        daemon.monitor.command("block-dirty-bitmap-add", &add)?;
        for _ in 0..discards {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            writer.request(4, ((state >> 20) % (DISK >> 16)) << 16, 65536)?;
        }
        daemon.monitor.command("block-dirty-bitmap-disable", &json!({ "node": "d0", "name": name }))?;
    }
    let last = json!({ "node": "d0", "name": name_of(BITMAPS), "granularity": GRANULARITY, "persistent": true });
    daemon.monitor.command("block-dirty-bitmap-add", &last)?;
    println!(
        "16 TiB, {BITMAPS} bitmaps of 4 KiB, {} dirty granules each; the longest wait of a reader, and all",
        discards * 16
    );
    println!(
        "{:>6} {:>14} {:>12} {:>14} {:>12} {:>8}",
        "run", "QEMU wait ms", "all ms", "diff wait ms", "all ms", "ratio"
    );
    let (mut merges, mut diffs) = (Vec::new(), Vec::new());
    for run in 1..=runs {
        let (dirty_of_qemu, merge) = watched(&daemon.server.clone(), || daemon.merge())?;
        let (dirty_of_ours, diff) = watched(&daemon.server.clone(), || ours(folder, &daemon.server))?;
        if dirty_of_qemu != dirty_of_ours {
            return Err(format!("QEMU finds {dirty_of_qemu} bytes dirty, checkmap {dirty_of_ours}").into());
        }
        println!(
            "{run:>6} {:>14.1} {:>12.1} {:>14.1} {:>12.1} {:>8.1}",
            merge.wait,
            merge.all,
            diff.wait,
            diff.all,
            merge.wait / diff.wait
        );
        merges.push(merge.wait);
        diffs.push(diff.wait);
    }
    let ([_, merge, _], [_, diff, _]) = (spread(&mut merges)?, spread(&mut diffs)?);
    println!("median: {merge:.1} ms beside {diff:.1} ms: {:.1} times", merge / diff);
    Ok(())
}

/// The checkpoints `c0` to `c5`: the bitmap of each is named after it and the one before.
fn name_of(at: usize) -> String {
    if at == 0 { "c0".to_owned() } else { format!("c{}->c{at}", at - 1) }
}

/// checkmap's diff over the frozen bitmaps; the bytes that it finds.
fn ours(folder: &Path, server: &Path) -> Result<u64> {
    let options = Options::default().nbd_socket(Some(server.to_owned()));
    let machine = Machine::connect(Monitor::Socket(folder.join("qmp")), &options, &mut Unobserved)?;
    let disk = machine.find("d0")?;
    let image = Image::on(machine.host(&disk)?, Path::new("d0"), &OpenOptions::new(Access::Read));
    let until = format!("c{BITMAPS}");
    let diff = image.diff(&DiffRequest::since(b"c0").until(until.as_bytes()), &mut Unobserved)?;
    Ok(diff.bitmap.dirty_bytes())
}

/// What one run took, in milliseconds.
struct Took {
    wait: f64,
    all: f64,
}

/// Runs `work` while another client reads all the time; the longest that it waited.
fn watched<T>(server: &Path, work: impl FnOnce() -> Result<T>) -> Result<(T, Took)> {
    let mut reader = Nbd::connect(server)?;
    let (stop, longest) = (AtomicBool::new(false), AtomicU64::new(0));
    let (done, all) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                if reader.request(0, 0, 4096).is_err() {
                    return;
                }
                longest.fetch_max(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        // The reader is at work before.
        std::thread::sleep(Duration::from_millis(50));
        longest.store(0, Ordering::Relaxed);
        let start = Instant::now();
        let done = work();
        let all = start.elapsed();
        std::thread::sleep(Duration::from_millis(20));
        stop.store(true, Ordering::Relaxed);
        (done, all)
    });
    let wait = longest.load(Ordering::Relaxed) as f64 / 1e6;
    Ok((done?, Took { wait, all: all.as_secs_f64() * 1e3 }))
}

/// A storage daemon with one disk, two monitors and an NBD server.
struct Daemon {
    child: Child,
    monitor: programs::Monitor,
    server: PathBuf,
}

impl Daemon {
    fn start(folder: &Path) -> Result<Self> {
        let image = folder.join("disk.qcow2");
        run(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&image).arg("16T"))?;
        let server = folder.join("nbd");
        let socket =
            |id: &str, name: &str| format!("socket,id={id},path={},server=on,wait=off", folder.join(name).display());
        let mut child = Command::new("qemu-storage-daemon")
            .args(["--chardev", &socket("m0", "qmp"), "--monitor", "m0"])
            .args(["--chardev", &socket("m1", "own"), "--monitor", "m1"])
            .args(["--blockdev", &format!("file,filename={},node-name=f0", image.display())])
            .args(["--blockdev", "qcow2,file=f0,node-name=d0,discard=unmap"])
            .args(["--nbd-server", &format!("addr.type=unix,addr.path={}", server.display())])
            .args(["--export", "nbd,id=e0,node-name=d0,name=disk,writable=on"])
            .stdin(Stdio::null())
            .spawn()?;
        let is_alive = || match child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("qemu-storage-daemon: {status}").into()),
        };
        let monitor = programs::Monitor::greet(connect(&folder.join("own"), is_alive)?)?;
        Ok(Self { child, monitor, server })
    }

    /// QEMU's own union of the frozen bitmaps; the bytes that it has.
    fn merge(&mut self) -> Result<u64> {
        let frozen: Vec<String> = (0..BITMAPS).map(name_of).collect();
        let actions = json!({ "actions": [
            { "type": "block-dirty-bitmap-add",
              "data": { "node": "d0", "name": "union", "granularity": GRANULARITY, "disabled": true } },
            { "type": "block-dirty-bitmap-merge", "data": { "node": "d0", "target": "union", "bitmaps": frozen } },
        ] });
        self.monitor.command("transaction", &actions)?;
        let nodes = self.monitor.command("query-named-block-nodes", &json!({ "flat": true }))?;
        let bitmaps = nodes.as_array().into_iter().flatten().filter_map(|node| node.get("dirty-bitmaps")?.as_array());
        let mut union = bitmaps.flatten().filter(|bitmap| bitmap["name"] == "union");
        let dirty = union.next().and_then(|union| union["count"].as_u64()).ok_or("the union is not there")?;
        self.monitor.command("block-dirty-bitmap-remove", &json!({ "node": "d0", "name": "union" }))?;
        Ok(dirty)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
