"""libvirt's notes of its checkpoints, and the doctor: where bitmaps, chains and notes disagree, and the mend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterable, List, Optional, Tuple

from ._arguments import (
    Name,
    Options,
    Path,
    Progress,
    flags_of,
    model_of,
    name_bytes,
    name_text,
    naming,
    path_bytes,
)
from ._errors import checked, listed
from ._handle import Handle, _begin_all, _end_all
from ._image import Image
from ._machine import Machine, _names
from ._native import ffi, lib

_MEMBERS = ("kind", "disk", "name", "message", "cost", "mend")


@dataclass(frozen=True)
class NotedCheckpoint:
    """A checkpoint as libvirt notes it.

    name: Its name.
    parent: The checkpoint before it; None where there is none.
    time: When it was made, in seconds since 1970; None where nobody noted it.
    disk_count: On how many disks of the domain it has a bitmap.
    """

    name: str
    parent: Optional[str]
    time: Optional[int]
    disk_count: int


@dataclass(frozen=True)
class Finding:
    """A disagreement.

    kind: Its kind in lower-case words with hyphens, such as "bitmap-without-metadata".
    disk: The disk; None where it is of no single one.
    name: The bitmap or checkpoint; None where it is of no single one.
    message: The fault, in a sentence.
    cost: The price of leaving it so.
    mend: The mend that is among the steps; None where a person has to decide.
    """

    kind: str
    disk: Optional[str]
    name: Optional[str]
    message: str
    cost: str
    mend: Optional[str]


@dataclass(frozen=True)
class Diagnosis:
    """What a doctor found and did.

    findings: Each disagreement, disk by disk.
    left: Those that are left after a repair.
    steps: The steps of the mend in their order, done or not.
    remarks: Sentences for the user beside the findings.
    warnings: The warnings of the change.
    """

    findings: List[Finding]
    left: List[Finding]
    steps: List[str]
    remarks: List[str]
    warnings: List[str]


class Notes(Handle):
    """libvirt's notes of the checkpoints of one domain. Many threads may use them at once."""

    __slots__ = ()

    def __init__(self, folder: Path) -> None:
        """Reads libvirt's documents in a folder, such as /var/lib/libvirt/qemu/checkpoint/DOMAIN.

        DamagedError where a file is no document of a checkpoint, BrokenChainError where two tell of one checkpoint or their
        parents go round in a circle.
        """
        out = ffi.new("checkmap_notes **")
        with naming(folder):
            raw = path_bytes(folder)
            checked(lib.checkmap_notes_read(raw, len(raw), out))
        super().__init__(out[0], lib.checkmap_notes_free)

    @classmethod
    def of_machine(cls, machine: Machine, *, progress: Optional[Progress] = None) -> Notes:
        """Asks libvirt for its notes of a domain; UnsupportedError for a machine that was not reached through libvirt."""
        _check(machine, Machine)
        self = cls.__new__(cls)
        options = Options(progress)
        out = ffi.new("checkmap_notes **")
        options.checked(machine._read(lib.checkmap_notes_of_machine, options.pointer, out))
        Handle.__init__(self, out[0], lib.checkmap_notes_free)
        return self

    def checkpoints(self) -> List[NotedCheckpoint]:
        """The checkpoints, oldest first."""

        def ask(pointer: Any) -> List[NotedCheckpoint]:
            rows = listed("checkmap_noted", lambda out, room: lib.checkmap_notes_list(pointer, out, room))
            return [
                NotedCheckpoint(
                    _text(row.name, row.name_len) or "", _text(row.parent, row.parent_len), None if row.time < 0 else row.time, row.disk_count
                )
                for row in rows
            ]

        return self._read(ask)

    def order(self, image: Image) -> None:
        """Lets an image list its cumulative checkpoints in the order of these notes, with the parents that they tell.

        A bitmap of a checkpoint of libvirt's is taken for no other then. Nothing is changed in the image.
        """
        _check(image, Image)
        image._check_process()
        uses: Tuple[Tuple[Handle, bool], ...] = ((image, True), (self, False))
        pointers = _begin_all(uses)
        try:
            status = lib.checkmap_image_follow(*pointers)
        finally:
            _end_all(uses)
        checked(status)


def doctor(
    image: Image,
    libvirt_xml: Optional[Path] = None,
    target: Optional[str] = None,
    *,
    repair: bool = False,
    to_interval: bool = False,
    dry_run: bool = False,
    cumulative: Optional[bool] = None,
    progress: Optional[Progress] = None,
) -> Diagnosis:
    """Finds where the bitmaps of an image, their chain and libvirt's documents disagree.

    libvirt_xml: the folder with libvirt's documents of the checkpoints, which change too. target: the disk's name in the
    domain, such as "vda"; without it NotFoundError where the documents do not tell it. repair: mends the findings, bitmaps
    first. to_interval: turns cumulative checkpoints into a chain of intervals, and libvirt forgets them. dry_run: lists the
    steps of either, and changes nothing.
    """
    _check(image, Image)
    folder = None if libvirt_xml is None else path_bytes(libvirt_xml)
    disk = None if target is None else name_bytes(target)
    arguments: List[Any] = []
    for text in (disk, folder):
        arguments += (ffi.NULL, 0) if text is None else (text, len(text))
    aim = _aim(repair, to_interval)
    changes = aim != lib.CHECKMAP_DOCTOR_LOOK and not dry_run

    def call(options: Any, out: Any) -> int:
        status: int = image._change(lib.checkmap_doctor, *arguments, aim, options, out, upgrade=changes)
        return status

    return _diagnosis(call, dry_run, cumulative, progress)


def doctor_running(
    machine: Machine,
    nodes: Iterable[Name] = (),
    *,
    repair: bool = False,
    to_interval: bool = False,
    dry_run: bool = False,
    cumulative: Optional[bool] = None,
    progress: Optional[Progress] = None,
) -> Diagnosis:
    """Finds where the bitmaps of a running machine's disks, their chains and libvirt's notes disagree.

    nodes: names of disks as for Machine.image; without one all disks take part. Of a domain of libvirt's, libvirt is asked
    for its notes and told of their changes. Images of these disks that are open are not good for changes after one. The other
    arguments are those of doctor.
    """
    _check(machine, Machine)
    kept, pointers, lengths = _names(nodes)
    aim = _aim(repair, to_interval)

    def call(options: Any, out: Any) -> int:
        function = lib.checkmap_doctor_running
        status: int = machine._read(function, pointers, lengths, len(kept), aim, options, out)
        return status

    return _diagnosis(call, dry_run, cumulative, progress)


def _diagnosis(
    call: Callable[[Any, Any], int], dry_run: bool, cumulative: Optional[bool], progress: Optional[Progress]
) -> Diagnosis:
    options = Options(progress, flags=flags_of(dry_run=dry_run), model=model_of(cumulative))
    out = ffi.new("checkmap_diagnosis **")
    try:
        options.checked(call(options.pointer, out))
        pointer = out[0]
        rows = listed("checkmap_finding", lambda out, room: lib.checkmap_diagnosis_findings(pointer, out, room))
        findings: Tuple[List[Finding], List[Finding]] = ([], [])
        for row in rows:
            texts = [_text(getattr(row, member), getattr(row, member + "_len")) for member in _MEMBERS]
            found = Finding(texts[0] or "", texts[1], texts[2], texts[3] or "", texts[4] or "", texts[5])
            findings[bool(row.flags & lib.CHECKMAP_FINDING_LEFT)].append(found)

        def texts_of(kind: int) -> List[str]:
            texts = listed("checkmap_text", lambda out, room: lib.checkmap_diagnosis_texts(pointer, kind, out, room))
            return [_text(text.bytes, text.len) or "" for text in texts]

        return Diagnosis(
            *findings,
            texts_of(lib.CHECKMAP_DIAGNOSIS_STEPS),
            texts_of(lib.CHECKMAP_DIAGNOSIS_REMARKS),
            texts_of(lib.CHECKMAP_DIAGNOSIS_WARNINGS),
        )
    finally:
        lib.checkmap_diagnosis_free(out[0])


def _aim(repair: bool, to_interval: bool) -> int:
    if repair and to_interval:
        raise ValueError("repair and to_interval are two steps, one after the other")
    aims = (lib.CHECKMAP_DOCTOR_LOOK, lib.CHECKMAP_DOCTOR_REPAIR, lib.CHECKMAP_DOCTOR_TO_INTERVAL)
    aim: int = aims[1 if repair else 2 if to_interval else 0]
    return aim


def _check(handle: Any, kind: type) -> None:
    if not isinstance(handle, kind):
        raise TypeError(f"a {kind.__name__} is needed, not {type(handle).__name__}")


def _text(text: Any, length: int) -> Optional[str]:
    return name_text(text, length) if length else None
