//! What the border to C costs: every extent of a bitmap by the Rust iterator, and by calls of C in batches, in one run. Each
//! round checks that both give the same. `cargo bench --features capi --bench c_calls` prints medians and their ratio.

#![allow(clippy::print_stdout, reason = "what was measured is printed")]

use checkmap::capi::bitmap::{checkmap_bitmap, checkmap_bitmap_extents, checkmap_bitmap_free};
use checkmap::capi::bits::checkmap_bitmap_deserialize;
use checkmap::capi::values::checkmap_extent;
use checkmap::{Bitmap, Extent, Granularity};
use std::hint::black_box;
use std::ptr;
use std::time::{Duration, Instant};

const BATCH: usize = 4096;
const ROUNDS: usize = 201;

/// Dirty granules by a fixed sequence: `runs` of 1 to `longest` granules.
fn bitmap(runs: u64, longest: u64, gap: u64) -> Bitmap {
    let granularity = Granularity::from_bytes(65536).expect("a granularity");
    let mut bitmap = Bitmap::new(1 << 50, granularity).expect("a disk");
    let (mut at, mut random) = (0, 0x2545_f491_4f6c_dd1d_u64);
    for _ in 0..runs {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let run = 1 + random % longest;
        bitmap.set(at << 16, run << 16).expect("inside of the disk");
        at += run + 1 + (random >> 32) % gap;
    }
    bitmap.optimize().expect("there is memory");
    bitmap
}

/// What both ways compute: a sum in which every extent's place counts.
fn add(sum: u64, offset: u64, length: u64) -> u64 {
    sum.rotate_left(1) ^ offset ^ length.rotate_left(32)
}

fn native(bitmap: &Bitmap) -> u64 {
    bitmap.extents(0, u64::MAX).fold(0, |sum, extent| add(sum, extent.offset, extent.len_bytes))
}

/// As a Rust program does it that wants batches too.
fn native_in_batches(bitmap: &Bitmap, room: &mut Vec<Extent>) -> u64 {
    let mut extents = bitmap.extents(0, u64::MAX);
    let mut sum = 0;
    loop {
        room.clear();
        room.extend(extents.by_ref().take(BATCH));
        sum = room.iter().fold(sum, |sum, extent| add(sum, extent.offset, extent.len_bytes));
        if room.len() < BATCH {
            return sum;
        }
    }
}

fn by_c(handle: *const checkmap_bitmap, room: &mut [checkmap_extent]) -> u64 {
    let (mut sum, mut offset) = (0, 0);
    loop {
        // SAFETY: the handle is live, and the room is as long as is said.
        let count = unsafe { checkmap_bitmap_extents(handle, offset, u64::MAX, room.as_mut_ptr(), room.len()) };
        let count = usize::try_from(count).expect("no error");
        for extent in &room[..count] {
            sum = add(sum, extent.offset, extent.length);
            offset = extent.offset + extent.length;
        }
        if count < room.len() {
            return sum;
        }
    }
}

fn main() {
    // The order of one run after the other decides nothing: both are measured in turns.
    for (name, runs, longest, gap) in [
        ("scattered granules", 1_000_000, 1, 200),
        ("dense granules", 2_000_000, 1, 3),
        ("long runs", 200_000, 400, 400),
    ] {
        let bitmap = bitmap(runs, longest, gap);
        let mut bytes = Vec::new();
        bitmap.write_roaring(&mut bytes).expect("memory");
        let mut handle = ptr::null_mut();
        // SAFETY: the bytes are as long as is said, and the place for the handle is ours.
        let status =
            unsafe { checkmap_bitmap_deserialize(bytes.as_ptr(), bytes.len(), 1 << 50, 65536, &raw mut handle) };
        assert_eq!(status, 0);
        let mut room = vec![checkmap_extent { offset: 0, length: 0, flags: 0, reserved: 0 }; BATCH];
        let mut batch = Vec::with_capacity(BATCH);
        let mut times = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            let mut sums = [0; 3];
            let mut measure = |which: usize, sum: &mut dyn FnMut() -> u64| {
                let start = Instant::now();
                sums[which] = black_box(sum());
                times[which].push(start.elapsed());
            };
            measure(0, &mut || native(black_box(&bitmap)));
            measure(1, &mut || native_in_batches(black_box(&bitmap), &mut batch));
            measure(2, &mut || by_c(black_box(handle), &mut room));
            assert_eq!([sums[0]; 2], sums[1..]);
        }
        // SAFETY: the handle is live, and nobody uses it any more.
        unsafe { checkmap_bitmap_free(handle) };
        let medians = times.map(|mut times| {
            times.sort();
            times[ROUNDS / 2]
        });
        let [iterator, batches, c] = medians;
        let ratio = |of: Duration| c.as_secs_f64() / of.as_secs_f64();
        println!(
            "{name:<20} iterator {iterator:>9.1?}  batches {batches:>9.1?}  C {c:>9.1?}: {:.3} and {:.3} times",
            ratio(iterator),
            ratio(batches)
        );
    }
}
