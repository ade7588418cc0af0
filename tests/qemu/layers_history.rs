//! Owns random histories of a running disk on several layers: writes, checkpoints that come, go and get other names, snapshots with and
//! without a copied bitmap; every diff holds every block that was written since, and none that nobody ever wrote.

use crate::histories::{connect, dirty_granules, open};
use crate::layers::{DISK, GRANULE, snapshot};
use crate::support::hypervisor::{Hypervisor, Program};
use crate::support::random::Random;
use checkmap::chain::Plan;
use checkmap::image::{Access, DiffRequest, Group, Layers, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::qemu::Machine;
use checkmap::{ErrorKind, Image, Result};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::Path;

/// The granules that were written, in their order, and the checkpoints with the number of writes before them.
#[derive(Default)]
struct Log {
    writes: Vec<u64>,
    checkpoints: Vec<(String, usize)>,
}

impl Log {
    /// Compares every diff that can be asked for; returns how many granules too much they had.
    fn compare(&self, image: &Image, until_now: bool, context: &str) -> usize {
        let all: BTreeSet<u64> = self.writes.iter().copied().collect();
        let mut too_much = 0;
        for (at, (since, from)) in self.checkpoints.iter().enumerate() {
            let later = self.checkpoints[at..].iter().map(|(name, moment)| (Some(name), *moment));
            for (until, to) in later.chain(until_now.then_some((None, self.writes.len()))) {
                let request = DiffRequest::since(since.as_bytes());
                let request = until.map_or(request, |until| request.until(until.as_bytes()));
                let diff = image.diff(&request, &mut Unobserved);
                let diff = diff.unwrap_or_else(|error| panic!("{context}: {since} to {until:?}: {error}"));
                let found = dirty_granules(&diff.bitmap, GRANULE);
                let expected: BTreeSet<u64> = self.writes[*from..to].iter().copied().collect();
                assert!(found.is_superset(&expected), "{context}: {since} to {until:?}: {found:?} of {expected:?}");
                assert!(found.is_subset(&all), "{context}: {since} to {until:?}: nobody wrote {found:?}");
                too_much += found.len() - expected.len();
            }
        }
        too_much
    }
}

fn change(image: &mut Image, plan: impl FnMut(&Image) -> Result<Plan>) -> Result<Vec<Vec<String>>> {
    let mut group = Group::new([image])?;
    let plans = group.plan(plan)?;
    group.commit(&plans, &mut Unobserved)
}

/// Whether the layers below the top one are read-only, all of them.
fn are_read_only(hypervisor: &mut Hypervisor, below: &[String]) {
    let nodes = hypervisor.command("query-named-block-nodes", json!({ "flat": true }));
    for node in nodes.as_array().expect("nodes") {
        let name = node["node-name"].as_str().expect("a name");
        assert!(node["ro"] == true || !below.iter().any(|below| below == name), "{name} is writable");
    }
}

/// Lets a layer take in the bitmaps above it. False where its checkpoints do not let that be, as the rules say.
fn commit_bitmaps(machine: &Machine, base: &str, context: &str) -> bool {
    let disk = &machine.disks().expect("disks")[0];
    let below = machine.layers_below(disk).expect("layers");
    let layer = below.iter().find(|layer| layer.node() == base).expect("the base");
    let top = open(machine).remove(0);
    let host = machine.host(layer).expect("a host");
    let mut base = Image::on(host, Path::new(layer.node()), &OpenOptions::new(Access::Write));
    match top.commit_bitmaps(&mut base, &mut Unobserved) {
        Ok(_) => {}
        Err(error) => {
            let is_fit = [ErrorKind::BrokenChain, ErrorKind::Recording].contains(&error.kind());
            assert!(is_fit, "{context}: {error}");
            return false;
        }
    }
    // A second one can round outward, as BASE knows more by then; a third one has nothing to do.
    let mut again = || {
        let committed = top.commit_bitmaps(&mut base, &mut Unobserved);
        committed.unwrap_or_else(|error| panic!("{context}: {error}"))
    };
    again();
    let third = again();
    assert!(third.is_empty(), "{context}: {third:?}");
    true
}

/// Moves the data of all layers above the base into it, while the guest writes; the base is the top one then.
fn commit(hypervisor: &mut Hypervisor, layers: &mut Vec<String>, base: usize, log: &mut Log, random: &mut Random) {
    let gone = layers.split_off(base + 1);
    let arguments = json!({ "job-id": "c", "device": gone.last(), "base-node": layers[base] });
    hypervisor.command("block-commit", arguments);
    for _ in 0..2 {
        let granule = random.below(DISK[0].size_bytes / GRANULE);
        hypervisor.write(0, granule * GRANULE, 512);
        log.writes.push(granule);
    }
    while hypervisor.command("query-jobs", json!({}))[0]["status"] != "ready" {}
    hypervisor.command("block-job-complete", json!({ "device": "c" }));
    while hypervisor.command("query-jobs", json!({})) != json!([]) {}
    for overlay in gone.iter().rev() {
        hypervisor.command("blockdev-del", json!({ "node-name": overlay }));
    }
}

fn history(program: Program, seed: u64, steps: usize, most_layers: usize) {
    let mut random = Random::from_seed(seed);
    // The server by which the other one is written to leaves no room for an own one, by which alone bitmaps that record are read.
    let is_system = program == Program::System;
    let mut hypervisor = Hypervisor::start(program, &DISK);
    let (mut log, mut layers, mut names) = (Log::default(), vec!["d0".to_owned()], 0);
    let (mut changed_below, mut gathered, mut committed, mut overlays, mut too_much) = (0, 0, 0, 0, 0);
    for step in 0..steps {
        let machine = connect(&hypervisor);
        let mut images = open(&machine);
        let image = &mut images[0];
        let context = format!("seed {seed}, step {step}, {} layers", layers.len());
        let picked = (!log.checkpoints.is_empty()).then(|| random.index(log.checkpoints.len()));
        match (random.below(14), picked) {
            (0..=4, _) => {
                let granule = random.below(DISK[0].size_bytes / GRANULE);
                hypervisor.write(0, granule * GRANULE, 512);
                log.writes.push(granule);
            }
            (5 | 6, _) => {
                let name = format!("c{names}");
                names += 1;
                let plan = |image: &Image| image.plan_create(name.as_bytes(), None, None);
                let (before, was_empty) = (image.bitmaps().is_empty(), layers.len() > 1);
                gathered += usize::from(before && was_empty && !log.checkpoints.is_empty());
                change(image, plan).unwrap_or_else(|error| panic!("{context}: {error}"));
                log.checkpoints.push((name, log.writes.len()));
            }
            (7 | 8, Some(at)) => {
                let (name, _) = log.checkpoints.remove(at);
                let plan = |image: &Image| image.plan_delete(name.as_bytes(), false, Layers::Check, None);
                changed_below += usize::from(plan(image).is_ok_and(|plan| !plan.below().is_empty()));
                let warnings = change(image, plan).unwrap_or_else(|error| panic!("{context}: {error}"));
                assert!(!is_system || warnings == [Vec::<String>::new()], "{context}: {warnings:?}");
            }
            (9 | 10, Some(at)) => {
                let (old, new) = (log.checkpoints[at].0.clone(), format!("r{names}"));
                names += 1;
                let plan = |image: &Image| image.plan_rename(old.as_bytes(), new.as_bytes(), Layers::Check, None);
                changed_below += usize::from(plan(image).is_ok_and(|plan| !plan.below().is_empty()));
                change(image, plan).unwrap_or_else(|error| panic!("{context}: {error}"));
                log.checkpoints[at].0 = new;
            }
            (11, _) if layers.len() < most_layers => {
                let overlay = format!("o{overlays}");
                overlays += 1;
                let recording = image.bitmaps().into_iter().find(|bitmap| bitmap.recording);
                let copied: Vec<String> = recording.iter().map(|one| one.name.to_string_lossy().into_owned()).collect();
                let copied: Vec<&str> = copied.iter().map(String::as_str).filter(|_| random.below(2) == 0).collect();
                snapshot(&mut hypervisor, layers.last().expect("a layer"), &overlay, &copied);
                layers.push(overlay);
            }
            (12, Some(_)) if layers.len() > 1 && is_system => {
                let base = random.index(layers.len() - 1);
                if commit_bitmaps(&machine, &layers[base], &context) {
                    committed += 1;
                    if random.below(3) > 0 {
                        drop((images, machine));
                        commit(&mut hypervisor, &mut layers, base, &mut log, &mut random);
                    }
                }
            }
            _ => too_much += log.compare(image, is_system, &context),
        }
        are_read_only(&mut hypervisor, &layers[..layers.len() - 1]);
        hypervisor.assert_tidy();
    }
    let machine = connect(&hypervisor);
    let image = open(&machine).remove(0);
    too_much += log.compare(&image, is_system, "at the end");
    eprintln!(
        "seed {seed}: {changed_below} changes below, {gathered} allocations gathered, {committed} committed, {too_much} granules too much"
    );
    drop((image, machine));
    let folder = hypervisor.quit();
    let top = folder.path().join(format!("{}.qcow2", layers.last().expect("a layer")));
    let image = Image::open(&top, &OpenOptions::new(Access::Read)).expect("it opens offline");
    log.compare(&image, true, "offline");
    for layer in &layers {
        let path = folder.path().join(format!("{layer}.qcow2"));
        let bitmaps = Image::open(&path, &OpenOptions::new(Access::Read)).expect("it opens").bitmaps();
        assert!(bitmaps.iter().all(|bitmap| !bitmap.inconsistent), "{layer}: {bitmaps:?}");
    }
}

#[test]
fn every_diff_holds_what_was_written_to_any_layer() {
    if !crate::support::hypervisors_are_here() {
        return;
    }
    let rounds: u64 = std::env::var("CHECKMAP_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    for seed in 0..4 * rounds {
        history(Program::System, seed, 60, 3);
    }
    for seed in 0..rounds {
        history(Program::StorageDaemon, 1000 + seed, 60, 3);
    }
}
