//! libvirt's documents: the parts that count, the refusals, and how many there can be.

use crate::{Notes, json, support, told, try_checkmap};
use checkmap::ErrorKind;
use checkmap::chain::Name;
use checkmap::libvirt::{Change, DiskEntry, DomainCheckpoint, MOST_DOCUMENT_BYTES, Metadata};
use std::fs;

fn read(text: &str) -> checkmap::Result<DomainCheckpoint> {
    DomainCheckpoint::read(text.as_bytes().to_vec())
}

#[test]
fn a_document_of_libvirt_is_read_whole() {
    let text = "<?xml version='1.0'?>\n<!-- a comment -->\n<domaincheckpoint>\n  <name>a&amp;b &lt;x&gt; \u{e9}</name>\n  \
        <parent>\n    <name>first</name>\n  </parent>\n  <description>a <![CDATA[</domaincheckpoint>]]></description>\n  \
        <creationTime>1795710080</creationTime>\n  <disks>\n    <disk name='vda' checkpoint='bitmap' bitmap='a&amp;b'/>\n    \
        <disk name='vdb' checkpoint='no'/>\n    <disk name='vdc'/>\n  </disks>\n  <domain type='qemu'><name>other</name><devices>\
        <disk type='file'><source file='/disks/a.qcow2'/><target dev='vda'/></disk>\
        <disk type='block'><source dev='/dev/b'/><target dev='vdb'/></disk><disk type='file'><target dev='hdc'/></disk>\
        </devices></domain>\n</domaincheckpoint>\n";
    let own = read(text).expect("a document");
    assert_eq!(own.name().as_bytes(), "a&b <x> \u{e9}".as_bytes());
    assert_eq!(own.parent(), Some(&Name::new("first")));
    assert_eq!(own.time_seconds(), Some(1_795_710_080));
    assert_eq!(own.bitmap_on("vda"), Some(&Name::new("a&b")));
    assert_eq!((own.bitmap_on("vdb"), own.bitmap_on("vdz")), (None, None));
    assert_eq!(own.bitmap_on("vdc"), Some(own.name()));
    assert_eq!(own.sources().collect::<Vec<_>>(), [("vda", "/disks/a.qcow2"), ("vdb", "/dev/b")]);
    // All else stays as it is.
    let other = own.with_disks(&[DiskEntry::new("vdz", Some(Name::new("it's")))]).expect("another one");
    assert_eq!(other.bitmap_on("vdz"), Some(&Name::new("it's")));
    assert_eq!(other.bitmap_on("vda"), None);
    let orphan = other.with_parent(None).expect("another one");
    assert_eq!(orphan.parent(), None);
    assert!(orphan.text().contains("CDATA") && orphan.text().contains("/dev/b"), "{}", orphan.text());
    let back = orphan.with_parent(Some(&Name::new("first"))).expect("another one");
    assert_eq!((back.parent(), back.bitmap_on("vdz")), (own.parent(), Some(&Name::new("it's"))));
}

#[test]
fn names_go_into_a_document_and_out_of_it() {
    for name in ["plain", "a&b", "<x>", "'\"", "\u{e9}\u{1f600}", " two  words "] {
        let name = Name::new(name);
        let disks = [DiskEntry::new("vda", Some(name.clone()))];
        let own = DomainCheckpoint::new(&name, Some(&name), 7, &disks).expect("a document");
        assert_eq!((own.name(), own.parent(), own.time_seconds()), (&name, Some(&name), Some(7)));
        assert_eq!(own.disks(), disks);
    }
    for name in [&b"a/b"[..], b".hidden", b"line\nbreak", b"\xff", b"\x01", "\u{ffff}".as_bytes()] {
        let refused = DomainCheckpoint::new(&Name::new(name), None, 7, &[]);
        assert_eq!(refused.expect_err("no name for libvirt").kind(), ErrorKind::InvalidName, "{name:?}");
    }
}

#[test]
fn what_is_no_document_of_a_checkpoint_is_refused() {
    let nested = format!("<domaincheckpoint><name>a</name>{}", "<x>".repeat(200_000));
    let long = "<domaincheckpoint><name>a</name></domaincheckpoint>".to_owned()
        + &" ".repeat(usize::try_from(MOST_DOCUMENT_BYTES).expect("few"));
    let many = |attribute: &dyn Fn(usize) -> String| {
        let attributes: String = (0..100_000).map(attribute).collect();
        format!("<domaincheckpoint><name>a</name><x{attributes}/></domaincheckpoint>")
    };
    let (attributes, spaces) =
        (many(&|at| format!(" a{at}=\"<>\"").replace('<', "")), many(&|at| format!(" xmlns:a{at}='b'")));
    for (text, part) in [
        (attributes.as_str(), "attributes"),
        (spaces.as_str(), "namespaces"),
        ("", "no XML"),
        ("hello", "no XML"),
        ("<domaincheckpoint>", "no XML"),
        ("<domainsnapshot><name>a</name></domainsnapshot>", "<domainsnapshot>"),
        ("<domaincheckpoint/>", "no <name>"),
        ("<domaincheckpoint><name/></domaincheckpoint>", "empty"),
        ("<domaincheckpoint><name>a<b/></name></domaincheckpoint>", "elements inside"),
        ("<domaincheckpoint><name>a</name><name>b</name></domaincheckpoint>", "more than one <name>"),
        ("<domaincheckpoint><name>a</name><creationTime>soon</creationTime></domaincheckpoint>", "soon"),
        ("<domaincheckpoint><name>a</name><creationTime>-1</creationTime></domaincheckpoint>", "-1"),
        ("<domaincheckpoint><name>a</name><disks><disk/></disks></domaincheckpoint>", "disk is empty"),
        ("<domaincheckpoint><name>a</name><disks><disk name='a'/><disk name='a'/></disks></domaincheckpoint>", "twice"),
        (
            "<domaincheckpoint><name>a</name><disks><disk name='a' checkpoint='what'/></disks></domaincheckpoint>",
            "what",
        ),
        (
            "<domaincheckpoint><name>a</name><disks><disk name='a' bitmap=''/></disks></domaincheckpoint>",
            "bitmap is empty",
        ),
        ("<!DOCTYPE d [<!ENTITY e 'x'>]><domaincheckpoint><name>&e;</name></domaincheckpoint>", "document type"),
        (
            "<!DOCTYPE d [<!ENTITY e SYSTEM 'file:///etc/passwd'>]><domaincheckpoint><name>&e;</name></domaincheckpoint>",
            "document type",
        ),
        ("<domaincheckpoint><name>&unknown;</name></domaincheckpoint>", "no XML"),
        (nested.as_str(), "no XML"),
        (long.as_str(), "longer"),
    ] {
        let refused = read(text).expect_err("no document");
        assert_eq!(refused.kind(), ErrorKind::Damaged, "{text:.80}");
        assert!(refused.message().contains(part), "{text:.80}: {}", refused.message());
        assert!(refused.way_out().is_some(), "{text:.80}");
    }
    let name = "n".repeat(5000);
    read(&format!("<domaincheckpoint><name>{name}</name></domaincheckpoint>")).expect_err("too long");
    DomainCheckpoint::read(b"<domaincheckpoint><name>\xff</name></domaincheckpoint>".to_vec()).expect_err("no UTF-8");
}

#[test]
fn documents_that_contradict_one_another_are_refused() {
    let notes = Notes::new();
    notes.add("a", Some("c"), 1, &["vda"]).add("b", Some("a"), 2, &["vda"]).add("c", Some("b"), 3, &["vda"]);
    let refused = Metadata::read(notes.folder.path()).expect_err("a circle");
    assert_eq!(refused.kind(), ErrorKind::BrokenChain);
    assert!(refused.message().contains("circle"), "{refused}");
    let notes = Notes::new();
    notes.add("x&amp;y", None, 1, &["vda"]).add("x&#38;y", None, 2, &["vda"]);
    let refused = Metadata::read(notes.folder.path()).expect_err("one name twice");
    assert_eq!(refused.kind(), ErrorKind::BrokenChain);
    assert!(refused.message().contains("'x&y'"), "{refused}");
    let notes = Notes::new();
    fs::create_dir(notes.file("folder")).expect("a folder");
    assert_eq!(Metadata::read(notes.folder.path()).expect_err("no file").kind(), ErrorKind::Damaged);
    assert_eq!(Metadata::read(&notes.file("nowhere")).expect_err("no folder").kind(), ErrorKind::Io);
}

/// A parent that is missing is none, and files of others do not count.
#[test]
fn parents_come_before_children_whatever_the_times_say() {
    let notes = Notes::new();
    notes.add("young", Some("old"), 1, &["vda"]).add("old", Some("gone"), 9, &["vda"]).add("other", None, 5, &["vdb"]);
    fs::write(notes.folder.path().join("README"), "nothing of libvirt's").expect("written");
    let metadata = Metadata::read(notes.folder.path()).expect("documents");
    let names: Vec<_> = metadata.checkpoints().iter().map(|own| own.name().as_bytes()).collect();
    assert_eq!(names, [&b"other"[..], b"old", b"young"]);
    assert_eq!(metadata.targets().into_iter().collect::<Vec<_>>(), ["vda", "vdb"]);
}

#[test]
fn thousands_of_checkpoints_are_listed() {
    if !support::tools_are_here() {
        return;
    }
    const COUNT: u64 = 5000;
    let notes = Notes::new();
    for at in 0..COUNT {
        let parent = at.checked_sub(1).map(|before| format!("c{before}"));
        notes.add(&format!("c{at}"), parent.as_deref(), 1_700_000_000 + at, &["vda"]);
    }
    let image = support::TestImage::create("", "1M");
    for name in ["c4999", "c7", "c10"] {
        image.bitmap(&["--add"], name);
    }
    let output = try_checkmap(&["list", crate::text(&image.path), "--json", "--libvirt-xml", notes.path()]);
    let listed = json(&output);
    let rows: Vec<_> =
        listed.as_array().expect("a list").iter().map(|row| (row["name"].clone(), row["parent"].clone())).collect();
    let row = |name: &str, parent: Option<&str>| (name.into(), parent.into());
    assert_eq!(rows, [row("c7", None), row("c10", Some("c7")), row("c4999", Some("c10"))]);
    assert_eq!(listed[1]["time_seconds"], 1_700_000_010);
    assert_eq!(listed[1]["time"], "20231114T221330Z");
    assert!(listed[1].get("ordered").is_none(), "{listed}");
    let table = try_checkmap(&["list", crate::text(&image.path), "--libvirt-xml", notes.path()]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("MADE") && table.contains("20231114T221330Z"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    // Nobody asked for libvirt's notes.
    let table = try_checkmap(&["list", crate::text(&image.path)]);
    assert!(!String::from_utf8_lossy(&table.stdout).contains("MADE"), "{}", told(&table));
}

/// The name of a checkpoint cannot lead out of the folder, and a parent that is missing is not handed on.
#[test]
fn changes_of_a_folder_stay_in_it() {
    let notes = Notes::new();
    notes.add("a", Some("gone"), 1, &["vda"]).add("b", Some("a"), 2, &["vda"]);
    let metadata = Metadata::read(notes.folder.path()).expect("documents");
    let long = "n".repeat(252);
    for name in ["../x", "/x", ".x", "x/y", long.as_str()] {
        let told = read(&format!("<domaincheckpoint><name>{name}</name></domaincheckpoint>")).expect("a document");
        let refused = metadata.change_folder(notes.folder.path(), &[Change::Tell(Box::new(told))]);
        assert_eq!(refused.expect_err("no name of a file").kind(), ErrorKind::InvalidName, "{name}");
    }
    let ready = metadata.change_folder(notes.folder.path(), &[Change::Forget(Name::new("a"))]).expect("it is ready");
    assert_eq!((ready.len(), ready.is_empty()), (2, false));
    assert!(notes.file("a").exists());
    let mut done = 0;
    ready.commit(&mut done).expect("done");
    let left = Metadata::read(notes.folder.path()).expect("documents");
    assert_eq!((done, left.checkpoints().len()), (2, 1));
    assert_eq!(left.checkpoints()[0].parent(), None);
}
