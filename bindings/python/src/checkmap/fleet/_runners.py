"""Where the work is done: in this process, or in processes of this host. It never knows what the work is.

A runner answers for each batch, with what the work made of it or with a Lost; it never raises for one.
"""

from __future__ import annotations

import os
import pickle
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Generator, Iterator, List, NamedTuple, Optional, Protocol, Sequence, Tuple, Union

from ._work import Batch, Part

Work = Callable[[Batch], Any]
Answers = Generator[Tuple[int, Any], None, None]

#: Bytes of the length in front of what goes through a pipe.
_LENGTH_BYTES = 8
#: The most bytes of one read.
_READ_BYTES = 1 << 20
#: Seconds that a new process has at least, where batches have a limit.
_BEGIN = 60.0


class Lost(NamedTuple):
    """A batch without an answer.

    reason: Why, in words.
    retries: How often the batch was tried again.
    final: No part of the batch would end better by itself.
    """

    reason: str
    retries: int
    final: bool


class Runner(Protocol):
    """Does batches of work. The three in this package are Loop, Pool and Ray."""

    #: The host of entries that name none; None where each entry must name one.
    host: Optional[str]

    def check(self) -> None:
        """Raises where no batch can be done, such as without a connection to the cluster."""

    def left_out(self, host: Optional[str]) -> Optional[str]:
        """Why the disks of a host are none of this runner's; None where they are."""

    def run(self, work: Work, batches: Sequence[Batch], *, keep: bool = False) -> Answers:
        """Yields (the number of a batch, its answer or a Lost), in any order; work that is under way ends with the generator.

        keep: answers stay where they were made, and what is yielded is for merge() and fetch() alone.
        """

    def merge(
        self, unite: Callable[[List[Part]], Part], groups: Sequence[Sequence[Any]], fan_in: int
    ) -> Iterator[Tuple[int, Union[Part, Lost]]]:
        """Unites the kept answers of each group, at most fan_in at a time; yields (the number of a group, its part)."""

    def fetch(self, kept: Any, *, patient: bool = True) -> Union[Part, Lost]:
        """A kept answer. patient: wait for a host that may come back."""


class _OnThisHost:
    """What the two runners of one host share."""

    def __init__(self, host: Optional[str], all_hosts: bool) -> None:
        self.host: Optional[str] = host if host is not None else socket.gethostname()
        self.all_hosts = all_hosts

    def check(self) -> None:
        """Nothing is needed."""

    def left_out(self, host: Optional[str]) -> Optional[str]:
        """See Runner.left_out()."""
        if self.all_hosts or host is None or host == self.host:
            return None
        return f"it is on host {host!r}, and this one is {self.host!r}"

    def merge(
        self, unite: Callable[[List[Part]], Part], groups: Sequence[Sequence[Any]], fan_in: int
    ) -> Iterator[Tuple[int, Union[Part, Lost]]]:
        """See Runner.merge()."""
        for at, kept in enumerate(groups):
            level = list(kept)
            while len(level) > 1:
                level = [unite(level[first : first + fan_in]) for first in range(0, len(level), fan_in)]
            yield at, level[0]

    def fetch(self, kept: Any, *, patient: bool = True) -> Union[Part, Lost]:
        """See Runner.fetch()."""
        part: Part = kept
        return part


class Loop(_OnThisHost):
    """Does one disk after the other, in this process."""

    def __init__(self, *, host: Optional[str] = None, all_hosts: bool = False) -> None:
        """host: the name that this host has in manifests; None is the system's. all_hosts: this host can open the disks of
        all others as well, such as on shared storage; without it they are left out."""
        super().__init__(host, all_hosts)

    def run(self, work: Work, batches: Sequence[Batch], *, keep: bool = False) -> Answers:
        for at, batch in enumerate(batches):
            yield at, work(batch)


class Pool(_OnThisHost):
    """Does batches in processes of this host. A process that dies is replaced, and its batch tried again.

    The processes are new Pythons, not forks: a program needs no `if __name__ == "__main__"`. They end with the call, and with
    this process.
    """

    def __init__(
        self,
        processes: Optional[int] = None,
        *,
        host: Optional[str] = None,
        all_hosts: bool = False,
        retries: int = 1,
        timeout: Optional[float] = None,
    ) -> None:
        """processes: how many; None is one for each CPU that this process may use. host, all_hosts: as for Loop.

        retries: how often a batch is tried again whose process died. timeout: seconds that a batch may take before its process is
        killed; None is no limit.
        """
        super().__init__(host, all_hosts)
        self.processes = processes if processes is not None else len(os.sched_getaffinity(0))
        if self.processes < 1:
            raise ValueError(f"a pool has at least 1 process, not {self.processes}")
        self.retries = retries
        self.timeout = timeout

    def run(self, work: Work, batches: Sequence[Batch], *, keep: bool = False) -> Answers:
        waiting: Deque[Tuple[int, Batch]] = deque(enumerate(batches))
        answers: queue.Queue[Tuple[int, Any]] = queue.Queue(maxsize=2 * self.processes)
        stop = threading.Event()

        def drive() -> None:
            with _Process(work, stop) as process:
                while not stop.is_set():
                    try:
                        at, batch = waiting.popleft()
                    except IndexError:
                        return
                    try:
                        answer = self._answer(process, batch)
                    except Exception as error:
                        answer = Lost(f"no process could be used: {error}", 0, True)
                    while not stop.is_set():
                        try:
                            answers.put((at, answer), timeout=0.5)
                            break
                        except queue.Full:
                            continue

        threads = [threading.Thread(target=drive, daemon=True) for _ in range(min(self.processes, len(batches)))]
        for thread in threads:
            thread.start()
        try:
            for _ in range(len(batches)):
                yield answers.get()
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _answer(self, process: _Process, batch: Batch) -> Any:
        for tried in range(self.retries + 1):
            answer = process.ask(batch, self.timeout)
            if not isinstance(answer, Lost):
                return answer
            if answer.final:
                return answer._replace(retries=tried)
        return answer._replace(retries=self.retries)


class _Process:
    """A process that works on batches, one at a time; a new one takes the place of one that ended."""

    def __init__(self, work: Work, stop: threading.Event) -> None:
        self._work, self._stop = work, stop
        self._child: Optional[subprocess.Popen[bytes]] = None
        self._deadline: Optional[float] = None

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, batch: Batch, timeout: Optional[float]) -> Any:
        """The answer to a batch; Lost where the process ended, or took longer than so many seconds.

        A process is asked again only where its last answer was read whole: any error ends it.
        """
        try:
            if self._child is None:
                lost = self._begin(None if timeout is None else max(timeout, _BEGIN))
                if lost is not None:
                    return lost
            try:
                self._deadline = None if timeout is None else time.monotonic() + timeout
                self._send((self._work, batch))
                return self._receive()
            except TimeoutError:
                self._kill()
                return Lost("the call ended" if self._stop.is_set() else f"no answer within {timeout} seconds", 0, False)
            except (EOFError, BrokenPipeError):
                return Lost(f"the process that read it {self._end()}", 0, False)
        except BaseException:
            self._kill()
            raise

    def _begin(self, timeout: Optional[float]) -> Optional[Lost]:
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(each for each in sys.path if each))
        command = [sys.executable, "-m", "checkmap.fleet._worker"]
        # Without buffers, so that poll() knows all that there is to read.
        self._child = subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._deadline = None if timeout is None else time.monotonic() + timeout
        try:
            self._receive()
        except EOFError:
            return Lost(f"no process could begin: {sys.executable} {self._end()}", 0, True)
        except TimeoutError:
            self._kill()
            words = "the call ended" if self._stop.is_set() else f"{sys.executable} was not ready within {timeout} seconds"
            return Lost(f"no process could begin: {words}", 0, True)
        return None

    def _send(self, thing: Any) -> None:
        assert self._child is not None and self._child.stdin is not None
        pipe = self._child.stdin.fileno()
        left = memoryview(_framed(thing))
        while left:
            self._wait(pipe, select.POLLOUT)
            # A pipe that is ready takes so many bytes without a wait.
            left = left[os.write(pipe, left[: select.PIPE_BUF]) :]

    def _receive(self) -> Any:
        return pickle.loads(self._exactly(int.from_bytes(self._exactly(_LENGTH_BYTES), "little")))

    def _exactly(self, size: int) -> bytearray:
        assert self._child is not None and self._child.stdout is not None
        pipe, data = self._child.stdout.fileno(), bytearray()
        while len(data) < size:
            self._wait(pipe, select.POLLIN)
            more = os.read(pipe, min(size - len(data), _READ_BYTES))
            if not more:
                raise EOFError
            data += more
        return data

    def _wait(self, pipe: int, event: int) -> None:
        """Waits until a pipe is ready; TimeoutError behind the deadline, or where the call ended."""
        ready = select.poll()
        ready.register(pipe, event)
        while not ready.poll(200):
            if self._stop.is_set() or (self._deadline is not None and time.monotonic() > self._deadline):
                raise TimeoutError

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._end()

    def _end(self) -> str:
        """Ends the process; returns in words how it ended."""
        child, self._child = self._child, None
        if child is None:
            return "ended"
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        status = child.wait()
        return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def send(pipe: Any, thing: Any) -> None:
    """Writes an object, behind its length in bytes."""
    pipe.write(_framed(thing))
    pipe.flush()


def _framed(thing: Any) -> bytes:
    data = pickle.dumps(thing, protocol=5)
    return len(data).to_bytes(_LENGTH_BYTES, "little") + data


def receive(pipe: Any) -> Any:
    """Reads the object that send() wrote; EOFError where the other side ended."""
    return pickle.loads(_exactly(pipe, int.from_bytes(_exactly(pipe, _LENGTH_BYTES), "little")))


def _exactly(pipe: Any, size: int) -> bytes:
    data: bytes = pipe.read(size)
    if len(data) < size:
        raise EOFError
    return data
