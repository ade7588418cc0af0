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
    ARRAY_MAX, CHUNK, Container, Form as Held, Packer, Pair, Plain, Run, View, Words, no_words, to_u16,
};
use super::directory::{Directory, Entry};
use crate::error::{Error, ErrorKind, Result};
use crate::geometry::Granularity;
use crate::kernels::select;
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
        let mut out = Vec::with_capacity(usize::try_from(serialized_len(&groups)).unwrap_or(0));
        out.extend_from_slice(&(groups.len() as u64).to_le_bytes());
        for group in &groups {
            out.extend_from_slice(&group.high.to_le_bytes());
            group.write_header(&mut out);
            group.pieces.iter().for_each(|piece| (0..piece.chunks).for_each(|_| piece.write_body(&mut out)));
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
            buffer.extend_from_slice(&group.high.to_le_bytes());
            group.write_header(&mut buffer);
            for piece in &group.pieces {
                for _ in 0..piece.chunks {
                    piece.write_body(&mut buffer);
                    if buffer.len() >= WRITE_BYTES {
                        out.write_all(&buffer)?;
                        buffer.clear();
                    }
                }
            }
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

/// How a container is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Array,
    Bits,
    Runs(u32),
}

/// One chunk to write, or consecutive full ones.
struct Piece<'a> {
    /// The chunk's index in its group.
    key: u32,
    chunks: u32,
    view: View<'a>,
    ones: u32,
    form: Form,
}

impl<'a> Piece<'a> {
    fn new(key: u32, chunks: u32, directory: &'a Directory, entry: &'a Entry) -> Self {
        let (view, ones) = (directory.view(entry), entry.ones_of_chunk());
        let (plain, plain_bytes) =
            if ones as usize <= ARRAY_MAX { (Form::Array, 2 * ones) } else { (Form::Bits, 8192) };
        let form = match view.form() {
            Held::Array if entry.is_smallest() => Form::Array,
            Held::Words if entry.is_smallest() => Form::Bits,
            _ => {
                let runs = view.run_count();
                if 2 + 4 * runs < plain_bytes { Form::Runs(runs) } else { plain }
            }
        };
        Self { key, chunks, view, ones, form }
    }

    /// The bytes of one of the chunks.
    fn body_len(&self) -> u32 {
        match self.form {
            Form::Array => 2 * self.ones,
            Form::Bits => 8192,
            Form::Runs(runs) => 2 + 4 * runs,
        }
    }

    fn write_body(&self, out: &mut Vec<u8>) {
        let runs = || self.view.runs(Run::WHOLE);
        match (self.form, self.view) {
            (Form::Array, View::Array(array)) => write_list(array, out),
            (Form::Array, _) => {
                runs().flat_map(|run| run.first..=run.last).for_each(|bit| out.extend(bit.to_le_bytes()));
            }
            (Form::Bits, view) => write_words(&view.words(), out),
            (Form::Runs(count), View::Runs(pairs)) => {
                out.extend(to_u16(count).to_le_bytes());
                append(out, pairs, |&[first, last]| {
                    let (first, more) = (u32::from(first), u32::from(last.wrapping_sub(first)));
                    (more << 16 | first).to_le_bytes()
                });
            }
            (Form::Runs(count), _) => {
                out.extend(to_u16(count).to_le_bytes());
                for run in runs() {
                    out.extend(run.first.to_le_bytes());
                    out.extend((run.last - run.first).to_le_bytes());
                }
            }
        }
    }
}

#[cfg(target_endian = "little")]
fn write_list(list: &[u16], out: &mut Vec<u8>) {
    out.extend_from_slice(bytemuck::cast_slice(list));
}

#[cfg(target_endian = "big")]
fn write_list(list: &[u16], out: &mut Vec<u8>) {
    append(out, list, |bit| bit.to_le_bytes());
}

#[cfg(target_endian = "little")]
fn write_words(words: &Words, out: &mut Vec<u8>) {
    out.extend_from_slice(bytemuck::cast_slice(words));
}

#[cfg(target_endian = "big")]
fn write_words(words: &Words, out: &mut Vec<u8>) {
    append(out, words, |word| word.to_le_bytes());
}

/// The chunks whose granules share their high 32 bits: one 32-bit bitmap.
struct Group<'a> {
    high: u32,
    pieces: Vec<Piece<'a>>,
}

impl Group<'_> {
    fn containers(&self) -> u32 {
        self.pieces.iter().map(|piece| piece.chunks).sum()
    }

    fn has_runs(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece.form, Form::Runs(_)))
    }

    fn header_len(&self) -> u64 {
        let containers = u64::from(self.containers());
        if !self.has_runs() {
            return 8 + 8 * containers;
        }
        let offsets = if containers < u64::from(OFFSETS_FROM) { 0 } else { 4 * containers };
        4 + containers.div_ceil(8) + 4 * containers + offsets
    }

    fn body_len(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.chunks) * u64::from(piece.body_len())).sum()
    }

    fn write_header(&self, out: &mut Vec<u8>) {
        let (containers, has_runs) = (self.containers(), self.has_runs());
        let mut offset = self.header_len();
        if has_runs {
            out.extend((u32::from(COOKIE_WITH_RUNS) | (containers - 1) << 16).to_le_bytes());
            let mut flags = vec![0u8; containers.div_ceil(8) as usize];
            let mut index = 0;
            for piece in &self.pieces {
                let next = index + piece.chunks as usize;
                if matches!(piece.form, Form::Runs(_)) {
                    for index in index..next {
                        if let Some(byte) = flags.get_mut(index / 8) {
                            *byte |= 1 << (index % 8);
                        }
                    }
                }
                index = next;
            }
            out.extend(flags);
        } else {
            out.extend(COOKIE_WITHOUT_RUNS.to_le_bytes());
            out.extend(containers.to_le_bytes());
        }
        out.reserve(8 * containers as usize);
        for piece in &self.pieces {
            for key in piece.key..piece.key + piece.chunks {
                out.extend_from_slice(&(key | (piece.ones - 1) << 16).to_le_bytes());
            }
        }
        if has_runs && containers < OFFSETS_FROM {
            return;
        }
        for piece in &self.pieces {
            for _ in 0..piece.chunks {
                #[allow(clippy::cast_possible_truncation, reason = "65536 containers take less than 2^30 bytes")]
                out.extend_from_slice(&(offset as u32).to_le_bytes());
                offset += u64::from(piece.body_len());
            }
        }
    }
}

fn groups(directory: &Directory) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for entry in directory.entries() {
        let mut from = entry.key;
        while from < entry.end() {
            let high = from / GROUP;
            let to = entry.end().min((high + 1) * GROUP);
            let piece = Piece::new(from - high * GROUP, to - from, directory, entry);
            from = to;
            match groups.last_mut() {
                Some(group) if group.high == high => group.pieces.push(piece),
                _ => {
                    let entries = directory.places(high * GROUP, (high + 1) * GROUP).len();
                    let mut pieces = Vec::with_capacity(entries);
                    pieces.push(piece);
                    groups.push(Group { high, pieces });
                }
            }
        }
    }
    groups
}

fn serialized_len(groups: &[Group<'_>]) -> u64 {
    8 + groups.iter().map(|group| 4 + group.header_len() + group.body_len()).sum::<u64>()
}

/// Appends what `bytes` makes of each item.
fn append<T, const N: usize>(out: &mut Vec<u8>, items: &[T], bytes: impl Fn(&T) -> [u8; N]) {
    let from = out.len();
    out.resize(from + items.len() * N, 0);
    let room = out.get_mut(from..).unwrap_or_default().as_chunks_mut::<N>().0;
    room.iter_mut().zip(items).for_each(|(to, item)| *to = bytes(item));
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
