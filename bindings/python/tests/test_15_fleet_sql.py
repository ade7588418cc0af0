"""The queries in DuckDB: their sums are those of loops over the writes, which know no bitmap and no SQL."""

import random
from collections import Counter

import duckdb
import pytest

from checkmap import Bitmap, fleet
from checkmap.fleet import Loop, Manifest, Pool, survey

from .conftest import GIB, KIB, MIB
from .fleet_support import NAMES, extents_of, two_hosts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return two_hosts(tmp_path_factory.mktemp("fleet"))


def answers(name, extents, intervals, limit="LIMIT 20"):
    """The rows of a query over two tables, with the names of its columns; another limit in the place of its own."""
    with duckdb.connect() as database:
        database.register("extents", extents)
        database.register("intervals", intervals)
        found = database.execute(fleet.query(name).replace("LIMIT 20", limit))
        columns = [column[0] for column in found.description]
        return [dict(zip(columns, row)) for row in found.fetchall()]


@pytest.fixture(scope="module", params=[False, True], ids=["one interval", "each interval"])
def found(request, made):
    found = survey(Manifest.read(made.manifest()), Loop(all_hosts=True), since="mon", each_interval=request.param)
    return request.param, found


def total(extents):
    return sum(length for _, length in extents)


def written(made, disk, each_interval):
    """The extents of each interval of a survey."""
    return [extents_of(each, made.sizes[disk]) for each in made.written[disk]] if each_interval else [made.due(disk)]


def test_due_counts_each_dirty_byte_once(made, found):
    _, found = found
    due = {disk: total(made.due(disk)) for disk in made.written}
    expected = [{"disk": disk, "due_bytes": due[disk]} for disk in sorted(due, key=lambda disk: (-due[disk], disk))]
    assert answers("due", found.extents, found.intervals) == expected
    assert expected[-1] == {"disk": "idle", "due_bytes": 0}


def test_hottest_disks(made, found):
    each_interval, found = found
    expected = []
    for disk in made.written:
        intervals = written(made, disk, each_interval)
        dirty = sum(map(total, intervals))
        share = pytest.approx(dirty / (made.sizes[disk] * len(intervals)))
        expected.append(
            {
                "disk": disk,
                "intervals": len(intervals),
                "dirty_bytes": dirty,
                "dirty_extents": sum(map(len, intervals)),
                "dirty_share": share,
            }
        )
    expected.sort(key=lambda row: (-row["dirty_bytes"], row["disk"]))
    assert answers("hottest_disks", found.extents, found.intervals) == expected


def test_trend(made, found):
    each_interval, found = found
    expected = []
    for at, (since, until) in enumerate(zip(NAMES, [*NAMES[1:], None]) if each_interval else [("mon", None)]):
        extents = [written(made, disk, each_interval)[at] for disk in made.written]
        row = {"since": since, "until": until, "disks": 8, "dirty_bytes": sum(map(total, extents))}
        expected.append({**row, "dirty_extents": sum(map(len, extents))})
    assert answers("trend", found.extents, found.intervals) == sorted(expected, key=lambda row: row["since"])


def test_equal_changes_are_those_of_the_clones(made, found):
    each_interval, found = found
    rows = answers("equal_changes", found.extents, found.intervals)
    # The clones were written in the same places in each interval.
    dirty = [total(each) for each in written(made, "clone-1", each_interval)]
    assert [(row["one_of_them"], row["disks"], row["dirty_bytes"], row["most_saved_bytes"]) for row in rows] == [
        ("clone-1", 2, each, each) for each in sorted(dirty, reverse=True)
    ]


def test_equal_changes_wants_equal_places_not_equal_sums():
    made = fleet._tables.Rows(False, True)
    for disk, size, granularity, extents in [
        ("a", GIB, 64 * KIB, [(0, MIB)]),
        ("b", GIB, 64 * KIB, [(MIB, MIB)]),
        ("c", GIB, 32 * KIB, [(0, MIB)]),
        ("d", 2 * GIB, 64 * KIB, [(0, MIB)]),
        ("e", GIB, 64 * KIB, [(0, MIB - 65536), (MIB - 65536, 65536)]),
        ("f", GIB, 64 * KIB, []),
        ("g", GIB, 64 * KIB, []),
    ]:
        bitmap = Bitmap(size, granularity)
        bitmap.set_extents(extents)
        made.add(disk, [("mon", None, bitmap)])
    _, intervals = made.tables()
    rows = answers("equal_changes", fleet.extents_schema().empty_table(), intervals)
    assert [(row["one_of_them"], row["disks"], row["most_saved_bytes"]) for row in rows] == [("a", 2, MIB)]


def test_equal_bits_have_equal_bytes():
    """equal_changes compares the bytes of bitmaps: the same bits must have the same, however they were set."""
    chance = random.Random(5)
    for _ in range(200):
        granules = sorted(chance.sample(range(200_000), chance.choice([1, 10, 3000, 70_000])))
        bitmaps = [Bitmap(200_000 * KIB, KIB) for _ in range(3)]
        bitmaps[0].set_extents([(granule * KIB, KIB) for granule in granules[:5000]])
        for granule in chance.sample(granules[:5000], len(granules[:5000])):
            bitmaps[1].set(granule * KIB, 1)
        bitmaps[2].set_all()
        bitmaps[2].intersection_update(bitmaps[0])
        assert bitmaps[0] == bitmaps[1] == bitmaps[2]
        assert len({bitmap.serialize() for bitmap in bitmaps}) == 1


def test_due_of_intervals_that_overlap_in_every_way():
    chance = random.Random(3)
    made, due = fleet._tables.Rows(True, True), {}
    for disk in range(30):
        intervals, bytes_ = [], set()
        for at in range(4):
            bitmap = Bitmap(4096, 1)
            for _ in range(chance.randrange(6)):
                start = chance.randrange(4000)
                length = chance.randrange(1, 4096 - start) if chance.random() < 0.3 else chance.randrange(1, 20)
                bitmap.set(start, length)
                bytes_.update(range(start, start + length))
            intervals.append((str(at), None if at == 3 else str(at + 1), bitmap))
        made.add(str(disk), intervals)
        due[str(disk)] = len(bytes_)
    assert {row["disk"]: row["due_bytes"] for row in answers("due", *made.tables())} == due


def test_hottest_regions_of_extents_that_cross_regions():
    chance = random.Random(4)
    made, regions = fleet._tables.Rows(True, True), Counter()
    for disk in range(6):
        bitmap = Bitmap(40 * GIB + 12345, 64 * KIB)
        for _ in range(30):
            start = chance.randrange(39 * GIB)
            bitmap.set(start, min(chance.choice([1, MIB, GIB, 3 * GIB]), bitmap.size - start))
        bitmap.set(GIB - 65536, 2 * 65536)
        bitmap.set(bitmap.size - 1, 1)
        made.add(str(disk), [("mon", None, bitmap)])
        for start, length in bitmap.extents():
            for region in range(start // GIB, (start + length - 1) // GIB + 1):
                regions[str(disk), region * GIB] += min(start + length, (region + 1) * GIB) - max(start, region * GIB)
    # An extent that ends with its region touches no other one.
    edge = Bitmap(4 * GIB, 64 * KIB)
    edge.set(2 * GIB - 65536, 65536)
    made.add("edge", [("mon", None, edge)])
    regions["edge", GIB] = 65536
    ordered = sorted(regions.items(), key=lambda item: (-item[1], *item[0]))
    expected = [{"disk": disk, "region_start": start, "dirty_bytes": dirty} for (disk, start), dirty in ordered]
    assert answers("hottest_regions", *made.tables()) == expected[:20]
    assert len(expected) > 100 and answers("hottest_regions", *made.tables(), "LIMIT 1000") == expected


def test_files_of_a_pool_have_the_same_sums(made, tmp_path):
    survey(Manifest.read(made.manifest()), Pool(2, all_hosts=True), since="mon", out=tmp_path / "out")
    with duckdb.connect() as database:
        for table in ("extents", "intervals"):
            database.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{tmp_path}/out/{table}/*.parquet')")
        rows = database.execute(fleet.query("due")).fetchall()
    assert dict(rows) == {disk: total(made.due(disk)) for disk in made.written}


def test_a_query_that_is_none():
    assert fleet.QUERIES == ("due", "equal_changes", "hottest_disks", "hottest_regions", "trend")
    with pytest.raises(KeyError, match="no query has the name 'dew'; known are due, equal_changes"):
        fleet.query("dew")
