//! Owns the page of one call: which sections it has, and what stands in each. Must never know where pages are kept.

use super::roff::{bold, code, entry, escape, marked, plain};
use super::source::{CType, Call, Document, Failure, Sources, Struct};
use std::collections::{BTreeMap, BTreeSet};

/// What pages are made from beside the sources.
pub(crate) struct Material<'a> {
    pub(crate) sources: &'a Sources,
    /// The version of the library.
    pub(crate) version: &'a str,
    /// The version that brought each call.
    pub(crate) since: &'a BTreeMap<String, String>,
    /// Programs of C, and the calls that each is an example of.
    pub(crate) examples: &'a [(Vec<String>, String)],
}

const OPTIONS: &str = "checkmap_opts";

impl Material<'_> {
    pub(crate) fn page(&self, call: &Call) -> String {
        let mut page = vec![format!(".TH {} 3 \"\" \"checkmap {}\" \"checkmap\"", call.name, self.version)];
        let mut section = |title: &str, lines: Vec<String>| {
            if !lines.is_empty() {
                page.push(format!(".SH {title}"));
                page.extend(lines);
            }
        };
        section("NAME", vec![format!("{} \\- {}", call.name, plain(&call.document.brief))]);
        section("SYNOPSIS", synopsis(call));
        section("DESCRIPTION", description(&call.document));
        section("FLAGS", self.constants_named_in(call.document.paragraphs.iter().chain(&call.document.returns), true));
        section("OPTIONS", self.options(call));
        section("STRUCTURES", self.structures(call));
        section("RETURN VALUE", returned(call));
        section("ERRORS", self.errors(call));
        section("OWNERSHIP", self.ownership(call));
        section("THREADS", self.threads(call));
        section("EXAMPLE", vec![code(self.example(call))]);
        let since = self.since.get(&call.name).unwrap_or_else(|| panic!("{}: since which version?", call.name));
        section("HISTORY", vec![format!("Since checkmap {}.", escape(since))]);
        section("SEE ALSO", vec![self.related(call)]);
        page.join("\n") + "\n"
    }

    fn example(&self, call: &Call) -> &str {
        let example = self.examples.iter().find(|(names, _)| names.contains(&call.name));
        &example.unwrap_or_else(|| panic!("{} has no example in libcheckmap/examples", call.name)).1
    }

    /// The constants of each group that a text names, as in `CHECKMAP_OPEN_...`.
    fn constants_named_in<'a>(&self, texts: impl Iterator<Item = &'a String>, in_facts: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for word in texts.flat_map(|text| text.split(|c: char| !c.is_ascii_uppercase() && !"_.".contains(c))) {
            let Some(prefix) = word.trim_end_matches("....").strip_suffix("...").or_else(|| word.strip_suffix("...."))
            else {
                continue;
            };
            let group: Vec<_> = self.sources.constants.iter().filter(|(name, _)| name.starts_with(prefix)).collect();
            assert!(prefix.starts_with("CHECKMAP_") && !group.is_empty(), "{word} stands for no constants");
            // Among options nobody wants what only facts have.
            let wanted = group.iter().filter(|(_, text)| in_facts || !text.starts_with("In facts"));
            lines.extend(wanted.map(|(name, text)| entry(&bold(name), &marked(text))));
        }
        lines
    }

    fn options(&self, call: &Call) -> Vec<String> {
        let takes = call.parameters.iter().any(|(_, c_type)| c_type.innermost() == OPTIONS);
        assert_eq!(takes, !call.document.options.is_empty(), "{}: which options does it take?", call.name);
        let (true, Some(structure)) = (takes, self.sources.structure(OPTIONS)) else { return Vec::new() };
        let mut wanted: BTreeSet<&str> = call.document.options.iter().map(String::as_str).collect();
        let flags: Vec<&str> =
            wanted.iter().filter(|word| word.chars().all(|c| c.is_ascii_uppercase() || c == '_')).copied().collect();
        wanted.retain(|word| !flags.contains(word));
        wanted.insert("size");
        if wanted.contains("progress") {
            wanted.insert("user_data");
        }
        if !flags.is_empty() {
            wanted.insert("flags");
        }
        let mut lines = vec![marked(&structure.text.join(" ")), "This call reads:".into()];
        for (name, c_type, text) in &structure.members {
            if !wanted.remove(name.as_str()) {
                continue;
            }
            lines.push(entry(&bold(&c_type.declare(name)), &marked(&text.join(" "))));
            if let Some((_, callback)) =
                self.sources.callbacks.iter().find(|(callback, _)| callback == c_type.innermost())
            {
                lines.push(format!(".IP\n{}", callback.iter().map(|part| marked(part)).collect::<Vec<_>>().join("\n")));
            }
            if name == "model" {
                lines.push(nested(self.constants_named_in(text.iter(), false)));
            }
            if name == "flags" {
                let known = flags.iter().map(|flag| {
                    let name = format!("CHECKMAP_OPT_{flag}");
                    let constant = self.sources.constants.iter().find(|(constant, _)| *constant == name);
                    let (_, text) = constant.unwrap_or_else(|| panic!("{}: there is no {name}", call.name));
                    entry(&bold(&name), &marked(text))
                });
                lines.push(nested(known.collect()));
            }
        }
        assert!(wanted.is_empty(), "{}: there are no options {wanted:?}", call.name);
        lines
    }

    /// Structs with members that a call takes or fills, but for its options.
    fn open_structs<'a>(&'a self, call: &'a Call) -> impl Iterator<Item = (&'a str, &'a CType, &'a Struct)> {
        call.parameters.iter().filter_map(|(name, c_type)| {
            let structure = self.sources.structure(c_type.innermost())?;
            (!structure.is_handle && structure.name != OPTIONS).then_some((name.as_str(), c_type, structure))
        })
    }

    fn structures(&self, call: &Call) -> Vec<String> {
        let mut lines = Vec::new();
        for (_, _, structure) in self.open_structs(call) {
            lines.push(format!(".SS struct {}", escape(&structure.name)));
            lines.push(marked(&structure.text.join(" ")));
            for (name, c_type, text) in &structure.members {
                if name.starts_with("reserved") {
                    continue;
                }
                lines.push(entry(&bold(&c_type.declare(name)), &marked(&text.join(" "))));
                let constants = self.constants_named_in(text.iter(), true);
                if !constants.is_empty() {
                    lines.push(nested(constants));
                }
            }
        }
        lines
    }

    /// The handles that a call takes, and whether it has each alone.
    fn handles<'a>(&'a self, call: &'a Call) -> impl Iterator<Item = (&'a str, &'a str, bool)> {
        call.parameters.iter().filter_map(|(name, c_type)| {
            let structure = self.sources.structure(c_type.innermost()).filter(|structure| structure.is_handle)?;
            let is_shared = match c_type {
                CType::Pointer { is_const, to } => match &**to {
                    CType::Pointer { is_const: true, .. } => true,
                    // An array of handles, or the place for a new one.
                    CType::Pointer { .. } if *is_const => false,
                    CType::Pointer { .. } => return None,
                    CType::Named(_) => *is_const,
                },
                CType::Named(_) => return None,
            };
            Some((name.as_str(), structure.name.as_str(), !is_shared))
        })
    }

    fn errors(&self, call: &Call) -> Vec<String> {
        let takes_pointers = call.parameters.iter().any(|(_, c_type)| c_type.is_pointer());
        if call.returned.is_none() {
            return vec!["None. What is no live handle is left alone.".into()];
        }
        if !takes_pointers {
            return vec!["None.".into()];
        }
        let mut lines = vec![
            "After an error \\fBcheckmap_last_error\\fR(3) has the message, \\fBcheckmap_last_error_kind\\fR(3) the kind,".into(),
            "and \\fBcheckmap_last_error_errno\\fR(3) the errno.".into(),
        ];
        let mut all: Vec<Failure> = self.sources.failures(call);
        all.extend(self.failures_of_all(call));
        // One entry for each errno, in the order of the documents; what the system says stands last.
        all.sort_by_key(|failure| failure.errno.is_none());
        while let Some(first) = all.first() {
            let errno = first.errno.clone();
            let (same, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|failure| failure.errno == errno);
            let texts: Vec<String> = same.iter().map(|failure| marked(&as_sentence(&failure.text))).collect();
            lines.push(entry(&errno.map_or_else(|| "Others".into(), |errno| bold(&errno)), &texts.join("\n.br\n")));
            all = others;
        }
        lines
    }

    /// What every call with such parameters can return, as the rules at the head of the header say.
    fn failures_of_all(&self, call: &Call) -> Vec<Failure> {
        let handles: Vec<_> = self.handles(call).collect();
        let mut all = Vec::new();
        let mut add = |errno: &str, text: &str| all.push(Failure { errno: Some(errno.into()), text: text.into() });
        if handles.is_empty() {
            add("-EINVAL", "a pointer is NULL or misaligned.");
        } else {
            add("-EINVAL", "a pointer is NULL or misaligned, or a handle is of another type or looks freed.");
        }
        for (name, c_type) in &call.parameters {
            let structure = self.sources.structure(c_type.innermost()).filter(|structure| !structure.is_handle);
            if structure.is_some_and(|structure| structure.members.first().is_some_and(|(name, ..)| name == "size")) {
                add("-EINVAL", &format!("the size in `{name}` is smaller than the first version of the struct."));
                if c_type.innermost() == OPTIONS {
                    add("-EINVAL", "a flag or a model is unknown, or there are more than 1024 threads.");
                }
                add("-E2BIG", &format!("`{name}` is of a version that asks for something this library does not know."));
            }
        }
        if !handles.is_empty() {
            add(
                "-ENOTRECOVERABLE",
                "a fault of the library itself, in this call or in an earlier one with the same handle.",
            );
        } else {
            add("-ENOTRECOVERABLE", "a fault of the library itself.");
        }
        if handles.iter().any(|(_, name, _)| *name == "checkmap_bitmap") {
            add("-EDEADLK", "a fork caught another thread in the middle of a change of the bitmap.");
        }
        add("-ENOMEM", "there is no memory for what the call needs, and nothing has changed.");
        all
    }

    fn ownership(&self, call: &Call) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, c_type) in places(call) {
            let end = self.end_of(c_type.innermost());
            lines.push(format!(
                "\\fI*{name}\\fR is a new handle, which the caller owns and ends by \\fB{end}\\fR(3).\nIt is NULL on error."
            ));
        }
        lines.extend(call.document.ownership.as_deref().map(|text| marked(&as_sentence(text))));
        let hands_out = call.returned.as_ref().is_some_and(CType::is_pointer)
            || self
                .open_structs(call)
                .any(|(_, _, structure)| structure.members.iter().any(|(_, c_type, _)| c_type.is_pointer()));
        assert_eq!(hands_out, call.document.ownership.is_some(), "{}: who owns what it hands out?", call.name);
        let taken = (call.returned.is_none()).then(|| call.parameters.first()).flatten();
        if let Some((name, _)) = taken {
            lines.push(format!("The handle \\fI{name}\\fR is the library's again, and must not be used any more."));
        } else if call.parameters.iter().any(|(_, c_type)| c_type.is_pointer()) {
            lines.push(
                "What the caller passes stays the caller's, and the library keeps no pointer to it after the call."
                    .into(),
            );
        } else if lines.is_empty() {
            lines.push("Nothing changes hands.".into());
        }
        lines
    }

    /// The call that ends a handle: it takes nothing else, and returns nothing.
    fn end_of(&self, handle: &str) -> &str {
        let end = self.sources.calls.iter().find(|call| {
            call.returned.is_none() && call.parameters.len() == 1 && call.parameters[0].1.innermost() == handle
        });
        &end.unwrap_or_else(|| panic!("nothing ends {handle}")).name
    }

    fn threads(&self, call: &Call) -> Vec<String> {
        let (alone, shared): (Vec<_>, Vec<_>) = self.handles(call).partition(|(_, _, is_alone)| *is_alone);
        let names = |handles: &[(&str, &str, bool)]| {
            handles.iter().map(|(name, ..)| format!("\\fI{name}\\fR")).collect::<Vec<_>>().join(" and ")
        };
        let mut lines = Vec::new();
        if !alone.is_empty() {
            lines.push(format!("The call needs {} alone: no other thread may use it meanwhile.", names(&alone)));
        }
        if !shared.is_empty() {
            lines.push(format!(
                "Other threads may use {} at the same time, by calls that take it as \\fBconst\\fR.",
                names(&shared)
            ));
        }
        if lines.is_empty() {
            lines.push("The call may be made by any thread at any time.".into());
        }
        lines
    }

    /// What a call's document names, what names it, and what stands in the same example.
    fn related(&self, call: &Call) -> String {
        let names = |document: &Document, name: &str| {
            let mark = format!("`{name}()`");
            document.brief.contains(&mark) || document.paragraphs.iter().any(|text| text.contains(&mark))
        };
        let shares =
            |name: &String| self.examples.iter().any(|(names, _)| names.contains(name) && names.contains(&call.name));
        let ends: Vec<&str> = places(call).map(|(_, c_type)| self.end_of(c_type.innermost())).collect();
        let mut all = vec!["\\fBcheckmap\\fR(3)".to_owned()];
        for other in &self.sources.calls {
            let is_named = names(&call.document, &other.name) || names(&other.document, &call.name);
            if other.name != call.name && (is_named || shares(&other.name) || ends.contains(&other.name.as_str())) {
                all.push(format!("\\fB{}\\fR(3)", other.name));
            }
        }
        all.join(",\n")
    }
}

/// A point of a list as a sentence.
fn as_sentence(text: &str) -> String {
    let mut sentence = format!("{}.", text.trim_end_matches('.'));
    if let Some(first) = sentence.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    sentence
}

/// The places for new handles.
fn places(call: &Call) -> impl Iterator<Item = &(String, CType)> {
    call.parameters
        .iter()
        .filter(|(_, c_type)| matches!(c_type, CType::Pointer { is_const: false, to } if to.is_pointer()))
}

/// Entries that belong to the one before them.
fn nested(entries: Vec<String>) -> String {
    format!(".RS\n{}\n.RE", entries.join("\n"))
}

/// A declaration as C has it, over several lines where it is long.
pub(crate) fn declaration(call: &Call) -> String {
    let parameters: Vec<String> = call.parameters.iter().map(|(name, c_type)| c_type.declare(name)).collect();
    let head = match &call.returned {
        Some(returned) => returned.declare(&call.name),
        None => format!("void {}", call.name),
    };
    let short = format!("{head}({});", if parameters.is_empty() { "void".into() } else { parameters.join(", ") });
    if short.len() <= 76 { short } else { format!("{head}(\n    {});", parameters.join(",\n    ")) }
}

fn synopsis(call: &Call) -> Vec<String> {
    let mut lines = vec![".nf".to_owned(), bold("#include <checkmap.h>"), ".PP".into()];
    lines.extend(declaration(call).lines().map(bold));
    lines.push(".fi".into());
    lines
}

fn description(document: &Document) -> Vec<String> {
    let mut parts = vec![format!("{}.", marked(&document.brief))];
    parts.extend(document.paragraphs.iter().map(|text| marked(text)));
    vec![parts.join("\n.PP\n")]
}

fn returned(call: &Call) -> Vec<String> {
    let text = match (&call.document.returns, &call.returned) {
        (Some(text), Some(_)) => text.clone(),
        (None, None) => "nothing.".into(),
        (None, Some(CType::Named(name))) if name == "int" => "0; or a negative errno.".into(),
        _ => panic!("{}: what does it return?", call.name),
    };
    vec![marked(&as_sentence(&text))]
}
