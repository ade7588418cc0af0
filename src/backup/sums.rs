#![forbid(unsafe_code)]
//! Owns the list of what a backup's file holds, with the checksum of every extent: how it is written, and how it is read back.
//! Must never read the file that it is about.
//!
//! The sums are CRC-32C. They are there to find damage, not malice: an extent has at most 1 MiB, and bytes that rotted, were
//! swapped or belong elsewhere pass with a chance of 2^-32 for each damaged extent; bursts up to 32 bits never do. A longer sum
//! would cost more time than the reading, and who can forge an extent can forge its line as well. The list itself ends with a
//! sum of all its lines, and the manifest holds the sum of the whole list.
//!
//! ```text
//! checkmap-sums 1
//! data 0 1048576 8a9136aa
//! zero 1048576 65536
//! end 2 e3069283
//! ```

use crate::bitmap::Bitmap;
use crate::checksum::crc32c;
use crate::error::{Error, ErrorKind, Result};
use crate::formats::CLUSTER_BYTES;
use crate::geometry::{Extent, Granularity};
use crate::memory;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;

const TITLE: &str = "checkmap-sums 1";
const STRUCTURE: &str = "list of sums";
/// The longest extent that has one sum.
pub(super) const MOST_EXTENT: u64 = 1 << 20;

/// The granularity of maps of clusters.
pub(super) fn clusters() -> Result<Granularity> {
    Granularity::from_bytes(CLUSTER_BYTES)
}

/// One extent of data and its sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Summed {
    pub(super) extent: Extent,
    pub(super) sum: u32,
}

/// The content of a backup's file.
#[derive(Debug)]
pub(super) struct Sums {
    /// The extents of data, ascending.
    pub(super) data: Vec<Summed>,
    pub(super) has_data: Bitmap,
    /// The clusters that read as zeros, whatever lies below.
    pub(super) has_zeros: Bitmap,
}

impl Sums {
    /// Of a disk of `size_bytes` of which nothing is held yet.
    pub(super) fn new(size_bytes: u64) -> Result<Self> {
        let empty = || Bitmap::new(size_bytes, clusters()?);
        Ok(Self { data: Vec::new(), has_data: empty()?, has_zeros: empty()? })
    }

    /// Adds an extent of data, behind all others.
    pub(super) fn add_data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let extent = Extent { offset, len_bytes: bytes.len() as u64 };
        self.add_summed(Summed { extent, sum: crc32c(bytes) })
    }

    /// Adds an extent whose sum is known, behind all others.
    pub(super) fn add_summed(&mut self, summed: Summed) -> Result<()> {
        memory::push(&mut self.data, summed)?;
        self.has_data.set(summed.extent.offset, summed.extent.len_bytes)
    }

    /// Adds clusters that read as zeros.
    pub(super) fn add_zeros(&mut self, offset: u64, len_bytes: u64) -> Result<()> {
        self.has_zeros.set(offset, len_bytes)
    }

    /// Everything that the file holds itself.
    pub(super) fn held(&self) -> Result<Bitmap> {
        self.has_data.union(&self.has_zeros)
    }

    /// The extent that holds the byte at `offset`.
    pub(super) fn at(&self, offset: u64) -> Option<Summed> {
        let behind = self.data.partition_point(|summed| summed.extent.offset <= offset);
        let found = behind.checked_sub(1).and_then(|at| self.data.get(at)).copied();
        found.filter(|summed| offset < summed.extent.end())
    }

    /// The list as text.
    pub(super) fn encode(&self) -> Result<String> {
        let mut text = String::new();
        let mut count = 0_u64;
        let line = |text: &mut String, line: std::fmt::Arguments<'_>| -> Result<()> {
            text.try_reserve(80)?;
            text.write_fmt(line).map_err(|_| Error::out_of_memory())
        };
        line(&mut text, format_args!("{TITLE}\n"))?;
        for Summed { extent, sum } in &self.data {
            line(&mut text, format_args!("data {} {} {sum:08x}\n", extent.offset, extent.len_bytes))?;
            count += 1;
        }
        for extent in self.has_zeros.extents(0, u64::MAX) {
            line(&mut text, format_args!("zero {} {}\n", extent.offset, extent.len_bytes))?;
            count += 1;
        }
        let sum = crc32c(text.as_bytes());
        line(&mut text, format_args!("end {count} {sum:08x}\n"))?;
        Ok(text)
    }

    /// Reads a list of a disk of `size_bytes`, whose text must have the `sum`.
    pub(super) fn read(mut file: &File, size_bytes: u64, sum: u32) -> Result<Self> {
        let len = file.metadata().map_err(failed)?.len();
        let mut text = memory::room(usize::try_from(len).unwrap_or(usize::MAX))?;
        file.read_to_end(&mut text).map_err(failed)?;
        if crc32c(&text) != sum {
            return Err(damaged("it is not the list that the manifest speaks of: its checksum is another one"));
        }
        let text = String::from_utf8(text).map_err(|_| damaged("it is no text"))?;
        Self::decode(&text, size_bytes)
    }

    fn decode(text: &str, size_bytes: u64) -> Result<Self> {
        let mut sums = Self::new(size_bytes)?;
        let wrong = |line: &str| damaged(format!("the line '{}' is none of a list of sums", line.escape_debug()));
        let mut lines = text.lines();
        if lines.next() != Some(TITLE) {
            return Err(damaged("it does not begin as a list of sums of version 1"));
        }
        let (mut reached, mut count) = (0, 0_u64);
        for line in lines {
            let mut words = line.split(' ');
            let kind = words.next().unwrap_or_default();
            if kind == "end" {
                let told = words.next().and_then(|word| word.parse::<u64>().ok());
                return if told == Some(count) { Ok(sums) } else { Err(wrong(line)) };
            }
            let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
            let (Some(offset), Some(len_bytes)) = (number(), number()) else { return Err(wrong(line)) };
            let end = offset.checked_add(len_bytes).filter(|end| *end <= size_bytes && len_bytes > 0);
            let end = end.filter(|end| end.is_multiple_of(CLUSTER_BYTES) || *end == size_bytes);
            let end = end.filter(|_| offset.is_multiple_of(CLUSTER_BYTES)).ok_or_else(|| wrong(line))?;
            match kind {
                "data" if offset >= reached && len_bytes <= MOST_EXTENT => {
                    let sum = words.next().and_then(|word| u32::from_str_radix(word, 16).ok());
                    let sum = sum.ok_or_else(|| wrong(line))?;
                    sums.add_summed(Summed { extent: Extent { offset, len_bytes }, sum })?;
                    reached = end;
                }
                "zero" => sums.add_zeros(offset, len_bytes)?,
                _ => return Err(wrong(line)),
            }
            count += 1;
        }
        Err(damaged("it ends too early"))
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("cannot read the list of sums", error)
}

fn damaged(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Damaged, message).at(STRUCTURE, None)
}
