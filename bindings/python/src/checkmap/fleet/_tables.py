"""The two tables of a survey and their Parquet files: the columns of `--format parquet` and `--format parquet-roaring`.

It knows bitmaps and rows, and never how a disk is opened or on which host.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Tuple

from .._bitmap import Bitmap
from .._optional import needed

if TYPE_CHECKING:
    import pyarrow

#: Bytes of tables that a file gathers before it writes a row group.
_ROW_GROUP_BYTES = 64 << 20


def arrow() -> Any:
    """pyarrow; ImportError says how to have it."""
    return needed("pyarrow", "fleet", "checkmap.fleet makes tables by pyarrow")


def extents_schema() -> pyarrow.Schema:
    """A row for each dirty extent of each interval: `start` and `length` in bytes of the virtual disk."""
    return _schema(("start", "length", "granularity", "virtual_size"))


def intervals_schema() -> pyarrow.Schema:
    """A row for each interval, also where nothing is dirty: sums in bytes, and the bits as portable 64-bit Roaring."""
    schema = _schema(("virtual_size", "granularity", "dirty_bytes", "dirty_extents"))
    return schema.append(arrow().field("roaring", arrow().binary(), nullable=False))


def _schema(numbers: Tuple[str, ...]) -> pyarrow.Schema:
    pa = arrow()
    fields = [pa.field("disk", pa.string(), nullable=False), pa.field("since", pa.string()), pa.field("until", pa.string())]
    return pa.schema(fields + [pa.field(name, pa.int64(), nullable=False) for name in numbers])


class Rows:
    """Gathers the rows of many disks, each whole or not at all, and makes the two tables of them."""

    def __init__(self, extents: bool, intervals: bool) -> None:
        self._extents: Optional[List[pyarrow.Table]] = [] if extents else None
        self._intervals: Optional[List[Dict[str, Any]]] = [] if intervals else None

    def add(self, disk: str, diffs: List[Tuple[str, Optional[str], Bitmap]]) -> int:
        """The intervals of one disk, oldest first; returns the sum of their dirty bytes."""
        numpy = needed("numpy", "fleet", "checkmap.fleet takes the extents by numpy")
        extents, intervals, total = [], [], 0
        for since, until, bitmap in diffs:
            size, granularity, dirty_bytes = bitmap.size, bitmap.granularity, bitmap.dirty_bytes()
            starts, lengths = bitmap._columns(numpy)
            if self._extents is not None and len(starts):
                extents.append(_extent_rows(disk, since, until, starts, lengths, granularity, size))
            if self._intervals is not None:
                intervals.append(
                    {
                        "disk": disk,
                        "since": since,
                        "until": until,
                        "virtual_size": size,
                        "granularity": granularity,
                        "dirty_bytes": dirty_bytes,
                        "dirty_extents": len(starts),
                        "roaring": bitmap.serialize(),
                    }
                )
            total += dirty_bytes
        if self._extents is not None:
            self._extents += extents
        if self._intervals is not None:
            self._intervals += intervals
        return total

    def tables(self) -> Tuple[Optional[pyarrow.Table], Optional[pyarrow.Table]]:
        """The extents and the intervals; None for a table that nobody wants."""
        pa, extents, intervals = arrow(), None, None
        if self._extents is not None:
            extents = pa.concat_tables([extents_schema().empty_table(), *self._extents]).combine_chunks()
        if self._intervals is not None:
            intervals = pa.Table.from_pylist(self._intervals, schema=intervals_schema())
        return extents, intervals


def _extent_rows(
    disk: str, since: str, until: Optional[str], starts: Any, lengths: Any, granularity: int, size: int
) -> pyarrow.Table:
    pa = arrow()
    count = len(starts)

    def same(value: Any, kind: Any) -> Any:
        return pa.repeat(pa.scalar(value, kind), count)

    columns = [same(disk, pa.string()), same(since, pa.string())]
    columns.append(pa.nulls(count, pa.string()) if until is None else same(until, pa.string()))
    columns += [pa.array(starts.astype("int64")), pa.array(lengths.astype("int64"))]
    columns += [same(granularity, pa.int64()), same(size, pa.int64())]
    return pa.Table.from_arrays(columns, schema=extents_schema())


class Files:
    """One Parquet file for each host and table: FOLDER/extents/HOST.parquet and FOLDER/intervals/HOST.parquet.

    A file has its name when it is whole, by close(): a reader never sees half of one.
    """

    def __init__(self, folder: str) -> None:
        needed("pyarrow.parquet", "fleet", "checkmap.fleet writes Parquet by pyarrow")
        for kind in ("extents", "intervals"):
            place = os.path.join(folder, kind)
            if os.path.isdir(place) and any(name.endswith(".parquet") for name in os.listdir(place)):
                raise FileExistsError(errno.EEXIST, "a survey is here already: each needs a folder of its own", place)
        self._folder = folder
        self._open: Dict[Tuple[str, str], _File] = {}

    def write(
        self, host: str, extents: Optional[pyarrow.Table], intervals: Optional[pyarrow.Table], more: str = ""
    ) -> None:
        """Appends rows to the files of a host; `more` ends the names of its other files."""
        name = _file_name(host) + more
        for kind, table in (("extents", extents), ("intervals", intervals)):
            if table is not None:
                if (kind, name) not in self._open:
                    place = os.path.join(self._folder, kind)
                    os.makedirs(place, exist_ok=True)
                    self._open[kind, name] = _File(os.path.join(place, name + ".parquet"), table.schema)
                self._open[kind, name].append(table)

    def close(self) -> List[str]:
        """Ends all files, then gives them their names; returns their paths."""
        files = [file for _, file in sorted(self._open.items())]
        for file in files:
            file.finish()
        return [file.take_name() for file in files]

    def abandon(self) -> None:
        """Removes what was written."""
        for file in self._open.values():
            file.abandon()


class _File:
    def __init__(self, path: str, schema: pyarrow.Schema) -> None:
        parquet = needed("pyarrow.parquet", "fleet", "checkmap.fleet writes Parquet by pyarrow")
        self._path = path
        # Engines that read folders leave names out that begin with a dot.
        self._unfinished = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.unfinished")
        self._tables: List[pyarrow.Table] = []
        self._bytes = 0
        self._writer = parquet.ParquetWriter(self._unfinished, schema, compression="zstd")

    def append(self, table: pyarrow.Table) -> None:
        self._tables.append(table)
        self._bytes += table.nbytes
        if self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._tables:
            self._writer.write_table(arrow().concat_tables(self._tables))
        self._tables, self._bytes = [], 0

    def finish(self) -> None:
        self._flush()
        self._writer.close()
        with open(self._unfinished, "rb+") as file:
            os.fsync(file.fileno())

    def take_name(self) -> str:
        os.replace(self._unfinished, self._path)
        return self._path

    def abandon(self) -> None:
        self._tables = []
        self._writer.close()
        if os.path.exists(self._unfinished):
            os.unlink(self._unfinished)


def _file_name(host: str) -> str:
    """A host's name as that of a file: other bytes than letters, digits and `._-` are `%XX`, a leading dot too."""
    escaped = re.sub(rb"[^A-Za-z0-9._-]|^\.", lambda match: b"%%%02X" % match[0][0], host.encode("utf-8", "surrogatepass"))
    return escaped.decode()
