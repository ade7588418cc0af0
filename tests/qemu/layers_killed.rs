//! Owns the proof that layers below are read-only again after whatever happened to a verb that changed them: our process killed before or
//! behind any command, a connection that broke, a refusal in the middle.

use crate::histories::{connect, dirty_granules, open};
use crate::killed::{Proxy, Victim, checkmap, told};
use crate::layers::{DISK, GRANULE, create, snapshot};
use crate::support::hypervisor::{Hypervisor, Program};
use checkmap::image::{Access, DiffRequest, OpenOptions};
use checkmap::progress::Unobserved;
use serde_json::json;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// Three layers, the checkpoints mon, tue and wed in the first two, and a write after each.
fn machine_of_layers() -> Hypervisor {
    let mut hypervisor = Hypervisor::start(Program::System, &DISK);
    for (at, name) in ["mon", "tue"].into_iter().enumerate() {
        let machine = connect(&hypervisor);
        create(&mut open(&machine), name);
        hypervisor.write(0, (at as u64 + 1) * GRANULE, 512);
    }
    snapshot(&mut hypervisor, "d0", "o1", &["mon->tue"]);
    let machine = connect(&hypervisor);
    create(&mut open(&machine), "wed");
    hypervisor.write(0, 3 * GRANULE, 512);
    snapshot(&mut hypervisor, "o1", "o2", &["tue->wed"]);
    hypervisor.write(0, 4 * GRANULE, 512);
    hypervisor
}

fn writable(hypervisor: &mut Hypervisor) -> Vec<String> {
    let nodes = hypervisor.command("query-named-block-nodes", json!({ "flat": true }));
    let below = nodes.as_array().expect("nodes").iter().filter(|node| node["ro"] == false);
    let mut names: Vec<String> = below.map(|node| node["node-name"].as_str().expect("a name").to_owned()).collect();
    names.retain(|name| ["d0", "o1"].contains(&name.as_str()));
    names
}

fn assert_whole(hypervisor: &Hypervisor, name: &str, context: &str) {
    let machine = connect(hypervisor);
    let image = &open(&machine)[0];
    for (since, expected) in [("mon", [1, 2, 3, 4].as_slice()), (name, &[2, 3, 4])] {
        let diff = image.diff(&DiffRequest::since(since.as_bytes()), &mut Unobserved);
        let diff = diff.unwrap_or_else(|error| panic!("{context}: {since}: {error}"));
        let expected: BTreeSet<u64> = expected.iter().copied().collect();
        assert_eq!(dirty_granules(&diff.bitmap, GRANULE), expected, "{context}: {since}");
    }
}

/// The name that the second checkpoint has by now.
fn name_now(hypervisor: &Hypervisor) -> String {
    let listed = checkmap(&["list", "--json", "--node", "o2"], &hypervisor.qmp());
    assert!(listed.status.success(), "{}", told(&listed));
    let text = String::from_utf8(listed.stdout).expect("UTF-8");
    let found: Vec<&str> = ["tue", "x"].into_iter().filter(|name| text.contains(&format!("\"{name}\""))).collect();
    assert_eq!(found.len(), 1, "{text}");
    found[0].to_owned()
}

#[test]
fn a_layer_is_read_only_again_after_a_kill_at_any_moment() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = machine_of_layers();
    let (mut kill_at, mut left_writable) = (0, 0);
    loop {
        let old = name_now(&hypervisor);
        let new = if old == "tue" { "x" } else { "tue" };
        let pid = Arc::new(Mutex::new(None));
        let proxy = Proxy::start(&hypervisor, kill_at, kill_at % 2 == 0, Victim::Client(Arc::clone(&pid)));
        let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
        command.args(["rename", &old, new, "--qmp"]).arg(&proxy.socket).stdin(Stdio::null()).stderr(Stdio::null());
        let mut client = command.spawn().expect("checkmap runs");
        *pid.lock().expect("nothing panics") = Some(client.id());
        let status = client.wait().expect("it ends");
        let context = format!("killed at {kill_at}");
        if proxy.sent().len() <= kill_at {
            assert!(status.success(), "{context}");
            break;
        }
        assert!(!status.success(), "{context}");
        left_writable += usize::from(!writable(&mut hypervisor).is_empty());
        let now = name_now(&hypervisor);
        assert_eq!(writable(&mut hypervisor), Vec::<String>::new(), "{context}");
        hypervisor.assert_tidy();
        if kill_at % 5 == 0 {
            assert_whole(&hypervisor, &now, &context);
        }
        kill_at += 1;
    }
    assert!(left_writable > 2, "it was never killed while a layer was writable");
    assert_whole(&hypervisor, &name_now(&hypervisor), "at the end");
    let names: Vec<_> = ["mon", "wed"].into_iter().map(|name| checkmap(&["delete", name], &hypervisor.qmp())).collect();
    names.iter().for_each(|output| assert!(output.status.success(), "{}", told(output)));
}

#[test]
fn a_checkpoint_that_gathers_an_allocation_leaves_nothing_behind() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISK);
    create(&mut open(&connect(&hypervisor)), "mon");
    hypervisor.write(0, GRANULE, 512);
    snapshot(&mut hypervisor, "d0", "o1", &[]);
    hypervisor.write(0, 5 * GRANULE, 512);
    // Every command, by one of the two.
    let mut kill_at = 0;
    for victim in [true, false] {
        loop {
            let pid = Arc::new(Mutex::new(None));
            let strike = if victim { Victim::Client(Arc::clone(&pid)) } else { Victim::Connection };
            let proxy = Proxy::start(&hypervisor, kill_at, kill_at % 4 < 2, strike);
            let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
            command.args(["create", "tue", "--qmp"]).arg(&proxy.socket).stdin(Stdio::null()).stderr(Stdio::null());
            let mut client = command.spawn().expect("checkmap runs");
            *pid.lock().expect("nothing panics") = Some(client.id());
            let status = client.wait().expect("it ends");
            let context = format!("struck at {kill_at}");
            let is_over = proxy.sent().len() <= kill_at;
            assert!(status.success() || !is_over, "{context}");
            let listed = checkmap(&["list", "--json", "--node", "o1"], &hypervisor.qmp());
            assert!(listed.status.success(), "{}", told(&listed));
            hypervisor.assert_tidy();
            if String::from_utf8_lossy(&listed.stdout).contains("\"tue\"") {
                let image = &open(&connect(&hypervisor))[0];
                let held = image.read_bitmap(&"mon".into(), 0, u64::MAX).expect("it is read");
                assert_eq!(dirty_granules(&held, GRANULE), BTreeSet::from([5]), "{context}");
                for name in ["mon", "mon->tue"] {
                    let bitmap = json!({ "node": "o1", "name": name });
                    hypervisor.command("block-dirty-bitmap-remove", bitmap);
                }
            }
            if is_over {
                break;
            }
            kill_at += 2;
        }
        assert!(kill_at > 20, "it has more commands than {kill_at}");
        kill_at = 1;
    }
}

#[test]
fn a_base_is_read_only_again_after_a_kill_at_any_moment() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = machine_of_layers();
    let (mut kill_at, mut left_writable) = (0, 0);
    loop {
        // So that there is something to do each time.
        hypervisor.write(0, (10 + kill_at as u64) * GRANULE, 512);
        let pid = Arc::new(Mutex::new(None));
        let proxy = Proxy::start(&hypervisor, kill_at, kill_at % 2 == 1, Victim::Client(Arc::clone(&pid)));
        let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
        command.args(["commit-bitmaps", "--node", "o2", "d0", "--qmp"]).arg(&proxy.socket);
        let mut client = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("checkmap runs");
        *pid.lock().expect("nothing panics") = Some(client.id());
        let status = client.wait().expect("it ends");
        let context = format!("killed at {kill_at}");
        let is_over = proxy.sent().len() <= kill_at;
        assert_eq!(status.success(), is_over, "{context}");
        left_writable += usize::from(!writable(&mut hypervisor).is_empty());
        let listed = checkmap(&["list", "--node", "o2"], &hypervisor.qmp());
        assert!(listed.status.success(), "{context}: {}", told(&listed));
        assert_eq!(writable(&mut hypervisor), Vec::<String>::new(), "{context}");
        hypervisor.assert_tidy();
        if is_over {
            break;
        }
        kill_at += 1;
    }
    assert!(left_writable > 2, "it was never killed while a layer was writable");
    // The base alone answers for the disk.
    let machine = connect(&hypervisor);
    let disk = &machine.disks().expect("disks")[0];
    let base = machine.layers_below(disk).expect("layers").into_iter().next_back().expect("a base");
    let host = machine.host(&base).expect("a host");
    let image = checkmap::Image::on(host, std::path::Path::new("base"), &OpenOptions::new(Access::Read));
    let diff = image.diff(&DiffRequest::since(b"mon"), &mut Unobserved).expect("a diff");
    let written: BTreeSet<u64> = (1..=4).chain((0..=kill_at as u64).map(|at| at + 10)).collect();
    assert_eq!(dirty_granules(&diff.bitmap, GRANULE), written);
}

#[test]
fn a_connection_that_breaks_leaves_no_layer_writable() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = machine_of_layers();
    let mut break_at = 0;
    loop {
        let old = name_now(&hypervisor);
        let new = if old == "tue" { "x" } else { "tue" };
        let proxy = Proxy::start(&hypervisor, break_at, break_at % 2 == 0, Victim::Connection);
        let output = checkmap(&["rename", &old, new], &proxy.socket);
        let context = format!("broken at {break_at}: {}", told(&output));
        let is_over = proxy.sent().len() <= break_at;
        assert_eq!(writable(&mut hypervisor), Vec::<String>::new(), "{context}");
        let now = name_now(&hypervisor);
        match output.status.code() {
            Some(0) => assert_eq!(now, new, "{context}"),
            Some(1 | 3) => assert!(now == old || told(&output).contains("may have been"), "{context}"),
            status => panic!("{status:?}: {context}"),
        }
        hypervisor.assert_tidy();
        assert_whole(&hypervisor, &now, &context);
        if is_over {
            break;
        }
        break_at += 1;
    }
}
