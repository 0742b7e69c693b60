"""The notebook runs from top to bottom, cell by cell, and what it shows are the run's numbers."""

import json
from pathlib import Path

import pytest

from pipeline.analysis import open_run
from tests.small_run import Drawn, make_run

NOTEBOOK = Path(__file__).parent.parent / "jobs" / "explore.ipynb"
DRAWN = [
    Drawn(f"val/x_{k}", mask, label=label, city="x" if k < 2 else "y", sequence="0", frame=k)
    for k, (mask, label) in enumerate([("0001", "0011"), ("0022", "0.22"), ("1133", "1111")])
]


def code_cells():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_every_cell_runs_in_order(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    run = make_run(str(tmp_path / "run"), DRAWN)
    other = make_run(str(tmp_path / "other"), [Drawn("val/x_0", "0011", label="0011"), *DRAWN[1:]])
    first, *rest = code_cells()
    names: dict = {}
    exec(first, names)
    names |= {"RUN": run, "OTHER": other}
    for number, source in enumerate(rest, start=1):
        exec(compile(source, f"{NOTEBOOK.name} code cell {number}", "exec"), names)
    assert len(plt.get_fignums()) == 2 + 3 + 1  # bars and confusion, three worst images, areas
    plt.close("all")
    view = open_run(run)
    assert (names["confusion"] == view.confusion()).all()
    assert names["worst"]["image_id"].tolist() == ["val/x_2", "val/x_0", "val/x_1"]
    assert names["comparison"].table.loc["sky", "difference"] == pytest.approx(4 / 4 - 3 / 4)
    assert names["along"].index.tolist() == [0, 1, 2]
    assert names["along"].loc[0, "sky"] == 3 / 4


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
