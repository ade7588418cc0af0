#!/usr/bin/env python3
"""Surveys of real images in a loop, in processes, and on a Ray cluster of two hosts on this machine, by the disks in a batch.

`make bench-fleet-runners` in the project's root runs it. The images are copies of one of 64 MiB with a checkpoint and 20 dirty
extents, of which each survey reads all; every answer is compared with that of the loop. Needs QEMU's tools.
"""

import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checkmap import Image, fleet

ROUNDS = 3
EXAMPLE = Path(__file__).resolve().parents[3] / "examples/fleet_ray.py"


def make_fleet(folder, disks):
    first = folder / "0.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", first, "64M"], check=True)
    with Image(first) as image:
        image.create("monday")
    writes = [word for at in range(20) for word in ("-c", f"write {3 * at}M 64k")]
    subprocess.run(["qemu-io", "-f", "qcow2", *writes, first], check=True, stdout=subprocess.DEVNULL)
    for number in range(1, disks):
        shutil.copy(first, folder / f"{number}.qcow2")
    entries = [{"disk": f"{n:05}", "image": f"{n}.qcow2", "host": "ab"[n % 2]} for n in range(disks)]
    (folder / "fleet.json").write_text(json.dumps({"disks": entries}))
    return fleet.Manifest.read(folder / "fleet.json")


def measure(name, manifest, runner, batch, expected):
    times = []
    for _ in range(ROUNDS):
        begun = time.monotonic()
        found = fleet.survey(manifest, runner, since="monday", batch=batch)
        times.append(time.monotonic() - begun)
        assert not found.not_done and found.extents.equals(expected.extents) and found.intervals.equals(expected.intervals)
    seconds = statistics.median(times)
    print(f"{name},{batch},{seconds:.2f},{seconds / len(manifest) * 1000:.2f}", flush=True)


def main():
    disks = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    spec = importlib.util.spec_from_file_location("fleet_ray", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_fleet(Path(folder), disks)
        loop = fleet.Loop(all_hosts=True)
        expected = fleet.survey(manifest, loop, since="monday")
        print("runner,disks a batch,seconds,ms a disk")
        measure("loop", manifest, loop, 64, expected)
        for batch in (1, 8, 64, 256):
            measure("pool of 2", manifest, fleet.Pool(2, all_hosts=True), batch, expected)
        with example.local_cluster(["a", "b"]):
            import ray

            empty = ray.remote(lambda: None)
            ray.get([empty.remote() for _ in range(100)])
            begun = time.monotonic()
            ray.get([empty.remote() for _ in range(2000)])
            print(f"ray: empty tasks,,{time.monotonic() - begun:.2f},{(time.monotonic() - begun) / 2:.2f}", flush=True)
            for batch in (1, 8, 64, 256):
                measure("ray of 2 hosts", manifest, fleet.Ray(), batch, expected)


if __name__ == "__main__":
    main()
