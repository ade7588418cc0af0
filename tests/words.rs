#![forbid(unsafe_code)]
//! The words for people: the library speaks no front end's language, each front end has words of its own for every way out,
//! and comments are plain enough for readers whose first language is not English.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("src can be listed") {
        let path = entry.expect("src can be listed").path();
        if path.is_dir() {
            found.extend(sources_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The string literals of a source, each with its line; its tests at the end and its comments are left out.
fn literals(source: &str) -> Vec<(usize, String)> {
    let source = source.split("\n#[cfg(test)]").next().unwrap_or_default();
    let mut literals = Vec::new();
    let (mut characters, mut line) = (source.chars().peekable(), 1);
    let mut before = ' ';
    while let Some(character) = characters.next() {
        match character {
            '\n' => line += 1,
            '/' if characters.peek() == Some(&'/') => while characters.next_if(|next| *next != '\n').is_some() {},
            // A quote as a character, which begins no literal.
            '"' if before == '\'' => {}
            '"' => {
                let (mut text, first) = (String::new(), line);
                while let Some(character) = characters.next().filter(|character| *character != '"') {
                    line += usize::from(character == '\n');
                    match (character, characters.peek()) {
                        // A line that goes on: the blanks after it are none of the text's.
                        ('\\', Some('\n')) => while characters.next_if(|next| next.is_whitespace()).is_some() {},
                        ('\\', _) => {
                            text.extend(characters.next().map(|escaped| if escaped == 'n' { ' ' } else { escaped }))
                        }
                        _ => text.push(character),
                    }
                }
                literals.push((first, text));
            }
            _ => {}
        }
        before = character;
    }
    literals
}

/// The options of other programs that the library starts.
const OF_OTHERS: &[&str] = &[
    "--object",
    "--name",
    " --no-domain",
    "--redefine",
    "--redefine-validate",
    "--metadata",
    "--domain",
    "--checkpointname",
    "checkpoint-dumpxml --domain {domain} --checkpointname {name}{more}; echo {BETWEEN}; ",
];

/// A text without the commands of QEMU's in it, which are the same for everyone.
fn without_qemu(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts
        .filter(|(at, part)| at % 2 == 0 || !part.starts_with("qemu-"))
        .map(|(_, part)| part)
        .collect::<Vec<_>>()
        .join("`")
}

#[test]
fn literals_are_found() {
    let source = "f(\"a \\\"b\\\" \\\n   c\", '\"', \"d\"); // \"e\"\n/// \"f\"\nlet g = \"h\";\n#[cfg(test)]\n\"i\"";
    let found: Vec<String> = literals(source).into_iter().map(|(_, text)| text).collect();
    assert_eq!(found, ["a \"b\" c", "d", "h"]);
    assert_eq!(
        without_qemu("run `qemu-img check --x` or `checkmap --y`"),
        "run `` or `checkmap --y`".replace("``", "`")
    );
}

#[test]
fn the_library_names_no_option_and_no_verb_of_the_command_line() {
    let mut seen = 0;
    for path in sources_below(&root().join("src")) {
        if path.starts_with(root().join("src/cli")) {
            continue;
        }
        let source = fs::read_to_string(&path).expect("sources are UTF-8");
        for (line, text) in literals(&source) {
            seen += 1;
            let text = without_qemu(&text);
            if OF_OTHERS.contains(&text.as_str()) {
                continue;
            }
            let option =
                text.match_indices("--").any(|(at, _)| text[at + 2..].starts_with(|c: char| c.is_ascii_lowercase()));
            let verb = text.contains("`checkmap ");
            let short = [" -U", " -o "].iter().any(|short| text.contains(short));
            assert!(!option && !verb && !short, "{}:{line}: {text:?}", path.display());
        }
    }
    assert!(seen > 1000, "the literals are not where this test looks: {seen}");
}

/// The names of ways out in marks, as the C library writes them.
fn names() -> BTreeSet<String> {
    let source = fs::read_to_string(root().join("src/capi/error.rs")).expect("sources are UTF-8");
    let (_, table) = source.split_once("fn words(control: &Control)").expect("the table of words");
    let (table, _) = table.split_once("\n}\n").expect("the end of the table");
    let is_name = |text: &String| text.len() > 3 && text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    literals(table)
        .into_iter()
        .map(|(_, text)| text)
        .filter(is_name)
        .filter(|name| !name.starts_with("CHECKMAP_"))
        .collect()
}

#[test]
fn every_way_out_has_a_name_in_the_header_and_words_in_each_binding() {
    let read = |path: &str| fs::read_to_string(root().join(path)).expect("it can be read");
    let names = names();
    assert!(names.len() >= 11, "{names:?}");
    let (header, python, go) =
        (read("include/checkmap.h"), read("bindings/python/src/checkmap/_errors.py"), read("bindings/go/error.go"));
    for name in names {
        let in_header = header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == name);
        assert!(in_header, "{name} is not in the header: see checkmap_last_error_marked()");
        for (binding, text) in [("Python", &python), ("Go", &go)] {
            assert!(text.contains(&format!("\"{name}\"")), "{name} has no words in {binding}");
        }
    }
}

/// Phrases that make a reader guess the thing they stand for: the thing itself can be named.
const RIDDLES: &[&str] = &["what is ", "what are ", "what was ", "what were ", "whoever ", "so many "];

#[test]
fn comments_name_the_things_they_speak_of() {
    let folders = ["src", "tests", "benches", "fuzz/bodies", "benchmarks/src", "bindings/python/bench/src"];
    let mut found = Vec::new();
    for path in folders.iter().flat_map(|folder| sources_below(&root().join(folder))) {
        let source = fs::read_to_string(&path).expect("a source can be read");
        for (line, text) in (1..).zip(source.lines()) {
            let comment = text.split_once("//").map(|(_, comment)| comment.to_lowercase() + " ").unwrap_or_default();
            if RIDDLES.iter().any(|riddle| comment.contains(riddle)) {
                found.push(format!("{}:{line}: {}", path.display(), text.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
