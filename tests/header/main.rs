//! The header, the symbol map and the manual pages of the C library are what its sources say: `make c-generated` makes them
//! anew.

mod page;
mod pages;
mod roff;
mod source;

use std::path::{Path, PathBuf};
use std::{env, fs};

/// What cbindgen cannot write: macros that make the structs which begin with their size.
const MACROS: &str = "\
/** Empty options. */
#define CHECKMAP_OPTS_INIT { sizeof(struct checkmap_opts), 0, 0, NULL, NULL, 0, 0 }
/** A place for the facts of an image. */
#define CHECKMAP_IMAGE_INFO_INIT \\
    { sizeof(struct checkmap_image_info), 0, NULL, 0, 0, 0, NULL, 0, NULL, 0, 0, 0 }
/** A place for the facts of a segment. */
#define CHECKMAP_SEGMENT_INFO_INIT { sizeof(struct checkmap_segment_info), 0, 0, 0, 0, 0, 0, 0, 0 }
/** The defaults of a running hypervisor. */
#define CHECKMAP_QMP_OPTS_INIT { sizeof(struct checkmap_qmp_opts), 0, 0, NULL, 0, NULL, NULL }
/** An empty request. */
#define CHECKMAP_PLAN_REQUEST_INIT \\
    { sizeof(struct checkmap_plan_request), 0, NULL, NULL, 0, NULL, 0, NULL, 0, NULL, NULL, 0, NULL, 0, 0, 0, 0 }
/** The defaults of a backup. */
#define CHECKMAP_BACKUP_OPTS_INIT \\
    { sizeof(struct checkmap_backup_opts), 0, 0, 0, NULL, 0, NULL, 0, NULL, 0, 0, NULL, NULL, NULL }
/** An empty request to restore. */
#define CHECKMAP_RESTORE_REQUEST_INIT \\
    { sizeof(struct checkmap_restore_request), 0, NULL, 0, NULL, 0, NULL, 0 }
/** No rule yet. */
#define CHECKMAP_KEEP_INIT { sizeof(struct checkmap_keep), 0, 0, 0 }

";

/// The sources in the order in which a reader wants them.
const SOURCES: &[&str] = &[
    "values",
    "error",
    "options",
    "bitmap",
    "sets",
    "bits",
    "report",
    "image",
    "checkpoint",
    "layers",
    "stored",
    "machine",
    "many",
    "plan",
    "outcome",
    "backups",
    "tiers",
    "notes",
    "doctor",
    "segment",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn generated() -> String {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml can be read");
    let sources: Vec<PathBuf> =
        SOURCES.iter().map(|name| root().join("src/capi").join(name).with_extension("rs")).collect();
    let builder = sources.iter().fold(cbindgen::Builder::new(), |builder, source| builder.with_src(source));
    let mut header = Vec::new();
    builder.with_config(config).generate().expect("the sources can be read").write(&mut header);
    let header = String::from_utf8(header).expect("the header is text");
    // Rust's documents mark code in backquotes, and C's do not; one line of comment needs no three.
    let lines: Vec<String> = header.replace('`', "").lines().map(|line| line.trim_end().to_owned()).collect();
    let mut short = String::new();
    let mut rest = lines.as_slice();
    while let [first, more @ ..] = rest {
        let indent = &first[..first.len() - first.trim_start().len()];
        match more {
            [text, end, after @ ..] if first.trim() == "/**" && end.trim() == "*/" => {
                short += &format!("{indent}/**{} */\n", text.trim().trim_start_matches('*'));
                rest = after;
            }
            _ => {
                // Two empty lines are one.
                if !(first.is_empty() && short.ends_with("\n\n")) {
                    short += first;
                    short.push('\n');
                }
                rest = more;
            }
        }
    }
    let end = "#ifdef __cplusplus\n}  // extern \"C\"\n#endif  // __cplusplus\n";
    assert!(short.contains(end), "the header does not end as it did");
    short
        .replace(end, &format!("{MACROS}#ifdef __cplusplus\n}}\n#endif\n"))
        .replace("\"C\" {\n#endif // __cplusplus", "\"C\" {\n#endif")
}

#[test]
fn the_header_is_what_the_sources_say() {
    let path = root().join("include/checkmap.h");
    let generated = generated();
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, &generated).expect("the header can be written");
    }
    let committed = fs::read_to_string(&path).expect("the header can be read");
    assert!(committed == generated, "include/checkmap.h is out of date: make c-generated");
}

/// The calls that a header declares.
fn calls(header: &str) -> Vec<&str> {
    let mut names: Vec<&str> = header
        .match_indices("checkmap_")
        .filter_map(|(at, _)| {
            let len = header[at..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
            let before = header[..at].rsplit('\n').next().unwrap_or_default();
            let declares = before.starts_with(|c: char| c.is_ascii_lowercase()) && !before.contains('(');
            (declares && header[at + len..].starts_with('(')).then(|| &header[at..at + len])
        })
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn the_symbol_map_has_the_calls_that_the_sources_say() {
    let path = root().join("libcheckmap/checkmap.map");
    let header = generated();
    let symbols: String = calls(&header).iter().map(|name| format!("    {name};\n")).collect();
    let map = format!("CHECKMAP_0 {{\nglobal:\n{symbols}local:\n    *;\n}};\n");
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, &map).expect("the map can be written");
    }
    let committed = fs::read_to_string(&path).expect("the map can be read");
    assert!(committed == map, "libcheckmap/checkmap.map is out of date: make c-generated");
}

#[test]
fn every_source_of_the_c_library_is_in_the_header() {
    for entry in fs::read_dir(root().join("src/capi")).expect("src/capi can be listed") {
        let path = entry.expect("src/capi can be listed").path();
        let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&path).expect("sources are text");
        let exports = text.contains("unsafe(no_mangle)") || text.contains("repr(C)") && name != "boundary";
        assert_eq!(exports, SOURCES.contains(&name.as_str()), "{name}");
    }
}
