# The C library, long runs, and what is generated. The tests themselves: ./run-tests

include libcheckmap/build.mk

.PHONY: test test-matrix test-soak test-neon test-qemu-7.2 test-qemu-10.0 test-qemu-11 test-bare fuzz bench \
	check-instructions bless-instructions bench-peers bench-peers-quick bench-delete bench-segments bench-python example man \
	completions

test:
	./run-tests

# Every image of the round-trip matrix: hours.
test-matrix:
	CHECKMAP_MATRIX=all ./run-tests --release --test round_trip -- --nocapture

# Many more power cuts, kills, days and mutations than in CI.
test-soak:
	CHECKMAP_CUTS=20000 CHECKMAP_KILLS=2000 CHECKMAP_FUZZ_ROUNDS=30 CHECKMAP_ROUNDS=50 ./run-tests --release \
		--test power_cut --test kill --test fuzz_replay --test backup_days -- --nocapture

# Kernels and bitmaps on aarch64 under qemu-user, with NEON and with the portable kernels.
test-neon:
	scripts/test-neon

# All tests with the tools of another QEMU, taken from the Debian that has it; TESTS picks, such as `TESTS='--test cli'`.
TESTS ?=
test-qemu-7.2 test-qemu-10.0 test-qemu-11:
	scripts/test-qemu $(@:test-qemu-%=%) $(TESTS)

# README's two commands and its Install section, word for word, in a bare Debian 12 and 13; BARE takes options, such as
# `BARE='--suites trixie --parts run'`. All of it takes hours and 12 GB; needs root.
BARE ?=
test-bare:
	scripts/test-bare $(BARE)

# Coverage-guided fuzzing, FUZZ_SECONDS for each target; needs cargo-fuzz and a nightly compiler, or RUSTC_BOOTSTRAP=1.
# cargo-fuzz has no `--locked`, so the lock file is held against the manifest before.
FUZZ_SECONDS ?= 300
fuzz:
	cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
	for target in $$(cargo fuzz list); do cargo fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; done

# Our own kernels and operations; BENCH_FILTER picks among them, such as `unite` or `union_8/1%`.
BENCH_FILTER ?=
bench:
	cargo bench --locked --bench kernels --bench bitmaps -- $(BENCH_FILTER)

# Instructions of fixed operations, beside those in benches/instructions.txt; and a new such file. Needs valgrind.
check-instructions bless-instructions:
	@command -v valgrind >/dev/null || apt-get install -y -qq --no-install-recommends valgrind </dev/null
	cargo bench --locked --bench instructions -- $(@:-instructions=)

# checkmap beside CRoaring, roaring, a flat bitmap and a vector of extents; leaves target/bench-peers.csv. All of it takes
# hours and 16 GiB of memory; the quick one takes less than three minutes. BENCH takes more options, see `BENCH=--help`.
BENCH ?=
bench-peers:
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-peers -- $(BENCH)

bench-peers-quick:
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-peers -- --quick $(BENCH)

# Deleting a checkpoint on a qcow2 of 16 TiB beside qemu-img: runs of each, and which of the cases; making the image of the
# fourth takes minutes.
DELETE_RUNS ?= 5
DELETE_CASES ?= 1,2,3,4
bench-delete:
	cargo build --release --locked --features cli
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-delete -- \
		target/release/checkmap $(DELETE_RUNS) $(DELETE_CASES)

# The union of eight segments, 4 GiB in all, beside cat and dd; TMPDIR needs 5 GiB. Runs of each, and how many threads.
SEGMENT_RUNS ?= 5
SEGMENT_THREADS ?= 2
bench-segments:
	cargo build --release --locked --features cli
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-segments -- \
		target/release/checkmap $(SEGMENT_RUNS) 65536 $(SEGMENT_THREADS)

# What Python costs, beside the Rust API in turns; PYTHON has the package installed.
PYTHON ?= python3
bench-python:
	cargo build --release --locked --manifest-path bindings/python/bench/Cargo.toml --target-dir target
	$(PYTHON) bindings/python/bench/overhead.py target/release/checkmap-python-bench

# The image that the README's first command reads, made anew by QEMU's tools.
example:
	examples/make-vm-disk.sh examples/vm-disk.qcow2

# The manual page and the completions that stand in the repository.
man:
	cargo run --quiet --release --locked --features cli -- man > man/checkmap.1

completions:
	cargo run --quiet --release --locked --features cli -- completions bash > completions/checkmap.bash
	cargo run --quiet --release --locked --features cli -- completions zsh > completions/_checkmap
	cargo run --quiet --release --locked --features cli -- completions fish > completions/checkmap.fish
