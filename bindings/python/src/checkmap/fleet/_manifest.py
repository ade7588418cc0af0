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


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names the file, the entry and the key."""


class Entry(NamedTuple):
    """One disk of a fleet, and where it is: exactly one of image, qmp and libvirt is given.

    disk: Its name, which no other entry has.
    image: The path of an image file.
    qmp: The path of the QMP socket of a running QEMU; `node` says which of its disks.
    libvirt: The URI of a libvirt; `domain` and `node` say which disk of it.
    domain: The name, id or UUID of a domain of libvirt.
    node: A block node, a device or the file of an image, as Machine.image() takes it.
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
                    raise ManifestError(f"entry {seen[entry.disk]} has the same name; each disk needs its own")
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
            raw = file.read()
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
        if value is not None and not isinstance(value, str):
            raise ManifestError(f"{_quoted(key)} is a text, not {_quoted(value)}")
    if given.get("disk") is None:
        raise ManifestError('"disk", the name of the disk, is missing')
    for key in ("image", "qmp"):
        if given.get(key):
            given[key] = os.path.join(folder, given[key])
    return Entry(**given)


def _check(entry: Entry) -> None:
    for key, value in zip(_KEYS, (getattr(entry, key) for key in _KEYS)):
        if value == "":
            raise ManifestError(f'"{key}" is empty')
    if not isinstance(entry.disk, str):
        raise ManifestError('"disk", the name of the disk, is missing')
    sources = [key for key in _SOURCES if getattr(entry, key) is not None]
    if len(sources) != 1:
        given = f"{' and '.join(sources)} are given" if sources else "none is given"
        raise ManifestError(f"exactly one of image, qmp and libvirt says where the disk is; {given}")
    wanted = {"image": (), "qmp": ("node",), "libvirt": ("domain", "node")}[sources[0]]
    for key in ("domain", "node"):
        value = getattr(entry, key)
        if key in wanted and value is None:
            raise ManifestError(f'{sources[0]} needs "{key}" as well')
        if key not in wanted and value is not None:
            raise ManifestError(f'"{key}" means nothing beside {sources[0]}')


def _called(at: int, disk: Any) -> str:
    return f"entry {at} ({_quoted(disk)})" if isinstance(disk, str) else f"entry {at}"


def _quoted(value: Any) -> str:
    words = json.dumps(value, ensure_ascii=True, default=str)
    return words if len(words) <= _LONGEST else words[:_LONGEST] + "..."
