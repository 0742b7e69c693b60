"""The one loader: an item of a corpus -> its image with its label, or the reason why they cannot be had."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from pipeline.config import ImageConfig
from pipeline.corpus import Item, read
from pipeline.corpus.readers.siblings import instances_of
from pipeline.errors import Reject, UserError
from pipeline.imaging.bands import decode_bands, decode_picture, void_of
from pipeline.imaging.decode import decode_label, decode_reduced, upright
from pipeline.imaging.instances import decode_instances
from pipeline.labels import IGNORE, LabelSpace


@dataclass(frozen=True)
class Encoded:
    """The files of one item as the corpus stores them."""

    image: bytes
    label: bytes | None = None
    instances: bytes | None = None


@dataclass
class Sample:
    """One decoded image of a corpus; all arrays are upright."""

    item: Item
    image: np.ndarray  # (H, W, 3) uint8 RGB; of declared bands (H, W, N) float32 levels, NaN where there is no data
    label: np.ndarray | None  # (H, W) uint8 train ids; stored ids where no label space is known
    orientation: int  # EXIF, in which the corpus stores the image and a run its mask
    instances: np.ndarray | None = None  # (H, W) int32 instanceIds, where they were asked for
    georeference: str | None = None  # of declared bands: pipeline/imaging/bands.py
    whole: tuple[int, int] | None = None  # (H, W) of the picture, which may be decoded smaller; None: the image's

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the label and the mask."""
        return self.whole or (self.image.shape[0], self.image.shape[1])


def fetch(item: Item, instances: bool = False) -> Encoded:
    """Read the files of an item.

    Args:
        instances: also read the instanceIds beside the label, where there is one.
    Raises:
        Reject: at stage `read` or `label`; `store_error` carries the store's OSError as its cause.
    """
    with _at("read"):
        image = read(item.image)
    label = fetch_label(item)
    if label is None or item.label is None or not instances:
        return Encoded(image, label)
    with _at("label"):
        return Encoded(image, label, read(instances_of(item.label)))


def fetch_label(item: Item) -> bytes | None:
    """The label's file, where there is one; Reject at stage `label`."""
    if item.label is None:
        return None
    with _at("label"):
        return read(item.label)


def decode(
    item: Item,
    files: Encoded,
    space: LabelSpace | None,
    max_pixels: int,
    where: str = "the label",
    declared: ImageConfig | None = None,
    for_eyes: bool = False,
    scale: float = 1.0,
) -> Sample:
    """Decode the files of an item and check them against each other.

    Args:
        declared: bands and range of the image; None = an 8-bit picture. Pixels without data are ignored in the label.
        for_eyes: of declared bands give the picture, (H, W, 3) uint8, in which pixels without data are black.
        scale: the image may be smaller, but not below this part of its size, where that is less work.
        space: maps the label's stored ids to train ids; None leaves them as they are, unchecked.
        max_pixels: an image or label of more is refused before it is decoded.
        where: what messages call the label.
    Raises:
        Reject: at stage `decode` of the image, at `label` of the label or the instances.
    """
    georeference, orientation, whole = None, 1, None
    if declared is None:
        image, orientation, whole = decode_reduced(files.image, max_pixels, scale)
    elif for_eyes:
        image = decode_picture(files.image, declared, max_pixels)
    else:
        image, georeference = decode_bands(files.image, declared, max_pixels)
    sample = Sample(item, image, None, orientation, georeference=georeference, whole=whole)
    if files.label is None:
        return sample
    try:
        stored, ids = decode_ids(files.label, space, max_pixels, where)
        ids = upright(ids, orientation)
        if ids.shape != sample.size:
            raise wrong_size(where, ids.shape, sample.size)
        if (void := void_of(image)) is not None:
            ids = np.where(void, np.uint8(IGNORE), ids)
        sample.label = ids
        if files.instances is not None:
            instances = decode_instances(files.instances, stored.shape[:2])
            if space is not None:
                classes = np.where(instances > 1000, instances // 1000, IGNORE)
                space.to_train(classes, f"instances of {item.image_id}")
            sample.instances = upright(instances, orientation)
    except Reject as error:
        raise error.at("label") from error
    return sample


def decode_ids(
    data: bytes, space: LabelSpace | None, max_pixels: int, where: str = "the label"
) -> tuple[np.ndarray, np.ndarray]:
    """What a label picture stores, and its train ids (H, W) uint8; without a label space, both are the stored ids.

    Raises:
        Reject: it is no picture, holds colours where the label space has ids alone, or values that the space lacks.
    """
    if space is None:
        stored = decode_label(data, max_pixels)
        return stored, stored
    stored = decode_label(data, max_pixels, ids=space.has_ids, colours=space.has_colours)
    return stored, space.to_train(stored, where)


def load(
    item: Item,
    space: LabelSpace | None,
    max_pixels: int,
    where: str = "the label",
    declared: ImageConfig | None = None,
) -> Sample:
    """`fetch`, then `decode`; Reject as they have it."""
    return decode(item, fetch(item), space, max_pixels, where, declared)


def load_pair(
    item: Item, space: LabelSpace, max_pixels: int, declared: ImageConfig | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Image, as `Sample` has it, and label (H, W) uint8 train ids of an item that must have both.

    Raises:
        UserError: unreadable bytes, no label, a label of another size, or an id outside the label space.
        OSError: the store's own.
    """
    if item.label is None:
        raise UserError(f"{item.image_id}: it has no label, which training needs; drop the image or add its label")
    with no_rejects(item):
        sample = load(item, space, max_pixels, declared=declared)
    assert sample.label is not None
    return sample.image, sample.label


@contextmanager
def no_rejects(item: Item, but: tuple[type[Reject], ...] = ()) -> Iterator[None]:
    """For work that needs every image: a Reject becomes a UserError, and a fault of the store stays the OSError it is.

    Args:
        but: rejects that stay what they are.
    """
    try:
        yield
    except but:
        raise
    except Reject as error:
        if error.reason == "store_error" and isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise UserError(f"{item.image_id}: {error}") from error


def wrong_size(where: str, label: tuple[int, ...], image: tuple[int, ...]) -> Reject:
    """The reject of a label whose (height, width) is not its image's."""
    return Reject(
        "label",
        "label_size",
        f"{where}: it is {label[0]}x{label[1]}, the image {image[0]}x{image[1]} (height x width); they must be equal: "
        "re-export the label",
    )


@contextmanager
def _at(stage: str) -> Iterator[None]:
    try:
        yield
    except Reject as error:
        raise error.at(stage) from error
    except OSError as error:  # the store's, after its client's own retries
        raise Reject(stage, "store_error", f"{type(error).__name__}: {error}") from error
