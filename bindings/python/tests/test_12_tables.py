"""Extents as tables of pyarrow and polars: the same numbers, of the right types, and the error where these are missing."""

import random
import sys

import pyarrow
import pytest

import checkmap
from checkmap import Bitmap

from .conftest import GIB, KIB, MIB


def scattered(extents, size=GIB, granularity=KIB):
    chance, bitmap = random.Random(7), Bitmap(size, granularity)
    step = size // granularity // max(extents, 1) * granularity
    for at in range(extents):
        bitmap.set(at * step, chance.randrange(1, step - granularity))
    assert bitmap.count_extents() == extents
    return bitmap


# None, one, and both sides of what one call of the library gives.
@pytest.mark.parametrize("extents", [0, 1, 8191, 8192, 8193, 20000])
def test_tables_have_every_extent(extents):
    bitmap = scattered(extents)
    table, frame = bitmap.to_arrow(), bitmap.to_polars()
    columns = {"start": [start for start, _ in bitmap.extents()], "length": [length for _, length in bitmap.extents()]}
    assert table.to_pydict() == columns and frame.to_dict(as_series=False) == columns
    assert [(field.name, field.type, field.nullable) for field in table.schema] == [
        ("start", pyarrow.uint64(), False),
        ("length", pyarrow.uint64(), False),
    ]
    assert [str(kind) for kind in frame.dtypes] == ["UInt64", "UInt64"]
    assert table.schema.metadata == {b"size": str(GIB).encode(), b"granularity": b"1024"}
    table.validate(full=True)


def test_a_table_makes_the_bitmap_again():
    bitmap = scattered(5000, GIB + 777, 512)
    bitmap.set(GIB + 776, 1)
    table = bitmap.to_arrow()
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)
    read = pyarrow.ipc.open_file(sink.getvalue()).read_all()
    again = Bitmap(*(int(read.schema.metadata[key]) for key in (b"size", b"granularity")))
    again.set_extents(zip(*(read[name].to_pylist() for name in ("start", "length"))))
    assert again == bitmap and again.size == bitmap.size
    # The last extent ends with the disk, not with the granule.
    assert read["start"][-1].as_py() + read["length"][-1].as_py() == GIB + 777


def test_arrow_has_the_columns_without_a_copy():
    bitmap = scattered(100_000)
    pool = pyarrow.default_memory_pool()
    before = pool.bytes_allocated()
    table = bitmap.to_arrow()
    assert pool.bytes_allocated() == before and table.nbytes == 100_000 * 16


def test_the_largest_numbers():
    most = Bitmap((1 << 63) - 1, 1 << 31)
    most.set_all()
    assert most.to_arrow().to_pydict() == {"start": [0], "length": [(1 << 63) - 1]}
    assert most.to_polars().rows() == [(0, (1 << 63) - 1)]


@pytest.mark.parametrize("module, method", [("pyarrow", "arrow"), ("polars", "polars"), ("numpy", "arrow"), ("numpy", "polars")])
def test_what_is_missing_is_said(module, method, monkeypatch):
    bitmap = Bitmap(MIB, KIB)
    # Python takes None for a module that is not there.
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as caught:
        getattr(bitmap, f"to_{method}")()
    said = str(caught.value)
    assert said.startswith(f"to_{method}() ") and f"{module} is not installed" in said
    assert f"`pip install 'checkmap[{method}]'`" in said and caught.value.name == module


def test_what_is_broken_is_said(monkeypatch, tmp_path):
    (tmp_path / "polars.py").write_text("raise ImportError('libbroken.so is missing')")
    monkeypatch.delitem(sys.modules, "polars", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="polars cannot be imported: libbroken.so is missing"):
        checkmap.Bitmap(MIB, KIB).to_polars()
