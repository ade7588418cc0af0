"""Bitmaps in files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, List, Optional, Tuple, Union

from . import _extents
from ._arguments import Options, Path, Progress, descriptor, naming, opened, path_bytes, several, up_to, whole
from ._bitmap import Bitmap
from ._errors import checked, found
from ._handle import Borrowed, Handle
from ._native import ffi, lib
from ._report import Report, report_of


@dataclass(frozen=True)
class SegmentInfo:
    """What a segment holds, and what it takes.

    disk_size: The size of the disk in bytes.
    granularity: The bytes that one bit stands for.
    dirty_granules: The dirty granules.
    extents: The dirty extents of the whole disk.
    chunks: The chunks of 65536 granules that have dirty ones.
    entries: The entries of the directory.
    file_bytes: The length of the file in bytes.
    """

    disk_size: int
    granularity: int
    dirty_granules: int
    extents: int
    chunks: int
    entries: int
    file_bytes: int


def _info(ask: Callable[[Any], Any]) -> SegmentInfo:
    info = ffi.new("struct checkmap_segment_info *")
    info.size = ffi.sizeof("struct checkmap_segment_info")
    ask(info)
    return SegmentInfo(
        info.disk_size, info.granularity, info.dirty_granules, info.extents, info.chunks, info.entries, info.file_bytes
    )


class Segment(Handle):
    """A bitmap in a file, which may be larger than memory. Many threads may use it at once."""

    __slots__ = ("_path",)

    def __init__(self, path: Union[Path, int]) -> None:
        """Opens the file at a path, or behind a descriptor, which stays the caller's and may be closed at once."""
        self._path = path
        out = ffi.new("checkmap_segment **")
        with naming(path):
            fd = descriptor(path)
            if fd is not None:
                checked(lib.checkmap_segment_open_fd(fd, out))
            else:
                name = path_bytes(path)
                checked(lib.checkmap_segment_open(name, len(name), out))
        super().__init__(out[0], lib.checkmap_segment_close)

    def __repr__(self) -> str:
        return opened(self, self._path) if not self.closed else "<checkmap.Segment, closed>"

    @staticmethod
    def write(bitmap: Bitmap, path: Union[Path, int]) -> SegmentInfo:
        """Writes a bitmap to the file at a path, which it replaces in one atomic step, or to a descriptor."""
        with Borrowed(Bitmap, bitmap) as (source,), naming(path):
            fd = descriptor(path)
            if fd is not None:
                return _info(lambda info: checked(lib.checkmap_segment_write_fd(source, fd, info)))
            name = path_bytes(path)
            return _info(lambda info: checked(lib.checkmap_segment_write(source, name, len(name), info)))

    @staticmethod
    def merge(
        segments: Iterable[Segment],
        path: Path,
        *,
        threads: int = 0,
        memory_bytes: int = 0,
        progress: Optional[Progress] = None,
    ) -> SegmentInfo:
        """Unites segments into a new one, in bounded memory (0: 64 MiB); on error what was at the path stays."""
        name = path_bytes(path)
        options = Options(progress, threads=threads, memory_bytes=memory_bytes)
        with Borrowed(Segment, *several(segments, "segments")) as sources, naming(path, among=True):
            array = ffi.new("checkmap_segment *[]", sources)
            return _info(
                lambda info: options.checked(
                    lib.checkmap_segment_merge(array, len(sources), name, len(name), options.pointer, info)
                )
            )

    @staticmethod
    def merge_info(
        segments: Iterable[Segment], *, memory_bytes: int = 0, progress: Optional[Progress] = None
    ) -> SegmentInfo:
        """What merge() would make, without making it."""
        options = Options(progress, memory_bytes=memory_bytes)
        with Borrowed(Segment, *several(segments, "segments")) as sources:
            array = ffi.new("checkmap_segment *[]", sources)
            return _info(
                lambda info: options.checked(
                    lib.checkmap_segment_merge_info(array, len(sources), options.pointer, info)
                )
            )

    def info(self) -> SegmentInfo:
        """What it holds, and what it takes."""
        return _info(lambda info: checked(self._read(lib.checkmap_segment_get_info, info)))

    @property
    def size(self) -> int:
        """The size of the disk in bytes."""
        return self.info().disk_size

    @property
    def granularity(self) -> int:
        """The bytes that one bit stands for."""
        return self.info().granularity

    def heap_bytes(self) -> int:
        """The memory that it takes."""
        return checked(self._read(lib.checkmap_segment_heap_bytes))

    def count(self) -> int:
        """The number of dirty granules; from memory."""
        return checked(self._read(lib.checkmap_segment_count))

    def dirty_bytes(self) -> int:
        """The sum of all extents."""
        return checked(self._read(lib.checkmap_segment_dirty_bytes))

    def count_range(self, offset: int = 0, length: Optional[int] = None) -> int:
        """The number of dirty granules that touch the range."""
        return checked(self._read(lib.checkmap_segment_count_range, whole(offset, "offset"), up_to(length)))

    def get(self, offset: int) -> bool:
        """Whether the granule that holds this byte is dirty; OutOfRangeError past the last one."""
        return bool(checked(self._read(lib.checkmap_segment_get, whole(offset, "offset"))))

    def next_dirty(self, offset: int = 0, length: Optional[int] = None) -> Optional[int]:
        """The first dirty byte of the range, or None."""
        return found(self._read(lib.checkmap_segment_next_dirty, whole(offset, "offset"), up_to(length)))

    def next_clean(self, offset: int = 0, length: Optional[int] = None) -> Optional[int]:
        """The first clean byte of the range, or None."""
        return found(self._read(lib.checkmap_segment_next_clean, whole(offset, "offset"), up_to(length)))

    def previous_dirty(self, offset: int = 0, length: Optional[int] = None) -> Optional[int]:
        """The last dirty byte of the range, or None."""
        return found(self._read(lib.checkmap_segment_previous_dirty, whole(offset, "offset"), up_to(length)))

    def previous_clean(self, offset: int = 0, length: Optional[int] = None) -> Optional[int]:
        """The last clean byte of the range, or None."""
        return found(self._read(lib.checkmap_segment_previous_clean, whole(offset, "offset"), up_to(length)))

    def rank(self, offset: int) -> int:
        """The number of dirty granules before the one that holds this byte; at the end of the disk and past it, all."""
        return checked(self._read(lib.checkmap_segment_rank, whole(offset, "offset")))

    def select(self, number: int) -> Optional[int]:
        """Where the dirty granule of this number begins, counted from 0; None if fewer are dirty."""
        return found(self._read(lib.checkmap_segment_select, whole(number, "number")))

    def extents(self, offset: int = 0, length: Optional[int] = None) -> List[Tuple[int, int]]:
        """The dirty extents of the range as (offset, length), as those of a Bitmap."""
        return list(self.iter_extents(offset, length))

    def iter_extents(self, offset: int = 0, length: Optional[int] = None) -> Iterator[Tuple[int, int]]:
        """extents(), without all of them in memory."""
        return _extents.pairs(self, lib.checkmap_segment_extents, whole(offset, "offset"), up_to(length))

    def extents_into(self, out: Any, offset: int = 0, length: Optional[int] = None) -> int:
        """Fills a buffer with extents, as Bitmap.extents_into() does."""
        return _extents.into(self, lib.checkmap_segment_extents, out, whole(offset, "offset"), up_to(length))

    def diff(self, other: Segment, offset: int = 0, length: Optional[int] = None) -> Iterator[Tuple[int, int, str]]:
        """Where two segments differ: (offset, length, "first" or "second"), whichever of the two is dirty there."""
        for begin, size, flags in _extents.triples(
            _Pair(self, other), lib.checkmap_segment_diff, whole(offset, "offset"), up_to(length)
        ):
            yield begin, size, "first" if flags & lib.CHECKMAP_EXTENT_ONLY_IN_FIRST else "second"

    def load(self, offset: int = 0, length: Optional[int] = None) -> Bitmap:
        """A bitmap of the granules that touch the range; all others are clean in it."""
        window = (whole(offset, "offset"), up_to(length))
        return self._read(lambda pointer: Bitmap._made(lib.checkmap_segment_load, pointer, *window))

    def check(self, progress: Optional[Progress] = None) -> Report:
        """Reads all of it and verifies it. What is wrong is in the report, and no error."""
        options = Options(progress)
        out = ffi.new("checkmap_report **")
        options.checked(self._read(lib.checkmap_segment_check, options.pointer, out))
        return report_of(out[0])


class _Pair:
    """Two segments that are read together, in the place of one; in use only while a batch is read."""

    def __init__(self, first: Segment, second: Segment) -> None:
        self._both = Borrowed(Segment, first, second)

    def _read(self, function: Callable[..., int], *arguments: Any) -> int:
        with self._both as (first, second):
            return function(first, second, *arguments)
