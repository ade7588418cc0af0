//! Owns the proof of moments: a running disk reads as it was, its map misses nothing, and no write of the guest is harmed, with a scratch
//! that fills while we are alive or dead.

use crate::support::hypervisor::{DiskSpec, Hypervisor, Program, Qmp};
use crate::support::random::Random;
use checkmap::image::{Access, DiffRequest, Image, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::qemu::{Disk, Machine, Moment, MomentOptions, Monitor, Options};
use checkmap::{Bitmap, ErrorKind};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const BLOCK: u64 = 64 << 10;
pub(crate) const SIZES: [u64; 2] = [32 * MIB, 16 * MIB];
pub(crate) const DISKS: [DiskSpec; 2] = [
    DiskSpec { node: "d0", size_bytes: SIZES[0], options: "" },
    DiskSpec { node: "d1", size_bytes: SIZES[1], options: "" },
];

/// The blocks that a writer hammers: one that is in the map before the moment, and one that is not.
pub(crate) const IN_MAP: u64 = 3 * BLOCK;
pub(crate) const OUTSIDE: u64 = 100 * BLOCK;

fn checkmap(hypervisor: &Hypervisor, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
    command.args(words).arg("--qmp").arg(hypervisor.qmp());
    command
}

#[track_caller]
fn ok(hypervisor: &Hypervisor, words: &[&str]) -> Output {
    let output = checkmap(hypervisor, words).output().expect("checkmap runs");
    assert!(output.status.success(), "{words:?}: {}", told(&output));
    output
}

pub(crate) fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The content of a disk as its writers know it, written through the guest's device.
pub(crate) struct Guest {
    device: String,
    monitor: Qmp,
    pub(crate) content: Vec<u8>,
}

impl Guest {
    pub(crate) fn new(hypervisor: &Hypervisor, disk: usize) -> Self {
        let device = format!("/machine/peripheral/{}-device/virtio-backend", DISKS[disk].node);
        let len = usize::try_from(SIZES[disk]).expect("a small disk");
        let monitor = Qmp::connect(&hypervisor.folder.path().join(format!("guest-{disk}")));
        Self { device, monitor, content: vec![0; len] }
    }

    /// Writes as the guest does. That it was done is seen in the image at the end.
    pub(crate) fn write(&mut self, offset: u64, len_bytes: u64, pattern: u8) {
        let line = format!("qemu-io -d {} \"write -P {pattern} {offset} {len_bytes}\"", self.device);
        let said = self.monitor.command("human-monitor-command", json!({ "command-line": line }));
        assert_eq!(said.expect("an answer"), json!(""), "{line}");
        let range = usize::try_from(offset).expect("small")..usize::try_from(offset + len_bytes).expect("small");
        self.content[range].fill(pattern);
    }
}

pub(crate) fn convert(image: &Path, to: &Path) -> Vec<u8> {
    let words = ["convert", "-f", "qcow2", "-O", "raw"];
    let status = Command::new("qemu-img").args(words).args([image, to]).status().expect("qemu-img runs");
    assert!(status.success());
    std::fs::read(to).expect("it can be read")
}

/// Reads a disk of a moment.
fn read(moment: &Moment, at: usize) -> Vec<u8> {
    let mut client = moment.connect(at, &mut Unobserved).expect("it connects");
    let mut content = vec![0; usize::try_from(client.size_bytes()).expect("a small disk")];
    client.read(&mut content, 0, &mut Unobserved).expect("it reads");
    content
}

/// A checkpoint on these disks, and the moment at which it was made.
pub(crate) fn begin(
    machine: &Machine,
    disks: &[&Disk],
    name: &str,
    options: &MomentOptions,
) -> checkmap::Result<Moment> {
    let open = |disk: &&Disk| {
        let host = machine.host(disk).expect("a host");
        Image::on(host, Path::new(disk.title()), &OpenOptions::new(Access::Write))
    };
    let images: Vec<Image> = disks.iter().map(open).collect();
    let plans: Vec<_> =
        images.iter().map(|image| image.plan_create(name.as_bytes(), None, None).expect("a plan")).collect();
    let pairs: Vec<_> = disks.iter().copied().zip(plans.iter().map(Some)).collect();
    let mut said = Vec::new();
    let moment = machine.begin_moment(&pairs, options, &mut |sentence| said.push(sentence.to_owned()), &mut Unobserved);
    assert!(moment.is_err() || said[0].contains("bytes at most"), "the need is not said: {said:?}");
    moment
}

/// What changed since a checkpoint until the moment.
fn changes(machine: &Machine, node: &str, since: &str, until: Option<&str>) -> Bitmap {
    let disk = machine.find(node).expect("the disk");
    let image = Image::on(machine.host(&disk).expect("a host"), Path::new(node), &OpenOptions::new(Access::Read));
    let request = DiffRequest::since(since.as_bytes());
    let request = until.map_or(request, |until| request.until(until.as_bytes()));
    image.diff(&request, &mut Unobserved).expect("a diff").bitmap
}

/// The older content with the blocks of the map from the newer one.
fn restore(older: &[u8], newer: &[u8], map: &Bitmap) -> Vec<u8> {
    let mut restored = older.to_vec();
    for extent in map.extents(0, u64::MAX) {
        let range = usize::try_from(extent.offset).expect("small")..usize::try_from(extent.end()).expect("small");
        restored[range.clone()].copy_from_slice(&newer[range]);
    }
    restored
}

pub(crate) fn connect(hypervisor: &Hypervisor) -> Machine {
    Machine::connect(Monitor::Socket(hypervisor.qmp()), &Options::default(), &mut Unobserved).expect("it connects")
}

pub(crate) fn options(hypervisor: &Hypervisor) -> MomentOptions {
    MomentOptions::default().scratch(Some(hypervisor.folder.path().to_owned()))
}

/// A block of the copy holds one pattern throughout: it was not read in the middle of a write.
#[track_caller]
pub(crate) fn pattern_at(content: &[u8], offset: u64) -> u8 {
    let start = usize::try_from(offset).expect("small");
    let block = &content[start..start + usize::try_from(BLOCK).expect("small")];
    assert!(block.iter().all(|byte| *byte == block[0]), "the block at {offset} is torn");
    block[0]
}

/// A guest that writes to two blocks, one after the other, until it is stopped.
pub(crate) struct Hammer {
    is_over: Arc<AtomicBool>,
    log: Arc<Mutex<Vec<(u8, u8)>>>,
    writer: thread::JoinHandle<Guest>,
}

impl Hammer {
    pub(crate) fn start(mut guest: Guest) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let log = Arc::new(Mutex::new(Vec::new()));
        let writer = {
            let (is_over, log) = (Arc::clone(&is_over), Arc::clone(&log));
            thread::spawn(move || {
                let mut last = (pattern_at(&guest.content, IN_MAP), pattern_at(&guest.content, OUTSIDE));
                log.lock().expect("nothing panics").push(last);
                for number in (1..=255).cycle() {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    // Each state that the disk can have is in the log before it is there.
                    last.0 = number;
                    log.lock().expect("nothing panics").push(last);
                    guest.write(IN_MAP, BLOCK, number);
                    last.1 = number;
                    log.lock().expect("nothing panics").push(last);
                    guest.write(OUTSIDE, BLOCK, number);
                }
                guest
            })
        };
        Self { is_over, log, writer }
    }

    /// The guest, and the states that the two blocks had.
    pub(crate) fn stop(self) -> (Guest, Vec<(u8, u8)>) {
        self.is_over.store(true, Ordering::Relaxed);
        let guest = self.writer.join().expect("the writer ends");
        let log = self.log.lock().expect("nothing panics").clone();
        (guest, log)
    }
}

/// Ends the machine, whose first disk holds every write of this guest.
fn assert_written(hypervisor: Hypervisor, guest: Guest) {
    let image = hypervisor.image(0);
    let expected = guest.content.clone();
    drop(guest);
    let folder = hypervisor.quit();
    assert!(convert(&image, &folder.path().join("end")) == expected, "a write of the guest is lost");
}

#[test]
fn increments_of_moments_restore_each_of_them_beside_a_hammering_writer() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut random = Random::from_seed(17);
    let mut hypervisor = Hypervisor::start(Program::System, &DISKS);
    let mut guest = Guest::new(&hypervisor, 0);
    for at in 0..40 {
        guest.write(at * 7 % 500 * BLOCK, BLOCK, u8::try_from(at + 1).expect("small"));
    }
    let machine = connect(&hypervisor);
    let mut restored: Option<(String, Vec<u8>)> = None;
    for round in 0..12 {
        for _ in 0..5 {
            guest.write(random.below(500) * BLOCK, BLOCK, 1 + u8::try_from(random.below(250)).expect("small"));
        }
        guest.write(IN_MAP, BLOCK, 0);
        let quiet = guest.content.clone();
        let hammer = Hammer::start(guest);
        thread::sleep(Duration::from_millis(random.below(20)));
        let name = format!("c{round}");
        let disk = machine.find("d0").expect("the disk");
        let moment = begin(&machine, &[&disk], &name, &options(&hypervisor)).expect("a moment");
        let map = restored
            .as_ref()
            .map(|(since, _)| changes(&machine, "d0", since, moment.ends_at_checkpoint().then_some(name.as_str())));
        let first = read(&moment, 0);
        thread::sleep(Duration::from_millis(random.below(20)));
        let second = read(&moment, 0);
        moment.check(&mut Unobserved).expect("it stands");
        moment.end(&mut Unobserved).expect("it ends");
        let log;
        (guest, log) = hammer.stop();
        assert!(first == second, "round {round}: the moment is not the same all the time");
        let pair = (pattern_at(&first, IN_MAP), pattern_at(&first, OUTSIDE));
        assert!(log.contains(&pair), "round {round}: the disk was never like {pair:?}");
        for (at, block) in first.chunks(usize::try_from(BLOCK).expect("small")).enumerate() {
            let offset = at as u64 * BLOCK;
            if ![IN_MAP, OUTSIDE].contains(&offset) {
                let start = usize::try_from(offset).expect("small");
                assert!(block == &quiet[start..start + block.len()], "round {round}: block {at} differs");
            }
        }
        if let (Some((_, older)), Some(map)) = (&restored, &map) {
            assert!(restore(older, &first, map) == first, "round {round}: the map misses a block");
        }
        restored = Some((name, first));
    }
    hypervisor.assert_tidy();
    drop(machine);
    assert_written(hypervisor, guest);
}

/// A program that serves, and waits until it is told to go on.
struct Serving {
    child: Child,
    go: std::path::PathBuf,
}

impl Serving {
    fn start(hypervisor: &Hypervisor, words: &[&str], then: &str) -> Self {
        let at = |name: &str| hypervisor.folder.path().join(name);
        let (begun, go) = (at("begun"), at("go"));
        for path in [&begun, &go] {
            let _ = std::fs::remove_file(path);
        }
        let script = format!("touch {}; while ! [ -e {} ]; do sleep 0.05; done; {then}", begun.display(), go.display());
        let scratch = format!("--scratch={}", hypervisor.folder.path().display());
        let own: &[&str] = &["serve", "--node=d0", &scratch];
        let mut command = checkmap(hypervisor, &[own, words, &["--run", &script]].concat());
        let child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("checkmap runs");
        let mut serving = Self { child, go };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !begun.exists() {
            if serving.child.try_wait().expect("it can be waited for").is_some() {
                let mut output = serving.child.stderr.take().expect("a pipe");
                let mut said = String::new();
                std::io::Read::read_to_string(&mut output, &mut said).expect("it is text");
                panic!("it ended: {said}");
            }
            assert!(Instant::now() < deadline, "it does not begin");
            thread::sleep(Duration::from_millis(10));
        }
        serving
    }

    fn go_on(self) -> Output {
        std::fs::write(&self.go, "").expect("a file");
        self.child.wait_with_output().expect("it ends")
    }
}

/// Overwrites half of the disk, far more than the scratch takes.
fn overwrite(guest: &mut Guest) {
    for at in 0..16 {
        guest.write(at * MIB, MIB, 200 + u8::try_from(at).expect("small"));
    }
}

#[test]
fn a_full_scratch_costs_the_moment_and_no_write_of_the_guest() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISKS);
    let mut guest = Guest::new(&hypervisor, 0);
    for at in 0..16 {
        guest.write(at * MIB, MIB, 1);
    }
    ok(&hypervisor, &["create", "mon"]);
    guest.write(5 * MIB, BLOCK, 2);
    let words = ["--since=mon", "--checkpoint=tue", "--scratch-max=4M"];
    let copy = "qemu-img convert -f raw -O raw \"$uri\" /dev/null";
    let serving = Serving::start(&hypervisor, &words, copy);
    overwrite(&mut guest);
    let output = serving.go_on();
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("is lost") && told(&output).contains("was merged"), "{}", told(&output));
    hypervisor.assert_tidy();
    let listed: Value =
        serde_json::from_slice(&ok(&hypervisor, &["list", "--node=d0", "--json"]).stdout).expect("JSON");
    let names: Vec<_> = listed.as_array().expect("a list").iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, [json!("mon")]);
    // Nothing is lost: the next one has all since the one before.
    let machine = connect(&hypervisor);
    assert_eq!(changes(&machine, "d0", "mon", None).dirty_bytes(), 16 * MIB);
    drop(machine);
    assert_written(hypervisor, guest);
}

#[test]
fn a_scratch_that_fills_after_our_death_costs_no_write_and_the_next_command_clears_up() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISKS);
    let mut guest = Guest::new(&hypervisor, 0);
    for at in 0..16 {
        guest.write(at * MIB, MIB, 1);
    }
    ok(&hypervisor, &["create", "mon"]);
    for round in 0..2 {
        let words = ["--since=mon", &format!("--checkpoint=tue{round}"), "--scratch-max=4M"];
        let mut serving = Serving::start(&hypervisor, &words, "true");
        serving.child.kill().expect("it can be killed");
        serving.child.wait().expect("it ends");
        overwrite(&mut guest);
        let listed = ok(&hypervisor, &["list", "--json"]);
        assert!(String::from_utf8_lossy(&listed.stdout).contains("tue"), "the checkpoint stays");
        hypervisor.assert_tidy();
        let _ = serving.go_on();
        guest.write(20 * MIB, BLOCK, 9);
    }
    assert_written(hypervisor, guest);
}

#[test]
fn a_moment_of_two_disks_with_a_name_outlives_its_owner_and_other_verbs() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISKS);
    let mut guests = [Guest::new(&hypervisor, 0), Guest::new(&hypervisor, 1)];
    for guest in &mut guests {
        guest.write(MIB, MIB, 1);
    }
    // The machine runs, so that it has to stand still.
    hypervisor.command("cont", json!({}));
    let machine = connect(&hypervisor);
    let disks = machine.disks().expect("the disks");
    let both: Vec<&Disk> = disks.iter().collect();
    let named = options(&hypervisor).id(Some("dir".into()));
    let moment = begin(&machine, &both, "mon", &named).expect("a moment");
    assert_eq!(hypervisor.command("query-status", json!({}))["running"], true);
    let quiet: Vec<Vec<u8>> = guests.iter().map(|guest| guest.content.clone()).collect();
    for guest in &mut guests {
        guest.write(MIB + BLOCK, BLOCK, 2);
        guest.write(9 * MIB, BLOCK, 3);
    }
    for (at, quiet) in quiet.iter().enumerate() {
        assert!(read(&moment, at) == *quiet, "disk {at} differs");
    }
    moment.leave();
    drop(machine);
    // Other verbs leave it where it is, and work beside it.
    ok(&hypervisor, &["create", "tue"]);
    ok(&hypervisor, &["diff", "--node=d0", "--since=mon", "--until=tue"]);
    let machine = connect(&hypervisor);
    let standing = machine.standing_moment(&mut Unobserved).expect("an answer").expect("it stands");
    assert_eq!((standing.id.as_deref(), standing.is_owned), (Some("dir"), false));
    let disks = machine.disks().expect("the disks");
    let refused = begin(&machine, &[&disks[0]], "wed", &options(&hypervisor)).expect_err("one at a time");
    assert_eq!((refused.kind(), refused.has_changed_nothing()), (ErrorKind::InUse, true));
    assert!(machine.take_up_moment("another", &mut Unobserved).expect("an answer").is_none());
    let moment = machine.take_up_moment("dir", &mut Unobserved).expect("an answer").expect("it stands");
    assert_eq!(machine.take_up_moment("dir", &mut Unobserved).expect_err("it is owned").kind(), ErrorKind::InUse);
    for (at, quiet) in quiet.iter().enumerate() {
        assert!(read(&moment, at) == *quiet, "disk {at} differs when it is taken up");
    }
    moment.check(&mut Unobserved).expect("it stands");
    moment.end(&mut Unobserved).expect("it ends");
    hypervisor.assert_tidy();
}

/// The folders of checkmap's clients in this one.
fn folders_in(parent: &Path) -> usize {
    let entries = std::fs::read_dir(parent).expect("it can be listed").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("checkmap-")).count()
}

#[test]
fn scratch_images_go_when_the_hypervisor_ends_also_after_the_death_of_their_owner() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let scratch = tempfile::TempDir::new().expect("a folder");
    let options = MomentOptions::default().scratch(Some(scratch.path().to_owned()));
    let begun = |id: Option<&str>| {
        let hypervisor = Hypervisor::start(Program::System, &DISKS);
        Guest::new(&hypervisor, 0).write(MIB, MIB, 1);
        let machine = connect(&hypervisor);
        let disk = machine.find("d0").expect("the disk");
        let options = options.clone().id(id.map(str::to_owned));
        let moment = begin(&machine, &[&disk], "mon", &options).expect("a moment");
        (hypervisor, moment)
    };
    let (hypervisor, moment) = begun(None);
    assert_eq!(folders_in(scratch.path()), 1);
    let mode = std::fs::metadata(moment.scratch_folder()).expect("it is there").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
    let folder = hypervisor.kill();
    moment.end(&mut Unobserved).expect_err("nobody is there");
    assert_eq!((folders_in(scratch.path()), folders_in(folder.path())), (0, 0));
    // Both are gone, as after a power cut.
    let (hypervisor, moment) = begun(Some("dir"));
    moment.leave();
    let kept = hypervisor.kill();
    assert_eq!(folders_in(scratch.path()), 1);
    // One that stands in a hypervisor stays, though its owner is gone.
    let (mut standing, moment) = begun(Some("dir"));
    assert_eq!(folders_in(scratch.path()), 1, "the dead one goes, the new one is there");
    moment.leave();
    let (mut hypervisor, moment) = begun(None);
    assert_eq!(folders_in(scratch.path()), 2);
    moment.end(&mut Unobserved).expect("it ends");
    hypervisor.assert_tidy();
    let moment = connect(&standing).take_up_moment("dir", &mut Unobserved).expect("an answer").expect("it stands");
    assert_eq!(read(&moment, 0)[usize::try_from(MIB).expect("small")], 1);
    moment.end(&mut Unobserved).expect("it ends");
    standing.assert_tidy();
    assert_eq!(folders_in(scratch.path()), 0);
    drop(kept);
}

#[test]
fn a_storage_daemon_is_refused_unless_its_job_keeps_the_guest_from_harm() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::StorageDaemon, &DISKS);
    let schema = hypervisor.command("query-qmp-schema", json!({})).to_string();
    hypervisor.write(0, MIB, BLOCK);
    let server = hypervisor.nbd_socket().expect("a server");
    let options_of_machine = Options::default().nbd_socket(Some(server));
    let machine = Machine::connect(Monitor::Socket(hypervisor.qmp()), &options_of_machine, &mut Unobserved);
    let machine = machine.expect("it connects");
    let disks = machine.disks().expect("the disks");
    let begun = begin(&machine, &[&disks[0]], "mon", &options(&hypervisor));
    // The filter has this member in every version; the job has it in a second type.
    match schema.matches("\"on-cbw-error\"").count() {
        0 | 1 => {
            let refused = begun.expect_err("it would harm the guest");
            assert_eq!((refused.kind(), refused.has_changed_nothing()), (ErrorKind::Unsupported, true), "{refused}");
        }
        _ => {
            let moment = begun.expect("a moment");
            hypervisor.write(0, 2 * MIB, BLOCK);
            let content = read(&moment, 0);
            assert_eq!(pattern_at(&content, MIB), 7);
            assert_eq!(pattern_at(&content, 2 * MIB), 0);
            // The disk is still found beside the filter.
            assert_eq!(connect(&hypervisor).disks().expect("the disks").len(), 2);
            moment.end(&mut Unobserved).expect("it ends");
        }
    }
    hypervisor.assert_tidy();
}
