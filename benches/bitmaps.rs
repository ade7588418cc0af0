#![forbid(unsafe_code)]
//! The operations on bitmaps of 2^24 granules, with the kernels that this process chose.
#![allow(missing_docs, reason = "the functions that criterion generates have none")]

mod common;

use common::Pattern;
use common::operations::{Meter, each};
use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use std::time::Duration;

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

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = bitmaps
}
criterion_main!(benches);
