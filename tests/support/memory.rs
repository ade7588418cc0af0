//! An image in memory, for tests that must not depend on files.

use checkmap::image::{Access, Image, OpenOptions};
use checkmap::io::Storage;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An image does not grow above this: a hostile one would take the machine's memory.
const MAX_LEN: u64 = 64 << 20;
const ENOSPC: i32 = 28;

/// A file that is a vector, or a device that is one.
#[derive(Debug)]
pub struct Memory {
    bytes: Mutex<Vec<u8>>,
    can_grow: bool,
}

impl Memory {
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self { bytes: Mutex::new(bytes.into()), can_grow: true }
    }

    /// A device that holds `bytes` and has no room for more.
    pub fn device(bytes: impl Into<Vec<u8>>) -> Self {
        Self { can_grow: false, ..Self::new(bytes) }
    }

    /// What the file holds now.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().clone()
    }

    /// Whether the file holds exactly `bytes` now.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        *self.lock() == bytes
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for Memory {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.lock();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, new: &[u8], offset: u64) -> io::Result<()> {
        let most = if self.can_grow { MAX_LEN } else { self.lock().len() as u64 };
        let end = offset.checked_add(new.len() as u64).filter(|end| *end <= most);
        let end = end.and_then(|end| usize::try_from(end).ok()).ok_or_else(no_space)?;
        let mut bytes = self.lock();
        if end > bytes.len() {
            bytes.resize(end, 0);
        }
        bytes[end - new.len()..end].copy_from_slice(new);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        let len = usize::try_from(len_bytes).map_err(|_| no_space())?;
        assert!(self.can_grow, "a device cannot be cut");
        self.lock().truncate(len);
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.lock().len() as u64)
    }

    fn can_grow(&self) -> bool {
        self.can_grow
    }
}

/// The error of a full disk.
pub fn no_space() -> io::Error {
    io::Error::from_raw_os_error(ENOSPC)
}

/// Opens the image that `storage` holds, under a name of its own.
pub fn open(storage: &Arc<impl Storage + 'static>, access: Access) -> checkmap::Result<Image> {
    let storage: Arc<dyn Storage> = Arc::clone(storage) as Arc<dyn Storage>;
    Image::open_storage(storage, Path::new("in-memory.qcow2"), &OpenOptions::new(access).no_lock(true))
}
