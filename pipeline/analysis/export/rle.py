"""COCO's run-length code of a region: lengths of runs down the columns, the first of them outside the region."""

import numpy as np


def encode_rle(region: np.ndarray) -> list[int]:
    """Run lengths of a region (H, W) bool, in column-major order, outside and inside in turn; a region that holds the first
    pixel begins with 0.

    Source: cocodataset/cocoapi, maskApi.h (uncompressed RLE).
    """
    pixels = region.ravel(order="F")
    changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    ends = np.concatenate([[0], changes, [pixels.size]])
    lengths = np.diff(ends).tolist()
    return [0, *lengths] if pixels.size and pixels[0] else lengths
