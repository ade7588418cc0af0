"""Fleets on one host: manifests, surveys in a loop and in processes, unions, and everything that may go wrong with a disk."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading

import pyarrow
import pyarrow.parquet
import pytest

import checkmap
from checkmap import Bitmap, Image, fleet
from checkmap.fleet import Entry, Loop, Manifest, ManifestError, Pool, survey, unite

from .conftest import GIB, KIB, MIB
from .fleet_support import GRANULARITY, NAMES, Fleet, extents_of, in_use, rows, two_hosts


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return two_hosts(tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def own(made, tmp_path):
    """A copy that a test may change."""
    return made.copy_to(tmp_path / "fleet")


def runners():
    return [Loop(all_hosts=True), Pool(2, all_hosts=True)]


# Manifests.


def write(folder, disks, **more):
    path = folder / "fleet.json"
    path.write_text(json.dumps({"disks": disks, **more}))
    return path


def test_a_manifest_has_its_entries(tmp_path):
    disks = [
        {"disk": "web-1", "image": "sub/web-1.qcow2", "host": "node7", "since": "mon", "volume": "v"},
        {"disk": "db-1", "qmp": "/run/db.sock", "node": "vda"},
        {"disk": "x", "libvirt": "qemu:///system", "domain": "x"},
    ]
    manifest = Manifest.read(write(tmp_path, disks))
    assert list(manifest) == [
        Entry("web-1", image=str(tmp_path / "sub/web-1.qcow2"), host="node7", since="mon", volume="v"),
        Entry("db-1", qmp="/run/db.sock", node="vda"),
        Entry("x", libvirt="qemu:///system", domain="x"),
    ]
    assert len(manifest) == 3 and manifest.hosts() == ["node7"] and "of 3 disks" in repr(manifest)


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"disk": "d", "imgae": "x"}, 'unknown key "imgae"; known are disk, image'),
        ({"disk": "d"}, 'one of "image", "qmp" and "libvirt" is missing'),
        ({"disk": "d", "image": "x", "qmp": "y"}, 'only one of "image", "qmp" and "libvirt" can be given'),
        ({"disk": "d", "libvirt": "y", "node": "z"}, '"libvirt" goes with "domain", which is missing'),
        ({"disk": "d", "image": "x", "domain": "y"}, '"domain" goes with "libvirt" only'),
        ({"disk": "d", "image": "x", "node": "y"}, '"node" goes with "qmp" or "libvirt", and not with "image"'),
        ({"disk": "", "image": "x"}, '"disk" is empty'),
        ({"disk": "d", "image": ""}, '"image" is empty'),
        ({"disk": "d", "image": "x", "host": ""}, '"host" is empty'),
        ({"disk": "d", "image": 7}, '"image" is no string'),
        ({"disk": "d", "image": "x", "host": None}, '"host" is no string'),
        ({"disk": "d", "image": "x\0"}, '"image" has a NUL in it'),
        ({"disk": "ok", "image": "x"}, "disk number 1 has the same name: give each a name of its own"),
        ({"image": "x"}, 'the key "disk" is missing'),
        (["d"], "a disk is an object"),
    ],
)
def test_a_bad_entry_is_named(tmp_path, entry, words):
    path = write(tmp_path, [{"disk": "ok", "image": "x"}, entry])
    with pytest.raises(ManifestError) as caught:
        Manifest.read(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: disk number 2") and words in said
    if isinstance(entry, dict) and entry.get("disk"):
        assert f'disk number 2 ("{entry["disk"]}"): ' in said


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "this is no manifest: Expecting value"),
        ("[]", 'a manifest is {"disks": [...]}'),
        ('{"disks": {}}', 'a manifest is {"disks": [...]}'),
        ('{"disks": [], "version": 1}', 'unknown key "version"'),
        ('{"disks": [{"disk": "d", "image": "x", "image": "y"}]}', 'the key "image" stands twice in one object, "d"'),
        ("[" * 100_000, "this is no manifest: "),
        ("\xff", "this is no manifest: "),
    ],
    ids=["empty", "list", "object", "key", "twice", "deep", "no UTF-8"],
)
def test_a_text_that_is_no_manifest(tmp_path, text, words):
    path = tmp_path / "fleet.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ManifestError) as caught:
        Manifest.read(path)
    assert str(caught.value).startswith(f"{path}: ") and words in str(caught.value)


def test_a_manifest_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Manifest.read(tmp_path / "fleet.json")


def test_a_cluster_needs_hosts(tmp_path):
    disks = [{"disk": f"d{n}", "image": "x", **({"host": "a"} if n == 1 else {})} for n in range(6)]
    manifest = Manifest.read(write(tmp_path, disks))
    with pytest.raises(ManifestError, match=r'disk number 1 \("d0"\), .* 3 \("d2"\), .* 4 \("d3"\) and 2 more: no "host"'):
        manifest.need_hosts()


def test_an_empty_fleet(tmp_path):
    manifest = Manifest.read(write(tmp_path, []))
    for runner in runners():
        found = survey(manifest, runner, since="mon")
        assert found.results == [] and found.extents.num_rows == found.intervals.num_rows == 0
        assert found.extents.schema == fleet.extents_schema()
        assert unite(manifest, runner) == []
        assert survey(manifest, runner, since="mon", out=tmp_path / type(runner).__name__).files == []


# Surveys.


def test_the_schemas_are_those_of_the_command_line():
    pa = pyarrow
    names = [("disk", pa.string(), False), ("since", pa.string(), True), ("until", pa.string(), True)]
    numbers = [(name, pa.int64(), False) for name in ("start", "length", "granularity", "virtual_size")]
    assert [(each.name, each.type, each.nullable) for each in fleet.extents_schema()] == names + numbers
    numbers = [(name, pa.int64(), False) for name in ("virtual_size", "granularity", "dirty_bytes", "dirty_extents")]
    roaring = [("roaring", pa.binary(), False)]
    assert [(each.name, each.type, each.nullable) for each in fleet.intervals_schema()] == names + numbers + roaring


@pytest.mark.parametrize("runner", runners(), ids=["loop", "pool"])
@pytest.mark.parametrize("batch", [1, 3, 64])
def test_a_survey_has_what_was_written(made, runner, batch):
    manifest = Manifest.read(made.manifest())
    found = survey(manifest, runner, since="mon", batch=batch)
    assert [(result.disk, result.host, result.state) for result in found.results] == [
        (entry.disk, entry.host, "done") for entry in manifest
    ]
    assert found.not_done == [] and found.files == []
    intervals = {row["disk"]: row for row in found.intervals.to_pylist()}
    assert list(intervals) == ["clone-1", "idle", "moved-a", "web-1", "clone-2", "moved-b", "odd", "web-2"]
    for result in found.results:
        due, row = made.due(result.disk), intervals[result.disk]
        assert rows(found.extents, result.disk) == due
        assert row["dirty_bytes"] == result.dirty_bytes == sum(length for _, length in due)
        assert row["dirty_extents"] == len(due) and (row["since"], row["until"]) == ("mon", None)
        assert (row["virtual_size"], row["granularity"]) == (made.sizes[result.disk], GRANULARITY)
        bitmap = Bitmap.deserialize(row["roaring"], row["virtual_size"], row["granularity"])
        assert bitmap.extents() == due
    for row in found.extents.to_pylist():
        assert (row["since"], row["until"], row["granularity"]) == ("mon", None, GRANULARITY)
        assert row["virtual_size"] == made.sizes[row["disk"]]
    found.extents.validate(full=True)


@pytest.mark.parametrize("since, until", [("mon", None), ("mon", "wed"), ("tue", None), ("tue", "wed")])
def test_each_interval_by_itself(made, since, until):
    found = survey(Manifest.read(made.manifest()), Loop(all_hosts=True), since=since, until=until, each_interval=True)
    first, last = NAMES.index(since), NAMES.index(until) if until else len(NAMES)
    names = [*NAMES, None]
    for disk, written in made.written.items():
        its_rows = [row for row in found.intervals.to_pylist() if row["disk"] == disk]
        assert [(row["since"], row["until"]) for row in its_rows] == [(names[at], names[at + 1]) for at in range(first, last)]
        for at, row in zip(range(first, last), its_rows):
            extents = [
                (each["start"], each["length"])
                for each in found.extents.to_pylist()
                if each["disk"] == disk and each["since"] == names[at]
            ]
            assert extents == extents_of(written[at], made.sizes[disk]) and len(extents) == row["dirty_extents"]
    # One interval over all of them is their union, which is shorter than their sum where they overlap.
    total = {result.disk: result.dirty_bytes for result in found.results}
    odd = sum(length for at in range(first, last) for _, length in extents_of(made.written["odd"][at], 3 * MIB + 512))
    assert total["odd"] == odd


def test_files_one_for_each_host_and_table(made, tmp_path):
    manifest, out = Manifest.read(made.manifest()), tmp_path / "out"
    in_memory = survey(manifest, Loop(all_hosts=True), since="mon", batch=1)
    found = survey(manifest, Pool(2, all_hosts=True), since="mon", out=out, batch=1)
    assert found.extents is None and found.intervals is None
    expected = [out / kind / f"{host}.parquet" for kind in ("extents", "intervals") for host in "ab"]
    assert found.files == [str(path) for path in expected]
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted([*expected, out / "complete.json"])
    listed = json.loads((out / "complete.json").read_text())["files"]
    assert [out / name for name in listed] == expected
    for kind, table in (("extents", in_memory.extents), ("intervals", in_memory.intervals)):
        read = pyarrow.concat_tables([pyarrow.parquet.read_table(out / kind / f"{host}.parquet") for host in "ab"])
        assert read.schema.equals(table.schema) and read.to_pylist() == table.to_pylist()
    assert pyarrow.parquet.ParquetFile(out / "extents/a.parquet").num_row_groups == 1
    with pytest.raises(FileExistsError, match="each needs a folder of its own"):
        survey(manifest, Loop(all_hosts=True), since="mon", out=out)


def test_a_file_that_cannot_be_ended_leaves_none(made, tmp_path, monkeypatch):
    def full(descriptor):
        synced.append(descriptor)
        if len(synced) == 3:
            raise OSError(28, "No space left on device")

    synced = []
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        survey(Manifest.read(made.manifest()), Loop(all_hosts=True), since="mon", out=tmp_path / "out")
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_folder_takes_one_survey_at_a_time(made, tmp_path):
    manifest, refused = Manifest.read(made.manifest()), []

    def told(*_):
        if not refused:
            with pytest.raises(FileExistsError, match="another survey writes into this folder") as caught:
                survey(manifest, Loop(all_hosts=True), since="mon", out=tmp_path)
            refused.append(caught.value)

    found = survey(manifest, Loop(all_hosts=True), since="mon", out=tmp_path, told=told)
    assert len(refused) == 1 and len(found.files) == 4
    assert files_in(tmp_path) == ["a.parquet", "a.parquet", "b.parquet", "b.parquet", "complete.json"]


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("at", range(1, 6))
def test_an_interrupt_while_files_get_their_names_leaves_none(made, tmp_path, monkeypatch, at, links):
    named, link = [], os.link

    def interrupted(old, new):
        if not links:
            raise OSError(95, "Operation not supported")
        named.append(new)
        link(old, new)
        if len(named) == at:
            raise KeyboardInterrupt

    rename = os.rename

    def renamed(old, new):
        named.append(new)
        rename(old, new)
        if len(named) == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", interrupted)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "replace", renamed)
    with pytest.raises(KeyboardInterrupt):
        survey(Manifest.read(made.manifest()), Loop(all_hosts=True), since="mon", out=tmp_path)
    assert files_in(tmp_path) == []


def test_a_name_that_another_program_took_stays(made, tmp_path):
    def told(done, of):
        if done == of:
            (tmp_path / "intervals" / "b.parquet").write_text("other")

    with pytest.raises(FileExistsError):
        survey(Manifest.read(made.manifest()), Loop(all_hosts=True), since="mon", out=tmp_path, told=told)
    assert files_in(tmp_path) == ["b.parquet"] and (tmp_path / "intervals" / "b.parquet").read_text() == "other"


def test_a_full_disk_leaves_no_file(made, tmp_path, monkeypatch):
    close = pyarrow.parquet.ParquetWriter.close

    def full(writer):
        if sys._getframe(1).f_code.co_name != "__del__":
            raise OSError(28, "No space left on device")
        close(writer)

    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "close", full)
    with pytest.raises(OSError, match="No space left"):
        survey(Manifest.read(made.manifest()), Loop(all_hosts=True), since="mon", out=tmp_path)
    assert files_in(tmp_path) == []


def test_hosts_with_long_names_and_names_that_differ_in_case(made, tmp_path):
    image = str(made.folder / "web-1.qcow2")
    long = [Entry(f"d{n}", image=image, host="h" * 300 + str(n)) for n in range(2)]
    found = survey(Manifest(long), Loop(all_hosts=True), since="mon", out=tmp_path / "long")
    assert len(set(found.files)) == 4 and all(len(os.path.basename(path)) < 240 for path in found.files)
    case, read = [Entry("a", image=image, host="Node"), Entry("b", image=image, host="node")], []
    with pytest.raises(ValueError, match="hosts 'Node' and 'node' would have one file"):
        survey(Manifest(case), Loop(all_hosts=True), since="mon", out=tmp_path / "case", told=lambda *_: read.append(1))
    assert read == []


def test_text_that_is_no_utf_8(made, tmp_path):
    image = str(made.folder / "web-1.qcow2")
    for key in ("disk", "since", "host", "volume"):
        with pytest.raises(ManifestError, match=f'"{key}" is no text in UTF-8'):
            Manifest.read(write(tmp_path, [{"disk": "d", "image": image, key: "x\ud800"}]))
    for names in ({"since": "\ud800"}, {"since": "mon", "until": "\ud800"}):
        with pytest.raises(ValueError, match="is no text in UTF-8"):
            survey(Manifest([Entry("d", image=image)]), **names)
    kept, bitmap = fleet._tables.Rows(True, True), Bitmap(MIB, 64 * KIB)
    kept.add("good", [("mon", None, bitmap)])
    with pytest.raises(UnicodeEncodeError):
        kept.add("bad\ud800", [("mon", None, bitmap)])
    assert kept.tables()[1]["disk"].to_pylist() == ["good"]


def test_a_manifest_that_is_too_large(tmp_path):
    with open(tmp_path / "fleet.json", "wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(ManifestError, match="a manifest of more than 1 GiB"):
        Manifest.read(tmp_path / "fleet.json")


def test_an_error_between_question_and_answer_ends_the_process(monkeypatch):
    from checkmap.fleet import _runners

    class Poll:
        def register(self, *_):
            pass

        def poll(self, _):
            raise MemoryError

    with _runners._Process(len, threading.Event()) as process:
        assert process.ask("1", None) == 1
        with monkeypatch.context() as patched, pytest.raises(MemoryError):
            patched.setattr(_runners.select, "poll", Poll)
            process.ask("22", None)
        assert process.ask("333", None) == 3


@pytest.mark.parametrize("says", ["", "half = b'\\x09' + bytes(7) + b'x'; import os; os.write(1, half); "])
def test_a_process_that_is_never_ready_is_given_up(tmp_path, monkeypatch, says):
    from checkmap.fleet import _runners

    stuck = tmp_path / "python"
    stuck.write_text(f"#!/bin/sh\nexec {sys.executable} -c \"{says}import time; time.sleep(20)\"\n")
    stuck.chmod(0o755)
    monkeypatch.setattr(_runners.sys, "executable", str(stuck))
    monkeypatch.setattr(_runners, "_BEGIN", 1.0, raising=False)
    with _runners._Process(len, threading.Event()) as process:
        assert "was not ready within 1.0 seconds" in process.ask("1", 0.5).reason


def test_one_table_alone(made, tmp_path):
    manifest = Manifest.read(made.manifest())
    found = survey(manifest, Loop(all_hosts=True), since="mon", extents=False)
    assert found.extents is None and found.intervals.num_rows == 8
    found = survey(manifest, Loop(all_hosts=True), since="mon", intervals=False, out=tmp_path / "out")
    assert sorted(os.listdir(tmp_path / "out")) == ["complete.json", "extents"] and found.results[0].dirty_bytes


def test_names_of_hosts_are_names_of_files(tmp_path):
    made = Fleet(tmp_path)
    made.add("d", "../ü~", intervals=[[1], [], []])
    found = survey(Manifest.read(made.manifest()), Loop(all_hosts=True), since="mon", out=tmp_path / "out")
    assert [os.path.relpath(path, tmp_path) for path in found.files] == [
        f"out/{kind}/%2E.%2F%C3%BC%7E.parquet" for kind in ("extents", "intervals")
    ]


def test_disks_of_other_hosts_are_left_out_and_said(made):
    for runner in (Loop(host="a"), Pool(1, host="a")):
        found = survey(Manifest.read(made.manifest()), runner, since="mon")
        left_out = [result for result in found.results if result.state == "left out"]
        assert {result.disk for result in left_out} == {"web-2", "odd", "clone-2", "moved-b"} and left_out == found.not_done
        assert left_out[0].error == "it is on host 'b', and this one is 'a'"
        assert set(found.intervals["disk"].to_pylist()) == {"web-1", "idle", "clone-1", "moved-a"}
    # Without a host, an entry is this host's.
    made_here = Manifest([Entry("d", image=str(made.folder / "web-1.qcow2"))])
    assert survey(made_here, Loop(host="c"), since="mon").results[0].state == "done"


def test_the_checkpoint_to_begin_with(made):
    image = str(made.folder / "web-1.qcow2")
    manifest = Manifest([Entry("own", image=image, since="wed"), Entry("none", image=image)])
    own, none = survey(manifest).results
    assert own.dirty_bytes == sum(length for _, length in made.due("web-1", 2))
    assert none.state == "failed" and 'no checkpoint to begin with: pass since=..., or give the entry a "since"' in none.error
    # What the call names stands in the place of each entry's own.
    for result in survey(manifest, since="tue").results:
        assert result.dirty_bytes == sum(length for _, length in made.due("web-1", 1))


# Disks that fail.


@pytest.mark.parametrize("runner", runners(), ids=["loop", "pool"])
def test_a_bad_disk_spoils_no_other(own, runner):
    path = own.folder / "clone-2.qcow2"
    raw = bytearray(path.read_bytes())
    raw[0:4] = b"nope"
    path.write_bytes(raw)
    (own.folder / "idle.qcow2").unlink()
    (own.folder / "folder.qcow2").mkdir()
    own.entries.append({"disk": "folder", "image": "folder.qcow2", "host": "a"})
    own.entries.append({"disk": "late", "image": "web-1.qcow2", "host": "a", "since": "sunday"})
    own.entries.append({"disk": "db", "qmp": "nothing.sock", "node": "vda", "host": "a"})
    with in_use(own.folder / "odd.qcow2"):
        found = survey(Manifest.read(own.manifest()), runner, retries=0)
        assert {result.state for result in found.results} == {"failed"}  # Nothing says where to begin.
        for entry in own.entries:
            entry.setdefault("since", "mon")
        found = survey(Manifest.read(own.manifest()), runner)
    failed = {result.disk: result for result in found.not_done}
    assert set(failed) == {"odd", "clone-2", "idle", "folder", "late", "db"}
    kinds = {disk: (result.state, result.kind, result.retries, result.dirty_bytes) for disk, result in failed.items()}
    assert kinds["odd"] == ("failed", "IN_USE", 0, None) and "odd.qcow2" in failed["odd"].error
    assert kinds["clone-2"][1] == "UNKNOWN_FORMAT" and kinds["late"] == ("failed", "NOT_FOUND", 0, None)
    assert kinds["idle"] == ("failed", "IO", 0, None) and "idle.qcow2" in failed["idle"].error
    assert "nothing.sock" in failed["db"].error
    for disk in ("web-1", "web-2", "clone-1", "moved-a", "moved-b"):
        assert rows(found.extents, disk) == own.due(disk)
    assert set(found.intervals["disk"].to_pylist()) == {"web-1", "web-2", "clone-1", "moved-a", "moved-b"}


def test_a_disk_that_fails_half_way_has_no_rows(own, monkeypatch):
    """The second interval of a disk is inconsistent; and an error of input after one interval was read is tried again."""
    diff, asked = Image.diff, []

    def fails(image, since, until=None):
        asked.append(since)
        if since == "tue" and "web-1" in repr(image) and asked.count("tue") == failing:
            raise OSError(5, "Input/output error")
        return diff(image, since, until)

    monkeypatch.setattr(Image, "diff", fails)
    monkeypatch.setattr("checkmap.fleet._work._PAUSE", 0.001)
    image = str(own.folder / "web-1.qcow2")
    manifest = Manifest([Entry("web-1", image=image), Entry("other", image=str(own.folder / "web-2.qcow2"))])
    failing = 2  # "other" comes first.
    found = survey(manifest, since="mon", each_interval=True)
    assert [(result.state, result.retries) for result in found.results] == [("done", 1), ("done", 0)]
    assert found.intervals["disk"].to_pylist() == ["other"] * 3 + ["web-1"] * 3
    asked.clear()
    found = survey(manifest, since="mon", each_interval=True, retries=0)
    assert [(result.state, result.error) for result in found.results] == [("failed", "[Errno 5] Input/output error"), ("done", None)]
    assert set(found.intervals["disk"].to_pylist()) == set(found.extents["disk"].to_pylist()) == {"other"}


@pytest.mark.parametrize(
    "error, passes",
    [
        (OSError(5, "input"), True),
        (TimeoutError(110, "late"), True),
        (FileNotFoundError(2, "missing"), False),
        (PermissionError(13, "denied"), False),
        (ValueError("no"), False),
        (checkmap.InUseError(16, "in use"), False),
        (checkmap.DamagedError(117, "damaged"), False),
        (checkmap.SystemCallError(5, "input"), True),
        (checkmap.TimedOutError(110, "late"), True),
        (checkmap.FileMissingError(2, "missing"), False),
        (checkmap.OutOfMemoryError(12, "no memory"), True),
    ],
)
def test_what_is_tried_again(error, passes):
    assert fleet._work.may_pass(error) is passes


def test_a_survey_that_is_stopped_leaves_no_file(made, tmp_path):
    def told(done, of):
        told_all.append((done, of))
        if done >= 3:
            raise KeyboardInterrupt

    told_all = []
    for runner in runners():
        with pytest.raises(KeyboardInterrupt):
            survey(Manifest.read(made.manifest()), runner, since="mon", batch=1, out=tmp_path / "out", told=told)
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
        assert workers() == []
    assert told_all == [(1, 8), (2, 8), (3, 8)] * 2


# Processes that die.


def kills_its_process(batch):
    """Work for a Pool: a disk called "killer" kills its process, once, or whenever it is read."""
    for entry in batch.entries:
        if entry.disk.startswith("killer"):
            mark = entry.image + ".killed"
            if entry.disk == "killer-always" or not os.path.exists(mark):
                open(mark, "w").close()
                os.kill(os.getpid(), signal.SIGKILL)
    return fleet._work.survey_batch(batch)


@pytest.fixture
def killing(monkeypatch, own):
    """The processes of the test import this work from a module of its own."""
    folder = own.folder.parent / "modules"
    folder.mkdir()
    source = "import os, signal\nfrom checkmap import fleet\n\n" + source_of(kills_its_process)
    (folder / "killing_work.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    import killing_work

    monkeypatch.setattr("checkmap.fleet._survey.survey_batch", killing_work.kills_its_process)
    yield own
    sys.modules.pop("killing_work")


def source_of(function):
    import inspect

    return inspect.getsource(function)


@pytest.mark.parametrize("batch", [1, 64])
def test_a_process_that_is_killed_is_replaced(killing, batch):
    killing.entries.append({"disk": "killer-once", "image": "web-1.qcow2"})
    killing.written["killer-once"], killing.sizes["killer-once"] = killing.written["web-1"], killing.sizes["web-1"]
    found = survey(Manifest.read(killing.manifest()), Pool(2, all_hosts=True), since="mon", batch=batch)
    assert found.not_done == []
    for disk in killing.written:
        assert rows(found.extents, disk) == killing.due(disk)


@pytest.mark.parametrize("batch", [1, 64])
def test_a_disk_that_kills_every_process_fails_alone(killing, tmp_path, batch):
    killing.entries.append({"disk": "killer-always", "image": "web-1.qcow2", "host": "a"})
    out = tmp_path / "out"
    found = survey(Manifest.read(killing.manifest()), Pool(2, all_hosts=True), since="mon", batch=batch, out=out)
    ((disk, host, state, error, kind, retries, _, _),) = found.not_done
    assert (disk, host, state, kind, retries) == ("killer-always", "a", "failed", None, 1)
    assert error == "the process that read it was killed by SIGKILL"
    # The disks that shared its batch were read alone, each of them once.
    names = sorted(path.name for path in (out / "extents").iterdir())
    assert names == (["a.parquet", "b.parquet"] if batch == 1 else ["a~alone.parquet", "b.parquet"])
    table = pyarrow.parquet.read_table(out / "extents")
    for disk in killing.written:
        assert rows(table, disk) == killing.due(disk)
    intervals = pyarrow.parquet.read_table(out / "intervals")["disk"].to_pylist()
    assert sorted(intervals) == sorted(killing.written)


def test_a_disk_that_takes_too_long_fails(own, monkeypatch):
    (own.folder / "modules").mkdir()
    (own.folder / "modules/slow_work.py").write_text(
        "import time\nfrom checkmap import fleet\n\n\ndef work(batch):\n"
        "    if any(entry.disk == 'slow' for entry in batch.entries):\n        time.sleep(600)\n"
        "    return fleet._work.survey_batch(batch)\n"
    )
    monkeypatch.syspath_prepend(own.folder / "modules")
    import slow_work

    monkeypatch.setattr("checkmap.fleet._survey.survey_batch", slow_work.work)
    image = str(own.folder / "web-1.qcow2")
    manifest = Manifest([Entry("slow", image=image), Entry("web-1", image=image)])
    slow, other = survey(manifest, Pool(1, retries=0, timeout=3), since="mon", batch=1).results
    assert (slow.state, slow.error) == ("failed", "no answer within 3 seconds") and other.state == "done"


def workers():
    """The processes of pools of this process."""
    ran = subprocess.run(["ps", "-o", "args", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return [line for line in ran.stdout.splitlines() if "checkmap.fleet._worker" in line]


def test_processes_end_with_the_survey(made):
    manifest = Manifest.read(made.manifest())
    found = survey(manifest, Pool(2, all_hosts=True), since="mon", batch=1)
    assert not found.not_done
    assert workers() == []


def test_a_pool_that_cannot_begin_says_so(made, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found = survey(Manifest.read(made.manifest()), Pool(2, all_hosts=True), since="mon")
    assert {result.error for result in found.results} == {"no process could begin: /bin/false ended with status 1"}
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    found = survey(Manifest.read(made.manifest()), Pool(2, all_hosts=True), since="mon")
    assert all("no process could be used" in result.error and "/nowhere/python" in result.error for result in found.results)


@pytest.mark.parametrize("final", [False, True])
def test_disks_of_a_lost_batch_are_tried_alone_unless_that_is_in_vain(made, final):
    class Losing(Loop):
        def run(self, work, batches, *, keep=False):
            runs.append([len(batch.entries) for batch in batches])
            for at, _ in enumerate(batches):
                yield at, fleet.Lost("lost", 3, final)

    runs = []
    found = survey(Manifest.read(made.manifest()), Losing(all_hosts=True), since="mon", batch=3)
    assert runs == ([[3, 1, 3, 1]] if final else [[3, 1, 3, 1], [1] * 6])
    assert {(result.state, result.error, result.retries) for result in found.results} == {("failed", "lost", 3)}
    (moved,) = unite(Manifest.read(made.manifest()), Losing(all_hosts=True), since="mon")
    assert moved.error == "moved-a: lost; moved-b: lost"


def test_numbers_of_arguments(made):
    manifest = Manifest.read(made.manifest())
    with pytest.raises(ValueError, match="batch is 1 or more"):
        survey(manifest, since="mon", batch=0)
    with pytest.raises(ValueError, match="batch is 1 or more"):
        unite(manifest, batch=0)
    with pytest.raises(ValueError, match="fan_in is 2 or more"):
        unite(manifest, fan_in=1)
    with pytest.raises(ValueError, match="at least 1 process"):
        Pool(0)


def test_answers_can_be_pickled(made):
    result = survey(Manifest.read(made.manifest()), Loop(all_hosts=True), since="mon").results[0]
    assert pickle.loads(pickle.dumps(result)) == result


# Unions.


def volumes(folder, count, hosts):
    """Volumes v0, v1, ... of one recording on each host, and the granules of each."""
    made, granules = Fleet(folder), {}
    for volume in range(count):
        for host in range(hosts):
            written = [[10 * volume + host, 500 + host], [], [900]]
            made.add(f"v{volume}-{host}", f"h{host}", volume=f"v{volume}", intervals=written)
            granules.setdefault(f"v{volume}", set()).update(*written)
    return made, granules


@pytest.mark.parametrize("runner", runners(), ids=["loop", "pool"])
@pytest.mark.parametrize("batch, fan_in", [(1, 2), (2, 3), (64, 8)])
def test_a_union_over_hosts(tmp_path, runner, batch, fan_in):
    made, granules = volumes(tmp_path, 3, 4)
    made.add("alone", "h0")
    united = unite(Manifest.read(made.manifest()), runner, since="mon", batch=batch, fan_in=fan_in)
    assert [each.volume for each in united] == ["v0", "v1", "v2"]
    for each in united:
        assert each.error is None and each.disks == [f"{each.volume}-{host}" for host in range(4)]
        assert each.bitmap.extents() == extents_of(granules[each.volume], 64 * MIB)
        assert (each.bitmap.size, each.bitmap.granularity) == (64 * MIB, GRANULARITY)


def test_recordings_of_one_host_are_united_there(own):
    own.entries.append({"disk": "again", "image": "web-1.qcow2", "host": "a", "volume": "moved"})
    (moved,) = unite(Manifest.read(own.manifest()), Loop(all_hosts=True), since="mon")
    granules = set().union(*(set().union(*own.written[disk]) for disk in ("moved-a", "moved-b", "web-1")))
    assert moved.disks == ["moved-a", "moved-b", "again"] and moved.bitmap.extents() == extents_of(granules, 64 * MIB)


@pytest.mark.parametrize("runner", runners(), ids=["loop", "pool"])
def test_a_union_that_would_lack_a_recording_is_an_error(own, runner):
    own.entries.append({"disk": "bad", "image": "nothing.qcow2", "host": "b", "volume": "lacking"})
    own.entries.append({"disk": "good", "image": "web-1.qcow2", "host": "a", "volume": "lacking"})
    moved, lacking = unite(Manifest.read(own.manifest()), runner, since="mon")
    assert moved.error is None and moved.bitmap.count() == 7
    assert lacking.bitmap is None and lacking.error.startswith("bad: ") and "nothing.qcow2" in lacking.error


def test_a_union_that_leaves_a_host_out_is_an_error(own):
    (moved,) = unite(Manifest.read(own.manifest()), Loop(host="a"), since="mon")
    assert moved.bitmap is None and moved.error == "moved-b: it is on host 'b', and this one is 'a'"


@pytest.mark.parametrize("batch", [1, 64])
def test_recordings_that_disagree_are_an_error(own, batch):
    own.add("short", "b", size=32 * MIB, volume="moved", intervals=[[1], [], []])
    with Image(own.folder / "web-2.qcow2") as image:
        for name in NAMES:
            image.delete(name)
        image.create("mon", 128 * KIB)
    own.entries.append({"disk": "coarse", "image": "web-2.qcow2", "host": "b", "volume": "clones"})
    own.entries.append({"disk": "fine", "image": "clone-1.qcow2", "host": "a", "volume": "clones"})
    own.entries.append({"disk": "fine-2", "image": "clone-1.qcow2", "host": "a", "volume": "fine"})
    moved, clones, fine = unite(Manifest.read(own.manifest()), Loop(all_hosts=True), since="mon", batch=batch)
    assert fine.bitmap.extents() == own.due("clone-1")
    assert moved.error == (
        "the recordings of volume 'moved' disagree about the disk_size, 33554432 and 67108864 bytes: they are no recordings "
        "of one disk"
    )
    assert "disagree about the granularity, 65536 and 131072 bytes" in clones.error


def test_recordings_that_begin_at_different_checkpoints_are_an_error(own):
    for entry in own.entries:
        entry["since"] = "tue" if entry["disk"] == "moved-b" else "mon"
    manifest = Manifest.read(own.manifest())
    (moved,) = unite(manifest, Loop(all_hosts=True))
    assert moved.bitmap is None and moved.disks == ["moved-a", "moved-b"]
    assert "differ in \"since\", 'mon', 'tue': pass since=" in moved.error
    (moved,) = unite(manifest, Loop(all_hosts=True), since="mon")
    assert moved.error is None and moved.bitmap.count() == 7


# Modules that are missing.


def test_nothing_heavy_is_imported():
    code = "import sys, checkmap.fleet; print([name for name in ('pyarrow', 'numpy', 'ray', 'duckdb') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("module", ["pyarrow", "numpy"])
def test_a_missing_module_is_said_before_the_work(made, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module} is not installed; `pip install 'checkmap\[fleet\]'`"):
        survey(Manifest.read(made.manifest()), since="mon")


def test_the_largest_numbers_fit():
    bitmap = Bitmap((1 << 63) - 1, 1 << 31)
    bitmap.set_all()
    made = fleet._tables.Rows(True, True)
    assert made.add("d", [("mon", None, bitmap)]) == (1 << 63) - 1
    extents, intervals = made.tables()
    assert extents["length"].to_pylist() == intervals["dirty_bytes"].to_pylist() == [(1 << 63) - 1]


def test_many_rows_become_few_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr("checkmap.fleet._tables._ROW_GROUP_BYTES", 100_000)
    files = fleet._tables.Files(str(tmp_path), "a")
    bitmap = Bitmap(GIB, 64 * KIB)
    bitmap.set_extents([(at * 128 * KIB, 1) for at in range(200)])
    for at in range(40):
        made = fleet._tables.Rows(True, False)
        made.add(f"{at:02}", [("mon", None, bitmap)])
        files.write("a", *made.tables())
    (path,) = files.close()
    read = pyarrow.parquet.ParquetFile(path)
    assert read.metadata.num_rows == 8000 and 2 <= read.num_row_groups < 8
    assert read.read()["disk"].to_pylist() == [f"{at:02}" for at in range(40) for _ in range(200)]
