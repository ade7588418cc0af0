//! fleet: a verb on each disk of a manifest, as a script sees it; with disks that fail, signals, and runs that go on where another one stopped.

use crate::support::TestImage;
use crate::{Holder, Ran, checkmap, command, extents, listing, mark_inconsistent, needs_tools, same_file};
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const CHECKMAP: &str = env!("CARGO_BIN_EXE_checkmap");

/// A folder with images `a`, `b` and so on, each with the checkpoint mon; the nth has n granules changed since then.
struct Fleet {
    folder: TempDir,
}

impl Fleet {
    fn of(images: u64) -> Self {
        let first = TestImage::create("", "8M");
        checkmap!("create", first.path, "mon").ok();
        let folder = crate::support::folder();
        for (number, name) in (0..images).zip('a'..) {
            let path = folder.path().join(name.to_string());
            fs::copy(&first.path, &path).unwrap();
            crate::support::qemu_io(&path, &[format!("write 1M {}", (number + 1) * 65536)]);
        }
        let fleet = Self { folder };
        let names = ('a'..).take(usize::try_from(images).unwrap());
        fleet.list(json!(names.map(|name| json!({"disk": name, "image": name, "since": "mon"})).collect::<Vec<_>>()));
        fleet
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the manifest.
    fn list(&self, disks: Value) {
        fs::write(self.at("fleet.json"), json!({ "disks": disks }).to_string()).unwrap();
    }

    /// The command on the manifest, with `options` of the fleet.
    fn command(&self, options: &[&str], verb: &[&str]) -> Command {
        let mut args: Vec<OsString> = vec!["fleet".into()];
        args.extend(options.iter().map(Into::into));
        args.push(self.at("fleet.json").into());
        args.extend(verb.iter().map(Into::into));
        let mut command = command(&args);
        command.current_dir(self.folder.path());
        command
    }

    fn run(&self, options: &[&str], verb: &[&str]) -> Ran {
        Ran::of(self.command(options, verb).output().unwrap())
    }

    /// The document, the exit status, and for each disk its outcome.
    fn json(&self, options: &[&str], verb: &[&str]) -> (Value, Option<i32>, Vec<(String, String)>) {
        let ran = self.run(&[&["--json"], options].concat(), verb);
        let document: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr));
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let rows = document["disks"].as_array().expect("disks").iter();
        let mut rows: Vec<_> = rows.map(|row| (text(&row["disk"]), text(&row["status"]))).collect();
        rows.sort();
        (document, ran.status, rows)
    }

    fn names(&self, image: &str) -> Vec<String> {
        let list = checkmap!("list", self.at(image), "--json").json();
        list.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    }
}

fn row<'a>(document: &'a Value, disk: &str) -> &'a Value {
    document["disks"].as_array().unwrap().iter().find(|row| row["disk"] == disk).expect("the disk")
}

fn owned(rows: &[(&str, &str)]) -> Vec<(String, String)> {
    rows.iter().map(|(disk, status)| ((*disk).to_owned(), (*status).to_owned())).collect()
}

#[test]
fn each_disk_gives_its_answer() {
    needs_tools!();
    let fleet = Fleet::of(3);
    let (document, status, rows) = fleet.json(&[], &["diff"]);
    assert_eq!((status, rows), (Some(0), owned(&[("a", "done"), ("b", "done"), ("c", "done")])));
    for (number, disk) in (1..).zip(["a", "b", "c"]) {
        let row = row(&document, disk);
        assert_eq!(extents(&row["result"]), [(1 << 20, number * 65536)]);
        assert_eq!((&row["exit_status"], &row["message"]), (&json!(0), &Value::Null));
        assert!(row["seconds"].as_f64().unwrap() > 0.0);
    }
    let sums = ["done", "failed", "left_out", "not_begun", "done_before"].map(|key| document[key].as_u64().unwrap());
    assert_eq!(sums, [3, 0, 0, 0, 0]);
    // --json behind the verb is the same; for people the name of each disk stands above its answer.
    let behind = fleet.run(&[], &["diff", "--json"]).json();
    assert_eq!(row(&behind, "b")["result"], row(&document, "b")["result"]);
    let ran = fleet.run(&["--jobs", "1"], &["diff", "--summary"]);
    let lines: Vec<&str> = ran.ok().lines().collect();
    assert_eq!((lines[0], lines[3], lines[6], lines.len()), ("a:", "b:", "c:", 10), "{lines:?}");
    assert!(lines[4].starts_with("changed since 'mon': 1 extent, 128 KiB of 8 MiB"), "{lines:?}");
    assert!(lines[9].starts_with("3 disks: 3 done; "), "{lines:?}");
    assert_eq!(ran.stderr, "");
    let wide = fleet.run(&["--wide", "--jobs", "2"], &["check"]);
    assert!(wide.ok().contains("\nDISK  OUTCOME  STATUS  SECONDS  MESSAGE\n"), "{}", wide.ok());
    for verb in [&["info"][..], &["list"], &["check"], &["plan"], &["map"], &["trend"], &["doctor"]] {
        let (document, status, _) = fleet.json(&[], verb);
        assert_eq!(status, Some(0), "{verb:?}");
        assert!(!row(&document, "a")["result"].is_null(), "{verb:?}");
    }
}

#[test]
fn the_command_line_says_since_unless_the_entry_does() {
    needs_tools!();
    let fleet = Fleet::of(2);
    fleet.run(&[], &["create", "tue", "--model", "interval"]).ok();
    assert_eq!(fleet.names("b"), ["mon", "tue"]);
    let changed = |verb: &[&str]| fleet.json(&[], verb).0["disks"][0]["result"]["dirty_bytes"].clone();
    assert_eq!((changed(&["diff", "--since", "tue"]), changed(&["diff", "--since=tue"])), (json!(0), json!(0)));
    assert_ne!(changed(&["diff"]), json!(0));
    fleet.list(json!([{"disk": "a", "image": "a", "since": "mon"}, {"disk": "b", "image": "b"}]));
    fleet.run(&[], &["diff"]).fails(2, "the disk 'b' has no \"since\" in the manifest (1 such disk in all)");
    fleet.run(&[], &["diff", "--since", "mon"]).ok();
    fleet.run(&[], &["list"]).ok();
}

#[test]
fn a_folder_gets_a_file_for_each_disk() {
    needs_tools!();
    let fleet = Fleet::of(2);
    let odd = "../b disk:%";
    fleet.list(json!([{"disk": "a", "image": "a", "since": "mon"}, {"disk": odd, "image": "b", "since": "mon"}]));
    let ran = fleet.run(&[], &["diff", "--format", "parquet", "-o", "changes"]);
    assert!(ran.ok().starts_with("2 disks: 2 done; "), "{}", ran.ok());
    assert_eq!(listing(&fleet.at("changes")), ["%2E.%2Fb%20disk%3A%25.parquet", "a.parquet"]);
    for (disk, file, length) in [("a", "a.parquet", 65536), (odd, "%2E.%2Fb%20disk%3A%25.parquet", 131_072)] {
        let file = SerializedFileReader::new(File::open(fleet.at("changes").join(file)).unwrap()).unwrap();
        let rows: Vec<_> = file.get_row_iter(None).unwrap().map(|row| row.unwrap().into_columns()).collect();
        assert_eq!((rows.len(), rows[0][0].1.to_string()), (1, format!("{disk:?}")));
        assert_eq!(rows[0][4].1.to_string(), length.to_string());
    }
    for (verb, end) in [
        (&["diff", "--format=csv", "-ofiles"][..], "csv"),
        (&["dump", "--bitmap", "mon", "--output=files"], "txt"),
        (&["diff", "--json", "-o", "files"], "json"),
        (&["map", "-o", "files"], "svg"),
        (&["trend", "--format", "text", "-o", "files"], "txt"),
        (&["diff", "--format", "parquet-roaring", "-o", "files"], "roaring.parquet"),
    ] {
        fleet.run(&[], verb).ok();
        let file = fleet.at("files").join(format!("a.{end}"));
        assert!(fs::metadata(&file).is_ok_and(|file| file.len() > 0), "{verb:?}");
        fs::remove_dir_all(fleet.at("files")).unwrap();
    }
    // A backup directory for each disk, which has the name of the manifest in it.
    fleet.run(&[], &["backup", "-o", "backup", "--checkpoint", "tue"]).ok();
    let listed = checkmap!("list", fleet.at("backup").join("a"), "--json").json();
    assert_eq!(
        (&listed["disks"][0]["disk"], &listed["disks"][0]["backups"][0]["checkpoint"]),
        (&json!("a"), &json!("tue"))
    );
    let listed = checkmap!("list", fleet.at("backup").join("%2E.%2Fb%20disk%3A%25"), "--json").json();
    assert_eq!(listed["disks"][0]["disk"], odd);
}

#[test]
fn places_that_are_no_good_are_refused_before_anything_runs() {
    needs_tools!();
    let fleet = Fleet::of(2);
    fleet.list(json!([{"disk": "Disk", "image": "a", "since": "mon"}, {"disk": "disk", "image": "b", "since": "mon"}]));
    fleet.run(&[], &["diff", "-o", "out"]).fails(2, "the disks 'Disk' and 'disk' would have one file");
    assert!(!fleet.at("out").exists());
    fleet.run(&[], &["diff"]).ok();
    fleet.list(json!([{"disk": "a", "image": "a", "since": "mon"}]));
    fleet.run(&[], &["diff", "-o", "/proc"]).fails(1, "answers cannot be written there");
    fleet.run(&[], &["diff", "-o", "a"]).fails(1, "answers cannot be written there");
    fleet.run(&[], &["diff", "-o", "absent/out"]).fails(1, "No such file");
    fleet.run(&[], &["diff", "-o", "-"]).fails(2, "has no -o");
    fleet.run(&[], &["list", "-o", "out"]).fails(2, "-o");
    fleet.run(&[], &["backup"]).fails(2, "give -o DIR");
}

#[test]
fn a_manifest_that_is_wrong_is_refused_in_words() {
    let fleet = Fleet { folder: crate::support::folder() };
    fleet.run(&[], &["list"]).fails(2, "the manifest cannot be read: No such file");
    for (text, says) in [
        ("{\"disks\": [", "line 1 column 11"),
        ("no JSON", "expected ident at line 1"),
        ("{\"disks\": []} more", "trailing characters"),
        ("[]", "an object with the key \"disks\""),
        (r#"{"disks": [{"disk": "a", "image": "a", "imag": "b"}]}"#, "disk number 1 (\"a\"): unknown key \"imag\""),
        (r#"{"disks": [{"disk": "a"}]}"#, "one of \"image\", \"qmp\" and \"libvirt\" is missing"),
        (r#"{"disks": [{"disk": "a", "image": "a", "qmp": "b"}]}"#, "only one of"),
        (r#"{"disks": [{"disk": "a", "image": "a"}, {"disk": "a", "image": "b"}]}"#, "two entries have the disk \"a\""),
    ] {
        fs::write(fleet.at("fleet.json"), text).unwrap();
        let ran = fleet.run(&[], &["list"]);
        ran.fails(2, says);
        assert!(ran.stderr.contains("fleet.json"), "{}", ran.stderr);
    }
    fs::remove_file(fleet.at("fleet.json")).unwrap();
    fs::create_dir(fleet.at("fleet.json")).unwrap();
    fleet.run(&[], &["list"]).fails(2, "Is a directory");
}

#[test]
fn an_empty_fleet_is_done() {
    let fleet = Fleet { folder: crate::support::folder() };
    fleet.list(json!([]));
    assert!(fleet.run(&[], &["create", "mon"]).ok().starts_with("0 disks; "));
    let (document, status, rows) = fleet.json(&["--state", "state"], &["list"]);
    assert_eq!((status, rows.len(), &document["done"]), (Some(0), 0, &json!(0)));
    // The arguments are read all the same.
    fleet.run(&[], &["serve"]).fails(2, "'serve' cannot run on a fleet; these can: info, list");
    fleet.run(&[], &["list", "--nonsense"]).fails(2, "the arguments of the verb: unexpected argument '--nonsense'");
}

#[test]
fn arguments_of_the_verb_are_refused_before_anything_runs() {
    needs_tools!();
    let fleet = Fleet::of(1);
    for (verb, says) in [
        (&["create", "bad->name", "--model", "none"][..], "invalid value 'none'"),
        (&["create"], "not provided"),
        (&["diff", "--qmp", "/run/x"], "--qmp"),
        (&["diff", "--node", "vda"], "--node belongs to one disk"),
        (&["create", "tue", "--also", "b"], "--also belongs to one disk"),
        (&["plan", "b"], "a further image belongs to one disk"),
        (&["diff", "--disk", "x", "--format", "parquet"], "--disk belongs to one disk"),
        (&["diff", "--json", "--format", "csv"], "contradict"),
        (&["list", "--dry-run"], "'list' changes nothing"),
        (&["list", "--help"], "checkmap VERB --help"),
        (&["fleet"], "'fleet' cannot run on a fleet"),
    ] {
        fleet.run(&[], verb).fails(2, says);
    }
    fleet.run(&["--dry-run"], &["info"]).fails(2, "'info' changes nothing");
    fleet.run(&["--wide"], &["info", "--json"]).fails(2, "--wide");
    fleet.run(&["--jobs", "0"], &["info"]).fails(2, "--jobs");
    assert_eq!(fleet.names("a"), ["mon"]);
}

#[test]
fn one_disk_under_two_names_is_read_and_never_changed() {
    needs_tools!();
    let fleet = Fleet::of(1);
    fs::hard_link(fleet.at("a"), fleet.at("hard")).unwrap();
    symlink("a", fleet.at("soft")).unwrap();
    let before = fs::read(fleet.at("a")).unwrap();
    for other in ["a", "./a", "hard", "soft"] {
        fleet.list(json!([{"disk": "x", "image": "a", "since": "mon"}, {"disk": "y", "image": other, "since": "mon"}]));
        for verb in [&["create", "tue"][..], &["doctor", "--repair"], &["backup", "-o", "out"]] {
            fleet.run(&[], verb).fails(2, "'x' and 'y' are the same disk, which would be changed twice");
        }
        fleet.run(&["--jobs", "1"], &["diff"]).ok();
        fleet.run(&["--jobs", "1"], &["doctor"]).ok();
        fleet.run(&["--jobs", "1", "--dry-run"], &["create", "tue"]).ok();
    }
    // A machine is all its disks.
    fs::write(fleet.at("socket"), "").unwrap();
    let of = |disk: &str, node: Option<&str>| match node {
        Some(node) => json!({"disk": disk, "qmp": "socket", "node": node}),
        None => json!({"disk": disk, "qmp": "socket"}),
    };
    for (x, y) in [(None, Some("vda")), (Some("vda"), None), (None, None), (Some("vda"), Some("vda"))] {
        fleet.list(json!([of("x", x), of("y", y)]));
        fleet.run(&[], &["create", "tue"]).fails(2, "'x' and 'y' are the same disk");
    }
    fleet.list(json!([of("x", Some("vda")), of("y", Some("vdb"))]));
    assert_eq!(fleet.json(&[], &["create", "tue"]).1, Some(1), "no monitor is there");
    assert!(same_file(&fleet.at("a"), &before) && !fleet.at("out").exists());
}

#[test]
fn disks_of_other_hosts_are_left_out_and_named() {
    needs_tools!();
    let fleet = Fleet::of(3);
    fleet.list(json!([
        {"disk": "a", "image": "a", "host": "node1"},
        {"disk": "b", "image": "b", "host": "node2"},
        {"disk": "c", "image": "c"},
    ]));
    let (document, status, rows) = fleet.json(&["--host", "node2"], &["create", "tue", "--model", "interval"]);
    assert_eq!((status, rows), (Some(0), owned(&[("a", "left-out"), ("b", "done"), ("c", "done")])));
    assert_eq!(row(&document, "a")["message"], "it is of the host 'node1'");
    assert_eq!(["a", "b", "c"].map(|image| fleet.names(image).len()), [1, 2, 2]);
    let ran = fleet.run(&["--host", "node2"], &["list"]);
    assert!(ran.ok().contains("3 disks: 2 done, 1 of other hosts left out; "), "{}", ran.ok());
    // The name of the system, where the command line has none.
    let own = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    fleet.list(json!([{"disk": "a", "image": "a", "host": own.trim()}, {"disk": "b", "image": "b", "host": "node2"}]));
    assert_eq!(fleet.json(&[], &["list"]).2, owned(&[("a", "done"), ("b", "left-out")]));
    // Where no disk is of this host, its name is in doubt.
    fleet.list(json!([{"disk": "a", "image": "a", "host": "node1"}]));
    fleet.run(&["--host", "node9"], &["list"]).fails(3, "no disk is of this host, 'node9': all 1 are of others");
}

#[test]
fn a_disk_that_fails_spoils_no_other() {
    needs_tools!();
    let fleet = Fleet::of(4);
    fleet.run(&[], &["create", "tue", "--model", "interval"]).ok();
    mark_inconsistent(&fleet.at("b"), b"mon->tue");
    let _holder = Holder::open(&fleet.at("c"), &[]);
    let mut disks: Vec<Value> =
        ["a", "b", "c", "absent", "d"].iter().map(|name| json!({"disk": name, "image": name})).collect();
    disks.push(json!({"disk": "socket", "qmp": "no-socket", "node": "vda"}));
    fleet.list(json!(disks));
    let (document, status, rows) = fleet.json(&[], &["create", "wed"]);
    let failed = ["absent", "b", "c", "socket"];
    let expected: Vec<_> = ["a", "absent", "b", "c", "d", "socket"]
        .map(|disk| (disk, if failed.contains(&disk) { "failed" } else { "done" }))
        .to_vec();
    assert_eq!((status, rows), (Some(1), owned(&expected)));
    for (disk, exit_status, says) in
        [("absent", 1, "No such file"), ("b", 3, "inconsistent"), ("c", 3, "has it open"), ("socket", 1, "no-socket")]
    {
        let row = row(&document, disk);
        assert_eq!(row["exit_status"], exit_status, "{row}");
        assert!(row["message"].as_str().unwrap().contains(says), "{row}");
    }
    assert_eq!((fleet.names("a").len(), fleet.names("d").len()), (3, 3));
    let ran = fleet.run(&[], &["create", "thu", "-q"]);
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.stderr.contains("the disk 'absent': ") && ran.stderr.ends_with("4 of 6 disks not done\n"),
        "{}",
        ran.stderr
    );
    let table = String::from_utf8(ran.stdout).unwrap();
    assert!(table.starts_with("DISK") && table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert!(
        !table.contains("\na ") && table.contains("\nabsent") && table.contains("6 disks: 2 done, 4 failed;"),
        "{table}"
    );
}

/// A monitor that never greets, so that a verb waits for it until it is stopped.
fn silent_monitor(fleet: &Fleet) -> UnixListener {
    UnixListener::bind(fleet.at("silent")).unwrap()
}

/// Starts the fleet with the defaults of the signals that end it, also where the caller of the tests ignores them.
fn start(fleet: &Fleet, options: &[&str], verb: &[&str]) -> Child {
    let inner = fleet.command(options, verb);
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,TERM,HUP", CHECKMAP]).args(inner.get_args()).current_dir(fleet.folder.path());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The process that the fleet runs for a disk.
fn process_of_disk(fleet: &Child) -> u32 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let tasks = fs::read_dir(format!("/proc/{}/task", fleet.id())).unwrap();
        let children = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("children")).ok());
        let all: String = children.collect();
        let running = all.split_whitespace().map(|pid| pid.parse().unwrap()).find(|pid: &u32| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(6).any(|part| part == b"silent"))
        });
        if let Some(pid) = running {
            return pid;
        }
        assert!(Instant::now() < deadline, "no process of the disk came");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn kill(signal: &str, pid: u32) {
    assert!(Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap().success());
}

#[test]
fn a_disk_whose_process_is_killed_has_failed() {
    needs_tools!();
    let fleet = Fleet::of(2);
    fleet.list(json!([
        {"disk": "silent", "qmp": "silent", "node": "x"}, {"disk": "a", "image": "a"}, {"disk": "b", "image": "b"},
    ]));
    let monitor = silent_monitor(&fleet);
    let child = start(&fleet, &["--json", "--jobs", "1"], &["list"]);
    let connection = monitor.accept().unwrap();
    kill("KILL", process_of_disk(&child));
    let ran = child.wait_with_output().unwrap();
    drop(connection);
    let document: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let silent = row(&document, "silent");
    assert_eq!(
        (ran.status.code(), &silent["status"], &silent["exit_status"]),
        (Some(1), &json!("failed"), &json!(137))
    );
    assert_eq!(silent["message"], "it was ended by signal 9");
    assert_eq!(document["done"], 2);
}

#[test]
fn a_signal_lets_no_further_disk_begin_and_the_state_goes_on_from_there() {
    needs_tools!();
    let fleet = Fleet::of(3);
    let manifest = json!([
        {"disk": "a", "image": "a"}, {"disk": "silent", "qmp": "silent", "node": "x"},
        {"disk": "b", "image": "b"}, {"disk": "c", "image": "c"},
    ]);
    fleet.list(manifest);
    let monitor = silent_monitor(&fleet);
    let options = ["--jobs", "1", "--state", "state", "--json"];
    let child = start(&fleet, &options, &["create", "tue", "--model", "interval"]);
    let connection = monitor.accept().unwrap();
    let disk = process_of_disk(&child);
    // Another run with the same state is refused meanwhile.
    fleet
        .run(&options, &["create", "tue", "--model", "interval"])
        .fails(3, "another run of a fleet keeps its state there");
    kill("INT", child.id());
    let ran = child.wait_with_output().unwrap();
    assert_eq!(ran.status.signal(), Some(2), "{}", String::from_utf8_lossy(&ran.stderr));
    assert!(!Path::new(&format!("/proc/{disk}")).exists(), "it was waited for");
    assert!(String::from_utf8_lossy(&ran.stderr).ends_with("interrupted: 2 disks not begun\n"));
    let document: Value = serde_json::from_slice(&ran.stdout).unwrap();
    let status = |disk: &str| row(&document, disk)["status"].as_str().unwrap().to_owned();
    assert_eq!(["a", "silent", "b", "c"].map(status), ["done", "failed", "not-begun", "not-begun"]);
    assert_eq!(["a", "b", "c"].map(|image| fleet.names(image).len()), [2, 1, 1]);
    // The same command goes on.
    drop((monitor, connection));
    let (_, status, rows) = fleet.json(&options[..4], &["create", "tue", "--model", "interval"]);
    let expected = [("a", "done-before"), ("b", "done"), ("c", "done"), ("silent", "failed")];
    assert_eq!((status, rows), (Some(1), owned(&expected)));
    assert_eq!(["a", "b", "c"].map(|image| fleet.names(image).len()), [2, 2, 2]);
}

#[test]
fn a_state_goes_on_after_a_half_written_line_and_refuses_what_is_not_its_own() {
    needs_tools!();
    let fleet = Fleet::of(2);
    let verb = ["create", "tue", "--model", "interval"];
    let run = |options: &[&str], verb: &[&str]| fleet.json(&[&["--state", "state"], options].concat(), verb);
    assert_eq!(run(&["--jobs", "1"], &verb).1, Some(0));
    let whole = fs::read(fleet.at("state")).unwrap();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 3);
    let done = run(&[], &verb);
    assert_eq!((done.1, done.2), (Some(0), owned(&[("a", "done-before"), ("b", "done-before")])));
    // How the answers are told is no part of the command.
    fleet.run(&["--state", "state", "-q"], &verb).ok();
    assert_eq!(fs::read(fleet.at("state")).unwrap(), whole);
    // Killed at any byte of the last line, and of the first one.
    let last = lines[0].len() + lines[1].len();
    for (cut, expected) in [(last, 1), (last + 1, 1), (whole.len() - 1, 1), (lines[0].len() - 1, 0), (1, 0), (0, 0)] {
        fs::write(fleet.at("state"), &whole[..cut]).unwrap();
        let (document, status, _) = run(&["--jobs", "1"], &verb);
        // A disk whose line is lost is run again: its checkpoint is there.
        assert_eq!((status, document["done_before"].as_u64()), (Some(1), Some(expected)), "cut at {cut}");
        assert!(fs::read(fleet.at("state")).unwrap().starts_with(lines[0]));
    }
    fs::write(fleet.at("state"), &whole).unwrap();
    // Another verb, other arguments, another manifest.
    for other in [&["list"][..], &["create", "tue"], &["create", "wed", "--model", "interval"]] {
        fleet.run(&["--state", "state"], other).fails(2, "it is the state of another command");
    }
    fleet.list(json!([{"disk": "a", "image": "a"}]));
    fleet.run(&["--state", "state"], &verb).fails(2, "it is the state of another command");
    assert_eq!(fs::read(fleet.at("state")).unwrap(), whole);
    // Files of others stay as they are.
    let image = fs::read(fleet.at("a")).unwrap();
    fleet.run(&["--state", "a"], &["list"]).fails(2, "it is no state of a fleet");
    assert!(same_file(&fleet.at("a"), &image));
    for text in ["notes\nmore\n", "notes", "\n"] {
        fs::write(fleet.at("other"), text).unwrap();
        fleet.run(&["--state", "other"], &["list"]).fails(2, "it is no state of a fleet");
        assert_eq!(fs::read_to_string(fleet.at("other")).unwrap(), text);
    }
    fleet.run(&["--state", "/dev/null"], &["list"]).fails(2, "no regular file");
    fleet.run(&["--state", "absent/state"], &["list"]).fails(1, "No such file");
    // Damage in the middle is no half-written line.
    fs::remove_file(fleet.at("state")).unwrap();
    fleet.run(&["--state", "state"], &["list"]).ok();
    let mut bytes = fs::read(fleet.at("state")).unwrap();
    bytes.extend(b"{}\n");
    fs::write(fleet.at("state"), &bytes).unwrap();
    fleet.run(&["--state", "state"], &["list"]).fails(1, "line 3 does not say how a disk ended");
}

#[test]
fn what_failed_is_run_again() {
    needs_tools!();
    let fleet = Fleet::of(2);
    fs::rename(fleet.at("b"), fleet.at("away")).unwrap();
    let verb = ["create", "tue", "--model", "interval"];
    assert_eq!(fleet.json(&["--state", "state"], &verb).2, owned(&[("a", "done"), ("b", "failed")]));
    fs::rename(fleet.at("away"), fleet.at("b")).unwrap();
    assert_eq!(fleet.json(&["--state", "state"], &verb).2, owned(&[("a", "done-before"), ("b", "done")]));
    assert_eq!(fleet.json(&["--state", "state"], &verb).2, owned(&[("a", "done-before"), ("b", "done-before")]));
    assert_eq!(fleet.names("a"), ["mon", "tue"]);
}

#[test]
fn an_answer_that_never_ends_fills_no_memory() {
    needs_tools!();
    // Of 17 MiB as raw.
    let image = TestImage::create("", &(17_u64 << 20 << 12).to_string());
    checkmap!("create", image.path, "mon", "--granularity", "512").ok();
    let fleet = Fleet::of(1);
    fleet.list(json!([{"disk": "large", "image": image.path}, {"disk": "a", "image": "a"}]));
    let verb = ["dump", "--bitmap", "mon", "--format", "raw"];
    let (document, status, rows) = fleet.json(&[], &[&verb[..], &["-o", "raw"]].concat());
    assert_eq!((status, rows, &document["failed"]), (Some(0), owned(&[("a", "done"), ("large", "done")]), &json!(0)));
    fleet.run(&[], &verb).fails(2, "would run into one another: give a folder with -o DIR");
    fleet.list(json!([{"disk": "large", "image": image.path}]));
    let ran = fleet.run(&[], &verb);
    assert_eq!(ran.status, Some(1));
    assert!(
        ran.stderr.contains("the disk 'large': its answer is longer than 16 MiB: let it go to a file"),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.len() < 1 << 20);
}

#[test]
fn output_that_nobody_can_take_is_no_success() {
    needs_tools!();
    let fleet = Fleet::of(2);
    let full = File::options().write(true).open("/dev/full").unwrap();
    let ran = fleet.command(&[], &["list"]).stdout(full).output().unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("cannot write to stdout"));
    // A change goes on where its reader went away.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = fleet.command(&[], &["create", "tue", "--model", "interval"]).stdout(writer).output().unwrap();
    assert_eq!((ran.status.code(), fleet.names("a").len(), fleet.names("b").len()), (Some(0), 2, 2));
    // So does what goes to files; an answer that nobody reads ends quietly.
    for verb in [&["diff", "-o", "answers"][..], &["list"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ran = fleet.command(&["--jobs", "1"], verb).stdout(writer).output().unwrap();
        assert_eq!((ran.status.code(), String::from_utf8_lossy(&ran.stderr).as_ref()), (Some(0), ""), "{verb:?}");
    }
    assert_eq!(fs::read_dir(fleet.at("answers")).unwrap().count(), 2);
}

#[test]
fn progress_counts_disks() {
    needs_tools!();
    let fleet = Fleet::of(2);
    let ran = fleet.run(&["--progress", "always", "--json"], &["list"]);
    ran.json();
    assert_eq!(ran.stderr, "checkmap: disks: 50%\ncheckmap: disks: 100%\n");
}

#[test]
fn a_state_is_of_one_folder_as_relative_paths_are() {
    let (ours, theirs) = (Fleet::of(1), Fleet::of(1));
    let state = ours.at("state");
    let options = ["--state", state.to_str().unwrap()];
    ours.run(&options, &["create", "tue"]).ok();
    theirs.run(&options, &["create", "tue"]).fails(2, "it is the state of another command");
    assert_eq!(fs::read(ours.at("fleet.json")).unwrap(), fs::read(theirs.at("fleet.json")).unwrap());
    theirs.run(&[], &["create", "tue"]).ok();
}

#[test]
fn a_flag_that_is_a_name_is_not_taken_for_the_flag() {
    let fleet = Fleet::of(1);
    let before = fs::read(fleet.at("a")).unwrap();
    for verb in [
        &["delete", "mon", "--", "--dry-run"][..],
        &["delete", "--dry-run", "--", "mon", "--dry-run"],
        &["delete", "mon", "--", "--json"],
    ] {
        fleet.run(&[], verb).fails(2, "stands there where it is no option");
    }
    assert_eq!(fs::read(fleet.at("a")).unwrap(), before);
    fleet.run(&[], &["delete", "--dry-run", "--", "mon"]).ok();
    assert_eq!(fs::read(fleet.at("a")).unwrap(), before);
}

#[test]
fn a_long_line_of_a_state_cuts_nothing_off() {
    let fleet = Fleet::of(1);
    fleet.run(&["--state", "state"], &["list"]).ok();
    let mut bytes = fs::read(fleet.at("state")).unwrap();
    let first = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    bytes.splice(first..first, [&vec![b'x'; 2 << 20][..], b"\n"].concat());
    fs::write(fleet.at("state"), &bytes).unwrap();
    fleet.run(&["--state", "state"], &["list"]).fails(1, "line 2 is longer than 1024 KiB");
    assert_eq!(fs::read(fleet.at("state")).unwrap(), bytes);
    fleet.list(json!([{"disk": "n".repeat(20_000), "image": "a"}]));
    fleet.run(&[], &["list"]).fails(2, "\"disk\" has 20000 bytes");
}
