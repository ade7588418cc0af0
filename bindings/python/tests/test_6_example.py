"""The example is a tool: its backups are compared with what QEMU reads, day after day."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checkmap import Image

from .conftest import MIB

try:
    import nbd  # noqa: F401
except ImportError as error:
    if "CI" in os.environ:
        raise
    pytest.skip(f"SKIPPED, NOT PASSED: python3-libnbd for this Python is missing: {error}", allow_module_level=True)

TOOL = Path(__file__).resolve().parents[3] / "examples/incremental_backup.py"


def backup(*arguments):
    return subprocess.run([sys.executable, TOOL, *arguments], capture_output=True, text=True, timeout=60)


def write(image, rng, count, size):
    commands = []
    for _ in range(count):
        length = rng.randrange(1, 400) * 512
        at = rng.randrange(0, size - length) // 512 * 512
        commands += ["-c", f"write -P {rng.randrange(256)} {at} {length}"]
    commands += ["-c", f"discard {rng.randrange(size // MIB - 2)}M 1M", "-c", f"write -z {size - 512} 512"]
    subprocess.run(["qemu-io", "-f", "qcow2", *commands, image], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("size", [64 * MIB, 40 * MIB + 512])
def test_a_week_of_backups(here, size):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "vm.qcow2", str(size)], check=True)
    rng = random.Random(size)
    for day, name in enumerate(["mon", "tue", "wed", "thu"]):
        write("vm.qcow2", rng, 12, size)
        ran = backup("vm.qcow2", "backup.raw", name)
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith("all " if day == 0 else "") and (day == 0 or "extents since" in ran.stdout)
        if day:
            assert int(ran.stdout.split()[0]) < size // 2
        same = subprocess.run(
            ["qemu-img", "compare", "-f", "qcow2", "-F", "raw", "vm.qcow2", "backup.raw"], capture_output=True
        )
        assert same.returncode == 0, (name, same.stdout)
        subprocess.run(["qemu-img", "convert", "-O", "raw", "vm.qcow2", "whole.raw"], check=True)
        assert (here / "whole.raw").read_bytes() == (here / "backup.raw").read_bytes()
    # Nothing changed: nothing is copied.
    assert backup("vm.qcow2", "backup.raw", "fri").stdout.startswith("0 bytes in 0 extents since thu")
    with Image("vm.qcow2") as image:
        assert [point.name for point in image.checkpoints()] == ["mon", "tue", "wed", "thu", "fri"]
        assert image.check().errors == 0
    subprocess.run(["qemu-img", "check", "-q", "vm.qcow2"], check=True)


def test_a_backup_that_fails_makes_no_checkpoint(image_copy, here):
    image_copy("chain.qcow2")
    assert backup("chain.qcow2").returncode != 0
    ran = backup("nowhere.qcow2", "backup.raw", "d")
    assert ran.returncode == 1 and "nowhere.qcow2" in ran.stderr and "Traceback" not in ran.stderr
    (here / "backup.raw").mkdir()
    ran = backup("chain.qcow2", "backup.raw", "d")
    assert ran.returncode == 1 and "Traceback" not in ran.stderr
    with Image("chain.qcow2") as image:
        assert len(image.checkpoints()) == 3
        # The image is locked from here on.
        image.create("e")
        assert "another process" in backup("chain.qcow2", "other.raw", "d").stderr


def test_the_readme(here, capsys):
    root = TOOL.parents[1]
    code = (root / "bindings/python/README.md").read_text().split("```python\n")[1].split("```")[0]
    shutil.copy(root / "examples/vm-disk.qcow2", here / "vm.qcow2")
    exec(compile(code, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert said.startswith("monday ") and "thursday " in said
    assert said.endswith("True\n")
