"""Masks in the forms that other programs read: a Cityscapes submission, PNG files with a palette, COCO RLE."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from pipeline import storage
from pipeline.analysis.export.rle import encode_rle
from pipeline.analysis.run_view import RunView
from pipeline.analysis.sums import batches
from pipeline.errors import UserError
from pipeline.imaging.mask_png import decode_mask

Format = Literal["cityscapes", "png", "coco-rle"]
FORMATS: tuple[Format, ...] = ("cityscapes", "png", "coco-rle")

# The server looks for <city>_<sequence>_<frame>*.png: getPrediction of cityscapesScripts.
_SERVER_NAME = re.compile(r"(?P<city>[^/_]+)_(?P<sequence>\d+)_(?P<frame>\d+)$")


@dataclass(frozen=True)
class Exported:
    """What was written: the zip, folder or JSON file, and the masks in it."""

    uri: str
    masks: int


def export(view: RunView, form: str, out: str) -> Exported:
    """Write all masks of a run below `out`.

    cityscapes: `submission.zip` of labelIds PNGs; png: `<image id>.png` of train ids with the classes' colours as palette;
    coco-rle: `annotations.json`, one annotation a class and image, uncompressed RLE; `file_name` is the image's path below the
    corpus, in a zip or tar the member's, in Parquet, which has no files, its id.

    Raises:
        UserError: the format is unknown, or an image's name or label space is not Cityscapes' where it must be.
    """
    out = storage.absolute(out)
    match form:
        case "cityscapes":
            return _cityscapes(view, storage.join(out, "submission.zip"))
        case "png":
            return _png(view, out)
        case "coco-rle":
            return _coco(view, storage.join(out, "annotations.json"))
    raise UserError(f"cannot export as '{form}'; choose one of {', '.join(FORMATS)}")


def _rows(view: RunView, *columns: str) -> Iterator[dict[str, Any]]:
    """These columns of each answered image, a few parts' worth of rows in memory at a time."""
    for batch in batches(view.parts("masks"), list(columns)):
        yield from batch.to_pylist()


def _masks(view: RunView) -> Iterator[tuple[str, bytes]]:
    """(image id, PNG of train ids) of each answered image."""
    for row in _rows(view, "image_id", "mask"):
        yield row["image_id"], row["mask"]["bytes"]


def _cityscapes(view: RunView, uri: str) -> Exported:
    if view.space.name != "cityscapes19":
        raise UserError(f"run {view.uri} is in {view.space.name}; a Cityscapes submission needs cityscapes19")
    file, written = io.BytesIO(), set[str]()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
        for image_id, data in _masks(view):
            if not (found := _SERVER_NAME.search(image_id)):
                raise UserError(
                    f"image '{image_id}' is not named <city>_<sequence>_<frame>, which the server looks for; "
                    "export as png instead"
                )
            name = f"{found[0]}_pred_labelIds.png"
            if name in written:
                raise UserError(f"two images would be called {name}; segment one split at a time for a submission")
            written.add(name)
            # A fixed time: the same run gives the same bytes.
            archive.writestr(zipfile.ZipInfo(name), _png_of(Image.fromarray(view.space.to_stored(decode_mask(data)))))
    storage.put(uri, file.getvalue())
    return Exported(uri, len(written))


def _png(view: RunView, out: str) -> Exported:
    palette = [level for colour in view.space.colours for level in colour]
    written = 0
    for image_id, data in _masks(view):
        if ".." in image_id.split("/") or image_id.startswith("/"):
            raise UserError(f"image '{image_id}' leads out of {out}; rename it and segment again")
        picture = Image.fromarray(decode_mask(data)).convert("P")
        picture.putpalette(palette)
        storage.put(storage.join(out, f"{image_id}.png"), _png_of(picture))
        written += 1
    return Exported(out, written)


def _coco(view: RunView, uri: str) -> Exported:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    corpus = view.description.config["corpus"]
    for number, row in enumerate(_rows(view, "image_id", "uri", "member", "mask"), start=1):
        mask = decode_mask(row["mask"]["bytes"])
        height, width = mask.shape
        name = _file_name(corpus, row["image_id"], row["uri"], row["member"])
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for index in np.unique(mask).tolist():
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


def _png_of(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()
