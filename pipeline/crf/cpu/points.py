"""Merge similar pixels into weighted points, on which the fast mode works.

Letters: P pixels, N points, C classes, D colours of all images together.

A square of 2x2, 4x4 or 8x8 pixels becomes one point if each of its quarters is one point, all its pixels have the same label
and nearly the same colour, and the probability of the label is high in all of them, or nearly equal. The point lies at the
centre of the square, has its mean colour and number of pixels, and takes the scores of the pixel at the centre's lower right.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.compiled import compiled
from pipeline.crf.cpu.features import TILE_PX, zeros
from pipeline.crf.cpu.threads import Team
from pipeline.crf.cpu.vertices import CHUNK

_LEVELS = 3  # of merging: squares with sides of 2, 4 and 8 pixels
_COLOURS_APART = 8  # largest difference per colour within a point, in 8-bit levels
_CERTAIN = np.array([0, 0.95, 0.99, 0.99], np.float32)  # by level: probability of the label that counts as high
_EQUALLY = np.float32(0.005)  # if probabilities of the label differ by no more, they need not be high


@dataclass(frozen=True)
class Points:
    """The points of an image, in order of its tiles."""

    first: np.ndarray  # (N,) int32: the upper left pixel of each point
    side: np.ndarray  # (N,) uint8: side of its square, in pixels
    of_pixel: np.ndarray  # (P,) int32: the point of each pixel
    columns: int  # W

    def __len__(self) -> int:
        return len(self.first)

    def counts(self) -> np.ndarray:
        """Return (N,) float32: the number of pixels of each point."""
        return self.side.astype(np.float32) ** 2

    def features(self, team: Team, image: np.ndarray, px: tuple[float, ...], levels: tuple[float, ...]) -> np.ndarray:
        """Return (2 + D, N + padding) float32: mean x, y and colours over their widths; see `features.image_features`."""
        features = zeros(team, 2 + len(levels), len(self))
        widths = np.array([px[1], px[0], *levels], np.float32)
        colours = image.reshape(len(self.of_pixel), len(levels))
        tasks = [
            (self.first, self.side, self.columns, colours, widths, features, *band) for band in team.bands(len(self))
        ]
        team.run(_place, tasks)
        return features

    def sources(self, team: Team, source: np.ndarray) -> np.ndarray:
        """Return the probabilities or energies (C, N) of the points, selected from those of the pixels (C, P)."""
        sources = team.empty(len(source), len(self))
        tasks = [(source, self.first, self.side, self.columns, sources, *band) for band in team.bands(len(self))]
        team.run(_represent, tasks)
        return sources

    def spread(self, team: Team, marginals: np.ndarray) -> np.ndarray:
        """Return (C, P) from (C, N): each pixel gets the marginals of its point."""
        result = np.empty((len(marginals), len(self.of_pixel)), np.float32)
        bands = team.bands(len(self.of_pixel), TILE_PX[0] * self.columns)
        team.run(_spread, [(marginals, self.of_pixel, TILE_PX[0] * self.columns, result, *band) for band in bands])
        return result


def join(team: Team, source: np.ndarray, are_probs: bool, image: np.ndarray) -> Points:
    """Return the points of an image.

    Args:
        source: (C, P) float32, probabilities or energies, pixels in row order.
        image: (H, W, D) uint8: colours, which must be nearly the same within a point; D may be 0.
    """
    height, width = image.shape[:2]
    corners = [(y, x) for y in range(0, height, TILE_PX[0]) for x in range(0, width, TILE_PX[1])]
    if width > height:  # the order of `features.tile_order`
        corners.sort(key=lambda corner: corner[1])
    tiles = np.array(corners, np.int64)
    level, of_pixel = team.empty(height, width, dtype=np.uint8), team.empty(height, width, dtype=np.int32)
    found = np.empty(len(tiles), np.int64)
    bands = team.bands(len(tiles))
    team.run(_join, [(source, are_probs, image, tiles, level, found, *band) for band in bands])
    starts = np.cumsum([0, *found])
    first, side = team.empty(int(starts[-1]), dtype=np.int32), team.empty(int(starts[-1]), dtype=np.uint8)
    team.run(_number, [(tiles, level, starts, first, side, of_pixel, *band) for band in bands])
    return Points(first, side, of_pixel.reshape(-1), width)


@compiled()
def _join(source, are_probs, image, tiles, level, found, start, stop):  # type: ignore[no-untyped-def]
    """Write the level of each pixel, whose point has a side of 2^level pixels, and the number of points of each tile."""
    height, width, num_colours = image.shape
    rows, columns = TILE_PX
    labels = np.empty(rows * columns, np.int32)
    tops, bottoms = np.empty(rows * columns, np.float32), np.empty(rows * columns, np.float32)
    seconds = np.empty(columns, np.float32)
    joined = np.empty(rows * columns, np.bool_)
    low, high = np.empty((rows * columns, num_colours), np.int32), np.empty((rows * columns, num_colours), np.int32)
    for t in range(start, stop):
        top, left = tiles[t]
        tall, wide = min(rows, height - top), min(columns, width - left)
        for y in range(tall):
            at, pixel = y * columns, (top + y) * width + left
            _find_labels(source, are_probs, pixel, labels[at : at + wide], tops[at : at + wide], seconds[:wide])
        bottoms[:] = tops
        level[top : top + tall, left : left + wide] = 0
        joined[:] = True
        points = tall * wide
        # The values of a square are stored at the index of its upper left pixel.
        for n in range(1, _LEVELS + 1):
            half, side = 1 << (n - 1), 1 << n
            for y in range(0, tall, side):
                for x in range(0, wide, side):
                    a = y * columns + x
                    b, c, d = a + half, a + half * columns, a + half * columns + half
                    if y + side > tall or x + side > wide or not joined[a] & joined[b] & joined[c] & joined[d]:
                        joined[a] = False
                        continue
                    tops[a] = max(max(tops[a], tops[b]), max(tops[c], tops[d]))
                    bottoms[a] = min(min(bottoms[a], bottoms[b]), min(bottoms[c], bottoms[d]))
                    joined[a] = (
                        (labels[a] == labels[b])
                        & (labels[a] == labels[c])
                        & (labels[a] == labels[d])
                        & ((bottoms[a] >= _CERTAIN[n]) | (tops[a] - bottoms[a] <= _EQUALLY))
                    )
                    if not joined[a]:
                        continue
                    for k in range(num_colours):
                        if n == 1:
                            one, two = image[top + y, left + x, k], image[top + y, left + x + 1, k]
                            three, four = image[top + y + 1, left + x, k], image[top + y + 1, left + x + 1, k]
                            low[a, k] = min(min(one, two), min(three, four))
                            high[a, k] = max(max(one, two), max(three, four))
                        else:
                            low[a, k] = min(min(low[a, k], low[b, k]), min(low[c, k], low[d, k]))
                            high[a, k] = max(max(high[a, k], high[b, k]), max(high[c, k], high[d, k]))
                        joined[a] &= high[a, k] - low[a, k] <= _COLOURS_APART
                    if joined[a]:
                        for row in range(top + y, top + y + side):
                            level[row, left + x : left + x + side] = n
                        points -= 3
        found[t] = points


@compiled()
def _find_labels(source, are_probs, pixel, labels, tops, seconds):  # type: ignore[no-untyped-def]
    """Write the labels of adjacent pixels and their probabilities; for energies, as if only the two best labels existed."""
    count = len(labels)
    tops[:], seconds[:], labels[:] = -np.inf, -np.inf, 0
    for k in range(len(source)):
        plane = source[k, pixel : pixel + count]
        if are_probs:
            for i in range(count):
                is_better = plane[i] > tops[i]
                labels[i] = k if is_better else labels[i]
                tops[i] = plane[i] if is_better else tops[i]
        else:
            for i in range(count):
                value = -plane[i]
                is_better = value > tops[i]
                seconds[i] = tops[i] if is_better else max(seconds[i], value)
                labels[i] = k if is_better else labels[i]
                tops[i] = value if is_better else tops[i]
    if not are_probs:
        for i in range(count):
            tops[i] = np.float32(1) / (np.float32(1) + np.exp(seconds[i] - tops[i]))


@compiled()
def _number(tiles, level, starts, first, side, of_pixel, start, stop):  # type: ignore[no-untyped-def]
    """Number the points of each tile, one square of the largest size after another, so that near points have near numbers."""
    height, width = level.shape
    largest = 1 << _LEVELS
    for t in range(start, stop):
        top, left = tiles[t]
        bottom, right = min(height, top + TILE_PX[0]), min(width, left + TILE_PX[1])
        number = starts[t]
        for y0 in range(top, bottom, largest):
            for x0 in range(left, right, largest):
                for y in range(y0, min(bottom, y0 + largest)):
                    for x in range(x0, min(right, x0 + largest)):
                        inside = (1 << level[y, x]) - 1
                        if y & inside or x & inside:
                            of_pixel[y, x] = of_pixel[y & ~inside, x & ~inside]
                        else:
                            first[number], side[number], of_pixel[y, x] = y * width + x, inside + 1, number
                            number += 1


@compiled()
def _place(first, side, columns, colours, widths, features, start, stop):  # type: ignore[no-untyped-def]
    for p in range(start, stop):
        y = first[p] // columns
        centre = np.float32(side[p] - 1) / np.float32(2)
        features[0, p] = (np.float32(first[p] - y * columns) + centre) / widths[0]
        features[1, p] = (np.float32(y) + centre) / widths[1]
    for c in range(colours.shape[1]):
        for p in range(start, stop):
            total = np.int64(0)
            for row in range(side[p]):
                at = first[p] + row * columns
                for pixel in range(at, at + side[p]):
                    total += colours[pixel, c]
            features[2 + c, p] = np.float32(total) / np.float32(side[p] * side[p]) / widths[2 + c]


@compiled()
def _represent(source, first, side, columns, sources, start, stop):  # type: ignore[no-untyped-def]
    for begin in range(start, stop, CHUNK):
        end = min(stop, begin + CHUNK)
        for c in range(len(source)):
            for p in range(begin, end):
                sources[c, p] = source[c, first[p] + (side[p] >> 1) * (columns + 1)]


@compiled()
def _spread(marginals, of_pixel, block, result, start, stop):  # type: ignore[no-untyped-def]
    for begin in range(start, stop, block):
        end = min(stop, begin + block)
        for c in range(len(marginals)):
            plane, target = marginals[c], result[c]
            for pixel in range(begin, end):
                target[pixel] = plane[of_pixel[pixel]]
