"""The benchmark of faults counts correctly what a folder of masks holds, shown on a folder that is damaged on purpose."""

import io
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline import storage
from tests.bench import fault_counts, fault_step
from tests.bench.fault_sides import TOGETHER, as_png, write_manifest


@pytest.fixture(scope="module")
def masks():
    step = fault_step.build(fault_step.CLASSES, os.devnull)
    return {f"{n:04d}": fault_step.mask(step.head, fault_step.draw(n)) for n in range(6)}


def parquet(rows):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def written(masks, *names):
    return parquet([{"path": f"bucket/images/{name}.png", "mask": as_png(masks[name])} for name in names])


def test_a_whole_folder_has_nothing_to_count(masks):
    files = [
        ("a.parquet", written(masks, "0000", "0001", "0002")),
        ("b.parquet", written(masks, "0003", "0004", "0005")),
    ]
    assert fault_counts.count(files, masks) == fault_counts.Counts(0, 0, 0, 0)
    own = parquet(
        [{"image_id": name, "mask": {"bytes": as_png(mask), "path": "mask.png"}} for name, mask in masks.items()]
    )
    assert fault_counts.count([("part", own)], masks) == fault_counts.Counts(0, 0, 0, 0)


def test_a_folder_damaged_by_hand_shows_each_number(masks, tmp_path):
    cut = written(masks, "0003")
    other = parquet([{"path": "0004.png", "mask": as_png(masks["0003"])}, {"path": "0005.png", "mask": b"no PNG"}])
    for name, data in {
        "a": written(masks, "0000", "0001"),
        "b": written(masks, "0001"),
        "c": cut[:-9],
        "d": other,
    }.items():
        storage.put(str(tmp_path / f"{name}.parquet"), data)
    (tmp_path / "notes.txt").write_text("no Parquet")
    files = fault_counts.parquet_files(str(tmp_path))
    assert len(files) == 4
    expected = fault_counts.Counts(lost=1, doubled=1, wrong=2, unreadable=1, rejected=("0003",))
    assert fault_counts.count(files, masks, rejected=["0003"]) == expected
    assert fault_counts.count(files, masks).lost == 2


def test_of_a_delta_table_only_committed_files_count(masks, tmp_path):
    for name in ("one", "two", "never committed"):
        storage.put(str(tmp_path / f"{name}.parquet"), written(masks, "0000"))
    log = [[{"add": {"path": "one.parquet"}}], [{"add": {"path": "two.parquet"}}, {"remove": {"path": "one.parquet"}}]]
    for version, actions in enumerate(log):
        storage.put(str(tmp_path / f"_delta_log/{version:020d}.json"), "\n".join(map(json.dumps, actions)).encode())
    assert [path for path, _ in fault_counts.delta_files(str(tmp_path))] == ["two.parquet"]


def test_the_step_writes_down_what_it_computes_and_nothing_else(tmp_path):
    log = str(tmp_path / "log")
    assert fault_step.computed(log) == []
    step = fault_step.build(fault_step.CLASSES, log).eval()
    step(torch.zeros(1, 3, 8, 8))
    image = fault_step.draw(41)
    mask = fault_step.mask(step, np.asarray(Image.open(io.BytesIO(as_png(image)))))
    assert fault_step.computed(log) == [(41, os.getpid())]
    assert mask.shape == image.shape[:2] and len(np.unique(mask)) > 5


def test_a_manifest_holds_every_path_once_and_what_is_committed_together_in_a_file(tmp_path):
    paths = [f"{n}.png" for n in range(TOGETHER * 2 + 1)]
    write_manifest(str(tmp_path), paths, storage.put)
    files = fault_counts.parquet_files(str(tmp_path))
    tables = [pq.read_table(io.BytesIO(data))["path"].to_pylist() for _, data in files]
    assert sorted(path for table in tables for path in table) == sorted(paths)
    assert max(map(len, tables)) == TOGETHER and len(tables) == 3
