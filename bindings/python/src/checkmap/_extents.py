"""Extents out of bitmaps and segments: as tuples, or into a buffer of the caller's."""

from __future__ import annotations

import struct
from itertools import chain
from typing import Any, Callable, Iterator, Tuple

from ._arguments import allocate
from ._errors import checked
from ._handle import Handle
from ._native import ffi

#: The fields of one extent as the library writes them: `numpy.dtype(EXTENT_FIELDS)`, 24 bytes.
EXTENT_FIELDS = [("offset", "=u8"), ("length", "=u8"), ("flags", "=u4"), ("reserved", "=u4")]

Fill = Callable[..., int]

_BATCH = 4096
_SIZE = 24
_RECORDS = ffi.typeof("struct checkmap_extent[]")
_PAIR = struct.Struct("=QQ8x")
_TRIPLE = struct.Struct("=QQL4x")


def batches(
    handle: Handle, fill: Fill, offset: int, length: int, shape: struct.Struct
) -> Iterator[Iterator[Tuple[Any, ...]]]:
    """Batches of extents, each asked for from the end of the one before."""
    end = offset + length
    out = allocate("struct checkmap_extent[]", _BATCH)
    bytes_of = ffi.buffer(out)
    while True:
        count = checked(handle._read(fill, offset, length, out, _BATCH))
        yield shape.iter_unpack(bytes_of[: count * _SIZE])
        if count < _BATCH:
            return
        offset = out[count - 1].offset + out[count - 1].length
        length = max(end - offset, 0)


def pairs(handle: Handle, fill: Fill, offset: int, length: int) -> Iterator[Tuple[int, int]]:
    """Extents as (offset, length)."""
    return chain.from_iterable(batches(handle, fill, offset, length, _PAIR))


def triples(handle: Handle, fill: Fill, offset: int, length: int) -> Iterator[Tuple[int, int, int]]:
    """Extents as (offset, length, flags)."""
    return chain.from_iterable(batches(handle, fill, offset, length, _TRIPLE))


def into(handle: Handle, fill: Fill, out: Any, offset: int, length: int) -> int:
    """Fills a writable buffer with extents: pairs of 64-bit numbers, or the library's own records of 24 bytes."""
    view = memoryview(out)
    if view.itemsize == _SIZE or view.format in ("B", "b", "c"):
        records = ffi.from_buffer(_RECORDS, out, True)
        return checked(handle._read(fill, offset, length, records, len(records)))
    if view.readonly or not view.c_contiguous:
        raise BufferError("the buffer must be writable and contiguous")
    if view.itemsize != 8 or view.format not in ("Q", "L", "q", "l", "=Q", "=q"):
        raise TypeError(f"a buffer of 64-bit numbers or of EXTENT_FIELDS is needed, not of {view.format!r}")
    # As bytes first: memoryviews copy between equal formats only.
    to = view.cast("B").cast("Q")
    room = len(to) // 2
    records = allocate(_RECORDS, min(room, _BATCH))
    words = memoryview(ffi.buffer(records)).cast("B").cast("Q")

    def copy(pointer: Any) -> int:
        filled, begin, rest = 0, offset, length
        while True:
            most = min(room - filled, _BATCH)
            count = checked(fill(pointer, begin, rest, records, most))
            to[filled * 2 : (filled + count) * 2 : 2] = words[0 : count * 3 : 3]
            to[filled * 2 + 1 : (filled + count) * 2 : 2] = words[1 : count * 3 : 3]
            filled += count
            if count < most or filled == room:
                return filled
            begin = records[count - 1].offset + records[count - 1].length
            rest = max(offset + length - begin, 0)

    return handle._read(copy)
