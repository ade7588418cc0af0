#![forbid(unsafe_code)]
//! Every set of kernels that this CPU can run, against loops over plain booleans and lists.
#![allow(clippy::cast_possible_truncation, reason = "positions of a chunk are below 65536")]

use checkmap::Extent;
use checkmap::kernels::{
    BLOCK, ChunkOperation, EDGES, FEW, FEW_RUNS, GROUP, Kernels, ListOperation, MASKS, Measure, Pair, ROOM, RUN_BLOCK,
    SPARSE_ROOM, WORDS, Words, all_available, select,
};
use proptest::prelude::*;
use proptest::sample::select as choose;
use std::collections::BTreeSet;

/// One case of 23, and fewer places in each, where Miri runs them: it is a thousand times slower than the
/// machine.
const THIN: usize = if cfg!(miri) { 23 } else { 1 };
/// There one round with runs, of few positions each.
const ROUND: usize = if cfg!(miri) { 1003 } else { 1 };
const PLACES: usize = if cfg!(miri) { 2 } else { 40 };
const CASES: u32 = if cfg!(miri) { 1 } else { 400 };

/// The sets of kernels to try; under Miri the chosen one.
fn sets() -> Vec<&'static Kernels> {
    if cfg!(miri) { vec![select()] } else { all_available() }
}

fn words_of(list: &[u16]) -> Box<Words> {
    let mut words = Box::new([0; WORDS]);
    list.iter().for_each(|&item| words[usize::from(item) / 64] |= 1 << (item % 64));
    words
}

fn list_of(words: &Words) -> Vec<u16> {
    (0..=u16::MAX).filter(|&item| words[usize::from(item) / 64] >> (item % 64) & 1 == 1).collect()
}

/// The runs of a list, inclusive.
fn runs_of(list: &[u16]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for item in list.iter().map(|&item| u32::from(item)) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == item => *last = item,
            _ => runs.push((item, item)),
        }
    }
    runs
}

fn measure_of(list: &[u16]) -> Measure {
    Measure { ones: list.len() as u32, runs: runs_of(list).len() as u32 }
}

/// Runs `fill` on a slice whose length is just enough, and whose start is anywhere.
fn filled<T: Copy>(most: usize, start: usize, with: T, fill: impl FnOnce(&mut [T]) -> usize) -> Vec<T> {
    let mut out = vec![with; start + most + ROOM];
    let len = fill(&mut out[start..]);
    out[start..start + len].to_vec()
}

fn check_words(kernels: &Kernels, a: &[u16], b: &[u16]) {
    let (x, y) = (words_of(a), words_of(b));
    let (ours, theirs): (BTreeSet<u16>, BTreeSet<u16>) = (a.iter().copied().collect(), b.iter().copied().collect());
    let cases: [(ChunkOperation, Vec<u16>); 4] = [
        (kernels.or, (&ours | &theirs).into_iter().collect()),
        (kernels.and, (&ours & &theirs).into_iter().collect()),
        (kernels.and_not, (&ours - &theirs).into_iter().collect()),
        (kernels.xor, (&ours ^ &theirs).into_iter().collect()),
    ];
    for (kernel, expected) in cases {
        let mut sum = x.clone();
        assert_eq!(kernel(&mut sum, &y), measure_of(&expected), "{:?}", kernels.level);
        assert!(list_of(&sum) == expected);
        assert_eq!((kernels.measure)(&sum), measure_of(&expected));
    }
    let mut sum = x.clone();
    (kernels.or_only)(&mut sum, &y);
    assert!((kernels.is_subset)(&x, &sum));
    assert_eq!((kernels.is_subset)(&x, &y), ours.is_subset(&theirs));
    let (mut folded, mut doubled) = ([0; WORDS / 2], Box::new([0; WORDS]));
    (kernels.fold)(&x[..], &mut folded);
    (kernels.unfold)(&folded, &mut doubled[..]);
    let pairs = |item: u16| [item & !1, item | 1];
    let both: BTreeSet<u16> = a.iter().flat_map(|&item| pairs(item)).collect();
    assert!(list_of(&doubled).into_iter().eq(both), "{:?}", kernels.level);
    let is_set = |item: usize| folded[item / 64] >> (item % 64) & 1 == 1;
    assert!(
        (0..32_768)
            .filter(|&item| is_set(item))
            .eq(a.iter().map(|item| usize::from(item / 2)).collect::<BTreeSet<_>>())
    );
    let mut scattered = x.clone();
    (kernels.scatter)(b, &mut scattered);
    assert!(scattered == sum);
    assert!(filled(a.len(), 1, 0, |out| (kernels.positions)(&x, out)) == a);
    for room in [0, ROOM - 1, ROOM, ROOM + 1, a.len() / 2] {
        let mut out = vec![0; room];
        let count = (kernels.positions)(&x, &mut out);
        assert!(out[..count] == a[..count] && (count == a.len() || count + ROOM > room), "{:?}", kernels.level);
    }
}

/// The bytes of words that are not 0, behind the masks that say which they are.
fn packed(words: &Words) -> Vec<u8> {
    let kept = |bytes: &[u8]| bytes.iter().copied().filter(|&byte| byte != 0).collect::<Vec<u8>>();
    let masks = |bytes: &[u8]| -> Vec<u8> {
        bytes.chunks(8).map(|eight| (0..8).map(|place| u8::from(eight[place] != 0) << place).sum()).collect()
    };
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let lower = masks(&bytes);
    [masks(&lower), kept(&lower), kept(&bytes)].concat()
}

fn check_packing(kernels: &Kernels, a: &[u16], b: &[u16]) {
    let words = words_of(a);
    let mut out = vec![7; SPARSE_ROOM];
    let len = (kernels.pack)(&words, &mut out);
    assert!(out[..len] == packed(&words), "{:?}", kernels.level);
    assert_eq!((kernels.packed_len)(&words), len, "{:?}", kernels.level);
    assert_eq!(
        (kernels.byte_ones)(&out[MASKS..len]),
        out[MASKS..len].iter().map(|byte| byte.count_ones()).sum::<u32>()
    );
    let (mut both, mut sum) = (words_of(b), words.clone());
    (kernels.spread)(&out[..len], &mut both);
    (kernels.or_only)(&mut sum, &words_of(b));
    assert!(both == sum, "{:?}", kernels.level);
    (kernels.unpack)(&out[..len], &mut both);
    assert!(both == words, "{:?}", kernels.level);
}

fn check_lists(kernels: &Kernels, a: &[u16], b: &[u16], start: usize) {
    let (ours, theirs): (BTreeSet<u16>, BTreeSet<u16>) = (a.iter().copied().collect(), b.iter().copied().collect());
    let both = a.len() + b.len();
    let cases: [(ListOperation, usize, BTreeSet<u16>); 4] = [
        (kernels.unite, both, &ours | &theirs),
        (kernels.intersect, a.len(), &ours & &theirs),
        (kernels.subtract, a.len(), &ours - &theirs),
        (kernels.xor_lists, both, &ours ^ &theirs),
    ];
    for (kernel, most, expected) in cases {
        let found = filled(most, start, 7, |out| kernel(a, b, out));
        assert!(found.into_iter().eq(expected), "{:?}: {a:?} {b:?}", kernels.level);
    }
    assert_eq!((kernels.list_runs)(a), runs_of(a).len());
    assert!((kernels.is_ascending)(a));
    assert_eq!((kernels.ascending_runs)(a), Some(runs_of(a).len()), "{:?}", kernels.level);
    let block: Vec<u16> = a.iter().copied().chain(std::iter::repeat(u16::MAX)).take(BLOCK).collect();
    let mut room = [7; BLOCK];
    (kernels.block)(a, &mut room);
    assert_eq!(room[..], block, "{:?}", kernels.level);
    for place in 1..a.len().min(PLACES) {
        let mut broken = a.to_vec();
        broken.swap(place - 1, place);
        assert!(!(kernels.is_ascending)(&broken));
        assert_eq!((kernels.ascending_runs)(&broken), None, "{:?}", kernels.level);
        broken[place] = broken[place - 1];
        assert!(!(kernels.is_ascending)(&broken));
        assert_eq!((kernels.ascending_runs)(&broken), None, "{:?}", kernels.level);
    }
    check_runs(kernels, a, b, start);
}

/// What `load_runs` makes of runs, each serialized as its first position and how many follow.
fn load_runs(kernels: &Kernels, runs: &[Pair]) -> (Option<u32>, Vec<Pair>) {
    let save = |&[first, last]: &Pair| bytemuck::cast([first.to_le(), last.wrapping_sub(first).to_le()]);
    let saved: Vec<[u8; 4]> = runs.iter().map(save).collect();
    let mut out = vec![[7, 7]; runs.len() + 1];
    let ones = (kernels.load_runs)(&saved, &mut out);
    assert_eq!(out.pop(), Some([7, 7]), "{:?}", kernels.level);
    (ones, out)
}

fn check_runs(kernels: &Kernels, a: &[u16], b: &[u16], start: usize) {
    let pairs = |list: &[u16]| -> Vec<Pair> {
        runs_of(list).iter().map(|&(first, last)| [first as u16, last as u16]).collect()
    };
    let (x, y) = (pairs(a), pairs(b));
    let both: Vec<u16> = a.iter().chain(b).copied().collect::<BTreeSet<u16>>().into_iter().collect();
    let found = filled(x.len() + y.len(), start, [7, 7], |out| (kernels.unite_runs)(&x, &y, out));
    assert!(found == pairs(&both), "{:?}", kernels.level);
    let found = filled(x.len(), start, [7, 7], |out| (kernels.runs)(&words_of(a), out));
    assert!(found == x, "{:?}", kernels.level);
    assert_eq!((kernels.run_ones)(&x) as usize, a.len(), "{:?}", kernels.level);
    for (first, end) in [(0, 65_536), (0, 0), (start, 1000), (700, 65_535), (30_000, 30_001), (65_535, 65_536)] {
        let within = a.iter().filter(|bit| (first..end).contains(&usize::from(**bit))).count();
        assert_eq!((kernels.run_ones_within)(&x, first as u32, end as u32) as usize, within, "{:?}", kernels.level);
    }
    let common: Vec<u16> = a.iter().copied().filter(|item| b.binary_search(item).is_ok()).collect();
    let rest: Vec<u16> = a.iter().copied().filter(|item| b.binary_search(item).is_err()).collect();
    let found = filled(x.len() + y.len(), start, [7, 7], |out| (kernels.intersect_runs)(&x, &y, out));
    assert!(found == pairs(&common), "{:?}", kernels.level);
    for (kept, expected) in [(true, common), (false, rest)] {
        let found = filled(a.len(), start, 7, |out| (kernels.filter_by_runs)(a, &y, kept, out));
        assert!(found == expected, "{:?}", kernels.level);
        let found = filled(a.len(), start, 7, |out| (kernels.filter)(a, &words_of(b), kept, out));
        assert!(found == expected, "{:?}", kernels.level);
    }
    let mut flipped = words_of(b);
    (kernels.flip)(a, &mut flipped);
    let mut exclusive = words_of(b);
    (kernels.xor)(&mut exclusive, &words_of(a));
    assert!(flipped == exclusive, "{:?}", kernels.level);
    let blocks = x.as_chunks::<RUN_BLOCK>().0;
    let mut saved = vec![[7; 4 * RUN_BLOCK]; blocks.len() + start];
    (kernels.save_runs)(blocks, &mut saved);
    let (bytes, beyond) = saved.as_flattened().split_at(size_of_val(blocks));
    let expected = blocks.as_flattened().iter().flat_map(|&[first, last]| [first, last - first]);
    assert!(bytes.iter().copied().eq(expected.flat_map(u16::to_le_bytes)), "{:?}", kernels.level);
    assert!(beyond.iter().all(|byte| *byte == 7), "{:?}", kernels.level);
    assert_eq!((kernels.apart_ones)(&x), Some(a.len() as u32), "{:?}", kernels.level);
    for place in 0..x.len().min(PLACES) {
        for (first, last) in [(0, -1), (1, 0), (-1, 0), (-2, 0), (0, 1), (0, 2), (30_000, 30_000)] {
            let mut broken = x.clone();
            let [from, to] = &mut broken[place];
            (*from, *to) = (from.wrapping_add_signed(first), to.wrapping_add_signed(last));
            let rest = broken.windows(2).all(|pair| u32::from(pair[0][1]) + 1 < u32::from(pair[1][0]));
            let fine = rest && broken.iter().all(|[first, last]| first <= last);
            let ones = || broken.iter().map(|[first, last]| u32::from(last - first) + 1).sum();
            assert_eq!((kernels.apart_ones)(&broken), fine.then(ones), "{:?} {broken:?}", kernels.level);
            assert_eq!(
                load_runs(kernels, &broken),
                (fine.then(ones), broken.clone()),
                "{:?} {broken:?}",
                kernels.level
            );
        }
    }
    assert_eq!(load_runs(kernels, &x), (Some(a.len() as u32), x.clone()), "{:?}", kernels.level);
    let mut words = words_of(b);
    (kernels.scatter_runs)(&x, &mut words);
    assert!(words == words_of(&both), "{:?}", kernels.level);
}

/// All bounds, however many calls they take.
fn check_edges(kernels: &Kernels, list: &[u16], from: u32, to: u32) {
    let within: Vec<u16> = list.iter().copied().filter(|&item| (from..to).contains(&u32::from(item))).collect();
    let words = words_of(list);
    let mut out = [0; EDGES];
    let mut found = Vec::new();
    let mut at = from;
    while at < to {
        let (count, next) = (kernels.edges)(&words, at, to, &mut out);
        assert!(next > at && count % 2 == 0, "{:?}", kernels.level);
        found.extend(out[..count].as_chunks::<2>().0.iter().map(|&[first, end]| (first, end - 1)));
        at = next;
    }
    assert_eq!(found, runs_of(&within), "{:?}", kernels.level);
}

/// The extents of a list behind others, `filled` of them, in a slice with no more room than the items may take.
fn check_extents(kernels: &Kernels, list: &[u16], filled: usize) {
    let other = Extent { offset: 1 << 50, len_bytes: 512 };
    for (base, bits) in [(0, 0), (5 << 32, 16), (7 << 47, 31)] {
        let extent = |&(first, last): &(u32, u32)| Extent {
            offset: base + (u64::from(first) << bits),
            len_bytes: u64::from(last - first + 1) << bits,
        };
        let found: Vec<Extent> = runs_of(list).iter().map(extent).collect();
        let mut out = vec![other; filled + list.len()];
        let count = (kernels.extents)(list, base, bits, &mut out, filled);
        assert_eq!(out[..count], [&vec![other; filled], &found[..]].concat(), "{:?}: {list:?}", kernels.level);
        // Behind one that ends where the first of them begins.
        let Some(first) = found.first().filter(|first| filled > 0 && first.offset >= 3) else { continue };
        let touching = Extent { offset: first.offset - 3, len_bytes: 3 };
        let longer = Extent { offset: touching.offset, len_bytes: 3 + first.len_bytes };
        out[filled - 1] = touching;
        let count = (kernels.extents)(list, base, bits, &mut out, filled);
        let expected = [&vec![other; filled - 1], &[longer][..], &found[1..]].concat();
        assert_eq!(out[..count], expected, "{:?}: {list:?}", kernels.level);
    }
}

/// Bytes that `pack` may never have filled: all kernels make the same of them.
fn check_any_bytes(bytes: &[u8]) {
    let mut first: Option<Box<Words>> = None;
    for kernels in all_available() {
        let (mut spread, mut unpacked) = (words_of(&[]), words_of(&[3, 4711]));
        (kernels.spread)(bytes, &mut spread);
        (kernels.unpack)(bytes, &mut unpacked);
        assert!(spread == unpacked, "{:?}", kernels.level);
        assert!(*first.get_or_insert(spread) == unpacked, "{:?}", kernels.level);
    }
}

/// Pairs that may be no runs: those that are set their bits, what stands beside the words stays, and all kernels make the
/// same of the others.
fn check_any_runs(runs: &[Pair]) {
    let mut first: Option<Box<Words>> = None;
    for kernels in all_available() {
        let mut words = Box::new([[0; WORDS]; 3]);
        (kernels.scatter_runs)(runs, &mut words[1]);
        assert!(words[0] == [0; WORDS] && words[2] == [0; WORDS], "{:?}", kernels.level);
        let all = runs.iter().flat_map(|&[first, last]| first..=last);
        let is_set = |item: u16| words[1][usize::from(item) / 64] >> (item % 64) & 1 == 1;
        assert!(all.into_iter().all(is_set), "{:?} {runs:?}", kernels.level);
        assert!(**first.get_or_insert_with(|| Box::new(words[1])) == words[1], "{:?} {runs:?}", kernels.level);
    }
}

fn check(a: &[u16], b: &[u16], start: usize, window: (u16, u16)) {
    let (from, to) = (u32::from(window.0.min(window.1)), u32::from(window.0.max(window.1)) + 1);
    for kernels in all_available() {
        check_words(kernels, a, b);
        check_packing(kernels, a, b);
        check_lists(kernels, a, b, start);
        check_extents(kernels, a, start);
        check_edges(kernels, a, from, to);
        check_edges(kernels, a, 0, 65_536);
        let words = words_of(a);
        let (low, high) = (from as usize / 64, to as usize / 64);
        let expected = list_of(&words).iter().filter(|&&item| (low..high).contains(&(usize::from(item) / 64))).count();
        assert_eq!((kernels.ones)(&words[low..high]), expected as u64);
    }
}

/// Lists of every density: points, runs, and both ends of the chunk.
fn lists() -> impl Strategy<Value = Vec<u16>> {
    let run = (any::<u16>(), choose(vec![1u32, 1, 1, 1, 2, 3, 64, 65, 400, 5000]), choose(vec![1u32, 1, 2, 3, 64]));
    let narrow = prop::collection::vec((0u16..600, Just(1u32), Just(1u32)), 0..400);
    let wide = prop::collection::vec(run, 0..300);
    prop_oneof![narrow, wide].prop_map(|parts| {
        let mut all = BTreeSet::new();
        for (first, len, step) in parts {
            let last = (u32::from(first) + len - 1).min(65_535);
            all.extend((u32::from(first)..=last).step_by(step as usize).map(|item| item as u16));
        }
        all.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_spread_or_unpacked_comes_to_the_same_bits(
        bytes in prop::collection::vec(any::<u8>(), 0..9400), ones in choose(vec![0, MASKS, 9 * MASKS, SPARSE_ROOM]),
    ) {
        let mut bytes = bytes;
        bytes.iter_mut().take(ones).for_each(|byte| *byte = 0xff);
        check_any_bytes(&bytes);
    }

    #[test]
    fn pairs_that_are_no_runs_change_nothing_beside_the_words(
        runs in prop::collection::vec(any::<(u16, u16)>(), 0..3 * PLACES / 2), near in any::<bool>(),
    ) {
        let runs: Vec<Pair> =
            runs.into_iter().map(|(first, last)| [first, if near { first ^ (last % 128) } else { last }]).collect();
        check_any_runs(&runs);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it lists all positions of a chunk again and again: hours")]
    fn every_set_agrees_with_plain_loops(
        a in lists(), b in lists(), start in 0usize..17, window in any::<(u16, u16)>(),
    ) {
        check(&a, &b, start, window);
    }
}

#[test]
fn bytes_of_every_kind_at_the_limits_of_what_is_packed() {
    let most = MASKS + 8 * MASKS + 8 * WORDS;
    for len in [0, 1, 63, 64, MASKS - 1, MASKS, MASKS + 1, 9 * MASKS - 1, 9 * MASKS, 9 * MASKS + 63, 9 * MASKS + 64]
        .into_iter()
        .chain([most - 65, most - 64, most - 63, most - 1, most, most + 1, most + 56])
        .step_by(THIN.min(9))
    {
        for byte in [0xff, 0x80, 1, 0].into_iter().step_by(THIN.min(3)) {
            let mut bytes = vec![byte; len];
            check_any_bytes(&bytes);
            bytes.iter_mut().take(MASKS).for_each(|mask| *mask = 0xff);
            check_any_bytes(&bytes);
        }
    }
}

#[test]
fn every_length_and_alignment_of_two_lists() {
    let pool: Vec<u16> = (0..2000u32).map(|item| (item.wrapping_mul(0x9e37_79b9) >> 21) as u16).collect();
    for kernels in sets() {
        for len in (0..70).step_by(2 * THIN - 1) {
            for other in [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 33, len, 300].into_iter().step_by(THIN.min(7)) {
                let mut a: Vec<u16> = pool[..len].to_vec();
                let mut b: Vec<u16> = pool[1000..1000 + other].to_vec();
                for list in [&mut a, &mut b] {
                    list.sort_unstable();
                    list.dedup();
                }
                check_lists(kernels, &a, &b, len % 17);
                check_lists(kernels, &b, &a, other % 17);
                // The same up to the last position: first one of them, then both.
                for is_first in [true, false] {
                    let list = if is_first { &mut a } else { &mut b };
                    let shift = list.last().map_or(0, |last| u16::MAX - last);
                    list.iter_mut().for_each(|item| *item += shift);
                    check_lists(kernels, &a, &b, len % 17);
                }
            }
        }
    }
}

#[test]
fn extents_of_every_length_behind_any_number_of_others() {
    let mut state = 1u32;
    for kernels in sets() {
        for len in (0..300).step_by(6 * THIN - 5) {
            for most in [1, 2, 3, 60] {
                let mut item = (len % 3) as u16;
                let mut list: Vec<u16> = (0..len)
                    .map(|_| {
                        state = state.wrapping_mul(0x915f_77f5).wrapping_add(0x3c6e_f35f);
                        item += 1 + (state >> 8) as u16 % most;
                        item - 1
                    })
                    .collect();
                check_extents(kernels, &list, len % 9);
                let shift = list.last().map_or(0, |last| u16::MAX - last);
                list.iter_mut().for_each(|item| *item += shift);
                check_extents(kernels, &list, len % 9);
            }
        }
    }
}

#[test]
fn few_runs_are_united_at_once() {
    let mut state = 1u32;
    let mut next = move |below: u32| {
        state = state.wrapping_mul(0x915f_77f5).wrapping_add(0x3c6e_f35f);
        (state >> 8) % below
    };
    for round in (0..2000).step_by(ROUND) {
        let (mut all, mut groups) = (BTreeSet::new(), 0);
        let (mut runs, mut bits): (Vec<Vec<Pair>>, Vec<Vec<u16>>) = (Vec::new(), Vec::new());
        let wanted = round % (FEW_RUNS + 1);
        while groups < wanted {
            let most = 1 + next([1, 8, 8 * (wanted - groups).min([5, FEW_RUNS][round % 2]) as u32][round / 3 % 3]);
            let mut list = Vec::new();
            let mut at = next(if round % 3 == 0 { 40 } else { 60_000 });
            while at <= 65_535 && list.len() < most as usize {
                let end = (at + next([2, 30, 4000][round % 3])).min(65_535);
                list.push([at as u16, end as u16]);
                at = end + 2 + next([3, 200, 3000][round % 3]);
            }
            groups += list.len().div_ceil(GROUP);
            if next(4) == 0 {
                bits.push(list.iter().map(|run| run[1]).collect());
                all.extend(list.iter().map(|run| run[1]));
            } else {
                all.extend(list.iter().flat_map(|run| run[0]..=run[1]));
                runs.push(list);
            }
        }
        let list: Vec<u16> = all.into_iter().collect();
        let expected: Vec<Pair> = runs_of(&list).iter().map(|&(first, last)| [first as u16, last as u16]).collect();
        let most = runs.iter().map(Vec::len).chain(bits.iter().map(Vec::len)).sum();
        let runs: Vec<&[Pair]> = runs.iter().map(|list| &list[..]).collect();
        let bits: Vec<&[u16]> = bits.iter().map(|list| &list[..]).collect();
        for kernels in sets() {
            let found = filled(most, 1, [7, 7], |out| (kernels.unite_few_runs)(&runs, &bits, out));
            assert_eq!(found, expected, "{:?} {round}", kernels.level);
        }
    }
}

/// Kernels compare long lists in parts: runs of one list reach over, touch and miss many of the other, at every length.
#[test]
fn long_lists_of_runs_are_cut_anywhere() {
    let mut state = 7u32;
    let mut next = move |below: u32| {
        state = state.wrapping_mul(0x915f_77f5).wrapping_add(0x3c6e_f35f);
        (state >> 8) % below
    };
    for round in (0..600).step_by(ROUND) {
        let [ours, theirs] = [round % 7, round / 7 % 7].map(|kind| {
            let (longest, widest) = [(1, 2), (2, 3), (1, 130), (130, 2), (700, 5), (9000, 1), (40, 40)][kind];
            let (most, mut at, mut list) = (1 + next(900), next(300), Vec::new());
            for _ in 0..most {
                let end = (at + next(longest)).min(65_535);
                list.extend((at..=end).map(|bit| bit as u16));
                at = end + 2 + next(widest);
                if at > 65_535 {
                    break;
                }
            }
            list
        });
        for kernels in sets() {
            check_runs(kernels, &ours, &theirs, round % 5);
        }
    }
}

#[test]
fn few_items_are_sorted_and_kept_once() {
    for kernels in sets() {
        for count in (0..=FEW / GROUP).step_by(THIN.min(7)) {
            for spread in [1u32, 7, 50, 65_536].into_iter().step_by(THIN.min(3)) {
                for most in [1, 5, GROUP, 11, 15, 16, 17, 31, 32, 33].into_iter().step_by(THIN.min(7)) {
                    let mut groups = 0;
                    let list = |number: u32| {
                        let items = (0..most as u32).map(|place| (8 * number + place + 3).wrapping_mul(0x9e37_79b9));
                        let items: BTreeSet<u16> = items.map(|item| ((item >> 7) % spread) as u16).collect();
                        items.into_iter().chain((number % 5 == 4).then_some(u16::MAX)).collect::<BTreeSet<u16>>()
                    };
                    let lists: Vec<Vec<u16>> =
                        (0..count as u32).map(|number| list(number).into_iter().collect()).collect();
                    let lists: Vec<&[u16]> = lists
                        .iter()
                        .map(|list| &list[..])
                        .take_while(|list| {
                            groups += list.len().div_ceil(GROUP);
                            groups <= FEW / GROUP
                        })
                        .collect();
                    let expected: BTreeSet<u16> = lists.iter().flat_map(|list| list.iter().copied()).collect();
                    let mut out = [9; FEW + ROOM];
                    let count = (kernels.sort_few)(&lists, &mut out);
                    assert!(out[..count].iter().copied().eq(expected), "{:?} {lists:?}", kernels.level);
                }
            }
        }
    }
}

#[test]
fn the_last_position_may_be_the_only_one() {
    for kernels in sets() {
        for lists in
            [&[&[u16::MAX][..]][..], &[&[u16::MAX], &[u16::MAX]], &[&[7], &[u16::MAX]], &[&[0, u16::MAX], &[1]]]
        {
            let expected: BTreeSet<u16> = lists.iter().flat_map(|list| list.iter().copied()).collect();
            let mut out = [9; FEW + ROOM];
            let count = (kernels.sort_few)(lists, &mut out);
            assert!(out[..count].iter().copied().eq(expected), "{:?} {lists:?}", kernels.level);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "its lists have all positions of a chunk: hours")]
fn the_ends_of_the_chunk() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let even: Vec<u16> = (0..=u16::MAX).step_by(2).collect();
    let odd: Vec<u16> = (1..=u16::MAX).step_by(2).collect();
    let top: Vec<u16> = (65_500..=u16::MAX).collect();
    let lists = [&[][..], &[0], &[u16::MAX], &[0, u16::MAX], &even, &odd, &top, &all];
    for (a, b) in lists.iter().flat_map(|a| lists.iter().map(move |b| (a, b))) {
        check(a, b, 3, (100, 65_400));
    }
}

#[test]
fn checksums_of_every_length_and_alignment() {
    let bytes: Vec<u8> = (0..9000u32).map(|item| (item.wrapping_mul(0x9e37_79b9) >> 21) as u8).collect();
    for kernels in sets() {
        assert_eq!((kernels.crc32c)(b"123456789"), 0xe306_9283, "the definition's own test");
        for len in (0..1400).chain([2048, 4095, 4096, 8192, 8191, 8193]).step_by(THIN * THIN) {
            let part = &bytes[len % 67..][..len];
            assert_eq!((kernels.crc32c)(part), crc32c::crc32c(part), "{:?} {len}", kernels.level);
        }
    }
}

#[test]
fn a_set_is_chosen_once_and_can_run() {
    assert!(std::ptr::eq(select(), select()));
    assert!(all_available().iter().any(|kernels| std::ptr::eq(*kernels, select())));
}
