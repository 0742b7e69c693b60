"""An image that kills its process, among others: each child process really dies, by a signal."""

import os
import signal
from functools import partial
from multiprocessing.connection import Connection

import pyarrow as pa
import pytest

from pipeline.corpus import Item, Place
from pipeline.errors import UserError
from pipeline.runs import REJECT_SCHEMA
from pipeline.segment.crash_isolation import isolate_crashes

SCHEMA = pa.schema([pa.field("image_id", pa.string())])


def make(deadly, log):
    """An answerer that dies at deadly images; each child leaves a line."""

    def answer(items):
        with open(log, "a") as file:
            file.write(" ".join(item.image_id for item in items) + "\n")
        for item in items:
            if item.image_id in deadly:
                os.kill(os.getpid(), signal.SIGKILL)
        rows = [{"image_id": item.image_id} for item in items if item.image_id != "bad"]
        rejects = [
            {"image_id": "bad", "uri": "u", "stage": "decode", "error": "corrupt", "message": "m", "attempts": 1}
            for item in items
            if item.image_id == "bad"
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMA), pa.Table.from_pylist(rejects, schema=REJECT_SCHEMA)

    return answer


def wrong(log):
    def answer(items):
        raise UserError("the checkpoint is gone")

    return answer


def items(*names):
    return [Item(name, Place(f"/{name}.png")) for name in names]


@pytest.mark.parametrize(
    ("names", "deadly"),
    [
        pytest.param(("a", "bad", "c"), (), marks=pytest.mark.slow),
        (("bad", "c"), ("c",)),
        pytest.param(("a", "b", "bad", "c", "d", "f"), ("c",), marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param(("a", "b", "bad", "c", "d", "f"), ("a", "f"), marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_only_the_deadly_image_is_rejected(tmp_path, names, deadly):
    log = tmp_path / "log"
    masks, rejects = isolate_crashes(partial(make, deadly, log), items(*names), SCHEMA)
    assert masks["image_id"].to_pylist() == [name for name in names if name not in (*deadly, "bad")]
    found = dict(zip(rejects["image_id"].to_pylist(), rejects["error"].to_pylist(), strict=True))
    assert found == {"bad": "corrupt", **dict.fromkeys(deadly, "worker_crash")}
    assert len(log.read_text().splitlines()) <= 1 + 2 * 3 * len(deadly)  # children: halved at most three times


def test_the_reject_says_how_its_worker_died(tmp_path):
    _, rejects = isolate_crashes(partial(make, ("a",), tmp_path / "log"), items("a"), SCHEMA)
    (row,) = rejects.to_pylist()
    assert row["stage"] == "worker" and "signal SIGKILL" in row["message"] and "retry-rejects" in row["message"]


def answering_half():
    """An answerer whose process is killed while half of its answer is in the pipe."""

    def half(self, data):
        os.write(self._handle, bytes(data)[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    Connection._send = half
    return lambda items: (pa.table({"image_id": ["a"]}, schema=SCHEMA), REJECT_SCHEMA.empty_table())


def test_a_child_that_dies_in_the_middle_of_its_answer_has_not_answered():
    masks, rejects = isolate_crashes(answering_half, items("a"), SCHEMA)
    assert (masks.num_rows, rejects["error"].to_pylist()) == (0, ["worker_crash"])


@pytest.mark.slow
def test_a_fault_of_the_run_is_not_blamed_on_an_image(tmp_path):
    with pytest.raises(UserError, match="the checkpoint is gone"):
        isolate_crashes(partial(wrong, tmp_path), items("a", "b"), SCHEMA)


class Awkward(Exception):
    """Cannot be made again from its arguments, as many errors of libraries."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def awkward():
    raise Awkward("oh", "no")


@pytest.mark.slow
def test_a_bug_in_a_child_keeps_its_name_words_and_traceback():
    with pytest.raises(RuntimeError, match=r"^Awkward: oh no") as met:
        isolate_crashes(awkward, items("a", "b"), SCHEMA)
    assert "in awkward" in "".join(met.value.__notes__)
