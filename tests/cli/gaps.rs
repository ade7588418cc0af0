//! A chain from which somebody took a bitmap: what lies beside the gap works, and nothing bridges it.

use crate::support::{TestImage, run};
use crate::{bitmaps, checkmap, extents, needs_tools, three_checkpoints};
use serde_json::{Value, json};

/// mon, tue, wed and thu, with a write in each interval, of which `lost` is removed by hand.
pub(crate) fn without(lost: &[&str]) -> TestImage {
    let image = TestImage::create("", "16M");
    for (at, name) in (1..).zip(["mon", "tue", "wed", "thu"]) {
        checkmap!("create", image.path, name).ok();
        image.write(at << 20, 65536);
    }
    for bitmap in lost {
        image.bitmap(&["--remove"], bitmap);
    }
    image
}

/// Where the changes since a checkpoint begin, in MiB.
fn changed(image: &TestImage, since: &str) -> Vec<u64> {
    let diff = checkmap!("diff", image.path, "--since", since, "--json").json();
    extents(&diff).iter().map(|(start, _)| start >> 20).collect()
}

#[test]
fn a_gap_is_shown_and_both_sides_stay_usable() {
    needs_tools!();
    let image = without(&["mon->tue"]);
    let rows = json!([
        {"name": "mon", "parent": null, "bitmap": "mon"},
        {"name": "wed", "parent": null, "gap": true, "bitmap": "tue->wed"},
        {"name": "thu", "parent": "wed", "bitmap": "wed->thu"},
    ]);
    let info = checkmap!("info", image.path, "--json");
    assert_eq!(info.json()["checkpoints"], rows);
    info.says("`checkmap drop --before wed`");
    let listed = checkmap!("list", image.path, "--json").json();
    for (row, expected) in listed.as_array().unwrap().iter().zip(rows.as_array().unwrap()) {
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(&row[key], value, "{key}");
        }
        assert_eq!(row.get("gap"), expected.get("gap"));
    }
    let bitmap = &info.json()["bitmaps"][0];
    assert_eq!((&bitmap["name"], &bitmap["since"], &bitmap["until"]), (&json!("mon"), &json!("mon"), &Value::Null));
    assert!(checkmap!("list", image.path).ok().contains("(gap)"));
    assert!(checkmap!("info", image.path).ok().contains("(gap)"));
    checkmap!("check", image.path).ok();

    for args in [&["--since", "mon"][..], &["--since", "mon", "--until", "wed"], &["--since", "mon", "--until", "thu"]]
    {
        let mut all = vec!["diff".into(), image.path.clone().into_os_string()];
        all.extend(args.iter().map(Into::into));
        crate::Ran::of(crate::command(&all).output().unwrap()).fails(3, "a gap follows 'mon'");
    }
    assert_eq!((changed(&image, "wed"), changed(&image, "thu")), (vec![3, 4], vec![4]));
    checkmap!("diff", image.path, "--since", "mon", "--until", "tue").fails(3, "'tue'");
    checkmap!("create", image.path, "fri").ok();
    image.write(5 << 20, 65536);
    assert_eq!((changed(&image, "wed"), changed(&image, "fri")), (vec![3, 4, 5], vec![5]));
    checkmap!("rename", image.path, "wed", "w").ok();
    checkmap!("delete", image.path, "thu").ok();
    assert_eq!(bitmaps(&image), ["mon", "tue->w", "+w->fri"]);
    assert_eq!(changed(&image, "w"), [3, 4, 5]);
    image.assert_clean("changes beside a gap");
}

#[test]
fn a_name_that_only_a_gap_mentions_cannot_close_a_cycle() {
    needs_tools!();
    let image = without(&["mon->tue"]);
    checkmap!("create", image.path, "tue").fails(3, "still follows a checkpoint 'tue'");
    checkmap!("rename", image.path, "thu", "tue").fails(3, "still follows a checkpoint 'tue'");
    checkmap!("drop", image.path, "--before", "wed").ok();
    checkmap!("create", image.path, "tue").ok();
    assert_eq!(bitmaps(&image), ["wed", "wed->thu", "+thu->tue"]);
}

#[test]
fn deleting_the_first_after_a_gap_leaves_the_gap() {
    needs_tools!();
    let image = without(&["mon->tue"]);
    checkmap!("delete", image.path, "wed").ok();
    assert_eq!(bitmaps(&image), ["mon", "+tue->thu"]);
    checkmap!("diff", image.path, "--since", "mon").fails(3, "a gap follows 'mon'");
    assert_eq!(changed(&image, "thu"), [4]);
    checkmap!("delete", image.path, "mon").ok();
    assert_eq!(bitmaps(&image), ["+tue->thu"]);
    assert_eq!(checkmap!("list", image.path, "--json").json()[0]["gap"], true);
    checkmap!("delete", image.path, "thu").says("the next backup must be full");
    assert_eq!(bitmaps(&image), [""; 0]);
}

#[test]
fn a_chain_without_a_root_or_with_several_gaps_goes_on() {
    needs_tools!();
    let image = without(&["mon"]);
    assert_eq!(changed(&image, "tue"), [2, 3, 4]);
    checkmap!("create", image.path, "fri").ok();
    let gaps = without(&["mon", "tue->wed"]);
    assert_eq!(checkmap!("list", gaps.path, "--json").json().as_array().unwrap().len(), 2);
    checkmap!("diff", gaps.path, "--since", "tue").fails(3, "a gap follows 'mon->tue'");
    assert_eq!(changed(&gaps, "thu"), [4]);
    checkmap!("create", gaps.path, "fri").ok();
    checkmap!("drop", gaps.path, "--before", "thu").ok();
    assert_eq!(bitmaps(&gaps), ["thu", "+thu->fri"]);
    gaps.assert_clean("several gaps");
}

#[test]
fn a_crash_beside_a_gap_has_the_way_out_that_info_names() {
    needs_tools!();
    let image = without(&["mon->tue"]);
    drop(crate::Holder::open(&image.path, &[]));
    let info = checkmap!("info", image.path);
    info.says("`checkmap delete --all-inconsistent`");
    let first = info.stderr.find("`checkmap delete --all").unwrap();
    assert!(info.stderr.find("`checkmap drop").is_none_or(|drop| first < drop), "the first command named works");
    checkmap!("delete", "--all-inconsistent", image.path).says("every diff since 'mon', 'wed', 'thu' is lost");
    assert_eq!(bitmaps(&image), [""; 0]);
    checkmap!("create", image.path, "fri").ok();
}

#[test]
fn create_says_that_the_root_stops_only_when_it_does() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    let stops = "stops recording";
    assert!(!checkmap!("create", image.path, "mon").stderr.contains(stops));
    checkmap!("create", image.path, "tue").says(stops);
    assert!(!checkmap!("create", image.path, "wed").stderr.contains(stops));
    let frozen = TestImage::create("", "1M");
    frozen.bitmap(&["--add", "--disable"], "mon");
    assert!(!checkmap!("create", frozen.path, "tue", "--model", "interval").stderr.contains(stops));
    let full = TestImage::create("", "1M");
    full.bitmap(&["--add"], "mon");
    assert!(!checkmap!("create", full.path, "tue", "--granularity", "256").stderr.contains(stops));
    assert!(!checkmap!("create", full.path, "mon").stderr.contains(stops));
}

#[test]
fn what_a_commit_would_have_changed_is_not_told_when_it_fails() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    checkmap!("create", image.path, "mon").ok();
    let size = std::fs::metadata(&image.path).unwrap().len().to_string();
    // The file cannot grow by a byte; the signal of that limit is ignored, so that the write fails.
    let script = r#"trap "" XFSZ; exec prlimit --fsize="$0" "$@""#;
    let program = env!("CARGO_BIN_EXE_checkmap");
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, &size, program, "create"]).arg(&image.path).arg("tue");
    let ran = crate::Ran::of(shell.output().unwrap());
    assert_eq!(ran.status, Some(1), "{}", ran.stderr);
    assert!(!ran.stderr.contains("stops recording"), "{}", ran.stderr);
    assert_eq!(bitmaps(&image), ["+mon"]);
    checkmap!("create", image.path, "tue").says("stops recording");
}

#[test]
fn create_says_that_internal_snapshots_cannot_be_applied_any_more() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    run("qemu-img", &["snapshot".as_ref(), "-c".as_ref(), "before".as_ref(), image.path.as_os_str()]);
    let apply = || {
        let args = ["snapshot".as_ref(), "-a".as_ref(), "before".as_ref(), image.path.as_os_str()];
        crate::support::try_run("qemu-img", &args).status.success()
    };
    assert!(apply());
    checkmap!("create", image.path, "mon").says("internal snapshots");
    assert!(!apply(), "QEMU refuses it, as we say");
    checkmap!("drop", image.path, "--all").ok();
    assert!(apply());
    assert!(!checkmap!("create", three_checkpoints().path, "thu").stderr.contains("snapshot"));
}
