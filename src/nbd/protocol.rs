#![forbid(unsafe_code)]
//! Owns the numbers and the messages of the NBD protocol: how each one is written, and what its fields are, for the client and
//! the server alike. Must never know in which order they are sent, or how.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use crate::error::{Error, ErrorKind, Result};
use crate::memory;

pub(super) const GREETING: u64 = 0x4e42_444d_4147_4943;
pub(super) const NEWSTYLE: u64 = 0x4948_4156_454f_5054;
pub(super) const OLDSTYLE: u64 = 0x0000_4202_8186_1253;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const EXTENDED_REQUEST: u32 = 0x21e4_1c71;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const STRUCTURED_REPLY: u32 = 0x668e_33ef;
const EXTENDED_REPLY: u32 = 0x6e8a_278c;

/// Flags of the handshake, the server's and the client's alike.
pub(super) mod handshake_flags {
    pub(in super::super) const FIXED_NEWSTYLE: u16 = 1;
    pub(in super::super) const NO_ZEROES: u16 = 1 << 1;
}

/// Options of the handshake.
pub(super) mod option {
    pub(in super::super) const EXPORT_NAME: u32 = 1;
    pub(in super::super) const ABORT: u32 = 2;
    pub(in super::super) const LIST: u32 = 3;
    pub(in super::super) const STARTTLS: u32 = 5;
    pub(in super::super) const INFO: u32 = 6;
    pub(in super::super) const GO: u32 = 7;
    pub(in super::super) const STRUCTURED_REPLY: u32 = 8;
    pub(in super::super) const LIST_META_CONTEXT: u32 = 9;
    pub(in super::super) const SET_META_CONTEXT: u32 = 10;
    pub(in super::super) const EXTENDED_HEADERS: u32 = 11;
}

/// Replies to options.
pub(super) mod reply {
    pub(in super::super) const ACK: u32 = 1;
    pub(in super::super) const SERVER: u32 = 2;
    pub(in super::super) const INFO: u32 = 3;
    pub(in super::super) const META_CONTEXT: u32 = 4;
    pub(in super::super) const ERROR: u32 = 1 << 31;
}

/// Refusals of options, without [`reply::ERROR`].
pub(super) mod refusal {
    pub(in super::super) const UNSUPPORTED: u32 = 1;
    pub(in super::super) const POLICY: u32 = 2;
    pub(in super::super) const INVALID: u32 = 3;
    pub(in super::super) const PLATFORM: u32 = 4;
    pub(in super::super) const TLS_REQUIRED: u32 = 5;
    pub(in super::super) const UNKNOWN: u32 = 6;
    pub(in super::super) const SHUTDOWN: u32 = 7;
    pub(in super::super) const BLOCK_SIZE_REQUIRED: u32 = 8;
    pub(in super::super) const TOO_BIG: u32 = 9;
    pub(in super::super) const EXTENDED_REQUIRED: u32 = 10;
}

/// Kinds of information about an export.
pub(super) mod info {
    pub(in super::super) const EXPORT: u16 = 0;
    pub(in super::super) const BLOCK_SIZE: u16 = 3;
}

/// Flags of an export.
pub(super) mod export_flags {
    pub(in super::super) const HAS_FLAGS: u16 = 1;
    pub(in super::super) const READ_ONLY: u16 = 1 << 1;
    pub(in super::super) const SEND_DF: u16 = 1 << 7;
    pub(in super::super) const CAN_MULTI_CONN: u16 = 1 << 8;
}

/// Commands.
pub(super) mod command {
    pub(in super::super) const READ: u16 = 0;
    pub(in super::super) const WRITE: u16 = 1;
    pub(in super::super) const DISCONNECT: u16 = 2;
    pub(in super::super) const TRIM: u16 = 4;
    pub(in super::super) const WRITE_ZEROES: u16 = 6;
    pub(in super::super) const BLOCK_STATUS: u16 = 7;
}

/// Flags of a command.
pub(super) mod command_flags {
    /// Of a read: the answer is one chunk.
    pub(in super::super) const DONT_FRAGMENT: u16 = 1 << 2;
    /// Of a request for the status of blocks: one extent of each context is enough.
    pub(in super::super) const REQUEST_ONE: u16 = 1 << 3;
    /// The length is that of data which follow the request.
    pub(in super::super) const PAYLOAD_LEN: u16 = 1 << 5;
}

/// Types of the chunks of a reply.
pub(super) mod chunk {
    pub(in super::super) const NONE: u16 = 0;
    pub(in super::super) const OFFSET_DATA: u16 = 1;
    pub(in super::super) const OFFSET_HOLE: u16 = 2;
    pub(in super::super) const BLOCK_STATUS: u16 = 5;
    pub(in super::super) const BLOCK_STATUS_EXTENDED: u16 = 6;
    pub(in super::super) const ERROR: u16 = (1 << 15) + 1;
    pub(in super::super) const ERROR_OFFSET: u16 = (1 << 15) + 2;
    /// Every type with this bit is an error.
    pub(in super::super) const ANY_ERROR: u16 = 1 << 15;
}

/// Errors, which have these numbers whatever the machine.
pub(super) mod errors {
    pub(in super::super) const PERM: u32 = 1;
    pub(in super::super) const IO: u32 = 5;
    pub(in super::super) const NO_MEMORY: u32 = 12;
    pub(in super::super) const INVALID: u32 = 22;
    pub(in super::super) const NO_SPACE: u32 = 28;
    pub(in super::super) const OVERFLOW: u32 = 75;
    pub(in super::super) const NOT_SUPPORTED: u32 = 95;
    pub(in super::super) const SHUTDOWN: u32 = 108;
}

/// The longest string of the protocol.
pub(super) const MOST_STRING_BYTES: usize = 4096;

/// The largest smallest block that a server may have.
pub(super) const MOST_MIN_BLOCK: u32 = 1 << 16;

/// The most bytes of one read that every server takes which names no limit.
pub(super) const MOST_READ: u32 = 32 << 20;

/// The most extents that a chunk may have.
pub(super) const MOST_EXTENTS: u64 = 1 << 20;

/// The server broke a rule of the protocol.
pub(super) fn broken(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Damaged, message).at("NBD protocol", None)
}

/// The fields of a message, taken from its beginning on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk().ok_or_else(|| broken("a message is cut short"))?;
        self.0 = rest;
        Ok(*field)
    }

    pub(super) fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array()?))
    }
}

/// An option with its data.
pub(super) fn option_message(option: u32, data: &[&[u8]]) -> Result<Vec<u8>> {
    let len = data.iter().try_fold(0_usize, |sum, part| sum.checked_add(part.len()));
    let too_long = || Error::new(ErrorKind::InvalidArgument, "the names are too long for one message");
    let len = len.and_then(|len| u32::try_from(len).ok()).ok_or_else(too_long)?;
    let mut message = memory::room(len as usize + 16)?;
    message.extend_from_slice(&NEWSTYLE.to_be_bytes());
    message.extend_from_slice(&option.to_be_bytes());
    message.extend_from_slice(&len.to_be_bytes());
    data.iter().for_each(|part| message.extend_from_slice(part));
    Ok(message)
}

/// The length of a string, as it stands before it.
pub(super) fn string_len(string: &[u8]) -> Result<[u8; 4]> {
    match u32::try_from(string.len()) {
        Ok(len) if string.len() <= MOST_STRING_BYTES => Ok(len.to_be_bytes()),
        _ => Err(Error::new(
            ErrorKind::NameTooLong,
            format!("a name has {} bytes; NBD takes {MOST_STRING_BYTES}", string.len()),
        )),
    }
}

/// The head of a reply to an option.
#[derive(Clone, Copy, Debug)]
pub(super) struct OptionReply {
    pub(super) option: u32,
    pub(super) kind: u32,
    pub(super) len: u32,
}

impl OptionReply {
    pub(super) const BYTES: usize = 20;

    pub(super) fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self> {
        let mut fields = Fields(bytes);
        match fields.u64()? {
            OPTION_REPLY => Ok(Self { option: fields.u32()?, kind: fields.u32()?, len: fields.u32()? }),
            magic => Err(broken(format!("a reply to an option begins with {magic:#x}"))),
        }
    }

    /// The reply with its data.
    pub(super) fn encode(option: u32, kind: u32, data: &[&[u8]]) -> Result<Vec<u8>> {
        let len = data.iter().map(|part| part.len()).sum::<usize>();
        let mut message = memory::room(len + Self::BYTES)?;
        message.extend_from_slice(&OPTION_REPLY.to_be_bytes());
        message.extend_from_slice(&option.to_be_bytes());
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        data.iter().for_each(|part| message.extend_from_slice(part));
        Ok(message)
    }
}

/// The head of an option: its number, and the length of its data.
pub(super) fn decode_option(bytes: &[u8; 16]) -> Result<(u32, u32)> {
    let mut fields = Fields(bytes);
    match fields.u64()? {
        NEWSTYLE => Ok((fields.u32()?, fields.u32()?)),
        magic => Err(broken(format!("an option begins with {magic:#x}"))),
    }
}

/// A request of the transmission phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) command: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    /// At most `u32::MAX` in the compact form.
    pub(super) len_bytes: u64,
}

impl Request {
    /// How many bytes a request has.
    pub(super) fn bytes(extended: bool) -> usize {
        if extended { 32 } else { 28 }
    }

    pub(super) fn decode(bytes: &[u8], extended: bool) -> Result<Self> {
        let mut fields = Fields(bytes);
        let magic = fields.u32()?;
        if magic != if extended { EXTENDED_REQUEST } else { REQUEST } {
            return Err(broken(format!("a request begins with {magic:#x}")));
        }
        let (flags, command, cookie, offset) = (fields.u16()?, fields.u16()?, fields.u64()?, fields.u64()?);
        let len_bytes = if extended { fields.u64()? } else { fields.u32()?.into() };
        Ok(Self { flags, command, cookie, offset, len_bytes })
    }

    pub(super) fn encode(&self, extended: bool) -> Result<Vec<u8>> {
        let mut bytes = memory::room(32)?;
        let magic = if extended { EXTENDED_REQUEST } else { REQUEST };
        bytes.extend_from_slice(&magic.to_be_bytes());
        bytes.extend_from_slice(&self.flags.to_be_bytes());
        bytes.extend_from_slice(&self.command.to_be_bytes());
        bytes.extend_from_slice(&self.cookie.to_be_bytes());
        bytes.extend_from_slice(&self.offset.to_be_bytes());
        if extended {
            bytes.extend_from_slice(&self.len_bytes.to_be_bytes());
        } else {
            let too_long = |_| Error::new(ErrorKind::Unsupported, "a request without extended headers is below 4 GiB");
            bytes.extend_from_slice(&u32::try_from(self.len_bytes).map_err(too_long)?.to_be_bytes());
        }
        Ok(bytes)
    }
}

/// The head of a reply, or of one chunk of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum ReplyHead {
    /// A simple reply, with its error.
    Simple { error: u32, cookie: u64 },
    /// A chunk; `offset` is that of the request, where the header has it.
    Chunk { done: bool, kind: u16, cookie: u64, offset: Option<u64>, len: u64 },
}

impl ReplyHead {
    /// The most bytes that a head has.
    pub(super) const MOST_BYTES: usize = 32;

    /// Appends the head; the offset decides whether it is of the extended form.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        out.try_reserve(Self::MOST_BYTES).map_err(memory::OutOfMemory::from)?;
        match *self {
            ReplyHead::Simple { error, cookie } => {
                out.extend_from_slice(&SIMPLE_REPLY.to_be_bytes());
                out.extend_from_slice(&error.to_be_bytes());
                out.extend_from_slice(&cookie.to_be_bytes());
            }
            ReplyHead::Chunk { done, kind, cookie, offset, len } => {
                let magic = if offset.is_some() { EXTENDED_REPLY } else { STRUCTURED_REPLY };
                out.extend_from_slice(&magic.to_be_bytes());
                out.extend_from_slice(&u16::from(done).to_be_bytes());
                out.extend_from_slice(&kind.to_be_bytes());
                out.extend_from_slice(&cookie.to_be_bytes());
                match offset {
                    Some(offset) => {
                        out.extend_from_slice(&offset.to_be_bytes());
                        out.extend_from_slice(&len.to_be_bytes());
                    }
                    None => {
                        let too_long = |_| Error::new(ErrorKind::Unsupported, "a chunk of a reply is below 4 GiB");
                        out.extend_from_slice(&u32::try_from(len).map_err(too_long)?.to_be_bytes());
                    }
                }
            }
        }
        Ok(())
    }

    /// The bytes that follow a magic number; none for one that cannot stand here.
    pub(super) fn bytes_after(magic: u32, extended: bool) -> Result<usize> {
        match magic {
            SIMPLE_REPLY if !extended => Ok(12),
            STRUCTURED_REPLY if !extended => Ok(16),
            EXTENDED_REPLY if extended => Ok(28),
            _ => Err(broken(format!("a reply begins with {magic:#x}"))),
        }
    }

    /// The fields that follow the magic number.
    pub(super) fn decode(magic: u32, bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields(bytes);
        if magic == SIMPLE_REPLY {
            return Ok(ReplyHead::Simple { error: fields.u32()?, cookie: fields.u64()? });
        }
        let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, fields.u64()?);
        let (offset, len) = match magic {
            EXTENDED_REPLY => (Some(fields.u64()?), fields.u64()?),
            _ => (None, fields.u32()?.into()),
        };
        Ok(ReplyHead::Chunk { done: flags & 1 != 0, kind, cookie, offset, len })
    }
}
