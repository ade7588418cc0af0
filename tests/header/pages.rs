//! The manual pages of the C library are what its sources say, and what they say is true: each is read as its users see it,
//! by mandoc, and held against the header as clang reads it.

use crate::page::Material;
use crate::roff;
use crate::source::Sources;
use crate::{SOURCES, root};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{env, fs};

/// What an example may count on beside the library.
const INCLUDES: &str = "#include <errno.h>\n#include <inttypes.h>\n#include <stdio.h>\n#include <stdlib.h>\n\
    #include <string.h>\n#include <checkmap.h>\n";

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn sources() -> Sources {
    Sources::read(&root().join("src/capi"), SOURCES)
}

/// The version that brought each call, as libcheckmap/since keeps it.
fn since() -> BTreeMap<String, String> {
    let text = read("libcheckmap/since");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.split_once(' ').unwrap_or_else(|| panic!("libcheckmap/since: {line:?}")))
        .map(|(name, version)| (name.into(), version.into()))
        .collect()
}

/// The examples: what follows a line `/* EXAMPLE call call */`, up to the next such line.
fn examples() -> Vec<(Vec<String>, String)> {
    let mut all = Vec::new();
    for path in listed("libcheckmap/examples") {
        let text = fs::read_to_string(&path).expect("an example is text");
        for part in text.split("/* EXAMPLE ").skip(1) {
            let (names, code) = part.split_once(" */\n").expect("the line of names ends");
            all.push((names.split(' ').map(str::to_owned).collect(), code.trim_end().to_owned()));
        }
    }
    all
}

fn listed(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    paths
}

fn pages() -> Vec<PathBuf> {
    let pages = listed("libcheckmap/man");
    assert!(pages.len() > 90, "the pages are not where this test looks");
    pages
}

/// The name of the page: that of its call.
fn name(page: &Path) -> String {
    page.file_stem().expect("a page has a name").to_string_lossy().into_owned()
}

#[test]
fn the_pages_are_what_the_sources_say() {
    let (sources, examples) = (sources(), examples());
    let update = env::var_os("UPDATE").is_some();
    let version = env!("CARGO_PKG_VERSION");
    if update {
        let mut since = since();
        since.retain(|name, _| sources.calls.iter().any(|call| call.name == *name));
        for call in &sources.calls {
            since.entry(call.name.clone()).or_insert_with(|| version.into());
        }
        let lines: String = since.iter().map(|(name, version)| format!("{name} {version}\n")).collect();
        let head = "# The version of checkmap that brought each call; `make c-generated` adds what is new.\n";
        fs::write(root().join("libcheckmap/since"), format!("{head}{lines}")).expect("it can be written");
    }
    let since = since();
    let material = Material { sources: &sources, version, since: &since, examples: &examples };
    let mut wanted = BTreeMap::new();
    let mut calls = String::new();
    for call in &sources.calls {
        wanted.insert(format!("{}.3", call.name), material.page(call));
        calls += &format!("\\fB{}\\fR(3)\n.br\n", call.name);
    }
    let concepts = read("libcheckmap/concepts.roff").replace("@VERSION@", version);
    wanted.insert("checkmap.3".into(), concepts.replace("@CALLS@\n", calls.trim_end_matches(".br\n")));
    if update {
        pages().iter().for_each(|page| fs::remove_file(page).expect("a page can be removed"));
        for (name, text) in &wanted {
            fs::write(root().join("libcheckmap/man").join(name), text).expect("a page can be written");
        }
    }
    let there: BTreeMap<String, String> =
        pages().iter().map(|page| (name(page) + ".3", fs::read_to_string(page).expect("a page is text"))).collect();
    let names = |pages: &BTreeMap<String, String>| pages.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&there), names(&wanted), "pages are missing, or too many: make c-generated");
    for (name, text) in wanted {
        assert!(there[&name] == text, "libcheckmap/man/{name} is out of date: make c-generated");
    }
}

#[test]
fn no_call_is_younger_than_the_library_and_all_are_in_the_symbol_map() {
    let number = |version: &str| -> Vec<u32> {
        version.split('.').map(|part| part.parse().unwrap_or_else(|_| panic!("{version} is no version"))).collect()
    };
    let since = since();
    for (name, version) in &since {
        assert!(number(version) <= number(env!("CARGO_PKG_VERSION")), "{name} is of {version}");
    }
    let map = read("libcheckmap/checkmap.map");
    let symbols: Vec<String> = map
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';'))
        .filter(|word| word.starts_with("checkmap_"))
        .map(str::to_owned)
        .collect();
    assert_eq!(since.keys().cloned().collect::<Vec<_>>(), symbols);
}

/// A tool's output, where it is here; in CI it must be.
fn tool(command: &mut Command) -> Option<Output> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(env::var_os("CI").is_none(), "{command:?}: {error}; see ./run-tests");
            eprintln!("SKIPPED, NOT PASSED: {command:?}: {error}; see ./run-tests");
            None
        }
    }
}

#[test]
fn the_pages_have_nothing_that_mandoc_or_groff_warns_of() {
    let all = pages();
    // An empty date is what each page has: a page is as old as its library.
    if let Some(output) = tool(Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).args(&all)) {
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let told: Vec<&str> = text.lines().filter(|line| !line.contains("missing date")).collect();
        assert!(told.is_empty(), "{}", told.join("\n"));
    }
    for page in &all {
        let mut groff = Command::new("groff");
        groff.args(["-man", "-ww", "-rLL=100n", "-T", "utf8", "-z"]).arg(page);
        if let Some(output) = tool(&mut groff) {
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && told.is_empty(), "{}: {told}", page.display());
        }
    }
}

/// The sections of a page as `man` shows it, by their titles, without indentation.
fn sections(page: &Path) -> Option<BTreeMap<String, String>> {
    let output = tool(Command::new("mandoc").args(["-T", "ascii", "-O", "width=1000"]).arg(page))?;
    let shown = roff::without_overstrike(&String::from_utf8_lossy(&output.stdout));
    let mut sections: BTreeMap<String, String> = BTreeMap::new();
    let mut title = String::new();
    for line in shown.lines().skip(1) {
        match line.strip_prefix("     ") {
            Some(text) => *sections.entry(title.clone()).or_default() += &format!("{text}\n"),
            None if line.is_empty() => *sections.entry(title.clone()).or_default() += "\n",
            None => title = line.trim().into(),
        }
    }
    Some(sections)
}

/// The first sentence of each call's comment in the header, by clang's own reading of both.
fn first_sentences() -> Option<BTreeMap<String, String>> {
    let mut clang = Command::new("clang");
    clang.args(["-Xclang", "-ast-dump=json", "-fsyntax-only", "-fparse-all-comments", "-x", "c"]);
    let output = tool(clang.arg(root().join("include/checkmap.h")))?;
    let tree: Value = serde_json::from_slice(&output.stdout).expect("clang writes JSON");
    let inner = |node: &Value| node["inner"].as_array().cloned().unwrap_or_default();
    let mut sentences = BTreeMap::new();
    for declared in inner(&tree).iter().filter(|node| node["kind"] == "FunctionDecl") {
        let name = declared["name"].as_str().expect("a function has a name");
        if !name.starts_with("checkmap_") {
            continue;
        }
        let comment = inner(declared).into_iter().find(|node| node["kind"] == "FullComment");
        let comment = comment.unwrap_or_else(|| panic!("{name} has no comment in the header"));
        let paragraph = inner(&comment).into_iter().find(|node| {
            node["kind"] == "ParagraphComment"
                && inner(node).iter().any(|text| text["text"].as_str().is_some_and(|text| !text.trim().is_empty()))
        });
        let texts = inner(&paragraph.expect("a comment has text"));
        let text: Vec<&str> =
            texts.iter().filter_map(|text| text["text"].as_str()).flat_map(str::split_whitespace).collect();
        let text = text.join(" ");
        let sentence = text.find(". ").map_or(text.as_str(), |end| &text[..end]);
        sentences.insert(name.to_owned(), sentence.trim_end_matches('.').to_owned());
    }
    assert!(sentences.len() > 90, "clang found {} calls", sentences.len());
    Some(sentences)
}

#[test]
fn each_name_line_is_the_first_sentence_of_the_call_in_the_header() {
    let Some(sentences) = first_sentences() else { return };
    let mut seen = 0;
    for page in pages().iter().filter(|page| name(page) != "checkmap") {
        let (name, Some(sections)) = (name(page), sections(page)) else { return };
        assert_eq!(sections["NAME"].trim(), format!("{name} - {}", sentences[&name]));
        seen += 1;
    }
    assert_eq!(seen, sentences.len());
}

/// Compiles C strictly, and gives what the compiler said against it.
fn compile(code: &str) -> Option<String> {
    let mut command = Command::new("cc");
    command.args(["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-fsyntax-only"]);
    command.arg("-I").arg(root().join("include")).args(["-x", "c", "-"]);
    command.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; see ./run-tests"));
    child.stdin.take().expect("it is piped").write_all(code.as_bytes()).expect("the compiler reads");
    let output = child.wait_with_output().expect("the compiler ends");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn each_synopsis_and_each_example_compiles_as_it_is_shown() {
    assert!(compile("int unknown(void) { return checkmap_version(); }").is_some(), "this test cannot fail");
    let concepts = root().join("libcheckmap/man/checkmap.3");
    let Some(sections_of_concepts) = sections(&concepts) else { return };
    let body = &sections_of_concepts["EXAMPLE"];
    let said = compile(&format!(
        "{INCLUDES}long use(const char *path);\nlong use(const char *path)\n{{\n{body}\nreturn (long)count;\n}}"
    ));
    assert!(said.is_none(), "checkmap(3): {}", said.unwrap_or_default());
    for page in pages().iter().filter(|page| name(page) != "checkmap") {
        let (name, Some(sections)) = (name(page), sections(page)) else { return };
        // A second declaration of other types would be an error.
        let said = compile(&format!("{INCLUDES}{}", sections["SYNOPSIS"]));
        assert!(said.is_none(), "{name}: {}", said.unwrap_or_default());
        assert!(sections["SYNOPSIS"].contains(&format!("{name}(")), "{name}: the synopsis is another call's");
        let example = &sections["EXAMPLE"];
        assert!(example.contains(&format!("{name}(")), "{name} is not in its example");
        let said = compile(&format!("{INCLUDES}{example}"));
        assert!(said.is_none(), "{name}: {}", said.unwrap_or_default());
    }
}

#[test]
fn each_page_has_the_sections_that_a_reader_looks_for() {
    for page in pages().iter().filter(|page| name(page) != "checkmap") {
        let (name, Some(sections)) = (name(page), sections(page)) else { return };
        for title in ["DESCRIPTION", "RETURN VALUE", "ERRORS", "OWNERSHIP", "THREADS", "HISTORY", "SEE ALSO"] {
            assert!(sections.get(title).is_some_and(|text| !text.trim().is_empty()), "{name}: {title} is missing");
        }
        let takes = |word: &str| sections["SYNOPSIS"].contains(word);
        assert_eq!(takes("checkmap_opts"), sections.contains_key("OPTIONS"), "{name}");
        // Constants that a call returns stand there too.
        let is_told_of_flags =
            sections.contains_key("FLAGS") && !takes("kind") && !sections["RETURN VALUE"].contains("...");
        assert_eq!(takes(" flags"), is_told_of_flags, "{name}");
    }
}

/// The calls that a C test expects to fail, with the errno: `FAILS(call(...), ERRNO, ...)`, `EQUAL(call(...), -ERRNO)` and
/// `INVALID(call(...))`.
fn failures_seen(test: &str) -> BTreeSet<(String, String)> {
    let mut seen = BTreeSet::new();
    for (mark, before, errno) in [("FAILS(", ", ", None), ("EQUAL(", ", -", None), ("INVALID(", ")", Some("EINVAL"))] {
        for (at, _) in test.match_indices(mark) {
            let rest = test[at + mark.len()..].trim_start();
            let Some((name, arguments)) = rest.split_once('(').filter(|(name, _)| name.starts_with("checkmap_")) else {
                continue;
            };
            let mut depth = 1;
            let end = arguments.find(|c: char| {
                depth += i32::from(c == '(') - i32::from(c == ')');
                depth == 0
            });
            let after = &arguments[end.expect("parentheses are balanced") + 1..];
            let told = after.strip_prefix(before).and_then(|after| errno.or_else(|| after.split([',', ')']).next()));
            if let Some(told) = told.filter(|told| told.starts_with('E')) {
                seen.insert((name.to_owned(), told.to_owned()));
            }
        }
    }
    seen
}

#[test]
fn every_errno_that_the_c_tests_see_is_on_the_page_of_its_call() {
    let mut seen = BTreeSet::new();
    for path in listed("tests/c") {
        seen.extend(failures_seen(&fs::read_to_string(path).expect("a test is text")));
    }
    assert!(seen.len() > 120, "{} failures: the C tests are not where this test looks", seen.len());
    for (name, errno) in seen {
        let page = root().join("libcheckmap/man").join(&name).with_extension("3");
        let Some(sections) = sections(&page) else { return };
        let said = sections["ERRORS"].split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == errno);
        assert!(said, "{name}(3) does not say that it can be -{errno}");
    }
}

#[test]
fn clang_warns_of_nothing_in_the_header_the_c_tests_and_the_examples() {
    // Room in structs, declarations where C99 has them, and a macro of the C library's own are no faults.
    const ALLOWED: &[&str] = &["-Wno-padded", "-Wno-declaration-after-statement", "-Wno-disabled-macro-expansion"];
    let run = |standard: &[&str], more: &[&str], sources: &[PathBuf]| {
        let mut clang = Command::new("clang");
        clang
            .args(standard)
            .args(["-Weverything", "-Werror", "-fsyntax-only", "-D_GNU_SOURCE"])
            .args(ALLOWED)
            .args(more);
        // Warnings that this clang does not know cannot be told not to come.
        clang.args(["-Wno-unknown-warning-option", "-Wno-unsafe-buffer-usage"]);
        clang.arg("-I").arg(root().join("include")).arg("-I").arg(root().join("tests/c")).args(sources);
        if let Some(output) = tool(&mut clang) {
            assert!(output.status.success(), "{clang:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    };
    let folder = tempfile::tempdir().expect("a folder");
    let header = folder.path().join("header.c");
    fs::write(&header, "#include <checkmap.h>\n").expect("it can be written");
    for standard in ["c99", "c11", "c17"] {
        run(&["-x", "c", &format!("-std={standard}")], &[], std::slice::from_ref(&header));
    }
    for standard in ["c++98", "c++11", "c++17", "c++20"] {
        let more = ["-Wno-c++98-compat", "-Wno-c++98-compat-pedantic"];
        run(&["-x", "c++", &format!("-std={standard}")], &more, std::slice::from_ref(&header));
    }
    for (folder, more) in [("tests/c", ""), ("examples", ""), ("libcheckmap/examples", "-Wno-unused-function")] {
        let sources: Vec<PathBuf> =
            listed(folder).into_iter().filter(|path| path.extension().is_some_and(|end| end == "c")).collect();
        assert!(sources.len() > 1, "{folder} has no sources");
        let more: Vec<&str> = more.split_whitespace().collect();
        run(&["-std=c11"], &more, &sources);
    }
}
