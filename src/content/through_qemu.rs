#![forbid(unsafe_code)]
//! Owns a private qemu-nbd that reads a chain for this process alone: its start, and its end whatever happens to us. Must never let it open a file that was not checked.
//!
//! It is given the files that this process has open, by their descriptors in /proc, so that no name counts. It runs under a shell
//! that waits for the end of a pipe: when this process ends, even killed, the pipe ends, and the shell ends qemu-nbd and removes
//! the folder with its socket.

use super::chain::{Chain, Kind, Layer, Part};
use super::remote::Remote;
use super::{Content, Visit};
use crate::error::{Error, ErrorKind, Result};
use crate::formats::Encryption;
use crate::geometry::Extent;
use crate::nbd::Address;
use crate::progress::{Observer, tell};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

/// Starts the server that its arguments describe, and ends it with stdin. Of its output nobody but the server keeps a copy, so that
/// its end is seen.
const SCRIPT: &str = "folder=$1; shift
\"$@\" </dev/null &
exec >/dev/null 2>&1
read -r _
kill -KILL $!
wait $!
rm -rf -- \"$folder\"";

/// How often it is looked whether the server listens.
const PATIENCE: Duration = Duration::from_millis(10);

/// How many times a server that listens may fail to greet.
const MOST_FAILURES: u32 = 100;

/// How many connections the server takes: one for each thread that reads.
const CONNECTIONS: &str = "64";

/// The longest text of the server's that an error shows.
const MOST_TEXT_BYTES: u64 = 4096;

/// The content of a chain, read by a qemu-nbd of our own. The connections go before the server, and the locks last.
#[derive(Debug)]
pub(super) struct ThroughQemu {
    content: Remote,
    _server: Server,
    _chain: Chain,
}

/// The shell that watches over qemu-nbd, and the folder with its socket.
#[derive(Debug)]
struct Server {
    shell: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // The end of the pipe lets the shell clean up.
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

impl ThroughQemu {
    /// Starts the server. `secret_file` holds the passphrase of encrypted layers.
    pub(super) fn open(chain: Chain, secret_file: Option<&Path>, observer: &mut dyn Observer) -> Result<Self> {
        let is_encrypted = chain.layers.iter().any(|layer| layer.encryption().is_some());
        if is_encrypted && secret_file.is_none() {
            let message = "is encrypted, or a layer below it: a file with the passphrase is needed";
            let error = Error::new(ErrorKind::InvalidArgument, message);
            return Err(match chain.layers.first() {
                Some(top) => error.in_file(&top.part.path),
                None => error,
            });
        }
        let (server, content) = start(&chain, secret_file.filter(|_| is_encrypted), observer)?;
        Ok(Self { content, _server: server, _chain: chain })
    }
}

impl Content for ThroughQemu {
    fn size_bytes(&self) -> u64 {
        self.content.size_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.content.read_at(buffer, offset)
    }

    fn read_extents(&self, buffer: &mut [u8], extents: &[Extent]) -> Result<()> {
        self.content.read_extents(buffer, extents)
    }

    fn gap_worth_asking(&self) -> u64 {
        self.content.gap_worth_asking()
    }

    fn allocation(&self, window: Extent, visit: Visit<'_>) -> Result<()> {
        self.content.allocation(window, visit)
    }
}

/// Starts the server; it comes with the content, to which there is a connection.
fn start(chain: &Chain, secret_file: Option<&Path>, observer: &mut dyn Observer) -> Result<(Server, Remote)> {
    let failed = |error: io::Error| Error::io("cannot start qemu-nbd", error);
    let folder = tempfile::Builder::new().prefix("checkmap-nbd-").tempdir().map_err(failed)?;
    let socket = folder.path().join("s");
    let mut said = tempfile::tempfile().map_err(failed)?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", SCRIPT, "checkmap-nbd"]).arg(folder.path());
    command.args(["qemu-nbd", "-r", "-t", "-e", CONNECTIONS, "-k"]).arg(&socket);
    if let Some(path) = secret_file {
        command.arg("--object").arg(secret(path).map_err(failed)?);
    }
    command.arg(format!("json:{}", nodes(chain).map_err(failed)?));
    // A signal of the terminal is for us alone: we end it.
    command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(said.try_clone().map_err(failed)?);
    let shell = command.spawn().map_err(failed)?;
    let mut server = Server { shell, _folder: folder };
    let content = Remote::new(Address::Unix(socket.clone()), "", chain.size_bytes);
    let mut output = server.shell.stdout.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let flags = fcntl_getfl(&output).map_err(|errno| failed(errno.into()))?;
    fcntl_setfl(&output, flags | OFlags::NONBLOCK).map_err(|errno| failed(errno.into()))?;
    let mut failures = 0;
    loop {
        tell(observer, "starting qemu-nbd", 0, 1)?;
        // It listens before it has opened the image, and ends where that fails.
        if UnixStream::connect(&socket).is_ok() {
            match content.connect(observer) {
                Ok(()) => return Ok((server, content)),
                Err(error) if error.kind() != ErrorKind::Io || failures == MOST_FAILURES => return Err(error),
                Err(_) => failures += 1,
            }
        }
        if has_ended(&mut output) {
            return Err(did_not_start(&mut said));
        }
        thread::sleep(PATIENCE);
    }
}

/// Whether nobody has the other end of the pipe any more.
fn has_ended(output: &mut ChildStdout) -> bool {
    match output.read(&mut [0; 64]) {
        Ok(read) => read == 0,
        Err(error) => !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

fn did_not_start(said: &mut File) -> Error {
    let mut text = Vec::new();
    let _ = said.rewind().and_then(|()| said.take(MOST_TEXT_BYTES).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let message = match text.trim() {
        "" => "qemu-nbd, which has to read this disk, did not start".to_owned(),
        text => format!("qemu-nbd, which has to read this disk, did not start; it says '{text}'"),
    };
    Error::new(ErrorKind::Io, message).advise("it comes with QEMU's tools")
}

/// The option that gives the passphrase, in which a comma is doubled.
fn secret(path: &Path) -> io::Result<OsString> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let path = std::path::absolute(path)?;
    let mut option = b"secret,id=key,file=".to_vec();
    for byte in path.as_os_str().as_bytes() {
        option.extend(std::iter::repeat_n(*byte, if *byte == b',' { 2 } else { 1 }));
    }
    Ok(OsString::from_vec(option))
}

/// The chain as QEMU's options describe it, with every file by its descriptor.
fn nodes(chain: &Chain) -> io::Result<Value> {
    let mut below = Value::Null;
    for layer in chain.layers.iter().rev() {
        below = node(layer, below)?;
    }
    Ok(below)
}

fn node(layer: &Layer, below: Value) -> io::Result<Value> {
    let mut node = Map::new();
    let mut put = |key: &str, value: Value| node.insert(key.to_owned(), value);
    put("file", file(&layer.part)?);
    put("read-only", Value::Bool(true));
    match &layer.kind {
        Kind::Raw => put("driver", "raw".into()),
        Kind::Foreign(format) => {
            if layer.encryption().is_some() {
                put("key-secret", "key".into());
            }
            put("driver", format.clone().into())
        }
        Kind::Image(format, _) => {
            // Nothing is taken from the header, not even where it names nothing.
            put("backing", below);
            if let Some(data_file) = &layer.data_file {
                put("data-file", file(data_file)?);
            }
            if let Some(encryption) = layer.encryption() {
                let format = match encryption {
                    Encryption::Aes => "aes",
                    Encryption::Luks => "luks",
                };
                put("encrypt", json!({ "format": format, "key-secret": "key" }));
            }
            put("driver", (*format).into())
        }
    };
    Ok(Value::Object(node))
}

fn file(part: &Part) -> io::Result<Value> {
    let driver = if part.file.metadata()?.file_type().is_block_device() { "host_device" } else { "file" };
    let name = format!("/proc/{}/fd/{}", std::process::id(), part.file.as_raw_fd());
    Ok(json!({ "driver": driver, "filename": name, "read-only": true }))
}
