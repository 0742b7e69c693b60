"""Connected regions of a mask: how large they are, and of which class."""

import numpy as np

from pipeline.compiled import compiled
from pipeline.labels import IGNORE


def region_sizes(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the regions of a mask: pixels of one class that touch at their sides (4-connectivity); ignored ones are none.

    Args:
        mask: (H, W) uint8 class ids, 255 = ignored.
    Returns:
        (R,) int64 pixels and (R,) uint8 class id of each region, in the order of their first pixels.
    """
    sizes, ids = _sizes(np.ascontiguousarray(mask))
    inside = ids != IGNORE
    return sizes[inside], ids[inside]


@compiled()
def _sizes(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Union-find in one pass: each pixel points to an earlier one of its region, roots to themselves."""
    height, width = mask.shape
    flat, parent = mask.ravel(), np.empty(height * width, np.int32)
    for pixel in range(height * width):
        parent[pixel] = pixel
        if pixel % width and flat[pixel - 1] == flat[pixel]:
            _join(parent, pixel - 1, pixel)
        if pixel >= width and flat[pixel - width] == flat[pixel]:
            _join(parent, pixel - width, pixel)
    counts = np.zeros(height * width, np.int64)
    for pixel in range(height * width):
        counts[_root(parent, pixel)] += 1
    roots = np.flatnonzero(counts)
    return counts[roots], flat[roots]


@compiled()
def _root(parent: np.ndarray, pixel: int) -> int:
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return pixel


@compiled()
def _join(parent: np.ndarray, one: int, two: int) -> None:
    first, second = _root(parent, one), _root(parent, two)
    if first < second:
        parent[second] = first
    else:
        parent[first] = second
