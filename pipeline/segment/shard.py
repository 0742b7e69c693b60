"""A shard's images through the model: read and decoded ahead of it, encoded behind it; scores never leave this room."""

import itertools
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import TypeVar

import numpy as np
import pyarrow as pa

from pipeline.config import SegmentConfig
from pipeline.corpus import Item
from pipeline.crf.gpu import sharpen
from pipeline.errors import Reject
from pipeline.models.checkpoint import Checkpoint
from pipeline.predict import Prediction, Predictor, summarise
from pipeline.predict.out_of_memory import memory_is_full
from pipeline.predict.tiles import Assembly
from pipeline.runs import REJECT_SCHEMA, mask_schema
from pipeline.segment.core_turns import Turns
from pipeline.segment.loading import NO_MEMORY, NOT_FINITE, Load, Loaded, Loader, Streamed
from pipeline.segment.rows import Row, mask_row, reject_row
from pipeline.segment.streamed import streamed_row

READERS = 2  # threads that read ahead of the model, beside those that decode
AHEAD = 4  # decoded images that wait for the model, at most, where batches are not larger

T = TypeVar("T")


class ShardSegmenter:
    """A checkpoint with the settings of a run on one device.

    At most `cpus_per_actor` threads compute at any time (`Turns`); others wait for the store, or for a GPU.
    """

    def __init__(self, checkpoint: Checkpoint, cfg: SegmentConfig) -> None:
        self.cfg, self.space = cfg, checkpoint.label_space
        device = "cuda" if cfg.gpus_per_actor > 0 else "cpu"
        self.turns = Turns(cfg.cpus_per_actor)
        self.load = Loader(cfg, self.space, self.turns)
        self.predictor = Predictor(checkpoint.model, cfg.predict, device, cfg.batch_size, cfg.cpus_per_actor)
        self._most = max(AHEAD, 2 * cfg.batch_size, cfg.cpus_per_actor)  # images before the model, and rows behind it
        self._models_cores = self.turns.all if device == "cpu" else nullcontext

    def answer(self, items: list[Item], load: Load | None = None) -> tuple[pa.Table, pa.Table]:
        """Mask rows in the items' order, and reject rows: together one for each item.

        Args:
            load: where decoded images come from; by default they are read and decoded here.
        """
        rows: dict[str, Future[Row]] = {}
        rejects: list[Row] = []
        in_flight: dict[int, Loaded] = {}
        places = itertools.count()
        cores, keep_probs = self.cfg.cpus_per_actor, self.cfg.crf is not None or bool(self.cfg.metrics.calibration_bins)
        with (
            ThreadPoolExecutor(READERS + cores, thread_name_prefix="load") as loaders,
            ThreadPoolExecutor(cores, thread_name_prefix="encode") as encoders,
            self._models_cores(),
        ):

            def images() -> Iterator[np.ndarray]:
                for item, future in self._ahead(items, load or self.load, loaders):
                    try:
                        loaded = self._result(future)
                        if isinstance(loaded, Streamed):
                            row = self._streamed(loaded)
                            rows[item.image_id] = Future()
                            rows[item.image_id].set_result(row)
                            continue
                    except Reject as error:
                        rejects.append(reject_row(item, error))
                        continue
                    in_flight[next(places)] = loaded
                    yield loaded.image

            for place, assembly in self.predictor.answers(images(), keep_probs):
                loaded = in_flight.pop(place)
                loaded.seconds["seconds_forward"] = assembly.seconds
                try:
                    prediction, raw = self._final(loaded, assembly)
                except (MemoryError, RuntimeError) as error:
                    if not memory_is_full(error):
                        raise
                    rejects.append(reject_row(loaded.item, NO_MEMORY))
                    continue
                if not np.isfinite(prediction.entropy):
                    rejects.append(reject_row(loaded.item, NOT_FINITE))
                    continue
                rows[loaded.item.image_id] = encoders.submit(self._row, loaded, prediction, raw)
                if len(rows) > self._most:  # what waits to be encoded is bounded
                    self._result(list(rows.values())[-self._most])
            masks = [self._result(rows[item.image_id]) for item in items if item.image_id in rows]
        return (
            pa.Table.from_pylist(masks, schema=mask_schema(self.space.num_classes, self.cfg.metrics.boundary_px)),
            pa.Table.from_pylist(sorted(rejects, key=lambda row: str(row["image_id"])), schema=REJECT_SCHEMA),
        )

    def _result(self, future: Future[T]) -> T:
        """What another thread makes; the model's cores are lent as long as it is not there."""
        if not future.done():
            with self.turns.lent():
                wait([future])
        return future.result()

    def _ahead(
        self, items: list[Item], load: Load, loaders: ThreadPoolExecutor
    ) -> Iterator[tuple[Item, Future[Loaded | Streamed]]]:
        """Each item with its image in the making, so many of them ahead of the one that is taken."""
        waiting: deque[tuple[Item, Future[Loaded | Streamed]]] = deque()
        for item in items:
            waiting.append((item, loaders.submit(load, item)))
            if len(waiting) == self._most:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

    def _final(self, loaded: Loaded, assembly: Assembly) -> tuple[Prediction, np.ndarray | None]:
        """The prediction of one image, and its mask (H, W) before the CRF where there is one."""
        raw, probs = assembly.prediction, assembly.probs
        if probs is None or not np.isfinite(raw.entropy):
            return raw, None
        final, before = raw, None
        with self.turns.all():
            if self.cfg.crf is not None:
                started = time.perf_counter()
                placed = probs if self.cfg.crf_on == "device" else probs.cpu()
                probs = sharpen(placed, loaded.image, self.cfg.crf, self.cfg.cpus_per_actor)
                final, before = summarise(probs), raw.mask  # waits for the device, so that its time is counted
                loaded.seconds["seconds_crf"] = time.perf_counter() - started
            if self.cfg.metrics.calibration_bins and loaded.label is not None:
                loaded.confidence = probs.amax(dim=0).float().cpu().numpy()
        return final, before

    def _streamed(self, streamed: Streamed) -> Row:
        with self.turns.all():
            return streamed_row(streamed, self.predictor, self.cfg, self.space)

    def _row(self, loaded: Loaded, prediction: Prediction, raw: np.ndarray | None) -> Row:
        with self.turns.one():
            return mask_row(loaded, prediction, raw, self.space, self.cfg.metrics)
