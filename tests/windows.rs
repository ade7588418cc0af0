#![forbid(unsafe_code)]
//! A window of a diff says of its part of the disk what the whole diff says: at every edge of a cluster of bits and of the
//! disk, and anywhere else. A cluster of bits that is not read would be a missed block.

mod support;

use checkmap::image::{Access, DiffRequest, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::{Extent, Image};
use support::random::Random;
use support::{TestImage, nbd};

/// With clusters of 512 bytes, one of them holds the bits of 4096 granules.
const GRANULES: u64 = 512 * 8;

/// Seventy-odd clusters of the finest bits, so that threads have work, and a last one that is neither full nor whole.
const SIZE: u64 = 75 * GRANULES * 512 + 77 * 512;

fn image() -> TestImage {
    let image = TestImage::create("cluster_size=512", &SIZE.to_string());
    let mut random = Random::seeded(31);
    for (name, granularity) in [("mon", "512"), ("mon->tue", "4096")] {
        if name != "mon" {
            image.bitmap(&["--disable"], "mon");
        }
        image.bitmap(&["--add", "-g", granularity], name);
        let covered = GRANULES * granularity.parse::<u64>().expect("a number");
        let edges = (1..=SIZE / covered).flat_map(|number| [number * covered - 512, number * covered]);
        let some_edges: Vec<u64> = edges.chain([0, SIZE - 512]).filter(|_| !random.chance(3)).collect();
        // Where nothing is allocated a discard marks and writes nothing.
        let mut writes: Vec<String> = some_edges.iter().map(|at| format!("discard {at} 512")).collect();
        writes.extend((0..100).map(|_| {
            let at = random.below(SIZE / 512 - 1) * 512;
            format!("discard {at} {}", (1 + random.below(40) * 512).min(SIZE - at).next_multiple_of(512))
        }));
        image.io(&writes);
    }
    image
}

fn diff(image: &Image, since: &str, until: Option<&str>, offset: u64, len_bytes: u64) -> checkmap::Bitmap {
    let (since, until) = (since.as_bytes(), until.map(str::as_bytes));
    let request = {
        let request = DiffRequest::since(since).window(offset, len_bytes);
        until.map_or(request, |until| request.until(until))
    };
    image.diff(&request, &mut Unobserved).expect("a diff").bitmap
}

/// Windows that begin or end in the last granules before each bound of a cluster of bits, or just behind it; then any.
fn windows(granularity: u64, random: &mut Random) -> Vec<(u64, u64)> {
    let covered = GRANULES * granularity;
    let mut windows = vec![(0, 1), (0, SIZE), (0, u64::MAX), (SIZE - 1, 1), (SIZE - 1, u64::MAX)];
    for bound in (1..=SIZE / covered).map(|number| number * covered) {
        for (before, len_bytes) in [(1, 1), (1, 2), (512, 512), (granularity, granularity + 1), (covered, covered)] {
            windows.push((bound - before, len_bytes));
        }
        windows.push((bound, 1));
        windows.push((bound - covered / 2, covered));
    }
    windows.extend((0..200).map(|_| {
        let offset = random.below(SIZE);
        (offset, 1 + random.below(SIZE - offset))
    }));
    windows
}

#[test]
fn each_window_of_a_diff_is_a_part_of_the_whole() {
    if !support::tools_are_here() {
        return;
    }
    let image = image();
    let mut random = Random::seeded(32);
    for threads in [0, 4] {
        let image = Image::open(&image.path, &OpenOptions::new(Access::Read).threads(threads)).expect("it opens");
        for (since, until, granularity) in [("mon", Some("tue"), 512), ("tue", None, 4096), ("mon", None, 512)] {
            let whole = diff(&image, since, until, 0, u64::MAX);
            assert!(whole.dirty_granules() > 50, "enough to miss");
            for (offset, len_bytes) in windows(granularity, &mut random) {
                let window = diff(&image, since, until, offset, len_bytes);
                let of = |bitmap: &checkmap::Bitmap| bitmap.extents(offset, len_bytes).collect::<Vec<Extent>>();
                assert_eq!(of(&window), of(&whole), "{threads} threads, {since} to {until:?}: {offset} + {len_bytes}");
            }
        }
    }
}

#[test]
fn the_whole_is_what_qemu_reads() {
    if !support::tools_are_here() {
        return;
    }
    let image = image();
    let opened = Image::open(&image.path, &OpenOptions::new(Access::Read)).expect("it opens");
    for (since, until, bitmap) in [("mon", Some("tue"), "mon"), ("tue", None, "mon->tue")] {
        let whole: Vec<Extent> = diff(&opened, since, until, 0, u64::MAX).extents(0, u64::MAX).collect();
        assert_eq!(whole, nbd::dirty(&image.path, bitmap), "{bitmap}");
    }
}
