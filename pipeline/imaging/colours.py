"""Masks as pictures: class colours, blends with the image, right and wrong pixels."""

from collections.abc import Sequence

import numpy as np

from pipeline.labels import IGNORE, Colour

RIGHT, WRONG, IGNORED = (232, 236, 240), (213, 33, 48), (120, 124, 130)


def colourise(mask: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """(H, W) uint8 ids -> (H, W, 3) uint8 class colours; ignore is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    picture: np.ndarray = table[mask]
    return picture


def blend(image: np.ndarray, mask: np.ndarray, colours: Sequence[Colour], alpha: float) -> np.ndarray:
    """The image with class colours over it: 0 = image alone, 1 = colours alone; (H, W, 3) uint8."""
    mixed = image * (1 - alpha) + colourise(mask, colours) * alpha
    return mixed.round().astype(np.uint8)


def error_map(label: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: wrong pixels red, right ones pale, ignored ones grey."""
    picture = np.where((label == mask)[..., None], np.array(RIGHT, np.uint8), np.array(WRONG, np.uint8))
    picture[label == IGNORE] = IGNORED
    return picture
