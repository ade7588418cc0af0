#![forbid(unsafe_code)]
//! The Go package, against the C library as it is built here: vetted, then tested plainly with every check of pointers
//! that cgo has, and with the race detector.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

fn module() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bindings/go")
}

/// The folder of the library, which is built once, with checked arithmetic, beside the target folder of these tests.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = tmp.join("go-lib");
        let mut make = Command::new("make");
        make.arg("-s").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(["CARGO_PROFILE=dev", "all"]);
        make.arg(format!("CARGO={}", env::var("CARGO").unwrap_or("cargo".into())));
        make.arg(format!("C_BUILD={}", folder.display()));
        make.env("CARGO_TARGET_DIR", tmp.join("capi-target")).env_remove("MAKEFLAGS");
        run(&mut make);
        folder
    })
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; see ./run-tests"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// `go`, without the network, with what it builds kept below the target folder.
fn go(arguments: &[&str]) -> String {
    let mut go = Command::new("go");
    go.args(arguments).current_dir(module()).env("CGO_ENABLED", "1");
    go.env("PKG_CONFIG_PATH", library()).env("LD_LIBRARY_PATH", library());
    go.env("GOPROXY", "off").env("GOSUMDB", "off").env("GOFLAGS", "-mod=readonly").env("GOTOOLCHAIN", "local");
    go.env("GOCACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("go-cache")).env_remove("GOEXPERIMENT");
    // Newer compilers know the full check of pointers as an experiment, and refuse to run with the older setting of it.
    let version = run(Command::new("go").args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local"));
    let minor = version.trim().strip_prefix("go1.").and_then(|rest| rest.split('.').next()?.parse::<u32>().ok());
    if minor.is_some_and(|minor| minor < 21) {
        go.env("GODEBUG", "cgocheck=2");
    } else {
        go.env("GOEXPERIMENT", "cgocheck2");
    }
    run(&mut go)
}

#[test]
fn the_sources_are_formatted_and_vetted() {
    assert_eq!(run(Command::new("gofmt").args(["-l", "."]).current_dir(module())), "", "gofmt has something to say");
    go(&["vet", "./..."]);
}

#[test]
fn every_behaviour_in_go() {
    let told = go(&["test", "-count=1", "-v", "./..."]);
    let passed = told.lines().filter(|line| line.starts_with("--- PASS")).count();
    assert!(passed > 50, "{told}");
    for line in told.lines().filter(|line| line.contains("Go by batches")) {
        eprintln!("{line}");
    }
}

#[test]
fn every_behaviour_in_go_with_the_race_detector() {
    go(&["test", "-count=1", "-race", "./..."]);
}

/// What a C test has a number for, Go has a test for, but for what only C has.
#[test]
fn every_behaviour_of_the_c_tests_is_tested() {
    const ONLY_C: &[&str] = &["006", "007", "010", "141", "320", "401", "402", "403", "404", "405", "406", "407"];
    let mut tests = String::new();
    for file in fs::read_dir(module()).expect("the module can be listed") {
        let path = file.expect("the module can be listed").path();
        if path.to_string_lossy().ends_with("_test.go") {
            tests += &fs::read_to_string(path).expect("a test can be read");
        }
    }
    let mut numbers = 0;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c");
    for file in fs::read_dir(folder).expect("tests/c can be listed") {
        let name = file.expect("tests/c can be listed").file_name().into_string().expect("a name in UTF-8");
        let Some(number) = name.get(..3).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit())) else {
            continue;
        };
        numbers += 1;
        let there = tests.contains(&format!("func Test{number}"));
        assert!(there || ONLY_C.contains(&number), "Go has no test for {name}");
    }
    assert!(numbers > 50, "the C tests are not where this test looks");
}
