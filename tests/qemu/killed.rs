//! Owns the proof that a QEMU which is killed between any two commands of a verb is found out: the verb ends with an error, and no chain
//! of before is taken for an intact one afterwards.

use crate::histories::DISKS;
use crate::support::hypervisor::{Hypervisor, Program};
use checkmap::ErrorKind;
use checkmap::chain::KnownModel;
use checkmap::image::{Access, DiffRequest, Image, OpenOptions};
use checkmap::progress::Unobserved;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use tempfile::TempDir;

/// The end of a conversation, before or behind one of its lines.
#[derive(Clone, Debug)]
pub(crate) enum Victim {
    Hypervisor(u32),
    /// The client, as soon as its number is known.
    Client(Arc<Mutex<Option<u32>>>),
    /// As `Client`, and what it sent before still reaches the monitor.
    ClientAlone(Arc<Mutex<Option<u32>>>),
    /// Nobody dies, and the connection breaks.
    Connection,
}

impl Victim {
    fn strike(&self) -> std::io::Result<()> {
        match self {
            Victim::Hypervisor(pid) => kill(*pid),
            Victim::Client(pid) => {
                kill(known(pid));
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            Victim::ClientAlone(pid) => kill(known(pid)),
            Victim::Connection => return Err(std::io::ErrorKind::BrokenPipe.into()),
        }
        Ok(())
    }
}

/// The number of a client, as soon as it is there.
fn known(pid: &Mutex<Option<u32>>) -> u32 {
    loop {
        if let Some(pid) = *pid.lock().expect("nothing panics") {
            return pid;
        }
        thread::yield_now();
    }
}

/// Forwards the lines of a client to a monitor, and strikes its victim before or behind one of them.
pub(crate) struct Proxy {
    pub(crate) socket: PathBuf,
    sent: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub(crate) fn start(hypervisor: &Hypervisor, kill_at: usize, forward: bool, victim: Victim) -> Self {
        let socket = hypervisor.folder.path().join("proxy");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("a socket");
        let sent: Arc<Mutex<Vec<String>>> = Arc::default();
        let proxy = Self { socket, sent: Arc::clone(&sent) };
        let qmp = hypervisor.qmp();
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                // A connection that breaks is over, on both sides.
                let _ = forward_lines(&client, &qmp, &sent, kill_at, forward, &victim);
                let _ = client.shutdown(std::net::Shutdown::Both);
            }
        });
        proxy
    }

    pub(crate) fn sent(&self) -> Vec<String> {
        self.sent.lock().expect("nothing panics").clone()
    }
}

fn forward_lines(
    mut client: &UnixStream,
    qmp: &Path,
    sent: &Mutex<Vec<String>>,
    kill_at: usize,
    forward: bool,
    victim: &Victim,
) -> std::io::Result<()> {
    let mut monitor = UnixStream::connect(qmp)?;
    let (mut from_monitor, mut to_client) = (monitor.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_monitor, &mut to_client);
        to_client.shutdown(std::net::Shutdown::Both)
    });
    let forwarded = BufReader::new(&mut client).lines().try_for_each(|line| {
        let line = line? + "\n";
        let count = {
            let mut sent = sent.lock().expect("nothing panics");
            sent.push(line.clone());
            sent.len()
        };
        if count == kill_at + 1 && !forward {
            victim.strike()?;
        }
        monitor.write_all(line.as_bytes())?;
        if count == kill_at + 1 && forward {
            victim.strike()?;
        }
        Ok(())
    });
    let _ = monitor.shutdown(std::net::Shutdown::Both);
    forwarded
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a process");
    // A child that nobody waited for is there until the test ends it.
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it was there");
}

pub(crate) fn checkmap(words: &[&str], socket: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
    command.arg(words[0]).arg("--qmp").arg(socket).args(&words[1..]).stdin(Stdio::null());
    command.output().expect("checkmap runs")
}

pub(crate) fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The verbs that change something.
const CHANGES: [&[&str]; 4] = [
    &["create", "wed"],
    &["delete", "tue"],
    &["rename", "tue", "x"],
    &["merge", "--node", "d0", "mon", "--into", "mon->tue"],
];

#[test]
fn a_machine_that_is_killed_between_two_commands_never_passes_for_intact() {
    if crate::support::hypervisors_are_here() {
        // The daemon below has the same code for the others, and starts in no time.
        let diff: &[&str] = &["diff", "--node", "d0", "--since", "mon"];
        kill_at_every_command(Program::System, &[CHANGES[0], CHANGES[1], diff]);
    }
}

#[test]
fn a_storage_daemon_that_is_killed_between_two_commands_never_passes_for_intact() {
    if crate::support::tools_are_here() {
        kill_at_every_command(Program::StorageDaemon, &CHANGES);
        // The daemon runs the NBD server through which the test writes.
        let diff: &[&str] = &["diff", "--node", "d0", "--since", "mon", "--until", "tue", "--nbd-socket", SERVER];
        let dump: &[&str] = &["dump", "--node", "d0", "--bitmap", "mon", "--nbd-socket", SERVER];
        kill_at_every_command(Program::StorageDaemon, &[diff, dump]);
    }
}

/// Stands for the socket of the NBD server that runs already.
const SERVER: &str = "the server that runs";

fn kill_at_every_command(program: Program, verbs: &[&[&str]]) {
    let first = Hypervisor::start(program, &DISKS);
    for checkpoint in ["mon", "tue"] {
        let output = checkmap(&["create", checkpoint], &first.qmp());
        assert!(output.status.success(), "{}", told(&output));
    }
    // Stored, so that the images have a chain that could be taken for intact.
    let stored = first.quit();
    for words in verbs {
        let mut kill_at = 0;
        loop {
            let context = format!("{program:?}, {words:?}, killed at {kill_at}");
            let folder = TempDir::with_prefix("hypervisor-").expect("a temporary folder");
            for name in ["d0.qcow2", "d1.qcow2"] {
                std::fs::copy(stored.path().join(name), folder.path().join(name)).expect("a copy");
            }
            let mut hypervisor = Hypervisor::start_on(folder, program, &DISKS);
            hypervisor.write(0, 1 << 20, 512);
            hypervisor.write(1, 1 << 20, 512);
            let proxy = Proxy::start(&hypervisor, kill_at, kill_at % 2 == 0, Victim::Hypervisor(hypervisor.pid()));
            let server = hypervisor.nbd_socket().unwrap_or_default();
            let server = server.to_str().expect("UTF-8");
            let words: Vec<&str> = words.iter().map(|word| if *word == SERVER { server } else { word }).collect();
            let output = checkmap(&words, &proxy.socket);
            let sent = proxy.sent();
            let was_sent = sent.iter().any(|line| line.contains("\"transaction\""));
            if sent.len() <= kill_at {
                assert!(output.status.success(), "{context}: {}", told(&output));
                break;
            }
            // Killed when all was done, or just before the answer came, or while it looked once more or tidied up.
            let was_done = sent.iter().take(kill_at + 1).any(|line| line.contains("\"transaction\""));
            let is_last = ["-del", "-stop", "query-"].iter().any(|part| sent[kill_at].contains(part));
            match output.status.code() {
                Some(1 | 3) => {}
                Some(0) => assert!(was_done || is_last, "{context}: {}", told(&output)),
                status => panic!("{context}: {status:?}: {}", told(&output)),
            }
            let in_doubt = told(&output).contains("may have been carried out or not");
            assert!(was_sent || !in_doubt, "{context}: {}", told(&output));

            let paths = [hypervisor.image(0), hypervisor.image(1)];
            let folder = hypervisor.kill();
            for path in &paths {
                let image = Image::open(path, &OpenOptions::new(Access::Read)).expect("it opens");
                for model in [None, Some(KnownModel::Interval)] {
                    let diff = image.diff(&DiffRequest::since(b"mon").model(model), &mut Unobserved);
                    let refused = diff.expect_err(&context);
                    // A single bitmap that does not record leaves the model open.
                    let is_fit = refused.kind() == ErrorKind::Inconsistent
                        || refused.kind() == ErrorKind::Model && model.is_none();
                    assert!(is_fit, "{context}: {refused}");
                }
            }
            if kill_at % 4 == 0 {
                let mut again = Hypervisor::start_on(folder, program, &DISKS);
                let listed = checkmap(&["list", "--node", "d0", "--model", "interval", "--json"], &again.qmp());
                assert!(listed.status.success(), "{context}: {}", told(&listed));
                let diff = checkmap(&["diff", "--node", "d0", "--model", "interval", "--since", "mon"], &again.qmp());
                assert_eq!(diff.status.code(), Some(3), "{context}: {}", told(&diff));
                // Folders of ours that were beside the socket of the one that was killed are gone.
                again.assert_tidy();
            }
            kill_at += 1;
        }
    }
}
