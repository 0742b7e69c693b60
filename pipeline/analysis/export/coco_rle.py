"""COCO's results: one annotation a class and image, uncompressed RLE."""

import json
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.analysis.export.base import Exported, rows_of
from pipeline.analysis.export.rle import encode_rle
from pipeline.analysis.run_view import RunView
from pipeline.imaging.mask_png import decode_mask
from pipeline.labels import IGNORE


def write(view: RunView, out: str) -> Exported:
    """`annotations.json`; `file_name` is the image's path below the corpus, in a zip or tar the member's, in Parquet, which has
    no files, its id."""
    uri = storage.join(out, "annotations.json")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    corpus = view.description.config["corpus"]
    for number, row in enumerate(rows_of(view, "image_id", "uri", "member", "mask"), start=1):
        mask = decode_mask(row["mask"]["bytes"])
        height, width = mask.shape
        name = _file_name(corpus, row["image_id"], row["uri"], row["member"])
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for index in np.unique(mask[mask != IGNORE]).tolist():  # no data has no class
            region = mask == index
            rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
            top, left = int(rows[0]), int(columns[0])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": index + 1,
                    "segmentation": {"size": [height, width], "counts": encode_rle(region)},
                    "area": int(region.sum()),
                    "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
                    "iscrowd": 1,  # uncompressed RLE and regions that hang apart are COCO's crowds
                }
            )
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(view.space.classes)]
    info = {"description": f"masks of {view.uri}"}  # without which COCO's own tools do not load results beside it
    whole = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    storage.put(uri, json.dumps(whole, separators=(",", ":")).encode())
    return Exported(uri, len(images))


def _file_name(corpus: dict[str, Any], image_id: str, uri: str, member: str | None) -> str:
    """An image's path, with its suffix, as a loader joins it to the folder that holds the corpus, or its archive unpacked.

    Args:
        corpus: config section `corpus` of the run.
    """
    root = corpus["images"]
    match corpus["layout"]:
        case "parquet":
            return image_id
        case (
            "manifest"
        ):  # relative names are relative to its folder; the member of a signed address is the manifest's cell
            return uri.removeprefix(root.rsplit("/", 1)[0] + "/")
    if member is None:
        return uri.removeprefix(root.rstrip("/") + "/")
    if uri == root:
        return member
    return f"{uri.removeprefix(root.rstrip('/') + '/').removesuffix('.tar')}/{member}"  # of a tar below a prefix
