#![forbid(unsafe_code)]
//! A server of the NBD protocol, for reading only: what a disk holds, and what its maps say.
//!
//! An [`Export`] answers the questions; [`converse`] leads the conversation with one client over any stream, on the caller's
//! thread; a [`Listener`] waits for clients on a Unix socket.
//!
//! Fixed newstyle handshake, structured replies, extended headers, metadata contexts, requests of up to 32 MiB at any byte, and
//! several connections of one client. Whatever would write is refused with EPERM. `docs/formats/nbd.md` has the rules.

// Owns the NBD protocol as a server speaks it. Must never know what an export is made of.

mod listen;
mod options;
mod transmission;

pub use listen::{DEFAULT_CLIENTS, Listener};

use super::address::Stream;
use super::wire::{Waiting, Wire};
use crate::error::Result;
use crate::geometry::Extent;
use crate::progress::Observer;
use std::ops::ControlFlow;
use std::time::Duration;

/// How long a client may take until it has chosen an export.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// Takes a stretch of an export and its flags, and says whether to go on.
pub type Visit<'a> = &'a mut dyn FnMut(Extent, u64) -> ControlFlow<()>;

/// What a server offers to its clients: a disk that does not change, and its maps.
///
/// The calls come from the threads of all clients at once. An error of a call goes to the client, which gets the errno of an
/// [`ErrorKind::Io`](crate::ErrorKind::Io), EPERM for [`ErrorKind::ReadOnly`](crate::ErrorKind::ReadOnly), and its text.
pub trait Export: Send + Sync {
    /// The size in bytes, 0..=2^63-1.
    fn size_bytes(&self) -> u64;

    /// The full names of the metadata contexts, such as `base:allocation`, each of at most 4096 bytes.
    fn contexts(&self) -> &[Vec<u8>];

    /// Fills `buffer` with the bytes from `offset` on. The range is inside the export.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Tells `visit` the flags of all blocks of a window, in the context at this place of [`contexts`](Export::contexts). The
    /// stretches ascend and cover the window without a gap, unless `visit` ends it. The window is inside the export, and not empty.
    /// Flags have 32 bits for clients without extended headers.
    fn status(&self, context: usize, window: Extent, visit: Visit<'_>) -> Result<()>;
}

/// How messages look that follow the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Simple,
    Structured,
    Extended,
}

/// The agreement with a client.
#[derive(Debug)]
struct Chosen {
    form: Form,
    /// The places of the contexts that the client selected, which are also their numbers.
    contexts: Vec<usize>,
}

/// Leads the conversation with one client until it leaves. `name` is that of the export.
///
/// The handshake must be over within 30 seconds; a client that chose the export may be silent for as long as it wants. `observer`
/// is asked several times a second whether to go on. The memory for a client is below 4 MiB.
///
/// A client that leaves in order is `Ok`. One that vanishes is [`ErrorKind::Io`](crate::ErrorKind::Io), as is one that does not
/// finish the handshake; one that breaks a rule of the protocol [`ErrorKind::Damaged`](crate::ErrorKind::Damaged).
pub fn converse(stream: Box<dyn Stream>, name: &[u8], export: &dyn Export, observer: &mut dyn Observer) -> Result<()> {
    let mut wire = Wire::new(stream, HANDSHAKE)?;
    let mut waiting = Waiting::new(observer, "serving", 1);
    wire.begin();
    match options::choose(&mut wire, name, export, &mut waiting)? {
        Some(chosen) => {
            wire.wait_for_ever();
            transmission::answer(&mut wire, &chosen, export, &mut waiting)
        }
        None => Ok(()),
    }
}
