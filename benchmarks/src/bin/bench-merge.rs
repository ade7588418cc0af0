//! The union of two bitmaps at granularities 16 times apart, beside QEMU's merge of the same two by QMP in a qemu-storage-daemon, in
//! pairs. QEMU's time is that of the answer less that of an empty command. What both come to is compared by its count.
//!
//! `make bench-merge` in the project's root runs it, and leaves target/bench-merge.csv. The disk has 16 TiB and no data.

use checkmap::{Bitmap, Granularity};
use checkmap_benchmarks::measure::{median, once};
use checkmap_benchmarks::programs::{Monitor, Nbd, Result, connect, in_folder};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const DISK: u64 = 16 << 40;
const FINE: u64 = 4 << 10;
const COARSE: u64 = 64 << 10;

/// Name, number of writes, bytes of each, and in which part of the disk they lie.
const CASES: [(&str, u64, u64, u64); 3] = [
    ("20,000 writes of 4 KiB", 20_000, 4 << 10, DISK),
    ("20,000 writes of 1 MiB", 20_000, 1 << 20, DISK),
    ("200,000 writes in 1 TiB", 200_000, 4 << 10, 1 << 40),
];

fn main() -> Result<()> {
    let pairs: usize = std::env::args().nth(1).map_or(Ok(15), |pairs| pairs.parse())?;
    in_folder("checkmap-bench-merge", |folder| measure(folder, pairs))
}

fn measure(folder: &Path, pairs: usize) -> Result<()> {
    let mut csv = "case,writes,into,qemu_ms,checkmap_ms,ratio,low,high\n".to_owned();
    println!(
        "{:<26} {:>8} {:>12} {:>12} {:>8} {:>8} {:>8}",
        "", "into", "QEMU ms", "checkmap ms", "ratio", "low", "high"
    );
    for (number, (name, count, len_bytes, part)) in (1_u64..).zip(CASES) {
        let mut daemon = Daemon::start(folder)?;
        let mut state = number;
        let fine = daemon.mark("fine", FINE, &writes(count, len_bytes, part, &mut state))?;
        let coarse = daemon.mark("coarse", COARSE, &writes(count, len_bytes, part, &mut state))?;
        for (into, (target, ours), (source, theirs)) in
            [("64 KiB", ("coarse", &coarse), ("fine", &fine)), ("4 KiB", ("fine", &fine), ("coarse", &coarse))]
        {
            let mut measured = Vec::new();
            for _ in 0..pairs {
                let (mut sum, granularity) = (ours.clone(), ours.granularity().bytes());
                let (time, done) = once(|| sum.union_with(theirs));
                done?;
                let (qemu, bytes) = daemon.merge(target, source, granularity)?;
                if bytes != sum.dirty_granules() * granularity {
                    return Err(format!("{name}: QEMU finds {bytes} bytes, checkmap {}", sum.dirty_bytes()).into());
                }
                measured.push([qemu, time.as_secs_f64() * 1e3]);
            }
            let mut ratios: Vec<f64> = measured.iter().map(|[qemu, ours]| qemu / ours).collect();
            let ratio = median(&mut ratios);
            // The interval of a median of 95 % by order statistics.
            let (half, reach) = (pairs as f64 / 2.0, 0.98 * (pairs as f64).sqrt());
            let place = |at: f64| ratios[(at.max(0.0) as usize).min(pairs - 1)];
            let (low, high) = (place(half - reach), place(half + reach));
            let column = |at: usize| median(&mut measured.iter().map(|pair| pair[at]).collect::<Vec<f64>>());
            let (qemu, ours) = (column(0), column(1));
            println!("{name:<26} {into:>8} {qemu:>12.3} {ours:>12.3} {ratio:>8.1} {low:>8.1} {high:>8.1}");
            writeln!(csv, "\"{name}, into {into}\",{count},{into},{qemu:.4},{ours:.4},{ratio:.2},{low:.2},{high:.2}")?;
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-merge.csv");
    std::fs::write(path, csv)?;
    Ok(())
}

/// Offset and length of random writes, at multiples of their length.
fn writes(count: u64, len_bytes: u64, part: u64, state: &mut u64) -> Vec<(u64, u64)> {
    let mut next = || {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 20) % (part / len_bytes) * len_bytes
    };
    (0..count).map(|_| (next(), len_bytes)).collect()
}

/// A storage daemon with an empty disk that takes writes and keeps nothing of them.
struct Daemon {
    child: Child,
    monitor: Monitor,
    writer: Nbd,
}

impl Daemon {
    fn start(folder: &Path) -> Result<Self> {
        let (monitor, server) = (folder.join("qmp"), folder.join("nbd"));
        let mut child = Command::new("qemu-storage-daemon")
            .args(["--chardev", &format!("socket,id=m0,path={},server=on,wait=off", monitor.display())])
            .args(["--monitor", "m0"])
            .args(["--blockdev", &format!("null-co,node-name=d0,size={DISK},read-zeroes=on")])
            .args(["--nbd-server", &format!("addr.type=unix,addr.path={}", server.display())])
            .args(["--export", "nbd,id=e0,node-name=d0,name=disk,writable=on"])
            .stdin(Stdio::null())
            .spawn()?;
        let is_alive = || match child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("qemu-storage-daemon: {status}").into()),
        };
        let monitor = Monitor::greet(connect(&monitor, is_alive)?)?;
        Ok(Self { child, monitor, writer: Nbd::connect(&server)? })
    }

    /// Lets QEMU record these writes in a bitmap, which is frozen then; the same bitmap in memory.
    fn mark(&mut self, name: &str, granularity: u64, writes: &[(u64, u64)]) -> Result<Bitmap> {
        self.monitor.command("block-dirty-bitmap-add", &named(name, json!({ "granularity": granularity })))?;
        let mut bitmap = Bitmap::new(DISK, Granularity::from_bytes(granularity)?)?;
        for &(offset, len_bytes) in writes {
            self.writer.request(6, offset, u32::try_from(len_bytes)?)?;
            bitmap.set(offset, len_bytes)?;
        }
        self.monitor.command("block-dirty-bitmap-disable", &named(name, json!({})))?;
        bitmap.optimize()?;
        Ok(bitmap)
    }

    /// Merges `source` into a copy of `target`: the milliseconds, and the bytes that the copy has then.
    fn merge(&mut self, target: &str, source: &str, granularity: u64) -> Result<(f64, u64)> {
        let copy = json!({ "granularity": granularity, "disabled": true });
        self.monitor.command("block-dirty-bitmap-add", &named("copy", copy))?;
        let merge = |bitmap: &str| json!({ "node": "d0", "target": "copy", "bitmaps": [bitmap] });
        self.monitor.command("block-dirty-bitmap-merge", &merge(target))?;
        let mut empty = Vec::new();
        for _ in 0..5 {
            let (time, done) = once(|| self.monitor.command("query-jobs", &json!({})));
            done?;
            empty.push(time.as_secs_f64() * 1e3);
        }
        let (time, done) = once(|| self.monitor.command("block-dirty-bitmap-merge", &merge(source)));
        done?;
        let nodes = self.monitor.command("query-named-block-nodes", &json!({ "flat": true }))?;
        let bitmaps = nodes.as_array().into_iter().flatten().filter_map(|node| node.get("dirty-bitmaps")?.as_array());
        let mut copy = bitmaps.flatten().filter(|bitmap| bitmap["name"] == "copy");
        let bytes = copy.next().and_then(|copy| copy["count"].as_u64()).ok_or("the copy is not there")?;
        self.monitor.command("block-dirty-bitmap-remove", &named("copy", json!({})))?;
        Ok((time.as_secs_f64() * 1e3 - median(&mut empty), bytes))
    }
}

fn named(name: &str, mut arguments: Value) -> Value {
    arguments["node"] = "d0".into();
    arguments["name"] = name.into();
    arguments
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
