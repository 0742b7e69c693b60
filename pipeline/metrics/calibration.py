"""Confidence histograms: how often the network is right at each confidence, as counts that can be summed."""

import numpy as np

from pipeline.compiled import compiled
from pipeline.errors import UserError
from pipeline.labels import IGNORE

LEVELS = 65535  # confidences are summed as whole numbers of 1/LEVELS, so that sums are exact in any order


def count_confidence(label: np.ndarray, mask: np.ndarray, confidence: np.ndarray, bins: int) -> np.ndarray:
    """Count, per confidence bin, the labelled pixels, those that are right, and their summed confidence.

    Args:
        label, mask: (H, W) uint8 train ids; pixels with label 255 count nowhere.
        confidence: (H, W) float32, the probability of the predicted class.
        bins: equal parts of 0..1; 1.0 belongs to the last.
    Returns:
        (3, bins) int64: pixels, right pixels, confidence in units of 1/LEVELS.
    Raises:
        UserError: shapes differ.
    Source: Guo et al. 2017 (arXiv:1706.04599), section 2, equations 1 and 2.
    """
    if not label.shape == mask.shape == confidence.shape:
        raise UserError(f"label {label.shape}, mask {mask.shape} and confidence {confidence.shape} differ in size")
    return _count(label.ravel(), mask.ravel(), confidence.ravel(), bins, IGNORE)


def calibration_error(counts: np.ndarray) -> float:
    """ECE: the mean gap between accuracy and confidence over bins, weighted by pixels; NaN where nothing was counted.

    Args:
        counts: (3, bins), summed.
    Source: Guo et al. 2017 (arXiv:1706.04599), equation 3.
    """
    pixels, right, confidence = counts
    total = pixels.sum()
    return float(np.abs(right - confidence / LEVELS).sum() / total) if total else float("nan")


@compiled()
def _count(label: np.ndarray, mask: np.ndarray, confidence: np.ndarray, bins: int, ignore: int) -> np.ndarray:
    counts = np.zeros((3, bins), np.int64)
    for pixel in range(label.size):
        if label[pixel] == ignore:
            continue
        value = min(max(confidence[pixel], 0.0), 1.0)
        place = min(int(value * bins), bins - 1)
        counts[0, place] += 1
        counts[1, place] += label[pixel] == mask[pixel]
        counts[2, place] += int(value * LEVELS + 0.5)
    return counts
