"""The notebook runs from top to bottom, cell by cell, and shows the run's numbers."""

import json
from pathlib import Path
from xml.etree import ElementTree

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


@pytest.mark.slow
def test_every_cell_runs_in_order(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    run = make_run(str(tmp_path / "run"), DRAWN)
    other = make_run(str(tmp_path / "other"), [Drawn("val/x_0", "1111", label="0011"), *DRAWN[1:]])
    first, *rest = code_cells()
    names: dict = {}
    exec(first, names)
    names |= {"RUN": run, "OTHER": other, "LABELLING": str(tmp_path / "to_label")}
    for number, source in enumerate(rest, start=1):
        exec(compile(source, f"{NOTEBOOK.name} code cell {number}", "exec"), names)
    # First images, bars, confusion, sequences, areas, two runs, scatter, worst images.
    assert len(plt.get_fignums()) == 3 + 1 + 1 + 1 + 1 + 1 + 1 + 3
    plt.close("all")
    view = open_run(run)
    assert (names["confusion"] == view.confusion()).all()
    assert names["worst"]["image_id"].tolist() == ["val/x_2", "val/x_0", "val/x_1"]
    assert names["comparison"].table.loc["sky", "difference"] == pytest.approx(3 / 4 - 1 / 3)
    assert names["by_sequence"].index.tolist() == ["0"]
    assert names["along"].index.tolist() == [0, 1, 2]
    assert names["along"].loc[0, "sky"] == 75  # percent
    assert sorted(names["chosen"]["image_id"]) == ["val/x_0", "val/x_1", "val/x_2"]
    exported = ElementTree.parse(tmp_path / "to_label/annotations.xml")
    written = [image.get("name") for image in exported.iter("image")]
    assert len(written) == 3 and all((tmp_path / "to_label/images" / name).is_file() for name in written)


def test_the_notebook_is_kept_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
