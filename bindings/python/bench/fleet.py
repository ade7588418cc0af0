#!/usr/bin/env python3
"""A simulated fleet: from ten disks to a million, surveyed into Parquet, asked by SQL, and united; every answer is checked.

`make bench-fleet` in the project's root runs it. The disks are 100 GiB at 64 KiB, and no image is behind them: a bitmap is made where
an image would be read, so that all else is measured as it is: the manifest, the processes, the rows, the files. Of 100 disks 40 are
idle (up to 10 extents), 50 are normal (10 to 200), 9 are busy (200 to 2000) and one is dense (every granule of 10 GiB, with holes).
Every tenth disk has a second recording on another host, of the same volume.

Each step runs in a process of its own, so that its peak of memory is its own; that of a pool adds its processes. Prints a line
for each step, as CSV: disks, step, seconds, peak MiB, note.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

import numpy

import checkmap
from checkmap import fleet
from checkmap.fleet import _work

GRANULARITY, DISK = 64 << 10, 100 << 30
GRANULES = DISK // GRANULARITY
HOSTS = 4
MIB = 1 << 20
#: Between the numbers of what the first and the second interval of a disk are made from.
AFTERNOON = 100_000_000


#: Seconds that went by in checks, which are no part of a step.
checks = [0.0]


@contextmanager
def checking():
    begun = time.monotonic()
    yield
    checks[0] += time.monotonic() - begun


def extents_of(number):
    """The dirty extents of a disk, as starts and stops in granules: sorted, and none touches another."""
    chance = numpy.random.Generator(numpy.random.PCG64(number))
    kind = number % 100
    if kind == 99:
        first = int(chance.integers(0, GRANULES - 163_840))
        starts = first + numpy.flatnonzero(chance.random(163_840) < 0.02)
        starts = numpy.concatenate(([first], starts + 1))
        stops = numpy.append(starts[1:] - 1, first + 163_840)
    else:
        low, high = (0, 10) if kind < 40 else (10, 200) if kind < 90 else (200, 2000)
        count = int(chance.integers(low, high + 1))
        # Most changes are in a twentieth of the disk.
        hot = int(chance.integers(0, GRANULES - GRANULES // 20))
        starts = numpy.where(
            chance.random(count) < 0.7,
            hot + chance.integers(0, GRANULES // 20, count),
            chance.integers(0, GRANULES, count),
        )
        starts = numpy.unique(starts)
        stops = numpy.minimum(starts + chance.geometric(0.25, len(starts)), GRANULES)
    whole = stops > starts
    starts, stops = starts[whole], numpy.maximum.accumulate(stops[whole])
    # Those that touch or overlap become one.
    begins = numpy.append(True, starts[1:] > stops[:-1]) if len(starts) else numpy.zeros(0, bool)
    ends = numpy.append(begins[1:], True) if len(starts) else begins
    return starts[begins].astype(numpy.int64), stops[ends].astype(numpy.int64)


def simulated(entry, request):
    """In the place of an image that is opened and read."""
    number = int(entry.image)
    if request.each_interval:
        return [("yesterday", "noon", bitmap_of(number)), ("noon", None, bitmap_of(number + AFTERNOON))]
    return [("yesterday", None, bitmap_of(number))]


def bitmap_of(number):
    starts, stops = extents_of(number)
    bitmap = checkmap.Bitmap(DISK, GRANULARITY)
    pairs = numpy.stack([starts, stops - starts], axis=1).astype(numpy.uint64) * numpy.uint64(GRANULARITY)
    bitmap.set_extents(pairs)
    assert bitmap.count_extents() == len(starts) and bitmap.count() == (stops - starts).sum()
    return bitmap


def due_of(number):
    """The dirty bytes of both intervals of a disk, each once."""
    starts, stops = map(numpy.concatenate, zip(extents_of(number), extents_of(number + AFTERNOON)))
    if not len(starts):
        return 0
    order = numpy.argsort(starts, kind="stable")
    starts, stops = starts[order], stops[order]
    reached = numpy.append(0, numpy.maximum.accumulate(stops)[:-1])
    return int(numpy.maximum(stops - numpy.maximum(starts, reached), 0).sum()) * GRANULARITY


# The processes of the pool import this file, and read no image either.
_work.diffs = simulated


def survey_batch(batch):
    return _work.survey_batch(batch)


def unite_batch(batch):
    return _work.unite_batch(batch)


class Simulated(fleet.Pool):
    """A pool whose processes import this file."""

    def run(self, work, batches, *, keep=False):
        ours = {_work.survey_batch: survey_batch, _work.unite_batch: unite_batch}[work]
        return super().run(ours, batches, keep=keep)


def write_manifest(folder, disks):
    entries = []
    for number in range(disks):
        entry = {"disk": f"disk-{number:07}", "image": str(number), "host": f"host-{number % HOSTS}"}
        if number % 10 == 0 and number + 1 < disks:
            entry["volume"] = f"volume-{number:07}"
        elif number % 10 == 1:
            entry["volume"] = f"volume-{number - 1:07}"
        entries.append(entry)
    with open(os.path.join(folder, "fleet.json"), "w") as file:
        json.dump({"disks": entries}, file)
    return f"{os.path.getsize(file.name) / MIB:.1f} MiB"


def manifest_of(folder):
    made = fleet.Manifest.read(os.path.join(folder, "fleet.json"))
    # The numbers that stand for images are no paths.
    return fleet.Manifest([entry._replace(image=os.path.basename(entry.image)) for entry in made])


def do_manifest(folder, disks):
    assert len(fleet.Manifest.read(os.path.join(folder, "fleet.json"))) == disks
    return ""


def do_survey(folder, disks, each_interval=False):
    out = os.path.join(folder, "out")
    runner = Simulated(all_hosts=True)
    found = fleet.survey(
        manifest_of(folder), runner, since="yesterday", each_interval=each_interval, out=out, batch=256
    )
    assert not found.not_done, found.not_done[:3]
    # simulated() has compared each bitmap with the numbers that it was made from.
    changed = sum(result.dirty_bytes for result in found.results)
    with open(os.path.join(folder, "expected.json"), "w") as file:
        json.dump({"changed": changed, "each_interval": each_interval}, file)
    sizes = []
    for table in ("extents", "intervals"):
        place = os.path.join(out, table)
        files = os.listdir(place)
        size = sum(os.path.getsize(os.path.join(place, name)) for name in files)
        sizes.append(f"{table} {size / MIB:.1f} MiB in {len(files)} files")
    return "; ".join(sizes)


def do_two_intervals(folder, disks):
    return do_survey(folder, disks, each_interval=True)


def do_unite(folder, disks):
    united = fleet.unite(manifest_of(folder), Simulated(all_hosts=True), since="yesterday", batch=256)
    with checking():
        for at, each in enumerate(united):
            assert each.error is None, each
            if at < 1000:
                number = int(each.volume[-7:])
                marks = numpy.zeros(GRANULES, bool)
                for one in (number, number + 1)[: len(each.disks)]:
                    for start, stop in zip(*extents_of(one)):
                        marks[start:stop] = True
                assert each.bitmap.count() == marks.sum()
    return f"{len(united)} volumes of 2 recordings"


def do_blobs(folder, disks):
    """All bitmaps of the fleet as one, by pyarrow and Bitmap.union: where anything changed on any disk."""
    import pyarrow.parquet

    union, read = checkmap.Bitmap(DISK, GRANULARITY), 0
    place = os.path.join(folder, "out/intervals")
    for name in sorted(os.listdir(place)):
        for rows in pyarrow.parquet.ParquetFile(os.path.join(place, name)).iter_batches(1024, columns=["roaring"]):
            blobs = rows.column(0)
            union.update(*(checkmap.Bitmap.deserialize(blob.as_buffer(), DISK, GRANULARITY) for blob in blobs))
            read += len(blobs)
    assert read == disks
    return f"{union.count()} of {GRANULES} granules"


def do_udaf(folder, disks):
    """The same as an aggregate of DataFusion."""
    import datafusion
    import pyarrow

    class Union(datafusion.Accumulator):
        def __init__(self):
            self._union = checkmap.Bitmap(DISK, GRANULARITY)

        def update(self, blobs):
            every = (checkmap.Bitmap.deserialize(blob.as_buffer(), DISK, GRANULARITY) for blob in blobs)
            self._union.update(*every)

        def merge(self, states):
            states = states[0] if isinstance(states, list) else states
            self.update(states)

        def state(self):
            return [pyarrow.scalar(self._union.serialize(), pyarrow.binary())]

        def evaluate(self):
            return pyarrow.scalar(self._union.serialize(), pyarrow.binary())

    binary = pyarrow.binary()
    unite = datafusion.udaf(Union, binary, binary, [binary], "immutable", name="unite")
    context = tables_of_datafusion(folder)
    context.register_udaf(unite)
    (row,) = context.sql("SELECT unite(CAST(roaring AS BYTEA)) AS roaring FROM intervals").to_pylist()
    return f"{checkmap.Bitmap.deserialize(row['roaring'], DISK, GRANULARITY).count()} of {GRANULES} granules"


def tables_of_datafusion(folder):
    import datafusion

    context = datafusion.SessionContext()
    for table in ("extents", "intervals"):
        context.register_parquet(table, os.path.join(folder, "out", table))
    return context


def do_query(folder, disks, engine, name):
    out = os.path.join(folder, "out")
    if engine == "duckdb":
        import duckdb

        database = duckdb.connect()
        database.execute(f"SET temp_directory = '{folder}/spill'")
        for table in ("extents", "intervals"):
            database.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{out}/{table}/*.parquet')")
        found = database.execute(fleet.query(name))
        table = found.fetch_arrow_table()
    else:
        import pyarrow

        context = tables_of_datafusion(folder)
        found = context.sql(fleet.query(name))
        table = pyarrow.Table.from_batches(found.collect(), schema=found.schema())
    with checking():
        check(folder, disks, name, table)
    return f"{table.num_rows} rows"


def check(folder, disks, name, table):
    """Compares the rows of a query with the numbers that the disks were made from."""
    with open(os.path.join(folder, "expected.json")) as file:
        expected = json.load(file)
    if name == "due":
        assert table.num_rows == disks
        if expected["each_interval"]:
            for disk, due in zip(table["disk"].to_pylist(), table["due_bytes"].to_pylist()):
                assert due == due_of(int(disk[-7:]))
        else:
            assert sum(table["due_bytes"].to_pylist()) == expected["changed"]
    elif name == "trend":
        assert set(table["disks"].to_pylist()) == {disks}
        assert sum(table["dirty_bytes"].to_pylist()) == expected["changed"]
    elif expected["each_interval"]:
        pass
    elif name == "hottest_disks":
        numbers = [int(disk[-7:]) for disk in table["disk"].to_pylist()]
        for number, dirty in zip(numbers, table["dirty_bytes"].to_pylist()):
            starts, stops = extents_of(number)
            assert dirty == (stops - starts).sum() * GRANULARITY
    elif name == "hottest_regions":
        for disk, start, dirty in zip(*(table[column].to_pylist() for column in table.column_names)):
            starts, stops = (each * GRANULARITY for each in extents_of(int(disk[-7:])))
            inside = numpy.minimum(stops, start + (1 << 30)) - numpy.maximum(starts, start)
            assert dirty == inside[inside > 0].sum()


def step(folder, disks, what):
    """One step, in this process; prints what it took."""
    begun = time.monotonic()
    name, *more = what.split(":")
    steps = {
        "manifest": do_manifest,
        "survey": do_survey,
        "two-intervals": do_two_intervals,
        "blobs": do_blobs,
        "udaf": do_udaf,
        "unite": do_unite,
    }
    note = do_query(folder, disks, name, *more) if more else steps[name](folder, disks)
    seconds = time.monotonic() - begun - checks[0]
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Each process of a pool has about the peak of the largest one.
    others = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * len(os.sched_getaffinity(0))
    print(f"{disks},{what},{seconds:.2f},{(own + others) / 1024:.0f},{note}", flush=True)


def main():
    arguments = argparse.ArgumentParser(description="A simulated fleet: surveyed, asked by SQL, and united.")
    arguments.add_argument("disks", nargs="*", type=int, default=[10, 1000, 10_000])
    arguments.add_argument("--steps", help="which steps, such as two-intervals,duckdb:due; all but two-intervals by default")
    arguments.add_argument("--keep", help="a folder that is made, or used again, and kept: for steps one by one")
    arguments.add_argument("--in", dest="folder", help=argparse.SUPPRESS)
    arguments = arguments.parse_args()
    if arguments.folder:
        step(arguments.folder, arguments.disks[0], arguments.steps)
        return
    engines = ["duckdb"]
    try:
        import datafusion  # noqa: F401

        engines.append("datafusion")
    except ImportError:
        print("datafusion is not installed: its steps are left out", file=sys.stderr)
    steps = ["manifest", "survey", *(f"{engine}:{name}" for engine in engines for name in fleet.QUERIES), "blobs"]
    steps += ["udaf"] if len(engines) > 1 else []
    steps += ["unite"]
    if arguments.steps:
        steps = arguments.steps.split(",")
    failed = False
    print("disks,step,seconds,peak MiB,note")
    for disks in arguments.disks:
        folder = arguments.keep or tempfile.mkdtemp(prefix="fleet")
        os.makedirs(folder, exist_ok=True)
        try:
            if not os.path.exists(os.path.join(folder, "fleet.json")):
                write_manifest(folder, disks)
            for what in steps:
                command = [sys.executable, os.path.abspath(__file__), str(disks), "--steps", what, "--in", folder]
                ran = subprocess.run(command, stderr=subprocess.PIPE, text=True)
                if ran.returncode != 0:
                    failed = True
                    last = ran.stderr.strip().splitlines()[-1:] or [f"status {ran.returncode}"]
                    print(f"{disks},{what},,,FAILED: {last[0][:200]}", flush=True)
        finally:
            if not arguments.keep:
                shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    # By its name, so that the processes of the pool find the same functions.
    import fleet as itself

    itself.main()
