#![forbid(unsafe_code)]
//! Owns the portable 64-bit Roaring format: what a bitmap is as bytes, and the reading of bytes from anywhere. Must never
//! trust a byte it reads, nor know where the bytes are kept.
//!
//! The format is that of RoaringFormatSpec: a 64-bit count of 32-bit bitmaps, then each as its high 32 bits and a portable
//! 32-bit Roaring bitmap, all little-endian. The values are the indices of the dirty granules; neither the size of the disk
//! nor the granularity is part of it.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use super::Bitmap;
use super::chunks::little_endian;
use super::container::{
    ARRAY_MAX, CHUNK, Form as Held, Made, Pair, Plain, RUNS_MAX, Run, View, Words, Workspace, no_words, small, to_u16,
};
use super::directory::{Directory, Packed};
use super::entry::Entry;
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::kernels::{BLOCK, Kernels, Measure, ROOM, RUN_BLOCK, RunBlock, select};
use crate::memory;
use std::borrow::Cow;
use std::convert::Infallible;
use std::io::{self, Write};

const COOKIE_WITHOUT_RUNS: u32 = 12346;
const COOKIE_WITH_RUNS: u16 = 12347;

/// A bitmap with run containers has offsets only from this many containers on.
const OFFSETS_FROM: u32 = 4;

/// A container of all values: one run, from the first on, of 65535 more.
const FULL_CHUNK: [u8; 6] = [1, 0, 0, 0, 0xff, 0xff];

/// The most containers of a 32-bit bitmap, and so the chunks that share their high 32 bits.
const GROUP: u32 = 1 << 16;

/// The fewest bytes of a 32-bit bitmap inside of a 64-bit one, with its high key.
const LEAST_GROUP: u64 = 12;

/// Output gathers to about this many bytes between two writes.
const WRITE_BYTES: usize = 1 << 16;
const MOST_GATHERED: usize = WRITE_BYTES + 2 * STAGE;

impl Bitmap {
    /// The number of bytes that [`Bitmap::write_roaring`] writes.
    pub fn serialized_len(&self) -> u64 {
        let len = |high| Group::counted(&self.directory, high).len();
        8 + highs(&self.directory).map(len).sum::<u64>()
    }

    /// The bytes that [`Bitmap::write_roaring`] writes.
    pub fn to_roaring(&self) -> Result<Vec<u8>> {
        let mut groups = Vec::new();
        for high in highs(&self.directory) {
            memory::push(&mut groups, Group::with_parts(&self.directory, high)?)?;
        }
        let len = 8 + groups.iter().map(Group::len).sum::<u64>();
        let mut out = memory::room(usize::try_from(len).unwrap_or(usize::MAX))?;
        memory::prefer_huge_pages(&out);
        out.extend_from_slice(&(groups.len() as u64).to_le_bytes());
        for group in &groups {
            group.write_header(&mut out)?;
            let Ok(()) = group.write_bodies(&mut out, |_| Ok::<_, Infallible>(()));
        }
        Ok(out)
    }

    /// Writes the indices of the dirty granules as portable 64-bit Roaring, each container in its smallest form: equal
    /// bitmaps give equal bytes.
    ///
    /// Any error is that of `out`, or [`io::ErrorKind::OutOfMemory`].
    pub fn write_roaring(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(&(highs(&self.directory).count() as u64).to_le_bytes())?;
        let mut buffer = Vec::new();
        for high in highs(&self.directory) {
            let group = Group::with_parts(&self.directory, high)?;
            group.write_header(&mut buffer)?;
            // What gathers before it is written, and one container more.
            let most = usize::try_from(group.totals.body_len).map_or(MOST_GATHERED, |len| len.min(MOST_GATHERED));
            buffer.try_reserve_exact(most)?;
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

    /// Reads portable Roaring, as [`Bitmap::write_roaring`] and other Roaring libraries write it: of 64 bits, or of 32 bits.
    ///
    /// The bytes may come from anywhere. Bytes that break the format, a granule past the end of the disk, and bytes left
    /// over are [`ErrorKind::Damaged`], with the structure and its offset in `bytes`; the memory taken is at most a small
    /// multiple of `bytes`. A disk that [`Bitmap::new`] would refuse is [`ErrorKind::InvalidArgument`].
    pub fn from_roaring(bytes: &[u8], size_bytes: u64, granularity: Granularity) -> Result<Self> {
        let mut bitmap = Self::new(size_bytes, granularity)?;
        let granules = bitmap.granules();
        let mut reader = Reader { total: bytes.len(), rest: bytes };
        let mut room = ContainerBuffers::new()?;
        if is_narrow(bytes) {
            read_group(&mut reader, &mut room, 0, granules, &mut bitmap.directory)?;
        } else {
            read_groups(&mut reader, &mut room, granules, &mut bitmap.directory)?;
        }
        if !reader.rest.is_empty() {
            return Err(reader.damaged("Roaring bitmap", "bytes follow the last container"));
        }
        bitmap.directory.shrink();
        Ok(bitmap)
    }
}

/// Whether these bytes are a 32-bit bitmap by itself: they begin with one of its cookies, and are too few for as many 32-bit
/// bitmaps as they announce otherwise.
fn is_narrow(bytes: &[u8]) -> bool {
    let Some((count, rest)) = bytes.split_first_chunk::<8>() else { return false };
    let &[a, b, c, d, ..] = count;
    let cookie = u32::from_le_bytes([a, b, c, d]);
    let is_cookie = cookie == COOKIE_WITHOUT_RUNS || cookie & 0xffff == u32::from(COOKIE_WITH_RUNS);
    is_cookie && u64::from_le_bytes(*count) > rest.len() as u64 / LEAST_GROUP
}

/// Reads the 32-bit bitmaps of a 64-bit one.
fn read_groups(
    reader: &mut Reader<'_>,
    room: &mut ContainerBuffers,
    granules: u64,
    directory: &mut Directory,
) -> Result<()> {
    let count = u64::from_le_bytes(reader.array("Roaring header")?);
    let mut least_high = 0;
    for _ in 0..count {
        let at = reader.offset();
        let high = u32::from_le_bytes(reader.array("Roaring high key")?);
        if u64::from(high) < least_high {
            let message = "the high keys are not in ascending order";
            return Err(Error::new(ErrorKind::Damaged, message).at("Roaring high key", at));
        }
        least_high = u64::from(high) + 1;
        read_group(reader, room, high, granules, directory)?;
    }
    Ok(())
}

/// A container in the making.
#[derive(Clone, Copy, Default)]
struct Part {
    /// As the header has it: the key, and above it the number of values, less one.
    description: u32,
    len: u16,
    /// Whether it is written as runs, which is only where they are smaller than anything else.
    is_runs: bool,
}

impl Part {
    /// The container of an entry, or the first of those in a group.
    #[inline(always)]
    fn new(entry: &Entry, high: u32) -> Self {
        let ones = entry.ones_of_chunk();
        let of_runs = |runs: u32| {
            let (as_runs, as_others) = (2 + 4 * runs, if ones as usize <= ARRAY_MAX { 2 * ones } else { 8192 });
            (as_runs.min(as_others), as_runs < as_others)
        };
        let (len, is_runs) = match entry.packed_form() {
            Some(Held::Array) => (2 * ones, false),
            Some(Held::Words) => (8192, false),
            _ => of_runs(entry.runs_of_chunk()),
        };
        // Full chunks may have begun in a group before.
        let key = entry.key.max(high * GROUP) % GROUP;
        Self { description: (ones - 1) << 16 | key, len: to_u16(len), is_runs }
    }

    fn ones(self) -> u32 {
        (self.description >> 16) + 1
    }

    fn runs(self) -> u16 {
        self.len / 4
    }
}

/// A list of at most this many positions is copied as a block of this length, with the bytes that follow it.
const SHORT: usize = BLOCK;

/// A stage where short pieces gather, so that they are copied in blocks, with any bytes at the end of the last: a copy of any few
/// bytes costs far more.
struct Stage {
    bytes: [u8; STAGE],
    filled: usize,
    kernels: &'static Kernels,
}

/// Where a container comes to lie in another form than the bitmap has it in.
struct Forms {
    words: Words,
    list: [u16; ARRAY_MAX + ROOM],
    runs: [Pair; RUNS_MAX + ROOM],
}

impl Forms {
    fn new() -> Self {
        Self { words: [0; _], list: [0; _], runs: [[0, 0]; _] }
    }
}

/// The bytes of the stage, which has room for any runs: the first cache holds it beside the bytes that are read.
const STAGE: usize = 2 + size_of::<[Pair; RUNS_MAX]>() + size_of::<RunBlock>();

impl Stage {
    fn new() -> Self {
        Self { bytes: [0; STAGE], filled: 0, kernels: select() }
    }

    #[inline(always)]
    fn flush(&mut self, out: &mut Vec<u8>) {
        if self.filled > 0 {
            out.extend_from_slice(self.bytes.get(..self.filled).unwrap_or_default());
            self.filled = 0;
        }
    }

    /// Adds one container, or writes it past the stage.
    #[inline(always)]
    fn add_part(
        &mut self,
        directory: &Directory,
        entry: &Entry,
        part: Part,
        room: &mut Option<Forms>,
        out: &mut Vec<u8>,
    ) {
        let is_staged = match directory.packed(entry) {
            Some(Packed::Runs(runs)) if part.is_runs => self.add_runs(runs, part.runs(), out),
            Some(Packed::List(list)) if part.ones() as usize <= SHORT => self.add_short(list, part.ones(), out),
            _ => false,
        };
        if !is_staged {
            self.add_view(directory.view(entry), part, room, out);
        }
    }

    /// Adds one container in any form. The room is made by the first one that needs it: to clear it costs more than to write a
    /// small bitmap.
    #[inline(never)]
    fn add_view(&mut self, view: View<'_>, part: Part, room: &mut Option<Forms>, out: &mut Vec<u8>) {
        let is_list = !part.is_runs && part.ones() as usize <= ARRAY_MAX;
        match view {
            View::Array(list) if is_list => self.write_list(list, out),
            View::Words(words) if !part.is_runs && !is_list => self.write_words(words, out),
            View::Runs(list) if part.is_runs => {
                let Forms { runs, .. } = room.get_or_insert_with(Forms::new);
                runs.iter_mut().zip(list).for_each(|(to, from)| *to = *from);
                self.add_runs(runs, part.runs(), out);
            }
            _ => {
                let Forms { words, list, runs } = room.get_or_insert_with(Forms::new);
                view.copy_to(words);
                if part.is_runs {
                    (self.kernels.runs)(words, runs);
                    self.add_runs(runs, part.runs(), out);
                } else if is_list {
                    let count = (self.kernels.positions)(words, list);
                    self.write_list(list.get(..count).unwrap_or_default(), out);
                } else {
                    self.write_words(words, out);
                }
            }
        }
    }

    /// Writes a list past the stage.
    fn write_list(&mut self, list: &[u16], out: &mut Vec<u8>) {
        self.flush(out);
        out.extend_from_slice(&little_endian(list, |bit| bit.to_le_bytes()));
    }

    /// Writes words past the stage.
    fn write_words(&mut self, words: &Words, out: &mut Vec<u8>) {
        self.flush(out);
        out.extend_from_slice(&little_endian(&words[..], |word| word.to_le_bytes()));
    }

    /// Makes room for a number of bytes, before they are read: else they would wait on the stack for the flush.
    #[inline(always)]
    fn prepare(&mut self, len: usize, out: &mut Vec<u8>) {
        if self.filled + len > STAGE {
            self.flush(out);
        }
    }

    /// Adds the first `len` of `bytes`, for all of which there is room.
    #[inline(always)]
    fn add<const N: usize>(&mut self, bytes: [u8; N], len: usize) {
        if let Some(place) = self.bytes.get_mut(self.filled..).and_then(<[u8]>::first_chunk_mut) {
            *place = bytes;
            self.filled += len;
        }
    }

    /// Adds the first `count` positions of a list, no more than a block, if whatever follows them fills one; whether it did.
    #[inline(always)]
    fn add_short(&mut self, list: &[u16], count: u32, out: &mut Vec<u8>) -> bool {
        let Some(block) = list.first_chunk::<SHORT>().filter(|_| cfg!(target_endian = "little")) else { return false };
        self.prepare(2 * SHORT, out);
        self.add::<{ 2 * SHORT }>(bytemuck::cast(*block), 2 * count as usize);
        true
    }

    /// Adds the number and the first `count` of some runs, if whatever follows them fills the last block; whether it did.
    #[inline(always)]
    fn add_runs(&mut self, runs: &[Pair], count: u16, out: &mut Vec<u8>) -> bool {
        let Some(blocks) = runs.as_chunks().0.get(..usize::from(count).div_ceil(RUN_BLOCK)) else { return false };
        self.prepare(2 + size_of_val(blocks), out);
        self.add(count.to_le_bytes(), 2);
        let room = self.bytes.get_mut(self.filled..).unwrap_or_default().as_chunks_mut().0;
        (self.kernels.save_runs)(blocks, room);
        self.filled += size_of::<Pair>() * usize::from(count);
        true
    }
}

/// The chunks whose granules share their high 32 bits: one 32-bit bitmap.
struct Group<'a> {
    directory: &'a Directory,
    high: u32,
    entries: &'a [Entry],
    /// One for each entry.
    parts: Vec<Part>,
    totals: Totals,
}

/// What the containers of a group come to.
#[derive(Clone, Copy, Default)]
struct Totals {
    containers: u32,
    has_runs: bool,
    body_len: u64,
}

impl Totals {
    #[inline(always)]
    fn with(self, entry: &Entry, part: Part, high: u32) -> Self {
        let chunks = chunks_within(entry, high);
        let body_len = self.body_len + u64::from(chunks) * u64::from(part.len);
        Self { containers: self.containers + chunks, has_runs: self.has_runs | part.is_runs, body_len }
    }
}

impl<'a> Group<'a> {
    /// Without its parts, which are only counted.
    fn counted(directory: &'a Directory, high: u32) -> Self {
        let entries = directory.within(high * GROUP, (high + 1) * GROUP);
        let add = |sum: Totals, entry| sum.with(entry, Part::new(entry, high), high);
        Self { directory, high, entries, parts: Vec::new(), totals: entries.iter().fold(Totals::default(), add) }
    }

    fn with_parts(directory: &'a Directory, high: u32) -> memory::Result<Self> {
        let entries = directory.within(high * GROUP, (high + 1) * GROUP);
        let (mut parts, mut totals) = (memory::room(entries.len())?, Totals::default());
        parts.resize(entries.len(), Part::default());
        for (entry, place) in entries.iter().zip(&mut parts) {
            *place = Part::new(entry, high);
            totals = totals.with(entry, *place, high);
        }
        Ok(Self { directory, high, entries, parts, totals })
    }

    /// One for each container.
    fn all_parts(&self) -> memory::Result<Cow<'_, [Part]>> {
        if self.parts.len() == self.totals.containers as usize {
            return Ok(Cow::Borrowed(&self.parts));
        }
        let mut all = memory::room(self.totals.containers as usize)?;
        for (entry, part) in self.entries.iter().zip(&self.parts) {
            let alike = |n| Part { description: part.description + n, ..*part };
            all.extend((0..chunks_within(entry, self.high)).map(alike));
        }
        Ok(Cow::Owned(all))
    }

    /// Writes the containers, and calls `next` after each.
    #[inline(never)]
    fn write_bodies<E>(
        &self,
        out: &mut Vec<u8>,
        mut next: impl FnMut(&mut Vec<u8>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (mut stage, mut room) = (Stage::new(), None);
        for (entry, part) in self.entries.iter().zip(&self.parts) {
            if !entry.is_full() {
                stage.add_part(self.directory, entry, *part, &mut room, out);
                next(out)?;
                continue;
            }
            stage.flush(out);
            let mut left = chunks_within(entry, self.high) as usize;
            while left > 0 {
                let some = left.min(STAGE / FULL_CHUNK.len());
                let start = out.len();
                out.resize(start + some * FULL_CHUNK.len(), 0);
                out.get_mut(start..).unwrap_or_default().as_chunks_mut().0.fill(FULL_CHUNK);
                left -= some;
                next(out)?;
            }
        }
        stage.flush(out);
        Ok(())
    }

    fn len(&self) -> u64 {
        4 + self.header_len() + self.totals.body_len
    }

    fn header_len(&self) -> u64 {
        let containers = u64::from(self.totals.containers);
        if !self.totals.has_runs {
            return 8 + 8 * containers;
        }
        let offsets = if self.has_offsets() { 4 * containers } else { 0 };
        4 + containers.div_ceil(8) + 4 * containers + offsets
    }

    fn has_offsets(&self) -> bool {
        !self.totals.has_runs || self.totals.containers >= OFFSETS_FROM
    }

    #[inline(never)]
    fn write_header(&self, out: &mut Vec<u8>) -> memory::Result<()> {
        let parts = self.all_parts()?;
        let len = usize::try_from(4 + self.header_len()).unwrap_or(usize::MAX);
        if out.capacity() - out.len() < len {
            out.try_reserve_exact(len)?;
        }
        out.extend_from_slice(&self.high.to_le_bytes());
        if self.totals.has_runs {
            out.extend_from_slice(&(u32::from(COOKIE_WITH_RUNS) | (self.totals.containers - 1) << 16).to_le_bytes());
            let flag = |(bit, part): (usize, &Part)| u8::from(part.is_runs) << bit;
            out.extend(parts.chunks(8).map(|parts| parts.iter().enumerate().map(flag).sum::<u8>()));
        } else {
            out.extend_from_slice(&COOKIE_WITHOUT_RUNS.to_le_bytes());
            out.extend_from_slice(&self.totals.containers.to_le_bytes());
        }
        let start = out.len();
        out.resize(start + 4 * parts.len() * (1 + usize::from(self.has_offsets())), 0);
        let room = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<4>().0;
        let (descriptions, offsets) = room.split_at_mut(parts.len());
        for (place, part) in descriptions.iter_mut().zip(&*parts) {
            *place = part.description.to_le_bytes();
        }
        #[allow(clippy::cast_possible_truncation, reason = "65536 containers take less than 2^30 bytes")]
        let mut offset = self.header_len() as u32;
        for (place, part) in offsets.iter_mut().zip(&*parts) {
            *place = offset.to_le_bytes();
            offset += u32::from(part.len);
        }
        Ok(())
    }
}

/// How many chunks of an entry lie in a group.
#[inline(always)]
fn chunks_within(entry: &Entry, high: u32) -> u32 {
    if entry.is_full() { entry.end().min((high + 1) * GROUP) - entry.key.max(high * GROUP) } else { 1 }
}

/// The high 32 bits of the granules that are dirty.
fn highs(directory: &Directory) -> impl Iterator<Item = u32> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let entry = directory.entries().get(directory.place(next * GROUP)..)?.first()?;
        let high = next.max(entry.key / GROUP);
        next = high + 1;
        Some(high)
    })
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
    room: &mut ContainerBuffers,
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
        return Err(past_end("the key").at("Roaring high key", start.saturating_sub(4)));
    }
    let has_runs = cookie != COOKIE_WITHOUT_RUNS;
    let descriptions = reader.list::<4>(count, "Roaring container descriptions")?;
    let has_offsets = !has_runs || count >= OFFSETS_FROM;
    let offsets = reader.list::<4>(if has_offsets { count } else { 0 }, "Roaring container offsets")?;
    let mut offsets = offsets.iter().map(|&bytes| u64::from(u32::from_le_bytes(bytes)));
    let is_flagged = |index: usize| flags.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
    if directory.entries().is_empty() {
        *directory = Directory::with_capacity(descriptions.len(), descriptions.len(), reader.rest.len())?;
    }
    let (mut least_key, kernels) = (0, select());
    for (index, &[key_low, key_high, ones_low, ones_high]) in descriptions.iter().enumerate() {
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
            return Err(past_end("the container").at(structure, at));
        }
        let (workspace, is_last) = (&mut room.workspace, granules - base < u64::from(CHUNK));
        if is_flagged(index)
            && !is_last
            && ones == CHUNK
            && let Some(rest) = reader.rest.strip_prefix(&FULL_CHUNK)
        {
            reader.rest = rest;
            directory.push_full(high * GROUP + key, 1)?;
            continue;
        }
        if !is_flagged(index)
            && !is_last
            && let Some((items, runs)) = short_list(reader.rest, ones, kernels)
        {
            reader.rest = reader.rest.get(2 * ones as usize..).unwrap_or_default();
            directory.push_short(high * GROUP + key, Measure { ones, runs }, items)?;
            continue;
        }
        let (view, measure) = if is_flagged(index) {
            let (runs, ones) = read_runs(reader, &mut room.runs, structure)?;
            (View::Runs(runs), Measure { ones, runs: small(runs.len()) })
        } else if ones as usize <= ARRAY_MAX {
            let (list, runs) = read_array(reader, ones, &mut room.list, structure)?;
            (View::Array(list), Measure { ones, runs: small(runs) })
        } else {
            let words = read_bits(reader, &mut room.words, structure)?;
            (View::Words(words), (select().measure)(words))
        };
        if measure.ones != ones {
            return Err(damaged("the container does not hold as many values as its description says"));
        }
        let last = if is_last { view.runs(Run::WHOLE).next_back() } else { None };
        if last.is_some_and(|run| base + u64::from(run.last) >= granules) {
            return Err(past_end("a value").at(structure, at));
        }
        let Made { view, measure } = workspace.smallest_of_view(view, measure)?;
        directory.push(high * GROUP + key, measure, view)?;
    }
    if (descriptions.len()..8 * flags.len()).any(is_flagged) {
        return Err(Error::new(ErrorKind::Damaged, "a run flag belongs to no container").at(header, start));
    }
    Ok(())
}

/// A value past the disk's end, which may as well be the wrong disk.
fn past_end(what: &str) -> Error {
    let message = format!("{what} is past the end of the disk");
    Error::new(ErrorKind::Damaged, message)
        .advise("the values are the indices of granules: look whether size and granularity are those of the disk")
}

/// Where one container at a time is read to, unless it can be looked at where it lies.
struct ContainerBuffers {
    list: Vec<u16>,
    words: Box<Words>,
    runs: Vec<Pair>,
    workspace: Workspace,
}

impl ContainerBuffers {
    fn new() -> Result<Self> {
        Ok(Self { list: Vec::new(), words: no_words()?, runs: Vec::new(), workspace: Workspace::new() })
    }
}

/// The items of a short list with those behind it that fill a block, and the number of its runs. `None` if the list is longer than a
/// block, out of order, smaller as runs, misaligned or too near the end of the bytes.
#[inline(always)]
fn short_list<'b>(bytes: &'b [u8], ones: u32, kernels: &Kernels) -> Option<(&'b [u16; SHORT], u32)> {
    if cfg!(target_endian = "big") {
        return None;
    }
    let items: &[u16; SHORT] = bytemuck::try_from_bytes(bytes.get(..2 * SHORT)?).ok()?;
    let runs = small((kernels.ascending_runs)(items.get(..ones as usize)?)?);
    (Plain::smallest(ones, runs) == Plain::Array).then_some((items, runs))
}

/// The values of a list, and the number of their runs.
fn read_array<'r, 'b: 'r>(
    reader: &mut Reader<'b>,
    ones: u32,
    list: &'r mut Vec<u16>,
    structure: &str,
) -> Result<(&'r [u16], usize)> {
    let at = reader.offset();
    let bytes = reader.list(ones, structure)?;
    let list: &[u16] = match bytemuck::try_cast_slice(bytes.as_flattened()) {
        Ok(list) if cfg!(target_endian = "little") => list,
        _ => {
            list.clear();
            list.try_reserve(ones as usize)?;
            list.extend(bytes.iter().map(|&bytes| u16::from_le_bytes(bytes)));
            list
        }
    };
    match (select().ascending_runs)(list) {
        Some(runs) => Ok((list, runs)),
        None => Err(Error::new(ErrorKind::Damaged, "the values are not in ascending order").at(structure, at)),
    }
}

fn read_bits<'r, 'b: 'r>(reader: &mut Reader<'b>, words: &'r mut Words, structure: &str) -> Result<&'r Words> {
    let bytes = reader.take(size_of::<Words>(), structure)?;
    match bytemuck::try_from_bytes::<Words>(bytes) {
        Ok(words) if cfg!(target_endian = "little") => Ok(words),
        _ => {
            words.iter_mut().zip(bytes.as_chunks().0).for_each(|(word, &bytes)| *word = u64::from_le_bytes(bytes));
            Ok(words)
        }
    }
}

/// The runs of a container, and the number of their values.
fn read_runs<'r>(reader: &mut Reader<'_>, runs: &'r mut Vec<Pair>, structure: &str) -> Result<(&'r [Pair], u32)> {
    let at = reader.offset();
    let count = u16::from_le_bytes(reader.array(structure)?);
    let saved = reader.list(count.into(), structure)?;
    if runs.len() < saved.len() {
        memory::resize(runs, saved.len())?;
    }
    let runs = runs.get_mut(..saved.len()).unwrap_or_default();
    let ones = (select().load_runs)(saved, runs).ok_or_else(|| {
        let what = match runs.iter().any(|[first, last]| last < first) {
            true => "a run reaches past its container",
            false => "the runs overlap, touch or are not in ascending order",
        };
        Error::new(ErrorKind::Damaged, what).at(structure, at)
    })?;
    Ok((runs, ones))
}
