"""From twenty pictures with classes of their own to masks, IoU and report, as the README has it: four commands, no Python."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.doc_blocks import blocks, commands
from tests.own_pictures import CLASSES, IGNORE, draw

(BLOCK,) = (block for block in blocks("bash") if "maskmill init" in block.text)  # of the README


def run(folder: Path, words: Sequence[str]) -> str:
    """What a command prints; each is a process of its own, which must end clean and say what comes next."""
    program, *arguments = words
    assert program == "maskmill"
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments]
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def majority_iou(folder: Path) -> float:
    """mIoU of a mask of the commonest class alone."""
    label = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])
    pixels = np.bincount(label[label != IGNORE], minlength=CLASSES)
    return float(pixels.max() / pixels.sum() / CLASSES)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)  # alone about 90 s; the machine may be shared
def test_four_commands_lead_from_twenty_pictures_to_masks_iou_and_report(tmp_path):
    draw(tmp_path / "pictures", 20, height=64, width=96)
    first, *others = commands(BLOCK)
    said = run(tmp_path, first)
    assert "images: 20, 20 with a label; layout images_labels" in said
    assert "classes: 5, by what the labels hold: 0 (" in said
    for words in others:
        line = " ".join(words)
        told = {words.strip() for words in re.split(r"next:?|\n", said)}
        assert {line, line.replace("start/", f"{tmp_path}/start/")} & told, said
        said = run(tmp_path, words)
    said = " ".join(said.split())
    masks = [
        row for part in tmp_path.glob("start/runs/segment/masks/*.parquet") for row in pq.read_table(part).to_pylist()
    ]
    assert len(masks) == int(re.search(r"IoU over (\d+) labelled images", said)[1])
    assert {row["split"] for row in masks} == {"val"}
    assert all((row["height"], row["width"]) == (64, 96) for row in masks)
    miou = float(re.search(r"mIoU\W+([\d.]+)", said)[1]) / 100
    assert not math.isnan(miou) and miou > 0.5 > 3 * majority_iou(tmp_path / "pictures/labels")
    assert re.findall(r"class_\d", said) == [f"class_{number}" for number in range(CLASSES)]
    report = Path(re.search(r"report, for a browser: (\S+)", said)[1])
    assert "class_4" in report.read_text()
