#![forbid(unsafe_code)]
//! Owns the subjects of measurement: the disks, the patterns of dirty granules on them, and the questions asked. All of it comes from
//! one seed, so two runs measure the same.

use crate::input::{CHUNK, Canvas, Input, Span, set_bits};
use std::path::{Path, PathBuf};

/// The bytes of a window, and of a region of the VM-like pattern.
const GIB: u64 = 1 << 30;

/// The tiles that make a disk of 16 TiB of the traced one of 32 GiB.
const TILES: u64 = 512;

/// The intervals that the trace is cut into.
pub const INTERVALS: usize = 8;

/// A disk: 2^`granules_log2` granules of 2^`granule_bits` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    pub granules_log2: u32,
    pub granule_bits: u32,
}

impl Disk {
    /// 16 TiB, or less where a granule would be above 64 KiB.
    pub fn of_granules(granules_log2: u32) -> Self {
        Self { granules_log2, granule_bits: 44_u32.saturating_sub(granules_log2).clamp(12, 16) }
    }

    pub fn granules(self) -> u64 {
        1 << self.granules_log2
    }

    pub fn bytes(self) -> u64 {
        self.granules() << self.granule_bits
    }

    fn span(self, write: Write) -> Span {
        let last = (write.offset + write.len_bytes - 1) >> self.granule_bits;
        Span { first: write.offset >> self.granule_bits, last }
    }
}

/// A write of a guest, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    pub offset: u64,
    pub len_bytes: u64,
}

impl Write {
    /// The granules that it touches.
    #[inline]
    pub fn granules(self, disk: &Disk) -> Span {
        disk.span(self)
    }
}

/// What the dirty granules look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pattern {
    Sparse,
    Random,
    Dense,
    Runs,
    VmLike,
    HalfFull,
    Trace,
}

impl Pattern {
    pub const ALL: [Self; 7] =
        [Self::Sparse, Self::Random, Self::Dense, Self::Runs, Self::VmLike, Self::HalfFull, Self::Trace];

    pub fn letter(self) -> char {
        (b'a' + self as u8) as char
    }

    pub fn describe(self) -> &'static str {
        match self {
            Self::Sparse => "0.01 % random",
            Self::Random => "1 % random",
            Self::Dense => "30 % random",
            Self::Runs => "runs of mean 256, 10 %",
            Self::VmLike => "VM-like, 2 %: 80 % of the writes in 5 % of the disk",
            Self::HalfFull => "half of the disk full, each shifted by 1/16",
            Self::Trace => "the writes of a real VM, cut by time",
        }
    }
}

/// One pattern on one disk: the inputs, and the questions to the union of the first two.
pub struct Scenario {
    pub pattern: Pattern,
    pub disk: Disk,
    pub inputs: Vec<Input>,
    /// The union of the first two inputs.
    pub asked: Input,
    /// 1000 random ranges.
    pub ranges: Vec<Span>,
    /// 10,000 random windows of 1 GiB.
    pub windows: Vec<Span>,
    /// A million random writes of 4 to 64 KiB, where the pattern has its own.
    pub writes: Vec<Write>,
}

impl Scenario {
    /// Draws `count` inputs; the trace has no more than [`INTERVALS`].
    pub fn new(pattern: Pattern, disk: Disk, count: usize, seed: u64, trace: Option<&Trace>) -> Self {
        let seed = seed ^ (u64::from(disk.granules_log2) << 32) ^ ((pattern as u64) << 40);
        let vm = VmLike::new(disk, &mut Rng::new(seed ^ 1));
        let source = Source { pattern, disk, vm, trace };
        let inputs: Vec<Input> = (0..count).map(|index| source.input(index, seed)).collect();
        let first_two: Vec<&Input> = inputs.iter().take(2).collect();
        let asked = Input::union(&first_two);
        let mut rng = Rng::new(seed ^ 2);
        let ranges = (0..1000).map(|_| random_range(disk, &mut rng)).collect();
        let windows = (0..10_000).map(|_| random_window(disk, &mut rng)).collect();
        let writes = source.writes(1_000_000, &mut rng);
        Self { pattern, disk, inputs, asked, ranges, windows, writes }
    }
}

fn random_range(disk: Disk, rng: &mut Rng) -> Span {
    let (one, other) = (rng.below(disk.granules()), rng.below(disk.granules()));
    Span { first: one.min(other), last: one.max(other) }
}

fn random_window(disk: Disk, rng: &mut Rng) -> Span {
    let granules = (GIB >> disk.granule_bits).min(disk.granules());
    let first = rng.below(disk.granules() - granules + 1);
    Span { first, last: first + granules - 1 }
}

/// Draws the inputs and the writes of one pattern on one disk.
struct Source<'a> {
    pattern: Pattern,
    disk: Disk,
    vm: VmLike,
    trace: Option<&'a Trace>,
}

impl Source<'_> {
    fn input(&self, index: usize, seed: u64) -> Input {
        let mut rng = Rng::new(seed ^ (index as u64 + 16).wrapping_mul(0xD6E8_FEB8_6659_FD93));
        match self.pattern {
            Pattern::Sparse => random_points(self.disk, 0.0001, &mut rng),
            Pattern::Random => random_points(self.disk, 0.01, &mut rng),
            Pattern::Dense => random_bits(self.disk, 0.3, &mut rng),
            Pattern::Runs => random_runs(self.disk, 256.0, 0.1, &mut rng),
            Pattern::VmLike => self.vm.input(0.02, &mut rng),
            Pattern::HalfFull => half_full(self.disk, index as u64),
            Pattern::Trace => {
                self.trace.map_or_else(|| Canvas::default().finish(), |trace| trace.input(self.disk, index))
            }
        }
    }

    fn writes(&self, count: usize, rng: &mut Rng) -> Vec<Write> {
        let uniform = |below: u64, rng: &mut Rng| random_write(0, below, rng);
        match (self.pattern, self.trace) {
            (Pattern::VmLike, _) => (0..count).map(|_| self.vm.write(rng)).collect(),
            (Pattern::HalfFull, _) => (0..count).map(|_| uniform(self.disk.bytes() / 2, rng)).collect(),
            (Pattern::Trace, Some(trace)) => trace.writes(self.disk, count, rng),
            _ => (0..count).map(|_| uniform(self.disk.bytes(), rng)).collect(),
        }
    }
}

/// A write of 4 to 64 KiB in `from..from + len_bytes`, at a multiple of 4 KiB.
fn random_write(from: u64, len_bytes: u64, rng: &mut Rng) -> Write {
    let pages = 1 + rng.below(16);
    let first = rng.below(len_bytes / 4096 - pages + 1);
    Write { offset: from + 4096 * first, len_bytes: 4096 * pages }
}

fn random_points(disk: Disk, density: f64, rng: &mut Rng) -> Input {
    let mut canvas = Canvas::default();
    let mut at = rng.geometric(density);
    while at < disk.granules() {
        canvas.extent(Span { first: at, last: at });
        at += 1 + rng.geometric(density);
    }
    canvas.finish()
}

/// Every granule for itself, 64 at a time: the density's binary digits say how random words combine.
fn random_bits(disk: Disk, density: f64, rng: &mut Rng) -> Input {
    const DIGITS: u32 = 16;
    let digits = (density * f64::from(1_u32 << DIGITS)) as u32;
    let lowest = digits.trailing_zeros();
    let mut canvas = Canvas::default();
    for key in 0..disk.granules().div_ceil(CHUNK) {
        let mut words = [0; 1024];
        let used = ((disk.granules() - key * CHUNK).min(CHUNK) / 64) as usize;
        for word in &mut words[..used] {
            for digit in lowest..DIGITS {
                *word = if digits >> digit & 1 == 1 { *word | rng.next() } else { *word & rng.next() };
            }
        }
        canvas.chunk(key as u16, &words);
    }
    canvas.finish()
}

/// Runs and gaps, both of exponential length.
fn random_runs(disk: Disk, mean: f64, density: f64, rng: &mut Rng) -> Input {
    let gap = mean * (1.0 - density) / density;
    let mut canvas = Canvas::default();
    let mut first = rng.exponential(gap);
    while first < disk.granules() {
        let last = (first + rng.exponential(mean).max(1) - 1).min(disk.granules() - 1);
        canvas.extent(Span { first, last });
        first = last + 1 + rng.exponential(gap).max(1);
    }
    canvas.finish()
}

fn half_full(disk: Disk, index: u64) -> Input {
    let granules = disk.granules();
    let first = index % 16 * (granules / 16);
    let end = first + granules / 2;
    let mut canvas = Canvas::default();
    if end > granules {
        canvas.extent(Span { first: 0, last: end - granules - 1 });
    }
    canvas.extent(Span { first, last: end.min(granules) - 1 });
    canvas.finish()
}

/// 80 % of the writes in 5 % of the disk, in regions of 1 GiB whose share of them follows Zipf's law with 0.8; all inputs
/// have the same hot regions, as all are of one VM.
struct VmLike {
    disk: Disk,
    region_bytes: u64,
    hot: Vec<u64>,
    /// The share of the hot writes that goes to this region or one before it.
    shares: Vec<f64>,
}

impl VmLike {
    fn new(disk: Disk, rng: &mut Rng) -> Self {
        let region_bytes = GIB.min(disk.bytes() / 64);
        let regions = disk.bytes() / region_bytes;
        let mut hot: Vec<u64> = (0..regions).collect();
        rng.shuffle(&mut hot);
        hot.truncate((regions / 20).max(1) as usize);
        let mut shares: Vec<f64> = Vec::with_capacity(hot.len());
        for rank in 1..=hot.len() {
            shares.push(shares.last().unwrap_or(&0.0) + (rank as f64).powf(-0.8));
        }
        let sum = shares[hot.len() - 1];
        shares.iter_mut().for_each(|share| *share /= sum);
        Self { disk, region_bytes, hot, shares }
    }

    fn write(&self, rng: &mut Rng) -> Write {
        if rng.unit() >= 0.8 {
            return random_write(0, self.disk.bytes(), rng);
        }
        let share = rng.unit();
        let rank = self.shares.partition_point(|&until| until < share).min(self.hot.len() - 1);
        random_write(self.hot[rank] * self.region_bytes, self.region_bytes, rng)
    }

    fn input(&self, density: f64, rng: &mut Rng) -> Input {
        let wanted = (self.disk.granules() as f64 * density) as u64;
        let mut words = vec![0_u64; (self.disk.granules() / 64) as usize];
        let mut dirty = 0;
        while dirty < wanted {
            let span = self.disk.span(self.write(rng));
            for granule in span.first..=span.last {
                let word = &mut words[(granule / 64) as usize];
                dirty += !(*word >> (granule % 64)) & 1;
                *word |= 1 << (granule % 64);
            }
        }
        from_words(&words)
    }
}

fn from_words(words: &[u64]) -> Input {
    let mut canvas = Canvas::default();
    for (key, words) in words.chunks(1024).enumerate() {
        let mut chunk = [0; 1024];
        chunk[..words.len()].copy_from_slice(words);
        canvas.chunk(key as u16, &chunk);
    }
    canvas.finish()
}

/// The writes of a real VM, cut by time.
pub struct Trace {
    intervals: Vec<Vec<Write>>,
    end: u64,
}

impl Trace {
    /// The trace that `CHECKMAP_TRACE` names, else the one beside the project, if it is there.
    pub fn find(root: &Path) -> Result<Option<Self>, String> {
        let path = match std::env::var_os("CHECKMAP_TRACE") {
            Some(path) => PathBuf::from(path),
            None => root.join("../shared/data/cloudphysics-vm-writes.csv"),
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map(Some).map_err(|error| format!("{}: {error}", path.display())),
            Err(_) if std::env::var_os("CHECKMAP_TRACE").is_none() => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// Reads lines of time, byte offset and byte length, in any unit of time.
    fn parse(text: &str) -> Result<Self, String> {
        let mut timed = Vec::new();
        for (number, line) in text.lines().enumerate().skip(1) {
            let fields: Vec<u64> = line.split(',').map_while(|field| field.trim().parse().ok()).collect();
            let &[time, offset, len_bytes] = fields.as_slice() else {
                return Err(format!("line {}: expected time,offset,length", number + 1));
            };
            if len_bytes > 0 {
                timed.push((time, Write { offset, len_bytes }));
            }
        }
        let (Some(from), Some(to)) = (timed.iter().map(|at| at.0).min(), timed.iter().map(|at| at.0).max()) else {
            return Err("no write".into());
        };
        let mut intervals = vec![Vec::new(); INTERVALS];
        for (time, write) in &timed {
            let interval = (time - from) as u128 * INTERVALS as u128 / u128::from(to - from + 1);
            intervals[interval as usize].push(*write);
        }
        let end = timed.iter().map(|(_, write)| write.offset + write.len_bytes).max().unwrap_or(0);
        Ok(Self { intervals, end })
    }

    /// The traced disk at its own size, rounded up to a power of two, at 64 KiB.
    pub fn own_disk(&self) -> Disk {
        Disk { granules_log2: self.end.div_ceil(1 << 16).next_power_of_two().trailing_zeros(), granule_bits: 16 }
    }

    /// The disks beside its own that it is laid on: 16 TiB of tiles.
    pub fn fits(&self, disk: Disk) -> bool {
        disk.bytes() / TILES >= self.end
    }

    /// The interval `index` on the traced disk. On a larger one every tile is the traced disk again, tile n with the
    /// interval `index + n`, so that the tiles of one bitmap differ.
    fn input(&self, disk: Disk, index: usize) -> Input {
        let mut words = vec![0_u64; (disk.granules() / 64) as usize];
        for tile in 0..self.tiles(disk) {
            for write in &self.intervals[(index + tile as usize) % INTERVALS] {
                let span = disk.span(self.in_tile(disk, tile, *write));
                set_bits(&mut words, span.first, span.last);
            }
        }
        from_words(&words)
    }

    /// The trace's writes, in random tiles, as often as it takes.
    fn writes(&self, disk: Disk, count: usize, rng: &mut Rng) -> Vec<Write> {
        let all = self.intervals.iter().flatten().cycle();
        all.take(count).map(|write| self.in_tile(disk, rng.below(self.tiles(disk)), *write)).collect()
    }

    fn tiles(&self, disk: Disk) -> u64 {
        if self.fits(disk) { TILES } else { 1 }
    }

    fn in_tile(&self, disk: Disk, tile: u64, write: Write) -> Write {
        Write { offset: write.offset + tile * (disk.bytes() / self.tiles(disk)), ..write }
    }
}

/// SplitMix64.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// In 0.0..1.0.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn exponential(&mut self, mean: f64) -> u64 {
        (-(1.0 - self.unit()).ln() * mean).round() as u64
    }

    /// The failures before a success of this probability.
    fn geometric(&mut self, probability: f64) -> u64 {
        ((1.0 - self.unit()).ln() / (1.0 - probability).ln()) as u64
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            let other = self.below(index as u64 + 1) as usize;
            items.swap(index, other);
        }
    }
}
