#![forbid(unsafe_code)]
//! Owns the reading of an export's bytes: how a range is cut into requests, of which several are under way, and every rule of the
//! replies. Must never know what the bytes are for.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::client::Client;
use super::protocol::{MOST_READ, ReplyHead, broken, chunk, command};
use super::status::reported;
use super::wire::Waiting;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Extent;
use crate::memory;
use crate::progress::Observer;
use std::ops::Range;

/// The longest request: servers do such a piece quickly, and several are under way.
const MOST_REQUEST: usize = 1 << 20;

/// How many requests are under way at most.
const MOST_UNDER_WAY: usize = 16;

const _: () = assert!(MOST_REQUEST <= MOST_READ as usize);

/// The most stretches in which an answer may arrive that do not touch each other.
const MOST_STRETCHES: usize = 1000;

/// The work of the server, as errors name it.
const READ: &str = "read";

/// A request that is under way: its cookie, where it begins on the disk, its part of the buffer, and what came of it.
struct Part {
    cookie: u64,
    offset: u64,
    range: Range<usize>,
    /// The stretches that came; none touches another where they come in their order.
    filled: Vec<Range<usize>>,
}

impl Part {
    /// Notes that a stretch came, which must lie inside the request and be no part of another one: so sums leave no gap.
    fn fill(&mut self, stretch: &Range<usize>) -> Result<()> {
        let is_inside = self.range.start <= stretch.start && stretch.end <= self.range.end && !stretch.is_empty();
        let is_known = self.filled.iter().any(|other| other.start < stretch.end && stretch.start < other.end);
        if !is_inside || is_known || self.filled.len() >= MOST_STRETCHES {
            return Err(broken("a chunk of a read is no part of it that was still to come"));
        }
        match self.filled.last_mut() {
            Some(last) if last.end == stretch.start => last.end = stretch.end,
            _ => memory::push(&mut self.filled, stretch.clone())?,
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.filled.iter().map(Range::len).sum::<usize>() == self.range.len()
    }
}

/// The requests for an extent: where each begins, and its bytes.
fn requests_of(extent: &Extent) -> impl Iterator<Item = (u64, usize)> + use<> {
    let Extent { offset, len_bytes } = *extent;
    (0..len_bytes.div_ceil(MOST_REQUEST as u64)).map(move |at| {
        let before = at * MOST_REQUEST as u64;
        let len = usize::try_from(len_bytes - before).unwrap_or(usize::MAX).min(MOST_REQUEST);
        (offset + before, len)
    })
}

fn not_the_buffer() -> Error {
    Error::new(ErrorKind::InvalidArgument, "the extents do not fill the buffer")
}

impl Client {
    /// Fills `buffer` with the bytes of the export from `offset` on.
    ///
    /// The range must be inside the export, else it is [`ErrorKind::OutOfRange`], and both its ends multiples of
    /// [`min_block_bytes`](Self::min_block_bytes), else [`ErrorKind::InvalidArgument`]. It is read in pieces, several of which are
    /// asked for at once. A server that breaks a rule of the protocol is [`ErrorKind::Damaged`], one that reports an error or takes
    /// too long [`ErrorKind::Io`]; the buffer's content is then open.
    pub fn read(&mut self, buffer: &mut [u8], offset: u64, observer: &mut dyn Observer) -> Result<()> {
        let extent = Extent { offset, len_bytes: buffer.len() as u64 };
        self.read_extents(buffer, &[extent], observer)
    }

    /// As [`read`](Self::read), of several extents, whose bytes come one behind another; requests of all of them are under way together.
    /// They must fill the buffer, else it is [`ErrorKind::InvalidArgument`].
    pub fn read_extents(&mut self, buffer: &mut [u8], extents: &[Extent], observer: &mut dyn Observer) -> Result<()> {
        let size = self.size_bytes();
        let block = self.min_block_bytes();
        let mut left = buffer.len() as u64;
        for Extent { offset, len_bytes } in extents {
            if offset.checked_add(*len_bytes).is_none_or(|end| end > size) {
                let message = format!("{len_bytes} bytes at {offset} end past the end of the export, {size} bytes");
                return Err(Error::new(ErrorKind::OutOfRange, message));
            }
            if !offset.is_multiple_of(block) || !len_bytes.is_multiple_of(block) {
                let message = format!("{len_bytes} bytes at {offset} are no whole blocks of {block}");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            left = left.checked_sub(*len_bytes).ok_or_else(not_the_buffer)?;
        }
        if left > 0 {
            return Err(not_the_buffer());
        }
        self.talk(|client| client.read_all(buffer, extents, &mut Waiting::new(observer, "reading from the server", 1)))
    }

    fn read_all(&mut self, buffer: &mut [u8], extents: &[Extent], waiting: &mut Waiting<'_>) -> Result<()> {
        let mut parts: Vec<Part> = memory::room(MOST_UNDER_WAY)?;
        let mut requests = extents.iter().flat_map(requests_of);
        let mut asked = 0;
        loop {
            while parts.len() < MOST_UNDER_WAY
                && let Some((offset, len)) = requests.next()
            {
                let cookie = self.request(command::READ, offset, len as u64, waiting)?;
                parts.push(Part { cookie, offset, range: asked..asked + len, filled: Vec::new() });
                asked += len;
            }
            if parts.is_empty() {
                return Ok(());
            }
            self.wire.begin();
            self.take_chunk(&mut parts, buffer, waiting)?;
        }
    }

    /// Takes the next chunk, of whichever request it is.
    fn take_chunk(&mut self, parts: &mut Vec<Part>, buffer: &mut [u8], waiting: &mut Waiting<'_>) -> Result<()> {
        let magic = u32::from_be_bytes(self.wire.array(waiting)?);
        let head_len = ReplyHead::bytes_after(magic, self.agreed.extended)?;
        let bytes = self.wire.bytes(head_len, waiting)?;
        let (ReplyHead::Simple { cookie, .. } | ReplyHead::Chunk { cookie, .. }) = ReplyHead::decode(magic, &bytes)?;
        let place = parts.iter().position(|part| part.cookie == cookie);
        let (place, part) = place
            .and_then(|place| Some((place, parts.get_mut(place)?)))
            .ok_or_else(|| broken(format!("request {cookie} is answered, unasked")))?;
        let (done, kind, len) = match ReplyHead::decode(magic, &bytes)? {
            ReplyHead::Simple { error: 0, .. } => return Err(broken("a read has a simple reply")),
            ReplyHead::Simple { error, .. } => return Err(reported(READ, error, &[])),
            ReplyHead::Chunk { offset: Some(told), .. } if told != part.offset => {
                return Err(broken(format!("a request at {} is answered at {told}", part.offset)));
            }
            ReplyHead::Chunk { done, kind, len, .. } => (done, kind, len),
        };
        match kind {
            chunk::OFFSET_DATA | chunk::OFFSET_HOLE => {
                let is_data = kind == chunk::OFFSET_DATA;
                let data_len = if is_data { len.checked_sub(8) } else { Some(4).filter(|_| len == 12) };
                let data_len = data_len.ok_or_else(|| broken(format!("a chunk of a read has {len} bytes")))?;
                let at = u64::from_be_bytes(self.wire.array(waiting)?);
                let data_len = if is_data { data_len } else { u32::from_be_bytes(self.wire.array(waiting)?).into() };
                let start = at.checked_sub(part.offset).and_then(|start| usize::try_from(start).ok());
                let start = start.and_then(|start| start.checked_add(part.range.start));
                let end = start.zip(usize::try_from(data_len).ok()).and_then(|(start, len)| start.checked_add(len));
                let stretch = start.zip(end).map(|(start, end)| start..end).unwrap_or_default();
                part.fill(&stretch)?;
                let target = buffer.get_mut(stretch).unwrap_or_default();
                if is_data {
                    self.wire.read(target, waiting)?;
                } else {
                    target.fill(0);
                }
            }
            chunk::NONE if done && len == 0 => {}
            chunk::NONE => return Err(broken("an empty chunk has data, or is not the last one")),
            kind if kind & chunk::ANY_ERROR != 0 => return Err(self.take_error(READ, kind, len, waiting)?),
            kind => return Err(broken(format!("a chunk has the unknown type {kind}"))),
        }
        if done {
            if !part.is_full() {
                return Err(broken(format!("a read of {} bytes is answered with fewer", part.range.len())));
            }
            parts.swap_remove(place);
        }
        Ok(())
    }
}
