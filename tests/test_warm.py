"""`maskmill warm` in a process of its own: after it, neither a run nor its evaluation compiles anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_interrupts import written
from tests.test_segment import config

COMMAND = "import sys; from pipeline.cli import main; sys.argv[1:] = {arguments!r}; main()"


def command(folder, *arguments):
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder), "RAY_ADDRESS": ""}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format(arguments=list(arguments))],
        env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def code(folder):
    return {path.relative_to(folder) for path in Path(folder).rglob("*.nb?")}


@pytest.mark.slow
@pytest.mark.long
def test_after_it_a_run_and_its_scores_compile_nothing(scenes, tiny_checkpoint, tmp_path):
    kept = tmp_path / "code"
    told = command(kept, "warm")
    assert f"kept in {kept}" in told
    there = code(kept)
    assert len(there) > 40
    for number, keys in enumerate([
        {"metrics": {"boundary_px": [2], "calibration_bins": 10}, "regions": {"min_area": 9}},
        {"crf": {"class_weights": {"pole": 1.5}}, "confidence_map": True, "unknown_below": 0.3},
        {"crf": {"mode": "fast"}},
        {"crf": None, "confidence_map": True, "predict": {"scales": [1.0, 1.5]}},
    ]):  # fmt: skip
        run = tmp_path / f"run-{number}"
        command(kept, "segment", written(config(*scenes, tiny_checkpoint, run, **keys), tmp_path))
        command(kept, "evaluate", str(run))
        command(kept, "areas", str(run))
    assert code(kept) == there
