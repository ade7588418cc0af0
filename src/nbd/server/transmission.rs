#![forbid(unsafe_code)]
//! Owns the answers to commands: reads, the status of blocks, and refusals of all else. Must never know how the export was chosen.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::super::protocol::{MOST_READ, ReplyHead, Request, broken, chunk, command, command_flags, errors};
use super::super::wire::{Waiting, Wire};
use super::{Chosen, Export, Form};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Extent;
use crate::memory;
use std::ops::ControlFlow;

/// So much of a read is held at once.
const PIECE_BYTES: usize = 1 << 20;

/// Room for everything that stands before the data of a chunk.
const HEAD_BYTES: usize = ReplyHead::MOST_BYTES + 8;

/// The most extents of one context in an answer. A client asks again for what an answer does not reach.
const MOST_TOLD: usize = 1 << 16;

/// The longest text of an error.
const MOST_TEXT: usize = 1024;

/// Answers the commands of a client until it leaves.
pub(super) fn answer(wire: &mut Wire, chosen: &Chosen, export: &dyn Export, waiting: &mut Waiting<'_>) -> Result<()> {
    let mut answers = Answers { wire, waiting, chosen, export, message: Vec::new(), piece: Vec::new() };
    while let Some(request) = answers.next()? {
        answers.answer(&request)?;
    }
    Ok(())
}

struct Answers<'a, 'b> {
    wire: &'a mut Wire,
    waiting: &'a mut Waiting<'b>,
    chosen: &'a Chosen,
    export: &'a dyn Export,
    /// The message that is being made.
    message: Vec<u8>,
    /// Data that were read, behind room for their head; as long as the longest piece so far.
    piece: Vec<u8>,
}

impl Answers<'_, '_> {
    fn is_extended(&self) -> bool {
        self.chosen.form == Form::Extended
    }

    /// The next request; none where the client says that it leaves.
    fn next(&mut self) -> Result<Option<Request>> {
        // A client that never pauses must not keep the server from ending.
        self.waiting.tell(0)?;
        let mut bytes = [0; 32];
        let bytes = bytes.get_mut(..Request::bytes(self.is_extended())).unwrap_or_default();
        self.wire.read(bytes, self.waiting)?;
        let request = Request::decode(bytes, self.is_extended())?;
        Ok((request.command != command::DISCONNECT).then_some(request))
    }

    fn answer(&mut self, request: &Request) -> Result<()> {
        let has_payload = self.is_extended() && request.flags & command_flags::PAYLOAD_LEN != 0;
        if has_payload || request.command == command::WRITE {
            // Data that would be written, or parameters that were not offered.
            if request.len_bytes > MOST_READ.into() {
                return Err(broken(format!("a request has {} bytes of data", request.len_bytes)));
            }
            self.wire.skip(request.len_bytes, self.waiting)?;
        }
        let outside = request.offset.checked_add(request.len_bytes).is_none_or(|end| end > self.export.size_bytes());
        match request.command {
            command::WRITE | command::TRIM | command::WRITE_ZEROES => {
                self.fail(request, errors::PERM, "this export is for reading only")
            }
            command::READ | command::BLOCK_STATUS if has_payload => {
                self.fail(request, errors::INVALID, "this command has no data of its own")
            }
            command::READ | command::BLOCK_STATUS if outside => {
                self.fail(request, errors::INVALID, "the request ends past the end of the export")
            }
            command::READ => self.read(request),
            command::BLOCK_STATUS => self.block_status(request),
            _ => self.fail(request, errors::INVALID, "the command is unknown"),
        }
    }

    fn send(&mut self) -> Result<()> {
        self.wire.send(&self.message, self.waiting)
    }

    /// Begins a message with the head of a chunk.
    fn begin(&mut self, request: &Request, done: bool, kind: u16, len: u64) -> Result<()> {
        self.message.clear();
        if kind != chunk::OFFSET_DATA {
            let room = usize::try_from(len).unwrap_or(usize::MAX).saturating_add(HEAD_BYTES);
            self.message.try_reserve_exact(room).map_err(memory::OutOfMemory::from)?;
        }
        let offset = self.is_extended().then_some(request.offset);
        ReplyHead::Chunk { done, kind, cookie: request.cookie, offset, len }.encode(&mut self.message)
    }

    /// Refuses the request.
    fn fail(&mut self, request: &Request, code: u32, text: &str) -> Result<()> {
        if self.chosen.form == Form::Simple {
            self.message.clear();
            ReplyHead::Simple { error: code, cookie: request.cookie }.encode(&mut self.message)?;
            return self.send();
        }
        let text = text.as_bytes().get(..text.len().min(MOST_TEXT)).unwrap_or_default();
        self.begin(request, true, chunk::ERROR, 6 + text.len() as u64)?;
        let len = u16::try_from(text.len()).unwrap_or_default();
        memory::extend(&mut self.message, code.to_be_bytes().into_iter().chain(len.to_be_bytes()))?;
        memory::extend(&mut self.message, text.iter().copied())?;
        self.send()
    }

    /// Passes an error of the export on.
    fn pass_on(&mut self, request: &Request, error: &Error) -> Result<()> {
        let code = match error.kind() {
            ErrorKind::ReadOnly => errors::PERM,
            ErrorKind::OutOfMemory => errors::NO_MEMORY,
            ErrorKind::Unsupported => errors::NOT_SUPPORTED,
            ErrorKind::InvalidArgument | ErrorKind::OutOfRange => errors::INVALID,
            _ => errors::IO,
        };
        self.fail(request, code, &error.to_string())
    }

    fn read(&mut self, request: &Request) -> Result<()> {
        let Ok(len) = u32::try_from(request.len_bytes) else {
            return self.fail(request, errors::INVALID, "the read is too long");
        };
        if len > MOST_READ {
            return self.fail(request, errors::INVALID, "the read is longer than 32 MiB");
        }
        let is_simple = self.chosen.form == Form::Simple;
        if !is_simple && request.flags & command_flags::DONT_FRAGMENT != 0 && len as usize > PIECE_BYTES {
            return self.fail(request, errors::OVERFLOW, "one chunk has at most 1 MiB");
        }
        let (mut at, end) = (request.offset, request.offset + u64::from(len));
        loop {
            let piece = usize::try_from(end - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let done = at + piece as u64 == end;
            if is_simple {
                self.message.clear();
                if at == request.offset {
                    ReplyHead::Simple { error: 0, cookie: request.cookie }.encode(&mut self.message)?;
                }
            } else if piece == 0 {
                self.begin(request, true, chunk::NONE, 0)?;
            } else {
                self.begin(request, done, chunk::OFFSET_DATA, 8 + piece as u64)?;
                memory::extend(&mut self.message, at.to_be_bytes())?;
            }
            if self.piece.len() < HEAD_BYTES + piece {
                self.piece = memory::zeroed(HEAD_BYTES + piece)?;
            }
            let buffer = self.piece.get_mut(HEAD_BYTES..HEAD_BYTES + piece).unwrap_or_default();
            if let Err(error) = self.export.read_at(buffer, at) {
                // Behind the head of a simple reply nothing but data can stand.
                return if is_simple && at > request.offset { Err(error) } else { self.pass_on(request, &error) };
            }
            // Head and data go in one message.
            let start = HEAD_BYTES.saturating_sub(self.message.len());
            if let Some(head) = self.piece.get_mut(start..HEAD_BYTES) {
                head.iter_mut().zip(&self.message).for_each(|(to, from)| *to = *from);
            }
            self.wire.send(self.piece.get(start..HEAD_BYTES + piece).unwrap_or_default(), self.waiting)?;
            if done {
                return Ok(());
            }
            at += piece as u64;
        }
    }

    fn block_status(&mut self, request: &Request) -> Result<()> {
        let Some((last, _)) = self.chosen.contexts.split_last().filter(|_| self.chosen.form != Form::Simple) else {
            return self.fail(request, errors::INVALID, "no context was selected");
        };
        if request.len_bytes == 0 {
            return self.fail(request, errors::INVALID, "the status of 0 bytes is nothing");
        }
        let most = if request.flags & command_flags::REQUEST_ONE != 0 { 1 } else { MOST_TOLD };
        let window = Extent { offset: request.offset, len_bytes: request.len_bytes };
        for context in &self.chosen.contexts {
            let told = match self.told(*context, window, most) {
                Ok(told) => told,
                Err(error) => return self.pass_on(request, &error),
            };
            let id = u32::try_from(*context).unwrap_or_default();
            let done = context == last;
            if self.is_extended() {
                self.begin(request, done, chunk::BLOCK_STATUS_EXTENDED, 8 + 16 * told.len() as u64)?;
                let count = u32::try_from(told.len()).unwrap_or_default();
                memory::extend(&mut self.message, id.to_be_bytes().into_iter().chain(count.to_be_bytes()))?;
                let fields = |(len, flags): &(u64, u64)| len.to_be_bytes().into_iter().chain(flags.to_be_bytes());
                memory::extend(&mut self.message, told.iter().flat_map(fields))?;
            } else {
                self.begin(request, done, chunk::BLOCK_STATUS, 4 + 8 * told.len() as u64)?;
                memory::extend(&mut self.message, id.to_be_bytes())?;
                // The window is below 4 GiB, as its length has 32 bits in this form.
                let short = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes();
                let fields = |(len, flags): &(u64, u64)| short(*len).into_iter().chain(short(*flags));
                memory::extend(&mut self.message, told.iter().flat_map(fields))?;
            }
            self.send()?;
        }
        Ok(())
    }

    /// The lengths and flags of at most `most` stretches from the window's beginning on; two that touch differ.
    fn told(&self, context: usize, window: Extent, most: usize) -> Result<Vec<(u64, u64)>> {
        let mut told: Vec<(u64, u64)> = Vec::new();
        let mut failed = Ok(());
        self.export.status(context, window, &mut |extent, flags| {
            let count = told.len();
            match told.last_mut() {
                Some((len, same)) if *same == flags => *len += extent.len_bytes,
                _ if count == most => return ControlFlow::Break(()),
                _ => {
                    if let Err(none) = memory::push(&mut told, (extent.len_bytes, flags)) {
                        failed = Err(none);
                        return ControlFlow::Break(());
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        failed?;
        match told.is_empty() {
            true => Err(Error::new(ErrorKind::Io, "the status of these blocks is not known")),
            false => Ok(told),
        }
    }
}
