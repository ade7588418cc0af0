#![forbid(unsafe_code)]
//! Owns the conversation with a domain of libvirt: one process of `virsh` for each command, which may hang, chatter or say anything. Must
//! never know what an answer means.

use super::monitor::{Failure, MOST_ANSWER_BYTES, PATIENCE, WAITING};
use crate::chain::Name;
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use crate::progress::{Observer, tell};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;
use std::fs::File;
use std::io::{ErrorKind as IoKind, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The longest argument that Linux passes to a program, less what virsh needs.
const MOST_ARGUMENT_BYTES: usize = (128 << 10) - 4096;

/// The most bytes of an error of virsh that are shown; the rest is read and forgotten.
const MOST_ERROR_BYTES: usize = 4096;

/// How often it looks whether a process that has closed its outputs has ended.
const PAUSE: Duration = Duration::from_millis(1);

/// The commands that QEMU may take its time for: a merge of bitmaps, and the storing of bitmaps.
const SLOW: [&str; 2] = ["transaction", "blockdev-reopen"];

/// How many documents one virsh is asked for: each can tell of a large domain.
const MOST_DOCUMENTS: usize = 256;

/// A line between two documents.
const BETWEEN: &str = "checkmap-next-document";

const NOT_OURS: &str = "look whether the virsh in PATH is that of libvirt";

/// A domain, and how long libvirt may be silent about it.
#[derive(Debug)]
pub(super) struct Virsh {
    uri: String,
    domain: String,
    timeout: Duration,
}

impl Virsh {
    pub(super) fn open(uri: &str, domain: &str, timeout: Duration) -> Result<Self> {
        if domain.is_empty() || domain.starts_with('-') {
            let message = format!("{domain:?} cannot be the name of a domain");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self { uri: uri.to_owned(), domain: domain.to_owned(), timeout })
    }

    /// The answer to a command, which says either what came of it or why it was refused.
    pub(super) fn command(
        &self,
        name: &str,
        words: &str,
        observer: &mut dyn Observer,
    ) -> std::result::Result<Value, Failure> {
        if words.len() > MOST_ARGUMENT_BYTES {
            let message = format!("the command {name} has {} bytes, more than virsh can be given", words.len());
            return Err(Failure::NotSent(
                Error::new(ErrorKind::Unsupported, message).advise("do it in smaller steps, or over a QMP socket"),
            ));
        }
        let timeout = (!SLOW.contains(&name)).then_some(self.timeout);
        let answer = self.run(&["qemu-monitor-command", &self.domain, words], timeout, observer)?;
        serde_json::from_slice(answer.trim_ascii()).map_err(|error| {
            let error = Error::new(ErrorKind::Damaged, format!("virsh's answer is no JSON: {error}"));
            Failure::Broken(error.advise(NOT_OURS))
        })
    }

    /// The answers to commands that one process has carried out one after the other, whatever becomes of each. It goes on where this process is
    /// killed, and is waited for as long as it lives.
    pub(super) fn series(
        &self,
        commands: &[String],
    ) -> std::result::Result<Vec<std::result::Result<Value, Failure>>, Failure> {
        let of_one = |words: &String| format!("qemu-monitor-command {} {}", quoted(&self.domain), quoted(words));
        let words = commands.iter().map(of_one).collect::<Vec<_>>().join("; ");
        if words.len() > MOST_ARGUMENT_BYTES {
            let message = format!("the commands have {} bytes, more than virsh can be given", words.len());
            return Err(Failure::NotSent(
                Error::new(ErrorKind::Unsupported, message).advise("do it over a QMP socket"),
            ));
        }
        let output = Process::run_apart(&self.uri, &words)?;
        // Each answer is a line; after an error of libvirt's there is none, and nobody knows of which command.
        let answers =
            output.answer.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
        let answers: Vec<Value> = answers.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        if answers.len() == commands.len() {
            return Ok(answers.into_iter().map(Ok).collect());
        }
        let error = failed(output.status, &String::from_utf8_lossy(&output.errors)).into_error();
        Ok(commands.iter().map(|_| Err(Failure::Broken(error.clone()))).collect())
    }

    /// The target names of the domain's disks, such as `vda`, each with its source, where it has one.
    pub(super) fn targets(&self, observer: &mut dyn Observer) -> Result<Vec<(String, Option<String>)>> {
        let answer = self.run(&["domblklist", &self.domain], Some(self.timeout), observer);
        let answer = answer.map_err(Failure::into_error)?;
        let Ok(text) = std::str::from_utf8(&answer) else {
            return Err(Error::new(
                ErrorKind::Damaged,
                "virsh names the disks of the domain by bytes that are no text",
            ));
        };
        Ok(text.lines().filter_map(read_target).collect())
    }

    /// The names of the checkpoints that libvirt has of the domain; none where its driver has no checkpoints.
    pub(super) fn checkpoints(&self, observer: &mut dyn Observer) -> Result<Vec<Name>> {
        let answer = match self.run(&["checkpoint-list", &self.domain, "--name"], Some(self.timeout), observer) {
            Err(Failure::NotSent(error)) if error.kind() == ErrorKind::Unsupported => return Ok(Vec::new()),
            answer => answer.map_err(Failure::into_error)?,
        };
        let names = answer.split(|byte| *byte == b'\n').filter(|name| !name.is_empty());
        Ok(memory::gather(names.map(Name::new))?)
    }

    /// The documents of these checkpoints, in this order; with the domain as it was then where they are asked for `whole`.
    pub(super) fn documents(&self, names: &[Name], whole: bool, observer: &mut dyn Observer) -> Result<Vec<Vec<u8>>> {
        let more = if whole { "" } else { " --no-domain" };
        let mut documents = Vec::new();
        let mut left = names.iter().peekable();
        while left.peek().is_some() {
            let (mut words, mut count) = (String::new(), 0);
            while let Some(name) = left.peek() {
                let name = quoted(&name.to_string_lossy());
                let domain = quoted(&self.domain);
                let more =
                    format!("checkpoint-dumpxml --domain {domain} --checkpointname {name}{more}; echo {BETWEEN}; ");
                let is_full = count >= MOST_DOCUMENTS || words.len() + more.len() > MOST_ARGUMENT_BYTES;
                if count > 0 && is_full {
                    break;
                }
                words.push_str(&more);
                count += 1;
                left.next();
            }
            let answer = self.run(&[&words], Some(self.timeout), observer).map_err(Failure::into_error)?;
            let text = String::from_utf8(answer)
                .map_err(|_| Error::new(ErrorKind::Damaged, "virsh's answer is no text").advise(NOT_OURS))?;
            let before = documents.len();
            // A quiet virsh leaves out the end of that line.
            let between = format!("\n{BETWEEN}");
            let read = text.split(&between).map(str::trim).filter(|document| !document.is_empty());
            memory::extend(&mut documents, read.map(|document| document.as_bytes().to_vec()))?;
            if documents.len() - before != count {
                let message = format!("virsh has {} documents of {count} checkpoints", documents.len() - before);
                return Err(
                    Error::new(ErrorKind::Changed, message).advise("ask again: one may have been deleted meanwhile")
                );
            }
        }
        Ok(documents)
    }

    /// Tells libvirt of a checkpoint, or of another state of one: it looks at the bitmaps first.
    pub(super) fn tell_of(&self, document: &str, observer: &mut dyn Observer) -> Result<()> {
        let cannot_write = |error| Error::io("cannot write a temporary file", error);
        let mut file = tempfile::NamedTempFile::new().map_err(cannot_write)?;
        file.write_all(document.as_bytes()).and_then(|()| file.flush()).map_err(cannot_write)?;
        let Some(path) = file.path().to_str() else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the folder for temporary files has a name that is no text",
            )
            .advise("name another one by TMPDIR"));
        };
        let words = ["checkpoint-create", &self.domain, path, "--redefine", "--redefine-validate"];
        self.run(&words, Some(self.timeout), observer).map(drop).map_err(Failure::into_error)
    }

    /// Lets libvirt forget a checkpoint; no bitmap is touched.
    pub(super) fn forget(&self, checkpoint: &Name, observer: &mut dyn Observer) -> Result<()> {
        let Ok(name) = std::str::from_utf8(checkpoint.as_bytes()) else {
            return Err(Error::new(ErrorKind::InvalidName, format!("{checkpoint} is no text")));
        };
        let words = ["checkpoint-delete", "--metadata", "--domain", &self.domain, "--checkpointname", name];
        self.run(&words, Some(self.timeout), observer).map(drop).map_err(Failure::into_error)
    }

    /// The output of virsh. Without a `timeout` it waits as long as the process lives; `observer` can always give up.
    fn run(
        &self,
        arguments: &[&str],
        timeout: Option<Duration>,
        observer: &mut dyn Observer,
    ) -> std::result::Result<Vec<u8>, Failure> {
        let mut process = Process::start(&self.uri, arguments).map_err(Failure::NotSent)?;
        let output = process.finish(timeout, observer).map_err(Failure::Broken)?;
        match output.status.success() {
            true => Ok(output.answer),
            false => Err(failed(output.status, &String::from_utf8_lossy(&output.errors))),
        }
    }
}

/// What virsh left.
#[derive(Debug)]
struct Output {
    status: ExitStatus,
    answer: Vec<u8>,
    errors: Vec<u8>,
}

/// A running virsh. It is killed where nobody waits for it any more.
#[derive(Debug)]
struct Process(Child);

impl Process {
    fn start(uri: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new("virsh");
        command.args(["-q", "-c", uri]).args(arguments).env("LC_ALL", "C");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Self(command.spawn().map_err(not_run)?))
    }

    /// The output of virsh in a group of processes of its own, into files: it goes on where nobody reads it any more.
    fn run_apart(uri: &str, words: &str) -> std::result::Result<Output, Failure> {
        let broke = |error| Failure::Broken(Error::io("the conversation with virsh broke", error));
        let file = || tempfile::tempfile().map_err(|error| Error::io("cannot make a temporary file", error));
        let (mut answer, mut errors) = (file().map_err(Failure::NotSent)?, file().map_err(Failure::NotSent)?);
        let copy = |file: &File| file.try_clone().map_err(|error| Error::io("cannot copy a descriptor", error));
        let (to, to_errors) = (copy(&answer).map_err(Failure::NotSent)?, copy(&errors).map_err(Failure::NotSent)?);
        let mut command = Command::new("virsh");
        command.args(["-q", "-c", uri, words]).env("LC_ALL", "C").process_group(0);
        command.stdin(Stdio::null()).stdout(to).stderr(to_errors);
        let status = command.spawn().map_err(|error| Failure::NotSent(not_run(error)))?.wait().map_err(broke)?;
        let read = |file: &mut File, most: usize| {
            let mut bytes = Vec::new();
            file.rewind()?;
            file.take(most as u64).read_to_end(&mut bytes).map(|_| bytes)
        };
        let (answer, errors) =
            (read(&mut answer, MOST_ANSWER_BYTES).map_err(broke)?, read(&mut errors, MOST_ERROR_BYTES).map_err(broke)?);
        Ok(Output { status, answer, errors })
    }

    fn finish(&mut self, timeout: Option<Duration>, observer: &mut dyn Observer) -> Result<Output> {
        let broke = |error: std::io::Error| Error::io("the conversation with virsh broke", error);
        let mut wait =
            Wait { deadline: timeout.and_then(|t| Instant::now().checked_add(t)), asked: Instant::now(), timeout };
        let (mut outputs, mut errors) = (self.0.stdout.take(), self.0.stderr.take());
        let (mut answer, mut said) = (Vec::new(), Vec::new());
        let mut buffer = vec![0; 1 << 16];
        let mut has_ended = false;
        while outputs.is_some() || errors.is_some() {
            let ready = {
                let mut waiting = Vec::with_capacity(2);
                waiting.extend(outputs.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
                waiting.extend(errors.as_ref().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
                let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(PATIENCE.subsec_nanos()) };
                match poll(&mut waiting, Some(&patience)) {
                    // It has ended, and left its outputs to another process. What it wrote between the two looks is still to be read.
                    Ok(0) if has_ended => break,
                    Ok(0) => has_ended = self.0.try_wait().map_err(broke)?.is_some(),
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(broke(error.into())),
                }
                let mut ready = waiting.iter().map(|one| !one.revents().is_empty());
                let of_output = outputs.is_some() && ready.next().unwrap_or_default();
                (of_output, errors.is_some() && ready.next().unwrap_or_default())
            };
            if ready.0 {
                let count = read(&mut outputs, &mut buffer).map_err(broke)?;
                if answer.len() + count > MOST_ANSWER_BYTES {
                    let message = format!("an answer of virsh is longer than {MOST_ANSWER_BYTES} bytes");
                    return Err(Error::new(ErrorKind::Damaged, message).advise(NOT_OURS));
                }
                answer.try_reserve(count)?;
                answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
            }
            if ready.1 {
                let count = read(&mut errors, &mut buffer).map_err(broke)?;
                // The last lines tell why it failed.
                said.extend_from_slice(buffer.get(..count).unwrap_or_default());
                said.drain(..said.len().saturating_sub(MOST_ERROR_BYTES));
            }
            wait.go_on(observer)?;
        }
        loop {
            if let Some(status) = self.0.try_wait().map_err(broke)? {
                return Ok(Output { status, answer, errors: said });
            }
            wait.go_on(observer)?;
            sleep(PAUSE);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended is left alone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads from a pipe that has something to read; one that was closed is dropped.
fn read<R: Read>(pipe: &mut Option<R>, buffer: &mut [u8]) -> std::io::Result<usize> {
    let Some(open) = pipe else { return Ok(0) };
    match open.read(buffer) {
        Ok(0) => {
            *pipe = None;
            Ok(0)
        }
        Err(error) if error.kind() == IoKind::Interrupted => Ok(0),
        read => read,
    }
}

/// How long a process may still take, and when the caller was asked last whether to go on.
struct Wait {
    timeout: Option<Duration>,
    deadline: Option<Instant>,
    asked: Instant,
}

impl Wait {
    fn go_on(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let seconds = self.timeout.unwrap_or_default().as_secs_f64();
            return Err(Error::new(ErrorKind::InUse, format!("virsh does not answer within {seconds} s"))
                .advise("look whether libvirt's daemon or the domain hangs, or allow more time"));
        }
        if self.asked.elapsed() >= PATIENCE {
            self.asked = Instant::now();
            tell(observer, WAITING, 0, 0)?;
        }
        Ok(())
    }
}

/// What libvirt's words mean for the caller: a part of them, whether the command did not reach the hypervisor for sure, the kind of the
/// error, and the way out.
const REASONS: &[(&str, bool, ErrorKind, &str)] = &[
    ("failed to get domain", true, ErrorKind::NotFound, "`virsh list` names the domains that run"),
    ("Domain not found", true, ErrorKind::NotFound, "`virsh list` names the domains that run"),
    (
        "domain is not running",
        true,
        ErrorKind::NotFound,
        "name its images in the place of the domain while it is off, or start it",
    ),
    (
        "domain is no longer running",
        false,
        ErrorKind::Hypervisor,
        "it ended meanwhile: name its images in the place of the domain, or start it",
    ),
    ("Permission denied", false, ErrorKind::Io, "work as root, or as a user whom libvirt lets manage domains"),
    ("authentication", true, ErrorKind::Io, "work as root, or as a user whom libvirt lets manage domains"),
    ("access denied", true, ErrorKind::Io, "work as root, or as a user whom libvirt lets manage domains"),
    ("read only access prevents", true, ErrorKind::ReadOnly, "connect without read-only access"),
    ("failed to connect", true, ErrorKind::Hypervisor, "is libvirt's daemon running, and the URI right?"),
    (
        "not supported by the connection driver",
        true,
        ErrorKind::Unsupported,
        "only libvirt's QEMU driver has a monitor",
    ),
    (
        "cannot acquire state change lock",
        true,
        ErrorKind::InUse,
        "wait until what libvirt does with the domain is done: `virsh domjobinfo` tells of a job",
    ),
];

/// A word as virsh's own command line takes it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// The error where virsh cannot be run.
fn not_run(error: std::io::Error) -> Error {
    let is_missing = error.kind() == IoKind::NotFound;
    let error = Error::io("cannot run virsh", error);
    match is_missing {
        true => error.advise("install libvirt's clients (Debian: libvirt-clients)"),
        false => error,
    }
}

/// The failure of a virsh that ended with an error.
fn failed(status: ExitStatus, said: &str) -> Failure {
    // Shells, and valgrind, tell in this way that there is no such program.
    if status.code() == Some(127) && said.is_empty() {
        return Failure::NotSent(not_run(rustix::io::Errno::NOENT.into()));
    }
    let words = said.trim().trim_start_matches("error: ").replace("\nerror: ", ": ").replace(['\n', '\r'], " ");
    let reason = REASONS.iter().find(|(part, ..)| words.contains(part));
    let words = if words.is_empty() { format!("it said nothing, and ended with {status}") } else { words };
    let (is_unsent, kind, way_out) = match reason {
        Some((_, is_unsent, kind, way_out)) => (*is_unsent, *kind, *way_out),
        None => (false, ErrorKind::Hypervisor, "look at libvirt's log, and whether `virsh domstate` answers"),
    };
    let error = Error::new(kind, format!("virsh failed: {words}")).advise(way_out);
    match is_unsent {
        true => Failure::NotSent(error),
        false => Failure::Broken(error),
    }
}

/// One line of `virsh domblklist`: target and source.
fn read_target(line: &str) -> Option<(String, Option<String>)> {
    let (target, source) = line.trim().split_once(char::is_whitespace)?;
    let source = source.trim_start();
    Some((target.to_owned(), (source != "-").then(|| source.to_owned())))
}
