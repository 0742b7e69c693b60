"""COCO's run-length encoding of a region: lengths of runs down the columns, starting with a run outside the region."""

import numpy as np


def encode_rle(region: np.ndarray) -> list[int]:
    """Encode a region (H, W) bool as run lengths in column-major order, alternately outside and inside; the first is 0 if the
    region holds the first pixel.

    Source: cocodataset/cocoapi, maskApi.h (uncompressed RLE).
    """
    pixels = region.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    ends = np.concatenate([[0], changes, [pixels.size]])
    lengths = np.diff(ends).tolist()
    return [0, *lengths] if pixels.size and pixels[0] else lengths
