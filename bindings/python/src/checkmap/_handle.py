"""The handles of the library, and who may use them when.

Calls run without the interpreter's lock, and the library wants a handle for itself while it changes: so each object
counts its users, and what would clash raises RuntimeError instead. Nothing waits, so nothing can lock up.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any, Callable, Optional, Type, TypeVar

from ._native import ffi

Self = TypeVar("Self", bound="Handle")
Result = TypeVar("Result")

# Held for a few instructions only. Reentrant, because a signal handler may come in between.
_COUNTING = threading.RLock()

# Grows with each fork on the way to this process.
_generation = 0


def _forked() -> None:
    global _generation
    _generation += 1
    _COUNTING.release()


os.register_at_fork(before=_COUNTING.acquire, after_in_parent=_COUNTING.release, after_in_child=_forked)


class Handle:
    """What a handle of the library is inside of. Used by many readers, or by one that changes it."""

    __slots__ = ("_generation", "_pointer", "_users", "__weakref__")
    _generation: int
    _pointer: Any
    _users: int

    def __new__(cls: Type[Self], *_: Any, **__: Any) -> Self:
        # One whose opening failed, or did not happen, is like a closed one.
        self = super().__new__(cls)
        self._pointer = None
        self._users = 0
        self._generation = _generation
        return self

    def __init__(self, pointer: Any, free: Callable[[Any], None]) -> None:
        self._pointer = ffi.gc(pointer, free)
        self._users = 0
        self._generation = _generation

    def _forget_the_parents_threads(self) -> None:
        """Counts anew in a child, which has none of the threads that used it; the library knows what these left behind."""
        if self._generation != _generation:
            self._users, self._generation = 0, _generation

    def close(self) -> None:
        """Ends the object at once; closing it twice is fine."""
        with _COUNTING:
            self._forget_the_parents_threads()
            if self._users:
                raise RuntimeError(f"this {type(self).__name__} is in use by a call")
            pointer, self._pointer = self._pointer, None
        if pointer is not None:
            ffi.release(pointer)

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._pointer is None

    def __enter__(self: Self) -> Self:
        if self._pointer is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self.close()

    def _begin(self, alone: bool) -> Any:
        with _COUNTING:
            if self._pointer is None:
                raise ValueError(f"this {type(self).__name__} is closed")
            self._forget_the_parents_threads()
            if self._users < 0 or (alone and self._users):
                raise RuntimeError(f"another call uses this {type(self).__name__} while one changes it")
            self._users += -1 if alone else 1
            return self._pointer

    def _end(self, alone: bool) -> None:
        with _COUNTING:
            self._forget_the_parents_threads()
            # A call in which the process was forked is not counted in the child.
            if self._users < 0 if alone else self._users > 0:
                self._users -= -1 if alone else 1

    def _read(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function of the library that changes nothing."""
        pointer = self._begin(False)
        try:
            return function(pointer, *arguments)
        finally:
            self._end(False)

    def _change(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Calls a function of the library that needs the handle alone."""
        pointer = self._begin(True)
        try:
            return function(pointer, *arguments)
        finally:
            self._end(True)


class Borrowed:
    """The handles of some objects, for a `with` in which calls read them."""

    __slots__ = ("_objects", "_begun")

    def __init__(self, kind: Type[Handle], *objects: Handle) -> None:
        for each in objects:
            if not isinstance(each, kind):
                raise TypeError(f"a {kind.__name__} is needed, not {type(each).__name__}")
        self._objects = objects
        self._begun = 0

    def __enter__(self) -> list[Any]:
        pointers = []
        try:
            for each in self._objects:
                pointers.append(each._begin(False))
                self._begun += 1
        except BaseException:
            self.__exit__()
            raise
        return pointers

    def __exit__(self, *_: Any) -> None:
        for each in self._objects[: self._begun]:
            each._end(False)
        self._begun = 0
