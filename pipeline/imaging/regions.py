"""Connected regions of a mask: pixels of one class that touch at their sides (4-connectivity). Letters: H rows, W columns.

One pass over the rows: each row is divided into runs of equal pixels, runs that touch a run of the same class in the row above
join its region (union-find), and the properties of the regions are accumulated on the way. There is no array of region numbers:
memory holds the runs of two rows and the regions found, so a mask of any height can be processed a few rows at a time. Runs are
used as in He, Chao & Suzuki, "A run-based two-scan labeling algorithm", IEEE Transactions on Image Processing 17(5), 2008.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.compiled import compiled
from pipeline.errors import Reject
from pipeline.labels import IGNORE

MAX_REGIONS = 1_000_000  # per mask; each takes about 100 bytes until the shard is written
# Fields of a region in `live` and `found`; `_FIRST` is its first pixel in raster order, row * W + column.
_FIRST, _CLASS, _AREA, _LEFT, _BOTTOM, _RIGHT, _ROWS, _COLUMNS = range(8)
_NUM_FIELDS = 8
_NUM_RUNS, _NUM_FREE, _NUM_FOUND, _TOP = range(4)  # fields of `counters`
_START, _END, _SLOT = range(3)  # fields of a run; its slot is the index of its region in `live`


@dataclass(frozen=True)
class Regions:
    """R regions in the raster order of their first pixels."""

    first: np.ndarray  # (R,) int64, row * W + column of each first pixel
    class_id: np.ndarray  # (R,) uint8
    area: np.ndarray  # (R,) int64, pixels
    box: np.ndarray  # (R, 4) int64: top, left, bottom, right; half-open, so that bottom - top is the height
    centroid: np.ndarray  # (R, 2) float64: means of the pixels' row and column indices
    confidence: np.ndarray | None  # (R,) float64, mean over the pixels; None if not given


def find_regions(mask: np.ndarray, min_area: int = 1, confidence: np.ndarray | None = None) -> Regions:
    """Return the regions of a mask (H, W) uint8 with at least `min_area` pixels; pixels of 255 belong to none.

    Args:
        confidence: (H, W) float32, to be averaged over each region.
    Raises:
        Reject: there are more than `MAX_REGIONS`.
    """
    finder = RegionFinder(mask.shape[1], min_area)
    finder.add(mask, confidence)
    return finder.finish()


def region_sizes(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (R,) int64 and class id (R,) uint8 of each region of a mask (H, W) uint8, as ordered in `Regions`."""
    found = find_regions(mask)
    return found.area, found.class_id


class RegionFinder:
    """Does what `find_regions` does, for a mask given a few rows at a time, with the confidence of all rows or of none."""

    def __init__(self, width: int, min_area: int = 1) -> None:
        self._width, self._min_area = width, min_area
        slots = 2 * width + 1  # each run of the row above has one, and each run of the next row may need one
        self._runs = np.empty((width, 3), np.int64)
        self._live, self._sums = np.empty((slots, _NUM_FIELDS), np.int64), np.empty(slots)
        self._parent, self._free = np.empty(slots, np.int64), np.arange(slots)
        self._found, self._found_sums = np.empty((256, _NUM_FIELDS), np.int64), np.empty(256)
        self._counters = np.array([0, slots, 0, 0])
        self._sure = False

    def add(self, rows: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Add the next rows, (h, W) uint8; raise Reject if there are more than `MAX_REGIONS` already."""
        self._sure = confidence is not None
        if confidence is None:
            confidence = np.empty((0, self._width), np.float32)
        assert rows.shape[1] == self._width and confidence.shape in (rows.shape, (0, self._width))
        self._found, self._found_sums = _scan(
            np.ascontiguousarray(rows), np.ascontiguousarray(confidence, np.float32), self._min_area, self._runs, self._live,
            self._sums, self._parent, self._free, self._found, self._found_sums, self._counters,
        )  # fmt: skip
        if self._counters[_NUM_FOUND] > MAX_REGIONS:
            raise Reject(
                "encode",
                "too_many_regions",
                f"the mask has more than {MAX_REGIONS} regions of {self._min_area} pixels or more; raise regions.min_area in a "
                "new run, or look whether the network is trained",
            )

    def finish(self) -> Regions:
        """Return all regions, after all rows were added; a last row of ignored pixels closes those still open."""
        sure = self._sure
        self.add(np.full((1, self._width), IGNORE, np.uint8), np.zeros((1, self._width), np.float32) if sure else None)
        number = self._counters[_NUM_FOUND]
        order = np.argsort(self._found[:number, _FIRST])
        found, sums = self._found[:number][order], self._found_sums[:number][order]
        area = found[:, _AREA]
        top = found[:, _FIRST] // self._width
        return Regions(
            first=found[:, _FIRST],
            class_id=found[:, _CLASS].astype(np.uint8),
            area=area,
            box=np.stack([top, found[:, _LEFT], found[:, _BOTTOM], found[:, _RIGHT]], axis=1),
            centroid=found[:, [_ROWS, _COLUMNS]] / area[:, None],
            confidence=sums / area if sure else None,
        )


@compiled()
def _scan(rows, confidence, min_area, kept, live, sums, parent, free, found, found_sums, counters):  # type: ignore[no-untyped-def]
    """Process the next rows and update all arrays; return `found` and `found_sums`, which may have been enlarged."""
    width = rows.shape[1]
    above, here = kept.copy(), np.empty_like(kept)
    num_above, sure = counters[_NUM_RUNS], confidence.shape[0] > 0
    for y in range(rows.shape[0]):
        row, number, place, start = rows[y], 0, 0, 0
        line = counters[_TOP]
        while start < width:
            value, end = row[start], start + 1
            while end < width and row[end] == value:
                end += 1
            if value != IGNORE:
                slot = -1
                while place < num_above and above[place, _END] <= start:
                    place += 1
                other = place
                while other < num_above and above[other, _START] < end:
                    root = _root(parent, above[other, _SLOT])
                    if live[root, _CLASS] == value and root != slot:
                        slot = root if slot < 0 else _join(live, sums, parent, slot, root)
                    other += 1
                if slot < 0:
                    slot = _new(live, sums, parent, free, counters, value, line * width + start, start)
                _extend(live, slot, line, start, end)
                if sure:
                    total = 0.0
                    for x in range(start, end):
                        total += confidence[y, x]
                    sums[slot] += total
                here[number, _START], here[number, _END], here[number, _SLOT] = start, end, slot
                number += 1
            start = end
        for run in range(number):  # so that no run refers to a slot that was joined to another
            here[run, _SLOT] = _root(parent, here[run, _SLOT])
        found, found_sums = _close(
            above, num_above, line, min_area, live, sums, parent, free, found, found_sums, counters
        )
        above, here, num_above = here, above, number
        counters[_TOP] += 1
    kept[:num_above] = above[:num_above]
    counters[_NUM_RUNS] = num_above
    return found, found_sums


@compiled()
def _close(above, num_above, line, min_area, live, sums, parent, free, found, found_sums, counters):  # type: ignore[no-untyped-def]
    """Free the slots of the row above that were joined to others, and those of regions that end above this row."""
    for run in range(num_above):
        slot = above[run, _SLOT]
        if parent[slot] < 0:  # already freed for an earlier run
            continue
        ends = parent[slot] == slot and live[slot, _BOTTOM] <= line
        if ends and live[slot, _AREA] >= min_area:
            number = counters[_NUM_FOUND]
            if number == len(found):
                larger, larger_sums = np.empty((2 * number, found.shape[1]), np.int64), np.empty(2 * number)
                larger[:number], larger_sums[:number] = found, found_sums
                found, found_sums = larger, larger_sums
            found[number], found_sums[number] = live[slot], sums[slot]
            counters[_NUM_FOUND] = number + 1
        if ends or parent[slot] != slot:
            parent[slot] = -1
            free[counters[_NUM_FREE]] = slot
            counters[_NUM_FREE] += 1
    return found, found_sums


@compiled()
def _new(live, sums, parent, free, counters, value, first, start):  # type: ignore[no-untyped-def]
    """Return a slot for a new region."""
    counters[_NUM_FREE] -= 1
    slot = free[counters[_NUM_FREE]]
    parent[slot], sums[slot] = slot, 0.0
    live[slot] = 0
    live[slot, _FIRST], live[slot, _CLASS], live[slot, _LEFT] = first, value, start
    return slot


@compiled()
def _extend(live, slot, line, start, end):  # type: ignore[no-untyped-def]
    """Add a run to a region."""
    pixels = end - start
    live[slot, _AREA] += pixels
    live[slot, _LEFT] = min(live[slot, _LEFT], start)
    live[slot, _RIGHT] = max(live[slot, _RIGHT], end)
    live[slot, _BOTTOM] = line + 1
    live[slot, _ROWS] += line * pixels
    live[slot, _COLUMNS] += (start + end - 1) * pixels // 2


@compiled()
def _join(live, sums, parent, one, two):  # type: ignore[no-untyped-def]
    """Join two regions that touch, and return the slot of the one that began first."""
    if live[two, _FIRST] < live[one, _FIRST]:
        one, two = two, one
    parent[two] = one
    live[one, _AREA] += live[two, _AREA]
    live[one, _LEFT] = min(live[one, _LEFT], live[two, _LEFT])
    live[one, _RIGHT] = max(live[one, _RIGHT], live[two, _RIGHT])
    live[one, _BOTTOM] = max(live[one, _BOTTOM], live[two, _BOTTOM])
    live[one, _ROWS] += live[two, _ROWS]
    live[one, _COLUMNS] += live[two, _COLUMNS]
    sums[one] += sums[two]
    return one


@compiled()
def _root(parent, slot):  # type: ignore[no-untyped-def]
    while parent[slot] != slot:
        parent[slot] = parent[parent[slot]]
        slot = parent[slot]
    return slot
