"""What can go wrong: an exception for each kind of error of the library."""

from __future__ import annotations

import errno
import re
from typing import Any, Callable, Dict, Iterator, Match, Optional, Tuple, Type

from ._native import ffi, lib

__all__ = [
    "BackingLayerError",
    "BrokenChainError",
    "CancelledError",
    "CannotStoreError",
    "ChangedError",
    "CheckmapError",
    "CommitInDoubtError",
    "DamagedError",
    "ExistsError",
    "ClosedPipeError",
    "FileMissingError",
    "HypervisorError",
    "InUseError",
    "InconsistentError",
    "InvalidArgumentError",
    "InvalidNameError",
    "IsDirectoryError",
    "ModelError",
    "NameTooLongError",
    "NoLocksError",
    "NotDirectoryError",
    "NoSpaceError",
    "NotFoundError",
    "OldVersionError",
    "OrderError",
    "OutOfMemoryError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "PoisonedError",
    "ReadOnlyError",
    "ReadOnlyFileError",
    "RecordingError",
    "SizeMismatchError",
    "StaleError",
    "SystemCallError",
    "TimedOutError",
    "TornByForkError",
    "UncleanError",
    "UnknownFormatError",
    "UnsupportedError",
    "WouldBlockError",
]


class CheckmapError(OSError):
    """What every error of the library derives from.

    errno: the system's number of it.
    kind: the library's name of it, such as "DAMAGED".
    strerror: the message, which says which file, which part of it, what is wrong, and what to do.
    filename: the path or descriptor that a call was given to open or to write; None for other calls.
    """

    kind: str = ""

    def __str__(self) -> str:
        # The message names the file already.
        return f"[Errno {self.errno}] {self.strerror}" if self.strerror else super().__str__()


class SystemCallError(CheckmapError):
    """The operating system refused; the errno is its own."""


class FileMissingError(SystemCallError, FileNotFoundError):
    """There is no such file: the SystemCallError with ENOENT. A checkpoint that is missing is a NotFoundError."""


class PermissionDeniedError(SystemCallError, PermissionError):
    """The file may not be used: the SystemCallError with EACCES. To write an image: ReadOnlyFileError."""


class IsDirectoryError(SystemCallError, IsADirectoryError):
    """A folder stands where a file is wanted: the SystemCallError with EISDIR."""


class NotDirectoryError(SystemCallError, NotADirectoryError):
    """A part of the path is no folder: the SystemCallError with ENOTDIR."""


class ClosedPipeError(SystemCallError, BrokenPipeError):
    """Nobody reads what is written to a pipe: the SystemCallError with EPIPE."""


class WouldBlockError(SystemCallError, BlockingIOError):
    """A descriptor that does not wait has no room now: the SystemCallError with EAGAIN."""


class TimedOutError(SystemCallError, TimeoutError):
    """What the file lies on did not answer: the SystemCallError with ETIMEDOUT."""


class NoSpaceError(CheckmapError):
    """The disk, or the block device that cannot grow, is full."""


class InvalidArgumentError(CheckmapError, ValueError):
    """An argument that no disk could make right: a granularity that is no power of two, an unaligned clear."""


class OutOfRangeError(CheckmapError, ValueError):
    """A range that ends past the last granule of the disk."""


class SizeMismatchError(CheckmapError, ValueError):
    """Two bitmaps of disks of different size."""


class InvalidNameError(CheckmapError, ValueError):
    """A name that is empty or holds what a name may not hold."""


class NameTooLongError(CheckmapError, ValueError):
    """A name above the limit."""


class NotFoundError(CheckmapError):
    """No checkpoint or bitmap has this name; ENOENT too. A file that is missing is a FileMissingError."""


class ExistsError(CheckmapError):
    """A checkpoint or bitmap of this name is there already."""


class UnknownFormatError(CheckmapError):
    """The content is no format that checkmap knows."""


class UnsupportedError(CheckmapError):
    """The format is known, this version or feature of it is not."""


class DamagedError(CheckmapError):
    """The bytes break a rule of their format."""


class InUseError(CheckmapError):
    """Another process, or another object of this one, has the image open in a way that excludes this one."""


class NoLocksError(CheckmapError):
    """The file system cannot lock, so nothing protects the image from a running QEMU."""


class ReadOnlyError(CheckmapError):
    """The image, or the handle to it, does not allow writing."""


class ReadOnlyFileError(ReadOnlyError, PermissionError):
    """The file may not be written: the ReadOnlyError with EACCES."""


class UncleanError(CheckmapError):
    """The image carries the mark of a crash or of damage, so its free space cannot be trusted."""


class StaleError(CheckmapError):
    """Software that knows nothing of bitmaps wrote to the image: every bitmap in it is out of date."""


class InconsistentError(CheckmapError):
    """A bitmap was not stored when its writer ended: its content cannot be trusted."""


class RecordingError(CheckmapError):
    """A bitmap that must record does not, or one that must be frozen records."""


class BrokenChainError(CheckmapError):
    """The names of the bitmaps do not form one chain of checkpoints."""


class ModelError(CheckmapError):
    """The model of the checkpoints is unknown, or does not offer this operation."""


class OrderError(CheckmapError):
    """The checkpoints asked for are in the wrong order."""


class BackingLayerError(CheckmapError):
    """A layer below the image takes part, or cannot be read, so the answer would be short."""


class CancelledError(CheckmapError):
    """The caller asked to stop, and nothing was changed."""


class CommitInDoubtError(CheckmapError):
    """Writing failed after the commit began: the image holds the state before or the state after, whole."""


class ChangedError(CheckmapError):
    """The image changed under a handle that holds no locks."""


class OldVersionError(CheckmapError):
    """The image is of a version that cannot hold bitmaps."""


class CannotStoreError(CheckmapError):
    """This image cannot take what was asked for: no room in its header, a disk of size zero, a limit of its format."""


class PoisonedError(CheckmapError):
    """A call on this object was cut short by a fault of checkmap itself: what it holds may be half a state."""


class OutOfMemoryError(CheckmapError, MemoryError):
    """The system has no memory for what the call needs, and nothing was changed."""


class TornByForkError(CheckmapError):
    """A fork caught another thread in the middle of a change of this object: what the child holds may be half a state."""


class HypervisorError(CheckmapError):
    """A running hypervisor refused a command, or the connection to it broke."""


_KINDS: Dict[int, Type[CheckmapError]] = {
    lib.CHECKMAP_ERROR_IO: SystemCallError,
    lib.CHECKMAP_ERROR_NO_SPACE: NoSpaceError,
    lib.CHECKMAP_ERROR_INVALID_ARGUMENT: InvalidArgumentError,
    lib.CHECKMAP_ERROR_OUT_OF_RANGE: OutOfRangeError,
    lib.CHECKMAP_ERROR_SIZE_MISMATCH: SizeMismatchError,
    lib.CHECKMAP_ERROR_INVALID_NAME: InvalidNameError,
    lib.CHECKMAP_ERROR_NAME_TOO_LONG: NameTooLongError,
    lib.CHECKMAP_ERROR_NOT_FOUND: NotFoundError,
    lib.CHECKMAP_ERROR_EXISTS: ExistsError,
    lib.CHECKMAP_ERROR_UNKNOWN_FORMAT: UnknownFormatError,
    lib.CHECKMAP_ERROR_UNSUPPORTED: UnsupportedError,
    lib.CHECKMAP_ERROR_DAMAGED: DamagedError,
    lib.CHECKMAP_ERROR_IN_USE: InUseError,
    lib.CHECKMAP_ERROR_NO_LOCKS: NoLocksError,
    lib.CHECKMAP_ERROR_READ_ONLY: ReadOnlyError,
    lib.CHECKMAP_ERROR_UNCLEAN: UncleanError,
    lib.CHECKMAP_ERROR_STALE: StaleError,
    lib.CHECKMAP_ERROR_INCONSISTENT: InconsistentError,
    lib.CHECKMAP_ERROR_RECORDING: RecordingError,
    lib.CHECKMAP_ERROR_BROKEN_CHAIN: BrokenChainError,
    lib.CHECKMAP_ERROR_MODEL: ModelError,
    lib.CHECKMAP_ERROR_ORDER: OrderError,
    lib.CHECKMAP_ERROR_BACKING_LAYER: BackingLayerError,
    lib.CHECKMAP_ERROR_CANCELLED: CancelledError,
    lib.CHECKMAP_ERROR_COMMIT_IN_DOUBT: CommitInDoubtError,
    lib.CHECKMAP_ERROR_CHANGED: ChangedError,
    lib.CHECKMAP_ERROR_OLD_VERSION: OldVersionError,
    lib.CHECKMAP_ERROR_CANNOT_STORE: CannotStoreError,
    lib.CHECKMAP_ERROR_POISONED: PoisonedError,
    lib.CHECKMAP_ERROR_OUT_OF_MEMORY: OutOfMemoryError,
    lib.CHECKMAP_ERROR_TORN_BY_FORK: TornByForkError,
    lib.CHECKMAP_ERROR_HYPERVISOR: HypervisorError,
}

# The classes that are an exception of Python's own too, as the errno says.
_OF_PYTHON: Dict[Tuple[Type[CheckmapError], int], Type[CheckmapError]] = {
    (SystemCallError, errno.ENOENT): FileMissingError,
    (SystemCallError, errno.EACCES): PermissionDeniedError,
    (SystemCallError, errno.EISDIR): IsDirectoryError,
    (SystemCallError, errno.ENOTDIR): NotDirectoryError,
    (SystemCallError, errno.EPIPE): ClosedPipeError,
    (SystemCallError, errno.EAGAIN): WouldBlockError,
    (SystemCallError, errno.ETIMEDOUT): TimedOutError,
    (ReadOnlyError, errno.EACCES): ReadOnlyFileError,
}

# What the library's ways out are called here.
_WORDS = {
    "OPEN_FOR_NAMES": "Image(..., force_share=True)",
    "NO_LOCK": "Image(..., no_lock=True)",
    "TOP_LAYER_ONLY": "top_layer_only=True",
    "FORCE_INCONSISTENT": "force_inconsistent=True",
    "DELETE_INCONSISTENT": "Image.delete_inconsistent()",
    "MODEL": "cumulative=...",
    "MODEL=interval": "cumulative=False",
    "MODEL=cumulative": "cumulative=True",
    "DROP_BEFORE": "Image.drop_before()",
    "DROP_BITMAP": "Image.drop_stored()",
    "DROP_ALL": "Image.drop_all()",
    "FOREIGN_TOO": "foreign_too=True",
    "UNTIL": "until",
    "CHECK": "Image.check()",
    "LIST": "Image.checkpoints()",
    "CREATE": "Image.create()",
    "NBD_SOCKET": "Machine(..., nbd_socket=...)",
    "MAX_STALL": "Machine(..., max_stall=...)",
    "JOURNAL": "a file as the first image",
    "RECOVER": "Image.recover()",
    "FORGET_STEP": "Image.forget_step()",
}

# A mark: its name, and what C calls it.
_MARK = re.compile("\x1e([^\x1e\x1f]*)\x1f([^\x1e\x1f]*)\x1e")


def _spelled(marked: str) -> str:
    """A message in the words of this package."""
    return _MARK.sub(_word, marked)


def _word(mark: Match[str]) -> str:
    """What a mark is called here."""
    name, given, what = mark[1].partition("=")
    if given and mark[1] not in _WORDS and name in _WORDS:
        return f"{_WORDS[name]} of {what!r}"
    return _WORDS.get(mark[1], mark[2])


def last_error(status: Optional[int] = None) -> CheckmapError:
    """The last error of this thread, as an exception that nobody raised yet."""
    kind = lib.checkmap_last_error_kind()
    message = _spelled(ffi.string(lib.checkmap_last_error_marked()).decode("utf-8", "replace"))
    number = -status if status is not None else lib.checkmap_last_error_errno()
    known = _KINDS.get(kind, CheckmapError)
    error = _OF_PYTHON.get((known, number), known)(number, message)
    name = lib.checkmap_error_name(kind)
    error.kind = "" if name == ffi.NULL else ffi.string(name).decode().replace("CHECKMAP_ERROR_", "")
    return error


def checked(status: int) -> int:
    """What a call returned, unless it is an error."""
    if status < 0:
        raise last_error(status)
    return status


def listed(struct: str, call: Callable[[Any, int], int]) -> Iterator[Any]:
    """The structs that a call fills in, after it has told how many there are; good while this goes on."""
    room = checked(call(ffi.NULL, 0)) or 1
    out = ffi.new(f"struct {struct}[]", room)
    yield from out[0 : min(checked(call(out, room)), room)]



def found(offset: int) -> Optional[int]:
    """What a call that looks for an offset returned, unless it is an error."""
    if offset == -1:
        return None
    return checked(offset)
