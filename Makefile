# The C library, long runs, and what is generated. The tests themselves: ./run-tests

include libcheckmap/build.mk

.PHONY: test test-matrix test-soak fuzz bench-peers bench-peers-quick bench-delete example man completions

test:
	./run-tests

# Every image of the round-trip matrix: hours.
test-matrix:
	CHECKMAP_MATRIX=all ./run-tests --release --test round_trip -- --nocapture

# Many more power cuts, kills, days and mutations than in CI.
test-soak:
	CHECKMAP_CUTS=20000 CHECKMAP_KILLS=2000 CHECKMAP_FUZZ_ROUNDS=30 CHECKMAP_ROUNDS=50 ./run-tests --release \
		--test power_cut --test kill --test fuzz_replay --test backup_days -- --nocapture

# Coverage-guided fuzzing, FUZZ_SECONDS for each target; needs cargo-fuzz and a nightly compiler, or RUSTC_BOOTSTRAP=1.
FUZZ_SECONDS ?= 300
fuzz:
	for target in $$(cargo fuzz list); do cargo fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; done

# checkmap beside CRoaring, roaring, a flat bitmap and a vector of extents; leaves target/bench-peers.csv. All of it takes
# hours and 16 GiB of memory; the quick one takes less than three minutes. BENCH takes more options, see `BENCH=--help`.
BENCH ?=
bench-peers:
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-peers -- $(BENCH)

bench-peers-quick:
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-peers -- --quick $(BENCH)

# Deleting a checkpoint on a qcow2 of 16 TiB beside qemu-img: runs of each, and how many of the cases (the fourth takes an hour).
DELETE_RUNS ?= 5
DELETE_CASES ?= 4
bench-delete:
	cargo build --release --locked
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-delete -- \
		target/release/checkmap $(DELETE_RUNS) $(DELETE_CASES)

# The image that the README's first command reads, made anew by QEMU's tools.
example:
	examples/make-vm-disk.sh examples/vm-disk.qcow2

# The manual page and the completions that stand in the repository.
man:
	cargo run --quiet --release -- man > man/checkmap.1

completions:
	cargo run --quiet --release -- completions bash > completions/checkmap.bash
	cargo run --quiet --release -- completions zsh > completions/_checkmap
	cargo run --quiet --release -- completions fish > completions/checkmap.fish
