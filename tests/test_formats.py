"""Run formats stay compatible: runs that earlier versions wrote can be opened, verified and queried."""

import shutil
from pathlib import Path

import pytest

from pipeline.analysis import open_run, write_report
from pipeline.runs import verify
from pipeline.runs.schema import FORMAT

KEPT = Path(__file__).parent / "golden"
FIRST_PROMISED = 2  # format 1 is from before the first version
# The first commit that wrote format 2, and the one that kept the second run: their settings and columns differ.
RUNS = {"run_format_2_first": 2, "run_format_2": 2}


def test_runs_of_the_last_two_formats_are_kept():
    assert set(RUNS.values()) >= {number for number in (FORMAT - 1, FORMAT) if number >= FIRST_PROMISED}


@pytest.mark.parametrize("name", RUNS)
def test_a_kept_run_is_opened_proven_and_asked(name, tmp_path):
    run = str(shutil.copytree(KEPT / name, tmp_path / "run"))
    proof = verify(run)
    assert (proof.images, proof.masks, proof.rejects, proof.problems) == (4, 3, 1, [])
    view = open_run(run)
    assert view.description.format == RUNS[name]
    # By hand, of truth 0011/22.3 and 0123/0000 beside masks 0011/2233 and 0123/0123.
    iou = view.iou(by=["city"]).loc["a", ["sky", "building", "pole", "road"]]
    assert iou.tolist() == pytest.approx([4 / 7, 3 / 4, 3 / 4, 2 / 3])
    assert view.areas().loc["all", ["sky", "building", "pole"]].tolist() == [4, 4, 4]
    assert view.masks(["val/b_1"])["val/b_1"].tolist() == [[5] * 4] * 2
    assert Path(write_report(run)).is_file()
