"""Regions of a mask as polygons along the edges of their pixels, by GDAL (rasterio)."""

from collections.abc import Iterator

import numpy as np

from pipeline.errors import UserError
from pipeline.labels import IGNORE


def polygons_of(mask: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(class, (V, 2) int64 corners x, y) of each region of a mask (H, W) uint8 whose pixels hang together by their sides.

    A hole is joined to the outline by a cut of no width, there and back: filled by the even-odd rule, or by COCO's, a polygon
    covers exactly the region's pixels. 255 has no class.

    Raises:
        UserError: rasterio is not installed.
    """
    try:
        from rasterio.features import shapes
    except ImportError as error:
        raise UserError(f"polygons are traced by rasterio ({error}); run: pip install 'maskmill[geo]'") from None
    for shape, index in shapes(np.ascontiguousarray(mask), mask=mask != IGNORE, connectivity=4):
        outline, *holes = (np.asarray(ring, np.int64)[:-1] for ring in shape["coordinates"])
        for hole in holes:
            outline = _joined(outline, hole)
        yield int(index), outline


def area_of(polygon: np.ndarray) -> int:
    """Pixels inside a polygon (V, 2) of whole numbers, holes taken off: half of the shoelace sum."""
    x, y = polygon.T
    return int(abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2)


def _joined(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """One ring of two: out of the outline's corner that is nearest to the hole's first, around the hole, and back."""
    near = int(np.abs(outline - hole[0]).sum(axis=1).argmin())
    return np.concatenate([outline[: near + 1], hole, hole[:1], outline[near:]])
