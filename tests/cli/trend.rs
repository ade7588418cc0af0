//! trend and report: their numbers against diff and sets of granules, and the page as an XML parser of others reads it.

use crate::draw::{assert_golden, assert_well_formed, painted};
use crate::support::{TestImage, run};
use crate::{SIZE, checkmap, command, extents, needs_tools, three_checkpoints};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;

const G: u64 = 65536;

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// The bytes and the extents of some extents at granules of `granule` bytes, on a disk of `size`.
fn naive(extents: &[(u64, u64)], granule: u64, size: u64) -> (u64, u64) {
    let granules = |(start, len): &(u64, u64)| start / granule..=(start + len - 1) / granule;
    let dirty: BTreeSet<u64> = extents.iter().flat_map(granules).collect();
    let runs = dirty.iter().filter(|at| **at == 0 || !dirty.contains(&(**at - 1))).count();
    (dirty.iter().map(|at| (size - at * granule).min(granule)).sum(), runs as u64)
}

#[test]
fn json_is_what_diffs_come_to() {
    needs_tools!();
    let image = three_checkpoints();
    let trend = checkmap!("trend", image.path, "--json").json();
    let [disk] = trend["disks"].as_array().unwrap().as_slice() else { panic!("{trend}") };
    assert_eq!((&disk["virtual_size"], &disk["model"]), (&json!(SIZE), &json!("interval")));
    let diff = |words: &[&str]| {
        let words = [&["diff", image.path.to_str().unwrap(), "--json", "--since"], words].concat();
        let output = command(&words.into_iter().map(OsString::from).collect::<Vec<_>>()).output().unwrap();
        extents(&serde_json::from_slice(&output.stdout).unwrap())
    };
    let spans = [&["mon", "--until", "tue"][..], &["tue", "--until", "wed"], &["wed"]].map(diff);
    let names = [("mon", json!("tue")), ("tue", json!("wed")), ("wed", Value::Null)];
    let intervals = disk["intervals"].as_array().unwrap();
    assert_eq!(intervals.len(), 3);
    for ((interval, (since, until)), span) in intervals.iter().zip(names).zip(&spans) {
        let bytes: u64 = span.iter().map(|(_, len)| len).sum();
        let expected = json!({"since": since, "until": until, "dirty_bytes": bytes, "dirty_extents": span.len()});
        assert_eq!(interval, &expected);
    }
    let next = disk["next_increment"].as_array().unwrap();
    assert_eq!(next.len(), 11);
    for (row, granule) in next.iter().zip((12..).map(|bits| 1u64 << bits)) {
        let is_known = granule >= G;
        let naive = spans.each_ref().map(|span| naive(span, granule.max(G), SIZE));
        let mean = (naive[0].0 + naive[1].0) / 2;
        let expected = json!({
            "granularity": granule, "dirty_bytes": naive[2].0, "upper_bound": !is_known,
            "dirty_extents": if is_known { json!(naive[2].1) } else { Value::Null },
            "mean_dirty_bytes": mean, "mean_upper_bound": !is_known, "bitmap_bytes": SIZE.div_ceil(granule * 8),
        });
        assert_eq!(row, &expected);
    }
}

/// The figures for coarser granularities are those that bitmaps of these granularities record.
#[test]
fn coarser_bitmaps_record_what_was_told() {
    needs_tools!();
    let record = |granularity: &str| {
        let image = TestImage::create("", "64M");
        checkmap!("create", image.path, "mon", "--granularity", granularity).ok();
        image.io(&(0..30u64).map(|at| format!("write -z {} 4k", at * at * 61 % 16000 * 4096)).collect::<Vec<_>>());
        image
    };
    let fine = record("4K");
    let told = checkmap!("trend", fine.path, "--json").json();
    for granularity in ["64K", "1M", "4M"] {
        let coarse = record(granularity);
        let summary = checkmap!("diff", coarse.path, "--since", "mon", "--summary", "--json").json();
        let rows = told["disks"][0]["next_increment"].as_array().unwrap();
        let row = rows.iter().find(|row| row["granularity"] == summary["granularity"]).expect("a row");
        assert_eq!(
            (&row["dirty_bytes"], &row["dirty_extents"], &row["upper_bound"]),
            (&summary["dirty_bytes"], &summary["dirty_extents"], &json!(false)),
        );
        // Told from the coarse bitmap, the fine figure is only a bound.
        let bound = &checkmap!("trend", coarse.path, "--json").json()["disks"][0]["next_increment"][0];
        assert_eq!(bound["upper_bound"], json!(true));
        assert!(number(&bound["dirty_bytes"]) >= number(&told["disks"][0]["next_increment"][0]["dirty_bytes"]));
    }
}

#[test]
fn an_overlay_counts_with_its_layers_and_its_clusters_bound_what_is_known() {
    needs_tools!();
    let image = three_checkpoints();
    let top = image.folder.path().join("top.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "disk.qcow2", top.to_str().unwrap()]);
    run("qemu-io", &["-c", "write 5M 4k", top.to_str().unwrap()]);
    let trend = checkmap!("trend", top, "--json").json();
    let intervals = trend["disks"][0]["intervals"].as_array().unwrap();
    let since: Vec<&Value> = intervals.iter().map(|interval| &interval["since"]).collect();
    assert_eq!(since, ["mon", "tue", "wed"]);
    for interval in intervals {
        let since = interval["since"].as_str().unwrap();
        let diff = match interval["until"].as_str() {
            Some(until) => checkmap!("diff", top, "--since", since, "--until", until, "--summary", "--json").json(),
            None => checkmap!("diff", top, "--since", since, "--summary", "--json").json(),
        };
        assert_eq!(interval["dirty_bytes"], diff["dirty_bytes"], "{trend}");
    }
    let next = trend["disks"][0]["next_increment"].as_array().unwrap();
    assert!(next.iter().all(|row| row["upper_bound"] == json!(number(&row["granularity"]) < G)), "{trend}");
}

#[test]
fn what_cannot_be_told_is_said() {
    needs_tools!();
    let none = TestImage::create("", "1M");
    assert!(checkmap!("trend", none.path).ok().contains("There is no checkpoint."));
    let json = checkmap!("trend", none.path, "--json").json();
    assert_eq!((&json["disks"][0]["intervals"], &json["disks"][0]["next_increment"]), (&json!([]), &json!([])));
    let page = checkmap!("report", none.path).ok().to_owned();
    assert!(page.contains("There is no map") && page.contains("There is no checkpoint."), "{page}");
    // A bitmap that somebody took away: a gap.
    let image = three_checkpoints();
    image.bitmap(&["--remove"], "mon->tue");
    let ran = checkmap!("trend", image.path);
    ran.says("the checkpoint that followed is missing");
    let json = checkmap!("trend", image.path, "--json").json();
    let intervals = json["disks"][0]["intervals"].as_array().unwrap();
    let told: Vec<bool> = intervals.iter().map(|interval| interval["dirty_bytes"].is_u64()).collect();
    assert_eq!((told, intervals[0]["reason"].is_string()), (vec![false, true], true), "{json}");
    // Cumulative checkpoints tell what changed since each of them.
    let image = TestImage::create("", "8M");
    for (checkpoint, offset) in [("a", 0), ("b", 1 << 20)] {
        checkmap!("create", image.path, checkpoint, "--model", "cumulative").ok();
        image.write(offset, G);
    }
    let json = checkmap!("trend", image.path, "--json").json();
    let bytes: Vec<u64> =
        json["disks"][0]["intervals"].as_array().unwrap().iter().map(|span| number(&span["dirty_bytes"])).collect();
    assert_eq!((bytes, &json["disks"][0]["model"]), (vec![2 * G, G], &json!("cumulative")));
    checkmap!("trend", image.path, "--format", "png", "-o", image.folder.path().join("x.png")).fails(2, "svg");
}

#[test]
fn text_fits_its_width_and_bars_are_in_proportion() {
    needs_tools!();
    let image = three_checkpoints();
    for width in [40, 80, 200usize] {
        let text = checkmap!("trend", image.path, "--width", width.to_string()).ok().to_owned();
        assert!(text.lines().all(|line| line.chars().count() <= width), "{text}");
        let bar = |label: &str| {
            let line = text.lines().find(|line| line.starts_with(label)).unwrap_or_else(|| panic!("{label}: {text}"));
            line.chars().filter(|char| "█▉▊▋▌▍▎▏".contains(*char)).count()
        };
        let (small, large) = (bar("'mon'"), bar("'tue'"));
        assert!(large > 2 && (3 * small).abs_diff(large) <= 3, "{text}");
        assert!(text.contains('≤'), "{text}");
        assert_eq!(text.contains("MEAN BEFORE"), width > 40);
    }
    let colored = checkmap!("trend", image.path, "--color", "always").ok().to_owned();
    assert!(colored.contains("\u{1b}[38;2;"), "{colored}");
}

#[test]
fn several_disks_have_their_sum_and_one_picture() {
    needs_tools!();
    let (first, second) = (three_checkpoints(), three_checkpoints());
    let one = checkmap!("trend", first.path).ok().to_owned();
    let both = checkmap!("trend", first.path, second.path).ok().to_owned();
    assert!(!one.contains("All disks") && both.contains("All disks: 2 disks, 19.1 MiB"), "{both}");
    let json = checkmap!("trend", first.path, second.path, "--json").json();
    assert_eq!(json["disks"].as_array().map(Vec::len), Some(2));
    let svg = checkmap!("trend", first.path, second.path, "--format", "svg").ok().to_owned();
    assert_eq!((svg.matches("class=\"h\"").count(), svg.matches("<svg").count()), (3, 1));
}

#[test]
fn the_committed_trend_is_the_one_that_is_drawn() {
    needs_tools!();
    let image = painted();
    checkmap!("create", image.path, "tue").ok();
    image.io(&["write -z 100M 30M".into(), "write -z 500M 64k".into()]);
    checkmap!("create", image.path, "wed").ok();
    image.io(&(0..50u64).map(|at| format!("write -z {} 4k", at * at * 113 % 9600 * G)).collect::<Vec<_>>());
    let words = ["trend", "disk.qcow2", "-o", "trend.svg"].map(OsString::from);
    assert!(command(&words).current_dir(image.folder.path()).status().expect("checkmap runs").success());
    assert_golden("trend.svg", &fs::read(image.folder.path().join("trend.svg")).expect("the picture is there"));
    assert_well_formed(image.folder.path(), "trend.svg");
}

#[test]
fn a_report_is_one_page_that_takes_nothing_from_elsewhere() {
    needs_tools!();
    let image = three_checkpoints();
    let folder = image.folder.path();
    let strange = folder.join("<b>&\"'.qcow2");
    fs::copy(&image.path, &strange).unwrap();
    assert!(checkmap!("report", image.path, strange, "-o", folder.join("disks.html")).ok().is_empty());
    assert!(
        checkmap!("backup", image.path, "-o", folder.join("backups"), "--checkpoint", "one", "--quiet").ok().is_empty()
    );
    image.write(0, G);
    checkmap!("backup", image.path, "-o", folder.join("backups"), "--checkpoint", "two", "--quiet").ok();
    checkmap!("report", folder.join("backups"), "-o", folder.join("backups.html")).ok();
    for file in ["disks.html", "backups.html"] {
        let page = fs::read_to_string(folder.join(file)).unwrap();
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        assert!(page.contains("prefers-color-scheme:dark") && !page.contains("<script"), "{page}");
        assert_well_formed(folder, file);
    }
    let page = fs::read_to_string(folder.join("disks.html")).unwrap();
    assert_eq!(
        (page.matches("<svg").count(), page.matches("<section>").count(), page.matches("<style").count()),
        (4, 2, 1)
    );
    assert!(page.contains("changed since 'wed'"), "{page}");
    let page = fs::read_to_string(folder.join("backups.html")).unwrap();
    // The last cluster is of the disk in part only, and goes into each backup.
    let held = "held by the newest backup, 'two' (changes): 2 extents, 103.5 KiB of 9.6 MiB";
    for words in [held, "2 moments of the image", "<td class=\"l\">changes</td>"] {
        assert!(page.contains(words), "{words}: {page}");
    }
    // A list that cannot be read costs the map alone, and the status says so.
    fs::write(folder.join("backups/disk.qcow2/two.sums"), "nonsense").unwrap();
    let ran = checkmap!("report", folder.join("backups"), "-o", folder.join("backups.html"));
    assert_eq!((ran.status, ran.stderr.contains("two.sums")), (Some(1), true), "{}", ran.stderr);
    let page = fs::read_to_string(folder.join("backups.html")).unwrap();
    assert!(page.contains("There is no map of the newest backup") && page.contains("2 moments"), "{page}");
    assert!(checkmap!("report", image.path, "--since", "tue").ok().contains("changed since 'tue'"));
    checkmap!("report", folder.join("backups"), "--since", "one").fails(2, "not for a backup directory");
    checkmap!("report", image.path, "-o", image.path).fails(2, "the image itself");
    checkmap!("report", image.path, "--since", "sat").fails(3, "sat");
}
