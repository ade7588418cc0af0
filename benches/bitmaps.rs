#![forbid(unsafe_code)]
//! The operations on bitmaps of 2^24 granules, with the kernels that this process chose.
#![allow(missing_docs, reason = "the functions that criterion generates have none")]

mod common;

use common::Pattern;
use common::operations::{Meter, each};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};

/// 1 TiB.
const GRANULES: u64 = 1 << 24;

struct Clock<'a>(&'a mut Criterion);

impl Meter for Clock<'_> {
    fn take<S, R>(
        &mut self,
        operation: &str,
        pattern: &str,
        prepare: impl Fn() -> S,
        run: impl Fn(S) -> R,
        check: impl FnOnce(R),
    ) {
        check(run(prepare()));
        let mut group = self.0.benchmark_group(operation);
        group.bench_function(BenchmarkId::from_parameter(pattern), |bencher| {
            bencher.iter_batched(&prepare, &run, BatchSize::PerIteration);
        });
        group.finish();
    }
}

fn bitmaps(criterion: &mut Criterion) {
    each(GRANULES, &Pattern::ALL, &mut Clock(criterion));
}

criterion_group!(benches, bitmaps);
criterion_main!(benches);
