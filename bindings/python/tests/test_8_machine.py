"""Running hypervisors: disks of a real qemu-storage-daemon as images. The numbers are those of tests/c."""

import json
import os
import signal
import socket
import subprocess
import time
from functools import partial

import pytest

import checkmap
from checkmap import fleet

from .conftest import KIB, MIB

NBD = "writer"


class Daemon:
    """A qemu-storage-daemon with the disks d0, an empty image, and d1, one with the checkpoints a, b and c."""

    def __init__(self):
        command = ["qemu-storage-daemon", "--daemonize", "--pidfile", "pid"]
        command += ["--chardev", "socket,id=m,path=qmp,server=on,wait=off", "--monitor", "m"]
        command += ["--nbd-server", f"addr.type=unix,addr.path={NBD}"]
        for node, image in (("d0", "plain.qcow2"), ("d1", "chain.qcow2")):
            command += ["--blockdev", f"file,filename={image},node-name={node}-file"]
            command += ["--blockdev", f"qcow2,file={node}-file,node-name={node}"]
            command += ["--export", f"nbd,id=w-{node},node-name={node},name={node},writable=on"]
        subprocess.run(command, check=True)
        with open("pid") as file:
            self.pid = int(file.read())

    def write(self, disk, what):
        url = f"nbd+unix:///{disk}?socket={NBD}"
        subprocess.run(["qemu-io", "-f", "raw", "-c", f"write {what}", url], check=True, stdout=subprocess.DEVNULL)

    def quit(self):
        """Ends it as an operator does; its images can be opened afterwards."""
        os.kill(self.pid, signal.SIGTERM)
        for _ in range(6000):
            try:
                for image in ("plain.qcow2", "chain.qcow2"):
                    checkmap.Image(image, writable=True).close()
                return
            except checkmap.InUseError:
                time.sleep(0.01)
        raise AssertionError("it does not end")


@pytest.fixture
def daemon(image_copy):
    image_copy("plain.qcow2")
    image_copy("chain.qcow2")
    daemon = Daemon()
    yield daemon
    try:
        os.kill(daemon.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def extents(image, *span):
    with image.diff(*span) as diff:
        return diff.extents()


def test_321_machine(daemon, fails):
    with checkmap.Machine("qmp", nbd_socket=NBD) as machine:
        assert {disk.node for disk in machine.disks()} == {"d0", "d1"}
        assert all(disk.disk_size == 64 * MIB and not disk.unfit for disk in machine.disks())
        assert repr(machine) == "<checkmap.Machine 'qmp'>"
        first, second = images = [machine.image("d0"), machine.image(b"d1", threads=2)]
    # The connection lives on in the images.
    assert second.info().model == "interval"
    checkmap.create_many(images, "m", dry_run=True)
    with fails(checkmap.CancelledError, 125):
        checkmap.create_many(images, "m", progress=lambda *_: True)
    with pytest.raises(ZeroDivisionError):
        checkmap.create_many(images, "m", progress=lambda *_: 1 // 0)
    with fails(checkmap.ExistsError, 17) as caught:
        checkmap.create_many(images, "a")
    assert "d1" in caught.value.strerror
    assert [len(image.checkpoints()) for image in images] == [0, 3]

    checkmap.create_many(images, "m")
    daemon.write("d0", "3M 64k")
    daemon.write("d1", "8M 128k")
    checkmap.create_many(images, "n")
    daemon.write("d0", "5M 64k")
    checkmap.create_many(tuple(images), b"o")
    assert extents(first, "m", "n") == [(3 * MIB, 64 * KIB)]
    assert extents(first, "n", "o") == [(5 * MIB, 64 * KIB)]
    assert extents(second, "m", "o") == [(8 * MIB, 128 * KIB)]
    told = []
    first.diff("m", "o", progress=lambda *step: told.append(step)).close()
    assert told
    with fails(checkmap.CancelledError, 125):
        first.diff("m", "o", progress=lambda *_: True)
    checkmap.delete_many(images, ["n"])
    with fails(checkmap.NotFoundError, 2):
        checkmap.delete_many(images, ["n"])
    assert [point.name for point in first.checkpoints()] == ["m", "o"]
    first.close()
    second.close()
    daemon.write("d0", "7M 64k")
    daemon.quit()
    with checkmap.Image("plain.qcow2") as image:
        assert extents(image, "o") == [(7 * MIB, 64 * KIB)]
        assert extents(image, "m", "o") == [(3 * MIB, 64 * KIB), (5 * MIB, 64 * KIB)]
    with checkmap.Image("chain.qcow2") as image:
        assert extents(image, "m") == [(8 * MIB, 128 * KIB)]


PASSES = """#!/usr/bin/python3 -IS
import json, socket, sys
assert sys.argv[1:4] == ["-q", "-c", "qemu:///system"] and sys.argv[5] == "vm", sys.argv
if sys.argv[4] == "domblklist":
    sys.exit()
monitor = socket.socket(socket.AF_UNIX)
monitor.connect("qmp")
lines = monitor.makefile("rw")
lines.readline()
for command in ['{"execute": "qmp_capabilities"}', sys.argv[6]]:
    lines.write(command + "\\n")
    lines.flush()
    answer = json.loads(lines.readline())
    while "event" in answer:
        answer = json.loads(lines.readline())
print(json.dumps(answer))
"""


def test_327_libvirt(daemon, fails, monkeypatch):
    def virsh(script):
        with open("virsh", "w") as file:
            file.write(script)
        os.chmod("virsh", 0o755)

    path = os.environ["PATH"]
    monkeypatch.setenv("PATH", os.getcwd())
    with fails(checkmap.FileMissingError, 2):
        checkmap.Machine.libvirt("qemu:///system", "vm")
    monkeypatch.setenv("PATH", f"{os.getcwd()}:{path}")
    with fails(checkmap.InvalidArgumentError, 22):
        checkmap.Machine.libvirt("qemu:///system", "")
    virsh("#!/bin/sh\necho \"error: failed to get domain 'vm'\" >&2\nexit 1\n")
    with fails(checkmap.NotFoundError, 2):
        checkmap.Machine.libvirt("qemu:///system", "vm")
    virsh(PASSES)
    with checkmap.Machine.libvirt("qemu:///system", "vm", timeout=30) as machine:
        assert repr(machine) == "<checkmap.Machine 'qemu:///system/vm'>"
        assert len(machine.disks()) == 2
        with machine.image("d1") as image:
            image.create("d")
            assert len(image.checkpoints()) == 4


def test_322_machine_refused(daemon, fails):
    with fails(checkmap.FileMissingError, 2) as caught:
        checkmap.Machine("nowhere")
    assert caught.value.filename == "nowhere"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind("dead")
    with fails(checkmap.SystemCallError, 111):
        checkmap.Machine("dead")
    for wrong in ({"timeout": -1}, {"timeout": 1e9}, {"max_stall": -0.5}):
        with pytest.raises(OverflowError):
            checkmap.Machine("qmp", **wrong)
    with pytest.raises(TypeError):
        checkmap.Machine("qmp", timeout="1")
    with checkmap.Machine("qmp", nbd_socket=NBD, max_stall=1) as machine:
        with fails(checkmap.NotFoundError, 2):
            machine.image("d7")
        with fails(checkmap.InUseError, 16):
            checkmap.Machine("qmp", timeout=0.2)
        with machine.image("d0") as image:
            with fails(checkmap.InvalidArgumentError, 22):
                checkmap.create_many([image, image], "m")
            with fails(checkmap.InvalidArgumentError, 22):
                checkmap.create_many([], "m")
            with fails(checkmap.InvalidArgumentError, 22):
                checkmap.delete_many([image], [])
            with pytest.raises(TypeError):
                checkmap.create_many(image, "m")
            with pytest.raises(TypeError):
                checkmap.create_many(["d0"], "m")
            subprocess.run(["cp", "plain.qcow2", "file.qcow2"], check=True)
            with checkmap.Image("file.qcow2") as other:
                with fails(checkmap.UnsupportedError, 95):
                    checkmap.create_many([image, other], "m")
                checkmap.create_many([other], "m")
                assert len(other.checkpoints()) == 1
            assert image.checkpoints() == []
    with pytest.raises(ValueError):
        machine.image("d0")


def test_322_a_hypervisor_that_dies(daemon):
    with checkmap.Machine("qmp") as machine, machine.image("d0") as image:
        os.kill(daemon.pid, signal.SIGKILL)
        with pytest.raises(checkmap.CheckmapError):
            image.create("m")


def test_322_a_child_must_not_use_it(daemon):
    with checkmap.Machine("qmp") as machine, machine.image("d0") as image:
        child = os.fork()
        if child == 0:
            refused = 0
            for call in (machine.disks, image.checkpoints, lambda: checkmap.create_many([image], "m")):
                try:
                    call()
                except RuntimeError:
                    refused += 1
            machine.close()
            image.close()
            os._exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        assert image.checkpoints() == []


NODES = [
    {
        "node-name": "d0",
        "drv": "qcow2",
        "ro": False,
        "file": "/vm/d0.qcow2",
        "encrypted": False,
        "image": {
            "filename": "/vm/d0.qcow2",
            "format": "qcow2",
            "virtual-size": 1 << 30,
            "cluster-size": 65536,
            "format-specific": {"type": "qcow2", "data": {"compat": "1.1"}},
        },
        "dirty-bitmaps": [
            {
                "name": "a",
                "recording": True,
                "persistent": True,
                "busy": False,
                "granularity": 65536,
                "count": 131072,
            }
        ],
    }
]


def test_323_plan(fails):
    nodes = json.dumps(NODES)
    plan = checkmap.plan_qmp(nodes, ["d0"], "create", "b")
    assert plan["stall_ms"] == 0 and all(isinstance(warning, str) for warning in plan["warnings"])
    (command,) = plan["commands"]
    assert command["execute"] == "transaction"
    kinds = {action["type"]: action["data"] for action in command["arguments"]["actions"]}
    assert kinds["block-dirty-bitmap-add"]["name"] == "a->b" and kinds["block-dirty-bitmap-disable"]["name"] == "a"
    plan = checkmap.plan_qmp(nodes.encode(), ["d0"], "delete", names=["a"])
    assert "block-dirty-bitmap-remove" in json.dumps(plan)
    plan = checkmap.plan_qmp(nodes, ["d0"], "diff", "a", export="backup")
    assert plan["exports"][0]["contexts"] == ["qemu:dirty-bitmap:a"] and plan["granularity"] == 65536
    assert '"z"' in json.dumps(checkmap.plan_qmp(nodes, ["d0"], "rename", "a", "z"))
    with fails(checkmap.ExistsError, 17):
        checkmap.plan_qmp(nodes, ["d0"], "create", "a")
    with fails(checkmap.DamagedError, 74):
        checkmap.plan_qmp("no JSON", ["d0"], "create", "b")
    with fails(checkmap.NotFoundError, 2):
        checkmap.plan_qmp(nodes, ["d1"], "create", "b")
    with fails(checkmap.InvalidArgumentError, 22):
        checkmap.plan_qmp(nodes, [], "create", "b")
    with pytest.raises(ValueError):
        checkmap.plan_qmp(nodes, ["d0"], "paint", "b")
    with pytest.raises(TypeError):
        checkmap.plan_qmp(nodes, "d0", "create", "b")
    with pytest.raises(TypeError):
        checkmap.plan_qmp(7, ["d0"], "create", "b")


class Monitor:
    """A client of QMP: what a hypervisor manager has of its own."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect("qmp")
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.command({"execute": "qmp_capabilities"})

    def command(self, command):
        self.socket.sendall(json.dumps(command).encode() + b"\n")
        while True:
            answer = json.loads(self.lines.readline())
            if "event" not in answer:
                return answer

    def close(self):
        self.lines.close()
        self.socket.close()


def test_323_a_plan_does_what_it_says(daemon):
    monitor = Monitor()

    def carry_out(*verb, **options):
        nodes = json.dumps(monitor.command({"execute": "query-named-block-nodes", "arguments": {"flat": True}}))
        for command in checkmap.plan_qmp(nodes, ["d1"], *verb, **options)["commands"]:
            assert "return" in monitor.command(command), command

    carry_out("create", "d")
    daemon.write("d1", "8M 64k")
    carry_out("create", "e")
    carry_out("rename", "b", "z")
    carry_out("delete", names=["c"])
    monitor.close()
    with checkmap.Machine("qmp", nbd_socket=NBD) as machine, machine.image("d1") as image:
        assert [point.name for point in image.checkpoints()] == ["a", "z", "d", "e"]
        assert extents(image, "d", "e") == [(8 * MIB, 64 * KIB)]


def test_324_list_with(image_copy):
    path = image_copy("chain.qcow2")
    subprocess.run(["qemu-img", "bitmap", "--add", path, "daily"], check=True)
    with checkmap.Image(path) as image:
        assert [point.name for point in image.checkpoints()] == ["a", "b", "c"]
        assert [point.name for point in image.checkpoints(cumulative=True)] == ["daily"]
        assert [point.name for point in image.checkpoints(cumulative=False)] == ["a", "b", "c"]


def test_332_doctor_running(daemon, fails):
    with checkmap.Machine("qmp", nbd_socket=NBD) as machine:
        with fails(checkmap.UnsupportedError, 95):
            checkmap.Notes.of_machine(machine)
        assert checkmap.doctor_running(machine).findings == []
        with fails(checkmap.InvalidArgumentError, 22):
            checkmap.doctor_running(machine, ["d1", "d1"])
        with fails(checkmap.NotFoundError, 2):
            checkmap.doctor_running(machine, ["dx"])
        with machine.image("d1") as image:
            image.drop_stored("a->b")
        dry = checkmap.doctor_running(machine, ["d1"], repair=True, dry_run=True)
        done = checkmap.doctor_running(machine, repair=True)
        assert [found.kind for found in done.findings] == ["gap"] and not done.left
        assert dry.steps == done.steps != []
        with machine.image("d1") as image:
            image.create("d")


def test_327_a_fleet_of_running_disks(daemon, monkeypatch):
    # This daemon has an NBD server already, which can serve no bitmap that records.
    monkeypatch.setattr("checkmap.fleet._work.Machine", partial(checkmap.Machine, nbd_socket=NBD))
    entries = [
        fleet.Entry("whole", qmp="qmp", node="d1", since="a"),
        fleet.Entry("later", qmp="qmp", node="d1", since="b"),
        fleet.Entry("file", image="chain.qcow2", since="a"),
        fleet.Entry("unsaid", qmp="qmp", since="a"),
        fleet.Entry("wrong", qmp="qmp", node="d7", since="a"),
    ]
    found = fleet.survey(fleet.Manifest(entries), until="c", each_interval=True)
    whole, later, file, unsaid, wrong = found.results
    assert (whole.state, whole.dirty_bytes) == ("done", 192 * KIB) and later.dirty_bytes == 128 * KIB
    assert (file.state, file.kind) == ("failed", "IN_USE") and (wrong.state, wrong.kind) == ("failed", "NOT_FOUND")
    assert unsaid.error == 'give the entry a "node": the machine has 2 disks that can have checkpoints, d0, d1'
    rows = [(row["disk"], row["since"], row["until"], row["dirty_bytes"]) for row in found.intervals.to_pylist()]
    assert rows == [
        ("later", "b", "c", 128 * KIB),
        ("whole", "a", "b", 64 * KIB),
        ("whole", "b", "c", 128 * KIB),
    ]
