#![forbid(unsafe_code)]
//! Owns the hint for somebody whose shell took the `>` in the name of a bitmap for a redirection. Must never change what
//! is done.

use std::io::stdout;
use std::os::fd::AsFd;

/// What to say where one of these words of the command line is the beginning of a name like `mon->tue`: the shell cut it
/// off behind the dash, and stdout goes to a file named as the rest.
pub(crate) fn of_redirection<'a>(words: impl IntoIterator<Item = &'a [u8]>) -> Option<String> {
    let is_cut = |word: &&[u8]| word.len() > 1 && word.ends_with(b"-") && !word.starts_with(b"-");
    let word = words.into_iter().find(is_cut)?;
    let out = stdout().as_fd().try_clone_to_owned().ok().map(std::fs::File::from)?;
    if !out.metadata().ok()?.is_file() {
        return None;
    }
    let file = std::fs::read_link("/proc/self/fd/1").ok()?;
    let name = format!("{}>{}", String::from_utf8_lossy(word), file.file_name()?.to_string_lossy());
    Some(format!(
        "did the shell take the > for a redirection? Output goes to {}; if the name is meant, quote it: '{}'",
        file.display(),
        name.replace('\'', "'\\''")
    ))
}
