//! Seeded damage to bytes: what a fuzzer does, repeatable on stable Rust.

use super::random::Random;

/// Big-endian integers that are on the border of something.
const INTERESTING: &[u64] = &[
    0,
    1,
    2,
    7,
    8,
    0xff,
    0x1ff,
    0x200,
    0x1000,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    1 << 55,
    1 << 56,
    1 << 62,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 511,
    u64::MAX,
];

/// A copy of `seed` with one to eight things wrong with it; `other` gives bytes to splice in.
pub fn mutate(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=random.below(8) {
        mutate_once(&mut bytes, other, random);
    }
    bytes
}

fn mutate_once(bytes: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    if bytes.is_empty() {
        bytes.push(0);
    }
    match random.below(12) {
        0 | 1 => {
            let at = random.index(bytes.len());
            bytes[at] ^= 1 << random.below(8);
        }
        2 => {
            let at = random.index(bytes.len());
            bytes[at] = random.next().to_le_bytes()[0];
        }
        3..=6 => splice_integer(bytes, random),
        7 => swap_words(bytes, random),
        8 => {
            let len = random.index(bytes.len());
            bytes.truncate(len);
        }
        9 => duplicate(bytes, random),
        10 => {
            let start = random.index(bytes.len());
            let end = (start + 1 + random.index(64)).min(bytes.len());
            bytes.drain(start..end);
        }
        _ => overwrite(bytes, other, random),
    }
}

/// Puts a whole field somewhere: a border value, its neighbour, or the offset of something in the file.
fn splice_integer(bytes: &mut [u8], random: &mut Random) {
    let width = *random.pick(&[1, 2, 4, 8, 8]);
    let value = match random.below(4) {
        0 => random.below(bytes.len() as u64 * 2),
        // Tables, blocks and data of the seeds stand at multiples of 512.
        1 => random.below(bytes.len() as u64 / 512 + 4) * 512,
        2 => *random.pick(INTERESTING),
        _ => random.pick(INTERESTING).wrapping_add(random.below(3)).wrapping_sub(1),
    };
    if bytes.len() < width {
        return;
    }
    // Fields are aligned to their width, and most of them stand in the first bytes.
    let slots = bytes.len() / width;
    let slot = if random.chance(2) { random.index(slots) } else { random.index(slots.min(256 / width)) };
    bytes[slot * width..(slot + 1) * width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
}

/// Lets two fields of eight bytes change places, so that one table points where another should.
fn swap_words(bytes: &mut [u8], random: &mut Random) {
    let words = bytes.len() / 8;
    if words < 2 {
        return;
    }
    let (one, two) = (random.index(words), random.index(words));
    for byte in 0..8 {
        bytes.swap(one * 8 + byte, two * 8 + byte);
    }
}

fn duplicate(bytes: &mut Vec<u8>, random: &mut Random) {
    let start = random.index(bytes.len());
    let end = (start + 1 + random.index(600)).min(bytes.len());
    let piece = bytes[start..end].to_vec();
    let at = random.index(bytes.len());
    bytes.splice(at..at, piece);
}

fn overwrite(bytes: &mut [u8], other: &[u8], random: &mut Random) {
    if other.is_empty() {
        return;
    }
    let from = random.index(other.len());
    let at = random.index(bytes.len());
    let len = (1 + random.index(512)).min(other.len() - from).min(bytes.len() - at);
    bytes[at..at + len].copy_from_slice(&other[from..from + len]);
}
