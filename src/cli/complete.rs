#![forbid(unsafe_code)]
//! Owns the names that a shell offers while a command line is typed: of the checkpoints or bitmaps of its image. Must never
//! take a lock, change anything or say anything: where it knows nothing, it prints nothing.

use crate::args::Arguments;
use crate::shell::{self, Line};
use checkmap::Image;
use checkmap::chain::{Chain, Name};
use checkmap::image::{Access, OpenOptions};
use clap::{Arg, Command, CommandFactory};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// The word by which the completions call us, which is no verb for people.
pub(crate) const WORD: &str = "__names";

/// The kind of name that belongs at the cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Checkpoints,
    /// Checkpoints, of which several may stand, and ranges.
    Ranges,
    Bitmaps,
}

/// Prints the names that may stand where the cursor is: `bash LINE WORD` with the line up to the cursor and the part of it
/// that bash will replace, or `words WORD...` with the words up to the cursor, the last of them begun.
pub(crate) fn run(args: impl Iterator<Item = OsString>) {
    let args: Vec<OsString> = args.collect();
    let answer = match args.split_first().map(|(how, rest)| (how.as_bytes(), rest)) {
        Some((b"bash", [line, replaced])) => for_bash(line.as_bytes(), replaced.as_bytes()),
        Some((b"words", words)) => for_words(words),
        _ => None,
    };
    let mut out = std::io::stdout().lock();
    for name in answer.unwrap_or_default() {
        // One name a line: those that hold a control character have to be typed.
        if !name.iter().any(u8::is_ascii_control) && (out.write_all(&name).and_then(|()| out.write_all(b"\n"))).is_err()
        {
            return;
        }
    }
}

fn for_words(words: &[OsString]) -> Option<Vec<Vec<u8>>> {
    let place = Cursor::of(words)?;
    Some(place.names(&place.begun))
}

/// The names as they have to be written into the line.
fn for_bash(line: &[u8], replaced: &[u8]) -> Option<Vec<Vec<u8>>> {
    let line = Line::read(line)?;
    let words: Vec<OsString> = line.words.iter().cloned().map(OsString::from_vec).collect();
    let place = Cursor::of(&words)?;
    let names = place.names(&place.begun);
    Some(shell::written(&names, &line, &place.begun, replaced))
}

/// The place in a command line that is to be completed.
#[derive(Debug, PartialEq, Eq)]
struct Cursor {
    kind: Kind,
    image: OsString,
    /// The typed beginning of the name.
    begun: Vec<u8>,
}

impl Cursor {
    /// `None` where no name of a checkpoint or a bitmap is wanted, or nobody knows of which image.
    fn of(words: &[OsString]) -> Option<Cursor> {
        let mut root = Arguments::command();
        root.build();
        let (begun, before) = words.split_last()?;
        let begun = begun.as_bytes();
        let mut verb: Option<&Command> = None;
        let (mut pending, mut positionals, mut only_positionals): (Option<&Arg>, Vec<&OsString>, bool) =
            Default::default();
        for word in before.iter().skip(1) {
            let bytes = word.as_bytes();
            if pending.take().is_some() {
                continue;
            }
            if !only_positionals && bytes.len() > 1 && bytes.starts_with(b"-") {
                only_positionals = bytes == b"--";
                pending = option_of(verb.unwrap_or(&root), bytes).filter(|_| !bytes.contains(&b'='));
            } else if verb.is_none() {
                verb = Some(root.find_subcommand(word)?);
            } else {
                positionals.push(word);
            }
        }
        let verb = verb?;
        let image = (*positionals.first()?).clone();
        let (arg, begun) = match (pending, begun.starts_with(b"-") && !only_positionals) {
            (Some(option), _) => (option, begun),
            (None, true) => {
                let at = begun.iter().position(|byte| *byte == b'=')?;
                (option_of(verb, begun.get(..at)?)?, begun.get(at + 1..)?)
            }
            (None, false) => {
                // The last one of a verb may stand several times.
                let arg = verb.get_positionals().nth(positionals.len());
                (arg.or(verb.get_positionals().last())?, begun)
            }
        };
        let kind = match (verb.get_name(), arg.get_id().as_str()) {
            ("delete", "checkpoints") => Kind::Ranges,
            ("rename", "checkpoint")
            | ("diff" | "map" | "report" | "serve" | "compare", "since" | "until")
            | ("drop", "before") => Kind::Checkpoints,
            ("dump" | "drop" | "compare", "bitmap") | ("merge", "sources" | "into") => Kind::Bitmaps,
            _ => return None,
        };
        Some(Cursor { kind, image, begun: begun.to_vec() })
    }

    /// The names that begin so, the oldest first.
    fn names(&self, begun: &[u8]) -> Vec<Vec<u8>> {
        let Some(image) = open(Path::new(&self.image)) else { return Vec::new() };
        let of = |chain: Option<Chain>| -> Vec<Name> {
            let checkpoints = chain.iter().flat_map(Chain::checkpoints);
            checkpoints.map(|checkpoint| checkpoint.name.clone()).collect()
        };
        let (names, beside): (Vec<Name>, Vec<Name>) = match self.kind {
            Kind::Bitmaps => (image.bitmaps().into_iter().map(|bitmap| bitmap.name).collect(), Vec::new()),
            Kind::Checkpoints | Kind::Ranges => {
                (of(image.chain(None).ok()), of(Chain::beside(&image.bitmaps()).ok().flatten()))
            }
        };
        let fits = |name: &[u8]| name.starts_with(begun);
        let all = names.iter().chain(&beside).map(|name| name.as_bytes().to_vec());
        let found: Vec<Vec<u8>> = all.filter(|name| fits(name)).collect();
        match found.is_empty() && self.kind == Kind::Ranges {
            true => ranges(&names).filter(|range| fits(range)).collect(),
            false => found,
        }
    }
}

/// Every range of these checkpoints.
fn ranges(names: &[Name]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let younger = |at: usize| names.iter().skip(at);
    let range = |from: &Name, to: &Name| [from.as_bytes(), b"..", to.as_bytes()].concat();
    names.iter().enumerate().flat_map(move |(at, from)| younger(at).map(move |to| range(from, to)))
}

/// The option of this word that takes a value.
fn option_of<'a>(command: &'a Command, word: &[u8]) -> Option<&'a Arg> {
    let word = std::str::from_utf8(word).ok()?;
    let name = word.strip_prefix("--").map(|long| long.split_once('=').map_or(long, |(name, _)| name));
    let short = word.chars().next_back();
    command
        .get_arguments()
        .find(|arg| match name {
            Some(name) => arg.get_long() == Some(name),
            None => arg.get_short() == short,
        })
        .filter(|arg| arg.get_action().takes_values())
}

/// The image without locks, for its names only. A pipe would keep the shell waiting.
fn open(path: &Path) -> Option<Image> {
    let kind = std::fs::metadata(path).ok()?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return None;
    }
    Image::open(path, &OpenOptions::new(Access::Names)).ok()
}

/// The completions of a shell as clap makes them, with our names where a name is wanted.
pub(crate) fn with_names(shell: clap_complete::Shell, script: String) -> String {
    match shell {
        clap_complete::Shell::Bash => match script.rfind("\nif [[ \"${BASH_VERSINFO[0]}\"") {
            Some(at) => {
                let (functions, registration) = script.split_at(at);
                let registration = registration.replace("complete -F _checkmap ", "complete -F _checkmap_or_names ");
                format!("{functions}{BASH}{registration}")
            }
            None => script,
        },
        clap_complete::Shell::Zsh => {
            let with_names = script.lines().map(|line| match ZSH_PLACES.iter().any(|place| line.contains(place)) {
                // With two colons the words before it could not be seen.
                true => line.replace(":_default'", ":_checkmap_names'").replace("'*::", "'*:") + "\n",
                false => line.to_owned() + "\n",
            });
            let with_names: String = with_names.collect();
            match with_names.rfind("\nif [ \"$funcstack[1]\"") {
                Some(at) => {
                    let (functions, registration) = with_names.split_at(at);
                    format!("{functions}{ZSH}{registration}")
                }
                None => with_names,
            }
        }
        clap_complete::Shell::Fish => script + FISH,
        _ => script,
    }
}

const BASH: &str = r#"
# Names of checkpoints and bitmaps, from the image in the line; else what stands above.
_checkmap_or_names() {
    local name
    COMPREPLY=()
    while IFS= read -r name; do
        COMPREPLY+=("$name")
    done < <("$1" __names bash "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    if [[ "${#COMPREPLY[@]}" -eq 0 ]]; then
        _checkmap "$@"
    fi
}
"#;

/// Lines of the script for zsh in which a name is wanted.
const ZSH_PLACES: [&str; 8] = [
    "'*::checkpoints -- ",
    "':checkpoint -- The checkpoint:",
    "'*::sources -- ",
    "'--since=[",
    "'--until=[",
    "'--before=[",
    "'--bitmap=[",
    "'--into=[",
];

const ZSH: &str = r#"
# Names of checkpoints and bitmaps, from the image in the line.
(( $+functions[_checkmap_names] )) ||
_checkmap_names() {
    local -a names
    names=("${(@f)$(checkmap __names words checkmap "${(@Q)words[1,CURRENT]}" 2>/dev/null)}")
    names=("${(@)names:#}")
    if (( $#names )); then
        compadd -V names -a names
    else
        _default
    fi
}
"#;

const FISH: &str = r#"# Names of checkpoints and bitmaps, from the image in the line.
function __fish_checkmap_names
    checkmap __names words (commandline -opc) (commandline -ct) 2>/dev/null
end
complete -c checkmap -n "__fish_checkmap_using_subcommand delete rename merge" -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l since -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand diff" -l until -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l since -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand serve" -l until -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -l before -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand drop" -l bitmap -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand dump" -l bitmap -r -f -k -a "(__fish_checkmap_names)"
complete -c checkmap -n "__fish_checkmap_using_subcommand merge" -l into -r -f -k -a "(__fish_checkmap_names)"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn place(words: &str) -> Option<(Kind, String, String)> {
        let words: Vec<OsString> = words.split(' ').map(OsString::from).collect();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Cursor::of(&words).map(|place| (place.kind, text(place.image.as_bytes()), text(&place.begun)))
    }

    #[test]
    fn names_are_offered_where_one_is_wanted() {
        let of = |kind, begun: &str| Some((kind, "disk".to_owned(), begun.to_owned()));
        assert_eq!(place("checkmap delete disk mo"), of(Kind::Ranges, "mo"));
        assert_eq!(place("checkmap delete disk mon tue "), of(Kind::Ranges, ""));
        assert_eq!(place("checkmap --progress never -q diff disk --since "), of(Kind::Checkpoints, ""));
        assert_eq!(place("checkmap diff disk --since=m"), of(Kind::Checkpoints, "m"));
        assert_eq!(place("checkmap diff --since mon disk --until t"), of(Kind::Checkpoints, "t"));
        assert_eq!(place("checkmap rename disk m"), of(Kind::Checkpoints, "m"));
        assert_eq!(place("checkmap merge disk a b"), of(Kind::Bitmaps, "b"));
        assert_eq!(place("checkmap merge disk a --into "), of(Kind::Bitmaps, ""));
        assert_eq!(place("checkmap delete disk -- -x"), of(Kind::Ranges, "-x"));
        for none in [
            "checkmap",
            "checkmap ",
            "checkmap delete di",
            "checkmap diff --since ",
            "checkmap diff disk --since mon --format ",
            "checkmap diff disk -o ",
            "checkmap create disk m",
            "checkmap rename disk mon new",
            "checkmap list disk ",
            "checkmap nonsense disk m",
            "checkmap delete disk --for",
        ] {
            assert_eq!(place(none), None, "{none}");
        }
    }
}
