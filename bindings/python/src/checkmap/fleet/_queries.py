"""SQL over the two tables, as files beside this one. It runs in DuckDB, DataFusion and Spark as it stands."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).with_name("queries")

#: The names of all queries.
QUERIES = ("due", "equal_changes", "hottest_disks", "hottest_regions", "trend")


def query(name: str) -> str:
    """The SQL of a query, over tables or views of the names `extents` and `intervals`; KeyError for a name that is none of QUERIES.

    due: the bytes that an increment of each disk has to read. hottest_disks and hottest_regions: where most changes are.
    equal_changes: disks that changed in the same places. trend: the sums of each interval.
    """
    if name not in QUERIES:
        raise KeyError(f"no query has the name {name!r}; known are {', '.join(QUERIES)}")
    return (_FOLDER / f"{name}.sql").read_text(encoding="utf-8")
