"""Load one image of the plan: read, decode and check it with its label, or reject it with a reason."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipeline.config import ImageConfig, SegmentConfig
from pipeline.corpus import Item, open_file
from pipeline.corpus.samples import Encoded, Sample, fetch, fetch_label
from pipeline.corpus.samples import decode as decode_sample
from pipeline.errors import Reject
from pipeline.imaging.bands import size_of
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

    confidence: np.ndarray | None = None  # (H, W) float32, highest probability; only if the run needs it
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class Streamed:
    """One image that is too large to be decoded whole: its bytes, and those of its label.

    `image` is None if windows are read directly from the file: for declared bands, outside of archives.
    """

    item: Item
    image: bytes | None
    label: bytes | None
    seconds: dict[str, float] = field(default_factory=dict)


Load = Callable[[Item], Loaded | Streamed]


class Loader:
    """Loads images as the config of a run requires.

    Args:
        declared: bands and range of the images; None = 8-bit pictures.
    """

    def __init__(
        self, cfg: SegmentConfig, space: LabelSpace, turns: Turns, declared: ImageConfig | None = None
    ) -> None:
        self.cfg, self.space, self.turns, self.declared = cfg, space, turns, declared

    def __call__(self, item: Item) -> Loaded | Streamed:
        """Load one image: read without holding a core, since reading is mostly waiting; decode while holding one.

        Raises:
            Reject: the image, its label or its instances cannot be read or do not fit each other.
        """
        started = time.perf_counter()
        if (windows := self._in_windows(item)) is not None:
            windows.seconds["seconds_decode"] = time.perf_counter() - started
            return windows
        files = fetch(item, "instances" in needs(dict(self.cfg.metrics)))
        waited = time.perf_counter()
        with self.turns.one():
            waited = time.perf_counter() - waited
            loaded = self._decoded(item, files)
        loaded.seconds["seconds_decode"] = time.perf_counter() - started - waited
        return loaded

    def _in_windows(self, item: Item) -> Streamed | None:
        """Return an image to be read in windows, if it is a large file of declared bands outside of archives; else None."""
        limit = self.cfg.stream_above_pixels
        if self.declared is None or limit is None or item.image.member is not None:
            return None
        height, width = size_of(open_file(item.image))
        return Streamed(item, None, fetch_label(item)) if height * width > limit else None

    def _decoded(self, item: Item, files: Encoded) -> Loaded | Streamed:
        limit, declared = self.cfg.stream_above_pixels, self.declared
        if limit is not None:
            if declared is not None:
                height, width = size_of(files.image)
            else:
                header = open_header(files.image, self.cfg.max_pixels)
                height, width = header.height, header.width
            if height * width > limit:
                return Streamed(item, files.image, files.label)
        where = f"label of {item.image_id}"
        scale = self.cfg.predict.scales[0] if self.cfg.predict.reduced_decode else 1.0
        sample = decode_sample(item, files, self.space, self.cfg.max_pixels, where, declared, scale=scale)
        return Loaded(**vars(sample))
