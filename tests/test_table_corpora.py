"""Corpora of Parquet and CSV tables: rows that move, labels that are missing, and the types of further columns."""

import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config import CorpusConfig
from pipeline.corpus import list_items, parquet
from pipeline.corpus.samples import fetch, load
from pipeline.errors import Reject


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


IMAGE, IDS = png(np.zeros((8, 8, 3), np.uint8)), png(np.zeros((8, 8), np.uint8))


@pytest.mark.parametrize("named", ["image_id", "path"])
def test_a_row_that_moved_when_its_parquet_file_was_written_again_is_rejected(tmp_path, named):
    def write(names):
        cells = [f"bytes of {name}".encode() for name in names]
        if named == "path":
            cells = [{"bytes": cell, "path": f"{name}.png"} for cell, name in zip(cells, names, strict=True)]
        table = {"image": cells} | ({"image_id": names} if named == "image_id" else {})
        pq.write_table(pa.table(table), tmp_path / f"{len(names)}.parquet")
        os.replace(tmp_path / f"{len(names)}.parquet", uri)

    uri = tmp_path / "a.parquet"
    write(["a", "b", "c"])
    items = list_items(CorpusConfig(images=str(uri)), None)
    assert fetch(items[1]).image == b"bytes of b"
    write(["a", "c"])
    parquet._row_groups._local.__dict__.clear()  # another process
    assert fetch(items[0]).image == b"bytes of a"
    with pytest.raises(Reject, match=r"row 1: it is image 'c' now; write the file again with all rows in their places"):
        fetch(items[1])


@pytest.mark.parametrize("form", ["bytes", "struct", "path"])
def test_a_row_of_a_parquet_file_may_have_no_label(tmp_path, form):
    labels = {
        "bytes": pa.array([IDS, None]),
        "struct": pa.array([{"bytes": IDS}, None]),
        "path": pa.array([{"bytes": IDS, "path": None}, None]),
    }[form]
    pq.write_table(pa.table({"image": [IMAGE, IMAGE], "label": labels}), tmp_path / "a.parquet")
    one, other = list_items(CorpusConfig(images=str(tmp_path / "a.parquet")), None)
    assert load(one, None, 100).label is not None and other.label is None and load(other, None, 100).label is None


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1"] * 3000 + ["a"], "text"),
        ([""] * 3000 + ["rain"], "text"),
        ([""] * 3000 + ["7"], "number"),
        (["001", "002"], "text"),
        (["1", "-2"], "number"),
    ],
)
def test_all_values_of_a_csv_decide_whether_a_column_holds_numbers(tmp_path, values, kind):
    rows = "".join(f"{n:0400d}.png,{value}\n" for n, value in enumerate(values))
    (tmp_path / "m.csv").write_text("image,camera\n" + rows)
    found = list_items(CorpusConfig(images=str(tmp_path / "m.csv")), None)[-1]
    assert found.groups == {"camera": values[-1] if kind == "text" else int(values[-1])}


def test_a_folder_called_parquet_is_read_as_the_files_in_it(tmp_path):
    """As Spark and Dask write a table."""
    folder = tmp_path / "table.parquet"
    folder.mkdir()
    for number in range(2):
        pq.write_table(pa.table({"image": [IMAGE], "image_id": [f"i{number}"]}), folder / f"part.{number}.parquet")
    (folder / "_SUCCESS").touch()
    items = list_items(CorpusConfig(images=str(folder)), None)
    assert [item.image_id for item in items] == ["i0", "i1"]
    assert fetch(items[1]).image == IMAGE
