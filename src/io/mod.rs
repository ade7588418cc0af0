#![forbid(unsafe_code)]
//! Files and devices as the rest of the crate reaches them.
//!
//! [`Storage`] is the one door to what an image or a segment lies in: positioned reads and writes, and a flush that makes
//! them durable. [`FileStorage`] is a file or a block device, [`Memory`] is bytes in memory; a program that keeps images
//! elsewhere implements the trait. [`replace`] puts a whole new file in the place of an old one, in one step.
//!
//! ```
//! use checkmap::io::{Memory, Storage};
//!
//! let storage = Memory(b"checkmap");
//! let mut bytes = [0; 3];
//! assert_eq!(storage.read_at(&mut bytes, 5).expect("memory can be read"), 3);
//! assert_eq!(&bytes, b"map");
//! ```

// Owns the access to files. Must never know their content.
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub(crate) mod bytes;
pub(crate) mod locks;
pub mod replace;
mod storage;

pub(crate) use storage::Part;
pub use storage::{FileId, FileStorage, Memory, Storage};
