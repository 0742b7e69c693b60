"""The lowest images of a run, by a number of their own: a diagnostic, never averaged into a headline."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.analysis.sums import batches, counted

RANKS = ("miou", "pixel_accuracy", "confidence")  # columns of one image that it can be ranked by


def lowest(uris: Sequence[str], n: int, by: str, index: int | None, num_classes: int) -> pd.DataFrame:
    """The n lowest rows of some parts; `index` is the class to rank by, None for a column."""
    frames = [pd.DataFrame(columns=["image_id", *RANKS, *([] if index is None else [by])])]
    for batch in batches(uris, ["image_id", *RANKS, *([] if index is None else ["confusion"])]):
        if index is None:
            frame = batch.to_pandas()
        else:
            batch, values = counted(batch, "confusion", num_classes**2)
            right = values[:, index * (num_classes + 1)]
            labelled = values[:, index * num_classes : (index + 1) * num_classes].sum(1)
            whole = labelled + values[:, index::num_classes].sum(1) - right
            frame = batch.drop_columns(["confusion"]).to_pandas()
            frame[by] = np.where(whole > 0, right / np.maximum(whole, 1), np.nan)
        frames.append(_first(frame, n, by))
    return _first(pd.concat(frames), n, by)


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


def _first(frame: pd.DataFrame, n: int, by: str) -> pd.DataFrame:
    return frame.dropna(subset=[by]).sort_values([by, "image_id"]).head(n)
