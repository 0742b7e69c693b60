"""Export masks in formats that other programs read, one format per module. A new format is added to `FORMATS`."""

from collections.abc import Callable, Collection

from pipeline import storage
from pipeline.analysis.export import (
    cityscapes,
    coco_panoptic,
    coco_polygons,
    coco_rle,
    confidence_png,
    cvat,
    fiftyone,
    geotiff,
    hugging_face,
    label_studio,
    png,
)
from pipeline.analysis.export.base import Answers, Exported
from pipeline.analysis.run_view import RunView
from pipeline.errors import UserError, nearest

FORMATS: dict[str, Callable[[Answers, str], Exported]] = {
    "cityscapes": cityscapes.write,
    "png": png.write,
    "coco-rle": coco_rle.write,
    "coco-polygons": coco_polygons.write,
    "coco-panoptic": coco_panoptic.write,
    "geotiff": geotiff.write,
    "label-studio": label_studio.write,
    "cvat": cvat.write,
    "huggingface": hugging_face.write,
    "fiftyone": fiftyone.write,
    "confidence-png": confidence_png.write,
}


def export(view: RunView, form: str, out: str, ids: Collection[str] | None = None) -> Exported:
    """Write the masks of a run below `out`, in one of `FORMATS`.

    Args:
        ids: ids of the images to write; None = all.
    Raises:
        UserError: the format is unknown, the run does not fit it, or a chosen image has no mask.
    """
    if form not in FORMATS:
        raise UserError(f"cannot export as '{form}'; choose one of {', '.join(FORMATS)}{nearest(form, FORMATS)}")
    view.need_masks()
    view.check_ids()  # files are named after ids
    return FORMATS[form](Answers(view, ids), storage.absolute(out))
