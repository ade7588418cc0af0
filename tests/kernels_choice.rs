#![forbid(unsafe_code)]
//! The set of kernels that a process runs with. A process chooses once, so the test checks the choice that its process was started with;
//! `make test-neon` starts it with each choice.

use checkmap::cpu::Level;
use checkmap::kernels::{all_available, select};

#[test]
fn the_set_is_the_named_one_or_the_best() {
    let chosen = select().level;
    eprintln!("kernels: {}", chosen.name());
    let named = std::env::var("CHECKMAP_KERNELS").unwrap_or_default();
    let named = Level::ALL.into_iter().find(|level| level.name() == named).filter(|level| level.is_available());
    match named {
        Some(level) => assert_eq!(chosen, level),
        None if cfg!(target_arch = "aarch64") => assert_eq!(chosen, Level::Neon),
        None if Level::Avx512.is_available() => assert_eq!(chosen, Level::Avx512),
        None if Level::Avx2.is_available() => assert_eq!(chosen, Level::Avx2),
        None => assert_eq!(chosen, Level::Portable),
    }
}

#[test]
fn a_cpu_with_neon_has_both_sets() {
    let levels: Vec<Level> = all_available().iter().map(|kernels| kernels.level).collect();
    assert!(levels.contains(&Level::Portable));
    assert_eq!(levels.contains(&Level::Neon), cfg!(target_arch = "aarch64"));
}
