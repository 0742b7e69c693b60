"""An answered image read again: the picture, its mask, its label."""

from dataclasses import dataclass

import numpy as np

from pipeline.corpus import Item, read
from pipeline.imaging.decode import decode_image, decode_label
from pipeline.imaging.overlay import blend, error_map
from pipeline.labels import LabelSpace

ALPHA = 0.65  # of class colours over the image


@dataclass(frozen=True)
class Pictures:
    """image (H, W, 3) uint8, mask and label (H, W) uint8 train ids; what could not be read is None, and `missing` says why."""

    image_id: str
    space: LabelSpace
    mask: np.ndarray
    image: np.ndarray | None
    label: np.ndarray | None
    missing: str | None

    def overlay(self, of: str) -> np.ndarray:
        """(H, W, 3) uint8 of `prediction`, `truth` or `errors`; ValueError where the pixels for it are not there."""
        if of not in ("prediction", "truth", "errors"):
            raise ValueError(f"cannot show '{of}'; choose prediction, truth or errors")
        if self.image is None:
            raise ValueError(f"image '{self.image_id}' cannot be read again: {self.missing}")
        if of == "prediction":
            return blend(self.image, self.mask, self.space.colours, ALPHA)
        if self.label is None:
            raise ValueError(f"image '{self.image_id}' has no label, so there is no {of} to show; choose prediction")
        if of == "truth":
            return blend(self.image, self.label, self.space.colours, ALPHA)
        return error_map(self.label, self.mask)


def read_pictures(item: Item, mask: np.ndarray, space: LabelSpace, max_pixels: int) -> Pictures:
    """The pixels of one item from where the corpus was; the corpus may have moved since, and the mask still stands."""
    image = label = None
    try:
        image = decode_image(read(item.image), max_pixels)
        if item.label is not None:
            label = space.to_train(decode_label(read(item.label), max_pixels), where=item.image_id)
    except (ValueError, OSError) as error:
        return Pictures(item.image_id, space, mask, None, None, str(error))
    return Pictures(item.image_id, space, mask, image, label, None)
