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

    def change(n):
        for at in range(n * 4 * KIB, GIB // 16, 16 * KIB):
            bitmap.set(at, 4 * KIB)

    in_threads(change, range(4))
    bitmap.validate()
    assert bitmap.extents() == [(0, GIB // 16)]


def test_400_a_change_waits_for_its_turn():
    """Beside a call that takes its time, another thread's change and close wait, and happen."""
    bitmap, other = Bitmap(GIB, 4 * KIB), Bitmap(GIB, 4 * KIB)
    other.set(0, MIB)
    begun, may_end, order = threading.Event(), threading.Event(), []

    def progress(*_):
        begun.set()
        may_end.wait(60)
        order.append("union")

    def mark():
        bitmap.set(4 * MIB, MIB)
        order.append("mark")

    def ask():
        order.append(("count", bitmap.count()))

    union = threading.Thread(target=bitmap.update, args=(other,), kwargs={"progress": progress})
    union.start()
    assert begun.wait(60)
    waiting = [threading.Thread(target=use) for use in (mark, ask)]
    for thread in waiting:
        thread.start()
    time.sleep(0.2)
    assert order == []
    may_end.set()
    for thread in (union, *waiting):
        thread.join(60)
        assert not thread.is_alive()
    assert order[0] == "union" and "mark" in order[1:]
    assert bitmap.count() == 512
    bitmap.close()


def test_400_two_bitmaps_that_take_in_each_other():
    """Each call takes both at once: no thread waits for another one that waits."""
    one, two, three = (Bitmap(GIB, 4 * KIB) for _ in range(3))
    one.set(0, MIB)
    two.set(2 * MIB, MIB)
    three.set(4 * MIB, MIB)

    def work(n):
        mine = (one, two, three)[n % 3]
        others = [each for each in (one, two, three) if each is not mine]
        for _ in range(200):
            mine.update(*others)
            mine |= others[0]
            mine &= mine
            assert (mine == others[1]) in (True, False) and (mine <= others[0]) in (True, False)

    in_threads(work, range(6))
    for each in (one, two, three):
        each.validate()
        assert each.extents() == [(0, MIB), (2 * MIB, MIB), (4 * MIB, MIB)]


def test_400_who_waits_for_what_is_closed_says_so():
    bitmap, other = Bitmap(GIB, 4 * KIB), Bitmap(GIB, 4 * KIB)
    begun, may_end, said = threading.Event(), threading.Event(), []

    def progress(*_):
        begun.set()
        may_end.wait(60)

    def use(call):
        try:
            call()
            said.append("fine")
        except ValueError as error:
            said.append(str(error))

    union = threading.Thread(target=bitmap.update, args=(other,), kwargs={"progress": progress})
    union.start()
    assert begun.wait(60)
    closing = threading.Thread(target=use, args=(bitmap.close,))
    closing.start()
    time.sleep(0.2)
    marks = [threading.Thread(target=use, args=(lambda: bitmap.set(0, 1),)) for _ in range(3)]
    for thread in marks:
        thread.start()
    may_end.set()
    for thread in (union, closing, *marks):
        thread.join(60)
        assert not thread.is_alive()
    # Marks come before the end, or find that it came.
    assert bitmap.closed and set(said) <= {"fine", "this Bitmap is closed"} and "fine" in said


def test_400_a_signal_while_a_thread_waits(here):
    """A handler that uses what its own thread uses is refused; a thread that waits can be interrupted."""
    code = (
        "import checkmap, os, signal, threading\n"
        # A caller that runs in the background of a script ignores it, and Python leaves that as it is.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "bitmap, other = checkmap.Bitmap(1 << 30, 4096), checkmap.Bitmap(1 << 30, 4096)\n"
        "begun, may_end, seen = threading.Event(), threading.Event(), []\n"
        "def progress(*_):\n"
        "    begun.set()\n"
        "    may_end.wait(60)\n"
        "thread = threading.Thread(target=bitmap.update, args=(other,), kwargs={'progress': progress})\n"
        "thread.start()\n"
        "begun.wait(60)\n"
        "threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "try: bitmap.set(0, 1)\n"
        "except KeyboardInterrupt: seen.append('interrupted')\n"
        "may_end.set()\n"
        "thread.join()\n"
        "bitmap.set(4096, 1)\n"
        "def inside(*_):\n"
        "    try: bitmap.set(0, 1)\n"
        "    except RuntimeError: seen.append('refused')\n"
        "signal.signal(signal.SIGUSR1, inside)\n"
        "bitmap.update(other, progress=lambda *_: os.kill(os.getpid(), signal.SIGUSR1))\n"
        "print(seen[0], seen[1], bitmap.count())\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.stdout == "interrupted refused 1\n", ran.stderr


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
