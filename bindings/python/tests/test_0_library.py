"""Version, errors, handles: 0xx as in tests/c."""

import errno
import re
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import pytest

import checkmap
from checkmap import Bitmap, CheckmapError, InvalidArgumentError
from checkmap._errors import _KINDS
from checkmap._native import ffi, lib

ROOT = Path(__file__).resolve().parents[3]
# What Python takes care of before the library is asked, or has no call for.
NOT_IN_PYTHON = {"005", "007", "009", "010", "320", "405", "406", "407"}


def test_every_behaviour_of_the_c_tests_is_here():
    here = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    numbers = {path.name[:3] for path in (ROOT / "tests/c").glob("[0-9]*.c")}
    assert len(numbers) > 50
    assert numbers - NOT_IN_PYTHON == set(re.findall(r"def test_(\d\d\d)_", here)) - NOT_IN_PYTHON


def test_001_version():
    assert checkmap.__version__ == metadata.version("checkmap")
    assert (
        checkmap.__version__
        == f"{lib.CHECKMAP_VERSION_MAJOR}.{lib.CHECKMAP_VERSION_MINOR}.{lib.CHECKMAP_VERSION_PATCH}"
    )


def test_002_last_error(fails):
    with fails(InvalidArgumentError, errno.EINVAL) as caught:
        Bitmap(1, 3)
    assert "granularity 3" in str(caught.value) and caught.value.kind == "INVALID_ARGUMENT"
    assert isinstance(caught.value, OSError) and isinstance(caught.value, ValueError)
    with fails(checkmap.OutOfRangeError, errno.ERANGE) as caught:
        Bitmap(1, 1).get(1)
    assert "granularity 3" not in str(caught.value)


def test_003_last_error_threads(fails):
    met = threading.Barrier(4)

    def ask(size):
        for _ in range(200):
            met.wait()
            with fails(checkmap.OutOfRangeError, errno.ERANGE) as caught:
                Bitmap(size, 1).get(size)
            assert f" {size} bytes" in str(caught.value)

    in_threads(ask, [11, 22, 33, 44])


def in_threads(work, arguments):
    failed = []

    def run(argument):
        try:
            work(argument)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(argument,)) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


def test_004_error_names():
    names = [name for name in dir(lib) if name.startswith("CHECKMAP_ERROR_")]
    assert {getattr(lib, name) for name in names} == set(_KINDS)
    assert len(set(_KINDS.values())) == len(names)
    for kind in _KINDS.values():
        assert issubclass(kind, CheckmapError) and kind.__name__ in checkmap.__all__ and kind.__doc__
    for name in names:
        assert ffi.string(lib.checkmap_error_name(getattr(lib, name))).decode() == name


def test_006_freed_looking():
    bitmap = Bitmap(1 << 20, 1 << 10)
    with bitmap:
        bitmap.set(0, 1)
    assert bitmap.closed
    bitmap.close()
    for use in (bitmap.count, bitmap.serialize, bitmap.__enter__, lambda: bitmap.set(0, 1), lambda: bitmap | bitmap):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert "closed" in repr(bitmap)


def test_008_poisoned(fails):
    bitmap, good = Bitmap(1 << 20, 1 << 10), Bitmap(1 << 20, 1 << 10)
    # No call has such a fault on purpose: this is the mark that it would leave behind the tag of eight bytes.
    ffi.cast("uint8_t *", bitmap._pointer)[8] = 1
    for use in (bitmap.count, bitmap.copy, lambda: bitmap.set(0, 1), lambda: good.update(bitmap), lambda: bitmap.size):
        with fails(checkmap.PoisonedError, errno.ENOTRECOVERABLE):
            use()
    assert not good
    bitmap.close()


def test_what_cannot_be_an_argument():
    bitmap = Bitmap(1 << 20, 1 << 10)
    for bad in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            bitmap.set(bad, 1)
        with pytest.raises(OverflowError):
            Bitmap(bad, 1)
    for bad in ("1", 1.0, None):
        with pytest.raises(TypeError):
            bitmap.get(bad)
    for operation in (
        "__or__",
        "__and__",
        "__sub__",
        "__xor__",
        "__ior__",
        "__iand__",
        "__isub__",
        "__ixor__",
        "__le__",
    ):
        assert getattr(bitmap, operation)({1}) is NotImplemented
    assert bitmap != 1 and (bitmap == 1) is False
    with pytest.raises(TypeError):
        hash(bitmap)


def test_a_clash_is_an_error_and_not_a_race():
    bitmap, other = Bitmap(1 << 20, 1 << 10), Bitmap(1 << 20, 1 << 10)
    other.set(0, 1)

    def clash(*_):
        with pytest.raises(RuntimeError):
            bitmap.count()
        with pytest.raises(RuntimeError):
            other.clear_all()
        with pytest.raises(RuntimeError):
            bitmap.close()
        assert other.count() == 1

    bitmap.update(other, progress=clash)
    assert bitmap.count() == 1


def test_it_is_typed():
    assert (Path(checkmap.__file__).parent / "py.typed").exists()
    code = "import checkmap, typing; typing.get_type_hints(checkmap.Checkpoint)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
