"""Store requests at the start and the finish of a run grow with the new shards, not with those answered before."""

import json
import os
import uuid
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from pipeline import labels, storage
from pipeline.corpus import Item, Place, plan_shards
from pipeline.errors import UserError
from pipeline.imaging.mask_png import encode_mask
from pipeline.runs import REJECT_SCHEMA, Run, checked, mask_schema, read_success, verify
from pipeline.runs.status import status
from tests.counting_proxy import counting_proxy

SPACE = labels.space("camvid11")
SHARDS = 24
CONFIG = {"images": "c"}
MASK = np.zeros((2, 2), np.uint8)


def begun(uri: str) -> Run:
    items = [Item(f"i{n:03d}", Place(f"c/i{n:03d}.png", bytes=1)) for n in range(SHARDS)]
    return Run.open_or_create(uri, {}, CONFIG, SPACE, lambda: plan_shards(items, 1))


def commit(run: Run, shards: range, reject: tuple[int, ...] = (), tell: bool = False) -> None:
    """As workers do; `tell`: the driver hears of it."""
    for shard in shards:
        (item,) = run.shard_items(shard)
        row = {"image_id": item.image_id, "uri": item.image.uri, "height": 2, "width": 2, "pixels": [4] + [0] * 10,
               "mask": {"bytes": encode_mask(MASK), "path": f"{item.image_id}.png"}}  # fmt: skip
        refused = {"image_id": item.image_id, "uri": item.image.uri, "stage": "decode", "error": "truncated",
                   "message": "cut", "attempts": 1}  # fmt: skip
        masks = pa.Table.from_pylist([] if shard in reject else [row], schema=mask_schema(SPACE.num_classes))
        rejects = pa.Table.from_pylist([refused] if shard in reject else [], schema=REJECT_SCHEMA)
        part = Run.open(run.uri).commit(shard, masks, rejects)
        assert (part is None) == (shard in reject)
        if tell and part is not None:
            run.checked.committed(shard, part)


@pytest.fixture(params=["folder", "s3"])
def uri(request, tmp_path, monkeypatch) -> str:
    monkeypatch.setattr(checked, "_WORTH_KEEPING", 4)
    if request.param == "folder":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"


@pytest.fixture
def footers(monkeypatch) -> list[str]:
    """The parts whose footers are read, by name."""
    read = list[str]()
    real = storage.read_range

    def counted(uri: str, offset: int, length: int) -> bytes:
        read.append(uri.rpartition("/")[2])
        return real(uri, offset, length)

    monkeypatch.setattr(storage, "read_range", counted)
    return read


def start(uri: str, footers: list[str]) -> tuple[Run, list[int], int]:
    """A start of the command, in what would be another process: the run, what is pending, and how many footers it read."""
    footers.clear()
    run = Run.open(uri)
    pending = run.pending()
    run.checked.keep()
    return run, pending, len(footers)


def test_each_start_reads_the_footers_of_what_is_new_and_the_finish_none_of_its_own(uri, footers):
    commit(begun(uri), range(10))
    assert start(uri, footers)[1:] == (list(range(10, SHARDS)), 10)
    assert start(uri, footers)[1:] == (list(range(10, SHARDS)), 0)
    commit(Run.open(uri), range(10, 15))
    run, pending, read = start(uri, footers)
    assert (pending, read) == (list(range(15, SHARDS)), 5)
    footers.clear()
    commit(run, range(15, SHARDS), reject=(20,), tell=True)
    footers.clear()
    assert run.finish(1).rejects == 1
    assert footers == ["part-00020.parquet"]
    assert verify(uri).problems == []
    assert storage.list_files(f"{uri}/attempts") == []


def test_how_far_a_finished_run_is_stands_in_its_record_and_no_footer_is_read_for_it(uri, footers):
    run = begun(uri)
    commit(run, range(SHARDS), reject=(3,))
    run.finish(1)
    footers.clear()
    found = status(uri)
    assert (found.state, found.answered, found.pending_shards, found.rejects) == (
        "finished",
        SHARDS,
        0,
        {"truncated": 1},
    )
    assert footers == []
    storage.delete(f"{uri}/masks/part-00005.parquet")
    found = status(uri)
    assert (found.state, found.answered, found.pending_shards) == ("not finished", SHARDS - 1, 1)


def test_the_end_of_a_run_is_the_same_whether_footers_were_kept_or_read(uri, footers):
    run = begun(uri)
    commit(run, range(SHARDS), reject=(3,))
    run.finish(1)
    plain = read_success(uri)
    start(uri, footers)
    assert start(uri, footers)[2] == 1  # the one with a reject
    run, _, _ = start(uri, footers)
    run.finish(1)
    assert read_success(uri).parts == plain.parts
    assert read_success(uri).root_sha256 == plain.root_sha256


def test_a_part_that_is_another_file_is_read_again_and_one_that_is_gone_is_pending(uri, footers):
    run = begun(uri)
    commit(run, range(SHARDS))
    start(uri, footers)
    storage.delete(f"{uri}/masks/part-00003.parquet")
    changed = f"{uri}/masks/part-00005.parquet"
    data = bytearray(storage.read(changed))
    data[10] ^= 1  # of its body: the footer stays as it was, and the size too
    storage.put(changed, bytes(data))
    if "://" not in uri:
        os.utime(changed, (1, 1))
    assert start(uri, footers)[1:] == ([3], 1)
    storage.put(f"{uri}/masks/part-00007.parquet", storage.read(f"{uri}/masks/part-00008.parquet"))
    with pytest.raises(UserError, match="is another part of this run"):
        start(uri, footers)


HARMS = [b"", b"{", b"[]", b'{"fingerprint": 1, "parts": {}}', b'{"fingerprint": "F", "parts": {"a": 1}}']


@pytest.mark.parametrize("harm", HARMS)
def test_what_was_kept_and_is_damaged_or_another_runs_is_not_believed(uri, footers, harm):
    run = begun(uri)
    commit(run, range(SHARDS))
    start(uri, footers)
    (kept,) = [file for file in storage.list_files(f"{uri}/attempts") if "checked-" in file.path]
    storage.put(kept.uri, harm.replace(b"F", run.fingerprint.encode()))
    assert start(uri, footers)[1:] == ([], SHARDS)
    said = json.loads(storage.read(f"{uri}/attempts/checked-00001"))
    assert said["fingerprint"] == run.fingerprint
    storage.put(kept.uri, json.dumps({**said, "fingerprint": "0" * 64}).encode())
    storage.delete(f"{uri}/attempts/checked-00001")
    assert start(uri, footers)[1:] == ([], SHARDS)


def test_a_start_and_a_finish_in_requests(s3, monkeypatch):
    """Listings, reads and writes of 24 shards, of which 20 were answered before."""
    monkeypatch.setattr(checked, "_WORTH_KEEPING", 4)
    uri = f"{s3}/{uuid.uuid4().hex}"
    commit(begun(uri), range(20))
    run = Run.open(uri)
    run.pending()
    run.checked.keep()
    with counting_proxy(os.environ["AWS_ENDPOINT_URL"]) as (endpoint, log):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        run = Run.open(uri)
        log.clear()
        assert run.pending() == list(range(20, 24))
        run.checked.keep()
        bucket = Path(s3).name
        assert sorted(one.key.removeprefix(uri.removeprefix("s3://")) for one in log) == [
            "/attempts/checked-00000", bucket, bucket,  # the marks, and the parts: one page each
        ]  # fmt: skip
        commit(run, range(20, 24), tell=True)
        log.clear()
        run.finish(1)
        reads = [one.key for one in log if one.method == "GET" and one.key != bucket]
        assert not [key for key in reads if "/masks/" in key]
        assert sum(one.method == "GET" and one.key == bucket for one in log) == 3  # parts, marks, rejects
    monkeypatch.undo()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
