"""The queries in DataFusion and Spark beside DuckDB, over the same files: `make test-fleet-spark` runs it, with a Java for Spark."""

import duckdb
import pytest

from checkmap import fleet
from checkmap.fleet import Loop, Manifest, survey

from .fleet_support import two_hosts


@pytest.fixture(scope="module")
def spark():
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "4")
        .getOrCreate()
    )
    yield session
    session.stop()


@pytest.fixture(scope="module", params=[False, True], ids=["one interval", "each interval"])
def surveyed(request, tmp_path_factory):
    made = two_hosts(tmp_path_factory.mktemp("fleet"))
    out = tmp_path_factory.mktemp("out")
    manifest = Manifest.read(made.manifest())
    survey(manifest, Loop(all_hosts=True), since="mon", each_interval=request.param, out=out)
    return made, out


def of_duckdb(out, sql):
    with duckdb.connect() as database:
        for table in ("extents", "intervals"):
            database.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{out}/{table}/*.parquet')")
        found = database.execute(sql)
        columns = [column[0] for column in found.description]
        return [dict(zip(columns, row)) for row in found.fetchall()]


def of_datafusion(out, sql):
    import datafusion

    context = datafusion.SessionContext()
    for table in ("extents", "intervals"):
        context.register_parquet(table, str(out / table))
    return context.sql(sql).to_pylist()


def of_spark(session, out, sql):
    for table in ("extents", "intervals"):
        session.read.parquet(str(out / table)).createOrReplaceTempView(table)
    return [row.asDict() for row in session.sql(sql).collect()]


@pytest.mark.parametrize("name", fleet.QUERIES)
def test_every_engine_has_the_same_rows(surveyed, spark, name):
    made, out = surveyed
    sql = fleet.query(name)
    expected = of_duckdb(out, sql)
    assert expected
    if name == "due":
        assert {row["disk"]: row["due_bytes"] for row in expected} == {
            disk: sum(length for _, length in made.due(disk)) for disk in made.written
        }
    for row in expected:
        if "dirty_share" in row:
            row["dirty_share"] = pytest.approx(row["dirty_share"])
    assert of_datafusion(out, sql) == expected
    assert of_spark(spark, out, sql) == expected
