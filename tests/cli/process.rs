//! The process among others: files it writes, pipes that close, signals, messages and progress.

use crate::support::TestImage;
use crate::{checkmap, listing, needs_tools, same_file, three_checkpoints};
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const CHECKMAP: &str = env!("CARGO_BIN_EXE_checkmap");

/// An image whose bitmap is `bytes` long as raw.
fn long_bitmap(bytes: u64) -> TestImage {
    let image = TestImage::create("", &(bytes * 8 * 512).to_string());
    checkmap!("create", image.path, "mon", "--granularity", "512").ok();
    image
}

/// The program with the defaults of the signals that end it, also where the caller of the tests ignores them, as in
/// `nohup ./run-tests &`: what a process ignores its children ignore.
fn interruptible() -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,TERM,HUP", CHECKMAP]);
    command
}

fn raw_dump(image: &TestImage) -> Command {
    let mut command = interruptible();
    command.arg("dump").arg(&image.path).args(["--bitmap", "mon", "--format", "raw"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
}

fn stderr_of(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().expect("stderr is piped").read_to_string(&mut text).expect("messages are UTF-8");
    text
}

#[test]
fn an_output_file_is_written_whole_and_nothing_else_is_left() {
    needs_tools!();
    let image = three_checkpoints();
    let out = image.folder.path().join("map.json");
    let ran = checkmap!("diff", image.path, "--since", "mon", "--json", "-o", out);
    assert_eq!(ran.ok(), "", "the answer is in the file");
    let printed = checkmap!("diff", image.path, "--since", "mon", "--json");
    assert_eq!(fs::read(&out).unwrap(), printed.bytes());
    assert_eq!(listing(image.folder.path()), ["disk.qcow2", "map.json"]);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o600, 0o600);
}

#[test]
fn an_output_file_is_replaced_with_its_permissions_and_behind_a_link() {
    needs_tools!();
    let image = three_checkpoints();
    let (out, link) = (image.folder.path().join("map.csv"), image.folder.path().join("link"));
    fs::write(&out, "old").unwrap();
    fs::set_permissions(&out, Permissions::from_mode(0o640)).unwrap();
    symlink("map.csv", &link).unwrap();
    checkmap!("dump", image.path, "--bitmap", "mon", "--format", "csv", "-o", link).ok();
    assert_eq!(fs::read_to_string(&out).unwrap(), "start,length\n65536,65536\n");
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
}

#[test]
fn an_output_that_is_no_good_place_is_refused_before_the_work() {
    needs_tools!();
    let image = three_checkpoints();
    let before = fs::read(&image.path).unwrap();
    let to = |out: &std::path::Path| checkmap!("diff", image.path, "--since", "mon", "-o", out);
    to(&image.path).fails(2, "the image itself");
    let link = image.folder.path().join("same");
    fs::hard_link(&image.path, &link).unwrap();
    to(&link).fails(2, "the image itself");
    to(image.folder.path()).fails(2, "directory");
    to("/dev/null".as_ref()).fails(2, "regular file");
    let other = TestImage::create("", "1M");
    to(&other.path).fails(2, "disk image");
    to(&image.folder.path().join("absent/map")).fails(1, "No such file");
    assert!(same_file(&image.path, &before));
    let data = TestImage::create("data_file=here", "1M");
    checkmap!("create", data.path, "mon").ok();
    let raw = data.folder.path().join("disk.raw");
    checkmap!("diff", data.path, "--since", "mon", "-o", raw).fails(2, "its data file");
}

#[test]
fn no_file_of_any_layer_below_is_replaced() {
    needs_tools!();
    let folder = crate::support::folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("deep")).unwrap();
    let create = |args: &[&str]| {
        let mut create = Command::new("qemu-img");
        create.args(["create", "-q"]).args(args).current_dir(folder.path());
        assert!(create.status().unwrap().success(), "{args:?}");
    };
    // From the bottom up: a raw file, and images with a raw data file each.
    create(&["-f", "raw", "deep/bottom.raw", "1M"]);
    for (name, backing, format) in
        [("deep/third", "bottom.raw", "raw"), ("second", "deep/third", "qcow2"), ("first", "second", "qcow2")]
    {
        let data = format!("data_file={name}.data");
        create(&["-f", "qcow2", "-o", &data, "-b", backing, "-F", format, name]);
    }
    let image = at("first");
    checkmap!("create", image, "mon").ok();
    fs::hard_link(at("deep/bottom.raw"), at("hard")).unwrap();
    symlink("deep/third.data", at("soft")).unwrap();
    let parts =
        ["first.data", "second", "second.data", "deep/third", "deep/third.data", "deep/bottom.raw", "hard", "soft"];
    for part in parts {
        let before = fs::read(at(part)).unwrap();
        for verb in [&["diff", "--since", "mon", "--top-layer-only"][..], &["dump", "--bitmap", "mon"]] {
            let mut args = vec![verb[0].into(), image.clone().into_os_string(), "-o".into(), at(part).into_os_string()];
            args.extend(verb[1..].iter().map(Into::into));
            let ran = crate::Ran::of(crate::command(&args).current_dir(folder.path()).output().unwrap());
            ran.fails(2, "cannot be replaced: it is");
            let named =
                ["its data file", "its backing file", "the data file of", "the backing file of", "a disk image"];
            assert!(named.iter().any(|named| ran.stderr.contains(named)), "{part}: {}", ran.stderr);
        }
        assert!(fs::read(at(part)).unwrap() == before, "{part}");
    }
    checkmap!("dump", image, "--bitmap", "mon", "-o", at("new")).ok();
}

/// What makes the sync of a folder fail, as on a disk that is dying.
const NO_FOLDER_SYNC: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/stat.h>
int fsync(int fd) {
    struct stat file;
    if (fstat(fd, &file) == 0 && S_ISDIR(file.st_mode)) {
        errno = EIO;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return real(fd);
}
"#;

#[test]
fn a_failure_after_the_file_appeared_does_not_say_that_nothing_happened() {
    let folder = crate::support::folder();
    let (source, shim) = (folder.path().join("shim.c"), folder.path().join("shim.so"));
    fs::write(&source, NO_FOLDER_SYNC).unwrap();
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&shim).arg(&source).arg("-ldl").status().unwrap();
    assert!(built.success());
    let segment = folder.path().join("segment");
    let bitmap = checkmap::Bitmap::new(1 << 20, checkmap::Granularity::from_bytes(4096).unwrap()).unwrap();
    checkmap::segment::write(&bitmap, &mut File::create(&segment).unwrap()).unwrap();
    let out = folder.path().join("out");
    fs::write(&out, "old").unwrap();
    let mut merge =
        crate::command(&["segment".into(), "merge".into(), segment.clone().into(), "-o".into(), out.clone().into()]);
    let ran = crate::Ran::of(merge.env("LD_PRELOAD", &shim).output().unwrap());
    ran.fails(1, "the new content stands");
    assert!(ran.stderr.contains("could not be made durable: Input/output error"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("os error") && !ran.stderr.contains("nothing was changed"), "{}", ran.stderr);
    assert_eq!(fs::read(&out).unwrap(), fs::read(&segment).unwrap());
    assert_eq!(listing(folder.path()), ["out", "segment", "shim.c", "shim.so"]);
}

#[test]
fn a_failed_write_leaves_the_old_output_and_no_temporary_file() {
    needs_tools!();
    let image = long_bitmap(1 << 20);
    let out = image.folder.path().join("bits");
    fs::write(&out, "old").unwrap();
    // So that writing fails half-way, as on a full disk.
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$@\"";
    let ran = Command::new("sh")
        .args(["-c", script, "sh", CHECKMAP, "dump"])
        .arg(&image.path)
        .args(["--bitmap", "mon", "--format", "raw", "-o"])
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("cannot write to"));
    assert_eq!(fs::read_to_string(&out).unwrap(), "old");
    assert_eq!(listing(image.folder.path()), ["bits", "disk.qcow2"]);
}

#[test]
fn a_refused_diff_leaves_the_old_output() {
    needs_tools!();
    let image = three_checkpoints();
    let out = image.folder.path().join("map");
    fs::write(&out, "old").unwrap();
    checkmap!("diff", image.path, "--since", "sun", "-o", out).fails(3, "sun");
    assert_eq!(fs::read_to_string(&out).unwrap(), "old");
    assert_eq!(listing(image.folder.path()), ["disk.qcow2", "map"]);
}

#[test]
fn a_full_disk_behind_stdout_is_an_error() {
    needs_tools!();
    let image = three_checkpoints();
    for args in [&["info"][..], &["list", "--json"], &["diff", "--since", "mon"], &["create", "thu", "--dry-run"]] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let mut command = Command::new(CHECKMAP);
        command.arg(args[0]).arg(&image.path).args(&args[1..]).stdout(full);
        let ran = command.output().unwrap();
        assert_eq!(ran.status.code(), Some(1), "{args:?}");
        assert!(String::from_utf8_lossy(&ran.stderr).contains("cannot write to stdout"), "{args:?}");
    }
}

#[test]
fn a_reader_that_closes_the_pipe_ends_it_quietly() {
    needs_tools!();
    let image = long_bitmap(1 << 20);
    let mut child = raw_dump(&image).spawn().unwrap();
    let mut byte = [0];
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut byte).unwrap();
    drop(stdout);
    assert_eq!((child.wait().unwrap().code(), stderr_of(&mut child)), (Some(0), String::new()));
    for shell in ["completions bash", "man", "--help"] {
        let script = format!("'{CHECKMAP}' {shell} 2>&1 >&- | cat; '{CHECKMAP}' {shell} | true");
        let ran = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(!String::from_utf8_lossy(&ran.stderr).contains("panicked"), "{shell}");
    }
}

#[test]
fn a_closed_pipe_does_not_hide_what_check_found() {
    needs_tools!();
    let image = three_checkpoints();
    crate::poke(&image.path, 95, |_| 0);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = Command::new(CHECKMAP).arg("check").arg(&image.path).stdout(writer).output().unwrap();
    assert_eq!((ran.status.code(), ran.stderr.len()), (Some(1), 0));
}

#[test]
fn quiet_silences_messages_and_warnings_but_not_errors() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    let create = checkmap!("create", "--quiet", image.path, "mon");
    assert_eq!((create.ok(), create.stderr.as_str()), ("", ""));
    let delete = checkmap!("-q", "delete", image.path, "mon", "--progress=always");
    assert_eq!((delete.ok(), delete.stderr.as_str()), ("", ""), "not even that tracking ends");
    checkmap!("delete", "-q", image.path, "mon").fails(3, "no checkpoint");
}

#[test]
fn progress_is_shown_only_where_asked_for_and_only_on_stderr() {
    needs_tools!();
    let image = three_checkpoints();
    let diff = |progress: &str| checkmap!("diff", image.path, "--since", "mon", "--json", progress);
    assert_eq!(diff("--progress=auto").stderr, "", "stderr is no terminal");
    assert_eq!(diff("--progress=never").stderr, "");
    let shown = diff("--progress=always");
    shown.json();
    shown.says("step 1 of 2: looking at what is in use: 0%");
    shown.says("step 2 of 2: reading bitmaps: 100%");
    checkmap!("delete", image.path, "tue", "--progress=always").says("step 2 of 2: writing bitmaps: 100%");
    checkmap!("check", image.path, "--json", "--progress=always").json();
}

#[test]
fn json_is_the_only_thing_on_stdout() {
    needs_tools!();
    let image = three_checkpoints();
    crate::poke(&image.path, 95, |_| 0);
    for verb in ["info", "list"] {
        let ran = checkmap!(verb, image.path, "--json", "--progress=always");
        ran.json();
        ran.says("warning: ");
    }
}

#[test]
fn an_interrupted_diff_says_so_and_dies_by_the_signal() {
    needs_tools!();
    let image = long_bitmap(4 << 20);
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let mut child = raw_dump(&image).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        stdout.read_exact(&mut [0]).unwrap();
        signal(&child, name);
        // It has written as much as the pipe takes, and waits for us.
        stdout.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(number));
        assert_eq!(stderr_of(&mut child), "checkmap: interrupted; nothing was changed\n");
    }
}

#[test]
fn an_interrupted_output_file_leaves_nothing_behind() {
    needs_tools!();
    let image = long_bitmap(256 << 20);
    let mut command = raw_dump(&image);
    let mut child = command.arg("-o").arg(image.folder.path().join("bits")).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while listing(image.folder.path()).len() < 2 {
        assert!(Instant::now() < deadline, "no temporary file came");
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(&child, "TERM");
    assert_eq!(child.wait().unwrap().signal(), Some(15));
    assert_eq!(stderr_of(&mut child), "checkmap: interrupted; nothing was changed\n");
    assert_eq!(listing(image.folder.path()), ["disk.qcow2"]);
}

#[test]
fn a_signal_that_the_caller_ignores_stays_ignored() {
    needs_tools!();
    let image = long_bitmap(1 << 20);
    let script = "trap '' HUP; exec \"$@\"";
    let mut child = Command::new("sh")
        .args(["-c", script, "sh", CHECKMAP, "dump"])
        .arg(&image.path)
        .args(["--bitmap", "mon", "--format", "raw"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0]).unwrap();
    signal(&child, "HUP");
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.len()), (Some(0), (1 << 20) - 1));
}

#[test]
fn the_tests_of_signals_pass_where_the_caller_ignores_them() {
    needs_tools!();
    let mut tests = Command::new("sh");
    tests.args(["-c", "trap '' INT TERM HUP; exec \"$@\"", "sh"]).arg(std::env::current_exe().unwrap());
    tests.args(["an_interrupted_", "a_signal_"]);
    let ran = tests.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("test result: ok. 5 passed"), "{said}");
}

#[test]
fn a_signal_during_a_change_leaves_all_of_it_or_nothing() {
    needs_tools!();
    let image = long_bitmap(4 << 20);
    checkmap!("create", image.path, "tue").ok();
    image.io(&(0..64_u64).map(|at| format!("write {} 512", at * (200 << 20))).collect::<Vec<_>>());
    checkmap!("create", image.path, "wed").ok();
    let before = fs::read(&image.path).unwrap();
    for delay in (0..14_000).step_by(800) {
        fs::write(&image.path, &before).unwrap();
        let mut command = interruptible();
        command.arg("delete").arg(&image.path).arg("tue").stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_micros(delay));
        signal(&child, "INT");
        let status = child.wait().unwrap();
        let said = stderr_of(&mut child);
        let deleted = match (status.code(), status.signal()) {
            (Some(0), None) => true,
            (None, Some(2)) => false,
            other => panic!("{other:?}: {said}"),
        };
        let expected: &[&str] = if deleted { &["mon", "+mon->wed"] } else { &["mon", "mon->tue", "+tue->wed"] };
        assert_eq!(crate::bitmaps(&image), expected, "after {delay} microseconds: {said}");
        image.assert_clean("the signal");
        // Free clusters may hold bytes written before the signal; nothing refers to them.
        let len_bytes = fs::metadata(&image.path).unwrap().len();
        assert!(deleted || len_bytes == before.len() as u64, "the file grew to {len_bytes}");
    }
}
