#![forbid(unsafe_code)]
//! Every kernel of every set that this CPU can run, on chunks and lists of a few densities.
#![allow(missing_docs, reason = "the functions that criterion generates have none")]

mod common;

use checkmap::Extent;
use checkmap::kernels::{EDGES, FEW, GROUP, Kernels, Pair, ROOM, WORDS, Words, all_available};
use common::random::Random;
use common::{Flat, Pattern};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Duration;

const CHUNK: u64 = 1 << 16;

/// One chunk of a pattern, in every form that a kernel takes, and what a loop says of it.
struct Sample {
    name: &'static str,
    words: Box<Words>,
    list: Vec<u16>,
    set: BTreeSet<u16>,
    runs: Vec<Pair>,
}

impl Sample {
    fn new(pattern: Pattern, seed: u64) -> Self {
        let flat = Flat::of(pattern, CHUNK, seed);
        let list: Vec<u16> = (0..=u16::MAX).filter(|&bit| flat.get(bit.into())).collect();
        let runs = runs_of(&list);
        let mut words = Box::new([0; WORDS]);
        words.copy_from_slice(&flat.words);
        Self { name: pattern.name(), words, set: list.iter().copied().collect(), runs, list }
    }
}

fn runs_of(list: &[u16]) -> Vec<Pair> {
    list.chunk_by(|low, high| low + 1 == *high).map(|run| [run[0], run[run.len() - 1]]).collect()
}

fn bits_of(words: &Words) -> Vec<u16> {
    (0..=u16::MAX).filter(|&bit| words[usize::from(bit) / 64] >> (bit % 64) & 1 == 1).collect()
}

/// Sets of kernels beside each other, for each kernel and pattern.
fn bench<S, R>(
    criterion: &mut Criterion,
    kernel: &str,
    sample: &str,
    prepare: impl Fn() -> S,
    run: impl Fn(&'static Kernels, &mut S) -> R,
    check: impl Fn(&R, &S),
) {
    let mut group = criterion.benchmark_group(format!("{kernel}/{sample}"));
    for kernels in all_available() {
        let mut state = prepare();
        let result = run(kernels, &mut state);
        check(&result, &state);
        group.bench_function(BenchmarkId::from_parameter(kernels.level.name()), |bencher| {
            bencher.iter_batched_ref(&prepare, |state| run(kernels, black_box(state)), BatchSize::SmallInput);
        });
    }
    group.finish();
}

fn chunks(criterion: &mut Criterion) {
    for pattern in Pattern::ALL {
        let (a, b) = (Sample::new(pattern, 1), Sample::new(pattern, 2));
        let copy = || a.words.clone();
        type Take = fn(&'static Kernels) -> checkmap::kernels::ChunkOperation;
        let cases: [(&str, Take, BTreeSet<u16>); 4] = [
            ("or", |kernels| kernels.or, &a.set | &b.set),
            ("and", |kernels| kernels.and, &a.set & &b.set),
            ("and_not", |kernels| kernels.and_not, &a.set - &b.set),
            ("xor", |kernels| kernels.xor, &a.set ^ &b.set),
        ];
        for (name, take, expected) in cases {
            let expected: Vec<u16> = expected.into_iter().collect();
            let measure = (expected.len(), runs_of(&expected).len());
            bench(
                criterion,
                name,
                a.name,
                copy,
                |kernels, to| take(kernels)(to, &b.words),
                |found, to| {
                    assert_eq!((found.ones as usize, found.runs as usize), measure);
                    assert!(bits_of(to) == expected);
                },
            );
        }
        let union: Vec<u16> = (&a.set | &b.set).into_iter().collect();
        let or_only = |kernels: &'static Kernels, to: &mut Box<Words>| (kernels.or_only)(to, &b.words);
        bench(criterion, "or_only", a.name, copy, or_only, |(), to| assert!(bits_of(to) == union));
        let scatter = |kernels: &'static Kernels, to: &mut Box<Words>| (kernels.scatter)(&b.list, to);
        bench(criterion, "scatter", a.name, copy, scatter, |(), to| assert!(bits_of(to) == union));
        bench(
            criterion,
            "measure",
            a.name,
            || (),
            |kernels, ()| (kernels.measure)(&a.words),
            |found, ()| {
                assert_eq!((found.ones as usize, found.runs as usize), (a.list.len(), a.runs.len()));
            },
        );
        let ones = |kernels: &'static Kernels, (): &mut ()| (kernels.ones)(&a.words[..]);
        bench(criterion, "ones", a.name, || (), ones, |&found, ()| assert_eq!(found, a.list.len() as u64));
        // The answer yes, which is known only at the end.
        let subset = |kernels: &'static Kernels, sum: &mut Box<Words>| (kernels.is_subset)(&a.words, sum);
        bench(criterion, "is_subset", a.name, copy, subset, |&found, _| assert!(found));
        let room = || vec![0; a.list.len() + ROOM];
        let positions = |kernels: &'static Kernels, out: &mut Vec<u16>| (kernels.positions)(&a.words, out);
        bench(criterion, "positions", a.name, room, positions, |&len, out| assert!(out[..len] == a.list));
        let room = || vec![[0, 0]; a.runs.len() + ROOM];
        let runs = |kernels: &'static Kernels, out: &mut Vec<Pair>| (kernels.runs)(&a.words, out);
        bench(criterion, "runs", a.name, room, runs, |&len, out| assert!(out[..len] == a.runs));
        let room = || Vec::with_capacity(2 * a.runs.len());
        bench(
            criterion,
            "edges",
            a.name,
            room,
            |kernels, out| edges(kernels, &a.words, out),
            |(), out| {
                assert!(*out == bounds_of(&a.runs));
            },
        );
    }
}

fn bounds_of(runs: &[Pair]) -> Vec<u32> {
    runs.iter().flat_map(|&[first, last]| [u32::from(first), u32::from(last) + 1]).collect()
}

/// All bounds of a chunk, in as many calls as it takes.
fn edges(kernels: &Kernels, words: &Words, all: &mut Vec<u32>) {
    let (mut at, mut out) = (0, [0; EDGES]);
    all.clear();
    while at < 1 << 16 {
        let (count, next) = (kernels.edges)(words, at, 1 << 16, &mut out);
        all.extend(&out[..count]);
        at = next;
    }
}

fn lists(criterion: &mut Criterion) {
    let pairs = [
        (Pattern::Sparse, Pattern::Sparse),
        (Pattern::Sparse, Pattern::OnePercent),
        (Pattern::OnePercent, Pattern::OnePercent),
    ];
    for (one, other) in pairs {
        let (a, b) = (Sample::new(one, 1), Sample::new(other, 2));
        let name = format!("{} and {}", a.name, b.name);
        let room = || vec![0; a.list.len() + b.list.len() + ROOM];
        type Take = fn(&'static Kernels) -> checkmap::kernels::ListOperation;
        let cases: [(&str, Take, BTreeSet<u16>); 3] = [
            ("unite", |kernels| kernels.unite, &a.set | &b.set),
            ("intersect", |kernels| kernels.intersect, &a.set & &b.set),
            ("subtract", |kernels| kernels.subtract, &a.set - &b.set),
        ];
        for (kernel, take, expected) in cases {
            let expected: Vec<u16> = expected.into_iter().collect();
            bench(
                criterion,
                kernel,
                &name,
                room,
                |kernels, out| take(kernels)(&a.list, &b.list, out),
                |&len, out| {
                    assert!(out[..len] == expected);
                },
            );
        }
    }
    for pattern in [Pattern::OnePercent, Pattern::Runs] {
        let (a, b) = (Sample::new(pattern, 1), Sample::new(pattern, 2));
        let runs = |kernels: &'static Kernels, (): &mut ()| (kernels.list_runs)(&a.list);
        bench(criterion, "list_runs", a.name, || (), runs, |&found, ()| assert_eq!(found, a.runs.len()));
        let room = || vec![Extent { offset: 0, len_bytes: 0 }; a.list.len()];
        let extents = |kernels: &'static Kernels, out: &mut Vec<_>| (kernels.extents)(&a.list, 0, 16, out, 0);
        bench(criterion, "extents", a.name, room, extents, |&found, out| {
            let [first, last] = a.runs[found - 1];
            let end = (u64::from(last) + 1) << 16;
            assert_eq!(
                (found, out[found - 1].offset, out[found - 1].end()),
                (a.runs.len(), u64::from(first) << 16, end)
            );
        });
        let ascending = |kernels: &'static Kernels, (): &mut ()| (kernels.is_ascending)(&a.list);
        bench(criterion, "is_ascending", a.name, || (), ascending, |&found, ()| assert!(found));
        let room = || vec![[0; 2]; a.runs.len() + b.runs.len() + ROOM];
        let union: Vec<u16> = (&a.set | &b.set).into_iter().collect();
        let expected = runs_of(&union);
        let unite = |kernels: &'static Kernels, out: &mut Vec<Pair>| (kernels.unite_runs)(&a.runs, &b.runs, out);
        bench(criterion, "unite_runs", a.name, room, unite, |&len, out| assert!(out[..len] == expected));
        let ones = |kernels: &'static Kernels, (): &mut ()| (kernels.run_ones)(&a.runs);
        bench(criterion, "run_ones", a.name, || (), ones, |&found, ()| assert_eq!(found as usize, a.list.len()));
        let within = |kernels: &'static Kernels, (): &mut ()| (kernels.run_ones_within)(&a.runs, 20_000, 40_000);
        let expected = a.list.iter().filter(|bit| (20_000..40_000).contains(*bit)).count();
        bench(criterion, "run_ones_within", a.name, || (), within, |&found, ()| assert_eq!(found as usize, expected));
    }
}

fn sorting(criterion: &mut Criterion) {
    let mut random = Random::from_seed(5);
    for groups in [2, 8, FEW / GROUP] {
        let mut list = || -> Vec<u16> {
            let items = (0..6).map(|_| u16::try_from(random.below(65_536)).expect("it fits"));
            items.collect::<BTreeSet<_>>().into_iter().collect()
        };
        let lists: Vec<Vec<u16>> = (0..groups).map(|_| list()).collect();
        let lists: Vec<&[u16]> = lists.iter().map(|list| &list[..]).collect();
        let all = lists.iter().flat_map(|list| list.iter().copied());
        let expected: Vec<u16> = all.collect::<BTreeSet<_>>().into_iter().collect();
        let room = || [0; FEW + ROOM];
        let sort = |kernels: &'static Kernels, out: &mut [u16; FEW + ROOM]| (kernels.sort_few)(&lists, out);
        bench(criterion, "sort_few", &format!("{groups} groups"), room, sort, |&len, out| {
            assert!(out[..len] == expected);
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = chunks, lists, sorting
}
criterion_main!(benches);
