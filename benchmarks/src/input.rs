#![forbid(unsafe_code)]
//! Owns the inputs as every engine gets them: one list of dirty granules, made once, in a form that belongs to no engine;
//! and the fingerprint that answers are compared by.

/// The granules of one chunk: the chunks of the list are those of Roaring, so that no engine gains by the cut.
pub const CHUNK: u64 = 1 << 16;

/// The bits of one chunk.
pub type Words = [u64; 1024];

/// Granules `first..=last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub last: u64,
}

impl Span {
    pub fn granules(self) -> u64 {
        self.last - self.first + 1
    }
}

/// A fingerprint of a list of extents; it costs a multiplication an extent, and no extent waits for the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub extents: u64,
    pub hash: u64,
}

impl Tally {
    #[inline(always)]
    pub fn add(&mut self, first: u64, last: u64) {
        self.extents += 1;
        let product = (first + 0x9E37_79B9_7F4A_7C15).wrapping_mul(2 * last + 0xC2B2_AE3D_27D4_EB4F);
        self.hash = self.hash.wrapping_add(product);
    }

    /// Ends one of several lists: the same extents in another list give another fingerprint.
    #[inline]
    pub fn end_list(&mut self) {
        self.hash = self.hash.rotate_left(9);
    }

    pub fn digest(self) -> u64 {
        digest([self.extents, self.hash])
    }
}

/// FNV-1a over whole numbers.
pub fn digest(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0xCBF2_9CE4_8422_2325, |hash, number| (hash ^ number).wrapping_mul(0x0000_0100_0000_01B3))
}

/// What an engine holds of an input in its most natural form, for the rules of what fits.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Arrays and bitsets of Roaring.
    Containers,
    /// The smallest of array, bitset and runs.
    SmallestContainers,
    /// A bit a granule.
    Flat,
    /// Eight bytes an extent.
    Extents,
}

/// The dirty granules of one chunk, in the smallest form.
enum Piece {
    Points(Box<[u16]>),
    Runs(Box<[(u16, u16)]>),
    Bits(Box<Words>),
}

struct Chunk {
    key: u16,
    granules: u32,
    runs: u32,
    piece: Piece,
}

impl Chunk {
    fn new(key: u16, words: &Words) -> Option<Self> {
        let granules: u32 = words.iter().map(|word| word.count_ones()).sum();
        if granules == 0 {
            return None;
        }
        let mut carry = 0;
        let mut runs = 0;
        for word in words {
            runs += (word & !(word << 1 | carry)).count_ones();
            carry = word >> 63;
        }
        let piece = if 4 * runs + 2 < (2 * granules).min(8192) {
            let mut list = Vec::with_capacity(runs as usize);
            each_run(words, |first, last| list.push((first, last)));
            Piece::Runs(list.into())
        } else if granules <= 4096 {
            let mut list = Vec::with_capacity(granules as usize);
            each_run(words, |first, last| list.extend(first..=last));
            Piece::Points(list.into())
        } else {
            Piece::Bits(Box::new(*words))
        };
        Some(Self { key, granules, runs, piece })
    }

    fn write_words(&self, words: &mut Words) {
        match &self.piece {
            Piece::Points(points) => points.iter().for_each(|&at| set_run(words, at, at)),
            Piece::Runs(runs) => runs.iter().for_each(|&(first, last)| set_run(words, first, last)),
            Piece::Bits(bits) => words.iter_mut().zip(bits.iter()).for_each(|(word, bit)| *word |= bit),
        }
    }

    fn each_run(&self, mut each: impl FnMut(u16, u16)) {
        match &self.piece {
            Piece::Points(points) => points.iter().for_each(|&at| each(at, at)),
            Piece::Runs(runs) => runs.iter().for_each(|&(first, last)| each(first, last)),
            Piece::Bits(bits) => each_run(bits, each),
        }
    }
}

/// The list of dirty granules of one bitmap.
pub struct Input {
    chunks: Vec<Chunk>,
}

impl Input {
    /// The number of dirty granules.
    pub fn cardinality(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.granules)).sum()
    }

    /// The number of extents, those that cross chunks counted once for each.
    pub fn runs(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.runs)).sum()
    }

    /// About the bytes that an engine of this shape needs for it.
    pub fn bytes(&self, shape: Shape, granules: u64) -> u64 {
        let sum = |of: fn(&Chunk) -> u32| self.chunks.iter().map(|chunk| u64::from(of(chunk))).sum();
        match shape {
            Shape::Containers => sum(|chunk| (2 * chunk.granules).min(8192)),
            Shape::SmallestContainers => sum(|chunk| (2 * chunk.granules).min(8192).min(4 * chunk.runs + 2)),
            Shape::Flat => granules / 8,
            Shape::Extents => 8 * self.runs(),
        }
    }

    /// Every extent, ascending.
    pub fn each_extent(&self, mut each: impl FnMut(u64, u64)) {
        let mut open: Option<(u64, u64)> = None;
        for chunk in &self.chunks {
            let base = u64::from(chunk.key) * CHUNK;
            chunk.each_run(|first, last| {
                let (first, last) = (base + u64::from(first), base + u64::from(last));
                match &mut open {
                    Some((_, end)) if *end + 1 == first => *end = last,
                    Some((start, end)) => {
                        each(*start, *end);
                        open = Some((first, last));
                    }
                    None => open = Some((first, last)),
                }
            });
        }
        if let Some((first, last)) = open {
            each(first, last);
        }
    }

    /// The fingerprint of all extents.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.each_extent(|first, last| tally.add(first, last));
        tally
    }

    /// Sets its bits in a flat bitmap.
    pub fn write_words(&self, words: &mut [u64]) {
        let (chunks, _) = words.as_chunks_mut::<1024>();
        for chunk in &self.chunks {
            chunk.write_words(&mut chunks[usize::from(chunk.key)]);
        }
    }

    /// The union of some inputs: what the engines' unions are held against.
    pub fn union(inputs: &[&Self]) -> Self {
        let mut rest: Vec<&[Chunk]> = inputs.iter().map(|input| input.chunks.as_slice()).collect();
        let mut canvas = Canvas::default();
        while let Some(key) = rest.iter().filter_map(|chunks| chunks.first()).map(|chunk| chunk.key).min() {
            let mut words = [0; 1024];
            for chunks in &mut rest {
                if let Some((chunk, others)) = chunks.split_first()
                    && chunk.key == key
                {
                    chunk.write_words(&mut words);
                    *chunks = others;
                }
            }
            canvas.chunk(key, &words);
        }
        canvas.finish()
    }

    /// As portable 32-bit Roaring, each container in its smallest form.
    pub fn to_portable(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let count = self.chunks.len();
        let has_runs = self.chunks.iter().any(|chunk| matches!(chunk.piece, Piece::Runs(_)));
        if has_runs {
            out.extend((12347 | (count as u32 - 1) << 16).to_le_bytes());
            let mut flags = vec![0_u8; count.div_ceil(8)];
            for (index, chunk) in self.chunks.iter().enumerate() {
                flags[index / 8] |= u8::from(matches!(chunk.piece, Piece::Runs(_))) << (index % 8);
            }
            out.extend(flags);
        } else {
            out.extend(12346_u32.to_le_bytes());
            out.extend((count as u32).to_le_bytes());
        }
        for chunk in &self.chunks {
            out.extend(chunk.key.to_le_bytes());
            out.extend(((chunk.granules - 1) as u16).to_le_bytes());
        }
        if !has_runs || count >= 4 {
            let mut offset = (out.len() + 4 * count) as u32;
            for chunk in &self.chunks {
                out.extend(offset.to_le_bytes());
                offset += match &chunk.piece {
                    Piece::Points(points) => 2 * points.len() as u32,
                    Piece::Runs(runs) => 2 + 4 * runs.len() as u32,
                    Piece::Bits(_) => 8192,
                };
            }
        }
        for chunk in &self.chunks {
            match &chunk.piece {
                Piece::Points(points) => points.iter().for_each(|point| out.extend(point.to_le_bytes())),
                Piece::Bits(bits) => bits.iter().for_each(|word| out.extend(word.to_le_bytes())),
                Piece::Runs(runs) => {
                    out.extend((runs.len() as u16).to_le_bytes());
                    for (first, last) in runs {
                        out.extend(first.to_le_bytes());
                        out.extend((last - first).to_le_bytes());
                    }
                }
            }
        }
        out
    }

    /// As portable 64-bit Roaring; the granules of a disk here are below 2^32.
    pub fn to_portable64(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(u64::from(!self.chunks.is_empty()).to_le_bytes());
        if !self.chunks.is_empty() {
            out.extend(0_u32.to_le_bytes());
            out.extend(self.to_portable());
        }
        out
    }
}

/// Draws an input chunk by chunk, from extents that ascend or from whole chunks.
#[derive(Default)]
pub struct Canvas {
    chunks: Vec<Chunk>,
    open: Option<(u16, Box<Words>)>,
}

impl Canvas {
    /// Draws an extent that begins no earlier than the chunk of the one before.
    pub fn extent(&mut self, span: Span) {
        let mut first = span.first;
        while first <= span.last {
            let last = span.last.min(first | (CHUNK - 1));
            let key = (first / CHUNK) as u16;
            if self.open.as_ref().is_none_or(|(open, _)| *open != key) {
                self.close();
                self.open = Some((key, Box::new([0; 1024])));
            }
            if let Some((_, words)) = &mut self.open {
                set_run(words, (first % CHUNK) as u16, (last % CHUNK) as u16);
            }
            first = last + 1;
        }
    }

    /// Adds a whole chunk.
    pub fn chunk(&mut self, key: u16, words: &Words) {
        self.close();
        self.chunks.extend(Chunk::new(key, words));
    }

    fn close(&mut self) {
        if let Some((key, words)) = self.open.take() {
            self.chunks.extend(Chunk::new(key, &words));
        }
    }

    pub fn finish(mut self) -> Input {
        self.close();
        Input { chunks: self.chunks }
    }
}

fn set_run(words: &mut Words, first: u16, last: u16) {
    set_bits(words, u64::from(first), u64::from(last));
}

/// Sets the bits `first..=last` of a flat bitmap.
pub fn set_bits(words: &mut [u64], first: u64, last: u64) {
    let (from, to) = ((first / 64) as usize, (last / 64) as usize);
    let (head, tail) = (u64::MAX << (first % 64), u64::MAX >> (63 - last % 64));
    if from == to {
        words[from] |= head & tail;
        return;
    }
    words[from] |= head;
    words[from + 1..to].fill(u64::MAX);
    words[to] |= tail;
}

fn each_run(words: &Words, mut each: impl FnMut(u16, u16)) {
    let mut open: Option<u32> = None;
    for (index, &word) in words.iter().enumerate() {
        let base = 64 * index as u32;
        let mut rest = word;
        let mut at = 0;
        while at < 64 {
            match open {
                None if rest == 0 => break,
                None => {
                    at += rest.trailing_zeros();
                    rest = word >> at;
                    open = Some(base + at);
                }
                Some(first) => {
                    let ones = rest.trailing_ones();
                    at += ones;
                    if at >= 64 {
                        break;
                    }
                    each(first as u16, (base + at - 1) as u16);
                    open = None;
                    rest = word >> at;
                }
            }
        }
    }
    if let Some(first) = open {
        each(first as u16, u16::MAX);
    }
}
