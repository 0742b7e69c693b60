"""Exact confusion counts: integers that can be summed over any group of images and divided once."""

import numpy as np
from numba import njit

from pipeline.labels import IGNORE

_ONES = np.uint64(0x0101010101010101)  # times a byte: that byte eight times
_BYTE = np.uint64(0xFF)
_EIGHT = np.uint64(8)


def count_confusion(label: np.ndarray, mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of each (truth, prediction) pair.

    Runs of equal 8-pixel words are counted once a run: neighbours agree in labels and masks far more often than not.

    Args:
        label: (H, W) uint8 train ids; pixels equal to 255 count nowhere.
        mask: (H, W) uint8 train ids, each below `num_classes`.
    Returns:
        (C, C) int64, pixels; row = truth, column = prediction.
    Raises:
        ValueError: shapes differ, the ids are not uint8, or an id is outside 0..C-1.
    Source: FCN (arXiv:1411.4038), section 5, n_ij.
    """
    if label.shape != mask.shape:
        raise ValueError(
            f"label {label.shape} and mask {mask.shape} differ in size; both are (height, width) of one image"
        )
    for name, ids in (("label", label), ("mask", mask)):
        if ids.dtype != np.uint8:
            raise ValueError(
                f"{name} is {ids.dtype}, ids are uint8 0..{num_classes - 1} and {IGNORE}; convert it first"
            )
    # Place of an id in the table of counts: legal ids first, then ignore, then whatever is not legal.
    rows, columns = np.full(256, num_classes + 1), np.full(256, num_classes)
    rows[:num_classes] = columns[:num_classes] = np.arange(num_classes)
    rows[IGNORE] = num_classes
    counts = _count(*_words(label), *_words(mask), rows, columns, num_classes)
    if counts[:, num_classes].any():
        raise ValueError(f"mask holds id {mask.max()}, the label space has classes 0..{num_classes - 1}")
    if counts[num_classes + 1].any():
        found = label[(label >= num_classes) & (label != IGNORE)].min()
        raise ValueError(
            f"label holds id {found}, the label space has classes 0..{num_classes - 1} and {IGNORE} = ignore"
        )
    return counts[:num_classes, :num_classes]


def _words(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels as uint64 words of eight, and the up to seven that are left."""
    flat = np.ascontiguousarray(ids).reshape(-1)
    whole = flat.size // 8 * 8
    words = flat[:whole].view(np.uint64)
    return words if words.flags.aligned else words.copy(), flat[whole:]


@njit(nogil=True, cache=True)
def _count(
    label: np.ndarray, label_rest: np.ndarray, mask: np.ndarray, mask_rest: np.ndarray, rows: np.ndarray,
    columns: np.ndarray, num_classes: int
) -> np.ndarray:  # fmt: skip
    """(C + 2, C + 1) int64: rows are the classes, ignore, illegal; columns the classes, illegal."""
    # Two tables, for pixels of even and odd place: an increment need not wait for the one before it.
    even = np.zeros((num_classes + 2, num_classes + 1), np.int64)
    odd = np.zeros((num_classes + 2, num_classes + 1), np.int64)
    place, size = 0, label.size
    while place < size:
        truth, found, start = label[place], mask[place], place
        place += 1
        while place < size and label[place] == truth and mask[place] == found:
            place += 1
        length = place - start
        t, f = truth & _BYTE, found & _BYTE
        if t * _ONES == truth and f * _ONES == found:
            even[rows[t], columns[f]] += 8 * length
            continue
        for _ in range(4):
            even[rows[truth & _BYTE], columns[found & _BYTE]] += length
            truth >>= _EIGHT
            found >>= _EIGHT
            odd[rows[truth & _BYTE], columns[found & _BYTE]] += length
            truth >>= _EIGHT
            found >>= _EIGHT
    for place in range(label_rest.size):
        even[rows[label_rest[place]], columns[mask_rest[place]]] += 1
    return even + odd
