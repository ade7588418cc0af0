#![forbid(unsafe_code)]
//! Every form of a container against every other, compared word by word. Knows nothing beyond one chunk.

use super::*;
use crate::kernels::SPARSE_ROOM;

fn set_run(words: &mut Words, run: Run) {
    (run.first..=run.last).for_each(|bit| words[usize::from(bit / 64)] |= 1 << (bit % 64));
}

fn container(positions: impl Iterator<Item = u32>) -> Container {
    let mut words = no_words().unwrap();
    positions.for_each(|position| set_run(&mut words, Run { first: to_u16(position), last: to_u16(position) }));
    Container::from_words(words).unwrap()
}

/// How many containers of each form there are at least: lists, runs, words.
const FEWEST: [usize; 3] = if cfg!(miri) { [1, 1, 1] } else { [5, 5, 4] };

/// Every case, but one of 29 pairs, and few of the other lists, under Miri: it takes 20 seconds for a pair.
const STEP: usize = if cfg!(miri) { 29 } else { 1 };

/// How many positions of a view are compared with those that it counts.
const COUNTED: usize = if cfg!(miri) { 1 } else { usize::MAX };

/// The most positions of a container that are listed one by one.
const LISTED: u32 = if cfg!(miri) { 1000 } else { CHUNK };

/// One container of each form, for Miri, which takes minutes to make all of the others.
fn few_containers() -> Vec<Container> {
    let words = Box::new([0x5555_5555_5555_5555; 1024]);
    vec![
        Container::empty(),
        Container::Full,
        Container::from_sorted(&[0, 63, 64, 127, 128, 65_472, 65_535]).unwrap(),
        Container::from_runs(&[[5, 70], [128, 191], [65_000, 65_535]]).unwrap(),
        Container::from_words(words).unwrap(),
    ]
}

/// Containers of every form, at and around the limits between the forms.
fn containers() -> Vec<Container> {
    if cfg!(miri) {
        return few_containers();
    }
    let mut all = vec![
        Container::empty(),
        Container::Full,
        container([0].into_iter()),
        container([65_535].into_iter()),
        container([0, 63, 64, 127, 128, 65_472, 65_535].into_iter()),
        container(0..4096),
        container(61_439..65_536),
        container((0..65_535).step_by(16)),
        container((0..65_536).step_by(16).chain([1])),
        container((1..65_536).step_by(2)),
        container((0..65_536).step_by(2)),
        container((0..65_536).filter(|position| position % 32 < 20)),
        container((0..65_536).filter(|position| position % 33 < 20)),
        container((0..65_536).filter(|position| position % 7 != 3)),
        container((0..65_536).filter(|&position| position != 4711)),
        container(1..65_535),
        container((0..65_536).filter(|position: &u32| position.wrapping_mul(0x9e37_79b9) >> 28 == 0)),
        container((0..65_536).filter(|position: &u32| position.wrapping_mul(0x9e37_79b9) >> 20 == 0)),
    ];
    let mut grown = Container::empty();
    (0..3000)
        .step_by(3)
        .for_each(|position| assert_eq!(grown.set(Run { first: to_u16(position), last: to_u16(position) }), Ok(1)));
    all.push(grown);
    let mut thinned = Container::Full;
    (0..6000)
        .step_by(3)
        .for_each(|position| assert_eq!(thinned.clear(Run { first: to_u16(position), last: to_u16(position) }), Ok(1)));
    all.push(thinned);
    all
}

/// What each container holds, packed.
fn packed(all: &[Container]) -> Vec<Vec<u8>> {
    let pack = |container: &Container| {
        let mut bytes = vec![0; SPARSE_ROOM];
        let len = (select().pack)(&container.view().words(), &mut bytes);
        bytes.truncate(len);
        bytes
    };
    all.iter().map(pack).collect()
}

/// Each view, and the same packed.
fn views<'a>(all: &'a [Container], packed: &'a [Vec<u8>]) -> Vec<View<'a>> {
    all.iter().map(Container::view).chain(packed.iter().map(|bytes| View::Sparse(Sparse::uncounted(bytes)))).collect()
}

fn windows() -> Vec<Run> {
    if cfg!(miri) {
        return vec![Run { first: 60, last: 300 }];
    }
    let edges = [0, 1, 63, 64, 65, 127, 4095, 4096, 30_000, 65_471, 65_472, 65_534, 65_535];
    let pairs = edges.iter().flat_map(|&first| edges.iter().map(move |&last| Run { first, last }));
    pairs.filter(|run| run.first <= run.last).collect()
}

/// The words of a container, once it is found sound.
fn words_of(container: &Container) -> Words {
    assert_eq!(container.ones(), container.view().ones());
    words_in(container.view())
}

/// The words of a view, once it is found sound.
fn words_in(view: View<'_>) -> Words {
    let words = *view.words();
    assert!(words == [0; 1024] || view.validate(bits::count_ones(&words)) == Ok(()));
    assert_eq!(view.ones(), bits::count_ones(&words));
    assert_eq!(view.run_count(), bits::run_count(&words));
    let all = view.runs(Run::WHOLE).flat_map(|run| run.first..=run.last);
    let mut some = (0..).zip(all).step_by(997).take(COUNTED);
    assert!(some.all(|(number, bit)| view.nth(number) == bit));
    words
}

fn zip(a: &Words, b: &Words, operation: fn(u64, u64) -> u64) -> Words {
    std::array::from_fn(|index| operation(a[index], b[index]))
}

/// Compares a result with words, and with the smallest form.
fn check_made(made: Made<'_>, expected: &Words) {
    assert_eq!(made.measure, Measure { ones: made.view.ones(), runs: made.view.run_count() });
    assert!(words_in(made.view) == *expected);
    let smallest = Container::from_words(Box::new(*expected)).unwrap();
    if let View::Sparse(sparse) = made.view {
        assert!(sparse.bytes.len() < smallest.view().bytes() && select().traits.packs_quickly);
    } else if *expected != [0; 1024] {
        let packs = select().traits.packs_quickly;
        assert!(!packs || sparse::packed_len(select(), expected, made.measure, Keeper::Memory).is_none());
        assert_eq!(made.view.form(), smallest.view().form());
        assert!(made.view.is_smallest(made.measure.ones, made.measure.runs));
    }
}

#[test]
fn the_list_has_every_form() {
    let all = containers();
    let count = |is: fn(&Container) -> bool| all.iter().filter(|container| is(container)).count();
    assert!(count(|container| matches!(container, Container::Array { .. })) >= FEWEST[0]);
    assert!(count(|container| matches!(container, Container::Runs { .. })) >= FEWEST[1]);
    assert!(count(|container| matches!(container, Container::Bits { .. })) >= FEWEST[2]);
}

type OfWords = fn(u64, u64) -> u64;

#[test]
fn operations_agree_with_words_for_every_pair_of_forms() {
    let all = containers();
    let packed = packed(&all[2..]);
    let views = views(&all, &packed);
    let mut workspace = Workspace::new();
    for (a, b) in views.iter().flat_map(|&a| views.iter().map(move |&b| (a, b))).step_by(STEP) {
        let (x, y) = (words_in(a), words_in(b));
        let mut united = Container::copy(a, a.ones()).unwrap();
        let added = united.unite_with(b, &mut workspace).unwrap();
        assert_eq!(added, united.ones() - a.ones());
        assert!(words_of(&united) == zip(&x, &y, |x, y| x | y));
        if !matches!(a, View::Full) && !matches!(b, View::Full) {
            let operations: [(Operation, OfWords); 4] = [
                (Operation::Union, |x, y| x | y),
                (Operation::Intersect, |x, y| x & y),
                (Operation::Subtract, |x, y| x & !y),
                (Operation::Xor, |x, y| x ^ y),
            ];
            for (operation, of_words) in operations {
                check_made(workspace.combine(operation, a, b).unwrap(), &zip(&x, &y, of_words));
            }
            check_made(workspace.complement(a).unwrap(), &zip(&x, &y, |x, _| !x));
        }
        assert_eq!(workspace.is_subset(a, b).unwrap(), zip(&x, &y, |x, y| x & !y) == [0; 1024]);
        assert_eq!(a.is_subset(b), zip(&x, &y, |x, y| x & !y) == [0; 1024]);
        assert_eq!(a.same_bits(b), x == y);
        let mut sum = x;
        b.add_to(&mut sum);
        assert!(sum == zip(&x, &y, |x, y| x | y));
    }
}

#[test]
fn unions_of_many_agree_with_words_for_every_mix_of_forms() {
    let all = containers();
    let mut workspace = Workspace::new();
    let is_array = |container: &&Container| matches!(container, Container::Array { .. });
    let is_run = |container: &&Container| matches!(container, Container::Runs { .. });
    let arrays: Vec<View<'_>> = all.iter().filter(is_array).map(Container::view).collect();
    let runs: Vec<View<'_>> = all.iter().filter(is_run).map(Container::view).collect();
    let both: Vec<View<'_>> = arrays.iter().chain(&runs).copied().collect();
    let every: Vec<View<'_>> = all.iter().filter(|container| !container.is_full()).map(Container::view).collect();
    let packed = packed(&all[2..]);
    let sparse: Vec<View<'_>> = packed.iter().map(|bytes| View::Sparse(Sparse::uncounted(bytes))).collect();
    let mixed: Vec<View<'_>> = sparse.iter().zip(&every).flat_map(|(&a, &b)| [a, b]).collect();
    for list in [&arrays, &runs, &both, &every, &sparse, &mixed] {
        let groups = (0..list.len()).flat_map(|from| (from + 2..=list.len()).map(move |to| &list[from..to]));
        for group in groups.step_by(STEP.min(9)) {
            let mut expected = [0; 1024];
            group.iter().for_each(|view| view.add_to(&mut expected));
            check_made(workspace.unite(group).unwrap(), &expected);
        }
    }
}

#[test]
fn ranges_agree_with_words_for_every_form() {
    let all = containers();
    let packed = packed(&all[2..]);
    for view in views(&all, &packed) {
        let words = words_in(view);
        for window in windows() {
            let mut mask = [0; 1024];
            set_run(&mut mask, window);
            let mut changed = Container::copy(view, view.ones()).unwrap();
            let set = changed.set(window).unwrap();
            assert!(words_of(&changed) == zip(&words, &mask, |x, y| x | y));
            assert_eq!(set, bits::count_ones(&zip(&words, &mask, |x, y| y & !x)));
            let mut thinned = Container::copy(view, view.ones()).unwrap();
            for changed in [&mut changed, &mut thinned] {
                let before = changed.ones();
                let cleared = changed.clear(window).unwrap();
                assert!(words_of(changed) == zip(&words, &mask, |x, y| x & !y));
                assert_eq!(cleared, before - changed.ones());
            }

            let inside = zip(&words, &mask, |x, y| x & y);
            assert_eq!(view.count(window), bits::count_ones(&inside));
            let runs: Vec<Run> = view.runs(window).collect();
            let mut from_runs = [0; 1024];
            runs.iter().for_each(|&run| set_run(&mut from_runs, run));
            assert!(from_runs == inside);
            assert!(runs.windows(2).all(|pair| u32::from(pair[0].last) + 1 < u32::from(pair[1].first)));
            assert!(view.runs(window).rev().eq(runs.iter().rev().copied()));
            for bit in [window.first, window.last] {
                let next = |same| Some(bits::scan(&words, bit.into(), CHUNK, same)).filter(|&bit| bit < CHUNK);
                assert_eq!(view.next_set(bit).map(u32::from), next(0));
                assert_eq!(view.next_clear(bit).map(u32::from), next(u64::MAX));
                assert_eq!(view.contains(bit), words[usize::from(bit / 64)] >> (bit % 64) & 1 == 1);
            }
        }
    }
}

#[test]
fn the_smallest_form_does_not_depend_on_the_way_to_it() {
    for container in containers().into_iter().filter(|container| container.ones() <= LISTED) {
        let from_words = Container::from_words(Box::new(*container.view().words())).unwrap();
        let from_runs =
            Container::from_runs(&Vec::from_iter(container.view().runs(Run::WHOLE).map(Run::pair))).unwrap();
        let from_bits = Container::from_sorted(&Vec::from_iter(
            container.view().runs(Run::WHOLE).flat_map(|run| run.first..=run.last),
        ))
        .unwrap();
        for other in [&from_runs, &from_bits] {
            assert_eq!(std::mem::discriminant(other), std::mem::discriminant(&from_words));
            assert!(other.view().same_bits(from_words.view()) && other.view().same_bits(container.view()));
        }
    }
}

#[test]
fn validate_finds_what_is_not_allowed() {
    let bits = |ones, words| Container::Bits { ones, words };
    let array = |bits: &[u16]| Container::array(bits).unwrap();
    let runs = |runs: &[Pair]| Container::runs(runs).unwrap();
    for broken in [
        Container::empty(),
        array(&[3, 3]),
        array(&Vec::from_iter(0..5000)),
        runs(&[]),
        runs(&[[5, 4]]),
        runs(&[[1, 2], [3, 4]]),
        runs(&[Run::WHOLE.pair()]),
        runs(&Vec::from_iter((0..3000).map(|index| [index * 3, index * 3]))),
        bits(0, no_words().unwrap()),
        bits(5000, no_words().unwrap()),
        bits(CHUNK, Box::new([u64::MAX; 1024])),
    ] {
        assert!(broken.view().validate(broken.ones()).is_err());
    }
    let sound = packed(&[container([0, 63, 64, 65_535].into_iter())]).remove(0);
    assert_eq!(View::Sparse(Sparse::uncounted(&sound)).validate(4), Ok(()));
    assert!(View::Sparse(Sparse::uncounted(&sound)).validate(5).is_err());
    assert_eq!(View::Sparse(Sparse::counted(&sound, 3)).validate(4), Ok(()));
    assert!(View::Sparse(Sparse::counted(&sound, 4)).validate(4).is_err());
    for place in 0..sound.len() {
        assert!(View::Sparse(Sparse::uncounted(&sound[..place])).validate(4).is_err());
        let mut broken = sound.clone();
        broken[place] = if broken[place] == 0 { 4 } else { 0 };
        assert!(View::Sparse(Sparse::uncounted(&broken)).validate(4).is_err());
    }
}

#[test]
fn in_memory_packing_saves_a_sixteenth_or_is_left() {
    let packed = |words: &Words, keeper| {
        let measure = (select().measure)(words);
        let mut room = sparse::PackedBytes::new(keeper);
        let len = sparse::pack(select(), words, measure, &mut room).unwrap().map(|packed| packed.bytes.len());
        assert_eq!(len, sparse::packed_len(select(), words, measure, keeper));
        len
    };
    let lens = |is_used: &dyn Fn(usize) -> bool| {
        let words = std::array::from_fn(|index| if is_used(index) { 0x5555_5555_5555_5555 } else { 0 });
        [packed(&words, Keeper::Memory), packed(&words, Keeper::Files)]
    };
    assert_eq!(lens(&|index| index < 839), [Some(7679); 2]);
    assert_eq!(lens(&|index| index < 840), [None, Some(7688)]);
    assert_eq!(lens(&|index| index < 895), [None, Some(8183)]);
    assert_eq!(lens(&|index| index < 896), [None; 2]);
    // Every other stretch is told by the samples, but not one that lies where all of them are.
    for half in [8, 16, 32, 64, 128, 256, 512] {
        assert_eq!(lens(&|index| index / half % 2 == 1), [Some(4736); 2], "{half}");
    }
    assert_eq!(lens(&|index| index % 144 < 72), [None, Some(128 + 9 * 520)]);
}

#[test]
fn what_takes_few_bytes_is_not_packed_however_few_it_would_take_then() {
    for (bytes, ones, runs, other) in [
        (3068, 1534, 1534, Form::Array),
        (3070, 1535, 1535, Form::Array),
        (3072, 1536, 1536, Form::Array),
        (3074, 1537, 1537, Form::Array),
        (3068, 3 * 767, 767, Form::Runs),
        (3072, 3 * 768, 768, Form::Runs),
        (3076, 3 * 769, 769, Form::Runs),
        (8192, 30_000, 15_000, Form::Words),
        (0, CHUNK, 1, Form::Full),
    ]
    .into_iter()
    .step_by(STEP.min(4))
    {
        let is_kept = bytes >= SPARSE_FROM;
        for (len, is_less) in [(0, true), (bytes.saturating_sub(1), true), (bytes, false), (bytes + 1, false)] {
            assert_eq!(sparse::is_smallest(len, ones, runs), is_kept && is_less, "{len} {bytes} {other:?}");
        }
        if other == Form::Full {
            continue;
        }
        // Runs of `len` bits, each a bit away from the next.
        let len = ones / runs;
        let bits = |part: u32| {
            let runs = (0..runs).filter(move |run| part == 2 || run % 2 == part);
            container(runs.flat_map(move |run| (run * (len + 1)..).take(len as usize)))
        };
        let [half, rest, all] = [0, 1, 2].map(bits);
        assert_eq!((all.view().form(), all.view().bytes()), (other, bytes));
        let mut packer = Packer::for_files();
        let packed = packer.pack(all.view()).unwrap();
        let form = if is_kept { Form::Sparse } else { other };
        assert_eq!((packed.form(), packed.run_count()), (form, runs), "{bytes}");
        assert!(words_in(packed) == *all.view().words() && packed.is_smallest(ones, runs));
        for group in [[half.view(), rest.view()], [half.view(), all.view()], [packed, rest.view()]] {
            let made = Workspace::for_files().unite(&group).unwrap().view.form();
            assert_eq!(made, form, "{bytes}");
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "each step looks at all bytes of the chunk: more than ten minutes, however few the steps")]
fn runs_of_what_could_not_be_spread_are_the_same() {
    let all = containers();
    for bytes in packed(&all[2..]) {
        for window in windows() {
            let packed = || RunIter::Packed { bytes: &bytes, from: window.first.into(), to: window.end() };
            let spread = View::Sparse(Sparse::uncounted(&bytes)).runs(window);
            assert!(packed().take(50).eq(spread.clone().take(50)));
            assert!(packed().rev().take(50).eq(spread.rev().take(50)));
        }
    }
}
