"""COCO's annotations as uncompressed RLE, one per class and image."""

from collections.abc import Iterator

import numpy as np

from pipeline.analysis.export.base import Answers, Exported, regions_by_class
from pipeline.analysis.export.coco import Json, box_of, write_regions
from pipeline.analysis.export.rle import encode_rle


def write(answers: Answers, out: str) -> Exported:
    """Write `annotations.json`."""
    return write_regions(answers, out, _regions)


def _regions(mask: np.ndarray) -> Iterator[Json]:
    for index, region in regions_by_class(mask):
        yield {
            "category_id": index + 1,
            "segmentation": {"size": list(mask.shape), "counts": encode_rle(region)},
            "area": int(region.sum()),
            "bbox": box_of(region),
            "iscrowd": 1,  # COCO calls uncompressed RLE and regions of several pieces crowds
        }
