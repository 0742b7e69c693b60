"""Exact confusion counts: integers that can be summed over any group of images and divided once."""

import numpy as np
from numba import njit

from pipeline.labels import IGNORE

_ONES = np.uint64(0x0101010101010101)  # times a byte: that byte eight times
_BYTE = np.uint64(0xFF)
_ZERO, _ONE, _EIGHT = np.uint64(0), np.uint64(1), np.uint64(8)


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
    counts = _count(*_words(label), *_words(mask))
    if counts[:, num_classes:].any():
        raise ValueError(f"mask holds id {mask.max()}, the label space has classes 0..{num_classes - 1}")
    if counts[num_classes:IGNORE].any():
        found = num_classes + int(counts[num_classes:IGNORE].any(axis=1).argmax())
        raise ValueError(
            f"label holds id {found}, the label space has classes 0..{num_classes - 1} and {IGNORE} = ignore"
        )
    return counts[:num_classes, :num_classes].copy()


def _words(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels as uint64 words of eight, and the up to seven that are left."""
    flat = np.ascontiguousarray(ids).reshape(-1)
    whole = flat.size // 8 * 8
    words = flat[:whole].view(np.uint64)
    return words if words.flags.aligned else words.copy(), flat[whole:]


@njit(nogil=True, cache=True)
def _count(label: np.ndarray, label_rest: np.ndarray, mask: np.ndarray, mask_rest: np.ndarray) -> np.ndarray:
    """(256, 256) int64: row = truth, column = prediction; illegal ids are counted like any other, for the message."""
    counts = np.zeros(256 * 256, np.int64)
    # Places are unsigned: a signed index would be checked for being negative, which keeps the compiler from SIMD.
    place, size = _ZERO, np.uint64(label.size)
    while place < size:
        truth, found, start = label[place], mask[place], place
        place += _ONE
        while place + _EIGHT <= size:
            differ = _ZERO
            for word in range(8):
                ahead = place + np.uint64(word)
                differ |= (label[ahead] ^ truth) | (mask[ahead] ^ found)
            if differ != _ZERO:
                break
            place += _EIGHT
        while place < size and label[place] == truth and mask[place] == found:
            place += _ONE
        length = np.int64(place - start)
        t, f = truth & _BYTE, found & _BYTE
        if t * _ONES == truth and f * _ONES == found:
            counts[(t << _EIGHT) | f] += 8 * length
            continue
        for _ in range(8):
            counts[((truth & _BYTE) << _EIGHT) | (found & _BYTE)] += length
            truth >>= _EIGHT
            found >>= _EIGHT
    for pixel in range(label_rest.size):
        counts[np.int64(label_rest[pixel]) * 256 + mask_rest[pixel]] += 1
    return counts.reshape(256, 256)
