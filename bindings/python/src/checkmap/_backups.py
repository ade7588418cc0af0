"""Directories of backups: taken, listed, verified, restored and pruned; and how much a backup has to read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Callable, Iterable, List, Optional, Tuple, Union

from ._arguments import (
    MOST_32,
    Name,
    Options,
    Path,
    Progress,
    flags_of,
    name_bytes,
    name_text,
    naming,
    opened,
    path_bytes,
    several,
    whole,
)
from ._errors import CheckmapError, checked, last_error, listed
from ._handle import Handle, _begin_all, _end_all
from ._image import Image
from ._machine import Machine
from ._native import ffi, lib

#: An image, alone or with the name that the disk has in the directory.
Source = Union[Path, Tuple[Path, Name]]
#: A disk of a machine, alone or with the name that it has in the directory.
RunningSource = Union[str, Tuple[str, Name]]

_TIERS = {
    lib.CHECKMAP_TIER_CHANGED: "changed",
    lib.CHECKMAP_TIER_ALLOCATED: "allocated",
    lib.CHECKMAP_TIER_ALL: "all",
}


@dataclass(frozen=True)
class Moment:
    """A moment of a disk in a directory of backups. Names that are no UTF-8 have surrogates, as file names do.

    disk: The name of the disk in the directory.
    image: The image by which the directory knows the disk; None but in BackupDirectory.moments().
    checkpoint: The checkpoint of the moment.
    full: The backup holds all of the disk, instead of lying on the one before.
    reason: Why it is full; None where it is the first one, was folded, or is not full.
    disk_size: The size of the disk at the moment, in bytes.
    time: The moment, in seconds since 1970.
    data_bytes: How many bytes of data the backup's file holds.
    zero_bytes: How many bytes it stores as zeros without data.
    file_bytes: The bytes of the file.
    has_checkpoint: The disk got a checkpoint of that moment, so that the next backup can be an increment.
    """

    disk: str
    image: Optional[str]
    checkpoint: str
    full: bool
    reason: Optional[str]
    disk_size: int
    time: int
    data_bytes: int
    zero_bytes: int
    file_bytes: int
    has_checkpoint: bool


@dataclass(frozen=True)
class Taken:
    """What came of one disk of a backup.

    disk: The name of the disk in the directory.
    moment: The new moment; None where there is none.
    complete: The moment is in the directory.
    error: Why not all was done; None where it was. With `complete`, only older checkpoints stay on the disk.
    dropped: The checkpoints that were dropped from the disk.
    warnings: What to tell the user.
    files: The files that were read for it, the top one first.
    through_qemu: Why the disk was read by a private qemu-nbd; None where it was not.
    """

    disk: str
    moment: Optional[Moment]
    complete: bool
    error: Optional[CheckmapError]
    dropped: List[str]
    warnings: List[str]
    files: List[str]
    through_qemu: Optional[str]


@dataclass(frozen=True)
class Damage:
    """A file of a backup that is damaged or missing.

    disk: The disk of the moment whose file it is.
    checkpoint: The checkpoint of that moment.
    error: The damage.
    lost: The moments that cannot be restored for it, oldest first.
    """

    disk: str
    checkpoint: str
    error: CheckmapError
    lost: List[str]


@dataclass(frozen=True)
class Verified:
    """What a verification found.

    moments: How many moments were looked at.
    damages: The files that are damaged or missing; none is well.
    """

    moments: int
    damages: List[Damage]


@dataclass(frozen=True)
class Pruned:
    """What became of one disk of a prune.

    disk: The name of the disk.
    dropped: The moments that were given up, or would be, oldest first.
    error: Why some that no rule keeps are still there; None where none is.
    """

    disk: str
    dropped: List[str]
    error: Optional[CheckmapError]


@dataclass(frozen=True)
class BackupPlan:
    """What a backup of a disk since a checkpoint has to read.

    tier: "changed", "allocated" or "all".
    reason: Why it is not a smaller part; None for what changed.
    changed_bytes: How many bytes changed; None where that cannot be told.
    allocated_bytes: How many bytes are allocated; None where that cannot be told.
    disk_size: The size of the disk in bytes.
    """

    tier: str
    reason: Optional[str]
    changed_bytes: Optional[int]
    allocated_bytes: Optional[int]
    disk_size: int


class _BackupOptions(Options):
    """Options of a backup, with what they point to."""

    __slots__ = ("backup", "_kept", "_say")

    def __init__(
        self,
        checkpoint: Optional[Name],
        full: bool,
        keep_checkpoints: int,
        threads: int,
        progress: Optional[Progress],
        *,
        no_lock: bool = False,
        abandon: bool = False,
        secret_file: Optional[Path] = None,
        scratch: Optional[Path] = None,
        scratch_max: Optional[int] = None,
        say: Optional[Callable[[str], Any]] = None,
    ) -> None:
        super().__init__(progress)
        if say is not None and not callable(say):
            raise TypeError(f"say is a function, not {type(say).__name__}")
        self._say = say
        self._kept: List[Any] = []
        self.backup = opts = ffi.new("struct checkmap_backup_opts *")
        opts.size = ffi.sizeof("struct checkmap_backup_opts")
        opts.threads = whole(threads, "threads", MOST_32)
        opts.keep_checkpoints = whole(keep_checkpoints, "keep_checkpoints", MOST_32)
        opts.flags = (
            (lib.CHECKMAP_BACKUP_FULL if full else 0)
            | (lib.CHECKMAP_BACKUP_NO_LOCK if no_lock else 0)
            | (lib.CHECKMAP_BACKUP_ABANDON if abandon else 0)
        )
        opts.checkpoint, opts.checkpoint_len = self._bytes(None if checkpoint is None else name_bytes(checkpoint))
        opts.secret_file, opts.secret_file_len = self._bytes(None if secret_file is None else path_bytes(secret_file))
        opts.scratch, opts.scratch_len = self._bytes(None if scratch is None else path_bytes(scratch))
        opts.scratch_max_bytes = 0 if scratch_max is None else whole(scratch_max, "scratch_max")
        if progress is not None or say is not None:
            self._self = ffi.new_handle(self)
            opts.progress = self.pointer.progress if progress is not None else _go_on
            opts.say = _say if say is not None else ffi.NULL
            opts.user_data = self._self

    def _bytes(self, raw: Optional[bytes]) -> Tuple[Any, int]:
        """Bytes that live as long as the options."""
        if raw is None:
            return ffi.NULL, 0
        self._kept.append(ffi.from_buffer("char[]", raw))
        return self._kept[-1], len(raw)

    def sources(self, disks: Iterable[Any], to_bytes: Callable[[Any], bytes]) -> Any:
        """An array of disks, alone or with their names."""
        every = several(disks, "disks")
        array = ffi.new("struct checkmap_backup_source[]", len(every))
        for place, disk in zip(array, every):
            name = None
            if isinstance(disk, tuple):
                disk, name = disk
            place.disk, place.disk_len = self._bytes(to_bytes(disk))
            place.name, place.name_len = self._bytes(None if name is None else name_bytes(name))
        return array

    def said(self, sentence: str) -> None:
        """Hands a sentence on; what that raises stops the call when it is asked next."""
        try:
            if self._say is not None and not self._raised:
                self._say(sentence)
        except BaseException as error:
            self._raised.append(error)

    @property
    def stopped(self) -> bool:
        """Whether a callback raised something."""
        return bool(self._raised)


@ffi.callback("void(void *, const char *, size_t)")  # type: ignore
def _say(user_data: Any, sentence: Any, length: int) -> None:
    ffi.from_handle(user_data).said(name_text(sentence, length))


@ffi.callback("int(void *, const char *, uint64_t, uint64_t)", error=1)  # type: ignore
def _go_on(user_data: Any, phase: Any, done: int, total: int) -> int:
    return int(ffi.from_handle(user_data).stopped)


class BackupDirectory(Handle):
    """A directory of backups, locked until it is closed: many can read it at once, one can change it. Use it in a `with`.

    Many threads may use it at once; to change it is for one alone, and others wait for their turn. A forked child must not
    use it, and does not close it.
    """

    __slots__ = ("_path", "_process")

    def __init__(self, path: Path, *, writable: bool = False, create: bool = False) -> None:
        """Opens a directory to read it, or to change it as well: what an interrupted run left is finished or cleared then.

        create: also makes it, with mode 0700, where there is none. NotFoundError where it is none of backups, InUseError where
        somebody changes it, UnsupportedError where a newer version made it.
        """
        flags = lib.CHECKMAP_BACKUPS_RDWR if writable else lib.CHECKMAP_BACKUPS_RDONLY
        out = ffi.new("checkmap_backups **")
        with naming(path):
            raw = path_bytes(path)
            checked(lib.checkmap_backups_open(raw, len(raw), lib.CHECKMAP_BACKUPS_CREATE if create else flags, out))
        self._path = path
        self._process = process = os.getpid()

        def close(pointer: Any) -> None:
            # A forked child shares its parent's lock.
            if os.getpid() == process:
                lib.checkmap_backups_close(pointer)

        super().__init__(out[0], close)

    def __repr__(self) -> str:
        return opened(self, self._path) if not self.closed else "<checkmap.BackupDirectory, closed>"

    def _begin(self, alone: bool) -> Any:
        pointer = super()._begin(alone)
        if os.getpid() != self._process:
            self._end(alone)
            raise RuntimeError("a forked child must not use a directory of its parent's")
        return pointer

    def moments(self) -> List[Moment]:
        """The kept moments of all disks; those of one disk stand together, the oldest first."""

        def ask(pointer: Any) -> List[Moment]:
            rows = listed("checkmap_moment", lambda out, room: lib.checkmap_backups_list(pointer, out, room))
            return [_moment(row) for row in rows]

        return self._read(ask)

    def take(
        self,
        disks: Iterable[Source],
        checkpoint: Optional[Name] = None,
        *,
        full: bool = False,
        keep_checkpoints: int = 1,
        secret_file: Optional[Path] = None,
        no_lock: bool = False,
        threads: int = 0,
        progress: Optional[Progress] = None,
    ) -> List[Taken]:
        """Takes a backup of images, all with one checkpoint name; None is one from the clock.

        The first backup of a disk is full; later ones hold what changed, or all with the reason. A CheckmapError changed
        nothing; what came of each disk is in the list, and one that failed leaves the others. After what `progress` itself
        raises, moments() tells which disks are done. full: copies all, and takes an
        image that was moved for the disk of that name. keep_checkpoints: how many of the directory stay on each disk.
        secret_file: has the passphrase of encrypted layers.
        """
        options = _BackupOptions(
            checkpoint, full, keep_checkpoints, threads, progress, no_lock=no_lock, secret_file=secret_file
        )
        sources = options.sources(disks, path_bytes)
        out = ffi.new("checkmap_outcome **")
        take = lib.checkmap_backups_take
        status = self._change(take, sources, len(sources), options.backup, out)
        return _outcome(options, status, out, _taken)

    def take_running(
        self,
        machine: Machine,
        disks: Iterable[RunningSource],
        checkpoint: Optional[Name] = None,
        *,
        full: bool = False,
        keep_checkpoints: int = 1,
        scratch: Optional[Path] = None,
        scratch_max: Optional[int] = None,
        abandon: bool = False,
        threads: int = 0,
        say: Optional[Callable[[str], Any]] = None,
        progress: Optional[Progress] = None,
    ) -> List[Taken]:
        """Takes a backup of disks of a running machine while its guest writes on: all as they were at one moment.

        disks: named as for Machine.image(). scratch: the folder for blocks that the guest overwrites meanwhile; scratch_max: the
        bytes that they may take. say: told at once what a user should know. A moment that an interrupted run left is backed up in
        the place of a new one; `abandon` ends it before. The other arguments are those of take().
        """
        if not isinstance(machine, Machine):
            raise TypeError(f"a Machine is needed, not {type(machine).__name__}")
        options = _BackupOptions(
            checkpoint,
            full,
            keep_checkpoints,
            threads,
            progress,
            abandon=abandon,
            scratch=scratch,
            scratch_max=scratch_max,
            say=say,
        )
        sources = options.sources(disks, name_bytes)
        out = ffi.new("checkmap_outcome **")
        if {self._process, machine._process} != {os.getpid()}:
            raise RuntimeError("a forked child must not use a directory or a machine of its parent's")
        uses = ((self, True), (machine, False))
        own, other = _begin_all(uses)
        try:
            status = lib.checkmap_backups_take_running(own, other, sources, len(sources), options.backup, out)
        finally:
            _end_all(uses)
        return _outcome(options, status, out, _taken)

    def restore(
        self,
        disk: Name,
        target: Path,
        checkpoint: Optional[Name] = None,
        *,
        raw: bool = False,
        replace: bool = False,
        progress: Optional[Progress] = None,
    ) -> None:
        """Writes a moment of a disk, the newest one without a checkpoint, to a new file or a device, checked against the sums.

        raw: a file gets the bytes of the disk themselves, instead of being a qcow2 image; a device gets them always. replace:
        replaces a file that is there, or writes over a device; never one that somebody uses.
        """
        options = Options(progress)
        request = ffi.new("struct checkmap_restore_request *")
        request.size = ffi.sizeof("struct checkmap_restore_request")
        request.flags = (lib.CHECKMAP_RESTORE_RAW if raw else 0) | (lib.CHECKMAP_RESTORE_REPLACE if replace else 0)
        name, path = ffi.from_buffer("char[]", name_bytes(disk)), ffi.from_buffer("char[]", path_bytes(target))
        at = None if checkpoint is None else ffi.from_buffer("char[]", name_bytes(checkpoint))
        request.disk, request.disk_len = name, len(name)
        request.target, request.target_len = path, len(path)
        if at is not None:
            request.checkpoint, request.checkpoint_len = at, len(at)
        with naming(target, among=True):
            options.checked(self._read(lib.checkmap_backups_restore, request, options.pointer))

    def verify(self, *, progress: Optional[Progress] = None) -> Verified:
        """Reads everything, and tells which files are damaged or missing and which moments that costs."""
        options = Options(progress)
        out = ffi.new("checkmap_outcome **")
        moments = self._read(lib.checkmap_backups_verify, options.pointer, out)
        return Verified(moments, _outcome(options, moments, out, _damage))

    def prune(
        self,
        *,
        last: Optional[int] = None,
        within: Optional[timedelta] = None,
        rewrite: bool = False,
        dry_run: bool = False,
        progress: Optional[Progress] = None,
    ) -> List[Pruned]:
        """Gives up the moments that no rule keeps; every kept one can be restored at each instant.

        last: keeps so many of the newest of each disk. within: keeps those that are no older. rewrite: where the oldest go,
        a new full file is written, and the old one stays as it is until then.
        """
        options = Options(progress, flags=flags_of(dry_run=dry_run))
        keep = ffi.new("struct checkmap_keep *")
        keep.size = ffi.sizeof("struct checkmap_keep")
        keep.flags = lib.CHECKMAP_KEEP_REWRITE if rewrite else 0
        keep.last = 0 if last is None else whole(last, "last")
        if within is not None:
            if not isinstance(within, timedelta):
                raise TypeError(f"within is a timedelta, not {type(within).__name__}")
            keep.within_seconds = whole(int(within.total_seconds()), "within")
        out = ffi.new("checkmap_outcome **")
        status = self._change(lib.checkmap_backups_prune, keep, options.pointer, out)
        return _outcome(options, status, out, _pruned)


def preview_backup(
    directory: Path,
    disks: Iterable[Source],
    checkpoint: Optional[Name] = None,
    *,
    full: bool = False,
    secret_file: Optional[Path] = None,
    no_lock: bool = False,
    threads: int = 0,
    progress: Optional[Progress] = None,
) -> List[Taken]:
    """What BackupDirectory.take() would write into a directory, which need not be there: the bytes at most. Changes nothing."""
    options = _BackupOptions(checkpoint, full, 0, threads, progress, no_lock=no_lock, secret_file=secret_file)
    sources = options.sources(disks, path_bytes)
    raw = path_bytes(directory)
    out = ffi.new("checkmap_outcome **")
    status = lib.checkmap_backups_preview(raw, len(raw), sources, len(sources), options.backup, out)
    return _outcome(options, status, out, _taken)


def plan_backup(
    image: Image, checkpoint: Name, *, secret_file: Optional[Path] = None, progress: Optional[Progress] = None
) -> BackupPlan:
    """How much of the disk of an image, open for reading, a backup since a checkpoint has to read, and why."""
    if not isinstance(image, Image):
        raise TypeError(f"an Image is needed, not {type(image).__name__}")
    raw = name_bytes(checkpoint)
    secret = b"" if secret_file is None else path_bytes(secret_file)
    given = ffi.NULL if secret_file is None else ffi.from_buffer("char[]", secret)
    return _planned(image, lib.checkmap_plan_backup, (raw, len(raw), given, len(secret)), progress)


def plan_backup_running(
    machine: Machine, node: Name, checkpoint: Name, *, progress: Optional[Progress] = None
) -> BackupPlan:
    """As plan_backup(), for a disk of a running machine, which is named as for Machine.image()."""
    if not isinstance(machine, Machine):
        raise TypeError(f"a Machine is needed, not {type(machine).__name__}")
    disk, raw = name_bytes(node), name_bytes(checkpoint)
    return _planned(machine, lib.checkmap_plan_backup_running, (disk, len(disk), raw, len(raw)), progress)


def _planned(handle: Handle, function: Any, arguments: Tuple[Any, ...], progress: Optional[Progress]) -> BackupPlan:
    options = Options(progress)
    planned = ffi.new("struct checkmap_planned *")
    reason = ffi.new("char[]", 4096)
    length = options.checked(handle._read(function, *arguments, options.pointer, planned, reason, len(reason)))
    return BackupPlan(
        _TIERS.get(planned.tier, "all"),
        bytes(ffi.buffer(reason, min(length, len(reason)))).decode("utf-8", "ignore") if length else None,
        None if planned.changed_bytes < 0 else planned.changed_bytes,
        None if planned.allocated_bytes < 0 else planned.allocated_bytes,
        planned.disk_size,
    )


def _text_or_none(pointer: Any, length: int) -> Optional[str]:
    return None if pointer == ffi.NULL else name_text(pointer, length)


def _moment(row: Any) -> Moment:
    return Moment(
        name_text(row.disk, row.disk_len),
        _text_or_none(row.image, row.image_len),
        name_text(row.checkpoint, row.checkpoint_len),
        bool(row.flags & lib.CHECKMAP_MOMENT_FULL),
        _text_or_none(row.reason, row.reason_len),
        row.disk_size,
        row.time,
        row.data_bytes,
        row.zero_bytes,
        row.file_bytes,
        bool(row.flags & lib.CHECKMAP_MOMENT_HAS_CHECKPOINT),
    )


def _outcome(options: Options, status: int, out: Any, one: Callable[[Any, int, Any], Any]) -> List[Any]:
    """What each row of an outcome of a call says, unless the call failed; the library's own is freed."""
    pointer = out[0]
    try:
        options.checked(status)
        rows = listed("checkmap_moment", lambda out, room: lib.checkmap_outcome_rows(pointer, out, room))
        return [one(pointer, number, row) for number, row in enumerate(rows)]
    finally:
        lib.checkmap_outcome_free(pointer)


def _texts(pointer: Any, number: int, kind: int) -> List[str]:
    every = listed("checkmap_text", lambda out, room: lib.checkmap_outcome_texts(pointer, number, kind, out, room))
    return [name_text(each.bytes, each.len) for each in every]


def _error(pointer: Any, number: int) -> Optional[CheckmapError]:
    status = lib.checkmap_outcome_error(pointer, number)
    return last_error(status) if status < 0 else None


def _taken(pointer: Any, number: int, row: Any) -> Taken:
    reader = _texts(pointer, number, lib.CHECKMAP_TEXTS_READER)
    return Taken(
        name_text(row.disk, row.disk_len),
        None if row.checkpoint == ffi.NULL else _moment(row),
        bool(row.flags & lib.CHECKMAP_MOMENT_COMPLETE),
        _error(pointer, number),
        _texts(pointer, number, lib.CHECKMAP_TEXTS_CHECKPOINTS),
        _texts(pointer, number, lib.CHECKMAP_TEXTS_WARNINGS),
        _texts(pointer, number, lib.CHECKMAP_TEXTS_FILES),
        reader[0] if reader else None,
    )


def _damage(pointer: Any, number: int, row: Any) -> Damage:
    return Damage(
        name_text(row.disk, row.disk_len),
        name_text(row.checkpoint, row.checkpoint_len),
        _error(pointer, number) or CheckmapError(),
        _texts(pointer, number, lib.CHECKMAP_TEXTS_CHECKPOINTS),
    )


def _pruned(pointer: Any, number: int, row: Any) -> Pruned:
    return Pruned(
        name_text(row.disk, row.disk_len),
        _texts(pointer, number, lib.CHECKMAP_TEXTS_CHECKPOINTS),
        _error(pointer, number),
    )
