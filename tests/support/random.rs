//! Seeded randomness, so that a failure can be played again.

/// A small generator (SplitMix64); the same seed gives the same numbers on every machine.
pub struct Random(u64);

impl Random {
    /// Seeded by `CHECKMAP_SEED` where it is set, else by `default`; the seed is printed.
    pub fn seeded(default: u64) -> Self {
        let seed = std::env::var("CHECKMAP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(default);
        eprintln!("CHECKMAP_SEED={seed}");
        Self(seed)
    }

    /// Seeded by a number that the caller has told already.
    pub fn from_seed(seed: u64) -> Self {
        Self(seed)
    }

    /// Seeded by the clock; the seed is printed.
    pub fn fresh() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
        Self::seeded(now.as_secs())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is above 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).expect("an index fits")
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.index(of.len())]
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            items.swap(end, self.index(end + 1));
        }
    }
}
