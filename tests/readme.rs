//! The README's lines work, as they stand there.

mod support;

use std::path::Path;
use std::process::Command;

#[test]
fn the_twenty_lines_of_the_readme_work() {
    if !support::tools_are_here() {
        return;
    }
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("## Twenty lines that work\n\n```sh\n").expect("the lines have their heading");
    let (script, _) = rest.split_once("```").expect("the lines end");
    let folder = support::folder();
    let program = Path::new(env!("CARGO_BIN_EXE_checkmap")).parent().expect("a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("bash")
        .args(["-e", "-u", "-o", "pipefail", "-c", script])
        .current_dir(folder.path())
        .env("PATH", path)
        .output()
        .expect("bash runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!printed.contains("warning"), "{printed}");
    assert!(output.status.success(), "{printed}");
    assert!(folder.path().join("block-5368709120").metadata().is_ok_and(|block| block.len() == 65536), "{printed}");
}
