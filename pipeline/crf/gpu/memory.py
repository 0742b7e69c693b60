"""Upper bound of the memory for inference over a batch: the total of the tables that exist at the same time.

Entries are corners of points, rows are vertices. tests/test_crf_memory.py compares the bound with what torch allocates.
"""

from pipeline.crf.gpu.steps import Steps, padded

# Bytes of the lattice: while it is built (keys, indices and numbers have 64 bits), and afterwards (`DeviceLattice`).
_BUILT_ENTRY, _BUILT_ROW = 96, 176
_KEPT_ENTRY, _KEPT_ROW = 20, 68  # including the features
_NUMBER = 4  # bytes of a float32


def most_bytes(num_points: int, num_classes: int, num_corners: int, steps: Steps, num_rows: int | None = None) -> int:
    """Return the peak bytes of inference over a group of images, including its result but not its input.

    Args:
        num_points: pixels of all images of the group.
        num_corners: corners of a pixel over all kernels; 9 with both kernels.
        num_rows: vertices; by default the most that are possible, one per corner.
    """
    entries = num_points * num_corners
    rows = entries if num_rows is None else num_rows
    pieces = rows + entries // 32
    row = _NUMBER * padded(num_classes)
    building = _BUILT_ENTRY * entries + _BUILT_ROW * rows
    kept = _KEPT_ENTRY * entries + _KEPT_ROW * rows
    summing = 2 * num_points * row + (pieces + rows) * row
    blurring = num_points * row + steps.BLUR_TABLES * rows * row + steps.BLUR_BYTES * rows
    updating = steps.UPDATE_TABLES * num_points * row + rows * row
    return max(building, kept + max(summing, blurring, updating))
