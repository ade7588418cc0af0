//! Owns the proof that a virsh which breaks every rule ends in an error with a reason and a way out, changes nothing behind anybody's
//! back, and has nothing of ours left behind.

use crate::hostile::{tidy_afterwards, two_disks};
use crate::support::qmp_server::{Mock, State};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A domain whose monitor is a mock, and the mock of virsh that leads to it.
struct Domain {
    mock: Mock,
}

impl Domain {
    fn start() -> Self {
        let domain = Self { mock: Mock::start(two_disks()) };
        let script = domain.file("virsh");
        fs::write(&script, include_str!("../support/virsh.py")).expect("a script");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("it can be run");
        domain.behave();
        domain
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.mock.folder.path().join(name)
    }

    /// In the call of this number and all later ones virsh does this.
    fn meddle(&self, at: usize, deed: &str, words: &str) {
        fs::write(self.file("deed"), format!("{at}\t{deed}\t{words}")).expect("written");
        fs::write(self.file("calls"), "").expect("written");
    }

    fn behave(&self) {
        self.meddle(usize::MAX / 2, "none", "");
    }

    /// The names of the QMP commands that came by virsh, and of its own.
    fn calls(&self) -> Vec<String> {
        let name = |line: &str| {
            let words: Vec<&str> = line.splitn(3, '\t').collect();
            match words.get(2) {
                Some(command) if words[0] == "qemu-monitor-command" => {
                    let command: Value = serde_json::from_str(command).expect("a command");
                    command["execute"].as_str().expect("a name").to_owned()
                }
                _ => words[0].to_owned(),
            }
        };
        fs::read_to_string(self.file("calls")).expect("it is there").lines().map(name).collect()
    }

    fn checkmap(&self, words: &[&str], timeout: &str) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new(env!("CARGO_BIN_EXE_checkmap"))
            .args([words[0], "--libvirt", "mock:///", "--domain", "web", "--timeout", timeout])
            .args(&words[1..])
            .env("PATH", format!("{}:{path}", self.mock.folder.path().display()))
            .env("TMPDIR", self.mock.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("checkmap runs");
        // Far more than all timeouts together.
        let deadline = Instant::now() + Duration::from_secs(120);
        while child.try_wait().expect("it is ours").is_none() {
            if Instant::now() >= deadline {
                child.kill().expect("it can be killed");
                panic!("{words:?} does not end: {:?}", self.calls());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        child.wait_with_output().expect("its output")
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The calls of a verb where all goes well, and the disks afterwards.
fn whole(words: &[&str]) -> (Vec<String>, State) {
    let domain = Domain::start();
    let output = domain.checkmap(words, "60");
    assert!(output.status.success(), "{words:?}: {}", told(&output));
    domain.mock.assert_tidy("all went well");
    let state = domain.mock.state().clone();
    (domain.calls(), state)
}

/// What virsh does, its words, a part of what has to be said, and the exit status where nothing
/// was sent yet.
const DEEDS: &[(&str, &str, &str, i32)] = &[
    ("say", "", "no JSON", 1),
    ("say", "Welcome to virsh\n", "no JSON", 1),
    ("say", "[]", "\"return\"", 1),
    ("say", "{}", "\"return\"", 1),
    ("say", "{\"error\": {\"class\": 7}}", "\"class\"", 1),
    ("say", "{\"return\": 18446744073709551616}", "field", 1),
    ("say", "{\"error\":{\"class\":\"GenericError\",\"desc\":\"Something broke\"}}", "Something broke", 1),
    ("raw", "", "JSON", 1),
    ("half", "", "no JSON", 1),
    ("endless", "", "longer than", 1),
    ("die", "", "signal: 9", 1),
    ("fail", "", "it said nothing", 1),
    ("fail", "error: failed to get domain 'web'\n", "virsh list", 3),
    ("fail", "error: Requested operation is not valid: domain is not running\n", "while it is off", 3),
    (
        "fail",
        "error: failed to connect to the hypervisor\nerror: Failed to connect socket to \
         '/var/run/libvirt/libvirt-sock': Permission denied\n",
        "as root",
        1,
    ),
    (
        "fail",
        "error: failed to connect to the hypervisor\nerror: Failed to connect socket to \
         '/var/run/libvirt/libvirt-sock': No such file or directory\n",
        "daemon running",
        1,
    ),
    (
        "fail",
        "error: authentication unavailable: no polkit agent available to authenticate action 'org.libvirt.unix.manage'\n",
        "as root",
        1,
    ),
    ("fail", "error: operation forbidden: read only access prevents virDomainQemuMonitorCommand\n", "read-only", 3),
    (
        "fail",
        "error: this function is not supported by the connection driver: virDomainQemuMonitorCommand\n",
        "QEMU driver",
        1,
    ),
    (
        "fail",
        "error: Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomain)\n",
        "domjobinfo",
        3,
    ),
    (
        "fail-late",
        "error: internal error: End of file from qemu monitor (vm='web')\n",
        "End of file from qemu monitor",
        1,
    ),
    ("hang", "", "does not answer within 1 s", 3),
    ("hang-late", "", "does not answer within 1 s", 3),
];

#[test]
fn a_change_by_a_virsh_that_breaks_every_rule_ends_in_an_error() {
    break_every_rule(&["create", "thu"]);
}

#[test]
fn a_diff_by_a_virsh_that_breaks_every_rule_ends_in_an_error() {
    break_every_rule(&["diff", "--node", "vda", "--since", "mon"]);
}

fn break_every_rule(words: &[&str]) {
    if crate::support::tools_are_here() {
        let (calls, done) = whole(words);
        let untouched = two_disks().nodes;
        let transaction = calls.iter().position(|call| call == "transaction");
        for (turn, (deed, say, part, status)) in DEEDS.iter().enumerate() {
            // One of the first calls; and in turns the change and one of the others.
            let other = 2 + turn * 7 % (calls.len() - 2);
            let second = transaction.filter(|_| turn % 2 == 0).unwrap_or(other);
            for at in [turn % 2, second] {
                // A change hangs as long as it takes, until somebody stops it.
                let hangs = deed.starts_with("hang");
                if hangs && Some(at) == transaction {
                    continue;
                }
                let context = format!("{words:?}, from call {at} ({}) on: {deed} {say:?}", calls[at]);
                let domain = Domain::start();
                domain.meddle(at, deed, say);
                let output = domain.checkmap(words, if hangs { "1" } else { "60" });
                let (code, said) = (output.status.code(), told(&output));
                let nodes = domain.mock.state().nodes.clone();
                let in_doubt = said.contains("may have been carried out or not");
                assert!(!said.contains("panicked"), "{context}: {said}");
                if at < 2 {
                    assert_eq!((code, said.contains(part)), (Some(*status), true), "{context}: {said}");
                    assert!(said.contains('('), "no way out: {context}: {said}");
                }
                // Where it does not say that it is in doubt, its status says what became of the disks.
                match code {
                    Some(0) => assert_eq!(nodes, done.nodes, "{context}: {said}"),
                    Some(1 | 3) if !in_doubt => assert_eq!(nodes, untouched, "{context}: {said}"),
                    Some(1 | 3) => assert!(transaction.is_some_and(|sent| at <= sent), "{context}: {said}"),
                    _ => panic!("{context}: {:?}: {said}", output.status),
                }
                // The next one, which comes without virsh.
                tidy_afterwards(&domain.mock, &context);
            }
        }
    }
}

/// Not pretty, and right all the same.
#[test]
fn a_virsh_that_is_only_strange_serves() {
    if !crate::support::tools_are_here() {
        return;
    }
    for deed in ["noise", "daemon"] {
        let domain = Domain::start();
        domain.meddle(0, deed, "");
        let output = domain.checkmap(&["list", "--node", "vda"], "60");
        assert!(output.status.success(), "{deed}: {}", told(&output));
        domain.mock.assert_tidy(deed);
    }
}

/// A change that hangs in virsh is left by Ctrl-C, and the next verb finds nothing of it.
#[test]
fn a_change_that_hangs_in_virsh_can_be_stopped() {
    if !crate::support::tools_are_here() {
        return;
    }
    let (calls, done) = whole(&["create", "thu"]);
    let at = calls.iter().position(|call| call == "transaction").expect("a change");
    for (deed, is_done) in [("hang", false), ("hang-late", true)] {
        let domain = Domain::start();
        domain.meddle(at, deed, "");
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new(env!("CARGO_BIN_EXE_checkmap"))
            .args(["create", "--libvirt", "mock:///", "--domain", "web", "thu"])
            .env("PATH", format!("{}:{path}", domain.mock.folder.path().display()))
            .env("TMPDIR", domain.mock.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("checkmap runs");
        let is_waiting = || domain.calls().len() > at && (!is_done || domain.mock.state().nodes == done.nodes);
        while !is_waiting() {
            assert!(child.try_wait().expect("it is ours").is_none(), "{deed}: it ended before");
            std::thread::sleep(Duration::from_millis(5));
        }
        domain.behave();
        child.kill().expect("it can be killed");
        let ended = child.wait_with_output().expect("it ends");
        assert_eq!(ended.status.signal(), Some(9), "{}", told(&ended));
        let expected = if is_done { done.nodes.clone() } else { two_disks().nodes };
        assert_eq!(domain.mock.state().nodes, expected, "{deed}");
        let listed = domain.checkmap(&["list", "--node", "vda"], "60");
        assert!(listed.status.success(), "{deed}: {}", told(&listed));
        domain.mock.assert_tidy(deed);
    }
}
