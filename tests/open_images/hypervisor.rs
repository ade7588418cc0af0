//! The order in which docs/embedding.md lets a hypervisor use the library on an image that it has open, step by step
//! against a real QEMU.

use crate::support::ours::changed;
use crate::support::{TestImage, run, try_run};
use crate::{kind, needs_tools, unlocked};
use checkmap::image::{Access, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{ErrorKind, Extent, Image};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A qemu-storage-daemon that has the image open, in the part of the hypervisor.
struct Hypervisor {
    daemon: Child,
    monitor: BufReader<UnixStream>,
    image: TestImage,
}

impl Hypervisor {
    fn start(image: TestImage) -> Self {
        let socket = image.folder.path().join("qmp");
        let mut daemon = Command::new("qemu-storage-daemon");
        daemon.arg("--chardev").arg(format!("socket,id=m,path={},server=on,wait=off", socket.display()));
        daemon.args(["--monitor", "m", "--nbd-server"]);
        daemon.arg(format!("addr.type=unix,addr.path={}", image.folder.path().join("nbd").display()));
        let daemon = daemon.spawn().expect("qemu-storage-daemon starts");
        let deadline = Instant::now() + Duration::from_secs(60);
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "qemu-storage-daemon did not start: {error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut hypervisor = Self { daemon, monitor: BufReader::new(stream), image };
        assert!(hypervisor.message().get("QMP").is_some(), "a greeting comes first");
        hypervisor.run("qmp_capabilities", json!({}));
        hypervisor.add_nodes();
        hypervisor
    }

    fn message(&mut self) -> Value {
        let mut line = String::new();
        self.monitor.read_line(&mut line).expect("the monitor speaks");
        serde_json::from_str(&line).expect("the monitor speaks JSON")
    }

    fn try_run(&mut self, command: &str, arguments: Value) -> Value {
        let line = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        self.monitor.get_mut().write_all(line.as_bytes()).expect("the monitor listens");
        loop {
            let message = self.message();
            // QEMU can greet a second time where somebody connects while it starts.
            if message.get("event").is_none() && message.get("QMP").is_none() {
                return message;
            }
        }
    }

    fn run(&mut self, command: &str, arguments: Value) -> Value {
        let message = self.try_run(command, arguments);
        assert!(message.get("return").is_some(), "{command}: {message}");
        message["return"].clone()
    }

    fn add_nodes(&mut self) {
        let path = self.image.path.to_str().expect("a path in UTF-8").to_owned();
        self.run("blockdev-add", json!({"driver": "file", "node-name": "file", "filename": path}));
        self.run("blockdev-add", json!({"driver": "qcow2", "node-name": "format", "file": "file"}));
    }

    fn remove_nodes(&mut self) {
        self.run("blockdev-del", json!({"node-name": "format"}));
        self.run("blockdev-del", json!({"node-name": "file"}));
    }

    fn set_active(&mut self, node: &str, active: bool) {
        self.run("blockdev-set-active", json!({"node-name": node, "active": active}));
    }

    fn export(&mut self) {
        let export = json!({"type": "nbd", "id": "guest", "node-name": "format", "name": "disk", "writable": true});
        self.run("block-export-add", export);
    }

    /// Ends the export, and waits until it is gone.
    fn end_export(&mut self) {
        self.run("block-export-del", json!({"id": "guest", "mode": "hard"}));
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.run("query-block-exports", json!({})) != json!([]) {
            assert!(Instant::now() < deadline, "the export does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A write of the guest, while the image is exported.
    fn write(&self, pattern: u8, offset: u64, len_bytes: u64) {
        let uri = format!("nbd+unix:///disk?socket={}", self.image.folder.path().join("nbd").display());
        let write = format!("write -P {pattern} {offset} {len_bytes}");
        let output = try_run("qemu-io", &["-f", "raw", "-c", &write, "-c", "flush", &uri]);
        assert!(output.status.success(), "{output:?}");
    }

    fn quit(mut self) -> TestImage {
        self.run("quit", json!({}));
        self.daemon.wait().expect("it ends");
        let folder = crate::support::folder();
        let path = folder.path().join("gone");
        std::mem::replace(&mut self.image, TestImage { folder, path })
    }
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

const MIB: u64 = 1 << 20;

fn extent(offset: u64, len_bytes: u64) -> Extent {
    Extent { offset, len_bytes }
}

/// Makes the checkpoint `tue` as a program beside the hypervisor does: opened plainly, with locks.
fn create_tuesday(hypervisor: &Hypervisor) {
    let mut image = hypervisor.image.open(Access::Write);
    assert!(image.is_locked());
    assert_eq!(changed(&image, "mon", None), [extent(0, MIB)], "what the guest wrote is stored");
    let plan = image.plan_create(b"tue", None, None).expect("it can be planned");
    image.commit(&plan, &mut Unobserved).expect("it can be done");
}

/// Neither way in while QEMU has the image.
fn assert_held(image: &TestImage) {
    for access in [Access::Read, Access::Write] {
        assert_eq!(kind(Image::open(&image.path, &OpenOptions::new(access))), ErrorKind::InUse);
        assert_eq!(kind(unlocked(&image.path, access)), ErrorKind::InUse);
    }
}

/// The image after the hypervisor's end: sound, with each write in the interval in which it came.
fn assert_recorded(image: &TestImage) {
    image.assert_sound("the hypervisor's end");
    assert_eq!(image.checkpoints(), ["mon", "tue"]);
    assert_eq!(image.changed("mon", Some("tue")), [extent(0, MIB)]);
    assert_eq!(image.changed("tue", None), [extent(8 * MIB, 2 * MIB)]);
    let content = image.content();
    let all = |at: u64, len: u64, pattern: u8| {
        let start = usize::try_from(at).expect("small");
        content[start..start + usize::try_from(len).expect("small")].iter().all(|byte| *byte == pattern)
    };
    assert!(all(0, MIB, 1) && all(8 * MIB, 2 * MIB, 2), "what the guest wrote is there");
}

/// SHA-256 by coreutils.
fn sha256(bytes: &[u8]) -> String {
    let folder = crate::support::folder();
    let path = folder.path().join("bytes");
    std::fs::write(&path, bytes).expect("it can be written");
    let printed = run("sha256sum", &[&path]);
    printed.split_whitespace().next().expect("a sum").to_owned()
}

#[test]
fn the_hash_that_qemu_shows_of_a_bitmap_is_that_of_its_bits_padded_to_eight_bytes() {
    needs_tools!();
    // 1024, 160 and 16 granules, and 1 with a last one that is cut.
    for size in [64 * MIB, 10 * MIB, MIB, 512] {
        let image = TestImage::create("", &size.to_string());
        image.create_checkpoint("mon", None, None);
        let mut hypervisor = Hypervisor::start(image);
        hypervisor.export();
        hypervisor.write(1, 0, 512);
        if size == 64 * MIB {
            hypervisor.write(1, 8 * MIB, 8 * MIB);
        }
        let shown = hypervisor.run("x-debug-block-dirty-bitmap-sha256", json!({"node": "format", "name": "mon"}));
        hypervisor.end_export();
        let image = hypervisor.quit();
        let opened = image.open(Access::Read);
        let bitmap = opened.read_bitmap(&opened.bitmaps()[0].name, 0, u64::MAX).expect("it is stored");
        let bytes = usize::try_from(bitmap.granules().div_ceil(64) * 8).expect("few");
        let mut bits = vec![0; bytes];
        bitmap.copy_bits(0, &mut bits).expect("all of them");
        assert_eq!(shown["sha256"], sha256(&bits), "a disk of {size} bytes");
    }
}

fn exported() -> Hypervisor {
    let image = TestImage::create("", "64M");
    image.create_checkpoint("mon", None, None);
    let mut hypervisor = Hypervisor::start(image);
    hypervisor.export();
    hypervisor.write(1, 0, MIB);
    assert_held(&hypervisor.image);
    hypervisor
}

#[test]
fn an_image_is_changed_while_its_nodes_are_inactive() {
    needs_tools!();
    let mut hypervisor = exported();
    let answer = hypervisor.try_run("blockdev-set-active", json!({"node-name": "nowhere", "active": false}));
    if answer["error"]["class"] == "CommandNotFound" {
        eprintln!("this QEMU has no blockdev-set-active: its nodes are removed, see the next test");
        return;
    }
    // QEMU itself refuses what would be unsafe: a writer that is left, and the wrong order.
    for node in ["format", "file"] {
        let answer = hypervisor.try_run("blockdev-set-active", json!({"node-name": node, "active": false}));
        assert!(answer.get("error").is_some(), "{node}: {answer}");
    }
    hypervisor.end_export();
    hypervisor.set_active("format", false);
    hypervisor.set_active("file", false);
    create_tuesday(&hypervisor);
    hypervisor.set_active("file", true);
    hypervisor.set_active("format", true);
    hypervisor.export();
    hypervisor.write(2, 8 * MIB, 2 * MIB);
    assert_held(&hypervisor.image);
    assert_recorded(&hypervisor.quit());
}

#[test]
fn an_image_is_changed_while_its_nodes_are_removed() {
    needs_tools!();
    let mut hypervisor = exported();
    hypervisor.end_export();
    hypervisor.remove_nodes();
    create_tuesday(&hypervisor);
    hypervisor.add_nodes();
    hypervisor.export();
    hypervisor.write(2, 8 * MIB, 2 * MIB);
    assert_recorded(&hypervisor.quit());
}
