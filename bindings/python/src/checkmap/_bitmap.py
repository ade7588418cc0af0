"""Bitmaps in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, ClassVar, Iterable, Iterator, List, Optional, Tuple

from . import _extents
from ._arguments import Options, Progress, allocate, granularity_or_zero, several, source, target, up_to, whole
from ._errors import checked, found, last_error
from ._handle import Borrowed, Handle
from ._native import ffi, lib
from ._optional import needed

if TYPE_CHECKING:
    import polars
    import pyarrow


class Bitmap(Handle):
    """Which granules of a disk are dirty: one bit for each.

    Offsets and lengths are bytes of the virtual disk; a length of None is up to its end. Marking rounds outward to
    whole granules, clearing wants whole granules, and queries cut their range at the end of the disk.

    Many threads may ask one bitmap at once; to change it is for one alone, and others wait for their turn. A progress
    callback of a call on it gets a RuntimeError instead.
    """

    __slots__ = ()

    def __init__(self, disk_size: int, granularity: int) -> None:
        """All of the disk is clean. The granularity is a power of two from 1 to 2**31."""
        out = ffi.new("checkmap_bitmap **")
        checked(lib.checkmap_bitmap_new(whole(disk_size, "disk_size"), whole(granularity, "granularity"), out))
        super().__init__(out[0], lib.checkmap_bitmap_free)

    @classmethod
    def _of(cls, pointer: Any) -> Bitmap:
        bitmap = cls.__new__(cls)
        Handle.__init__(bitmap, pointer, lib.checkmap_bitmap_free)
        return bitmap

    @classmethod
    def _made(cls, function: Callable[..., int], *arguments: Any) -> Bitmap:
        out = ffi.new("checkmap_bitmap **")
        checked(function(*arguments, out))
        return cls._of(out[0])

    @staticmethod
    def deserialize(data: Any, disk_size: int, granularity: int) -> Bitmap:
        """Reads portable 64-bit Roaring, from bytes or any other buffer."""
        room, size = source(data, "data"), whole(disk_size, "disk_size")
        return Bitmap._made(
            lib.checkmap_bitmap_deserialize, room, len(room), size, whole(granularity, "granularity")
        )

    @staticmethod
    def union(
        bitmaps: Iterable[Bitmap],
        granularity: Optional[int] = None,
        *,
        threads: int = 0,
        progress: Optional[Progress] = None,
    ) -> Bitmap:
        """A new bitmap of what is dirty in any of them, read in one pass; None is the finest granularity of theirs."""
        options = Options(progress, threads=threads)
        finest = granularity_or_zero(granularity)
        out = ffi.new("checkmap_bitmap **")
        with Borrowed(Bitmap, *several(bitmaps, "bitmaps")) as sources:
            array = ffi.new("checkmap_bitmap *[]", sources)
            status = lib.checkmap_bitmap_union_new_with(array, len(sources), finest, options.pointer, out)
        options.checked(status)
        return Bitmap._of(out[0])

    def update(self, *others: Bitmap, threads: int = 0, progress: Optional[Progress] = None) -> None:
        """Marks what is dirty in any of the others too; a call that progress stopped has changed nothing."""
        options = Options(progress, threads=threads)
        with Borrowed(Bitmap, *(other for other in others if other is not self), changed=self) as (ours, *sources):
            array = ffi.new("checkmap_bitmap *[]", sources)
            status = lib.checkmap_bitmap_union_with(ours, array, len(sources), options.pointer)
        options.checked(status)

    def intersection_update(self, other: Bitmap, *, threads: int = 0, progress: Optional[Progress] = None) -> None:
        """Keeps what is dirty in the other too, as &= does; a call that progress stopped has changed nothing."""
        self._combine(lib.checkmap_bitmap_intersect_with, other, threads, progress)

    def difference_update(self, other: Bitmap, *, threads: int = 0, progress: Optional[Progress] = None) -> None:
        """Cleans the granules that the other covers wholly, as -= does; likewise."""
        self._combine(lib.checkmap_bitmap_subtract_with, other, threads, progress)

    def symmetric_difference_update(
        self, other: Bitmap, *, threads: int = 0, progress: Optional[Progress] = None
    ) -> None:
        """Leaves what is dirty in one of the two only, as ^= does; likewise."""
        self._combine(lib.checkmap_bitmap_xor_with, other, threads, progress)

    def _combine(
        self, function: Callable[..., int], other: Bitmap, threads: int, progress: Optional[Progress]
    ) -> None:
        options = Options(progress, threads=threads)
        if other is self:
            status = self._change(lambda pointer: function(pointer, pointer, options.pointer))
        else:
            with Borrowed(Bitmap, other, changed=self) as (ours, theirs):
                status = function(ours, theirs, options.pointer)
        options.checked(status)

    def copy(self) -> Bitmap:
        """A copy that lives by itself."""
        return self._read(lambda pointer: self._made(lib.checkmap_bitmap_clone, pointer))

    __copy__ = copy

    def __deepcopy__(self, _: Any) -> Bitmap:
        return self.copy()

    def __reduce__(self) -> Tuple[Any, ...]:
        return Bitmap.deserialize, (self.serialize(), self.size, self.granularity)

    # Marks.

    def set(self, offset: int, length: Optional[int]) -> None:
        """Marks every granule that the range touches; OutOfRangeError if it ends past the last one."""
        checked(self._change(lib.checkmap_bitmap_set, whole(offset, "offset"), up_to(length)))

    def clear(self, offset: int = 0, length: Optional[int] = None) -> None:
        """Makes the range clean: whole granules, but for the end of the disk, else InvalidArgumentError."""
        checked(self._change(lib.checkmap_bitmap_clear, whole(offset, "offset"), up_to(length)))

    def set_extents(self, extents: Any, *, records: Optional[bool] = None) -> None:
        """Marks every granule that any of the extents touches, or nothing where one ends past the last granule.

        The extents are a buffer of pairs of 64-bit numbers, offset and length (an array "Q", a numpy array of uint64 of
        shape (n, 2), bytes), a numpy array of EXTENT_FIELDS, or any iterable of pairs, such as what extents() returns.
        Bytes are pairs, or with records=True what extents_into() wrote into a bytearray; bytes that can be both are a
        TypeError without `records`.
        """
        wanted = _extents.given(extents, records)
        marks = Bitmap(self.size, self.granularity)

        def mark(pointer: Any) -> None:
            mark_one = lib.checkmap_bitmap_set
            for offset, length in wanted:
                if mark_one(pointer, offset, length) < 0:
                    raise last_error()

        marks._change(mark)
        self.update(marks)

    def clear_extents(self, extents: Any, *, records: Optional[bool] = None) -> None:
        """Makes all of the extents clean, each as clear() does, or none where one is refused; as for set_extents()."""

        wanted = _extents.given(extents, records)

        def clear(pointer: Any) -> None:
            rest = Bitmap._made(lib.checkmap_bitmap_clone, pointer)
            clear_one = lib.checkmap_bitmap_clear
            for offset, length in wanted:
                if clear_one(rest._pointer, offset, length) < 0:
                    raise last_error()
            checked(lib.checkmap_bitmap_intersect(pointer, rest._pointer))

        self._change(clear)

    def set_all(self) -> None:
        """Marks the whole disk, whatever its size in the same little time and memory."""
        checked(self._change(lib.checkmap_bitmap_set_all))

    def clear_all(self) -> None:
        """Makes the whole disk clean."""
        checked(self._change(lib.checkmap_bitmap_clear_all))

    def complement(self) -> None:
        """Makes the clean granules of the disk dirty, and the dirty ones clean."""
        checked(self._change(lib.checkmap_bitmap_complement))

    def resize(self, disk_size: int) -> None:
        """Changes the size of the disk, as QEMU's truncate does: new granules are clean."""
        checked(self._change(lib.checkmap_bitmap_resize, whole(disk_size, "disk_size")))

    def optimize(self) -> None:
        """Takes no more memory than what is dirty needs."""
        checked(self._change(lib.checkmap_bitmap_optimize))

    # Queries.

    @property
    def size(self) -> int:
        """The size of the disk in bytes."""
        return self._number(lib.checkmap_bitmap_size)

    @property
    def granularity(self) -> int:
        """The bytes that one bit stands for."""
        return self._number(lib.checkmap_bitmap_granularity)

    @property
    def granules(self) -> int:
        """The number of granules of the disk."""
        return checked(self._read(lib.checkmap_bitmap_granules))

    def _number(self, function: Callable[[Any], int]) -> int:
        """Of a call that has no errno to return: it says 0, as it does for a poisoned bitmap and a disk of size 0."""

        def ask(pointer: Any) -> int:
            number: int = function(pointer)
            if not number and lib.checkmap_bitmap_is_empty(pointer) < 0:
                raise last_error()
            return number

        return self._read(ask)

    def get(self, offset: int) -> bool:
        """Whether the granule that holds this byte is dirty; OutOfRangeError past the last one."""
        return bool(checked(self._read(lib.checkmap_bitmap_get, whole(offset, "offset"))))

    def count(self) -> int:
        """The number of dirty granules."""
        return checked(self._read(lib.checkmap_bitmap_count))

    def count_range(self, offset: int = 0, length: Optional[int] = None) -> int:
        """The number of dirty granules that touch the range."""
        return checked(self._read(lib.checkmap_bitmap_count_range, whole(offset, "offset"), up_to(length)))

    def dirty_bytes(self) -> int:
        """The sum of all extents."""
        return checked(self._read(lib.checkmap_bitmap_dirty_bytes))

    def count_extents(self) -> int:
        """The number of extents of the whole disk; counted, not walked."""
        return checked(self._read(lib.checkmap_bitmap_count_extents))

    def heap_bytes(self) -> int:
        """The memory that it takes."""
        return checked(self._read(lib.checkmap_bitmap_heap_bytes))

    def validate(self) -> None:
        """Checks every rule inside of the bitmap, for tests."""
        checked(self._read(lib.checkmap_bitmap_validate))

    def next_dirty(self, offset: int = 0, length: Optional[int] = None) -> Optional[int]:
        """The first dirty byte of the range, or None. A dirty start is returned as given."""
        return found(self._read(lib.checkmap_bitmap_next_dirty, whole(offset, "offset"), up_to(length)))

    def next_clean(self, offset: int = 0, length: Optional[int] = None) -> Optional[int]:
        """The first clean byte of the range, or None."""
        return found(self._read(lib.checkmap_bitmap_next_clean, whole(offset, "offset"), up_to(length)))

    def previous_dirty(self, offset: int = 0, length: Optional[int] = None) -> Optional[int]:
        """The last dirty byte of the range, or None."""
        return found(self._read(lib.checkmap_bitmap_previous_dirty, whole(offset, "offset"), up_to(length)))

    def previous_clean(self, offset: int = 0, length: Optional[int] = None) -> Optional[int]:
        """The last clean byte of the range, or None."""
        return found(self._read(lib.checkmap_bitmap_previous_clean, whole(offset, "offset"), up_to(length)))

    def rank(self, offset: int) -> int:
        """The number of dirty granules before the one that holds this byte; at the end of the disk and past it, all."""
        return checked(self._read(lib.checkmap_bitmap_rank, whole(offset, "offset")))

    def select(self, number: int) -> Optional[int]:
        """Where the dirty granule of this number begins, counted from 0; None if fewer are dirty."""
        return found(self._read(lib.checkmap_bitmap_select, whole(number, "number")))

    def extents(self, offset: int = 0, length: Optional[int] = None) -> List[Tuple[int, int]]:
        """The dirty extents of the range as (offset, length), ascending, cut at its edges; two of them never touch."""
        return list(self.iter_extents(offset, length))

    def iter_extents(self, offset: int = 0, length: Optional[int] = None) -> Iterator[Tuple[int, int]]:
        """extents(), without all of them in memory: asked for in batches of 4096, of the bitmap as it is then."""
        return _extents.pairs(self, lib.checkmap_bitmap_extents, whole(offset, "offset"), up_to(length))

    def extents_into(self, out: Any, offset: int = 0, length: Optional[int] = None) -> int:
        """Fills a buffer with extents and returns how many; fewer than it has room for is all.

        The buffer holds pairs of 64-bit numbers (an array "Q", a numpy array of uint64 of any shape), or, faster, the
        library's own records: a numpy array of EXTENT_FIELDS, a bytearray. To go on, ask again from the end of the
        last extent.
        """
        return _extents.into(self, lib.checkmap_bitmap_extents, out, whole(offset, "offset"), up_to(length))

    # Sets.

    def __or__(self, other: Bitmap) -> Bitmap:
        """What is dirty in any of the two, at the finer granularity."""
        return Bitmap.union((self, other)) if isinstance(other, Bitmap) else NotImplemented

    def __and__(self, other: Bitmap) -> Bitmap:
        """What is dirty in both, at the granularity of the first; rounded outward."""
        return self._copied("__iand__", other)

    def __sub__(self, other: Bitmap) -> Bitmap:
        """What is dirty in the first only; a granule goes only where the second covers all of it."""
        return self._copied("__isub__", other)

    def __xor__(self, other: Bitmap) -> Bitmap:
        """What is dirty in one of the two; they must have the same granularity."""
        return self._copied("__ixor__", other)

    def _copied(self, operation: str, other: Bitmap) -> Bitmap:
        if not isinstance(other, Bitmap):
            return NotImplemented
        copy = self.copy()
        return getattr(copy, operation)(other)  # type: ignore[no-any-return]

    def __ior__(self, other: Bitmap) -> Bitmap:
        if not isinstance(other, Bitmap):
            return NotImplemented
        self.update(other)
        return self

    def __iand__(self, other: Bitmap) -> Bitmap:
        if not isinstance(other, Bitmap):
            return NotImplemented
        self.intersection_update(other)
        return self

    def __isub__(self, other: Bitmap) -> Bitmap:
        if not isinstance(other, Bitmap):
            return NotImplemented
        self.difference_update(other)
        return self

    def __ixor__(self, other: Bitmap) -> Bitmap:
        if not isinstance(other, Bitmap):
            return NotImplemented
        self.symmetric_difference_update(other)
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bitmap):
            return NotImplemented
        with Borrowed(Bitmap, self, other) as (ours, theirs):
            return bool(checked(lib.checkmap_bitmap_equal(ours, theirs)))

    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def sha256(self) -> bytes:
        """The SHA-256 of the bits, as QEMU's x-debug-block-dirty-bitmap-sha256 computes it.

        Size and granularity are not part of it.
        """
        out = ffi.new("struct checkmap_sha256 *")
        checked(self._read(lib.checkmap_bitmap_sha256, out))
        return bytes(ffi.buffer(out.bytes))

    def __le__(self, other: Bitmap) -> bool:
        """Whether every dirty byte of the first is dirty in the second."""
        if not isinstance(other, Bitmap):
            return NotImplemented
        with Borrowed(Bitmap, self, other) as (ours, theirs):
            return bool(checked(lib.checkmap_bitmap_is_subset(ours, theirs)))

    def __ge__(self, other: Bitmap) -> bool:
        return other.__le__(self) if isinstance(other, Bitmap) else NotImplemented

    def __len__(self) -> int:
        """The number of dirty granules, as count()."""
        return self.count()

    def __bool__(self) -> bool:
        """Whether anything is dirty."""
        return not checked(self._read(lib.checkmap_bitmap_is_empty))

    def __contains__(self, offset: int) -> bool:
        """Whether this byte is one of the disk, and dirty."""
        return offset >= 0 and whole(offset, "offset") < self.size and self.get(offset)

    def __repr__(self) -> str:
        if self.closed:
            return "<checkmap.Bitmap, closed>"
        dirty = f"{self.count()} of {self.granules} granules of {self.granularity} dirty"
        return f"<checkmap.Bitmap of {self.size} bytes, {dirty}>"

    # Other forms.

    def to_granularity(self, granularity: int) -> Bitmap:
        """A bitmap of another granularity, rounded outward: every dirty byte stays dirty."""
        coarse = whole(granularity, "granularity")
        return self._read(lambda pointer: self._made(lib.checkmap_bitmap_to_granularity, pointer, coarse))

    def to_bits(self, offset: int = 0, length: Optional[int] = None) -> bytes:
        """The bits of the granules that the range touches, least significant first; it begins at a multiple of 8."""
        return self._sized(lib.checkmap_bitmap_to_bits, whole(offset, "offset"), up_to(length))

    def to_bits_into(self, out: Any, offset: int = 0, length: Optional[int] = None) -> int:
        """to_bits() into a writable buffer; returns how many bytes it took. OutOfRangeError if it is too short."""
        room = target(out)
        return checked(self._read(lib.checkmap_bitmap_to_bits, whole(offset, "offset"), up_to(length), room, len(room)))

    def from_bits(self, bits: Any, offset: int = 0) -> None:
        """Replaces the granules from offset on by those of a buffer; bits past the end of the disk are ignored."""
        room = source(bits, "bits")
        checked(self._change(lib.checkmap_bitmap_from_bits, whole(offset, "offset"), room, len(room)))

    def serialize(self) -> bytes:
        """Portable 64-bit Roaring of the dirty granules; the disk's size and granularity are not part of it."""
        return self._sized(lib.checkmap_bitmap_serialize)

    def serialize_into(self, out: Any) -> int:
        """serialize() into a writable buffer; returns how many bytes it took. OutOfRangeError if it is too short."""
        room = target(out)
        return checked(self._read(lib.checkmap_bitmap_serialize, room, len(room)))

    def to_arrow(self) -> pyarrow.Table:
        """The dirty extents as a pyarrow.Table, ascending: `start` and `length` in bytes, both uint64 and never null.

        The metadata of its schema have `size` and `granularity` of the bitmap, in bytes, as decimal digits. The columns
        take 16 bytes an extent, which the table has without another copy. ImportError where pyarrow or numpy is
        missing: `pip install 'checkmap[arrow]'`.
        """
        arrow = needed("pyarrow", "arrow", "to_arrow() makes a pyarrow.Table")
        numpy = needed("numpy", "arrow", "to_arrow() takes the extents by numpy")
        with Borrowed(Bitmap, self):
            metadata = {"size": str(self.size), "granularity": str(self.granularity)}
            columns = self._columns(numpy)
        fields = [arrow.field(name, arrow.uint64(), nullable=False) for name in ("start", "length")]
        return arrow.Table.from_arrays([*map(arrow.array, columns)], schema=arrow.schema(fields, metadata=metadata))

    def to_polars(self) -> polars.DataFrame:
        """The dirty extents as a polars.DataFrame, ascending: `start` and `length` in bytes, both UInt64.

        A DataFrame has no metadata: size and granularity are those of the bitmap. polars copies the columns once.
        ImportError where polars or numpy is missing: `pip install 'checkmap[polars]'`.
        """
        frames = needed("polars", "polars", "to_polars() makes a polars.DataFrame")
        numpy = needed("numpy", "polars", "to_polars() takes the extents by numpy")
        starts, lengths = self._columns(numpy)
        frame: polars.DataFrame = frames.DataFrame({"start": starts, "length": lengths})
        return frame

    def _columns(self, numpy: Any) -> Tuple[Any, Any]:
        return _extents.arrays(self, lib.checkmap_bitmap_extents, lib.checkmap_bitmap_count_extents, numpy)

    def _sized(self, function: Callable[..., int], *arguments: int) -> bytes:
        """What a call writes that says beforehand how much it will be."""

        def ask(pointer: Any) -> bytes:
            size = checked(function(pointer, *arguments, ffi.NULL, 0))
            room = allocate("uint8_t[]", size)
            return bytes(ffi.buffer(room, checked(function(pointer, *arguments, room, size))))

        return self._read(ask)
