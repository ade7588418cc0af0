"""Bitmaps: 1xx as in tests/c."""

import array
import copy
import errno
import pickle
import struct

import numpy
import pytest

import checkmap
from checkmap import Bitmap, CancelledError, DamagedError, InvalidArgumentError, OutOfRangeError, SizeMismatchError

from .conftest import GIB, KIB, MIB, TIB

HUGE = (1 << 64) - 1


def test_100_new(fails):
    for power in range(32):
        granularity = 1 << power
        bitmap = Bitmap(granularity * 10 + 1, granularity)
        assert (bitmap.granularity, bitmap.size, bitmap.granules) == (granularity, granularity * 10 + 1, 11)
    for bad in (0, 3, 65535, 1 << 32, HUGE):
        with fails(InvalidArgumentError, errno.EINVAL):
            Bitmap(MIB, bad)
    assert Bitmap(1 << 41, 1).granules == 1 << 41
    for size, granularity in (((1 << 41) + 1, 1), (1 << 63, 1 << 31)):
        with fails(InvalidArgumentError, errno.EINVAL):
            Bitmap(size, granularity)
    bitmap = Bitmap((1 << 63) - 1, 1 << 31)
    bitmap.set_all()
    assert bitmap.dirty_bytes() == (1 << 63) - 1
    empty = Bitmap(0, 65536)
    empty.set(0, None)
    assert empty.size == 0 and empty.count() == 0 and empty.next_clean() is None and not empty


def test_101_set(fails):
    bitmap = Bitmap(100 * KIB + 1, 4 * KIB)
    bitmap.set(4095, 2)
    assert bitmap.count() == len(bitmap) == 2
    bitmap.set(50, 0)
    bitmap.set(HUGE, 0)
    assert bitmap.count() == 2
    bitmap.set(100 * KIB + 2, 10)
    assert bitmap.count() == 3 and bitmap.dirty_bytes() == 2 * 4096 + 1
    for offset, length in ((0, 104 * KIB + 1), (HUGE, 1), (HUGE - 1, HUGE - 1), (200 * KIB, None)):
        with fails(OutOfRangeError, errno.ERANGE):
            bitmap.set(offset, length)
    assert bitmap.count() == 3
    bitmap.set(0, None)
    assert bitmap.count() == 26


def test_102_clear(fails):
    bitmap = Bitmap(100 * KIB + 1, 4 * KIB)
    bitmap.set_all()
    bitmap.clear(4 * KIB, 8 * KIB)
    assert bitmap.count() == 24
    for offset, length in ((1, 4 * KIB), (16 * KIB, 1)):
        with fails(InvalidArgumentError, errno.EINVAL):
            bitmap.clear(offset, length)
    with fails(OutOfRangeError, errno.ERANGE):
        bitmap.clear(0, 200 * KIB)
    assert bitmap.count() == 24
    bitmap.clear(96 * KIB, 4 * KIB + 1)
    assert bitmap.count() == 22
    bitmap.clear(88 * KIB)
    assert bitmap.count() == 20 and bitmap
    bitmap.clear()
    assert not bitmap
    bitmap.set_all()
    bitmap.clear_all()
    assert not bitmap


def test_103_get(fails):
    bitmap = Bitmap(10 * KIB, KIB)
    bitmap.set(5 * KIB, 1)
    assert [bitmap.get(at) for at in (5 * KIB - 1, 5 * KIB, 6 * KIB - 1, 6 * KIB)] == [False, True, True, False]
    for offset in (10 * KIB, HUGE):
        with fails(OutOfRangeError, errno.ERANGE):
            bitmap.get(offset)
    assert 5 * KIB in bitmap and 0 not in bitmap and 10 * KIB not in bitmap and -1 not in bitmap


def test_104_next():
    bitmap = Bitmap(10 * KIB, KIB)
    assert bitmap.next_dirty() is None
    bitmap.set(4 * KIB, 2 * KIB)
    assert bitmap.next_dirty() == 4 * KIB
    assert bitmap.next_dirty(0, 4 * KIB) is None
    assert bitmap.next_dirty(0, 4 * KIB + 1) == 4 * KIB
    assert bitmap.next_dirty(4 * KIB + 7) == 4 * KIB + 7
    assert bitmap.next_dirty(6 * KIB) is None
    assert bitmap.next_clean(4 * KIB + 7) == 6 * KIB
    assert bitmap.next_clean(4 * KIB + 7, KIB) is None
    assert bitmap.next_clean(3, 5) == 3
    assert bitmap.next_clean(10 * KIB) is None
    assert bitmap.next_dirty(HUGE, HUGE) is None and bitmap.next_dirty(0, 0) is None


def test_105_previous():
    bitmap = Bitmap(10 * KIB + 1, KIB)
    assert bitmap.previous_dirty() is None and bitmap.previous_clean() == 10 * KIB
    bitmap.set(4 * KIB, 2 * KIB)
    assert bitmap.previous_dirty() == 6 * KIB - 1
    assert bitmap.previous_dirty(0, 5 * KIB) == 5 * KIB - 1
    assert bitmap.previous_clean(0, 5 * KIB) == 4 * KIB - 1
    assert bitmap.previous_clean(4 * KIB, KIB) is None
    assert bitmap.previous_dirty(6 * KIB) is None and bitmap.previous_dirty(HUGE, 1) is None


def test_105_rank_select_and_complement():
    bitmap = Bitmap(10 * KIB + 1, KIB)
    assert bitmap.rank(HUGE) == 0 and bitmap.select(0) is None
    bitmap.set(4 * KIB, 2 * KIB)
    assert [bitmap.rank(at) for at in (0, 4 * KIB, 5 * KIB, 6 * KIB, HUGE)] == [0, 0, 1, 2, 2]
    assert [bitmap.select(number) for number in (0, 1, 2)] == [4 * KIB, 5 * KIB, None]
    bitmap.complement()
    assert bitmap.extents() == [(0, 4 * KIB), (6 * KIB, 4 * KIB + 1)]


def test_106_extents(fails):
    bitmap = Bitmap(MIB + 5, KIB)
    for at in range(0, MIB, 8 * KIB):
        bitmap.set(at, 2 * KIB)
    bitmap.set(MIB, 1)
    expected = [(at, 2 * KIB) for at in range(0, MIB, 8 * KIB)] + [(MIB, 5)]
    assert bitmap.extents() == list(bitmap.iter_extents()) == expected
    assert bitmap.count_extents() == 129 and sum(length for _, length in expected) == bitmap.dirty_bytes()
    assert bitmap.extents(1000, 100) == [(1000, 100)]
    assert bitmap.extents(HUGE, HUGE) == bitmap.extents(0, 0) == []
    assert bitmap.extents(2 * MIB) == []
    # Batch by batch, into every kind of buffer.
    for make, numbers in (
        (lambda: array.array("Q", [0] * 20), lambda out: list(zip(out[0::2], out[1::2]))),
        (lambda: memoryview(bytearray(160)).cast("q", (10, 2)), lambda out: [tuple(pair) for pair in out.tolist()]),
        (
            lambda: bytearray(240),
            lambda out: list(struct.iter_unpack("=QQ8x", out)),
        ),
    ):
        offset, got = 0, []
        while True:
            out = make()
            count = bitmap.extents_into(out, offset)
            got += numbers(out)[:count]
            if count < 10:
                break
            offset = sum(got[-1])
        assert got == expected
    for out in (bytearray(0), bytearray(23), array.array("Q"), array.array("Q", [0])):
        with fails(InvalidArgumentError, errno.EINVAL):
            bitmap.extents_into(out)
    for out in (bytes(240), memoryview(bytearray(480))[::2]):
        with pytest.raises(BufferError):
            bitmap.extents_into(out)
    with pytest.raises(TypeError):
        bitmap.extents_into(array.array("d", [0.0] * 20))


def test_106_extents_of_many_batches():
    bitmap = Bitmap(GIB, KIB)
    bitmap.from_bits(b"\x55" * 16384)
    expected = [(at, KIB) for at in range(0, 128 * MIB, 2 * KIB)]
    assert bitmap.extents() == expected
    out = array.array("Q", bytes(16 * 65536))
    assert bitmap.extents_into(out) == 65536 and list(zip(out[0::2], out[1::2])) == expected
    out = array.array("Q", bytes(16 * 10000))
    assert (
        bitmap.extents_into(out, 0, 16 * MIB) == 8192 and list(zip(out[0:16384:2], out[1:16384:2])) == expected[:8192]
    )
    assert bitmap.extents_into(out) == 10000 and list(zip(out[0::2], out[1::2])) == expected[:10000]
    assert bitmap.extents(KIB, 8 * MIB) == [(at, KIB) for at in range(2 * KIB, 8 * MIB + KIB, 2 * KIB)]


def test_106_extents_into_numpy():
    from checkmap import EXTENT_FIELDS

    bitmap = Bitmap(MIB, KIB)
    bitmap.set(3 * KIB, 1)
    bitmap.set(9 * KIB, 2000)
    pairs = numpy.zeros((8, 2), numpy.uint64)
    assert bitmap.extents_into(pairs) == 2
    assert [tuple(pair) for pair in pairs[:2].tolist()] == bitmap.extents() == [(3 * KIB, KIB), (9 * KIB, 2 * KIB)]
    records = numpy.zeros(8, numpy.dtype(EXTENT_FIELDS))
    assert bitmap.extents_into(records) == 2
    assert records["offset"][:2].tolist() == [3 * KIB, 9 * KIB] and records["flags"].sum() == 2
    bits = numpy.unpackbits(numpy.frombuffer(bitmap.to_bits(), numpy.uint8), bitorder="little")
    assert bits.nonzero()[0].tolist() == [3, 9, 10]
    other = Bitmap(MIB, KIB)
    other.from_bits(numpy.packbits(bits, bitorder="little"))
    assert other == bitmap


def test_107_count_range():
    bitmap = Bitmap(10 * KIB + 1, KIB)
    bitmap.set_all()
    ranges = [(0, None), (1023, 2), (1024, 1024), (10 * KIB, None), (10 * KIB + 1, None), (HUGE, HUGE), (0, 0)]
    assert [bitmap.count_range(*each) for each in ranges] == [11, 2, 1, 1, 0, 0, 0]


def test_108_resize(fails):
    bitmap = Bitmap(10 * KIB + 1, KIB)
    bitmap.set_all()
    bitmap.resize(5 * KIB + 1)
    assert bitmap.count() == 6
    bitmap.resize(20 * KIB)
    assert bitmap.count() == 6 and bitmap.dirty_bytes() == 6 * KIB
    for bad in (HUGE, (1 << 63) - 1):
        with fails(InvalidArgumentError, errno.EINVAL):
            bitmap.resize(bad)
    assert bitmap.size == 20 * KIB
    bitmap.resize(0)
    assert not bitmap
    bitmap.validate()


def test_109_clone():
    bitmap = Bitmap(GIB, 4 * KIB)
    bitmap.set(12345, 99999)
    copies = [bitmap.copy(), copy.copy(bitmap), copy.deepcopy(bitmap), pickle.loads(pickle.dumps(bitmap))]
    assert all(each == bitmap for each in copies)
    bitmap.set(GIB - 1, 1)
    bitmap.close()
    for each in copies:
        assert not each.get(GIB - 1) and each.count() == 25
        each.validate()
        each.optimize()
        assert each.heap_bytes() > 0


def test_110_huge_disk():
    disk = 4096 * TIB
    bitmap = Bitmap(disk, 4 * KIB)
    bitmap.set_all()
    assert len(bitmap) == disk // (4 * KIB) and bitmap.heap_bytes() < 4096
    assert bitmap.extents() == [(0, disk)]
    bitmap.clear(disk // 2, 4 * KIB)
    assert len(bitmap.extents()) == 2
    assert bitmap.next_clean() == disk // 2 and bitmap.previous_clean() == disk // 2 + 4 * KIB - 1


def test_120_union():
    fine, coarse = Bitmap(MIB, KIB), Bitmap(MIB, 64 * KIB)
    fine.set(100 * KIB, 1)
    coarse.set(0, 1)
    coarse.update(fine, coarse, fine)
    assert coarse.count() == 2 and coarse.granularity == 64 * KIB
    fine |= coarse
    assert fine.count() == 128 and fine.granularity == KIB
    fine.update(fine)
    fine.update()
    fine |= fine
    assert fine.count() == 128


def test_121_union_mismatch(fails):
    a, b, c = Bitmap(MIB, KIB), Bitmap(MIB, KIB), Bitmap(MIB + 1, KIB)
    b.set(0, 1)
    for use in (
        lambda: a.update(b, c),
        lambda: Bitmap.union([b, c]),
        lambda: a | c,
        lambda: a & c,
        lambda: a - c,
        lambda: a ^ c,
        lambda: a <= c,
        lambda: a.__iand__(c),
    ):
        with fails(SizeMismatchError, errno.EINVAL):
            use()
    assert a != c and not a


def test_122_union_new(fails):
    bitmaps = [Bitmap(GIB, 4 * KIB if at % 2 else 64 * KIB) for at in range(64)]
    for at, bitmap in enumerate(bitmaps):
        bitmap.set(at * MIB, 1)
    out = Bitmap.union(bitmaps)
    assert out.granularity == 4 * KIB and out.dirty_bytes() == 32 * 4 * KIB + 32 * 64 * KIB
    out.validate()
    assert Bitmap.union(bitmaps, threads=2) == out
    out = Bitmap.union(iter(bitmaps), MIB)
    assert out.count() == 64 and out.extents() == [(0, 64 * MIB)]
    with fails(InvalidArgumentError, errno.EINVAL):
        Bitmap.union(bitmaps, 3)
    with fails(InvalidArgumentError, errno.EINVAL):
        Bitmap.union([])


def test_123_combine():
    a, b = Bitmap(MIB, KIB), Bitmap(MIB, KIB)
    a.set(0, 10 * KIB)
    b.set(5 * KIB, 10 * KIB)
    assert (a | b).extents() == [(0, 15 * KIB)]
    assert (a & b).extents() == [(5 * KIB, 5 * KIB)]
    assert (a - b).extents() == [(0, 5 * KIB)]
    assert (a ^ b).extents() == [(0, 5 * KIB), (10 * KIB, 5 * KIB)]
    assert a & b <= a and a >= a & b and not a <= a & b
    assert a.count() == b.count() == 10
    c = a
    c &= b
    assert c is a and a.count() == 5
    a ^= b
    a -= b
    assert not a
    b &= b
    assert b.count() == 10 and b == b
    b ^= b
    assert not b
    b.set_all()
    b -= b
    assert not b


def test_124_granularity(fails):
    fine = Bitmap(MIB, KIB)
    fine.set(5 * KIB, KIB)
    coarse = fine.to_granularity(4 * KIB)
    assert coarse.count() == 1
    back = coarse.to_granularity(KIB)
    assert back.count() == 4 and fine <= back
    assert (coarse - fine).count() == (coarse & fine).count() == 1
    assert (coarse - back).count() == 0
    assert (coarse | fine).granularity == KIB
    with fails(InvalidArgumentError, errno.EINVAL):
        coarse ^ fine
    with fails(InvalidArgumentError, errno.EINVAL):
        fine.to_granularity(0)


def test_130_to_bits(fails):
    bitmap = Bitmap(20 * KIB + 1, KIB)
    bitmap.set_all()
    assert bitmap.to_bits() == b"\xff\xff\x1f"
    assert bitmap.to_bits(8 * KIB, KIB + 1) == b"\x03"
    assert bitmap.to_bits(8 * KIB, 0) == bitmap.to_bits(80 * KIB) == b""
    out = bytearray(b"\xee" * 4)
    assert bitmap.to_bits_into(out) == 3 and out == b"\xff\xff\x1f\xee"
    with fails(OutOfRangeError, errno.ERANGE):
        bitmap.to_bits_into(bytearray(2))
    with pytest.raises(BufferError):
        bitmap.to_bits_into(bytes(3))
    for offset in (4 * KIB, 1):
        with fails(InvalidArgumentError, errno.EINVAL):
            bitmap.to_bits(offset, KIB)
    bitmap.clear()
    bitmap.set(9 * KIB, 1)
    assert bitmap.to_bits() == b"\x00\x02\x00"


def test_131_from_bits(fails):
    bitmap = Bitmap(20 * KIB + 1, KIB)
    bitmap.set_all()
    bitmap.from_bits(b"\x01\x80")
    assert bitmap.count() == 7 and bitmap.get(0) and not bitmap.get(KIB) and bitmap.get(15 * KIB)
    bitmap.clear()
    bitmap.from_bits(bytearray(b"\xff\xff"), 16 * KIB)
    assert bitmap.count() == 5
    bitmap.validate()
    bitmap.from_bits(memoryview(b"\x01"), 8 * KIB)
    bitmap.from_bits(b"")
    assert bitmap.count() == 6
    with fails(InvalidArgumentError, errno.EINVAL):
        bitmap.from_bits(b"\x01", 4 * KIB)
    for bits in (b"\x01", b""):
        with fails(OutOfRangeError, errno.ERANGE):
            bitmap.from_bits(bits, 24 * KIB)
    with pytest.raises(TypeError):
        bitmap.from_bits("text")
    assert bitmap.count() == 6


def test_132_roaring(fails):
    bitmap = Bitmap(TIB, 64 * KIB)
    for at in range(0, TIB, TIB // 777):
        bitmap.set(at, at % 16 + 1)
    data = bitmap.serialize()
    assert Bitmap.deserialize(data, TIB, 64 * KIB) == bitmap
    assert Bitmap.deserialize(bytearray(data), TIB, 64 * KIB) == bitmap
    out = bytearray(len(data))
    assert bitmap.serialize_into(out) == len(data) and out == data
    with fails(OutOfRangeError, errno.ERANGE):
        bitmap.serialize_into(bytearray(len(data) - 1))
    for bad, size in ((data, GIB), (data[:-1], TIB), (b"", TIB), (data + b"x", TIB), (b"\xff" * len(data), TIB)):
        with fails(DamagedError, errno.EBADMSG):
            Bitmap.deserialize(bad, size, 64 * KIB)
    with fails(InvalidArgumentError, errno.EINVAL):
        Bitmap.deserialize(data, TIB, 3)


def test_140_opts_size():
    from checkmap._arguments import Options
    from checkmap._native import ffi

    assert Options().pointer.size == ffi.sizeof("struct checkmap_opts") == 40


def test_141_opts_values(fails):
    bitmap = Bitmap(MIB, KIB)
    for threads in range(5):
        bitmap.update(bitmap.copy(), threads=threads)
        bitmap.intersection_update(bitmap.copy(), threads=threads)
        bitmap.difference_update(bitmap, threads=threads)
        bitmap.symmetric_difference_update(bitmap.copy(), threads=threads)
    with fails(InvalidArgumentError, errno.EINVAL):
        bitmap.update(bitmap.copy(), threads=(1 << 32) - 1)
    with pytest.raises(OverflowError):
        bitmap.update(bitmap.copy(), threads=-1)


def test_142_cancel(fails):
    a, b = Bitmap(MIB, KIB), Bitmap(MIB, KIB)
    b.set(0, 1)
    told = []
    with fails(CancelledError, errno.ECANCELED):
        a.update(b, threads=2, progress=lambda *what: told.append(what) or True)
    assert len(told) == 1 and not a
    phase, done, total = told[0]
    assert phase and done <= total
    with fails(CancelledError, errno.ECANCELED):
        Bitmap.union([b], progress=lambda *_: True)

    # What the callback raises stops the call too, and comes out of it.
    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        a.update(b, progress=interrupted)
    assert not a
    a.update(b, progress=lambda *what: told.append(what))
    assert a.count() == 1 and told[-1][1] == told[-1][2] > 0
    for change in (a.intersection_update, a.difference_update, a.symmetric_difference_update):
        with fails(CancelledError, errno.ECANCELED):
            change(b, threads=2, progress=lambda *_: True)
        assert a.count() == 1
    a.symmetric_difference_update(b, progress=lambda *what: told.append(what))
    assert not a and told[-1][1] == told[-1][2] > 0


def test_extents_from_buffers():
    expected = [(0, 8 * KIB), (MIB, 4 * KIB), (GIB, MIB)]
    flat = [number for pair in expected for number in pair]
    source = Bitmap(TIB, 4 * KIB)
    source.set_extents(expected)
    written = bytearray(24 * 4)
    assert source.extents_into(written) == 3
    records = numpy.zeros(3, numpy.dtype(checkmap.EXTENT_FIELDS))
    source.extents_into(records)
    pairs = numpy.array(expected, numpy.uint64)
    two_fields = numpy.zeros(3, numpy.dtype([("offset", "=u8"), ("length", "=u8")]))
    two_fields["offset"], two_fields["length"] = pairs[:, 0], pairs[:, 1]
    wide = numpy.zeros((3, 4), numpy.uint64)
    wide[:, 1:3] = pairs
    for given in (
        expected,
        iter(expected),
        source.extents(),
        source.iter_extents(),
        array.array("Q", flat),
        memoryview(array.array("q", flat)),
        struct.pack("=6Q", *flat),
        bytearray(struct.pack("=6Q", *flat)),
        pairs,
        pairs.ravel(),
        pairs.astype(numpy.int64),
        wide[:, 1:3],
        records,
        records[::-1],
        two_fields,
        pairs.tolist(),
    ):
        bitmap = Bitmap(TIB, 4 * KIB)
        bitmap.set(MIB, 64 * KIB)
        bitmap.set_extents(given)
        assert bitmap.extents() == [(0, 8 * KIB), (MIB, 64 * KIB), (GIB, MIB)], given
        bitmap.validate()
    for given in (written[:72], bytes(written[:24])):
        for clear, left in ((False, expected), (True, expected[len(given) // 24 :])):
            bitmap = Bitmap(TIB, 4 * KIB)
            bitmap.set_extents(expected)
            (bitmap.clear_extents if clear else bitmap.set_extents)(given, records=True)
            assert bitmap.extents() == left
    bitmap = source.copy()
    bitmap.clear_extents(pairs[1:])
    assert bitmap.extents() == expected[:1]
    for nothing in ([], b"", pairs[:0], array.array("Q")):
        bitmap.set_extents(nothing)
        bitmap.clear_extents(nothing)
    assert bitmap.extents() == expected[:1]


def test_extents_that_cannot_be_read_are_refused(fails):
    bitmap = Bitmap(GIB, 4 * KIB)
    bitmap.set(0, MIB)
    before = bitmap.copy()
    records = bytearray(24 * 2)
    assert before.extents_into(records) == 1
    records[24:48] = records[:24]
    pairs = numpy.array([[0, 1], [2, 3], [4, 5]], numpy.uint64)
    for given, kind in (
        (records, TypeError),  # Three pairs or two records?
        (records[:24], TypeError),
        (b"12345678", ValueError),
        (array.array("Q", [1]), ValueError),
        (array.array("I", [1, 2]), TypeError),
        (array.array("d", [1.0, 2.0]), TypeError),
        (numpy.ascontiguousarray(pairs.T), ValueError),
        (pairs.astype(">u8"), TypeError),
        (numpy.zeros(2, numpy.dtype([("length", "=u8"), ("offset", "=u8")])), TypeError),
        ("text", TypeError),
        ([(1, 2, 3)], TypeError),
        ([(1,)], TypeError),
        ([(-1, 1)], OverflowError),
    ):
        for use in (bitmap.set_extents, bitmap.clear_extents):
            with pytest.raises(kind):
                use(given)
    # All or nothing, also where the first ones could be done.
    with fails(OutOfRangeError, errno.ERANGE):
        bitmap.set_extents([(GIB // 2, 1), (GIB, 1)])
    with fails(OutOfRangeError, errno.ERANGE):
        bitmap.clear_extents([(0, 4 * KIB), (GIB, 4 * KIB)])
    with fails(InvalidArgumentError, errno.EINVAL):
        bitmap.clear_extents([(0, 4 * KIB), (8 * KIB, 1)])
    assert bitmap == before
    bitmap.set_extents([(GIB // 2, HUGE)])
    assert bitmap.extents() == [(0, MIB), (GIB // 2, GIB // 2)]
