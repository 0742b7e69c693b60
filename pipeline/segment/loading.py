"""One image of the plan: read, decoded and checked beside its label, or one reason why not."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipeline.config import SegmentConfig
from pipeline.corpus import Item
from pipeline.corpus.samples import Encoded, Sample, fetch
from pipeline.corpus.samples import decode as decode_sample
from pipeline.errors import Reject
from pipeline.imaging.decode import open_header
from pipeline.labels import LabelSpace
from pipeline.metrics.registry import needs
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
class Loaded(Sample):
    """One decoded image on its way through the model."""

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
        files = fetch(item, "instances" in needs(dict(self.cfg.metrics)))
        waited = time.perf_counter()
        with self.turns.one():
            waited = time.perf_counter() - waited
            loaded = self._decoded(item, files)
        loaded.seconds["seconds_decode"] = time.perf_counter() - started - waited
        return loaded

    def _decoded(self, item: Item, files: Encoded) -> Loaded | Streamed:
        if self.cfg.stream_above_pixels is not None:
            picture = open_header(files.image, self.cfg.max_pixels)
            if picture.width * picture.height > self.cfg.stream_above_pixels:
                return Streamed(item, files.image, files.label)
        return Loaded(**vars(decode_sample(item, files, self.space, self.cfg.max_pixels, f"label of {item.image_id}")))
