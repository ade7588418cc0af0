//! Owns the proof of the pure planner: what it plans from an answer of QEMU's, QEMU carries out; and what would harm is never planned.

use crate::histories::DISKS;
use crate::support::hypervisor::{Hypervisor, Program};
use checkmap::ErrorKind;
use checkmap::planner::{Step, Verb, plan};
use serde_json::{Value, json};

fn nodes(hypervisor: &mut Hypervisor) -> Vec<u8> {
    hypervisor.command("query-named-block-nodes", json!({ "flat": true })).to_string().into_bytes()
}

fn send(hypervisor: &mut Hypervisor, step: &Step) {
    for command in &step.commands {
        let command: Value = serde_json::from_str(command).expect("JSON");
        hypervisor.command(command["execute"].as_str().expect("a command"), command["arguments"].clone());
    }
}

#[test]
fn planned_commands_are_carried_out_by_qemu() {
    if !crate::support::tools_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::StorageDaemon, &DISKS);
    let create = |name| Verb::Create { checkpoint: name, granularity: None, model: None };
    for name in [&b"mon"[..], b"tue", b"wed"] {
        let step = plan(&nodes(&mut hypervisor), &["d0"], &create(name)).expect("planned");
        send(&mut hypervisor, &step);
    }
    let rename = Verb::Rename { checkpoint: b"tue", new_name: b"dienstag", model: None };
    let step = plan(&nodes(&mut hypervisor), &["d0"], &rename).expect("planned");
    send(&mut hypervisor, &step);
    let delete = Verb::Delete { checkpoints: &[b"dienstag"], force_inconsistent: false, model: None };
    let step = plan(&nodes(&mut hypervisor), &["d0"], &delete).expect("planned");
    send(&mut hypervisor, &step);
    let diff = Verb::Diff { since: b"mon", until: None, model: None, export: "x" };
    let step = plan(&nodes(&mut hypervisor), &["d0"], &diff).expect("planned");
    send(&mut hypervisor, &step);
    let planned: Value = serde_json::from_str(&step.to_json()).expect("JSON");
    let contexts = json!(["qemu:dirty-bitmap:mon", "qemu:dirty-bitmap:mon->wed"]);
    assert_eq!(planned["exports"], json!([{ "name": "x-0", "contexts": contexts }]));
    assert_eq!(planned["granularity"], 65536);
    hypervisor.command("block-export-del", json!({ "id": "x-0" }));
}

/// An answer about one disk with these bitmaps: name, granularity, whether it records, is busy, is inconsistent.
fn answer(read_only: bool, bitmaps: &[(&str, u64, bool, bool, bool)]) -> Vec<u8> {
    let bitmaps: Vec<Value> = bitmaps
        .iter()
        .map(|(name, granularity, recording, busy, inconsistent)| {
            json!({ "name": name, "granularity": granularity, "recording": recording, "busy": busy,
                "inconsistent": inconsistent, "persistent": true, "count": 0 })
        })
        .collect();
    let stored: Vec<Value> =
        bitmaps.iter().map(|bitmap| json!({ "name": bitmap["name"], "flags": ["in-use", "auto"] })).collect();
    json!([{ "node-name": "d0", "drv": "qcow2", "file": "d0.qcow2", "ro": read_only, "dirty-bitmaps": bitmaps,
        "image": { "virtual-size": 16_u64 << 40, "cluster-size": 65536,
            "format-specific": { "type": "qcow2", "data": { "bitmaps": stored } } } }])
    .to_string()
    .into_bytes()
}

#[test]
fn what_would_harm_is_never_planned() {
    let create = |granularity| Verb::Create { checkpoint: b"tue", granularity, model: None };
    let kind = |nodes: &[u8], verb: &Verb<'_>| plan(nodes, &["d0"], verb).expect_err("refused").kind();
    // An enable or a disable on a read-only node is answered with ok, and not stored.
    let read_only = answer(true, &[("mon", 65536, true, false, false)]);
    assert_eq!(kind(&read_only, &create(None)), ErrorKind::ReadOnly);
    let busy = answer(false, &[("mon", 65536, true, true, false)]);
    assert_eq!(kind(&busy, &create(None)), ErrorKind::InUse);
    let inconsistent = answer(false, &[("mon", 65536, true, false, true)]);
    assert_eq!(kind(&inconsistent, &create(None)), ErrorKind::Inconsistent);
    // A merge of nothing ends QEMU.
    let three = answer(
        false,
        &[
            ("mon", 4096, false, false, false),
            ("mon->tue", 4096, false, false, false),
            ("tue->wed", 4096, true, false, false),
        ],
    );
    for checkpoint in [&b"mon"[..], b"tue", b"wed"] {
        let delete = Verb::Delete { checkpoints: &[checkpoint], force_inconsistent: false, model: None };
        let step = plan(&three, &["d0"], &delete).expect("planned");
        let command: Value = serde_json::from_str(&step.commands[0]).expect("JSON");
        let actions = command["arguments"]["actions"].as_array().expect("actions");
        let is_remove = |action: &Value| action["type"] == "block-dirty-bitmap-remove";
        let first = actions.iter().position(is_remove).expect("something goes");
        assert!(actions[first..].iter().all(is_remove), "removes stand last: {actions:?}");
        for action in actions.iter().filter(|action| action["type"] == "block-dirty-bitmap-merge") {
            assert_ne!(action["data"]["bitmaps"], json!([]));
        }
        assert_eq!(step.stall.is_zero(), checkpoint == b"none");
    }
    // Above 1 TiB nothing finer than 64 KiB, unless it is asked for.
    let fine = answer(false, &[("mon", 4096, true, false, false)]);
    let granularity = |step: &Step| -> u64 {
        let command: Value = serde_json::from_str(&step.commands[0]).expect("JSON");
        let actions = command["arguments"]["actions"].as_array().expect("actions").clone();
        actions.iter().find_map(|action| action["data"]["granularity"].as_u64()).expect("an add")
    };
    assert_eq!(granularity(&plan(&fine, &["d0"], &create(None)).expect("planned")), 65536);
    let asked = checkmap::Granularity::from_bytes(16384).expect("a granularity");
    assert_eq!(granularity(&plan(&fine, &["d0"], &create(Some(asked))).expect("planned")), 16384);
}

#[test]
fn an_answer_that_is_none_of_qemus_is_refused() {
    let create = Verb::Create { checkpoint: b"tue", granularity: None, model: None };
    let good = answer(false, &[("mon", 65536, true, false, false)]);
    assert!(plan(&good, &["d0"], &create).is_ok());
    let missing = plan(&good, &["d1"], &create).expect_err("no such node");
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let text = String::from_utf8(good).expect("UTF-8");
    for (from, to) in [
        ("65536", "\"65536\""),
        ("65536", "-1"),
        ("65536", "65535"),
        ("\"recording\":true", "\"recording\":1"),
        ("\"virtual-size\"", "\"size\""),
        ("\"node-name\":\"d0\"", "\"node-name\":7"),
        ("[{", "{"),
        ("17592186044416", "1e400"),
    ] {
        let bad = text.replacen(from, to, 1);
        assert_ne!(bad, text, "{from}");
        let error = plan(bad.as_bytes(), &["d0"], &create).expect_err(&bad);
        assert_eq!(error.kind(), ErrorKind::Damaged, "{bad}");
    }
}
