"""One image of the plan: read, decoded and checked beside its label, or one reason why not."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipeline.config import SegmentConfig
from pipeline.corpus import Item, Place, read
from pipeline.corpus.readers.siblings import instances_of
from pipeline.errors import Reject
from pipeline.imaging.decode import decode_label, decode_oriented, open_header, upright
from pipeline.imaging.instances import decode_instances
from pipeline.labels import IGNORE, LabelSpace
from pipeline.segment.core_turns import Turns

NOT_FINITE = Reject(
    "predict",
    "scores_not_finite",
    "the network's scores hold NaN or infinity; try predict.precision fp32, or another checkpoint",
)
NO_MEMORY = Reject(
    "predict",
    "out_of_memory",
    "the worker's memory does not hold this image's scores; give the worker more and run `maskmill retry-rejects`, or "
    "lower max_pixels, or set predict.tile",
)


@dataclass
class Loaded:
    """One decoded image on its way through the model."""

    item: Item
    image: np.ndarray
    label: np.ndarray | None  # upright, as the image
    orientation: int  # EXIF, in which the corpus stores the image and the run its mask
    instances: np.ndarray | None = None  # (H, W) instanceIds, where the run counts them
    confidence: np.ndarray | None = None  # (H, W) float32, where the run counts its histogram
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Streamed:
    """One image that is too large to be decoded whole: its bytes, and its label's."""

    item: Item
    image: bytes
    label: bytes | None
    seconds: dict[str, float] = field(default_factory=dict)


Load = Callable[[Item], Loaded | Streamed]


class Loader:
    """What a run asks of its images, and the turns in which they are decoded."""

    def __init__(self, cfg: SegmentConfig, space: LabelSpace, turns: Turns) -> None:
        self.cfg, self.space, self.turns = cfg, space, turns

    def __call__(self, item: Item) -> Loaded | Streamed:
        """Read without a turn, since that is waiting; decode in one.

        Raises:
            Reject: the image, its label or its instances cannot be had or do not fit each other.
        """
        started = time.perf_counter()
        image = _read(lambda: item.image, "read")
        label = things = None
        if (place := item.label) is not None:
            label = _read(lambda: place, "label")
            if self.cfg.metrics.instances:
                things = _read(lambda: instances_of(place), "label")
        waited = time.perf_counter()
        with self.turns.one():
            waited = time.perf_counter() - waited
            loaded = self._decoded(item, image, label, things)
        loaded.seconds["seconds_decode"] = time.perf_counter() - started - waited
        return loaded

    def _decoded(self, item: Item, data: bytes, label: bytes | None, things: bytes | None) -> Loaded | Streamed:
        if self.cfg.stream_above_pixels is not None:
            picture = open_header(data, self.cfg.max_pixels)
            if picture.width * picture.height > self.cfg.stream_above_pixels:
                return Streamed(item, data, label)
        image, orientation = decode_oriented(data, self.cfg.max_pixels)
        if label is None:
            return Loaded(item, image, None, orientation)
        where = f"label of {item.image_id}"
        try:
            stored = decode_label(label, self.cfg.max_pixels)
            ids = upright(self.space.to_train(stored, where), orientation)
            if ids.shape != image.shape[:2]:
                raise wrong_size(where, ids.shape, image.shape)
            instances = None
            if things is not None:
                instances = decode_instances(things, stored.shape)
                self.space.to_train(
                    np.where(instances > 1000, instances // 1000, IGNORE), f"instances of {item.image_id}"
                )
                instances = upright(instances, orientation)
        except Reject as error:
            raise error.at("label") from error
        return Loaded(item, image, ids, orientation, instances)


def _read(place: Callable[[], Place], stage: str) -> bytes:
    try:
        return read(place())
    except Reject as error:
        raise error.at(stage) from error
    except OSError as error:  # the store, after its client's own retries
        raise Reject(stage, "store_error", f"{type(error).__name__}: {error}") from error


def wrong_size(where: str, label: tuple[int, ...], image: tuple[int, ...]) -> Reject:
    """The reject of a label whose (height, width) is not its image's."""
    return Reject(
        "label",
        "label_size",
        f"{where}: it is {label[0]}x{label[1]}, the image {image[0]}x{image[1]} (height x width); they must be equal: "
        "re-export the label",
    )
