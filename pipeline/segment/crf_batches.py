"""Run the CRF on the images of one pass of the network: on a GPU, images of equal size together; on the CPU, one by one."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.config import SegmentConfig
from pipeline.crf.gpu import sharpen_together
from pipeline.imaging.bands import as_picture
from pipeline.predict import Prediction, summarise
from pipeline.predict.out_of_memory import memory_is_full
from pipeline.predict.tile import Size
from pipeline.predict.tiles import Assembly
from pipeline.segment.loading import Loaded

_log = logging.getLogger(__name__)
Answer = tuple[Loaded, Assembly]


@dataclass(frozen=True)
class Sharpened:
    """One image after the CRF."""

    prediction: Prediction
    probs: torch.Tensor  # (C, H, W) float32
    seconds: float


class CrfBatches:
    """Runs the CRF on groups of images; if memory runs out, groups are halved from then on.

    The labels equal those of images computed one by one: on a device, an image gets the same bits in any batch.

    Args:
        on_gpu: whether the network is on a GPU; scores are too, unless the image was cut into tiles.
    """

    def __init__(self, cfg: SegmentConfig, classes: Sequence[str], on_gpu: bool, confidence_map: bool) -> None:
        self._cfg, self._classes, self._confidence_map = cfg, classes, confidence_map
        together = on_gpu and cfg.crf is not None and cfg.crf_on == "device"
        self.most = cfg.batch_size if together else 1  # most images at once

    def groups(self, answers: Iterable[Answer]) -> Iterator[list[Answer]]:
        """Yield the images of one pass in groups of equal size, of at most `most` images."""
        waiting: dict[Size, list[Answer]] = {}
        for answer in answers:
            size = answer[1].grid.size
            waiting.setdefault(size, []).append(answer)
            del answer  # this generator keeps no image alive while others are computed
            if len(waiting[size]) >= self.most:
                yield waiting.pop(size)
        while waiting:
            yield waiting.pop(next(iter(waiting)))

    def sharpened(self, group: Sequence[Answer]) -> list[Sharpened | MemoryError | None]:
        """Return the CRF's result of each image, or MemoryError if memory is too small even for this image alone.

        None if there is nothing to do: no CRF, no scores, or scores that are not finite.
        """
        found: dict[int, Sharpened | MemoryError] = {}
        waiting = [index for index, (_, assembly) in enumerate(group) if self._has_work(assembly)]
        while waiting:
            some = waiting[: self.most]
            try:
                found |= zip(some, self._run([group[index] for index in some]), strict=True)
                waiting = waiting[len(some) :]
                continue
            except (MemoryError, RuntimeError) as error:
                if not memory_is_full(error):
                    raise
                sentence = str(error).split(". ")[0]
            # Outside of `except`, since the traceback keeps the tensors of the failed batch alive.
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            if len(some) == 1:
                found[some[0]] = MemoryError(sentence)
                waiting = waiting[1:]
                continue
            self.most = len(some) // 2
            _log.warning(
                "the memory does not hold the CRF of %d images at once (%s): %d from here on",
                len(some), sentence, self.most,
            )  # fmt: skip
        return [found.get(index) for index in range(len(group))]

    def _has_work(self, assembly: Assembly) -> bool:
        has_scores = assembly.fits and assembly.probs is not None
        return self._cfg.crf is not None and has_scores and bool(np.isfinite(assembly.entropy))

    def _run(self, group: Sequence[Answer]) -> list[Sharpened]:
        assert self._cfg.crf is not None
        started = time.perf_counter()
        probs = [assembly.probs for _, assembly in group if assembly.probs is not None]
        placed = probs if self._cfg.crf_on == "device" else [one.cpu() for one in probs]
        images = [as_picture(loaded.image) for loaded, _ in group]
        done = sharpen_together(placed, images, self._cfg.crf, self._cfg.cpus_per_actor, self._classes)
        # Computing the means waits for the device, so its time is counted.
        answers = [summarise(one, self._confidence_map) for one in done]
        seconds = (time.perf_counter() - started) / len(group)
        return [Sharpened(prediction, one, seconds) for prediction, one in zip(answers, done, strict=True)]
