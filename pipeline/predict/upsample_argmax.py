"""Make a full-size mask from coarse class scores, without full-size scores. Letters: C classes, H rows, W columns."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from pipeline.compiled import compiled


def enlarge_argmax(
    scores: np.ndarray, full: tuple[float, float], size: tuple[int, int], num_threads: int = 1
) -> np.ndarray:
    """Return the best class of each pixel after bilinear enlargement (half-pixel centres, as in F.interpolate).

    Bilinear interpolation is convex: a class that is best at all four corners of a cell is best inside it, and a class whose
    best corner is below another's worst cannot win there. So most cells have one class, and few are interpolated in the rest.

    Args:
        scores: (C, h, w) float32; fastest if the classes of a pixel are adjacent in memory (channels last).
        full: (height, width) to which the scores are enlarged; fractional if a padded input was decoded at reduced size.
        size: (height, width) of the result, the top left part of the enlarged scores.
        num_threads: threads that share the rows.
    Returns:
        (height, width) uint8; of equal classes the lowest.
    """
    pixels, sources = coarse_pixels(scores, full, size)
    mask = np.empty(size, np.uint8)
    winners = _winners(pixels)
    over_rows(size[0], num_threads, lambda start, stop: _fill(pixels, winners, *sources, mask, start, stop))
    return mask


def coarse_pixels(
    scores: np.ndarray, full: tuple[float, float], size: tuple[int, int]
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Return coarse scores (C, h, w) as (h, w, C) float32, and `source_pixels` of the result's rows, then of its columns."""
    pixels = np.ascontiguousarray(scores.transpose(1, 2, 0), dtype=np.float32)
    sides = zip(size, full, scores.shape[1:], strict=True)
    return pixels, tuple(array for side in sides for array in source_pixels(*side))


def over_rows(height: int, num_threads: int, fill: Callable[[int, int], object]) -> None:
    """Call `fill(start, stop)` for all rows, divided into one band per thread."""
    edges = np.linspace(0, height, max(1, num_threads) + 1).astype(int)
    bands = [(int(start), int(stop)) for start, stop in pairwise(edges)]
    if len(bands) == 1:
        fill(*bands[0])
        return
    with ThreadPoolExecutor(len(bands)) as pool:
        list(pool.map(lambda band: fill(*band), bands))


def source_pixels(size: int, full: float, small: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row (or column) the coarse one at or before it, and the weight of the next one, as torch does."""
    scale = np.float32(small / full)
    place = np.maximum((np.arange(size, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5), np.float32(0))
    below = np.minimum(place.astype(np.int32), small - 1)
    return below, (place - below).astype(np.float32)


@compiled()
def _winners(pixels):  # type: ignore[no-untyped-def]
    height, width, classes = pixels.shape
    winners = np.empty((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            best = 0
            for c in range(1, classes):
                if pixels[y, x, c] > pixels[y, x, best]:
                    best = c
            winners[y, x] = best
    return winners


@compiled()
def _fill(pixels, winners, row, row_share, column, column_share, mask, start, stop):  # type: ignore[no-untyped-def]
    """Fill rows start .. stop - 1 of the mask, cell by cell."""
    height, width, classes = pixels.shape
    full_width = mask.shape[1]
    able = np.empty(classes, np.int32)
    top = start
    while top < stop:
        y0 = row[top]
        y1 = min(y0 + 1, height - 1)
        bottom = top
        while bottom < stop and row[bottom] == y0:
            bottom += 1
        left = 0
        while left < full_width:
            x0 = column[left]
            x1 = min(x0 + 1, width - 1)
            right = left
            while right < full_width and column[right] == x0:
                right += 1
            first = winners[y0, x0]
            if winners[y0, x1] == first and winners[y1, x0] == first and winners[y1, x1] == first:
                mask[top:bottom, left:right] = first
                left = right
                continue
            bound = np.float32(-np.inf)
            for c in range(classes):
                worst = min(min(pixels[y0, x0, c], pixels[y0, x1, c]), min(pixels[y1, x0, c], pixels[y1, x1, c]))
                bound = max(bound, worst)
            count = 0
            for c in range(classes):
                best = max(max(pixels[y0, x0, c], pixels[y0, x1, c]), max(pixels[y1, x0, c], pixels[y1, x1, c]))
                if best >= bound:
                    able[count] = c
                    count += 1
            for y in range(top, bottom):
                down = row_share[y]
                up = np.float32(1) - down
                for x in range(left, right):
                    on = column_share[x]
                    back = np.float32(1) - on
                    winner, highest = 0, np.float32(-np.inf)
                    for index in range(count):
                        c = able[index]
                        above = back * pixels[y0, x0, c] + on * pixels[y0, x1, c]
                        below = back * pixels[y1, x0, c] + on * pixels[y1, x1, c]
                        value = up * above + down * below
                        if value > highest:
                            winner, highest = c, value
                    mask[y, x] = winner
            left = right
        top = bottom
