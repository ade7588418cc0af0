"""Parquet of the program `checkmap`, as pyarrow reads it: types, rows, and the facts beside them."""

import json
import os
import random
import subprocess

import pyarrow
import pyarrow.parquet
import pytest

from .conftest import KIB, MIB

PROGRAM = os.environ.get("CHECKMAP_PROGRAM")
pytestmark = pytest.mark.skipif(PROGRAM is None and "CI" not in os.environ, reason="tests/python.rs names the program")

STRING, NUMBER = pyarrow.string(), pyarrow.int64()
NAMES = [("disk", STRING, False), ("since", STRING, True), ("until", STRING, True)]
EXTENTS = NAMES + [(name, NUMBER, False) for name in ("start", "length", "granularity", "virtual_size")]
ROARING = NAMES + [(name, NUMBER, False) for name in ("virtual_size", "granularity", "dirty_bytes", "dirty_extents")]
ROARING += [("roaring", pyarrow.binary(), False)]


def checkmap(*words):
    return subprocess.run([PROGRAM, *map(str, words)], check=True, stdout=subprocess.PIPE).stdout


@pytest.fixture
def image(tmp_path):
    """Two intervals: one with 3,000 extents, one with nothing in it."""
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "64M"], check=True)
    checkmap("create", path, "a", "--granularity", "4K")
    chance = random.Random(11)
    commands = []
    for at in range(0, 6000, 2):
        commands += ["-c", f"discard {at * 4 * KIB} {chance.choice([512, 4 * KIB])}"]
    subprocess.run(["qemu-io", "-f", "qcow2", *commands, path], check=True, stdout=subprocess.DEVNULL)
    checkmap("create", path, "b", "--model", "interval")
    return path


def test_every_extent_is_a_row_of_the_right_types(image):
    out = image.with_suffix(".parquet")
    checkmap("diff", image, "--since", "a", "--format", "parquet", "--disk", "web-1", "-o", out)
    table = pyarrow.parquet.read_table(out)
    table.validate(full=True)
    assert [(field.name, field.type, field.nullable) for field in table.schema] == EXTENTS
    expected = json.loads(checkmap("diff", image, "--since", "a", "--json"))["extents"]
    assert len(expected) == 3000
    rows = table.to_pylist()
    assert [{"start": row["start"], "length": row["length"]} for row in rows] == expected
    assert {(row["disk"], row["since"], row["until"]) for row in rows} == {("web-1", "a", None)}
    assert {(row["granularity"], row["virtual_size"]) for row in rows} == {(4 * KIB, 64 * MIB)}


def test_each_interval_and_its_roaring(image):
    out = image.with_suffix(".parquet")
    checkmap("diff", image, "--since", "a", "--each-interval", "--format", "parquet-roaring", "-o", out)
    table = pyarrow.parquet.read_table(out)
    assert [(field.name, field.type, field.nullable) for field in table.schema] == ROARING
    first, second = table.to_pylist()
    assert (first["since"], first["until"], second["since"], second["until"]) == ("a", "b", "b", None)
    assert (first["dirty_bytes"], first["dirty_extents"]) == (3000 * 4 * KIB, 3000)
    assert (second["dirty_bytes"], second["dirty_extents"], second["roaring"]) == (0, 0, bytes(8))
    assert first["roaring"] == checkmap("diff", image, "--since", "a", "--until", "b", "--format", "roaring")


def test_a_file_without_rows_and_the_facts_beside(image):
    out = image.with_suffix(".parquet")
    words = ["--format", "parquet", "--start", "1M", "--length", "64K", "-o", out]
    checkmap("dump", image, "--bitmap", "a->b", *words)
    table = pyarrow.parquet.read_table(out)
    assert table.num_rows == 0 and [(field.name, field.type, field.nullable) for field in table.schema] == EXTENTS
    facts = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert facts == {"checkmap.bitmap": "a->b", "checkmap.start": str(MIB), "checkmap.length": str(64 * KIB)}
