"""The two tables of a survey and their Parquet files: the columns of `--format parquet` and `--format parquet-roaring`.

It knows bitmaps and rows, and never how a disk is opened or on which host.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from io import FileIO
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Tuple

from .._bitmap import Bitmap
from .._optional import needed

if TYPE_CHECKING:
    import pyarrow

#: Bytes of tables that a file gathers before it writes a row group.
_ROW_GROUP_BYTES = 64 << 20
#: The file of a folder that says that all others are there.
_COMPLETE = "complete.json"
#: Errors of file systems without hard links.
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


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
        self._intervals: Optional[List[pyarrow.Table]] = [] if intervals else None

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
        # Both tables of a disk are made before either is kept: a text that is no UTF-8 fails here, for this disk alone.
        made = [arrow().Table.from_pylist(intervals, schema=intervals_schema())] if intervals else []
        if self._extents is not None:
            self._extents += extents
        if self._intervals is not None:
            self._intervals += made
        return total

    def tables(self) -> Tuple[Optional[pyarrow.Table], Optional[pyarrow.Table]]:
        """The extents and the intervals; None for a table that nobody wants."""
        pa, extents, intervals = arrow(), None, None
        if self._extents is not None:
            extents = pa.concat_tables([extents_schema().empty_table(), *self._extents]).combine_chunks()
        if self._intervals is not None:
            intervals = pa.concat_tables([intervals_schema().empty_table(), *self._intervals]).combine_chunks()
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

    A file has its name when it is whole, by close(): a reader never sees half of one. FOLDER/complete.json, the last one, lists them.
    The folder is this object's until close() or abandon(), by a lock on FOLDER/.survey, which the system drops if the process dies.
    """

    def __init__(self, folder: str, hosts: Iterable[str]) -> None:
        """hosts: all whose rows will come; ValueError where two of them would share a file on some systems."""
        needed("pyarrow.parquet", "fleet", "checkmap.fleet writes Parquet by pyarrow")
        _check_hosts(hosts)
        self._folder = folder
        self._open: Dict[Tuple[str, str], _File] = {}
        self._marker: Optional[_Unfinished] = None
        os.makedirs(folder, exist_ok=True)
        self._lock: Optional[FileIO] = _locked(os.path.join(folder, ".survey"))
        try:
            self._check_empty()
        except BaseException:
            self._release()
            raise

    def _check_empty(self) -> None:
        found = [os.path.join(self._folder, _COMPLETE)] if os.path.lexists(os.path.join(self._folder, _COMPLETE)) else []
        for kind in ("extents", "intervals"):
            place = os.path.join(self._folder, kind)
            if os.path.isdir(place) and any(name.endswith(".parquet") for name in os.listdir(place)):
                found.append(place)
        if found:
            raise FileExistsError(errno.EEXIST, "a survey is here already: each needs a folder of its own", found[-1])

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
                    self._open[kind, name] = _File(os.path.join(place, name + ".parquet"))
                    self._open[kind, name].begin(table.schema)
                self._open[kind, name].append(table)

    def close(self) -> List[str]:
        """Ends all files, then gives them their names; returns their paths. abandon() must follow where it raises."""
        files = [file for _, file in sorted(self._open.items())]
        for file in files:
            file.finish()
        for file in files:
            file.take_name()
        paths = [file.path for file in files]
        for place in sorted({os.path.dirname(path) for path in paths}):
            _sync(place)
        self._marker = _Unfinished(os.path.join(self._folder, _COMPLETE))
        with open(self._marker.unfinished, "x", encoding="utf-8") as marker:
            json.dump({"files": [os.path.relpath(path, self._folder) for path in paths]}, marker, indent=2)
        self._marker.sync()
        self._marker.take_name()
        _sync(self._folder)
        self._release()
        return paths

    def abandon(self) -> None:
        """Removes what was written, files that have their names already too; an error with one keeps no other."""
        for file in ([] if self._marker is None else [self._marker]) + list(self._open.values()):
            file.remove()
        self._release()

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            with lock:
                # While it is locked: whoever has opened it sees that it has lost its name.
                _unlink(os.path.join(self._folder, ".survey"))


class _Unfinished:
    """A file that is whole on the disk before it has its name."""

    def __init__(self, path: str) -> None:
        self.path = path
        # Engines that read folders leave names out that begin with a dot.
        folder, name = os.path.split(path)
        self.unfinished = os.path.join(folder, f".{name}.{secrets.token_hex(8)}.unfinished")
        self._identity: Optional[Tuple[int, int]] = None

    def sync(self) -> None:
        with open(self.unfinished, "rb+") as file:
            os.fsync(file.fileno())
            self._identity = _identity(os.fstat(file.fileno()))

    def take_name(self) -> None:
        """FileExistsError where another file has the name."""
        try:
            os.link(self.unfinished, self.path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(self.path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), self.path) from None
            os.rename(self.unfinished, self.path)
        else:
            os.unlink(self.unfinished)

    def remove(self) -> None:
        """Removes it under both names; a file of another survey stays."""
        _unlink(self.unfinished)
        try:
            ours = self._identity is not None and _identity(os.lstat(self.path)) == self._identity
        except OSError:
            ours = False
        if ours:
            _unlink(self.path)


class _File(_Unfinished):
    """A Parquet file that grows by tables."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._tables: List[pyarrow.Table] = []
        self._bytes = 0
        self._writer: Any = None

    def begin(self, schema: pyarrow.Schema) -> None:
        parquet = needed("pyarrow.parquet", "fleet", "checkmap.fleet writes Parquet by pyarrow")
        self._writer = parquet.ParquetWriter(self.unfinished, schema, compression="zstd")

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
        self.sync()

    def remove(self) -> None:
        self._tables = []
        try:
            if self._writer is not None:
                self._writer.close()
        except Exception:  # A full disk: the file goes anyway.
            pass
        super().remove()


def _identity(status: os.stat_result) -> Tuple[int, int]:
    return status.st_dev, status.st_ino


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _sync(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(path: str) -> FileIO:
    """The file, made where it is missing, under a lock of this process; FileExistsError where another has it."""
    while True:
        file = open(path, "ab", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _identity(os.fstat(file.fileno())) == _identity(os.stat(path)):
                return file
        except BlockingIOError:
            file.close()
            words = "another survey writes into this folder: wait for its end, or take another folder"
            raise FileExistsError(errno.EEXIST, words, os.path.dirname(path)) from None
        except FileNotFoundError:
            pass
        except OSError as error:
            file.close()
            raise OSError(error.errno, f"no lock on this file system: {error.strerror}", path) from None
        # The survey before has removed it between the two calls.
        file.close()


def _check_hosts(hosts: Iterable[str]) -> None:
    seen: Dict[str, str] = {}
    for host in sorted(set(hosts)):
        other = seen.setdefault(_file_name(host).lower(), host)
        if other != host:
            raise ValueError(
                f"hosts {other!r} and {host!r} would have one file where names of files ignore case: "
                "write the host in one way, or survey them into two folders"
            )


def _file_name(host: str) -> str:
    """A host's name as that of a file: other bytes than letters, digits and `._-` are `%XX`, a leading dot too; a long one has a hash."""
    raw = host.encode("utf-8", "surrogatepass")
    escaped = re.sub(rb"[^A-Za-z0-9._-]|^\.", lambda match: b"%%%02X" % match[0][0], raw).decode()
    return escaped if len(escaped) <= 200 else f"{escaped[:180]}~{hashlib.sha256(raw).hexdigest()[:16]}"
