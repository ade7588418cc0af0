//! Running hypervisors for tests: real QEMUs with disks, a second monitor for the test itself, and a guest that writes. Must
//! never know what a test is about.

use super::run;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Which program runs the disks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// `qemu-storage-daemon`: the test writes over its NBD server, so no other one can run.
    StorageDaemon,
    /// `qemu-system-x86_64`, its processors stopped: the test writes by the monitor's `qemu-io`, above the nodes as a guest does.
    System,
}

/// A disk of a hypervisor: the name of its node, its size, and the options of `qemu-img create`.
#[derive(Clone, Copy, Debug)]
pub struct DiskSpec {
    pub node: &'static str,
    pub size_bytes: u64,
    pub options: &'static str,
}

/// A running hypervisor; it is killed at the end.
pub struct Hypervisor {
    pub folder: TempDir,
    pub program: Program,
    pub disks: Vec<DiskSpec>,
    child: Child,
    monitor: Qmp,
    writers: Vec<NbdWriter>,
}

impl Hypervisor {
    /// Makes the images and starts the program.
    pub fn start(program: Program, disks: &[DiskSpec]) -> Self {
        let folder = own_folder();
        for disk in disks {
            let path = image(folder.path(), disk.node);
            let size = disk.size_bytes.to_string();
            let mut words = vec!["create", "-q", "-f", "qcow2"];
            if !disk.options.is_empty() {
                words.extend(["-o", disk.options]);
            }
            words.extend([path.to_str().expect("UTF-8"), &size]);
            run("qemu-img", &words);
        }
        Self::start_on(folder, program, disks)
    }

    /// Starts the program on images that are there.
    pub fn start_on(folder: TempDir, program: Program, disks: &[DiskSpec]) -> Self {
        let at = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        for socket in ["qmp", "own", "guest-0", "guest-1", "writer"] {
            let _ = std::fs::remove_file(at(socket));
        }
        let mut command = match program {
            Program::StorageDaemon => Command::new("qemu-storage-daemon"),
            Program::System => Command::new("qemu-system-x86_64"),
        };
        let prefix = if program == Program::StorageDaemon { "--" } else { "-" };
        let option = |word: &str| format!("{prefix}{word}");
        if program == Program::System {
            command.args(["-machine", "q35", "-accel", "tcg", "-S", "-display", "none", "-nodefaults", "-m", "32"]);
        }
        for (id, socket) in [("m0", "qmp"), ("m1", "own"), ("m2", "guest-0"), ("m3", "guest-1")] {
            let chardev = format!("socket,id={id},path={},server=on,wait=off", at(socket));
            command.args([option("chardev"), chardev]);
            match program {
                Program::StorageDaemon => command.args(["--monitor", id]),
                Program::System => command.args(["-mon", &format!("chardev={id},mode=control")]),
            };
        }
        for disk in disks {
            let node = disk.node;
            let file = format!("file,filename={},node-name={node}-file", image(folder.path(), node).display());
            command.args([option("blockdev"), file]);
            command.args([option("blockdev"), format!("qcow2,file={node}-file,node-name={node},discard=unmap")]);
            if program == Program::System {
                command.args(["-device", &format!("virtio-blk-pci,drive={node},id={node}-device")]);
            }
        }
        if program == Program::StorageDaemon {
            command.args(["--nbd-server", &format!("addr.type=unix,addr.path={}", at("writer"))]);
            for disk in disks {
                let node = disk.node;
                command.args(["--export", &format!("nbd,id={node}-writer,node-name={node},name={node},writable=on")]);
            }
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the hypervisor starts");
        let monitor = Qmp::connect(&folder.path().join("own"));
        let mut hypervisor = Self { folder, program, disks: disks.to_vec(), child, monitor, writers: Vec::new() };
        if program == Program::StorageDaemon {
            for disk in disks {
                let writer = NbdWriter::connect(&hypervisor.folder.path().join("writer"), disk.node);
                hypervisor.writers.push(writer);
            }
        }
        hypervisor
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The socket of the monitor that is for checkmap.
    pub fn qmp(&self) -> PathBuf {
        self.folder.path().join("qmp")
    }

    /// The socket of the NBD server that the test writes through, where there is one.
    pub fn nbd_socket(&self) -> Option<PathBuf> {
        (self.program == Program::StorageDaemon).then(|| self.folder.path().join("writer"))
    }

    /// The image of a disk.
    pub fn image(&self, disk: usize) -> PathBuf {
        image(self.folder.path(), self.disks[disk].node)
    }

    /// A command on the test's own monitor, which must succeed.
    pub fn command(&mut self, name: &str, arguments: Value) -> Value {
        self.monitor.command(name, arguments).unwrap_or_else(|refusal| panic!("{name}: {refusal}"))
    }

    /// The same, with the refusal where it is refused.
    pub fn try_command(&mut self, name: &str, arguments: Value) -> Result<Value, Value> {
        self.monitor.command(name, arguments)
    }

    /// Writes as the guest does.
    pub fn write(&mut self, disk: usize, offset: u64, len_bytes: u64) {
        match self.program {
            Program::StorageDaemon => self.writers[disk].write(offset, len_bytes),
            Program::System => {
                let device = format!("/machine/peripheral/{}-device/virtio-backend", self.disks[disk].node);
                let line = format!("qemu-io -d {device} \"write -P 7 {offset} {len_bytes}\"");
                let said = self.command("human-monitor-command", json!({ "command-line": line }));
                assert_eq!(said, json!(""), "{line}");
            }
        }
    }

    /// A writer of its own, for another thread; over NBD only.
    pub fn another_writer(&self, disk: usize) -> NbdWriter {
        NbdWriter::connect(&self.nbd_socket().expect("a server"), self.disks[disk].node)
    }

    /// Whether nothing of checkmap's is in the hypervisor.
    pub fn assert_tidy(&mut self) {
        let exports = self.command("query-block-exports", json!({}));
        let nodes = self.command("query-named-block-nodes", json!({ "flat": true }));
        for (what, all) in [("exports", &exports), ("nodes", &nodes)] {
            assert!(!all.to_string().contains("checkmap-"), "{what} of checkmap are left: {all}");
        }
        for id in ["lock", "writable", "moment", "paused"] {
            let object = json!({ "path": format!("/objects/checkmap-{id}"), "property": "identity" });
            assert!(self.try_command("qom-get", object).is_err(), "the object checkmap-{id} is left");
        }
        for entry in std::fs::read_dir(self.folder.path()).expect("the folder can be listed").flatten() {
            assert!(!entry.file_name().to_string_lossy().starts_with("checkmap-"), "{entry:?} is left");
        }
    }

    /// Ends the program as an operator does, so that bitmaps are stored, and gives the images back.
    pub fn quit(mut self) -> TempDir {
        self.writers.clear();
        self.monitor.quit();
        self.child.wait().expect("it ends");
        std::mem::replace(&mut self.folder, own_folder())
    }

    /// Ends the program as a power cut does.
    pub fn kill(mut self) -> TempDir {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
        std::mem::replace(&mut self.folder, own_folder())
    }
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder whose name nobody takes for one of checkmap's own.
fn own_folder() -> TempDir {
    TempDir::with_prefix("hypervisor-").expect("a temporary folder")
}

fn image(folder: &Path, node: &str) -> PathBuf {
    folder.join(format!("{node}.qcow2"))
}

fn connect(path: &Path) -> UnixStream {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A monitor of the test's own.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    pub fn connect(path: &Path) -> Self {
        let mut qmp = Self { stream: BufReader::new(connect(path)) };
        qmp.line();
        qmp.command("qmp_capabilities", json!({})).expect("the monitor takes commands");
        qmp
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the monitor speaks");
        serde_json::from_str(&line).unwrap_or(Value::Null)
    }

    /// Asks the program to end; it may be gone before its answer comes.
    fn quit(&mut self) {
        let words = json!({ "execute": "quit" });
        self.stream.get_mut().write_all(format!("{words}\n").as_bytes()).expect("the monitor listens");
    }

    pub fn command(&mut self, name: &str, arguments: Value) -> Result<Value, Value> {
        let words = json!({ "execute": name, "arguments": arguments });
        self.stream.get_mut().write_all(format!("{words}\n").as_bytes()).expect("the monitor listens");
        loop {
            let answer = self.line();
            if let Some(content) = answer.get("return") {
                return Ok(content.clone());
            }
            if let Some(error) = answer.get("error") {
                return Err(error.clone());
            }
            // QEMU can greet a second time where somebody connects while it starts.
            let is_no_answer = answer.get("event").or(answer.get("QMP")).is_some();
            assert!(is_no_answer, "{name}: no answer: {answer}");
        }
    }
}

/// A client that writes over NBD: the simplest handshake, one request at a time.
pub struct NbdWriter {
    stream: UnixStream,
}

impl NbdWriter {
    pub fn connect(path: &Path, export: &str) -> Self {
        let mut stream = connect(path);
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).expect("a greeting");
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        // Fixed newstyle, no zeroes; then the option that names the export.
        let mut words = 3_u32.to_be_bytes().to_vec();
        words.extend(b"IHAVEOPT");
        words.extend(1_u32.to_be_bytes());
        words.extend(u32::try_from(export.len()).expect("a short name").to_be_bytes());
        words.extend(export.as_bytes());
        stream.write_all(&words).expect("the server listens");
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).expect("the export is there");
        Self { stream }
    }

    pub fn write(&mut self, offset: u64, len_bytes: u64) {
        let mut words = 0x2560_9513_u32.to_be_bytes().to_vec();
        words.extend([0, 0, 0, 1]);
        words.extend(7_u64.to_be_bytes());
        words.extend(offset.to_be_bytes());
        words.extend(u32::try_from(len_bytes).expect("a short write").to_be_bytes());
        words.resize(words.len() + usize::try_from(len_bytes).expect("a short write"), 7);
        self.stream.write_all(&words).expect("the server listens");
        let mut answer = [0; 16];
        self.stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "the write failed");
    }
}
