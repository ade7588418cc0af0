#![forbid(unsafe_code)]
//! Owns the one door to a file or block device: positioned reads and writes, and the flush that makes them durable.
//! Knows nothing of the meaning of the bytes. Tests put a double here that cuts the power.

use nix::sys::statvfs;
use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::sync::Arc;
use std::time::SystemTime;

/// Tells one file from another, by any names or links that lead to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    /// The one of the file that `metadata` is of.
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Positioned input and output on one image. A write is durable only after a [`flush`](Storage::flush) that follows it.
pub trait Storage: Send + Sync + std::fmt::Debug {
    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file, where it returns 0.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all of `bytes` at `offset`, growing the file where it must.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes every earlier write durable, as `fdatasync` does.
    fn flush(&self) -> io::Result<()>;

    /// Cuts the file at `len_bytes`, to take back room that a failed change had added; never below its earlier length.
    fn truncate(&self, len_bytes: u64) -> io::Result<()>;

    /// The present size in bytes.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Whether writing past the end can succeed: true for a file, false for a block device.
    fn can_grow(&self) -> bool;

    /// Which file it is, where it is one.
    fn file_id(&self) -> Option<FileId> {
        None
    }

    /// The time of the last write, where the system keeps it: a second look then sees whether another program wrote in between.
    fn last_written(&self) -> io::Result<Option<SystemTime>> {
        Ok(None)
    }

    /// By how many bytes the file can still grow, as far as that can be known.
    fn room_bytes(&self) -> Option<u64> {
        Some(u64::MAX)
    }

    /// All of it, where it is in memory anyway: who only reads need not copy.
    fn in_memory(&self) -> Option<&[u8]> {
        None
    }
}

/// Bytes in memory that can only be read: a `Vec<u8>`, an `Arc<[u8]>` that is shared, or any others.
#[derive(Clone, Copy, Default)]
pub struct Memory<B>(pub B);

impl<B: AsRef<[u8]>> std::fmt::Debug for Memory<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes)", self.0.as_ref().len())
    }
}

impl<B: AsRef<[u8]> + Send + Sync> Storage for Memory<B> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let all = self.0.as_ref();
        let rest = usize::try_from(offset).ok().and_then(|offset| all.get(offset..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.as_ref().len() as u64)
    }

    fn can_grow(&self) -> bool {
        false
    }

    fn in_memory(&self) -> Option<&[u8]> {
        Some(self.0.as_ref())
    }
}

/// A part of another storage, only to be read.
#[derive(Debug)]
pub(crate) struct Part {
    whole: Arc<dyn Storage>,
    offset: u64,
    len_bytes: Option<u64>,
}

impl Part {
    /// The part of `whole` from `offset` on, of `len_bytes` or to the end.
    pub(crate) fn new(whole: Arc<dyn Storage>, offset: u64, len_bytes: Option<u64>) -> Self {
        Self { whole, offset, len_bytes }
    }
}

impl Storage for Part {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.len_bytes()?.saturating_sub(offset);
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        match self.offset.checked_add(offset) {
            Some(offset) => self.whole.read_at(&mut buffer[..wanted], offset),
            None => Ok(0),
        }
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        let behind = self.whole.len_bytes()?.saturating_sub(self.offset);
        Ok(self.len_bytes.map_or(behind, |len_bytes| len_bytes.min(behind)))
    }

    fn can_grow(&self) -> bool {
        false
    }
}

/// A file or a block device, opened by the caller.
#[derive(Debug)]
pub struct FileStorage {
    file: Arc<File>,
    is_device: bool,
    id: FileId,
}

impl FileStorage {
    /// Takes over `file`, or shares it; it must be a regular file or a block device.
    pub fn new(file: impl Into<Arc<File>>) -> io::Result<Self> {
        let file = file.into();
        let metadata = file.metadata()?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(io::Error::from_raw_os_error(libc::EISDIR));
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a block device"));
        }
        Ok(Self { file, is_device: kind.is_block_device(), id: FileId::of(&metadata) })
    }

    /// The file itself, for locks.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Storage for FileStorage {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&self, len_bytes: u64) -> io::Result<()> {
        if self.is_device { Ok(()) } else { self.file.set_len(len_bytes) }
    }

    /// A device's metadata gives no size, so its end is sought; every other call names its own position.
    fn len_bytes(&self) -> io::Result<u64> {
        if self.is_device { (&*self.file).seek(SeekFrom::End(0)) } else { Ok(self.file.metadata()?.len()) }
    }

    fn can_grow(&self) -> bool {
        !self.is_device
    }

    fn file_id(&self) -> Option<FileId> {
        Some(self.id)
    }

    /// The times of a device are those of its node, which writes leave alone.
    fn last_written(&self) -> io::Result<Option<SystemTime>> {
        if self.is_device { Ok(None) } else { self.file.metadata()?.modified().map(Some) }
    }

    fn room_bytes(&self) -> Option<u64> {
        if self.is_device {
            return Some(0);
        }
        // A file system that does not tell its size does not tell its free room either.
        let system = statvfs::fstatvfs(&self.file).ok().filter(|system| system.blocks() > 0)?;
        Some(system.blocks_available().saturating_mul(system.fragment_size()))
    }
}
