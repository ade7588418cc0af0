"""Images and their checkpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Callable, Iterable, List, Optional, Union

from ._arguments import (
    MOST_32,
    Name,
    Options,
    Path,
    Progress,
    descriptor,
    flags_of,
    granularity_or_zero,
    model_of,
    name_bytes,
    name_text,
    naming,
    opened,
    path_bytes,
    several,
    text,
    up_to,
    whole,
)
from ._bitmap import Bitmap
from ._errors import CheckmapError, checked, last_error, listed
from ._handle import Handle, Result, _begin_all, _end_all
from ._native import ffi, lib
from ._report import Report, report_of

_MODELS = {
    lib.CHECKMAP_MODEL_NONE: None,
    lib.CHECKMAP_MODEL_INTERVAL: "interval",
    lib.CHECKMAP_MODEL_CUMULATIVE: "cumulative",
    lib.CHECKMAP_MODEL_UNKNOWN: "unknown",
}


@dataclass(frozen=True)
class Checkpoint:
    """A point in time.

    name: Its name; bytes that are no UTF-8 are surrogates in it, as in file names.
    parent: The checkpoint before it; None where there is none, or where nothing stores it.
    granularity: The bytes that one bit stands for.
    dirty_bytes: How many bytes are dirty in the bitmap that begins here; None is unknown.
    recording: The bitmap that begins here records the writes of now.
    inconsistent: What it knows cannot be trusted: its writer did not store it.
    unusable: The bitmap has a type or extra data that the library does not know.
    unordered: Nobody can tell where among the others it stands: a cumulative one, or one between several gaps.
    gap: The bitmap before it is missing: no diff can cross this gap.
    """

    name: str
    parent: Optional[str]
    granularity: int
    dirty_bytes: Optional[int]
    recording: bool
    inconsistent: bool
    unusable: bool
    unordered: bool
    gap: bool


@dataclass(frozen=True)
class StoredBitmap:
    """A bitmap as it is stored in an image, whatever it belongs to.

    name: Its name; bytes that are no UTF-8 are surrogates in it, as in file names.
    granularity: The bytes that one bit stands for.
    recording: It records the writes of now.
    inconsistent: What it holds cannot be trusted: its writer did not store it.
    unusable: It has a type or extra data that the library does not know.
    """

    name: str
    granularity: int
    recording: bool
    inconsistent: bool
    unusable: bool


@dataclass(frozen=True)
class Summary:
    """What a stored bitmap amounts to; None is unknown.

    dirty_bytes: The sum of its dirty extents, in bytes.
    dirty_extents: The number of its dirty extents.
    stored_bytes: The bytes that it takes in the image.
    """

    dirty_bytes: Optional[int]
    dirty_extents: Optional[int]
    stored_bytes: Optional[int]


@dataclass(frozen=True)
class ImageInfo:
    """What an image is.

    format: The name of the format, such as "qcow2".
    format_version: The version of the format.
    disk_size: The size of the virtual disk in bytes.
    cluster_size: The unit in which the image allocates room, in bytes.
    default_granularity: The granularity of a new bitmap where nothing else says one; 0 where the image can have
        none.
    backing_file: The name of the backing file as it is stored; None if there is none.
    data_file: The name of the external data file as it is stored; None if there is none.
    model: "interval", "cumulative", "unknown"; None without bitmaps.
    unclean: Marked dirty or corrupt: it can be read, and must be repaired before it is written.
    held_by_writer: A running writer was seen (force_share only).
    trouble: No bitmap of it can be used; trouble() says why.
    """

    format: str
    format_version: int
    disk_size: int
    cluster_size: int
    default_granularity: int
    backing_file: Optional[str]
    data_file: Optional[str]
    model: Optional[str]
    unclean: bool
    held_by_writer: bool
    trouble: bool


def _known(number: int) -> Optional[int]:
    return None if number < 0 else number


class Image(Handle):
    """An open disk image. Its locks are held until it is closed: use it in a `with`.

    It is opened once, and stays that file whatever happens to its path or to the descriptor. It is locked for reading,
    and for writing from the first call on that changes something, InUseError if somebody else reads it; in between
    nobody can write. `writable=True` locks it so at once, `writable=False` never.

    Many threads may ask one image at once; to change it is for one alone, and others wait for their turn. A forked
    child must not use it, and does not close it.
    """

    __slots__ = ("_upgrade", "_path", "_process")

    def __init__(
        self,
        path: Union[Path, int],
        *,
        writable: Optional[bool] = None,
        no_lock: bool = False,
        force_share: bool = False,
        threads: int = 0,
    ) -> None:
        """Opens the image at a path, or behind a descriptor, which stays the caller's and may be closed at once.

        no_lock: for file systems without locks, where the caller knows that nobody else changes the image; InUseError
        if a writer is seen, ChangedError if somebody wrote. force_share: names and flags only, while a running QEMU
        holds the image. threads: how many may be used where there is much to do; 0 and 1 both mean the caller's alone.
        """
        flags = (
            (lib.CHECKMAP_OPEN_RDWR if writable else 0)
            | (lib.CHECKMAP_OPEN_NO_LOCK if no_lock else 0)
            | (lib.CHECKMAP_OPEN_FORCE_SHARE if force_share else 0)
        )
        out = ffi.new("checkmap_image **")
        with naming(path):
            fd = descriptor(path)
            if fd is not None:
                checked(lib.checkmap_image_open_fd(fd, flags, out))
            else:
                name = path_bytes(path)
                checked(lib.checkmap_image_open(name, len(name), flags, out))

        self._take(out[0], path, threads, upgrade=writable is None and not force_share)

    @classmethod
    def _of(cls, pointer: Any, path: Path, threads: int) -> Image:
        """An image that the library opened otherwise, for changes as well."""
        self = cls.__new__(cls)
        self._take(pointer, path, threads, upgrade=False)
        return self

    def _take(self, pointer: Any, path: Union[Path, int], threads: int, *, upgrade: bool) -> None:
        self._upgrade = upgrade
        self._path = path
        self._process = process = os.getpid()

        def close(pointer: Any) -> None:
            # A forked child shares its parent's locks.
            if os.getpid() == process:
                lib.checkmap_image_close(pointer)

        super().__init__(pointer, close)
        try:
            checked(self._change(lib.checkmap_image_set_threads, whole(threads, "threads", MOST_32), upgrade=False))
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return opened(self, self._path) if not self.closed else "<checkmap.Image, closed>"

    def _begin(self, alone: bool) -> Any:
        pointer = super()._begin(alone)
        try:
            self._check_process()
        except RuntimeError:
            self._end(alone)
            raise
        return pointer

    def _change(self, function: Callable[..., Result], *arguments: Any, upgrade: bool = True) -> Result:
        pointer = self._begin(True)
        try:
            if upgrade:
                self._lock_for_writing(pointer)
            return function(pointer, *arguments)
        finally:
            self._end(True)

    def _lock_for_writing(self, pointer: Any) -> None:
        if self._upgrade:
            checked(lib.checkmap_image_upgrade(pointer))
            self._upgrade = False

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("a forked child must not use an image of its parent's")

    def _named(self, function: Callable[..., Any], options: Options, *names: Name, more: Iterable[Any] = ()) -> None:
        arguments: List[Any] = []
        for name in map(name_bytes, names):
            arguments += (name, len(name))
        options.checked(self._change(function, *arguments, *more, options.pointer))

    # Checkpoints.

    def checkpoints(
        self, *, cumulative: Optional[bool] = None, progress: Optional[Progress] = None
    ) -> List[Checkpoint]:
        """The checkpoints, oldest first.

        cumulative: of an image with intervals and libvirt's cumulative checkpoints, which are listed; by default the
        intervals.
        """
        model = model_of(cumulative)

        def ask(pointer: Any) -> List[Checkpoint]:
            # It is asked twice, and options serve one call.
            def call(out: Any, room: int) -> int:
                options = Options(progress, model=model)
                return options.checked(lib.checkmap_checkpoint_list_with(pointer, options.pointer, out, room))

            return [
                Checkpoint(
                    name_text(each.name, each.name_len),
                    None if each.parent == ffi.NULL else name_text(each.parent, each.parent_len),
                    each.granularity,
                    _known(each.dirty_bytes),
                    bool(each.flags & lib.CHECKMAP_CHECKPOINT_RECORDING),
                    bool(each.flags & lib.CHECKMAP_CHECKPOINT_INCONSISTENT),
                    bool(each.flags & lib.CHECKMAP_CHECKPOINT_UNUSABLE),
                    bool(each.flags & lib.CHECKMAP_CHECKPOINT_UNORDERED),
                    bool(each.flags & lib.CHECKMAP_CHECKPOINT_GAP),
                )
                for each in listed("checkmap_checkpoint", call)
            ]

        return self._read(ask)

    def create(
        self,
        name: Name,
        granularity: Optional[int] = None,
        *,
        dry_run: bool = False,
        cumulative: Optional[bool] = None,
        progress: Optional[Progress] = None,
    ) -> None:
        """Creates a checkpoint of now, in one atomic step; None is the granularity of the newest, else the default.

        cumulative: the model of an image that has no checkpoints yet, or whose own is unknown; by default intervals.
        """
        options = Options(progress, flags=flags_of(dry_run=dry_run), model=model_of(cumulative))
        self._named(lib.checkmap_checkpoint_create_with, options, name, more=(granularity_or_zero(granularity),))

    def delete(
        self,
        name: Name,
        *,
        dry_run: bool = False,
        top_layer_only: bool = False,
        force_inconsistent: bool = False,
        cumulative: Optional[bool] = None,
        progress: Optional[Progress] = None,
    ) -> None:
        """Deletes a checkpoint, in one atomic step: the interval before it absorbs the one after it.

        Layers below that know it change too, each in an atomic step of its own after all were tried; the same call finishes
        what was cut short, after a CommitInDoubtError too. top_layer_only: do not look at them. force_inconsistent: also where what it holds cannot be trusted,
        giving up what older checkpoints know with it. cumulative: what to take the checkpoints for where the image does
        not tell, or, where it has intervals and libvirt's checkpoints, which are meant: else the chain that has the name.
        """
        flags = flags_of(top_layer_only, force_inconsistent, dry_run)
        options = Options(progress, flags=flags, model=model_of(cumulative))
        self._named(lib.checkmap_checkpoint_delete_with, options, name)

    def delete_inconsistent(
        self,
        *,
        dry_run: bool = False,
        top_layer_only: bool = False,
        cumulative: Optional[bool] = None,
        progress: Optional[Progress] = None,
    ) -> None:
        """Deletes every inconsistent checkpoint, and all that depend on them; the next backup is full."""
        options = Options(progress, flags=flags_of(top_layer_only, dry_run=dry_run), model=model_of(cumulative))
        self._named(lib.checkmap_checkpoint_delete_inconsistent, options)

    def recover(self, *, progress: Optional[Progress] = None) -> Optional[str]:
        """Ends a change of several images in files that was interrupted, on all of them; this one tells which.

        "finished" where every image has the change now, "undone" where none has it, "left apart" where it could not be undone on some
        that have it; None where no change was interrupted. See create_many.
        """
        options = Options(progress)
        outcome = options.checked(self._change(lib.checkmap_image_recover, options.pointer))
        outcomes = {
            lib.CHECKMAP_STEP_FINISHED: "finished",
            lib.CHECKMAP_STEP_UNDONE: "undone",
            lib.CHECKMAP_STEP_LEFT_APART: "left apart",
        }
        return outcomes.get(outcome)

    def forget_step(self) -> None:
        """Leaves the image as an interrupted change of several left it: where the journal or the other images are lost."""
        checked(self._change(lib.checkmap_image_forget_step))

    def drop_before(
        self,
        name: Name,
        *,
        dry_run: bool = False,
        cumulative: Optional[bool] = None,
        progress: Optional[Progress] = None,
    ) -> None:
        """Makes a checkpoint the first one: the bitmaps of all older ones are dropped, also those before gaps."""
        options = Options(progress, flags=flags_of(dry_run=dry_run), model=model_of(cumulative))
        self._named(lib.checkmap_checkpoint_drop_before, options, name)

    def rename(
        self,
        name: Name,
        to: Name,
        *,
        dry_run: bool = False,
        top_layer_only: bool = False,
        cumulative: Optional[bool] = None,
        progress: Optional[Progress] = None,
    ) -> None:
        """Renames a checkpoint, in one atomic step; layers below that know it change as those of delete."""
        options = Options(progress, flags=flags_of(top_layer_only, dry_run=dry_run), model=model_of(cumulative))
        self._named(lib.checkmap_checkpoint_rename_with, options, name, to)

    def commit_bitmaps(self, base: Image, *, dry_run: bool = False, progress: Optional[Progress] = None) -> None:
        """Lets a layer below this image take in the checkpoints of this one and of the layers between, in one atomic step.

        Before or after the data are committed there, and again: bits are only added. `base.warnings` says what to know.
        """
        if not isinstance(base, Image):
            raise TypeError(f"an Image is needed, not {type(base).__name__}")
        options = Options(progress, flags=flags_of(dry_run=dry_run))
        if base is self:
            options.checked(self._change(lambda pointer: lib.checkmap_commit_bitmaps(pointer, pointer, options.pointer)))
        uses = ((self, False), (base, True))
        top, below = _begin_all(uses)
        try:
            self._check_process()
            base._check_process()
            base._lock_for_writing(below)
            status = lib.checkmap_commit_bitmaps(top, below, options.pointer)
        finally:
            _end_all(uses)
        options.checked(status)

    def diff(
        self,
        since: Name,
        until: Optional[Name] = None,
        *,
        offset: int = 0,
        length: Optional[int] = None,
        top_layer_only: bool = False,
        cumulative: Optional[bool] = None,
        progress: Optional[Progress] = None,
    ) -> Bitmap:
        """The blocks that changed since a checkpoint, until another one, or until now; never short.

        offset and length are a window of the disk, outside of which the bitmap is clean.
        """
        offset = whole(offset, "offset")
        first = name_bytes(since)
        last = b"" if until is None else name_bytes(until)
        options = Options(progress, flags=flags_of(top_layer_only), model=model_of(cumulative))
        out = ffi.new("checkmap_bitmap **")
        options.checked(
            self._read(
                lib.checkmap_diff_with,
                first,
                len(first),
                ffi.NULL if until is None else last,
                len(last),
                offset,
                up_to(length),
                options.pointer,
                out,
            )
        )
        return Bitmap._of(out[0])

    # The image.

    def info(self) -> ImageInfo:
        """What the image is."""

        def ask(pointer: Any) -> ImageInfo:
            info = ffi.new("struct checkmap_image_info *")
            info.size = ffi.sizeof("struct checkmap_image_info")
            checked(lib.checkmap_image_get_info(pointer, info))
            return ImageInfo(
                text(info.format),
                info.format_version,
                info.disk_size,
                info.cluster_size,
                info.default_granularity,
                None if info.backing_file == ffi.NULL else name_text(info.backing_file, info.backing_file_len),
                None if info.data_file == ffi.NULL else name_text(info.data_file, info.data_file_len),
                _MODELS.get(info.model, "unknown"),
                bool(info.flags & lib.CHECKMAP_IMAGE_UNCLEAN),
                bool(info.flags & lib.CHECKMAP_IMAGE_HELD_BY_WRITER),
                bool(info.flags & lib.CHECKMAP_IMAGE_TROUBLE),
            )

        return self._read(ask)

    def trouble(self) -> Optional[CheckmapError]:
        """Why no bitmap of the image can be used; None if they can be."""
        status = self._read(lib.checkmap_image_trouble)
        return last_error(status) if status < 0 else None

    def warnings(self) -> List[str]:
        """What to tell the user: of the opening, or of the last call that changed the image or tried to."""

        def ask(pointer: Any) -> List[str]:
            count = checked(lib.checkmap_image_warnings(pointer))
            return [text(lib.checkmap_image_warning(pointer, index)) for index in range(count)]

        return self._read(ask)

    def check(self, progress: Optional[Progress] = None) -> Report:
        """Verifies every structure and rule. What is wrong is in the report, and no error."""
        options = Options(progress)
        out = ffi.new("checkmap_report **")
        options.checked(self._read(lib.checkmap_image_check, options.pointer, out))
        return report_of(out[0])

    # Bitmaps as they are stored.

    def stored(self) -> List[StoredBitmap]:
        """The bitmaps in the order of the image."""

        def ask(pointer: Any) -> List[StoredBitmap]:
            return [
                StoredBitmap(
                    name_text(each.name, each.name_len),
                    each.granularity,
                    bool(each.flags & lib.CHECKMAP_CHECKPOINT_RECORDING),
                    bool(each.flags & lib.CHECKMAP_CHECKPOINT_INCONSISTENT),
                    bool(each.flags & lib.CHECKMAP_CHECKPOINT_UNUSABLE),
                )
                for each in listed("checkmap_stored", lambda out, room: lib.checkmap_stored_list(pointer, out, room))
            ]

        return self._read(ask)

    def read_stored(self, name: Name, offset: int = 0, length: Optional[int] = None) -> Bitmap:
        """Reads a stored bitmap; outside of the window it is clean."""
        raw = name_bytes(name)
        window = (whole(offset, "offset"), up_to(length))
        return self._read(lambda pointer: Bitmap._made(lib.checkmap_stored_read, pointer, raw, len(raw), *window))

    def summarize_stored(self, name: Name) -> Summary:
        """What a stored bitmap amounts to."""
        raw = name_bytes(name)
        out = ffi.new("struct checkmap_summary *")
        checked(self._read(lib.checkmap_stored_summarize, raw, len(raw), out))
        return Summary(_known(out.dirty_bytes), _known(out.dirty_extents), _known(out.stored_bytes))

    def sha256_stored(self, name: Name) -> bytes:
        """The SHA-256 of a stored bitmap, see Bitmap.sha256; a running hypervisor computes its own."""
        raw = name_bytes(name)
        out = ffi.new("struct checkmap_sha256 *")
        checked(self._read(lib.checkmap_stored_sha256, raw, len(raw), out))
        return bytes(ffi.buffer(out.bytes))

    def merge_stored(
        self, names: Iterable[Name], into: Name, *, dry_run: bool = False, progress: Optional[Progress] = None
    ) -> None:
        """Makes a stored bitmap into the union of itself and others, in one atomic step; the others stay."""
        raw = [ffi.from_buffer("char[]", name_bytes(name)) for name in several(names, "names")]
        options = Options(progress, flags=flags_of(dry_run=dry_run))
        target = name_bytes(into)
        options.checked(
            self._change(
                lib.checkmap_stored_merge,
                ffi.new("char *[]", raw),
                ffi.new("size_t[]", [len(name) for name in raw]),
                len(raw),
                target,
                len(target),
                options.pointer,
            )
        )

    def drop_stored(self, name: Name, *, dry_run: bool = False, progress: Optional[Progress] = None) -> None:
        """Drops one stored bitmap, whatever it belongs to; a checkpoint that loses its bitmap leaves a gap."""
        self._named(lib.checkmap_stored_drop, Options(progress, flags=flags_of(dry_run=dry_run)), name)

    def drop_all(
        self, *, foreign_too: bool = False, dry_run: bool = False, progress: Optional[Progress] = None
    ) -> None:
        """Drops all bitmaps with their directory, damaged or not; `warnings` says what is lost.

        Bitmaps that belong to no checkpoint go only with `foreign_too`.
        """
        options = Options(progress, flags=flags_of(dry_run=dry_run, foreign_too=foreign_too))
        self._named(lib.checkmap_stored_drop_all, options)
