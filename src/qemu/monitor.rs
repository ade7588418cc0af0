#![forbid(unsafe_code)]
//! Owns the conversation with a monitor: one command, one answer, over QEMU's own socket or through libvirt. Must never know the
//! meaning of a command.
//!
//! The protocol is QMP: QEMU's `docs/interop/qmp-spec`.

use super::answer::{self, Field};
use super::virsh::Virsh;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{Observer, Unobserved, tell};
use rustix::net::sockopt::socket_peercred;
use serde_json::{Value, json};
use std::io::{ErrorKind as IoKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The most bytes of one answer, QEMU's own limit for the other direction: 100 disks of 2,000 bitmaps each stay below, and libvirt
/// stops at 10 MiB. In memory, the values of JSON take up to a hundred times their text.
pub(super) const MOST_ANSWER_BYTES: usize = 64 << 20;

/// How long a wait lasts before the caller is asked whether to go on.
pub(super) const PATIENCE: Duration = Duration::from_millis(200);

/// The numbers of commands begin below this one: JSON readers keep whole numbers up to 2^53.
const MOST_FIRST_ID: u64 = (1 << 52) - 1;

/// More answers than this do not come before the greeting: another client sends one command, or one series, and waits.
const MOST_LATE_ANSWERS: usize = 64;

/// Waits for the end of a pipe; where the commands were sent and the answers not read, then on the connection for the answer.
const HOLD: &str = "[ \"$(cat)\" = sent ] && exec timeout 60 grep -q -m 1 -e \"$1\" <&1";

/// Where a hypervisor is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Monitor {
    /// The Unix socket of a QMP monitor, which nobody else is connected to.
    Socket(PathBuf),
    /// A domain of libvirt, through `virsh qemu-monitor-command`. libvirt marks the domain as tainted (`custom-monitor`).
    Libvirt {
        /// The URI of the connection, such as `qemu:///system`.
        uri: String,
        /// The domain's name, id or UUID.
        domain: String,
    },
}

impl Monitor {
    /// The folder of the socket, where it is one.
    pub(super) fn folder(&self) -> Option<PathBuf> {
        match self {
            Monitor::Socket(path) => path.canonicalize().ok()?.parent().map(Path::to_owned),
            Monitor::Libvirt { .. } => None,
        }
    }

    /// The words by which messages name it.
    pub fn title(&self) -> String {
        match self {
            Monitor::Socket(path) => path.display().to_string(),
            Monitor::Libvirt { uri, domain } => format!("{domain} at {uri}"),
        }
    }
}

/// How a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The hypervisor refused it, and did nothing.
    Refused(Refusal),
    /// It was not sent, as the caller stopped.
    NotSent(Error),
    /// The conversation broke, so nobody knows whether it was carried out.
    Broken(Error),
}

/// The hypervisor's answer to a command that it did not carry out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) class: String,
    pub(super) words: String,
}

impl Refusal {
    /// There is no such command in this version.
    pub(super) fn is_unknown_command(&self) -> bool {
        self.class == "CommandNotFound"
    }

    /// The thing that the command is about is not there.
    pub(super) fn is_of_absence(&self) -> bool {
        self.class == "DeviceNotFound"
            || ["not found", "Cannot find", "Failed to find"].iter().any(|part| self.words.contains(part))
    }

    /// The refusal as an error, of a kind that tells callers what to do.
    pub(super) fn into_error(self) -> Error {
        let has = |part: &str| self.words.contains(part);
        let kind = if has("is currently in use by another operation") || has("server already running") {
            ErrorKind::InUse
        } else if has("already exists") || has("Bitmap already") {
            ErrorKind::Exists
        } else if has("is inconsistent and cannot be used") || has("inconsistent bitmap") {
            ErrorKind::Inconsistent
        } else if has("is readonly") || has("read-only") || has("no write access") {
            ErrorKind::ReadOnly
        } else if self.is_unknown_command() {
            ErrorKind::Unsupported
        } else if self.is_of_absence() {
            ErrorKind::NotFound
        } else {
            ErrorKind::Hypervisor
        };
        Error::new(kind, format!("the hypervisor refused: {}", self.words))
    }
}

impl Failure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Failure::Refused(refusal) => refusal.into_error(),
            Failure::NotSent(error) | Failure::Broken(error) => error,
        }
    }
}

/// An open conversation.
#[derive(Debug)]
pub(super) enum Conversation {
    Socket(Socket),
    Virsh(Virsh),
}

impl Conversation {
    /// Connects, waits for the greeting no longer than `timeout`, and makes the monitor take commands.
    pub(super) fn open(monitor: &Monitor, timeout: Duration, observer: &mut dyn Observer) -> Result<Self> {
        match monitor {
            Monitor::Socket(path) => Socket::open(path, timeout, observer).map(Conversation::Socket),
            Monitor::Libvirt { uri, domain } => Virsh::open(uri, domain, timeout).map(Conversation::Virsh),
        }
    }

    /// Has a command carried out, and waits for its answer as long as it takes. While it waits, `observer` can give up; a
    /// command that was sent is carried out all the same.
    pub(super) fn command(
        &mut self,
        name: &str,
        arguments: &Value,
        observer: &mut dyn Observer,
    ) -> std::result::Result<Value, Failure> {
        tell(observer, WAITING, 0, 0).map_err(Failure::NotSent)?;
        match self {
            Conversation::Socket(socket) => socket.command(name, arguments, observer),
            Conversation::Virsh(virsh) => {
                content(virsh.command(name, &words_of(name, arguments).to_string(), observer)?)
            }
        }
    }

    /// Has commands carried out one after the other, whatever becomes of each, also where this process is killed in the middle of it. It waits
    /// for the answers as long as it takes.
    pub(super) fn series(
        &mut self,
        commands: &[(&str, Value)],
    ) -> std::result::Result<Vec<std::result::Result<Value, Failure>>, Failure> {
        match self {
            Conversation::Socket(socket) => socket.series(commands),
            Conversation::Virsh(virsh) => {
                let lines: Vec<String> =
                    commands.iter().map(|(name, arguments)| words_of(name, arguments).to_string()).collect();
                Ok(virsh.series(&lines)?.into_iter().map(|answer| answer.and_then(content)).collect())
            }
        }
    }
}

pub(super) const WAITING: &str = "waiting for the hypervisor";

fn words_of(name: &str, arguments: &Value) -> Value {
    match arguments {
        Value::Null => json!({ "execute": name }),
        arguments => json!({ "execute": name, "arguments": arguments }),
    }
}

/// The answer's content, or the refusal.
fn content(mut answer: Value) -> std::result::Result<Value, Failure> {
    if let Some(content) = answer.get_mut("return") {
        return Ok(content.take());
    }
    let Some(error) = answer.get("error") else {
        return Err(Failure::Broken(answer::wrong("return", "is missing")));
    };
    // Only a refusal as QEMU makes it says that nothing was done.
    let part = |key: &str| String::take(error, key).map_err(Failure::Broken);
    Err(Failure::Refused(Refusal { class: part("class")?, words: part("desc")? }))
}

/// A process that holds a connection open: where this one is killed, until an answer came, or for some time. Without that it is killed.
#[derive(Debug)]
struct Holder(Child);

impl Holder {
    /// `last` is the number of the command whose answer ends it.
    fn start(stream: &UnixStream, last: u64) -> Result<Self> {
        let failed = |error| Error::io("cannot run a shell that holds the connection to the monitor", error);
        let held = stream.try_clone().map_err(failed)?;
        let mut command = Command::new("sh");
        command.args(["-c", HOLD, "sh", &format!("\"id\": {last}[,}}]")]);
        // Who kills all processes of a terminal leaves it alone.
        command.process_group(0).stdin(Stdio::piped()).stdout(OwnedFd::from(held)).stderr(Stdio::null());
        command.spawn().map(Self).map_err(failed)
    }

    /// Lets it know how far this process is.
    fn tell(&mut self, state: &str) {
        if let Some(pipe) = &mut self.0.stdin {
            // One that has ended holds nothing.
            let _ = pipe.write_all(state.as_bytes());
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // One that has ended is left alone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A conversation over QEMU's socket.
#[derive(Debug)]
pub(super) struct Socket {
    stream: UnixStream,
    /// What came and is no whole line yet.
    pending: Vec<u8>,
    /// How much of it is known to hold no end of a line.
    searched: usize,
    next_id: u64,
    /// When the caller was asked last whether to go on.
    asked: Instant,
    /// Whether the greeting was there.
    is_greeted: bool,
    /// Whether the conversation broke: an answer that comes late would be taken for that of another command.
    is_broken: bool,
}

impl Socket {
    fn open(path: &Path, timeout: Duration, observer: &mut dyn Observer) -> Result<Self> {
        let connect = |error| Error::io("cannot connect to the monitor", error);
        let stream = UnixStream::connect(path).map_err(|error| {
            let is_missing = matches!(error.kind(), IoKind::ConnectionRefused | IoKind::NotFound);
            let error = connect(error);
            if is_missing {
                error.advise("is the hypervisor running, with `-qmp unix:PATH,server=on,wait=off`?")
            } else {
                error
            }
        })?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(connect)?;
        stream.set_write_timeout(Some(timeout.max(PATIENCE))).map_err(connect)?;
        // No number of another client is taken for one of ours.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let next_id = (now.as_secs().wrapping_mul(1_000_000) + u64::from(now.subsec_micros())) & MOST_FIRST_ID;
        let mut socket = Self {
            stream,
            pending: Vec::new(),
            searched: 0,
            next_id,
            asked: Instant::now(),
            is_greeted: false,
            is_broken: false,
        };
        let deadline = Instant::now().checked_add(timeout);
        let greeting = socket.greeting(deadline, observer)?;
        answer::field(answer::field(&greeting, "QMP")?, "version")?;
        socket.is_greeted = true;
        match socket.exchange("qmp_capabilities", &Value::Null, deadline, observer) {
            Ok(_) => Ok(socket),
            Err(failure) => Err(failure.into_error()),
        }
    }

    /// The first words of the monitor. Answers to a client that was killed can come before them, the first of which may lack its beginning.
    fn greeting(&mut self, deadline: Option<Instant>, observer: &mut dyn Observer) -> Result<Value> {
        let mut late = 0;
        loop {
            let line = self.line(deadline, observer)?;
            let is_rest = late == 0 && !line.starts_with(b"{") && line.trim_ascii_end().ends_with(b"}");
            if !is_rest {
                let words = parse(&line)?;
                if late == MOST_LATE_ANSWERS || (words.get("return").is_none() && words.get("error").is_none()) {
                    return Ok(words);
                }
            }
            late += 1;
        }
    }

    fn command(
        &mut self,
        name: &str,
        arguments: &Value,
        observer: &mut dyn Observer,
    ) -> std::result::Result<Value, Failure> {
        self.exchange(name, arguments, None, observer)
    }

    /// The user as whom the other side runs.
    pub(super) fn peer(&self) -> Option<u32> {
        socket_peercred(&self.stream).ok().map(|peer| peer.uid.as_raw())
    }

    fn exchange(
        &mut self,
        name: &str,
        arguments: &Value,
        deadline: Option<Instant>,
        observer: &mut dyn Observer,
    ) -> std::result::Result<Value, Failure> {
        // Nothing else has a deadline.
        let is_first = deadline.is_some();
        let (id, line) = self.line_of(name, arguments);
        self.send(&line)?;
        let answer = self.answer_to(id, is_first, deadline, observer)?;
        self.is_broken = false;
        content(answer)
    }

    /// As [`Conversation::series`]. QEMU forgets what a peer sent that hung up, so another process holds the connection meanwhile.
    fn series(
        &mut self,
        commands: &[(&str, Value)],
    ) -> std::result::Result<Vec<std::result::Result<Value, Failure>>, Failure> {
        let (ids, lines): (Vec<u64>, Vec<String>) =
            commands.iter().map(|(name, arguments)| self.line_of(name, arguments)).unzip();
        let last = ids.last().copied().unwrap_or_default();
        let mut holder = Holder::start(&self.stream, last).map_err(Failure::NotSent)?;
        holder.tell("sent");
        self.send(&lines.concat())?;
        let mut answers = Vec::new();
        for id in ids {
            match self.answer_to(id, false, None, &mut Unobserved) {
                Ok(answer) => answers.push(content(answer)),
                Err(Failure::Broken(error)) => {
                    answers.resize_with(commands.len(), || Err(Failure::Broken(error.clone())));
                    return Ok(answers);
                }
                Err(failure) => answers.push(Err(failure)),
            }
        }
        holder.tell(" and answered");
        self.is_broken = false;
        Ok(answers)
    }

    /// The number of another command, and its line.
    fn line_of(&mut self, name: &str, arguments: &Value) -> (u64, String) {
        let id = self.next_id;
        self.next_id += 1;
        let mut words = words_of(name, arguments);
        if let Some(words) = words.as_object_mut() {
            words.insert("id".to_owned(), id.into());
        }
        (id, format!("{words}\n"))
    }

    /// Sends lines. Until their answers are there the conversation counts as broken.
    fn send(&mut self, lines: &str) -> std::result::Result<(), Failure> {
        if self.is_broken {
            let message = "the connection to the monitor broke before";
            return Err(Failure::NotSent(Error::new(ErrorKind::Hypervisor, message)));
        }
        self.is_broken = true;
        let sent = self.stream.write_all(lines.as_bytes());
        sent.map_err(|error| Failure::Broken(Error::io("the connection to the monitor broke", error)))
    }

    /// The answer to the command of this number.
    fn answer_to(
        &mut self,
        id: u64,
        is_first: bool,
        deadline: Option<Instant>,
        observer: &mut dyn Observer,
    ) -> std::result::Result<Value, Failure> {
        let answer = loop {
            let answer = self.line(deadline, observer).and_then(|line| parse(&line)).map_err(Failure::Broken)?;
            // Events come between a command and its answer; the answer to the last command of a client that hung up comes before the
            // first one. QEMU greets a second time where somebody connects while it starts.
            let is_of_another = is_first
                && (answer.get("QMP").is_some()
                    || answer.get("id").map_or(answer.get("return").is_some(), |known| *known != json!(id)));
            if answer.get("event").is_none() && !is_of_another {
                break answer;
            }
        };
        match answer.get("id") {
            Some(known) if *known == json!(id) => {}
            Some(_) => return Err(Failure::Broken(answer::wrong("id", "is that of another command"))),
            // A command that QEMU cannot parse is answered without its id.
            None if answer.get("return").is_none() => {}
            None => return Err(Failure::Broken(answer::wrong("id", "is missing"))),
        }
        Ok(answer)
    }

    /// The next line. Without a `deadline` it waits as long as the other side lives.
    fn line(&mut self, deadline: Option<Instant>, observer: &mut dyn Observer) -> Result<Vec<u8>> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            if let Some(at) = self.pending.iter().skip(self.searched).position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(self.searched + at + 1);
                self.searched = 0;
                return Ok(std::mem::replace(&mut self.pending, rest));
            }
            self.searched = self.pending.len();
            let is_none = !matches!(self.pending.trim_ascii_start().first(), None | Some(b'{'));
            if is_none && self.is_greeted {
                return Err(not_begun());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                if !self.pending.is_empty() {
                    return Err(not_qmp("stops in the middle"));
                }
                let message = "the monitor says nothing: another client may be connected to it";
                return Err(Error::new(ErrorKind::InUse, message)
                    .advise("end the other client, or give QEMU a second `-qmp` socket; libvirt has the first"));
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    let message = "the hypervisor closed the connection to its monitor";
                    return Err(Error::new(ErrorKind::Hypervisor, message).advise("is it still running?"));
                }
                Ok(count) => {
                    if self.pending.len() + count > MOST_ANSWER_BYTES {
                        let message = format!("an answer of the monitor is longer than {MOST_ANSWER_BYTES} bytes");
                        return Err(Error::new(ErrorKind::Damaged, message));
                    }
                    self.pending.try_reserve(count)?;
                    self.pending.extend_from_slice(buffer.get(..count).unwrap_or_default());
                    // One that talks all the time gives no pause in which to ask.
                    if self.asked.elapsed() >= PATIENCE {
                        self.ask_whether_to_go_on(observer)?;
                    }
                }
                Err(error) if matches!(error.kind(), IoKind::WouldBlock | IoKind::TimedOut | IoKind::Interrupted) => {
                    // The rest of an answer to another client would end with its line.
                    if is_none {
                        return Err(not_begun());
                    }
                    self.ask_whether_to_go_on(observer)?;
                }
                Err(error) => return Err(Error::io("the connection to the monitor broke", error)),
            }
        }
    }

    fn ask_whether_to_go_on(&mut self, observer: &mut dyn Observer) -> Result<()> {
        self.asked = Instant::now();
        tell(observer, WAITING, 0, 0)
    }
}

fn parse(line: &[u8]) -> Result<Value> {
    serde_json::from_slice(line).map_err(|error| not_qmp(format_args!("is no JSON: {error}")))
}

fn not_begun() -> Error {
    not_qmp("begins with no brace")
}

fn not_qmp(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Damaged, format!("the monitor's answer {why}"))
        .advise("look whether the socket is that of a QMP monitor, and not of a human one (HMP)")
}
