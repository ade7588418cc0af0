//! The system calls of a real program, as strace shows them: what it wrote where, what it made durable, in which order;
//! and a program that stands still in the middle of a call, so that something else can happen there.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Every call that changes a file, its name or the durable state; those that [`events`] does not know fail the test.
const CALLS: &str = "trace=write,writev,pwrite64,pwritev,pwritev2,ftruncate,truncate,fallocate,copy_file_range,sendfile,\
    splice,fsync,fdatasync,syncfs,sync,sync_file_range,msync,io_uring_enter,rename,renameat,renameat2,link,linkat,unlink,\
    unlinkat,open,openat,openat2,creat";
const PATIENCE: Duration = Duration::from_secs(60);

/// False, loudly, where strace is absent or may not trace; in CI that is a failure.
pub fn strace_works() -> bool {
    let tried = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    if tried.as_ref().is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "strace cannot trace here: {tried:?}");
    eprintln!("SKIPPED, NOT PASSED: strace cannot trace here: {tried:?}");
    false
}

/// Something that a program did to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes at an offset; `None` where the file's position said it.
    Write {
        path: PathBuf,
        offset: Option<u64>,
        len_bytes: u64,
    },
    Truncate {
        path: PathBuf,
    },
    /// The bytes written to the file, or the names in the folder, are durable.
    Sync {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Unlink {
        path: PathBuf,
    },
}

/// Runs `program` in `folder` to its end; its outcome, and what it did to files below that folder, in that order.
pub fn trace(folder: &Path, program: &Path, args: &[OsString]) -> (Output, Vec<Event>) {
    let log = folder.join("strace.log");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-s", "0", "-e", CALLS, "-e", "signal=none", "-o"]).arg(&log).arg(program).args(args);
    let output = strace.current_dir(folder).output().expect("strace runs");
    let lines = fs::read_to_string(&log).expect("strace wrote its log");
    fs::remove_file(&log).expect("the log can be removed");
    let folder = folder.canonicalize().expect("the folder is there");
    let events = events(&lines, &folder).into_iter().filter(|event| path_of(event).starts_with(&folder)).collect();
    (output, events)
}

fn path_of(event: &Event) -> &Path {
    match event {
        Event::Write { path, .. } | Event::Truncate { path } | Event::Sync { path } | Event::Unlink { path } => path,
        Event::Rename { to, .. } => to,
    }
}

fn events(log: &str, cwd: &Path) -> Vec<Event> {
    let mut events = Vec::new();
    let mut unfinished: Vec<(&str, String)> = Vec::new();
    for line in log.lines() {
        let (process, call) = line.split_once(' ').expect("each line begins with a process");
        let call = call.trim_start();
        if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
            unfinished.push((process, begun.to_owned()));
            continue;
        }
        let mut whole = call.to_owned();
        if let Some((_, rest)) = call.strip_prefix("<... ").and_then(|resumed| resumed.split_once(" resumed>")) {
            let place = unfinished.iter().position(|(of, _)| *of == process).expect("a call that was begun");
            whole = unfinished.remove(place).1 + rest;
        }
        if let Some((name, args, result)) = parts(&whole) {
            events.extend(event(name, &args, result, cwd));
        }
    }
    events
}

/// The name of a call, its arguments and its result; nothing for the end of a process, and for a call that failed.
fn parts(call: &str) -> Option<(&str, Vec<String>, u64)> {
    let (name, rest) = call.split_once('(')?;
    let (args, result) = rest.rsplit_once(") ")?;
    let result = result.trim_start().strip_prefix("= ")?.split([' ', '<']).next()?.parse().ok()?;
    let (mut list, mut depth, mut quoted) = (vec![String::new()], 0_u32, false);
    let mut chars = args.chars();
    while let Some(char) = chars.next() {
        match char {
            '"' => quoted = !quoted,
            '[' | '{' | '<' if !quoted => depth += 1,
            ']' | '}' | '>' if !quoted => depth = depth.saturating_sub(1),
            ',' if !quoted && depth == 0 => {
                list.push(String::new());
                continue;
            }
            _ => {}
        }
        let last = list.last_mut().expect("it begins with one");
        last.push(char);
        if char == '\\' {
            last.extend(chars.next());
        }
    }
    Some((name, list.iter().map(|arg| arg.trim().to_owned()).collect(), result))
}

fn event(name: &str, args: &[String], result: u64, cwd: &Path) -> Option<Event> {
    let number = |at: usize| args[at].parse().expect("a number");
    let write = |offset| Event::Write { path: opened(&args[0]), offset, len_bytes: result };
    Some(match name {
        "write" | "writev" => write(None),
        "pwrite64" => write(Some(number(3))),
        "pwritev" | "pwritev2" => write(Some(number(3))),
        "ftruncate" => Event::Truncate { path: opened(&args[0]) },
        "fsync" | "fdatasync" | "syncfs" => Event::Sync { path: opened(&args[0]) },
        "rename" | "link" => Event::Rename { from: cwd.join(quoted(&args[0])), to: cwd.join(quoted(&args[1])) },
        "renameat" | "renameat2" | "linkat" => {
            Event::Rename { from: at(&args[0], &args[1]), to: at(&args[2], &args[3]) }
        }
        "unlink" => Event::Unlink { path: cwd.join(quoted(&args[0])) },
        "unlinkat" => Event::Unlink { path: at(&args[0], &args[1]) },
        "open" | "openat" | "openat2" => {
            let durable = args.iter().any(|arg| arg.contains("O_SYNC") || arg.contains("O_DSYNC"));
            assert!(!durable, "{name} {args:?}: writes that need no flush are unknown to these tests");
            return None;
        }
        other => panic!("{other} {args:?}: these tests do not know what it makes durable"),
    })
}

/// The path in `3</the/path>`.
fn opened(descriptor: &str) -> PathBuf {
    let path = descriptor.split_once('<').and_then(|(_, path)| path.strip_suffix('>'));
    PathBuf::from(path.unwrap_or_default())
}

fn quoted(arg: &str) -> PathBuf {
    PathBuf::from(arg.trim_matches('"'))
}

fn at(folder: &str, name: &str) -> PathBuf {
    opened(folder).join(quoted(name))
}

/// A program that stopped where it was about to return from a read of one file.
pub struct Stopped {
    strace: Child,
    process: String,
}

impl Stopped {
    /// Starts `program`, and waits until it stops after read number `read` of `file`. `None` if it ended before that read.
    pub fn at_read(file: &Path, read: usize, program: &Path, args: &[OsString]) -> Option<Self> {
        let log = file.with_extension("strace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o"]).arg(&log).arg("-P").arg(file).args(["-e", "trace=pread64,preadv,preadv2,read,readv"]);
        strace.arg("-e").arg(format!("inject=pread64,preadv,preadv2,read,readv:signal=SIGSTOP:when={read}"));
        let strace = strace.arg(program).args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut stopped = Self { strace: strace.expect("strace runs"), process: String::new() };
        let begun = Instant::now();
        loop {
            let ended = stopped.strace.try_wait().expect("strace can be waited for").is_some();
            let lines = fs::read_to_string(&log).unwrap_or_default();
            if let Some(line) = lines.lines().find(|line| line.contains("--- stopped by SIGSTOP ---")) {
                stopped.process = line.split(' ').next().expect("the process comes first").to_owned();
                fs::remove_file(&log).expect("the log can be removed");
                return Some(stopped);
            }
            if ended {
                let _ = fs::remove_file(&log);
                return None;
            }
            assert!(begun.elapsed() < PATIENCE, "neither stopped nor ended: {lines}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Lets it go on, to its end.
    pub fn go_on(mut self) -> Output {
        self.wake();
        let read = |from: Option<&mut dyn Read>| {
            let mut bytes = Vec::new();
            from.expect("it is piped").read_to_end(&mut bytes).expect("it can be read");
            bytes
        };
        let stdout = read(self.strace.stdout.as_mut().map(|out| out as &mut dyn Read));
        let stderr = read(self.strace.stderr.as_mut().map(|out| out as &mut dyn Read));
        Output { status: self.strace.wait().expect("strace ends"), stdout, stderr }
    }

    fn wake(&self) {
        let woken = Command::new("kill").args(["-CONT", &self.process]).status().expect("kill runs");
        assert!(woken.success(), "the process that stopped is gone");
    }
}

impl Drop for Stopped {
    /// Where a test fails, nothing stays behind.
    fn drop(&mut self) {
        if self.strace.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = Command::new("kill").args(["-KILL", &self.process]).status();
            let _ = self.strace.wait();
        }
    }
}
