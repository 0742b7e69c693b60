"""The lowest images of a run, by a number of their own: a diagnostic, never averaged into a headline."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.analysis.sums import batches, counted
from pipeline.metrics.iou import iou_of

RANKS = ("miou", "pixel_accuracy", "confidence")  # columns of one image that it can be ranked by


def lowest(uris: Sequence[str], n: int, by: str, index: int | None, num_classes: int) -> pd.DataFrame:
    """The n lowest rows of some parts; `index` is the class to rank by, None for a column."""
    kept: list[pa.Table] = []
    for batch in batches(uris, ["image_id", *RANKS, *([] if index is None else ["confusion"])]):
        if index is not None:
            batch, values = counted(batch, "confusion", num_classes**2)
            batch = batch.drop_columns(["confusion"]).append_column(
                by, pa.array(_class_iou(values, index, num_classes))
            )
        ranks = batch.column(by).to_numpy(zero_copy_only=False)
        # All rows as low as the n-th: which of equals come first is decided by name, at the end.
        bound = np.partition(ranks, n - 1)[n - 1] if 0 < n < len(ranks) else np.inf
        if not math.isnan(bound):
            batch = batch.filter(pa.array(ranks <= bound))
        kept.append(pa.Table.from_batches([batch]))
    if not kept:
        return pd.DataFrame(columns=["image_id", *RANKS, *([] if index is None else [by])])
    frame = pa.concat_tables(kept).to_pandas()
    return frame.dropna(subset=[by]).sort_values([by, "image_id"]).head(n)


def _class_iou(values: np.ndarray, index: int, num_classes: int) -> np.ndarray:
    """(rows,) float64: IoU of one class in each row of (rows, C * C) counts; NaN where the class is not."""
    right = values[:, index * (num_classes + 1)]
    labelled = values[:, index * num_classes : (index + 1) * num_classes].sum(1)
    return iou_of(right, values[:, index::num_classes].sum(1), labelled)


def most_confused(
    uris: Sequence[str], pairs: Sequence[tuple[int, int]], n: int, num_classes: int
) -> dict[tuple[int, int], list[tuple[int, str]]]:
    """(truth, prediction) -> (pixels, image id) of the n images that hold most of that confusion, among some parts."""
    found: dict[tuple[int, int], list[tuple[int, str]]] = {pair: [] for pair in pairs}
    for batch in batches(uris, ["image_id", "confusion"]):
        batch, values = counted(batch, "confusion", num_classes**2)
        names = batch.column("image_id")
        for pair in pairs:
            pixels = values[:, pair[0] * num_classes + pair[1]]
            rows = [row for row in np.argsort(-pixels, kind="stable")[:n] if pixels[row]]
            merged = found[pair] + [(int(pixels[row]), names[int(row)].as_py()) for row in rows]
            found[pair] = sorted(merged, key=lambda hit: (-hit[0], hit[1]))[:n]
    return found
