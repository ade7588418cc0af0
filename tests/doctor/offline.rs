//! Images: each disagreement made on purpose, found, listed by a dry run, and mended.

use crate::support::{self, TestImage, qemu_io, run, try_run};
use crate::{Notes, json, kinds, text, told, try_checkmap};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

/// A disk with the checkpoints `c1` and `c2` of libvirt's, all in order: granule 1 was written after `c1`, granule 2 after `c2`.
pub(crate) fn healthy() -> (TestImage, Notes) {
    let (image, notes) = (TestImage::create("", "4M"), Notes::new());
    image.bitmap(&["--add"], "c1");
    image.write(65536, 65536);
    image.bitmap(&["--add"], "c2");
    image.write(2 * 65536, 65536);
    notes.add("c1", None, 1_700_000_000, &["vda"]).add("c2", Some("c1"), 1_700_000_100, &["vda"]);
    (image, notes)
}

pub(crate) fn names(image: &Path) -> Vec<String> {
    let mut names: Vec<String> = support::qemu_bitmaps(image).into_iter().map(|own| own.name).collect();
    names.sort();
    names
}

/// Ends a QEMU without its storing the bitmaps.
fn crash(image: &Path) {
    let words = ["-c", "write 5k 64k", "-c", "abort"].map(OsStr::new);
    let output = try_run("qemu-io", &[words.as_slice(), &[image.as_os_str()]].concat());
    assert!(!output.status.success());
}

/// The findings are of these kinds; a dry run lists these steps and changes nothing; the repair does them, and leaves nothing.
#[track_caller]
fn mend(image: &Path, notes: Option<&Notes>, kinds_found: &[&str], steps: &[&str]) {
    let more: Vec<&str> = notes.map(|notes| vec!["--libvirt-xml", notes.path()]).unwrap_or_default();
    let doctor = |words: &[&str]| try_checkmap(&[&["doctor", text(image)], more.as_slice(), words].concat());
    let before = (fs::read(image).expect("read"), notes.map(Notes::all));
    let found = doctor(&["--json"]);
    assert_eq!(kinds(&json(&found)), kinds_found, "{}", json(&found));
    assert_eq!(found.status.code(), Some(1));
    let dry = doctor(&["--repair", "--dry-run"]);
    let listed = String::from_utf8_lossy(&dry.stdout).into_owned();
    assert_eq!(listed.lines().collect::<Vec<_>>(), steps, "{}", told(&dry));
    assert_eq!(dry.status.code(), Some(1));
    assert!(before == (fs::read(image).expect("read"), notes.map(Notes::all)), "a dry run changed something");
    let mended = doctor(&["--repair"]);
    assert_eq!(mended.status.code(), Some(0), "{}", told(&mended));
    let again = doctor(&["--repair", "--json"]);
    assert_eq!((again.status.code(), kinds(&json(&again))), (Some(0), Vec::new()), "{}", told(&again));
    run("qemu-img", &["check".as_ref(), image.as_os_str()]);
}

#[test]
fn nothing_is_wrong_with_healthy_disks() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    for words in [&["--libvirt-xml", notes.path()][..], &[]] {
        let output = try_checkmap(&[&["doctor", text(&image.path)], words].concat());
        assert_eq!(
            (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
            (Some(0), "nothing wrong\n")
        );
    }
    // A chain of ours beside libvirt's, and one alone.
    run(env!("CARGO_BIN_EXE_checkmap"), &["create", text(&image.path), "ours", "--model", "interval"]);
    let output = try_checkmap(&["doctor", text(&image.path), "--libvirt-xml", notes.path()]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(told(&output).contains("takes bitmaps only that all record"), "{}", told(&output));
    let alone = TestImage::create("", "4M");
    for name in ["mon", "tue"] {
        run(env!("CARGO_BIN_EXE_checkmap"), &["create", text(&alone.path), name]);
        assert_eq!(try_checkmap(&["doctor", text(&alone.path)]).status.code(), Some(0), "{name}");
    }
}

#[test]
fn metadata_without_a_bitmap_is_forgotten_for_that_disk_only() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    notes.add("c1", None, 1_700_000_000, &["vda", "vdb"]);
    image.bitmap(&["--remove"], "c1");
    let found = try_checkmap(&["doctor", text(&image.path), "--libvirt-xml", notes.path(), "--repair"]);
    assert_eq!(found.status.code(), Some(3), "which disk it is cannot be told: {}", told(&found));
    assert!(told(&found).contains("--disk-target"), "{}", told(&found));
    let words = ["doctor", text(&image.path), "--libvirt-xml", notes.path(), "--disk-target", "vda", "--repair"];
    assert_eq!(try_checkmap(&words).status.code(), Some(0));
    let c1 = fs::read_to_string(notes.file("c1")).expect("read");
    assert!(c1.contains("vdb") && !c1.contains("vda") && c1.contains("made by hand"), "{c1}");

    let (image, notes) = healthy();
    image.bitmap(&["--remove"], "c1");
    mend(&image.path, Some(&notes), &["metadata-without-bitmap"], &["let libvirt forget the checkpoint 'c1'"]);
    let left = notes.all();
    assert_eq!(left.len(), 1);
    // Its child follows nobody now.
    assert!(left[0].1.contains("c2") && !left[0].1.contains("c1"), "{}", left[0].1);
}

#[test]
fn a_bitmap_that_libvirt_forgot_is_told_of() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    fs::remove_file(notes.file("c1")).expect("removed");
    let text = fs::read_to_string(notes.file("c2")).expect("read");
    fs::write(notes.file("c2"), text.replace("<parent><name>c1</name></parent>", "")).expect("written");
    let step = "tell libvirt of the checkpoint 'c1', with a bitmap on vda";
    mend(&image.path, Some(&notes), &["bitmap-without-metadata"], &[step]);
    assert_eq!(notes.all().len(), 2);
    assert_eq!(names(&image.path), ["c1", "c2"]);
    // All of them are gone: their bits tell the order.
    let (image, notes) = healthy();
    fs::remove_file(notes.file("c1")).expect("removed");
    fs::remove_file(notes.file("c2")).expect("removed");
    let output = try_checkmap(&["doctor", crate::text(&image.path), "--libvirt-xml", notes.path(), "--repair"]);
    // Nobody knows by which name libvirt would find the disk.
    assert_eq!((output.status.code(), notes.all()), (Some(1), Vec::new()), "{}", told(&output));
    let words = ["doctor", crate::text(&image.path), "--libvirt-xml", notes.path(), "--disk-target", "vda", "--repair"];
    let output = try_checkmap(&words);
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    let c2 = fs::read_to_string(notes.file("c2")).expect("read");
    assert!(c2.contains("<parent>\n    <name>c1</name>"), "{c2}");
    // A document in the way is not replaced.
    let (image, notes) = healthy();
    fs::rename(notes.file("c2"), notes.file("other")).expect("renamed");
    fs::remove_file(notes.file("c1")).expect("removed");
    fs::rename(notes.file("other"), notes.file("c1")).expect("renamed");
    image.bitmap(&["--add"], "libvirt-tmp-activewrite");
    let before = (fs::read(&image.path).expect("read"), notes.all());
    let output = try_checkmap(&["doctor", crate::text(&image.path), "--libvirt-xml", notes.path(), "--repair"]);
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert!(before == (fs::read(&image.path).expect("read"), notes.all()));
}

#[test]
fn a_broken_bitmap_goes_with_its_checkpoint() {
    if !support::tools_are_here() {
        return;
    }
    let steps = ["vda: remove 'c1'", "let libvirt forget the checkpoint 'c1'"];
    let (image, notes) = healthy();
    image.bitmap(&["--disable"], "c1");
    mend(&image.path, Some(&notes), &["broken-bitmap"], &steps);
    assert_eq!(names(&image.path), ["c2"]);

    let (image, notes) = healthy();
    image.bitmap(&["--remove"], "c2");
    crash(&image.path);
    image.bitmap(&["--add"], "c2");
    mend(&image.path, Some(&notes), &["broken-bitmap"], &steps);
    assert_eq!(names(&image.path), ["c2"]);

    // A chain of ours began on a bitmap of libvirt's: the chain stays, and libvirt forgets.
    let image = TestImage::create("", "4M");
    image.bitmap(&["--add"], "c1");
    run(env!("CARGO_BIN_EXE_checkmap"), &["create", text(&image.path), "ours"]);
    let notes = Notes::new();
    notes.add("c1", None, 1, &["vda"]);
    mend(&image.path, Some(&notes), &["broken-bitmap"], &["let libvirt forget the checkpoint 'c1'"]);
    assert_eq!(names(&image.path), ["c1", "c1->ours"]);
}

#[test]
fn an_older_bitmap_that_misses_blocks_is_found() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    image.bitmap(&["--remove"], "c1");
    image.bitmap(&["--add"], "c1");
    mend(&image.path, Some(&notes), &["lacks-blocks"], &["vda: remove 'c1'", "let libvirt forget the checkpoint 'c1'"]);
}

#[test]
fn an_overlay_without_bitmaps_gets_what_it_holds() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    let over = image.folder.path().join("over.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(&image.path), text(&over)]);
    qemu_io(&over, &["write -P 2 3M 64k".to_owned()]);
    let steps = ["c1", "c2"].map(|name| {
        [
            format!("vda: add '{name}', not recording, granularity 65536, with all that this layer holds"),
            format!("vda: start recording in '{name}'"),
        ]
    });
    let steps: Vec<&str> = steps.iter().flatten().map(String::as_str).collect();
    mend(&over, Some(&notes), &["not-carried", "not-carried"], &steps);
    qemu_io(&over, &["write -P 3 1M 64k".to_owned()]);
    let output = try_checkmap(&["diff", text(&over), "--since", "c2", "--json"]);
    let starts: Vec<u64> = json(&output)["extents"]
        .as_array()
        .expect("extents")
        .iter()
        .map(|e| e["start"].as_u64().expect("a start"))
        .collect();
    assert_eq!(starts, [2 * 65536, 1 << 20, 3 << 20], "{}", told(&output));
}

#[test]
fn helpers_and_dead_parts_go() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    image.bitmap(&["--add"], "libvirt-tmp-activewrite");
    image.bitmap(&["--add", "--disable"], "backup-vda");
    let steps = ["vda: remove 'libvirt-tmp-activewrite'", "vda: remove 'backup-vda'"];
    mend(&image.path, Some(&notes), &["leftover", "leftover"], &steps);
    assert_eq!(names(&image.path), ["c1", "c2"]);

    let chain = |names: &[&str]| {
        let image = TestImage::create("", "4M");
        for name in names {
            run(env!("CARGO_BIN_EXE_checkmap"), &["create", text(&image.path), name]);
        }
        image
    };
    // A crash spoils what recorded; the frozen ones before it can follow nothing.
    let image = chain(&["1", "2"]);
    crash(&image.path);
    let output = try_checkmap(&["doctor", text(&image.path), "--json"]);
    assert_eq!((output.status.code(), kinds(&json(&output))[0].as_str()), (Some(1), "dead-chain"), "{}", told(&output));
    assert_eq!(try_checkmap(&["doctor", text(&image.path), "--repair"]).status.code(), Some(0));
    run(env!("CARGO_BIN_EXE_checkmap"), &["create", text(&image.path), "3"]);
    // A gap.
    let image = chain(&["1", "2", "3", "4", "5"]);
    image.bitmap(&["--remove"], "2->3");
    let before = names(&image.path);
    let output = try_checkmap(&["doctor", text(&image.path), "--repair"]);
    assert_eq!(output.status.code(), Some(0), "{before:?}: {}", told(&output));
    for (since, status) in [("5", 0), ("4", 0), ("2", 3)] {
        let output = try_checkmap(&["diff", text(&image.path), "--since", since]);
        assert_eq!(output.status.code(), Some(status), "{since}: {}", told(&output));
    }
}

#[test]
fn nothing_is_mended_that_a_person_has_to_decide() {
    if !support::tools_are_here() {
        return;
    }
    let refuse = |image: &TestImage, notes: Option<&Notes>, kind: &str| {
        let more: Vec<&str> = notes.map(|notes| vec!["--libvirt-xml", notes.path()]).unwrap_or_default();
        let before = (fs::read(&image.path).expect("read"), notes.map(Notes::all));
        let output = try_checkmap(&[&["doctor", text(&image.path), "--repair", "--json"], more.as_slice()].concat());
        assert_eq!(
            (output.status.code(), kinds(&json(&output))),
            (Some(1), vec![kind.to_owned()]),
            "{}",
            told(&output)
        );
        assert!(told(&output).contains("left:"), "{}", told(&output));
        assert!(before == (fs::read(&image.path).expect("read"), notes.map(Notes::all)), "{kind}");
    };
    let (image, notes) = healthy();
    image.bitmap(&["--add", "--disable"], "whose");
    refuse(&image, Some(&notes), "stranger");
    let (image, notes) = healthy();
    image.bitmap(&["--add"], "no/file");
    refuse(&image, Some(&notes), "bitmap-without-metadata");
    // A part of a chain that nobody can tell is left, also where libvirt has a checkpoint of its name.
    let (image, notes) = healthy();
    image.bitmap(&["--disable"], "c1");
    for name in ["c1->x", "c1->y"] {
        image.bitmap(&["--add"], name);
    }
    let words = ["doctor", text(&image.path), "--libvirt-xml", notes.path(), "--repair"];
    assert_eq!(try_checkmap(&words).status.code(), Some(1));
    assert_eq!(names(&image.path), ["c1", "c1->x", "c1->y", "c2"]);
    let (image, _) = healthy();
    image.bitmap(&["--disable"], "c1");
    refuse(&image, None, "unknown-model");
    let image = TestImage::create("", "4M");
    image.bitmap(&["--add", "--disable"], "a->b");
    image.bitmap(&["--add"], "b->a");
    refuse(&image, None, "broken-chain");
}

#[test]
fn a_parent_that_is_gone_is_forgotten() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    notes.add("c1", Some("gone"), 1_700_000_000, &["vda"]);
    mend(&image.path, Some(&notes), &["parent-gone"], &["tell libvirt of the checkpoint 'c1', with a bitmap on vda"]);
    assert!(!fs::read_to_string(notes.file("c1")).expect("read").contains("gone"));
}

#[test]
fn cumulative_checkpoints_become_intervals_that_miss_nothing() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    let words = ["doctor", text(&image.path), "--libvirt-xml", notes.path(), "--to-interval"];
    let before = (fs::read(&image.path).expect("read"), notes.all());
    let dry = try_checkmap(&[&words[..], &["--dry-run"]].concat());
    let listed = String::from_utf8_lossy(&dry.stdout).into_owned();
    let steps = [
        "vda: stop recording in 'c1'",
        "vda: rename 'c2' to 'c1->c2'",
        "let libvirt forget the checkpoint 'c1'",
        "let libvirt forget the checkpoint 'c2'",
    ];
    assert_eq!(listed.lines().collect::<Vec<_>>(), steps, "{}", told(&dry));
    assert!(
        told(&dry).contains("from 'c1' until 'c2' has 128 KiB of changes, of which up to 64 KiB"),
        "{}",
        told(&dry)
    );
    assert!(before == (fs::read(&image.path).expect("read"), notes.all()));
    let done = try_checkmap(&words);
    assert_eq!(done.status.code(), Some(0), "{}", told(&done));
    assert_eq!((names(&image.path), notes.all()), (vec!["c1".to_owned(), "c1->c2".to_owned()], Vec::new()));
    image.write(3 * 65536, 65536);
    for (since, until, granules) in [("c1", None, &[1, 2, 3][..]), ("c2", None, &[2, 3]), ("c1", Some("c2"), &[1, 2])] {
        let mut words = vec!["diff", text(&image.path), "--json", "--since", since];
        words.extend(until.iter().flat_map(|until| ["--until", until]));
        let diff = json(&try_checkmap(&words));
        let dirty: u64 = granules.len() as u64 * 65536;
        assert_eq!(
            (&diff["dirty_bytes"], &diff["extents"][0]["start"]),
            (&dirty.into(), &(granules[0] * 65536).into())
        );
    }
    run(env!("CARGO_BIN_EXE_checkmap"), &["create", text(&image.path), "c3"]);
    run("qemu-img", &["check", text(&image.path)]);
    // Beside a chain of ours nothing is converted, and libvirt keeps its notes.
    let (image, notes) = healthy();
    run(env!("CARGO_BIN_EXE_checkmap"), &["create", text(&image.path), "ours", "--model", "interval"]);
    let before = (names(&image.path), notes.all());
    let refused = try_checkmap(&["doctor", text(&image.path), "--libvirt-xml", notes.path(), "--to-interval"]);
    assert_eq!(refused.status.code(), Some(3), "{}", told(&refused));
    assert!(before == (names(&image.path), notes.all()), "{}", told(&refused));
    // One checkpoint alone has nothing to freeze, and is ours when libvirt forgot it. Notes of other bitmaps stay.
    let (image, notes) = healthy();
    image.bitmap(&["--remove"], "c2");
    let done = try_checkmap(&["doctor", text(&image.path), "--libvirt-xml", notes.path(), "--to-interval"]);
    assert_eq!(done.status.code(), Some(0), "{}", told(&done));
    let left: Vec<String> = notes.all().into_iter().map(|(file, _)| file).collect();
    assert_eq!(left, ["c2.xml"]);
    // Twins have no order that anybody knows.
    let image = TestImage::create("", "4M");
    image.bitmap(&["--add"], "a");
    image.bitmap(&["--add"], "b");
    let refused = try_checkmap(&["doctor", text(&image.path), "--to-interval"]);
    assert_eq!(refused.status.code(), Some(3), "{}", told(&refused));
    assert_eq!(names(&image.path), ["a", "b"]);
}

#[test]
fn libvirts_lone_bitmap_is_left_alone_where_its_notes_are_known() {
    if !support::tools_are_here() {
        return;
    }
    let image = TestImage::create("", "4M");
    image.bitmap(&["--add"], "theirs");
    let notes = Notes::new();
    notes.add("theirs", None, 1_700_000_000, &["vda"]);
    assert_eq!(try_checkmap(&["doctor", text(&image.path), "--libvirt-xml", notes.path()]).status.code(), Some(0));
    let listed = json(&try_checkmap(&["list", text(&image.path), "--json", "--libvirt-xml", notes.path()]));
    assert_eq!(listed[0]["time_seconds"], 1_700_000_000);
}

#[test]
fn documents_that_cannot_be_believed_change_nothing() {
    if !support::tools_are_here() {
        return;
    }
    let (image, notes) = healthy();
    image.bitmap(&["--add"], "libvirt-tmp-activewrite");
    let before = fs::read(&image.path).expect("read");
    for (content, status, part) in [
        ("<!DOCTYPE x [<!ENTITY a 'c3'>]><domaincheckpoint><name>&a;</name></domaincheckpoint>", 1, "document type"),
        ("<domaincheckpoint><name>c3</name><parent><name>c3</name></parent></domaincheckpoint>", 3, "circle"),
        ("<domaincheckpoint><name>&#99;1</name></domaincheckpoint>", 3, "two documents"),
        ("nothing", 1, "no XML"),
    ] {
        fs::write(notes.file("c3"), content).expect("written");
        for verb in ["--repair", "--to-interval"] {
            let output = try_checkmap(&["doctor", text(&image.path), "--libvirt-xml", notes.path(), verb]);
            assert_eq!(output.status.code(), Some(status), "{content}: {}", told(&output));
            assert!(told(&output).contains(part), "{content}: {}", told(&output));
        }
        let output = try_checkmap(&["list", text(&image.path), "--libvirt-xml", notes.path()]);
        assert_eq!(output.status.code(), Some(status), "{content}: {}", told(&output));
    }
    assert!(before == fs::read(&image.path).expect("read"));
    let output = try_checkmap(&["doctor", text(&image.path), "--libvirt-xml", "/nowhere"]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let output = try_checkmap(&["doctor", text(&image.path), "--repair", "--to-interval"]);
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
}
