"""A map of confidence: for each pixel the largest of its class probabilities, in steps of 1/255."""

from math import ceil

import numpy as np

LEVELS = 255  # a probability of 1


def least_known(unknown_below: float) -> int:
    """The lowest level that is not below a probability."""
    return ceil(unknown_below * LEVELS)


def is_unknown(confidence: np.ndarray, unknown_below: float) -> np.ndarray:
    """(H, W) bool: where a map's level, as a probability, is below a bound.

    Levels are compared, not the probabilities that they were rounded from, so that whoever reads the map finds the same
    pixels. A pixel whose probability is within 1/510 of the bound may fall on either side of it.
    """
    unknown: np.ndarray = confidence < least_known(unknown_below)
    return unknown
