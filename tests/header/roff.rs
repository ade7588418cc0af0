//! Owns the language of manual pages: text and code as man(7) wants them. Must never know what a page says.

/// Text of which roff understands nothing but the letters.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '\\' => escaped += "\\e",
            '-' => escaped += "\\-",
            '\'' => escaped += "\\(aq",
            '`' => escaped += "\\(ga",
            '^' => escaped += "\\(ha",
            '~' => escaped += "\\(ti",
            other => escaped.push(other),
        }
    }
    // A dot at the beginning of a line would be a request.
    if escaped.starts_with('.') { format!("\\&{escaped}") } else { escaped }
}

/// A document in plain text, as it stands in the line NAME.
pub(crate) fn plain(document: &str) -> String {
    escape(&document.replace('`', ""))
}

/// A document, one line for each sentence: names of calls, constants and errnos are bold, other code is italic.
pub(crate) fn marked(document: &str) -> String {
    let sentences = document.replace(". ", ".\n");
    let mut lines = Vec::new();
    for sentence in sentences.lines() {
        let mut line = String::new();
        for (at, part) in sentence.split('`').enumerate() {
            if at % 2 == 0 {
                line += &escape(part);
            } else if let Some(call) = part.strip_suffix("()") {
                line += &format!("\\fB{}\\fR(3)", escape(call));
            } else if part.starts_with("-E") || part.chars().all(|c| c.is_ascii_uppercase() || "_.".contains(c)) {
                line += &format!("\\fB{}\\fR", escape(part));
            } else {
                line += &format!("\\fI{}\\fR", escape(part));
            }
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// Lines as they stand, indented.
pub(crate) fn code(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().lines().map(escape).collect();
    format!(".RS 4\n.nf\n{}\n.fi\n.RE", lines.join("\n"))
}

/// One entry of a list.
pub(crate) fn entry(term: &str, text: &str) -> String {
    format!(".TP\n{term}\n{text}")
}

pub(crate) fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escape(text))
}

/// A page as `mandoc -T ascii` or `groff -T ascii` shows it, without the letters that they print twice.
pub(crate) fn without_overstrike(shown: &str) -> String {
    let mut text = String::new();
    for letter in shown.chars() {
        if letter == '\u{8}' {
            text.pop();
        } else {
            text.push(letter);
        }
    }
    text
}
