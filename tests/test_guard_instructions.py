"""Limits on instructions per row or pixel, counted, not timed: Python's by a trace, the machine's by valgrind."""

import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import dask
import pytest

import pipeline
from pipeline.analysis import open_run
from pipeline.config import CorpusConfig
from pipeline.corpus import Item, list_items, plan_shards
from pipeline.runs import Run, verify
from pipeline.synthetic.scenes import write_corpus
from tests.bench.scaling import SPACE, config, items, write_run

ROWS = (100, 250)  # of runs that differ in size alone: one part each
# A quarter above what Python 3.11 took when this was written: 590, 91, 749, 0 and 7971. Of the 749, 472 decode a mask, whose
# Python was Pillow's before, was not counted, and took twice as long.
LISTED, PLANNED, VERIFIED, ASKED, ANSWERED = 740, 115, 940, 1, 10_000
# Machine instructions a pixel for AVX2, a tenth above 2.79, 3.39, 67.9, 5705 and 2006.
A_PIXEL = {"counts": 3.1, "encode": 3.7, "enlarge": 75, "crf setup": 6280, "crf step": 2210}


class Instructions:
    """Python instructions of the pipeline's own code while a block runs, in this thread and those that start meanwhile."""

    def __enter__(self) -> "Instructions":
        self._ticks = itertools.count()
        threading.settrace(self._called)
        sys.settrace(self._called)
        return self

    def __exit__(self, *exception: object) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]  # None ends it
        self.count = next(self._ticks)

    def _called(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith(os.path.dirname(pipeline.__file__)):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, arg: Any) -> Callable[..., Any]:
        if event == "opcode":
            next(self._ticks)
        return self._stepped


def counted(work: Callable[[], object]) -> int:
    with Instructions() as instructions:
        work()
    return instructions.count


def a_row(work: Callable[[Any], object], cases: Sequence[Any]) -> float:
    """What one more row costs, of the same work over a case for each of ROWS."""
    few, many = (counted(lambda case=case: work(case)) for case in cases)
    return (many - few) / (ROWS[1] - ROWS[0])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Finished runs of one part with ROWS rows each."""
    folders = [str(tmp_path_factory.mktemp("run")) for _ in ROWS]
    for folder, rows in zip(folders, ROWS, strict=True):
        write_run(folder, rows)
    return [f"{folder}/run" for folder in folders]


def test_listing_and_planning_take_few_python_instructions_an_image(tmp_path):
    corpora = [write_corpus(str(tmp_path / str(rows)), {"val": rows}, 16, 32, seed=1)[0] for rows in ROWS]
    listed = a_row(lambda uri: list_items(CorpusConfig(images=uri, layout="cityscapes"), None), corpora)

    def plan(found: list[Item]) -> None:
        cfg = config(str(tmp_path / f"planned-{len(found)}"))
        Run.open_or_create(cfg.output, {}, cfg.model_dump(mode="json"), SPACE, lambda: plan_shards(found, len(found)))

    planned = a_row(plan, [items(rows) for rows in ROWS])
    assert 0 < listed <= LISTED
    assert 0 < planned <= PLANNED


def test_verify_takes_few_python_instructions_a_row_and_the_iou_of_groups_none(runs):
    verified = a_row(verify, runs)
    with dask.config.set(scheduler="synchronous"):
        asked = a_row(lambda uri: open_run(uri).iou(by=["city"]), runs)
    planted = a_row(lambda uri: Run.open(uri).shard_items(0), runs)
    assert 0 < verified <= VERIFIED
    assert abs(asked) <= ASKED
    assert planted > 100  # an object a row is seen


def test_an_image_takes_as_many_python_instructions_whatever_its_size(tmp_path, tiny_segmenter):
    found: dict[tuple[int, int], int] = {}
    for height, images in ((64, 2), (64, 6), (256, 2), (256, 6)):
        uris = write_corpus(str(tmp_path / f"{height}-{images}"), {"val": images}, height, 2 * height, seed=5)
        corpus = list_items(CorpusConfig(images=uris[0], labels=uris[1], layout="cityscapes"), None)
        tiny_segmenter.answer(corpus)  # makes what is kept
        found[height, images] = counted(lambda corpus=corpus: tiny_segmenter.answer(corpus))
    small, large = ((found[height, 6] - found[height, 2]) / 4 for height in (64, 256))
    assert small <= ANSWERED
    assert abs(large - small) <= 0.02 * small


@pytest.fixture(scope="module")
def a_pixel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """Kernel -> machine instructions a pixel, of its second call."""
    if platform.machine() != "x86_64" or shutil.which("valgrind") is None:
        pytest.skip("valgrind on x86-64 is needed: the bounds are its instructions")
    folder = tmp_path_factory.mktemp("callgrind")
    environment = os.environ | {
        "NUMBA_CACHE_DIR": str(folder / "numba"), "NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": "",
        "PYTHONHASHSEED": "0",
    }  # fmt: skip
    command = [sys.executable, "-m", "tests.guard_kernels"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=400)  # compiles: slow in valgrind
    out = folder / "counts"
    valgrind = ["valgrind", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={out}"]
    done = subprocess.run([*valgrind, *command], env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {}
    for index, line in enumerate(done.stdout.splitlines()):
        counts = Path(f"{out}.{2 * index + 2}").read_text()  # the odd ones hold what ran before a second call
        pixels, name = line.split(maxsplit=1)
        found[name] = int(re.findall(r"^totals: (\d+)$", counts, re.MULTILINE)[0]) / int(pixels)
    return found


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1300)
def test_kernels_take_few_machine_instructions_a_pixel(a_pixel):
    step = (a_pixel["crf, 5 steps"] - a_pixel["crf, 1 step"]) / 4
    found = {**a_pixel, "crf step": step, "crf setup": a_pixel["crf, 1 step"] - step}
    over = {name: found[name] for name, bound in A_PIXEL.items() if not 0.5 * bound < found[name] <= bound}
    assert over == {}
    assert a_pixel["counts by numpy"] > 3 * A_PIXEL["counts"]
