#![forbid(unsafe_code)]
//! Owns the form of a chunk that holds only the bytes that are not 0, and two levels of masks that say which they are, as
//! the kernels `pack` and `spread` make and read it. Knows nothing of chunk keys, disks or bytes of disks.
//!
//! At densities between 1 and 20 percent it is smaller than positions and words, and the time to unite it does not depend
//! on how many bits are set.

use super::{Form, Plain, View, Words, small, to_u16};
use crate::kernels::{Kernels, MASKS, Measure, SPARSE_ROOM, WORDS, select};
use crate::memory;
use std::num::NonZeroU16;

/// What takes fewer bytes than this in another form stays there: short lists are as quick to unite, and quicker to walk.
pub(crate) const LEAST: usize = 3072;

/// With more bits than these at random, few bytes are 0.
const MANY: u32 = 12_000;

/// Before all bytes of a full chunk are counted, those of some samples are: their number, the words of each, and how far apart
/// they begin, which no pattern of powers of two meets.
const SAMPLES: usize = 8;
const SAMPLE: usize = 8;
const APART: usize = (WORDS - SAMPLE) / (SAMPLES - 1);

/// Fewer empty bytes in the samples, one in 16, promise no saving.
const EMPTY_MIN: usize = SAMPLES * SAMPLE * size_of::<u64>() / 16;

/// The bits of a chunk.
const END: usize = 8 * 8 * 8 * MASKS;

/// Where packed chunks are kept.
#[derive(Clone, Copy, Debug)]
pub(in crate::bitmap) enum Keeper {
    /// Each operation packs anew, so what saves little costs more than it is worth.
    Memory,
    /// Files are written once, and their bytes must not depend on the CPU.
    Files,
}

impl Keeper {
    /// In memory this part of the smallest other form has to be saved.
    const SAVED_ONE_IN: usize = 16;

    /// A packed chunk has fewer bytes than this, where the smallest other form has `others` bytes.
    fn limit(self, others: usize) -> usize {
        match self {
            Self::Memory => others - others / Self::SAVED_ONE_IN,
            Self::Files => others,
        }
    }

    /// Whether samples tell that so few bytes are empty that packing saves too little. Files have all bytes looked at.
    fn finds_full(self, words: &Words) -> bool {
        let sample = |number| bytemuck::cast_slice::<u64, u8>(&words[number * APART..][..SAMPLE]);
        // Counted in 8 bits, so that as many bytes as fit are compared at once.
        let empty = |number| sample(number).iter().map(|&byte| u8::from(byte == 0)).sum::<u8>();
        match self {
            Self::Memory => (0..SAMPLES).map(|number| usize::from(empty(number))).sum::<usize>() < EMPTY_MIN,
            Self::Files => false,
        }
    }
}

/// The room for packed bytes; made when it is first needed.
#[derive(Debug)]
pub(super) struct PackedBytes {
    keeper: Keeper,
    room: Option<Box<[u64; SPARSE_ROOM / 8]>>,
}

impl PackedBytes {
    pub(super) fn new(keeper: Keeper) -> Self {
        Self { keeper, room: None }
    }

    /// Makes the room.
    pub(super) fn prepare(&mut self) -> memory::Result<()> {
        if self.room.is_none() {
            self.room = Some(memory::zeroed_box()?);
        }
        Ok(())
    }
}

/// A chunk in this form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sparse<'a> {
    pub(crate) bytes: &'a [u8],
    /// The number of its runs, where somebody has counted them.
    runs: Option<NonZeroU16>,
}

impl<'a> Sparse<'a> {
    pub(crate) fn uncounted(bytes: &'a [u8]) -> Self {
        Self { bytes, runs: None }
    }

    pub(in crate::bitmap) fn counted(bytes: &'a [u8], runs: u32) -> Self {
        Self { bytes, runs: u16::try_from(runs).ok().and_then(NonZeroU16::new) }
    }

    /// The number of its runs.
    pub(super) fn run_count(self) -> u32 {
        let count = || {
            let (kernels, mut words) = (select(), [0; 1024]);
            (kernels.unpack)(self.bytes, &mut words);
            (kernels.measure)(&words).runs
        };
        self.runs.map_or_else(count, |runs| runs.get().into())
    }
}

/// What `words` hold, which is `measure`, if it is smaller than in any other form by as much as its keeper wants.
pub(super) fn pack<'r>(
    kernels: &Kernels,
    words: &Words,
    Measure { ones, runs }: Measure,
    PackedBytes { keeper, room }: &'r mut PackedBytes,
) -> memory::Result<Option<Sparse<'r>>> {
    let Some(limit) = others(ones, runs).map(|others| keeper.limit(others)) else { return Ok(None) };
    // With these, mostly no byte is empty; to count is quicker than to pack.
    if ones > MANY && (keeper.finds_full(words) || (kernels.packed_len)(words) >= limit) {
        return Ok(None);
    }
    let room = match room {
        Some(room) => room,
        None => room.insert(memory::zeroed_box()?),
    };
    let room: &mut [u8] = bytemuck::cast_slice_mut(&mut room[..]);
    let len = (kernels.pack)(words, room);
    Ok((len < limit).then(|| Sparse::counted(&room[..len], runs)))
}

/// How many bytes [`pack`] makes of `words`, which hold `measure`, if it makes any.
pub(in crate::bitmap) fn packed_len(
    kernels: &Kernels,
    words: &Words,
    Measure { ones, runs }: Measure,
    keeper: Keeper,
) -> Option<usize> {
    let limit = keeper.limit(others(ones, runs)?);
    if ones > MANY && keeper.finds_full(words) {
        return None;
    }
    Some((kernels.packed_len)(words)).filter(|len| *len < limit)
}

/// Whether a packed chunk of `len` bytes that holds `ones` bits in `runs` runs is kept in this form.
pub(super) fn is_smallest(len: usize, ones: u32, runs: u32) -> bool {
    others(ones, runs).is_some_and(|others| len < others)
}

/// What a packed chunk must be smaller than: the bytes of the smallest other form, unless they are too few to pack.
fn others(ones: u32, runs: u32) -> Option<usize> {
    Some(Plain::smallest(ones, runs).bytes(ones, runs)).filter(|bytes| *bytes >= LEAST)
}

/// The number of bits before `end`, 0..=65536.
pub(super) fn count_before(kernels: &Kernels, bytes: &[u8], end: u32) -> u32 {
    let parts = Parts::new(kernels, bytes);
    let end = end as usize;
    match end {
        0 => return 0,
        END => return (kernels.byte_ones)(parts.bytes),
        _ => {}
    }
    let place = BytePosition::new(kernels, &parts, end / 8);
    let begun = place.byte(&parts).map_or(0, |byte| ones_below(byte, end % 8));
    (kernels.byte_ones)(&parts.bytes[..place.before]) + begun
}

pub(super) fn contains(kernels: &Kernels, bytes: &[u8], bit: u16) -> bool {
    if bit == u16::MAX {
        // The last bit of all is that of the last mask of each level and of the last byte.
        return bytes[MASKS - 1] >> 7 == 1 && {
            let Parts { lower, bytes, .. } = Parts::new(kernels, bytes);
            lower.last().is_some_and(|mask| mask >> 7 == 1) && bytes.last().is_some_and(|byte| byte >> 7 == 1)
        };
    }
    let parts = Parts::new(kernels, bytes);
    let place = BytePosition::new(kernels, &parts, usize::from(bit / 8));
    place.byte(&parts).is_some_and(|byte| byte >> (bit % 8) & 1 == 1)
}

/// The first set bit from `bit` on.
pub(super) fn next_set(kernels: &Kernels, bytes: &[u8], bit: u16) -> Option<u16> {
    let parts = Parts::new(kernels, bytes);
    let index = usize::from(bit / 8);
    let (group, of_upper) = (index / 8, index / 64);
    let masks = (kernels.byte_ones)(&parts.upper[..of_upper]) + ones_below(parts.upper[of_upper], group % 8);
    let (mut mask, mut byte) = (masks as usize, 0);
    byte += (kernels.byte_ones)(&parts.lower[..mask]) as usize;
    if parts.upper[of_upper] >> (group % 8) & 1 == 1 {
        let lower = parts.lower[mask];
        byte += ones_below(lower, index % 8) as usize;
        for place in (index % 8..8).filter(|place| lower >> place & 1 == 1) {
            // Bits before the first one count only in the first byte.
            let from = if place == index % 8 { bit % 8 } else { 0 };
            let rest = parts.bytes[byte] & (u8::MAX << from);
            if rest != 0 {
                return Some(position(8 * group + place, rest));
            }
            byte += 1;
        }
        mask += 1;
    }
    let later = (group + 1..8 * MASKS).find(|group| parts.upper[group / 8] >> (group % 8) & 1 == 1)?;
    let place = parts.lower[mask].trailing_zeros() as usize;
    Some(position(8 * later + place, parts.bytes[byte]))
}

/// The position of the lowest set bit of the byte `index` of the words.
fn position(index: usize, byte: u8) -> u16 {
    to_u16(small(8 * index) + byte.trailing_zeros())
}

/// The number of all bits.
pub(super) fn ones(kernels: &Kernels, bytes: &[u8]) -> u32 {
    (kernels.byte_ones)(Parts::new(kernels, bytes).bytes)
}

pub(super) fn validate(kernels: &Kernels, bytes: &[u8]) -> Result<(), &'static str> {
    const NO_MASKS: &str = "a sparse container has not all of its masks";
    let (upper, rest) = bytes.split_at_checked(MASKS).ok_or(NO_MASKS)?;
    let (lower, rest) = rest.split_at_checked((kernels.byte_ones)(upper) as usize).ok_or(NO_MASKS)?;
    if rest.len() != (kernels.byte_ones)(lower) as usize {
        return Err("a sparse container has not as many bytes as its masks say");
    }
    if lower.contains(&0) || rest.contains(&0) {
        return Err("a sparse container holds bytes that are 0");
    }
    Ok(())
}

/// The masks and the bytes they speak of.
struct Parts<'a> {
    upper: &'a [u8],
    lower: &'a [u8],
    bytes: &'a [u8],
}

impl<'a> Parts<'a> {
    fn new(kernels: &Kernels, bytes: &'a [u8]) -> Self {
        let (upper, rest) = bytes.split_at(MASKS);
        let (lower, bytes) = rest.split_at((kernels.byte_ones)(upper) as usize);
        Self { upper, lower, bytes }
    }
}

/// Where a byte of the words is, or would be.
struct BytePosition {
    /// How many bytes come before it.
    before: usize,
    is_there: bool,
}

impl BytePosition {
    /// Of byte `index` of the words.
    fn new(kernels: &Kernels, parts: &Parts<'_>, index: usize) -> Self {
        let (group, of_upper) = (index / 8, index / 64);
        let upper = parts.upper[of_upper];
        let masks = (kernels.byte_ones)(&parts.upper[..of_upper]) + ones_below(upper, group % 8);
        let lower = if upper >> (group % 8) & 1 == 1 { parts.lower[masks as usize] } else { 0 };
        let before = (kernels.byte_ones)(&parts.lower[..masks as usize]) + ones_below(lower, index % 8);
        Self { before: before as usize, is_there: lower >> (index % 8) & 1 == 1 }
    }

    fn byte(&self, parts: &Parts<'_>) -> Option<u8> {
        self.is_there.then(|| parts.bytes[self.before])
    }
}

/// The set bits of a byte below bit `end`.
fn ones_below(byte: u8, end: usize) -> u32 {
    (byte & ((1 << end) - 1)).count_ones()
}

/// Packs chunks that come in other forms.
#[derive(Debug)]
pub(in crate::bitmap) struct Packer {
    kernels: &'static Kernels,
    room: Option<PackedBytes>,
}

impl Default for Packer {
    fn default() -> Self {
        Self::new()
    }
}

impl Packer {
    /// Packs for memory: only if the kernels do it quickly.
    pub(in crate::bitmap) fn new() -> Self {
        let kernels = select();
        Self { kernels, room: kernels.traits.packs_quickly.then(|| PackedBytes::new(Keeper::Memory)) }
    }

    /// Packs for files, which must not depend on the CPU.
    pub(in crate::bitmap) fn for_files() -> Self {
        Self { kernels: select(), room: Some(PackedBytes::new(Keeper::Files)) }
    }

    /// Whether a packed chunk may stay packed.
    pub(in crate::bitmap) fn is_on(&self) -> bool {
        self.room.is_some()
    }

    /// What `view` holds, which is the smallest of the other forms or packed already, packed if that is smaller.
    pub(in crate::bitmap) fn pack<'r>(&'r mut self, view: View<'r>) -> memory::Result<View<'r>> {
        let bytes = view.bytes();
        match &mut self.room {
            Some(room) if bytes >= LEAST && view.form() != Form::Sparse => {
                let words = view.words();
                let measure = (self.kernels.measure)(&words);
                Ok(pack(self.kernels, &words, measure, room)?.map_or(view, View::Sparse))
            }
            _ => Ok(view),
        }
    }
}
