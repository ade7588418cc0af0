"""Images made by QEMU's tools, once; each test works on copies, in a folder of its own."""

import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """plain, one with the checkpoints a, b and c, one whose last bitmap was not stored, and one above the second."""
    here = tmp_path_factory.mktemp("images")

    def run(*command):
        subprocess.run(command, cwd=here, check=True, stdout=subprocess.DEVNULL)

    def bitmap(*arguments):
        run("qemu-img", "bitmap", *arguments)

    def write(what):
        run("qemu-io", "-f", "qcow2", "-c", what, "chain.qcow2")

    run("qemu-img", "create", "-q", "-f", "qcow2", "plain.qcow2", "64M")
    run("qemu-img", "create", "-q", "-f", "qcow2", "chain.qcow2", "64M")
    bitmap("--add", "chain.qcow2", "a")
    write("write 1M 64k")
    bitmap("--disable", "chain.qcow2", "a")
    bitmap("--add", "chain.qcow2", "a->b")
    write("write 2M 128k")
    bitmap("--disable", "chain.qcow2", "a->b")
    bitmap("--add", "chain.qcow2", "b->c")
    write("write 4M 64k")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "chain.qcow2", "-F", "qcow2", "overlay.qcow2")
    bitmap("--add", "overlay.qcow2", "a")
    crash(here)
    return here


def crash(here):
    """Kills a writer while it has the bitmaps of a copy in use."""
    image = here / "inconsistent.qcow2"
    shutil.copy(here / "chain.qcow2", image)
    before = image.read_bytes()
    qemu = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", image], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0
    )
    qemu.stdin.write(b"write 5M 64k\nflush\n")
    for _ in range(200):
        time.sleep(0.05)
        if image.read_bytes() != before:
            break
    time.sleep(0.2)
    qemu.kill()
    qemu.wait()
    qemu.stdin.close()


@pytest.fixture
def image_copy(images, tmp_path, monkeypatch):
    """Copies an image into the folder of the test, which is the working directory."""
    monkeypatch.chdir(tmp_path)

    def copy(name):
        shutil.copy(images / name, tmp_path / name)
        return name

    return copy


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fails():
    """The call fails with an exception of this class and errno."""

    @contextmanager
    def fails(kind, number):
        with pytest.raises(kind) as caught:
            yield caught
        assert type(caught.value) is kind and caught.value.errno == number
        assert caught.value.strerror and caught.value.kind

    return fails
