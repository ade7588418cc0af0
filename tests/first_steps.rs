#![forbid(unsafe_code)]
//! The way in: what `setup` names and installs, what a Rust program gets with the library, and the oldest Rust that all of
//! it promises to need. `make test-bare` plays the real thing in a bare Debian; here apt is a script that writes down its
//! calls.

use std::collections::BTreeSet;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::{env, fs};

/// What every Debian has, and `setup` uses.
const BASE: &[&str] = &["sh", "bash", "cat", "chmod", "cut", "dirname", "head", "mktemp", "rm", "sed", "sort", "tr"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A machine on which nothing is installed but [`BASE`] and what the test puts there.
struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    /// `user` is the number of who runs `setup`; `candidates` are the packages that apt knows.
    fn new(user: u32, candidates: &[(&str, &str)]) -> Self {
        let machine = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        for tool in BASE {
            let path = env::var_os("PATH").expect("a path");
            let found = env::split_paths(&path).map(|folder| folder.join(tool)).find(|file| file.exists());
            symlink(found.expect("a basic tool is there"), machine.folder.path().join(tool)).expect("a link");
        }
        machine.tool("id", &format!("echo {user}"));
        machine.tool("apt-get", "echo apt-get \"$@\" >&2");
        let known: String = (candidates.iter())
            .map(|(package, version)| format!("{package}) echo '{package}:'; echo '  Candidate: {version}' ;;\n"))
            .collect();
        machine.tool("apt-cache", &format!("for package; do case $package in\n{known}esac; done"));
        machine.tool("dpkg-query", "exit 1");
        // `setup` asks it only whether a version of QEMU is older than 8.
        machine.tool("dpkg", "case $2 in 1:7*) exit 0 ;; *) exit 1 ;; esac");
        machine
    }

    fn tool(&self, name: &str, script: &str) {
        let file = self.folder.path().join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a script can be written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("it can be made to run");
    }

    fn setup(&self, purpose: &[&str]) -> Output {
        let mut setup = Command::new("sh");
        setup.arg(root().join("setup")).args(purpose).env_clear().env("PATH", self.folder.path());
        setup.env("HOME", self.folder.path()).output().expect("sh runs")
    }
}

/// The packages of the last line with this in it, without the options before them.
fn packages<'a>(said: &'a str, after: &str) -> BTreeSet<&'a str> {
    let line = said.lines().rev().find_map(|line| Some(line.split_once(after)?.1));
    line.unwrap_or_else(|| panic!("no '{after}' in: {said}")).split(' ').filter(|word| !word.is_empty()).collect()
}

const TRIXIE: &[(&str, &str)] =
    &[("cargo", "1.85.1+dfsg1-1"), ("cargo-web", "1.96.0+dfsg1-1"), ("qemu-utils", "1:10.0.13+ds-0")];
const BOOKWORM: &[(&str, &str)] = &[("cargo-web", "1.96.0+dfsg1-1"), ("qemu-utils", "1:7.2+dfsg-7+b3")];

#[test]
fn a_plain_user_is_told_all_that_is_missing() {
    for (purpose, wanted) in [
        (&[][..], &["cargo-web", "gcc"][..]),
        (&["install"], &["cargo-web", "gcc", "make", "binutils", "pkg-config", "python3", "python3-venv", "sudo"]),
        (
            &["tests"],
            &[
                "cargo-web",
                "rustfmt-web",
                "rust-web-clippy",
                "gcc",
                "g++",
                "clang",
                "make",
                "qemu-utils",
                "qemu-system-x86=1:10.0.13+ds-0",
                "libnbd-bin",
                "libnbd-dev",
                "libvirt-clients",
                "libvirt-daemon-driver-qemu",
                "mount",
                "util-linux",
                "mandoc",
                "groff-base",
                "procps",
                "strace",
                "valgrind",
                "abigail-tools",
                "pkg-config",
                "binutils",
                "python3",
                "python3-venv",
                "golang-go",
            ],
        ),
    ] {
        let machine = Machine::new(1000, TRIXIE);
        let output = machine.setup(purpose);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let mut named = packages(&said, "as root: apt-get install --no-install-recommends ");
        // Whether these are missing is up to this machine.
        named.remove("libc6-dev");
        named.remove("python3-libnbd");
        assert_eq!(named, BTreeSet::from_iter(wanted.iter().copied()), "{said}");
        assert!(!said.contains("apt-get -qq"), "a plain user calls no apt: {said}");
    }
}

#[test]
fn root_gets_it_by_apt_which_may_remove_nothing() {
    let machine = Machine::new(0, TRIXIE);
    let output = machine.setup(&[]);
    let said = text(&output.stderr);
    let named = packages(&said, "install -y --no-install-recommends --no-remove ");
    assert!(named.contains("cargo-web") && named.contains("gcc"), "{said}");
    // This apt installs nothing.
    assert_eq!(output.status.code(), Some(1), "what is still missing afterwards is an error: {said}");
    assert!(said.contains("setup: missing: cargo-web"), "{said}");
}

#[test]
fn nothing_is_done_where_nothing_is_missing() {
    let machine = Machine::new(0, TRIXIE);
    machine.tool("cargo", "echo cargo 1.96.0");
    machine.tool("rustc", "echo rustc 1.96.0");
    machine.tool("cc", "");
    let output = machine.setup(&[]);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn a_rust_that_is_too_old_is_not_taken() {
    let machine = Machine::new(1000, TRIXIE);
    machine.tool("cc", "");
    machine.tool("cargo", "echo cargo 1.96.0");
    machine.tool("rustc", "echo rustc 1.88.0");
    let said = text(&machine.setup(&[]).stderr);
    assert!(said.contains("missing: cargo-web"), "{said}");
    // Where rustup rules, another package would not be found in its place.
    machine.tool("rustup", "");
    let said = text(&machine.setup(&[]).stderr);
    assert!(said.contains("Rust 1.89 or newer is missing (here is 1.88.0); run: rustup update"), "{said}");
    let elsewhere = Machine::new(0, &[]);
    fs::remove_file(elsewhere.folder.path().join("apt-get")).expect("it was there");
    elsewhere.tool("cc", "");
    let said = text(&elsewhere.setup(&[]).stderr);
    assert!(said.contains("https://rustup.rs"), "{said}");
}

#[test]
fn all_of_qemu_is_of_one_suite() {
    let daemon = |machine: &Machine| {
        let said = text(&machine.setup(&["tests"]).stderr);
        let named = packages(&said, "apt-get install --no-install-recommends ");
        let qemu = named.iter().filter(|package| package.starts_with("qemu-")).map(|package| (*package).to_owned());
        qemu.collect::<Vec<_>>()
    };
    assert_eq!(daemon(&Machine::new(1000, TRIXIE)), ["qemu-system-x86=1:10.0.13+ds-0", "qemu-utils"]);
    let pinned = ["qemu-system-common=1:7.2+dfsg-7+b3", "qemu-system-x86=1:7.2+dfsg-7+b3", "qemu-utils"];
    assert_eq!(daemon(&Machine::new(1000, BOOKWORM)), pinned);
    // A newer one of backports stays as it is: the missing package is asked for in its very version, or not at all.
    let machine = Machine::new(1000, BOOKWORM);
    machine.tool("dpkg-query", "case $* in *qemu-utils) printf 1:10.0.2~bpo12 ;; *) exit 1 ;; esac");
    for tool in ["qemu-img", "qemu-io", "qemu-nbd"] {
        machine.tool(tool, "");
    }
    assert_eq!(daemon(&machine), ["qemu-system-common=1:10.0.2~bpo12", "qemu-system-x86=1:10.0.2~bpo12"]);
}

fn cargo(arguments: &[&str]) -> String {
    let mut cargo = Command::new(env::var("CARGO").unwrap_or("cargo".into()));
    cargo.args(arguments).args(["--locked", "--offline"]).current_dir(root());
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// How many crates a program gets with the library, itself included.
#[test]
fn a_rust_program_gets_few_crates_with_the_library() {
    let tree = |features: &[&str]| {
        let mut arguments = vec!["tree", "--edges", "normal", "--prefix", "none", "--no-dedupe"];
        arguments.extend_from_slice(features);
        cargo(&arguments).lines().map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let library = tree(&[]);
    assert!(library.len() <= 31, "{library:#?}");
    let serving = tree(&["--features", "serve"]);
    assert!(serving.len() <= library.len() + 19, "{serving:#?}");
    assert_eq!(
        tree(&["--features", "capi"]),
        tree(&["--features", "serve,sha256"]),
        "C needs no crate of its own, beside those that read a disk for backups and make QEMU's hash of a bitmap"
    );
    assert!(tree(&["--features", "cli"]).len() > library.len(), "the crates of the command line are counted");
}

/// The workspaces beside this one are built with `--locked`, by targets that the tests do not run: their lock files must have each
/// crate that the library has.
#[test]
fn every_lock_file_knows_the_crates_of_the_library() {
    let depends = |lock: &str| -> BTreeSet<String> {
        let lock = fs::read_to_string(root().join(lock)).unwrap_or_else(|error| panic!("{lock}: {error}"));
        let package = lock.split("[[package]]").find(|package| package.contains("\nname = \"checkmap\"\n"));
        let crates = package.expect("the library is locked").lines().filter_map(|line| line.strip_prefix(" \""));
        crates.map(|name| name.trim_end_matches(['"', ',']).to_owned()).collect()
    };
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml can be read");
    let (_, rest) = manifest.split_once("\n[dependencies]\n").expect("the library has dependencies");
    let (lines, _) = rest.split_once("\n\n").expect("other tables follow");
    let always = lines.lines().filter(|line| !line.starts_with('#') && !line.contains("optional = true"));
    let names: Vec<&str> = always.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
    assert!(names.contains(&"rayon") && !names.contains(&"clap"), "{names:?}");
    for lock in ["Cargo.lock", "benchmarks/Cargo.lock", "fuzz/Cargo.lock", "bindings/python/bench/Cargo.lock"] {
        let locked = depends(lock);
        let missing: Vec<_> = names.iter().filter(|name| !locked.contains(**name)).collect();
        assert!(missing.is_empty(), "{lock} lacks {missing:?}: `cargo update --workspace` there");
    }
}

#[test]
fn the_oldest_rust_is_one_number() {
    let oldest = env!("CARGO_PKG_RUST_VERSION");
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md can be read");
    assert!(readme.contains(&format!("Rust {oldest}")), "README.md does not say Rust {oldest}");
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml can be read");
    assert!(manifest.contains("\nincompatible_msrv = \"deny\"\n"), "clippy does not hold it");
    // What the lock file chose promises the same.
    let about = cargo(&["version", "--verbose"]);
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo says where it runs");
    let metadata = cargo(&["metadata", "--format-version", "1", "--filter-platform", host]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("cargo prints JSON");
    let number = |version: &str| {
        let mut parts = version.split('.').map(|part| part.parse::<u32>().expect("a number"));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    for package in metadata["packages"].as_array().expect("a list") {
        if let Some(needs) = package["rust_version"].as_str() {
            assert!(number(needs) <= number(oldest), "{} needs Rust {needs}", package["name"]);
        }
    }
}
