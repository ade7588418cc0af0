//! The generated and committed texts: the manual page and the completions; and the help that people read first.

use crate::{Ran, checkmap};
use std::fs;
use std::path::Path;

/// Compares a committed file with what the binary generates; `CHECKMAP_BLESS=1` rewrites it.
#[track_caller]
fn assert_committed(path: &str, generated: &Ran) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("CHECKMAP_BLESS").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).unwrap();
        fs::write(&path, generated.bytes()).unwrap();
    }
    let committed = fs::read(&path).unwrap_or_default();
    assert!(
        committed == generated.bytes(),
        "{} is out of date: CHECKMAP_BLESS=1 cargo test --test cli",
        path.display()
    );
}

#[test]
fn the_committed_manual_page_is_the_generated_one() {
    assert_committed("man/checkmap.1", &checkmap!("man"));
}

#[test]
fn the_committed_completions_are_the_generated_ones() {
    for (shell, file) in [("bash", "checkmap.bash"), ("zsh", "_checkmap"), ("fish", "checkmap.fish")] {
        assert_committed(&format!("completions/{file}"), &checkmap!("completions", shell));
    }
}

#[test]
fn the_manual_has_a_section_for_every_subcommand_and_the_exit_status() {
    let page = checkmap!("man").ok().to_owned();
    for verb in
        ["info", "list", "create", "delete", "rename", "diff", "dump", "merge", "serve", "check", "completions", "man"]
    {
        assert!(page.contains(&format!(".SH \"checkmap {verb}\"")), "{verb}");
        assert!(checkmap!(verb, "--help").ok().contains("Usage: checkmap"), "{verb}");
    }
    for verb in ["merge", "diff", "info", "check"] {
        assert!(page.contains(&format!(".SH \"checkmap segment {verb}\"")), "{verb}");
        assert!(checkmap!("segment", verb, "--help").ok().contains("Usage: checkmap segment"), "{verb}");
    }
    assert!(page.contains(".SH \"EXIT STATUS\""));
}

#[test]
fn help_and_version_end_well() {
    let help = checkmap!("--help");
    assert!(help.ok().contains("'mon->tue'"), "names of bitmaps are quoted");
    assert!(checkmap!("-h").ok().len() < help.stdout.len());
    assert_eq!(checkmap!("--version").ok(), format!("checkmap {}\n", env!("CARGO_PKG_VERSION")));
    assert!(checkmap!("diff", "--help").ok().contains("virtual_size"), "tells what no image can tell");
}
