"""Masks in the forms that other programs read, one format a file. A new one stands in this list."""

from collections.abc import Callable

from pipeline import storage
from pipeline.analysis.export import cityscapes, coco_rle, geotiff, png
from pipeline.analysis.export.base import Exported
from pipeline.analysis.run_view import RunView
from pipeline.errors import UserError, nearest

FORMATS: dict[str, Callable[[RunView, str], Exported]] = {
    "cityscapes": cityscapes.write,
    "png": png.write,
    "coco-rle": coco_rle.write,
    "geotiff": geotiff.write,
}


def export(view: RunView, form: str, out: str) -> Exported:
    """Write all masks of a run below `out`, in one of `FORMATS`.

    Raises:
        UserError: the format is unknown, or the run does not fit it.
    """
    if form not in FORMATS:
        raise UserError(f"cannot export as '{form}'; choose one of {', '.join(FORMATS)}{nearest(form, FORMATS)}")
    view.need_masks()
    return FORMATS[form](view, storage.absolute(out))
