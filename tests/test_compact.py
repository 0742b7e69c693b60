"""A finished run is compacted into few large parts with the same answers; readers see each image once at any moment."""

import json
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer

from pipeline import storage
from pipeline.analysis import open_run
from pipeline.cli.runs import resume
from pipeline.errors import UserError
from pipeline.runs import Lease, Run, compact, verify
from tests.command import maskmill
from tests.small_run import Drawn, make_run

DRAWN = [
    Drawn(f"i{n:02d}", None if n in (3, 9) else f"00{n % 4}{n % 3}", label="0012", city=f"c{n % 5}", sequence=str(n))
    for n in range(20)
]
IDS = [one.image_id for one in DRAWN]


@pytest.fixture
def run(tmp_path):
    return make_run(str(tmp_path / "run"), DRAWN)


def sizes(uri):
    return [file.bytes for file in storage.list_files(f"{uri}/masks")]


def test_a_compacted_run_gives_every_answer_of_the_run(run, monkeypatch):
    monkeypatch.setattr("pipeline.runs.compaction.GROUP_BYTES", 20_000)
    copy = f"{run}-copy"
    done = compact(run, copy, part_bytes=sum(sizes(run)) // 3)
    assert (done.rows, done.rejects_by_reason) == (18, {"truncated": 2})
    assert [file.path for file in storage.list_files(f"{copy}/masks")] == [
        "part-00000-00002.parquet", "part-00003-00006.parquet", "part-00007-00009.parquet",
    ]  # fmt: skip
    assert verify(copy).problems == []
    one, two = open_run(run), open_run(copy)
    first, second = (pq.read_table(f"{uri}/masks") for uri in (run, copy))
    assert first.to_pylist() == second.to_pylist()
    assert first.schema.remove_metadata().equals(second.schema.remove_metadata())
    assert one.iou(by=["city"]).equals(two.iou(by=["city"]))
    assert one.rejects().equals(two.rejects())
    assert one.summary() == two.summary()
    assert (one.masks(["i07"])["i07"] == two.masks(["i07"])["i07"]).all()
    assert (one.overlay("i12") == two.overlay("i12")).all()
    assert Run.open(copy).fingerprint == Run.open(run).fingerprint


def test_parts_come_out_near_the_size_that_was_asked_for(run):
    for wanted in (1, 2, 3, 4):
        copy = f"{run}-{wanted}"
        compact(run, copy, part_bytes=sum(sizes(run)) // wanted)
        assert len(sizes(copy)) == wanted


def test_a_reader_that_polls_sees_every_image_once_at_every_moment(run, monkeypatch):
    """It reads the copy from the moment on in which that is finished, and the run before; then the run is deleted."""
    copy, stop, seen = f"{run}-copy", threading.Event(), []

    def poll():
        while not stop.is_set():
            finished = storage.exists(f"{copy}/_SUCCESS.json")
            uri = copy if finished else run
            rows = [pq.read_table(part, columns=["image_id"]) for kind in ("masks", "rejects")
                    for part in Path(uri, kind).glob("part-*.parquet")]  # fmt: skip
            ids = sorted(i for table in rows for i in table["image_id"].to_pylist())
            seen.append((finished, ids == IDS))

    reader = threading.Thread(target=poll)
    reader.start()

    def watched(done, parts):
        before = len(seen)
        while len(seen) < before + 2:  # the reader looks between every two parts
            assert reader.is_alive()

    try:
        compact(run, copy, part_bytes=30_000, on_part=watched)
        watched(0, 0)
    finally:
        stop.set()
        reader.join()
    assert {True, False} == {finished for finished, _ in seen}
    assert all(whole for _, whole in seen)


def test_a_compacted_run_is_finished_and_lost_parts_of_it_are_pending(run):
    copy = f"{run}-copy"
    compact(run, copy, part_bytes=30_000)
    again = Run.open(copy)
    assert again.pending() == []
    assert compact(run, copy).rows == 18  # again: done already
    part = storage.list_files(f"{copy}/masks")[1]
    storage.delete(part.uri)
    first, last = (int(number) for number in part.path.removesuffix(".parquet").split("-")[1:])
    assert again.pending() == list(range(first, last + 1))
    assert again.finished() is None


def test_what_cannot_be_compacted_is_told_so(run, tmp_path):
    with pytest.raises(ValueError, match="needs a folder of its own"):
        compact(run, run)
    other = make_run(str(tmp_path / "other"), DRAWN[:2])
    with pytest.raises(ValueError, match="is another run, or the copy of another state"):
        compact(run, other)
    unfinished = make_run(str(tmp_path / "unfinished"), DRAWN[:2], finish=False)
    with pytest.raises(ValueError, match="is not finished"):
        compact(unfinished, f"{unfinished}-copy")

    def change(done, parts):
        success = json.loads(storage.read(f"{run}/_SUCCESS.json"))
        storage.put(f"{run}/_SUCCESS.json", json.dumps(success | {"finished": "2030-01-01T00:00:00+00:00"}).encode())

    with pytest.raises(ValueError, match="it was changed while it was compacted"):
        compact(run, f"{run}-copy", on_part=change)
    assert not storage.exists(f"{run}-copy/_SUCCESS.json")


def test_the_rejects_of_a_copy_are_retried_in_its_run(run):
    compact(run, f"{run}-copy")
    with (
        Lease(f"{run}-copy") as lease,
        pytest.raises(ValueError, match=f"it is a compacted copy; retry the rejects of {run}"),
    ):
        Run.open(f"{run}-copy").withdraw_rejects(lease)


def test_the_command_says_where_the_copy_is(run):
    done = maskmill("compact", run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"18 masks, 2 rejects: {run}-compact"
    assert maskmill("verify", f"{run}-compact").returncode == 0


def test_a_run_goes_on_where_it_lies_now_and_a_begun_copy_only_by_compacting(run, tmp_path, monkeypatch):
    begun = []
    monkeypatch.setattr("pipeline.cli.runs.run_segmentation", lambda cfg: begun.append(cfg.output) or 0)
    moved = make_run(str(tmp_path / "first"), DRAWN, finish=False)
    Path(moved).rename(tmp_path / "second")
    with pytest.raises(typer.Exit):
        resume(str(tmp_path / "second"))
    assert begun == [str(tmp_path / "second")]
    copy = f"{run}-copy"
    compact(run, copy, part_bytes=1)
    Path(copy, "_SUCCESS.json").unlink()
    with pytest.raises(typer.Exit):  # nothing is missing but its end
        resume(copy)
    next(Path(copy, "masks").iterdir()).unlink()
    with pytest.raises(
        UserError, match=f"a compacted copy that is not finished; to go on: maskmill compact {run} --out {copy}"
    ):
        resume(copy)
    assert begun == [str(tmp_path / "second"), copy]
