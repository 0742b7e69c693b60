"""Make a full-size confidence map from coarse class scores, without full-size scores. C classes, H rows, W columns."""

import numpy as np

from pipeline.compiled import compiled
from pipeline.imaging.confidence_map import LEVELS
from pipeline.predict.upsample_argmax import coarse_pixels, over_rows

# Logits this far below the largest are left out of the sum: with 256 classes they add at most 3e-5, 1/130 of a level.
_NEGLIGIBLE = np.float32(16)


def enlarge_confidence(
    scores: np.ndarray, full: tuple[float, float], size: tuple[int, int], num_threads: int = 1
) -> np.ndarray:
    """Return the largest softmax probability of each pixel after bilinear enlargement of the logits, in levels of 1/255.

    Bilinear interpolation is convex: inside a cell, a logit lies between the least and the largest of its four corners. So
    classes that are negligible in the whole cell are left out; if only one is left, its probability is 1 in the whole cell.

    Args:
        scores: (C, h, w) float32; fastest if the classes of a pixel are adjacent in memory (channels last).
        full: (height, width) to which the scores are enlarged; fractional if a padded input was decoded at reduced size.
        size: (height, width) of the result, the top left part of the enlarged scores.
        num_threads: threads that share the rows.
    Returns:
        (height, width) uint8, the probability times 255, rounded; the error before rounding is at most 1/200 of a level.
    """
    pixels, sources = coarse_pixels(scores, full, size)
    confidence = np.empty(size, np.uint8)
    over_rows(size[0], num_threads, lambda start, stop: _fill(pixels, *sources, confidence, LEVELS, start, stop))
    return confidence


@compiled()
def _fill(pixels, row, row_share, column, column_share, confidence, levels, start, stop):  # type: ignore[no-untyped-def]
    """Fill rows start .. stop - 1 of the confidence map, cell by cell."""
    height, width, classes = pixels.shape
    full_width = confidence.shape[1]
    able, values = np.empty(classes, np.int32), np.empty((classes, full_width), np.float32)
    highest, total = np.empty(full_width, np.float32), np.empty(full_width, np.float32)
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
            bound = np.float32(-np.inf)
            for c in range(classes):
                worst = min(min(pixels[y0, x0, c], pixels[y0, x1, c]), min(pixels[y1, x0, c], pixels[y1, x1, c]))
                bound = max(bound, worst)
            count = 0
            for c in range(classes):
                best = max(max(pixels[y0, x0, c], pixels[y0, x1, c]), max(pixels[y1, x0, c], pixels[y1, x1, c]))
                if best >= bound - _NEGLIGIBLE:
                    able[count] = c
                    count += 1
            if count == 1:
                confidence[top:bottom, left:right] = levels
                left = right
                continue
            for y in range(top, bottom):
                down = row_share[y]
                highest[: right - left] = -np.inf
                for index in range(count):
                    c = able[index]
                    # Along a row of pixels, the interpolation is linear between the cell's left and right side.
                    first = (np.float32(1) - down) * pixels[y0, x0, c] + down * pixels[y1, x0, c]
                    last = (np.float32(1) - down) * pixels[y0, x1, c] + down * pixels[y1, x1, c]
                    for x in range(right - left):
                        on = column_share[left + x]
                        value = (np.float32(1) - on) * first + on * last
                        values[index, x] = value
                        highest[x] = max(highest[x], value)
                total[: right - left] = 0
                for index in range(count):
                    for x in range(right - left):
                        total[x] += _exp(max(values[index, x] - highest[x], -_NEGLIGIBLE))
                for x in range(right - left):
                    confidence[y, left + x] = np.uint8(np.float32(levels) / total[x] + np.float32(0.5))
            left = right
        top = bottom


@compiled(inline="always")
def _exp(x):  # type: ignore[no-untyped-def]
    """Return e^x for x in -16 .. 0, with a relative error of 2e-5: a polynomial for e^(x/16), squared four times.

    Its coefficients minimise the sum of squared relative errors. The compiler can vectorise it over pixels.
    """
    y = x * np.float32(1 / 16) + np.float32(0.5)
    e = np.float32(0.005002006) * y + np.float32(0.025583101)
    e = e * y + np.float32(0.101114456)
    e = e * y + np.float32(0.303237140)
    e = e * y + np.float32(0.606528861)
    e = e * y + np.float32(0.606531024)
    e = e * e
    e = e * e
    e = e * e
    return e * e
