"""Images: 3xx as in tests/c."""

import errno
import hashlib
import os
import subprocess
import sys

import pytest

from checkmap import (
    BackingLayerError,
    Bitmap,
    BrokenChainError,
    CancelledError,
    ChangedError,
    CheckmapError,
    ExistsError,
    FileMissingError,
    Image,
    InconsistentError,
    InUseError,
    InvalidArgumentError,
    InvalidNameError,
    IsDirectoryError,
    ModelError,
    NameTooLongError,
    NotFoundError,
    OrderError,
    PoisonedError,
    ReadOnlyError,
    ReadOnlyFileError,
    Segment,
    SystemCallError,
    UnknownFormatError,
    create_many,
    delete_many,
)

from .conftest import KIB, MIB


def names(image):
    return [each.name for each in image.checkpoints()]


def test_300_image_info(image_copy):
    with Image(image_copy("chain.qcow2")) as image:
        info = image.info()
        assert (info.format, info.format_version, info.disk_size) == ("qcow2", 3, 64 * MIB)
        assert (info.cluster_size, info.default_granularity, info.model) == (64 * KIB, 64 * KIB, "interval")
        assert not info.unclean and not info.trouble and info.backing_file is info.data_file is None
        assert image.trouble() is None and image.warnings() == []
    with Image(image_copy("overlay.qcow2")) as image:
        assert image.info().backing_file == "chain.qcow2"
    with Image(image_copy("plain.qcow2")) as image:
        assert image.info().model is None


def test_301_image_open(image_copy, here, fails):
    image_copy("chain.qcow2")
    with fails(InvalidArgumentError, errno.EINVAL):
        Image("chain.qcow2", writable=True, force_share=True)
    for bad in ("", "a\0b"):
        with fails(InvalidArgumentError, errno.EINVAL):
            Image(bad)
    with fails(NameTooLongError, errno.ENAMETOOLONG):
        Image("a" * 10000)
    with fails(FileMissingError, errno.ENOENT) as caught:
        Image("nowhere")
    assert "nowhere" in str(caught.value) and caught.value.filename == "nowhere"
    # Only the kind parts a missing file from a missing checkpoint: both are ENOENT.
    assert isinstance(caught.value, (SystemCallError, FileNotFoundError)) and caught.value.kind == "IO"
    assert not issubclass(NotFoundError, FileNotFoundError)
    for path in (here / "chain.qcow2", b"chain.qcow2"):
        Image(path).close()
    os.rename("chain.qcow2", b"\xff\xfe")
    Image(b"\xff\xfe").close()
    Image(os.fsdecode(b"\xff\xfe")).close()
    (here / "raw").write_bytes(bytes(65536))
    with fails(UnknownFormatError, errno.ENOTSUP):
        Image("raw")
    with fails(SystemCallError, errno.EIO):
        Image("/dev/null")
    with fails(IsDirectoryError, errno.EISDIR):
        Image(".", writable=True)
    with pytest.raises(TypeError):
        Image(1.5)


def test_302_image_open_fd(image_copy, fails):
    image_copy("chain.qcow2")
    fd = os.open("chain.qcow2", os.O_RDONLY)
    with Image(fd) as image:
        os.close(fd)
        assert names(image) == ["a", "b", "c"]
    for bad in (fd, -1):
        with fails(SystemCallError, errno.EBADF):
            Image(bad)
    fd = os.open("chain.qcow2", os.O_RDONLY)
    with fails(ReadOnlyError, errno.EROFS):
        Image(fd, writable=True)
    os.close(fd)
    fd = os.open("chain.qcow2", os.O_RDWR)
    with Image(fd, writable=True) as image:
        image.create("d")
    os.fstat(fd)
    with Image(fd) as image:
        image.create("e")
        assert names(image) == ["a", "b", "c", "d", "e"]
    os.close(fd)
    read, write = os.pipe()
    with pytest.raises(CheckmapError):
        Image(read)
    os.close(read)
    os.close(write)


def test_one_file_and_one_lock_from_the_opening_to_the_end(image_copy, here, fails):
    for name in ("chain.qcow2", "plain.qcow2"):
        image_copy(name)
    # A descriptor whose number means another file by now.
    fd = os.open("chain.qcow2", os.O_RDWR)
    with Image(fd) as image:
        os.dup2(os.open("plain.qcow2", os.O_RDWR), fd)
        image.create("d")
    os.close(fd)
    # A relative path, and another folder.
    (here / "elsewhere").mkdir()
    os.link("plain.qcow2", "elsewhere/chain.qcow2")
    with Image("chain.qcow2") as image:
        os.chdir("elsewhere")
        image.create("e")
        os.chdir(here)
    # A path at which another file stands by now.
    with Image("chain.qcow2") as image:
        os.rename("chain.qcow2", "moved.qcow2")
        os.link("plain.qcow2", "chain.qcow2")
        image.create("f")
        # Before its first change it was locked for reading, and that without a gap until now.
        with fails(InUseError, errno.EBUSY):
            Image("moved.qcow2")
    with Image("moved.qcow2") as image, Image("plain.qcow2") as other:
        assert names(image) == ["a", "b", "c", "d", "e", "f"] and names(other) == []
    # A descriptor for reading does not become one for writing, though the file could be written.
    fd = os.open("moved.qcow2", os.O_RDONLY)
    with Image(fd) as image:
        os.close(fd)
        with fails(ReadOnlyError, errno.EROFS):
            image.create("g")
        assert len(names(image)) == 6
    for bad in (-1, 1 << 40, "two", 2000):
        with pytest.raises((OverflowError, TypeError, ValueError)):
            Image("moved.qcow2", writable=True, threads=bad)
        Image("moved.qcow2", writable=True).close()


def test_nobody_writes_between_a_diff_and_a_checkpoint(image_copy):
    image_copy("chain.qcow2")
    for _ in range(3):
        with Image("chain.qcow2") as image:
            image.diff("a")
            wrote = subprocess.run(["qemu-io", "-c", "write 0 512", "chain.qcow2"], capture_output=True)
            assert wrote.returncode != 0
            image.create(f"t{_}")
            wrote = subprocess.run(["qemu-io", "-c", "write 0 512", "chain.qcow2"], capture_output=True)
            assert wrote.returncode != 0


def test_a_change_in_the_middle_of_a_call_without_locks_is_noticed(image_copy, fails):
    image_copy("chain.qcow2")

    def write(*_):
        subprocess.run(["qemu-io", "-c", "write 8M 64k", "chain.qcow2"], check=True, capture_output=True)

    with Image("chain.qcow2", no_lock=True) as image:
        for ask in (lambda: image.diff("a", progress=write), lambda: image.check(progress=write)):
            with fails(ChangedError, errno.ESTALE):
                ask()


def test_303_list(image_copy):
    with Image(image_copy("chain.qcow2")) as image:
        a, b, c = image.checkpoints()
        assert [(each.name, each.parent, each.dirty_bytes) for each in (a, b, c)] == [
            ("a", None, 64 * KIB),
            ("b", "a", 128 * KIB),
            ("c", "b", 64 * KIB),
        ]
        assert [each.recording for each in (a, b, c)] == [False, False, True]
        for each in (a, b, c):
            assert each.granularity == 64 * KIB and not each.inconsistent and not each.unusable and not each.unordered
    with Image(image_copy("plain.qcow2")) as image:
        assert image.checkpoints() == []


def test_304_diff(image_copy, fails):
    with Image(image_copy("chain.qcow2")) as image:

        def changed(since, until=None, **more):
            return image.diff(since, until, **more).extents()

        assert changed("a") == [(MIB, 64 * KIB), (2 * MIB, 128 * KIB), (4 * MIB, 64 * KIB)]
        assert changed("b") == changed(b"b") == [(2 * MIB, 128 * KIB), (4 * MIB, 64 * KIB)]
        assert changed("a", "b") == [(MIB, 64 * KIB)]
        assert changed("a", "c") == [(MIB, 64 * KIB), (2 * MIB, 128 * KIB)]
        assert changed("b", "b") == []
        with fails(OrderError, errno.EPROTO):
            changed("b", "a")
        for since, until in (("x", None), ("a", "x")):
            with fails(NotFoundError, errno.ENOENT):
                changed(since, until)
        for since, until in (("", None), ("a", "")):
            with fails(InvalidNameError, errno.EINVAL):
                changed(since, until)
        assert changed("a", offset=2 * MIB, length=64 * KIB) == [(2 * MIB, 64 * KIB)]
    with Image("chain.qcow2", threads=3) as image:
        assert image.diff("a").dirty_bytes() == 256 * KIB
    with fails(InvalidArgumentError, errno.EINVAL):
        Image("chain.qcow2", threads=(1 << 32) - 1)
    # The image of the failed opening is closed, and the diff outlives its image.
    with Image("chain.qcow2", writable=True) as image:
        bitmap = image.diff("a")
    assert bitmap.dirty_bytes() == 256 * KIB


def test_305_create(image_copy, fails):
    with Image(image_copy("chain.qcow2")) as image:
        image.create("d")
        points = image.checkpoints()
        assert [each.recording for each in points] == [False, False, False, True] and points[3].dirty_bytes == 0
        with fails(ExistsError, errno.EEXIST):
            image.create("d")
        for bad in (3, 1):
            with fails(InvalidArgumentError, errno.EINVAL):
                image.create("e", bad)
        image.create("e", 4096, dry_run=True)
        assert len(names(image)) == 4
        image.create("e", 4096)
        assert image.checkpoints()[4].granularity == 4096
    with Image("chain.qcow2", writable=False) as image:
        assert len(names(image)) == 5
        with fails(ReadOnlyError, errno.EROFS):
            image.create("f")
    with Image(image_copy("plain.qcow2")) as image:
        image.create("first")
        assert image.checkpoints()[0].granularity == 64 * KIB


def test_306_delete(image_copy, fails):
    with Image(image_copy("chain.qcow2")) as image:
        image.delete("b")
        a, c = image.checkpoints()
        assert a.dirty_bytes == 192 * KIB and (c.name, c.parent) == ("c", "a")
        with fails(NotFoundError, errno.ENOENT):
            image.delete("b")
        image.delete("c")
        (a,) = image.checkpoints()
        assert a.dirty_bytes == 256 * KIB and a.recording
        image.delete("a")
        assert image.checkpoints() == []
        image.delete_inconsistent()


def test_307_rename(image_copy, fails):
    with Image(image_copy("chain.qcow2")) as image:
        image.rename("b", "monday")
        a, b, c = image.checkpoints()
        assert b.name == c.parent == "monday" and b.dirty_bytes == 128 * KIB
        with fails(NotFoundError, errno.ENOENT):
            image.rename("b", "x")
        with fails(ExistsError, errno.EEXIST):
            image.rename("a", "c")
        with fails(InvalidNameError, errno.EINVAL):
            image.rename("a", "x->y")


def test_308_names(image_copy, fails):
    with Image(image_copy("chain.qcow2")) as image:
        for bad in ("", "a\0b"):
            with fails(InvalidNameError, errno.EINVAL):
                image.create(bad)
        for use in (
            lambda: image.create("n" * 511),
            lambda: image.create("n" * 100000),
            lambda: image.delete("n" * 1024),
            lambda: image.rename("a", "n" * 100000),
            lambda: image.diff("n" * 100000),
        ):
            with fails(NameTooLongError, errno.ENAMETOOLONG):
                use()
        with fails(NotFoundError, errno.ENOENT):
            image.delete("n" * 1023)
        with pytest.raises(TypeError, match="str or bytes, not int"):
            image.create(5)
        assert len(names(image)) == 3
        image.create("n" * 510)
        assert image.warnings()[0]
        image.create(b"\xff\xfe\x80")
        image.create("Zwölf")
        assert names(image)[3:] == ["n" * 510, "\udcff\udcfe\udc80", "Zwölf"]
        image.delete("\udcff\udcfe\udc80")
        image.delete(b"n" * 510)
        assert names(image) == ["a", "b", "c", "Zwölf"]


def test_309_in_use(image_copy, fails):
    image_copy("chain.qcow2")
    with Image("chain.qcow2", writable=True):
        for writable in (True, False, None):
            with fails(InUseError, errno.EBUSY):
                Image("chain.qcow2", writable=writable)
            # A writer that can be seen is refused without locks of our own too.
            with fails(InUseError, errno.EBUSY) as caught:
                Image("chain.qcow2", writable=writable, no_lock=True)
            assert "this or another process" in str(caught.value)
        with Image("chain.qcow2", force_share=True) as other:
            assert other.checkpoints()[0].dirty_bytes is None and other.info().held_by_writer
            with fails(InvalidArgumentError, errno.EINVAL):
                other.diff("a")
    with Image("chain.qcow2") as reader, Image("chain.qcow2") as other:
        with fails(InUseError, errno.EBUSY):
            Image("chain.qcow2", writable=True)
        # An image that cannot be written now can still be read.
        with fails(InUseError, errno.EBUSY):
            reader.create("d")
        assert names(reader) == names(other) == ["a", "b", "c"]
        other.close()
        reader.create("d")
    Image("chain.qcow2", writable=True).close()


def test_310_stale(image_copy, fails):
    image_copy("chain.qcow2")
    with Image("chain.qcow2", writable=True, no_lock=True) as ours:
        ours.create("ours")
        assert len(names(ours)) == 4
        with Image("chain.qcow2") as theirs:
            theirs.create("theirs")
        for use in (
            ours.checkpoints,
            lambda: ours.create("x"),
            lambda: ours.delete("a"),
            lambda: ours.diff("a"),
            ours.info,
            ours.check,
        ):
            with fails(ChangedError, errno.ESTALE):
                use()
    with Image("chain.qcow2") as ours:
        assert len(names(ours)) == 5


def test_311_deleted(image_copy):
    with Image(image_copy("chain.qcow2"), writable=True) as image:
        os.unlink("chain.qcow2")
        assert image.diff("a").dirty_bytes() == 256 * KIB
        image.create("d")
    with Image(image_copy("chain.qcow2"), writable=True) as image:
        os.truncate("chain.qcow2", 100)
        with pytest.raises(CheckmapError):
            image.diff("a")
        with pytest.raises(CheckmapError):
            image.delete("b")
    # Deleted before its first change: it is still the file that was opened.
    with Image(image_copy("chain.qcow2")) as image:
        os.unlink("chain.qcow2")
        image.create("d")
        assert len(names(image)) == 4


def test_312_read_only(image_copy, fails):
    os.chmod(image_copy("chain.qcow2"), 0o444)
    with fails(ReadOnlyFileError, errno.EACCES):
        Image("chain.qcow2", writable=True)
    with Image("chain.qcow2") as image:
        with fails(ReadOnlyFileError, errno.EACCES):
            image.delete("a")
        assert names(image) == ["a", "b", "c"]
    with Image("chain.qcow2", writable=False) as image:
        for use in (lambda: image.delete("a"), lambda: image.rename("a", "z")):
            with fails(ReadOnlyError, errno.EROFS):
                use()


def test_313_check(image_copy, fails):
    with Image(image_copy("chain.qcow2")) as image:
        report = image.check()
        assert report.errors == report.unusable == report.leaked_bytes == 0
        told = []
        with fails(CancelledError, errno.ECANCELED):
            image.check(progress=lambda *what: told.append(what) or True)
        assert len(told) == 1
    with Image(image_copy("inconsistent.qcow2")) as image:
        report = image.check()
        assert report.unusable > 0 and report.problems[0].message


def test_314_stored(image_copy, fails):
    with Image(image_copy("chain.qcow2")) as image:
        stored = image.stored()
        assert sorted(each.name for each in stored) == ["a", "a->b", "b->c"]
        assert [each.name for each in stored if each.recording] == ["b->c"]
        assert all(each.granularity == 64 * KIB for each in stored)
        assert image.read_stored("a->b").dirty_bytes() == 128 * KIB
        assert not image.read_stored("a->b", 0, MIB)
        with fails(NotFoundError, errno.ENOENT):
            image.read_stored("b")
        summary = image.summarize_stored("b->c")
        assert (summary.dirty_bytes, summary.dirty_extents) == (64 * KIB, 1) and summary.stored_bytes > 0
        with fails(NotFoundError, errno.ENOENT):
            image.summarize_stored("x")
        assert image.sha256_stored("a->b") == image.read_stored("a->b").sha256() != image.sha256_stored("b->c")
        with fails(NotFoundError, errno.ENOENT):
            image.sha256_stored("x")
        assert Bitmap(MIB, 64 * KIB).sha256() == hashlib.sha256(bytes(8)).digest()
        image.merge_stored(["a", b"b->c"], "a->b")
        assert image.summarize_stored("a->b").dirty_bytes == 256 * KIB
        with fails(InvalidArgumentError, errno.EINVAL):
            image.merge_stored([], "a->b")


def test_319_drop(image_copy, fails):
    with Image(image_copy("chain.qcow2")) as image:
        image.drop_stored("a->b", dry_run=True)
        assert len(image.stored()) == 3
        image.drop_stored("a->b")
        assert [(each.name, each.parent, each.gap) for each in image.checkpoints()] == [
            ("a", None, False),
            ("c", None, True),
        ]
        with fails(BrokenChainError, errno.EPROTO) as caught:
            image.diff("a")
        assert "Image.drop_before() of 'c'" in str(caught.value)
        assert image.diff("c").dirty_bytes() == 64 * KIB
        with fails(ExistsError, errno.EEXIST):
            image.create("b")
        with fails(NotFoundError, errno.ENOENT):
            image.drop_before("b")
        image.drop_before("c")
        assert names(image) == ["c"]
    with Image(image_copy("chain.qcow2")) as image:
        image.drop_stored("a->b")
        image.drop_stored("b->c")
        with fails(ExistsError, errno.EEXIST) as caught:
            image.drop_all()
        assert "foreign_too=True" in str(caught.value)
        image.drop_all(foreign_too=True, dry_run=True)
        assert len(image.stored()) == 1
        image.drop_all(foreign_too=True)
        assert image.stored() == [] and image.warnings()
        image.drop_all()


def test_315_progress(image_copy, fails):
    with Image(image_copy("chain.qcow2")) as image:
        told = []

        def stop(*what):
            told.append(what)
            return -1

        with fails(CancelledError, errno.ECANCELED):
            image.diff("a", progress=stop)
        assert len(told) == 1
        with fails(CancelledError, errno.ECANCELED):
            image.delete("b", progress=stop)
        assert names(image) == ["a", "b", "c"]
        told.clear()
        assert image.diff("a", progress=lambda *what: told.append(what)).count() == 4
        assert told and all(phase and done <= total for phase, done, total in told)
        image.delete("b", dry_run=True)
        image.rename("b", "z", dry_run=True)
        assert names(image) == ["a", "b", "c"]
        image.rename("b", "z", progress=lambda *_: 0)
        image.delete("z", progress=lambda *_: 0)
        assert names(image) == ["a", "c"]


def test_316_inconsistent(image_copy, fails):
    with Image(image_copy("inconsistent.qcow2")) as image:
        last = image.checkpoints()[2]
        assert last.inconsistent and last.dirty_bytes is None
        with fails(InconsistentError, errno.EUCLEAN):
            image.diff("a")
        with fails(InconsistentError, errno.EUCLEAN):
            image.create("d")
        image.delete_inconsistent()
        assert len(names(image)) < 3


def test_317_layers(image_copy, fails):
    image_copy("chain.qcow2")
    with Image(image_copy("overlay.qcow2")) as image:
        image.diff("a")
        image.delete("a", dry_run=True)
        with Image("chain.qcow2", writable=False):
            with fails(InUseError, errno.EBUSY):
                image.delete("a")
        image.diff("a", top_layer_only=True)
        os.unlink("chain.qcow2")
        with fails(BackingLayerError, errno.EPROTO):
            image.diff("a")
        image.delete("a", top_layer_only=True)


def overlay_of_chain(image_copy, *bitmaps):
    image_copy("chain.qcow2")
    create = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", "chain.qcow2", "-F", "qcow2", "top.qcow2"]
    subprocess.run(create, check=True)
    for bitmap in bitmaps:
        subprocess.run(["qemu-img", "bitmap", "--add", *bitmap], check=True)


def test_325_change_layers(image_copy, fails):
    overlay_of_chain(image_copy, ["--disable", "top.qcow2", "b->c"], ["top.qcow2", "c->d"])

    def has(path):
        with Image(path) as image:
            return names(image)

    with Image("top.qcow2") as image:
        for name in ("c", "d"):
            with fails(ExistsError, errno.EEXIST):
                image.rename(name, "a")
        with fails(CancelledError, errno.ECANCELED):
            image.rename("c", "x", progress=lambda *_: True)
        assert has("chain.qcow2") == ["a", "b", "c"]
        image.rename("c", "x")
        assert has("chain.qcow2") == ["a", "b", "x"]
        image.delete("x")
        with fails(NotFoundError, errno.ENOENT):
            image.delete("x")
    assert (has("chain.qcow2"), has("top.qcow2")) == (["a", "b"], ["b", "d"])


def test_326_commit_bitmaps(image_copy, fails):
    overlay_of_chain(image_copy)
    image_copy("plain.qcow2")
    with Image("top.qcow2") as top:
        top.create("d")
        with Image("plain.qcow2") as other, fails(BackingLayerError, errno.EPROTO):
            top.commit_bitmaps(other)
        with fails(InvalidArgumentError, errno.EINVAL):
            top.commit_bitmaps(top)
        with pytest.raises(TypeError):
            top.commit_bitmaps("chain.qcow2")
        with Image("chain.qcow2", writable=False) as base, fails(ReadOnlyError, errno.EROFS):
            top.commit_bitmaps(base)
        with Image("chain.qcow2") as base:
            top.commit_bitmaps(base, dry_run=True)
            assert names(base) == ["a", "b", "c"]
            top.commit_bitmaps(base)
            top.commit_bitmaps(base)
            assert names(base) == ["a", "b", "c", "d"]


def test_318_damaged(image_copy):
    size = os.stat(image_copy("chain.qcow2")).st_size
    refused = 0
    at = 0
    with open("chain.qcow2", "r+b", buffering=0) as file:
        while at < size:
            byte = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([byte[0] ^ 0x81]), at)
            try:
                with Image("chain.qcow2", no_lock=True) as image:
                    image.trouble()
                    image.check()
                    image.checkpoints()
                    image.diff("a")
            except CheckmapError as error:
                assert not isinstance(error, PoisonedError)
                refused += 1
            os.pwrite(file.fileno(), byte, at)
            at += 1 if at < 512 else 8191
    assert refused > 10


def test_a_cumulative_checkpoint(image_copy):
    with Image(image_copy("plain.qcow2")) as image:
        image.create("all", cumulative=True)
        subprocess.run(["qemu-img", "info", "-U", "plain.qcow2"], check=True, stdout=subprocess.DEVNULL)
        assert names(image) == ["all"]


def test_ways_out_are_in_the_words_of_python(image_copy):
    def said(call, *arguments, **options):
        with pytest.raises(CheckmapError) as caught:
            call(*arguments, **options)
        text = str(caught.value)
        for foreign in ["CHECKMAP_", "checkmap_", " --", "::", "\x1e", "\x1f", "os error"]:
            assert foreign not in text
        return text

    image_copy("chain.qcow2")
    with Image(image_copy("overlay.qcow2"), writable=True) as image:
        assert "force_share=True" in said(Image, "overlay.qcow2")
        os.unlink("chain.qcow2")
        assert "top_layer_only=True" in said(image.diff, "a")
        image.delete("a", top_layer_only=True)
    with Image(image_copy("chain.qcow2")) as image:
        text = said(image.create, "d", cumulative=True)
        assert "leave out cumulative=..., or ask for cumulative=False" in text
        image.create("d", cumulative=False)
    with Image(image_copy("inconsistent.qcow2")) as image:
        assert "Image.delete_inconsistent()" in said(image.create, "d")
        assert "force_inconsistent=True" in said(image.delete, "c")
    with Image(image_copy("plain.qcow2")) as image:
        image.create("x", cumulative=True)
        image.create("y", cumulative=True)
        assert "until" in said(image.diff, "x", "y")
        assert said(image.diff, "z", cumulative=True).count("z") > 0


def test_what_an_image_does_not_tell_can_be_said(image_copy):
    image_copy("plain.qcow2")
    for name in ["x", "y"]:
        subprocess.run(["qemu-img", "bitmap", "--add", "plain.qcow2", name], check=True)
    subprocess.run(["qemu-img", "bitmap", "--disable", "plain.qcow2", "x"], check=True)
    with Image("plain.qcow2") as image:
        assert image.info().model == "unknown"
        with pytest.raises(ModelError) as caught:
            image.diff("y")
        assert "say which with cumulative=..." in str(caught.value)
        assert image.diff("y", cumulative=True).count() == 0
        image.rename("y", "z", cumulative=True)
        image.delete("z", cumulative=True)


def test_errors_of_the_system_are_those_of_python_too(image_copy, here):
    """Each is what Python's own open() raises, has the name that was given, and one message."""
    image_copy("chain.qcow2")
    (here / "folder").mkdir()
    (here / "closed").write_bytes(b"")
    for path in ("nowhere", here / "nowhere", b"nowhere", "folder", "chain.qcow2/below"):
        with pytest.raises(OSError) as theirs:
            open(path, "rb")
        for kind in (Image, Segment):
            with pytest.raises(CheckmapError) as ours:
                kind(path)
            assert isinstance(ours.value, type(theirs.value)) and isinstance(ours.value, SystemCallError)
            assert ours.value.errno == theirs.value.errno and ours.value.filename == path
            assert str(ours.value).count(os.fsdecode(path)) == 1
    bitmap = Bitmap(MIB, KIB)
    with pytest.raises(FileNotFoundError) as caught:
        Segment.write(bitmap, "nowhere/segment")
    assert caught.value.filename == "nowhere/segment"
    Segment.write(bitmap, "segment")
    with Segment("segment") as segment, pytest.raises(FileNotFoundError) as caught:
        Segment.merge([segment], "nowhere/merged")
    assert caught.value.filename == "nowhere/merged"
    # Not about a file: a checkpoint's name.
    with Image("chain.qcow2") as image, pytest.raises(NotFoundError) as caught:
        image.diff("nowhere")
    assert caught.value.filename is None and not isinstance(caught.value, FileNotFoundError)
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(BrokenPipeError) as caught:
        Segment.write(bitmap, write)
    assert caught.value.filename == write and isinstance(caught.value, SystemCallError)
    os.close(write)


def test_what_may_not_be_opened_is_a_permission_error(image_copy, here):
    """As another user, where root runs the tests."""
    image_copy("chain.qcow2")
    os.chmod("chain.qcow2", 0o444)
    (here / "secret").write_bytes(b"")
    os.chmod("secret", 0)
    here.chmod(0o755)
    code = (
        "import os, checkmap\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "for use in (lambda: checkmap.Image('secret'), lambda: checkmap.Segment('secret'),\n"
        "            lambda: checkmap.Image('chain.qcow2', writable=True)):\n"
        "    try: use()\n"
        "    except PermissionError as error: print(type(error).__name__, error.kind, error.filename)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.splitlines() == [
        "PermissionDeniedError IO secret",
        "PermissionDeniedError IO secret",
        "ReadOnlyFileError READ_ONLY chain.qcow2",
    ], ran.stderr


def test_330_several(image_copy, fails):
    paths = [image_copy("chain.qcow2"), image_copy("plain.qcow2")]
    with Image(paths[0]) as chain, Image(paths[1]) as plain:
        create_many([chain, plain], "m", dry_run=True)
        with fails(ExistsError, errno.EEXIST):
            create_many([chain, plain], "a")
        assert names(plain) == []
        create_many([chain, plain], "m")
        assert names(chain) == ["a", "b", "c", "m"] and names(plain) == ["m"]
        for image in (chain, plain):
            assert image.recover() is None
            image.forget_step()
        delete_many([chain, plain], ["m"])
        assert names(chain) == ["a", "b", "c"] and names(plain) == []
