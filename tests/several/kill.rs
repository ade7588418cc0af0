//! The step, killed at each of its system calls.

use super::support::trace::strace_works;
use super::{Machine, PROGRAM, assert_done, checkmap, support, text};
use checkmap::Extent;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

/// Every call that changes a file, its name or the durable state; strace counts each by itself.
const CALLS: [&str; 7] = ["pwrite64", "fdatasync", "fsync", "write", "rename", "linkat", "unlink"];

/// Runs a verb that dies before its call number `number`; false where it ended before that.
fn killed(call: &str, number: usize, words: &[String]) -> bool {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")]);
    strace.args(["-e", &format!("inject={call}:signal=SIGKILL:when={number}"), PROGRAM]).args(words);
    let output = strace.output().expect("strace runs");
    let is_killed = output.status.signal() == Some(9) || output.status.code() == Some(137);
    assert!(is_killed || output.status.success(), "{call} {number}: {output:?}");
    is_killed
}

/// What happens between the kill and the next verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Nothing,
    /// QEMU opens this disk, writes, and closes it.
    Write(usize),
    /// An overlay is committed into this disk, which QEMU opens for reading, and reopens for writing. After that, it writes to the others
    /// where `others` says so.
    Commit {
        disk: usize,
        others: bool,
    },
}

impl Between {
    fn happen(self, machine: &mut Machine) {
        let extent = Extent { offset: 9 << 20, len_bytes: super::GRANULE };
        match self {
            Between::Nothing => {}
            Between::Write(disk) => machine.disks[disk].write(extent),
            Between::Commit { disk, others } => {
                commit_an_overlay(machine, disk, Extent { offset: 11 << 20, len_bytes: 2 * super::GRANULE });
                let rest = machine.disks.iter_mut().enumerate().filter(|(other, _)| others && *other != disk);
                rest.for_each(|(_, other)| other.write(extent));
            }
        }
    }
}

fn commit_an_overlay(machine: &mut Machine, disk: usize, extent: Extent) {
    let overlay = machine.folder.path().join("overlay.qcow2");
    let disk = &mut machine.disks[disk];
    let base = text(&disk.path);
    support::run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", &text(&overlay)]);
    support::qemu_io(&overlay, &[format!("write -P 5 {} {}", extent.offset, extent.len_bytes)]);
    support::run("qemu-img", &["commit", "-q", &text(&overlay)]);
    std::fs::remove_file(&overlay).expect("it is there");
    disk.written = support::ours::union(&disk.written, &[extent]);
}

/// Whether QEMU sees an image without bitmaps: the lowest of the autoclear bits says that they count.
fn bitmaps_are_off(path: &std::path::Path) -> bool {
    std::fs::read(path).expect("the image can be read")[95] & 1 == 0
}

#[derive(Default)]
struct Tally {
    kills: usize,
    none: usize,
    all: usize,
    found: usize,
    /// The kills that left a disk, whose bitmaps counted before, with bitmaps that do not, before all had switched.
    off: usize,
}

/// What a dry run says of the end of the step, which changes no file, in the words of the real one.
fn foretold(machine: &Machine, disk: usize) -> &'static str {
    let files = || {
        let all = std::fs::read_dir(machine.folder.path()).expect("the folder can be listed");
        let mut paths: Vec<_> = all.map(|file| file.expect("a file").path()).collect();
        paths.sort();
        paths.into_iter().map(|path| (std::fs::read(&path).expect("it can be read"), path)).collect::<Vec<_>>()
    };
    let before = files();
    let output = checkmap(&["recover", &text(&machine.disks[disk].path), "--dry-run"]);
    assert_done(&output);
    assert!(files() == before, "a dry run changed something");
    let steps = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(steps.lines().count(), 1 + machine.disks.len(), "{steps}");
    match steps.split(' ').next().expect("a word") {
        "finish" => "and was finished",
        "undo" => "and was undone",
        "leave" => "some have it and others not",
        _ => panic!("{steps}"),
    }
}

/// Kills `verb` at every call of this kind; then the next verb comes from each disk in turn.
fn kill_at_each(machine: &mut Machine, verb: &[&str], between: Between, call: &str, tally: &mut Tally) {
    for number in 1.. {
        machine.renew();
        let old = machine.disks[0].checkpoints();
        if !killed(call, number, &machine.words(verb)) {
            return;
        }
        tally.kills += 1;
        let when = format!("{verb:?} killed at {call} {number}, {between:?}");
        let has_begun = machine.disks.iter().filter(|disk| disk.open().unfinished().is_some()).count();
        let switched = machine.disks.iter().filter(|disk| disk.checkpoints() != old).count();
        let is_off = |disk: &super::Disk| disk.before[95] & 1 == 1 && bitmaps_are_off(&disk.path);
        tally.off += usize::from(has_begun == machine.disks.len() && machine.disks.iter().any(is_off));
        between.happen(machine);
        // The verb that comes next ends the step, and then does its own work.
        let next = number % machine.disks.len();
        let marked = machine.disks[next].open().unfinished().is_some();
        // The dry run of a recovery is a third of the cost of this loop.
        let foretold = (marked && number % 3 == 0).then(|| foretold(machine, next));
        let said = assert_done(&checkmap(&["create", &text(&machine.disks[next].path), "next"]));
        assert_eq!(said.contains("interrupted"), marked, "{when}: {said}");
        assert!(foretold.is_none_or(|outcome| said.contains(outcome)), "{when}: {foretold:?}, and then {said}");
        tally.found += usize::from(marked);
        assert_done(&checkmap(&["delete", &text(&machine.disks[next].path), "next"]));
        if !marked && has_begun > 0 {
            // This disk took no part, or no longer: one that does ends the step.
            let of_step = machine.disks.iter().find(|disk| disk.open().unfinished().is_some());
            let path = of_step.expect("it was counted").path.clone();
            assert_done(&checkmap(&["recover", &text(&path)]));
        }
        // Before the first mark and after the last nothing names the journal; the next step takes its place.
        if has_begun == 0 && machine.journal().exists() {
            assert!(switched == 0 || switched == machine.disks.len(), "{when}: a change that no image tells of");
            assert_done(&checkmap(&machine.words(&["create", "again"])));
            assert_done(&checkmap(&machine.words(&["delete", "again"])));
        }
        machine.assert_whole(&when);
        let changed = machine.disks.iter().filter(|disk| disk.checkpoints() != old).count();
        let is_undoable = verb[0] == "create" || between == Between::Nothing;
        assert!(changed == 0 || changed == machine.disks.len() || !is_undoable, "{when}: {changed} have changed");
        tally.none += usize::from(changed == 0);
        tally.all += usize::from(changed == machine.disks.len());
        if between == Between::Nothing && switched > 0 {
            assert_eq!(changed, machine.disks.len(), "{when}: it was finished");
        }
    }
}

fn kill_everywhere(prepare: &[&[&str]], calls: &[&str], verb: &[&str], between: Between) -> Option<Tally> {
    if !support::tools_are_here() || !strace_works() {
        return None;
    }
    let mut machine = Machine::new(2);
    machine.prepare(prepare);
    let mut tally = Tally::default();
    for call in calls {
        kill_at_each(&mut machine, verb, between, call, &mut tally);
    }
    let Tally { kills, none, all, found, off } = tally;
    eprintln!(
        "{verb:?}, {between:?}: {kills} kills, {found} found, {none} undone, {all} finished, {off} with bitmaps off"
    );
    assert!(kills > 8 && found > 3 && none > 3 && all > 0, "{kills} {found} {none} {all}");
    Some(tally)
}

/// QEMU writes no header when it reopens an image without bitmaps for writing, nor where the bitmaps do not count for now.
#[test]
fn no_write_is_missed_that_a_commit_makes_while_the_bitmaps_of_the_last_delete_are_off() {
    for (disk, others) in [(0, true), (1, true), (0, false)] {
        let tally = kill_everywhere(&[], &["pwrite64"], &["delete", "mon"], Between::Commit { disk, others });
        assert!(tally.is_none_or(|tally| tally.off > 1), "no kill left the bitmaps off");
    }
}

#[test]
fn no_write_is_missed_that_a_commit_makes_around_the_first_create() {
    for (disk, others) in [(0, false), (1, true)] {
        let between = Between::Commit { disk, others };
        kill_everywhere(&[&["delete", "mon"]], &["pwrite64"], &["create", "tue", "--granularity=64K"], between);
    }
}

#[test]
fn no_write_is_missed_that_a_commit_makes_around_the_next_create() {
    for (disk, others) in [(0, true), (1, false)] {
        kill_everywhere(&[], &["pwrite64"], &["create", "tue"], Between::Commit { disk, others });
    }
}

#[test]
fn a_create_that_is_killed_is_on_all_images_or_on_none() {
    kill_everywhere(&[], &CALLS, &["create", "tue"], Between::Nothing);
}

#[test]
fn no_write_is_missed_that_qemu_makes_on_the_first_image_before_the_next_verb() {
    kill_everywhere(&[], &["pwrite64", "rename"], &["create", "tue"], Between::Write(0));
}

#[test]
fn no_write_is_missed_that_qemu_makes_on_the_last_image_before_the_next_verb() {
    kill_everywhere(&[], &["pwrite64", "rename"], &["create", "tue"], Between::Write(1));
}

#[test]
fn a_rename_that_is_killed_is_on_all_images_or_on_none() {
    kill_everywhere(&[], &["pwrite64", "rename"], &["rename", "mon", "new"], Between::Nothing);
}

/// The header changes in several sectors then, one after the other.
#[test]
fn the_first_create_and_the_last_delete_that_are_killed_are_on_all_images_or_on_none() {
    kill_everywhere(&[&["delete", "mon"]], &["pwrite64"], &["create", "tue", "--granularity=64K"], Between::Nothing);
    kill_everywhere(&[], &["pwrite64"], &["delete", "mon"], Between::Nothing);
}

/// A delete merges bits into clusters of its own, which must not take effect once QEMU has recorded more.
#[test]
fn no_write_is_missed_around_a_delete_that_is_killed() {
    for disk in [0, 1] {
        kill_everywhere(&[&["create", "tue"]], &["pwrite64"], &["delete", "tue"], Between::Write(disk));
    }
}

#[test]
fn a_rename_that_cannot_be_finished_stays_as_it_is_on_each_image_and_is_told() {
    if !support::tools_are_here() || !strace_works() {
        return;
    }
    let mut machine = Machine::new(2);
    let mut told = 0;
    for number in 1.. {
        machine.renew();
        if !killed("pwrite64", number, &machine.words(&["rename", "mon", "new"])) {
            break;
        }
        let switched: Vec<bool> = machine.disks.iter().map(|disk| disk.checkpoints() == ["new"]).collect();
        let is_between = switched == [true, false] && machine.journal().exists();
        machine.disks[0].write(Extent { offset: 9 << 20, len_bytes: super::GRANULE });
        let marked = machine.disks[1].open().unfinished().is_some();
        let foretold = marked.then(|| foretold(&machine, 1));
        let said = assert_done(&checkmap(&["recover", &text(&machine.disks[1].path)]));
        assert!(foretold.is_none_or(|outcome| said.contains(outcome)), "{foretold:?}, and then {said}");
        if is_between {
            assert!(said.contains("some have it and others not"), "{said}");
            for disk in &machine.disks {
                assert!(said.contains(&text(&disk.path)), "{said}");
            }
            told += 1;
            let now: Vec<bool> = machine.disks.iter().map(|disk| disk.checkpoints() == ["new"]).collect();
            assert_eq!(now, switched);
        }
        let unmarked = machine.disks.iter().all(|disk| disk.open().unfinished().is_none());
        if !unmarked {
            assert_done(&checkmap(&["recover", &text(&machine.disks[0].path)]));
        }
        let _ = std::fs::remove_file(machine.journal());
        machine.assert_whole(&format!("killed at write {number}"));
    }
    assert!(told > 0, "no kill came between the two switches");
}

#[test]
fn what_a_recovery_found_is_told_although_its_last_calls_fail() {
    if !support::tools_are_here() || !strace_works() {
        return;
    }
    let mut machine = Machine::new(2);
    let words = machine.words(&["rename", "mon", "new"]);
    for (call, succeeds) in [("unlink", true), ("pwrite64", false)] {
        for number in 1.. {
            machine.renew();
            assert!(killed("pwrite64", number, &words), "no kill came between the two switches");
            if machine.disks[0].checkpoints() == ["new"] {
                break;
            }
        }
        machine.disks[0].write(Extent { offset: 9 << 20, len_bytes: super::GRANULE });
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e"]);
        strace.args([&format!("inject={call}:error=EIO:when=1+"), PROGRAM, "recover", &text(&machine.disks[1].path)]);
        let output = strace.output().expect("strace runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), succeeds, "{said}");
        for disk in &machine.disks {
            assert!(said.contains(&format!("{}: the renaming", text(&disk.path))), "{said}");
        }
        if succeeds {
            assert!(said.contains("others not") && said.contains("the journal of the step stays"), "{said}");
            assert!(machine.journal().exists());
        } else {
            assert_done(&checkmap(&["recover", &text(&machine.disks[1].path)]));
        }
        // A journal that no image names is replaced.
        assert_done(&checkmap(&machine.words(&["create", "again"])));
        assert_done(&checkmap(&machine.words(&["delete", "again"])));
        machine.assert_whole(call);
    }
}

/// Kills `recover` at each of its calls; the next one goes on.
fn kill_the_recovery(between: Between) {
    if !support::tools_are_here() || !strace_works() {
        return;
    }
    let mut machine = Machine::new(2);
    let is_between = |machine: &Machine| {
        machine.disks[0].checkpoints() != machine.disks[1].checkpoints() && machine.journal().exists()
    };
    let words = machine.words(&["create", "tue"]);
    let place = (1..).find(|number| {
        machine.renew();
        assert!(killed("pwrite64", *number, &words), "no kill came between the two switches");
        is_between(&machine)
    });
    let mut kills = 0;
    for call in CALLS {
        for number in 1.. {
            machine.renew();
            assert!(killed("pwrite64", place.expect("a place"), &words) && is_between(&machine));
            between.happen(&mut machine);
            let paths: Vec<String> = machine.disks.iter().map(|disk| text(&disk.path)).collect();
            let recover = ["recover".to_owned(), paths[number % 2].clone()];
            if !killed(call, number, &recover) {
                break;
            }
            kills += 1;
            let when = format!("recovery killed at {call} {number}, {between:?}");
            for path in &paths {
                assert_done(&checkmap(&["recover", path]));
            }
            let has: Vec<bool> = machine.disks.iter().map(|disk| disk.checkpoints().len() == 2).collect();
            assert_eq!(has, [between == Between::Nothing; 2], "{when}");
            let _ = std::fs::remove_file(machine.journal());
            machine.assert_whole(&when);
        }
    }
    assert!(kills > 15, "{kills}");
}

/// In the middle of its switch the header still holds the place of the old directory, in a record that nobody reads.
#[test]
fn a_recovery_that_is_killed_leaves_no_images_apart_that_nobody_touched() {
    if !support::tools_are_here() || !strace_works() {
        return;
    }
    let mut machine = Machine::new(2);
    let words = machine.words(&["delete", "mon"]);
    let place = (1..).find(|number| {
        machine.renew();
        assert!(killed("pwrite64", *number, &words), "no kill left the bitmaps off");
        bitmaps_are_off(&machine.disks[0].path)
    });
    let mut kills = 0;
    for number in 1.. {
        machine.renew();
        assert!(killed("pwrite64", place.expect("a place"), &words) && bitmaps_are_off(&machine.disks[0].path));
        let paths: Vec<String> = machine.disks.iter().map(|disk| text(&disk.path)).collect();
        if !killed("pwrite64", number, &["recover".to_owned(), paths[number % 2].clone()]) {
            break;
        }
        kills += 1;
        let when = format!("recovery killed at write {number}");
        for path in &paths {
            let said = assert_done(&checkmap(&["recover", path]));
            assert!(!said.contains("others not"), "{when}: {said}");
        }
        assert!(machine.disks.iter().all(|disk| disk.checkpoints().is_empty()), "{when}");
        let _ = std::fs::remove_file(machine.journal());
        machine.assert_whole(&when);
    }
    assert!(kills > 4, "{kills}");
}

#[test]
fn a_recovery_that_is_killed_is_gone_on_with() {
    kill_the_recovery(Between::Nothing);
}

#[test]
fn a_recovery_that_undoes_and_is_killed_is_gone_on_with() {
    kill_the_recovery(Between::Write(1));
}

#[test]
fn a_disk_that_fails_within_the_step_leaves_the_change_on_all_images_or_on_none() {
    if !support::tools_are_here() || !strace_works() {
        return;
    }
    let mut machine = Machine::new(2);
    let (mut refused, mut in_doubt) = (0, 0);
    for call in ["pwrite64", "fdatasync"] {
        // Once, so that all can be taken back; or from then on, so that nothing can.
        for (number, which) in (1..).flat_map(|number| [(number, ""), (number, "+")]) {
            machine.renew();
            let mut strace = Command::new("strace");
            strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            strace.args(["-e", &format!("inject={call}:error=EIO:when={number}{which}"), PROGRAM]);
            let output = strace.args(machine.words(&["create", "tue"])).output().expect("strace runs");
            let said = String::from_utf8_lossy(&output.stderr);
            let when = format!("{call} {number}{which} fails: {said}");
            let marked = machine.disks.iter().find(|disk| disk.open().unfinished().is_some());
            if let Some(path) = marked.map(|disk| text(&disk.path)) {
                in_doubt += 1;
                assert!(output.status.success() || said.contains("checkmap recover"), "{when}");
                assert_done(&checkmap(&["recover", &path]));
            }
            let have = machine.disks.iter().filter(|disk| disk.checkpoints() == ["mon", "tue"]).count();
            if output.status.success() {
                assert_eq!(have, 2, "{when}");
            } else {
                refused += usize::from(have == 0);
                assert!(have == 0 || marked.is_some() && have == 2, "{when}: {have}");
            }
            let _ = std::fs::remove_file(machine.journal());
            machine.assert_whole(&when);
            if number > 40 || output.status.success() && !said.contains("done, but") {
                break;
            }
        }
    }
    assert!(refused > 10 && in_doubt > 3, "{refused} {in_doubt}");
}
