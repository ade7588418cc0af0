#![forbid(unsafe_code)]
//! Owns the file that a rehearsal of a change is carried out on. Must never write to the real one.

use crate::io::Storage;

/// Reads the real file, and writes nothing.
#[derive(Debug)]
pub(super) struct Rehearsal<'a>(pub(super) &'a dyn Storage);

impl Storage for Rehearsal<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> std::io::Result<()> {
        // A last cluster that the device's end cuts off reads as zeros behind that end, and cannot be written.
        match self.0.can_grow() || offset.saturating_add(bytes.len() as u64) <= self.0.len_bytes()? {
            true => Ok(()),
            false => Err(std::io::ErrorKind::StorageFull.into()),
        }
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn truncate(&self, _: u64) -> std::io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> std::io::Result<u64> {
        self.0.len_bytes()
    }

    fn can_grow(&self) -> bool {
        self.0.can_grow()
    }

    fn room_bytes(&self) -> Option<u64> {
        self.0.room_bytes()
    }
}
