"""The IoU family from confusion counts (C, C), row = truth, column = prediction: counts are summed first, divided once.

A class in neither truth nor prediction is NaN and left out of means; one predicted but never labelled scores 0.
"""

import numpy as np


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """(C,) float64: intersection / (predicted + labelled - intersection). FCN (arXiv:1411.4038), section 5."""
    right = np.diagonal(confusion)
    return _ratio(right, confusion.sum(0) + confusion.sum(1) - right)


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """(C,) float64: the share of a class's labelled pixels that was found; NaN for a class without labels."""
    return _ratio(np.diagonal(confusion), confusion.sum(1))


def mean_iou(confusion: np.ndarray) -> float:
    """Mean of the class IoUs that are not NaN; NaN where nothing was counted."""
    return _mean(class_iou(confusion))


def mean_accuracy(confusion: np.ndarray) -> float:
    """Mean of the class accuracies that are not NaN ("class average")."""
    return _mean(class_accuracy(confusion))


def pixel_accuracy(confusion: np.ndarray) -> float:
    """The share of labelled pixels that are right; NaN where nothing was counted."""
    return float(_ratio(np.diagonal(confusion).sum(), confusion.sum()))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
