"""Segments: 2xx as in tests/c."""

import errno
import os
import stat
import subprocess

import pytest

from checkmap import (
    Bitmap,
    CancelledError,
    DamagedError,
    FileMissingError,
    Image,
    InvalidArgumentError,
    OutOfRangeError,
    Segment,
    SizeMismatchError,
    SystemCallError,
    UnknownFormatError,
)

from .conftest import GIB, KIB, MIB


def test_200_segment(here, fails):
    bitmap = Bitmap(10 * GIB + 1, 4 * KIB)
    for at in range(0, 10 * GIB, 37 * MIB + 4 * KIB):
        bitmap.set(at, 12 * KIB)
    bitmap.set(10 * GIB, 1)
    info = Segment.write(bitmap, "segment")
    assert (info.disk_size, info.granularity) == (10 * GIB + 1, 4 * KIB)
    assert info.dirty_granules == bitmap.count() and info.extents == bitmap.count_extents()
    assert info.file_bytes == (here / "segment").stat().st_size
    with Segment(here / "segment") as segment:
        assert segment.info() == info and segment.size == bitmap.size and segment.granularity == 4 * KIB
        assert segment.count() == bitmap.count() and segment.dirty_bytes() == bitmap.dirty_bytes()
        assert segment.get(10 * GIB)
        with fails(OutOfRangeError, errno.ERANGE):
            segment.get((1 << 64) - 1)
        for at in range(0, 10 * GIB, 777 * MIB):
            assert segment.next_dirty(at) == bitmap.next_dirty(at)
            assert segment.next_clean(at, MIB) == bitmap.next_clean(at, MIB)
            assert segment.previous_dirty(0, at) == bitmap.previous_dirty(0, at)
            assert segment.previous_clean(0, at) == bitmap.previous_clean(0, at)
            assert segment.rank(at) == bitmap.rank(at)
            assert segment.select(at // MIB) == bitmap.select(at // MIB)
            assert segment.count_range(at, GIB) == bitmap.count_range(at, GIB)
        assert segment.heap_bytes() > 0
        assert segment.extents() == bitmap.extents() and segment.extents(GIB, GIB) == bitmap.extents(GIB, GIB)
        ours, theirs = bytearray(24 * 8), bytearray(24 * 8)
        assert segment.extents_into(ours, GIB) == bitmap.extents_into(theirs, GIB) == 8 and ours == theirs
        with fails(InvalidArgumentError, errno.EINVAL):
            segment.extents_into(bytearray(0))
        assert segment.load() == bitmap
        assert segment.load(0, GIB).count() == bitmap.count_range(0, GIB)
    with pytest.raises(ValueError):
        segment.count()


def test_201_segment_fd(here, fails):
    bitmap = Bitmap(GIB, 4 * KIB)
    bitmap.set(0, MIB)
    fd = os.open("segment", os.O_RDWR | os.O_CREAT)
    Segment.write(bitmap, fd)
    segment = Segment(fd)
    os.close(fd)
    assert segment.count() == 256
    for use in (lambda: Segment(fd), lambda: Segment.write(bitmap, -5)):
        with fails(SystemCallError, errno.EBADF):
            use()


def test_202_segment_merge(here, fails):
    everything = Bitmap(GIB, 4 * KIB)
    segments = []
    for n in range(8):
        bitmap = Bitmap(GIB, 4 * KIB if n % 2 else 64 * KIB)
        for at in range(n * 4 * KIB, GIB, (n + 1) * 513 * KIB):
            bitmap.set(at, 1)
        everything |= bitmap
        Segment.write(bitmap, f"segment{n}")
        segments.append(Segment(f"segment{n}"))
    for threads in range(4):
        info = Segment.merge(segments, "merged", threads=threads)
        assert info == Segment.merge_info(segments) and info.dirty_granules == everything.count()
        with Segment(b"merged") as merged:
            assert merged.load() == everything
    with fails(InvalidArgumentError, errno.EINVAL):
        Segment.merge(segments, "merged", memory_bytes=1)
    with fails(InvalidArgumentError, errno.EINVAL):
        Segment.merge([], "merged")


def test_203_segment_merge_fails(here, fails):
    bitmap, other = Bitmap(MIB, KIB), Bitmap(2 * MIB, KIB)
    bitmap.set(0, 1)
    Segment.write(bitmap, "a")
    Segment.write(other, "b")
    a, b = Segment("a"), Segment("b")
    with fails(CancelledError, errno.ECANCELED):
        Segment.merge([a, a], "a", progress=lambda *_: True)
    with fails(SizeMismatchError, errno.EINVAL):
        Segment.merge([a, a, b], "a")
    with fails(FileMissingError, errno.ENOENT) as caught:
        Segment.merge([a, a], "no/such/folder")
    assert caught.value.filename == "no/such/folder"
    with pytest.raises(OSError):
        Segment.write(bitmap, ".")
    assert sorted(os.listdir()) == ["a", "b"]
    assert Segment("a").count() == 1


def test_204_segment_damaged(here, fails):
    bitmap = Bitmap(GIB, 4 * KIB)
    for at in range(0, GIB, 64 * KIB):
        bitmap.set(at, at % (12 * KIB) + 1)
    Segment.write(bitmap, "segment")
    segment = Segment("segment")
    report = segment.check()
    assert (report.errors, report.problems) == (0, [])
    with open("segment", "r+b") as file:
        file.seek(5000)
        byte = file.read(1)[0]
        file.seek(5000)
        file.write(bytes([byte ^ 0x40]))
    report = segment.check()
    assert report.errors > 0 and report.unusable == report.leaked_bytes == 0
    problem = report.problems[0]
    assert problem.severity == "error" and problem.offset >= 0 and problem.message and problem.structure
    with fails(DamagedError, errno.EBADMSG):
        segment.load()
    with fails(DamagedError, errno.EBADMSG):
        segment.extents()
    os.truncate("segment", os.stat("segment").st_size // 2)
    with fails(DamagedError, errno.EBADMSG):
        Segment("segment")
    with fails(SystemCallError, errno.EIO):
        Segment("/dev/null")
    (here / "segment").write_text("this is no segment, and never was one")
    with fails(UnknownFormatError, errno.ENOTSUP):
        Segment("segment")


def test_205_segment_diff(here):
    first, second = Bitmap(MIB, KIB), Bitmap(MIB, 4 * KIB)
    first.set(0, 6 * KIB)
    second.set(4 * KIB, 4 * KIB)
    Segment.write(first, "a")
    Segment.write(second, "b")
    a, b = Segment("a"), Segment("b")
    assert list(a.diff(b)) == [(0, 4 * KIB, "first"), (6 * KIB, 2 * KIB, "second")]
    assert list(a.diff(a)) == list(a.diff(b, 4 * KIB, 2 * KIB)) == []


def seen_from_outside(path):
    """All that lstat tells but the time of the last access, which is when a link was followed."""
    facts = os.lstat(path)
    return facts[: stat.ST_ATIME] + facts[stat.ST_MTIME :]


def test_206_segment_places(here, fails):
    bitmap = Bitmap(MIB, KIB)
    bitmap.set(0, 3 * KIB)
    Segment.write(bitmap, "source")
    os.mkdir("folder")
    os.mkfifo("pipe")
    os.symlink("/dev/null", "device")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "disk", "1M"], check=True)
    os.symlink("disk", "image")
    with Image("disk", writable=True), Segment("source") as source:
        for place in ["folder", "pipe", "device", "disk", "image"]:
            before = seen_from_outside(place)
            with fails(InvalidArgumentError, errno.EINVAL) as caught:
                Segment.write(bitmap, place)
            assert "cannot be replaced" in str(caught.value)
            with fails(InvalidArgumentError, errno.EINVAL):
                Segment.merge([source], place)
            assert seen_from_outside(place) == before
        os.symlink("folder/new", "link")
        Segment.write(bitmap, "link")
        os.chmod("folder/new", 0o640)
        Segment.merge([source], "link")
        assert os.path.islink("link") and os.stat("link").st_mode & 0o777 == 0o640
        Segment.write(bitmap, "n" * 250)
        with Segment("n" * 250) as long_name:
            assert long_name.count() == 3
    assert os.listdir("folder") == ["new"]
