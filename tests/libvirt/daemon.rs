//! A libvirt of the test's own: a real daemon in a mount namespace, with domains whose disks belong to the test. Must never know
//! what a test is about.

use crate::support;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The granularity of all bitmaps here.
pub(crate) const GRANULE: u64 = 65536;

/// As root without systemd, cgroups, polkit and security modules.
const QEMU_CONF: &str = "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\n\
    security_driver = \"none\"\ncgroup_controllers = [ ]\nnamespaces = [ ]\nstdio_handler = \"file\"\n\
    seccomp_sandbox = 0\n";

/// Puts folders of the test's in the places where the daemon looks. libvirt 9 wants to know a user whom only Debian's package of
/// its service makes.
const SCRIPT: &str = "set -e\n\
    mkdir -p /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /run/libvirt\n\
    mount --bind \"$1/lib\" /var/lib/libvirt; mount --bind \"$1/log\" /var/log/libvirt\n\
    mount --bind \"$1/cache\" /var/cache/libvirt; mount --bind \"$1/run\" /run/libvirt\n\
    mount --bind \"$1/etc\" /etc/libvirt\n\
    know() {\n\
        grep -q ^libvirt-qemu: /etc/$2 && return\n\
        { cat /etc/$2; echo \"$3\"; } >\"$1/$2\"; mount --bind \"$1/$2\" /etc/$2\n\
    }\n\
    know \"$1\" passwd libvirt-qemu:x:64055:64055::/:/bin/false; know \"$1\" group libvirt-qemu:x:64055:\n\
    PATH=$PATH:/usr/sbin\n\
    exec libvirtd --config /etc/libvirt/libvirtd.conf --pid-file \"$1/libvirtd.pid\"";

/// False, loudly, where there is no libvirt, which is a failure in CI; and where the test is not run by root.
pub(crate) fn is_here() -> bool {
    if !support::hypervisors_are_here() {
        return false;
    }
    let has = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    if !has("virsh") || !(has("libvirtd") || Path::new("/usr/sbin/libvirtd").exists()) {
        let missing = "libvirt is missing: install libvirt-daemon, libvirt-daemon-driver-qemu and libvirt-clients";
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("SKIPPED, NOT PASSED: {missing}");
        return false;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED, NOT PASSED: needs root, to start a libvirtd in a mount namespace");
        return false;
    }
    true
}

/// A running daemon; it ends with the test.
pub(crate) struct Libvirt {
    folder: TempDir,
    daemon: Child,
}

impl Libvirt {
    pub(crate) fn start() -> Self {
        let folder = TempDir::with_prefix("libvirt-").expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["etc", "lib", "log", "cache", "run"] {
            fs::create_dir_all(at(name)).expect("folders");
        }
        fs::write(at("etc/qemu.conf"), QEMU_CONF).expect("a configuration");
        let daemon = format!(
            "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_group = \"root\"\nunix_sock_dir = \"{}\"\n\
             log_outputs = \"3:file:{}\"\n",
            at("run").display(),
            at("log/daemon").display()
        );
        fs::write(at("etc/libvirtd.conf"), daemon).expect("a configuration");
        let daemon = Command::new("unshare")
            .args(["-m", "--propagation", "private", "sh", "-c", SCRIPT, "_"])
            .arg(folder.path())
            // A machine with systemd is not told of the domain.
            .env("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare");
        let mut libvirt = Self { folder, daemon };
        let deadline = Instant::now() + Duration::from_secs(120);
        while !libvirt.try_virsh(&["version"]).status.success() {
            let ended = libvirt.daemon.try_wait().expect("the daemon can be waited for");
            let log = || fs::read_to_string(libvirt.folder.path().join("log/daemon")).unwrap_or_default();
            assert!(ended.is_none(), "the daemon ended: {ended:?}: {}", log());
            assert!(Instant::now() < deadline, "the daemon does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        libvirt
    }

    pub(crate) fn uri(&self) -> String {
        format!("qemu:///system?socket={}", self.folder.path().join("run/libvirt-sock").display())
    }

    fn try_virsh(&self, words: &[&str]) -> Output {
        let mut command = Command::new("virsh");
        command.args(["-q", "-c", &self.uri()]).args(words).env("LC_ALL", "C");
        command.output().expect("virsh")
    }

    #[track_caller]
    pub(crate) fn virsh(&self, words: &[&str]) -> String {
        let output = self.try_virsh(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        if let Ok(pid) = fs::read_to_string(self.folder.path().join("libvirtd.pid")) {
            let _ = Command::new("kill").arg(pid.trim()).status();
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A domain with two disks, `vda` of 64 MiB and `vdb` of 32 MiB; its processor stands still.
pub(crate) struct Domain<'a> {
    libvirt: &'a Libvirt,
    name: &'static str,
}

impl<'a> Domain<'a> {
    pub(crate) fn start(libvirt: &'a Libvirt, name: &'static str) -> Self {
        let domain = Self { libvirt, name };
        for (target, size) in [("vda", "64M"), ("vdb", "32M")] {
            let disk = domain.file(&format!("{target}.qcow2"));
            support::run("qemu-img", &["create", "-q", "-f", "qcow2", disk.to_str().expect("UTF-8"), size]);
        }
        let disk = |target: &str| {
            format!(
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
                 <target dev='{target}' bus='virtio'/></disk>",
                domain.file(&format!("{target}.qcow2")).display()
            )
        };
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
             <emulator>/usr/bin/qemu-system-x86_64</emulator>{}{}<controller type='usb' model='none'/>\
             <memballoon model='none'/></devices></domain>",
            disk("vda"),
            disk("vdb")
        );
        let path = domain.file("domain.xml");
        fs::write(&path, xml).expect("a domain");
        libvirt.virsh(&["define", path.to_str().expect("UTF-8")]);
        libvirt.virsh(&["start", name, "--paused"]);
        domain
    }

    /// Defines the domain anew.
    #[track_caller]
    pub(crate) fn define(&self, xml: &str) {
        let path = self.file("again.xml");
        fs::write(&path, xml).expect("written");
        self.libvirt.virsh(&["define", path.to_str().expect("UTF-8")]);
    }

    /// The file with the process of its QEMU.
    pub(crate) fn pid_file(&self) -> PathBuf {
        self.libvirt.folder.path().join(format!("run/qemu/{}.pid", self.name))
    }

    /// Returns as soon as libvirt has seen that its QEMU ended.
    pub(crate) fn wait_until_off(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !self.virsh("domstate", &[]).contains("shut off") {
            assert!(Instant::now() < deadline, "libvirt does not see the end of QEMU");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// A file of this domain's.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.libvirt.folder.path().join(format!("{}-{name}", self.name))
    }

    /// `virsh VERB DOMAIN WORDS`.
    #[track_caller]
    pub(crate) fn virsh(&self, verb: &str, words: &[&str]) -> String {
        self.libvirt.virsh(&[&[verb, self.name], words].concat())
    }

    /// As [`Domain::virsh`], with a last word that is a file of this content.
    #[track_caller]
    pub(crate) fn virsh_with(&self, verb: &str, content: &str) -> String {
        let path = self.file("words.xml");
        fs::write(&path, content).expect("written");
        self.virsh(verb, &[path.to_str().expect("UTF-8")])
    }

    pub(crate) fn try_checkmap(&self, verb: &str, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
        command.args([verb, "--libvirt", &self.libvirt.uri(), "--domain", self.name]).args(words);
        command.output().expect("checkmap runs")
    }

    #[track_caller]
    pub(crate) fn checkmap(&self, verb: &str, words: &[&str]) -> String {
        let output = self.try_checkmap(verb, words);
        assert!(output.status.success(), "{verb} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Writes as the guest does, to one granule of `vda` (0) or `vdb` (1).
    #[track_caller]
    pub(crate) fn write(&self, disk: usize, granule: u64) {
        let device = format!("/machine/peripheral/virtio-disk{disk}/virtio-backend");
        let line = format!("qemu-io -d {device} \"write {} 512\"", granule * GRANULE);
        let said = self.virsh("qemu-monitor-command", &["--hmp", &line]);
        assert!(!said.contains("rror"), "{said}");
    }

    /// The dirty granules of a running disk.
    #[track_caller]
    pub(crate) fn diff(&self, target: &str, words: &[&str]) -> BTreeSet<u64> {
        let printed = self.checkmap("diff", &[&["--node", target, "--json"], words].concat());
        let diff: Value = serde_json::from_str(&printed).expect("JSON");
        granules(&diff["extents"], "start", "length")
    }
}

impl Drop for Domain<'_> {
    fn drop(&mut self) {
        let _ = self.libvirt.try_virsh(&["destroy", self.name]);
    }
}

/// The granules of a list of extents.
pub(crate) fn granules(extents: &Value, start: &str, length: &str) -> BTreeSet<u64> {
    let granules = |extent: &Value| {
        let start = extent[start].as_u64().expect("a start");
        start / GRANULE..(start + extent[length].as_u64().expect("a length")).div_ceil(GRANULE)
    };
    extents.as_array().expect("extents").iter().flat_map(granules).collect()
}
