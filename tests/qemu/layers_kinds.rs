//! Owns the contract for layers below of a running disk: how they can be opened, the lines of a dry run, and refusals with nothing
//! changed.

use crate::killed::{checkmap, told};
use crate::layers::{DISK, GRANULE, snapshot};
use crate::support::hypervisor::{DiskSpec, Hypervisor, Program};
use crate::support::run;
use checkmap::ErrorKind;
use checkmap::planner::{Verb, plan};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

#[track_caller]
fn ok(hypervisor: &Hypervisor, words: &[&str]) -> String {
    let output = checkmap(words, &hypervisor.qmp());
    assert!(output.status.success(), "{words:?}: {}", told(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[track_caller]
fn refused(hypervisor: &mut Hypervisor, words: &[&str], says: &str) {
    let before = nodes(hypervisor);
    let output = checkmap(words, &hypervisor.qmp());
    assert_eq!(output.status.code(), Some(3), "{words:?}: {}", told(&output));
    assert!(told(&output).contains(says), "{words:?}: {}", told(&output));
    assert_eq!(nodes(hypervisor), before, "{words:?} changed something");
    hypervisor.assert_tidy();
}

/// Each node with its access and its bitmaps.
fn nodes(hypervisor: &mut Hypervisor) -> Vec<Value> {
    let nodes = hypervisor.command("query-named-block-nodes", json!({ "flat": true }));
    let mut nodes: Vec<Value> = nodes.as_array().expect("nodes").clone();
    nodes.retain(|node| node["drv"] == "qcow2");
    nodes.iter().map(|node| json!([node["node-name"], node["ro"], node["dirty-bitmaps"]])).collect()
}

/// Two checkpoints below, one above.
fn with_layers() -> Hypervisor {
    let mut hypervisor = Hypervisor::start(Program::System, &DISK);
    ok(&hypervisor, &["create", "mon"]);
    hypervisor.write(0, GRANULE, 512);
    ok(&hypervisor, &["create", "tue"]);
    snapshot(&mut hypervisor, "d0", "o1", &["mon->tue"]);
    ok(&hypervisor, &["create", "wed"]);
    hypervisor.write(0, 2 * GRANULE, 512);
    hypervisor
}

#[test]
fn a_dry_run_prints_the_commands_in_their_order() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = with_layers();
    let before = nodes(&mut hypervisor);
    let printed = ok(&hypervisor, &["delete", "tue", "--dry-run"]);
    assert_eq!(nodes(&mut hypervisor), before);
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let reopen = |option| {
        json!({ "execute": "human-monitor-command", "arguments": {
        "command-line": format!("qemu-io d0 \"reopen {option}\"") } })
    };
    assert_eq!((&lines[0], &lines[2], lines.len()), (&reopen("-w"), &reopen("-r"), 3), "{printed}");
    let actions = lines[1]["arguments"]["actions"].as_array().expect("actions");
    let on = |node: &str| actions.iter().filter(|action| action["data"]["node"] == node).count();
    assert!(on("d0") > 0 && on("o1") > 0 && on("d0") + on("o1") == actions.len(), "{printed}");
    // So does the pure planner.
    let told = hypervisor.command("query-named-block-nodes", json!({ "flat": true })).to_string();
    let verb = Verb::Delete { checkpoints: &[b"tue"], force_inconsistent: false, model: None };
    let planned = plan(told.as_bytes(), &["o1", "d0"], &verb).expect("planned");
    let planned: Vec<Value> = planned.commands.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(planned, lines);
    // By hand they do the same.
    for line in &lines {
        let said = hypervisor.command(line["execute"].as_str().expect("a name"), line["arguments"].clone());
        assert!(said == json!({}) || said == json!(""), "{said}");
    }
    let listed: Value = serde_json::from_str(&ok(&hypervisor, &["list", "--json", "--node", "o1"])).expect("JSON");
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(hypervisor.command("query-block", json!({}))[0]["inserted"]["ro"], false);
    ok(&hypervisor, &["delete", "mon"]);
}

#[test]
fn all_layers_of_all_disks_change_in_one_step() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let disks = [DISK[0], DiskSpec { node: "e0", ..DISK[0] }];
    let mut hypervisor = Hypervisor::start(Program::System, &disks);
    for name in ["mon", "tue"] {
        ok(&hypervisor, &["create", name]);
        (0..2).for_each(|disk| hypervisor.write(disk, GRANULE, 512));
    }
    snapshot(&mut hypervisor, "d0", "d1", &["mon->tue"]);
    snapshot(&mut hypervisor, "e0", "e1", &[]);
    hypervisor.write(1, 3 * GRANULE, 512);
    ok(&hypervisor, &["create", "wed"]);
    // Refused on one disk, so nothing changes on the other.
    let foreign = json!({ "node": "e1", "name": "x", "persistent": true });
    hypervisor.command("block-dirty-bitmap-add", foreign);
    refused(&mut hypervisor, &["rename", "tue", "x"], "x");
    hypervisor.command("block-dirty-bitmap-remove", json!({ "node": "e1", "name": "x" }));
    let printed = ok(&hypervisor, &["rename", "tue", "x", "--dry-run"]);
    assert_eq!(printed.lines().count(), 5, "two layers there and back, and one transaction: {printed}");
    ok(&hypervisor, &["rename", "tue", "x"]);
    ok(&hypervisor, &["delete", "x"]);
    for (node, expected) in [("d1", json!([65536])), ("e1", json!([65536, 3 * 65536]))] {
        let diff: Value = serde_json::from_str(&ok(&hypervisor, &["diff", "--since", "mon", "--node", node, "--json"]))
            .expect("JSON");
        let starts: Vec<Value> =
            diff["extents"].as_array().expect("extents").iter().map(|extent| extent["start"].clone()).collect();
        assert_eq!(json!(starts), expected, "{node}");
    }
    hypervisor.assert_tidy();
}

/// The options of the nodes of a base, as they are given to QEMU.
fn on_base(read_only_file: Value, read_only: Value) -> (Hypervisor, PathBuf) {
    let hypervisor = Hypervisor::start(Program::System, &DISK);
    for name in ["mon", "tue"] {
        ok(&hypervisor, &["create", name]);
    }
    let folder = hypervisor.quit();
    let (base, top) = (folder.path().join("d0.qcow2"), folder.path().join("top.qcow2"));
    let (base, top) = (base.to_str().expect("UTF-8"), top.to_str().expect("UTF-8"));
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top]);
    run("qemu-img", &["bitmap", "--add", top, "mon->tue"]);
    let (base, top) = (PathBuf::from(base), PathBuf::from(top));
    let mut hypervisor = Hypervisor::start_on(folder, Program::System, &[]);
    let mut file = json!({ "driver": "file", "filename": base, "node-name": "base-file" });
    let mut node = json!({ "driver": "qcow2", "node-name": "base", "file": "base-file", "discard": "unmap" });
    for (node, options) in [(&mut file, read_only_file), (&mut node, read_only)] {
        node.as_object_mut().expect("a node").extend(options.as_object().expect("options").clone());
    }
    hypervisor.command("blockdev-add", file);
    hypervisor.command("blockdev-add", node);
    let file = json!({ "driver": "file", "filename": top, "node-name": "top-file" });
    hypervisor.command("blockdev-add", file);
    let node = json!({ "driver": "qcow2", "node-name": "top", "file": "top-file", "backing": "base" });
    hypervisor.command("blockdev-add", node);
    (hypervisor, base)
}

#[test]
fn a_layer_is_reopened_however_it_was_opened() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let (read_only, automatic, open) =
        (json!({ "read-only": true }), json!({ "auto-read-only": true }), json!({ "read-only": false }));
    for (file, node) in [
        (&read_only, &read_only),
        (&automatic, &read_only),
        (&open, &read_only),
        (&automatic, &automatic),
        (&open, &open),
    ] {
        let (mut hypervisor, base) = on_base(file.clone(), node.clone());
        let access = |hypervisor: &mut Hypervisor| {
            let nodes = hypervisor.command("query-named-block-nodes", json!({ "flat": true }));
            let nodes = nodes.as_array().expect("nodes").clone();
            nodes.iter().map(|node| (node["node-name"].to_string(), node["ro"] == true)).collect::<Vec<_>>()
        };
        let before = access(&mut hypervisor);
        ok(&hypervisor, &["rename", "tue", "x", "--node", "top"]);
        ok(&hypervisor, &["delete", "mon", "--node", "top"]);
        assert_eq!(access(&mut hypervisor), before, "{file} {node}");
        // A commit of QEMU's own can open it for writing as before.
        if *file != read_only {
            let commit = json!({ "job-id": "c", "device": "top", "auto-dismiss": false });
            hypervisor.command("block-commit", commit);
            while hypervisor.command("query-jobs", json!({}))[0]["status"] != "ready" {}
            hypervisor.command("block-job-cancel", json!({ "device": "c" }));
        }
        let _folder = hypervisor.quit();
        let info: Value =
            serde_json::from_str(&run("qemu-img", &["info", "--output=json", base.to_str().expect("UTF-8")]))
                .expect("JSON");
        let bitmaps = &info["format-specific"]["data"]["bitmaps"];
        assert_eq!(bitmaps[0]["name"], "x", "{file} {node}: {bitmaps}");
        assert_eq!(bitmaps.as_array().map(Vec::len), Some(1), "{bitmaps}");
        run("qemu-img", &["check", "-q", base.to_str().expect("UTF-8")]);
    }
}

/// A process that is killed at the end.
struct Reader(Child);

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_layer_that_others_use_is_left_alone() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = with_layers();
    // Open in another process.
    let sockets = TempDir::with_prefix("hypervisor-").expect("a folder");
    let socket = sockets.path().join("nbd");
    let reader = Command::new("qemu-nbd")
        .args(["-r", "-t", "-f", "qcow2", "-k", socket.to_str().expect("UTF-8")])
        .arg(hypervisor.image(0))
        .stdin(Stdio::null())
        .spawn()
        .expect("qemu-nbd runs");
    let reader = Reader(reader);
    while !socket.exists() {
        std::thread::yield_now();
    }
    refused(&mut hypervisor, &["delete", "tue"], "lock");
    drop(reader);
    // Under a job that moves data.
    hypervisor.command("block-commit", json!({ "job-id": "c", "device": "o1", "speed": 1 }));
    refused_during_job(&mut hypervisor);
    hypervisor.command("block-job-cancel", json!({ "device": "c", "force": true }));
    while hypervisor.command("query-jobs", json!({})) != json!([]) {}
    // Below two disks of the machine.
    let path = hypervisor.folder.path().join("second.qcow2");
    let path = path.to_str().expect("UTF-8");
    run("qemu-img", &["create", "-q", "-f", "qcow2", path, "64M"]);
    let second = json!({ "driver": "qcow2", "node-name": "second", "backing": "d0",
        "file": { "driver": "file", "filename": path, "node-name": "second-file" } });
    hypervisor.command("blockdev-add", second);
    refused(&mut hypervisor, &["delete", "tue"], "several disks");
    hypervisor.command("blockdev-del", json!({ "node-name": "second" }));
    // On the top one it is a scratch, as a backup has it.
    for name in ["second", "third"] {
        let path = hypervisor.folder.path().join(format!("{name}.qcow2"));
        run("qemu-img", &["create", "-q", "-f", "qcow2", path.to_str().expect("UTF-8"), "64M"]);
        let scratch = json!({ "driver": "qcow2", "node-name": name, "backing": "o1",
            "file": { "driver": "file", "filename": path, "node-name": format!("{name}-file") } });
        hypervisor.command("blockdev-add", scratch);
    }
    ok(&hypervisor, &["create", "thu"]);
    ok(&hypervisor, &["rename", "tue", "x"]);
    ok(&hypervisor, &["rename", "x", "tue"]);
    refused(&mut hypervisor, &["delete", "never"], "never");
    refused(&mut hypervisor, &["rename", "tue", "wed"], "already");
    ok(&hypervisor, &["delete", "tue"]);
}

#[test]
fn a_base_is_named_by_its_node_or_its_file() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = with_layers();
    let file = hypervisor.image(0).to_str().expect("UTF-8").to_owned();
    let before = nodes(&mut hypervisor);
    let planned = ok(&hypervisor, &["commit-bitmaps", "--node", "o1", &file, "--dry-run"]);
    assert!(planned.contains("add 'tue->wed', recording"), "{planned}");
    assert_eq!(nodes(&mut hypervisor), before);
    refused(&mut hypervisor, &["commit-bitmaps", "--node", "o1", "o1"], "there are d0");
    refused(&mut hypervisor, &["commit-bitmaps", "--node", "o1", "d0", "--max-stall", "0"], "--max-stall");
    ok(&hypervisor, &["commit-bitmaps", "--node", "o1", "d0"]);
    let again = checkmap(&["commit-bitmaps", "--node", "o1", &file], &hypervisor.qmp());
    assert!(again.status.success() && told(&again).contains("nothing to do"), "{}", told(&again));
    let of_base = nodes(&mut hypervisor).into_iter().find(|node| node[0] == "d0").expect("the base");
    assert_eq!((&of_base[1], of_base[2].as_array().map(Vec::len)), (&json!(true), Some(3)), "{of_base}");
    hypervisor.assert_tidy();
}

#[test]
fn a_dry_run_on_an_overlay_without_bitmaps_prints_what_is_around_the_map() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISK);
    ok(&hypervisor, &["create", "mon"]);
    snapshot(&mut hypervisor, "d0", "o1", &[]);
    hypervisor.write(0, GRANULE, 512);
    let before = nodes(&mut hypervisor);
    let printed = checkmap(&["create", "tue", "--dry-run"], &hypervisor.qmp());
    assert!(told(&printed).contains("are read over NBD"), "{}", told(&printed));
    assert_eq!(nodes(&mut hypervisor), before);
    let printed = String::from_utf8(printed.stdout).expect("UTF-8");
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    // QEMU takes them as they are; nobody wrote the map, so the merge adds nothing.
    for line in &lines {
        hypervisor.command(line["execute"].as_str().expect("a name"), line["arguments"].clone());
    }
    hypervisor.assert_tidy();
    // Commands alone do not give the map, so the pure planner refuses.
    for name in ["mon", "mon->tue"] {
        hypervisor.command("block-dirty-bitmap-remove", json!({ "node": "o1", "name": name }));
    }
    let told = hypervisor.command("query-named-block-nodes", json!({ "flat": true })).to_string();
    let create = Verb::Create { checkpoint: b"tue", granularity: None, model: None };
    let refused = plan(told.as_bytes(), &["o1", "d0"], &create).expect_err("refused");
    assert_eq!(refused.kind(), ErrorKind::BackingLayer);
}

/// The filter of a job makes another node the top of the disk, so nothing but the refusal is compared.
fn refused_during_job(hypervisor: &mut Hypervisor) {
    for words in [["rename", "tue", "x"].as_slice(), &["delete", "tue"]] {
        let output = checkmap(words, &hypervisor.qmp());
        assert_eq!(output.status.code(), Some(3), "{words:?}: {}", told(&output));
        assert!(told(&output).contains("commit"), "{}", told(&output));
    }
    hypervisor.assert_tidy();
}

#[test]
fn a_storage_daemon_opens_a_layer_by_the_options_that_it_tells() {
    if !crate::support::tools_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::StorageDaemon, &DISK);
    let writer = hypervisor.nbd_socket().expect("a server");
    let writer = writer.to_str().expect("UTF-8");
    for name in ["mon", "tue"] {
        ok(&hypervisor, &["create", name]);
        hypervisor.write(0, GRANULE, 512);
    }
    snapshot(&mut hypervisor, "d0", "o1", &["mon->tue"]);
    ok(&hypervisor, &["create", "wed"]);
    let printed = ok(&hypervisor, &["delete", "tue", "--dry-run"]);
    assert!(printed.starts_with("{\"arguments\":{\"options\":[{"), "{printed}");
    let told_before = hypervisor.command("query-named-block-nodes", json!({ "flat": true }));
    let renamed = checkmap(&["rename", "tue", "x"], &hypervisor.qmp());
    assert!(renamed.status.success() && told(&renamed).contains("have their defaults"), "{}", told(&renamed));
    let told_after = hypervisor.command("query-named-block-nodes", json!({ "flat": true }));
    let strip = |told: &Value| {
        let mut nodes = told.as_array().expect("nodes").clone();
        for node in &mut nodes {
            let node = node.as_object_mut().expect("a node");
            node.remove("dirty-bitmaps");
            node.remove("image");
        }
        nodes
    };
    assert_eq!(strip(&told_after), strip(&told_before));
    ok(&hypervisor, &["delete", "x"]);
    let diff = ok(
        &hypervisor,
        &["diff", "--since", "mon", "--until", "wed", "--node", "o1", "--nbd-socket", writer, "--json"],
    );
    assert!(diff.contains("65536"), "{diff}");
    hypervisor.assert_tidy();
}

/// On files a renaming takes several steps; the alias of the new name in the lowest layer is the first one.
#[test]
fn a_renaming_that_stopped_on_files_is_finished_on_the_machine() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISK);
    for (name, disabled) in [("t", true), ("t->mon", false)] {
        let bitmap = json!({ "node": "d0", "name": name, "persistent": true, "disabled": disabled });
        hypervisor.command("block-dirty-bitmap-add", bitmap);
    }
    hypervisor.write(0, GRANULE, 512);
    snapshot(&mut hypervisor, "d0", "o1", &["mon"]);
    hypervisor.write(0, 3 * GRANULE, 512);
    refused(&mut hypervisor, &["rename", "mon", "mon"], "exists already");
    ok(&hypervisor, &["rename", "mon", "t"]);
    let listed: Value = serde_json::from_str(&ok(&hypervisor, &["list", "--json", "--node", "o1"])).expect("JSON");
    assert_eq!((listed[0]["name"].as_str(), listed.as_array().map(Vec::len)), (Some("t"), Some(1)), "{listed}");
    let diff: Value = serde_json::from_str(&ok(&hypervisor, &["diff", "--since", "t", "--json"])).expect("JSON");
    assert_eq!(diff["dirty_bytes"], 2 * GRANULE, "{diff}");
    hypervisor.assert_tidy();
}

#[test]
fn inconsistent_bitmaps_go_from_a_layer_below() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let hypervisor = Hypervisor::start(Program::System, &DISK);
    ok(&hypervisor, &["create", "mon"]);
    let folder = hypervisor.quit();
    let folder = Hypervisor::start_on(folder, Program::System, &DISK).kill();
    let mut hypervisor = Hypervisor::start_on(folder, Program::System, &DISK);
    snapshot(&mut hypervisor, "d0", "o1", &["mon"]);
    hypervisor.write(0, GRANULE, 512);
    refused(&mut hypervisor, &["delete", "mon"], "inconsistent");
    let printed = ok(&hypervisor, &["delete", "--all-inconsistent", "--dry-run"]);
    assert!(printed.contains("\"d0\"") && printed.contains("block-dirty-bitmap-remove"), "{printed}");
    let deleted = checkmap(&["delete", "--all-inconsistent"], &hypervisor.qmp());
    assert!(deleted.status.success() && told(&deleted).contains("full"), "{}", told(&deleted));
    let bitmaps: Vec<Value> = nodes(&mut hypervisor).iter().map(|node| node[2].clone()).collect();
    assert!(!bitmaps.iter().any(|all| all.to_string().contains("\"mon\"")), "{bitmaps:?}");
    ok(&hypervisor, &["create", "tue"]);
    hypervisor.assert_tidy();
}
