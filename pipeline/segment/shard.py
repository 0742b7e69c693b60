"""Run a shard's images through the model; others are decoded ahead of it and encoded after it. Scores stay in the process."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, nullcontext
from typing import TypeVar

import numpy as np
import pyarrow as pa

from pipeline.config import SegmentConfig
from pipeline.corpus import Item
from pipeline.errors import Reject
from pipeline.metrics.registry import needs
from pipeline.models.checkpoint import Checkpoint
from pipeline.predict import Prediction, Predictor
from pipeline.predict.engines import GRAPHS, build_engine
from pipeline.predict.input_statistics import InputStatistics
from pipeline.predict.out_of_memory import memory_is_full
from pipeline.predict.tile import Tile
from pipeline.predict.tiles import Assembly
from pipeline.read_ahead import read_ahead
from pipeline.runs import REJECT_SCHEMA, PixelConfidence, kept_network
from pipeline.segment.core_turns import Turns
from pipeline.segment.crf_batches import Answer, CrfBatches, Sharpened
from pipeline.segment.loading import NO_MEMORY, NOT_FINITE, Load, Loaded, Loader, Streamed
from pipeline.segment.rows import UNSURE, Row, mask_columns, mask_row, mask_table, reject_row
from pipeline.segment.streamed import streamed_row

READERS = 2  # threads that read ahead of the model, in addition to those that decode
AHEAD = 4  # most decoded images that wait for the model, unless batch size or cores need more

Final = tuple[Prediction, np.ndarray | None]  # and the mask (H, W) before the CRF, if there is one
T = TypeVar("T")


class ShardSegmenter:
    """A checkpoint with the settings of a run on one device.

    At most `cpus_per_actor` threads compute at any time (`Turns`); others wait for the store, or for a GPU.

    Args:
        on_answered: called after each image, whether it has a mask or is rejected.
    """

    def __init__(
        self, checkpoint: Checkpoint, cfg: SegmentConfig, on_answered: Callable[[], None] = lambda: None
    ) -> None:
        self.cfg, self.space, self.on_answered = cfg, checkpoint.label_space, on_answered
        device = "cuda" if cfg.gpus_per_actor > 0 else "cpu"
        self.turns = Turns(cfg.cpus_per_actor)
        self.declared = checkpoint.image
        self.load = Loader(cfg, self.space, self.turns, self.declared)
        assert cfg.engine != "auto"  # the driver has chosen
        self.confidence = PixelConfidence(cfg.confidence_map, cfg.unknown_below)
        self.input_statistics = InputStatistics(checkpoint.model, checkpoint.image is not None)
        kept = checkpoint.quantised
        if kept is None and cfg.engine in GRAPHS:
            kept = kept_network(cfg.output)
        engine = build_engine(cfg.engine, checkpoint.model, cfg.cpus_per_actor, cfg.predict.precision, kept)
        self.predictor = Predictor(
            checkpoint.model,
            cfg.predict,
            device,
            cfg.batch_size,
            cfg.cpus_per_actor,
            engine,
            others=[other.model for other in checkpoint.others],
            confidence_map=self.confidence.asked and cfg.crf is None,  # with a CRF, the map is made after it
        )
        self.crf = CrfBatches(cfg, self.space.classes, device == "cuda", self.confidence.asked)
        # Most images that wait for the model, and most rows that wait to be encoded.
        self._depth = max(AHEAD, 2 * cfg.batch_size, cfg.cpus_per_actor)
        self._keep_confidence = "confidence" in needs(dict(cfg.metrics))
        self._keep_probs = cfg.crf is not None or self._keep_confidence
        self._cores_of_model = self.turns.all if device == "cpu" else nullcontext

    def answer(self, items: list[Item], load: Load | None = None) -> tuple[pa.Table, pa.Table]:
        """Return mask rows in the items' order, and reject rows: together one for each item.

        Args:
            load: returns the decoded image of an item; by default it is read and decoded here.
        """
        masks: dict[str, Future[Row]] = {}  # image id -> its row, encoded or about to be
        rejects: list[Row] = []
        cores = self.cfg.cpus_per_actor
        with (
            closing(read_ahead(load or self.load, items, READERS + cores, self._depth)) as loading,
            ThreadPoolExecutor(cores, thread_name_prefix="encode") as encoders,
            self._cores_of_model(),
        ):
            images = self._whole_images(loading, masks, rejects)
            for completed in self.predictor.passes(images, self._keep_probs):
                for group in self.crf.groups(completed):
                    for loaded, final in self._finals(group):
                        self.on_answered()
                        if isinstance(final, Reject):
                            rejects.append(reject_row(loaded.item, final))
                            continue
                        masks[loaded.item.image_id] = encoders.submit(self._row, loaded, *final)
                        if len(masks) > self._depth:  # bounds the rows that wait to be encoded
                            self._wait(list(masks.values())[-self._depth])
            rows = self._rows([item for item in items if item.image_id in masks], masks, rejects)
        return (
            mask_table(rows, mask_columns(self.cfg, self.space, self.declared is not None)),
            pa.Table.from_pylist(sorted(rejects, key=lambda row: str(row["image_id"])), schema=REJECT_SCHEMA),
        )

    def _whole_images(
        self,
        loading: Iterator[tuple[Item, Future[Loaded | Streamed]]],
        masks: dict[str, Future[Row]],
        rejects: list[Row],
    ) -> Iterator[tuple[Loaded, Tile]]:
        """Yield images to be predicted whole; add rows of streamed images and of rejects to `masks` and `rejects`."""
        for item, future in loading:
            try:
                loaded = self._result(future)
                if isinstance(loaded, Streamed):
                    row = self._streamed(loaded)
                    masks[item.image_id] = Future()
                    masks[item.image_id].set_result(row)
                    self.on_answered()
                    continue
            except Reject as reject:
                rejects.append(reject_row(item, reject))
                self.on_answered()
                continue
            self.input_statistics.add(loaded.image)
            yield loaded, Tile(loaded.image, loaded.size)

    def _rows(self, items: list[Item], masks: dict[str, Future[Row]], rejects: list[Row]) -> list[Row]:
        """Return the encoded rows in the items' order; those that cannot be encoded become rejects."""
        rows = []
        for item in items:
            try:
                rows.append(self._result(masks[item.image_id]))
            except Reject as reject:
                rejects.append(reject_row(item, reject))
        return rows

    def _result(self, future: Future[T]) -> T:
        """Return the result of another thread; the model's cores are lent until it is there."""
        self._wait(future)
        return future.result()

    def _wait(self, future: Future[T]) -> None:
        if not future.done():
            with self.turns.lent():
                wait([future])

    def _finals(self, group: list[Answer]) -> Iterator[tuple[Loaded, Final | Reject]]:
        """Yield the final prediction of each image of a group; a Reject if scores are not finite or do not fit the memory."""
        with self.turns.all():
            sharpened = self.crf.sharpened(group)
        for (loaded, assembly), one in zip(group, sharpened, strict=True):
            try:
                yield loaded, self._final(loaded, assembly, one)
            except Reject as reject:
                yield loaded, reject

    def _final(self, loaded: Loaded, assembly: Assembly, sharpened: Sharpened | MemoryError | None) -> Final:
        """Return the prediction of one image, and its mask (H, W) before the CRF if there is one; sets `loaded.confidence`.

        Raises:
            Reject: its scores are not finite, or do not fit the memory.
        """
        loaded.seconds["seconds_forward"] = assembly.seconds
        try:
            if isinstance(sharpened, MemoryError):
                raise sharpened
            before = assembly.prediction
            if not np.isfinite(before.entropy):
                raise NOT_FINITE.at("predict")
            final, mask_before_crf, probs = before, None, assembly.probs
            if sharpened is not None:
                loaded.seconds["seconds_crf"] = sharpened.seconds
                final, mask_before_crf, probs = sharpened.prediction, before.mask, sharpened.probs
            counted = self._keep_confidence and loaded.label is not None
            if probs is not None and (counted or (self.cfg.regions is not None and self.predictor.model.gives_scores)):
                with self.turns.all():
                    loaded.confidence = probs.amax(dim=0).float().cpu().numpy()
        except (MemoryError, RuntimeError) as error:
            if not memory_is_full(error):
                raise
            raise NO_MEMORY.at("predict") from error
        if not np.isfinite(final.entropy):
            raise NOT_FINITE.at("predict")
        return final, mask_before_crf

    def _streamed(self, streamed: Streamed) -> Row:
        with self.turns.all():
            return self._as_sure(streamed_row(streamed, self.predictor, self.cfg, self.space, self.declared))

    def _row(self, loaded: Loaded, prediction: Prediction, mask_before_crf: np.ndarray | None) -> Row:
        with self.turns.one():
            return self._as_sure(mask_row(loaded, prediction, mask_before_crf, self.space, self.cfg))

    def _as_sure(self, row: Row) -> Row:
        return row if self.predictor.model.gives_scores else row | UNSURE
