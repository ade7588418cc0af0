//! One bit a granule in a `Vec<u64>`, with loops that the compiler vectorises for AVX2 where the CPU has it. Large vectors
//! ask for huge pages; what that is worth shows in the one form that does not.

use crate::engine::{Count, Engine, Form, Mark, Open, Save, Union, Walk, WalkSpans, count_each};
use crate::input::{Input, Shape, Span, Tally, set_bits};
use crate::patterns::Disk;

pub struct Flat;

/// The words of a disk; a copy asks for huge pages too.
pub struct Words(Vec<u64>);

impl Clone for Words {
    fn clone(&self) -> Self {
        let mut words = roomy(self.0.len());
        words.extend_from_slice(&self.0);
        Self(words)
    }
}

/// An empty vector with room for `len` items, in huge pages as far as there are whole ones.
pub fn roomy<T>(len: usize) -> Vec<T> {
    const HUGE: usize = 2 << 20;
    let mut items: Vec<T> = Vec::with_capacity(len);
    let room = items.spare_capacity_mut().as_mut_ptr_range();
    let (from, to) = ((room.start as usize).next_multiple_of(HUGE), room.end as usize / HUGE * HUGE);
    if from < to {
        let start = room.start.cast::<u8>().wrapping_add(from - room.start as usize);
        // SAFETY: `start` and the bytes up to `to` are inside the vector's own room; the advice does not change content.
        unsafe { libc::madvise(start.cast(), to - from, libc::MADV_HUGEPAGE) };
    }
    items
}

/// A loop compiled for AVX2 and, for other CPUs, for the baseline.
macro_rules! vectorised {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),*) $(-> $ret:ty)? $body:block) => {
        $(#[$doc])*
        #[inline]
        $vis fn $name($($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            fn portable($($arg: $type),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("popcnt") {
                #[target_feature(enable = "avx2,bmi1,popcnt")]
                fn vectors($($arg: $type),*) $(-> $ret)? {
                    portable($($arg),*)
                }
                // SAFETY: the CPU has the features, as was just asked.
                return unsafe { vectors($($arg),*) };
            }
            portable($($arg),*)
        }
    };
}

vectorised! {
    /// Adds the bits of `other`.
    pub fn or_into(sum: &mut [u64], other: &[u64]) {
        sum.iter_mut().zip(other).for_each(|(word, other)| *word |= other);
    }
}

vectorised! {
    /// Appends the union of all to `out`, a page at a time, so that each input is read once and the result written once.
    fn or_all(bitmaps: &[&Words], out: &mut Vec<u64>) {
        const BLOCK: usize = 512;
        let words = bitmaps[0].0.len();
        let mut block = [0; BLOCK];
        for from in (0..words).step_by(BLOCK) {
            let to = (from + BLOCK).min(words);
            let block = &mut block[..to - from];
            block.copy_from_slice(&bitmaps[0].0[from..to]);
            for bitmap in &bitmaps[1..] {
                block.iter_mut().zip(&bitmap.0[from..to]).for_each(|(word, other)| *word |= other);
            }
            out.extend_from_slice(block);
        }
    }
}

vectorised! {
    fn count_words(words: &[u64]) -> u64 {
        words.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

vectorised! {
    /// Adds the extents of `span`, found by the bits that differ from the bit before.
    fn tally(words: &[u64], span: Span, sum: &mut Tally) {
        let (from, to) = ((span.first / 64) as usize, (span.last / 64) as usize);
        let mut open = 0;
        let mut carry = 0;
        for (index, word) in words[from..=to].iter().enumerate() {
            let mut word = *word;
            if index == 0 {
                word &= u64::MAX << (span.first % 64);
            }
            if from + index == to {
                word &= u64::MAX >> (63 - span.last % 64);
            }
            let mut edges = word ^ (word << 1 | carry);
            let base = ((from + index) * 64) as u64;
            while edges != 0 {
                let at = base + u64::from(edges.trailing_zeros());
                edges &= edges - 1;
                if carry == 0 {
                    open = at;
                } else {
                    sum.add(open, at - 1);
                }
                carry ^= 1;
            }
        }
        if carry == 1 {
            sum.add(open, span.last);
        }
    }
}

fn count(words: &[u64], span: Span) -> u64 {
    let (from, to) = ((span.first / 64) as usize, (span.last / 64) as usize);
    let (head, tail) = (u64::MAX << (span.first % 64), u64::MAX >> (63 - span.last % 64));
    if from == to {
        return u64::from((words[from] & head & tail).count_ones());
    }
    let edges = (words[from] & head).count_ones() + (words[to] & tail).count_ones();
    u64::from(edges) + count_words(&words[from + 1..to])
}

fn whole(disk: &Disk) -> Span {
    Span { first: 0, last: disk.granules() - 1 }
}

fn words(disk: &Disk) -> usize {
    (disk.granules() / 64) as usize
}

fn clean(disk: &Disk) -> Words {
    let mut clean = roomy(words(disk));
    clean.resize(words(disk), 0);
    Words(clean)
}

impl Engine for Flat {
    type Bitmap = Words;
    type Opened<'a> = &'a [u64];

    const NAME: &'static str = "flat";
    const SHAPE: Shape = Shape::Flat;

    fn build(input: &Input, disk: &Disk) -> Words {
        let mut bitmap = clean(disk);
        input.write_words(&mut bitmap.0);
        bitmap
    }

    fn cardinality(bitmap: &Words) -> u64 {
        count_words(&bitmap.0)
    }

    fn unions(count: usize) -> Vec<Form<Union<Words>>> {
        let mut forms: Vec<Form<Union<Words>>> =
            vec![Form::new("in place, one by one", Union::InPlace(|sum, other| or_into(&mut sum.0, &other.0)))];
        if count > 2 {
            forms.push(Form::new(
                "one pass, huge pages",
                Union::New(|bitmaps| {
                    let mut sum = roomy(bitmaps[0].0.len());
                    or_all(bitmaps, &mut sum);
                    Words(sum)
                }),
            ));
            forms.push(Form::new(
                "one pass, small pages",
                Union::New(|bitmaps| {
                    let mut sum = Vec::with_capacity(bitmaps[0].0.len());
                    or_all(bitmaps, &mut sum);
                    Words(sum)
                }),
            ));
        }
        forms
    }

    fn counts() -> Vec<Form<Count<Words>>> {
        vec![Form::new("popcount", |bitmap, _, spans| count_each(spans, |span| count(&bitmap.0, span)))]
    }

    fn extents() -> Vec<Form<Walk<Words>>> {
        vec![Form::new("edges", |bitmap, disk, sum| tally(&bitmap.0, whole(disk), sum))]
    }

    fn windows() -> Vec<Form<WalkSpans<Words>>> {
        vec![Form::new("edges", |bitmap, _, spans, sum| {
            for &span in spans {
                tally(&bitmap.0, span, sum);
                sum.end_list();
            }
        })]
    }

    fn saves() -> Vec<Form<Save<Words>>> {
        vec![Form::new("copy", |bitmap| {
            let mut bytes = roomy(bitmap.0.len() * 8);
            // SAFETY: every bit pattern is a `u8`, whose alignment is 1; the bytes are those of the slice.
            bytes.extend_from_slice(unsafe { bitmap.0.align_to::<u8>().1 });
            bytes.into()
        })]
    }

    fn opens() -> Vec<Form<Open<Self>>> {
        vec![Form::new(
            "in the bytes",
            Open {
                saved_by: "copy",
                open: |bytes, disk| {
                    // SAFETY: every bit pattern is a `u64`.
                    let opened = unsafe { bytes.align_to::<u64>().1 };
                    assert_eq!(opened.len(), words(disk), "the bytes begin at a multiple of 8");
                    opened
                },
            },
        )]
    }

    fn marks() -> Vec<Form<Mark<Words>>> {
        vec![Form::new("set bits", |disk, writes| {
            let mut bitmap = clean(disk);
            for span in writes.iter().map(|write| write.granules(disk)) {
                set_bits(&mut bitmap.0, span.first, span.last);
            }
            bitmap
        })]
    }

    fn count_opened(opened: &&[u64], _: &Disk, span: Span) -> u64 {
        count(opened, span)
    }

    fn tally_opened(opened: &&[u64], disk: &Disk) -> Tally {
        let mut sum = Tally::default();
        tally(opened, whole(disk), &mut sum);
        sum
    }
}
