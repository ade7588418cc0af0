#![forbid(unsafe_code)]
//! Owns the table of verbs that run on each disk of a fleet, and the arguments that each disk gets. Must never know how a disk is run.
//!
//! What stands behind the verb is read by the parser of that very verb, before anything runs, for each kind of disk in the manifest.

use super::manifest::{Entry, Source};
use crate::args::Arguments;
use crate::exit::Failure;
use crate::rows::Sheet;
use checkmap::backup::file_name;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, stdout};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Where the answer of a verb goes with `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// It has no such option.
    Nowhere,
    /// A file, whose name ends as the format wants: as a map of extents, or as a picture.
    Map,
    Picture,
    /// A folder of its own.
    Folder,
}

/// A verb that can run on a fleet: its name, whether it changes disks, and where its answer goes.
const VERBS: &[(&str, bool, Output)] = &[
    ("info", false, Output::Nowhere),
    ("list", false, Output::Nowhere),
    ("check", false, Output::Nowhere),
    ("diff", false, Output::Map),
    ("dump", false, Output::Map),
    ("plan", false, Output::Nowhere),
    ("map", false, Output::Picture),
    ("trend", false, Output::Picture),
    // With --repair and --to-interval alone, see below.
    ("doctor", false, Output::Nowhere),
    ("create", true, Output::Nowhere),
    ("delete", true, Output::Nowhere),
    ("rename", true, Output::Nowhere),
    ("drop", true, Output::Nowhere),
    ("backup", true, Output::Folder),
];

/// Options of a verb that say which disk is meant, or that belong to one disk alone: the manifest has them in their place.
const OF_ONE_DISK: &[(&str, &str)] = &[
    ("qmp", "--qmp"),
    ("libvirt", "--libvirt"),
    ("domain", "--domain"),
    ("node", "--node"),
    ("nbd_socket", "--nbd-socket"),
    ("also", "--also"),
    ("disk", "--disk"),
    ("disk_name", "--disk-name"),
    ("disk_target", "--disk-target"),
    ("libvirt_xml", "--libvirt-xml"),
    ("others", "a further image"),
];

/// The formats and media, each with the end of its files' names.
const ENDS: &[(&str, &str)] = &[
    ("json", "json"),
    ("table", "txt"),
    ("csv", "csv"),
    ("nbdinfo", "json"),
    ("qemu-map", "json"),
    ("roaring", "roaring"),
    ("raw", "raw"),
    ("segment", "seg"),
    ("sha256", "sha256"),
    ("parquet", "parquet"),
    ("parquet-roaring", "roaring.parquet"),
    ("text", "txt"),
    ("svg", "svg"),
    ("png", "png"),
];

/// The formats that have no place on a terminal.
const BINARY: &[&str] = &["roaring", "raw", "segment", "parquet", "parquet-roaring", "png"];

/// What the options of the fleet add to the arguments of the verb.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    pub(super) json: bool,
    pub(super) dry_run: bool,
    pub(super) quiet: bool,
    pub(super) no_lock: bool,
}

/// The verb with its arguments, as far as they are the same for all disks.
#[derive(Debug)]
pub(super) struct Verb {
    name: &'static str,
    /// Whether it changes disks: a second one of the same name would meet the first.
    pub(super) changes: bool,
    /// The folder for the answers.
    pub(super) folder: Option<PathBuf>,
    /// Whether the folder gets one folder for each disk, and not a file.
    pub(super) gives_folders: bool,
    /// Whether the answers are wanted as JSON, of the fleet and of each disk that has it.
    pub(super) json: bool,
    /// Whether each disk prints JSON.
    pub(super) prints_json: bool,
    /// Whether each disk prints bytes that only a program reads.
    pub(super) prints_binary: bool,
    /// The end of the files' names.
    end: &'static str,
    /// What every disk gets, before the arguments of the command line.
    ours: Vec<OsString>,
    args: Vec<OsString>,
    /// Whether each disk needs the checkpoint of its entry.
    wants_since: bool,
    names_disk: bool,
}

impl Verb {
    /// Reads the verb and its arguments; `kinds` are disks of the manifest, one of each kind.
    pub(super) fn new(command: &[OsString], wanted: Wanted, kinds: &[&Entry]) -> Result<Self, Failure> {
        let (word, args) = command.split_first().map_or((OsStr::new(""), [].as_slice()), |(word, args)| (word, args));
        let Some((name, changes, output)) = VERBS.iter().find(|(name, ..)| word == *name).copied() else {
            let names: Vec<&str> = VERBS.iter().map(|(name, ..)| *name).collect();
            let message =
                format!("'{}' cannot run on a fleet; these can: {}", word.to_string_lossy(), names.join(", "));
            return Err(Failure::Usage(message));
        };
        let mut args = args.to_vec();
        let has = |id: &str| Arguments::command().find_subcommand(name).is_some_and(|verb| has_argument(verb, id));
        let matches = read(name, &args).map_err(of_clap)?;
        for (id, what) in OF_ONE_DISK {
            if is_given(&matches, id) {
                return Err(Failure::Usage(format!(
                    "{what} belongs to one disk: the manifest names the disks of a fleet"
                )));
            }
        }
        let json = take_flag(&mut args, &matches, "json", "--json")? || wanted.json;
        let dry_run = take_flag(&mut args, &matches, "dry_run", "--dry-run")? || wanted.dry_run;
        let mut verb = Self {
            name,
            changes: (changes || is_given(&matches, "repair") || is_given(&matches, "to_interval")) && !dry_run,
            folder: None,
            gives_folders: output == Output::Folder,
            json,
            prints_json: false,
            prints_binary: false,
            end: "",
            ours: Vec::new(),
            args,
            wants_since: has("since") && !is_given(&matches, "since"),
            names_disk: false,
        };
        if dry_run {
            if !has("dry_run") {
                return Err(Failure::Usage(format!("'{name}' changes nothing: --dry-run has no sense with it")));
            }
            verb.ours.push("--dry-run".into());
        }
        verb.place(&matches, output)?;
        if json && verb.folder.is_none() && has("json") {
            if matches.try_get_raw("format").is_ok_and(|raw| raw.into_iter().flatten().any(|format| format != "json")) {
                return Err(Failure::Usage(
                    "--json and another --format contradict each other, unless -o DIR takes the answers".into(),
                ));
            }
            verb.prints_json = true;
            verb.ours.push("--json".into());
        }
        for (is_wanted, id, option) in [(wanted.quiet, "quiet", "--quiet"), (wanted.no_lock, "no_lock", "--no-lock")] {
            if is_wanted && !is_given(&matches, id) {
                verb.ours.push(option.into());
            }
        }
        if !is_given(&matches, "progress") {
            verb.ours.push("--progress=never".into());
        }
        for kind in kinds {
            // Whether each entry has a checkpoint, `check_since` tells.
            let since = kind.since.clone().or_else(|| Some("x".into()));
            let words = verb.arguments(&Entry { since, ..(*kind).clone() });
            let parsed =
                Arguments::command().try_get_matches_from([OsString::from("checkmap")].into_iter().chain(words));
            parsed.and_then(|matches| Arguments::from_arg_matches(&matches)).map_err(of_clap)?;
        }
        Ok(verb)
    }

    /// Takes `-o` out of the arguments, as each disk gets a place of its own in that folder.
    fn place(&mut self, matches: &ArgMatches, output: Output) -> Result<(), Failure> {
        let raw = |id: &str| matches.try_get_raw(id).ok().flatten().into_iter().flatten().next().map(OsStr::to_owned);
        let format = raw("format").filter(|_| is_given(matches, "format"));
        self.names_disk = output == Output::Map
            && format.as_ref().is_some_and(|format| format == "parquet" || format == "parquet-roaring");
        if self.names_disk {
            Sheet::check_built()?;
        }
        let Some(folder) = raw("output") else {
            self.prints_binary = format.as_ref().is_some_and(|format| BINARY.iter().any(|binary| format == binary));
            return match output {
                _ if self.prints_binary && stdout().is_terminal() => {
                    Err(Failure::Usage("this format is binary: give a folder with -o DIR".into()))
                }
                Output::Folder => Err(Failure::Usage("the folder is missing: give -o DIR after 'backup'".into())),
                _ => Ok(()),
            };
        };
        if output == Output::Nowhere || folder == "-" {
            return Err(Failure::Usage(format!("'{}' has no -o for each disk", self.name)));
        }
        self.take_output(&folder)?;
        let default = if output == Output::Picture { "svg" } else { "table" };
        let format = match (&format, self.json && output != Output::Folder) {
            (Some(format), _) => format.to_string_lossy().into_owned(),
            // As --json of the verb itself, which is the fleet's now.
            (None, true) => "json".to_owned(),
            (None, false) => default.to_owned(),
        };
        if output != Output::Folder {
            self.end = ENDS.iter().find(|(name, _)| *name == format).map_or("out", |(_, end)| end);
            if !is_given(matches, "format") {
                self.ours.push(format!("--format={format}").into());
            }
        }
        let folder = std::path::absolute(&folder).map_err(|error| {
            Failure::Library(checkmap::Error::io("the folder cannot be found", error).in_file(Path::new(&folder)))
        })?;
        self.folder = Some(folder);
        Ok(())
    }

    fn take_output(&mut self, folder: &OsStr) -> Result<(), Failure> {
        let mut kept = Vec::new();
        let mut words = std::mem::take(&mut self.args).into_iter();
        let mut taken = None;
        while let Some(word) = words.next() {
            let bytes = word.as_bytes();
            if taken.is_some() || bytes == b"--" {
                kept.push(word);
            } else if bytes == b"-o" || bytes == b"--output" {
                taken = words.next();
            } else if let Some(rest) = bytes.strip_prefix(b"--output=").or_else(|| bytes.strip_prefix(b"-o")) {
                taken = Some(OsString::from_vec(rest.strip_prefix(b"=").unwrap_or(rest).to_vec()));
            } else {
                kept.push(word);
            }
        }
        self.args = kept;
        match taken.is_some_and(|taken| taken == folder) {
            true => Ok(()),
            false => Err(Failure::Usage("write the folder as two words: -o DIR".into())),
        }
    }

    /// Refuses disks that lack a checkpoint to compare with.
    pub(super) fn check_since<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) -> Result<(), Failure> {
        let mut lacking = entries.into_iter().filter(|entry| entry.since.is_none());
        match lacking.next().filter(|_| self.wants_since) {
            None => Ok(()),
            Some(first) => Err(Failure::Usage(format!(
                "the disk {} has no \"since\" in the manifest ({} in all): give --since after '{}'",
                super::quoted(&first.disk),
                crate::words::count(1 + lacking.count() as u64, "such disk"),
                self.name
            ))),
        }
    }

    /// Refuses disks whose answers would have one place.
    pub(super) fn check_places<'a>(&self, entries: impl IntoIterator<Item = &'a Entry>) -> Result<(), Failure> {
        if self.folder.is_none() {
            return Ok(());
        }
        let mut seen: HashMap<String, &str> = HashMap::new();
        for entry in entries {
            // Some file systems take upper and lower case for the same.
            if let Some(other) = seen.insert(file_name(entry.disk.as_bytes()).to_ascii_lowercase(), &entry.disk) {
                let message = format!(
                    "the disks {} and {} would have one file in the folder: give one of them another name",
                    super::quoted(other),
                    super::quoted(&entry.disk)
                );
                return Err(Failure::Usage(message));
            }
        }
        Ok(())
    }

    /// Where the answer of a disk goes.
    fn place_of(&self, disk: &str) -> Option<PathBuf> {
        let name = file_name(disk.as_bytes());
        let name = if self.gives_folders { name } else { format!("{name}.{}", self.end) };
        self.folder.as_ref().map(|folder| folder.join(name))
    }

    /// The arguments with which the program runs on a disk.
    pub(super) fn arguments(&self, entry: &Entry) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![self.name.into()];
        let option = |name: &str, value: &OsStr| {
            let mut word = OsString::from(name);
            word.push("=");
            word.push(value);
            word
        };
        match &entry.source {
            Source::Image(path) => words.push(path.as_os_str().to_owned()),
            Source::Qmp { socket, node } => {
                words.push(option("--qmp", socket.as_os_str()));
                words.extend(node.iter().map(|node| option("--node", node.as_ref().as_ref())));
            }
            Source::Libvirt { uri, domain, node } => {
                words.push(option("--libvirt", uri.as_ref().as_ref()));
                words.push(option("--domain", domain.as_ref().as_ref()));
                words.extend(node.iter().map(|node| option("--node", node.as_ref().as_ref())));
            }
        }
        if let Some(since) = entry.since.as_ref().filter(|_| self.wants_since) {
            words.push(option("--since", since.as_ref().as_ref()));
        }
        if self.names_disk {
            words.push(option("--disk", entry.disk.as_ref().as_ref()));
        }
        if let Some(place) = self.place_of(&entry.disk) {
            words.push(option("--output", place.as_os_str()));
            let named = match &entry.source {
                Source::Image(path) => Some(path.as_os_str()),
                Source::Qmp { node, .. } | Source::Libvirt { node, .. } => {
                    node.as_ref().map(|node| node.as_ref().as_ref())
                }
            };
            if let Some(named) = named.filter(|_| self.gives_folders) {
                let mut name = named.to_owned();
                name.push("=");
                name.push(&*entry.disk);
                words.push(option("--disk-name", &name));
            }
        }
        words.extend(self.ours.iter().chain(&self.args).cloned());
        words
    }

    /// What the fingerprint of a state is made of: all that decides over the arguments of a disk.
    pub(super) fn identity(&self) -> Vec<Vec<u8>> {
        let folder = self.folder.as_ref().map(|folder| folder.as_os_str().as_bytes().to_vec()).unwrap_or_default();
        // Those that only say how the answers are told may differ.
        let tells = |word: &&OsString| ["--json", "--quiet", "--progress=never"].iter().any(|tells| *word == tells);
        let words = self.ours.iter().filter(|word| !tells(word)).chain(&self.args).map(|word| word.as_bytes().to_vec());
        [self.name.as_bytes().to_vec(), folder, self.end.as_bytes().to_vec()].into_iter().chain(words).collect()
    }
}

/// Reads the arguments of a verb with a disk in front; what the fleet adds itself need not be there.
fn read(name: &str, args: &[OsString]) -> Result<ArgMatches, clap::Error> {
    let lenient = |verb: clap::Command| {
        let flag = |id: &'static str, long: &'static str| Arg::new(id).long(long).action(ArgAction::SetTrue);
        let verb = if has_argument(&verb, "since") { verb.mut_arg("since", |arg| arg.required(false)) } else { verb };
        let verb = if has_argument(&verb, "output") { verb.mut_arg("output", |arg| arg.required(false)) } else { verb };
        let verb = if has_argument(&verb, "json") { verb } else { verb.arg(flag("json", "json")) };
        if has_argument(&verb, "dry_run") { verb } else { verb.arg(flag("dry_run", "dry-run")) }
    };
    let words = ["checkmap".into(), name.into(), OsString::from("./disk")].into_iter().chain(args.iter().cloned());
    let matches = Arguments::command().mut_subcommand(name, lenient).try_get_matches_from(words)?;
    Ok(matches.subcommand().map(|(_, matches)| matches.clone()).unwrap_or_default())
}

/// Takes a flag out of the arguments of a verb; whether it was there. Where the same word is also a name or a value, as behind
/// `--`, no reader knows whether it is the flag.
fn take_flag(args: &mut Vec<OsString>, matches: &ArgMatches, id: &str, flag: &str) -> Result<bool, Failure> {
    let is_flag = is_given(matches, id);
    if args.iter().filter(|word| *word == flag).count() != usize::from(is_flag) {
        return Err(Failure::Usage(format!(
            "{flag} stands there where it is no option, or twice: put it before the verb"
        )));
    }
    args.retain(|word| word != flag);
    Ok(is_flag)
}

fn has_argument(verb: &clap::Command, id: &str) -> bool {
    verb.get_arguments().any(|arg| arg.get_id() == id)
}

fn is_given(matches: &ArgMatches, id: &str) -> bool {
    matches.try_contains_id(id).is_ok() && matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// The parser's own words, as far as they speak of the arguments. Help and version are no errors to it.
fn of_clap(error: clap::Error) -> Failure {
    let said = error.render().to_string();
    let first: Vec<&str> = said.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let first = first.join(" ").trim_start_matches("error: ").to_owned();
    Failure::Usage(match error.use_stderr() {
        true => format!("the arguments of the verb: {}", crate::words::one_line(&first)),
        false => "the help of a verb is `checkmap VERB --help`".to_owned(),
    })
}
