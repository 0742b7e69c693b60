"""COCO's results: one annotation a class and image, uncompressed RLE."""

import numpy as np

from pipeline import storage
from pipeline.analysis.export.base import Answers, Exported
from pipeline.analysis.export.coco import COLUMNS, Json, box_of, image_entry, put_json
from pipeline.analysis.export.rle import encode_rle
from pipeline.imaging.mask_png import decode_mask
from pipeline.labels import IGNORE


def write(answers: Answers, out: str) -> Exported:
    """`annotations.json`, whose pixels are as the corpus stores its images."""
    uri = storage.join(out, "annotations.json")
    images: list[Json] = []
    annotations: list[Json] = []
    for number, row in enumerate(answers.rows(*COLUMNS), start=1):
        mask = decode_mask(row["mask"]["bytes"])
        images.append(image_entry(answers, number, row, mask))
        for index in np.unique(mask[mask != IGNORE]).tolist():  # no data has no class
            region = mask == index
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index + 1,
                    "segmentation": {"size": list(mask.shape), "counts": encode_rle(region)},
                    "area": int(region.sum()),
                    "bbox": box_of(region),
                    "iscrowd": 1,  # uncompressed RLE and regions that hang apart are COCO's crowds
                }
            )
    put_json(answers, uri, images, annotations)
    return Exported(uri, len(images))
