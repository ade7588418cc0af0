"""Turns Python's arguments into the library's: names, paths, lengths, buffers, options."""

from __future__ import annotations

import operator
import os
from contextlib import contextmanager
from typing import Any, Callable, Iterable, Iterator, List, Optional, TypeVar, Union

from ._errors import CheckmapError, last_error
from ._native import ffi, lib

Thing = TypeVar("Thing")
Name = Union[str, bytes]
Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]
#: Told what is being done, how much of it is done, and of how much in all; a true answer stops the call.
Progress = Callable[[str, int, int], Any]

TO_END = (1 << 64) - 1
MOST_32 = (1 << 32) - 1

# The bytes are all written before anybody reads them.
allocate = ffi.new_allocator(should_clear_after_alloc=False)


def whole(number: Any, what: str, most: int = TO_END) -> int:
    """A whole number that the library can take: what has a fraction is never cut, and text is no number."""
    if type(number) is not int:
        try:
            number = operator.index(number)
        except TypeError:
            raise TypeError(f"{what} is a whole number, not {type(number).__name__}") from None
    if not 0 <= number <= most:
        raise OverflowError(f"{what} is a number from 0 to {most}, not {number}")
    checked_number: int = number
    return checked_number


def up_to(length: Optional[int]) -> int:
    """None is up to the end of the disk."""
    return TO_END if length is None else whole(length, "length")


def source(data: Any, what: str) -> Any:
    """The bytes of any contiguous buffer, for the library to read."""
    try:
        return ffi.from_buffer("uint8_t[]", data)
    except TypeError:
        raise TypeError(f"{what} is bytes or another contiguous buffer, not {type(data).__name__}") from None


def target(out: Any) -> Any:
    """The bytes of a buffer for the library to write."""
    try:
        return ffi.from_buffer("uint8_t[]", out, require_writable=True)
    except TypeError:
        raise TypeError(f"out is a writable, contiguous buffer, not {type(out).__name__}") from None


def name_bytes(name: Name) -> bytes:
    """Names are bytes; those that are no UTF-8 come and go as surrogates, as file names do."""
    if isinstance(name, str):
        return name.encode("utf-8", "surrogateescape")
    if not isinstance(name, bytes):
        raise TypeError(f"a name is str or bytes, not {type(name).__name__}")
    return name


def descriptor(path: object) -> Optional[int]:
    """The descriptor that stands in the place of a path. True and False would be 1 and 0: nobody means those."""
    return path if isinstance(path, int) and not isinstance(path, bool) else None


def path_bytes(path: Any) -> bytes:
    """The bytes of a path."""
    return os.fsencode(path)


def opened(thing: object, path: Union[Path, int]) -> str:
    """What `repr` says of an object that was opened."""
    place = f"of descriptor {path}" if isinstance(path, int) else repr(os.fsdecode(path))
    return f"<checkmap.{type(thing).__name__} {place}>"


@contextmanager
def naming(path: Union[Path, int], *, among: bool = False) -> Iterator[None]:
    """Tells of an error which file it is about; `among` others, only where the message names it."""
    try:
        yield
    except CheckmapError as error:
        if not among or not isinstance(path, int) and os.fsdecode(path) in (error.strerror or ""):
            error.filename = path
        raise


def several(things: Iterable[Thing], what: str) -> List[Thing]:
    """A list of what can be gone through; the characters of a text are never meant."""
    if isinstance(things, (str, bytes, bytearray)) or not isinstance(things, Iterable):
        raise TypeError(f"{what} are a list or another iterable, not {type(things).__name__}")
    return list(things)


def granularity_or_zero(granularity: Optional[int]) -> int:
    """None is what the library chooses."""
    return 0 if granularity is None else whole(granularity, "granularity")


def name_text(pointer: Any, length: int) -> str:
    """The other way round."""
    return bytes(ffi.buffer(pointer, length)).decode("utf-8", "surrogateescape")


def text(pointer: Any) -> str:
    """A text of the library."""
    return str(ffi.string(pointer), "utf-8", "replace")


class Options:
    """Options of a call that can take long, with what they point to. `checked` raises what the callback raised."""

    __slots__ = ("pointer", "_progress", "_raised", "_self")

    def __init__(
        self,
        progress: Optional[Progress] = None,
        *,
        threads: int = 0,
        memory_bytes: int = 0,
        flags: int = 0,
        model: int = 0,
    ) -> None:
        if progress is not None and not callable(progress):
            raise TypeError(f"progress is a function, not {type(progress).__name__}")
        self.pointer = ffi.new("struct checkmap_opts *")
        self.pointer.size = ffi.sizeof("struct checkmap_opts")
        self.pointer.threads = whole(threads, "threads", MOST_32)
        self.pointer.memory_bytes = whole(memory_bytes, "memory_bytes")
        self.pointer.flags = flags
        self.pointer.model = model
        self._progress = progress
        self._raised: List[BaseException] = []
        self._self: Any = None
        if progress is not None:
            self._self = ffi.new_handle(self)
            self.pointer.progress = _tell
            self.pointer.user_data = self._self

    def told(self, phase: str, done: int, total: int) -> int:
        """Asks the callback whether to stop."""
        if self._raised or self._progress is None:
            return 1
        try:
            return 1 if self._progress(phase, done, total) else 0
        except BaseException as error:
            self._raised.append(error)
            return 1

    def checked(self, status: int) -> int:
        """What the call returned, unless it is an error, or the callback raised one."""
        raised, self._raised, self._self = self._raised, [], None
        if raised:
            raise raised[0]
        if status < 0:
            raise last_error(status)
        return status


@ffi.callback("int(void *, const char *, uint64_t, uint64_t)", error=1)  # type: ignore
def _tell(user_data: Any, phase: Any, done: int, total: int) -> int:
    told: int = ffi.from_handle(user_data).told(text(phase), done, total)
    return told


def flags_of(
    top_layer_only: bool = False, force_inconsistent: bool = False, dry_run: bool = False, foreign_too: bool = False
) -> int:
    """The flags of the options."""
    return (
        (lib.CHECKMAP_OPT_TOP_LAYER_ONLY if top_layer_only else 0)
        | (lib.CHECKMAP_OPT_FORCE_INCONSISTENT if force_inconsistent else 0)
        | (lib.CHECKMAP_OPT_DRY_RUN if dry_run else 0)
        | (lib.CHECKMAP_OPT_FOREIGN_TOO if foreign_too else 0)
    )


def model_of(cumulative: Optional[bool]) -> int:
    """The model of the options."""
    models = {None: lib.CHECKMAP_MODEL_NONE, True: lib.CHECKMAP_MODEL_CUMULATIVE, False: lib.CHECKMAP_MODEL_INTERVAL}
    model: int = models[None if cumulative is None else bool(cumulative)]
    return model
