//! Who may call whom: each room of `src/` may name only the rooms below it. The drawing is in ARCHITECTURE.md.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room, and the rooms that it may name. The command line is a program of its own and sees only what the library
/// exports: the compiler keeps it there.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("geometry", &["error"]),
    ("progress", &["error"]),
    ("io", &["error", "memory"]),
    ("cpu", &[]),
    ("memory", &["error"]),
    ("fault", &[]),
    ("fork", &["error"]),
    ("kernels", &["geometry", "cpu"]),
    ("checksum", &["kernels"]),
    ("pool", &["fault"]),
    ("bitmap", &["error", "geometry", "kernels", "memory", "fork", "pool"]),
    ("chain", &["error", "geometry", "memory"]),
    ("segment", &["error", "fault", "geometry", "memory", "progress", "io", "checksum", "pool", "bitmap"]),
    ("nbd", &["error", "geometry", "memory", "progress", "pool", "bitmap"]),
    ("qemu", &["error", "geometry", "memory", "progress", "bitmap", "chain", "host", "formats", "libvirt", "nbd"]),
    ("libvirt", &["error", "memory", "io", "chain"]),
    ("doctor", &["error", "memory", "progress", "bitmap", "chain", "image", "libvirt", "qemu"]),
    ("picture", &["error", "geometry", "memory", "bitmap"]),
    ("planner", &["error", "geometry", "chain", "image", "nbd", "qemu"]),
    ("host", &["error", "geometry", "memory", "progress", "io", "bitmap", "chain"]),
    (
        "formats",
        &["error", "fault", "geometry", "memory", "progress", "io", "pool", "checksum", "bitmap", "chain", "host"],
    ),
    ("image", &["error", "geometry", "memory", "progress", "io", "checksum", "bitmap", "chain", "host", "formats"]),
    ("content", &["error", "geometry", "memory", "progress", "io", "host", "formats", "nbd", "image"]),
    ("serve", &["error", "geometry", "memory", "progress", "bitmap", "nbd", "qemu", "image", "content"]),
    (
        "backup",
        &[
            "error", "geometry", "memory", "progress", "io", "pool", "checksum", "bitmap", "chain", "host", "formats",
            "image", "content", "nbd", "qemu",
        ],
    ),
    (
        "capi",
        &[
            "error", "fault", "fork", "memory", "geometry", "progress", "io", "pool", "bitmap", "segment", "chain",
            "image", "qemu", "planner", "backup", "libvirt", "doctor",
        ],
    ),
];

/// The rooms in which unsafe code may stand.
const UNSAFE_ROOMS: &[&str] = &["kernels", "memory", "capi"];

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("src can be listed") {
            let path = entry.expect("src can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 20, "the sources are not where this test looks");
    found
}

/// The room of a file: the first part of its path below `src/`.
fn room(path: &Path) -> String {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).expect("a source");
    let first = below.components().next().expect("a file has a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// A permission that no file uses would let the drawing say more than the house has.
#[test]
fn every_permission_is_used() {
    let sources = sources();
    for (name, allowed) in MAY_NAME {
        let texts = sources.iter().filter(|(path, _)| room(path) == *name).map(|(_, text)| text);
        let code: String =
            texts.flat_map(|text| text.lines()).filter(|line| !line.trim_start().starts_with("//")).collect();
        assert!(!code.is_empty(), "{name} has no file");
        for room in *allowed {
            assert!(code.contains(&format!("crate::{room}")), "{name} may name {room}, and does not");
        }
    }
}

/// The library knows qcow2 in its own room and where a format is chosen; everybody else prints what a host says.
#[test]
fn nobody_but_formats_knows_a_format() {
    let mut known = 0;
    for (path, text) in sources() {
        let room = room(&path);
        let code = text.split("\n#[cfg(test)]").next().unwrap_or_default();
        let names =
            code.lines().filter(|line| !line.trim_start().starts_with("//")).filter(|line| line.contains("cow2"));
        match room.as_str() {
            "formats" => known += names.count(),
            // Help is text for people.
            "cli" if path.ends_with("help.rs") => {}
            _ => assert_eq!(names.collect::<Vec<_>>(), Vec::<&str>::new(), "{}", path.display()),
        }
    }
    assert!(known > 20, "this test looks in the wrong place");
}

#[test]
fn every_room_names_only_the_rooms_below_it() {
    let rooms: BTreeSet<&str> = MAY_NAME.iter().map(|(room, _)| *room).collect();
    for (path, text) in sources() {
        let room = room(&path);
        if room == "lib" || room == "cli" {
            continue;
        }
        let (_, allowed) =
            MAY_NAME.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("{room} has no place"));
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for (at, _) in line.match_indices("crate::") {
                let named: String = line[at + 7..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                let fine = named == room || allowed.contains(&named.as_str()) || !rooms.contains(named.as_str());
                assert!(fine, "{}:{}: {room} may not name {named}", path.display(), number + 1);
                assert!(
                    !named.is_empty(),
                    "{}:{}: name the room, so that this test sees it",
                    path.display(),
                    number + 1
                );
            }
        }
    }
}

#[test]
fn the_command_line_sees_only_what_the_library_exports() {
    for (path, text) in sources().into_iter().filter(|(path, _)| room(path) == "cli") {
        assert!(!text.contains("#[path"), "{} reaches around the library", path.display());
    }
}

#[test]
fn every_file_outside_the_unsafe_rooms_forbids_unsafe_code() {
    for (path, text) in sources() {
        if room(&path) == "lib" {
            // What the root forbids, no room could allow.
            assert!(text.starts_with("#![deny(unsafe_code)]\n"), "{} does not deny it", path.display());
        } else if !UNSAFE_ROOMS.contains(&room(&path).as_str()) {
            assert!(text.starts_with("#![forbid(unsafe_code)]\n"), "{} does not forbid it", path.display());
        }
    }
}

#[test]
fn every_file_begins_with_what_it_owns_and_is_of_bearable_length() {
    for (path, text) in sources() {
        let forbids = usize::from(text.starts_with("#![forbid(unsafe_code)]\n"));
        let owns = text.lines().nth(forbids).unwrap_or_default();
        assert!(owns.starts_with("//! ") || room(&path) == "lib", "{}: {owns}", path.display());
        // Introductions of public modules speak to their users first, and say this below.
        let says = text.lines().any(|line| line.starts_with("//") && line.contains(" Owns "));
        let exempt = ["lib.rs", "main.rs", "tests.rs"].iter().any(|name| path.ends_with(name));
        assert!(says || exempt, "{} does not say what it owns", path.display());
        assert!(text.lines().count() <= 700, "{} is too long", path.display());
    }
}

/// A child that was forked while another thread held one would wait for it for ever.
#[test]
fn nothing_that_all_calls_share_can_be_waited_for() {
    for (path, text) in sources().into_iter().filter(|(path, _)| room(path) != "cli") {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start().trim_start_matches("pub ").trim_start_matches("pub(super) ");
            let is_static = line.trim_start_matches("pub(crate) ").starts_with("static ");
            let waits = ["Once", "Lazy", "Mutex", "RwLock", "Condvar"].iter().find(|kind| line.contains(*kind));
            assert!(!is_static || waits.is_none(), "{}:{}: {line}", path.display(), number + 1);
        }
    }
}
