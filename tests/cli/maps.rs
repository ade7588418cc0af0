//! diff and dump: every format against the tool that it imitates, and every window.

use crate::support::nbd::Served;
use crate::support::run;
use crate::{Ran, SIZE, checkmap, extents, needs_tools, three_checkpoints};
use roaring::RoaringTreemap;
use serde_json::{Value, json};
use std::path::Path;

const G: u64 = 65536;

fn roaring(ran: &Ran) -> Vec<u64> {
    RoaringTreemap::deserialize_from(ran.bytes()).expect("portable 64-bit Roaring").iter().collect()
}

#[test]
fn diff_json_has_the_keys_of_the_contract() {
    needs_tools!();
    let image = three_checkpoints();
    let diff = checkmap!("diff", image.path, "--since", "tue", "--json").json();
    let tail = SIZE - SIZE % G;
    let expected = json!({
        "virtual_size": SIZE, "granularity": G, "since": "tue", "until": null, "dirty_bytes": 3 * G + SIZE % G,
        "extents": [
            {"start": 16 * G, "length": 2 * G}, {"start": 48 * G, "length": G}, {"start": tail, "length": SIZE % G}
        ],
    });
    assert_eq!(diff, expected);
    assert_eq!(checkmap!("diff", image.path, "--since", "tue", "--format", "json").json(), expected);
}

#[test]
fn diff_joins_the_intervals_of_its_span() {
    needs_tools!();
    let image = three_checkpoints();
    let diff = |since: &str, until: &str| {
        let diff = checkmap!("diff", image.path, "--since", since, "--until", until, "--json").json();
        assert_eq!((&diff["since"], &diff["until"]), (&json!(since), &json!(until)));
        extents(&diff)
    };
    assert_eq!(diff("mon", "tue"), [(G, G)]);
    assert_eq!(diff("mon", "wed"), [(G, G), (16 * G, 2 * G), (48 * G, G)]);
    assert_eq!(diff("tue", "tue"), []);
    let all = checkmap!("diff", image.path, "--since", "mon", "--json").json();
    assert_eq!(extents(&all).len(), 4);
}

#[test]
fn dump_json_names_the_bitmap_and_its_interval() {
    needs_tools!();
    let image = three_checkpoints();
    let dump = checkmap!("dump", image.path, "--bitmap", "mon->tue", "--json").json();
    assert_eq!((&dump["bitmap"], &dump["since"], &dump["until"]), (&json!("mon->tue"), &json!("tue"), &json!("wed")));
    assert_eq!((&dump["virtual_size"], &dump["granularity"]), (&json!(SIZE), &json!(G)));
    image.bitmap(&["--add", "--disable"], "other");
    let other = checkmap!("dump", image.path, "--bitmap", "other", "--json").json();
    assert_eq!((&other["bitmap"], &other["since"], &other["until"]), (&json!("other"), &Value::Null, &Value::Null));
    assert_eq!(other["extents"], json!([]));
}

#[test]
fn nbdinfo_and_qemu_map_are_byte_for_byte_what_those_tools_print() {
    needs_tools!();
    let image = three_checkpoints();
    for bitmap in ["mon", "mon->tue", "tue->wed"] {
        let served = Served::start(&image.path, bitmap);
        let ours = checkmap!("dump", image.path, "--bitmap", bitmap, "--format", "nbdinfo");
        assert_eq!(ours.ok(), served.nbdinfo(), "{bitmap}");
        let ours = checkmap!("dump", image.path, "--bitmap", bitmap, "--format", "qemu-map");
        let theirs = served.qemu_map();
        // QEMU 7.2 prints no "compressed", and is the same otherwise; we print the form of newer ones.
        let tells = theirs.contains("\"compressed\"");
        eprintln!("{}: 'compressed' is {}", qemu_version(), if tells { "printed" } else { "not printed" });
        let ours = if tells { ours.ok().to_owned() } else { ours.ok().replace(", \"compressed\": false", "") };
        assert_eq!(ours, theirs, "{bitmap}");
    }
}

fn qemu_version() -> String {
    run("qemu-img", &["--version"]).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn csv_has_a_header_and_one_extent_a_line() {
    needs_tools!();
    let image = three_checkpoints();
    let csv = checkmap!("diff", image.path, "--since", "mon", "--until", "wed", "--format", "csv");
    assert_eq!(csv.ok(), "start,length\n65536,65536\n1048576,131072\n3145728,65536\n");
}

#[test]
fn the_table_is_what_people_get() {
    needs_tools!();
    let image = three_checkpoints();
    let table = checkmap!("diff", image.path, "--since", "mon", "--until", "tue");
    let lines: Vec<&str> = table.ok().lines().collect();
    assert_eq!(lines[0], "changed since 'mon' until 'tue': 1 extent, 64 KiB of 9.6 MiB, granularity 64 KiB");
    assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["65536", "65536", "64", "KiB"]);
    assert!(checkmap!("diff", image.path, "--since", "tue", "--until", "tue").ok().contains("0 extents"));
}

#[test]
fn roaring_holds_the_indices_of_dirty_granules() {
    needs_tools!();
    let image = three_checkpoints();
    let all = checkmap!("diff", image.path, "--since", "mon", "--format", "roaring");
    assert_eq!(roaring(&all), [1, 16, 17, 48, 152]);
}

#[test]
fn raw_is_one_bit_for_each_granule_with_a_zero_tail() {
    needs_tools!();
    let image = three_checkpoints();
    let raw = checkmap!("diff", image.path, "--since", "mon", "--format", "raw");
    let mut expected = vec![0_u8; 20];
    for granule in [1, 16, 17, 48, 152] {
        expected[granule / 8] |= 1 << (granule % 8);
    }
    assert_eq!(raw.bytes(), expected, "153 granules are 20 bytes");
}

#[test]
fn a_window_clips_the_extent_formats_and_covers_only_it() {
    needs_tools!();
    let image = three_checkpoints();
    let window = |format: &str, start: u64, length: u64| {
        let (start, length) = (start.to_string(), length.to_string());
        checkmap!("diff", image.path, "--since", "mon", "--format", format, "--start", start, "--length", length)
    };
    // From the middle of granule 17 to one byte past the start of granule 48.
    let (start, length) = (17 * G + 100, 31 * G - 99);
    let json = window("json", start, length).json();
    assert_eq!(extents(&json), [(start, G - 100), (48 * G, 1)]);
    assert_eq!(json["dirty_bytes"], G - 99, "that of the window");
    assert_eq!(json["virtual_size"], SIZE);
    assert_eq!(window("csv", start, length).ok(), format!("start,length\n{start},{}\n{},1\n", G - 100, 48 * G));
    let runs: Value = window("nbdinfo", start, length).json();
    let runs = runs.as_array().unwrap();
    assert_eq!((&runs[0]["offset"], &runs[0]["type"]), (&json!(start), &json!(1)));
    let covered: u64 = runs.iter().map(|run| run["length"].as_u64().unwrap()).sum();
    assert_eq!((runs.len(), covered), (3, length));
    let runs = window("qemu-map", start, length).json();
    assert_eq!((&runs[1]["start"], &runs[1]["data"]), (&json!(18 * G), &json!(true)));
    assert_eq!(
        roaring(&window("roaring", start, length)),
        [17, 48],
        "absolute, those that touch the window, no others"
    );
    assert_eq!(roaring(&window("roaring", 18 * G, 30 * G)), [0; 0], "not those of the same cluster of storage");
    assert_eq!(roaring(&window("roaring", 0, G + 1)), [1]);
}

#[test]
fn a_window_of_raw_begins_at_whole_bytes_and_masks_its_end() {
    needs_tools!();
    let image = three_checkpoints();
    let raw = |start: &str, length: &str| {
        checkmap!("diff", image.path, "--since", "mon", "--format", "raw", "--start", start, "--length", length)
    };
    assert_eq!(raw("1M", "64K").bytes(), [0b1], "granule 17 is past the window");
    assert_eq!(raw("1M", "65537").bytes(), [0b11], "granule 17 is touched");
    assert_eq!(raw("1M", "1M").bytes(), [0b11, 0]);
    assert_eq!(raw("0", "0").bytes(), [0_u8; 0]);
    raw("64K", "1M").fails(2, "multiple of 524288");
}

#[test]
fn a_window_past_the_end_is_a_usage_error_and_a_long_one_is_cut() {
    needs_tools!();
    let image = three_checkpoints();
    let at = |start: u64| checkmap!("diff", image.path, "--since", "mon", "--json", "--start", start.to_string());
    at(SIZE + 1).fails(2, "past the end of the disk");
    assert_eq!(extents(&at(SIZE).json()), []);
    let long = checkmap!("diff", image.path, "--since", "wed", "--json", "--start", "1M", "--length", "15E").json();
    assert_eq!(extents(&long).len(), 1);
    let empty = checkmap!("dump", image.path, "--bitmap", "mon", "--format", "nbdinfo", "--length", "0");
    assert_eq!(empty.json(), json!([]));
}

#[test]
fn the_finest_granularity_of_the_span_is_that_of_the_diff() {
    needs_tools!();
    let image = crate::support::TestImage::create("", "1M");
    checkmap!("create", image.path, "coarse", "--granularity", "128k").ok();
    image.write(0, 512);
    checkmap!("create", image.path, "fine", "--granularity", "4KiB").ok();
    image.write(512 * 1024, 512);
    let diff = checkmap!("diff", image.path, "--since", "coarse", "--json").json();
    assert_eq!(diff["granularity"], 4096);
    assert_eq!(extents(&diff), [(0, 131_072), (524_288, 4096)]);
}

#[test]
fn a_bitmap_of_a_large_disk_streams_as_raw() {
    needs_tools!();
    let image = crate::support::TestImage::create("", "64G");
    checkmap!("create", image.path, "mon", "--granularity", "4K").ok();
    image.write((64 << 30) - 4096, 4096);
    let raw = checkmap!("dump", image.path, "--bitmap", "mon", "--format", "raw");
    assert_eq!((raw.bytes().len(), raw.stdout.last()), (2 << 20, Some(&0x80)));
    assert_eq!(raw.stdout.iter().filter(|byte| **byte != 0).count(), 1);
}

#[test]
fn images_with_a_data_file_and_block_sizes_of_their_own_are_read() {
    needs_tools!();
    for options in ["data_file=here", "cluster_size=512", "cluster_size=2M,extended_l2=on"] {
        let image = crate::support::TestImage::create(options, "8M");
        checkmap!("create", image.path, "mon", "--granularity", "64K").ok();
        image.write(1 << 20, 1);
        let diff = checkmap!("diff", image.path, "--since", "mon", "--json").json();
        assert_eq!(extents(&diff), [(1 << 20, G)], "{options}");
        image.assert_clean(options);
        checkmap!("delete", image.path, "mon").ok();
        image.assert_clean(options);
    }
}

#[test]
fn the_format_is_told_by_the_content_and_not_by_the_name() {
    needs_tools!();
    let image = three_checkpoints();
    let odd = image.folder.path().join("disk.raw");
    std::fs::copy(&image.path, &odd).unwrap();
    assert_eq!(checkmap!("info", odd, "--json").json()["format"], "qcow2");
    let text = image.folder.path().join("notes.qcow2");
    std::fs::write(&text, "no image").unwrap();
    checkmap!("info", text).fails(1, "notes.qcow2");
    checkmap!("check", text).fails(1, "notes.qcow2");
    checkmap!("info", image.folder.path().join("absent")).fails(1, "No such file");
    checkmap!("info", Path::new("/dev/null")).fails(1, "/dev/null");
}
