//! Owns the proof that checkmap and libvirt work on one running domain, each with checkpoints of its own: over a real daemon, which
//! the test starts for itself as root.

mod daemon;
mod doctor;
#[path = "../support/mod.rs"]
mod support;

use checkmap::image::{Access, DiffRequest, Image, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::qemu::{Disk, Machine, MomentOptions, Monitor, Options};
use daemon::{Domain, GRANULE, Libvirt, granules};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// One daemon for all: it takes some seconds to know its QEMU.
#[test]
fn both_owners_work_on_one_domain() {
    if !daemon::is_here() {
        return;
    }
    let libvirt = Libvirt::start();
    std::thread::scope(|scope| {
        scope.spawn(|| checkpoints_beside_checkpoints(&libvirt));
        scope.spawn(|| diffs_across_a_block_commit(&libvirt));
        scope.spawn(|| a_moment_of_two_disks(&libvirt));
        scope.spawn(|| three_nights_of_backups(&libvirt));
        scope.spawn(|| doctor::each_disagreement_is_mended(&libvirt));
    });
}

/// What begins a pull backup of one disk on a socket.
fn pull(domain: &Domain<'_>, socket: &Path, since: Option<&str>) -> String {
    let since = since.map(|since| format!("<incremental>{since}</incremental>")).unwrap_or_default();
    format!(
        "<domainbackup mode='pull'>{since}<server transport='unix' socket='{}'/><disks><disk name='vda' backup='yes' \
         type='file'><scratch file='{}'/></disk><disk name='vdb' backup='no'/></disks></domainbackup>",
        socket.display(),
        domain.file("scratch.qcow2").display()
    )
}

fn checkpoints_beside_checkpoints(libvirt: &Libvirt) {
    let domain = Domain::start(libvirt, "checkmap-beside");
    domain.virsh("checkpoint-create-as", &["theirs1"]);
    domain.write(0, 1);
    domain.virsh("checkpoint-create-as", &["theirs2"]);
    domain.write(0, 2);
    // Our chain begins beside theirs, on both disks in one step.
    domain.checkmap("create", &["ours1", "--model", "interval"]);
    domain.write(0, 3);
    domain.checkmap("create", &["ours2"]);
    domain.write(0, 4);
    assert_eq!(domain.diff("vda", &["--since", "ours1", "--until", "ours2"]), BTreeSet::from([3]));
    assert_eq!(domain.diff("vda", &["--since", "ours1"]), BTreeSet::from([3, 4]));
    assert_eq!(domain.diff("vda", &["--since", "theirs1"]), BTreeSet::from([1, 2, 3, 4]));
    assert_eq!(domain.diff("vda", &["--since", "theirs2"]), BTreeSet::from([2, 3, 4]));
    let info: Value = serde_json::from_str(&domain.checkmap("info", &["--node", "vda", "--json"])).expect("JSON");
    let chains = info["chains"].as_array().expect("chains").iter();
    let owners: Vec<&str> = chains.map(|chain| chain["owner"].as_str().expect("owner")).collect();
    assert_eq!(owners, ["checkmap", "libvirt"]);
    // libvirt's checkpoints are as good as before.
    let size = domain.virsh("checkpoint-dumpxml", &["theirs1", "--size"]);
    assert!(size.contains(&format!("size='{}'", 4 * GRANULE)), "{size}");
    // Its pull backup holds the one NBD server.
    let socket = domain.file("pull");
    domain.virsh_with("backup-begin", &pull(&domain, &socket, None));
    let refused = domain.try_checkmap("diff", &["--node", "vda", "--since", "ours1"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{told}");
    assert!(told.contains("--until") && told.contains("create"), "{told}");
    let words = ["--since", "ours1", "--until", "ours2", "--nbd-socket", socket.to_str().expect("UTF-8")];
    assert_eq!(domain.diff("vda", &words), BTreeSet::from([3]));
    domain.virsh("domjobabort", &[]);
    // A snapshot carries the recording bitmaps of both; older bitmaps are read from the layer below.
    domain.virsh("snapshot-create-as", &["snap", "--disk-only", "--no-metadata"]);
    domain.write(0, 5);
    assert_eq!(domain.diff("vda", &["--since", "ours1"]), BTreeSet::from([3, 4, 5]));
    assert_eq!(domain.diff("vda", &["--since", "theirs1"]), BTreeSet::from([1, 2, 3, 4, 5]));
    domain.checkmap("create", &["ours3"]);
    domain.write(0, 6);
    assert_eq!(domain.diff("vda", &["--since", "ours3"]), BTreeSet::from([6]));
    assert!(domain.diff("vda", &["--since", "ours2"]).is_superset(&BTreeSet::from([4, 5, 6])));
    // libvirt's own checkpoint goes, and ours stay.
    domain.virsh("checkpoint-delete", &["theirs2"]);
    assert!(domain.diff("vda", &["--since", "ours1"]).is_superset(&BTreeSet::from([3, 4, 5, 6])));
    assert_eq!(domain.diff("vda", &["--since", "theirs1"]), BTreeSet::from([1, 2, 3, 4, 5, 6]));
    // A target that is not there, a domain that is not there.
    let output = domain.try_checkmap("list", &["--node", "vdz"]);
    assert_eq!(output.status.code(), Some(3));
    let output = Command::new(env!("CARGO_BIN_EXE_checkmap"))
        .args(["list", "--libvirt", &libvirt.uri(), "--domain", "nobody"])
        .output()
        .expect("checkmap runs");
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Both disks of a domain that runs, at one moment.
fn a_moment_of_two_disks(libvirt: &Libvirt) {
    let domain = Domain::start(libvirt, "checkmap-moment");
    domain.write(0, 1);
    domain.write(1, 2);
    domain.virsh("resume", &[]);
    let monitor = Monitor::Libvirt { uri: libvirt.uri(), domain: "checkmap-moment".into() };
    let machine = Machine::connect(monitor, &Options::default(), &mut Unobserved).expect("it connects");
    let disks = machine.disks().expect("the disks");
    let open = |disk: &Disk| {
        let host = machine.host(disk).expect("a host");
        Image::on(host, Path::new(disk.title()), &OpenOptions::new(Access::Write))
    };
    let plans: Vec<_> =
        disks.iter().map(|disk| open(disk).plan_create(b"it's \"one\"; two", None, None).expect("a plan")).collect();
    let pairs: Vec<_> = disks.iter().zip(plans.iter().map(Some)).collect();
    let folder = tempfile::TempDir::new().expect("a folder");
    let options = MomentOptions::default().scratch(Some(folder.path().to_owned()));
    let moment = machine.begin_moment(&pairs, &options, &mut |_| {}, &mut Unobserved).expect("a moment");
    assert!(domain.virsh("domstate", &[]).contains("running"));
    assert!(moment.warnings().iter().any(|warning| warning.contains("stood still")), "{:?}", moment.warnings());
    domain.write(0, 1);
    domain.write(1, 3);
    let names: Vec<&str> = disks.iter().map(Disk::title).collect();
    assert_eq!(names, TARGETS);
    for (at, granule, is_written) in [(0, 1, true), (0, 2, false), (1, 2, true), (1, 3, false)] {
        let mut byte = [0; 512];
        let mut client = moment.connect(at, &mut Unobserved).expect("it connects");
        client.read(&mut byte, granule * GRANULE, &mut Unobserved).expect("it reads");
        assert_eq!(byte.iter().any(|byte| *byte != 0), is_written, "{} at {granule}", names[at]);
    }
    moment.end(&mut Unobserved).expect("it ends");
    assert_eq!(domain.diff("vdb", &["--since", "it's \"one\"; two"]), BTreeSet::from([3]));
    domain.virsh("snapshot-create-as", &["snap", "--disk-only", "--no-metadata"]);
}

/// A full backup and two increments of a domain that runs, beside a checkpoint of libvirt's.
fn three_nights_of_backups(libvirt: &Libvirt) {
    const WRITTEN: u8 = 0xcd;
    let domain = Domain::start(libvirt, "checkmap-nights");
    // Of one bitmap alone nobody could tell whose it is.
    domain.virsh("checkpoint-create-as", &["theirs0"]);
    domain.virsh("checkpoint-create-as", &["theirs"]);
    domain.virsh("resume", &[]);
    let folder = tempfile::TempDir::new().expect("a folder");
    let at = |name: &str| folder.path().join(name).into_os_string().into_string().expect("UTF-8");
    let mut disks = [vec![0; 64 << 20], vec![0; 32 << 20]];
    let mut nights = Vec::new();
    for (night, granules) in [("mon", [1, 2]), ("tue", [7, 400]), ("wed", [1, 8])] {
        for (disk, content) in disks.iter_mut().enumerate() {
            for granule in granules {
                domain.write(disk, granule);
                let offset = usize::try_from(granule * GRANULE).expect("small");
                content[offset..offset + 512].fill(WRITTEN);
            }
        }
        domain.checkmap("backup", &["-o", &at("backups"), "--checkpoint", night, "--scratch", &at("")]);
        nights.push((night, disks.clone()));
    }
    let listed = support::run(env!("CARGO_BIN_EXE_checkmap"), &["list", &at("backups"), "--json"]);
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    for disk in listed["disks"].as_array().expect("disks") {
        let backups = disk["backups"].as_array().expect("backups").iter();
        let full: Vec<bool> = backups.map(|backup| backup["full"].as_bool().expect("a flag")).collect();
        assert_eq!(full, [true, false, false], "{disk}");
    }
    for (night, disks) in nights {
        for (target, content) in TARGETS.iter().zip(disks) {
            let name = domain.file(&format!("{target}.qcow2"));
            let name = name.file_name().and_then(|name| name.to_str()).expect("UTF-8");
            let (from, to) = (at("backups"), at("restored"));
            let words = ["restore", &from, "--at", night, "--disk", name, "--format", "raw", "--force", "-o", &to];
            support::run(env!("CARGO_BIN_EXE_checkmap"), &words);
            assert!(std::fs::read(&to).expect("restored") == content, "{target} of {night}");
        }
    }
    assert_eq!(domain.diff("vda", &["--since", "theirs"]), BTreeSet::from([1, 2, 7, 8, 400]));
    let size = domain.virsh("checkpoint-dumpxml", &["theirs", "--size"]);
    assert!(size.contains(&format!("size='{}'", 5 * GRANULE)), "{size}");
}

/// The writes to each disk in their order, and each checkpoint with how many writes there were before.
#[derive(Default)]
struct Log {
    writes: [Vec<u64>; 2],
    checkpoints: Vec<(&'static str, [usize; 2])>,
}

const TARGETS: [&str; 2] = ["vda", "vdb"];

impl Log {
    /// A guest writes to both disks, each time to other granules.
    fn write(&mut self, domain: &Domain<'_>) {
        for disk in [0, 1] {
            for _ in 0..2 {
                let granule = (self.writes[disk].len() as u64 * 7 + disk as u64 + 3) % 500;
                domain.write(disk, granule);
                self.writes[disk].push(granule);
            }
        }
    }

    fn note(&mut self, checkpoint: &'static str) {
        self.checkpoints.push((checkpoint, [self.writes[0].len(), self.writes[1].len()]));
    }

    fn ours(&mut self, domain: &Domain<'_>, name: &'static str, more: &[&str]) {
        domain.checkmap("create", &[&[name], more].concat());
        self.note(name);
    }

    fn theirs(&mut self, domain: &Domain<'_>, name: &'static str) {
        domain.virsh("checkpoint-create-as", &[name]);
        self.note(name);
    }

    /// Every diff has all writes since its checkpoint, and nothing that nobody wrote.
    #[track_caller]
    fn compare(&self, when: &str, diff: impl Fn(usize, &'static str) -> BTreeSet<u64>) {
        for (name, moment) in &self.checkpoints {
            for disk in [0, 1] {
                let found = diff(disk, name);
                let context = format!("{when}: {} since {name}", TARGETS[disk]);
                let expected: BTreeSet<u64> = self.writes[disk][moment[disk]..].iter().copied().collect();
                let missing: Vec<_> = expected.difference(&found).collect();
                assert!(missing.is_empty(), "{context}: missing {missing:?}, found {found:?}");
                let all: BTreeSet<u64> = self.writes[disk].iter().copied().collect();
                let unwritten: Vec<_> = found.difference(&all).collect();
                assert!(unwritten.is_empty(), "{context}: nobody wrote {unwritten:?}");
            }
        }
    }

    fn compare_online(&self, when: &str, domain: &Domain<'_>) {
        self.compare(when, |disk, since| domain.diff(TARGETS[disk], &["--since", since]));
    }
}

fn diffs_across_a_block_commit(libvirt: &Libvirt) {
    let domain = Domain::start(libvirt, "checkmap-commit");
    let mut log = Log::default();
    // Of one bitmap alone nobody could tell whose it is.
    domain.virsh("checkpoint-create-as", &["theirs0"]);
    log.theirs(&domain, "theirs1");
    log.write(&domain);
    log.ours(&domain, "ours1", &["--model", "interval"]);
    log.write(&domain);
    log.ours(&domain, "ours2", &[]);
    log.write(&domain);
    domain.virsh("snapshot-create-as", &["snap", "--disk-only", "--no-metadata"]);
    log.write(&domain);
    log.ours(&domain, "ours3", &[]);
    log.write(&domain);
    log.compare_online("on a snapshot", &domain);
    for target in TARGETS {
        domain.virsh("blockcommit", &[target, "--active", "--pivot", "--wait"]);
    }
    log.write(&domain);
    log.compare_online("committed", &domain);
    // libvirt's checkpoint knows as much.
    let size = domain.virsh("checkpoint-dumpxml", &["theirs1", "--size"]);
    for target in TARGETS {
        let bytes = domain.diff(target, &["--since", "theirs1"]).len() as u64 * GRANULE;
        let expected = format!("<disk name='{target}' checkpoint='bitmap' bitmap='theirs1' size='{bytes}'/>");
        assert!(size.contains(&expected), "{expected}: {size}");
    }

    // Both owners at one moment: the pull backup of libvirt and the diff beside it say the same.
    log.ours(&domain, "ours4", &[]);
    log.theirs(&domain, "theirs4");
    log.write(&domain);
    log.ours(&domain, "ours5", &[]);
    let socket = domain.file("pull");
    domain.virsh_with("backup-begin", &pull(&domain, &socket, Some("theirs4")));
    let uri = format!("nbd+unix:///vda?socket={}", socket.display());
    let map = support::run("nbdinfo", &["--map=qemu:dirty-bitmap:backup-vda", "--json", &uri]);
    let map: Value = serde_json::from_str(&map).expect("JSON");
    let dirty = map.as_array().expect("a map").iter().filter(|run| run["type"] == 1).cloned();
    let theirs = granules(&dirty.collect::<Vec<_>>().into(), "offset", "length");
    let words = ["--since", "ours4", "--until", "ours5", "--nbd-socket", socket.to_str().expect("UTF-8")];
    assert_eq!(domain.diff("vda", &words), theirs);
    let (_, moment) = log.checkpoints[log.checkpoints.len() - 2];
    assert_eq!(theirs, log.writes[0][moment[0]..].iter().copied().collect());
    domain.virsh("domjobabort", &[]);
    domain.virsh("checkpoint-create-as", &["theirs5"]);
    domain.virsh("checkpoint-delete", &["theirs5"]);
    log.write(&domain);

    // QEMU ends as it does when an operator turns the machine off, and stores its bitmaps.
    domain.virsh("destroy", &["--graceful"]);
    let offline = |disk: usize, since: &str| {
        let path = domain.file(&format!("{}.qcow2", TARGETS[disk]));
        let image = Image::open(&path, &OpenOptions::new(Access::Read)).expect("it opens");
        let diff = image.diff(&DiffRequest::since(since.as_bytes()), &mut Unobserved);
        let diff = diff.unwrap_or_else(|error| panic!("since {since}: {error}"));
        let extents = diff.bitmap.extents(0, u64::MAX);
        extents.flat_map(|extent| extent.offset / GRANULE..extent.end().div_ceil(GRANULE)).collect()
    };
    log.compare("turned off", offline);
    domain.virsh("start", &["--paused"]);
    log.write(&domain);
    log.checkpoints.retain(|(name, _)| ["ours1", "ours5", "theirs1"].contains(name));
    log.compare_online("started again", &domain);
}
