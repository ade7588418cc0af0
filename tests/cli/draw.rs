//! map: every medium against the extents of diff and a naive curve, in terminals of several widths.

use crate::support::{TestImage, run};
use crate::{SIZE, checkmap, command, extents, needs_tools, three_checkpoints};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const G: u64 = 65536;

/// A disk of 600 MiB with a dense region, scattered granules and a large extent.
pub(crate) fn painted() -> TestImage {
    let image = TestImage::create("", "600M");
    checkmap!("create", image.path, "mon").ok();
    let scattered = (0..60u64).map(|at| format!("write -z {} 64k", (at * at * 37 % 9000) * G));
    let dense = (0..40u64).map(|at| format!("write -z {} 128k", 190 * (1 << 20) + at * 5 * G));
    image.io(&scattered.chain(dense).chain(["write -z 400M 80M".to_owned()]).collect::<Vec<_>>());
    image
}

/// The places of a square of a Hilbert curve one after the other, drawn by a turtle.
fn turtle(order: u32) -> Vec<(i64, i64)> {
    fn go(order: u32, turn: i8, state: &mut (i64, i64, i64, i64), places: &mut Vec<(i64, i64)>) {
        let rotate = |state: &mut (i64, i64, i64, i64), turn: i8| {
            let (dx, dy) = (state.2, state.3);
            (state.2, state.3) = if turn > 0 { (-dy, dx) } else { (dy, -dx) };
        };
        let forward = |state: &mut (i64, i64, i64, i64), places: &mut Vec<(i64, i64)>| {
            (state.0, state.1) = (state.0 + state.2, state.1 + state.3);
            places.push((state.0, state.1));
        };
        if order == 0 {
            return;
        }
        rotate(state, turn);
        go(order - 1, -turn, state, places);
        forward(state, places);
        rotate(state, -turn);
        go(order - 1, turn, state, places);
        forward(state, places);
        go(order - 1, turn, state, places);
        rotate(state, -turn);
        forward(state, places);
        go(order - 1, -turn, state, places);
        rotate(state, turn);
    }
    let mut places = vec![(0, 0)];
    // From the top left to the top right, downwards between.
    go(order, 1, &mut (0, 0, 1, 0), &mut places);
    places
}

/// The dirty bytes and all bytes of each cell, by row and column, of a grid of squares.
fn naive_grid(size: u64, dirty: &[(u64, u64)], squares: u64, order: u32) -> BTreeMap<(u64, u64), (u64, u64, u64)> {
    let square = turtle(order);
    let (granules, cells) = (size.div_ceil(G), squares * square.len() as u64);
    let mut grid = BTreeMap::new();
    for cell in 0..cells {
        let (start, end) = ((granules * cell / cells) * G, ((granules * (cell + 1) / cells) * G).min(size));
        let inside = |(offset, len): &(u64, u64)| (offset + len).min(end).saturating_sub(start.max(*offset));
        let (x, y) = square[usize::try_from(cell).unwrap() % square.len()];
        let column = cell / square.len() as u64 * (1 << order) + u64::try_from(x).unwrap();
        grid.insert((u64::try_from(y).unwrap(), column), (start, end - start, dirty.iter().map(inside).sum()));
    }
    grid
}

fn naive_level(dirty: u64, len: u64) -> usize {
    match dirty as f64 / len as f64 {
        0.0 => 0,
        share if share < 0.001 => 1,
        share if share < 0.01 => 2,
        share if share < 0.1 => 3,
        share if share < 0.5 => 4,
        share if share < 1.0 => 5,
        _ => 6,
    }
}

#[test]
fn the_turtle_fills_a_square() {
    assert_eq!(turtle(1), [(0, 0), (0, 1), (1, 1), (1, 0)]);
    assert_eq!(turtle(3).last(), Some(&(7, 0)));
}

#[test]
fn json_is_what_the_extents_of_diff_come_to() {
    needs_tools!();
    for (image, squares, order) in [(painted(), 2, 6), (three_checkpoints(), 2, 3)] {
        let diff = checkmap!("diff", image.path, "--since", "mon", "--json").json();
        let (dirty, size) = (extents(&diff), diff["virtual_size"].as_u64().unwrap());
        let map = checkmap!("map", image.path, "--since", "mon", "--json").json();
        let [map] = map["disks"].as_array().unwrap().as_slice() else { panic!("{map}") };
        for key in ["virtual_size", "granularity", "since", "until", "dirty_bytes"] {
            assert_eq!(map[key], diff[key], "{key}");
        }
        assert_eq!((&map["dirty_extents"], &map["disk"]), (&json!(dirty.len()), &json!(image.path.to_str())));
        assert_eq!((&map["columns"], &map["rows"]), (&json!(squares << order), &json!(1 << order)));
        let mut naive: Vec<Value> = Vec::new();
        for ((row, column), (start, len, dirty)) in naive_grid(size, &dirty, squares, order) {
            if dirty > 0 {
                naive.push(json!({"start": start, "length": len, "dirty_bytes": dirty, "column": column, "row": row}));
            }
        }
        naive.sort_by_key(|cell| cell["start"].as_u64());
        assert_eq!(map["cells"].as_array(), Some(&naive));
        let mut largest = dirty;
        largest.sort_by_key(|(start, len)| (u64::MAX - len, *start));
        largest.truncate(5);
        let told = map["largest_extents"].as_array().unwrap();
        let told: Vec<_> = told.iter().map(|e| (e["start"].as_u64().unwrap(), e["length"].as_u64().unwrap())).collect();
        assert_eq!(told, largest);
    }
}

/// The levels of each line of a grid that was painted in a terminal.
fn levels_of(line: &str, palette: &[String]) -> (Vec<usize>, Vec<usize>) {
    let (mut above, mut below, mut now) = (Vec::new(), Vec::new(), (0, 0));
    let mut rest = line;
    while let Some(char) = rest.chars().next() {
        rest = &rest[char.len_utf8()..];
        if char == '\u{1b}' {
            let (order, after) = rest.split_once('m').expect("an order of colour");
            rest = after;
            let level = palette.iter().position(|color| order.ends_with(color.as_str()));
            match &order[..order.len().min(6)] {
                "[38;2;" => now.0 = level.expect("a colour of the scale"),
                "[48;2;" => now.1 = level.expect("a colour of the scale"),
                _ => assert_eq!(order, "[0"),
            }
        } else {
            assert_eq!(char, '▀');
            above.push(now.0);
            below.push(now.1);
        }
    }
    (above, below)
}

#[test]
fn text_shows_the_naive_grid_at_every_width_with_and_without_colours() {
    needs_tools!();
    let image = painted();
    let dirty = extents(&checkmap!("diff", image.path, "--since", "mon", "--json").json());
    // As the colours stand in the dark part of an SVG.
    let svg = checkmap!("map", image.path, "--since", "mon", "--format", "svg").ok().to_owned();
    let dark = svg.split_once("prefers-color-scheme:dark").expect("a dark scheme").1;
    let palette: Vec<String> = (0..7)
        .map(|level| {
            let (_, color) = dark.split_once(&format!(".c{level}{{fill:#")).expect("a colour");
            let byte = |at: usize| u8::from_str_radix(&color[at..at + 2], 16).expect("hexadecimal");
            format!("2;{};{};{}", byte(0), byte(2), byte(4))
        })
        .collect();
    for width in [40u64, 80, 200] {
        let plain = checkmap!("map", image.path, "--since", "mon", "--width", width.to_string()).ok().to_owned();
        let colored = checkmap!("map", image.path, "--since", "mon", "--width", width.to_string(), "--color", "always")
            .ok()
            .to_owned();
        let grid = |text: &str, lines: usize| -> Vec<String> {
            let is_grid =
                |line: &&str| line.contains('▀') || (line.chars().all(|c| "·▁▂▃▅▇█".contains(c)) && !line.is_empty());
            let found: Vec<String> = text.lines().filter(is_grid).map(str::to_owned).collect();
            assert_eq!(found.len(), lines, "{text}");
            found
        };
        let naive = naive_grid(600 << 20, &dirty, width / 16, 4);
        for (row, line) in (0..).zip(grid(&plain, 16)) {
            let expected: String = (0..width / 16 * 16)
                .map(|column| naive[&(row, column)])
                .map(|(_, len, dirty)| ['·', '▁', '▂', '▃', '▅', '▇', '█'][naive_level(dirty, len)])
                .collect();
            assert_eq!(line, expected, "{width}");
        }
        assert!(plain.lines().all(|line| line.chars().count() as u64 <= width), "{plain}");
        assert!(!plain.contains('\u{1b}'));
        let naive = naive_grid(600 << 20, &dirty, width / 32, 5);
        for (line, text) in (0..).zip(grid(&colored, 16)) {
            let row = |row: u64| -> Vec<usize> {
                let cells = (0..width / 32 * 32).map(|column| naive[&(row, column)]);
                cells.map(|(_, len, dirty)| naive_level(dirty, len)).collect()
            };
            assert_eq!(levels_of(&text, &palette), (row(2 * line), row(2 * line + 1)), "{width}");
        }
    }
}

/// The output of `checkmap map` in a terminal of this width.
fn in_terminal(columns: &str, folder: &Path, no_color: bool) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/in_terminal.py");
    let mut command = Command::new("python3");
    command.arg(script).args([columns, env!("CARGO_BIN_EXE_checkmap"), "map", "disk.qcow2", "--since", "mon"]);
    command.current_dir(folder).env("TERM", "xterm-256color").env_remove("NO_COLOR");
    if no_color {
        command.env("NO_COLOR", "1");
    }
    let output = command.output().expect("python3 runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_terminal_decides_on_width_and_colours() {
    needs_tools!();
    let image = painted();
    for width in ["40", "80", "200"] {
        for (no_color, color) in [(false, "always"), (true, "never")] {
            let mut asked = command(
                &["map", "disk.qcow2", "--since", "mon", "--width", width, "--color", color].map(OsString::from),
            );
            let asked = asked.current_dir(image.folder.path()).output().expect("checkmap runs");
            let asked = String::from_utf8(asked.stdout).expect("text");
            assert_eq!(in_terminal(width, image.folder.path(), no_color), asked, "{width} {color}");
        }
    }
}

/// Compares a committed picture with one that was drawn; `CHECKMAP_BLESS=1` rewrites it.
#[track_caller]
pub(crate) fn assert_golden(name: &str, drawn: &[u8]) {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "docs/pictures/drawn", name].iter().collect();
    if std::env::var_os("CHECKMAP_BLESS").is_some() {
        fs::write(&path, drawn).unwrap();
    }
    let committed = fs::read(&path).unwrap_or_default();
    assert!(committed == drawn, "{} is out of date: CHECKMAP_BLESS=1 cargo test --test cli", path.display());
}

#[test]
fn the_committed_map_is_the_one_that_is_drawn() {
    needs_tools!();
    let image = painted();
    let drawn = image.folder.path().join("map.svg");
    let words = ["map", "disk.qcow2", "--since", "mon", "-o", "map.svg"].map(OsString::from);
    assert!(command(&words).current_dir(image.folder.path()).status().expect("checkmap runs").success());
    let drawn = fs::read(drawn).expect("the picture is there");
    assert_golden("map.svg", &drawn);
    assert_well_formed(image.folder.path(), "map.svg");
}

/// Lets an XML parser of others read a file, which must take nothing from elsewhere and run nothing.
#[track_caller]
pub(crate) fn assert_well_formed(folder: &Path, file: &str) {
    let script = "import sys, xml.etree.ElementTree as tree
for element in tree.parse(sys.argv[1]).iter():
    assert not element.tag.endswith('script'), element.tag
    for name, value in element.attrib.items():
        assert not name.endswith(('href', 'src')) and not name.startswith('on') and 'url(' not in value, name
    assert '@import' not in (element.text or '') and 'url(' not in (element.text or '')";
    run("python3", &["-c".as_ref(), script.as_ref(), folder.join(file).as_os_str()]);
}

#[test]
fn a_png_has_the_colours_of_the_grid() {
    needs_tools!();
    let image = painted();
    let path = image.folder.path().join("map.png");
    assert!(checkmap!("map", image.path, "--since", "mon", "-o", path).ok().is_empty());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/read_png.py");
    let dots = run("python3", &[script, path]);
    let dots: Vec<Vec<&str>> = dots.lines().map(|line| line.split(' ').collect()).collect();
    let svg = checkmap!("map", image.path, "--since", "mon", "--format", "svg").ok().to_owned();
    let color = |level: usize| &svg[svg.find(&format!(".c{level}{{fill:#")).expect("a colour") + 10..][..6];
    let dirty = extents(&checkmap!("diff", image.path, "--since", "mon", "--json").json());
    let side = 768 / 128;
    for ((row, column), (_, len, dirty)) in naive_grid(600 << 20, &dirty, 2, 6) {
        let (x, y) = (16 + usize::try_from(column).unwrap() * side, 16 + usize::try_from(row).unwrap() * side);
        for (x, y) in [(x, y), (x + side - 1, y + side - 1)] {
            assert_eq!(dots[y][x], color(naive_level(dirty, len)), "{row} {column}");
        }
    }
    assert_eq!((dots[0].len(), dots[15][16], dots[16][15]), (800, "ffffff", "ffffff"));
}

#[test]
fn several_disks_come_into_one_picture() {
    needs_tools!();
    let (first, second) = (three_checkpoints(), three_checkpoints());
    let json = checkmap!("map", first.path, second.path, "--since", "mon", "--until", "tue", "--json").json();
    let disks = json["disks"].as_array().expect("an array");
    let titles: Vec<&Value> = disks.iter().map(|disk| &disk["disk"]).collect();
    assert_eq!(titles, [&json!(first.path.to_str()), &json!(second.path.to_str())]);
    assert!(disks.iter().all(|disk| disk["dirty_bytes"] == json!(G) && disk["until"] == json!("tue")), "{json}");
    let svg = checkmap!("map", first.path, second.path, "--since", "mon", "--format", "svg").ok().to_owned();
    assert_eq!((svg.matches("class=\"h\"").count(), svg.matches("<svg").count()), (2, 1));
    let text = checkmap!("map", first.path, second.path, "--since", "mon").ok().to_owned();
    assert_eq!(text.matches("changed since 'mon'").count(), 2);
    assert!(text.contains(&format!("of {}", "9.6 MiB")) && SIZE == 10_001_920, "{text}");
}

#[test]
fn a_map_is_refused_as_a_diff_is_and_never_replaces_a_disk() {
    needs_tools!();
    let image = three_checkpoints();
    let before = fs::read(&image.path).unwrap();
    checkmap!("map", image.path, "--since", "sat").fails(3, "sat");
    checkmap!("map", image.path, "--since", "wed", "--until", "mon").fails(3, "older");
    checkmap!("map", image.path).fails(2, "--since");
    checkmap!("map", image.path, "--since", "mon", "--json", "--format", "svg").fails(2, "contradict");
    checkmap!("map", image.path, "--since", "mon", "--width", "3").fails(2, "8..=2000");
    checkmap!("map", image.path, "--since", "mon", "-o", image.path).fails(2, "the image itself");
    let other = three_checkpoints();
    let ran = checkmap!("map", image.path, other.path, "--since", "mon", "--format", "svg", "-o", other.path);
    ran.fails(2, "it is a disk image");
    assert_eq!(fs::read(&image.path).unwrap(), before);
}
