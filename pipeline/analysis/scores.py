"""What summed counts beside the confusion say: near boundaries, of instances, of the network's own confidence."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.labels import LabelSpace
from pipeline.metrics import boundary, calibration, instances
from pipeline.metrics.iou import mean


def boundary_scores(counts: np.ndarray, widths_px: Sequence[int], space: LabelSpace) -> pd.DataFrame:
    """See `RunView.boundary`; counts are the summed column `boundary`."""
    rows = {}
    for width, values in zip(widths_px, counts.reshape(len(widths_px), len(boundary.ROWS), -1), strict=True):
        for score in (boundary.boundary_iou, boundary.boundary_f, boundary.trimap_iou):
            rows[width, score.__name__] = score(values)
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(space.classes))
    table.index = pd.MultiIndex.from_tuples(rows, names=["width_px", "score"])
    return table.assign(mean=mean(table.to_numpy()))


def instance_scores(counts: np.ndarray, confusion: np.ndarray, space: LabelSpace) -> dict[str, float]:
    """See `RunView.instance_iou`; counts (C, 6) are the summed column `instances`."""
    classes = instances.instance_iou(counts, confusion, space)
    scores = {name: float(iou) for name, iou in zip(space.classes, classes, strict=True) if not math.isnan(iou)}
    return scores | instances.category_instance_iou(counts, confusion, space)


def calibration_bins(counts: np.ndarray) -> pd.DataFrame:
    """See `RunView.calibration`; counts (3, bins) are the summed column `calibration`."""
    pixels, right, confidence = counts
    whole = np.where(pixels > 0, pixels, np.nan)
    means = {"accuracy": right / whole, "confidence": confidence / calibration.LEVELS / whole}
    table = pd.DataFrame({"pixels": pixels, **means})
    table.attrs["ece"] = calibration.calibration_error(counts)
    return table
