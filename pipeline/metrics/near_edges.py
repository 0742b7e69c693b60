"""Find the edges of a label map and count pixels near them: the compiled passes behind `boundary.py`.

Each pass goes through the rows once and needs little extra memory, so that a picture of 50 megapixels fits too. Windows are
square: a window of radius r reaches r pixels in each direction.
"""

import numpy as np

from pipeline.compiled import compiled
from pipeline.labels import IGNORE

EDGE, CONTOUR = 1, 2  # bits of `find_edges`
GROUP = 64  # classes that `count_hits` tells apart in one pass: the bits of a word
_NEVER = -(1 << 30)  # a row or column so far back that no window reaches it


@compiled()
def find_edges(ids: np.ndarray) -> np.ndarray:
    """(H, W) uint8: EDGE where one of the eight neighbours has another id; CONTOUR where one has another class, and neither
    is ignored."""
    height, width = ids.shape
    found = np.empty((height, width), np.uint8)
    for y in range(height):
        above, here, below = ids[max(y - 1, 0)], ids[y], ids[min(y + 1, height - 1)]
        if width > 2:
            _find_in_row(above, here, below, found[y])
        for x in (0, width - 1):
            flags = 0
            for row in (above, here, below):
                for u in range(max(x - 1, 0), min(x + 2, width)):
                    flags |= EDGE * (row[u] != here[x])
                    flags |= CONTOUR * (row[u] != here[x] and row[u] != IGNORE and here[x] != IGNORE)
            found[y, x] = flags
    return found


@compiled()
def _find_in_row(above: np.ndarray, here: np.ndarray, below: np.ndarray, found: np.ndarray) -> None:
    """Fill a row but for its first and last pixel, by slices of equal length, which the compiler vectorises."""
    inner = len(here) - 2
    middle, flags = here[1 : 1 + inner], found[1 : 1 + inner]
    for x in range(inner):
        flags[x] = 0
    for row in (above, here, below):
        for left in range(3):
            other = row[left : left + inner]
            for x in range(inner):
                differs = np.uint8(other[x] != middle[x])
                classes = np.uint8(other[x] != IGNORE) & np.uint8(middle[x] != IGNORE)
                flags[x] |= differs | (differs & classes) << np.uint8(1)


@compiled()
def mark_near(edges: np.ndarray, radius_px: int) -> np.ndarray:
    """(H, W) uint8: 1 where the window of this radius holds a pixel with the bit EDGE, else 0."""
    height, width = edges.shape
    near = np.empty((height, width), np.uint8)
    last_row = np.full(width, _NEVER, np.int32)  # of each column, the last row with an edge
    in_column = np.empty(width, np.uint8)
    for bottom in range(height + radius_px):
        if bottom < height:
            row = edges[bottom]
            for x in range(width):
                last_row[x] = bottom if row[x] & EDGE else last_row[x]
        y = bottom - radius_px
        if y < 0:
            continue
        for x in range(width):
            in_column[x] = last_row[x] >= y - radius_px
        last, out = _NEVER, near[y]
        for right in range(min(radius_px, width)):
            last = right if in_column[right] else last
        for x in range(width):
            right = x + radius_px
            if right < width:
                last = right if in_column[right] else last
            out[x] = last >= x - radius_px
    return near


@compiled()
def count_bands(
    label: np.ndarray,
    mask: np.ndarray,
    near_label: np.ndarray,
    near_mask: np.ndarray,
    width_px: int,
    counts: np.ndarray,
) -> None:
    """Add rows 0-2 and 7-9 of one band width. A window of radius w holds two ids where an edge pixel is within w - 1.

    Args:
        near_label, near_mask: `mark_near` of radius w - 1.
        counts: (10, C) int64, rows as `boundary.ROWS`.
    """
    height, width = label.shape
    for y in range(height):
        of_row = min(y, height - 1 - y) < width_px
        for x in range(width):
            leaves = of_row or x < width_px or width - 1 - x < width_px
            in_truth, in_found = near_label[y, x], near_mask[y, x]
            if not (in_truth | in_found | leaves):
                continue
            truth, found = label[y, x], mask[y, x]
            if truth == IGNORE:
                continue
            if in_truth:
                counts[7, truth] += truth == found
                counts[8, found] += 1
                counts[9, truth] += 1
            if in_truth or leaves:
                counts[2, truth] += 1
                counts[0, truth] += truth == found and (in_found or leaves)
            if in_found or leaves:
                counts[1, found] += 1


@compiled()
def count_contours(ids: np.ndarray, edges: np.ndarray, counts: np.ndarray) -> None:
    """Add the contour pixels of each class to (C,) int64."""
    height, width = ids.shape
    for y in range(height):
        for x in range(width):
            if edges[y, x] & CONTOUR:
                counts[ids[y, x]] += 1


@compiled()
def count_hits(
    ids: np.ndarray, edges: np.ndarray, others: np.ndarray, others_edges: np.ndarray, radius_px: int, bits: np.ndarray,
    counts: np.ndarray,
) -> None:  # fmt: skip
    """Add, per class, the contour pixels whose window holds a contour pixel of the same class in the other picture.

    Args:
        bits: (256,) uint64, a bit of its own for each of up to GROUP classes, 0 for those that are not counted in this pass.
        counts: (C,) int64.
    """
    height, width = ids.shape
    rows = 2 * radius_px + 1
    near = np.zeros(
        (rows, width), np.uint64
    )  # classes within the radius in a row; row v of the other picture at v % rows
    for bottom in range(height + radius_px):
        if bottom < height:
            _classes_near(others[bottom], others_edges[bottom], radius_px, bits, near[bottom % rows])
        y = bottom - radius_px
        if y < 0:
            continue
        here = y % rows
        for x in range(width):
            if not edges[y, x] & CONTOUR:
                continue
            wanted = bits[ids[y, x]]
            if wanted == 0:
                continue
            for step in range(rows):  # nearer rows first
                away = (step + 1) // 2 * (1 if step % 2 else -1)
                if not 0 <= y + away < height:
                    continue
                place = here + away
                place += rows if place < 0 else -rows if place >= rows else 0
                if near[place, x] & wanted:
                    counts[ids[y, x]] += 1
                    break


@compiled()
def _classes_near(ids: np.ndarray, edges: np.ndarray, radius_px: int, bits: np.ndarray, near: np.ndarray) -> None:
    """Set for each pixel of a row the bits of the classes with a contour pixel within the radius, in doubling steps."""
    width, window = len(ids), 2 * radius_px + 1
    some, more = np.zeros(width + window - 1, np.uint64), np.zeros(width + window - 1, np.uint64)
    anything = False
    for x in range(width):
        if edges[x] & CONTOUR:
            some[x + radius_px] = bits[ids[x]]
            anything = True
    if not anything:
        near[:] = 0
        return
    size = 1
    while size < window:
        step = min(size, window - size)
        length = len(some) - step
        this, ahead, both = some[:length], some[step : step + length], more[:length]
        for x in range(length):
            both[x] = this[x] | ahead[x]
        some, more = more, some
        size += step
    for x in range(width):
        near[x] = some[x]
