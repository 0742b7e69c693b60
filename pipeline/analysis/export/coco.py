"""What the COCO formats share: images, categories, boxes."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.analysis.export.base import Answers, Exported
from pipeline.imaging.mask_png import decode_mask

Json = dict[str, Any]
COLUMNS = ("image_id", "uri", "member", "mask")  # of the run's rows, that a COCO file needs


def image_entry(answers: Answers, number: int, row: Json, mask: np.ndarray) -> Json:
    """Return an entry of `images`; `file_name` is the path below the corpus or in a zip or tar; in Parquet, the image id."""
    name = file_name(answers.view.description.config["corpus"], row["image_id"], row["uri"], row["member"])
    return {"id": number, "file_name": name, "height": mask.shape[0], "width": mask.shape[1]}


def write_regions(answers: Answers, out: str, regions_of: Callable[[np.ndarray], Iterator[Json]]) -> Exported:
    """Write `annotations.json`, in the pixel coordinates of the images as the corpus stores them (no EXIF orientation).

    Args:
        regions_of: a mask (H, W) uint8 -> its annotations, without `id` and `image_id`.
    """
    uri = storage.join(out, "annotations.json")
    images: list[Json] = []
    annotations: list[Json] = []
    for number, row in enumerate(answers.rows(*COLUMNS), start=1):
        mask = decode_mask(row["mask"]["bytes"])
        images.append(image_entry(answers, number, row, mask))
        for region in regions_of(mask):
            annotations.append({"id": len(annotations) + 1, "image_id": number, **region})
    put_json(answers, uri, images, annotations)
    return Exported(uri, len(images))


def box_of(region: np.ndarray) -> list[int]:
    """Return left, top, width, height, in pixels, of a region (H, W) bool that is not empty."""
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1]


def put_json(answers: Answers, uri: str, images: list[Json], annotations: list[Json], **of_category: Any) -> None:
    """Write a file in COCO's format: category k + 1 is class k.

    Args:
        of_category: further keys of each category; a list holds a value for each class.
    """
    categories = [
        {"id": index + 1, "name": name}
        | {key: value[index] if isinstance(value, list) else value for key, value in of_category.items()}
        for index, name in enumerate(answers.space.classes)
    ]
    # COCO's own tools load results for this file only if it has `info`.
    info = {"description": f"masks of {answers.view.uri}"}
    whole = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    storage.put(uri, json.dumps(whole, separators=(",", ":")).encode())


def file_name(corpus: Json, image_id: str, uri: str, member: str | None) -> str:
    """Return an image's path, with its suffix, relative to the folder of the corpus or of its unpacked archive.

    Args:
        corpus: config section `corpus` of the run.
    """
    root = corpus["images"]
    match corpus["layout"]:
        case "parquet":
            return image_id
        case "manifest":  # names are relative to its folder; the member of a signed address is the manifest's cell
            return uri.removeprefix(root.rsplit("/", 1)[0] + "/")
    if member is None:
        return uri.removeprefix(root.rstrip("/") + "/")
    if uri == root:
        return member
    return f"{uri.removeprefix(root.rstrip('/') + '/').removesuffix('.tar')}/{member}"  # in a tar below a prefix
