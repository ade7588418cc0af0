//! Owns the contract of the command line on running hypervisors: names of disks, JSON, dry runs, exit statuses.

use crate::histories::DISKS;
use crate::support::hypervisor::{Hypervisor, Program};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::{Command, Output};

fn checkmap(hypervisor: &Hypervisor, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
    command.args(words).arg("--qmp").arg(hypervisor.qmp());
    command.output().expect("checkmap runs")
}

#[track_caller]
fn ok(hypervisor: &Hypervisor, words: &[&str]) -> String {
    let output = checkmap(hypervisor, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[track_caller]
fn json_of(hypervisor: &Hypervisor, words: &[&str]) -> Value {
    serde_json::from_str(&ok(hypervisor, words)).expect("one JSON document")
}

#[track_caller]
fn refused(hypervisor: &Hypervisor, words: &[&str], status: i32, says: &str) {
    let output = checkmap(hypervisor, words);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{words:?}: {told}");
    assert!(told.contains(says), "{words:?}: {told}");
}

#[test]
fn the_answers_are_those_of_the_contract() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISKS);
    let nobody = json!({ "disks": [{ "node": "d0", "checkpoints": [] }, { "node": "d1", "checkpoints": [] }] });
    assert_eq!(json_of(&hypervisor, &["list", "--json"]), nobody);
    assert_eq!(json_of(&hypervisor, &["list", "--json", "--node", "d1"]), json!([]));
    // A dry run changes nothing, and prints what would be sent.
    let planned = json_of(&hypervisor, &["create", "mon", "--dry-run"]);
    assert_eq!(planned["execute"], "transaction");
    let actions = planned["arguments"]["actions"].as_array().expect("actions").clone();
    assert_eq!(actions.len(), 2);
    assert_eq!(json_of(&hypervisor, &["list", "--json"]), nobody);
    hypervisor.command("transaction", planned["arguments"].clone());
    hypervisor.write(0, 1 << 20, 4096);
    ok(&hypervisor, &["create", "tue"]);
    // Every way to name a disk.
    let path = hypervisor.image(0).to_str().expect("UTF-8").to_owned();
    let device = "/machine/peripheral/d0-device/virtio-backend";
    let first = json_of(&hypervisor, &["list", "--json", "--node", "d0"]);
    assert_eq!(first.as_array().expect("an array").len(), 2);
    for name in ["d0-device", device, &path] {
        assert_eq!(json_of(&hypervisor, &["list", "--json", "--node", name]), first, "{name}");
    }
    let info = json_of(&hypervisor, &["info", "--json", "--node", "d0"]);
    // QEMU does not tell the version of the format.
    assert_eq!(info["version"], Value::Null);
    assert!(ok(&hypervisor, &["info", "--node", "d0"]).contains("format:       qcow2, clusters of 64 KiB\n"));
    assert_eq!(
        (&info["node"], &info["model"], &info["virtual_size"]),
        (&json!("d0"), &json!("interval"), &json!(64 << 20))
    );
    let bitmaps = info["bitmaps"].as_array().expect("bitmaps");
    let first = bitmaps.iter().find(|bitmap| bitmap["name"] == "mon").expect("the first bitmap");
    assert_eq!(first["dirty_bytes"], 65536);
    let both = json_of(&hypervisor, &["info", "--json"]);
    assert_eq!(both["disks"].as_array().expect("disks").len(), 2);
    let diff = json_of(&hypervisor, &["diff", "--node", "d0", "--since", "mon", "--json"]);
    assert_eq!(diff["extents"], json!([{ "start": 1 << 20, "length": 65536 }]));
    let out = hypervisor.folder.path().join("changes.parquet");
    let words = ["diff", "--node", "d0", "--since", "mon", "--each-interval", "--format", "parquet-roaring", "-o"];
    ok(&hypervisor, &[&words[..], &[out.to_str().expect("UTF-8")]].concat());
    let file = SerializedFileReader::new(std::fs::File::open(&out).expect("it was written")).expect("a Parquet file");
    let intervals = [("d0", "\"tue\"", "65536"), ("d0", "null", "0")];
    let cells = |row: parquet::record::Row| {
        row.into_columns().into_iter().map(|(name, cell)| (name, cell.to_string())).collect::<BTreeMap<_, _>>()
    };
    let rows: Vec<_> = file.get_row_iter(None).expect("rows").map(|row| cells(row.expect("a row"))).collect();
    assert_eq!(rows.len(), intervals.len());
    for (row, (disk, until, bytes)) in rows.iter().zip(intervals) {
        let disk = format!("\"{disk}\"");
        assert_eq!((&row["disk"], &*row["until"], &*row["dirty_bytes"]), (&disk, until, bytes));
    }
    // Pictures have every disk of the machine.
    let map = json_of(&hypervisor, &["map", "--since", "mon", "--json"]);
    let trend = json_of(&hypervisor, &["trend", "--json"]);
    for (at, bytes) in [65536, 0].into_iter().enumerate() {
        let (map, trend) = (&map["disks"][at], &trend["disks"][at]);
        assert_eq!((&map["dirty_bytes"], &trend["intervals"][0]["dirty_bytes"]), (&json!(bytes), &json!(bytes)));
        assert_eq!((&map["node"], &trend["node"]), (&json!(DISKS[at].node), &json!(DISKS[at].node)));
    }
    let dumped = json_of(&hypervisor, &["dump", "--node", "d0", "--bitmap", "mon", "--json"]);
    assert_eq!(dumped["extents"], diff["extents"]);
    ok(&hypervisor, &["merge", "--node", "d0", "mon", "--into", "mon->tue"]);
    let diff = json_of(&hypervisor, &["diff", "--node", "d0", "--since", "tue", "--json"]);
    assert_eq!(diff["extents"], json!([{ "start": 1 << 20, "length": 65536 }]));
    let checked = json_of(&hypervisor, &["check", "--json", "--node", "d0"]);
    assert_eq!((&checked["errors"], &checked["node"]), (&json!(0), &json!("d0")));
    ok(&hypervisor, &["rename", "tue", "dienstag"]);
    ok(&hypervisor, &["delete", "mon"]);
    let left = json_of(&hypervisor, &["list", "--json", "--node", "d1"]);
    assert_eq!((&left[0]["name"], &left[0]["parent"]), (&json!("dienstag"), &Value::Null));
    hypervisor.assert_tidy();
}

#[test]
fn refusals_name_the_reason_and_change_nothing() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISKS);
    let raw = hypervisor.folder.path().join("plain.raw");
    std::fs::write(&raw, vec![0; 1 << 20]).expect("it can be written");
    let node = json!({ "driver": "raw", "node-name": "plain", "read-only": false,
        "file": { "driver": "file", "filename": raw, "node-name": "plain-file" } });
    hypervisor.command("blockdev-add", node);
    refused(&hypervisor, &["diff", "--since", "mon"], 2, "--node");
    refused(&hypervisor, &["create", "mon", "--node", "d9"], 3, "d9");
    refused(&hypervisor, &["create", "mon", "--node", "plain"], 3, "keep bitmaps");
    refused(&hypervisor, &["create", "mon", "--node", "d0", "--node", "d0-device"], 2, "named already");
    refused(&hypervisor, &["create"], 2, "CHECKPOINT");
    refused(&hypervisor, &["create", "a", "b"], 2, "unexpected");
    // A checkpoint on one disk only.
    ok(&hypervisor, &["create", "mon", "--node", "d0"]);
    refused(&hypervisor, &["delete", "mon"], 3, "d1");
    refused(&hypervisor, &["create", "mon"], 3, "d0");
    assert_eq!(json_of(&hypervisor, &["list", "--json", "--node", "d0"]).as_array().expect("one").len(), 1);
    // In use by an export of somebody else.
    hypervisor.command(
        "nbd-server-start",
        json!({ "addr": { "type": "unix", "data": {
        "path": hypervisor.folder.path().join("theirs") } } }),
    );
    ok(&hypervisor, &["create", "tue", "--node", "d0"]);
    hypervisor
        .command("block-export-add", json!({ "type": "nbd", "id": "theirs", "node-name": "d0", "bitmaps": ["mon"] }));
    refused(&hypervisor, &["delete", "mon", "--node", "d0"], 3, "in use");
    hypervisor.command("block-export-del", json!({ "id": "theirs" }));
    ok(&hypervisor, &["delete", "mon", "--node", "d0"]);
    // A monitor that is none.
    let output = Command::new(env!("CARGO_BIN_EXE_checkmap"))
        .args(["list", "--qmp", "/nonexistent/qmp.sock"])
        .output()
        .expect("checkmap runs");
    assert_eq!(output.status.code(), Some(1));
    hypervisor.assert_tidy();
}

#[test]
fn what_a_backup_has_to_read_is_planned_for_each_disk() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISKS);
    let raw = hypervisor.folder.path().join("plain.raw");
    std::fs::File::create(&raw).and_then(|file| file.set_len(3 << 20)).expect("it can be written");
    let node = json!({ "driver": "raw", "node-name": "plain", "read-only": false,
        "file": { "driver": "file", "filename": raw, "node-name": "plain-file" } });
    hypervisor.command("blockdev-add", node);
    hypervisor.write(0, 0, 1 << 20);
    hypervisor.write(1, 0, 1 << 20);
    ok(&hypervisor, &["create", "mon", "--node", "d0"]);
    hypervisor.write(0, 65536, 100_000);
    let planned = |disks: &[&str]| {
        let nodes = disks.iter().flat_map(|disk| ["--node", disk]);
        json_of(&hypervisor, &["plan", "--since", "mon", "--json"].into_iter().chain(nodes).collect::<Vec<_>>())
    };
    let all = planned(&["d0", "d1", "plain"]);
    let [changed, allocated, none] = &all["disks"].as_array().expect("disks")[..] else { panic!("{all}") };
    assert_eq!((&changed["tier"], &changed["changed_bytes"]), (&json!("changed"), &json!(2 << 16)), "{all}");
    assert_eq!(changed["allocated_bytes"], json!(1 << 20), "{all}");
    assert_eq!((&allocated["tier"], &allocated["changed_bytes"]), (&json!("allocated"), &Value::Null), "{all}");
    assert_eq!(allocated["allocated_bytes"], json!(1 << 20), "{all}");
    // A file of holes.
    assert_eq!((&none["tier"], &none["allocated_bytes"]), (&json!("allocated"), &json!(0)), "{all}");
    assert!(none["reason"].as_str().is_some_and(|reason| reason.contains("bitmaps")), "{all}");
    let xml = ok(&hypervisor, &["plan", "--since", "mon", "--libvirt-xml"]);
    assert_eq!((xml.matches("<disk ").count(), xml.matches("incremental='mon'").count()), (2, 1), "{xml}");
    hypervisor.assert_tidy();
}

#[test]
fn a_stall_that_is_too_long_is_refused() {
    if !crate::support::tools_are_here() {
        return;
    }
    let disks = [crate::support::hypervisor::DiskSpec { node: "big", size_bytes: 16 << 40, options: "" }];
    let mut hypervisor = Hypervisor::start(Program::StorageDaemon, &disks);
    for name in ["mon", "tue", "wed"] {
        ok(&hypervisor, &["create", name]);
    }
    refused(&hypervisor, &["delete", "tue", "--max-stall", "1"], 3, "--max-stall");
    ok(&hypervisor, &["delete", "tue", "--max-stall", "60000"]);
    hypervisor.assert_tidy();
}
