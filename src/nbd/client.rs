#![forbid(unsafe_code)]
//! Owns the connection to one export: its opening, its facts, and its end. Must never know what its maps
//! are used for.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::address::{Address, Stream};
use super::handshake::{Agreed, negotiate};
use super::protocol::{Request, command};
use super::wire::{Waiting, Wire};
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use crate::progress::Observer;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How long an answer may take unless [`ConnectOptions::timeout`] says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// QEMU exports a disk without the last bytes that fill no sector of this size.
const SECTOR_BYTES: u64 = 512;

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
pub struct ConnectOptions<'a> {
    pub(super) export: &'a [u8],
    pub(super) contexts: &'a [&'a [u8]],
    timeout: Duration,
    disk_bytes: Option<u64>,
}

impl<'a> ConnectOptions<'a> {
    /// The export of this name, which has at most 4096 bytes; the default one's is empty.
    pub fn new(export: &'a [u8]) -> Self {
        Self { export, contexts: &[], timeout: DEFAULT_TIMEOUT, disk_bytes: None }
    }

    /// The metadata contexts whose maps are wanted, each by its full name of at most 4096 bytes, such as
    /// `qemu:dirty-bitmap:mon` (see [`context_of`](super::context_of)). No name may stand twice.
    #[must_use]
    pub fn contexts(self, contexts: &'a [&'a [u8]]) -> Self {
        Self { contexts, ..self }
    }

    /// How long the server may take for each answer, the first one included; 30 seconds without it.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The size of the disk in bytes, as its owner tells it.
    ///
    /// An export of another size is [`ErrorKind::SizeMismatch`], since a bitmap of another disk reads as clean past its end. Only the
    /// last bytes of a disk may be missing, those that fill no sector of 512: QEMU does not export them. Bitmaps have this size
    /// then, and these bytes count as dirty.
    #[must_use]
    pub fn disk_bytes(self, disk_bytes: u64) -> Self {
        Self { disk_bytes: Some(disk_bytes), ..self }
    }
}

/// A connection to one export of an NBD server.
///
/// A client is for one thread at a time. After an error of the connection or the server every further call that needs the server is
/// [`ErrorKind::Io`]; connect anew. When it is dropped it tells the server that it leaves, without waiting.
pub struct Client {
    pub(super) wire: Wire,
    pub(super) agreed: Agreed,
    pub(super) contexts: Vec<Vec<u8>>,
    disk_bytes: u64,
    /// The address as errors name it.
    name: Option<PathBuf>,
    cookie: u64,
    usable: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let contexts: Vec<_> = self.contexts.iter().map(|context| context.escape_ascii().to_string()).collect();
        f.debug_struct("Client")
            .field("server", &self.name)
            .field("agreed", &self.agreed)
            .field("contexts", &contexts)
            .field("usable", &self.usable)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Connects to the server and chooses the export, with extended headers where the server has them.
    ///
    /// The resolution of a host name is the system's, and takes its time; a Unix socket whose queue of connections is full waits
    /// for room. Each address of a host is tried until the timeout is over, and each answer is waited for as long. While it waits
    /// for answers, `observer` is asked several times a second whether to go on.
    ///
    /// [`ErrorKind::NotFound`]: no such export, or it has no map for one of the contexts; the error names those that it has.
    /// [`ErrorKind::Unsupported`]: the server wants TLS, or speaks a form of the protocol without maps.
    /// [`ErrorKind::UnknownFormat`]: the peer is no NBD server. [`ErrorKind::Damaged`]: it breaks a rule of the protocol.
    /// [`ErrorKind::SizeMismatch`]: see [`ConnectOptions::disk_bytes`]. [`ErrorKind::InvalidArgument`] and
    /// [`ErrorKind::NameTooLong`]: contexts or an export that cannot be asked for. [`ErrorKind::Cancelled`]: the observer said so.
    /// [`ErrorKind::Io`]: all else, a server that takes too long among it.
    pub fn connect(address: &Address, options: &ConnectOptions<'_>, observer: &mut dyn Observer) -> Result<Self> {
        let name = address.name();
        let client = address.connect(options.timeout).and_then(|stream| Self::over(stream, options, observer));
        match client {
            Ok(client) => Ok(Self { name: Some(name), ..client }),
            Err(error) => Err(error.in_file(&name)),
        }
    }

    /// As [`connect`](Self::connect), over a connection of the caller's own, on which nothing was read or written yet.
    pub fn over(stream: Box<dyn Stream>, options: &ConnectOptions<'_>, observer: &mut dyn Observer) -> Result<Self> {
        for (at, context) in options.contexts.iter().enumerate() {
            if context.is_empty() || options.contexts.iter().take(at).any(|before| before == context) {
                let message = format!("context '{}' is empty, or is asked for twice", context.escape_ascii());
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        let mut contexts = memory::room(options.contexts.len())?;
        for context in options.contexts {
            contexts.push(memory::copy(context)?);
        }
        let mut wire = Wire::new(stream, options.timeout)?;
        let mut waiting = Waiting::new(observer, "connecting", 1);
        let agreed = negotiate(&mut wire, options, &mut waiting)?;
        let farewell = Request { flags: 0, command: command::DISCONNECT, cookie: 0, offset: 0, len_bytes: 0 };
        wire.set_farewell(Some(farewell.encode(agreed.extended)?));
        let disk_bytes = options.disk_bytes.unwrap_or(agreed.size_bytes);
        if agreed.size_bytes != disk_bytes && agreed.size_bytes != disk_bytes - disk_bytes % SECTOR_BYTES {
            let message = format!("the export has {} bytes, the disk {disk_bytes}", agreed.size_bytes);
            return Err(Error::new(ErrorKind::SizeMismatch, message)
                .advise("the bitmap or the export is of another disk, or of this one before it was resized"));
        }
        Ok(Self { wire, agreed, contexts, disk_bytes, name: None, cookie: 0, usable: true })
    }

    /// The size of the export in bytes, 0..=2^63-1.
    pub fn size_bytes(&self) -> u64 {
        self.agreed.size_bytes
    }

    /// The size of the disk in bytes: that of [`ConnectOptions::disk_bytes`], else that of the export.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes
    }

    /// The smallest block of the export in bytes, a power of two from 1 to 65536.
    pub fn min_block_bytes(&self) -> u64 {
        self.agreed.min_block
    }

    /// Whether headers are extended, so that one request can ask for the whole disk.
    pub fn has_extended_headers(&self) -> bool {
        self.agreed.extended
    }

    /// Sends a request for a part of the export; returns its cookie.
    pub(super) fn request(
        &mut self,
        command: u16,
        offset: u64,
        len_bytes: u64,
        waiting: &mut Waiting<'_>,
    ) -> Result<u64> {
        let cookie = self.next_cookie();
        let request = Request { flags: 0, command, cookie, offset, len_bytes };
        self.wire.begin();
        self.wire.send(&request.encode(self.agreed.extended)?, waiting)?;
        Ok(cookie)
    }

    /// The number of another request.
    pub(super) fn next_cookie(&mut self) -> u64 {
        self.cookie = self.cookie.wrapping_add(1);
        self.cookie
    }

    /// Lets `work` talk to the server. After an error nobody knows which bytes come next, so the connection is not used again.
    pub(super) fn talk<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let result = match self.usable {
            true => work(self),
            false => {
                Err(Error::new(ErrorKind::Io, "the connection to the NBD server failed before").advise("connect anew"))
            }
        };
        result.map_err(|error| {
            self.usable = false;
            self.wire.set_farewell(None);
            match &self.name {
                Some(name) => error.in_file(name),
                None => error,
            }
        })
    }
}
