//! The layers below: which of their bitmaps take part in an answer, and by which names they are found.

use crate::support::{self, TestImage, run, try_run};
use crate::{Ran, bitmaps, checkmap, command, needs_tools};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

/// A base with these bitmaps (`+` records), and the path of an overlay above it, named `over.qcow2`.
fn base(with: &[&str]) -> TestImage {
    let image = TestImage::create("", "4M");
    for bitmap in with {
        match bitmap.strip_prefix('+') {
            Some(name) => image.bitmap(&["--add"], name),
            None => image.bitmap(&["--add", "--disable"], bitmap),
        }
    }
    image
}

/// Puts an overlay on an image, in its folder.
fn overlay(below: &TestImage, name: &str, on: &str) -> std::path::PathBuf {
    let path = below.folder.path().join(name);
    record(&path, on, Some("qcow2"));
    path
}

/// Makes an image whose backing file is recorded as `name`, whatever that is.
fn record(path: &Path, name: &str, format: Option<&str>) {
    let _ = fs::remove_file(path);
    let args = ["create", "-q", "-u", "-f", "qcow2", "-F", format.unwrap_or("qcow2"), "-b", name].map(OsStr::new);
    run("qemu-img", &[args.as_slice(), &[path.as_os_str(), OsStr::new("4M")]].concat());
    if format.is_none() {
        // The extension that says the format becomes one that nobody knows.
        let mut bytes = fs::read(path).unwrap();
        let at = bytes.windows(4).position(|window| window == [0xE2, 0x79, 0x2A, 0xCA]).unwrap();
        bytes[at..at + 4].copy_from_slice(b"what");
        fs::write(path, bytes).unwrap();
    }
}

/// Makes bitmaps on an overlay with QEMU's own tool, as somebody who makes it anew after a snapshot does.
fn add(path: &Path, with: &[&str]) {
    for bitmap in with {
        let (recording, name) = bitmap.strip_prefix('+').map_or((false, *bitmap), |name| (true, name));
        let mut args = vec!["bitmap", "--add"];
        args.extend((!recording).then_some("--disable"));
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).chain([path.as_os_str(), OsStr::new(name)]).collect();
        run("qemu-img", &args);
    }
}

fn diff(path: &Path, since: &str, until: Option<&str>) -> Ran {
    let mut args = vec!["diff".into(), path.as_os_str().to_owned(), "--since".into(), since.into()];
    args.extend(until.map(|until| ["--until".into(), until.into()]).into_iter().flatten());
    Ran::of(command(&args).output().unwrap())
}

#[test]
fn a_layer_takes_part_by_the_checkpoints_it_knows() {
    needs_tools!();
    for (below, above, since, until, knows) in [
        // The newest checkpoint was made anew in the overlay, where it is the root.
        (&["mon", "+mon->tue"][..], &["+tue"][..], "tue", None, None),
        (&["+tue"], &["+tue"], "tue", None, None),
        (&["mon", "+mon->tue"], &["tue", "+tue->wed"], "tue", Some("wed"), None),
        // A checkpoint of the base alone.
        (&["mon", "+mon->tue"], &["+mon->tue"], "mon", None, None),
        (&["mon", "+mon->tue"], &["+mon->tue"], "mon", Some("tue"), None),
        (&["mon", "+mon->tue"], &[], "tue", None, None),
        // A checkpoint created in the overlay is younger than all that the base recorded.
        (&["mon", "+mon->tue"], &["tue", "+tue->wed"], "wed", None, None),
        (&["+mon"], &["+tue"], "tue", None, None),
        // The base lost the start of the span, and knows a later checkpoint: it recorded in between.
        (&["sun", "+sun->tue"], &["mon", "+mon->tue"], "mon", None, Some("tue")),
        (&["sun", "+sun->tue"], &["mon", "+mon->tue"], "mon", Some("tue"), Some("tue")),
        (&["+wed"], &["mon", "mon->tue", "+tue->wed"], "mon", Some("tue"), Some("wed")),
        // Names that only a gap mentions, of either layer.
        (&["+tue->wed"], &["+tue"], "tue", None, Some("tue")),
        (&["+x->tue"], &["mon", "+tue->wed"], "wed", None, None),
        // A base of another model, of none, or without a chain.
        (&["+tue", "+wed"], &["+tue"], "tue", None, None),
        (&["+tue", "+wed"], &[], "wed", None, None),
        (&["a->tue", "+a->b"], &["+tue"], "tue", None, Some("tue")),
        (&["+a->tue->b"], &["+tue"], "tue", None, Some("tue")),
        (&["mon", "+mon->tue"], &["+tue", "+old"], "tue", None, Some("tue")),
        (&["mon", "+mon->tue"], &["+wed", "+tue"], "wed", None, None),
        // Nothing can change between a point in time and itself.
        (&["+tue"], &["+tue"], "tue", Some("tue"), None),
    ] {
        let image = base(below);
        let over = overlay(&image, "over.qcow2", "disk.qcow2");
        add(&over, above);
        let answer = diff(&over, since, until);
        match knows {
            Some(name) => answer.fails(3, &format!("disk.qcow2 below it knows the checkpoint '{name}' too")),
            None => drop(answer.ok().to_owned()),
        }
        // Two layers further down it is the same, with an image in between that knows nothing.
        let middle = overlay(&image, "middle.qcow2", "disk.qcow2");
        overlay(&image, "upper.qcow2", middle.file_name().unwrap().to_str().unwrap());
        let high = overlay(&image, "high.qcow2", "upper.qcow2");
        add(&high, above);
        let answer = diff(&high, since, until);
        match knows {
            Some(name) => answer.fails(3, &format!("disk.qcow2 below it knows the checkpoint '{name}' too")),
            None => drop(answer.ok().to_owned()),
        }
    }
}

#[test]
fn a_deletion_changes_every_layer() {
    needs_tools!();
    let layers = || {
        let image = base(&["mon", "+mon->tue"]);
        let over = overlay(&image, "over.qcow2", "disk.qcow2");
        add(&over, &["tue", "tue->wed", "+wed->thu"]);
        TestImage { path: over, ..image }
    };
    let image = layers();
    let path = &image.path;
    checkmap!("rename", path, "wed", "mon").fails(3, "disk.qcow2 below it knows a checkpoint 'mon' already");
    checkmap!("rename", path, "wed", "w").ok();
    checkmap!("delete", path, "w").ok();
    assert_eq!(bitmaps(&image), ["tue", "+tue->thu"]);
    checkmap!("diff", path, "--since", "tue").ok();
    checkmap!("diff", path, "--since", "thu").ok();
    // What takes the older ones along leaves nothing that needs the layer below.
    checkmap!("drop", path, "--before", "thu").ok();
    checkmap!("diff", path, "--since", "thu").ok();

    let both = layers();
    let said = checkmap!("delete", both.path, "tue", "--dry-run");
    assert_eq!(said.ok().lines().count(), 5);
    assert!(said.ok().contains("disk.qcow2: merge 'mon->tue' into 'mon'"), "{}", said.ok());
    checkmap!("delete", both.path, "tue").says("deleted checkpoint 'tue'");
    assert_eq!(bitmaps(&both), ["mon", "mon->wed", "+wed->thu"]);
    let below = support::qemu_bitmaps(&both.folder.path().join("disk.qcow2"));
    assert_eq!(below.iter().map(|bitmap| (&*bitmap.name, bitmap.recording)).collect::<Vec<_>>(), [("mon", true)]);
    checkmap!("diff", both.path, "--since", "mon").ok();
    checkmap!("delete", both.path, "tue").fails(3, "no checkpoint is named 'tue'");
}

#[test]
fn a_forced_deletion_gives_up_what_no_layer_below_knows() {
    needs_tools!();
    let layers = || {
        let image = base(&["mon", "+mon->tue"]);
        let over = overlay(&image, "over.qcow2", "disk.qcow2");
        add(&over, &["mon->tue", "tue->wed", "+wed->thu"]);
        TestImage { path: over, ..image }
    };
    // A crash spoils the top layer alone: what the base knows is answered by what the overlay holds.
    let crashed = layers();
    drop(crate::Holder::open(&crashed.path, &[]));
    checkmap!("delete", crashed.path, "wed").fails(3, "--force-inconsistent");
    let dry = checkmap!("delete", crashed.path, "--all-inconsistent", "--dry-run");
    assert_eq!(dry.ok().lines().count(), 3, "{}", dry.ok());
    checkmap!("delete", crashed.path, "--all-inconsistent").says("every diff since 'thu', 'wed' is lost");
    assert_eq!(bitmaps(&crashed), [""; 0]);
    for since in ["mon", "tue"] {
        diff(&crashed.path, since, None).ok();
    }
    checkmap!("create", crashed.path, "fri").says("add 'mon->tue', not recording");
    // One by its name goes from the base too, where nothing stands in its way.
    let crashed = layers();
    drop(crate::Holder::open(&crashed.path, &[]));
    checkmap!("delete", crashed.path, "tue", "--force-inconsistent").says("deleted checkpoint 'tue'");
    assert_eq!(names(&crashed.folder.path().join("disk.qcow2")), ["+mon"]);
    diff(&crashed.path, "mon", None).fails(3, "--all-inconsistent");
    checkmap!("delete", crashed.path, "--all-inconsistent").ok();
    diff(&crashed.path, "mon", None).ok();
    // A crash of the base: what it knows is lost in both.
    let crashed = layers();
    let disk = crashed.folder.path().join("disk.qcow2");
    drop(crate::Holder::open(&disk, &[]));
    diff(&crashed.path, "tue", None).fails(3, "inconsistent");
    checkmap!("delete", crashed.path, "tue").fails(3, "disk.qcow2");
    checkmap!("delete", crashed.path, "tue", "--force-inconsistent").says("every diff since 'mon', 'tue' is lost");
    assert_eq!((names(&disk), bitmaps(&crashed)), (Vec::new(), vec!["wed".to_owned(), "+wed->thu".into()]));
    diff(&crashed.path, "wed", None).ok();
    checkmap!("delete", crashed.path, "--all-inconsistent").says("nothing to do");
}

fn names(path: &Path) -> Vec<String> {
    let mark = |recording| if recording { "+" } else { "" };
    support::qemu_bitmaps(path).into_iter().map(|bitmap| format!("{}{}", mark(bitmap.recording), bitmap.name)).collect()
}

#[test]
fn a_renaming_changes_every_layer() {
    needs_tools!();
    let image = base(&["mon", "+mon->tue"]);
    let below = image.path.clone();
    let middle = overlay(&image, "middle.qcow2", "disk.qcow2");
    add(&middle, &["mon->tue", "+tue->wed"]);
    let top = overlay(&image, "top.qcow2", "middle.qcow2");
    add(&top, &["tue->wed", "+wed->thu"]);
    let said = checkmap!("rename", top, "tue", "t", "--dry-run");
    let steps: Vec<&str> = said.ok().lines().map(|line| line.rsplit_once('/').expect("a path").1).collect();
    let alias = [
        "disk.qcow2: rename 'mon->tue' to 't->tue'",
        "disk.qcow2: add 'mon->t', recording, granularity 65536",
        "disk.qcow2: stop recording in 'mon->t'",
    ];
    let above = [
        "middle.qcow2: rename 'mon->tue' to 'mon->t'",
        "middle.qcow2: rename 'tue->wed' to 't->wed'",
        "top.qcow2: rename 'tue->wed' to 't->wed'",
    ];
    let end = [
        "disk.qcow2: merge 't->tue' into 'mon->t'",
        "disk.qcow2: start recording in 'mon->t'",
        "disk.qcow2: remove 't->tue'",
    ];
    assert_eq!(steps, [alias.as_slice(), &above[..2], &above[2..], &end].concat());
    assert_eq!(names(&below), ["mon", "+mon->tue"]);
    // A name that is known anywhere is refused, and so is a change of a file that somebody uses.
    checkmap!("rename", top, "tue", "mon").fails(3, "middle.qcow2 below it knows a checkpoint 'mon' already");
    checkmap!("rename", top, "tue", "wed").fails(3, "exists already");
    checkmap!("rename", top, "tue", "a->b").fails(2, "a->b");
    checkmap!("rename", top, "fri", "f").fails(3, "no checkpoint is named 'fri'");
    let holder = crate::Holder::open(&middle, &[]);
    checkmap!("rename", top, "tue", "t").fails(3, "open for writing");
    drop(holder);
    assert_eq!(names(&below), ["mon", "+mon->tue"], "nothing is changed before all are tried");

    let image = base(&["mon", "+mon->tue"]);
    let over = overlay(&image, "over.qcow2", "disk.qcow2");
    add(&over, &["mon->tue", "+tue->wed"]);
    checkmap!("rename", over, "tue", "t").says("renamed checkpoint 'tue' to 't'");
    assert_eq!(
        (names(&image.path), names(&over)),
        (vec!["mon".into(), "+mon->t".into()], vec!["mon->t".into(), "+t->wed".into()])
    );
    for since in ["mon", "t", "wed"] {
        diff(&over, since, None).ok();
    }
    checkmap!("rename", over, "tue", "t").fails(3, "no checkpoint is named 'tue'");
    // A checkpoint right before it is no half-done renaming, even if nothing was written in between.
    checkmap!("rename", over, "t", "mon").fails(3, "a checkpoint named 'mon' exists already");
    // Cumulative ones.
    let image = base(&["+c1", "+c2"]);
    let over = overlay(&image, "over.qcow2", "disk.qcow2");
    add(&over, &["+c1", "+c2"]);
    checkmap!("rename", over, "c1", "c").says("libvirt goes on looking for a bitmap named 'c1'");
    assert_eq!(
        (names(&image.path), names(&over)),
        (vec!["+c2".to_owned(), "+c".into()], vec!["+c".into(), "+c2".into()])
    );
}

#[test]
fn create_goes_on_with_the_chain_of_the_base() {
    needs_tools!();
    let image = base(&["mon", "+mon->tue"]);
    let over = overlay(&image, "over.qcow2", "disk.qcow2");
    support::qemu_io(&over, &["write 1M 64k".into()]);
    checkmap!("create", over, "tue").fails(3, "disk.qcow2 below it knows a checkpoint 'tue' already");
    checkmap!("create", over, "wed").says("add 'mon->tue', not recording, granularity 65536, with all that");
    support::qemu_io(&over, &["write 2M 64k".into()]);
    let extents = |since: &str| diff(&over, since, None).ok().matches("\n").count();
    assert_eq!((extents("mon"), extents("wed")), (4, 3), "beside the extents, a head and a sum");
    let kept = support::qemu_bitmaps(&over).into_iter().map(|bitmap| (bitmap.name, bitmap.recording));
    assert_eq!(kept.collect::<Vec<_>>(), [("mon->tue".to_owned(), false), ("tue->wed".to_owned(), true)]);
    // A layer that cannot be read keeps nobody from recording.
    fs::remove_file(&image.path).unwrap();
    checkmap!("create", over, "thu").ok();
    diff(&over, "thu", None).fails(3, "cannot be read");
}

#[test]
fn create_begins_anew_where_the_base_does_not_record() {
    needs_tools!();
    for (below, why) in [(&["mon", "mon->tue"][..], "does not record"), (&["a->b", "+a->c"], "has two children")] {
        let image = base(below);
        let over = overlay(&image, "over.qcow2", "disk.qcow2");
        checkmap!("create", over, "wed").says(why);
        diff(&over, "wed", None).ok();
    }
    let image = base(&["+c1", "+c2"]);
    let over = overlay(&image, "over.qcow2", "disk.qcow2");
    checkmap!("create", over, "c3").ok();
    checkmap!("create", over, "c4").ok();
    assert_eq!(support::qemu_bitmaps(&over).len(), 2);
    diff(&over, "c1", None).ok();
    diff(&over, "c3", None).ok();
}

/// Whether QEMU opens the chain of this image, and if so whether a layer below holds the bitmap `mon`.
fn qemu_sees_mon(path: &Path) -> Option<bool> {
    let args = ["info", "-U", "--backing-chain", "--output=json"].map(OsStr::new);
    let output = try_run("qemu-img", &[args.as_slice(), &[path.as_os_str()]].concat());
    let chain: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let layers = chain.as_array()?.get(1..)?.to_vec();
    let holds = |layer: &serde_json::Value| {
        let bitmaps = layer["format-specific"]["data"]["bitmaps"].as_array().cloned().unwrap_or_default();
        bitmaps.iter().any(|bitmap| bitmap["name"] == "mon")
    };
    Some(layers.iter().any(holds))
}

/// What we make of a name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    /// The bitmap below is found.
    Found,
    /// There can be none.
    Absent,
    /// Refused, as it cannot be known.
    Refused,
}

#[test]
fn the_names_of_layers_are_read_as_qemu_reads_them() {
    needs_tools!();
    use Answer::*;
    let image = base(&["+mon"]);
    let folder = image.folder.path().to_str().unwrap();
    let at = |name: &str| name.replace("DIR", folder);
    fs::copy(&image.path, image.folder.path().join("a:b.qcow2")).unwrap();
    fs::copy(&image.path, image.folder.path().join("a%20b.qcow2")).unwrap();
    let mut part = vec![0; 65536];
    part.extend(fs::read(&image.path).unwrap());
    fs::write(image.folder.path().join("part.img"), part).unwrap();
    let over = image.folder.path().join("over.qcow2");
    for (name, format, expected) in [
        ("disk.qcow2", Some("qcow2"), Found),
        ("disk.qcow2", None, Found),
        ("DIR/disk.qcow2", Some("qcow2"), Found),
        ("./a:b.qcow2", Some("qcow2"), Found),
        ("a:b.qcow2", Some("qcow2"), Refused),
        ("file:DIR/disk.qcow2", Some("qcow2"), Found),
        ("file://DIR/disk.qcow2", Some("qcow2"), Found),
        ("file:DIR/a:b.qcow2", None, Found),
        ("file:DIR/a%20b.qcow2", Some("qcow2"), Found),
        ("file:DIR/a b.qcow2", Some("qcow2"), Refused),
        ("file:disk.qcow2", Some("qcow2"), Refused),
        ("disk.qcow2", Some("raw"), Absent),
        ("gone.qcow2", Some("qcow2"), Refused),
        ("gone.raw", Some("raw"), Absent),
        (r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"DIR/disk.qcow2"}}"#, None, Found),
        (
            r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"DIR/disk.qcow2","locking":"off"}}"#,
            Some("qcow2"),
            Found,
        ),
        (r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"DIR/a:b.qcow2"}}"#, None, Found),
        (r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"disk.qcow2"}}"#, None, Refused),
        (r#"json:{"file.filename":"DIR/disk.qcow2"}"#, None, Found),
        (r#"json:{"file.filename":"DIR/disk.qcow2"}"#, Some("raw"), Absent),
        (r#"json:{"driver":"raw","file":{"driver":"file","filename":"DIR/disk.qcow2"}}"#, None, Absent),
        (r#"json:{"driver":"raw","file":{"driver":"file","filename":"DIR/disk.qcow2"}}"#, Some("qcow2"), Found),
        (r#"json:{"driver":"file","filename":"DIR/disk.qcow2"}"#, None, Absent),
        (
            r#"json:{"driver":"qcow2","file":{"driver":"raw","offset":65536,"file":{"driver":"file","filename":"DIR/part.img"}}}"#,
            Some("qcow2"),
            Found,
        ),
        (r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"DIR/part.img"}}"#, Some("qcow2"), Refused),
        ("nbd+unix:///export?socket=DIR/none", Some("qcow2"), Refused),
        ("ssh://nobody@localhost/disk.qcow2", Some("qcow2"), Refused),
        ("rbd:pool/disk", Some("qcow2"), Refused),
        (r#"json:{"driver":"qcow2","file":{"driver":"nbd","path":"DIR/none"}}"#, Some("qcow2"), Refused),
        (r#"json:{"driver":"qcow2","file":"some-node"}"#, Some("qcow2"), Refused),
    ] {
        record(&over, &at(name), format);
        let created = checkmap!("create", over, "mon", "-q");
        let ran = if created.status == Some(0) { diff(&over, "mon", None) } else { created };
        let answer = match ran.status {
            Some(0) => Absent,
            Some(3) if ran.stderr.contains("knows a checkpoint 'mon'") => Found,
            Some(3) if ran.stderr.contains("cannot be read") => Refused,
            _ => panic!("{name}: {:?} {}", ran.status, ran.stderr),
        };
        assert_eq!(answer, expected, "{name}, {format:?}: {}", ran.stderr);
        if let Some(sees) = qemu_sees_mon(&over) {
            assert!(answer == Refused || (answer == Found) == sees, "{name}, {format:?}: QEMU: {sees}");
        }
    }
}

#[test]
fn a_name_from_the_working_directory_is_believed_where_both_folders_agree() {
    needs_tools!();
    let image = base(&["+mon"]);
    let over = image.folder.path().join("over.qcow2");
    let elsewhere = crate::support::folder();
    let decoy = elsewhere.path().join("disk.qcow2");
    record(&decoy, "gone", Some("raw"));
    for name in ["file:disk.qcow2", r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"disk.qcow2"}}"#] {
        record(&over, name, Some("qcow2"));
        add(&over, &["+mon"]);
        let from = |folder: &Path| {
            let args = ["diff".into(), over.as_os_str().to_owned(), "--since".into(), "mon".into()];
            Ran::of(command(&args).current_dir(folder).output().unwrap())
        };
        from(image.folder.path()).ok();
        from(elsewhere.path()).fails(3, "the folder in which it was started");
        from(Path::new("/")).fails(3, "cannot be read");
    }
}

#[test]
fn a_loop_of_layers_ends() {
    needs_tools!();
    let image = base(&[]);
    record(&image.path, "over.qcow2", Some("qcow2"));
    let over = image.folder.path().join("over.qcow2");
    record(&over, "disk.qcow2", Some("qcow2"));
    add(&over, &["+mon"]);
    diff(&over, "mon", None).fails(3, "loop");
}

#[test]
fn a_base_takes_in_the_checkpoints_above_it() {
    needs_tools!();
    let image = base(&["mon", "+mon->tue"]);
    let over = overlay(&image, "over.qcow2", "disk.qcow2");
    support::qemu_io(&over, &["write 1M 64k".into()]);
    checkmap!("create", over, "wed").ok();
    support::qemu_io(&over, &["write 2M 64k".into()]);
    let before = fs::read(&image.path).unwrap();
    let plan = checkmap!("commit-bitmaps", over, image.path, "--dry-run");
    assert_eq!(plan.ok().lines().count(), 4, "{}", plan.ok());
    assert_eq!(fs::read(&image.path).unwrap(), before);
    checkmap!("commit-bitmaps", over, image.path).says("committed the bitmaps");
    assert_eq!(bitmaps(&image), ["mon", "mon->tue", "+tue->wed"]);
    for (since, starts) in [("tue", &["1048576", "2097152"][..]), ("wed", &["2097152"])] {
        let lines = checkmap!("diff", image.path, "--since", since, "--format", "csv").ok().to_owned();
        let expected: String = starts.iter().map(|start| format!("{start},65536\n")).collect();
        assert_eq!(lines, format!("start,length\n{expected}"), "{since}");
    }
    checkmap!("commit-bitmaps", over, image.path).says("nothing to do");
    run("qemu-img", &["commit".as_ref(), "-q".as_ref(), over.as_os_str()]);
    checkmap!("commit-bitmaps", over, image.path).says("nothing to do");
    image.assert_clean("commit-bitmaps");

    let other = base(&["+mon"]);
    checkmap!("commit-bitmaps", over, other.path).fails(3, "is no layer below it");
    checkmap!("commit-bitmaps", over, over).fails(3, "");
    let cumulative = base(&["+c1", "+c2"]);
    let above = overlay(&cumulative, "over.qcow2", "disk.qcow2");
    checkmap!("commit-bitmaps", above, cumulative.path).fails(3, "cumulative");
}

#[test]
fn list_and_info_show_the_checkpoints_of_all_layers() {
    needs_tools!();
    let image = base(&["mon", "+mon->tue"]);
    support::qemu_io(&image.path, &["write 1M 64k".into()]);
    let over = overlay(&image, "over.qcow2", "disk.qcow2");
    support::qemu_io(&over, &["write 2M 64k".into()]);
    let names = |rows: &serde_json::Value| -> Vec<(String, bool)> {
        let row = |row: &serde_json::Value| (row["name"].as_str().unwrap().to_owned(), row["layer"].is_string());
        rows.as_array().unwrap().iter().map(row).collect()
    };
    let below = |name: &str| (name.to_owned(), true);
    let rows = checkmap!("list", over, "--json").json();
    assert_eq!(names(&rows), [below("mon"), below("tue")]);
    let sums: Vec<_> = rows.as_array().unwrap().iter().map(|row| (&row["dirty_bytes"], &row["since_bytes"])).collect();
    assert_eq!(sums, [(&0.into(), &131_072.into()), (&131_072.into(), &131_072.into())]);
    assert_eq!(names(&checkmap!("info", over, "--json").json()["checkpoints"]), [below("mon"), below("tue")]);
    assert_eq!(checkmap!("list", over).ok().matches("below").count(), 2);
    checkmap!("create", over, "wed").ok();
    let rows = checkmap!("list", over, "--json").json();
    assert_eq!(names(&rows), [below("mon"), ("tue".to_owned(), false), ("wed".to_owned(), false)]);
    // No diff since them is answered where the base did not record.
    image.bitmap(&["--disable"], "mon->tue");
    assert_eq!(names(&checkmap!("list", over, "--json").json()).len(), 2);
}
