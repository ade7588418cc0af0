#![forbid(unsafe_code)]
//! Owns how bash reads and writes words: quotes and what stands in them. Must never know what the words mean.

/// A command line of bash up to the cursor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The words without their quotes; the last is the one at the cursor, and may be empty.
    pub(crate) words: Vec<Vec<u8>>,
    /// The quote that is open at the cursor.
    open: Option<u8>,
}

impl Line {
    /// Reads the last command of the line. `None` where a redirection takes the word at the cursor.
    pub(crate) fn read(line: &[u8]) -> Option<Line> {
        let (mut words, mut word, mut open): (Vec<Vec<u8>>, Option<Vec<u8>>, Option<u8>) = Default::default();
        let mut is_redirected = false;
        let mut bytes = line.iter().copied().peekable();
        while let Some(byte) = bytes.next() {
            match (open, byte) {
                (Some(quote), byte) if byte == quote => open = None,
                (Some(b'"'), b'\\') if bytes.peek().is_some_and(|next| b"\\\"$`".contains(next)) => {
                    word.get_or_insert_default().extend(bytes.next());
                }
                (Some(_), byte) => word.get_or_insert_default().push(byte),
                (None, b'\'' | b'"') => {
                    open = Some(byte);
                    word.get_or_insert_default();
                }
                (None, b'\\') => word.get_or_insert_default().extend(bytes.next()),
                (None, b' ' | b'\t' | b'\n') => {
                    // The name of a file that input or output goes to is none of the words.
                    let Some(ended) = word.take() else { continue };
                    words.extend((!is_redirected).then_some(ended));
                    is_redirected = false;
                }
                (None, b';' | b'|' | b'&' | b'(') => (words, word, is_redirected) = Default::default(),
                (None, b'<' | b'>') => {
                    // Digits right before it are the number of a descriptor.
                    let is_word = |word: &Vec<u8>| !is_redirected && !word.iter().all(u8::is_ascii_digit);
                    words.extend(word.take().filter(is_word));
                    is_redirected = true;
                }
                (None, byte) => word.get_or_insert_default().push(byte),
            }
        }
        words.push(word.unwrap_or_default());
        (!is_redirected).then_some(Line { words, open })
    }
}

/// `names` as bash has to put them in the place of `replaced`, the end of the line that it replaces. `begun` is the text that was
/// typed of the name, without quotes.
pub(crate) fn written(names: &[Vec<u8>], line: &Line, begun: &[u8], replaced: &[u8]) -> Vec<Vec<u8>> {
    let each = |write: &dyn Fn(&[u8]) -> Vec<u8>| names.iter().map(|name| write(name)).collect();
    match line.open {
        // Bash keeps the opening quote, and writes the closing one.
        Some(b'\'') => each(&|name| in_single_quotes(name)),
        Some(_) => each(&|name| after_backslashes(name, b"\\\"$`")),
        None if replaced == begun => match names.iter().all(|name| is_plain(name)) {
            true => names.to_vec(),
            // All of them, so that they begin alike.
            false => each(&|name| [b"'", in_single_quotes(name).as_slice(), b"'"].concat()),
        },
        // Something before it was typed with a backslash, or bash breaks words there, as at a colon.
        None => {
            let replaced = Line::read(replaced).and_then(|line| line.words.last().map(Vec::len)).unwrap_or_default();
            let kept = begun.len().saturating_sub(replaced);
            each(&|name| after_backslashes(name.get(kept..).unwrap_or_default(), SPECIAL))
        }
    }
}

/// What has to stand behind a backslash.
const SPECIAL: &[u8] = b" \t'\"\\$`<>|&;()*?[]{}!#~^";

fn in_single_quotes(name: &[u8]) -> Vec<u8> {
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'\'').collect();
    parts.join(b"'\\''".as_slice())
}

fn after_backslashes(name: &[u8], special: &[u8]) -> Vec<u8> {
    name.iter().flat_map(|byte| special.contains(byte).then_some(b'\\').into_iter().chain([*byte])).collect()
}

/// Whether bash takes a name as it is, also in the middle of completing it.
fn is_plain(name: &[u8]) -> bool {
    name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.,+@%/".contains(byte) || !byte.is_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<(Vec<String>, Option<char>)> {
        let line = Line::read(line.as_bytes())?;
        let words = line.words.iter().map(|word| String::from_utf8_lossy(word).into_owned());
        Some((words.collect(), line.open.map(char::from)))
    }

    #[test]
    fn words_are_read_as_bash_reads_them() {
        let of = |words: &[&str], open| Some((words.iter().map(|word| (*word).to_owned()).collect(), open));
        assert_eq!(read("a b"), of(&["a", "b"], None));
        assert_eq!(read("a  b "), of(&["a", "b", ""], None));
        assert_eq!(read("a 'b c' \"d\\\"e\\f\" g\\ h"), of(&["a", "b c", "d\"e\\f", "g h"], None));
        assert_eq!(read("a 'b->"), of(&["a", "b->"], Some('\'')));
        assert_eq!(read("a ''"), of(&["a", ""], None));
        assert_eq!(read("x | a >file 2> file b"), of(&["a", "b"], None));
        assert_eq!(read("a mon->tu"), None);
        assert_eq!(read("a > "), None);
    }

    fn write(names: &[&str], line: &str, begun: &str, replaced: &str) -> Vec<String> {
        let names: Vec<Vec<u8>> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        let line = Line::read(line.as_bytes()).unwrap_or(Line { words: Vec::new(), open: None });
        let written = written(&names, &line, begun.as_bytes(), replaced.as_bytes());
        written.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[test]
    fn names_are_quoted_as_the_line_needs_them() {
        assert_eq!(write(&["mon", "tue"], "x ", "", ""), ["mon", "tue"]);
        assert_eq!(write(&["mon", "mon->tue"], "x m", "m", "m"), ["'mon'", "'mon->tue'"]);
        assert_eq!(write(&["it's"], "x i", "i", "i"), ["'it'\\''s'"]);
        assert_eq!(write(&["mon->tue"], "x 'mon->", "mon->", "mon->"), ["mon->tue"]);
        assert_eq!(write(&["it's"], "x 'i", "i", "i"), ["it'\\''s"]);
        assert_eq!(write(&["a \"b\""], "x \"a", "a", "a"), ["a \\\"b\\\""]);
        assert_eq!(write(&["a b"], "x a\\ ", "a ", "a\\ "), ["a\\ b"]);
        assert_eq!(write(&["02:30:00"], "x 02:3", "02:3", "3"), ["30:00"]);
    }
}
