#![forbid(unsafe_code)]
//! Owns the marking of blocks: zeroes are written over them, so that a bitmap that records has them. Must never know which bitmap, nor
//! what lies in the blocks.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::client::Client;
use super::protocol::{ReplyHead, Request, broken, chunk, command};
use super::wire::Waiting;
use crate::bitmap::Bitmap;
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use crate::progress::Observer;

/// The most bytes of one request: without extended headers it is below 4 GiB, and between two the observer is asked.
const MOST_BYTES: u64 = 1 << 30;

/// The requests that are sent before their replies are read: they fit into the buffers of any socket.
const AT_ONCE: usize = 64;

impl Client {
    /// Writes zeroes over every dirty block, rounded outward to whole blocks of the export.
    ///
    /// The bitmap must have the size of the export. A server that refuses is [`ErrorKind::Io`], one that breaks a rule
    /// [`ErrorKind::Damaged`].
    pub fn write_zeroes(&mut self, bits: &Bitmap, observer: &mut dyn Observer) -> Result<()> {
        let size = self.size_bytes();
        if bits.size_bytes() != size {
            let message = format!("the bits are of a disk of {} bytes, the export has {size}", bits.size_bytes());
            return Err(Error::new(ErrorKind::SizeMismatch, message));
        }
        self.talk(|client| client.mark_all(bits, &mut Waiting::new(observer, "writing bits", size)))
    }

    fn mark_all(&mut self, bits: &Bitmap, waiting: &mut Waiting<'_>) -> Result<()> {
        let (size, block) = (self.size_bytes(), self.agreed.min_block);
        let mut pending: Vec<(u64, u64)> = memory::room(AT_ONCE)?;
        let mut reached = 0;
        for extent in bits.extents(0, u64::MAX) {
            let end = extent.end().next_multiple_of(block).min(size);
            // Two extents can touch the same block.
            reached = (extent.offset - extent.offset % block).max(reached);
            while reached < end {
                let len_bytes = (end - reached).min(MOST_BYTES);
                memory::push(&mut pending, (reached, len_bytes))?;
                reached += len_bytes;
                if pending.len() == AT_ONCE {
                    waiting.tell(reached)?;
                    self.mark(&pending, waiting)?;
                    pending.clear();
                }
            }
        }
        self.mark(&pending, waiting)?;
        waiting.tell(size)
    }

    /// Sends these requests, and takes all their replies, which come in any order.
    fn mark(&mut self, stretches: &[(u64, u64)], waiting: &mut Waiting<'_>) -> Result<()> {
        let mut message = memory::room(stretches.len() * 32)?;
        let mut asked = memory::room(stretches.len())?;
        for (offset, len_bytes) in stretches {
            let cookie = self.next_cookie();
            let (offset, len_bytes) = (*offset, *len_bytes);
            let request = Request { flags: 0, command: command::WRITE_ZEROES, cookie, offset, len_bytes };
            memory::extend(&mut message, request.encode(self.agreed.extended)?)?;
            asked.push((cookie, offset));
        }
        self.wire.begin();
        self.wire.send(&message, waiting)?;
        while !asked.is_empty() {
            self.wire.begin();
            self.take_done(&mut asked, waiting)?;
        }
        Ok(())
    }

    /// Takes a reply to one of the requests, each a cookie with its offset, and strikes it out.
    fn take_done(&mut self, asked: &mut Vec<(u64, u64)>, waiting: &mut Waiting<'_>) -> Result<()> {
        let magic = u32::from_be_bytes(self.wire.array(waiting)?);
        let len = ReplyHead::bytes_after(magic, self.agreed.extended)?;
        let bytes = self.wire.bytes(len, waiting)?;
        let head = ReplyHead::decode(magic, &bytes)?;
        let (ReplyHead::Simple { cookie, .. } | ReplyHead::Chunk { cookie, .. }) = head;
        let at = asked.iter().position(|(known, _)| *known == cookie);
        let at = at.ok_or_else(|| broken(format!("the request {cookie} is answered, and nobody waits for it")))?;
        let (_, offset) = asked.swap_remove(at);
        match head {
            ReplyHead::Simple { error: 0, .. } => Ok(()),
            ReplyHead::Simple { error, .. } => Err(super::status::reported(REFUSED, error, &[])),
            ReplyHead::Chunk { offset: Some(told), .. } if told != offset => {
                Err(broken(format!("a request at {offset} is answered at {told}")))
            }
            ReplyHead::Chunk { done: true, kind: chunk::NONE, len: 0, .. } => Ok(()),
            ReplyHead::Chunk { kind, len, .. } if kind & chunk::ANY_ERROR != 0 => {
                Err(self.take_error(REFUSED, kind, len, waiting)?)
            }
            ReplyHead::Chunk { kind, .. } => Err(broken(format!("a write is answered by a chunk of type {kind}"))),
        }
    }
}

/// The work of the server, as errors name it.
const REFUSED: &str = "write zeroes";
