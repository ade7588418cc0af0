//! Segments in bounded memory: opening, querying and merging take what they say, whatever the files hold or claim.

#[path = "support/counting.rs"]
mod counting;

use checkmap::io::{FileStorage, Storage};
use checkmap::progress::Unobserved;
use checkmap::segment::{self, MergeOptions};
use checkmap::{Bitmap, Granularity, Segment};
use counting::{alone, peak};
use std::fs::File;
use std::io::{self, BufWriter};
use std::sync::Arc;

const CHUNKS: u64 = 3000;
const SIZE: u64 = CHUNKS << 28;

/// A segment in a file without a name, and every `step`-th granule dirty.
fn segment(step: usize) -> Segment<'static> {
    let mut chunk = vec![0; 8192];
    (0..65536).step_by(step).for_each(|bit| chunk[bit / 8] |= 1 << (bit % 8));
    segment_of(&chunk)
}

/// A segment in a file without a name, with these bits in every chunk.
fn segment_of(chunk: &[u8]) -> Segment<'static> {
    segment_at(12, chunk)
}

/// The same at another granularity.
fn segment_at(bits: u32, chunk: &[u8]) -> Segment<'static> {
    let granularity = Granularity::from_bits(bits).unwrap();
    let mut bitmap = Bitmap::new(SIZE, granularity).unwrap();
    (0..bitmap.granules().div_ceil(1 << 16)).for_each(|number| bitmap.set_bits(number << (16 + bits), chunk).unwrap());
    let mut file = tempfile::tempfile().unwrap();
    segment::write(&bitmap, &mut file).unwrap();
    Segment::open(Arc::new(FileStorage::new(file).unwrap())).unwrap()
}

#[test]
fn a_merge_takes_no_more_than_its_limit_and_the_new_directory() {
    let _alone = alone();
    let segments = [2, 3, 5, 7, 40].map(segment);
    let read = assert_limits(&segments);
    assert!(read > 60 << 20, "{read} bytes are too little to prove anything");
}

#[test]
fn a_merge_that_writes_more_than_it_reads_keeps_to_its_limit_too() {
    let _alone = alone();
    // 800 runs in 400 bytes are sparse. With 40 of them joined to others, runs are written, which take four times as much.
    let with = |count: usize, byte: u8| segment_of(&[vec![byte; count], vec![0; 8192 - count]].concat());
    let segments = [with(400, 0b0110_0110), with(40, 0b0001_1000)];
    let (many, few) = (segments[0].forms().unwrap(), segments[1].forms().unwrap());
    assert_eq!((many.sparse, few.sparse), (CHUNKS, 0));
    let mut out = BufWriter::new(io::sink());
    let refs: Vec<&Segment> = segments.iter().collect();
    let merged = segment::merge(&refs, &mut out, &MergeOptions::default(), &mut Unobserved).unwrap();
    assert!(merged.file_bytes > 3 * assert_limits(&segments));
}

#[test]
fn a_merge_of_coarse_segments_keeps_to_its_limit_too() {
    let _alone = alone();
    // At 4 KiB, each of these is made anew: as words, as a few runs, as stretches of full chunks.
    assert_limits(&[segment(40), segment_at(15, &[0b0101_0101; 8192])]);
    assert_limits(&[segment(40), segment_at(22, &[0b0011_0011; 8192])]);
    assert_limits(&[segment(40), segment_at(30, &[0b0001_0001; 8192])]);
    assert_limits(&[segment_at(25, &[0b0100_0100; 8192]), segment_at(20, &[0b0110_0110; 8192]), segment_at(12, &[1])]);
}

/// Merges with several limits; the bytes of all inputs.
fn assert_limits(segments: &[Segment<'_>]) -> u64 {
    let segments: Vec<&Segment> = segments.iter().collect();
    let read: u64 = segments.iter().map(|segment| segment.summary().file_bytes).sum();
    // The directories of the inputs come on top, and stay.
    assert!(segments.iter().all(|segment| segment.forms().unwrap().full == 0));
    for (memory, threads) in [(1 << 20, 0), (1 << 20, 2), (8 << 20, 4), (64 << 20, 2), (64 << 20, 16)] {
        let mut options = MergeOptions::default();
        (options.memory_bytes, options.threads) = (memory, threads);
        let mut file = File::options().write(true).open("/dev/null").unwrap();
        let (peak, summary) = peak(|| segment::merge(&segments, &mut file, &options, &mut Unobserved).unwrap());
        // The directory doubles as it grows, and the old half is freed only then.
        let directory = 3 * 40 * summary.entries;
        // What a thread itself takes is small.
        let most = memory + directory + (threads as u64 * 4096) + 4096;
        eprintln!("{memory} bytes, {threads} threads: {peak}, at most {most}");
        assert!(peak as u64 <= most, "{memory} bytes, {threads} threads: {peak} above {most}");
    }
    read
}

#[test]
fn opening_and_querying_take_the_directory_and_a_few_containers() {
    let _alone = alone();
    let segment = segment(2);
    let file_bytes = segment.summary().file_bytes;
    assert!(file_bytes > 20 << 20);
    let (took, again) = peak(|| segment.clone());
    assert!(took as u64 <= 40 * CHUNKS + 4096, "{took}");
    drop(again);
    let (took, _) = peak(|| {
        segment.count_range(4096, SIZE - 8192).unwrap();
        segment.next_dirty(SIZE / 2, u64::MAX).unwrap();
        segment.extents(0, u64::MAX).map(|extent| extent.unwrap().len_bytes).sum::<u64>()
    });
    assert!(took < 2 << 20, "queries took {took}");
    let (took, _) = peak(|| segment.check(&mut Unobserved).unwrap());
    assert!(took < 1 << 20, "the check took {took}");
    let mut out = BufWriter::new(io::sink());
    let window = segment.load(0, SIZE / 100).unwrap();
    let (took, _) = peak(|| segment::write(&window, &mut out).unwrap());
    assert!(took < 2 << 20, "writing took {took}");
}

/// A file that is as long as it says, with a header and a trailer; all else is a hole.
#[derive(Debug)]
struct Hole {
    len: u64,
    start: Vec<u8>,
    end: Vec<u8>,
}

impl Storage for Hole {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = usize::try_from(self.len.saturating_sub(offset)).unwrap().min(buffer.len());
        for (at, byte) in (offset..).zip(&mut buffer[..count]) {
            let end = at
                .checked_sub(self.len - self.end.len() as u64)
                .and_then(|at| self.end.get(usize::try_from(at).unwrap()));
            *byte = *usize::try_from(at).ok().and_then(|at| self.start.get(at)).or(end).unwrap_or(&0);
        }
        Ok(count)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::Error::from_raw_os_error(28))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn can_grow(&self) -> bool {
        true
    }
}

#[test]
fn a_segment_that_claims_more_entries_than_it_has_makes_us_allocate_no_more_than_its_file() {
    let _alone = alone();
    let empty = Bitmap::new(1 << 41, Granularity::from_bits(0).unwrap()).unwrap();
    let mut bytes = Vec::new();
    segment::write(&empty, &mut bytes).unwrap();
    for (entries, len) in
        [(0, 128_u64), (1 << 25, 128), (u64::MAX / 40, 4096), (100_000, 4_000_128), (1 << 25, (40 << 25) + 128)]
    {
        let mut end = bytes[64..].to_vec();
        end[32..40].copy_from_slice(&entries.to_le_bytes());
        end[24..32].copy_from_slice(&64_u64.to_le_bytes());
        end[48..56].copy_from_slice(&len.to_le_bytes());
        let sum = crc32c::crc32c(&end[..56]);
        end[56..60].copy_from_slice(&sum.to_le_bytes());
        let hole = Arc::new(Hole { len, start: bytes[..64].to_vec(), end });
        let (took, opened) = peak(|| Segment::open(hole).is_ok());
        assert_eq!(opened, entries == 0);
        assert!(took as u64 <= len + (512 << 10), "{entries} entries in {len} bytes took {took}");
    }
}
