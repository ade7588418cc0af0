#![forbid(unsafe_code)]
//! A client of the NBD protocol that asks a server which blocks of an export are dirty, reads them, and marks blocks by zeroes; and a
//! [`server`].
//!
//! ```no_run
//! use checkmap::nbd::{Client, ConnectOptions, Uri};
//! use checkmap::progress::Unobserved;
//!
//! let uri = Uri::parse("nbd+unix:///disk?socket=/run/qemu/nbd.sock")?;
//! let contexts: &[&[u8]] = &[b"qemu:dirty-bitmap:mon", b"qemu:dirty-bitmap:mon->tue"];
//! let options = ConnectOptions::new(&uri.export).contexts(contexts);
//! let mut client = Client::connect(&uri.address, &options, &mut Unobserved)?;
//! for bitmap in client.dirty_bitmaps(0, u64::MAX, &[None, None], &mut Unobserved)? {
//!     println!("{} bytes are dirty", bitmap.dirty_bytes());
//! }
//! # Ok::<(), checkmap::Error>(())
//! ```
//!
//! A server that breaks a rule of the protocol gets [`ErrorKind::Damaged`](crate::ErrorKind::Damaged), one that is silent for too
//! long [`ErrorKind::Io`](crate::ErrorKind::Io): no answer is ever shorter than the question. `docs/formats/nbd.md` has the rules.

// Owns the NBD protocol as both sides speak it. Must never know which program the peer is, how it is told to export something,
// or what a bitmap means to checkpoints.

mod address;
mod bitmaps;
mod client;
mod handshake;
mod marking;
mod protocol;
mod read;
pub mod server;
mod status;
mod uri;
mod wire;

pub use address::{Address, Stream};
pub use bitmaps::{DIRTY_BITMAP, context_of};
pub use client::{Client, ConnectOptions, DEFAULT_TIMEOUT};
pub use status::Status;
pub use uri::Uri;
