"""Features by which a kernel compares pixels: positions and colours divided by their widths, in the pixel order of the lattice.

Letters: P pixels, d feature axes. Features are (d, P + padding) float32; the padding is zero.
"""

import numpy as np

from pipeline.compiled import compiled
from pipeline.crf.cpu.simd import LANES
from pipeline.crf.cpu.threads import Team

TILE_PX = (32, 128)  # (height, width): the pixels of a tile share most of their lattice vertices


def tile_order(height: int, width: int) -> np.ndarray:
    """Return (P,) int32: the pixels by tile; tiles follow the shorter side first, so that bands of tiles have short borders."""
    pixels = np.arange(height * width, dtype=np.int32).reshape(height, width)
    corners = [(y, x) for y in range(0, height, TILE_PX[0]) for x in range(0, width, TILE_PX[1])]
    if width > height:
        corners.sort(key=lambda corner: corner[1])
    return np.concatenate([pixels[y : y + TILE_PX[0], x : x + TILE_PX[1]].ravel() for y, x in corners])


def image_features(
    team: Team,
    order: np.ndarray,
    image: np.ndarray,
    px: tuple[float, ...],
    levels: tuple[float, ...],
) -> np.ndarray:
    """Return x, y and colours divided by their widths, float32 by float32 as in the original code.

    Args:
        image: (H, W, D) uint8; D may be 0. px: width in y and x. levels: (D,) width of each colour.
    """
    features = zeros(team, 2 + len(levels), len(order))
    widths = np.array([px[1], px[0], *levels], np.float32)
    colours = image.reshape(len(order), len(levels))
    tasks = [(order, image.shape[1], colours, widths, features, *band) for band in team.bands(len(order))]
    team.run(_fill, tasks)
    return features


def ordered_features(team: Team, order: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Return the caller's features (P, d) in the order of the lattice, as (d, P + padding)."""
    ordered = zeros(team, features.shape[1], len(order))
    for axis, target in zip(features.T, ordered, strict=True):
        target[: len(order)] = axis[order]
    return ordered


def zeros(team: Team, axes: int, num_points: int) -> np.ndarray:
    """Return an array for features (axes, num_points + padding), in which only the padding is set, to zero."""
    features = team.empty(axes, -(-(num_points + 1) // LANES) * LANES)
    features[:, num_points:] = 0
    return features


@compiled()
def _fill(order, columns, colours, widths, features, start, stop):  # type: ignore[no-untyped-def]
    for p in range(start, stop):
        y = order[p] // columns
        features[0, p] = np.float32(order[p] - y * columns) / widths[0]
        features[1, p] = np.float32(y) / widths[1]
    for c in range(colours.shape[1]):
        for p in range(start, stop):
            features[2 + c, p] = np.float32(colours[order[p], c]) / widths[2 + c]
