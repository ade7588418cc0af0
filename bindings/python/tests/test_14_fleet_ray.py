"""Fleets on a Ray cluster, on this machine: each disk is read on its own host, and what dies is reported."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pyarrow.parquet
import pytest
import ray
from ray import cloudpickle

from checkmap import fleet
from checkmap.fleet import LABEL, Entry, Loop, Manifest, ManifestError, Ray, survey, unite

from .conftest import MIB
from .fleet_support import extents_of, in_use, rows, two_hosts

# Ray warns of its own future, and leaves files open.
pytestmark = pytest.mark.filterwarnings("ignore")
# Workers cannot import the tests.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

EXAMPLE = Path(__file__).resolve().parents[3] / "examples/fleet_ray.py"


def example():
    spec = importlib.util.spec_from_file_location("fleet_ray", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def processes_of(folder):
    """The processes that name a folder among their arguments."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                if folder.encode() in (each / "cmdline").read_bytes():
                    found.append(int(each.name))
            except OSError:
                pass
    return found


@pytest.fixture(scope="module")
def cluster():
    """The hosts a and b, for all tests; all of its processes are gone behind them."""
    # Ray sees within 8 seconds that a node died, and takes a busy machine for no dead one.
    beats = {"health_check_period_ms": 500, "health_check_failure_threshold": 16}
    # Ray ends tasks where other programs take the memory of the machine.
    beats["memory_monitor_refresh_ms"] = 0
    with example().local_cluster(["a", "b"], _system_config=beats) as cluster:
        folder = cluster.head_node.get_temp_dir_path()
        assert len(processes_of(folder)) > 5
        yield cluster
    for _ in range(300):
        if not processes_of(folder):
            break
        time.sleep(0.1)
    assert processes_of(folder) == [] and not os.path.exists(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return two_hosts(tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def own(made, tmp_path):
    return made.copy_to(tmp_path / "fleet")


def same(found, expected):
    assert [each._replace(seconds=0) for each in found.results] == [each._replace(seconds=0) for each in expected.results]
    assert found.extents.equals(expected.extents) and found.intervals.equals(expected.intervals)


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("each_interval", [False, True])
def test_a_survey_equals_that_of_a_plain_loop(cluster, made, batch, each_interval):
    manifest = Manifest.read(made.manifest())
    found = survey(manifest, Ray(), since="mon", batch=batch, each_interval=each_interval)
    same(found, survey(manifest, Loop(all_hosts=True), since="mon", each_interval=each_interval))
    if not each_interval:
        for disk in made.written:
            assert rows(found.extents, disk) == made.due(disk)


def label_of_this_node():
    here = ray.get_runtime_context().get_node_id()
    return next(node["Labels"].get(LABEL) for node in ray.nodes() if node["NodeID"] == here)


def says_where(batch):
    answer = fleet._work.survey_batch(batch)
    return answer._replace(results=[result._replace(kind=label_of_this_node()) for result in answer.results])


def test_each_disk_is_read_on_its_host(cluster, made, monkeypatch):
    monkeypatch.setattr("checkmap.fleet._survey.survey_batch", says_where)
    found = survey(Manifest.read(made.manifest()), Ray(), since="mon", batch=1)
    assert [result.kind for result in found.results] == [entry["host"] for entry in made.entries]


def test_files_have_the_rows_of_each_host_once(cluster, made, tmp_path):
    manifest = Manifest.read(made.manifest())
    found = survey(manifest, Ray(), since="mon", out=tmp_path / "out", batch=1)
    assert len(found.files) == 4 and not found.not_done
    for host in "ab":
        read = pyarrow.parquet.read_table(tmp_path / f"out/intervals/{host}.parquet")["disk"].to_pylist()
        assert read == sorted(entry.disk for entry in manifest if entry.host == host)


def test_a_cluster_wants_a_host_for_each_disk(cluster, made):
    with pytest.raises(ManifestError, match=r'disk number 2 \("d"\): no "host"'):
        survey(Manifest([Entry("e", image="e", host="a"), Entry("d", image="d")]), Ray(), since="mon")


def test_an_empty_fleet(cluster):
    found = survey(Manifest([]), Ray(), since="mon")
    assert found.results == [] and found.extents.num_rows == 0 and unite(Manifest([]), Ray()) == []


def test_bad_disks_spoil_no_other(cluster, own):
    (own.folder / "idle.qcow2").unlink()
    (own.folder / "clone-2.qcow2").write_bytes(b"no image" * 1000)
    with in_use(own.folder / "odd.qcow2"):
        manifest = Manifest.read(own.manifest())
        found = survey(manifest, Ray(), since="mon")
        same(found, survey(manifest, Loop(all_hosts=True), since="mon"))
    failed = {result.disk: (result.kind, result.retries) for result in found.not_done}
    assert failed == {"idle": ("IO", 0), "clone-2": ("UNKNOWN_FORMAT", 0), "odd": ("IN_USE", 0)}


# Workers, hosts and nodes that are lost.


def kills_its_worker(batch):
    """A disk called "killer" kills the worker that reads it: once, or each time."""
    for entry in batch.entries:
        if entry.disk.startswith("killer"):
            mark = entry.image + ".killed"
            if entry.disk == "killer-always" or not os.path.exists(mark):
                open(mark, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
    return fleet._work.survey_batch(batch)


def test_a_worker_that_is_killed_once(cluster, own, monkeypatch):
    monkeypatch.setattr("checkmap.fleet._survey.survey_batch", kills_its_worker)
    own.entries.append({"disk": "killer-once", "image": "web-1.qcow2", "host": "b"})
    own.written["killer-once"], own.sizes["killer-once"] = own.written["web-1"], own.sizes["web-1"]
    found = survey(Manifest.read(own.manifest()), Ray(), since="mon")
    assert found.not_done == [] and os.path.exists(own.folder / "web-1.qcow2.killed")
    for disk in own.written:
        assert rows(found.extents, disk) == own.due(disk)


def test_a_disk_that_kills_every_worker_fails_alone(cluster, own, monkeypatch, tmp_path):
    monkeypatch.setattr("checkmap.fleet._survey.survey_batch", kills_its_worker)
    own.entries.append({"disk": "killer-always", "image": "web-1.qcow2", "host": "b"})
    found = survey(Manifest.read(own.manifest()), Ray(retries=1), since="mon", out=tmp_path / "out")
    (failed,) = found.not_done
    assert (failed.disk, failed.host, failed.state, failed.retries) == ("killer-always", "b", "failed", 1)
    assert failed.error.startswith("WorkerCrashedError: ")
    table = pyarrow.parquet.read_table(tmp_path / "out/extents")
    for disk in own.written:
        assert rows(table, disk) == own.due(disk)


def raises(batch):
    raise RuntimeError("a mistake of the program")


def test_a_mistake_in_a_task_is_final(cluster, made, monkeypatch):
    monkeypatch.setattr("checkmap.fleet._survey.survey_batch", raises)
    found = survey(Manifest.read(made.manifest()), Ray(), since="mon")
    assert all("a mistake of the program" in result.error and result.retries == 0 for result in found.results)


def test_a_host_that_no_node_has(cluster, own):
    own.entries.append({"disk": "far", "image": "web-1.qcow2", "host": "nowhere"})
    own.entries.append({"disk": "odd-name", "image": "web-1.qcow2", "host": "no label"})
    manifest = Manifest.read(own.manifest())
    found = survey(manifest, Ray(host_timeout=2), since="mon")
    far, odd = found.not_done
    assert (far.disk, far.state, far.retries) == ("far", "failed", 0) and (odd.disk, odd.state) == ("odd-name", "failed")
    assert far.error == "no node of the cluster had the label checkmap-host=nowhere and 1 CPU for 2 seconds"
    assert odd.error == "host 'no label' cannot be a label of a node: 1 to 63 letters, digits, dots, - and _"
    for disk in own.written:
        assert rows(found.extents, disk) == own.due(disk)


def test_a_host_with_too_few_cpus(cluster, made):
    found = survey(Manifest.read(made.manifest()), Ray(host_timeout=1, cpus=2), since="mon")
    assert {result.error for result in found.results} == {
        f"no node of the cluster had the label checkmap-host={host} and 2 CPU for 1 seconds" for host in "ab"
    }


def waits_for_a_file(batch):
    """Reads its disks when a file is there; another one says that it waits."""
    folder = os.path.dirname(batch.entries[0].image)
    if batch.host == "c":
        open(f"{folder}/{batch.entries[0].disk}.waits", "w").close()
        while not os.path.exists(f"{folder}/go"):
            time.sleep(0.05)
    return fleet._work.survey_batch(batch)


def dying(cluster, own, monkeypatch, host_timeout, then):
    """A survey, in which the node of a third host dies while it reads; `then` is called behind that."""
    monkeypatch.setattr("checkmap.fleet._survey.survey_batch", waits_for_a_file)
    for disk in ("c-1", "c-2"):
        own.add(disk, "c")
    node = cluster.add_node(num_cpus=1, labels={LABEL: "c"}, object_store_memory=80 * MIB)
    found = []
    surveying = threading.Thread(
        target=lambda: found.append(survey(Manifest.read(own.manifest()), Ray(host_timeout=host_timeout), since="mon", batch=1))
    )
    surveying.start()
    for _ in range(1200):
        if (own.folder / "c-1.waits").exists():
            break
        time.sleep(0.05)
    cluster.remove_node(node, allow_graceful=False)
    then()
    surveying.join(120)
    return found[0]


def test_a_node_that_dies_half_way_is_reported(cluster, own, monkeypatch):
    found = dying(cluster, own, monkeypatch, 3, lambda: None)
    assert {result.disk for result in found.not_done} == {"c-1", "c-2"}
    assert {result.error for result in found.not_done} == {
        "no node of the cluster had the label checkmap-host=c and 1 CPU for 3 seconds"
    }
    for disk in own.written:
        assert rows(found.extents, disk) == ([] if disk.startswith("c-") else own.due(disk))


def test_a_node_that_comes_back_reads_its_disks(cluster, own, monkeypatch):
    nodes = []

    def back():
        nodes.append(cluster.add_node(num_cpus=1, labels={LABEL: "c"}, object_store_memory=80 * MIB))
        (own.folder / "go").touch()

    found = dying(cluster, own, monkeypatch, 60, back)
    cluster.remove_node(nodes[0])
    assert found.not_done == []
    for disk in own.written:
        assert rows(found.extents, disk) == own.due(disk)


def sleeps(batch):
    if any(entry.disk == "idle" for entry in batch.entries):
        time.sleep(600)
    return fleet._work.survey_batch(batch)


def test_a_disk_that_takes_too_long(cluster, made, monkeypatch):
    monkeypatch.setattr("checkmap.fleet._survey.survey_batch", sleeps)
    found = survey(Manifest.read(made.manifest()), Ray(timeout=5), since="mon", batch=1)
    assert "idle" in {result.disk for result in found.not_done}
    assert {result.error for result in found.not_done} == {"no answer within 5 seconds"}


# Unions.


@pytest.mark.parametrize("batch, fan_in", [(1, 2), (64, 8)])
def test_a_union_equals_that_of_a_plain_loop(cluster, own, batch, fan_in):
    for host, at in (("a", 1), ("b", 2), ("a", 3), ("b", 4), ("a", 5)):
        own.add(f"v-{at}", host, volume="v", intervals=[[at], [], [at + 500]])
    own.entries.append({"disk": "bad", "image": "nothing.qcow2", "host": "b", "volume": "lacking"})
    own.entries.append({"disk": "good", "image": "web-1.qcow2", "host": "a", "volume": "lacking"})
    own.add("short", "b", size=32 * MIB, volume="odd", intervals=[[1], [], []])
    own.entries.append({"disk": "long", "image": "web-1.qcow2", "host": "a", "volume": "odd"})
    manifest = Manifest.read(own.manifest())
    united = unite(manifest, Ray(), since="mon", batch=batch, fan_in=fan_in)
    assert united == unite(manifest, Loop(all_hosts=True), since="mon")
    moved, v, lacking, odd = united
    assert v.bitmap.extents() == extents_of({1, 2, 3, 4, 5, 501, 502, 503, 504, 505}, 64 * MIB)
    assert moved.bitmap.count() == 7 and "nothing.qcow2" in lacking.error and "disagree about the disk_size" in odd.error


def makes_large_parts(batch):
    """Parts that are too large to come with the news that they are made: each stays on its node."""
    part = fleet._work.unite_batch(batch)
    ballast = fleet._work.Volume(None, 1, 1, os.urandom(1 << 20))
    return {**part, f"ballast of {batch.host} {min(part)}": ballast}


def test_a_union_whose_part_died_with_its_node_is_an_error(cluster, own, monkeypatch):
    """The node dies when its part is made, before the parts are united: its volume fails, and the others are there."""
    monkeypatch.setattr("checkmap.fleet._survey.unite_batch", makes_large_parts)
    node = cluster.add_node(num_cpus=1, labels={LABEL: "c"}, object_store_memory=80 * MIB)
    own.add("v-c", "c", volume="v", intervals=[[1], [], []])
    own.entries.append({"disk": "v-a", "image": "web-1.qcow2", "host": "a", "volume": "v"})
    # Many volumes do not wait one after the other.
    for at in range(20):
        own.entries.append({"disk": f"w-{at}", "image": "v-c.qcow2", "host": "c", "volume": f"w-{at}"})
        own.entries.append({"disk": f"w-{at}-a", "image": "web-1.qcow2", "host": "a", "volume": f"w-{at}"})
    merge = Ray.merge

    def dies(runner, *arguments):
        cluster.remove_node(node, allow_graceful=False)
        yield from merge(runner, *arguments)

    monkeypatch.setattr(Ray, "merge", dies)
    moved, v, *others = unite(Manifest.read(own.manifest()), Ray(host_timeout=3), since="mon", batch=1)
    assert moved.error is None and moved.bitmap.count() == 7
    assert v.bitmap is None and v.error.startswith("v-c: ")
    assert len(others) == 20 and all(other.bitmap is None and other.error.startswith("w-") for other in others)


# The example.


def test_the_example_prints_what_is_due(cluster, own, tmp_path, capsys):
    out = tmp_path / "out"
    assert example().run(Manifest.read(own.manifest()), "mon", out) == 0
    said = capsys.readouterr().out.splitlines()
    due = {disk: sum(length for _, length in own.due(disk)) for disk in own.written}
    ordered = sorted(due, key=lambda disk: (-due[disk], disk))
    assert [line.split() for line in said[:-1]] == [[str(due[disk]), disk] for disk in ordered]
    assert said[-1] == f"volume moved on 2 disks: {7 * 65536} bytes changed"


def test_the_example_names_a_bad_manifest(tmp_path):
    ran = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path / "fleet.json", "--out", tmp_path / "out"], capture_output=True, text=True
    )
    assert ran.returncode == 1 and "fleet.json" in ran.stderr and "Traceback" not in ran.stderr


# Without a cluster.


def test_no_connection_is_said(made):
    code = (
        "from checkmap.fleet import Entry, Manifest, Ray, survey\n"
        "survey(Manifest([Entry('d', image='d', host='a')]), Ray(), since='mon')"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "RuntimeError: no connection to a Ray cluster" in ran.stderr


def test_ray_that_is_missing_or_old_is_said(made, monkeypatch):
    manifest = Manifest([Entry("d", image="d", host="a")])
    monkeypatch.setattr(ray, "__version__", "2.48.1")
    with pytest.raises(RuntimeError, match="Ray 2.48.1 picks no nodes by their labels; 2.49 or newer does"):
        survey(manifest, Ray(), since="mon")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"ray is not installed; `pip install 'checkmap\[fleet\]'`"):
        survey(manifest, Ray(), since="mon")
