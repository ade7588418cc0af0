"""What Python costs: walks of the same bitmaps, in turn with the same walks by the Rust API in a process beside it.

`make bench-python` in the project's root runs it. Fails where a walk into a buffer takes more than 1.5 times as long as
in Rust, or a plain loop of tuples more than 50 times. For pairs, which are copied item by item, and a
list that holds all tuples at once the limits only notice when something goes wrong.
"""

import random
import struct
import subprocess
import sys
import tempfile
import time
from array import array

import checkmap

try:
    import numpy
except ImportError:
    numpy = None

BATCH = 8192
ROUNDS = 21
LIMITS = {"records": 1.5, "numpy": 1.5, "pairs": 8, "tuples": 50, "list": 100}


def every_other():
    bitmap = checkmap.Bitmap(1 << 34, 4096)
    bitmap.from_bits(b"\x55" * (1 << 19))
    return bitmap


def scattered():
    bitmap = checkmap.Bitmap(1 << 40, 65536)
    rng = random.Random(1)
    for _ in range(400_000):
        bitmap.set(rng.randrange(1 << 40), 1)
    return bitmap


def runs():
    bitmap = checkmap.Bitmap(1 << 44, 65536)
    for at in range(0, 1 << 44, 1 << 25):
        bitmap.set(at, 1 << 24)
    return bitmap


def walk_into(bitmap, out, size):
    last = struct.Struct("=QQ").unpack_from
    at = (BATCH - 1) * size
    offset = seen = 0
    while True:
        count = bitmap.extents_into(out, offset)
        seen += count
        if count < BATCH:
            return seen
        offset = sum(last(out, at))


def walk_tuples(bitmap):
    seen = total = 0
    for _, length in bitmap.iter_extents():
        seen += 1
        total += length
    return seen


WALKS = {
    "records": ("extents", lambda bitmap, out=bytearray(24 * BATCH): walk_into(bitmap, out, 24)),
    "pairs": ("extents", lambda bitmap, out=array("Q", bytes(16 * BATCH)): walk_into(bitmap, out, 16)),
    "tuples": ("loop", walk_tuples),
    "list": ("loop", lambda bitmap: len(bitmap.extents())),
}
if numpy is not None:
    records = numpy.zeros(BATCH, numpy.dtype(checkmap.EXTENT_FIELDS))
    WALKS["numpy"] = ("extents", lambda bitmap: walk_into(bitmap, records, 24))


def main(native):
    rust = subprocess.Popen([native], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(line):
        rust.stdin.write(line + "\n")
        rust.stdin.flush()
        return [int(word) for word in rust.stdout.readline().split()]

    failed = False
    for make in (every_other, scattered, runs):
        bitmap = make()
        with tempfile.NamedTemporaryFile() as file:
            file.write(bitmap.serialize())
            file.flush()
            ask(f"load {file.name} {bitmap.size} {bitmap.granularity}")
        expected = bitmap.count_extents()
        for name, (what, walk) in WALKS.items():
            ours, theirs = [], []
            for _ in range(ROUNDS):
                nanoseconds, seen, _ = ask(what)
                theirs.append(nanoseconds)
                begin = time.perf_counter_ns()
                got = walk(bitmap)
                ours.append(time.perf_counter_ns() - begin)
                assert got == seen == expected, (got, seen, expected)
            python, native_time = sorted(ours)[ROUNDS // 2], sorted(theirs)[ROUNDS // 2]
            ratio = python / native_time
            failed |= ratio > LIMITS[name]
            print(
                f"{make.__name__:12} {name:8} {expected:9} extents  Python {python / expected:7.2f} ns  "
                f"Rust {native_time / expected:6.2f} ns  ratio {ratio:6.2f}  (limit {LIMITS[name]})"
            )
        begin = time.perf_counter_ns()
        for _ in range(10000):
            bitmap.get(0)
        print(f"{make.__name__:12} one get() {(time.perf_counter_ns() - begin) / 10000:.0f} ns")
    rust.stdin.close()
    rust.wait()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
