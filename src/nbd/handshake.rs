#![forbid(unsafe_code)]
//! Owns the way from a fresh connection to an export: the greeting, the options, and how refusals are told. Must never know the
//! commands that follow.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::client::ConnectOptions;
use super::protocol::{
    self, Fields, GREETING, MOST_MIN_BLOCK, MOST_STRING_BYTES, NEWSTYLE, OLDSTYLE, OptionReply, broken,
    handshake_flags, info, option, option_message, refusal, reply, string_len,
};
use super::wire::{Waiting, Wire};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::MAX_DISK_BYTES;
use crate::memory;
use std::fmt::Write as _;

/// The longest text that is read of a refusal.
const MOST_TEXT_BYTES: u32 = 64 << 10;

/// The most contexts of a server that are read, and the most that an error names.
const MOST_LISTED: usize = 10_000;
const MOST_NAMED: usize = 20;

/// The export and the forms of messages that both sides agreed upon.
#[derive(Debug)]
pub(super) struct Agreed {
    pub(super) size_bytes: u64,
    /// A power of two, at most 2^16.
    pub(super) min_block: u64,
    pub(super) extended: bool,
    /// The server's number of each context, in the order in which they were asked for.
    pub(super) ids: Vec<u32>,
}

/// Why the server does not grant an option.
struct Refusal {
    code: u32,
    text: String,
}

impl Refusal {
    /// As an error; `what` was refused.
    fn error(&self, what: &str) -> Error {
        let (kind, reason) = match self.code {
            refusal::UNSUPPORTED => (ErrorKind::Unsupported, "it does not support it"),
            refusal::POLICY => (ErrorKind::Io, "its policy does not allow it"),
            refusal::PLATFORM => (ErrorKind::Unsupported, "its platform does not support it"),
            refusal::TLS_REQUIRED => (ErrorKind::Unsupported, "it wants TLS, which checkmap does not speak"),
            refusal::UNKNOWN => (ErrorKind::NotFound, "it has no such export"),
            refusal::SHUTDOWN => (ErrorKind::Io, "it is about to end"),
            refusal::BLOCK_SIZE_REQUIRED => (ErrorKind::Unsupported, "it wants other block sizes"),
            refusal::TOO_BIG => (ErrorKind::Unsupported, "the request is too long for it"),
            refusal::EXTENDED_REQUIRED => (ErrorKind::Unsupported, "it wants extended headers"),
            _ => (ErrorKind::Io, "it takes the request as invalid"),
        };
        let mut message = format!("the NBD server refuses {what}: {reason}");
        if !self.text.is_empty() {
            // Writing to a string does not fail.
            let _ = write!(message, "; it says '{}'", self.text);
        }
        match self.code {
            refusal::POLICY => {
                let denied = std::io::Error::from_raw_os_error(libc::EACCES);
                Error::new(kind, message).with_source(denied)
            }
            _ => Error::new(kind, message),
        }
    }
}

/// One reply to an option; the data of an information or of a context still waits on the wire.
enum Answer {
    Ack,
    Refused(Refusal),
    Data { kind: u32, len: u32 },
}

/// Leads the handshake until the export is chosen.
pub(super) fn negotiate(wire: &mut Wire, options: &ConnectOptions<'_>, waiting: &mut Waiting<'_>) -> Result<Agreed> {
    Handshake { wire, waiting, export: options.export }.run(options)
}

struct Handshake<'a, 'b> {
    wire: &'a mut Wire,
    waiting: &'a mut Waiting<'b>,
    export: &'a [u8],
}

impl Handshake<'_, '_> {
    fn run(&mut self, options: &ConnectOptions<'_>) -> Result<Agreed> {
        self.greet()?;
        self.wire.set_farewell(Some(option_message(option::ABORT, &[])?));
        let extended = self.agree_on_headers()?;
        let ids = match options.contexts {
            [] => Vec::new(),
            contexts => self.select(contexts)?,
        };
        let (size_bytes, min_block) = self.go()?;
        Ok(Agreed { size_bytes, min_block, extended, ids })
    }

    fn greet(&mut self) -> Result<()> {
        self.wire.begin();
        let greeting: [u8; 8] = self.wire.array(self.waiting)?;
        if u64::from_be_bytes(greeting) != GREETING {
            return Err(Error::new(ErrorKind::UnknownFormat, "the peer does not greet as an NBD server does"));
        }
        let style: [u8; 8] = self.wire.array(self.waiting)?;
        match u64::from_be_bytes(style) {
            NEWSTYLE => {}
            OLDSTYLE => return Err(too_old()),
            _ => return Err(Error::new(ErrorKind::UnknownFormat, "the peer does not greet as an NBD server does")),
        }
        let flags = u16::from_be_bytes(self.wire.array(self.waiting)?);
        if flags & handshake_flags::FIXED_NEWSTYLE == 0 {
            return Err(too_old());
        }
        let ours = u32::from(flags & (handshake_flags::FIXED_NEWSTYLE | handshake_flags::NO_ZEROES));
        self.wire.send(&ours.to_be_bytes(), self.waiting)
    }

    /// Whether headers are extended; else replies are structured.
    fn agree_on_headers(&mut self) -> Result<bool> {
        match self.ask(option::EXTENDED_HEADERS)? {
            None => return Ok(true),
            Some(refused) if refused.code == refusal::TLS_REQUIRED => return Err(refused.error("to talk")),
            Some(_) => {}
        }
        match self.ask(option::STRUCTURED_REPLY)? {
            None => Ok(false),
            Some(refused) => {
                Err(refused.error("structured replies, without which it cannot tell the status of blocks"))
            }
        }
    }

    /// Sends an option without data that is granted or refused.
    fn ask(&mut self, option: u32) -> Result<Option<Refusal>> {
        self.send(option, &[])?;
        match self.answer(option)? {
            Answer::Ack => Ok(None),
            Answer::Refused(refused) => Ok(Some(refused)),
            Answer::Data { kind, .. } => Err(unexpected(kind)),
        }
    }

    fn send(&mut self, option: u32, data: &[&[u8]]) -> Result<()> {
        let message = option_message(option, data)?;
        self.wire.begin();
        self.wire.send(&message, self.waiting)
    }

    /// The next reply to `option`.
    fn answer(&mut self, option: u32) -> Result<Answer> {
        let head = OptionReply::decode(&self.wire.array(self.waiting)?)?;
        if head.option != option {
            return Err(broken(format!("option {option} is answered as option {}", head.option)));
        }
        match head.kind {
            reply::ACK if head.len == 0 => Ok(Answer::Ack),
            reply::ACK => Err(broken(format!("an acknowledgement has {} bytes of data", head.len))),
            kind if kind & reply::ERROR != 0 => {
                if head.len > MOST_TEXT_BYTES {
                    return Err(broken(format!("the text of a refusal has {} bytes", head.len)));
                }
                let shown = (head.len as usize).min(MOST_STRING_BYTES);
                let text = self.wire.bytes(shown, self.waiting)?;
                self.wire.skip(u64::from(head.len) - shown as u64, self.waiting)?;
                let text = String::from_utf8_lossy(&text).into_owned();
                Ok(Answer::Refused(Refusal { code: kind & !reply::ERROR, text }))
            }
            kind => Ok(Answer::Data { kind, len: head.len }),
        }
    }

    /// Selects these contexts, each by its own name.
    fn select(&mut self, contexts: &[&[u8]]) -> Result<Vec<u32>> {
        let export_len = string_len(self.export)?;
        let count = u32::try_from(contexts.len())
            .map_err(|_| Error::new(ErrorKind::InvalidArgument, "too many contexts for one connection"))?
            .to_be_bytes();
        let mut lens = memory::room(contexts.len())?;
        for context in contexts {
            lens.push(string_len(context)?);
        }
        let mut data: Vec<&[u8]> = memory::gather([&export_len[..], self.export, &count])?;
        for (len, context) in lens.iter().zip(contexts) {
            memory::extend(&mut data, [&len[..], *context])?;
        }
        self.send(option::SET_META_CONTEXT, &data)?;
        let mut ids: Vec<Option<u32>> = memory::gather(contexts.iter().map(|_| None))?;
        loop {
            let len = match self.answer(option::SET_META_CONTEXT)? {
                Answer::Ack => break,
                Answer::Refused(refused) => return Err(refused.error(&self.of_export("the maps"))),
                Answer::Data { kind: reply::META_CONTEXT, len } => len,
                Answer::Data { kind, .. } => return Err(unexpected(kind)),
            };
            let (id, name) = self.context(len)?;
            let place = contexts.iter().position(|context| *context == name);
            if ids.contains(&Some(id)) {
                return Err(broken(format!("two contexts have the number {id}")));
            }
            match place.and_then(|place| ids.get_mut(place)) {
                Some(slot @ None) => *slot = Some(id),
                Some(Some(_)) => return Err(broken(format!("context '{}' is granted twice", name.escape_ascii()))),
                None => return Err(broken(format!("context '{}' is granted, unasked", name.escape_ascii()))),
            }
        }
        let granted = memory::gather(ids.iter().copied().flatten())?;
        match ids.iter().zip(contexts).find(|(id, _)| id.is_none()) {
            Some((_, missing)) => Err(self.missing(missing)),
            None => Ok(granted),
        }
    }

    /// The number and the name of a context, of which `len` bytes follow.
    fn context(&mut self, len: u32) -> Result<(u32, Vec<u8>)> {
        let name_len = (len as usize).checked_sub(4).filter(|len| *len <= MOST_STRING_BYTES);
        let name_len = name_len.ok_or_else(|| broken(format!("a context is described by {len} bytes")))?;
        let id = u32::from_be_bytes(self.wire.array(self.waiting)?);
        Ok((id, self.wire.bytes(name_len, self.waiting)?))
    }

    fn of_export(&self, what: &str) -> String {
        match self.export {
            [] => format!("{what} of the default export"),
            name => format!("{what} of export '{}'", name.escape_ascii()),
        }
    }

    /// A context is not there; the error names those that are.
    fn missing(&mut self, missing: &[u8]) -> Error {
        let what = self.of_export("there is no map");
        let error = Error::new(ErrorKind::NotFound, format!("{what} with the name '{}'", missing.escape_ascii()));
        match self.offered() {
            Ok(offered) if offered.is_empty() => error.advise("the server offers none"),
            Ok(offered) => {
                let named = offered.iter().take(MOST_NAMED).map(|name| format!("'{}'", name.escape_ascii()));
                let named = named.collect::<Vec<_>>().join(", ");
                let more = offered.len().saturating_sub(MOST_NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                error.advise(format!("the server offers {named}{more}"))
            }
            // The list is only advice.
            Err(failed) if !failed.is_of_the_call() => error,
            Err(failed) => failed,
        }
    }

    /// The contexts that the server offers for the export.
    fn offered(&mut self) -> Result<Vec<Vec<u8>>> {
        let len = string_len(self.export)?;
        self.send(option::LIST_META_CONTEXT, &[&len, self.export, &0_u32.to_be_bytes()])?;
        let mut offered = Vec::new();
        loop {
            match self.answer(option::LIST_META_CONTEXT)? {
                Answer::Ack => return Ok(offered),
                Answer::Refused(refused) => return Err(refused.error("the list of maps")),
                Answer::Data { kind: reply::META_CONTEXT, len } => {
                    let (_, name) = self.context(len)?;
                    if offered.len() == MOST_LISTED {
                        return Err(broken("the list of contexts does not end"));
                    }
                    memory::push(&mut offered, name)?;
                }
                Answer::Data { kind, .. } => return Err(unexpected(kind)),
            }
        }
    }

    /// Chooses the export: its size, and its smallest block.
    fn go(&mut self) -> Result<(u64, u64)> {
        let len = string_len(self.export)?;
        let wanted = [1_u16.to_be_bytes(), info::BLOCK_SIZE.to_be_bytes()].concat();
        self.send(option::GO, &[&len, self.export, &wanted])?;
        let (mut size_bytes, mut min_block) = (None, 1);
        loop {
            let len = match self.answer(option::GO)? {
                Answer::Ack => break,
                Answer::Refused(refused) => return Err(refused.error(&self.of_export("the use"))),
                Answer::Data { kind: reply::INFO, len } => len,
                Answer::Data { kind, .. } => return Err(unexpected(kind)),
            };
            let rest = len.checked_sub(2).ok_or_else(|| broken("an information has no type"))?;
            match (u16::from_be_bytes(self.wire.array(self.waiting)?), rest) {
                (info::EXPORT, 10) => {
                    let fields: [u8; 10] = self.wire.array(self.waiting)?;
                    size_bytes = Some(Fields(&fields).u64()?);
                }
                (info::BLOCK_SIZE, 12) => {
                    let fields: [u8; 12] = self.wire.array(self.waiting)?;
                    min_block = Fields(&fields).u32()?;
                }
                (kind @ (info::EXPORT | info::BLOCK_SIZE), _) => {
                    return Err(broken(format!("an information of type {kind} has {len} bytes")));
                }
                (_, rest) if rest <= MOST_TEXT_BYTES => self.wire.skip(rest.into(), self.waiting)?,
                (kind, _) => return Err(broken(format!("an information of type {kind} has {len} bytes"))),
            }
        }
        if !min_block.is_power_of_two() || min_block > MOST_MIN_BLOCK {
            return Err(broken(format!("the smallest block has {min_block} bytes")));
        }
        match size_bytes {
            Some(size) if size <= MAX_DISK_BYTES => Ok((size, min_block.into())),
            Some(size) => Err(broken(format!("the export has {size} bytes"))),
            None => Err(broken("the server does not tell the size of the export")),
        }
    }
}

fn too_old() -> Error {
    let message = "the NBD server speaks an old form of the protocol, which has no maps";
    Error::new(ErrorKind::Unsupported, message)
}

fn unexpected(kind: u32) -> Error {
    protocol::broken(format!("a reply to an option has the unknown type {kind:#x}"))
}
