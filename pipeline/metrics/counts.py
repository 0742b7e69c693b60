"""Exact confusion counts: integers that can be summed over any group of images and divided once."""

import numpy as np

from pipeline.labels import IGNORE


def count_confusion(label: np.ndarray, mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the pixels of each (truth, prediction) pair.

    Args:
        label: (H, W) uint8 train ids; pixels equal to 255 count nowhere.
        mask: (H, W) uint8 train ids, each below `num_classes`.
    Returns:
        (C, C) int64, pixels; row = truth, column = prediction.
    Raises:
        ValueError: shapes differ, or an id is outside 0..C-1.
    Source: FCN (arXiv:1411.4038), section 5, n_ij.
    """
    if label.shape != mask.shape:
        raise ValueError(
            f"label {label.shape} and mask {mask.shape} differ in size; both are (height, width) of one image"
        )
    if mask.size and mask.max() >= num_classes:
        raise ValueError(f"mask holds id {mask.max()}, the label space has classes 0..{num_classes - 1}")
    # One 256-wide row a truth id: ignored pixels land in row 255 and need no mask of their own.
    pairs = label.astype(np.uint16) * 256 + mask
    counts = np.bincount(pairs.ravel(), minlength=256 * 256).reshape(256, 256)
    if counts[num_classes:IGNORE].any():
        found = num_classes + int(counts[num_classes:IGNORE].any(axis=1).argmax())
        raise ValueError(
            f"label holds id {found}, the label space has classes 0..{num_classes - 1} and {IGNORE} = ignore"
        )
    return counts[:num_classes, :num_classes].astype(np.int64)
