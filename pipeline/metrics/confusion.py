"""Exact confusion counts: integers that can be summed over any group of images and divided once."""

import threading

import numpy as np

from pipeline.compiled import compiled
from pipeline.errors import UserError
from pipeline.labels import IGNORE

_ONES = np.uint64(0x0101010101010101)  # a byte times this repeats the byte eight times
_BYTE = np.uint64(0xFF)
_ZERO, _ONE, _EIGHT = np.uint64(0), np.uint64(1), np.uint64(8)

_tables = threading.local()  # one table per thread: clearing half a megabyte takes longer than counting an image


def count_confusion(label: np.ndarray, mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of each (truth, prediction) pair.

    A run of equal 8-pixel words is counted at once, since neighbouring pixels of labels and masks mostly agree.

    Args:
        label: (H, W) uint8 train ids; pixels equal to 255 count nowhere.
        mask: (H, W) uint8 train ids, each below `num_classes`.
    Returns:
        (C, C) int64, pixels; row = truth, column = prediction.
    Raises:
        UserError: shapes differ, the ids are not uint8, or an id is outside 0..C-1.
    Source: FCN (arXiv:1411.4038), section 5, n_ij.
    """
    if label.shape != mask.shape:
        raise UserError(
            f"label {label.shape} and mask {mask.shape} differ in size; both are (height, width) of one image"
        )
    for name, ids in (("label", label), ("mask", mask)):
        if ids.dtype != np.uint8:
            raise UserError(f"{name} is {ids.dtype}, ids are uint8 0..{num_classes - 1} and {IGNORE}; convert it first")
    table = _table()
    try:
        _count(*_words(label), *_words(mask), table)
        counts = table[:num_classes, :num_classes].copy()
        if counts.sum() + table[IGNORE, :num_classes].sum() != label.size:  # some pixel has another id
            raise UserError(_illegal(table, num_classes))
    except BaseException:
        table[:] = 0
        raise
    table[:num_classes] = 0
    table[IGNORE] = 0
    return counts


def count_ids(mask: np.ndarray) -> np.ndarray:
    """(256,) int64: pixels of each id of a mask (H, W) uint8, counted as `count_confusion` does."""
    table, words = _table(), _words(mask)
    _count(*words, *words, table)
    counts: np.ndarray = table.diagonal().copy()
    np.fill_diagonal(table, 0)
    return counts


def _table() -> np.ndarray:
    """Return this thread's own table of (256, 256) int64 zeros; its user must set it to zero again."""
    if not hasattr(_tables, "counts"):
        _tables.counts = np.zeros((256, 256), np.int64)
    table: np.ndarray = _tables.counts
    return table


def _illegal(table: np.ndarray, num_classes: int) -> str:
    """Say which id that a table has counted is outside the label space."""
    if (masks := table[:, num_classes:].any(axis=0)).any():
        found = num_classes + int(np.flatnonzero(masks).max())
        return f"mask holds id {found}, the label space has classes 0..{num_classes - 1}"
    found = num_classes + int(table[num_classes:IGNORE].any(axis=1).argmax())
    return f"label holds id {found}, the label space has classes 0..{num_classes - 1} and {IGNORE} = ignore"


def _words(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels as uint64 words of eight, and the up to seven pixels that remain."""
    flat = np.ascontiguousarray(ids).reshape(-1)
    whole = flat.size // 8 * 8
    words = flat[:whole].view(np.uint64)
    return words if words.flags.aligned else words.copy(), flat[whole:]


@compiled()
def _count(
    label: np.ndarray, label_rest: np.ndarray, mask: np.ndarray, mask_rest: np.ndarray, table: np.ndarray
) -> None:
    """Add to a (256, 256) int64 table: row = truth, column = prediction; illegal ids count like any other, for the message."""
    counts = table.reshape(-1)
    # Indices are unsigned: signed ones would be checked for being negative, which keeps the compiler from using SIMD.
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
