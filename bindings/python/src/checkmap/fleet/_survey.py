"""Surveys and unions of a fleet: splits a manifest into batches, and gathers what a runner answers."""

from __future__ import annotations

import os
from collections import deque
from contextlib import closing
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, Generator, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from .._bitmap import Bitmap
from .._optional import needed
from ._manifest import Entry, Manifest, Path, is_text
from ._runners import Lost, Loop, Runner
from ._tables import Files, arrow, extents_schema, intervals_schema
from ._work import Batch, Part, Request, Result, Surveyed, Volume, survey_batch, unite_batch, unite_parts

if TYPE_CHECKING:
    import pyarrow

Key = Tuple[str, int]
#: Told how many disks are answered for, and of how many.
Told = Callable[[int, int], Any]


class Survey(NamedTuple):
    """What a survey found.

    results: One for each disk, in the order of the manifest.
    files: The Parquet files that were written.
    extents: The rows of all dirty extents, by host and disk; None where they are in files, or were not wanted.
    intervals: The rows of all intervals, likewise.
    """

    results: List[Result]
    files: List[str]
    extents: Optional[pyarrow.Table]
    intervals: Optional[pyarrow.Table]

    @property
    def not_done(self) -> List[Result]:
        """The disks that failed or were left out: as long as there are any, sums over the rows lack them."""
        return [result for result in self.results if result.state != "done"]


class United(NamedTuple):
    """The union of all recordings of a volume.

    volume: Its name in the manifest.
    disks: The names of the entries that record it.
    bitmap: What changed in any of them; None where there is an error.
    error: Why there is no union; None where there is.
    """

    volume: str
    disks: List[str]
    bitmap: Optional[Bitmap]
    error: Optional[str]


def survey(
    manifest: Manifest,
    runner: Optional[Runner] = None,
    *,
    since: Optional[str] = None,
    until: Optional[str] = None,
    each_interval: bool = False,
    out: Optional[Path] = None,
    extents: bool = True,
    intervals: bool = True,
    retries: int = 2,
    batch: int = 64,
    told: Optional[Told] = None,
) -> Survey:
    """What changed on each disk of a fleet, as rows of two tables. A disk that fails has no rows, and spoils no other.

    runner: where the work is done; None is Loop(). since: the checkpoint to begin with, in the place of each entry's own. until: the
    one to end with; None is now. each_interval: one interval after the other, instead of one over all of them.

    out: a new folder for Parquet files, OUT/extents/HOST.parquet and OUT/intervals/HOST.parquet; HOST~alone.parquet has the disks that
    were tried alone after a worker died. FileExistsError where it has such files, or another survey writes there: two in one folder would be summed. OUT/complete.json is the
    last file, and lists the others. ValueError where two hosts differ in case only.
    Without it the rows are in memory. extents, intervals: which of the two tables are wanted.

    retries: how often a disk is tried again after an error of input or output; a refusal never is. batch: how many disks a worker gets at
    once. told: is called with the number of disks that are answered for and of all; an exception in it ends the survey.
    """
    runner = runner if runner is not None else Loop()
    needed("numpy", "fleet", "checkmap.fleet takes the extents by numpy")
    arrow()
    request = Request(since, until, each_interval, retries, extents, intervals)
    _check_batch(batch)
    _check_names(since, until)
    wanted, results = _of_runner(manifest, runner)
    parts = [
        Batch(host, tuple(entries[first : first + batch]), request)
        for (host, _), entries in _by_host(runner, wanted, lambda _: 0)
        for first in range(0, len(entries), batch)
    ]
    runner.check()
    rows = _Rows(None if out is None else Files(os.fspath(out), {part.host for part in parts}), parts)
    answers = _answers(runner, survey_batch, parts, keep=False)
    try:
        for each, alone, at, answer in answers:
            if isinstance(answer, Lost):
                answer = Surveyed([_lost(entry, answer) for entry in each.entries], None, None)
            rows.take(each, alone, at, answer)
            if answer is not None:
                results.update((result.disk, result) for result in answer.results)
                if told is not None:
                    told(len(results), len(manifest))
        files = rows.end()
    except BaseException:
        rows.abandon()
        raise
    finally:
        answers.close()
    ordered = [results[entry.disk] for entry in manifest]
    if out is not None:
        return Survey(ordered, files, None, None)
    return Survey(
        ordered,
        [],
        rows.table("extents", extents_schema()) if extents else None,
        rows.table("intervals", intervals_schema()) if intervals else None,
    )


def unite(
    manifest: Manifest,
    runner: Optional[Runner] = None,
    *,
    since: Optional[str] = None,
    until: Optional[str] = None,
    retries: int = 2,
    batch: int = 64,
    fan_in: int = 8,
) -> List[United]:
    """The union of each volume over all entries that have its name, such as what two hosts recorded before and after a migration.

    Each host unites its own entries; then a tree of unions, at most fan_in at a time, brings the hosts together. What moves
    is portable Roaring. A volume has an error instead where one of its entries failed or was left out, or where they
    disagree about size or granularity, or, without since, where their own differ: a union without one of them would lack dirty blocks. Entries without a
    volume are none of it. The other arguments are those of survey().
    """
    _check_batch(batch)
    _check_names(since, until)
    if fan_in < 2:
        raise ValueError(f"fan_in is 2 or more, not {fan_in}")
    runner = runner if runner is not None else Loop()
    request = Request(since, until, False, retries)
    named = [entry for entry in manifest if entry.volume is not None]
    disks: Dict[str, List[str]] = {}
    begins: Dict[str, Set[Optional[str]]] = {}
    for entry in named:
        disks.setdefault(entry.volume or "", []).append(entry.disk)
        begins.setdefault(entry.volume or "", set()).add(entry.since)
    differ = {volume: names for volume, names in begins.items() if since is None and len(names) > 1}
    group_of = {volume: at // batch for at, volume in enumerate(disks)}
    wanted, left_out = _of_runner(Manifest([each for each in named if each.volume not in differ], manifest.name), runner)
    leaves = [
        Batch(host, tuple(entries), request)
        for (host, _), entries in _by_host(runner, wanted, lambda entry: group_of[entry.volume or ""])
    ]
    runner.check()
    # What failed is united with the rest here: errors are small.
    failed = [_failed([entry], left_out[entry.disk].error or "") for entry in named if entry.disk in left_out]
    kept: Dict[int, List[Tuple[Batch, Any]]] = {}
    for leaf, _, _, answer in _answers(runner, unite_batch, leaves, keep=True):
        if isinstance(answer, Lost):
            failed.append(_failed(leaf.entries, answer.reason))
        elif answer is not None:
            kept.setdefault(group_of[leaf.entries[0].volume or ""], []).append((leaf, answer))
    failed.append({volume: Volume(_disagree(volume, names)) for volume, names in differ.items()})
    united = unite_parts([*failed, *_trees(runner, kept, fan_in)])
    return [_union(volume, names, united[volume]) for volume, names in disks.items()]


def _check_batch(batch: int) -> None:
    if batch < 1:
        raise ValueError(f"batch is 1 or more disks, not {batch}")


def _check_names(since: Optional[str], until: Optional[str]) -> None:
    for key, name in (("since", since), ("until", until)):
        if name is not None and not is_text(name):
            raise ValueError(f"{key}={name!r} is no text in UTF-8: it has half of a surrogate pair")


def _trees(runner: Runner, kept: Dict[int, List[Tuple[Batch, Any]]], fan_in: int) -> Iterator[Part]:
    groups, silent = list(kept.values()), set()
    for at, part in runner.merge(unite_parts, [[each for _, each in group] for group in groups], fan_in):
        if not isinstance(part, Lost):
            yield part
            continue
        # A part of it was lost with its node: the others are united here, and its volumes fail.
        for leaf, each in groups[at]:
            fetched = runner.fetch(each, patient=leaf.host not in silent)
            if isinstance(fetched, Lost):
                silent.add(leaf.host)
                fetched = _failed(leaf.entries, fetched.reason)
            yield fetched


def _union(volume: str, disks: List[str], made: Volume) -> United:
    if made.error is not None:
        return United(volume, disks, None, made.error)
    return United(volume, disks, Bitmap.deserialize(made.roaring, made.disk_size, made.granularity), None)


def _disagree(volume: str, begins: Set[Optional[str]]) -> str:
    names = sorted(repr(name) if name is not None else "none" for name in begins)
    words = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f'the entries of volume {volume!r} differ in "since", {words}: pass since=..., or give all of them the same'


def _failed(entries: Sequence[Entry], reason: str) -> Part:
    return unite_parts([{entry.volume or "": Volume(f"{entry.disk}: {reason}")} for entry in entries])


def _of_runner(manifest: Manifest, runner: Runner) -> Tuple[List[Entry], Dict[str, Result]]:
    """The entries that are a runner's, and results for those that are not."""
    if runner.host is None:
        manifest.need_hosts()
    wanted: List[Entry] = []
    others: Dict[str, Result] = {}
    reasons = {host: runner.left_out(host) for host in {entry.host for entry in manifest}}
    for entry in manifest:
        reason = reasons[entry.host]
        if reason is None:
            wanted.append(entry)
        else:
            others[entry.disk] = Result(entry.disk, entry.host, "left out", reason)
    return wanted, others


def _by_host(
    runner: Runner, entries: List[Entry], group_of: Callable[[Entry], int]
) -> List[Tuple[Key, List[Entry]]]:
    """The entries of each host and group, sorted by the names of the disks."""
    gathered: Dict[Key, List[Entry]] = {}
    for entry in entries:
        host = entry.host if entry.host is not None else runner.host or ""
        gathered.setdefault((host, group_of(entry)), []).append(entry)
    for each in gathered.values():
        each.sort(key=lambda entry: entry.disk)
    return sorted(gathered.items())


class _Rows:
    """Gathers the tables of batches, those of each host in the order of its batches, whatever order they come in."""

    def __init__(self, files: Optional[Files], batches: Sequence[Batch]) -> None:
        self._files = files
        self._next: Dict[str, Deque[int]] = {}
        for at, batch in enumerate(batches):
            self._next.setdefault(batch.host, deque()).append(at)
        self._early: Dict[int, Optional[Surveyed]] = {}
        # Of disks that were tried alone: few.
        self._alone: List[Tuple[str, str, Surveyed]] = []
        self._tables: Dict[str, List[Surveyed]] = {}

    def take(self, batch: Batch, alone: bool, at: int, answer: Optional[Surveyed]) -> None:
        """The answer to a batch; None where its disks will be tried alone."""
        if alone:
            if answer is not None:
                self._alone.append((batch.host, batch.entries[0].disk, answer))
            return
        self._early[at] = answer
        order = self._next[batch.host]
        while order and order[0] in self._early:
            self._put(batch.host, self._early.pop(order.popleft()))

    def _put(self, host: str, answer: Optional[Surveyed], more: str = "") -> None:
        if answer is None:
            return
        if self._files is not None:
            self._files.write(host, answer.extents, answer.intervals, more)
            return
        self._tables.setdefault(host, []).append(answer._replace(results=[]))

    def end(self) -> List[str]:
        """Writes the rest; returns the paths of the files."""
        for host, _, answer in sorted(self._alone, key=lambda each: each[:2]):
            self._put(host, answer, "~alone")
        return [] if self._files is None else self._files.close()

    def abandon(self) -> None:
        """Leaves no file behind."""
        if self._files is not None:
            self._files.abandon()

    def table(self, name: str, schema: pyarrow.Schema) -> pyarrow.Table:
        """All rows in memory, by host."""
        made = (getattr(each, name) for _, answers in sorted(self._tables.items()) for each in answers)
        return arrow().concat_tables([schema.empty_table(), *(table for table in made if table is not None)])


def _answers(
    runner: Runner, work: Callable[[Batch], Any], batches: List[Batch], *, keep: bool
) -> Generator[Tuple[Batch, bool, int, Any], None, None]:
    """Yields each batch with whether its disk was tried alone, its number in its round, and its answer.

    In a second round the disks of lost batches are alone in theirs, so that one that kills its worker spoils no other; the answer of
    the first is None.
    """
    alone: List[Batch] = []
    with closing(runner.run(work, batches, keep=keep)) as answers:
        for at, answer in answers:
            batch = batches[at]
            if isinstance(answer, Lost) and not answer.final and len(batch.entries) > 1:
                alone += [batch._replace(entries=(entry,)) for entry in batch.entries]
                answer = None
            yield batch, False, at, answer
    if alone:
        with closing(runner.run(work, alone, keep=keep)) as answers:
            for at, answer in answers:
                yield alone[at], True, at, answer


def _lost(entry: Entry, lost: Lost) -> Result:
    return Result(entry.disk, entry.host, "failed", lost.reason, None, lost.retries)
