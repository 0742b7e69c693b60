"""An image of a run, read again from its corpus, with its mask and its label."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipeline import storage
from pipeline.analysis.run_counts import RunCounts
from pipeline.config import ImageConfig
from pipeline.corpus import Item, items_of
from pipeline.corpus.samples import decode, fetch
from pipeline.errors import Reject, UserError
from pipeline.imaging.colours import blend, error_map
from pipeline.imaging.decode import upright
from pipeline.imaging.legend import CONFIDENCE_ENTRIES, ERROR_ENTRIES, Entry, class_entries, with_legend
from pipeline.imaging.mask_png import decode_mask
from pipeline.labels import IGNORE, LabelSpace
from pipeline.runs import CONFIDENCE_MAP, read_table

ALPHA = 0.65  # opacity of class colours over the image
_NO_MAPS = "set confidence_map: true in a new run's config"


@dataclass(frozen=True)
class Pictures:
    """An image of a run with its mask and label; notebooks show its prediction.

    image (H, W, 3) uint8, mask and label (H, W) uint8 train ids, all upright; image and label are None if they could not be
    read, and `missing` says why. Without the image, the mask is not turned upright, since the image holds the orientation.
    """

    image_id: str
    space: LabelSpace
    mask: np.ndarray
    image: np.ndarray | None
    label: np.ndarray | None
    missing: str | None
    confidence: np.ndarray | None = None  # (H, W) uint8, if the run has it

    def overlay(self, of: str = "prediction", legend: bool = False) -> np.ndarray:
        """Draw `prediction`, `truth`, `errors` or `confidence` as (H, W, 3) uint8; UserError if the pixels for it are missing.

        Args:
            legend: name the colours in a white strip below.
        """
        picture, entries = self.overlay_and_entries(of)
        return with_legend(picture, entries) if legend else picture

    def overlay_and_entries(self, of: str) -> tuple[np.ndarray, Sequence[Entry]]:
        """Return the picture without a legend, and what its colours mean."""
        if of not in ("prediction", "truth", "errors", "confidence"):
            raise UserError(f"cannot show '{of}'; choose prediction, truth, errors or confidence")
        if of == "confidence":
            if self.confidence is None:
                raise UserError(f"image '{self.image_id}' has no map of confidence: {_NO_MAPS}")
            return np.repeat(self.confidence[..., None], 3, axis=2), CONFIDENCE_ENTRIES
        if self.image is None:
            raise UserError(f"image '{self.image_id}' cannot be read again: {self.missing}")
        if of == "prediction":
            return blend(self.image, self.mask, self.space.colours, ALPHA), class_entries(self.mask, self.space)
        if self.label is None:
            raise UserError(f"image '{self.image_id}' has no label to show its {of} by; choose prediction")
        if of == "truth":
            return blend(self.image, self.label, self.space.colours, ALPHA), class_entries(self.label, self.space)
        return error_map(self.label, self.mask), ERROR_ENTRIES

    def _repr_png_(self) -> bytes | None:
        """The prediction with its legend, as notebooks show it; None if the image could not be read."""
        if self.image is None:
            return None
        file = io.BytesIO()
        Image.fromarray(self.overlay(legend=True)).save(file, format="PNG")
        return file.getvalue()


def read_masks(view: RunCounts, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """See `RunView.masks`."""
    return _decoded(view, ids, "mask")


def read_confidence_maps(view: RunCounts, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """See `RunView.confidence_maps`."""
    if CONFIDENCE_MAP not in view.columns:
        raise UserError(f"run {view.uri} has no maps of confidence; {_NO_MAPS}")
    return _decoded(view, ids, CONFIDENCE_MAP)


def _decoded(view: RunCounts, ids: Sequence[str], column: str) -> dict[str, np.ndarray]:
    """Decode the pictures of a column; UserError names an id that has none."""
    shards = view.plan().rows_of(list(ids))["shard"].to_pylist()
    found = {}
    for part in view.listed("masks"):
        if any(part.first <= shard <= part.last for shard in shards):
            table = read_table(storage.read(part.uri), ["image_id", column])
            rows = table.filter(pc.is_in(table["image_id"], pa.array(list(ids), pa.string()))).to_pylist()
            found.update({row["image_id"]: decode_mask(row[column]["bytes"]) for row in rows})
    if missing := [image_id for image_id in ids if image_id not in found]:
        raise UserError(f"run {view.uri}: no mask of image '{missing[0]}'; see .rejects() and .frame(['image_id'])")
    return {image_id: found[image_id] for image_id in ids}


def pictures_of(view: RunCounts, ids: Sequence[str]) -> dict[str, Pictures]:
    """See `RunView.pictures`."""
    masks, wanted = read_masks(view, ids), view.plan().rows_of(list(ids))
    confidence = read_confidence_maps(view, ids) if CONFIDENCE_MAP in view.columns else {}
    max_pixels, declared = view.description.config["max_pixels"], view.description.image
    items = {item.image_id: item for item in items_of(wanted)}
    return {
        image_id: _read(items[image_id], mask, confidence.get(image_id), view.space, max_pixels, declared)
        for image_id, mask in masks.items()
    }


def _read(
    item: Item,
    mask: np.ndarray,
    confidence: np.ndarray | None,
    space: LabelSpace,
    max_pixels: int,
    declared: ImageConfig | None,
) -> Pictures:
    """Read an item from its original location; if that fails, as when the corpus was moved, return the mask alone."""
    try:
        sample = decode(item, fetch(item), space, max_pixels, item.image_id, declared, for_eyes=True)
    except Reject as error:
        return Pictures(item.image_id, space, mask, None, None, str(error), confidence)
    # The mask is stored in the orientation of the image file; `decode` has turned image and label upright already.
    mask, label = upright(mask, sample.orientation), sample.label
    if label is not None:
        label = np.where(mask == IGNORE, np.uint8(IGNORE), label)  # where the mask has no data or is unknown
    confidence = None if confidence is None else upright(confidence, sample.orientation)
    return Pictures(item.image_id, space, mask, sample.image, label, None, confidence)
