//! Several checkpoints deleted in one step, and how much changed since each of them.

use crate::support::{TestImage, nbd, run};
use crate::{SIZE, bitmaps, checkmap, mark_inconsistent, needs_tools, same_file, three_checkpoints};
use checkmap::Extent;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Six checkpoints, the third and fourth with granularities of their own, and what QEMU sees in the bitmap of each.
fn six() -> (TestImage, Vec<Vec<Extent>>) {
    let image = TestImage::create("", &SIZE.to_string());
    for (number, name) in (0_u64..).zip(NAMES) {
        let granularity = ["64K", "64K", "16K", "128K", "64K", "64K"][usize::try_from(number).unwrap()];
        checkmap!("create", image.path, name, "--granularity", granularity).ok();
        let writes =
            [(number * 1_000_000, 200_000), (5_000_000 + number * 70_000, 512), (SIZE - 512 * (number + 1), 512)];
        image.io(&writes.map(|(offset, len)| format!("write {offset} {len}")));
    }
    let dirty = (0..NAMES.len()).map(|at| nbd::dirty(&image.path, bitmap(&NAMES, at))).collect();
    (image, dirty)
}

fn bitmap(names: &[&str], at: usize) -> String {
    match at {
        0 => names[0].to_owned(),
        at => format!("{}->{}", names[at - 1], names[at]),
    }
}

/// What a bitmap of this granularity marks that has to hold these extents too.
fn absorbed(own: &[Extent], more: &[Extent], granularity: u64) -> Vec<Extent> {
    let mut marks = vec![false; usize::try_from(SIZE.div_ceil(granularity)).unwrap()];
    for extent in own.iter().chain(more) {
        let granules = extent.offset / granularity..(extent.offset + extent.len_bytes).div_ceil(granularity);
        granules.for_each(|granule| marks[usize::try_from(granule).unwrap()] = true);
    }
    let mut extents: Vec<Extent> = Vec::new();
    for (at, _) in (0_u64..).zip(&marks).filter(|(_, mark)| **mark) {
        let (offset, end) = (at * granularity, ((at + 1) * granularity).min(SIZE));
        match extents.last_mut() {
            Some(last) if last.offset + last.len_bytes == offset => last.len_bytes = end - last.offset,
            _ => extents.push(Extent { offset, len_bytes: end - offset }),
        }
    }
    extents
}

#[test]
fn several_checkpoints_go_in_one_step_and_the_others_keep_their_bits() {
    needs_tools!();
    let granularities = [65536, 65536, 16384, 131_072, 65536, 65536];
    for words in [vec!["b..d"], vec!["c", "a", "f", "c"], vec!["a..b", "e"], vec!["a..e"], vec!["b..f"]] {
        let (image, dirty) = six();
        let mut args = vec!["delete".into(), image.path.clone().into_os_string()];
        args.extend(words.iter().map(Into::into));
        crate::Ran::of(crate::command(&args).output().unwrap()).says("deleted checkpoint");

        let is_gone = |at: usize| {
            words.iter().any(|word| match word.split_once("..") {
                Some((from, to)) => (from..=to).contains(&NAMES[at]),
                None => NAMES[at] == *word,
            })
        };
        let left: Vec<usize> = (0..NAMES.len()).filter(|at| !is_gone(*at)).collect();
        let names: Vec<&str> = left.iter().map(|at| NAMES[*at]).collect();
        let mut expected: Vec<String> = (0..left.len()).map(|at| bitmap(&names, at)).collect();
        let last = expected.last_mut().unwrap();
        *last = format!("+{last}");
        let mut found = bitmaps(&image);
        found.sort_by_key(|name| name.chars().last());
        assert_eq!(found, expected, "{words:?}");
        for (number, at) in left.iter().copied().enumerate() {
            let end = left.get(number + 1).copied().unwrap_or(NAMES.len());
            let more = dirty[at + 1..end].concat();
            let expected = absorbed(&dirty[at], &more, granularities[at]);
            assert_eq!(nbd::dirty(&image.path, bitmap(&names, number)), expected, "{words:?}: {}", NAMES[at]);
        }
        image.assert_clean(&format!("{words:?}"));
        assert!(checkmap!("check", image.path).ok().contains("no errors"));
    }
}

#[test]
fn all_checkpoints_at_once_end_the_tracking() {
    needs_tools!();
    let (image, _) = six();
    checkmap!("delete", image.path, "a..f").says("tracking ends");
    assert_eq!(bitmaps(&image), [""; 0]);
    image.assert_clean("all");
}

#[test]
fn a_dry_run_of_several_says_every_step_and_changes_nothing() {
    needs_tools!();
    let image = three_checkpoints();
    let before = fs::read(&image.path).unwrap();
    let steps = checkmap!("delete", image.path, "tue..wed", "--dry-run").ok().to_owned();
    let expected =
        "merge 'mon->tue', 'tue->wed' into 'mon'\nstart recording in 'mon'\nremove 'mon->tue'\nremove 'tue->wed'\n";
    assert_eq!(steps, expected);
    assert!(same_file(&image.path, &before));
}

#[test]
fn what_refuses_one_refuses_all_and_changes_nothing() {
    needs_tools!();
    let image = three_checkpoints();
    let before = fs::read(&image.path).unwrap();
    checkmap!("delete", image.path, "mon", "thu").fails(3, "no checkpoint is named 'thu'");
    checkmap!("delete", image.path, "wed..mon").fails(3, "'wed' is younger than 'mon'");
    checkmap!("delete", image.path, "mon..wde").fails(3, "did you mean 'wed'?");
    checkmap!("delete", image.path, "mon..").fails(3, "no checkpoint is named 'mon..'");
    checkmap!("delete", image.path).fails(2, "<CHECKPOINT>");
    checkmap!("delete", image.path, "mon", "--all-inconsistent").fails(2, "cannot be used with");
    assert!(same_file(&image.path, &before));
    let cumulative = TestImage::create("", "1M");
    for name in ["a", "b", "c"] {
        cumulative.bitmap(&["--add"], name);
    }
    checkmap!("delete", cumulative.path, "a..b").fails(3, "no place in a chain");
    checkmap!("delete", cumulative.path, "a", "b").ok();
    assert_eq!(bitmaps(&cumulative), ["+c"]);
}

#[test]
fn a_checkpoint_whose_name_looks_like_a_range_is_that_checkpoint() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    for name in ["a", "a..c", "b", "c"] {
        checkmap!("create", image.path, name).ok();
    }
    checkmap!("delete", image.path, "a..c").ok();
    assert_eq!(bitmaps(&image), ["a", "a->b", "+b->c"]);
    checkmap!("delete", image.path, "a..c").ok();
    assert_eq!(bitmaps(&image), [""; 0]);
}

#[test]
fn force_goes_first_where_several_are_named() {
    needs_tools!();
    let image = three_checkpoints();
    checkmap!("create", image.path, "thu").ok();
    mark_inconsistent(&image.path, b"mon->tue");
    checkmap!("delete", image.path, "tue..thu").fails(3, "--force-inconsistent");
    checkmap!("delete", image.path, "tue", "thu", "--force-inconsistent").says("every diff since 'mon', 'tue' is lost");
    assert_eq!(bitmaps(&image), ["+wed"]);
    image.assert_clean("force");
}

/// For each checkpoint, its name and how much changed since.
fn since(image: &TestImage) -> Vec<(String, Option<u64>)> {
    let list = checkmap!("list", image.path, "--json");
    let list: Value = serde_json::from_slice(&list.stdout).expect("a list");
    let rows = list.as_array().unwrap().iter();
    rows.map(|row| (row["name"].as_str().unwrap().to_owned(), row["since_bytes"].as_u64())).collect()
}

/// The list says the same as a diff, and nothing where a diff is refused.
#[track_caller]
fn assert_as_diff(image: &TestImage) -> usize {
    let mut known = 0;
    for (name, bytes) in since(image) {
        let diff = checkmap!("diff", image.path, "--since", name, "--summary", "--json");
        match bytes {
            Some(bytes) => assert_eq!(diff.json()["dirty_bytes"], bytes, "{name}"),
            None => assert_eq!(diff.status, Some(3), "{name}: {}", diff.stderr),
        }
        known += usize::from(bytes.is_some());
    }
    known
}

#[test]
fn list_tells_how_much_changed_since_each_checkpoint() {
    needs_tools!();
    let (image, dirty) = six();
    assert_eq!(assert_as_diff(&image), 6);
    let newest: u64 = dirty[5].iter().map(|extent| extent.len_bytes).sum();
    assert_eq!(since(&image)[5], ("f".to_owned(), Some(newest)));
    let text = checkmap!("list", image.path).ok().to_owned();
    assert!(text.lines().next().unwrap().ends_with("UNTIL NOW"), "{text}");
    // A sum not known for one is not known for those before it.
    mark_inconsistent(&image.path, b"b->c");
    assert_eq!(assert_as_diff(&image), 3);
    assert!(checkmap!("list", image.path).ok().lines().nth(1).unwrap().ends_with('?'));
    checkmap!("drop", image.path, "--bitmap", "d->e").ok();
    assert_eq!(assert_as_diff(&image), 1);
    image.bitmap(&["--disable"], "e->f");
    assert_eq!(assert_as_diff(&image), 0);
    let cumulative = TestImage::create("", "4M");
    for (number, name) in ["x", "y", "z"].into_iter().enumerate() {
        cumulative.bitmap(&["--add"], name);
        cumulative.write(number as u64 * 100_000, 1000);
    }
    assert_eq!(assert_as_diff(&cumulative), 3);
}

#[test]
fn where_a_layer_below_takes_part_its_bits_count_too() {
    needs_tools!();
    let base = TestImage::create("", "4M");
    for name in ["1", "2"] {
        checkmap!("create", base.path, name).ok();
    }
    let path = base.folder.path().join("over.qcow2");
    let args = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "disk.qcow2"].map(OsStr::new);
    run("qemu-img", &[args.as_slice(), &[path.as_os_str()]].concat());
    let over = TestImage { path, ..base };
    over.bitmap(&["--add", "--disable"], "1");
    over.bitmap(&["--add", "--disable"], "1->2");
    over.bitmap(&["--add"], "2->3");
    over.write(0, 65536);
    assert_eq!(since(&over), ["1", "2", "3"].map(|name| (name.to_owned(), Some(65536))));
    assert_eq!(assert_as_diff(&over), 3);
    fs::remove_file(over.folder.path().join("disk.qcow2")).unwrap();
    assert_eq!(assert_as_diff(&over), 0);
}

#[test]
fn a_summary_is_the_sums_alone() {
    needs_tools!();
    let image = three_checkpoints();
    let all = checkmap!("diff", image.path, "--since", "mon").ok().to_owned();
    let sums = checkmap!("diff", image.path, "--since", "mon", "--summary").ok().to_owned();
    assert_eq!(Some(sums.trim_end()), all.lines().next());
    let json = checkmap!("diff", image.path, "--since", "mon", "--summary", "--json").json();
    let whole = checkmap!("diff", image.path, "--since", "mon", "--json").json();
    let number = whole["extents"].as_array().unwrap().len();
    let mut expected = whole;
    let keys = expected.as_object_mut().unwrap();
    keys.remove("extents");
    keys.insert("dirty_extents".to_owned(), number.into());
    assert_eq!(json, expected);
    checkmap!("dump", image.path, "--bitmap", "mon", "--summary").ok();
    checkmap!("diff", image.path, "--since", "mon", "--summary", "--format", "csv").fails(2, "--summary");
}

#[test]
fn tables_fit_80_columns_and_wide_shows_all() {
    needs_tools!();
    let image = TestImage::create("", "1M");
    let names = ["20261125T020000Z", "20261126T020000Z", &"x".repeat(300), "月曜日の前の日曜日の夜のバックアップです"];
    for name in names {
        checkmap!("create", image.path, name).ok();
    }
    for verb in ["list", "info"] {
        let text = checkmap!(verb, image.path).ok().to_owned();
        let table = text.lines().filter(|line| !line.starts_with("image:"));
        assert!(table.clone().all(|line| unicode_width::UnicodeWidthStr::width(line) <= 80), "{text}");
        assert!(text.contains('…') && text.contains("'20261125T02"), "{text}");
        let wide = checkmap!(verb, image.path, "--wide").ok().to_owned();
        assert!(!wide.contains('…') && wide.contains(&format!("'20261126T020000Z->{}'", names[2])), "{wide}");
    }
    checkmap!("list", image.path, "--wide", "--json").fails(2, "--json");
}
