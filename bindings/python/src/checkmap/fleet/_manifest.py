"""The manifest: which disks a fleet has, and where each one is. It never opens a disk."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

Path = Union[str, "os.PathLike[str]"]

_SOURCES = ("image", "qmp", "libvirt")
_KEYS = ("disk", "image", "qmp", "libvirt", "domain", "node", "host", "since", "volume")
#: The longest text in a message, in characters.
_LONGEST = 80
#: The largest manifest, as on the command line.
_MOST_BYTES = 1 << 30


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names the file, the entry, counted from 1, and the key."""


class Entry(NamedTuple):
    """One disk of a fleet, and where it is: exactly one of image, qmp and libvirt is given.

    disk: Its name, which no other entry has.
    image: The path of an image file.
    qmp: The path of the QMP socket of a running QEMU.
    libvirt: The URI of a libvirt; `domain` goes with it.
    domain: The name, id or UUID of a domain of libvirt.
    node: Which disk of the machine: a block node, a device or the file of an image, as Machine.image() takes it; None where
        it has only one that can have checkpoints.
    host: The name of the host that can open it; None is any host.
    since: The checkpoint that a survey begins with, where the call names none.
    volume: The name that all recordings of the same disk share, such as those of two hosts after a migration.
    """

    disk: str
    image: Optional[str] = None
    qmp: Optional[str] = None
    libvirt: Optional[str] = None
    domain: Optional[str] = None
    node: Optional[str] = None
    host: Optional[str] = None
    since: Optional[str] = None
    volume: Optional[str] = None


class Manifest:
    """The disks of a fleet, in the order of the file. It does not change; many threads may read it."""

    __slots__ = ("entries", "name")

    def __init__(self, entries: Sequence[Entry], name: str = "manifest") -> None:
        """Checks entries that a program made, as read() checks those of a file. name: begins the messages."""
        self.name = name
        self.entries: Tuple[Entry, ...] = tuple(entries)
        seen: Dict[str, int] = {}
        for at, entry in enumerate(self.entries):
            try:
                _check(entry)
                if entry.disk in seen:
                    raise ManifestError(f"{_called(seen[entry.disk], None)} has the same name: give each a name of its own")
            except ManifestError as error:
                raise ManifestError(f"{name}: {_called(at, entry.disk)}: {error}") from None
            seen[entry.disk] = at

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Reads a manifest, JSON in UTF-8; ManifestError where it cannot be used, OSError where it cannot be read.

        Relative paths of images and sockets are relative to the folder of the manifest.
        """
        name = os.fspath(path)
        with open(path, "rb") as file:
            # A file that is longer than it says, such as a pipe, is measured by the read.
            raw = file.read(_MOST_BYTES + 1) if os.fstat(file.fileno()).st_size <= _MOST_BYTES else None
        if raw is None or len(raw) > _MOST_BYTES:
            raise ManifestError(f"{name}: a manifest of more than {_MOST_BYTES >> 30} GiB; split it")
        try:
            document = json.loads(raw.decode("utf-8"), object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{name}: this is no manifest: {error}") from None
        del raw
        if not isinstance(document, dict) or not isinstance(document.get("disks"), list):
            raise ManifestError(f'{name}: a manifest is {{"disks": [...]}}, a list of disks')
        for key in document:
            if key != "disks":
                raise ManifestError(f'{name}: unknown key {_quoted(key)}; a manifest has "disks" alone')
        folder = os.path.dirname(os.path.abspath(name))
        entries: List[Entry] = []
        for at, given in enumerate(document["disks"]):
            try:
                entries.append(_entry(given, folder))
            except ManifestError as error:
                disk = given.get("disk") if isinstance(given, dict) else None
                raise ManifestError(f"{name}: {_called(at, disk)}: {error}") from None
        return cls(entries, name)

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __repr__(self) -> str:
        return f"<checkmap.fleet.Manifest {self.name!r} of {len(self.entries)} disks>"

    def hosts(self) -> List[str]:
        """The names of all hosts, sorted; entries without a host add none."""
        return sorted({entry.host for entry in self.entries if entry.host is not None})

    def need_hosts(self) -> None:
        """ManifestError where an entry has no host, which a cluster needs."""
        without = [(at, entry) for at, entry in enumerate(self.entries) if entry.host is None]
        if without:
            named = ", ".join(_called(at, entry.disk) for at, entry in without[:3])
            more = f" and {len(without) - 3} more" if len(without) > 3 else ""
            raise ManifestError(
                f'{self.name}: {named}{more}: no "host"; a cluster needs the name of the host that can open each disk'
            )


def _object(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
    """An object of JSON, which must not say a key twice: readers disagree about which one counts."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        disk = made.get("disk")
        raise ManifestError(f"the key {_quoted(twice)} stands twice in one object" + (f", {_quoted(disk)}" if disk else ""))
    return made


def _entry(given: Any, folder: str) -> Entry:
    if not isinstance(given, dict):
        raise ManifestError('a disk is an object, {"disk": NAME, ...}')
    for key, value in given.items():
        if key not in _KEYS:
            raise ManifestError(f"unknown key {_quoted(key)}; known are {', '.join(_KEYS)}")
        if not isinstance(value, str):
            raise ManifestError(f"{_quoted(key)} is no string")
    if "disk" not in given:
        raise ManifestError('the key "disk" is missing')
    for key in ("image", "qmp"):
        if given.get(key):
            given[key] = os.path.join(folder, given[key])
    return Entry(**given)


def _check(entry: Entry) -> None:
    for key in _KEYS:
        value = getattr(entry, key)
        if value == "":
            raise ManifestError(f'"{key}" is empty')
        if value is not None and "\0" in value:
            raise ManifestError(f'"{key}" has a NUL in it')
        # Paths may have any bytes, as os.fsdecode() gives them.
        if value is not None and key not in ("image", "qmp") and not is_text(value):
            raise ManifestError(f'"{key}" is no text in UTF-8: it has half of a surrogate pair')
    sources = [key for key in _SOURCES if getattr(entry, key) is not None]
    if not sources:
        raise ManifestError('one of "image", "qmp" and "libvirt" is missing')
    if len(sources) > 1:
        raise ManifestError('only one of "image", "qmp" and "libvirt" can be given')
    if entry.libvirt is None and entry.domain is not None:
        raise ManifestError('"domain" goes with "libvirt" only')
    if entry.libvirt is not None and entry.domain is None:
        raise ManifestError('"libvirt" goes with "domain", which is missing')
    if entry.image is not None and entry.node is not None:
        raise ManifestError('"node" goes with "qmp" or "libvirt", and not with "image"')


def is_text(value: str) -> bool:
    """Whether it has a form in UTF-8, which Parquet needs."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _called(at: int, disk: Any) -> str:
    """An entry in messages, which count from 1."""
    return f"disk number {at + 1}" + (f" ({_quoted(disk)})" if isinstance(disk, str) and disk else "")


def _quoted(value: Any) -> str:
    words = json.dumps(value, ensure_ascii=True, default=str)
    return words if len(words) <= _LONGEST else words[:_LONGEST] + "..."
