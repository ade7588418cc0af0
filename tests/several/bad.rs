//! The refusals: of steps that cannot be taken, and of journals that do not fit the marks.

use super::support::trace::strace_works;
use super::{Machine, PROGRAM, assert_done, assert_status, checkmap, support, text};
use std::path::Path;
use std::process::Command;

/// Two images, of which the first has switched.
fn interrupted() -> Option<Machine> {
    if !support::tools_are_here() || !strace_works() {
        return None;
    }
    let mut machine = Machine::new(2);
    for number in 1.. {
        machine.renew();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", "trace=pwrite64"]);
        strace.args(["-e", &format!("inject=pwrite64:signal=SIGKILL:when={number}"), PROGRAM]);
        let ended = strace.args(machine.words(&["create", "tue"])).output().expect("strace runs").status.success();
        assert!(!ended, "no kill came between the two switches");
        if machine.disks[0].checkpoints() == ["mon", "tue"] {
            break;
        }
    }
    assert_eq!(machine.disks[1].checkpoints(), ["mon"]);
    assert!(machine.journal().exists());
    Some(machine)
}

/// The verb is refused for this reason, and nothing is changed.
#[track_caller]
fn assert_refused(machine: &Machine, words: &[&str], status: i32, why: &str) {
    let images = || machine.disks.iter().map(|disk| std::fs::read(&disk.path).ok()).collect::<Vec<_>>();
    let before = images();
    let said = assert_status(&checkmap(words), status);
    assert!(said.contains(why), "{words:?}: {said}");
    assert!(images() == before, "{words:?} changed an image");
}

#[test]
fn reading_verbs_tell_the_truth_and_say_that_a_step_is_unfinished() {
    let Some(machine) = interrupted() else { return };
    for (disk, names) in machine.disks.iter().zip([&["mon", "tue"][..], &["mon"]]) {
        let path = text(&disk.path);
        for words in [&["list", &path, "--json"][..], &["info", &path], &["diff", &path, "--since", "mon"]] {
            let output = checkmap(words);
            let said = assert_done(&output);
            assert!(said.contains("interrupted") && said.contains("checkmap recover"), "{words:?}: {said}");
        }
        assert_eq!(disk.checkpoints(), names);
        let check = checkmap(&["check", &path, "--json"]);
        assert_eq!(check.status.code(), Some(0), "{check:?}");
        assert!(String::from_utf8_lossy(&check.stdout).contains("interrupted"), "{check:?}");
        let dry = assert_status(&checkmap(&["create", &path, "wed", "--dry-run"]), 3);
        assert!(dry.contains("checkmap recover"), "{dry}");
    }
    let second = text(&machine.disks[1].path);
    let dry = |more: &[&str]| {
        let output = checkmap(&[&["recover", &second, "--dry-run"], more].concat());
        assert_done(&output);
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert_eq!(dry(&["--forget"]), format!("leave {second} as it is, and forget the step\n"));
    let paths = [0, 1].map(|number| text(&machine.disks[number].path));
    let steps = format!(
        "finish the creation of checkpoint 'tue'\nend the step on {}\nend the step on {}\n",
        paths[0], paths[1]
    );
    assert_eq!(dry(&[]), steps);
    assert_done(&checkmap(&["recover", &second]));
    assert_eq!(dry(&[]), "nothing to do\n");
    machine.assert_whole("recover");
    let said = assert_done(&checkmap(&["recover", &text(&machine.disks[1].path)]));
    assert!(said.contains("nothing to do"), "{said}");
}

#[test]
fn no_verb_changes_an_image_whose_step_cannot_be_ended() {
    let Some(machine) = interrupted() else { return };
    let (journal, aside) = (machine.journal(), machine.folder.path().join("aside"));
    let paths: Vec<String> = machine.disks.iter().map(|disk| text(&disk.path)).collect();
    let (first, second) = (&*paths[0], &*paths[1]);
    let verbs = |path| {
        [
            vec!["create", path, "wed"],
            vec!["delete", path, "mon"],
            vec!["rename", path, "mon", "sun"],
            vec!["drop", path, "--all", "--yes"],
            vec!["recover", path],
        ]
    };
    // The journal is away, cut short, of another step, or no journal.
    std::fs::rename(&journal, &aside).expect("a file can be renamed");
    for words in [verbs(first), verbs(second)].concat() {
        assert_refused(&machine, &words, 3, "is not there");
    }
    let whole = std::fs::read(&aside).expect("the journal can be read");
    for len in [0, 7, 30, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&journal, &whole[..len]).expect("a file can be written");
        assert_refused(&machine, &["recover", first], 1, "journal");
        assert_refused(&machine, &["recover", first], 1, "checkmap recover --forget");
    }
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&journal, &bytes).expect("a file can be written");
        assert_refused(&machine, &["recover", second], 1, "journal");
    }
    // No regular file, which is looked at before it is opened: nobody writes to the pipe.
    std::fs::remove_file(&journal).expect("it is there");
    std::os::unix::fs::symlink(&aside, &journal).expect("a link can be made");
    assert_refused(&machine, &["recover", first], 1, "is no file");
    std::fs::remove_file(&journal).expect("it is there");
    support::run("mkfifo", &[&journal]);
    assert_refused(&machine, &["recover", first], 1, "is no file");
    std::fs::remove_file(&journal).expect("it is there");
    let sealed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole[..whole.len() - 4].to_vec();
        change(&mut bytes);
        let sum = crc32c::crc32c(&bytes);
        bytes.extend(sum.to_le_bytes());
        std::fs::write(&journal, &bytes).expect("a file can be written");
    };
    sealed(&|bytes| bytes[16] ^= 1);
    assert_refused(&machine, &["recover", first], 3, "of another step");
    sealed(&|bytes| bytes[8] = 2);
    assert_refused(&machine, &["recover", first], 1, "version 2");
    sealed(&|bytes| bytes.push(0));
    assert_refused(&machine, &["recover", first], 1, "more behind its last image");
    sealed(&|bytes| bytes[32] = 3);
    assert_refused(&machine, &["recover", first], 1, "ends too early");
    // The same step over other images: the second path names the first image.
    sealed(&|bytes| {
        let at = bytes.windows(11).rposition(|window| window == b"disk1.qcow2").expect("the second path");
        bytes[at + 4] = b'0';
    });
    assert_refused(&machine, &["recover", second], 3, "it was moved, or is a copy");
    std::fs::rename(&aside, &journal).expect("a file can be renamed");
    assert_done(&checkmap(&["create", second, "wed"]));
    assert_eq!(machine.disks[1].checkpoints(), ["mon", "tue", "wed"], "the step was finished before");
    machine.assert_whole("the journal came back");
}

#[test]
fn an_image_that_is_gone_replaced_copied_or_open_elsewhere() {
    let Some(mut machine) = interrupted() else { return };
    let paths: Vec<String> = machine.disks.iter().map(|disk| text(&disk.path)).collect();
    let (first, second) = (&*paths[0], &*paths[1]);
    let aside = machine.folder.path().join("aside.qcow2");
    // Gone: nothing happens until it is back.
    std::fs::rename(second, &aside).expect("a file can be renamed");
    assert_refused(&machine, &["create", first, "wed"], 3, "disk1.qcow2");
    assert_refused(&machine, &["recover", &text(&aside)], 3, "it was moved, or is a copy");
    std::fs::create_dir(second).expect("a folder can be made");
    assert_refused(&machine, &["recover", first], 3, "neither a file nor a block device");
    std::fs::remove_dir(second).expect("it is empty");
    std::fs::rename(&aside, second).expect("a file can be renamed");
    // A copy is not the image.
    let copy = machine.folder.path().join("copy.qcow2");
    std::fs::copy(first, &copy).expect("a file can be copied");
    assert_refused(&machine, &["delete", &text(&copy), "mon"], 3, "it was moved, or is a copy");
    assert_done(&checkmap(&["recover", &text(&copy), "--forget"]));
    assert_done(&checkmap(&["delete", &text(&copy), "tue"]));
    // A QEMU has one of them open.
    let qemu = support::nbd::Served::start(&machine.disks[1].path, "mon");
    // It listens before it has opened the image.
    qemu.nbdinfo();
    let said = assert_status(&checkmap(&["create", first, "wed"]), 3);
    assert!(said.contains("disk1.qcow2") && said.contains("has it open"), "{said}");
    drop(qemu);
    // The second image comes back from an older copy, without the mark: what the first has is undone.
    std::fs::write(second, &machine.disks[1].before).expect("an image can be written");
    let said = assert_done(&checkmap(&["recover", first]));
    assert!(
        said.contains("was undone") && said.contains(&format!("{first}: the checkpoint 'tue' is taken out")),
        "{said}"
    );
    for disk in &mut machine.disks {
        assert_eq!(disk.checkpoints(), ["mon"]);
    }
    machine.assert_whole("an older copy");
}

#[test]
fn a_step_that_cannot_be_taken_is_refused_before_anything_is_changed() {
    if !support::tools_are_here() {
        return;
    }
    let machine = Machine::new(2);
    let paths: Vec<String> = machine.disks.iter().map(|disk| text(&disk.path)).collect();
    let (first, second) = (&*paths[0], &*paths[1]);
    let link = text(&machine.folder.path().join("link.qcow2"));
    std::os::unix::fs::symlink(first, &link).expect("a link can be made");
    let hard = text(&machine.folder.path().join("hard.qcow2"));
    std::fs::hard_link(first, &hard).expect("a link can be made");
    for other in [first, &link, &hard] {
        assert_refused(&machine, &["create", first, "tue", "--also", other], 2, "are the same image");
    }
    assert_refused(&machine, &["create", first, "tue", "--also", second, "--also", second], 2, "are the same image");
    assert_refused(&machine, &["create", first, "tue", "--journal", "here"], 2, "--also");
    assert_refused(&machine, &["create", "tue", "--qmp", "none", "--also", second], 2, "--also");
    assert_refused(&machine, &["create", first, "mon", "--also", second], 3, "mon");
    let gone = text(&machine.folder.path().join("gone.qcow2"));
    assert_refused(&machine, &["create", first, "tue", "--also", &gone], 1, "gone.qcow2");
    let folder = text(&machine.folder.path().join("nowhere/journal"));
    assert_refused(&machine, &["create", first, "tue", "--also", second, "--journal", &folder], 1, "nowhere");
    let parallels = text(&machine.folder.path().join("disk.hds"));
    std::fs::write(&parallels, support::parallels::Hds::new(128, 8192).bytes()).expect("an image can be written");
    assert_refused(&machine, &["create", first, "tue", "--also", &parallels], 1, "cannot change in one step");
    // Two layers of one disk: a change of the top one alone would know of the other.
    let middle = text(&machine.folder.path().join("middle.qcow2"));
    let top = text(&machine.folder.path().join("top.qcow2"));
    for (base, overlay) in [(first, &middle), (&middle, &top)] {
        support::run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay]);
    }
    for also in [[&middle, first], [first, &middle], [&top, first], [first, &top], [&top, &middle]] {
        assert_refused(&machine, &["create", also[0], "tue", "--also", also[1]], 3, "cannot change in one step with");
        assert_refused(&machine, &["create", also[0], "tue", "--also", also[1]], 3, "change the top image alone");
    }
    // Something else stands where the journal should.
    std::fs::write(machine.journal(), "mine").expect("a file can be written");
    assert_refused(&machine, &["create", first, "tue", "--also", second], 3, "there is a journal already");
    assert_refused(&machine, &["create", first, "tue", "--also", second, "--dry-run"], 3, "there is a journal already");
    assert_eq!(std::fs::read(machine.journal()).expect("it is there"), b"mine");
    std::fs::remove_file(machine.journal()).expect("it is ours");
    // Clusters of 512 bytes have no room for a mark.
    let small = text(&machine.folder.path().join("small.qcow2"));
    support::run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", "cluster_size=512", &small, "1M"]);
    let folder = machine.folder.path().join("f".repeat(200));
    std::fs::create_dir(&folder).expect("a folder can be made");
    let long = text(&folder.join("j".repeat(200)));
    assert_refused(&machine, &["create", &small, "tue", "--also", first, "--journal", &long], 3, "has no room");
    machine.assert_whole("all refusals");
}

/// While such a directory changes, the bitmaps do not count, and QEMU may write to the image without a trace.
#[test]
fn an_image_whose_directory_changes_by_halves_takes_part_in_no_step() {
    if !support::tools_are_here() {
        return;
    }
    let machine = Machine::new(1);
    let first = text(&machine.disks[0].path);
    let mut path = machine.folder.path().join("d".repeat(200));
    std::fs::create_dir(&path).expect("a folder can be made");
    // The record of the directory follows this name, and the end of the first sector is within it.
    path.push("f".repeat(483 - text(&path).len() - 1 - 100));
    std::fs::create_dir(&path).expect("a folder can be made");
    path.push("d".repeat(99));
    assert_eq!(text(&path).len(), 483);
    let crossing = text(&machine.folder.path().join("crossing.qcow2"));
    let options = format!("data_file={}", text(&path));
    support::run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, &crossing, "16M"]);
    assert_done(&checkmap(&["create", &crossing, "mon"]));
    let before = std::fs::read(&crossing).expect("it can be read");
    for also in [[&first, &crossing], [&crossing, &first]] {
        assert_refused(&machine, &["create", also[0], "tue", "--also", also[1]], 3, "crosses two sectors");
    }
    assert!(std::fs::read(&crossing).expect("it can be read") == before);
    assert_done(&checkmap(&["create", &crossing, "tue"]));
}

#[test]
fn overlays_of_one_backing_file_change_in_one_step() {
    if !support::tools_are_here() {
        return;
    }
    let folder = support::folder();
    let base = text(&folder.path().join("base.qcow2"));
    support::run("qemu-img", &["create", "-q", "-f", "qcow2", &base, "8M"]);
    let overlays: Vec<String> = ["a", "b"].map(|name| text(&folder.path().join(name))).into();
    for overlay in &overlays {
        support::run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", &base, "-F", "qcow2", overlay]);
    }
    let elsewhere = text(&folder.path().join("the journal"));
    let words = ["create", &overlays[0], "one", "--also", &overlays[1], "--journal", &elsewhere];
    assert_done(&checkmap(&words));
    assert!(!Path::new(&elsewhere).exists());
    for overlay in &overlays {
        support::qemu_io(Path::new(overlay), &["write -P 3 1M 64k".into()]);
        let check = support::try_run("qemu-img", &["check", "-q", overlay]);
        assert!(check.status.success(), "{check:?}");
        let info = support::run("qemu-img", &["info", overlay]);
        assert!(info.contains("base.qcow2"), "the backing file's name: {info}");
        let diff = checkmap(&["diff", overlay, "--since", "one", "--format", "csv"]);
        assert_done(&diff);
        assert_eq!(String::from_utf8_lossy(&diff.stdout), "start,length\n1048576,65536\n");
    }
}

#[test]
fn a_bitmap_of_that_name_that_the_step_did_not_make_is_left_alone() {
    let Some(mut machine) = interrupted() else { return };
    let first = text(&machine.disks[0].path);
    let second = text(&machine.disks[1].path);
    // Another tool makes the checkpoint where the step did not come to, under the very name.
    support::run("qemu-img", &["bitmap", "--add", &second, "mon->tue"]);
    support::run("qemu-img", &["bitmap", "--disable", &second, "mon"]);
    assert_eq!(machine.disks[1].checkpoints(), ["mon", "tue"]);
    for disk in &mut machine.disks {
        disk.write(checkmap::Extent { offset: 9 << 20, len_bytes: super::GRANULE });
    }
    let said = assert_done(&checkmap(&["recover", &first]));
    assert!(
        said.contains("was undone") && said.contains(&format!("{first}: the checkpoint 'tue' is taken out")),
        "{said}"
    );
    assert!(!said.contains(&format!("{second}: the checkpoint")), "{said}");
    assert_eq!(machine.disks[0].checkpoints(), ["mon"]);
    assert_eq!(machine.disks[1].checkpoints(), ["mon", "tue"], "it was never of the step");
    machine.assert_whole("a checkpoint of another tool");
}

/// QEMU keeps the autoclear bit of an image that it opens for reading and then reopens for writing, as a commit does with the backing file.
#[test]
fn an_image_that_qemu_reopened_for_writing_is_not_taken_for_untouched() {
    for disk in [0, 1] {
        for crash in [false, true] {
            let Some(mut machine) = interrupted() else { return };
            let path = machine.disks[disk].path.clone();
            let extent = checkmap::Extent { offset: 9 << 20, len_bytes: super::GRANULE };
            let write = format!("write -P 7 {} {}", extent.offset, extent.len_bytes);
            let mut qemu = Command::new("qemu-io");
            qemu.args(["-r", "-c", "reopen -w", "-c", &write])
                .args(crash.then_some(["-c", "abort"]).into_iter().flatten());
            let ended = qemu.arg(&path).output().expect("qemu-io runs");
            assert_eq!(ended.status.success(), !crash, "{ended:?}");
            machine.disks[disk].written = support::ours::union(&machine.disks[disk].written, &[extent]);
            assert!(machine.disks[disk].open().unfinished().is_some_and(|step| !step.is_untouched));
            let said = assert_done(&checkmap(&["recover", &text(&machine.disks[1].path)]));
            assert!(said.contains("was undone"), "{said}");
            if crash {
                // The bitmaps that the killed QEMU left tell nothing, and say so.
                let diff = checkmap(&["diff", &text(&path), "--since", "mon"]);
                assert!(!diff.status.success(), "{diff:?}");
                assert_eq!(machine.disks[1 - disk].checkpoints(), ["mon"]);
                machine.disks[1 - disk].assert_whole("a crash of QEMU");
            } else {
                machine.disks.iter().for_each(|disk| assert_eq!(disk.checkpoints(), ["mon"]));
                machine.assert_whole("a reopening by QEMU");
            }
        }
    }
}
