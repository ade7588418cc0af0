# The C library, long runs, and what is generated. The tests themselves: ./run-tests

include libcheckmap/build.mk

.PHONY: test test-matrix test-soak test-neon test-s390x test-qemu-7.2 test-qemu-10.0 test-qemu-11 test-bare test-libvirt test-libvirt-9.0 test-libvirt-12.8 test-guest test-package test-report-browser \
	miri deny fuzz bench check-instructions bless-instructions bench-peers bench-peers-quick bench-operations bench-operations-avx2 bench-delete bench-live bench-serve bench-backup bench-segments bench-merge bench-threads pictures \
	bench-python bench-fleet bench-fleet-runners test-fleet-spark wheel check-python-types example man completions

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

# Trial packages from packaging/debian, built in a bare Debian 13 by debhelper, looked at by lintian, and used in another;
# crates come from crates.io. Takes about ten minutes and 5 GB; needs root.
test-package:
	scripts/test-package

# Reports as Chromium draws them, light and dark; needs chromium. SHOTS=FOLDER keeps the screenshots.
test-report-browser:
	cargo build --locked --features cli
	scripts/test-report-browser $(SHOTS)

# Kernels, bitmaps and segments on s390x, which is big-endian, under qemu-user.
test-s390x:
	scripts/test-s390x

# Both owners of checkpoints on domains of a libvirt that the test starts for itself; as root.
test-libvirt:
	./run-tests --test libvirt

# The same with another libvirt and its QEMU, taken from the Debian that has them; needs root.
test-libvirt-9.0 test-libvirt-12.8:
	scripts/test-libvirt $(@:test-libvirt-%=%)

# What Miri can run: kernels but those of AVX-512, containers, memory, C calls on bitmaps and segments. Takes about ten minutes;
# needs a nightly compiler with the component miri.
miri:
	scripts/test-miri

# Licences, sources and known advisories of all crates, by cargo-deny. The advisories come from github.com; where that is out
# of reach, `DENY='bans licenses sources'` checks the rest.
DENY ?=
deny:
	@command -v cargo-deny >/dev/null || { echo "deny: cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny --locked --all-features check $(DENY)

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

# checkmap beside CRoaring, roaring, a flat bitmap, a vector of extents and our model of QEMU's HBitmap; leaves
# target/bench-peers.csv, and prints the matrix of bench-operations with what is measured here besides. All of it takes hours and
# 16 GiB of memory; the quick one less than an hour. BENCH takes more options, see `BENCH=--help`.
BENCH ?=
bench-peers: bench-operations
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-peers -- $(BENCH)

bench-peers-quick: bench-operations
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-peers -- --quick $(BENCH)

# The matrix: every operation and pattern in interleaved pairs with the best form of any peer, the means and the bars; leaves
# target/bench-operations.csv. CHECKMAP_TRACE names the trace of g. OPERATIONS takes options: `OPERATIONS='--patterns c --keep
# --csv FILE'` measures a part anew and keeps the rest of FILE.
OPERATIONS ?=
bench-operations:
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-operations -- $(OPERATIONS)

# The same with our kernels for AVX2, beside peers that are built without AVX-512: CRoaring by a macro, roaring by a cfg of the crate
# that holds its vectors.
bench-operations-avx2:
	RUSTFLAGS='--cfg disable_dispatch_avx512' CFLAGS=-DCROARING_COMPILER_SUPPORTS_AVX512=0 CHECKMAP_KERNELS=avx2 cargo run --release --locked \
		--manifest-path benchmarks/Cargo.toml --target-dir benchmarks/target/avx2 --bin bench-operations -- \
		--csv target/bench-operations-avx2.csv $(OPERATIONS)

# Deleting a checkpoint on a qcow2 of 16 TiB beside qemu-img: runs of each, and which of the cases; making the image of the
# fourth takes minutes.
DELETE_RUNS ?= 5
DELETE_CASES ?= 1,2,3,4
bench-delete:
	cargo build --release --locked --features cli
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-delete -- \
		target/release/checkmap $(DELETE_RUNS) $(DELETE_CASES)

# Backups of a running Linux with a file system, restored, checked and mounted in a guest. How many days.
GUEST_DAYS ?= 4
test-guest:
	cargo build --release --locked --features cli
	scripts/test-guest $(GUEST_DAYS)

# A diff of a running disk of 16 TiB beside QEMU's own merge: how long another client waits. Runs of each.
LIVE_RUNS ?= 5
bench-live:
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-live -- $(LIVE_RUNS)

# Unions and other set operations on two threads beside one; leaves target/bench-threads.csv.
bench-threads:
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-operations -- --threads 2 --patterns abcde \
		--csv target/bench-threads.csv

# The union of two bitmaps at granularities 16 times apart beside QEMU's merge of the same. Pairs.
MERGE_PAIRS ?= 15
bench-merge:
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-merge -- $(MERGE_PAIRS)

# nbdcopy of a whole image, from `checkmap serve` and from qemu-nbd in turn; TMPDIR needs 3 GiB. How many pairs, and how many MiB.
SERVE_PAIRS ?= 15
SERVE_MIB ?= 1024
bench-serve:
	cargo build --release --locked --features cli
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-serve -- \
		target/release/checkmap $(SERVE_PAIRS) $(SERVE_MIB)

# Full backups of a running QEMU beside nbdcopy, and increments. Pairs, and MiB of the disk; TMPDIR is best in memory.
BACKUP_PAIRS ?= 15
BACKUP_MIB ?= 1024
bench-backup:
	cargo build --release --locked --features cli
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-backup -- \
		target/release/checkmap $(BACKUP_PAIRS) $(BACKUP_MIB)

# The union of eight segments, 4 GiB in all, beside cat and dd; TMPDIR needs 5 GiB. Runs of each, and how many threads.
SEGMENT_RUNS ?= 5
SEGMENT_THREADS ?= 2
bench-segments:
	cargo build --release --locked --features cli
	cargo run --release --locked --manifest-path benchmarks/Cargo.toml --bin bench-segments -- \
		target/release/checkmap $(SEGMENT_RUNS) 65536 $(SEGMENT_THREADS)

# The pictures of docs/pictures and the means that README.md and docs/performance.md quote, from the newest records of each kind in
# benchmarks/records: files of a date and a name, such as 2026-11-26-avx512.csv, which is what bench-operations leaves.
pictures:
	scripts/draw-records

# What Python costs, beside the Rust API in turns; PYTHON has the package installed.
PYTHON ?= python3
bench-python:
	cargo build --release --locked --manifest-path bindings/python/bench/Cargo.toml --target-dir target
	$(PYTHON) bindings/python/bench/overhead.py target/release/checkmap-python-bench

# A simulated fleet, surveyed into Parquet, asked by SQL, and united; DISKS are the numbers of disks, up to a million, which take half an
# hour. PYTHON has the package installed with its extra `fleet`, and datafusion where that is to be measured as well.
DISKS ?= 10 1000 10000
bench-fleet:
	$(PYTHON) bindings/python/bench/fleet.py $(DISKS)

# Surveys of 2000 real images in a loop, in processes and on a local Ray cluster, by the disks in a batch.
bench-fleet-runners:
	$(PYTHON) bindings/python/bench/fleet_runners.py

# The SQL for fleets in Spark and DataFusion beside DuckDB; needs a Java for Spark.
test-fleet-spark:
	scripts/test-fleet-spark

# A wheel of the Python package for other machines, in WHEELS: its tag says which libc they must have at least, 2.34 where it is
# built on Debian 12. A wheel for older machines is built on an older system. The tools are those of the tests.
WHEELS ?= target/wheels
WHEEL_FLAGS ?= --release --compatibility pypi
WHEEL_TOOLS ?= target/wheel-tools
wheel: | $(WHEEL_TOOLS)/bin/maturin
	PATH="$(abspath $(WHEEL_TOOLS))/bin:$$PATH" $(WHEEL_TOOLS)/bin/python bindings/python/build_wheel.py $(WHEEL_FLAGS) \
		--out $(abspath $(WHEELS))

$(WHEEL_TOOLS)/bin/maturin:
	$(PYTHON) -m venv $(WHEEL_TOOLS)
	$(WHEEL_TOOLS)/bin/python -m pip install --quiet --requirement bindings/python/tests/requirements.txt

# The Python package as type checkers see it: mypy, which the tests run too, and pyright, which brings a Node.js of its own.
check-python-types: wheel
	$(WHEEL_TOOLS)/bin/python -m pip install --quiet "pyright[nodejs]==1.1.414"
	$(WHEEL_TOOLS)/bin/python -m pip install --quiet --no-deps --force-reinstall \
		"$$(ls -t $(abspath $(WHEELS))/checkmap-*.whl | head -n 1)"
	cd $(WHEEL_TOOLS) && bin/python -m mypy --strict --disable-error-code=import-untyped -p checkmap
	cd $(WHEEL_TOOLS) && bin/python -m pyright --pythonpath bin/python lib/python3*/site-packages/checkmap
	cd $(WHEEL_TOOLS) && PATH="$$PWD/bin:$$PATH" VIRTUAL_ENV="$$PWD" bin/python -m pyright --ignoreexternal --verifytypes checkmap

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
