"""Fleets of small images for the tests, and what was written to each, by which their answers are checked."""

import json
import random
import shutil
import subprocess
from contextlib import contextmanager

from checkmap import Image

from .conftest import KIB, MIB

GRANULARITY = 64 * KIB
NAMES = ("mon", "tue", "wed")


class Fleet:
    """Images with the checkpoints of NAMES, in a folder; `written` has the granules of each interval of each disk."""

    def __init__(self, folder):
        self.folder, self.entries, self.written, self.sizes = folder, [], {}, {}

    def copy_to(self, folder):
        """A copy in a new folder, that a test may change."""
        shutil.copytree(self.folder, folder)
        copy = Fleet(folder)
        copy.entries, copy.written, copy.sizes = [dict(entry) for entry in self.entries], dict(self.written), dict(self.sizes)
        return copy

    def add(self, disk, host=None, size=64 * MIB, intervals=None, **more):
        """intervals: the granules that are written after each checkpoint; the last one is until now."""
        path = self.folder / f"{disk}.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], check=True)
        if intervals is None:
            chance = random.Random(disk)
            granules = range(-(-size // GRANULARITY))
            intervals = [chance.sample(granules, chance.randrange(1, 40)) for _ in NAMES]
        for name, granules in zip(NAMES, intervals):
            with Image(path) as image:
                image.create(name)
            if granules:
                writes = []
                for granule in granules:
                    writes += ["-c", f"write {granule * GRANULARITY} 512"]
                subprocess.run(["qemu-io", "-f", "qcow2", *writes, path], check=True, stdout=subprocess.DEVNULL)
        entry = {"disk": disk, "image": path.name, **({"host": host} if host else {}), **more}
        self.entries.append(entry)
        self.written[disk], self.sizes[disk] = [set(each) for each in intervals], size
        return path

    def manifest(self, name="fleet.json"):
        path = self.folder / name
        path.write_text(json.dumps({"disks": self.entries}))
        return path

    def due(self, disk, first=0):
        """The extents of all that was written since a checkpoint, by a count of granules that knows no bitmap."""
        return extents_of(set().union(*self.written[disk][first:]), self.sizes[disk])


def extents_of(granules, size):
    extents = []
    for granule in sorted(granules):
        start, stop = granule * GRANULARITY, min((granule + 1) * GRANULARITY, size)
        if extents and sum(extents[-1]) == start:
            extents[-1] = extents[-1][0], stop - extents[-1][0]
        else:
            extents.append((start, stop - start))
    return extents


def rows(table, disk):
    """The extents of a disk in a table."""
    columns = (table[name].to_pylist() for name in ("disk", "start", "length"))
    return [(start, length) for name, start, length in zip(*columns) if name == disk]


@contextmanager
def in_use(path):
    """A writer of QEMU's holds the locks of an image."""
    holder = subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        # The first prompt comes when the image is open.
        assert holder.stdout.read(8) == b"qemu-io>"
        yield
    finally:
        holder.stdin.close()
        holder.wait(60)
        holder.stdout.close()


def two_hosts(folder):
    """Eight disks on the hosts a and b: an empty interval, a short last granule, neighbours, and a volume of both hosts."""
    fleet = Fleet(folder)
    fleet.add("web-1", "a")
    fleet.add("web-2", "b")
    fleet.add("idle", "a", intervals=[[], [], []])
    fleet.add("odd", "b", size=3 * MIB + 512, intervals=[[0, 1, 2], [2, 48], [47, 48]])
    fleet.add("clone-1", "a", intervals=[[5], [7, 8, 9], [100]])
    fleet.add("clone-2", "b", intervals=[[5], [7, 8, 9], [100]])
    fleet.add("moved-a", "a", volume="moved", intervals=[[1, 2], [3], [4, 900]])
    fleet.add("moved-b", "b", volume="moved", intervals=[[4], [], [5, 901]])
    return fleet
