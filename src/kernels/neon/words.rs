//! Owns the loops over the words of a chunk in 128-bit registers, written by hand as the compiler counts in a second pass. Must
//! never be reached on a CPU without NEON.

use crate::kernels::table::{Measure, Words};
use std::arch::aarch64::*;

/// The words of a register, and of the registers whose bits are added up in bytes before they are added up in words.
const PAIR: usize = 2;
const BLOCK: usize = 16;

/// The counts of words that come one block after the other.
struct Counts {
    ones: uint32x4_t,
    runs: uint32x4_t,
    before: uint64x2_t,
}

impl Counts {
    #[target_feature(enable = "neon")]
    #[inline]
    fn new() -> Self {
        Self { ones: vdupq_n_u32(0), runs: vdupq_n_u32(0), before: vdupq_n_u64(0) }
    }

    /// Adds eight registers, so no byte counts more than 64 bits.
    #[target_feature(enable = "neon")]
    #[inline]
    fn add(&mut self, block: [uint64x2_t; BLOCK / PAIR]) {
        let (mut ones, mut runs) = (vdupq_n_u8(0), vdupq_n_u8(0));
        for here in block {
            // The bit before each bit.
            let before = vsliq_n_u64::<1>(vshrq_n_u64::<63>(vextq_u64::<1>(self.before, here)), here);
            self.before = here;
            ones = vaddq_u8(ones, vcntq_u8(vreinterpretq_u8_u64(here)));
            runs = vaddq_u8(runs, vcntq_u8(vreinterpretq_u8_u64(vbicq_u64(here, before))));
        }
        self.ones = vpadalq_u16(self.ones, vpaddlq_u8(ones));
        self.runs = vpadalq_u16(self.runs, vpaddlq_u8(runs));
    }

    #[target_feature(enable = "neon")]
    #[inline]
    fn measure(self) -> Measure {
        Measure { ones: vaddvq_u32(self.ones), runs: vaddvq_u32(self.runs) }
    }
}

#[target_feature(enable = "neon")]
#[inline]
fn load(words: &[u64; BLOCK]) -> [uint64x2_t; BLOCK / PAIR] {
    let pairs = words.as_chunks::<PAIR>().0;
    // SAFETY: each array is readable for 16 bytes, and the load needs no more alignment than it has.
    std::array::from_fn(|place| unsafe { vld1q_u64(pairs[place].as_ptr()) })
}

#[target_feature(enable = "neon")]
#[inline]
pub(super) fn measure(words: &Words) -> Measure {
    let mut counts = Counts::new();
    words.as_chunks::<BLOCK>().0.iter().for_each(|block| counts.add(load(block)));
    counts.measure()
}

/// Operations on two chunks that count what they store.
macro_rules! counted {
    ($($name:ident: |$to:ident, $from:ident| $result:expr;)*) => {
        $(
            #[target_feature(enable = "neon")]
            #[inline]
            pub(super) fn $name(to: &mut Words, from: &Words) -> Measure {
                let mut counts = Counts::new();
                for (to, from) in to.as_chunks_mut::<BLOCK>().0.iter_mut().zip(from.as_chunks::<BLOCK>().0) {
                    let (ours, theirs) = (load(to), load(from));
                    let mut results = ours;
                    let pairs = to.as_chunks_mut::<PAIR>().0.iter_mut().zip(ours.into_iter().zip(theirs));
                    for (result, (pair, ($to, $from))) in results.iter_mut().zip(pairs) {
                        *result = $result;
                        // SAFETY: the array is writable for 16 bytes, and the store needs no more alignment than it has.
                        unsafe { vst1q_u64(pair.as_mut_ptr(), *result) };
                    }
                    counts.add(results);
                }
                counts.measure()
            }
        )*
    };
}

counted! {
    or: |to, from| vorrq_u64(to, from);
    and: |to, from| vandq_u64(to, from);
    and_not: |to, from| vbicq_u64(to, from);
    xor: |to, from| veorq_u64(to, from);
}
