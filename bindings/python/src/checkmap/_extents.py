"""Extents out of bitmaps and segments: as tuples, or into a buffer of the caller's."""

from __future__ import annotations

import re
import struct
from itertools import chain
from typing import Any, Callable, Iterable, Iterator, List, Optional, Protocol, Tuple

from ._arguments import TO_END, allocate, several, whole
from ._errors import checked
from ._native import ffi

#: The fields of one extent as the library writes them: `numpy.dtype(EXTENT_FIELDS)`, 24 bytes.
EXTENT_FIELDS = [("offset", "=u8"), ("length", "=u8"), ("flags", "=u4"), ("reserved", "=u4")]

Fill = Callable[..., int]


class Readable(Protocol):
    """What has a handle of the library."""

    def _read(self, function: Fill, *arguments: Any) -> int: ...


_BATCH = 4096
_SIZE = 24
_RECORDS = ffi.typeof("struct checkmap_extent[]")
_PAIR = struct.Struct("=QQ8x")
_TRIPLE = struct.Struct("=QQL4x")
_LOOK = struct.Struct("=QQQ")


def batches(
    handle: Readable, fill: Fill, offset: int, length: int, shape: struct.Struct
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


def pairs(handle: Readable, fill: Fill, offset: int, length: int) -> Iterator[Tuple[int, int]]:
    """Extents as (offset, length)."""
    return chain.from_iterable(batches(handle, fill, offset, length, _PAIR))


def triples(handle: Readable, fill: Fill, offset: int, length: int) -> Iterator[Tuple[int, int, int]]:
    """Extents as (offset, length, flags)."""
    return chain.from_iterable(batches(handle, fill, offset, length, _TRIPLE))


def into(handle: Readable, fill: Fill, out: Any, offset: int, length: int) -> int:
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


# Records a call: more of them do not make a walk faster.
_MANY = 1 << 13


def arrays(handle: Readable, fill: Fill, count: Fill, numpy: Any) -> Tuple[Any, Any]:
    """The offsets and the lengths of all extents, each an array of numpy's: of one moment."""
    found: List[Any] = []

    def ask(pointer: Any) -> int:
        number = checked(count(pointer))
        offsets, lengths = numpy.empty(number, numpy.uint64), numpy.empty(number, numpy.uint64)
        records = numpy.empty(min(number, _MANY), numpy.dtype(EXTENT_FIELDS))
        out = ffi.from_buffer(_RECORDS, records, True)
        filled = begin = 0
        while filled < number:
            got = checked(fill(pointer, begin, TO_END, out, len(records)))
            if not got:
                raise RuntimeError(f"{filled} extents of {number} were found")
            offsets[filled : filled + got] = records["offset"][:got]
            lengths[filled : filled + got] = records["length"][:got]
            filled += got
            begin = int(records["offset"][got - 1] + records["length"][got - 1])
        found.extend((offsets, lengths))
        return number

    handle._read(ask)
    offsets, lengths = found
    return offsets, lengths


_PAIR_ALONE = struct.Struct("=QQ")
_NUMBERS = ("Q", "L", "q", "l", "=Q", "=q", "N", "n")
# How a buffer of numpy's calls records that begin with the two numbers that count.
_FIELDS = re.compile(r"T\{[=@]?[QLN]:offset:[=@]?[QLN]:length:")


def given(extents: Any, records: Optional[bool]) -> Iterable[Tuple[Any, ...]]:
    """The (offset, length) of each extent that a caller gives: a buffer of them, or anything to go through.

    Bytes do not say what they hold. Taken wrongly they would name other blocks, so what could be both is refused.
    """
    try:
        view = memoryview(extents)
    except TypeError:
        return _pairs_of_items(extents)
    if view.nbytes == 0:
        return ()
    kind = view.format or "B"
    if kind in _NUMBERS and view.itemsize == 8:
        shape = tuple(view.shape or ())
        if len(shape) > 1 and shape[-1] != 2:
            raise ValueError(f"pairs of numbers are needed: the last dimension of {shape} is not 2")
        records = False
    elif _FIELDS.match(kind) and view.itemsize in (16, _SIZE):
        records = view.itemsize == _SIZE
    elif kind not in ("B", "b", "c"):
        raise TypeError(f"a buffer of pairs of 64-bit numbers, or of EXTENT_FIELDS, is needed, not of {kind!r}")
    plain = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
    if records is None and len(plain) % _SIZE == 0 and all(0 < flags < 8 for _, _, flags in _LOOK.iter_unpack(plain)):
        raise TypeError("these bytes can be pairs or records: say records=True or records=False")
    form = _PAIR if records else _PAIR_ALONE
    if len(plain) % form.size:
        raise ValueError(f"{len(plain)} bytes are no whole number of extents of {form.size} bytes")
    return form.iter_unpack(plain)


def _pairs_of_items(extents: Any) -> List[Tuple[int, int]]:
    pairs = []
    for item in several(extents, "extents"):
        try:
            offset, length = item
        except (TypeError, ValueError):
            raise TypeError(f"an extent is a pair of numbers, offset and length, not {type(item).__name__}") from None
        pairs.append((whole(offset, "offset"), whole(length, "length")))
    return pairs
