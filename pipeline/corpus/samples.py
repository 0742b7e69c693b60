"""The loader that all commands share: from an item of a corpus to its decoded image and label, or to a reject."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from pipeline.config import ImageConfig
from pipeline.corpus import Item, read
from pipeline.corpus.readers.siblings import instances_of
from pipeline.corpus.readers.tables import check_row
from pipeline.errors import Reject, UserError
from pipeline.imaging.bands import decode_bands, decode_picture, void_of
from pipeline.imaging.decode import decode_label, decode_reduced, upright
from pipeline.imaging.instances import decode_instances
from pipeline.labels import IGNORE, LabelSpace


@dataclass(frozen=True)
class Encoded:
    """The undecoded files of one item."""

    image: bytes
    label: bytes | None = None
    instances: bytes | None = None


@dataclass
class Sample:
    """One decoded image of a corpus; all arrays are upright."""

    item: Item
    image: np.ndarray  # (H, W, 3) uint8 RGB; with declared bands (H, W, N) float32 levels, NaN where there is no data
    label: np.ndarray | None  # (H, W) uint8 train ids; stored ids if no label space is known
    orientation: int  # EXIF orientation of the stored image, and of the mask in a run
    instances: np.ndarray | None = None  # (H, W) int32 instanceIds, if they were requested
    georeference: str | None = None  # only with declared bands: pipeline/imaging/bands.py
    whole: tuple[int, int] | None = None  # (H, W) of the picture if it was decoded smaller; None: the image's own

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the label and the mask."""
        return self.whole or (self.image.shape[0], self.image.shape[1])


def fetch(item: Item, instances: bool = False) -> Encoded:
    """Read the files of an item.

    Args:
        instances: also read the instanceIds beside the label, if there is a label.
    Raises:
        Reject: at stage `read` or `label`; `store_error` has the store's OSError as its cause.
    """
    with _at("read"):
        image = read(item.image)
        check_row(item)
    label = fetch_label(item)
    if label is None or item.label is None or not instances:
        return Encoded(image, label)
    with _at("label"):
        return Encoded(image, label, read(instances_of(item.label)))


def fetch_label(item: Item) -> bytes | None:
    """Read the label's file; None if there is no label; Reject at stage `label`."""
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
        for_eyes: with declared bands return an (H, W, 3) uint8 picture for display, black where there is no data.
        scale: the image may be decoded smaller if that is less work, but not below this fraction of its size.
        space: maps the label's stored ids to train ids; None keeps them, unchecked.
        max_pixels: a larger image or label is refused before it is decoded.
        where: name of the label in messages.
    Raises:
        Reject: at stage `decode` for the image, at `label` for the label or the instances.
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
    """Return the stored values of a label picture, and its train ids (H, W) uint8; without a label space both are the ids.

    Raises:
        Reject: it is not a picture, holds colours although the label space has only ids, or values outside the space.
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
    """Call `fetch`, then `decode`; Reject as in these."""
    return decode(item, fetch(item), space, max_pixels, where, declared)


def load_pair(
    item: Item, space: LabelSpace, max_pixels: int, declared: ImageConfig | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the image, as in `Sample`, and the label (H, W) uint8 train ids of an item that must have both.

    Raises:
        UserError: unreadable bytes, no label, a label of another size, or an id outside the label space.
        OSError: the store failed.
    """
    if item.label is None:
        raise UserError(f"{item.image_id}: it has no label, which training needs; drop the image or add its label")
    with no_rejects(item):
        sample = load(item, space, max_pixels, declared=declared)
    assert sample.label is not None
    return sample.image, sample.label


@contextmanager
def no_rejects(item: Item, but: tuple[type[Reject], ...] = ()) -> Iterator[None]:
    """For work that needs every image: turn a Reject into a UserError, or into its OSError if the store failed.

    Args:
        but: types of rejects that are raised unchanged.
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
    """Return the reject for a label whose (height, width) differs from its image's."""
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
    except OSError as error:  # of the store, after its client's retries
        raise Reject(stage, "store_error", f"{type(error).__name__}: {error}") from error
