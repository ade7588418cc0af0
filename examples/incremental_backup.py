#!/usr/bin/env python3
"""Keeps a raw backup of a qcow2 image: all of it the first time, then what changed since the last time.

    incremental_backup.py vm.qcow2 backup.raw tuesday

The virtual machine is off. qemu-img and qemu-nbd read the disk, the latter by libnbd's own module (python3-libnbd); the
image stays locked against a start of the machine, and the checkpoint is made last of all: a backup that fails is simply
done again.
"""

import json
import os
import subprocess
import sys

import nbd

import checkmap

CHUNK = 8 << 20


def main(path, backup, name):
    with checkmap.Image(path, writable=True) as image:
        points = image.checkpoints()
        if points and os.path.exists(backup):
            changed = image.diff(points[-1].name)
            with open(backup, "r+b") as out:
                out.truncate(changed.size)
                copy(path, changed, out)
                os.fsync(out.fileno())
            print(f"{changed.dirty_bytes()} bytes in {changed.count_extents()} extents since {points[-1].name}")
        else:
            convert = ["qemu-img", "convert", "-U", "-t", "writeback", "-f", "qcow2", "-O", "raw"]
            subprocess.run([*convert, path, backup + ".new"], check=True)
            os.replace(backup + ".new", backup)
            print(f"all {image.info().disk_size} bytes")
        image.create(name)


def copy(path, changed, out):
    node = {"driver": "qcow2", "force-share": True, "file": {"driver": "file", "filename": os.path.abspath(path)}}
    disk = nbd.NBD()
    # libnbd starts qemu-nbd with an open socket, and ends it with the connection.
    disk.connect_systemd_socket_activation(["qemu-nbd", "-r", "json:" + json.dumps(node)])
    for offset, length in changed.iter_extents():
        for at in range(offset, offset + length, CHUNK):
            out.seek(at)
            out.write(disk.pread(min(CHUNK, offset + length - at), at))
    out.flush()
    disk.shutdown()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: incremental_backup.py IMAGE BACKUP CHECKPOINT")
    try:
        main(*sys.argv[1:])
    except (OSError, subprocess.CalledProcessError, nbd.Error) as error:
        sys.exit(f"incremental_backup.py: {error}")
