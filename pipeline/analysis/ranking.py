"""The images of a run with the lowest scores of their own: a diagnostic, never averaged into a headline."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.analysis.sums import batches, counted, rows_at_once
from pipeline.metrics.iou import iou_of

RANKS = ("miou", "pixel_accuracy", "confidence")  # columns that images can be ranked by


def lowest(uris: Sequence[str], n: int, by: str, index: int | None, shape: tuple[int, int]) -> pd.DataFrame:
    """Return the n lowest rows of some parts, by a column, or by IoU of the class `index`; `shape`: that of the confusions."""
    kept: list[pa.Table] = []
    for batch in batches(
        uris, ["image_id", *RANKS, *([] if index is None else ["confusion"])], rows_at_once(shape[0] * shape[1])
    ):
        if index is not None:
            batch, values = counted(batch, "confusion", shape[0] * shape[1])
            batch = batch.drop_columns(["confusion"]).append_column(
                by, pa.array(_class_iou(values.reshape(-1, *shape), index))
            )
        ranks = batch.column(by).to_numpy(zero_copy_only=False)
        # Keep all rows that tie with the n-th: ties are decided by image id, at the end.
        bound = np.partition(ranks, n - 1)[n - 1] if 0 < n < len(ranks) else np.inf
        if not math.isnan(bound):
            batch = batch.filter(pa.array(ranks <= bound))
        kept.append(pa.Table.from_batches([batch]))
    if not kept:
        return pd.DataFrame(columns=["image_id", *RANKS, *([] if index is None else [by])])
    frame = pa.concat_tables(kept).to_pandas()
    return frame.dropna(subset=[by]).sort_values([by, "image_id"]).head(n)


def _class_iou(confusions: np.ndarray, index: int) -> np.ndarray:
    """Return (rows,) float64: IoU of one class in each confusion; NaN where the class does not occur."""
    predicted, labelled = confusions[:, :, index].sum(1), confusions[:, index].sum(1)
    return iou_of(confusions[:, index, index], predicted, labelled)


def most_confused(
    uris: Sequence[str], pairs: Sequence[tuple[int, int]], n: int, shape: tuple[int, int]
) -> dict[tuple[int, int], list[tuple[int, str]]]:
    """Return (truth, prediction) -> (pixels, image id) of the n images of some parts with most pixels of that confusion."""
    found: dict[tuple[int, int], list[tuple[int, str]]] = {pair: [] for pair in pairs}
    for batch in batches(uris, ["image_id", "confusion"], rows_at_once(shape[0] * shape[1])):
        batch, values = counted(batch, "confusion", shape[0] * shape[1])
        names = batch.column("image_id")
        for pair in pairs:
            pixels = values[:, pair[0] * shape[1] + pair[1]]
            rows = [row for row in np.argsort(-pixels, kind="stable")[:n] if pixels[row]]
            merged = found[pair] + [(int(pixels[row]), names[int(row)].as_py()) for row in rows]
            found[pair] = sorted(merged, key=lambda hit: (-hit[0], hit[1]))[:n]
    return found
