//! The fuzz targets on stable Rust: the committed corpus, and seeded mutations of it.
//!
//! `CHECKMAP_FUZZ_ROUNDS` multiplies the mutations, `CHECKMAP_SEED` plays a failure again.

#[path = "../../fuzz/bodies/bitmap_ops.rs"]
mod bitmap_ops;
#[path = "../../fuzz/bodies/commit_qcow2.rs"]
mod commit_qcow2;
#[path = "../../fuzz/bodies/read_nbd.rs"]
mod read_nbd;
#[path = "../../fuzz/bodies/read_nodes.rs"]
mod read_nodes;
#[path = "../../fuzz/bodies/read_parallels.rs"]
mod read_parallels;
#[path = "../../fuzz/bodies/read_qcow2.rs"]
mod read_qcow2;
#[path = "../../fuzz/bodies/read_roaring.rs"]
mod read_roaring;
#[path = "../../fuzz/bodies/read_segment.rs"]
mod read_segment;
#[path = "../../fuzz/bodies/recorded.rs"]
mod recorded;
mod seeds;
#[path = "../../fuzz/bodies/serve_nbd.rs"]
mod serve_nbd;
mod strictness;
#[path = "../support/mod.rs"]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use support::memory;
use support::mutate::mutate;
use support::random::Random;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

/// Every file of a folder, in the order of the names.
fn read_files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    let name = |path: &Path| path.file_name().expect("a file has a name").to_string_lossy().into_owned();
    files.iter().map(|path| (name(path), std::fs::read(path).expect("a readable file"))).collect()
}

/// Plays `run` over the corpus of `target` and over `mutations` mutations of it, and keeps the input that fails.
fn replay(target: &str, mutations: u64, run: fn(&[u8])) {
    let corpus = read_files(&corpus(target));
    for (name, bytes) in &corpus {
        play(target, name, bytes, run);
    }
    let rounds: u64 = std::env::var("CHECKMAP_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let mut random = Random::seeded(20);
    for number in 0..mutations * rounds {
        let (name, seed) = random.pick(&corpus);
        let (_, other) = random.pick(&corpus);
        let bytes = mutate(seed, other, &mut random);
        play(target, &format!("mutation {number} of {name}"), &bytes, run);
    }
}

fn play(target: &str, name: &str, bytes: &[u8], run: fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(bytes))) {
        let kept = std::env::temp_dir().join(format!("checkmap-fuzz-{target}"));
        std::fs::write(&kept, bytes).expect("the failing input can be kept");
        eprintln!("{target}, {name}: the input is kept as {}", kept.display());
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn reading_any_bytes_as_an_image_neither_panics_nor_contradicts_itself() {
    replay("read_qcow2", 150_000, read_qcow2::read_qcow2);
}

#[test]
fn changing_any_image_refuses_without_a_trace_or_leaves_it_sound() {
    replay("commit_qcow2", 120_000, commit_qcow2::commit_qcow2);
}

#[test]
fn reading_any_bytes_as_a_parallels_image_neither_panics_nor_contradicts_itself() {
    replay("read_parallels", 150_000, read_parallels::read_parallels);
}

#[test]
fn reading_any_bytes_as_roaring_agrees_with_the_roaring_crate() {
    replay("read_roaring", 100_000, read_roaring::read_roaring);
}

#[test]
fn reading_any_bytes_as_a_segment_agrees_with_a_full_load_and_the_roaring_crate() {
    replay("read_segment", 60_000, read_segment::read_segment);
}

#[test]
fn any_bytes_of_an_nbd_server_are_refused_or_cover_the_window() {
    replay("read_nbd", 150_000, read_nbd::read_nbd);
}

#[test]
fn any_bytes_of_an_nbd_client_are_answered_with_bytes_of_the_disk_alone() {
    replay("serve_nbd", 150_000, serve_nbd::serve_nbd);
}

#[test]
fn any_bytes_of_a_monitor_are_refused_or_planned_without_harm() {
    replay("read_nodes", 100_000, read_nodes::read_nodes);
}

#[test]
fn any_operations_on_a_bitmap_agree_with_sets() {
    replay("bitmap_ops", 400, bitmap_ops::bitmap_ops);
}

/// `CHECKMAP_BLESS=1` puts the seeds that are made here into the corpus.
#[test]
fn the_seeds_can_be_made_by_the_qemu_of_this_machine() {
    if !support::tools_are_here() {
        return;
    }
    let folder = support::folder();
    let bless = std::env::var_os("CHECKMAP_BLESS").is_some();
    let place = |target: &str| if bless { corpus(target) } else { folder.path().join(target) };
    seeds::write(&place);
    for (target, run) in [
        ("read_qcow2", read_qcow2::read_qcow2 as fn(&[u8])),
        ("commit_qcow2", commit_qcow2::commit_qcow2),
        ("read_parallels", read_parallels::read_parallels),
        ("read_roaring", read_roaring::read_roaring),
        ("read_segment", read_segment::read_segment),
        ("read_nbd", read_nbd::read_nbd),
        ("serve_nbd", serve_nbd::serve_nbd),
        ("read_nodes", read_nodes::read_nodes),
    ] {
        for (name, bytes) in read_files(&place(target)) {
            play(target, &name, &bytes, run);
        }
    }
}
