#![forbid(unsafe_code)]
//! Owns the question for the status of blocks: how a window is cut into requests, and every rule of the replies. Must never know
//! the meaning of a status.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::client::Client;
use super::protocol::{
    Fields, MOST_EXTENTS, MOST_MIN_BLOCK, MOST_STRING_BYTES, ReplyHead, broken, chunk, command, errors,
};
use super::wire::Waiting;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Extent, clip_end};
use crate::memory;
use crate::progress::Observer;
use std::io;

/// The most bytes of one request in the compact form, whose lengths have 32 bits: a multiple of every smallest block.
const MOST_COMPACT: u64 = (1 << 32) - MOST_MIN_BLOCK as u64;

/// The work of the server, as errors name it.
const TELL: &str = "tell the status of blocks";

/// The status of a stretch of the export in one context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Which of the contexts, counted from 0 in the order of [`ConnectOptions::contexts`](super::ConnectOptions::contexts).
    pub context: usize,
    /// The stretch, inside the window.
    pub extent: Extent,
    /// The flags, whose meaning is the context's.
    pub flags: u64,
}

/// What one context was told so far.
struct Told {
    /// Everything before this offset is known.
    reached: u64,
    /// The last stretch, which may go on.
    pending: Option<(Extent, u64)>,
    /// Whether the present reply had its chunk.
    answered: bool,
}

/// A request for the status of blocks.
struct Question {
    cookie: u64,
    offset: u64,
    len_bytes: u64,
}

impl Question {
    fn end(&self) -> u64 {
        self.offset + self.len_bytes
    }
}

/// Takes each stretch.
type Visit<'a> = &'a mut dyn FnMut(Status) -> Result<()>;

impl Client {
    /// Tells `visit` the status of all blocks of a window, in every context.
    ///
    /// The window is cut at the export's end; a length of `u64::MAX` is "to the end", an offset past the end is
    /// [`ErrorKind::OutOfRange`]. For each context the stretches ascend, cover the window without a gap, and two that touch have
    /// different flags. The order of the contexts among each other is open. An error of `visit` ends the call.
    ///
    /// All contexts are asked for in one request: of the whole window with extended headers, of less than 4 GiB without.
    /// A server that breaks a rule of the protocol is [`ErrorKind::Damaged`], one that reports an error or takes too long
    /// [`ErrorKind::Io`].
    pub fn block_status(
        &mut self,
        offset: u64,
        len_bytes: u64,
        visit: &mut dyn FnMut(Status) -> Result<()>,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let size = self.size_bytes();
        if offset > size {
            let message = format!("offset {offset} is past the end of the export, {size} bytes");
            return Err(Error::new(ErrorKind::OutOfRange, message));
        }
        let window = Extent { offset, len_bytes: clip_end(offset, len_bytes, size) - offset };
        if window.len_bytes == 0 || self.contexts.is_empty() {
            return Ok(());
        }
        self.talk(|client| {
            client.ask_all(window, visit, &mut Waiting::new(observer, "reading from the server", window.len_bytes))
        })
    }

    fn ask_all(&mut self, window: Extent, visit: Visit<'_>, waiting: &mut Waiting<'_>) -> Result<()> {
        // The server takes requests of whole blocks only.
        let block = self.agreed.min_block;
        let start = window.offset - window.offset % block;
        let end = window.end().next_multiple_of(block).min(self.size_bytes());
        let most = if self.agreed.extended { u64::MAX } else { MOST_COMPACT };
        let told = |_: &Vec<u8>| Told { reached: start, pending: None, answered: false };
        let mut told = memory::gather(self.contexts.iter().map(told))?;
        let least = |told: &[Told]| told.iter().map(|told| told.reached).min().unwrap_or(end);
        while least(&told) < end {
            let reached = least(&told);
            waiting.tell(reached.saturating_sub(window.offset))?;
            // Where a reply stopped inside a block, the block is asked for again.
            let from = reached - reached % block;
            let len_bytes = (end - from).min(most);
            let cookie = self.request(command::BLOCK_STATUS, from, len_bytes, waiting)?;
            self.take_reply(&Question { cookie, offset: from, len_bytes }, window, &mut told, visit, waiting)?;
            if least(&told) == reached {
                return Err(broken(format!("a reply ends at {reached}, as the one before it did")));
            }
        }
        for (context, told) in told.iter_mut().enumerate() {
            if let Some((extent, flags)) = told.pending.take() {
                visit(Status { context, extent, flags })?;
            }
        }
        waiting.tell(window.len_bytes)
    }

    /// Takes all chunks of one reply.
    fn take_reply(
        &mut self,
        question: &Question,
        window: Extent,
        told: &mut [Told],
        visit: Visit<'_>,
        waiting: &mut Waiting<'_>,
    ) -> Result<()> {
        told.iter_mut().for_each(|told| told.answered = false);
        loop {
            let (done, kind, len) = self.take_head(question, waiting)?;
            match kind {
                chunk::BLOCK_STATUS if !self.agreed.extended => {
                    let count = len.checked_sub(4).filter(|rest| rest.is_multiple_of(8)).map(|rest| rest / 8);
                    let id = self.take_id(len, 4, waiting)?;
                    self.take_extents(question, window, (id, count, len), told, visit, waiting)?;
                }
                chunk::BLOCK_STATUS_EXTENDED if self.agreed.extended => {
                    let id = self.take_id(len, 8, waiting)?;
                    let count = u64::from(u32::from_be_bytes(self.wire.array(waiting)?));
                    let count = Some(count).filter(|count| count * 16 + 8 == len);
                    self.take_extents(question, window, (id, count, len), told, visit, waiting)?;
                }
                chunk::NONE if done && len == 0 => {}
                chunk::NONE => return Err(broken("an empty chunk has data, or is not the last one")),
                kind if kind & chunk::ANY_ERROR != 0 => return Err(self.take_error(TELL, kind, len, waiting)?),
                kind => return Err(broken(format!("a chunk has the unknown type {kind}"))),
            }
            if done {
                break;
            }
        }
        match told.iter().position(|told| !told.answered).and_then(|context| self.contexts.get(context)) {
            Some(context) => Err(broken(format!("a reply leaves out context '{}'", context.escape_ascii()))),
            None => Ok(()),
        }
    }

    /// The head of the next chunk of the reply: whether it is the last one, its type, and the length of its data.
    fn take_head(&mut self, question: &Question, waiting: &mut Waiting<'_>) -> Result<(bool, u16, u64)> {
        let magic = u32::from_be_bytes(self.wire.array(waiting)?);
        let len = ReplyHead::bytes_after(magic, self.agreed.extended)?;
        let bytes = self.wire.bytes(len, waiting)?;
        let same_cookie = |cookie: u64| match cookie == question.cookie {
            true => Ok(()),
            false => Err(broken(format!("request {} is answered as request {cookie}", question.cookie))),
        };
        match ReplyHead::decode(magic, &bytes)? {
            ReplyHead::Simple { error, cookie } => {
                same_cookie(cookie)?;
                Err(match error {
                    0 => broken("a request for the status of blocks has a simple reply"),
                    error => reported(TELL, error, &[]),
                })
            }
            ReplyHead::Chunk { done, kind, cookie, offset, len } => {
                same_cookie(cookie)?;
                match offset {
                    Some(offset) if offset != question.offset => {
                        Err(broken(format!("a request at {} is answered at {offset}", question.offset)))
                    }
                    _ => Ok((done, kind, len)),
                }
            }
        }
    }

    /// The number of the context that a chunk of `len` bytes is for; its head has `head` bytes.
    fn take_id(&mut self, len: u64, head: u64, waiting: &mut Waiting<'_>) -> Result<u32> {
        if len < head {
            return Err(broken(format!("a chunk of extents has {len} bytes")));
        }
        Ok(u32::from_be_bytes(self.wire.array(waiting)?))
    }

    /// Takes the extents of a chunk: the number of its context, how many there are unless the length is wrong, the length.
    fn take_extents(
        &mut self,
        question: &Question,
        window: Extent,
        (id, count, len): (u32, Option<u64>, u64),
        told: &mut [Told],
        visit: Visit<'_>,
        waiting: &mut Waiting<'_>,
    ) -> Result<()> {
        let context = self.agreed.ids.iter().position(|known| *known == id);
        let known = context.and_then(|context| Some((context, told.get_mut(context)?)));
        let (context, told) = known.ok_or_else(|| broken(format!("a chunk is of the unknown context {id}")))?;
        if std::mem::replace(&mut told.answered, true) {
            return Err(broken(format!("a reply has two chunks of context {id}")));
        }
        let count = count.filter(|count| (1..=MOST_EXTENTS).contains(count));
        let count = count.ok_or_else(|| broken(format!("a chunk of extents has {len} bytes")))?;
        let size = self.size_bytes();
        let mut at = question.offset;
        for _ in 0..count {
            // Only the last extent may reach past the end of the request.
            if at >= question.end() {
                return Err(broken(format!(
                    "extents go on at {at}, behind the end of the request at {}",
                    question.end()
                )));
            }
            let (len_bytes, flags) = self.take_extent(waiting)?;
            let end = at.checked_add(len_bytes).filter(|end| *end <= size);
            let end =
                end.ok_or_else(|| broken(format!("an extent of {len_bytes} bytes at {at} passes the export's end")))?;
            // QEMU tells extents that are no whole blocks where a bitmap is finer than the blocks: they are as true as others.
            if len_bytes == 0 {
                return Err(broken(format!("an extent at {at} has 0 bytes")));
            }
            // Some of it may have been told before, in a reply that stopped earlier for another context.
            let (from, to) = (at.max(told.reached).max(window.offset), end.min(window.end()));
            if from < to {
                let extent = Extent { offset: from, len_bytes: to - from };
                match &mut told.pending {
                    Some((before, same)) if *same == flags => before.len_bytes += extent.len_bytes,
                    pending => {
                        if let Some((extent, flags)) = pending.replace((extent, flags)) {
                            visit(Status { context, extent, flags })?;
                        }
                    }
                }
            }
            at = end;
        }
        told.reached = told.reached.max(at);
        Ok(())
    }

    /// The length and the flags of the next extent.
    fn take_extent(&mut self, waiting: &mut Waiting<'_>) -> Result<(u64, u64)> {
        if self.agreed.extended {
            let bytes: [u8; 16] = self.wire.array(waiting)?;
            let mut fields = Fields(&bytes);
            return Ok((fields.u64()?, fields.u64()?));
        }
        let bytes: [u8; 8] = self.wire.array(waiting)?;
        let mut fields = Fields(&bytes);
        Ok((fields.u32()?.into(), fields.u32()?.into()))
    }

    /// The error that a chunk of `len` bytes reports; the server cannot do `what`.
    pub(super) fn take_error(&mut self, what: &str, kind: u16, len: u64, waiting: &mut Waiting<'_>) -> Result<Error> {
        let tail = if kind == chunk::ERROR_OFFSET { 8 } else { 0 };
        let rest = len.checked_sub(6 + tail).filter(|rest| *rest <= 2 * MOST_STRING_BYTES as u64);
        let rest = rest.ok_or_else(|| broken(format!("an error is told in {len} bytes")))?;
        let head: [u8; 6] = self.wire.array(waiting)?;
        let mut fields = Fields(&head);
        let (code, text_len) = (fields.u32()?, fields.u16()?);
        if u64::from(text_len) > rest || code == 0 || (kind == chunk::ERROR && u64::from(text_len) != rest) {
            return Err(broken(format!("an error {code} is told in {len} bytes, {text_len} of them text")));
        }
        Ok(reported(what, code, &self.wire.bytes(text_len.into(), waiting)?))
    }
}

/// An error that the server reports; it cannot do `what`.
pub(super) fn reported(what: &str, code: u32, text: &[u8]) -> Error {
    let mut message = format!("the NBD server cannot {what}");
    if !text.is_empty() {
        message = format!("{message}; it says '{}'", String::from_utf8_lossy(text));
    }
    // The protocol has these numbers of Linux, whatever the machine; all others stand for EINVAL.
    let known = match code {
        errors::PERM => libc::EPERM,
        errors::IO => libc::EIO,
        errors::NO_MEMORY => libc::ENOMEM,
        errors::NO_SPACE => libc::ENOSPC,
        errors::OVERFLOW => libc::EOVERFLOW,
        errors::NOT_SUPPORTED => libc::ENOTSUP,
        errors::SHUTDOWN => libc::ESHUTDOWN,
        _ => libc::EINVAL,
    };
    Error::new(ErrorKind::Io, message).with_source(io::Error::from_raw_os_error(known))
}
