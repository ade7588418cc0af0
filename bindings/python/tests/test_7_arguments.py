"""Every public method with arguments that cannot be: an error in words of Python, never one of our insides."""

import inspect
import pydoc
import re
from dataclasses import fields, is_dataclass
from decimal import Decimal

import numpy
import pytest

import checkmap
from checkmap import Bitmap, Image, Segment

from .conftest import KIB, MIB

# What each method is asked with, where all is well; the checks below put something wrong in each place in turn.
CALLS = {
    Bitmap: {
        "__init__": (MIB, KIB),
        "deserialize": (b"", MIB, KIB),
        "union": ([], None),
        "update": (Bitmap(MIB, KIB),),
        "intersection_update": (Bitmap(MIB, KIB),),
        "difference_update": (Bitmap(MIB, KIB),),
        "symmetric_difference_update": (Bitmap(MIB, KIB),),
        "set": (0, 1),
        "set_extents": ([(0, 1)],),
        "clear_extents": ([(0, KIB)],),
        "clear": (0, KIB),
        "resize": (MIB,),
        "get": (0,),
        "count_range": (0, KIB),
        "next_dirty": (0, KIB),
        "next_clean": (0, KIB),
        "previous_dirty": (0, KIB),
        "previous_clean": (0, KIB),
        "rank": (0,),
        "select": (0,),
        "extents": (0, KIB),
        "iter_extents": (0, KIB),
        "extents_into": (bytearray(240), 0, KIB),
        "to_granularity": (KIB,),
        "to_bits": (0, KIB),
        "to_bits_into": (bytearray(240), 0, KIB),
        "from_bits": (b"", 0),
        "serialize_into": (bytearray(240),),
        "__contains__": (0,),
    },
    Image: {
        "__init__": ("chain.qcow2",),
        "create": ("new", KIB),
        "delete": ("b",),
        "rename": ("b", "new"),
        "diff": ("a", "b"),
        "check": (None,),
        "commit_bitmaps": (None,),
        "delete_inconsistent": (),
        "drop_before": ("b",),
        "drop_stored": ("a->b",),
        "drop_all": (),
        "read_stored": ("a->b", 0, KIB),
        "summarize_stored": ("a->b",),
        "sha256_stored": ("a->b",),
        "merge_stored": (["a"], "a->b"),
    },
    Segment: {
        "__init__": ("segment",),
        "write": (Bitmap(MIB, KIB), "written"),
        "merge": ([], "merged"),
        "merge_info": ([],),
        "count_range": (0, KIB),
        "get": (0,),
        "next_dirty": (0, KIB),
        "next_clean": (0, KIB),
        "previous_dirty": (0, KIB),
        "previous_clean": (0, KIB),
        "rank": (0,),
        "select": (0,),
        "extents": (0, KIB),
        "iter_extents": (0, KIB),
        "extents_into": (bytearray(240), 0, KIB),
        "diff": (None, 0, KIB),
        "load": (0, KIB),
        "check": (None,),
    },
}
NO_ARGUMENTS = {
    Bitmap: "close closed copy set_all clear_all complement optimize size granularity granules count dirty_bytes count_extents "
    "heap_bytes validate serialize sha256 to_arrow to_polars",
    Image: "recover forget_step close closed checkpoints info trouble warnings stored",
    Segment: "close closed info size granularity heap_bytes count dirty_bytes",
}
EXPECTED = (TypeError, ValueError, OverflowError, BufferError, RuntimeError, checkmap.CheckmapError)
# Names of ours with an underscore, of cffi, and of what happens to None.
INSIDES = re.compile(r"['\"]_|cdata|cffi|ffi\.|has no attribute|NoneType' object")


def closed(kind, *arguments):
    made = kind(*arguments)
    made.close()
    return made


def wrong():
    return [
        None,
        987654,
        -1,
        1 << 70,
        1.5,
        "text",
        "\ud800",
        "a\0b",
        b"bytes",
        bytearray(b"bytes"),
        True,
        [1],
        [None],
        {},
        object(),
        lambda: 1,
        Bitmap,
        closed(Bitmap, MIB, KIB),
        closed(Segment, "segment"),
        closed(Image, "chain.qcow2"),
        [closed(Bitmap, MIB, KIB)],
        [closed(Segment, "segment")],
        Bitmap.__new__(Bitmap),
        checkmap.Checkpoint("a", None, KIB, 0, False, False, False, False, False),
    ]


@pytest.fixture
def subjects(image_copy):
    image_copy("chain.qcow2")
    Segment.write(Bitmap(MIB, KIB), "segment")

    def make(kind):
        if kind is Bitmap:
            return Bitmap(MIB, KIB)
        return Segment("segment") if kind is Segment else Image("chain.qcow2", writable=False)

    return make


def ask(subject, method, arguments, options):
    """Calls a method, or makes an object, and goes through what comes out lazily."""
    if method == "__init__":
        made = type(subject)(*arguments, **options)
        made.close()
        return
    answer = getattr(subject, method)(*arguments, **options)
    if inspect.isgenerator(answer) or hasattr(answer, "__next__"):
        list(answer)


@pytest.mark.parametrize("kind", [Bitmap, Image, Segment])
def test_arguments_that_cannot_be(kind, subjects):
    asked = 0
    for method, valid in CALLS[kind].items():
        parameters = inspect.signature(getattr(kind, method)).parameters.values()
        options = [each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY]
        for bad in wrong():
            for place in [*range(len(valid)), *options]:
                arguments, named = list(valid), {}
                if isinstance(place, int):
                    arguments[place] = bad
                else:
                    named[place] = bad
                case = f"{kind.__name__}.{method}(*{arguments!r}, **{named!r})"
                asked += 1
                with subjects(kind) as subject:
                    try:
                        ask(subject, method, arguments, named)
                    except EXPECTED as error:
                        assert not INSIDES.search(str(error)), f"{case}: {error!r}"
                    except Exception as error:
                        pytest.fail(f"{case}: {error!r}")
    assert asked > 500


@pytest.mark.parametrize("kind", [Bitmap, Image, Segment])
def test_what_is_closed_or_was_never_opened_says_so(kind, subjects):
    ended = subjects(kind)
    ended.close()
    for subject in (ended, kind.__new__(kind)):
        assert subject.closed
        repr(subject)
        subject.close()
        for method, valid in CALLS[kind].items():
            if method in ("__init__", "deserialize", "union", "write", "merge", "merge_info"):
                continue
            if (kind, method) == (Segment, "diff"):
                valid = (subjects(Segment), 0, KIB)
            if (kind, method) == (Image, "commit_bitmaps"):
                valid = (subjects(Image),)
            with pytest.raises(ValueError, match="closed"):
                ask(subject, method, valid, {})
        for name in NO_ARGUMENTS[kind].split():
            if name not in ("close", "closed"):
                with pytest.raises(ValueError, match="closed"):
                    found = getattr(subject, name)
                    found()


def test_every_public_method_is_in_the_table():
    for kind, calls in CALLS.items():
        public = {name for name in dir(kind) if not name.startswith("_")}
        assert public == {name for name in calls if not name.startswith("_")} | set(NO_ARGUMENTS[kind].split())


def test_what_is_needed_is_said():
    bitmap = Bitmap(MIB, KIB)
    for use, said in (
        (lambda: Bitmap.union([1]), "a Bitmap is needed, not int"),
        (lambda: Bitmap.union("abc"), "bitmaps are a list"),
        (lambda: bitmap.update(None), "a Bitmap is needed, not NoneType"),
        (lambda: Segment.merge([bitmap], "x"), "a Segment is needed, not Bitmap"),
        (lambda: Segment.write("x", "y"), "a Bitmap is needed, not str"),
        (lambda: Bitmap.union([bitmap], progress=5), "progress is a function, not int"),
        (lambda: Image(True), "bool"),
        (lambda: Bitmap.union([bitmap], 0.0), "granularity is a whole number, not float"),
        (lambda: bitmap.set("0", 1), "offset is a whole number, not str"),
        (lambda: bitmap.set(0, 1.0), "length is a whole number, not float"),
        (lambda: bitmap.set(Decimal("1.5"), 1), "offset is a whole number, not Decimal"),
        (lambda: bitmap.set(numpy.float32(1.5), 1), "offset is a whole number, not float32"),
        (lambda: Bitmap(MIB, None), "granularity is a whole number, not NoneType"),
        (lambda: bitmap.from_bits("text"), "bits is bytes or another contiguous buffer, not str"),
        (lambda: bitmap.to_bits_into("text"), "out is a writable, contiguous buffer, not str"),
        (lambda: Bitmap.deserialize(5, 1, 1), "data is bytes or another contiguous buffer, not int"),
        (lambda: bitmap.set_extents(5), "extents are a list or another iterable, not int"),
        (lambda: bitmap.set_extents([5]), "an extent is a pair of numbers, offset and length, not int"),
        (lambda: bitmap.set_extents([(1.5, 1)]), "offset is a whole number, not float"),
    ):
        with pytest.raises(TypeError, match=said):
            use()


def test_a_listing_tells_its_progress(image_copy):
    with Image(image_copy("chain.qcow2"), writable=False) as image:
        told = []
        assert image.checkpoints(progress=lambda *step: told.append(step)) == image.checkpoints()
        with pytest.raises(TypeError, match="progress is a function"):
            image.checkpoints(progress=5)
    assert told
    for answer, error in ((lambda *_: True, checkmap.CancelledError), (lambda *_: 1 // 0, ZeroDivisionError)):
        with Image("chain.qcow2", writable=False) as image:
            with pytest.raises(error):
                image.checkpoints(progress=answer)


def test_names_are_text_or_bytes(image_copy):
    with Image(image_copy("chain.qcow2")) as image:
        point = image.checkpoints()[0]
        assert image.diff(point.name).count() == 4
        for bad, said in ((point, "Checkpoint"), (5, "int"), (None, "NoneType"), (bytearray(b"a"), "bytearray")):
            for use in (image.diff, image.delete, image.create, image.read_stored, image.summarize_stored):
                with pytest.raises(TypeError, match=f"str or bytes, not {said}"):
                    use(bad)
        with pytest.raises(TypeError, match="names are a list"):
            image.merge_stored("a", "b->c")


def test_whole_numbers_of_other_types_are_taken():
    bitmap = Bitmap(numpy.uint64(MIB), numpy.int32(KIB))
    bitmap.set(numpy.int64(4 * KIB), numpy.uint8(1))
    assert bitmap.get(numpy.uint16(4 * KIB)) and bitmap.extents() == [(4 * KIB, KIB)]


def test_help_has_every_field_and_every_method():
    kinds = [each for each in vars(checkmap).values() if inspect.isclass(each)]
    assert len(kinds) > 40
    for kind in kinds:
        shown = pydoc.plain(pydoc.render_doc(kind))
        assert kind.__doc__ and kind.__doc__.split("\n")[0].strip() in shown
        if is_dataclass(kind):
            for field in fields(kind):
                assert re.search(rf"^ [ |]+{field.name}: \S", shown, re.M), f"{kind.__name__}.{field.name}"
    for kind in CALLS:
        for name in vars(kind):
            if not name.startswith("_"):
                assert inspect.getdoc(getattr(kind, name)), f"{kind.__name__}.{name}"


def test_repr_says_what_it_is(image_copy):
    image_copy("chain.qcow2")
    Segment.write(Bitmap(MIB, KIB), "segment")
    with Image("chain.qcow2") as image, Segment(b"segment") as segment, open("segment", "rb") as file:
        assert repr(image) == "<checkmap.Image 'chain.qcow2'>"
        assert repr(segment) == "<checkmap.Segment 'segment'>"
        with Segment(file.fileno()) as other:
            assert repr(other) == f"<checkmap.Segment of descriptor {file.fileno()}>"
        for thing in (image.info(), image.check(), image.checkpoints()[0], image.stored()[0], segment.info()):
            assert repr(thing).startswith(type(thing).__name__ + "(")
        assert repr(image.summarize_stored("a")).startswith("Summary(")
    assert repr(image) == "<checkmap.Image, closed>" and repr(segment) == "<checkmap.Segment, closed>"
    assert repr(Bitmap(MIB, KIB)) == "<checkmap.Bitmap of 1048576 bytes, 0 of 1024 granules of 1024 dirty>"
