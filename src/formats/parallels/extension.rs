#![forbid(unsafe_code)]
//! Owns the format extension of a Parallels image: the cluster that lists the dirty bitmaps, and where their bits lie. Must never
//! decide whether a bitmap can be trusted.

use super::header::{Header, SECTOR};
use crate::chain::Name;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::{Granularity, check_disk};
use crate::io::Storage;
use crate::io::bytes::{file_len, le_u32, le_u64, read_exact};
use crate::memory;
use md5::{Digest, Md5};
use std::collections::HashMap;
use std::fmt::Write;

const STRUCTURE: &str = "Parallels format extension";
const MAGIC: u64 = 0xab23_4cef_23dc_ea87;
/// The bytes before the first feature: the magic, and the checksum of all that follows in the cluster.
const HEAD_BYTES: usize = 24;
const FEATURE_BYTES: usize = 24;
const END_OF_FEATURES: u64 = 0;
const DIRTY_BITMAP: u64 = 0x2038_5fae_252c_b34a;
/// "Do not change the image without me", and "keep me as I am".
const KNOWN_FLAGS: u64 = 3;
const BITMAP_BYTES: usize = 32;
/// An extension that is longer, or lists more, is no list of bitmaps that anybody wrote.
const MOST_BYTES: u64 = 64 << 20;
const MOST_BITMAPS: usize = 65535;
/// No more bits of a bitmap are read than qcow2 can hold: a file can be a hole for nearly all of them.
const MOST_BITS_BYTES: u64 = 512 << 20;
/// The largest granularity is 2 GiB.
const MOST_SECTORS: u32 = 1 << 22;

/// The meaning of one entry of a bitmap's table: one cluster of bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// Every bit is clear.
    Zeros,
    /// Every bit is set.
    Ones,
    /// The bits stand at this offset of the file.
    At(u64),
}

/// One bitmap, as the extension describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Name,
    pub(super) granularity: Granularity,
    pub(super) table: Vec<Payload>,
}

/// The bitmaps before the first fault, and that fault.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The first byte of the extension's cluster.
    pub(super) at: u64,
    pub(super) entries: Vec<Entry>,
    /// The number of each entry.
    pub(super) places: HashMap<Name, usize>,
    pub(super) fault: Option<Error>,
}

/// Reads the extension that the header points to.
pub(super) fn read(storage: &dyn Storage, header: &Header) -> Result<Listing> {
    let mut listing = Listing::default();
    match read_into(&mut listing, storage, header) {
        Err(error) if error.kind() == ErrorKind::Io || error.is_of_the_call() => Err(error),
        outcome => {
            listing.fault = outcome.err();
            Ok(listing)
        }
    }
}

fn damaged(message: impl Into<String>, at: u64) -> Error {
    Error::new(ErrorKind::Damaged, message).at(STRUCTURE, at)
}

fn read_into(listing: &mut Listing, storage: &dyn Storage, header: &Header) -> Result<()> {
    let cluster = header.cluster_bytes;
    let place = header
        .extension_sector
        .checked_mul(SECTOR)
        .filter(|at| at.checked_sub(header.data_start).is_some_and(|behind| behind.is_multiple_of(cluster)));
    let Some(at) = place else {
        let message = format!("sector {} is not at the start of a cluster of data", header.extension_sector);
        return Err(Error::new(ErrorKind::Damaged, message).at("Parallels header", 56));
    };
    listing.at = at;
    if cluster > MOST_BYTES {
        let message = format!("a cluster of {cluster} bytes is larger than any list of bitmaps");
        return Err(Error::new(ErrorKind::Unsupported, message).at(STRUCTURE, at));
    }
    let bytes = read_exact(storage, &STRUCTURE, at, cluster)?;
    if le_u64(&bytes, 0) != MAGIC {
        return Err(damaged("its magic is missing: something else was written in its place", at));
    }
    let (head, features) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(|| damaged("is cut short", at))?;
    if Md5::digest(features).as_slice() != head.get(8..).unwrap_or_default() {
        return Err(damaged("its checksum is another one", at + 8));
    }
    let file_end = file_len(storage)?;
    let mut from = HEAD_BYTES;
    loop {
        let place = at + from as u64;
        let cut_short = || damaged("a feature reaches past the end of the cluster", place);
        let feature = bytes.get(from..).and_then(|rest| rest.get(..FEATURE_BYTES)).ok_or_else(cut_short)?;
        let (magic, flags, len) = (le_u64(feature, 0), le_u64(feature, 8), le_u32(feature, 16));
        if magic == END_OF_FEATURES {
            return Ok(());
        }
        let from_data = from + FEATURE_BYTES;
        let data_end = usize::try_from(len).ok().and_then(|len| from_data.checked_add(len)).ok_or_else(cut_short)?;
        let data = bytes.get(from_data..data_end).ok_or_else(cut_short)?;
        // Others say what a writer has to do about them; who only reads can pass them over.
        if magic == DIRTY_BITMAP {
            if flags & !KNOWN_FLAGS != 0 {
                let message = format!("the flags {flags:#x} of a bitmap are unknown");
                return Err(Error::new(ErrorKind::Unsupported, message).at(STRUCTURE, place + 8));
            }
            if listing.entries.len() >= MOST_BITMAPS {
                let message = format!("there are more than {MOST_BITMAPS} bitmaps");
                return Err(Error::new(ErrorKind::Unsupported, message).at(STRUCTURE, place));
            }
            let entry = bitmap(data, at + from_data as u64, header, file_end)?;
            if listing.places.contains_key(&entry.name) {
                return Err(damaged(format!("two bitmaps are named {}", entry.name), place));
            }
            memory::insert(&mut listing.places, entry.name.clone(), listing.entries.len())?;
            memory::push(&mut listing.entries, entry)?;
        }
        from = data_end.next_multiple_of(8);
    }
}

/// The bitmap whose `data` stand at `at` in the file.
fn bitmap(data: &[u8], at: u64, header: &Header, file_end: u64) -> Result<Entry> {
    let cut_short = || damaged("a bitmap's description is cut short", at);
    let (head, table) = data.split_at_checked(BITMAP_BYTES).ok_or_else(cut_short)?;
    let sectors = le_u64(head, 0);
    if sectors.checked_mul(SECTOR) != Some(header.size_bytes) {
        let message = format!("a bitmap is of a disk of {sectors} sectors, this one has {} bytes", header.size_bytes);
        return Err(damaged(message, at));
    }
    let name = name(head.get(8..24).unwrap_or_default());
    let granules = le_u32(head, 24);
    if !granules.is_power_of_two() || granules > MOST_SECTORS {
        return Err(damaged(format!("bitmap {name} has a granularity of {granules} sectors"), at + 24));
    }
    let granularity = Granularity::from_bytes(u64::from(granules) * SECTOR)?;
    check_disk(header.size_bytes, granularity)
        .map_err(|error| Error::new(ErrorKind::Unsupported, error.message()).at(STRUCTURE, at + 24))?;
    let entries = u64::from(le_u32(head, 28));
    let bits_bytes = granularity.granules(header.size_bytes).div_ceil(8);
    if bits_bytes > MOST_BITS_BYTES {
        let message = format!("bitmap {name} has {bits_bytes} bytes of bits; at most {MOST_BITS_BYTES} are read");
        return Err(Error::new(ErrorKind::Unsupported, message).at(STRUCTURE, at + 24));
    }
    let needed = bits_bytes.div_ceil(header.cluster_bytes);
    if entries != needed {
        let message = format!("the table of bitmap {name} has {entries} entries, and {needed} are needed");
        return Err(damaged(message, at + 28));
    }
    let table = usize::try_from(entries).ok().and_then(|entries| table.as_chunks::<8>().0.get(..entries));
    let table = table.ok_or_else(cut_short)?;
    let mut payloads = memory::room(table.len())?;
    for (number, raw) in (0..).zip(table) {
        let payload = payload(u64::from_le_bytes(*raw), payload_bytes(header, granularity, number), header, file_end);
        let place = at + BITMAP_BYTES as u64 + number * 8;
        payloads.push(payload.map_err(|message| damaged(format!("bitmap {name}: {message}"), place))?);
    }
    Ok(Entry { name, granularity, table: payloads })
}

/// The bytes of bits in cluster `number` of a bitmap.
pub(super) fn payload_bytes(header: &Header, granularity: Granularity, number: u64) -> u64 {
    let all = granularity.granules(header.size_bytes).div_ceil(8);
    all.saturating_sub(number.saturating_mul(header.cluster_bytes)).min(header.cluster_bytes)
}

/// One entry of a table, of whose cluster at least `needed` bytes have to be in the file.
fn payload(raw: u64, needed: u64, header: &Header, file_end: u64) -> std::result::Result<Payload, String> {
    let at = match raw {
        0 => return Ok(Payload::Zeros),
        1 => return Ok(Payload::Ones),
        sector => sector.checked_mul(SECTOR),
    };
    let is_inside = |at: &u64| *at >= header.data_start && at.checked_add(needed).is_some_and(|end| end <= file_end);
    match at.filter(is_inside) {
        Some(at) => Ok(Payload::At(at)),
        None => Err(format!(
            "its bits should lie in sector {raw}, which is no place for data in a file of {file_end} bytes"
        )),
    }
}

/// The text of a UUID, whose bytes stand in the order of the text: the name that QEMU gives the bitmap.
fn name(id: &[u8]) -> Name {
    let mut text = String::with_capacity(36);
    for (at, byte) in id.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Name::new(text.as_bytes())
}
