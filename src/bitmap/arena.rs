#![forbid(unsafe_code)]
//! Owns the memory into which the containers of a bitmap are packed: few large blocks instead of one allocation for each
//! chunk. Must never know which chunk a place belongs to.

use super::container::{Pair, View, Words};
use crate::kernels::{BLOCK, select};
use crate::memory::{self, Result};

/// The words of what the kernel `block` makes.
const BLOCK_WORDS: usize = BLOCK / 4;

/// The words of the first block where nothing is known.
const FIRST: usize = 64;

/// The words of the largest block: as much as allocators keep for the next one when it is freed, instead of giving it back to
/// the system, whose fresh pages cost more than a union.
const LARGEST: usize = ((32 << 20) - (64 << 10)) / size_of::<u64>();

/// Results of at most `SMALL` words (1 MiB) get one block of the largest size that they can need. A larger result gets a first
/// block of one part in `SAMPLE`: how full that becomes tells how many words the rest needs. So little memory has to be given
/// back, and the next result of the same size fits where this one lay.
const SMALL: usize = (1 << 20) / size_of::<u64>();
const SAMPLE: usize = 32;

/// One word in this many of a block may stay empty; a block with more empty words gives them back.
const EMPTY_ONE_IN: usize = 128;

/// Where a container begins: the block, and the 64-bit word in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArenaOffset {
    block: u32,
    word: u32,
}

impl ArenaOffset {
    /// The beginning of a block.
    pub(super) fn start_of(block: u32) -> Self {
        Self { block, word: 0 }
    }

    pub(super) fn block(self) -> u32 {
        self.block
    }

    /// Whether it comes before another place.
    pub(super) fn is_before(self, other: Self) -> bool {
        (self.block, self.word) < (other.block, other.word)
    }

    /// The same place once the block stands after `blocks` others.
    pub(super) fn after(self, blocks: u32) -> Self {
        Self { block: self.block + blocks, ..self }
    }
}

/// Containers one after the other, each from a whole word on.
#[derive(Debug, Default)]
pub(super) struct Arena {
    blocks: Vec<Vec<u64>>,
    /// The words that come at most, and about how many containers; 0 where nothing is known.
    most: usize,
    expected: usize,
    /// The containers that came.
    pushed: usize,
}

impl Arena {
    /// Is prepared for about `containers` containers, which take `words` words at most.
    pub(super) fn with_capacity(containers: usize, words: usize) -> Self {
        Self { blocks: Vec::new(), most: words, expected: containers, pushed: 0 }
    }

    pub(super) fn push_list(&mut self, list: &[u16]) -> Result<ArenaOffset> {
        let (place, words) = self.room(list.len().div_ceil(4))?;
        let (blocks, rest) = list.as_chunks::<BLOCK>();
        for block in blocks {
            words.extend_from_slice(&bytemuck::cast::<_, [u64; BLOCK_WORDS]>(*block));
        }
        if words.capacity() - words.len() < BLOCK_WORDS {
            words.extend(rest.chunks(4).map(last_word));
            return Ok(place);
        }
        // A copy of always the same length has no jump that depends on how many items there are.
        let start = words.len();
        words.extend_from_slice(&[0; BLOCK_WORDS]);
        if let Some(room) = words[start..].first_chunk_mut::<BLOCK_WORDS>() {
            (select().block)(rest, bytemuck::cast_mut(room));
        }
        words.truncate(start + rest.len().div_ceil(4));
        Ok(place)
    }

    /// Appends the first `len` of these items, none of which it looks at.
    #[inline(always)]
    pub(super) fn push_short(&mut self, items: &[u16; BLOCK], len: usize) -> Result<ArenaOffset> {
        let needed = len.div_ceil(4);
        let (place, block) = self.room(needed)?;
        if block.capacity() - block.len() < BLOCK_WORDS {
            block.extend(items[..len].chunks(4).map(last_word));
            return Ok(place);
        }
        let end = block.len() + needed;
        block.extend_from_slice(&bytemuck::cast::<_, [u64; BLOCK_WORDS]>(*items));
        block.truncate(end);
        if let Some(word) = block.last_mut() {
            *word |= ((u64::MAX << 16) << (16 * ((len + 3) % 4))).to_le();
        }
        Ok(place)
    }

    pub(super) fn push_pairs(&mut self, pairs: &[Pair]) -> Result<ArenaOffset> {
        self.push_list(pairs.as_flattened())
    }

    pub(super) fn push_bytes(&mut self, bytes: &[u8]) -> Result<ArenaOffset> {
        let (place, block) = self.room(bytes.len().div_ceil(8))?;
        let (words, rest) = bytes.as_chunks::<8>();
        match bytemuck::try_cast_slice(words.as_flattened()) {
            Ok(words) => block.extend_from_slice(words),
            Err(_) => block.extend(words.iter().map(|word| bytemuck::cast::<_, u64>(*word))),
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            block.push(bytemuck::cast(word));
        }
        Ok(place)
    }

    pub(super) fn push_words(&mut self, words: &Words) -> Result<ArenaOffset> {
        let (place, block) = self.room(words.len())?;
        block.extend_from_slice(words);
        Ok(place)
    }

    pub(super) fn list(&self, place: ArenaOffset, len: usize) -> &[u16] {
        &self.rest(place)[..len]
    }

    /// The words from `place` to the end of its block.
    #[inline]
    pub(super) fn rest(&self, place: ArenaOffset) -> &[u16] {
        bytemuck::cast_slice(&self.blocks[place.block as usize][place.word as usize..])
    }

    pub(super) fn bytes(&self, place: ArenaOffset, len: usize) -> &[u8] {
        &bytemuck::cast_slice(&self.blocks[place.block as usize][place.word as usize..])[..len]
    }

    pub(super) fn pairs(&self, place: ArenaOffset, len: usize) -> &[Pair] {
        self.list(place, 2 * len).as_chunks().0
    }

    pub(super) fn words(&self, place: ArenaOffset) -> &Words {
        let rest = &self.blocks[place.block as usize][place.word as usize..];
        rest.first_chunk().expect("the words of a chunk were put here")
    }

    pub(super) fn words_mut(&mut self, place: ArenaOffset) -> &mut Words {
        let rest = &mut self.blocks[place.block as usize][place.word as usize..];
        rest.first_chunk_mut().expect("the words of a chunk were put here")
    }

    /// Whether all blocks hold the same words as those of another.
    pub(super) fn has_same_words(&self, other: &Self) -> bool {
        self.blocks == other.blocks
    }

    /// The words that are in use, or were.
    pub(super) fn words_filled(&self) -> usize {
        self.blocks.iter().map(Vec::len).sum()
    }

    /// Puts what `view` holds, which is not full, at `place`, and gives the place behind it. The words that lay there are lost.
    pub(super) fn put(&mut self, place: ArenaOffset, view: View<'_>) -> ArenaOffset {
        let (bytes, rest): (&[u8], u8) = match view {
            View::Array(list) => (bytemuck::cast_slice(list), u8::MAX),
            View::Runs(runs) => (bytemuck::cast_slice(runs), u8::MAX),
            View::Words(words) => (bytemuck::cast_slice(words), 0),
            View::Sparse(sparse) => (sparse.bytes, 0),
            View::Full => (&[], 0),
        };
        let words = bytes.len().div_ceil(size_of::<u64>());
        let room = &mut self.blocks[place.block as usize][place.word as usize..][..words];
        let (whole, free) = bytemuck::cast_slice_mut::<u64, u8>(room).split_at_mut(bytes.len());
        whole.copy_from_slice(bytes);
        free.fill(rest);
        ArenaOffset { word: place.word + number(words), ..place }
    }

    /// Moves `words` words to `place`, which lies before them in their block, and gives the place behind them.
    pub(super) fn draw(&mut self, from: ArenaOffset, words: usize, place: ArenaOffset) -> ArenaOffset {
        let (start, to) = (from.word as usize, place.word as usize);
        if start != to {
            self.blocks[place.block as usize].copy_within(start..start + words, to);
        }
        ArenaOffset { word: place.word + number(words), ..place }
    }

    /// Forgets what lies behind `end` in its block, and in all blocks behind it before `block`.
    pub(super) fn cut(&mut self, end: ArenaOffset, block: u32) {
        let mut left = end.word as usize;
        for words in &mut self.blocks[end.block as usize..block as usize] {
            words.truncate(left);
            left = 0;
        }
    }

    /// Forgets the words behind `end` in the last block.
    pub(super) fn take_back(&mut self, end: ArenaOffset) {
        self.blocks[end.block as usize].truncate(end.word as usize);
    }

    /// The number of blocks, after which the blocks of another arena come to stand.
    pub(super) fn blocks(&self) -> u32 {
        number(self.blocks.len())
    }

    pub(super) fn append(&mut self, other: Self) -> Result<()> {
        self.blocks.try_reserve(other.blocks.len())?;
        self.blocks.extend(other.blocks);
        Ok(())
    }

    pub(super) fn try_clone(&self) -> Result<Self> {
        let mut blocks = memory::room(self.blocks.len())?;
        for block in &self.blocks {
            blocks.push(memory::copy(block)?);
        }
        Ok(Self { blocks, ..*self })
    }

    /// Gives back the memory that is not needed.
    pub(super) fn shrink(&mut self) {
        self.blocks.iter_mut().for_each(shrink);
        memory::shrink(&mut self.blocks);
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let words: usize = self.blocks.iter().map(Vec::capacity).sum();
        words * size_of::<u64>() + self.blocks.capacity() * size_of::<Vec<u64>>()
    }

    /// The words that the next block should have.
    fn next_block(&self) -> usize {
        let Some(last) = self.blocks.last() else {
            return if self.most <= SMALL { self.most } else { self.most / SAMPLE }.clamp(FIRST, LARGEST);
        };
        let words = match self.expected.checked_sub(self.pushed) {
            Some(left) if self.pushed > 0 => {
                let used = self.words_filled();
                let needed = used.saturating_mul(left) / self.pushed;
                (needed + needed / (2 * EMPTY_ONE_IN)).min(self.most.saturating_sub(used))
            }
            _ => 2 * last.len(),
        };
        words.clamp(FIRST, LARGEST)
    }

    /// A place for `words` words at the end of a block that has room for them.
    fn room(&mut self, words: usize) -> Result<(ArenaOffset, &mut Vec<u64>)> {
        if self.blocks.last().is_none_or(|block| block.capacity() - block.len() < words) {
            if let Some(block) = self.blocks.last_mut() {
                shrink(block);
            }
            let block = memory::room(self.next_block().max(words))?;
            memory::prefer_huge_pages(&block);
            memory::push(&mut self.blocks, block)?;
        }
        self.pushed += 1;
        let number_of_last = number(self.blocks.len() - 1);
        let block = self.blocks.last_mut().expect("a block was just found or made");
        Ok((ArenaOffset { block: number_of_last, word: number(block.len()) }, block))
    }
}

/// The word of four items or fewer; free places are 65535.
fn last_word(items: &[u16]) -> u64 {
    let mut word = [u16::MAX; 4];
    word.iter_mut().zip(items).for_each(|(to, from)| *to = *from);
    bytemuck::cast(word)
}

/// Gives back what a block does not need, if it is worth it.
fn shrink(block: &mut Vec<u64>) {
    if block.capacity() - block.len() > block.capacity() / EMPTY_ONE_IN {
        memory::shrink(block);
    }
}

/// The number of a block, or of a word in one.
#[allow(
    clippy::cast_possible_truncation,
    reason = "a block has less than 2^22 words, and 2^25 chunks fill 2^13 blocks"
)]
fn number(index: usize) -> u32 {
    debug_assert!(u32::try_from(index).is_ok());
    index as u32
}

#[cfg(test)]
mod tests {
    use super::{Arena, BLOCK, BLOCK_WORDS, FIRST};

    #[test]
    fn a_short_list_lies_there_as_any_other() {
        let items: [u16; BLOCK] = std::array::from_fn(|place| 3 + 7 * u16::try_from(place).unwrap());
        // At the end of a block there is no room to copy more than the list.
        for filled in [1, FIRST - BLOCK_WORDS, FIRST - 2] {
            for len in 1..=BLOCK {
                let [mut short, mut any] = [1, 2].map(|_| Arena::with_capacity(1, 0));
                for arena in [&mut short, &mut any] {
                    arena.push_list(&vec![1; 4 * filled]).unwrap();
                }
                let places = [short.push_short(&items, len).unwrap(), any.push_list(&items[..len]).unwrap()];
                assert_eq!(places[0], places[1]);
                assert!(short.has_same_words(&any) && short.list(places[0], len) == &items[..len], "{len} items");
            }
        }
    }
}
