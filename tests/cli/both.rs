//! Two chains in one image: libvirt's cumulative checkpoints beside intervals of ours.

use crate::support::TestImage;
use crate::{bitmaps, checkmap, extents, mark_inconsistent, needs_tools, poke, same_file};
use serde_json::{Value, json};
use std::fs;
use unicode_width::UnicodeWidthStr;

/// As libvirt and another program that keeps intervals leave an image; every checkpoint is followed by a write of its own.
fn both() -> TestImage {
    let image = TestImage::create("", "1M");
    image.bitmap(&["--add"], "virtnbdbackup.0");
    image.write(0, 65536);
    image.bitmap(&["--add"], "virtnbdbackup.1");
    image.bitmap(&["--add"], "i1");
    image.write(131_072, 65536);
    image.bitmap(&["--disable"], "i1");
    image.bitmap(&["--add"], "i1->i2");
    image.write(262_144, 65536);
    image.bitmap(&["--add"], "virtnbdbackup.2");
    image.write(393_216, 65536);
    image
}

const THEIRS: [&str; 3] = ["virtnbdbackup.0", "virtnbdbackup.1", "virtnbdbackup.2"];

fn names(checkpoints: &Value) -> Vec<String> {
    let checkpoints = checkpoints.as_array().expect("an array");
    checkpoints.iter().map(|checkpoint| checkpoint["name"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn list_and_info_show_each_chain_with_its_owner() {
    needs_tools!();
    let image = both();
    let list = checkmap!("list", image.path, "--json").json();
    assert_eq!(names(&list), ["i1", "i2"]);
    assert_eq!((&list[0]["since_bytes"], &list[1]["since_bytes"]), (&json!(196_608), &json!(131_072)));
    let list = checkmap!("list", image.path, "--json", "--model", "cumulative").json();
    assert_eq!(names(&list), THEIRS);
    assert_eq!((&list[0]["since_bytes"], &list[2]["since_bytes"]), (&json!(262_144), &json!(65536)));

    let info = checkmap!("info", image.path, "--json").json();
    assert_eq!((&info["model"], names(&info["checkpoints"])), (&json!("interval"), vec!["i1".into(), "i2".into()]));
    let chains = info["chains"].as_array().unwrap();
    let heads: Vec<_> = chains.iter().map(|chain| (chain["owner"].clone(), chain["model"].clone())).collect();
    assert_eq!(heads, [(json!("checkmap"), json!("interval")), (json!("libvirt"), json!("cumulative"))]);
    assert_eq!(chains[0]["checkpoints"], info["checkpoints"]);
    assert_eq!(names(&chains[1]["checkpoints"]), THEIRS);
    assert_eq!(
        chains[1]["checkpoints"][1],
        json!({"name": "virtnbdbackup.1", "parent": null, "bitmap": "virtnbdbackup.1"})
    );
    let bitmap = info["bitmaps"].as_array().unwrap().iter().find(|bitmap| bitmap["name"] == THEIRS[1]).unwrap();
    assert_eq!((&bitmap["since"], &bitmap["until"]), (&json!("virtnbdbackup.1"), &json!(null)));

    let table = checkmap!("info", image.path);
    for words in ["beside them:  libvirt, model cumulative, 3 checkpoints", "checkmap  'i1->i2'", "libvirt   'virtn"] {
        assert!(table.ok().contains(words), "{words}\n{}", table.ok());
    }
    let list = checkmap!("list", image.path);
    assert!(list.ok().starts_with("checkmap, model interval:\nCHECKPOINT"), "{}", list.ok());
    assert!(list.ok().contains("\n\nlibvirt, model cumulative:\nCHECKPOINT"), "{}", list.ok());
    for line in table.ok().lines().chain(list.ok().lines()).filter(|line| !line.starts_with("image:")) {
        assert!(line.width() <= 80, "{line}");
    }
}

#[test]
fn chains_are_always_there() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    let chains = || checkmap!("info", image.path, "--json").json()["chains"].clone();
    let one = |owner: &str, model: &str, checkpoints: Value| json!([{"owner": owner, "model": model, "checkpoints": checkpoints}]);
    let checkpoint = |name: &str| json!({"name": name, "parent": null, "bitmap": name});
    assert_eq!(chains(), json!([]));
    image.bitmap(&["--add"], "a");
    assert_eq!(chains(), one("checkmap", "interval", json!([checkpoint("a")])));
    image.bitmap(&["--add"], "b");
    assert_eq!(chains()[0]["owner"], "libvirt");
    image.bitmap(&["--disable"], "b");
    assert_eq!(chains(), one("unknown", "unknown", json!([])));
}

#[test]
fn a_name_picks_its_chain_and_one_in_both_needs_a_model() {
    needs_tools!();
    let image = both();
    let diff = |args: &[&str]| {
        let all = [&["diff", image.path.to_str().unwrap()], args, &["--json"]].concat();
        let all: Vec<_> = all.iter().map(Into::into).collect();
        crate::Ran::of(crate::command(&all).output().unwrap())
    };
    assert_eq!(extents(&diff(&["--since", THEIRS[1]]).json()), [(131_072, 65536), (262_144, 65536), (393_216, 65536)]);
    assert_eq!(extents(&diff(&["--since", "i1"]).json()).len(), 3);
    diff(&["--since", THEIRS[0], "--until", THEIRS[1]]).fails(3, "--until");
    diff(&["--since", THEIRS[0], "--until", "i1"]).fails(3, "different chains");
    diff(&["--since", "nobody"]).fails(3, "'nobody'");
    // libvirt makes a checkpoint of a name that we have.
    image.bitmap(&["--add"], "i2");
    image.write(524_288, 65536);
    diff(&["--since", "i2"]).fails(3, "--model");
    checkmap!("delete", image.path, "i2").fails(3, "--model");
    checkmap!("rename", image.path, "i2", "x").fails(3, "--model");
    assert_eq!(extents(&diff(&["--since", "i2", "--model", "cumulative"]).json()), [(524_288, 65536)]);
    assert_eq!(extents(&diff(&["--since", "i2", "--model", "interval"]).json()).len(), 3);
    checkmap!("create", image.path, "i3").ok();
    assert_eq!(names(&checkmap!("list", image.path, "--json").json()), ["i1", "i2", "i3"]);
    // The root would need the plain name, which libvirt's bitmap has.
    checkmap!("delete", image.path, "i1").ok();
    assert_eq!(names(&checkmap!("list", image.path, "--json").json()), ["i2", "i3"]);
    assert!(bitmaps(&image).contains(&"->i2".to_owned()) && bitmaps(&image).contains(&"+i2".to_owned()));
    image.assert_clean("two chains with one name");
}

#[test]
fn every_change_of_one_chain_leaves_the_other_as_it_is() {
    needs_tools!();
    let image = both();
    let dumped = |names: &[&str]| -> Vec<Vec<u8>> {
        let dump = |name: &&str| checkmap!("dump", image.path, "--bitmap", name, "--format", "raw").bytes().to_vec();
        names.iter().map(dump).collect()
    };
    let theirs = dumped(&THEIRS);
    checkmap!("create", image.path, "i3").ok();
    checkmap!("rename", image.path, "i2", "x").ok();
    checkmap!("delete", image.path, "i1..x").ok();
    assert_eq!(bitmaps(&image), ["+virtnbdbackup.0", "+virtnbdbackup.1", "+virtnbdbackup.2", "+->i3"]);
    assert_eq!(names(&checkmap!("list", image.path, "--json").json()), ["i3"]);
    checkmap!("create", image.path, THEIRS[0]).fails(3, THEIRS[0]);
    assert_eq!(dumped(&THEIRS), theirs);
    let ours = dumped(&["->i3"]);
    checkmap!("delete", image.path, THEIRS[1]).says("libvirt still lists it");
    checkmap!("rename", image.path, THEIRS[2], "v").says("libvirt goes on looking");
    checkmap!("create", image.path, "i3", "--model", "cumulative").fails(3, "'->i3', of the chain of intervals");
    checkmap!("create", image.path, "w", "--model", "cumulative").ok();
    checkmap!("delete", image.path, "v..w").fails(3, "name each checkpoint by itself");
    checkmap!("drop", image.path, "--before", "v").fails(3, "cumulative");
    assert_eq!(names(&checkmap!("list", image.path, "--json", "--model", "cumulative").json()).len(), 3);
    assert_eq!(dumped(&["->i3"]), ours);
    checkmap!("create", image.path, "i4").ok();
    assert_eq!(names(&checkmap!("list", image.path, "--json").json()), ["i3", "i4"]);
    image.assert_clean("changes of two chains");
}

#[test]
fn a_chain_of_ours_begins_beside_libvirts() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    image.bitmap(&["--add"], "a");
    image.bitmap(&["--add"], "b");
    let dry = checkmap!("create", image.path, "i1", "--model", "interval", "--dry-run");
    assert_eq!(dry.ok(), "add '->i1', recording, granularity 65536\n");
    checkmap!("create", image.path, "i1", "--model", "interval").ok();
    image.write(0, 65536);
    checkmap!("create", image.path, "i2").ok();
    image.write(131_072, 65536);
    assert_eq!(bitmaps(&image), ["+a", "+b", "->i1", "+i1->i2"]);
    let diff = |since: &str| extents(&checkmap!("diff", image.path, "--since", since, "--json").json());
    assert_eq!((diff("i1").len(), diff("i2").len(), diff("a").len()), (2, 1, 2));
    assert_eq!(
        extents(&checkmap!("diff", image.path, "--since", "i1", "--until", "i2", "--json").json()),
        [(0, 65536)]
    );
    // Its bitmap begins with a dash, and is taken by its own name all the same.
    checkmap!("dump", image.path, "--bitmap", "->i1").ok();
    checkmap!("merge", image.path, "a", "--into", "->i1", "--dry-run").ok();
    checkmap!("drop", image.path, "--bitmap", "->i1", "--dry-run").ok();
    image.assert_clean("a marked root");
}

#[test]
fn what_is_wrong_with_one_chain_does_not_matter_to_the_other() {
    needs_tools!();
    let image = both();
    // A helper that does not record, as qmpbackup leaves them.
    image.bitmap(&["--add", "--disable"], "qmpbackup-full");
    mark_inconsistent(&image.path, b"virtnbdbackup.0");
    checkmap!("info", image.path).says("--model cumulative");
    checkmap!("diff", image.path, "--since", THEIRS[0]).fails(3, "inconsistent");
    checkmap!("diff", image.path, "--since", THEIRS[1]).ok();
    checkmap!("create", image.path, "i3").ok();
    checkmap!("create", image.path, "c", "--model", "cumulative").fails(3, "--all-inconsistent");
    checkmap!("delete", image.path, "--all-inconsistent").says("nothing to do");
    checkmap!("delete", image.path, "--all-inconsistent", "--model", "cumulative").ok();
    assert_eq!(names(&checkmap!("list", image.path, "--json", "--model", "cumulative").json()), THEIRS[1..]);
    let info = checkmap!("info", image.path, "--json").json();
    let helper = info["bitmaps"].as_array().unwrap().iter().find(|bitmap| bitmap["name"] == "qmpbackup-full").unwrap();
    assert_eq!((&helper["role"], &helper["since"]), (&json!("foreign"), &json!(null)));
    // Two children of one checkpoint: a chain that nobody can read.
    image.bitmap(&["--add"], "i1->j");
    let before = fs::read(&image.path).unwrap();
    checkmap!("list", image.path).fails(3, "--model cumulative");
    checkmap!("diff", image.path, "--since", THEIRS[1]).fails(3, "--model cumulative");
    checkmap!("delete", image.path, THEIRS[1]).fails(3, "two children");
    assert!(same_file(&image.path, &before));
    checkmap!("diff", image.path, "--since", THEIRS[1], "--model", "cumulative").ok();
    let info = checkmap!("info", image.path, "--json").json();
    assert_eq!((&info["chains"][0]["model"], &info["chains"][0]["checkpoints"]), (&json!("interval"), &json!([])));
    assert_eq!(names(&info["chains"][1]["checkpoints"]), THEIRS[1..]);
    checkmap!("delete", image.path, THEIRS[1], "--model", "cumulative").ok();
    image.assert_clean("libvirt's beside a broken chain");
}

#[test]
fn drop_all_names_libvirts_and_needs_a_yes_for_them() {
    needs_tools!();
    let image = both();
    checkmap!("drop", image.path, "--all").fails(
        3,
        "libvirt's checkpoints would go too: 'virtnbdbackup.0', 'virtnbdbackup.1', 'virtnbdbackup.2' (if nobody",
    );
    checkmap!("drop", image.path, "--bitmap", THEIRS[0], "--dry-run").says("libvirt still lists it");
    let dropped = checkmap!("drop", image.path, "--all", "--yes");
    dropped.says("every diff since 'i1', 'i2' is lost");
    dropped.says(
        "'virtnbdbackup.0', 'virtnbdbackup.1', 'virtnbdbackup.2' are cumulative checkpoints, as libvirt makes them",
    );
    assert_eq!(bitmaps(&image), [""; 0]);
    image.assert_clean("both chains are dropped");
}

#[test]
fn a_bitmap_of_libvirts_that_cannot_be_used_stays_its_own_affair() {
    needs_tools!();
    let image = both();
    // A type of bitmap that nobody knows.
    poke(&image.path, crate::entry_of(&image.path, b"virtnbdbackup.1") + 16, |_| 9);
    checkmap!("diff", image.path, "--since", THEIRS[1]).fails(1, "type or extra data");
    checkmap!("diff", image.path, "--since", THEIRS[0]).ok();
    checkmap!("create", image.path, "i3").ok();
}
