"""Directories of backups. The numbers are those of tests/c."""

import errno
import filecmp
import os
import shutil
import signal
import subprocess
from datetime import timedelta

import pytest

import checkmap
from checkmap import BackupDirectory

from .conftest import KIB, MIB


def write(what):
    command = ["qemu-io", "-f", "qcow2", "-c", f"write {what}", "plain.qcow2"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def take(checkpoint, data_bytes):
    disks = [("plain.qcow2", "disk")]
    (preview,) = checkmap.preview_backup("backups", disks, checkpoint)
    assert not preview.complete and preview.moment.data_bytes >= data_bytes
    with BackupDirectory("backups", create=True) as backups:
        (taken,) = backups.take(disks, checkpoint, keep_checkpoints=2, threads=2)
    assert taken.complete and taken.error is None and taken.through_qemu is None
    assert taken.disk == "disk" and taken.files == ["plain.qcow2"]
    assert (taken.moment.checkpoint, taken.moment.data_bytes) == (checkpoint, data_bytes)
    subprocess.run(["qemu-img", "convert", "-O", "raw", "plain.qcow2", f"{checkpoint}.raw"], check=True)
    return taken


def test_328_backups(image_copy, fails):
    image_copy("plain.qcow2")
    write("-P 1 1M 128k")
    assert take("monday", 128 * KIB).moment.full
    write("-P 2 2M 64k")
    assert not take("tuesday", 64 * KIB).moment.full
    write("-P 3 1M 64k")
    assert take("wednesday", 64 * KIB).dropped == ["monday"]

    with BackupDirectory("backups") as backups:
        assert repr(backups) == "<checkmap.BackupDirectory 'backups'>"
        moments = backups.moments()
        assert [moment.checkpoint for moment in moments] == ["monday", "tuesday", "wednesday"]
        assert all(moment.disk_size == 64 * MIB and moment.image.startswith("/") for moment in moments)
        for day in ("monday", "tuesday"):
            backups.restore("disk", "restored.raw", day, raw=True, replace=day != "monday")
            assert filecmp.cmp("restored.raw", f"{day}.raw", shallow=False)
        backups.restore("disk", "restored.qcow2")
        subprocess.run(["qemu-img", "compare", "-q", "plain.qcow2", "restored.qcow2"], check=True)
        with fails(checkmap.ExistsError, errno.EEXIST):
            backups.restore("disk", "restored.qcow2")
        with fails(checkmap.NotFoundError, errno.ENOENT):
            backups.restore("disk", "new", "never")
        with fails(checkmap.InUseError, errno.EBUSY):
            BackupDirectory("backups", writable=True)
        with fails(checkmap.ReadOnlyError, errno.EROFS):
            backups.take(["plain.qcow2"])
        assert backups.verify() == checkmap.Verified(3, [])
        with fails(checkmap.CancelledError, errno.ECANCELED):
            backups.verify(progress=lambda *_: True)
    with pytest.raises(ValueError, match="closed"):
        backups.moments()
    with fails(checkmap.NotFoundError, errno.ENOENT):
        BackupDirectory(".")
    with fails(checkmap.FileMissingError, errno.ENOENT):
        BackupDirectory("nowhere")

    with checkmap.Image("plain.qcow2", writable=False) as image:
        plan = checkmap.plan_backup(image, "wednesday")
        assert (plan.tier, plan.reason, plan.changed_bytes, plan.disk_size) == ("changed", None, 0, 64 * MIB)
        plan = checkmap.plan_backup(image, "never")
        assert plan.tier == "allocated" and "never" in plan.reason and plan.changed_bytes is None

    with BackupDirectory("backups", writable=True) as backups:
        with fails(checkmap.InvalidArgumentError, errno.EINVAL):
            backups.prune()
        for wrong in (lambda: backups.prune(within=7), lambda: backups.take("plain.qcow2")):
            with pytest.raises(TypeError):
                wrong()
        with fails(checkmap.InvalidArgumentError, errno.EINVAL):
            backups.take([])
        with pytest.raises(ZeroDivisionError):
            backups.verify(progress=lambda *_: 1 // 0)
        assert backups.prune(last=1, within=timedelta(days=7)) == [checkmap.Pruned("disk", [], None)]
        for dry_run in (True, False):
            assert backups.prune(last=2, dry_run=dry_run) == [checkmap.Pruned("disk", ["monday"], None)]
        backups.restore("disk", "again.raw", "tuesday", raw=True)
        assert filecmp.cmp("again.raw", "tuesday.raw", shallow=False)
        os.unlink("backups/disk/wednesday.qcow2")
        found = backups.verify()
        (damage,) = found.damages
        assert (damage.disk, damage.checkpoint, damage.lost) == ("disk", "wednesday", ["wednesday"])
        assert isinstance(damage.error, checkmap.CheckmapError) and "wednesday.qcow2" in str(damage.error)


def test_329_backups_running(image_copy, fails):
    if shutil.which("qemu-system-x86_64") is None:
        assert "CI" not in os.environ, "qemu-system-x86_64 is missing: install qemu-system-x86"
        pytest.skip("qemu-system-x86_64 is missing: install qemu-system-x86")
    here = os.getcwd()
    command = f"qemu-system-x86_64 -machine q35 -accel tcg -S -display none -nodefaults -m 32 -daemonize -pidfile {here}/pid"
    command += f" -chardev socket,id=m,path={here}/qmp,server=on,wait=off -mon chardev=m,mode=control"
    for node, image in (("d0", "plain.qcow2"), ("d1", "chain.qcow2")):
        image_copy(image)
        command += f" -blockdev file,filename={here}/{image},node-name={node}-file"
        command += f" -blockdev qcow2,file={node}-file,node-name={node} -device virtio-blk-pci,drive={node},id=v{node}"
    subprocess.run(["qemu-img", "convert", "-O", "raw", "chain.qcow2", "before.raw"], check=True)
    subprocess.run(command.split(), check=True)
    try:
        with checkmap.Machine("qmp") as machine, BackupDirectory("backups", create=True) as backups:
            plan = checkmap.plan_backup_running(machine, "d1", "a")
            assert (plan.tier, plan.changed_bytes) == ("changed", 256 * KIB)
            assert checkmap.plan_backup_running(machine, "d0", "a").tier == "allocated"
            disks = ["d0", ("d1", "data")]
            said, steps = [], []
            with fails(checkmap.NotFoundError, errno.ENOENT):
                backups.take_running(machine, ["d2"], "d", scratch=here)
            taken = backups.take_running(
                machine, disks, "d", scratch=here, say=said.append, progress=lambda *step: steps.append(step)
            )
            assert [each.disk for each in taken] == ["plain.qcow2", "data"]
            assert all(each.complete and each.moment.checkpoint == "d" for each in taken)
            assert said and steps
            backups.restore("data", "after.raw", raw=True)
            assert filecmp.cmp("before.raw", "after.raw", shallow=False)
            with fails(checkmap.ExistsError, errno.EEXIST):
                backups.take_running(machine, disks, "d", scratch=here)
    finally:
        with open("pid") as file:
            os.kill(int(file.read()), signal.SIGKILL)
