//! The completion of names, in the shells themselves where they are here.

use crate::support::TestImage;
use crate::{Holder, Ran, checkmap, needs_tools};
use std::path::Path;
use std::process::Command;

/// An image with names of every kind that needs care.
fn image() -> TestImage {
    let image = TestImage::create("", "1M");
    for name in ["mon", "tue", "with blank", "it's", "2026:01:02", "a\"b", "wéd"] {
        checkmap!("create", image.path, name).ok();
    }
    image
}

/// What the function of the completions gives bash for `line`, of whose end bash would replace `replaced`.
fn offered(image: &TestImage, line: &str, replaced: &str) -> Vec<String> {
    let program = Path::new(env!("CARGO_BIN_EXE_checkmap"));
    let script = format!(
        "source '{}/completions/checkmap.bash'\n\
         COMP_LINE=$1 COMP_POINT=${{#1}} COMP_WORDS=($1) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
         _checkmap_or_names checkmap \"$2\" prev\nprintf '%s\\n' \"${{COMPREPLY[@]}}\"",
        env!("CARGO_MANIFEST_DIR"),
    );
    let path = format!("{}:{}", program.parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("bash")
        .args(["--norc", "-c", &script, "bash", line, replaced])
        .current_dir(image.folder.path())
        .env("PATH", path)
        .output()
        .expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{line}");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

#[test]
fn bash_is_offered_the_names_of_the_image_in_the_line() {
    needs_tools!();
    let image = image();
    assert_eq!(offered(&image, "checkmap diff disk.qcow2 --since m", "m"), ["mon"]);
    assert_eq!(offered(&image, "checkmap delete disk.qcow2 wi", "wi"), ["'with blank'"]);
    assert_eq!(offered(&image, "checkmap delete disk.qcow2 'wi", "wi"), ["with blank"]);
    assert_eq!(offered(&image, "checkmap delete disk.qcow2 mon..t", "mon..t"), ["mon..tue"]);
    assert_eq!(offered(&image, "checkmap delete disk.qcow2 tue..m", "tue..m"), [""]);
    assert_eq!(offered(&image, "checkmap diff disk.qcow2 --until=2026:0", "0"), ["01:02"]);
    assert_eq!(offered(&image, "checkmap dump disk.qcow2 --bitmap mon", "mon"), ["'mon'", "'mon->tue'"]);
    assert_eq!(offered(&image, "checkmap dump disk.qcow2 --bitmap 'mon->", "mon->"), ["mon->tue"]);
    // Elsewhere the rest of the completions works, also where there is no such image.
    assert_eq!(offered(&image, "checkmap del", "del"), ["delete"]);
    assert!(offered(&image, "checkmap delete absent --forc", "--forc").contains(&"--force-inconsistent".to_owned()));
}

#[test]
fn what_bash_completes_is_the_name_to_the_byte() {
    needs_tools!();
    let image = image();
    let cases = [
        ("diff disk.qcow2 --since m\t", "<diff><disk.qcow2><--since><mon>"),
        ("diff disk.qcow2 --since=t\t", "<diff><disk.qcow2><--since=tue>"),
        ("delete disk.qcow2 w\ti\t", "<delete><disk.qcow2><with blank>"),
        ("delete disk.qcow2 'wi\t", "<delete><disk.qcow2><with blank>"),
        ("delete disk.qcow2 with\\ \t", "<delete><disk.qcow2><with blank>"),
        ("delete disk.qcow2 it\t", "<delete><disk.qcow2><it's>"),
        ("delete disk.qcow2 \"it\t", "<delete><disk.qcow2><it's>"),
        ("delete disk.qcow2 a\t", "<delete><disk.qcow2><a\"b>"),
        ("delete disk.qcow2 20\t", "<delete><disk.qcow2><2026:01:02>"),
        ("delete disk.qcow2 2026:0\t", "<delete><disk.qcow2><2026:01:02>"),
        ("delete disk.qcow2 mon..t\t", "<delete><disk.qcow2><mon..tue>"),
        ("dump disk.qcow2 --bitmap mon\t-\t", "<dump><disk.qcow2><--bitmap><mon->tue>"),
        ("dump disk.qcow2 --bitmap mon-\\>\t", "<dump><disk.qcow2><--bitmap><mon->tue>"),
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_BIN_EXE_checkmap")).parent().expect("a folder");
    let output = Command::new("python3")
        .arg(root.join("tests/cli/type_into_bash.py"))
        .arg(root.join("completions/checkmap.bash"))
        .args(cases.map(|(keys, _)| format!("checkmap {keys}")))
        .current_dir(image.folder.path())
        .env("PATH", format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default()))
        .env("LC_ALL", "C.UTF-8")
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let words: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    assert_eq!(words, cases.map(|(_, words)| format!("<checkmap>{words}")));
}

#[test]
fn a_shell_is_told_names_and_nothing_else() {
    needs_tools!();
    let image = image();
    let words = |words: &[&str]| {
        let args: Vec<_> = ["__names", "words", "checkmap"].iter().chain(words).map(Into::into).collect();
        let ran = Ran::of(crate::command(&args).output().unwrap());
        assert_eq!(ran.stderr, "");
        ran.ok().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let path = image.path.to_str().unwrap();
    let all = ["mon", "tue", "with blank", "it's", "2026:01:02", "a\"b", "wéd"];
    assert_eq!(words(&["delete", path, ""]), all);
    for verb in ["diff", "map", "report"] {
        assert_eq!(words(&[verb, path, "--since", "w"]), ["with blank", "wéd"], "{verb}");
    }
    assert_eq!(words(&["dump", path, "--bitmap", "mon->"]), ["mon->tue"]);
    // Also while a QEMU has the image open.
    let holder = Holder::open(&image.path, &[]);
    assert_eq!(words(&["delete", path, ""]), all);
    drop(holder);
    for nothing in [&["delete", "/absent", ""][..], &["delete", "/dev/null", ""], &["nonsense"], &[]] {
        assert_eq!(words(nothing), [""; 0], "{nothing:?}");
    }
    assert_eq!(checkmap!("__names").ok(), "");
    assert_eq!(checkmap!("__names", "tcsh", "x").ok(), "");
}
