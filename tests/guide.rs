//! The commands of docs/guide.md work, as they stand there, and its table of what keeps bitmaps is true.

mod support;

use std::path::Path;
use std::process::{Command, Output};

const GUIDE: &str = include_str!("../docs/guide.md");

/// Runs a script as a shell would that stops at the first error; the program that was built is the first in its path.
fn bash(folder: &Path, script: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_checkmap")).parent().expect("a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let arguments = ["-e", "-u", "-o", "pipefail", "-c", script];
    Command::new("bash").args(arguments).current_dir(folder).env("PATH", path).output().expect("bash runs")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_blocks_of_the_guide_work_one_after_the_other() {
    if !support::tools_are_here() {
        return;
    }
    let blocks: Vec<&str> =
        GUIDE.split("```sh\n").skip(1).map(|rest| rest.split_once("```").expect("a block ends").0).collect();
    assert!(blocks.len() >= 6, "the guide has {} blocks", blocks.len());
    let folder = support::folder();
    let output = bash(folder.path(), &blocks.concat());
    assert!(output.status.success(), "{}", told(&output));
    let backups = folder.path().join("backup");
    assert!(!backups.join("day1.qcow2").exists() && backups.join("day2.qcow2").exists(), "day1 was pruned");
}

#[test]
fn the_table_says_what_keeps_bitmaps() {
    if !support::tools_are_here() {
        return;
    }
    let (_, rest) = GUIDE.split_once("| command | file | bitmaps | what to know |\n").expect("the table");
    let rows: Vec<Vec<&str>> = rest
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.split(" | ").map(|cell| cell.trim_matches(['|', ' ', '`'])).collect())
        .collect();
    assert!(rows.len() >= 10, "{rows:?}");
    for row in rows {
        let [command, file, outcome, ..] = row[..] else { panic!("{row:?}") };
        let folder = support::folder();
        let before = bash(
            folder.path(),
            "qemu-img create -q -f qcow2 disk.qcow2 64M
             checkmap create disk.qcow2 monday
             qemu-io -c 'write 1M 64k' disk.qcow2
             checkmap create disk.qcow2 tuesday
             qemu-io -c 'write 2M 64k' disk.qcow2",
        );
        assert!(before.status.success(), "{}", told(&before));
        // With `!` in front, a command that fails ends no script.
        let ran = bash(folder.path(), command);
        assert!(ran.status.success(), "{command}: {}", told(&ran));
        let diff = bash(folder.path(), &format!("checkmap diff {file} --since monday --format csv"));
        let lines = String::from_utf8_lossy(&diff.stdout).into_owned();
        let knows = |start: &str| lines.lines().any(|line| line == format!("{start},65536"));
        match outcome {
            "keeps" => {
                assert!(diff.status.success(), "{command}: {}", told(&diff));
                assert!(knows("1048576") && knows("2097152"), "{command}: {lines}");
                let committed = command.contains("write 5M");
                assert!(!committed || knows("5242880"), "{command}: {lines}");
            }
            "loses" => assert_eq!(diff.status.code(), Some(3), "{command}: {}", told(&diff)),
            other => panic!("{command}: {other}?"),
        }
    }
}
