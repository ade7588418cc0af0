#!/usr/bin/env python3
"""Keeps a raw backup of a qcow2 image: all of it the first time, then what changed since the last time.

    incremental_backup.py vm.qcow2 backup.raw tuesday

The virtual machine is off. qemu-img and qemu-nbd read the disk; the image stays locked against a start of the machine,
and the checkpoint is made last of all: a backup that fails is simply done again.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time

import checkmap

CHUNK = 8 << 20


def main(path, backup, name):
    with checkmap.Image(path, writable=True) as image:
        points = image.checkpoints()
        if points and os.path.exists(backup):
            changed = image.diff(points[-1].name)
            with open(backup, "r+b") as out, tempfile.TemporaryDirectory() as folder:
                out.truncate(changed.size)
                copy(path, os.path.join(folder, "nbd"), changed, out)
                os.fsync(out.fileno())
            print(f"{changed.dirty_bytes()} bytes in {changed.count_extents()} extents since {points[-1].name}")
        else:
            convert = ["qemu-img", "convert", "-U", "-t", "writeback", "-f", "qcow2", "-O", "raw"]
            subprocess.run([*convert, path, backup + ".new"], check=True)
            os.replace(backup + ".new", backup)
            print(f"all {image.info().disk_size} bytes")
        image.create(name)


def copy(path, address, changed, out):
    node = {"driver": "qcow2", "force-share": True, "file": {"driver": "file", "filename": os.path.abspath(path)}}
    server = subprocess.Popen(["qemu-nbd", "-r", "-t", "-k", address, "json:" + json.dumps(node)])
    while not os.path.exists(address) and server.poll() is None:
        time.sleep(0.01)
    try:
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rwb") as nbd:
            connection.connect(address)
            nbd.read(18)  # Both magics and the flags; then ours, and the option to begin with the nameless export.
            nbd.write(struct.pack(">I8sII", 3, b"IHAVEOPT", 1, 0))
            nbd.flush()
            nbd.read(10)
            for offset, length in changed.iter_extents():
                for at in range(offset, offset + length, CHUNK):
                    size = min(CHUNK, offset + length - at)
                    nbd.write(struct.pack(">IHHQQI", 0x25609513, 0, 0, 0, at, size))
                    nbd.flush()
                    magic, error, _ = struct.unpack(">IIQ", nbd.read(16))
                    if magic != 0x67446698 or error:
                        raise OSError(error, f"qemu-nbd cannot read {size} bytes at {at}")
                    out.seek(at)
                    out.write(nbd.read(size))
            out.flush()
    finally:
        server.kill()  # It only reads; and one that a client just left may overlook SIGTERM.
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: incremental_backup.py IMAGE BACKUP CHECKPOINT")
    try:
        main(*sys.argv[1:])
    except (OSError, subprocess.CalledProcessError, struct.error) as error:
        sys.exit(f"incremental_backup.py: {error}")
