"""A new metric takes one file and one line in the list: config, parts, headline, report and verification follow from them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
METRIC = '''
"""Labelled pixels."""

import numpy as np

from pipeline.metrics.metric import Card, Metric, Section


class Labelled(Metric):
    key, declaration = "labelled", (bool, False)
    doc = "Count the labelled pixels."
    columns = ("labelled",)

    def cells(self, setting, num_classes):
        return 2

    def count(self, image, setting):
        inside = image.label != 255
        return {"labelled": np.array([inside.sum(), inside.size])}

    def scores(self, summed, setting, space, raw=False):
        labelled, pixels = summed("labelled")
        return labelled / pixels

    def headline(self, scores):
        return {"labelled share": scores}

    def section(self, scores, raw, space):
        card = Card("share", "labelled, %", f"{100 * scores:.1f}", "of all pixels")
        return Section((card,), "labelled", "What is labelled", picture=f'<svg id="square" width="{scores}"/>')
'''
ASK = """
import sys, pyarrow.parquet as pq
from rich.console import Console
from pipeline.analysis import open_run, write_report
from pipeline.cli.run_tables import headline_table
from pipeline.runs import mask_schema, verify
from tests.small_run import Drawn, make_run
uri = make_run(sys.argv[1], [Drawn("a", "01/01", "0./01"), Drawn("b", "01/01", None)], metrics={"labelled": True})
view = open_run(uri)
print([row for part in view.parts("masks") for row in pq.read_table(part)["labelled"].to_pylist()])
Console(width=100).print(headline_table(view))
html = open(write_report(uri)).read()
print([text in html for text in ('<dd id="share">75.0<small>', 'What is labelled</h2>', '<svg id="square" width="0.75"/>')])
print(verify(uri).problems, "labelled" in mask_schema(2).names)
"""


def test_a_metric_is_its_file_and_a_line_in_the_list(tmp_path):
    for room in ("pipeline", "tests"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__", "golden", "bench"))
    (tmp_path / "pipeline/metrics/labelled.py").write_text(METRIC)
    registry = tmp_path / "pipeline/metrics/registry.py"
    text = registry.read_text().replace("Calibration())", "Calibration(), Labelled())")
    imports = "from pipeline.metrics.labelled import Labelled\nfrom pipeline.metrics.metric import"
    registry.write_text(text.replace("from pipeline.metrics.metric import", imports))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "NUMBA_DISABLE_JIT": "1"}
    said = subprocess.run([sys.executable, "-c", ASK, str(tmp_path / "run")], env=environment, cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert "[[3, 4], None]\n" in said.stdout
    assert "labelled share" in said.stdout and "75.00" in said.stdout
    assert "[True, True, True]\n[] False\n" in said.stdout
