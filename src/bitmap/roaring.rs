#![forbid(unsafe_code)]
//! Owns the portable 64-bit Roaring format: what a bitmap is as bytes, and the reading of bytes from anywhere. Must never
//! trust a byte it reads, nor know where the bytes are kept.
//!
//! The format is that of RoaringFormatSpec: a 64-bit count of 32-bit bitmaps, then each as its high 32 bits and a portable
//! 32-bit Roaring bitmap, all little-endian. The values are the indices of the dirty granules; neither the size of the disk
//! nor the granularity is part of it.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::Bitmap;
use super::container::{
    ARRAY_MAX, CHUNK, Container, Form as Held, Packer, Pair, Plain, RUNS_MAX, Run, View, Words, no_words, to_u16,
};
use super::directory::{Directory, Entry, Packed};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::kernels::{Kernels, ROOM, RUN_BLOCK, RunBlock, select};
use std::convert::Infallible;
use std::io::{self, Write};

const COOKIE_WITHOUT_RUNS: u32 = 12346;
const COOKIE_WITH_RUNS: u16 = 12347;

/// A bitmap with run containers has offsets only from this many containers on.
const OFFSETS_FROM: u32 = 4;

/// The most containers of a 32-bit bitmap, and so the chunks that share their high 32 bits.
const GROUP: u32 = 1 << 16;

/// Output gathers to about this many bytes between two writes.
const WRITE_BYTES: usize = 1 << 16;

impl Bitmap {
    /// The number of bytes that [`Bitmap::write_roaring`] writes.
    pub fn serialized_len(&self) -> u64 {
        serialized_len(&groups(&self.directory))
    }

    /// The bytes that [`Bitmap::write_roaring`] writes.
    pub fn to_roaring(&self) -> Vec<u8> {
        let groups = groups(&self.directory);
        let len = usize::try_from(serialized_len(&groups)).unwrap_or(0);
        let mut out = Vec::with_capacity(len);
        out.extend_from_slice(&(groups.len() as u64).to_le_bytes());
        for group in &groups {
            group.write_header(&mut out);
            let Ok(()) = group.write_bodies(&mut out, |_| Ok::<_, Infallible>(()));
        }
        out
    }

    /// Writes the indices of the dirty granules as portable 64-bit Roaring, each container in its smallest form: equal
    /// bitmaps give equal bytes.
    ///
    /// Any error is that of `out`.
    pub fn write_roaring(&self, out: &mut impl Write) -> io::Result<()> {
        let groups = groups(&self.directory);
        out.write_all(&(groups.len() as u64).to_le_bytes())?;
        let mut buffer = Vec::new();
        for group in &groups {
            group.write_header(&mut buffer);
            group.write_bodies(&mut buffer, |buffer| {
                if buffer.len() >= WRITE_BYTES {
                    out.write_all(buffer)?;
                    buffer.clear();
                }
                io::Result::Ok(())
            })?;
        }
        out.write_all(&buffer)
    }

    /// Reads portable 64-bit Roaring, as [`Bitmap::write_roaring`] and other Roaring libraries write it.
    ///
    /// The bytes may come from anywhere. Whatever breaks the format, a granule past the end of the disk, and bytes left
    /// over are [`ErrorKind::Damaged`], with the structure and its offset in `bytes`; the memory taken is at most a small
    /// multiple of `bytes`. A disk that [`Bitmap::new`] would refuse is [`ErrorKind::InvalidArgument`].
    pub fn from_roaring(bytes: &[u8], size_bytes: u64, granularity: Granularity) -> Result<Self> {
        let mut bitmap = Self::new(size_bytes, granularity)?;
        let granules = bitmap.granules();
        let mut reader = Reader { total: bytes.len(), rest: bytes };
        let count = u64::from_le_bytes(reader.array("Roaring header")?);
        let mut room = Room { list: Vec::new(), words: no_words(), runs: Vec::new(), packer: Packer::new() };
        let mut least_high = 0;
        for _ in 0..count {
            let at = reader.offset();
            let high = u32::from_le_bytes(reader.array("Roaring high key")?);
            if u64::from(high) < least_high {
                let message = "the high keys are not in ascending order";
                return Err(Error::new(ErrorKind::Damaged, message).at("Roaring high key", at));
            }
            least_high = u64::from(high) + 1;
            read_group(&mut reader, &mut room, high, granules, &mut bitmap.directory)?;
        }
        if !reader.rest.is_empty() {
            return Err(reader.damaged("Roaring bitmap", "bytes follow the last container"));
        }
        bitmap.directory.shrink();
        Ok(bitmap)
    }
}

/// What a group has of an entry: one container, or several full ones.
#[derive(Clone, Copy)]
struct Part {
    /// The first chunk's index in its group.
    key: u32,
    chunks: u32,
    /// The values of each container, and its bytes.
    ones: u32,
    len: u32,
    /// Whether it is written as runs, which is only where they are smaller than anything else.
    is_runs: bool,
}

impl Part {
    #[inline(always)]
    fn new(directory: &Directory, entry: &Entry, high: u32) -> Self {
        let (key, ones) = (entry.key % GROUP, entry.ones_of_chunk());
        let plain = |len| Self { key, chunks: 1, ones, len, is_runs: false };
        let of_runs = |runs: u32| {
            let (as_runs, as_others) = (2 + 4 * runs, if ones as usize <= ARRAY_MAX { 2 * ones } else { 8192 });
            Self { len: as_runs.min(as_others), is_runs: as_runs < as_others, ..plain(0) }
        };
        match entry.packed_form() {
            Some(Held::Array) => plain(2 * ones),
            Some(Held::Words) => plain(8192),
            #[allow(clippy::cast_possible_truncation, reason = "there are at most 2048 runs")]
            Some(Held::Runs) => of_runs(entry.bytes() as u32 / 4),
            Some(Held::Full) => {
                let (from, to) = (entry.key.max(high * GROUP), entry.end().min((high + 1) * GROUP));
                Self { key: from % GROUP, chunks: to - from, ..of_runs(1) }
            }
            Some(Held::Sparse) | None => of_runs(directory.view(entry).run_count()),
        }
    }

    #[inline(never)]
    fn write_view(self, view: View<'_>, out: &mut Vec<u8>) {
        let runs = || view.runs(Run::WHOLE);
        match view {
            _ if self.is_runs => {
                out.extend_from_slice(&to_u16(self.len / 4).to_le_bytes());
                runs().for_each(|run| {
                    out.extend_from_slice(&run.first.to_le_bytes());
                    out.extend_from_slice(&(run.last - run.first).to_le_bytes());
                });
            }
            _ if self.ones as usize > ARRAY_MAX => write_words(&view.words(), out),
            View::Array(list) => write_list(list, out),
            View::Sparse(_) => {
                let mut list = [0; ARRAY_MAX + ROOM];
                let count = (select().positions)(&view.words(), &mut list);
                write_list(list.get(..count).unwrap_or_default(), out);
            }
            _ => runs().flat_map(|run| run.first..=run.last).for_each(|bit| out.extend(bit.to_le_bytes())),
        }
    }
}

/// A list of no more positions is copied as a block of so many, whatever follows it.
const SHORT: usize = 16;

/// Where what is short gathers, so that it is copied in blocks, whatever follows in the last of them: a copy of any few
/// bytes costs far more.
struct Stage {
    bytes: [u8; STAGE],
    filled: usize,
    kernels: &'static Kernels,
}

/// The bytes of the stage, which has room for any runs: the first cache holds it beside what is read.
const STAGE: usize = 2 + size_of::<[Pair; RUNS_MAX]>() + size_of::<RunBlock>();

impl Stage {
    fn new() -> Self {
        Self { bytes: [0; STAGE], filled: 0, kernels: select() }
    }

    #[inline]
    fn flush(&mut self, out: &mut Vec<u8>) {
        if self.filled > 0 {
            out.extend_from_slice(self.bytes.get(..self.filled).unwrap_or_default());
            self.filled = 0;
        }
    }

    /// Adds the first `len` of `bytes`.
    #[inline]
    fn add<const N: usize>(&mut self, bytes: [u8; N], len: usize, out: &mut Vec<u8>) {
        if self.filled + N > STAGE {
            self.flush(out);
        }
        if let Some(place) = self.bytes.get_mut(self.filled..).and_then(<[u8]>::first_chunk_mut) {
            *place = bytes;
            self.filled += len;
        }
    }

    /// Adds the first `count` positions of a list, no more than a block, if whatever follows them fills one; whether it did.
    #[inline]
    fn add_short(&mut self, list: &[u16], count: u32, out: &mut Vec<u8>) -> bool {
        let Some(block) = list.first_chunk::<SHORT>() else { return false };
        self.add::<{ 2 * SHORT }>(bytemuck::cast(block.map(u16::to_le)), 2 * count as usize, out);
        true
    }

    /// Adds the number and the first `count` of some runs, if whatever follows them fills the last block; whether it did.
    #[inline]
    fn add_runs(&mut self, runs: &[Pair], count: u32, out: &mut Vec<u8>) -> bool {
        let Some(blocks) = runs.as_chunks().0.get(..(count as usize).div_ceil(RUN_BLOCK)) else { return false };
        if self.filled + 2 + size_of_val(blocks) > STAGE {
            self.flush(out);
        }
        self.add(to_u16(count).to_le_bytes(), 2, out);
        let room = self.bytes.get_mut(self.filled..).unwrap_or_default().as_chunks_mut().0;
        (self.kernels.save_runs)(blocks, room);
        self.filled += size_of::<Pair>() * count as usize;
        true
    }
}

#[cfg(target_endian = "little")]
fn write_list(list: &[u16], out: &mut Vec<u8>) {
    out.extend_from_slice(bytemuck::cast_slice(list));
}

#[cfg(target_endian = "big")]
fn write_list(list: &[u16], out: &mut Vec<u8>) {
    list.iter().for_each(|bit| out.extend_from_slice(&bit.to_le_bytes()));
}

#[cfg(target_endian = "little")]
fn write_words(words: &Words, out: &mut Vec<u8>) {
    out.extend_from_slice(bytemuck::cast_slice(words));
}

#[cfg(target_endian = "big")]
fn write_words(words: &Words, out: &mut Vec<u8>) {
    words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
}

/// The chunks whose granules share their high 32 bits: one 32-bit bitmap.
struct Group<'a> {
    directory: &'a Directory,
    high: u32,
    entries: &'a [Entry],
    /// One for each entry.
    parts: Vec<Part>,
    containers: u32,
    has_runs: bool,
    body_len: u64,
}

impl<'a> Group<'a> {
    fn new(directory: &'a Directory, high: u32) -> Self {
        let entries = directory.within(high * GROUP, (high + 1) * GROUP);
        let (mut containers, mut has_runs, mut body_len) = (0, false, 0);
        let parts = entries.iter().map(|entry| {
            let part = Part::new(directory, entry, high);
            containers += part.chunks;
            has_runs |= part.is_runs;
            body_len += u64::from(part.chunks) * u64::from(part.len);
            part
        });
        let parts = parts.collect();
        Self { directory, high, entries, parts, containers, has_runs, body_len }
    }

    /// Writes the containers, and calls `next` after each.
    #[inline(never)]
    fn write_bodies<E>(
        &self,
        out: &mut Vec<u8>,
        mut next: impl FnMut(&mut Vec<u8>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut stage = Stage::new();
        for (entry, part) in self.entries.iter().zip(&self.parts) {
            let is_staged = match self.directory.packed(entry) {
                Some(Packed::Runs(runs)) if part.is_runs => stage.add_runs(runs, part.len / 4, out),
                Some(Packed::List(list)) if part.ones as usize <= SHORT => stage.add_short(list, part.ones, out),
                _ => false,
            };
            if is_staged {
                next(out)?;
                continue;
            }
            stage.flush(out);
            for _ in 0..part.chunks {
                part.write_view(self.directory.view(entry), out);
                next(out)?;
            }
        }
        stage.flush(out);
        Ok(())
    }

    fn header_len(&self) -> u64 {
        let containers = u64::from(self.containers);
        if !self.has_runs {
            return 8 + 8 * containers;
        }
        let offsets = if self.has_offsets() { 4 * containers } else { 0 };
        4 + containers.div_ceil(8) + 4 * containers + offsets
    }

    fn has_offsets(&self) -> bool {
        !self.has_runs || self.containers >= OFFSETS_FROM
    }

    #[inline(never)]
    fn write_header(&self, out: &mut Vec<u8>) {
        let containers = self.containers as usize;
        out.extend_from_slice(&self.high.to_le_bytes());
        if self.has_runs {
            out.extend_from_slice(&(u32::from(COOKIE_WITH_RUNS) | (self.containers - 1) << 16).to_le_bytes());
            self.write_flags(out);
        } else {
            out.extend_from_slice(&COOKIE_WITHOUT_RUNS.to_le_bytes());
            out.extend_from_slice(&self.containers.to_le_bytes());
        }
        let start = out.len();
        out.resize(start + 4 * containers * (1 + usize::from(self.has_offsets())), 0);
        let room = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<4>().0;
        let (mut descriptions, mut offsets) = room.split_at_mut(containers);
        #[allow(clippy::cast_possible_truncation, reason = "65536 containers take less than 2^30 bytes")]
        let mut offset = self.header_len() as u32;
        self.each(|key, part| {
            if let Some(place) = descriptions.split_off_first_mut() {
                *place = (key | (part.ones - 1) << 16).to_le_bytes();
            }
            if let Some(place) = offsets.split_off_first_mut() {
                *place = offset.to_le_bytes();
            }
            offset = offset.wrapping_add(part.len);
        });
    }

    /// A bit for each container, set where it is written as runs.
    #[inline(never)]
    fn write_flags(&self, out: &mut Vec<u8>) {
        let (mut flags, mut bit) = (0, 1u8);
        self.each(|_, part| {
            flags |= if part.is_runs { bit } else { 0 };
            bit = bit.rotate_left(1);
            if bit == 1 {
                out.push(std::mem::take(&mut flags));
            }
        });
        if bit != 1 {
            out.push(flags);
        }
    }

    /// Passes the key and the part of each container to `take`.
    #[inline]
    fn each(&self, mut take: impl FnMut(u32, &Part)) {
        if self.parts.len() == self.containers as usize {
            return self.parts.iter().for_each(|part| take(part.key, part));
        }
        for part in &self.parts {
            (part.key..part.key + part.chunks).for_each(|key| take(key, part));
        }
    }
}

fn groups(directory: &Directory) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    let mut rest = directory.entries();
    while let Some(entry) = rest.first() {
        let next = groups.last().map_or(0, |group| group.high + 1);
        let group = Group::new(directory, next.max(entry.key / GROUP));
        rest = directory.entries().get(directory.place((group.high + 1) * GROUP)..).unwrap_or_default();
        groups.push(group);
    }
    groups
}

fn serialized_len(groups: &[Group<'_>]) -> u64 {
    8 + groups.iter().map(|group| 4 + group.header_len() + group.body_len).sum::<u64>()
}

/// The bytes that are not yet read.
struct Reader<'a> {
    total: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn offset(&self) -> u64 {
        (self.total - self.rest.len()) as u64
    }

    fn damaged(&self, structure: &str, what: &str) -> Error {
        Error::new(ErrorKind::Damaged, what).at(structure, self.offset())
    }

    fn cut_short(&self, structure: &str) -> Error {
        self.damaged(structure, "the bytes end inside of it")
    }

    fn take(&mut self, len: usize, structure: &str) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.cut_short(structure))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, structure: &str) -> Result<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(|| self.cut_short(structure))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// `count` items of `N` bytes.
    fn list<const N: usize>(&mut self, count: u32, structure: &str) -> Result<&'a [[u8; N]]> {
        let len = (count as usize).checked_mul(N).ok_or_else(|| self.cut_short(structure))?;
        Ok(self.take(len, structure)?.as_chunks().0)
    }
}

/// Reads one 32-bit bitmap, whose values have the high 32 bits `high`.
fn read_group(
    reader: &mut Reader<'_>,
    room: &mut Room,
    high: u32,
    granules: u64,
    directory: &mut Directory,
) -> Result<()> {
    let start = reader.offset();
    let header = "Roaring bitmap header";
    let cookie = u32::from_le_bytes(reader.array(header)?);
    let (count, flags): (u32, &[u8]) = if cookie == COOKIE_WITHOUT_RUNS {
        (u32::from_le_bytes(reader.array(header)?), &[])
    } else if cookie & 0xffff == u32::from(COOKIE_WITH_RUNS) {
        let count = (cookie >> 16) + 1;
        (count, reader.take(count.div_ceil(8) as usize, header)?)
    } else {
        return Err(Error::new(ErrorKind::Damaged, format!("the cookie {cookie} is unknown")).at(header, start));
    };
    if count > GROUP {
        return Err(reader.damaged(header, "there are more than 65536 containers"));
    }
    if count > 0 && u64::from(high) << 32 >= granules {
        let message = "the key is past the end of the disk";
        return Err(Error::new(ErrorKind::Damaged, message).at("Roaring high key", start.saturating_sub(4)));
    }
    let has_runs = cookie != COOKIE_WITHOUT_RUNS;
    let descriptions = reader.list::<4>(count, "Roaring container descriptions")?;
    let has_offsets = !has_runs || count >= OFFSETS_FROM;
    let offsets = reader.list::<4>(if has_offsets { count } else { 0 }, "Roaring container offsets")?;
    let mut offsets = offsets.iter().map(|&bytes| u64::from(u32::from_le_bytes(bytes)));
    let mut flags = flags.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    let mut least_key = 0;
    for &[key_low, key_high, ones_low, ones_high] in descriptions {
        let key = u32::from(u16::from_le_bytes([key_low, key_high]));
        let ones = u32::from(u16::from_le_bytes([ones_low, ones_high])) + 1;
        let structure = "Roaring container";
        let at = reader.offset();
        let damaged = |what: &str| Error::new(ErrorKind::Damaged, what).at(structure, at);
        if key < least_key {
            return Err(damaged("the keys of the containers are not in ascending order"));
        }
        least_key = key + 1;
        if offsets.next().is_some_and(|offset| offset != at - start) {
            return Err(damaged("the container is not where the header says"));
        }
        let base = u64::from(high) << 32 | u64::from(key) << 16;
        if base >= granules {
            return Err(damaged("the container is past the end of the disk"));
        }
        let Room { list, words, runs, packer } = &mut *room;
        let view = if flags.next().unwrap_or(false) {
            read_runs(reader, runs, structure)?
        } else if ones as usize <= ARRAY_MAX {
            read_array(reader, ones, list, structure)?
        } else {
            read_bits(reader, words, structure)?
        };
        if view.ones() != ones {
            return Err(damaged("the container does not hold as many values as its description says"));
        }
        let last = if granules - base >= u64::from(CHUNK) { None } else { view.runs(Run::WHOLE).next_back() };
        if last.is_some_and(|run| base + u64::from(run.last) >= granules) {
            return Err(damaged("a value is past the end of the disk"));
        }
        if view.form() == Plain::smallest(ones, view.run_count()).into() {
            directory.push(high * GROUP + key, ones, packer.pack(view));
        } else {
            let mut container = Container::copy(view, ones);
            container.optimize();
            directory.push(high * GROUP + key, ones, packer.pack(container.view()));
        }
    }
    if flags.any(|flag| flag) {
        return Err(Error::new(ErrorKind::Damaged, "a run flag belongs to no container").at(header, start));
    }
    Ok(())
}

/// Where one container at a time is read to.
struct Room {
    list: Vec<u16>,
    words: Box<Words>,
    runs: Vec<Pair>,
    packer: Packer,
}

fn read_array<'r>(reader: &mut Reader<'_>, ones: u32, list: &'r mut Vec<u16>, structure: &str) -> Result<View<'r>> {
    let at = reader.offset();
    list.clear();
    list.extend(reader.list(ones, structure)?.iter().map(|&bytes| u16::from_le_bytes(bytes)));
    if !(select().is_ascending)(list) {
        return Err(Error::new(ErrorKind::Damaged, "the values are not in ascending order").at(structure, at));
    }
    Ok(View::Array(list))
}

fn read_bits<'r>(reader: &mut Reader<'_>, words: &'r mut Words, structure: &str) -> Result<View<'r>> {
    let bytes = reader.take(size_of::<Words>(), structure)?.as_chunks().0;
    words.iter_mut().zip(bytes).for_each(|(word, &bytes)| *word = u64::from_le_bytes(bytes));
    Ok(View::Words(words))
}

fn read_runs<'r>(reader: &mut Reader<'_>, runs: &'r mut Vec<Pair>, structure: &str) -> Result<View<'r>> {
    let at = reader.offset();
    let damaged = |what: &str| Error::new(ErrorKind::Damaged, what).at(structure, at);
    let count = u16::from_le_bytes(reader.array(structure)?);
    runs.clear();
    let mut least_first = 0;
    for &[first_low, first_high, more_low, more_high] in reader.list::<4>(count.into(), structure)? {
        let first = u16::from_le_bytes([first_low, first_high]);
        let more = u16::from_le_bytes([more_low, more_high]);
        let last = first.checked_add(more).ok_or_else(|| damaged("a run reaches past its container"))?;
        if u32::from(first) < least_first {
            return Err(damaged("the runs overlap, touch or are not in ascending order"));
        }
        least_first = u32::from(last) + 2;
        runs.push([first, last]);
    }
    Ok(View::Runs(runs))
}
