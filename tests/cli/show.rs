//! info, list and check: what they tell of good and of bad images.

use crate::support::TestImage;
use crate::{Holder, SIZE, bytes_of, checkmap, entry_of, needs_tools, poke, same_file, three_checkpoints};
use serde_json::{Value, json};
use std::fs;

#[test]
fn info_gives_every_key_of_the_contract() {
    needs_tools!();
    let image = three_checkpoints();
    let info = checkmap!("info", image.path, "--json").json();
    assert_eq!(info["image"], image.path.to_str().unwrap());
    assert_eq!(info["format"], "qcow2");
    assert_eq!(info["virtual_size"], SIZE);
    assert_eq!(info["cluster_size"], 65536);
    assert_eq!(info["model"], "interval");
    let bitmap = &info["bitmaps"][1];
    let expected = json!({
        "name": "mon->tue", "granularity": 65536, "recording": false, "inconsistent": false, "since": "tue",
        "until": "wed", "dirty_bytes": 3 * 65536, "dirty_extents": 2, "stored_bytes": 131_072,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&bitmap[key], value, "{key}");
    }
    let last = &info["bitmaps"][2];
    assert_eq!((&last["since"], &last["until"]), (&json!("wed"), &Value::Null));
    assert_eq!(last["dirty_bytes"], SIZE % 65536, "cut at the disk's end");
    assert_eq!(
        info["checkpoints"],
        json!([
            {"name": "mon", "parent": null, "bitmap": "mon"},
            {"name": "tue", "parent": "mon", "bitmap": "mon->tue"},
            {"name": "wed", "parent": "tue", "bitmap": "tue->wed"},
        ])
    );
}

#[test]
fn info_agrees_with_qemu_img_info() {
    needs_tools!();
    let image = three_checkpoints();
    let info = checkmap!("info", image.path, "--json").json();
    let ours = info["bitmaps"].as_array().unwrap();
    let theirs = image.qemu_bitmaps();
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert_eq!(ours["name"], theirs.name);
        assert_eq!(ours["granularity"], theirs.granularity);
        assert_eq!(ours["recording"], theirs.recording);
        assert_eq!(ours["inconsistent"], theirs.in_use);
    }
}

#[test]
fn info_tells_a_person_which_interval_each_bitmap_covers() {
    needs_tools!();
    let image = three_checkpoints();
    let text = checkmap!("info", image.path).ok().to_owned();
    let line = text.lines().find(|line| line.starts_with("'mon->tue'")).expect("a line for the bitmap");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words, ["'mon->tue'", "'tue'", "'wed'", "64", "KiB", "frozen", "192", "KiB", "2", "128", "KiB"]);
    assert!(text.contains("model:        interval"), "{text}");
}

#[test]
fn list_is_the_bare_array_of_checkpoints_oldest_first() {
    needs_tools!();
    let image = three_checkpoints();
    let list = checkmap!("list", image.path, "--json").json();
    let expected = json!([
        {"name": "mon", "parent": null, "bitmap": "mon", "granularity": 65536, "recording": false,
         "inconsistent": false, "dirty_bytes": 65536, "since_bytes": 65536 + 196_608 + SIZE % 65536},
        {"name": "tue", "parent": "mon", "bitmap": "mon->tue", "granularity": 65536, "recording": false,
         "inconsistent": false, "dirty_bytes": 196_608, "since_bytes": 196_608 + SIZE % 65536},
        {"name": "wed", "parent": "tue", "bitmap": "tue->wed", "granularity": 65536, "recording": true,
         "inconsistent": false, "dirty_bytes": SIZE % 65536, "since_bytes": SIZE % 65536},
    ]);
    assert_eq!(list, expected);
    let text = checkmap!("list", image.path).ok().to_owned();
    assert!(text.lines().nth(1).unwrap().starts_with("'mon'"), "{text}");
}

#[test]
fn an_image_without_bitmaps_has_no_model_and_no_checkpoints() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    let info = checkmap!("info", image.path, "--json").json();
    assert_eq!((&info["model"], &info["bitmaps"], &info["checkpoints"]), (&json!("none"), &json!([]), &json!([])));
    assert_eq!(checkmap!("list", image.path, "--json").json(), json!([]));
    assert_eq!(checkmap!("list", image.path).ok(), "no checkpoints\n");
    assert_eq!(checkmap!("check", image.path, "--json").json()["errors"], 0);
}

#[test]
fn a_version_2_image_is_shown_and_reported() {
    needs_tools!();
    let image = TestImage::create("compat=0.10", "1M");
    let info = checkmap!("info", image.path, "--json");
    assert_eq!((info.json()["model"].clone(), info.json()["version"].clone()), (json!("none"), json!(2)));
    info.says("warning");
    info.says("version 2");
    let list = checkmap!("list", image.path, "--json");
    assert_eq!(list.json(), json!([]));
    list.says("version 2");
    checkmap!("check", image.path).ok();
}

#[test]
fn a_stale_image_is_shown_with_null_counts_and_the_way_out() {
    needs_tools!();
    let image = three_checkpoints();
    poke(&image.path, 95, |_| 0);
    let info = checkmap!("info", image.path, "--json");
    let bitmap = info.json()["bitmaps"][0].clone();
    assert_eq!((&bitmap["dirty_bytes"], &bitmap["dirty_extents"]), (&Value::Null, &Value::Null));
    assert_eq!(bitmap["inconsistent"], true);
    info.says("full backup");
    let list = checkmap!("list", image.path, "--json");
    assert_eq!((list.json()[0]["name"].clone(), list.json()[0]["dirty_bytes"].clone()), (json!("mon"), Value::Null));
    list.says("out of date");
    let check = checkmap!("check", image.path, "--json");
    assert_eq!(check.status, Some(1), "no bitmap can be used");
}

#[test]
fn an_inconsistent_bitmap_is_shown_with_null_counts() {
    needs_tools!();
    let image = three_checkpoints();
    drop(Holder::open(&image.path, &[]));
    let info = checkmap!("info", image.path, "--json");
    let last = info.json()["bitmaps"][2].clone();
    assert_eq!((&last["inconsistent"], &last["dirty_bytes"]), (&json!(true), &Value::Null));
    info.says("delete --all-inconsistent");
    let list = checkmap!("list", image.path, "--json").json();
    assert_eq!((&list[2]["inconsistent"], &list[2]["dirty_bytes"]), (&json!(true), &Value::Null));
    let check = checkmap!("check", image.path);
    assert_eq!(check.status, Some(1));
    assert!(String::from_utf8_lossy(&check.stdout).contains("unusable: qcow2 bitmap 'tue->wed'"));
}

#[test]
fn an_image_that_a_running_qemu_holds_is_shown_only_with_force_share() {
    needs_tools!();
    let image = three_checkpoints();
    let holder = Holder::open(&image.path, &[]);
    checkmap!("info", image.path).fails(3, "another process");
    checkmap!("list", image.path).fails(3, "another process");
    let info = checkmap!("info", "-U", image.path, "--json");
    let bitmap = info.json()["bitmaps"][2].clone();
    assert_eq!((&bitmap["name"], &bitmap["recording"]), (&json!("tue->wed"), &json!(true)));
    assert_eq!(bitmap["inconsistent"], false, "it is in use, which is what it should be");
    for key in ["dirty_bytes", "dirty_extents", "stored_bytes"] {
        assert_eq!(bitmap[key], Value::Null, "{key}");
    }
    info.says("running");
    let list = checkmap!("list", "--force-share", image.path, "--json").json();
    assert_eq!((&list[2]["name"], &list[2]["dirty_bytes"]), (&json!("wed"), &Value::Null));
    drop(holder);
}

#[test]
fn a_broken_chain_is_shown_by_info_and_refused_by_list() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    image.bitmap(&["--add"], "x->y");
    image.bitmap(&["--add"], "y->x");
    let info = checkmap!("info", image.path, "--json");
    assert_eq!((info.json()["model"].clone(), info.json()["checkpoints"].clone()), (json!("interval"), json!([])));
    assert_eq!(info.json()["bitmaps"][0]["since"], Value::Null);
    info.says("lies on a cycle");
    checkmap!("list", image.path).fails(3, "lies on a cycle");
    assert_eq!(checkmap!("check", image.path).status, Some(1));
}

#[test]
fn damage_is_shown_as_far_as_possible_and_ends_with_1() {
    needs_tools!();
    let image = three_checkpoints();
    let info = checkmap!("info", image.path, "--json").json();
    assert_eq!(info["bitmaps"].as_array().unwrap().len(), 3);
    // The third bitmap's table then lies in the middle of a cluster.
    poke(&image.path, entry_of(&image.path, b"tue->wed") + 6, |byte| byte | 2);
    for verb in ["info", "list"] {
        let shown = checkmap!(verb, image.path, "--json");
        assert_eq!(shown.status, Some(1), "{}", shown.stderr);
        let json: Value = serde_json::from_slice(&shown.stdout).expect("what can be shown is shown");
        let first = if verb == "info" { &json["bitmaps"][0] } else { &json[0] };
        assert_eq!(first["name"], "mon");
        assert!(shown.stderr.contains("offset 0x"), "{}", shown.stderr);
    }
    let check = checkmap!("check", image.path, "--json");
    assert_eq!(check.status, Some(1));
    let report: Value = serde_json::from_slice(&check.stdout).unwrap();
    assert!(report["errors"].as_u64().unwrap() > 0);
    for key in ["severity", "structure", "offset", "message"] {
        assert!(report["problems"][0].get(key).is_some(), "{key}");
    }
}

#[test]
fn check_reports_a_header_that_cannot_be_read_as_a_finding() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    poke(&image.path, 79, |bits| bits | 0x80);
    let check = checkmap!("check", image.path, "--json");
    assert_eq!(check.status, Some(1));
    let report: Value = serde_json::from_slice(&check.stdout).unwrap();
    assert_eq!((&report["errors"], &report["format"]), (&json!(1), &json!("qcow2")));
    assert_eq!(report["problems"][0]["severity"], "error");
    checkmap!("info", image.path).fails(1, "qcow2 header");
}

#[test]
fn check_gives_leaks_as_bytes_and_ends_with_0() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    image.write(0, 65536);
    let clean = checkmap!("check", image.path, "--json").json();
    let name = image.path.to_str().unwrap();
    let expected =
        json!({"image": name, "format": "qcow2", "errors": 0, "unusable": 0, "leaked_bytes": 0, "problems": []});
    assert_eq!(clean, expected);
    // Cluster 0x50000 is counted in the refcount block at 0x20000, but nothing uses a cluster past the end of the disk's.
    let table = u64::from_be_bytes(fs::read(&image.path).unwrap()[0x10000..0x10008].try_into().unwrap());
    let used = fs::metadata(&image.path).unwrap().len() / 65536;
    fs::OpenOptions::new().write(true).open(&image.path).unwrap().set_len((used + 1) * 65536).unwrap();
    let at = usize::try_from(table + used * 2 + 1).unwrap();
    poke(&image.path, at, |_| 1);
    let leaky = checkmap!("check", image.path, "--json").json();
    assert_eq!((&leaky["errors"], &leaky["leaked_bytes"]), (&json!(0), &json!(65536)));
    assert!(checkmap!("check", image.path).ok().contains("64 KiB leaked"));
}

#[test]
fn names_that_are_not_utf8_are_lossy_with_their_exact_bytes_beside() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    image.bitmap(&["--add"], bytes_of(b"m\xffn"));
    checkmap!("create", image.path, bytes_of(b"\xfe")).ok();
    let info = checkmap!("info", image.path, "--json").json();
    assert_eq!(
        (&info["bitmaps"][0]["name"], &info["bitmaps"][0]["name_hex"]),
        (&json!("m\u{fffd}n"), &json!("6dff6e"))
    );
    assert_eq!(info["bitmaps"][0]["until_hex"], "fe");
    assert_eq!(info["checkpoints"][1]["parent_hex"], "6dff6e");
    let list = checkmap!("list", image.path, "--json").json();
    assert_eq!((&list[1]["name_hex"], &list[1]["bitmap_hex"]), (&json!("fe"), &json!("6dff6e2d3efe")));
    let diff = checkmap!("diff", image.path, "--since", bytes_of(b"m\xffn"), "--json").json();
    assert_eq!((&diff["since"], &diff["since_hex"]), (&json!("m\u{fffd}n"), &json!("6dff6e")));
    assert!(info["bitmaps"][0].get("granularity").is_some());
    assert!(checkmap!("check", image.path, "--json").json().get("errors").is_some());
}

#[test]
fn showing_changes_nothing() {
    needs_tools!();
    let image = three_checkpoints();
    let before = fs::read(&image.path).unwrap();
    for verb in ["info", "list", "check"] {
        checkmap!(verb, image.path).ok();
        checkmap!(verb, image.path, "--json").ok();
    }
    checkmap!("diff", image.path, "--since", "mon").ok();
    checkmap!("dump", image.path, "--bitmap", "mon").ok();
    assert!(same_file(&image.path, &before));
}
