"""libvirt's notes and the doctor."""

import errno
import os
import subprocess

import pytest

import checkmap
from checkmap import BrokenChainError, CancelledError, DamagedError, Image, NotFoundError, Notes

DOCUMENT = (
    "<domaincheckpoint><name>{0}</name>{1}<creationTime>{2}</creationTime><disks>"
    "<disk name='{3}' checkpoint='bitmap' bitmap='{0}'/></disks></domaincheckpoint>"
)


def note(name, parent=None, time=1, disk="vda"):
    above = f"<parent><name>{parent}</name></parent>" if parent else ""
    with open(f"notes/{name}.xml", "w") as file:
        file.write(DOCUMENT.format(name, above, time, disk))


@pytest.fixture
def noted(image_copy):
    """An image with the checkpoints aged and young of libvirt's, and a helper that was left."""
    path = image_copy("plain.qcow2")
    os.mkdir("notes")
    for name in ("young", "aged", "libvirt-tmp-activewrite"):
        subprocess.run(["qemu-img", "bitmap", "--add", path, name], check=True)
    note("young", "aged", 1700000100)
    note("aged", None, 1700000000)
    return path


def test_331_notes(noted, fails):
    with Notes("notes") as notes, Image(noted) as image:
        aged, young = notes.checkpoints()
        assert (aged.name, aged.parent, aged.time, aged.disk_count) == ("aged", None, 1700000000, 1)
        assert (young.name, young.parent) == ("young", "aged")
        assert all(point.unordered for point in image.checkpoints())
        notes.order(image)
        assert [(point.name, point.parent, point.unordered) for point in image.checkpoints()] == [
            ("aged", None, False),
            ("young", "aged", False),
        ]
        with pytest.raises(TypeError):
            notes.order("image")
        with pytest.raises(TypeError):
            Notes.of_machine(image)
    with pytest.raises(checkmap.CheckmapError), Notes("nowhere"):
        pass
    with open("notes/hostile.xml", "w") as file:
        file.write("<!DOCTYPE a [<!ENTITY b 'c'>]><domaincheckpoint><name>&b;</name></domaincheckpoint>")
    with fails(DamagedError, errno.EBADMSG):
        Notes("notes")
    os.remove("notes/hostile.xml")
    note("circle", "circle")
    with fails(BrokenChainError, errno.EPROTO):
        Notes("notes")


def test_331_doctor(noted, fails):
    note("lost", "young", 1700000200)
    with Image(noted) as image:
        with fails(CancelledError, errno.ECANCELED):
            checkmap.doctor(image, "notes", repair=True, progress=lambda *_: True)
        with pytest.raises(ValueError):
            checkmap.doctor(image, "notes", repair=True, to_interval=True)
        with pytest.raises(TypeError):
            checkmap.doctor("image")
        with pytest.raises(TypeError):
            checkmap.doctor_running(image)
        looked, dry, done = (
            checkmap.doctor(image, "notes", **more) for more in ({}, {"repair": True, "dry_run": True}, {"repair": True})
        )
        assert looked.findings == dry.findings == done.findings and not done.left
        assert [found.kind for found in done.findings] == ["metadata-without-bitmap", "leftover"]
        lost = done.findings[0]
        assert (lost.disk, lost.name) == ("vda", "lost") and lost.message and lost.cost and lost.mend
        assert dry.steps == done.steps == [
            "vda: remove 'libvirt-tmp-activewrite'",
            "let libvirt forget the checkpoint 'lost'",
        ]
        assert not os.path.exists("notes/lost.xml")
        assert checkmap.doctor(image, "notes").findings == []
        assert checkmap.doctor(image).findings == []
        note("both", disk="vdb")
        with fails(NotFoundError, errno.ENOENT):
            checkmap.doctor(image, "notes")
        os.remove("notes/both.xml")
        turned = checkmap.doctor(image, "notes", "vda", to_interval=True)
        assert turned.steps[0] == "vda: stop recording in 'aged'" and len(turned.remarks) == 1
        assert [point.parent for point in image.checkpoints()] == [None, "aged"]
        assert os.listdir("notes") == []


def test_331_what_is_left(noted):
    subprocess.run(["qemu-img", "bitmap", "--add", "--disable", noted, "whose"], check=True)
    with Image(noted) as image:
        told = checkmap.doctor(image, "notes", repair=True)
        assert [found.kind for found in told.left] == ["stranger"] and told.left[0].mend is None
