//! A running QEMU without libvirt: what a client can leave there, a chain that died with a host, and the way to intervals.

use crate::support::hypervisor::{DiskSpec, Hypervisor, Program};
use crate::{Notes, json, kinds, support, told, try_checkmap};
use serde_json::{Value, json as value};
use std::process::Output;

const DISK: [DiskSpec; 2] = [
    DiskSpec { node: "d0", size_bytes: 64 << 20, options: "" },
    DiskSpec { node: "d1", size_bytes: 32 << 20, options: "" },
];

fn checkmap(hypervisor: &Hypervisor, words: &[&str]) -> Output {
    let qmp = hypervisor.qmp();
    let (verb, rest) = words.split_first().expect("a verb");
    try_checkmap(&[&[*verb, "--qmp", qmp.to_str().expect("UTF-8")], rest].concat())
}

#[track_caller]
fn done(hypervisor: &Hypervisor, words: &[&str]) -> Output {
    let output = checkmap(hypervisor, words);
    assert!(output.status.success(), "{words:?}: {}{}", told(&output), String::from_utf8_lossy(&output.stdout));
    output
}

fn bitmap(hypervisor: &mut Hypervisor, command: &str, arguments: Value) {
    let mut all = value!({ "node": "d0" });
    all.as_object_mut().expect("an object").extend(arguments.as_object().expect("an object").clone());
    hypervisor.command(&format!("block-dirty-bitmap-{command}"), all);
}

#[test]
fn a_running_machine_is_examined_and_mended() {
    if !support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISK);
    done(&hypervisor, &["create", "mon"]);
    done(&hypervisor, &["doctor"]);
    bitmap(&mut hypervisor, "add", value!({ "name": "libvirt-tmp-activewrite", "persistent": true }));
    let found = checkmap(&hypervisor, &["doctor", "--json"]);
    assert_eq!((found.status.code(), kinds(&json(&found))), (Some(1), vec!["leftover".to_owned()]));
    let dry = checkmap(&hypervisor, &["doctor", "--repair", "--dry-run"]);
    assert_eq!(String::from_utf8_lossy(&dry.stdout), "d0: remove 'libvirt-tmp-activewrite'\n", "{}", told(&dry));
    done(&hypervisor, &["doctor", "--repair"]);
    done(&hypervisor, &["doctor"]);
    // The host crashes after the chain was stored once.
    let hypervisor = Hypervisor::start_on(hypervisor.quit(), Program::System, &DISK);
    let mut hypervisor = Hypervisor::start_on(hypervisor.kill(), Program::System, &DISK);
    let found = checkmap(&hypervisor, &["doctor", "--json"]);
    assert_eq!(kinds(&json(&found)), ["dead-chain", "dead-chain"], "{}", told(&found));
    done(&hypervisor, &["doctor", "--repair"]);
    // Cumulative checkpoints turn into intervals while the guest writes on.
    for (name, granule) in [("c1", 1), ("c2", 2)] {
        done(&hypervisor, &["create", name, "--model", "cumulative"]);
        hypervisor.write(0, granule << 16, 512);
    }
    hypervisor.write(1, 1 << 20, 512);
    let refused = checkmap(&hypervisor, &["doctor", "--to-interval"]);
    // The bits of a running disk are not read for their order, and libvirt is not there to tell it.
    assert_eq!(refused.status.code(), Some(3), "{}", told(&refused));
    assert!(told(&refused).contains("older than the others"), "{}", told(&refused));
    // Documents tell the order; the bits are compared all the same.
    let notes = Notes::new();
    notes.add("c1", None, 1, &["vda"]).add("c2", Some("c1"), 2, &["vda"]);
    let words = ["doctor", "--node", "d0", "--libvirt-xml", notes.path(), "--to-interval"];
    done(&hypervisor, &[&words[..], &["--dry-run"]].concat());
    bitmap(&mut hypervisor, "clear", value!({ "name": "c1" }));
    let refused = checkmap(&hypervisor, &words);
    assert_eq!((refused.status.code(), notes.all().len()), (Some(3), 2), "{}", told(&refused));
    assert!(told(&refused).contains("'c1' misses blocks that the younger 'c2' has"), "{}", told(&refused));
    done(&hypervisor, &["create", "c3"]);
    hypervisor.assert_tidy();
}
