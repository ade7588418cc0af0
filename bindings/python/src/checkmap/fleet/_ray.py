"""Work on a Ray cluster: each batch runs on the host that its disks are on. It never knows what the work is.

A node says which host it is by a label: `ray start --address=HEAD:6379 --labels checkmap-host=NAME`.
"""

from __future__ import annotations

import pickle
import re
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from .._optional import needed
from ._runners import Answers, Lost, Work
from ._work import Batch, Part, words_of

#: The key of the label of a node that says which host of the manifest it is.
LABEL = "checkmap-host"
#: What Ray takes as the value of a label, as Kubernetes does.
_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
#: The oldest Ray that picks nodes by labels.
_OLDEST = (2, 49)
#: Seconds between two looks at which nodes are alive.
_LOOK = 1.0
#: Seconds to wait for what is on a host that did not answer before.
_IMPATIENT = 0.1


class Ray:
    """Does batches on the hosts of a Ray cluster, to which the program has connected by `ray.init()`.

    Each host of the manifest is the value of the label `checkmap-host` of a node: start the nodes by `ray start --address=HEAD:6379
    --labels checkmap-host=NAME`. A batch runs there alone. The package must be installed on each node, in the same version.
    """

    def __init__(
        self,
        *,
        retries: int = 2,
        host_timeout: float = 60.0,
        timeout: Optional[float] = None,
        cpus: float = 1.0,
    ) -> None:
        """retries: how often Ray tries a batch again whose worker or node died.

        host_timeout: seconds that a host may have no node that is alive, before its disks are given up. timeout: seconds that a
        batch may take, the wait for a free CPU included, before it is given up; None is no limit. cpus: what a batch
        takes of the CPUs of its node.
        """
        self.host: Optional[str] = None
        self.retries = retries
        self.host_timeout = host_timeout
        self.timeout = timeout
        self.cpus = cpus

    def check(self) -> None:
        """RuntimeError without a connection, or where Ray is too old; ImportError where it is missing."""
        ray = _ray()
        version = tuple(int(part) for part in re.findall(r"\d+", ray.__version__)[:2])
        if version < _OLDEST:
            raise RuntimeError(f"Ray {ray.__version__} picks no nodes by their labels; 2.49 or newer does")
        if not ray.is_initialized():
            raise RuntimeError('no connection to a Ray cluster: call ray.init(address="auto") before')

    def left_out(self, host: Optional[str]) -> Optional[str]:
        """None: a cluster leaves no host out."""
        return None

    def run(self, work: Work, batches: Sequence[Batch], *, keep: bool = False) -> Answers:
        """See Runner.run()."""
        run = _Run(self, work, batches, keep)
        try:
            yield from run.answers()
        finally:
            run.cancel()

    def merge(
        self, unite: Callable[[List[Part]], Part], groups: Sequence[Sequence[Any]], fan_in: int
    ) -> Iterator[Tuple[int, Union[Part, Lost]]]:
        """See Runner.merge(). The parts go from node to node, and only the last one comes here."""
        ray = _ray()
        task = ray.remote(_unite_all).options(num_cpus=self.cpus, max_retries=self.retries)
        of_group: Dict[Any, int] = {}
        for at, kept in enumerate(groups):
            level = list(kept)
            while len(level) > 1:
                level = [task.remote(unite, *level[first : first + fan_in]) for first in range(0, len(level), fan_in)]
            of_group[level[0]] = at
        begun = time.monotonic()
        while of_group:
            references = list(of_group)
            ray.wait(references, num_returns=1, timeout=_LOOK)
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
            for reference in ready:
                yield of_group.pop(reference), self.fetch(reference)
                begun = time.monotonic()
            if not ready and time.monotonic() - begun > self.host_timeout:
                for reference, at in of_group.items():
                    ray.cancel(reference, force=True)
                    yield at, Lost(f"no union within {self.host_timeout} seconds", self.retries, False)
                return

    def fetch(self, kept: Any, *, patient: bool = True) -> Union[Part, Lost]:
        """See Runner.fetch()."""
        ray = _ray()
        try:
            part: Part = ray.get(kept, timeout=self.host_timeout if patient else _IMPATIENT)
            return part
        except Exception as error:
            return _lost(error, self.retries)


class _Run:
    """One run: which batches wait for their host, and which are under way."""

    def __init__(self, runner: Ray, work: Work, batches: Sequence[Batch], keep: bool) -> None:
        self._ray, self._runner, self._batches, self._keep = _ray(), runner, batches, keep
        self._waiting: Dict[str, Deque[int]] = {}
        for at, batch in enumerate(batches):
            self._waiting.setdefault(batch.host, deque()).append(at)
        # The reference that says that a batch has ended: its number, its host, when it was handed over, and what is kept.
        self._running: Dict[Any, Tuple[int, str, float, Any]] = {}
        self._room: Dict[str, int] = {}
        self._last_seen = dict.fromkeys(self._waiting, time.monotonic())
        self._looked = float("-inf")
        self._task = self._ray.remote(_keep if keep else _do)
        self._options = {
            "num_cpus": runner.cpus,
            "max_retries": runner.retries,
            "num_returns": 2 if keep else 1,
        }
        self._work = work

    def answers(self) -> Iterator[Tuple[int, Any]]:
        for host in [host for host in self._waiting if not _VALUE.match(host)]:
            lost = Lost(f"host {host!r} cannot be a label of a node: 1 to 63 letters, digits, dots, - and _", 0, True)
            yield from [(at, lost) for at in self._waiting.pop(host)]
        while self._waiting or self._running:
            yield from self._look()
            self._hand_over()
            if not self._running:
                time.sleep(min(_LOOK, self._runner.host_timeout / 4))
                continue
            references = list(self._running)
            self._ray.wait(references, num_returns=1, timeout=_LOOK)
            ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
            for reference in ready:
                yield self._taken(reference)

    def _look(self) -> Iterator[Tuple[int, Any]]:
        """Looks which hosts have a node that is alive, and gives up those that had none for too long, and late batches."""
        now = time.monotonic()
        if now - self._looked < min(_LOOK, self._runner.host_timeout / 4):
            return
        self._looked = now
        self._room = {}
        for node in self._ray.nodes():
            host = (node.get("Labels") or {}).get(LABEL)
            cpus = node.get("Resources", {}).get("CPU", 0)
            if node.get("Alive") and host is not None and cpus >= self._runner.cpus:
                # One batch for each place, and one that waits for it.
                places = int(cpus / max(self._runner.cpus, 0.01))
                self._room[host] = self._room.get(host, 0) + 2 * max(places, 1)
        for host in {*self._waiting, *(host for _, host, _, _ in self._running.values())}:
            if host in self._room:
                self._last_seen[host] = now
            elif now - self._last_seen[host] >= self._runner.host_timeout:
                yield from self._given_up(host)
        if self._runner.timeout is not None:
            for reference, (at, _, begun, _) in list(self._running.items()):
                if now - begun > self._runner.timeout:
                    self._drop(reference)
                    yield at, Lost(f"no answer within {self._runner.timeout} seconds", 0, False)

    def _given_up(self, host: str) -> Iterator[Tuple[int, Any]]:
        seconds = self._runner.host_timeout
        needs = f"the label {LABEL}={host} and {self._runner.cpus:g} CPU"
        words = f"no node of the cluster had {needs} for {seconds:g} seconds"
        for reference, (at, its_host, _, _) in list(self._running.items()):
            if its_host == host:
                self._drop(reference)
                yield at, Lost(words, 0, True)
        for at in self._waiting.pop(host, ()):
            yield at, Lost(words, 0, True)

    def _hand_over(self) -> None:
        """Hands each host as many batches as it has room for; the others wait here, not in Ray."""
        busy: Dict[str, int] = {}
        for _, host, _, _ in self._running.values():
            busy[host] = busy.get(host, 0) + 1
        for host, waiting in list(self._waiting.items()):
            while waiting and busy.get(host, 0) < self._room.get(host, 0):
                at = waiting.popleft()
                task = self._task.options(label_selector={LABEL: host}, **self._options)
                made = task.remote(self._work, self._batches[at])
                reference, kept = made if self._keep else (made, None)
                self._running[reference] = at, host, time.monotonic(), kept
                busy[host] = busy.get(host, 0) + 1
            if not waiting:
                del self._waiting[host]

    def _taken(self, reference: Any) -> Tuple[int, Any]:
        at, _, _, kept = self._running.pop(reference)
        try:
            answer = self._ray.get(reference)
        except Exception as error:
            return at, _lost(error, self._runner.retries)
        return at, kept if self._keep else pickle.loads(answer)

    def _drop(self, reference: Any) -> None:
        del self._running[reference]
        try:
            self._ray.cancel(reference, force=True)
        except Exception:  # It has ended, or its node has.
            pass

    def cancel(self) -> None:
        """Ends what is under way, where the caller wants no more answers."""
        for reference in list(self._running):
            self._drop(reference)


def _ray() -> Any:
    return needed("ray", "fleet", "checkmap.fleet.Ray runs on Ray")


def _lost(error: BaseException, retries: int) -> Lost:
    """A batch that Ray gave no answer for. An exception in a task is final: it would come again."""
    exceptions = needed("ray.exceptions", "fleet", "checkmap.fleet.Ray runs on Ray")
    final = not isinstance(error, (exceptions.RayError, TimeoutError)) or isinstance(error, exceptions.RayTaskError)
    if isinstance(error, exceptions.RayTaskError):
        error = getattr(error, "cause", None) or error
    return Lost(f"{type(error).__name__}: {words_of(error)}", 0 if final else retries, final)


# What the tasks do: functions of this module, which each node has too.


def _do(work: Work, batch: Batch) -> bytes:
    # By Python's own pickle: for tables Ray has another one, which needs pandas.
    return pickle.dumps(work(batch), protocol=5)


def _keep(work: Work, batch: Batch) -> Tuple[bool, Any]:
    return True, work(batch)


def _unite_all(unite: Callable[[List[Part]], Part], *parts: Part) -> Part:
    return unite(list(parts))
