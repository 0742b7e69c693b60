"""A kill between any two steps of the commit protocol: on a disk, in a run with a table of regions, and on S3."""

import uuid
from functools import partial

import pytest

from pipeline import storage
from pipeline.corpus import plan
from pipeline.runs import compact, lease, verify
from pipeline.runs import plan as stored_plan
from pipeline.runs.parts import parts_of, read_table
from tests import ledger_play
from tests.crash_points import Killed, dying
from tests.ledger_play import segment, withdraw_rejects
from tests.test_run import IDENTITY, open_run

BAD = ("val/s_0", "val/s_3")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A plan of two parts; the lease of a process that dies here is dead, though this process lives on."""
    monkeypatch.setattr(plan, "TABLE_ROWS", 2)
    monkeypatch.setattr(stored_plan, "PART_ROWS", 4)
    monkeypatch.setattr(lease, "EXPIRES_S", -1000.0)
    monkeypatch.setattr(lease, "RENEW_S", 1e6)  # on a slow machine a renewal would be a step more
    monkeypatch.setattr("os.fsync", lambda file: None)  # nobody cuts the power here


def rejecting(rejected):
    """Answers that have regions where the run asks for them."""
    return ledger_play.rejecting(rejected, regions=ledger_play.open_run is not open_run)


def retry_rejects(uri):
    withdraw_rejects(uri)
    segment(uri, rejecting(["val/s_0"]))  # the other one was mended


COMMANDS = {
    "segment": lambda uri: segment(uri, rejecting(BAD)),
    "retry-rejects": retry_rejects,
    "compact": lambda uri: compact(uri, f"{uri}-compact", part_bytes=40_000),
}


def seen_by_a_reader(uri):
    """image id -> rows of it, of whoever reads all the parts that are there; each must be whole."""
    tables = [read_table(storage.read(part.uri)) for kind in ("masks", "rejects") for part in parts_of(uri, kind)]
    ids = [image_id for table in tables for image_id in table["image_id"].to_pylist()]
    return {image_id: ids.count(image_id) for image_id in ids}


def content(uri):
    """Name and bytes of all that does not tell the time."""
    files = storage.list_files(uri)
    timed = ("run.json", "_SUCCESS.json", "_lease/")
    return {file.path: storage.read(file.uri) for file in files if not file.path.startswith(timed)}


@pytest.mark.scorecard("fault", 19)
@pytest.mark.slow
@pytest.mark.parametrize("store", ["folder", pytest.param("s3", marks=pytest.mark.long)])
def test_after_a_kill_at_any_step_the_same_command_ends_as_if_nothing_had_been(store, request, tmp_path, monkeypatch):
    if store == "folder":
        asked = IDENTITY | {"regions": {"min_area": 1}}
        monkeypatch.setattr(ledger_play, "open_run", partial(open_run, identity=asked))
    root = str(tmp_path) if store == "folder" else f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"
    whole, names = f"{root}/whole", {}
    expected = {}
    for command, run in COMMANDS.items():
        with dying(whole, None, names.setdefault(command, [])):
            run(whole)
        expected[command] = content(whole), content(f"{whole}-compact")
    assert {"put plan/part-00000", "put plan/part-00001", "create run.json", "create _lease/00000001.json",
            "create attempts/shard-00002", "create masks/part-00002.parquet", "put rejects/part-00001.parquet",
            "delete attempts/shard-00002", "put _SUCCESS.json"} <= set(names["segment"])  # fmt: skip
    assert "delete masks/part-00001.parquet" in names["retry-rejects"]
    if store == "folder":
        assert "create regions/part-00002.parquet" in names["segment"]
        assert "delete regions/part-00001.parquet" in names["retry-rejects"]
        assert any(name.startswith("put -compact/regions/part-00000-0000") for name in names["compact"])
    assert any(name.startswith("put -compact/masks/part-00000-0000") for name in names["compact"])
    before = []
    for command, run in COMMANDS.items():
        for at, name in enumerate(names[command]):
            uri = f"{root}/{command}-{at}"
            for earlier in before:
                COMMANDS[earlier](uri)
            with pytest.raises(Killed), dying(uri, at, []):
                run(uri)
            for folder in (uri, f"{uri}-compact"):
                assert set(seen_by_a_reader(folder).values()) <= {1}, (command, name)
            if command == "compact":
                assert verify(uri).problems == [], name
            run(uri)
            assert (content(uri), content(f"{uri}-compact")) == expected[command], (command, name)
            assert verify(uri).problems == [], (command, name)
            if command == "compact":
                assert verify(f"{uri}-compact").problems == [], name
        before.append(command)
