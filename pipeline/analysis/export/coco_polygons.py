"""COCO's annotations as polygons, one per region, which annotation tools can edit."""

from collections.abc import Iterator

import numpy as np

from pipeline.analysis.export.base import Answers, Exported
from pipeline.analysis.export.coco import Json, write_regions
from pipeline.imaging.polygons import area_of, polygons_of


def write(answers: Answers, out: str) -> Exported:
    """Write `annotations.json`, from which COCO's own tools draw exactly the run's masks.

    Raises:
        UserError: rasterio, which traces the outlines, is not installed.
    """
    return write_regions(answers, out, _regions)


def _regions(mask: np.ndarray) -> Iterator[Json]:
    for index, polygon in polygons_of(mask):
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        yield {
            "category_id": index + 1,
            "segmentation": [polygon.ravel().tolist()],
            "area": area_of(polygon),
            "bbox": [*low.tolist(), *(high - low).tolist()],
            "iscrowd": 0,
        }
