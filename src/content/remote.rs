#![forbid(unsafe_code)]
//! Owns the content of a disk that an NBD server has: a connection for each thread that reads. Must never know who started the server.

use super::{Allocation, Content, Visit};
use crate::error::Result;
use crate::geometry::Extent;
use crate::memory;
use crate::nbd::{Address, Client, ConnectOptions, Status};
use crate::progress::{Observer, Unobserved};
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

/// The context that tells the allocation, and its flags.
const ALLOCATION: &[u8] = b"base:allocation";
const HOLE: u64 = 1;
const ZERO: u64 = 2;

/// The first and the longest piece of a window whose allocation is asked for at once.
const FIRST_PIECE: u64 = 16 << 20;
const LONGEST_PIECE: u64 = 4 << 30;

/// An export, and the connections to it.
#[derive(Debug)]
pub(crate) struct Remote {
    address: Address,
    export: String,
    disk_bytes: u64,
    /// Connections that nobody uses at present.
    idle: Mutex<Vec<Client>>,
}

impl Remote {
    /// The export of a disk of this size. Nothing is asked yet.
    pub(crate) fn new(address: Address, export: &str, disk_bytes: u64) -> Self {
        Self { address, export: export.to_owned(), disk_bytes, idle: Mutex::default() }
    }

    /// Connects once, so that it is known to be there.
    pub(crate) fn connect(&self, observer: &mut dyn Observer) -> Result<()> {
        let client = self.another(observer)?;
        self.give_back(client)
    }

    fn another(&self, observer: &mut dyn Observer) -> Result<Client> {
        let contexts: &[&[u8]] = &[ALLOCATION];
        let options = ConnectOptions::new(self.export.as_bytes()).contexts(contexts).disk_bytes(self.disk_bytes);
        Client::connect(&self.address, &options, observer)
    }

    fn give_back(&self, client: Client) -> Result<()> {
        memory::push(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner), client)?;
        Ok(())
    }

    /// Lets `work` use a connection. After an error it is not used again.
    fn with<T>(&self, work: impl FnOnce(&mut Client) -> Result<T>) -> Result<T> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut client = match idle {
            Some(client) => client,
            None => self.another(&mut Unobserved)?,
        };
        let answer = work(&mut client)?;
        self.give_back(client)?;
        Ok(answer)
    }
}

/// Reads a range that need not begin and end with a block of the server's.
fn read(client: &mut Client, buffer: &mut [u8], offset: u64) -> Result<()> {
    let (block, len) = (client.min_block_bytes(), buffer.len() as u64);
    if offset.is_multiple_of(block) && len.is_multiple_of(block) {
        return client.read(buffer, offset, &mut Unobserved);
    }
    let start = offset - offset % block;
    let end = (offset + len).next_multiple_of(block).min(client.size_bytes());
    let mut whole = memory::zeroed(usize::try_from(end - start).unwrap_or(usize::MAX))?;
    client.read(&mut whole, start, &mut Unobserved)?;
    let skip = usize::try_from(offset - start).unwrap_or(usize::MAX);
    let bytes = whole.get(skip..).unwrap_or_default();
    buffer.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    Ok(())
}

impl Content for Remote {
    fn size_bytes(&self) -> u64 {
        self.disk_bytes
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.with(|client| read(client, buffer, offset))
    }

    fn read_extents(&self, buffer: &mut [u8], extents: &[Extent]) -> Result<()> {
        self.with(|client| {
            let block = client.min_block_bytes();
            let is_whole =
                |extent: &Extent| extent.offset.is_multiple_of(block) && extent.len_bytes.is_multiple_of(block);
            match extents.iter().all(is_whole) {
                true => client.read_extents(buffer, extents, &mut Unobserved),
                false => super::one_by_one(buffer, extents, &mut |bytes, offset| read(client, bytes, offset)),
            }
        })
    }

    fn gap_worth_asking(&self) -> u64 {
        FIRST_PIECE
    }

    fn allocation(&self, window: Extent, visit: Visit<'_>) -> Result<()> {
        let (mut at, mut piece, mut goes_on) = (window.offset, FIRST_PIECE, ControlFlow::Continue(()));
        while at < window.end() && goes_on.is_continue() {
            let len = piece.min(window.end() - at);
            let mut take = |status: Status| {
                if goes_on.is_continue() {
                    let is = |flag| status.flags & flag != 0;
                    goes_on = visit(status.extent, Allocation { is_hole: is(HOLE), is_zero: is(ZERO) });
                }
                Ok(())
            };
            self.with(|client| client.block_status(at, len, &mut take, &mut Unobserved))?;
            at += len;
            piece = (piece * 2).min(LONGEST_PIECE);
        }
        Ok(())
    }
}
