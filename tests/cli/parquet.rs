//! diff and dump as Parquet: read back by the reader of the crate `parquet`, and compared with the rows that the JSON answers give.

use crate::support::TestImage;
use crate::{SIZE, checkmap, command, extents, listing, needs_tools, three_checkpoints};
use checkmap::formats::parquet::{Rows, Writer};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use roaring::RoaringTreemap;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Command, Stdio};

const G: u64 = 65536;

/// A row: its cells by their columns.
type Row = BTreeMap<String, Field>;

fn rows_of(file: &Path) -> Vec<Row> {
    let reader = SerializedFileReader::new(File::open(file).unwrap()).expect("a Parquet file");
    let rows = reader.get_row_iter(None).expect("rows");
    rows.map(|row| row.expect("a row").into_columns().into_iter().collect()).collect()
}

fn notes_of(file: &Path) -> BTreeMap<String, String> {
    let reader = SerializedFileReader::new(File::open(file).unwrap()).expect("a Parquet file");
    let notes = reader.metadata().file_metadata().key_value_metadata().cloned().unwrap_or_default();
    notes.into_iter().map(|note| (note.key, note.value.unwrap_or_default())).collect()
}

fn number(row: &Row, column: &str) -> u64 {
    match row[column] {
        Field::Long(number) => u64::try_from(number).expect("not negative"),
        ref other => panic!("{column} is {other}"),
    }
}

fn words(row: &Row, column: &str) -> Option<String> {
    match &row[column] {
        Field::Null => None,
        Field::Str(text) => Some(text.clone()),
        other => panic!("{column} is {other}"),
    }
}

fn granules(row: &Row) -> Vec<u64> {
    let Field::Bytes(bytes) = &row["roaring"] else { panic!("{}", row["roaring"]) };
    RoaringTreemap::deserialize_from(bytes.data()).expect("portable 64-bit Roaring").iter().collect()
}

fn text(words: &str) -> Option<String> {
    Some(words.to_owned())
}

#[test]
fn a_row_is_a_dirty_extent_with_its_names() {
    needs_tools!();
    let image = three_checkpoints();
    let out = image.folder.path().join("changes.parquet");
    let diff = |more: &[&str]| {
        let mut args: Vec<OsString> = vec!["diff".into(), image.path.clone().into()];
        args.extend(more.iter().map(Into::into));
        args
    };
    for window in [&[][..], &["--start", "1100000", "--length", "2100000"], &["--start", "65536"], &["--length", "1"]] {
        let span = ["--since", "tue", "--until", "wed"];
        let args = [diff(&span), diff(window)[2..].to_vec(), ["--json"].map(Into::into).to_vec()].concat();
        let expected = extents(&crate::Ran::of(command(&args).output().unwrap()).json());
        let to_file = ["--format", "parquet", "--disk", "web-1", "-o"].map(Into::into).to_vec();
        let args = [diff(&span), diff(window)[2..].to_vec(), to_file, vec![out.clone().into()]].concat();
        assert_eq!(crate::Ran::of(command(&args).output().unwrap()).ok(), "");
        let rows = rows_of(&out);
        let read: Vec<(u64, u64)> = rows.iter().map(|row| (number(row, "start"), number(row, "length"))).collect();
        assert_eq!(read, expected, "{window:?}");
        for row in &rows {
            let names = ["disk", "since", "until"].map(|column| words(row, column));
            assert_eq!(names, [text("web-1"), text("tue"), text("wed")]);
            assert_eq!((number(row, "granularity"), number(row, "virtual_size"), row.len()), (G, SIZE, 7));
        }
        assert_eq!(notes_of(&out).contains_key("checkmap.start"), !window.is_empty());
    }
    assert_eq!(listing(image.folder.path()), ["changes.parquet", "disk.qcow2"]);
    let printed = checkmap!("diff", image.path, "--since", "tue", "--format", "parquet");
    fs::write(&out, printed.bytes()).unwrap();
    let rows = rows_of(&out);
    assert_eq!((rows.len(), words(&rows[0], "until")), (3, None), "until now");
    assert_eq!(words(&rows[0], "disk").unwrap(), image.path.to_str().unwrap());
}

#[test]
fn a_row_of_roaring_is_an_interval_also_where_nothing_changed() {
    needs_tools!();
    let image = three_checkpoints();
    let out = image.folder.path().join("changes.parquet");
    checkmap!("diff", image.path, "--since", "mon", "--format", "parquet-roaring", "-o", out).ok();
    let rows = rows_of(&out);
    assert_eq!((rows.len(), rows[0].len()), (1, 8));
    assert_eq!(granules(&rows[0]), [1, 16, 17, 48, 152]);
    assert_eq!((number(&rows[0], "dirty_bytes"), number(&rows[0], "dirty_extents")), (4 * G + SIZE % G, 4));
    // The bytes are those of the format roaring.
    let Field::Bytes(bytes) = &rows[0]["roaring"] else { panic!() };
    assert_eq!(bytes.data(), checkmap!("diff", image.path, "--since", "mon", "--format", "roaring").bytes());
    for format in ["parquet", "parquet-roaring"] {
        checkmap!("diff", image.path, "--since", "tue", "--until", "tue", "--format", format, "-o", out).ok();
        let rows = rows_of(&out);
        match format {
            "parquet" => assert_eq!(rows.len(), 0),
            _ => {
                assert_eq!((rows.len(), number(&rows[0], "dirty_bytes"), granules(&rows[0]).len()), (1, 0, 0));
                assert_eq!(words(&rows[0], "until"), text("tue"));
            }
        }
    }
    // A window cuts the sums, and keeps the numbers of the granules that it touches, as the format roaring does.
    let window = ["--start", "1100000", "--length", "100000"];
    let format = "parquet-roaring";
    checkmap!(
        "diff", image.path, "--since", "mon", "--format", format, "-o", out, window[0], window[1], window[2], window[3]
    )
    .ok();
    let rows = rows_of(&out);
    assert_eq!((number(&rows[0], "dirty_bytes"), granules(&rows[0])), ((1 << 20) + 2 * G - 1_100_000, vec![16, 17]));
}

#[test]
fn each_interval_stands_by_itself_at_its_own_granularity() {
    needs_tools!();
    let image = TestImage::create("", "16M");
    let create = |name: &str, granularity: &str| {
        checkmap!("create", image.path, name, "--granularity", granularity, "--model", "interval").ok();
    };
    create("mon", "64k");
    image.write(65536, 65536);
    create("tue", "4k");
    image.io(&["write 1M 4k".into(), "write 65536 4k".into()]);
    create("wed", "1M");
    create("thu", "64k");
    image.write(3 << 20, 1);
    let out = image.folder.path().join("changes.parquet");
    let run = |more: &[&str]| {
        let mut args: Vec<OsString> = vec!["diff".into(), image.path.clone().into(), "--each-interval".into()];
        args.extend(["-o".into(), out.clone().into()]);
        args.extend(more.iter().map(Into::into));
        crate::Ran::of(command(&args).output().unwrap())
    };
    let intervals = [("mon", Some("tue")), ("tue", Some("wed")), ("wed", Some("thu")), ("thu", None)];
    for (since, until, wanted) in [
        ("mon", None, &intervals[..]),
        ("tue", None, &intervals[1..]),
        ("mon", Some("wed"), &intervals[..2]),
        ("wed", Some("wed"), &[("wed", Some("wed"))]),
    ] {
        let mut span = vec!["--since", since];
        span.extend(until.iter().flat_map(|until| ["--until", *until]));
        run(&[&span[..], &["--format", "parquet-roaring"]].concat()).ok();
        let rows = rows_of(&out);
        let names: Vec<_> = rows.iter().map(|row| (words(row, "since").unwrap(), words(row, "until"))).collect();
        let wanted: Vec<_> =
            wanted.iter().map(|(since, until)| (since.to_string(), until.map(str::to_owned))).collect();
        assert_eq!(names, wanted);
        run(&[&span[..], &["--format", "parquet"]].concat()).ok();
        let extents_of = rows_of(&out);
        let mut read = extents_of.iter();
        // Each interval is the diff between its bounds.
        for (row, (since, until)) in rows.iter().zip(&wanted) {
            let mut args: Vec<OsString> = vec!["diff".into(), image.path.clone().into(), "--json".into()];
            args.extend(["--since".into(), since.into()]);
            args.extend(until.iter().flat_map(|until| ["--until".into(), until.into()]));
            let json = crate::Ran::of(command(&args).output().unwrap()).json();
            assert_eq!(number(row, "granularity"), json["granularity"].as_u64().unwrap());
            assert_eq!(number(row, "dirty_bytes"), json["dirty_bytes"].as_u64().unwrap());
            for extent in extents(&json) {
                let row = read.next().expect("an extent");
                assert_eq!((number(row, "start"), number(row, "length")), extent);
                assert_eq!((words(row, "since").as_ref(), words(row, "until").as_ref()), (Some(since), until.as_ref()));
                assert_eq!(number(row, "granularity"), json["granularity"].as_u64().unwrap());
            }
        }
        assert!(read.next().is_none(), "more extents than the intervals have");
    }
    let granularities: Vec<u64> = {
        run(&["--since", "mon", "--format", "parquet-roaring"]).ok();
        rows_of(&out).iter().map(|row| number(row, "granularity")).collect()
    };
    assert_eq!(granularities, [65536, 4096, 1 << 20, 65536]);
    let before = fs::read(&out).unwrap();
    run(&["--since", "wed", "--until", "mon", "--format", "parquet"]).fails(3, "mon");
    run(&["--since", "sun", "--format", "parquet"]).fails(3, "sun");
    run(&["--since", "mon", "--until", "sun", "--format", "parquet"]).fails(3, "sun");
    assert_eq!(fs::read(&out).unwrap(), before);
}

#[test]
fn intervals_across_a_gap_and_of_cumulative_checkpoints_are_refused() {
    needs_tools!();
    let image = three_checkpoints();
    let out = image.folder.path().join("out");
    image.bitmap(&["--remove"], "mon->tue");
    let run = |since: &str| {
        checkmap!("diff", image.path, "--each-interval", "--since", since, "--format", "parquet-roaring", "-o", out)
    };
    run("mon").fails(3, "a gap follows 'mon'");
    assert_eq!(listing(image.folder.path()), ["disk.qcow2"]);
    run("wed").ok();
    assert_eq!(rows_of(&out).len(), 1);
    let cumulative = TestImage::create("", "1M");
    cumulative.bitmap(&["--add"], "a");
    cumulative.bitmap(&["--add"], "b");
    checkmap!("diff", cumulative.path, "--each-interval", "--since", "a", "--format", "parquet")
        .fails(3, "--each-interval");
    checkmap!("diff", cumulative.path, "--since", "a", "--format", "parquet", "-o", out).ok();
}

#[test]
fn intervals_that_only_a_layer_below_has_are_found() {
    needs_tools!();
    let base = three_checkpoints();
    let top = base.folder.path().join("top.qcow2");
    let created = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "disk.qcow2"])
        .arg(&top)
        .status()
        .unwrap();
    assert!(created.success());
    checkmap!("create", top, "thu").ok();
    let out = base.folder.path().join("out");
    checkmap!("diff", top, "--each-interval", "--since", "tue", "--format", "parquet-roaring", "-o", out).ok();
    let names: Vec<_> = rows_of(&out).iter().map(|row| (words(row, "since"), words(row, "until"))).collect();
    assert_eq!(names, [(text("tue"), text("wed")), (text("wed"), text("thu")), (text("thu"), None)]);
    let tue = checkmap!("diff", top, "--since", "tue", "--until", "wed", "--json").json();
    assert_eq!(number(&rows_of(&out)[0], "dirty_bytes"), tue["dirty_bytes"].as_u64().unwrap());
}

#[test]
fn dump_has_no_since_and_notes_the_name_of_the_bitmap() {
    needs_tools!();
    let image = three_checkpoints();
    let out = image.folder.path().join("out");
    checkmap!("dump", image.path, "--bitmap", "mon->tue", "--format", "parquet", "-o", out).ok();
    let rows = rows_of(&out);
    let read: Vec<(u64, u64)> = rows.iter().map(|row| (number(row, "start"), number(row, "length"))).collect();
    assert_eq!(read, [(16 * G, 2 * G), (48 * G, G)]);
    assert!(rows.iter().all(|row| words(row, "since").is_none() && words(row, "until").is_none()));
    assert_eq!(notes_of(&out)["checkmap.bitmap"], "mon->tue");
    let name = OsString::from_vec(b"m\xffn".to_vec());
    image.bitmap(&["--add"], &name);
    let disk = OsString::from_vec(b"disk-\xfe".to_vec());
    for (format, number) in [("parquet", 0), ("parquet-roaring", 1)] {
        checkmap!("dump", image.path, "--bitmap", name, "--format", format, "--disk", disk, "-o", out).ok();
        let (rows, notes) = (rows_of(&out), notes_of(&out));
        assert_eq!((rows.len(), notes["checkmap.bitmap"].as_str()), (number, "m\u{fffd}n"));
        let names: serde_json::Value = serde_json::from_str(&notes["checkmap.names"]).unwrap();
        assert_eq!(names[0]["name_hex"], "6469736b2dfe");
        assert_eq!((&names[1]["name"], &names[1]["name_hex"]), (&"m\u{fffd}n".into(), &"6dff6e".into()));
    }
}

#[test]
fn the_largest_disk_fits_into_signed_numbers() {
    needs_tools!();
    // 2^41 granules of 4 MiB are as large as QEMU's disks can be.
    let granularity = checkmap::Granularity::from_bytes(1 << 22).unwrap();
    let size = checkmap::geometry::MAX_DISK_BYTES;
    let mut bitmap = checkmap::Bitmap::new(size, granularity).unwrap();
    bitmap.set(0, 1).unwrap();
    bitmap.set(size - 1, 1).unwrap();
    let folder = crate::support::folder();
    let out = folder.path().join("out");
    for rows in [Rows::Extents, Rows::Roaring] {
        let mut file = File::create(&out).unwrap();
        let mut writer = Writer::new(rows, "x", &mut file).unwrap();
        writer.write(Some("a"), None, &bitmap, 0, u64::MAX).unwrap();
        writer.finish().unwrap();
        let read = rows_of(&out);
        assert_eq!(number(&read[0], "virtual_size"), size);
        let last = (1 << 41) - 1;
        match rows {
            Rows::Extents => {
                assert_eq!(read.len(), 2);
                assert_eq!((number(&read[1], "start"), number(&read[1], "length")), (last << 22, (1 << 22) - 1));
            }
            _ => assert_eq!(granules(&read[0]), [0, last]),
        }
    }
    // The same from an image.
    let image = TestImage::create("cluster_size=2M", "1P");
    checkmap!("create", image.path, "mon", "--granularity", "2G").ok();
    image.write((1 << 50) - 512, 512);
    checkmap!("diff", image.path, "--since", "mon", "--format", "parquet", "-o", out).ok();
    let rows = rows_of(&out);
    assert_eq!(
        (rows.len(), number(&rows[0], "start"), number(&rows[0], "length")),
        (1, (1 << 50) - (2 << 30), 2 << 30)
    );
}

#[test]
fn many_extents_come_in_groups_of_rows() {
    let granularity = checkmap::Granularity::from_bytes(512).unwrap();
    let number_of = 1_100_000_u64;
    let mut bitmap = checkmap::Bitmap::new(number_of * 1024, granularity).unwrap();
    for at in 0..number_of {
        bitmap.set(at * 1024, 512).unwrap();
    }
    let folder = crate::support::folder();
    let out = folder.path().join("out");
    let mut file = File::create(&out).unwrap();
    let rows = Rows::Extents;
    let mut writer = Writer::new(rows, "x", &mut file).unwrap();
    writer.write(Some("a"), Some("b"), &bitmap, 0, u64::MAX).unwrap();
    writer.finish().unwrap();
    let len_bytes = fs::metadata(&out).unwrap().len();
    assert!(len_bytes < 4_000_000, "{len_bytes} bytes");
    let reader = SerializedFileReader::new(File::open(&out).unwrap()).unwrap();
    let groups = reader.metadata().row_groups();
    assert_eq!(groups.iter().map(|group| group.num_rows()).collect::<Vec<_>>(), [1 << 20, 1_100_000 - (1 << 20)]);
    let mut next = 0;
    for row in reader.get_row_iter(None).unwrap() {
        let row: Row = row.unwrap().into_columns().into_iter().collect();
        assert_eq!((number(&row, "start"), number(&row, "length")), (next * 1024, 512));
        next += 1;
    }
    assert_eq!(next, number_of);
}

#[test]
fn what_has_no_sense_is_refused_before_the_work() {
    needs_tools!();
    let image = three_checkpoints();
    let diff = |more: &[&str]| {
        let mut args: Vec<OsString> = vec!["diff".into(), image.path.clone().into(), "--since".into(), "mon".into()];
        args.extend(more.iter().map(OsString::from));
        crate::Ran::of(command(&args).output().unwrap())
    };
    diff(&["--each-interval"]).fails(2, "--each-interval goes with --format parquet");
    diff(&["--each-interval", "--format", "csv"]).fails(2, "--each-interval goes with --format parquet");
    diff(&["--disk", "x", "--json"]).fails(2, "--disk goes with --format parquet");
    diff(&["--format", "parquet", "--json"]).fails(2, "contradict");
    diff(&["--format", "parquet", "--summary"]).fails(2, "--summary");
    // As for every binary format, not to a terminal.
    let script = format!(
        "import os, pty, sys\nsys.exit(os.waitstatus_to_exitcode(pty.spawn({:?})))",
        [
            "sh",
            "-c",
            &format!(
                "'{}' diff '{}' --since mon --format parquet",
                env!("CARGO_BIN_EXE_checkmap"),
                image.path.display()
            )
        ]
    );
    let ran = Command::new("python3").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.code() == Some(2) && said.contains("binary"), "{said}");
}

#[test]
fn a_full_disk_leaves_the_old_file() {
    needs_tools!();
    let image = three_checkpoints();
    let out = image.folder.path().join("out");
    fs::write(&out, "old").unwrap();
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$@\"";
    let ran = Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_checkmap"), "diff"])
        .arg(&image.path)
        .args([OsStr::new("--since"), "mon".as_ref(), "--format".as_ref(), "parquet".as_ref(), "-o".as_ref()])
        .arg(&out)
        .output()
        .unwrap();
    assert_eq!(ran.status.code(), Some(1), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(fs::read_to_string(&out).unwrap(), "old");
    assert_eq!(listing(image.folder.path()), ["disk.qcow2", "out"]);
}
