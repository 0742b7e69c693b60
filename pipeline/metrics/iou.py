"""The IoU family from confusion counts (..., C, C), row = truth, column = prediction: counts are summed first, divided once.

An extra last column may hold pixels predicted as none of the classes: they are wrong, but predicted as no class.

A class in neither truth nor prediction is NaN and left out of means; one predicted but never labelled scores 0.
"""

from collections.abc import Mapping

import numpy as np


def iou_of(right: np.ndarray, predicted: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """(...) float64: intersection over union of pixel counts of one shape; NaN for what is in neither picture."""
    return ratio(right, predicted + labelled - right)


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """(..., C) float64: intersection / (predicted + labelled - intersection). FCN (arXiv:1411.4038), section 5."""
    return iou_of(_right(confusion), _predicted(confusion), confusion.sum(-1))


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """(..., C) float64: the share of a class's labelled pixels that was found; NaN for a class without labels."""
    return ratio(_right(confusion), confusion.sum(-1))


def class_dice(confusion: np.ndarray) -> np.ndarray:
    """(..., C) float64: 2 intersection / (predicted + labelled), also called F1. Dice 1945; equal to 2 IoU / (1 + IoU)."""
    return ratio(2 * _right(confusion), _predicted(confusion) + confusion.sum(-1))


def category_iou(confusion: np.ndarray, categories: Mapping[str, tuple[int, ...]]) -> dict[str, float]:
    """IoU of each category, its classes taken as one. Cityscapes (arXiv:1604.01685), section 3.2.

    Args:
        confusion: (C, C).
        categories: name -> its class ids.
    """
    scores = {}
    for name, members in categories.items():
        inside = list(members)
        right = confusion[np.ix_(inside, inside)].sum()
        scores[name] = float(iou_of(right, confusion[inside].sum(), confusion[:, inside].sum()))
    return scores


def mean_iou(confusion: np.ndarray) -> float:
    """Mean of the class IoUs of (C, C) that are not NaN; NaN where nothing was counted."""
    return float(mean(class_iou(confusion)))


def mean_accuracy(confusion: np.ndarray) -> float:
    """Mean of the class accuracies of (C, C) that are not NaN ("class average")."""
    return float(mean(class_accuracy(confusion)))


def pixel_accuracy(confusion: np.ndarray) -> float:
    """The share of labelled pixels that are right; NaN where nothing was counted."""
    return float(summary_scores(confusion)["pixel_accuracy"])


def summary_scores(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of each matrix of (..., C, C), (...) float64 each: `miou`, `mean_accuracy`, `pixel_accuracy`,
    `frequency_weighted_iou`, `mean_dice`.

    Frequency-weighted IoU weighs a class by its labelled pixels. FCN (arXiv:1411.4038), section 5.
    """
    iou, labelled = class_iou(confusion), confusion.sum(-1)
    total = labelled.sum(-1)
    return {
        "miou": mean(iou),
        "mean_accuracy": mean(class_accuracy(confusion)),
        "pixel_accuracy": ratio(_right(confusion).sum(-1), total),
        "frequency_weighted_iou": ratio((labelled * np.nan_to_num(iou)).sum(-1), total),
        "mean_dice": mean(class_dice(confusion)),
    }


def margin_scores(margins: np.ndarray) -> np.ndarray:
    """Compute class IoU, mIoU, mean accuracy and pixel accuracy, (D, C + 3) float64, from the right, predicted and labelled
    pixels of each class, (D, 3 C). Resampling these sums a seventh of the numbers that confusion matrices hold."""
    right, predicted, labelled = np.split(margins, 3, axis=1)
    iou, accuracy = iou_of(right, predicted, labelled), ratio(right, labelled)
    return np.column_stack([iou, mean(iou), mean(accuracy), ratio(right.sum(axis=1), labelled.sum(axis=1))])


def mean(values: np.ndarray) -> np.ndarray:
    """(...) float64: the mean over the last axis of what is not NaN; NaN where all is."""
    values = np.ascontiguousarray(values)  # one row is added in the same order as many: the same last digit
    there = ~np.isnan(values)
    return ratio(np.where(there, values, 0.0).sum(-1), there.sum(-1))


def _right(confusion: np.ndarray) -> np.ndarray:
    """(..., C): the diagonals."""
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _predicted(confusion: np.ndarray) -> np.ndarray:
    """(..., C): the predicted pixels of each class."""
    predicted: np.ndarray = confusion.sum(-2)[..., : confusion.shape[-2]]
    return predicted


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """(...) float64: part / whole; NaN where the whole is 0."""
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.nan)
