"""Training snapshots are either complete or ignored."""

import json

import pytest

from pipeline import storage
from pipeline.train import snapshots


def folder_with(tmp_path, *steps):
    folder = str(tmp_path / "snapshots")
    for step in steps:
        snapshots.save(folder, step, {"a": b"weights %d" % step, "b": b"optimizer"}, {"step": step})
    return folder


def test_the_newest_comes_back_and_two_are_kept(tmp_path):
    folder = folder_with(tmp_path, 10, 20, 30)
    newest = snapshots.newest(folder)
    assert (newest.step, newest.position, newest.parts["a"]) == (30, {"step": 30}, b"weights 30")
    assert {file.path.split("/")[0] for file in storage.list_files(folder)} == {"step-000000020", "step-000000030"}
    assert snapshots.newest(str(tmp_path / "none")) is None


@pytest.mark.scorecard("fault", 22)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda uri: storage.delete(f"{uri}/_SUCCESS.json"),
        lambda uri: storage.delete(f"{uri}/a"),
        lambda uri: storage.put(f"{uri}/a", b"weights 3"),
        lambda uri: storage.put(f"{uri}/_SUCCESS.json", b'{"format": 1'),
        lambda uri: storage.put(f"{uri}/_SUCCESS.json", json.dumps({"format": 99}).encode()),
    ],
    ids=["no marker", "no part", "cut off", "torn marker", "other format"],
)
def test_a_damaged_newest_falls_back_to_the_one_before_and_is_written_anew(tmp_path, spoil):
    folder = folder_with(tmp_path, 10, 20)
    spoil(f"{folder}/step-000000020")
    assert snapshots.newest(folder).step == 10
    snapshots.save(folder, 20, {"a": b"again"}, {})
    assert snapshots.newest(folder).parts == {"a": b"again"}


def test_snapshots_newer_than_the_one_that_a_run_fell_back_to_are_removed(tmp_path):
    folder = folder_with(tmp_path, 10, 30, 40)
    storage.put(f"{folder}/step-000000040/a", b"x")
    snapshots.save(folder, 35, {"a": b"35"}, {})
    assert snapshots.newest(folder).step == 35
    assert {file.path.split("/")[0] for file in storage.list_files(folder)} == {"step-000000030", "step-000000035"}


def test_snapshots_live_in_object_storage(s3):
    folder = storage.join(s3, "snapshots")
    for step in (1, 2, 3):
        snapshots.save(folder, step, {"a": bytes([step])}, {})
    assert snapshots.newest(folder).parts == {"a": b"\x03"}
    storage.put(storage.join(folder, "step-000000003", "a"), b"?")
    assert snapshots.newest(folder).step == 2
