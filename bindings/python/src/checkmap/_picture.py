"""The numbers and the words of pictures, those that `checkmap map` and `checkmap trend` have. Knows nothing of drawing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple
from unicodedata import category

from ._arguments import Progress
from ._bitmap import Bitmap
from ._errors import CheckmapError, UnknownFormatError
from ._extents import EXTENT_FIELDS
from ._handle import Borrowed
from ._image import Checkpoint, Image

#: The colours of the levels, from clean to all, on a light and on a dark ground: by equal steps of lightness.
LIGHT = ["#eff0f2", "#e6c540", "#e78b2e", "#ce5950", "#a0366b", "#651f76", "#280a6d"]
DARK = ["#26292e", "#4b3d9d", "#92499f", "#ce5d8a", "#f78168", "#ffb761", "#f7ed6c"]

#: The upper bounds of the levels between clean and all, each as the divisor of a whole, and in words.
BOUNDS = [(1000, "0.1 %"), (100, "1 %"), (10, "10 %"), (2, "50 %"), (1, "100 %")]

#: The grid: squares side by side, each with 2 to the power of this order cells on a side.
SQUARES, ORDER = 2, 6

#: How many extents a map names, and how many bars a chart has.
NAMED = 5
MOST_BARS = 60

#: The granularities of the next increment, as powers of two, and how many granules a disk can have.
FINEST, COARSEST = 12, 22
MAX_GRANULES = 1 << 41


def amount(number: int) -> str:
    """Bytes in words, rounded up."""
    power = (max(number, 1).bit_length() - 1) // 10
    is_whole = number % (1 << (10 * power)) == 0

    def tenths(power: int) -> int:
        return -(-number * 10 // (1 << (10 * power)))

    # What would round up to 1024 units is one of the next.
    power += tenths(power) > 10239
    unit = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")[power]
    if is_whole:
        return "1 byte" if number == 1 else f"{tenths(power) // 10} {unit}"
    return f"{tenths(power) // 10}.{tenths(power) % 10} {unit}"


def count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def one_line(words: str) -> str:
    """Text on one line: control characters, and bytes of names that are no UTF-8, are escaped."""
    return "".join(ascii(each)[1:-1] if category(each) in ("Cc", "Cs") else each for each in words)


def quoted(name: str) -> str:
    return f"'{one_line(name)}'"


def bounded(number: int, is_upper_bound: bool) -> str:
    """An amount, or its upper bound."""
    return ("≤ " if is_upper_bound else "") + amount(number)


def level(dirty: int, length: int) -> int:
    """The level of a cell: clean only where nothing is dirty, all only where all is."""
    if dirty == 0:
        return 0
    below = (at for at, (divisor, _) in enumerate(BOUNDS) if dirty * divisor < length)
    return 1 + next(below, len(BOUNDS))


def level_words(number: int, cell: int) -> str:
    """The words for a level where cells have about `cell` bytes."""
    if number == 0:
        return "clean"
    if number > len(BOUNDS):
        return "all"
    divisor, share = BOUNDS[number - 1]
    return f"< {share} ({amount(-(-cell // divisor))})"


def _is_possible(number: int, cell: int, granule: int) -> bool:
    return not 1 <= number <= len(BOUNDS) or granule * BOUNDS[number - 1][0] < cell


def _shape(granules: int) -> Tuple[int, int]:
    """The squares and the order of the grid: smaller ones where the disk has fewer granules than cells."""
    for order in range(ORDER, -1, -1):
        if SQUARES << (2 * order) <= granules:
            return SQUARES, order
    return max(granules, 1), 0


def place(number: int, order: int) -> Tuple[int, int]:
    """The column and the row of a cell by its number along the Hilbert curve of all squares."""
    column = row = 0
    for at in range(order):
        side, quarter = 1 << at, number >> (2 * at) & 3
        if quarter == 0:
            column, row = row, column
        elif quarter == 3:
            column, row = side - 1 - row, side - 1 - column
        column += side if quarter >= 2 else 0
        row += side if quarter in (1, 2) else 0
    return (number >> (2 * order) << order) + column, row


@dataclass(frozen=True)
class Cell:
    """A stretch of the disk, how much of it is dirty, and where it stands in the grid."""

    start: int
    length: int
    dirty: int
    column: int
    row: int


@dataclass(frozen=True)
class Map:
    """The picture of one bitmap."""

    title: str
    headline: str
    granule: int
    columns: int
    rows: int
    cells: List[Cell]
    largest: List[Tuple[int, int]]

    @property
    def cell_bytes(self) -> int:
        return max((cell.length for cell in self.cells), default=0)

    def note(self) -> str:
        """What a cell is."""
        each = amount(self.cell_bytes)
        if not self.cells:
            return "The disk has no bytes, and so no cell."
        if len(self.cells) == 1:
            return f"The one cell is the whole disk, {each}."
        if self.cell_bytes <= self.granule:
            return f"A cell is one granule, {each}. The disk begins at the top left and ends at the top right."
        return f"A cell is {each} of the disk, which begins at the top left and ends at the top right."

    def scale(self) -> List[Tuple[int, str]]:
        """The levels that a cell can have, and their words."""
        used = {level(cell.dirty, cell.length) for cell in self.cells}
        levels = range(len(BOUNDS) + 2)
        shown = (each for each in levels if each in used or _is_possible(each, self.cell_bytes, self.granule))
        return [(each, level_words(each, self.cell_bytes)) for each in shown]

    def named(self) -> List[str]:
        return [f"{amount(length)} at {amount(start)} (byte {start})" for start, length in self.largest]

    def cell_of(self, offset: int) -> Optional[Cell]:
        """The cell that holds a byte."""
        found = (cell for cell in self.cells if cell.start <= offset < cell.start + cell.length)
        return next(found, None)


def map_of(bitmap: Bitmap, title: str, numpy: Any) -> Map:
    """The map of a bitmap: a count for each cell, and one look at each extent."""
    with Borrowed(Bitmap, bitmap):
        size, granule, granules = bitmap.size, bitmap.granularity, bitmap.granules
        squares, order = _shape(granules)
        number = squares << (2 * order) if granules else 0
        edges = [min(granules * each // number * granule, size) for each in range(number)] + [size]
        cells = []
        for at, (start, end) in enumerate(zip(edges, edges[1:])):
            dirty = bitmap.count_range(start, end - start) * granule
            # The last granule can reach past the end of the disk.
            past_end = -end % granule
            if past_end and bitmap.get(end - 1):
                dirty -= past_end
            cells.append(Cell(start, end - start, dirty, *place(at, order)))
        if bitmap:
            extents = count(bitmap.count_extents(), "extent")
            what = f"changed: {extents}, {amount(bitmap.dirty_bytes())} of {amount(size)}"
        else:
            what = f"nothing changed, on {amount(size)}"
        headline = f"{what}, granularity {amount(granule)}"
        return Map(one_line(title), headline, granule, squares << order, 1 << order, cells, largest(bitmap, NAMED, numpy))


def largest(bitmap: Bitmap, most: int, numpy: Any) -> List[Tuple[int, int]]:
    """The largest extents: the largest first, and of equal ones the first on the disk."""
    room = numpy.empty(1 << 13, numpy.dtype(EXTENT_FIELDS))
    kept: List[Tuple[int, int]] = []
    begin = 0
    while True:
        number = bitmap.extents_into(room, begin)
        part = room[:number]
        # Those before are earlier on the disk, and so win where lengths are equal.
        larger = part[part["length"] > (kept[-1][1] if len(kept) == most else 0)]
        first = numpy.argsort(numpy.uint64((1 << 64) - 1) - larger["length"], kind="stable")[:most]
        kept += [(int(larger["offset"][at]), int(larger["length"][at])) for at in first]
        kept = sorted(kept, key=lambda extent: -extent[1])[:most]
        if number < len(room):
            return kept
        begin = int(part["offset"][-1] + part["length"][-1])


@dataclass(frozen=True)
class Increment:
    """What an increment would carry at one granularity."""

    granularity: int
    dirty_bytes: int
    is_upper_bound: bool


def increments(bitmap: Bitmap, recorded: Optional[int]) -> List[Increment]:
    """What an increment would carry at each granularity, the finest first.

    `recorded` is the coarsest granularity at which the writes were recorded, or None where nobody knows: at finer
    ones the figures are upper bounds.
    """
    found = []
    coarser = bitmap
    for bits in range(FINEST, COARSEST + 1):
        granularity = 1 << bits
        if granularity > coarser.granularity:
            coarser = coarser.to_granularity(granularity)
        if -(-bitmap.size // granularity) > MAX_GRANULES:
            continue
        is_upper_bound = recorded is None or granularity < max(recorded, bitmap.granularity)
        found.append(Increment(granularity, coarser.dirty_bytes(), is_upper_bound))
    return found


@dataclass(frozen=True)
class Span:
    """The time between two checkpoints, or since one: what changed, or why that cannot be told."""

    since: str
    until: Optional[str]
    dirty_bytes: Optional[int] = None
    increments: List[Increment] = field(default_factory=list)
    reason: Optional[str] = None

    @property
    def label(self) -> str:
        return f"{quoted(self.since)} to {quoted(self.until) if self.until is not None else 'now'}"


@dataclass(frozen=True)
class Trend:
    """How much changed on a disk from checkpoint to checkpoint, oldest first."""

    title: str
    size: int
    model: Optional[str]
    spans: List[Span]

    @property
    def headline(self) -> str:
        return f"{amount(self.size)}, {count(len(self.spans), 'checkpoint')}, model {self.model or 'none'}"

    @property
    def next(self) -> Optional[Span]:
        """What changed since the newest checkpoint, where that can be told."""
        last = self.spans[-1] if self.spans else None
        return last if last and last.until is None and last.dirty_bytes is not None else None

    def bars_title(self) -> str:
        if not self.spans:
            return "There is no checkpoint."
        if self.model == "cumulative":
            return "Changed since each checkpoint:"
        more = len(self.spans) - MOST_BARS
        return f"Changed in each interval ({more} older ones are left out):" if more > 0 else "Changed in each interval:"

    def rows_title(self) -> str:
        if self.next:
            return f"The next increment, since {quoted(self.next.since)}, by granularity of its bitmap:"
        return "What the next increment would carry cannot be told." if self.spans else ""

    def mean(self, granularity: int) -> Optional[Tuple[int, bool]]:
        """The mean of the spans that are over, and whether it is an upper bound."""
        over = [one for span in self.spans if span.until is not None for one in span.increments if one.granularity == granularity]
        if not over:
            return None
        return sum(one.dirty_bytes for one in over) // len(over), any(one.is_upper_bound for one in over)

    def rows(self) -> List[Tuple[Increment, str]]:
        """The next increment at each granularity, with its words."""
        found = []
        for one in self.next.increments if self.next else []:
            mean = self.mean(one.granularity)
            words = bounded(one.dirty_bytes, one.is_upper_bound)
            found.append((one, words + (f", {bounded(*mean)} in the mean before" if mean else "")))
        return found

    def notes(self) -> List[str]:
        """Why some figures are upper bounds, and what cannot be told, with the reasons."""
        notes = [f"{span.label}: {span.reason}" for span in self.spans[-MOST_BARS:] if span.reason]
        if any("≤" in words for _, words in self.rows()):
            notes.append(
                "≤: at most, as the writes were recorded at a coarser granularity. "
                "Nobody knows what finer bits would have told."
            )
        return notes


# What the image itself says no to: `checkmap trend` tells the reason of these, and takes others for faults.
_REFUSED = {
    "IN_USE", "NO_LOCKS", "READ_ONLY", "UNCLEAN", "OLD_VERSION", "STALE", "NOT_FOUND", "EXISTS", "MODEL", "BROKEN_CHAIN",
    "BACKING_LAYER", "INCONSISTENT", "RECORDING", "ORDER", "CANNOT_STORE",
}  # fmt: skip


def trend_of(
    image: Image,
    title: Optional[str],
    top_layer_only: bool,
    cumulative: Optional[bool],
    progress: Optional[Progress],
) -> Trend:
    """The trend of an image: a diff for each checkpoint."""
    info = image.info()
    model = info.model if cumulative is None else "cumulative" if cumulative else "interval"
    points = image.checkpoints(cumulative=cumulative, progress=progress)
    of_layers = 0 if top_layer_only else granularity_of_layers(image, info.cluster_size, info.backing_file)
    spans = []
    for point, after in zip(points, [*points[1:], None]):
        until = None
        if after and model == "interval":
            if after.gap and not point.recording:
                spans.append(Span(point.name, None, reason="the checkpoint that followed is missing"))
                continue
            until = None if after.gap else after.name
        how = {"top_layer_only": top_layer_only, "cumulative": cumulative, "progress": progress}
        spans.append(_span(image, point, until, of_layers, how))
    if title is None:
        title = f"descriptor {image._path}" if isinstance(image._path, int) else os.fsdecode(image._path)
    return Trend(one_line(title), info.disk_size, model, spans)


def _span(
    image: Image, point: Checkpoint, until: Optional[str], of_layers: Optional[int], how: Dict[str, Any]
) -> Span:
    try:
        changed = image.diff(point.name, until, **how)
    except CheckmapError as error:
        if error.kind not in _REFUSED:
            raise
        return Span(point.name, until, reason=error.strerror)
    with changed:
        recorded = None if of_layers is None else max(point.granularity, of_layers)
        return Span(point.name, until, changed.dirty_bytes(), increments(changed, recorded))


def granularity_of_layers(image: Image, cluster: int, backing_file: Optional[str]) -> Optional[int]:
    """The coarsest granularity at which a layer below the image counts; 0 where none has a bitmap, None is unknown."""
    coarsest = 0
    path = image._path
    # An image of a running machine has the bytes of a node's name, which may be those of a file by chance.
    is_node = isinstance(path, bytes) and not os.path.isabs(path)
    while backing_file is not None:
        if is_node or isinstance(path, int) or not os.path.isfile(path) or ":" in backing_file.partition("/")[0]:
            return None
        path = os.path.join(os.path.dirname(os.path.realpath(os.fsdecode(path))), backing_file)
        try:
            with Image(path, writable=False) as below:
                stored = [each.granularity for each in below.stored()]
                info = below.info()
        except UnknownFormatError:
            break
        except CheckmapError:
            return None
        coarsest = max([coarsest, *stored])
        cluster, backing_file = max(cluster, info.cluster_size), info.backing_file
    return max(coarsest, cluster) if coarsest else 0
