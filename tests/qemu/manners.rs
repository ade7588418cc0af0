//! Owns the proof of good manners in somebody's process: nothing is left behind, nobody is disturbed, and a refusal changes nothing.

use crate::histories::{DISKS, connect, dirty_granules, open};
use crate::support::hypervisor::{Hypervisor, Program};
use crate::support::random::Random;
use checkmap::ErrorKind;
use checkmap::image::{DiffRequest, Group};
use checkmap::progress::{Step, Unobserved};
use checkmap::qemu::{Machine, Monitor, Options};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn checkmap(hypervisor: &Hypervisor, verb: &str, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
    command.arg(verb).arg("--qmp").arg(hypervisor.qmp()).args(words).stdin(Stdio::null());
    command
}

fn run(hypervisor: &Hypervisor, verb: &str, words: &[&str]) -> Output {
    checkmap(hypervisor, verb, words).output().expect("checkmap runs")
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_monitor_that_somebody_has_is_refused_in_time() {
    if !crate::support::tools_are_here() {
        return;
    }
    let hypervisor = Hypervisor::start(Program::StorageDaemon, &DISKS);
    let _other = connect(&hypervisor);
    let options = Options::default().timeout(Duration::from_millis(300));
    let refused = Machine::connect(Monitor::Socket(hypervisor.qmp()), &options, &mut Unobserved);
    assert_eq!(refused.expect_err("the monitor is taken").kind(), ErrorKind::InUse);
    let output = run(&hypervisor, "list", &["--timeout", "1"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
}

#[test]
fn a_strange_nbd_server_is_left_alone() {
    if !crate::support::tools_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::StorageDaemon, &DISKS);
    assert!(run(&hypervisor, "create", &["mon"]).status.success());
    let output = run(&hypervisor, "diff", &["--node", "d0", "--since", "mon"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert!(told(&output).contains("--until") && told(&output).contains("create"), "{}", told(&output));
    assert!(run(&hypervisor, "create", &["tue"]).status.success());
    let output = run(&hypervisor, "diff", &["--node", "d0", "--since", "mon", "--until", "tue"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert!(told(&output).contains("--nbd-socket"), "{}", told(&output));
    hypervisor.write(0, 0, 512);
    let socket = hypervisor.nbd_socket().expect("a server");
    let words = ["--node", "d0", "--since", "mon", "--until", "tue", "--nbd-socket", socket.to_str().expect("UTF-8")];
    let output = run(&hypervisor, "diff", &words);
    assert!(output.status.success(), "{}", told(&output));
    // The writer's server still serves.
    hypervisor.write(1, 0, 512);
    hypervisor.assert_tidy();
}

#[test]
fn a_diff_that_is_stopped_leaves_nothing() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut hypervisor = Hypervisor::start(Program::System, &DISKS);
    assert!(run(&hypervisor, "create", &["mon"]).status.success());
    let machine = connect(&hypervisor);
    let images = open(&machine);
    for patience in 0..40 {
        let mut left = patience;
        let mut observer = |_: Step| {
            left -= 1;
            if left < 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        match images[0].diff(&DiffRequest::since(b"mon"), &mut observer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}"),
        }
        hypervisor.assert_tidy();
    }
}

#[test]
fn a_client_that_is_killed_is_cleared_away_by_the_next() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let mut random = Random::seeded(16);
    let mut hypervisor = Hypervisor::start(Program::System, &DISKS);
    let mut known = vec!["c0".to_owned()];
    let mut written = BTreeSet::new();
    assert!(run(&hypervisor, "create", &["c0"]).status.success());
    for round in 0..36 {
        let fresh = format!("new{round}");
        // That of the checkpoint after the first one.
        let second = known.get(1).map(|name| (name.as_str(), format!("c0->{name}")));
        let words: &[&str] = match (round % 6, &second) {
            (0, _) => &["diff", "--node", "d0", "--since", "c0"],
            (2, _) => &["rename", "c0", "x"],
            (3, Some((name, _))) if known.len() > 2 => &["delete", name],
            (4, Some((_, bitmap))) => &["merge", "c0", "--into", bitmap],
            (5, _) => &["dump", "--node", "d0", "--bitmap", "c0"],
            _ => &["create", &fresh],
        };
        let mut child = checkmap(&hypervisor, words[0], &words[1..])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("checkmap starts");
        std::thread::sleep(Duration::from_micros(random.below(40_000)));
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
        let granule = random.below(1000);
        hypervisor.write(0, granule * 65536, 512);
        written.insert(granule);
        let context = format!("{words:?}");
        let names = |disk: &str| -> Vec<String> {
            let output = run(&hypervisor, "list", &["--node", disk, "--json"]);
            assert!(output.status.success(), "{context}: {}", told(&output));
            let listed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let all = listed.as_array().expect("a list").iter();
            all.map(|one| one["name"].as_str().expect("a name").to_owned()).collect()
        };
        // Both disks have the same checkpoints.
        known = names("d0");
        assert_eq!(known, names("d1"), "{context}");
        hypervisor.assert_tidy();
        if let Some(renamed) = known.iter_mut().find(|name| *name == "x") {
            assert!(run(&hypervisor, "rename", &["x", "c0"]).status.success(), "{context}");
            *renamed = "c0".to_owned();
        }
        // Nothing that was written since is missing.
        let machine = connect(&hypervisor);
        for (disk, image) in open(&machine).iter().enumerate() {
            let diff = image.diff(&DiffRequest::since(b"c0"), &mut Unobserved).expect("a diff");
            let found = dirty_granules(&diff.bitmap, 65536);
            assert!(disk > 0 || found.is_superset(&written), "{context}: {:?}", written.difference(&found));
        }
    }
}

/// A guest that writes all the time: a diff has every write that was finished before it began, and none that was not begun.
#[test]
fn a_diff_beside_a_writer_has_all_that_was_written_before() {
    if !crate::support::tools_are_here() {
        return;
    }
    let hypervisor = Hypervisor::start(Program::StorageDaemon, &DISKS);
    let machine = connect(&hypervisor);
    let mut images = open(&machine);
    let create = |images: &mut Vec<checkmap::Image>, name: &str| {
        let mut group = Group::new(images).expect("one machine");
        let plans = group.plan(|image| image.plan_create(name.as_bytes(), None, None)).expect("planned");
        group.commit(&plans, &mut Unobserved).expect("created");
    };
    create(&mut images, "c0");
    let mut writer = hypervisor.another_writer(0);
    let clock = std::sync::atomic::AtomicU64::new(0);
    let stop = std::sync::atomic::AtomicBool::new(false);
    use std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|scope| {
        // The granule of each write, with the ticks before and after it.
        let writes = scope.spawn(|| {
            let (mut random, mut log) = (Random::from_seed(3), Vec::new());
            while !stop.load(SeqCst) && log.len() < 100_000 {
                let granule = random.below(1000);
                let start = clock.fetch_add(1, SeqCst);
                writer.write(granule * 65536, 512);
                log.push((granule, start, clock.fetch_add(1, SeqCst)));
            }
            log
        });
        let mut moments = Vec::new();
        let mut diffs = Vec::new();
        let before = clock.fetch_add(1, SeqCst);
        moments.push((0, before));
        for round in 1..12 {
            std::thread::sleep(Duration::from_millis(15));
            let start = clock.fetch_add(1, SeqCst);
            create(&mut images, &format!("c{round}"));
            moments.push((start, clock.fetch_add(1, SeqCst)));
            let since = format!("c{}", round - 1);
            let until = format!("c{round}");
            let request = DiffRequest::since(since.as_bytes()).until(until.as_bytes());
            diffs.push(images[0].diff(&request, &mut Unobserved).expect("a diff"));
        }
        stop.store(true, SeqCst);
        let writes = writes.join().expect("the writer ends");
        assert!(writes.len() > 100, "the writer hardly wrote");
        for (at, diff) in diffs.iter().enumerate() {
            let found = dirty_granules(&diff.bitmap, 65536);
            let ((since_start, since_end), (until_start, until_end)) = (moments[at], moments[at + 1]);
            // Begun after the first checkpoint was made, and ended before the second one was begun.
            let surely = writes.iter().filter(|(_, start, end)| *start > since_end && *end < until_start);
            for (granule, ..) in surely {
                assert!(found.contains(granule), "granule {granule} is missing in {at}");
            }
            let possible: BTreeSet<u64> = writes
                .iter()
                .filter(|(_, start, end)| *end > since_start && *start < until_end)
                .map(|(granule, ..)| *granule)
                .collect();
            assert!(found.is_subset(&possible), "{at}: nobody wrote {:?}", found.difference(&possible));
        }
    });
}
