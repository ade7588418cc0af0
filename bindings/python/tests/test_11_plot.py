"""Pictures by matplotlib: the same cells, levels, colours, bars and words as the committed SVGs of the command line."""

import itertools
import random
import re
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import matplotlib.backends.backend_agg
import matplotlib.patches
import numpy
import pytest

import checkmap
from checkmap import Bitmap, Image, _picture, plot

from .conftest import GIB, KIB, MIB, TIB

DRAWN = Path(__file__).resolve().parents[3] / "docs/pictures/drawn"
G = 64 * KIB
# The disk that the committed pictures are of; see painted() in tests/cli/draw.rs.
PAINTED = [
    *((at * at * 37 % 9000 * G, G) for at in range(60)),
    *((190 * MIB + at * 5 * G, 2 * G) for at in range(40)),
    (400 * MIB, 80 * MIB),
]


def painted():
    bitmap = Bitmap(600 * MIB, G)
    bitmap.set_extents(PAINTED)
    return bitmap


class Svg:
    """A committed picture as its elements."""

    def __init__(self, name):
        self.text = (DRAWN / name).read_text()
        self.elements = list(xml.etree.ElementTree.fromstring(self.text).iter())

    def of(self, *kinds):
        return [each for each in self.elements if each.get("class", "").split(" ")[0] in kinds]

    def words(self):
        return [each.text for each in self.of("h", "t", "n", "k") if each.tag.endswith("text")]

    def colors(self):
        """Those of the levels, on a light and on a dark ground."""
        found = re.findall(r"^\.c(\d)\{fill:(#\w{6})\}", self.text, re.M)
        assert [number for number, _ in found] == list("01234560123456")
        return [color for _, color in found[:7]], [color for _, color in found[7:]]

    def levels(self):
        """The level of each cell by row and column."""
        levels = numpy.full((64, 128), -1)
        for path in (each for number in range(7) for each in self.of(f"c{number}") if each.get("d")):
            for column, row, width in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\d+z", path.get("d")):
                levels[int(row), int(column) : int(column) + int(width)] = int(path.get("class")[1])
        assert levels.min() == 0
        return levels


def words_of(figure):
    return [each.get_text() for each in figure.texts]


def levels_of(figure):
    (axes,) = figure.axes
    return numpy.asarray(axes.images[0].get_array())


def pixels_of(figure):
    canvas = matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    canvas.draw()
    return numpy.asarray(canvas.buffer_rgba())[:, :, :3]


def rgb(color):
    return [int(color[at : at + 2], 16) for at in (1, 3, 5)]


def boxes_of(figure):
    """The places in dots of what has the height of a bar, and whether it is filled."""
    width, height = figure.get_size_inches() * 100
    boxes = [each for each in figure.artists if isinstance(each, matplotlib.patches.Rectangle)]
    places = [(box.get_x() * width, height - (box.get_y() + box.get_height()) * height, box.get_width() * width) for box in boxes]
    return [(*(round(number) for number in place), box.get_facecolor()[3] == 1) for place, box in zip(places, boxes)]


@pytest.mark.parametrize("dark", [False, True])
def test_a_map_is_the_one_of_the_command_line(dark):
    svg = Svg("map.svg")
    colors = svg.colors()[dark]
    figure = plot.map(painted(), "disk.qcow2", dark=dark)
    levels = svg.levels()
    assert (levels_of(figure) == levels).all()
    said = [words.replace("changed since 'mon':", "changed:") for words in svg.words()]
    assert sorted(words_of(figure)) == sorted(said) and len(said) == 22
    # The scale, and what the eye sees: the middle of each cell that no mark covers.
    swatches = [(int(each.get("x")), int(each.get("y")), 16, True) for each in svg.of("c0", "c5", "c6") if each.get("x")]
    assert boxes_of(figure) == swatches
    pixels = pixels_of(figure)
    marks = [(int(each.get("cx")), int(each.get("cy"))) for each in svg.of("m") if each.get("cx")]
    seen = 0
    for row, column in itertools.product(range(64), range(128)):
        x, y = 16 + 6 * column + 3, 54 + 6 * row + 3
        if all(abs(x - mark_x) > 24 or abs(y - mark_y) > 24 for mark_x, mark_y in marks):
            assert list(pixels[y, x]) == rgb(colors[levels[row, column]]), (row, column)
            seen += 1
    assert seen > 7500
    assert list(pixels[2, 2]) == rgb("#15171a" if dark else "#ffffff")


def test_every_level_has_its_color():
    light, dark = Svg("map.svg").colors()
    assert (light, dark) == (_picture.LIGHT, _picture.DARK)
    # 2000 granules a cell: one cell of each level, at the edges of the steps.
    bitmap = Bitmap(2000 * 8192 * KIB, KIB)
    dirty = [0, 1, 2, 19, 20, 199, 200, 999, 1000, 1999, 2000]
    for cell, granules in enumerate(dirty):
        bitmap.set(cell * 2000 * KIB, granules * KIB)
    figure = plot.map(bitmap)
    expected = [0, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert [levels_of(figure)[row][column] for column, row in itertools.islice(turtle(6), len(dirty))] == expected
    scale = ["clean", "< 0.1 % (2 KiB)", "< 1 % (20 KiB)", "< 10 % (200 KiB)", "< 50 % (1000 KiB)", "< 100 % (2.0 MiB)", "all"]
    assert [words for words in words_of(figure) if words in scale] == scale
    boxes = [each for each in figure.artists if isinstance(each, matplotlib.patches.Rectangle)]
    assert [matplotlib.colors.to_hex(box.get_facecolor()) for box in boxes] == light


def turtle(order):
    """The places of a square of a Hilbert curve one after the other, as a turtle walks."""
    rules = {"A": "+BF-AFA-FB+", "B": "-AF+BFB+FA-"}
    way = "A"
    for _ in range(order):
        way = "".join(rules.get(each, each) for each in way)
    x, y, step_x, step_y = 0, 0, 1, 0
    places = [(x, y)]
    for each in way:
        if each == "F":
            x, y = x + step_x, y + step_y
            places.append((x, y))
        elif each == "+":
            step_x, step_y = -step_y, step_x
        elif each == "-":
            step_x, step_y = step_y, -step_x
    return places


@pytest.mark.parametrize("order", range(7))
def test_cells_follow_the_walk_of_a_turtle(order):
    square = turtle(order)
    walked = [(x + (at << order), y) for at in range(3) for x, y in square]
    assert [_picture.place(number, order) for number in range(3 * len(square))] == walked


def test_cells_are_those_of_a_naive_count():
    chance = random.Random(11)
    for size, granularity in ((1, 1), (1, G), (G + 1, G), (5000, 1), (10_001_920, G), (MIB, 512), (777, 8), (20_001, 2)):
        bitmap = Bitmap(size, granularity)
        dirty = numpy.zeros(size, bool)
        for _ in range(chance.randrange(20)):
            offset = chance.randrange(size)
            length = 1 + chance.randrange(min(size - offset, 3 * granularity))
            bitmap.set(offset, length)
            dirty[offset // granularity * granularity : -(-(offset + length) // granularity) * granularity] = True
        picture = _picture.map_of(bitmap, "", numpy)
        end = 0
        for number, cell in enumerate(picture.cells):
            assert cell.start == end and cell.length > 0
            end += cell.length
            assert cell.dirty == dirty[cell.start : end].sum()
            assert (cell.column, cell.row) == _picture.place(number, picture.rows.bit_length() - 1)
        assert end == size and len(picture.cells) == picture.columns * picture.rows
        granules = [-(-cell.length // granularity) for cell in picture.cells]
        assert max(granules) - min(granules) <= 1
        by_length = sorted(bitmap.extents(), key=lambda extent: (-extent[1], extent[0]))
        assert picture.largest == by_length[:5]


def test_the_largest_extents_of_many():
    # More than one call of the library gives; equal ones on both sides of its end.
    bitmap = Bitmap(GIB, KIB)
    bitmap.set_extents((at * 8 * KIB, (1 + at % 3) * KIB) for at in range(20_000))
    bitmap.set(19_000 * 8 * KIB, 5 * KIB)
    expected = sorted(bitmap.extents(), key=lambda extent: (-extent[1], extent[0]))
    for most in (1, 5, 100):
        assert _picture.largest(bitmap, most, numpy) == expected[:most]


def test_amounts_are_those_of_the_command_line():
    for number, words in (
        (0, "0 bytes"), (1, "1 byte"), (1023, "1023 bytes"), (1024, "1 KiB"), (1025, "1.1 KiB"), (65537, "64.1 KiB"),
        (1_048_473, "1023.9 KiB"), (1_048_474, "1.0 MiB"), (GIB - 1, "1.0 GiB"), (10 * GIB, "10 GiB"),
        ((1 << 64) - 1, "16.0 EiB"),
    ):  # fmt: skip
        assert _picture.amount(number) == words


def test_pictures_of_nothing_of_one_and_of_the_most():
    said = words_of(plot.map(Bitmap(TIB, G), "a $x^2$ <&>\n\udcff"))
    assert said[:2] == ["a $x^2$ <&>\\n\\udcff", "nothing changed, on 1 TiB, granularity 64 KiB"]
    assert not any("largest" in words for words in said)

    one = Bitmap(1000, G)
    one.set_all()
    figure = plot.map(one)
    assert levels_of(figure).tolist() == [[6]]
    assert "The one cell is the whole disk, 1000 bytes." in words_of(figure)
    assert "The largest extent:" in words_of(figure)

    none = plot.map(Bitmap(0, G))
    assert not none.axes and "The disk has no bytes, and so no cell." in words_of(none)
    pixels_of(none)

    most = Bitmap(1 << 57, G)
    most.set(1 << 56, 1)
    figure = plot.map(most)
    assert numpy.argwhere(levels_of(figure)).tolist() == [[0, 64]] and levels_of(figure)[0, 64] == 1
    assert "changed: 1 extent, 64 KiB of 128 PiB, granularity 64 KiB" in words_of(figure)
    assert "64 KiB at 64 PiB (byte 72057594037927936)" in words_of(figure)
    most.set_all()
    assert (levels_of(plot.map(most)) == 6).all()


def test_two_maps_side_by_side():
    figure = plot.side_by_side(painted(), Bitmap(1000, G), ("mon", "tue"))
    left, right = figure.axes
    assert (numpy.asarray(left.images[0].get_array()) == Svg("map.svg").levels()).all()
    assert right.images[0].get_array().shape == (1, 1)
    assert left.get_position().x1 < 0.5 < right.get_position().x0
    alone = plot.map(painted(), "mon"), plot.map(Bitmap(1000, G), "tue")
    assert words_of(figure) == words_of(alone[0]) + words_of(alone[1])
    height = pixels_of(alone[0]).shape[0]
    assert (pixels_of(figure)[:height, :800] == pixels_of(alone[0])).all()


def test_a_notebook_shows_it_and_pyplot_stays_away():
    code = (
        "import sys, checkmap\n"
        "assert not any(name.startswith(('matplotlib', 'numpy')) for name in sys.modules)\n"
        "figure = checkmap.plot.map(checkmap.Bitmap(1 << 30, 65536))\n"
        "assert figure._repr_png_().startswith(b'\\x89PNG') and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def write(image, *what):
    commands = [word for each in what for word in ("-c", f"write -z {each}")]
    subprocess.run(["qemu-io", "-f", "qcow2", *commands, image], check=True, stdout=subprocess.DEVNULL)


def test_a_trend_is_the_one_of_the_command_line(here):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "disk.qcow2", "600M"], check=True)
    for name, extents in (
        ("mon", PAINTED),
        ("tue", [(100 * MIB, 30 * MIB), (500 * MIB, G)]),
        ("wed", [(at * at * 113 % 9600 * G, 4 * KIB) for at in range(50)]),
    ):
        with Image("disk.qcow2") as image:
            image.create(name)
        write("disk.qcow2", *(f"{start} {length}" for start, length in extents))
    svg = Svg("trend.svg")
    with Image("disk.qcow2", writable=False) as image:
        figure = plot.trend(image)
    assert words_of(figure) == svg.words()
    bars = [(*(int(each.get(name)) for name in ("x", "y", "width")), each.get("class") == "b") for each in svg.of("b", "u")]
    assert boxes_of(figure) == bars and len(bars) == 14
    pixels_of(figure)


def test_what_a_trend_cannot_tell_is_said(image_copy):
    with Image(image_copy("inconsistent.qcow2"), writable=False) as image:
        said = words_of(plot.trend(image, "title"))
    assert said[0] == "title" and "?" in said
    assert "What the next increment would carry cannot be told." in said
    assert any("'c' to now" in words and "inconsistent" in words for words in said)
    with Image(image_copy("chain.qcow2")) as image:
        image.drop_stored("a->b")
        said = words_of(plot.trend(image))
    assert "'a' to now: the checkpoint that followed is missing" in said
    # One that records until now, beside a gap.
    image_copy("plain.qcow2")
    for name in ("a", "a->b", "c->d"):
        subprocess.run(["qemu-img", "bitmap", "--add", "plain.qcow2", name], check=True)
    subprocess.run(["qemu-img", "bitmap", "--disable", "plain.qcow2", "a"], check=True)
    write("plain.qcow2", "1M 64k")
    with Image("plain.qcow2", writable=False) as image:
        spans = _picture.trend_of(image, None, False, None, None).spans
    assert [(span.label, span.dirty_bytes) for span in spans] == [("'a' to 'b'", 0), ("'b' to now", G), ("'d' to now", G)]
    with Image(image_copy("plain.qcow2")) as image:
        assert "There is no checkpoint." in words_of(plot.trend(image))
        assert not boxes_of(plot.trend(image))


def test_a_trend_of_cumulative_checkpoints(image_copy):
    image_copy("plain.qcow2")
    for name, extent in (("a", "1M 64k"), ("b", "2M 128k")):
        subprocess.run(["qemu-img", "bitmap", "--add", "plain.qcow2", name], check=True)
        write("plain.qcow2", extent)
    with Image("plain.qcow2", writable=False) as image:
        said = words_of(plot.trend(image, cumulative=True))
    assert said[:3] == ["plain.qcow2", "64 MiB, 2 checkpoints, model cumulative", "Changed since each checkpoint:"]
    assert said[3:7] == ["'a' to now", "192 KiB", "'b' to now", "128 KiB"] and not any("mean" in words for words in said)


def test_the_newest_intervals_are_drawn():
    spans = [_picture.Span(str(at), str(at + 1), at) for at in range(64)]
    trend = _picture.Trend("", MIB, "interval", spans)
    assert trend.bars_title() == "Changed in each interval (4 older ones are left out):"
    sheet = plot._trend_sheet(trend)
    figure = plot._drawn([sheet], False)
    said = words_of(figure)
    assert "'3' to '4'" not in said and "'4' to '5'" in said and len(boxes_of(figure)) == 60


def test_a_trend_of_layers_is_bound_by_the_coarsest(image_copy):
    image_copy("chain.qcow2")
    with Image(image_copy("overlay.qcow2"), writable=False) as image:
        of_layers = _picture.granularity_of_layers(image, G, "chain.qcow2")
        assert of_layers == G
        rows = dict(_picture.trend_of(image, None, False, None, None).rows())
    assert {one.granularity: one.is_upper_bound for one in rows} == {1 << bits: bits < 16 for bits in range(12, 23)}
    # A coarser bitmap in the layer below, none there, and layers that cannot be told.
    subprocess.run(["qemu-img", "bitmap", "--add", "-g", "1M", "chain.qcow2", "other"], check=True)
    with Image("overlay.qcow2", writable=False) as image:
        assert _picture.granularity_of_layers(image, G, "chain.qcow2") == MIB
        assert _picture.granularity_of_layers(image, G, None) == 0
        assert _picture.granularity_of_layers(image, G, "nbd:localhost:1") is None
        assert _picture.granularity_of_layers(image, G, "gone.qcow2") is None
        assert _picture.granularity_of_layers(image, G, image_copy("plain.qcow2")) == 0
        assert all(one.is_upper_bound for one in _picture.increments(painted(), None))
    with open("overlay.qcow2", "rb") as file, Image(file.fileno(), writable=False) as image:
        assert _picture.granularity_of_layers(image, G, "chain.qcow2") is None


def test_increments_are_those_of_a_naive_count():
    for size, own, recorded in ((10_001_920, 512, 512), (10_001_920, G, G), (10_001_920, 4096, G), (1, G, G), (9 * MIB, 8 * MIB, 1)):
        bitmap = Bitmap(size, own)
        for offset in (0, size // 3, size // 2, size - 1):
            bitmap.set(offset, 1)
        found = _picture.increments(bitmap, recorded)
        assert [one.granularity for one in found] == [1 << bits for bits in range(12, 23)]
        for one in found:
            dirty = {
                granule
                for start, length in bitmap.extents()
                for granule in range(start // one.granularity, -(-(start + length) // one.granularity))
            }
            assert one.dirty_bytes == sum(min(size - granule * one.granularity, one.granularity) for granule in dirty)
            assert one.is_upper_bound == (one.granularity < max(own, recorded))
    most = Bitmap((1 << 41) * G, G)
    assert [one.granularity for one in _picture.increments(most, G)] == [1 << bits for bits in range(16, 23)]


def test_a_trend_can_be_stopped(image_copy):
    told = []
    with Image(image_copy("chain.qcow2"), writable=False) as image:
        image.checkpoints(progress=lambda *_: told.append(1))
    # At the first step, and at the first of a diff.
    for most in (0, len(told)):
        told.clear()
        with Image("chain.qcow2", writable=False) as image, pytest.raises(checkmap.CancelledError):
            plot.trend(image, progress=lambda *_: told.append(1) or len(told) > most)
        assert len(told) == most + 1


def test_arguments_that_cannot_be(image_copy):
    bitmap, image = Bitmap(MIB, KIB), Image(image_copy("chain.qcow2"), writable=False)
    for use, said in (
        (lambda: plot.map(1), "a Bitmap is needed, not int"),
        (lambda: plot.map(image), "a Bitmap is needed, not Image"),
        (lambda: plot.map(bitmap, b"title"), "a title is str, not bytes"),
        (lambda: plot.side_by_side(bitmap, None), "a Bitmap is needed, not NoneType"),
        (lambda: plot.side_by_side(bitmap, bitmap, "ab"), "titles are two texts"),
        (lambda: plot.trend(bitmap), "an Image is needed, not Bitmap"),
        (lambda: plot.trend(image, 5), "a title is str, not int"),
    ):
        with pytest.raises(TypeError, match=said):
            use()
    bitmap.close()
    image.close()
    for use in (lambda: plot.map(bitmap), lambda: plot.trend(image), lambda: plot.trend(Image.__new__(Image))):
        with pytest.raises(ValueError, match="closed"):
            use()


@pytest.mark.parametrize("module", ["matplotlib", "matplotlib.figure"])
def test_without_matplotlib_it_says_what_to_install(module, monkeypatch, image_copy):
    plot._figure_kind.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    if module == "matplotlib":
        monkeypatch.delitem(sys.modules, "matplotlib.figure")
    with Image(image_copy("chain.qcow2"), writable=False) as image:
        for use in (lambda: plot.map(Bitmap(MIB, KIB)), lambda: plot.trend(image)):
            with pytest.raises(ImportError) as caught:
                use()
            said = "checkmap.plot draws by matplotlib: matplotlib is not installed; `pip install 'checkmap[plot]'` installs it"
            assert str(caught.value) == said
    plot._figure_kind.cache_clear()
