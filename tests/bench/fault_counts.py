"""Count which of the expected masks a folder holds: `tests.bench.faults` counts every side's output alike."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import storage

NEAR_TIES = 0.01  # share of pixels in which two roundings of the same image may differ


@dataclass(frozen=True)
class Counts:
    """Of the images that were to be answered."""

    lost: int  # in no row, and in no reject
    doubled: int  # rows beyond an image's first
    wrong: int  # rows whose mask is not that of the image
    unreadable: int  # files that a reader of the output would fail on
    rejected: tuple[str, ...] = ()  # images that are named as failed

    @property
    def spoilt(self) -> int:
        """Times that a reader of the output would miss an image, see it twice or see it wrong."""
        return self.lost + self.doubled + self.wrong + self.unreadable


def count(
    files: Iterable[tuple[str, bytes]], expected: Mapping[str, np.ndarray], rejected: Iterable[str] = ()
) -> Counts:
    """Count what was answered.

    Args:
        files: name and bytes of every Parquet file that a reader takes for masks; an image is named in the column
            `image_id` or `path`, the folder and the suffix of which count for nothing; its PNG is in `mask`.
        expected: mask of each image, (H, W) uint8.
        rejected: images that the output itself names as failed.
    """
    rows, wrong, unreadable = Counter[str](), 0, 0
    for _, data in files:
        try:
            found = pq.read_table(io.BytesIO(data)).to_pylist()
        except (pa.ArrowException, OSError):
            unreadable += 1
            continue
        for row in found:
            name = PurePosixPath(row["image_id"] if "image_id" in row else row["path"]).stem
            rows[name] += 1
            wrong += not _equal(row["mask"], expected.get(name))
    named = tuple(sorted(set(rejected)))
    lost = sum(name not in rows and name not in named for name in expected)
    return Counts(lost, sum(rows.values()) - len(rows), wrong, unreadable, named)


def _equal(mask: Any, expected: np.ndarray | None) -> bool:
    try:
        found = np.asarray(Image.open(io.BytesIO(mask["bytes"] if isinstance(mask, dict) else mask)))
    except (OSError, TypeError):
        return False
    return expected is not None and found.shape == expected.shape and bool((found != expected).mean() <= NEAR_TIES)


def parquet_files(uri: str) -> list[tuple[str, bytes]]:
    """Every Parquet file below a folder."""
    return [(file.path, storage.read(file.uri)) for file in storage.list_files(uri) if file.path.endswith(".parquet")]


def delta_files(uri: str) -> list[tuple[str, bytes]]:
    """The Parquet files that a Delta table's log holds for the newest version; what was never committed is none of them."""
    live = set[str]()
    for file in sorted(storage.list_files(storage.join(uri, "_delta_log")), key=lambda file: file.path):
        for action in map(json.loads, storage.read(file.uri).splitlines() if file.path.endswith(".json") else []):
            live |= {action["add"]["path"]} if "add" in action else set()
            live -= {action["remove"]["path"]} if "remove" in action else set()
    return [(path, storage.read(storage.join(uri, path))) for path in sorted(live)]


def rejects(uri: str) -> list[str]:
    """Images that a run of Maskmill names as failed."""
    tables = [pq.read_table(io.BytesIO(data)) for _, data in parquet_files(storage.join(uri, "rejects"))]
    return [PurePosixPath(row["image_id"]).stem for table in tables for row in table.to_pylist()]
