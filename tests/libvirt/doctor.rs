//! The doctor and a domain of libvirt's: each disagreement made on purpose, mended, and libvirt's own incremental backup after it.

use crate::daemon::{Domain, Libvirt};
use crate::pull;
use crate::support;
use serde_json::Value;

const TARGETS: [&str; 2] = ["vda", "vdb"];

impl Domain<'_> {
    fn names(&self) -> Vec<String> {
        let listed = self.virsh("checkpoint-list", &["--name"]);
        let mut names: Vec<String> = listed.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
        // Two without a parent have no order.
        names.sort();
        names
    }

    /// The kinds that the doctor finds, and its status.
    #[track_caller]
    fn doctor(&self, words: &[&str]) -> (Vec<String>, Option<i32>) {
        let output = self.try_checkmap("doctor", &[&["--json"], words].concat());
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        let findings = report["findings"].as_array().expect("findings").iter();
        let kinds = findings.map(|found| found["kind"].as_str().expect("a kind").to_owned()).collect();
        (kinds, output.status.code())
    }

    #[track_caller]
    fn found(&self) -> Vec<String> {
        let (kinds, status) = self.doctor(&[]);
        assert_eq!(status, Some(i32::from(!kinds.is_empty())), "{kinds:?}");
        kinds
    }

    /// A dry run finds these kinds and changes nothing, so that the repair finds them too; it leaves none.
    #[track_caller]
    fn mend(&self, kinds: &[&str]) {
        assert_eq!(self.mend_all(), kinds);
    }

    #[track_caller]
    fn mend_all(&self) -> Vec<String> {
        let (listed, status) = self.doctor(&["--repair", "--dry-run"]);
        assert_eq!(status, Some(1), "{listed:?}");
        assert_eq!(self.doctor(&["--repair"]), (listed.clone(), Some(0)));
        listed
    }

    fn qmp(&self, command: &str) {
        let said = self.virsh("qemu-monitor-command", &[command]);
        assert!(!said.contains("\"error\""), "{command}: {said}");
    }

    fn node(&self, target: &str) -> String {
        let disks: Value = serde_json::from_str(&self.checkmap("list", &["--json"])).expect("JSON");
        let at = TARGETS.iter().position(|own| *own == target).expect("a disk");
        disks["disks"][at]["node"].as_str().expect("a node").to_owned()
    }

    fn bitmap(&self, command: &str, target: &str, name: &str, more: &str) {
        let node = self.node(target);
        self.qmp(&format!(
            "{{\"execute\":\"block-dirty-bitmap-{command}\",\"arguments\":{{\"node\":\"{node}\",\"name\":\"{name}\"{more}}}}}"
        ));
    }

    /// libvirt's own incremental backup of `vda` since a checkpoint has these granules.
    #[track_caller]
    fn assert_backup(&self, since: &str, granules: &[u64]) {
        let socket = self.file("pull");
        let _ = std::fs::remove_file(&socket);
        let _ = std::fs::remove_file(self.file("scratch.qcow2"));
        self.virsh_with("backup-begin", &pull(self, &socket, Some(since)));
        let uri = format!("nbd+unix:///vda?socket={}", socket.display());
        let map = support::run("nbdinfo", &["--map=qemu:dirty-bitmap:backup-vda", "--json", &uri]);
        let map: Value = serde_json::from_str(&map).expect("JSON");
        let dirty = map.as_array().expect("a map").iter().filter(|run| run["type"] == 1).cloned();
        let found = crate::granules(&dirty.collect::<Vec<_>>().into(), "offset", "length");
        self.virsh("domjobabort", &[]);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), granules);
    }
}

pub(crate) fn each_disagreement_is_mended(libvirt: &Libvirt) {
    let domain = Domain::start(libvirt, "checkmap-doctor");
    // A lone bitmap of libvirt's is not taken for ours: a checkpoint of ours leaves it alone.
    domain.virsh("checkpoint-create-as", &["c1"]);
    assert_eq!(domain.found(), Vec::<String>::new());
    domain.write(0, 1);
    domain.checkmap("create", &["beside"]);
    domain.assert_backup("c1", &[1]);
    domain.checkmap("delete", &["beside"]);
    domain.virsh("checkpoint-create-as", &["c2"]);
    domain.write(0, 2);
    let listed: Value = serde_json::from_str(&domain.checkmap("list", &["--node", "vda", "--json"])).expect("JSON");
    assert_eq!((&listed[0]["name"], &listed[1]["parent"]), (&"c1".into(), &"c1".into()), "{listed}");
    assert!(listed[0]["time_seconds"].is_u64(), "{listed}");
    assert!(listed[0].get("ordered").is_none(), "{listed}");

    // libvirt forgot all: as after an undefine and a new define.
    for name in ["c1", "c2"] {
        domain.virsh("checkpoint-delete", &[name, "--metadata"]);
    }
    domain.mend(&["bitmap-without-metadata"; 4]);
    assert_eq!(domain.names(), ["c1", "c2"]);
    domain.assert_backup("c1", &[1, 2]);
    domain.assert_backup("c2", &[2]);

    // One disk lost its bitmap: the other one goes on.
    domain.bitmap("remove", "vdb", "c1", "");
    domain.mend(&["metadata-without-bitmap"]);
    assert!(!domain.virsh("checkpoint-dumpxml", &["c1", "--no-domain"]).contains("name='vdb' checkpoint='bitmap'"));
    domain.assert_backup("c1", &[1, 2]);

    // A frozen bitmap is a broken one.
    domain.virsh("checkpoint-create-as", &["c3"]);
    domain.write(0, 3);
    domain.bitmap("disable", "vda", "c2", "");
    domain.mend(&["broken-bitmap"]);
    domain.assert_backup("c3", &[3]);
    // A helper that a job left.
    domain.bitmap("add", "vda", "libvirt-tmp-activewrite", ",\"persistent\":true");
    domain.mend(&["leftover"]);

    // A chain of ours beside it stays, and libvirt is told of none of it.
    domain.checkmap("create", &["ours1", "--model", "interval"]);
    domain.checkmap("create", &["ours2"]);
    let output = domain.try_checkmap("doctor", &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("libvirt can be told of none of the checkpoints"));
    domain.checkmap("delete", &["ours1", "ours2"]);

    // The host crashed: bitmaps in memory are gone, stored ones are dead, and the domain starts again.
    domain.virsh("destroy", &["--graceful"]);
    domain.virsh("start", &["--paused"]);
    domain.virsh("checkpoint-create-as", &["c4"]);
    let pid = std::fs::read_to_string(domain.pid_file()).expect("a process");
    support::run("kill", &["-9", pid.trim()]);
    domain.wait_until_off();
    domain.virsh("start", &["--paused"]);
    let kinds = domain.mend_all();
    assert!(
        kinds.contains(&"broken-bitmap".to_owned()) && kinds.contains(&"metadata-without-bitmap".to_owned()),
        "{kinds:?}"
    );
    assert_eq!(domain.names(), Vec::<String>::new());
    domain.virsh("checkpoint-create-as", &["c4"]);
    domain.write(0, 4);
    domain.assert_backup("c4", &[4]);

    // The checkpoints become a chain of ours.
    domain.virsh("checkpoint-create-as", &["c5"]);
    domain.checkmap("doctor", &["--to-interval"]);
    assert_eq!(domain.names(), Vec::<String>::new());
    let listed: Value = serde_json::from_str(&domain.checkmap("list", &["--node", "vda", "--json"])).expect("JSON");
    assert_eq!(listed[1]["bitmap"], "c4->c5", "{listed}");
    assert_eq!(domain.found(), Vec::<String>::new());
    assert_eq!(domain.diff("vda", &["--since", "c4"]), [4].into());
    domain.virsh("checkpoint-create-as", &["c6"]);
    domain.write(0, 7);
    domain.assert_backup("c6", &[7]);

    // Somebody put a layer on top without bitmaps.
    domain.virsh("destroy", &["--graceful"]);
    let (base, over) = (domain.file("vda.qcow2"), domain.file("vda.over"));
    let words = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "qcow2",
        "-b",
        base.to_str().expect("UTF-8"),
        over.to_str().expect("UTF-8"),
    ];
    support::run("qemu-img", &words);
    let xml = domain.virsh("dumpxml", &["--inactive"]);
    domain.define(&xml.replace("vda.qcow2", "vda.over"));
    domain.virsh("start", &["--paused"]);
    domain.write(0, 5);
    domain.mend(&["not-carried"]);
    domain.write(0, 6);
    domain.assert_backup("c6", &[5, 6, 7]);

    // The disks have changed their names.
    domain.virsh("destroy", &["--graceful"]);
    let xml = domain.virsh("dumpxml", &["--inactive"]);
    let xml = xml.replace("dev='vda'", "dev='vdx'").replace("dev='vdb'", "dev='vda'").replace("dev='vdx'", "dev='vdb'");
    domain.define(&xml);
    domain.virsh("start", &["--paused"]);
    let kinds = domain.mend_all();
    assert!(!kinds.is_empty() && kinds.iter().all(|kind| kind == "shifted-disk"), "{kinds:?}");
}
