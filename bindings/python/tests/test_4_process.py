"""Threads, fork, output: 4xx as in tests/c."""

import errno
import gc
import os
import subprocess
import sys
import threading
import time

import pytest

import checkmap
from checkmap import Bitmap, Image, InUseError, OutOfRangeError, Segment

from .conftest import GIB, KIB, MIB
from .test_0_library import in_threads


def test_400_threads(image_copy, fails):
    bitmap = Bitmap(GIB, 4 * KIB)
    bitmap.set(0, MIB)
    Segment.write(bitmap, "segment")
    with Segment("segment") as segment, Image(image_copy("chain.qcow2")) as image:

        def ask(_):
            for _ in range(20):
                assert bitmap.count() == segment.count_range() == 256
                points = image.checkpoints()
                assert points[0].name == "a" and points[0].dirty_bytes == 64 * KIB
                assert image.diff("a").dirty_bytes() == 256 * KIB
                assert (bitmap | bitmap).extents() == [(0, MIB)]
                with fails(OutOfRangeError, errno.ERANGE):
                    bitmap.get((1 << 64) - 1)

        in_threads(ask, range(4))


def test_400_threads_that_change_one_bitmap():
    bitmap = Bitmap(GIB, 4 * KIB)
    refused = []

    def change(n):
        for at in range(n * 4 * KIB, GIB // 16, 16 * KIB):
            while True:
                try:
                    bitmap.set(at, 4 * KIB)
                    break
                except RuntimeError as error:
                    refused.append(error)

    in_threads(change, range(4))
    bitmap.validate()
    assert bitmap.extents() == [(0, GIB // 16)]


def test_401_no_threads_left(here):
    bitmap = Bitmap(GIB, 4 * KIB)
    bitmap.set(0, GIB // 2)
    Segment.write(bitmap, "segment")
    before = len(os.listdir("/proc/self/task"))
    with Segment("segment") as segment:
        Segment.merge([segment, segment, segment], "merged", threads=4)
    Bitmap.union([bitmap, bitmap.copy(), bitmap.copy()], threads=4)
    for _ in range(1000):
        if len(os.listdir("/proc/self/task")) <= before:
            break
        time.sleep(0.001)
    assert len(os.listdir("/proc/self/task")) <= before


def test_402_fork_beside_a_call():
    """What a thread of the parent was asking, a child may change and close."""
    bitmap, other = Bitmap(GIB, 4 * KIB), Bitmap(GIB, 4 * KIB)
    begun, may_end = threading.Event(), threading.Event()

    def progress(*_):
        begun.set()
        may_end.wait(60)

    thread = threading.Thread(target=bitmap.update, args=(other,), kwargs={"progress": progress})
    thread.start()
    begun.wait(60)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            bitmap.set(0, MIB)
            other.set(0, MIB)
            if bitmap.count() == other.count() == 256:
                bitmap.close()
                other.close()
                status = 0
        finally:
            os._exit(status)
    may_end.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_402_fork(image_copy, fails):
    bitmap = Bitmap(GIB, 4 * KIB)
    bitmap.set(0, MIB)
    image = Image(image_copy("chain.qcow2"), writable=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            bitmap.set(2 * MIB, MIB)
            with pytest.raises(RuntimeError):
                image.checkpoints()
            image.close()
            status = 0 if bitmap.count() == 512 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bitmap.count() == 256 and len(image.checkpoints()) == 3
    with fails(InUseError, errno.EBUSY):
        Image("chain.qcow2")
    image.close()


def test_403_quiet(here):
    code = (
        "import checkmap\n"
        "for use in (lambda: checkmap.Image('nowhere'), lambda: checkmap.Bitmap(1, 3)):\n"
        "    try: use()\n"
        "    except checkmap.CheckmapError: pass\n"
        "    else: raise SystemExit(1)\n"
    )
    ran = subprocess.run([sys.executable, "-X", "dev", "-c", code], check=True, capture_output=True)
    assert ran.stdout == ran.stderr == b""


def test_404_dlopen(here):
    # The interpreter never unloads the library: what counts is that a process ends well in the middle of its use.
    code = (
        "import checkmap, threading\n"
        "bitmap = checkmap.Bitmap(1 << 40, 512)\n"
        "def work():\n"
        "    while True: bitmap.copy()\n"
        "for _ in range(2): threading.Thread(target=work, daemon=True).start()\n"
        "for _ in range(50): bitmap.serialize()\n"
    )
    for _ in range(4):
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_long_calls_release_the_interpreter():
    bitmaps = [Bitmap(1 << 40, 4 * KIB) for _ in range(4)]
    for at, bitmap in enumerate(bitmaps):
        for _ in range(8):
            bitmap.from_bits(os.urandom(1 << 20), (at * 8 + _) * (1 << 35) % (1 << 40))
    ticks = []
    done = threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    ticker = threading.Thread(target=tick)
    ticker.start()
    time.sleep(0.01)
    begin = time.perf_counter()
    rounds = 0
    inside = 0
    while inside < 3 and rounds < 1000:
        first = time.perf_counter()
        Bitmap.union(bitmaps).serialize()
        last = time.perf_counter()
        inside = max(inside, sum(first < at < last for at in ticks))
        rounds += 1
    done.set()
    ticker.join()
    assert inside >= 3, (inside, rounds, time.perf_counter() - begin)


def test_nothing_leaks(image_copy):
    def memory():
        gc.collect()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    image_copy("chain.qcow2")

    def work():
        bitmap = Bitmap(GIB, 4 * KIB)
        bitmap.from_bits(b"\x5a" * 32768)
        bitmap.extents()
        (bitmap | bitmap.copy()).serialize()
        with Image("chain.qcow2") as image:
            image.check()
            image.diff("a", progress=lambda *_: None)
        try:
            Image("nowhere")
        except checkmap.CheckmapError:
            pass

    for _ in range(20):
        work()
    before, files = memory(), len(os.listdir("/proc/self/fd"))
    for _ in range(60):
        work()
    assert memory() - before < 4 * MIB
    assert len(os.listdir("/proc/self/fd")) == files
