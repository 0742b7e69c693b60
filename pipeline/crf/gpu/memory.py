"""How much memory inference over a batch takes at most: the tables that are there at once, counted.

Entries are corners of points, rows are vertices. tests/test_crf_memory.py holds what torch allocates against it.
"""

from pipeline.crf.gpu.steps import Steps, padded

# Of the lattice, bytes: while it is built (keys, places and numbers of 64 bits) and as it stays (`DeviceLattice`).
_BUILT_ENTRY, _BUILT_ROW = 96, 176
_KEPT_ENTRY, _KEPT_ROW = 20, 68  # with the features
_NUMBER = 4


def most_bytes(num_points: int, num_classes: int, num_corners: int, steps: Steps, num_rows: int | None = None) -> int:
    """Bytes at the worst moment of inference over a group of images, without what is given; its result is among them.

    Args:
        num_points: pixels of all images of a group.
        num_corners: of a pixel over all kernels, 9 with both.
        num_rows: vertices; by default as many as there can be, one for each corner.
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
