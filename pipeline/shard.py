"""One shard of images in, its mask rows and rejects out: the whole work of one actor, without Ray.

Reading and decoding run ahead of the model in threads, encoding runs behind it; scores never leave this file.
"""

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from pipeline.checkpoint import Checkpoint
from pipeline.config import SegmentConfig
from pipeline.corpus import BadBytes, Item, read
from pipeline.corpus.siblings import instances_of
from pipeline.crf.device import sharpen
from pipeline.imaging.decode import BadImage, as_stored, decode_image, decode_label, orientation_of, upright
from pipeline.imaging.instances import decode_instances
from pipeline.imaging.masks import encode_mask
from pipeline.labels import IGNORE
from pipeline.metrics.chosen import chosen_counts
from pipeline.metrics.counts import count_confusion
from pipeline.metrics.iou import mean_iou, pixel_accuracy
from pipeline.predict import Prediction, Predictor, summarise
from pipeline.run import REJECT_SCHEMA, mask_schema

READERS = 2  # threads that read and decode ahead of the model
AHEAD = 4  # decoded images that wait for the model, at most

Row = dict[str, object]


class Rejected(Exception):
    """One image cannot be answered: at which stage, and why."""

    def __init__(self, stage: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.reason = stage, reason


_NOT_FINITE = Rejected(
    "predict",
    "scores_not_finite",
    "the network's scores hold NaN or infinity; try predict.precision fp32, or another checkpoint",
)
_NO_MEMORY = Rejected(
    "predict",
    "out_of_memory",
    "the worker's memory does not hold this image's scores; give the worker more and run `maskmill retry-rejects`, or "
    "lower max_pixels, or cut the image into tiles",
)


@dataclass
class _Loaded:
    """One decoded image on its way through the model."""

    item: Item
    image: np.ndarray
    label: np.ndarray | None  # upright, as the image
    orientation: int  # EXIF, in which the corpus stores the image and the run its mask
    instances: np.ndarray | None = None  # (H, W) instanceIds, where the run counts them
    confidence: np.ndarray | None = None  # (H, W) float32, where the run counts its histogram
    seconds: dict[str, float] = field(default_factory=dict)


class ShardSegmenter:
    """A checkpoint with the settings of a run on one device."""

    def __init__(self, checkpoint: Checkpoint, cfg: SegmentConfig) -> None:
        self.cfg, self.space = cfg, checkpoint.label_space
        device = "cuda" if cfg.gpus_per_actor > 0 else "cpu"
        self.predictor = Predictor(checkpoint.model, checkpoint.mean, checkpoint.std, cfg.predict, device)

    def answer(self, items: list[Item]) -> tuple[pa.Table, pa.Table]:
        """Mask rows in the items' order, and reject rows: together one for each item."""
        rows: list[Future[Row]] = []
        rejects: list[Row] = []
        with (
            ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers,
            ThreadPoolExecutor(1, thread_name_prefix="encode") as encoder,
        ):
            for batch in self._batches(items, readers, rejects):
                for loaded, prediction, raw in self._fitting(batch, rejects):
                    if not np.isfinite(prediction.entropy):
                        rejects.append(_reject_row(loaded.item, _NOT_FINITE))
                        continue
                    rows.append(encoder.submit(self._row, loaded, prediction, raw))
            masks = [row.result() for row in rows]
        return (
            pa.Table.from_pylist(masks, schema=mask_schema(self.space.num_classes, self.cfg.metrics.boundary_px)),
            pa.Table.from_pylist(sorted(rejects, key=lambda row: str(row["image_id"])), schema=REJECT_SCHEMA),
        )

    def _batches(self, items: list[Item], readers: ThreadPoolExecutor, rejects: list[Row]) -> Iterator[list[_Loaded]]:
        """Consecutive images of equal size, at most `batch_size` together; what cannot be loaded becomes a reject."""
        batch: list[_Loaded] = []
        waiting: deque[tuple[Item, Future[_Loaded]]] = deque()
        todo = iter(items)
        ahead = max(AHEAD, 2 * self.cfg.batch_size)
        while True:
            while len(waiting) < ahead and (item := next(todo, None)) is not None:
                waiting.append((item, readers.submit(self._load, item)))
            if not waiting:
                break
            item, future = waiting.popleft()
            try:
                loaded = future.result()
            except Rejected as error:
                rejects.append(_reject_row(item, error))
                continue
            if batch and (len(batch) == self.cfg.batch_size or batch[0].image.shape != loaded.image.shape):
                yield batch
                batch = []
            batch.append(loaded)
        if batch:
            yield batch

    def _load(self, item: Item) -> _Loaded:
        started = time.perf_counter()
        stage = "read"
        try:
            image_bytes = read(item.image)
            stage = "decode"
            image = decode_image(image_bytes, self.cfg.max_pixels)
            orientation = orientation_of(image_bytes)
            stage = "label"
            label = instances = None
            if item.label is not None:
                where = f"label of {item.image_id}"
                stored = decode_label(read(item.label), self.cfg.max_pixels)
                label = upright(self._train_ids(stored, where), orientation)
                if label.shape != image.shape[:2]:
                    raise Rejected(
                        "label",
                        "label_size",
                        f"{where}: it is {label.shape[0]}x{label.shape[1]}, the image {image.shape[0]}x{image.shape[1]} "
                        "(height x width); they must be equal: re-export the label",
                    )
                if self.cfg.metrics.instances:
                    instances = decode_instances(read(instances_of(item.label)), stored.shape)
                    self._train_ids(
                        np.where(instances > 1000, instances // 1000, IGNORE), f"instances of {item.image_id}"
                    )
                    instances = upright(instances, orientation)
        except (BadBytes, BadImage) as error:
            raise Rejected(stage, error.reason, str(error)) from error
        except OSError as error:  # the store, after its client's own retries
            raise Rejected(stage, "store_error", f"{type(error).__name__}: {error}") from error
        seconds = {"seconds_decode": time.perf_counter() - started}
        return _Loaded(item, image, label, orientation, instances, seconds=seconds)

    def _train_ids(self, stored: np.ndarray, where: str) -> np.ndarray:
        try:
            return self.space.to_train(stored, where)
        except ValueError as error:
            raise Rejected("label", "label_out_of_range", str(error)) from error

    def _fitting(
        self, batch: list[_Loaded], rejects: list[Row]
    ) -> Iterator[tuple[_Loaded, Prediction, np.ndarray | None]]:
        """As `_predict`; images that the memory does not hold together are predicted alone, and rejected if need be."""
        try:
            done = list(self._predict(batch))
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "DefaultCPUAllocator" not in str(error):
                raise
            done = []
        if done:
            yield from done
        elif len(batch) > 1:
            for loaded in batch:
                yield from self._fitting([loaded], rejects)
        else:
            rejects.append(_reject_row(batch[0].item, _NO_MEMORY))

    def _predict(self, batch: list[_Loaded]) -> Iterator[tuple[_Loaded, Prediction, np.ndarray | None]]:
        """Each image of a batch with its prediction, and the mask (H, W) before the CRF where there is one."""
        images = [loaded.image for loaded in batch]
        started = time.perf_counter()
        if self.cfg.crf is None and not self.cfg.metrics.calibration_bins:
            predictions = self.predictor.masks(images, self.cfg.cpus_per_actor)
            for loaded, prediction in zip(batch, predictions, strict=True):
                loaded.seconds["seconds_forward"] = (time.perf_counter() - started) / len(batch)
                yield loaded, prediction, None
            return
        probs = self.predictor.probs(images)
        seconds = (time.perf_counter() - started) / len(batch)
        for loaded, scores in zip(batch, probs, strict=True):
            loaded.seconds["seconds_forward"] = seconds
            raw = summarise(scores)
            if not np.isfinite(raw.entropy):
                yield loaded, raw, None
                continue
            final, before = raw, None
            if self.cfg.crf is not None:
                started = time.perf_counter()
                placed = scores if self.cfg.crf_on == "device" else scores.cpu()
                scores = sharpen(placed, loaded.image, self.cfg.crf, self.cfg.cpus_per_actor)
                final, before = summarise(scores), raw.mask  # waits for the device, so that its time is counted
                loaded.seconds["seconds_crf"] = time.perf_counter() - started
            if self.cfg.metrics.calibration_bins and loaded.label is not None:
                loaded.confidence = scores.amax(dim=0).float().cpu().numpy()
            yield loaded, final, before

    def _row(self, loaded: _Loaded, prediction: Prediction, raw: np.ndarray | None) -> Row:
        started = time.perf_counter()
        item, mask, num_classes = loaded.item, prediction.mask, self.space.num_classes
        stored = as_stored(mask, loaded.orientation)
        encoded = encode_mask(stored)
        counts: Row = {}
        if loaded.label is not None:
            confusion = count_confusion(loaded.label, mask, num_classes)
            counts["confusion"] = confusion.ravel().tolist()
            if confusion.any():
                counts |= {"miou": mean_iou(confusion), "pixel_accuracy": pixel_accuracy(confusion)}
            if raw is not None:
                counts["confusion_raw"] = count_confusion(loaded.label, raw, num_classes).ravel().tolist()
            counts |= chosen_counts(
                self.cfg.metrics, self.space, loaded.label, mask, raw, loaded.instances, loaded.confidence
            )
        return {
            "image_id": item.image_id,
            "uri": item.image.uri,
            "member": item.image.member,
            "split": item.split,
            "city": item.city,
            "sequence": item.sequence,
            "frame": item.frame,
            "height": stored.shape[0],
            "width": stored.shape[1],
            "mask": {"bytes": encoded, "path": f"{item.image_id}.png"},
            "pixels": np.bincount(mask.ravel(), minlength=num_classes).tolist(),
            **counts,
            "confidence": prediction.confidence,
            "entropy": prediction.entropy,
            **loaded.seconds,
            "seconds_encode": time.perf_counter() - started,
        }


def _reject_row(item: Item, error: Rejected) -> Row:
    return {
        "image_id": item.image_id,
        "uri": item.image.uri,
        "member": item.image.member,
        "stage": error.stage,
        "error": error.reason,
        "message": str(error),
        "attempts": 1,
    }
