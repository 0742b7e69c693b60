"""Recount a run: write parts with the same rows and groups but other counts, in a temporary folder of the new view."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.analysis.run_counts import METRIC_OF, RunCounts
from pipeline.analysis.sums import batches
from pipeline.metrics.iou import mean_iou, pixel_accuracy
from pipeline.runs import Part

COUNTED = ("pixels", "confusion", "confusion_raw", "miou", "pixel_accuracy")  # columns that are counted again

_LEFT_OUT = ("mask", "confidence_map", "unknown_labelled")


@dataclass(frozen=True)
class Derived:
    """Parts with new counts and without masks."""

    folder: tempfile.TemporaryDirectory[str]  # deleted with this object
    parts: list[Part]


Columns = dict[str, list[object]]
Recount = Callable[[Part, pa.RecordBatch], Columns]  # computes the columns COUNTED for some rows of a part


def derive(view: RunCounts, columns: Sequence[str], recount: Recount, num_classes: int, rows: int) -> Derived:
    """Write copies of a run's parts with other counts.

    Args:
        columns: columns that `recount` needs.
        num_classes: number of classes of the new counts.
        rows: number of rows in memory at a time.
    """
    folder = tempfile.TemporaryDirectory(prefix="maskmill-counts-")
    Path(folder.name, "masks").mkdir()
    parts = []
    for part in view.listed("masks"):
        copy = replace(part, run_uri=folder.name, file=None)
        writer: pq.ParquetWriter | None = None
        for batch in _batches(part, columns, rows):
            table = _recounted(batch, recount(part, batch), num_classes)
            writer = writer or pq.ParquetWriter(copy.uri, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:  # a part with nothing but rejects has no rows
            writer.close()
            parts.append(replace(copy, bytes=Path(copy.uri).stat().st_size))
    return Derived(folder, parts)


def confusion_columns(confusions: Sequence[np.ndarray | None]) -> Columns:
    """Return `confusion` of each image, and the columns that follow from it alone; None = no label."""
    counted = [matrix if matrix is not None and matrix.any() else None for matrix in confusions]
    return {
        "confusion": [None if matrix is None else matrix.ravel() for matrix in confusions],
        "miou": [None if matrix is None else mean_iou(matrix) for matrix in counted],
        "pixel_accuracy": [None if matrix is None else pixel_accuracy(matrix) for matrix in counted],
    }


def _batches(part: Part, columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    names = [name for name in _names(part) if name not in (*COUNTED, *METRIC_OF, *_LEFT_OUT)]
    yield from batches([part.uri], [*names, *columns], rows)


def _names(part: Part) -> list[str]:
    filesystem, path = storage.arrow_filesystem(part.uri)
    names: list[str] = pq.read_schema(path, filesystem=filesystem).names
    return names


def _recounted(batch: pa.RecordBatch, counts: Columns, num_classes: int) -> pa.Table:
    kept = pa.Table.from_batches([batch])
    kept = kept.select([name for name in kept.column_names if name not in (*COUNTED, "mask")])
    types = {
        "pixels": pa.list_(pa.int64(), num_classes), "confusion": pa.list_(pa.int64()), "confusion_raw": pa.list_(pa.int64()),
        "miou": pa.float32(), "pixel_accuracy": pa.float32(),
    }  # fmt: skip
    for name, kind in types.items():
        kept = kept.append_column(name, pa.array(counts.get(name, [None] * kept.num_rows), kind))
    return kept
