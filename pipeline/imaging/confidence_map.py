"""Confidence maps: the largest class probability of each pixel, in steps of 1/255."""

from math import ceil

import numpy as np

LEVELS = 255  # the level of probability 1


def least_known(unknown_below: float) -> int:
    """Return the lowest level that is not below the probability `unknown_below`."""
    return ceil(unknown_below * LEVELS)


def is_unknown(confidence: np.ndarray, unknown_below: float) -> np.ndarray:
    """Return (H, W) bool: where the level of a confidence map, as a probability, is below a bound.

    This compares the levels, not the probabilities before rounding, so that readers of the map find the same pixels. A pixel
    whose probability is within 1/510 of the bound may fall on either side of it.
    """
    unknown: np.ndarray = confidence < least_known(unknown_below)
    return unknown
