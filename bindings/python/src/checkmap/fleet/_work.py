"""The work on one host: opens its disks one after the other, and answers for each. It never knows where it runs.

A batch and its answer are pickled, so that another process or another host can do the work.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, List, NamedTuple, Optional, Tuple, TypeVar, Union

from .._bitmap import Bitmap
from .._errors import CheckmapError, OutOfMemoryError, SystemCallError
from .._image import Image
from .._machine import Machine
from ._manifest import Entry
from ._tables import Rows

if TYPE_CHECKING:
    import pyarrow

Made = TypeVar("Made")
Diffs = List[Tuple[str, Optional[str], Bitmap]]

#: Errors of the system that another try cannot mend.
_LASTING = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,
    errno.EROFS,
)
#: Seconds before the second try; each further one waits twice as long.
_PAUSE = 0.2


class Result(NamedTuple):
    """What became of one disk.

    disk: Its name in the manifest.
    host: The host that the manifest names; None where it names none.
    state: "done", "failed" or "left out": the disk of another host.
    error: Why it is not done; None where it is.
    kind: The library's name of the error, such as "IN_USE"; None where the library made none.
    retries: How often it was tried again.
    seconds: How long the last try took; 0 where there was none.
    dirty_bytes: The sum over its intervals; None where it is not done.
    """

    disk: str
    host: Optional[str]
    state: str
    error: Optional[str] = None
    kind: Optional[str] = None
    retries: int = 0
    seconds: float = 0.0
    dirty_bytes: Optional[int] = None


class Request(NamedTuple):
    """What a call asks of each disk; the checkpoints as survey() has them."""

    since: Optional[str]
    until: Optional[str]
    each_interval: bool
    retries: int
    extents: bool = False
    intervals: bool = False


class Batch(NamedTuple):
    """Disks of one host, for one worker to do."""

    host: str
    entries: Tuple[Entry, ...]
    request: Request


class Surveyed(NamedTuple):
    """The answer to a batch: a result for each of its disks, and their rows."""

    results: List[Result]
    extents: Optional[pyarrow.Table]
    intervals: Optional[pyarrow.Table]


class Volume(NamedTuple):
    """A part of a volume's union, of some of its recordings.

    error: Why there is no union; None where there is.
    disk_size: In bytes.
    granularity: In bytes.
    roaring: The dirty granules as portable 64-bit Roaring.
    """

    error: Optional[str]
    disk_size: int = 0
    granularity: int = 0
    roaring: bytes = b""


#: Parts of the unions of several volumes, by their names.
Part = Dict[str, Volume]


def survey_batch(batch: Batch) -> Surveyed:
    """The rows of each disk of a batch. A disk that fails has none, and spoils no other."""
    rows = Rows(batch.request.extents, batch.request.intervals)
    results = []
    for entry in batch.entries:
        begun = time.monotonic()

        def add(entry: Entry = entry) -> int:
            return rows.add(entry.disk, diffs(entry, batch.request))

        total, error, kind, retries = _trying(add, batch.request.retries)
        state = "done" if error is None else "failed"
        results.append(Result(entry.disk, entry.host, state, error, kind, retries, time.monotonic() - begun, total))
    return Surveyed(results, *rows.tables())


def unite_batch(batch: Batch) -> Part:
    """The union of each volume over the disks of a batch; where one of them fails, the volume has an error instead."""
    part: Part = {}
    for entry in batch.entries:
        volume = entry.volume
        assert volume is not None

        def read(entry: Entry = entry) -> Volume:
            return _serialized(diffs(entry, batch.request))

        made, error, _, _ = _trying(read, batch.request.retries)
        new = Volume(f"{entry.disk}: {error}") if made is None else made
        part[volume] = _united(volume, [part[volume], new]) if volume in part else new
    return part


def unite_parts(parts: List[Part]) -> Part:
    """One part of several: each volume is the union over all parts that have it."""
    gathered: Dict[str, List[Volume]] = {}
    for part in parts:
        for name, volume in part.items():
            gathered.setdefault(name, []).append(volume)
    return {name: _united(name, volumes) for name, volumes in gathered.items()}


def _united(name: str, volumes: List[Volume]) -> Volume:
    """An error wins over a union: a union that lacks a recording would lack dirty blocks."""
    errors = [volume.error for volume in volumes if volume.error is not None]
    if errors:
        return Volume("; ".join(errors))
    first = volumes[0]
    if len(volumes) == 1:
        return first
    for what in ("disk_size", "granularity"):
        numbers = sorted({getattr(volume, what) for volume in volumes})
        if len(numbers) > 1:
            words = " and ".join(map(str, numbers))
            return Volume(
                f"the recordings of volume {name!r} disagree about the {what}, {words} bytes: they are no recordings of one disk"
            )
    bitmaps = [Bitmap.deserialize(each.roaring, each.disk_size, each.granularity) for each in volumes]
    return Volume(None, first.disk_size, first.granularity, Bitmap.union(bitmaps).serialize())


def _serialized(intervals: Diffs) -> Volume:
    ((_, _, bitmap),) = intervals
    return Volume(None, bitmap.size, bitmap.granularity, bitmap.serialize())


def diffs(entry: Entry, request: Request) -> Diffs:
    """Opens a disk and reads what changed: one interval, or each one, oldest first."""
    since = request.since if request.since is not None else entry.since
    if since is None:
        raise ValueError('no checkpoint to begin with: pass since=..., or give the entry a "since" in the manifest')
    if entry.image is not None:
        with Image(entry.image, writable=False) as image:
            return _read(image, since, request)
    if entry.qmp is not None:
        machine = Machine(entry.qmp)
    else:
        machine = Machine.libvirt(entry.libvirt or "", entry.domain or "")
    with machine, machine.image(entry.node if entry.node is not None else _only_disk(machine)) as image:
        return _read(image, since, request)


def _only_disk(machine: Machine) -> str:
    nodes = [disk.node for disk in machine.disks() if not disk.unfit]
    if len(nodes) != 1:
        named = ", ".join(nodes) or "none"
        raise ValueError(f'give the entry a "node": the machine has {len(nodes)} disks that can have checkpoints, {named}')
    return nodes[0]


def _read(image: Image, since: str, request: Request) -> Diffs:
    if not request.each_interval:
        return [(since, request.until, image.diff(since, request.until))]
    names: List[Optional[str]] = [point.name for point in image.checkpoints()]
    names.append(None)
    if since not in names or request.until not in names or names.index(request.until) <= names.index(since):
        # The library has the words for what is wrong with these two.
        return [(since, request.until, image.diff(since, request.until))]
    span = names[names.index(since) : names.index(request.until) + 1]
    return [(first, then, image.diff(first, then)) for first, then in zip(span, span[1:]) if first is not None]


def _trying(do: Callable[[], Made], retries: int) -> Tuple[Optional[Made], Optional[str], Optional[str], int]:
    """What a call made, or the words and the kind of its error, and how often it was tried again."""
    tried = 0
    while True:
        try:
            return do(), None, None, tried
        except Exception as error:
            if tried >= retries or not may_pass(error):
                return None, words_of(error), getattr(error, "kind", None) or None, tried
        time.sleep(_PAUSE * 2**tried)
        tried += 1


def may_pass(error: BaseException) -> bool:
    """Whether another try may end better: errors of reading may, and refusals and damage never do."""
    if isinstance(error, SystemCallError) or (isinstance(error, OSError) and not isinstance(error, CheckmapError)):
        return error.errno not in _LASTING
    return isinstance(error, OutOfMemoryError)


def words_of(error: BaseException) -> str:
    """An error in one line."""
    words: Union[str, Any] = getattr(error, "strerror", None) if isinstance(error, CheckmapError) else None
    text = str(words or error) or type(error).__name__
    return " ".join(text.split())
