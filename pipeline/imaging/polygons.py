"""Regions of a mask as polygons along pixel edges, traced by GDAL (rasterio) and simplified by GEOS (shapely)."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.imaging.bands import require_rasterio
from pipeline.imaging.regions import Regions
from pipeline.labels import IGNORE


def polygons_of(mask: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the class and corners (V, 2) int64 x, y of each 4-connected region of a mask (H, W) uint8.

    Holes are joined to the outline by cuts of zero width, there and back: filled by the even-odd rule, or as COCO does, a
    polygon covers exactly the pixels of its region. Pixels of 255 belong to no region.

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


def require_shapely() -> tuple[Any, Any]:
    """Return the modules `rasterio.features` and `shapely`, or raise a UserError that says how to install them."""
    try:
        import shapely
        import shapely.geometry
        from rasterio import features
    except ImportError as error:
        raise UserError(
            f"polygons of regions need rasterio and shapely ({error}); run: pip install 'maskmill[geo]', on every node"
        ) from None
    return features, shapely


def region_polygons(mask: np.ndarray, found: Regions, tolerance_px: float, georeference: str | None) -> list[bytes]:
    """Return WKB (little-endian) of each region's outline with its holes, in the order of `found`.

    Coordinates are pixels, x to the right and y down, with 0, 0 at the upper left corner of the first pixel; with a
    georeference they are map coordinates. A simplified polygon stays valid (GEOS's Douglas-Peucker that preserves topology);
    each is simplified separately, so neighbours may overlap or leave gaps.

    Args:
        mask: (H, W) uint8.
        georeference: as returned by `Windows.georeference`.
    Raises:
        UserError: rasterio or shapely is not installed.
    """
    features, shapely = require_shapely()
    place = {first: number for number, first in enumerate(found.first.tolist())}
    outlines = np.empty(len(place), object)
    for shape, _ in features.shapes(np.ascontiguousarray(mask), mask=mask != IGNORE, connectivity=4):
        left, top = min(shape["coordinates"][0], key=lambda corner: (corner[1], corner[0]))
        if (number := place.get(int(top) * mask.shape[1] + int(left))) is not None:
            outlines[number] = shapely.geometry.shape(shape)
    simple = shapely.simplify(outlines, tolerance_px) if tolerance_px else outlines
    if georeference is not None:
        x0, dx, rx, y0, ry, dy = json.loads(georeference)["transform"]  # GDAL's order
        at, turned = np.array([x0, y0]), np.array([[dx, ry], [rx, dy]])
        simple = shapely.transform(simple, lambda corners: at + corners @ turned)
    return list(shapely.to_wkb(simple, byte_order=1))


def geoparquet(column: str, georeferences: set[str | None]) -> str:
    """Return the value of the metadata key `geo` of a Parquet file with a column of such polygons: GeoParquet 1.1.

    Args:
        georeferences: those of its images. The key names their coordinate system if all have the same, or else none.
    """
    systems = {None if one is None else json.loads(one)["crs"] for one in georeferences}
    (system,) = systems if len(systems) == 1 else (None,)
    crs = None if system is None else require_rasterio().crs.CRS.from_wkt(system).to_dict(projjson=True)
    described = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": crs, "edges": "planar"}
    return json.dumps({"version": "1.1.0", "primary_column": column, "columns": {column: described}})


def area_of(polygon: np.ndarray) -> int:
    """Return the pixels inside a polygon (V, 2) as from `polygons_of`, without its holes: half of the shoelace sum."""
    x, y = polygon.T
    return int(abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2)


def _joined(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Join two rings into one: from the outline's corner nearest to the hole's first corner, around the hole, and back."""
    near = int(np.abs(outline - hole[0]).sum(axis=1).argmin())
    return np.concatenate([outline[: near + 1], hole, hole[:1], outline[near:]])
