"""COCO panoptic: a PNG of segment ids per image, and a JSON file that describes the segments."""

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.analysis.export.base import Answers, Exported, png_of, regions_by_class
from pipeline.analysis.export.coco import COLUMNS, Json, box_of, image_entry, put_json
from pipeline.imaging.mask_png import decode_mask
from pipeline.labels import IGNORE


def write(answers: Answers, out: str) -> Exported:
    """Write `panoptic.json` and `panoptic/<number>.png`: a class of an image is one segment, since masks have no instances.

    Source: COCO's panoptic format (https://cocodataset.org/#format-data): id = R + 256 G + 65536 B, 0 = nothing.
    """
    images: list[Json] = []
    annotations: list[Json] = []
    for number, row in enumerate(answers.rows(*COLUMNS), start=1):
        mask = decode_mask(row["mask"]["bytes"])
        images.append(image_entry(answers, number, row, mask))
        name = f"{number:012d}.png"
        segments = np.zeros((*mask.shape, 3), np.uint8)
        segments[..., 0] = np.where(mask == IGNORE, 0, mask + np.uint8(1))  # at most 254 classes
        storage.put(storage.join(out, "panoptic", name), png_of(Image.fromarray(segments)))
        annotations.append({"image_id": number, "file_name": name, "segments_info": _segments(mask)})
    colours = [list(colour) for colour in answers.space.colours]
    put_json(answers, storage.join(out, "panoptic.json"), images, annotations, isthing=0, color=colours)
    return Exported(storage.join(out, "panoptic.json"), len(images))


def _segments(mask: np.ndarray) -> list[Json]:
    """Describe the segments of a mask (H, W); the id of a segment is that of its category."""
    found = []
    for index, region in regions_by_class(mask):
        size = {"area": int(region.sum()), "bbox": box_of(region)}
        found.append({"id": index + 1, "category_id": index + 1, **size, "iscrowd": 0})
    return found
