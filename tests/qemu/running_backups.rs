//! Owns the proof of backups of running machines: every kept moment is one that the disks had, no write of the guest is harmed, and a
//! run that is killed at any moment costs nothing.

use crate::killed::{Proxy, Victim};
use crate::moment::{
    BLOCK, DISKS, Guest, Hammer, IN_MAP, MIB, OUTSIDE, SIZES, begin, connect, convert, options, pattern_at, told,
};
use crate::support::hypervisor::{Hypervisor, Program};
use crate::support::random::Random;
use checkmap::ErrorKind;
use checkmap::progress::Unobserved;
use checkmap::qemu::Disk;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A machine that runs, and the directory of its backups.
struct Vm {
    hypervisor: Hypervisor,
    guests: Vec<Guest>,
    folder: TempDir,
    /// The content of both disks at each moment.
    truths: BTreeMap<String, [Vec<u8>; 2]>,
}

impl Vm {
    fn start() -> Self {
        let mut hypervisor = Hypervisor::start(Program::System, &DISKS);
        hypervisor.command("cont", json!({}));
        let guests = vec![Guest::new(&hypervisor, 0), Guest::new(&hypervisor, 1)];
        Self { hypervisor, guests, folder: TempDir::new().expect("a folder"), truths: BTreeMap::new() }
    }

    fn directory(&self) -> PathBuf {
        self.folder.path().join("backup")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
        command.arg("backup").arg("--qmp").arg(self.hypervisor.qmp()).arg("-o").arg(self.directory());
        command.arg("--scratch").arg(self.folder.path()).args(words).stdin(Stdio::null());
        command
    }

    fn try_backup(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("checkmap runs")
    }

    /// A backup while nobody writes.
    #[track_caller]
    fn backup(&mut self, name: &str, words: &[&str]) -> String {
        let output = self.try_backup(&[&["--checkpoint", name], words].concat());
        assert!(output.status.success(), "{name}: {}", told(&output));
        self.keep(name);
        told(&output)
    }

    /// The disks are so now.
    fn keep(&mut self, name: &str) {
        self.truths.insert(name.to_owned(), self.contents());
    }

    fn contents(&self) -> [Vec<u8>; 2] {
        [self.guests[0].content.clone(), self.guests[1].content.clone()]
    }

    fn file(&self, disk: usize, name: &str) -> PathBuf {
        self.directory().join(name_of(disk)).join(format!("{name}.qcow2"))
    }

    fn restored(&self, disk: usize, name: &str) -> Vec<u8> {
        convert(&self.file(disk, name), &self.folder.path().join("restored"))
    }

    /// The moments that are kept of a disk.
    fn moments(&self, disk: usize) -> Vec<String> {
        let list =
            Command::new(env!("CARGO_BIN_EXE_checkmap")).arg("list").arg(self.directory()).arg("--json").output();
        let list: Value = serde_json::from_slice(&list.expect("checkmap runs").stdout).expect("JSON");
        let disks = list["disks"].as_array().expect("disks").iter();
        let own = disks.clone().find(|own| own["disk"] == name_of(disk)).expect("the disk");
        let backups = own["backups"].as_array().expect("backups").iter();
        backups.map(|backup| backup["checkpoint"].as_str().expect("a name").to_owned()).collect()
    }

    #[track_caller]
    fn prune(&self, keep: u64) {
        let mut prune = Command::new(env!("CARGO_BIN_EXE_checkmap"));
        let output = prune.arg("prune").arg(self.directory()).arg(format!("--keep-last={keep}")).output();
        let output = output.expect("checkmap runs");
        assert!(output.status.success(), "{}", told(&output));
    }

    /// Every kept moment is as the disks were, by qemu-img and by restore.
    #[track_caller]
    fn check(&self, when: &str) {
        for disk in [0, 1] {
            for name in self.moments(disk) {
                let truth = &self.truths[&name][disk];
                assert!(self.restored(disk, &name) == *truth, "{when}: disk {disk} at {name} differs");
                let target = self.folder.path().join("raw");
                let mut restore = Command::new(env!("CARGO_BIN_EXE_checkmap"));
                restore.arg("restore").arg(self.directory()).args(["--at", &name, "--disk", &name_of(disk)]);
                let output = restore.args(["--format=raw", "-o"]).arg(&target).output().expect("checkmap runs");
                assert!(output.status.success(), "{when}: {}", told(&output));
                assert!(std::fs::read(&target).expect("it is there") == *truth, "{when}: disk {disk} at {name}");
                std::fs::remove_file(&target).expect("it was there");
            }
        }
    }

    /// Nothing of checkmap's is in the machine, and the machine runs.
    #[track_caller]
    fn assert_tidy(&mut self) {
        self.assert_runs();
        self.hypervisor.assert_tidy();
        let left = entries(self.folder.path());
        assert!(!left.iter().any(|name| name.starts_with("checkmap-")), "{left:?}");
    }

    /// The machine runs, or goes on without help.
    #[track_caller]
    fn assert_runs(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.hypervisor.command("query-status", json!({}))["running"] != true {
            assert!(Instant::now() < deadline, "the machine stands still");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The note of the moment that stands in the machine.
    fn stands(&mut self) -> Option<Value> {
        let note = json!({ "path": "/objects/checkmap-moment", "property": "identity" });
        self.hypervisor.try_command("qom-get", note).ok()
    }

    /// Begins a moment of this directory and leaves it, as a run does that is killed then.
    fn leave_moment(&self, nodes: &[&str], name: &str) {
        let manifest = std::fs::read(self.directory().join("backup.json")).expect("a manifest");
        let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
        let id = format!("{}/{name}", manifest["id"].as_str().expect("an id"));
        let machine = connect(&self.hypervisor);
        let disks: Vec<Disk> = nodes.iter().map(|node| machine.find(node).expect("a disk")).collect();
        let options = options(&self.hypervisor).id(Some(id)).most_scratch_bytes(Some(5 * MIB));
        begin(&machine, &disks.iter().collect::<Vec<_>>(), name, &options).expect("a moment").leave();
    }

    fn write_at_random(&mut self, random: &mut Random, count: usize) {
        for _ in 0..count {
            for (disk, guest) in self.guests.iter_mut().enumerate() {
                let at = random.below(SIZES[disk] / BLOCK);
                let len = BLOCK * (1 + random.below(8)).min(SIZES[disk] / BLOCK - at);
                guest.write(at * BLOCK, len, u8::try_from(random.below(255)).expect("small") + 1);
            }
        }
    }

    /// Ends the machine: each write of the guest is in its image.
    fn quit(self) {
        let images = [self.hypervisor.image(0), self.hypervisor.image(1)];
        let contents = self.contents();
        drop(self.guests);
        let folder = self.hypervisor.quit();
        for (image, content) in images.iter().zip(&contents) {
            assert!(convert(image, &folder.path().join("end")) == *content, "a write of the guest is lost");
        }
    }
}

/// The name of a disk in the directory.
fn name_of(disk: usize) -> String {
    format!("{}.qcow2", DISKS[disk].node)
}

fn entries(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Writes to two blocks of the first disk, one after the other, for as long as `work` takes. The states that the two had.
fn hammered<T>(vm: &mut Vm, work: impl FnOnce(&Vm) -> T) -> (T, Vec<(u8, u8)>) {
    let hammer = Hammer::start(vm.guests.remove(0));
    let done = work(vm);
    let (guest, log) = hammer.stop();
    vm.guests.insert(0, guest);
    (done, log)
}

#[test]
fn days_of_a_machine_under_write_load_restore_to_each_moment() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut random = Random::from_seed(7);
    let mut vm = Vm::start();
    vm.write_at_random(&mut random, 20);
    vm.backup("first", &[]);
    for round in 0..10 {
        vm.write_at_random(&mut random, 4);
        vm.guests[0].write(IN_MAP, BLOCK, 9);
        let name = format!("r{round}");
        let mut before = vm.contents();
        let words = ["--checkpoint", &name];
        let (output, log) = hammered(&mut vm, |vm| vm.try_backup(&words));
        assert!(output.status.success(), "{name}: {}", told(&output));
        let content = vm.restored(0, &name);
        let pair = (pattern_at(&content, IN_MAP), pattern_at(&content, OUTSIDE));
        assert!(log.contains(&pair), "{name}: the disk was never like {pair:?}");
        for (block, pattern) in [(IN_MAP, pair.0), (OUTSIDE, pair.1)] {
            let start = usize::try_from(block).expect("small");
            before[0][start..start + usize::try_from(BLOCK).expect("small")].fill(pattern);
        }
        vm.truths.insert(name.clone(), before);
        if random.below(3) == 0 {
            vm.prune(1 + random.below(4));
        }
        vm.check(&name);
    }
    vm.assert_tidy();
    vm.quit();
}

#[test]
fn a_full_scratch_costs_one_backup_and_no_write() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut vm = Vm::start();
    for at in 0..32 {
        vm.guests[0].write(at * MIB, MIB, 1);
    }
    vm.backup("first", &[]);
    let mut lost = 0;
    for round in 0..40 {
        for at in 0..32 {
            vm.guests[0].write(at * MIB, MIB, 2);
        }
        let name = format!("r{round}");
        // The guest writes from the beginning of the run until its end.
        let child = vm.command(&["--checkpoint", &name, "--scratch-max=6M"]).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("checkmap runs");
        let mut at = 0;
        while child.try_wait().expect("it can be waited for").is_none() {
            vm.guests[0].write(at % 32 * MIB, MIB, 100 + u8::try_from(at % 100).expect("small"));
            at += 1;
        }
        let output = child.wait_with_output().expect("it ended");
        match output.status.code() {
            Some(1) => {
                assert!(told(&output).contains("is not backed up"), "{}", told(&output));
                lost += 1;
            }
            code => assert_eq!(code, Some(0), "{}", told(&output)),
        }
        vm.assert_tidy();
        if lost == 2 {
            break;
        }
    }
    assert_eq!(lost, 2, "the scratch was never full");
    vm.backup("after", &[]);
    assert!(vm.restored(0, "after") == vm.truths["after"][0]);
    assert!(vm.restored(1, "after") == vm.truths["after"][1]);
    vm.quit();
}

#[test]
fn a_run_that_is_killed_at_any_moment_costs_nothing() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut random = Random::from_seed(23);
    let mut vm = Vm::start();
    vm.write_at_random(&mut random, 30);
    vm.backup("first", &[]);
    let (mut taken_up, mut lost) = (0, 0);
    for round in 0..24 {
        vm.write_at_random(&mut random, 3);
        let name = format!("k{round}");
        let words = ["--checkpoint", &name, "--scratch-max=5M"];
        if round < 22 {
            let mut child = vm.command(&words).stderr(Stdio::null()).spawn().expect("checkmap runs");
            thread::sleep(Duration::from_micros(random.below(400_000)));
            child.kill().expect("it can be killed");
            child.wait().expect("it ends");
        } else {
            // However fast the machine is, some are killed behind the beginning of the moment.
            vm.leave_moment(&["d0", "d1"], &name);
        }
        let at_kill = vm.contents();
        // It goes on without another checkmap.
        vm.assert_runs();
        let fills = if round < 22 { round % 3 == 2 } else { round == 22 };
        if fills {
            // More than the scratch takes.
            for at in 0..8 {
                vm.guests[0].write(at * MIB, MIB, 50 + u8::try_from(round).expect("small"));
            }
        } else {
            vm.write_at_random(&mut random, 2);
        }
        let next = format!("n{round}");
        let output = vm.try_backup(&["--checkpoint", &next]);
        assert!(output.status.success(), "{next}: {}", told(&output));
        if vm.moments(0).contains(&name) || vm.moments(1).contains(&name) {
            vm.truths.insert(name.clone(), at_kill);
        }
        if told(&output).contains("is backed up now") {
            taken_up += 1;
        } else {
            vm.keep(&next);
        }
        lost += usize::from(told(&output).contains("a new one begins"));
        for disk in [0, 1] {
            let last = vm.moments(disk).pop().expect("a moment");
            assert!(vm.restored(disk, &last) == vm.truths[&last][disk], "round {round}: disk {disk} at {last}");
        }
    }
    assert!(taken_up > 0 && lost > 0, "{taken_up} moments were taken up, {lost} were lost");
    vm.backup("last", &[]);
    vm.prune(6);
    vm.check("after all kills");
    vm.assert_tidy();
    vm.quit();
}

/// As a run leaves it that was killed: a run that is refused, or that has some of its disks only, does not end it.
#[test]
fn a_moment_that_stands_waits_for_a_run_that_backs_up_all_of_it() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut vm = Vm::start();
    vm.guests[0].write(0, MIB, 1);
    vm.backup("first", &[]);
    vm.guests[0].write(0, MIB, 2);
    vm.leave_moment(&["d0", "d1"], "stands");
    vm.truths.insert("stands".into(), vm.contents());
    vm.guests[0].write(0, MIB, 3);
    for (words, status, says) in [
        (&["--node", "d0"][..], 3, "with the disk \"d1\" too"),
        (&["--disk-name", "d0=same", "--disk-name", "d1=same"], 2, "two disks would have the name"),
    ] {
        let output = vm.try_backup(words);
        assert_eq!(output.status.code(), Some(status), "{}", told(&output));
        assert!(told(&output).contains(says), "{}", told(&output));
    }
    let output = vm.try_backup(&["--checkpoint", "unused"]);
    assert!(output.status.success() && told(&output).contains("is backed up now"), "{}", told(&output));
    assert_eq!(vm.moments(0), ["first", "stands"]);
    vm.check("taken up");
    // One whose disks are all there already: a new one begins.
    vm.backup("next", &[]);
    assert_eq!(vm.moments(1), ["first", "stands", "next"]);
    vm.check("next");
    vm.assert_tidy();
    vm.quit();
}

#[test]
fn a_kill_while_the_machine_stands_still_lets_it_go_on() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut vm = Vm::start();
    vm.guests[0].write(0, MIB, 1);
    let run = |vm: &Vm, name: &str, kill_at: usize| {
        let pid: Arc<Mutex<Option<u32>>> = Arc::default();
        let victim = Victim::ClientAlone(Arc::clone(&pid));
        let proxy = Proxy::start(&vm.hypervisor, kill_at, false, victim);
        let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
        command.arg("backup").arg("--qmp").arg(&proxy.socket).arg("-o").arg(vm.directory());
        command.args(["--checkpoint", name]).arg("--scratch").arg(vm.folder.path());
        let child = command.stderr(Stdio::piped()).spawn().expect("checkmap runs");
        *pid.lock().expect("nothing panics") = Some(child.id());
        (child.wait_with_output().expect("it ends"), proxy.sent())
    };
    let (output, sent) = run(&vm, "whole", usize::MAX - 1);
    assert!(output.status.success(), "{}", told(&output));
    let is = |line: &String, name: &str| line.contains(&format!("\"execute\":\"{name}\""));
    let Some(stop) = sent.iter().position(|line| is(line, "stop")) else {
        // The job begins in the transaction: nothing has to stand still.
        assert!(sent.iter().any(|line| line.contains("blockdev-backup")), "{sent:?}");
        return;
    };
    vm.quit();
    for (at, name) in ["stop", "transaction", "qom-set", "qom-set", "cont"].iter().enumerate() {
        let mut vm = Vm::start();
        vm.guests[0].write(0, MIB, 1);
        let (output, sent) = run(&vm, "killed", stop + at);
        assert_eq!(output.status.code(), None, "{name}: {sent:?}: {}", told(&output));
        assert!(is(&sent[stop + at], name), "{name}: {sent:?}");
        vm.assert_runs();
        vm.guests[0].write(0, MIB, 5);
        vm.backup("next", &[]);
        vm.check(name);
        vm.assert_tidy();
        vm.quit();
    }
}

#[test]
fn a_machine_that_is_off_and_its_snapshots_go_on_with_the_same_directory() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut random = Random::from_seed(5);
    let mut vm = Vm::start();
    vm.write_at_random(&mut random, 10);
    assert!(vm.backup("on", &[]).contains("(full)"));
    // A disk shrinks and grows in one interval: the end that was cut off reads as zeros, and no bit says so.
    vm.hypervisor.command("block_resize", json!({ "node-name": "d1", "size": 4 * MIB }));
    vm.hypervisor.command("block_resize", json!({ "node-name": "d1", "size": SIZES[1] }));
    vm.guests[1].content[usize::try_from(4 * MIB).expect("small")..].fill(0);
    vm.write_at_random(&mut random, 3);
    assert!(vm.backup("resized", &[]).contains("(what changed)"));
    vm.check("resized");
    // Images that no machine runs, by their paths.
    let disks = DISKS.map(|disk| vm.hypervisor.folder.path().join(format!("{}.qcow2", disk.node)));
    let contents = vm.contents();
    let Vm { hypervisor, guests, folder, mut truths } = vm;
    drop(guests);
    let kept = hypervisor.quit();
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
    command.arg("backup").args(&disks).arg("-o").arg(folder.path().join("backup")).args(["--checkpoint", "off"]);
    let output = command.output().expect("checkmap runs");
    assert!(output.status.success(), "{}", told(&output));
    assert_eq!(told(&output).matches("(what changed)").count(), 2, "{}", told(&output));
    truths.insert("off".into(), contents.clone());
    // Runs again, and gets a snapshot: another file on top of the same disk.
    let mut hypervisor = Hypervisor::start_on(kept, Program::System, &DISKS);
    hypervisor.command("cont", json!({}));
    let mut guests = vec![Guest::new(&hypervisor, 0), Guest::new(&hypervisor, 1)];
    for (guest, content) in guests.iter_mut().zip(contents) {
        guest.content = content;
    }
    let mut vm = Vm { hypervisor, guests, folder, truths };
    vm.write_at_random(&mut random, 3);
    // Shrinks and grows, and gets a snapshot before the next backup: the layer below has zeros, and no bit says so.
    vm.hypervisor.command("block_resize", json!({ "node-name": "d0", "size": 2 * MIB }));
    vm.hypervisor.command("block_resize", json!({ "node-name": "d0", "size": SIZES[0] }));
    vm.guests[0].content[usize::try_from(2 * MIB).expect("small")..].fill(0);
    let overlay = vm.hypervisor.folder.path().join("overlay.qcow2");
    let snapshot =
        json!({ "node-name": "d0", "snapshot-file": overlay, "snapshot-node-name": "o0", "format": "qcow2" });
    let machine = connect(&vm.hypervisor);
    let before = machine.find("d0").expect("a disk");
    vm.hypervisor.command("blockdev-snapshot-sync", snapshot);
    // A handle that was there before: the base alone is no disk any more.
    let no_moment = || {
        let options = options(&vm.hypervisor);
        machine.begin_moment(&[(&before, None)], &options, &mut |_| {}, &mut Unobserved).expect_err("no moment")
    };
    assert_eq!(no_moment().kind(), ErrorKind::Changed);
    assert_eq!(machine.find("d0").expect("the base").node(), "d0");
    machine.refresh(&mut Unobserved).expect("it can be asked");
    assert!(machine.disks().expect("disks").iter().any(|disk| disk.node() == "o0"));
    drop(machine);
    vm.write_at_random(&mut random, 3);
    let said = vm.backup("snapshot", &[]);
    vm.write_at_random(&mut random, 3);
    assert_eq!(vm.backup("after", &[]).matches("(what changed)").count(), 2, "{said}");
    assert_eq!(vm.moments(0), ["on", "resized", "off", "snapshot", "after"]);
    vm.check("after");
    vm.assert_tidy();
}

#[test]
fn what_stands_in_the_way_is_refused_and_nothing_is_changed() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut vm = Vm::start();
    vm.guests[0].write(0, MIB, 1);
    vm.backup("first", &[]);
    let refused = |vm: &mut Vm, words: &[&str], text: &str| {
        let output = vm.try_backup(words);
        assert_eq!(output.status.code(), Some(3), "{words:?}: {}", told(&output));
        assert!(told(&output).contains(text), "{words:?}: {}", told(&output));
        vm.assert_tidy();
        assert_eq!(vm.moments(0), ["first"]);
    };
    // What would be done is told, and not done.
    let output = vm.try_backup(&["--checkpoint=dry", "--dry-run"]);
    assert!(output.status.success(), "{}", told(&output));
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!(line["execute"], "transaction");
    assert!(line.to_string().contains("first->dry"), "{line}");
    refused(&mut vm, &["--scratch-max=64K"], "too little");
    // The only NBD server of the machine is somebody else's.
    let address = json!({ "addr": { "type": "unix", "data": { "path": vm.folder.path().join("theirs") } } });
    vm.hypervisor.command("nbd-server-start", address);
    refused(&mut vm, &[], "NBD server");
    vm.hypervisor.command("nbd-server-stop", json!({}));
    // A moment that a run left which was killed, of fewer disks.
    vm.leave_moment(&["d0"], "left");
    let kept = vm.moments(0);
    let output = vm.try_backup(&["--checkpoint=both"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert!(told(&output).contains("without the disk"), "{}", told(&output));
    // Another directory has no right to it, and cannot have one beside it.
    let other = vm.folder.path().join("other");
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
    command
        .arg("backup")
        .arg("--qmp")
        .arg(vm.hypervisor.qmp())
        .arg("-o")
        .arg(&other)
        .args(["--abandon", "--checkpoint=other"]);
    let output = command.output().expect("checkmap runs");
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert!(told(&output).contains("belongs to"), "{}", told(&output));
    assert!(vm.stands().is_some(), "it was cleared away");
    vm.guests[0].write(MIB, MIB, 2);
    assert!(vm.backup("second", &["--abandon"]).contains("given up"));
    assert_eq!(vm.moments(0).len(), kept.len() + 1);
    assert!(vm.restored(0, "second") == vm.truths["second"][0]);
    vm.assert_tidy();
    vm.quit();
}
