//! Owns the proof that checkmap and libvirt work on one running domain, each with checkpoints of its own: a real daemon, which this test
//! starts for itself. `make test-libvirt` runs it; it needs root, libvirt and no other libvirtd.

#[path = "support/mod.rs"]
mod support;

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DOMAIN: &str = "checkmap-test";
const GRANULE: u64 = 65536;

/// A libvirt of our own with one domain: its folders stand in the places where the daemon looks, inside of a mount namespace.
struct Libvirt {
    folder: TempDir,
    daemon: Child,
}

impl Libvirt {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("libvirt-").tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["etc/libvirt", "lib", "log", "cache", "run/libvirt"] {
            fs::create_dir_all(at(name)).expect("folders");
        }
        // As root without systemd, cgroups, polkit and security modules.
        let qemu = "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\n\
            security_driver = \"none\"\ncgroup_controllers = [ ]\nnamespaces = [ ]\nstdio_handler = \"file\"\n\
            seccomp_sandbox = 0\n";
        fs::write(at("etc/libvirt/qemu.conf"), qemu).expect("a configuration");
        let sockets = at("run/libvirt");
        let daemon = format!(
            "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_group = \"root\"\nunix_sock_dir = \"{}\"\n",
            sockets.display()
        );
        fs::write(at("etc/libvirt/libvirtd.conf"), daemon).expect("a configuration");
        let script = "mkdir -p /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /run\n\
            mount --bind \"$1/etc/libvirt\" /etc/libvirt; mount --bind \"$1/lib\" /var/lib/libvirt\n\
            mount --bind \"$1/log\" /var/log/libvirt; mount --bind \"$1/cache\" /var/cache/libvirt\n\
            exec libvirtd --config /etc/libvirt/libvirtd.conf --pid-file \"$1/libvirtd.pid\"";
        let daemon = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", script, "_"])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare");
        let libvirt = Self { folder, daemon };
        let deadline = Instant::now() + Duration::from_secs(120);
        while !libvirt.try_virsh(&["version"]).status.success() {
            assert!(Instant::now() < deadline, "the daemon does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        for (disk, size) in [("a", "64M"), ("b", "32M")] {
            support::run(
                "qemu-img",
                &["create", "-q", "-f", "qcow2", libvirt.disk(disk).to_str().expect("UTF-8"), size],
            );
        }
        let disk = |name: &str, target: &str| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
                 <target dev='{target}' bus='virtio'/></disk>",
                libvirt.disk(name).display()
            )
        };
        let xml = format!(
            "<domain type='qemu'><name>{DOMAIN}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
             <emulator>/usr/bin/qemu-system-x86_64</emulator>{}{}<controller type='usb' model='none'/>\
             <memballoon model='none'/></devices></domain>",
            disk("a", "vda"),
            disk("b", "vdb")
        );
        let path = libvirt.folder.path().join("domain.xml");
        fs::write(&path, xml).expect("a domain");
        libvirt.virsh(&["define", path.to_str().expect("UTF-8")]);
        libvirt.virsh(&["start", DOMAIN, "--paused"]);
        libvirt
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.qcow2"))
    }

    fn uri(&self) -> String {
        format!("qemu:///system?socket={}", self.folder.path().join("run/libvirt/libvirt-sock").display())
    }

    fn try_virsh(&self, words: &[&str]) -> Output {
        Command::new("virsh").args(["-q", "-c", &self.uri()]).args(words).output().expect("virsh")
    }

    #[track_caller]
    fn virsh(&self, words: &[&str]) -> String {
        let output = self.try_virsh(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn try_checkmap(&self, verb: &str, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
        command.args([verb, "--libvirt", &self.uri(), "--domain", DOMAIN]).args(words);
        command.output().expect("checkmap runs")
    }

    #[track_caller]
    fn checkmap(&self, verb: &str, words: &[&str]) -> String {
        let output = self.try_checkmap(verb, words);
        assert!(output.status.success(), "{verb} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Writes as the guest does, to one granule of vda.
    fn write(&self, granule: u64) {
        let line =
            format!("qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend \"write {} 512\"", granule * GRANULE);
        let said = self.virsh(&["qemu-monitor-command", DOMAIN, "--hmp", &line]);
        assert!(!said.contains("rror"), "{said}");
    }

    #[track_caller]
    fn diff(&self, words: &[&str]) -> BTreeSet<u64> {
        let mut all = vec!["--node", "vda", "--json"];
        all.extend(words);
        let diff: Value = serde_json::from_str(&self.checkmap("diff", &all)).expect("JSON");
        let extents = diff["extents"].as_array().expect("extents").iter();
        extents
            .flat_map(|extent| {
                let (start, length) =
                    (extent["start"].as_u64().expect("a start"), extent["length"].as_u64().expect("a length"));
                start / GRANULE..(start + length).div_ceil(GRANULE)
            })
            .collect()
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let _ = self.try_virsh(&["destroy", DOMAIN]);
        if let Ok(pid) = fs::read_to_string(self.folder.path().join("libvirtd.pid")) {
            let _ = Command::new("kill").arg(pid.trim()).status();
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[test]
#[ignore = "starts a libvirtd: make test-libvirt"]
fn both_owners_work_on_one_domain() {
    if !support::hypervisors_are_here() {
        return;
    }
    assert!(Path::new("/usr/bin/virsh").exists(), "virsh is missing: install libvirt-clients and libvirt-daemon");
    let libvirt = Libvirt::start();
    libvirt.virsh(&["checkpoint-create-as", DOMAIN, "theirs1"]);
    libvirt.write(1);
    libvirt.virsh(&["checkpoint-create-as", DOMAIN, "theirs2"]);
    libvirt.write(2);
    // Our chain begins beside theirs, on both disks in one step.
    libvirt.checkmap("create", &["ours1", "--model", "interval"]);
    libvirt.write(3);
    libvirt.checkmap("create", &["ours2"]);
    libvirt.write(4);
    assert_eq!(libvirt.diff(&["--since", "ours1", "--until", "ours2"]), BTreeSet::from([3]));
    assert_eq!(libvirt.diff(&["--since", "ours1"]), BTreeSet::from([3, 4]));
    assert_eq!(libvirt.diff(&["--since", "theirs1"]), BTreeSet::from([1, 2, 3, 4]));
    assert_eq!(libvirt.diff(&["--since", "theirs2"]), BTreeSet::from([2, 3, 4]));
    let info: Value = serde_json::from_str(&libvirt.checkmap("info", &["--node", "vda", "--json"])).expect("JSON");
    let owners: Vec<&str> = info["chains"]
        .as_array()
        .expect("chains")
        .iter()
        .map(|chain| chain["owner"].as_str().expect("owner"))
        .collect();
    assert_eq!(owners, ["checkmap", "libvirt"]);
    // libvirt's checkpoints are as good as before.
    let size = libvirt.virsh(&["checkpoint-dumpxml", DOMAIN, "theirs1", "--size"]);
    assert!(size.contains(&format!("size='{}'", 4 * GRANULE)), "{size}");
    // Its pull backup holds the one NBD server.
    let backup = libvirt.folder.path().join("backup.xml");
    let socket = libvirt.folder.path().join("pull");
    let xml = format!(
        "<domainbackup mode='pull'><server transport='unix' socket='{}'/><disks><disk name='vda' backup='yes' \
         type='file'><scratch file='{}'/></disk><disk name='vdb' backup='no'/></disks></domainbackup>",
        socket.display(),
        libvirt.disk("scratch").display()
    );
    fs::write(&backup, xml).expect("written");
    libvirt.virsh(&["backup-begin", DOMAIN, backup.to_str().expect("UTF-8")]);
    let refused = libvirt.try_checkmap("diff", &["--node", "vda", "--since", "ours1"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(3), "{told}");
    assert!(told.contains("--until") && told.contains("create"), "{told}");
    let words = ["--since", "ours1", "--until", "ours2", "--nbd-socket", socket.to_str().expect("UTF-8")];
    assert_eq!(libvirt.diff(&words), BTreeSet::from([3]));
    libvirt.virsh(&["domjobabort", DOMAIN]);
    // A snapshot carries the recording bitmaps of both; older bitmaps are read from the layer below.
    libvirt.virsh(&["snapshot-create-as", DOMAIN, "snap", "--disk-only", "--no-metadata"]);
    libvirt.write(5);
    assert_eq!(libvirt.diff(&["--since", "ours1"]), BTreeSet::from([3, 4, 5]));
    assert_eq!(libvirt.diff(&["--since", "theirs1"]), BTreeSet::from([1, 2, 3, 4, 5]));
    libvirt.checkmap("create", &["ours3"]);
    libvirt.write(6);
    assert_eq!(libvirt.diff(&["--since", "ours3"]), BTreeSet::from([6]));
    assert!(libvirt.diff(&["--since", "ours2"]).is_superset(&BTreeSet::from([4, 5, 6])));
    // libvirt's own checkpoint goes, and ours stay.
    libvirt.virsh(&["checkpoint-delete", DOMAIN, "theirs2"]);
    assert!(libvirt.diff(&["--since", "ours1"]).is_superset(&BTreeSet::from([3, 4, 5, 6])));
    assert_eq!(libvirt.diff(&["--since", "theirs1"]), BTreeSet::from([1, 2, 3, 4, 5, 6]));
    // A target that is not there, a domain that is not there.
    let output = libvirt.try_checkmap("list", &["--node", "vdz"]);
    assert_eq!(output.status.code(), Some(3));
    let output = Command::new(env!("CARGO_BIN_EXE_checkmap"))
        .args(["list", "--libvirt", &libvirt.uri(), "--domain", "nobody"])
        .output()
        .expect("checkmap runs");
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
}
