"""The handles of the library, and who may use them when.

Calls run without the interpreter's lock, and the library wants a handle for itself while it changes: so each object
counts its users, and a thread waits for its turn where it would clash with another thread. A call takes all its handles
at once, and a thread that is inside of a call already (in a callback, in a handler of a signal) never waits but gets a
RuntimeError: so nobody waits for somebody who waits.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any, Callable, List, Optional, Tuple, Type, TypeVar

from ._native import ffi

Self = TypeVar("Self", bound="Handle")
Result = TypeVar("Result")

# Held for a few instructions only. Reentrant, because a signal handler may come in between.
_COUNTING = threading.RLock()

# Locks of the threads that wait until a handle is free: each is let go to have a look.
_WAITING: List[threading.Lock] = []

# Grows with each fork on the way to this process.
_generation = 0


class _Thread(threading.local):
    """How many uses of handles this thread is inside of."""

    uses = 0


_this_thread = _Thread()


def _forked() -> None:
    global _generation
    _generation += 1
    _wake()
    _COUNTING.release()


os.register_at_fork(before=_COUNTING.acquire, after_in_parent=_COUNTING.release, after_in_child=_forked)


def _wait() -> None:
    """Lets other threads go on until one of them has ended a use; _COUNTING is held before and after."""
    lock = threading.Lock()
    lock.acquire()
    _WAITING.append(lock)
    _COUNTING.release()
    try:
        if _COUNTING._is_owned():  # type: ignore[attr-defined]
            raise RuntimeError("a handler of a signal came in between, and cannot wait")
        lock.acquire()
    finally:
        _COUNTING.acquire()


def _wake() -> None:
    while _WAITING:
        _WAITING.pop().release()


class Handle:
    """What a handle of the library is inside of. Used by many readers, or by one that changes it."""

    __slots__ = ("_generation", "_pointer", "_users", "_wanted", "__weakref__")
    _generation: int
    _pointer: Any
    # How many read it; -1 is one that changes it.
    _users: int
    # How many wait to change it: who only reads lets them go first.
    _wanted: int

    def __new__(cls: Type[Self], *_: Any, **__: Any) -> Self:
        # One whose opening failed, or did not happen, is like a closed one.
        self = object.__new__(cls)
        self._pointer = None
        self._users = self._wanted = 0
        self._generation = _generation
        return self

    def __init__(self, pointer: Any, free: Callable[[Any], None]) -> None:
        self._pointer = ffi.gc(pointer, free)

    def _forget_the_parents_threads(self) -> None:
        """Counts anew in a child, which has none of the threads that used it; the library knows what these left behind."""
        if self._generation != _generation:
            self._users, self._wanted, self._generation = 0, 0, _generation

    def close(self) -> None:
        """Ends the object at once, or when other threads have ended their calls; closing it twice is fine."""
        try:
            pointer = Handle._begin(self, True)
        except ValueError:
            return
        self._pointer = None
        Handle._end(self, True)
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
            pointer = self._pointer
            is_free = (self._users == 0 or (self._users > 0 and not alone)) and not self._wanted
            if pointer is not None and is_free and self._generation == _generation:
                self._users += -1 if alone else 1
                _this_thread.uses += 1
                return pointer
        return _begin_all(((self, alone),))[0]

    def _end(self, alone: bool) -> None:
        with _COUNTING:
            _this_thread.uses -= 1
            self._leave(alone)
            if _WAITING:
                _wake()

    def _leave(self, alone: bool) -> None:
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


# Handles, each with whether it is needed alone.
_Uses = Tuple[Tuple[Handle, bool], ...]


def _begin_all(uses: _Uses) -> List[Any]:
    """Counts this thread among the users of all these handles, when it may use each."""
    with _COUNTING:
        wanted = False
        try:
            while True:
                in_use = None
                for handle, alone in uses:
                    if handle._pointer is None:
                        raise ValueError(f"this {type(handle).__name__} is closed")
                    handle._forget_the_parents_threads()
                    if handle._users < 0 or (alone and handle._users):
                        in_use = handle
                    elif handle._wanted and not _this_thread.uses and not any(alone for _, alone in uses):
                        in_use = handle
                if in_use is None:
                    break
                if _this_thread.uses:
                    raise RuntimeError(f"another call uses this {type(in_use).__name__} while one changes it")
                if not wanted:
                    wanted = True
                    _want(uses, 1)
                _wait()
        finally:
            if wanted:
                _want(uses, -1)
        for handle, alone in uses:
            handle._users += -1 if alone else 1
        _this_thread.uses += len(uses)
        return [handle._pointer for handle, _ in uses]


def _want(uses: _Uses, more: int) -> None:
    for handle, alone in uses:
        if alone:
            handle._wanted = max(handle._wanted + more, 0)


def _end_all(uses: _Uses) -> None:
    with _COUNTING:
        _this_thread.uses -= len(uses)
        for handle, alone in uses:
            handle._leave(alone)
        if _WAITING:
            _wake()


class Borrowed:
    """The handles of some objects, for a `with` in which calls read them, and change one where that is said."""

    __slots__ = ("_uses",)

    def __init__(self, kind: Type[Handle], *objects: Handle, changed: Optional[Handle] = None) -> None:
        for each in objects:
            if not isinstance(each, kind):
                raise TypeError(f"a {kind.__name__} is needed, not {type(each).__name__}")
        first = () if changed is None else ((changed, True),)
        self._uses: _Uses = (*first, *((each, False) for each in objects))

    def __enter__(self) -> List[Any]:
        return _begin_all(self._uses)

    def __exit__(self, *_: Any) -> None:
        _end_all(self._uses)
