//! Random maps, split at random by the server, against a list of stretches.

use crate::support::nbd_server::{Context, Server};
use crate::support::random::Random;
use crate::talk;
use checkmap::nbd::{Status, context_of};
use checkmap::progress::Unobserved;
use checkmap::{Bitmap, Extent, Granularity};

const ROUNDS: u64 = 400;

/// Stretches that alternate between clean and dirty, in multiples of the granularity except the last one.
fn runs(random: &mut Random, size: u64, granularity: u64) -> Vec<(u64, u64)> {
    let (mut runs, mut at) = (Vec::new(), 0);
    let most = (size / granularity / (1 + random.below(40))).max(1);
    let mut flags = random.below(2);
    while at < size {
        let len = ((1 + random.below(most)) * granularity).min(size - at);
        runs.push((len, flags));
        at += len;
        flags ^= 1;
    }
    runs
}

/// The dirty stretches inside a window.
fn dirty(runs: &[(u64, u64)], window: Extent) -> Vec<Extent> {
    let mut end = 0;
    let clipped = runs.iter().filter_map(|(len, flags)| {
        end += len;
        let (from, to) = ((end - len).max(window.offset), end.min(window.end()));
        (*flags == 1 && from < to).then(|| Extent { offset: from, len_bytes: to - from })
    });
    clipped.collect()
}

#[test]
fn every_way_to_split_an_answer_gives_the_same_maps() {
    let mut random = Random::seeded(16);
    for round in 0..ROUNDS {
        let min_block = 1_u64 << *random.pick(&[0, 0, 9, 12, 16]);
        // As in QEMU, a bitmap may be finer than the export's blocks.
        let granularities: Vec<u64> = (0..1 + random.below(4)).map(|_| 512 << random.below(8)).collect();
        // Beyond 4 GiB a window takes several requests without extended headers.
        let most = if random.chance(2) { 1 << 10 } else { (20 << 30) / min_block };
        let blocks = 1 + random.below(most);
        let size = blocks * min_block + if random.chance(3) { random.below(min_block) } else { 0 };
        let contexts: Vec<Context> = granularities
            .iter()
            .enumerate()
            .map(|(number, granularity)| Context {
                name: context_of(format!("map {number}").as_bytes()).expect("memory"),
                runs: runs(&mut random, size, *granularity),
            })
            .collect();
        let start = if random.chance(2) { 0 } else { random.below(size) };
        let length = if random.chance(2) { u64::MAX } else { 1 + random.below(size) };
        let window = Extent { offset: start, len_bytes: length.min(size - start) };
        let mut server = Server::new(size, contexts.clone());
        server.min_block = u32::try_from(min_block).expect("small blocks");
        server.extended = random.chance(2);
        server.random = Some(Random::from_seed(random.next()));

        let wanted: Vec<Option<Granularity>> =
            granularities.iter().map(|bytes| Some(Granularity::from_bytes(*bytes).expect("a granularity"))).collect();
        let names: Vec<&[u8]> = contexts.iter().map(|context| &context.name[..]).collect();
        let mut statuses: Vec<Status> = Vec::new();
        let (bitmaps, seen) = talk(server, &names, |client| {
            let bitmaps = client.dirty_bitmaps(start, length, &wanted, &mut Unobserved)?;
            let mut keep = |status| {
                statuses.push(status);
                Ok(())
            };
            client.block_status(start, length, &mut keep, &mut Unobserved)?;
            Ok(bitmaps)
        });
        let bitmaps = bitmaps.unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert!(seen.farewell, "round {round}");
        assert_eq!(bitmaps.len(), contexts.len());
        for (place, (bitmap, context)) in bitmaps.iter().zip(&contexts).enumerate() {
            let mut naive = Bitmap::new(size, wanted[place].expect("told")).expect("a disk");
            let dirty = dirty(&context.runs, window);
            dirty.iter().for_each(|extent| naive.set(extent.offset, extent.len_bytes).expect("inside the disk"));
            assert!(*bitmap == naive, "round {round}, context {place}");
            bitmap.validate().expect("a bitmap keeps its rules");
            assert!(bitmap.extents(start, length).eq(dirty.iter().copied()), "round {round}, context {place}");
            // The stretches cover the window, and no two that touch are alike.
            let told: Vec<&Status> = statuses.iter().filter(|status| status.context == place).collect();
            let mut at = window.offset;
            for status in &told {
                assert_eq!(status.extent.offset, at, "round {round}");
                at = status.extent.end();
            }
            assert_eq!(at, window.end(), "round {round}");
            assert!(told.windows(2).all(|two| two[0].flags != two[1].flags), "round {round}");
            let told = told.iter().filter(|status| status.flags == 1).map(|status| status.extent);
            assert!(told.eq(dirty.iter().copied()), "round {round}, context {place}");
        }
    }
}

/// A disk of 16 TiB with dirty stretches of 64 KiB.
fn large(stretches: u64) -> Context {
    let size = 16_u64 << 40;
    let every = ((size / stretches) >> 16) << 16;
    let mut runs: Vec<(u64, u64)> = (0..stretches).flat_map(|_| [(every - 65536, 0), (65536, 1)]).collect();
    let rest = size - every * stretches;
    runs.push((rest, 0));
    runs.retain(|(len, _)| *len > 0);
    Context { name: b"qemu:dirty-bitmap:mon".to_vec(), runs }
}

#[test]
fn a_large_disk_takes_one_request_or_as_many_as_32_bits_need() {
    let context = large(2000);
    for (extended, requests) in [(true, 1), (false, 4097)] {
        let mut server = Server::new(16 << 40, vec![context.clone()]);
        server.extended = extended;
        let (bitmaps, seen) = talk(server, &[&context.name], |client| {
            assert_eq!(client.has_extended_headers(), extended);
            client.dirty_bitmaps(0, u64::MAX, &[None], &mut Unobserved)
        });
        let bitmap = bitmaps.expect("an answer").remove(0);
        assert_eq!((bitmap.dirty_bytes(), bitmap.granularity().bytes()), (2000 * 65536, 65536));
        assert_eq!(seen.requests.len(), requests);
    }
}

#[test]
fn a_granularity_that_is_not_told_is_the_largest_that_fits_all_bounds() {
    let name = b"qemu:dirty-bitmap:mon";
    for (size, runs, expected) in [
        (1 << 30, vec![(1 << 30, 0)], 65536),
        (1 << 30, vec![(1 << 30, 1)], 65536),
        (1 << 30, vec![(1 << 20, 1), ((1 << 30) - (1 << 20), 0)], 65536),
        (1 << 30, vec![(12288, 1), ((1 << 30) - 12288, 0)], 4096),
        // The end of the disk is no bound.
        ((1 << 20) + 512, vec![(1 << 20, 0), (512, 1)], 65536),
        ((1 << 20) + 512, vec![(1 << 20, 1), (512, 0)], 65536),
        // A bound that QEMU would not have: rounded outward.
        (1 << 20, vec![(700, 1), ((1 << 20) - 700, 0)], 512),
        // More than 2^41 granules of 512 bytes.
        (1 << 51, vec![(512, 1), ((1 << 51) - 512, 0)], 1024),
    ] {
        let context = Context { name: name.to_vec(), runs: runs.clone() };
        let server = Server::new(size, vec![context]);
        let (bitmaps, _) = talk(server, &[name], |client| client.dirty_bitmaps(0, u64::MAX, &[None], &mut Unobserved));
        let bitmap = bitmaps.expect("an answer").remove(0);
        assert_eq!(bitmap.granularity().bytes(), expected, "{runs:?}");
        for extent in dirty(&runs, Extent { offset: 0, len_bytes: size }) {
            assert_eq!(bitmap.next_clean(extent.offset, extent.len_bytes), None, "{runs:?}");
        }
    }
}
