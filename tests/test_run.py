import json
import os
import socket
import time

import numpy as np
import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.corpus import Item, Place, plan_shards
from pipeline.imaging.masks import encode_mask
from pipeline.labels import space
from pipeline.run import REJECT_SCHEMA, Lease, Run, mask_schema, read_table, verify

SPACE = space("camvid11")
IDENTITY = {"crf": {"smooth_weight": 3.0}, "weights_sha256": "a"}
ITEMS = [Item(f"val/s_{i}", Place(f"/corpus/{i}.png", bytes=1), split="val", sequence="s", frame=i) for i in range(5)]


def open_run(uri, identity=IDENTITY):
    return Run.open_or_create(str(uri), identity, {"crf": None}, SPACE, lambda: plan_shards(ITEMS, 2))


def tables(items, rejected=()):
    """Masks of 2x3 pixels, all of class 1, for the items that are not rejected."""
    mask = np.ones((2, 3), np.uint8)
    masks = [
        {"image_id": item.image_id, "uri": item.image.uri, "split": item.split, "height": 2, "width": 3,
         "mask": {"bytes": encode_mask(mask), "path": f"{item.image_id}.png"}, "pixels": [0, 6] + [0] * 9}
        for item in items if item.image_id not in rejected
    ]  # fmt: skip
    rejects = [
        {"image_id": item.image_id, "uri": item.image.uri, "stage": "decode", "error": "truncated", "message": "cut",
         "attempts": 1}
        for item in items if item.image_id in rejected
    ]  # fmt: skip
    return pa.Table.from_pylist(masks, mask_schema(11)), pa.Table.from_pylist(rejects, REJECT_SCHEMA)


def complete(run, rejected=()):
    for shard in run.pending():
        run.commit(shard, *tables(run.shard_items(shard), rejected))


def test_a_new_run_has_every_shard_pending_and_a_complete_one_none(tmp_path):
    run = open_run(tmp_path)
    assert run.pending() == [0, 1, 2]
    run.commit(1, *tables(run.shard_items(1)))
    assert run.pending() == [0, 2]
    complete(run)
    assert run.pending() == []
    assert run.finish(0).rows == 5
    assert verify(str(tmp_path)).problems == []


def test_a_run_folder_has_the_documented_files(tmp_path):
    run = open_run(tmp_path)
    complete(run, rejected=("val/s_3",))
    run.finish(1)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "_SUCCESS.json", "masks/part-00000.parquet", "masks/part-00001.parquet", "masks/part-00002.parquet",
        "plan/plan.parquet", "rejects/part-00001.parquet", "run.json",
    ]  # fmt: skip


def test_a_part_explains_itself(tmp_path):
    run = open_run(tmp_path)
    complete(run)
    table = read_table(storage.read(storage.join(run.uri, "masks/part-00000.parquet")))
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    assert metadata["maskmill.fingerprint"] == run.fingerprint
    assert json.loads(metadata["maskmill.label_space"])["classes"][8] == "car"
    assert table.schema.remove_metadata().equals(mask_schema(11))


def test_the_plan_is_made_once_and_kept(tmp_path):
    first = open_run(tmp_path)
    again = Run.open_or_create(str(tmp_path), IDENTITY, {}, SPACE, lambda: pytest.fail("planned again"))
    assert again.plan.equals(first.plan)
    assert again.fingerprint == first.fingerprint


def test_other_settings_are_refused_and_the_field_is_named(tmp_path):
    open_run(tmp_path)
    with pytest.raises(ValueError, match=r"crf\.smooth_weight: 3\.0, now 5\.0; choose another output"):
        open_run(tmp_path, {"crf": {"smooth_weight": 5.0}, "weights_sha256": "a"})


def test_a_changed_plan_file_is_refused(tmp_path):
    open_run(tmp_path)
    (tmp_path / "plan/plan.parquet").write_bytes(b"other")
    with pytest.raises(ValueError, match="is not the plan this run was made with"):
        Run.open(str(tmp_path))


def test_committing_twice_writes_the_same_bytes(tmp_path):
    run = open_run(tmp_path)
    run.commit(0, *tables(run.shard_items(0), rejected=("val/s_1",)))
    before = {p.name: p.read_bytes() for p in tmp_path.rglob("part-*.parquet")}
    run.commit(0, *tables(run.shard_items(0), rejected=("val/s_1",)))
    assert {p.name: p.read_bytes() for p in tmp_path.rglob("part-*.parquet")} == before


@pytest.mark.scorecard("fault", 19)
def test_a_kill_between_rejects_and_masks_leaves_the_shard_pending(tmp_path, monkeypatch):
    run = open_run(tmp_path)
    real = storage.put

    def killed(uri, data):
        if "/masks/" in uri:
            raise KeyboardInterrupt
        real(uri, data)

    monkeypatch.setattr(storage, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        run.commit(0, *tables(run.shard_items(0), rejected=("val/s_0",)))
    monkeypatch.undo()
    assert run.pending() == [0, 1, 2]
    complete(run)  # this time the image could be read
    assert run.finish(0).rejects == 0
    assert verify(run.uri).problems == []


def test_a_deleted_or_broken_part_makes_only_its_shard_pending(tmp_path):
    run = open_run(tmp_path)
    complete(run, rejected=("val/s_2",))
    (tmp_path / "masks/part-00000.parquet").unlink()
    assert run.pending() == [0]
    (tmp_path / "masks/part-00002.parquet").write_bytes(b"PAR1 broken")
    assert run.pending() == [0, 2]
    (tmp_path / "rejects/part-00001.parquet").unlink()
    assert run.pending() == [0, 1, 2]


def test_too_many_rejects_fail_with_counts_by_reason_and_keep_what_is_done(tmp_path):
    run = open_run(tmp_path)
    complete(run, rejected=("val/s_1", "val/s_4"))
    with pytest.raises(ValueError, match=r"2 of 5 images were rejected \(2 truncated\).*max_reject_rate 0\.3"):
        run.finish(0.3)
    assert run.finished() is None
    assert run.pending() == []
    assert run.finish(0.4).rejects_by_reason == {"truncated": 2}


def test_an_unfinished_run_cannot_be_finished(tmp_path):
    with pytest.raises(ValueError, match="3 shards are not done"):
        open_run(tmp_path).finish(1)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda run: run.commit(0, *tables(ITEMS[:1])), "'val/s_1' is answered 0 times"),
        (lambda run: run.commit(1, *tables(ITEMS[1:4])), "'val/s_1' is answered 2 times"),
        (lambda run: run.commit(2, *tables([Item("x", Place("/x"))])), "'x' is answered and is not in the plan"),
        (lambda run: storage.delete(storage.join(run.uri, "masks/part-00001.parquet")), "part-00001.parquet is missing"),
        (lambda run: storage.put(storage.join(run.uri, "masks/part-00001.parquet"), b"x"), "cannot be read"),
        (lambda run: storage.delete(storage.join(run.uri, "_SUCCESS.json")), "the run is not finished"),
    ],
)  # fmt: skip
def test_verify_finds_each_fault(tmp_path, spoil, fault):
    run = open_run(tmp_path)
    complete(run)
    run.finish(0)
    spoil(run)
    assert any(fault in problem for problem in verify(run.uri).problems)


def test_verify_decodes_masks_and_compares_their_pixels(tmp_path):
    run = open_run(tmp_path)
    complete(run)
    masks, rejects = tables(run.shard_items(0))
    rows = masks.to_pylist()
    rows[0]["pixels"] = [6] + [0] * 10
    rows[1]["height"] = 9
    run.commit(0, pa.Table.from_pylist(rows, masks.schema), rejects)
    run.finish(0)
    assert [p.split(": ")[1] for p in verify(run.uri).problems] == [
        "mask of 'val/s_0' does not hold the pixels that its row counts",
        "mask of 'val/s_1' is (2, 3), the row says another size",
    ]


def test_no_run_is_told_so(tmp_path):
    with pytest.raises(ValueError, match=r"no run\.json there"):
        verify(str(tmp_path))


def lease_of(holder):
    return json.dumps({"token": "x", "host": socket.gethostname(), "pid": os.getpid(), "expires": 0} | holder).encode()


@pytest.mark.parametrize(
    "holder",
    [{"expires": time.time() + 1000}, {"expires": time.time() + 1000, "host": "elsewhere", "pid": 1}],
    ids=["this machine", "another machine"],
)
def test_a_second_writer_is_refused_while_the_first_lives(tmp_path, holder):
    storage.put(str(tmp_path / "_lease.json"), lease_of(holder))
    with pytest.raises(ValueError, match="is writing it"), Lease(str(tmp_path)):
        pass
    assert storage.exists(str(tmp_path / "_lease.json"))


@pytest.mark.parametrize(
    "holder",
    [{"expires": time.time() - 1, "host": "elsewhere"}, {"expires": time.time() + 1000, "pid": 2**22 + 5}],
    ids=["expired", "process gone"],
)
def test_a_dead_writers_lease_is_taken_over_and_given_back(tmp_path, holder):
    storage.put(str(tmp_path / "_lease.json"), lease_of(holder))
    with Lease(str(tmp_path)):
        assert json.loads(storage.read(str(tmp_path / "_lease.json")))["pid"] == os.getpid()
    assert not storage.exists(str(tmp_path / "_lease.json"))
