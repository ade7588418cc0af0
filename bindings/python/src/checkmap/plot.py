"""Pictures of what changed, for notebooks and files: those of `checkmap map` and `checkmap trend`, by matplotlib.

matplotlib is wanted when something is drawn, and not before: ImportError says what to install. Each call returns a
matplotlib Figure, which a notebook shows, and whose `savefig` writes a file. Nothing of pyplot is used or changed.
"""

from __future__ import annotations

import textwrap
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Tuple

from ._arguments import Progress
from ._bitmap import Bitmap
from ._image import Image
from ._optional import needed
from ._picture import DARK, LIGHT, MOST_BARS, Map, Trend, amount, level, map_of, trend_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["map", "side_by_side", "trend"]

# All in dots, of which an inch has 100: the same places as in the SVG of `checkmap map`.
_INCH = 100
_WIDTH, _MARGIN = 800, 16
_INNER = _WIDTH - 2 * _MARGIN
_LARGEST_CELL = 48
_LINE, _CHARACTER = 20, 8
_BARS, _LONGEST = 216, 280
_LEVEL_OF_BARS = 4


def map(bitmap: Bitmap, title: str = "", *, dark: bool = False) -> Figure:
    """Draws where on its disk a bitmap is dirty: a grid along a Hilbert curve, a scale, and the largest extents.

    Cells, levels and colours are those of `checkmap map`; a cell is clean only where nothing is dirty in it, and "all"
    only where everything is. The time goes by the cells and the extents, not by the size of the disk. title: written
    above it, such as the image. dark: on a dark ground.
    """
    return _drawn([_map_sheet(bitmap, title)], dark)


def side_by_side(left: Bitmap, right: Bitmap, titles: Tuple[str, str] = ("", ""), *, dark: bool = False) -> Figure:
    """Draws two maps beside each other, such as of two nights or of two disks. Each has its own scale."""
    if isinstance(titles, str) or len(titles) != 2:
        raise TypeError("titles are two texts")
    return _drawn([_map_sheet(bitmap, title) for bitmap, title in zip((left, right), titles)], dark)


def trend(
    image: Image,
    title: Optional[str] = None,
    *,
    dark: bool = False,
    top_layer_only: bool = False,
    cumulative: Optional[bool] = None,
    progress: Optional[Progress] = None,
) -> Figure:
    """Draws how much changed in each interval, and what the next increment would carry from 4 KiB to 4 MiB.

    As `checkmap trend` draws it: figures that are upper bounds have a `≤` and an outline alone, and what cannot be told
    has a question mark, and its reason below. The newest 60 intervals are drawn. Each takes a diff, with the same
    top_layer_only, cumulative and progress. Checkpoints that only layers below the image have are left out; where the
    granularities of these layers cannot be read, every figure of the next increment is an upper bound.
    title: the image's path by default.
    """
    if not isinstance(image, Image):
        raise TypeError(f"an Image is needed, not {type(image).__name__}")
    if title is not None:
        _check_title(title)
    _figure_kind()
    return _drawn([_trend_sheet(trend_of(image, title, top_layer_only, cumulative, progress))], dark)


def _check_title(title: object) -> None:
    if not isinstance(title, str):
        raise TypeError(f"a title is str, not {type(title).__name__}")


@lru_cache(maxsize=None)
def _figure_kind() -> Any:
    """matplotlib's Figure as a notebook shows it, also where nothing of pyplot was imported."""
    figure = needed("matplotlib.figure", "plot", "checkmap.plot draws by matplotlib")

    def png(self: Any) -> bytes:
        out = BytesIO()
        self.savefig(out, format="png")
        return out.getvalue()

    return type("Figure", (figure.Figure,), {"_repr_png_": png, "__module__": __name__})


class _Colors:
    """The colours of the ground, of words and edges, and of the levels."""

    def __init__(self, dark: bool) -> None:
        self.ground, self.words, self.notes, self.edge = (
            ("#15171a", "#e8eaed", "#a9afb8", "#6c727b") if dark else ("#ffffff", "#1b1e23", "#50555c", "#8a9099")
        )
        self.levels = DARK if dark else LIGHT


class _Sheet:
    """A column of a figure while it is laid out from the top to the bottom; drawn when the height of all is known."""

    def __init__(self) -> None:
        self.height = 8
        self.orders: List[Callable[[_Pen], None]] = []

    def words(self, words: str, *, bold: bool = False, note: bool = False) -> None:
        """Words in lines of their own."""
        for line in textwrap.wrap(words, _INNER // _CHARACTER):
            self.height += _LINE
            self.line(_MARGIN, line, bold=bold, note=note)

    def line(self, left: int, words: str, *, bold: bool = False, note: bool = False) -> None:
        """Words that stand on the height that is reached."""
        bottom, most = self.height - 5, (_WIDTH - _MARGIN - left) // _CHARACTER
        shown = words if len(words) <= most else words[: most - 1] + "…"
        self.orders.append(lambda pen: pen.text(left, bottom, shown, bold, note))

    def box(self, left: int, width: int, fill: Optional[int], edge: Optional[int] = None) -> None:
        """A box of the height of a line: filled with the colour of a level, or an outline in one."""
        top = self.height - 16
        self.orders.append(lambda pen: pen.box(left, top, width, fill, edge))

    def mark(self, number: int, x: float, y: float) -> None:
        self.orders.append(lambda pen: pen.mark(number, x, y))


class _Pen:
    """Draws on a figure, from a column's left edge and the figure's top on."""

    def __init__(self, figure: Any, left: int, colors: _Colors) -> None:
        self.figure, self.left, self.colors = figure, left, colors
        self.width, self.height = (inches * _INCH for inches in figure.get_size_inches())

    def _place(self, x: float, y: float) -> Tuple[float, float]:
        return (self.left + x) / self.width, 1 - y / self.height

    def text(self, x: float, y: float, words: str, bold: bool, note: bool) -> None:
        look = {"weight": "bold", "size": 15 * 72 / _INCH} if bold else {"size": 12 * 72 / _INCH}
        color = self.colors.notes if note else self.colors.words
        self.figure.text(*self._place(x, y), words, color=color, va="baseline", parse_math=False, **look)

    def box(self, x: int, y: int, width: int, fill: Optional[int], edge: Optional[int]) -> None:
        rectangle = needed("matplotlib.patches", "plot", "checkmap.plot").Rectangle
        look = {
            "facecolor": "none" if fill is None else self.colors.levels[fill],
            "edgecolor": self.colors.edge if edge is None else self.colors.levels[edge],
            "linewidth": 72 / _INCH if edge is not None or fill is None else 0.5,
        }
        place, size = self._place(x, y + 12), (width / self.width, 12 / self.height)
        self.figure.add_artist(rectangle(place, *size, transform=self.figure.transFigure, **look))

    def mark(self, number: int, x: float, y: float) -> None:
        """A number in a circle."""
        look = {"boxstyle": "circle,pad=0.25", "facecolor": self.colors.ground, "edgecolor": self.colors.words}
        self.figure.text(
            *self._place(x, y), str(number), color=self.colors.words, size=8, ha="center", va="center",
            bbox={**look, "linewidth": 0.72}, zorder=5,
        )  # fmt: skip

    def line(self, x: float, y: float, to_x: float, to_y: float) -> None:
        line = needed("matplotlib.lines", "plot", "checkmap.plot").Line2D
        ends = zip(self._place(x, y), self._place(to_x, to_y))
        look = {"color": self.colors.words, "linewidth": 0.72, "transform": self.figure.transFigure}
        self.figure.add_artist(line(*(list(each) for each in ends), zorder=4, **look))

    def grid(self, picture: Map, top: int, side: int) -> None:
        colors = needed("matplotlib.colors", "plot", "checkmap.plot")
        width, height = picture.columns * side, picture.rows * side
        left, bottom = self._place(_MARGIN, top + height)
        axes = self.figure.add_axes((left, bottom, width / self.width, height / self.height))
        levels = [[0] * picture.columns for _ in range(picture.rows)]
        for cell in picture.cells:
            levels[cell.row][cell.column] = level(cell.dirty, cell.length)
        of_levels = colors.ListedColormap(self.colors.levels)
        axes.imshow(levels, of_levels, vmin=-0.5, vmax=len(self.colors.levels) - 0.5, interpolation="nearest", aspect="auto")
        axes.set_axis_off()


def _drawn(sheets: List[_Sheet], dark: bool) -> Figure:
    colors = _Colors(dark)
    height = max(sheet.height for sheet in sheets) + 16
    size = (_WIDTH * len(sheets) / _INCH, height / _INCH)
    figure: Figure = _figure_kind()(figsize=size, dpi=_INCH, facecolor=colors.ground)
    for at, sheet in enumerate(sheets):
        pen = _Pen(figure, at * _WIDTH, colors)
        for order in sheet.orders:
            order(pen)
    return figure


def _map_sheet(bitmap: Bitmap, title: str) -> _Sheet:
    _check_title(title)
    _figure_kind()
    picture = map_of(bitmap, title, needed("numpy", "plot", "checkmap.plot counts by numpy"))
    sheet = _Sheet()
    sheet.words(picture.title, bold=True)
    sheet.words(picture.headline)
    if picture.cells:
        _grid(sheet, picture)
    sheet.words(picture.note(), note=True)
    left = _MARGIN
    sheet.height += _LINE + 2
    for number, words in picture.scale():
        width = 22 + len(words) * (_CHARACTER - 1) + 14
        if left > _MARGIN and left + width > _WIDTH - _MARGIN:
            left = _MARGIN
            sheet.height += _LINE
        sheet.box(left, 16, number)
        sheet.line(left + 22, words)
        left += width
    if picture.largest:
        sheet.words("The largest extent:" if len(picture.largest) == 1 else "The largest extents:")
    for number, words in enumerate(picture.named(), 1):
        sheet.mark(number, _MARGIN + 8, sheet.height + _LINE / 2)
        sheet.height += _LINE
        sheet.line(_MARGIN + 24, words)
    return sheet


def _grid(sheet: _Sheet, picture: Map) -> None:
    side = max(1, min(_INNER // picture.columns, _LARGEST_CELL))
    top = sheet.height + 6
    bottom = top + picture.rows * side
    sheet.orders.append(lambda pen: pen.grid(picture, top, side))
    taken: List[Tuple[float, float]] = []
    for number, (start, length) in enumerate(picture.largest, 1):
        cell = picture.cell_of(start + length // 2)
        if cell:
            middle = _MARGIN + cell.column * side + side // 2, top + cell.row * side + side // 2
            place = _beside(*middle, top, bottom, taken)
            ends = (*middle, *place)
            sheet.orders.append(lambda pen, ends=ends: pen.line(*ends))  # type: ignore[misc]
            sheet.mark(number, *place)
            taken.append(place)
    sheet.height = bottom + 4


def _beside(x: int, y: int, top: int, bottom: int, taken: List[Tuple[float, float]]) -> Tuple[float, float]:
    """The place for a mark beside a point, so that the cell there is seen, away from other marks where it can be."""
    away = 13
    places = [(x + away, y - away), (x + away, y + away), (x - away, y - away), (x - away, y + away), (x + 2 * away, y)]
    right, low = _MARGIN + _INNER - 8, max(bottom - 8, top + 8)
    inside = [(min(max(x, _MARGIN + 8), right), min(max(y, top + 8), low)) for x, y in places]
    free = (place for place in inside if all(abs(place[0] - x) >= 16 or abs(place[1] - y) >= 16 for x, y in taken))
    return next(free, inside[0])


def _trend_sheet(picture: Trend) -> _Sheet:
    sheet = _Sheet()
    sheet.words(picture.title, bold=True)
    sheet.words(picture.headline)
    sheet.words(picture.bars_title())
    spans = picture.spans[-MOST_BARS:]
    most = max((span.dirty_bytes or 0 for span in spans), default=0)
    for span in spans:
        words = "?" if span.dirty_bytes is None else amount(span.dirty_bytes)
        _bar(sheet, span.label, span.dirty_bytes or 0, most, words, is_upper_bound=False)
    if picture.rows_title():
        sheet.height += 8
        sheet.words(picture.rows_title())
    rows = picture.rows()
    most = max((one.dirty_bytes for one, _ in rows), default=0)
    for one, words in rows:
        _bar(sheet, amount(one.granularity), one.dirty_bytes, most, words, one.is_upper_bound)
    for note in picture.notes():
        sheet.words(note, note=True)
    return sheet


def _bar(sheet: _Sheet, label: str, number: int, most: int, words: str, is_upper_bound: bool) -> None:
    """A bar between its label and its words. Every amount above 0 has a bar; an upper bound has an outline alone."""
    sheet.height += _LINE
    room = (_BARS - _MARGIN - 8) // _CHARACTER
    sheet.line(_MARGIN, label if len(label) <= room else label[: room - 1] + "…")
    length = -(-number * _LONGEST // max(most, 1))
    if length:
        sheet.box(_BARS, length, None if is_upper_bound else _LEVEL_OF_BARS, _LEVEL_OF_BARS)
    sheet.line(_BARS + length + 8, words)
