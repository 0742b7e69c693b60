"""COCO's annotations as polygons, one a region: what annotation tools let people edit."""

from pipeline import storage
from pipeline.analysis.export.base import Answers, Exported
from pipeline.analysis.export.coco import COLUMNS, Json, image_entry, put_json
from pipeline.imaging.mask_png import decode_mask
from pipeline.imaging.polygons import area_of, polygons_of


def write(answers: Answers, out: str) -> Exported:
    """`annotations.json`, whose pixels are as the corpus stores its images; COCO's own tools draw exactly the masks of it.

    Raises:
        UserError: rasterio, which traces the outlines, is not installed.
    """
    uri = storage.join(out, "annotations.json")
    images: list[Json] = []
    annotations: list[Json] = []
    for number, row in enumerate(answers.rows(*COLUMNS), start=1):
        mask = decode_mask(row["mask"]["bytes"])
        images.append(image_entry(answers, number, row, mask))
        for index, polygon in polygons_of(mask):
            low, high = polygon.min(axis=0), polygon.max(axis=0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index + 1,
                    "segmentation": [polygon.ravel().tolist()],
                    "area": area_of(polygon),
                    "bbox": [*low.tolist(), *(high - low).tolist()],
                    "iscrowd": 0,
                }
            )
    put_json(answers, uri, images, annotations)
    return Exported(uri, len(images))
