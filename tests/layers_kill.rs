#![forbid(unsafe_code)]
#![cfg(feature = "cli")]
//! Kills the real program at random moments while it changes several layers, or takes their bitmaps into one: no diff is
//! ever short, the images are sound but for leaks, and the same command finishes the work.

mod support;

use checkmap::chain::Name;
use checkmap::image::Access;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::ours::{changed, open};
use support::random::Random;
use support::{qemu_bitmaps, qemu_io, run, try_run};
use tempfile::TempDir;

const KILLS: u32 = 24;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_checkmap"));
    command.arg("-q").args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A base with mon and tue, an overlay with wed; each interval has one written block in each layer that it reaches.
struct Layers {
    folder: TempDir,
}

impl Layers {
    fn new() -> Self {
        let layers = Self { folder: support::folder() };
        let (base, top) = (layers.path("base"), layers.path("top"));
        run("qemu-img", &["create", "-q", "-f", "qcow2", text(&base), "4M"]);
        let create = |path: &Path, name: &str| {
            assert!(program(&["create", text(path), name]).status().expect("it runs").success())
        };
        create(&base, "mon");
        qemu_io(&base, &["write 0 64k".into()]);
        create(&base, "tue");
        qemu_io(&base, &["write 1M 64k".into()]);
        run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", text(&base), "-F", "qcow2", text(&top)]);
        qemu_io(&top, &["write 2M 64k".into()]);
        create(&top, "wed");
        qemu_io(&top, &["write 3M 64k".into()]);
        layers
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.qcow2"))
    }

    fn copy(&self) -> Layers {
        let copy = Layers { folder: support::folder() };
        for name in ["base", "top"] {
            std::fs::copy(self.path(name), copy.path(name)).expect("it can be copied");
        }
        run(
            "qemu-img",
            &["rebase", "-q", "-u", "-b", text(&copy.path("base")), "-F", "qcow2", text(&copy.path("top"))],
        );
        copy
    }

    /// Every diff of the disk that is answered holds the blocks written since; those in `must` are answered.
    fn assert_holds(&self, disk: &str, must: &[&str], when: &str) {
        self.assert_names_hold(disk, [("mon", 0), ("tue", 1), ("wed", 3)], must, when);
    }

    /// As [`Layers::assert_holds`], of checkpoints of other names; each with the first block that was written since.
    fn assert_names_hold(&self, disk: &str, names: [(&str, u64); 3], must: &[&str], when: &str) {
        for (name, first) in names {
            let image = open(&self.path(disk), Access::Read);
            let request = checkmap::image::DiffRequest::since(name.as_bytes());
            if !must.contains(&name) && image.diff(&request, &mut checkmap::progress::Unobserved).is_err() {
                continue;
            }
            let extents = changed(&image, name, None);
            for block in first..4_u64 {
                let holds = extents.iter().any(|extent| extent.offset <= block << 20 && extent.end() > block << 20);
                assert!(holds, "{when}: {disk} since {name} misses block {block}: {extents:?}");
            }
        }
        for layer in ["base", "top"] {
            let status = try_run("qemu-img", &["check", text(&self.path(layer))]).status.code();
            assert!(matches!(status, Some(0 | 3)), "{when}: {layer}: {status:?}");
        }
    }
}

/// Runs the command whole once to learn how long it takes, then kills it at random moments of that time.
fn kill(args: impl Fn(&Layers) -> Vec<String>, seed: u64, check: impl Fn(&Layers, bool)) {
    let fresh = Layers::new();
    let mut random = Random::seeded(seed);
    let command = |layers: &Layers| program(&args(layers).iter().map(String::as_str).collect::<Vec<_>>());
    let whole = fresh.copy();
    let began = Instant::now();
    assert!(command(&whole).status().expect("it runs").success());
    let took = u64::try_from(began.elapsed().as_micros()).expect("short");
    check(&whole, true);
    let mut killed = 0;
    for _ in 0..KILLS {
        let layers = fresh.copy();
        let mut child = command(&layers).spawn().expect("it runs");
        std::thread::sleep(Duration::from_micros(random.below(took + took / 4)));
        let _ = child.kill();
        killed += u32::from(!child.wait().expect("it ends").success());
        check(&layers, false);
        // Done already, or done now.
        let _ = command(&layers).status().expect("it runs");
        check(&layers, true);
    }
    eprintln!("{killed} of {KILLS} killed");
}

#[test]
fn a_kill_of_commit_bitmaps_leaves_the_base_before_or_after() {
    if !support::tools_are_here() {
        return;
    }
    let args = |layers: &Layers| {
        vec!["commit-bitmaps".into(), text(&layers.path("top")).into(), text(&layers.path("base")).into()]
    };
    kill(args, 171, |layers, is_done| {
        layers.assert_holds("top", &["mon", "tue", "wed"], "commit-bitmaps");
        let names: Vec<String> = qemu_bitmaps(&layers.path("base")).into_iter().map(|bitmap| bitmap.name).collect();
        if is_done || names.len() == 3 {
            layers.assert_holds("base", &["mon", "tue", "wed"], "commit-bitmaps");
        } else {
            assert_eq!(names.len(), 2, "{names:?}");
        }
    });
}

#[test]
fn a_kill_of_a_deletion_in_layers_loses_nothing() {
    if !support::tools_are_here() {
        return;
    }
    let args = |layers: &Layers| vec!["delete".into(), text(&layers.path("top")).into(), "tue".into()];
    kill(args, 172, |layers, is_done| {
        layers.assert_holds("top", &["mon", "wed"], "delete");
        let knows = |name: &str| qemu_bitmaps(&layers.path(name)).iter().any(|bitmap| bitmap.name.contains("tue"));
        assert!(!is_done || !knows("top") && !knows("base"));
        assert!(knows("base") || !knows("top"), "the base goes last");
    });
}

#[test]
fn a_kill_of_a_renaming_in_layers_loses_nothing() {
    if !support::tools_are_here() {
        return;
    }
    let args = |layers: &Layers| vec!["rename".into(), text(&layers.path("top")).into(), "tue".into(), "t".into()];
    kill(args, 173, |layers, is_done| {
        let knows = |layer: &str, name: &str| {
            let bitmaps = qemu_bitmaps(&layers.path(layer));
            bitmaps.iter().any(|bitmap| Name::new(bitmap.name.as_str()).mentions().contains(&name.into()))
        };
        let old = if knows("base", "tue") { Some("tue") } else { None };
        let new = if knows("base", "t") { Some("t") } else { None };
        assert!(old.is_some() || new.is_some());
        assert!(!is_done || old.is_none() && !knows("top", "tue"));
        for tuesday in old.into_iter().chain(new) {
            layers.assert_names_hold("top", [("mon", 0), (tuesday, 1), ("wed", 3)], &["mon", tuesday, "wed"], "rename");
        }
    });
}
