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
from pipeline.crf import dense_crf
from pipeline.imaging.decode import BadImage, decode_image, decode_label
from pipeline.imaging.instances import decode_instances
from pipeline.imaging.masks import encode_mask
from pipeline.labels import IGNORE
from pipeline.metrics.chosen import chosen_counts
from pipeline.metrics.counts import count_confusion
from pipeline.metrics.iou import mean_iou, pixel_accuracy
from pipeline.predict import Predictor
from pipeline.run import REJECT_SCHEMA, mask_schema

READERS = 2  # threads that read and decode ahead of the model
AHEAD = 4  # decoded images that wait for the model, at most

Row = dict[str, object]


@dataclass(frozen=True)
class Answer:
    """The rows of one shard, in the plan's order."""

    masks: pa.Table
    rejects: pa.Table


class Rejected(Exception):
    """One image cannot be answered: at which stage, and why."""

    def __init__(self, stage: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.reason = stage, reason


@dataclass
class _Loaded:
    """One decoded image on its way through the model."""

    item: Item
    image: np.ndarray
    label: np.ndarray | None
    instances: np.ndarray | None = None  # (H, W) instanceIds, where the run counts them
    confidence: np.ndarray | None = None  # (H, W) float32, where the run counts its histogram
    seconds: dict[str, float] = field(default_factory=dict)


class ShardSegmenter:
    """A checkpoint with the settings of a run on one device."""

    def __init__(self, checkpoint: Checkpoint, cfg: SegmentConfig) -> None:
        self.cfg, self.space = cfg, checkpoint.label_space
        device = "cuda" if cfg.gpus_per_actor > 0 else "cpu"
        self.predictor = Predictor(checkpoint.model, checkpoint.mean, checkpoint.std, cfg.predict, device)

    def answer(self, items: list[Item]) -> Answer:
        """Mask rows and reject rows: together one for each item."""
        rows: list[Future[Row]] = []
        rejects: list[Row] = []
        with (
            ThreadPoolExecutor(READERS, thread_name_prefix="read") as readers,
            ThreadPoolExecutor(1, thread_name_prefix="encode") as encoder,
        ):
            for batch in self._batches(items, readers, rejects):
                for loaded, probs in self._predict(batch, rejects):
                    try:
                        finished = self._sharpen(loaded, probs)
                    except Rejected as error:
                        rejects.append(_reject_row(loaded.item, error))
                        continue
                    rows.append(encoder.submit(self._row, loaded, *finished))
            masks = [row.result() for row in rows]
        return Answer(
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
            stage = "label"
            label = instances = None
            if item.label is not None:
                where = f"label of {item.image_id}"
                label = self._train_ids(decode_label(read(item.label), self.cfg.max_pixels), where)
                if label.shape != image.shape[:2]:
                    raise Rejected(
                        "label",
                        "label_size",
                        f"{where}: it is {label.shape[0]}x{label.shape[1]}, the image {image.shape[0]}x{image.shape[1]} "
                        "(height x width); they must be equal: re-export the label",
                    )
                if self.cfg.metrics.instances:
                    instances = decode_instances(read(instances_of(item.label)), label.shape)
                    self._train_ids(
                        np.where(instances > 1000, instances // 1000, IGNORE), f"instances of {item.image_id}"
                    )
        except (BadBytes, BadImage) as error:
            raise Rejected(stage, error.reason, str(error)) from error
        except OSError as error:  # the store, after its client's own retries
            raise Rejected(stage, "store_error", f"{type(error).__name__}: {error}") from error
        return _Loaded(item, image, label, instances, seconds={"seconds_decode": time.perf_counter() - started})

    def _train_ids(self, stored: np.ndarray, where: str) -> np.ndarray:
        try:
            return self.space.to_train(stored, where)
        except ValueError as error:
            raise Rejected("label", "label_out_of_range", str(error)) from error

    def _predict(self, batch: list[_Loaded], rejects: list[Row]) -> Iterator[tuple[_Loaded, torch.Tensor]]:
        """Each image of a batch with its probs (C, H, W)."""
        started = time.perf_counter()
        probs = self.predictor.probs([loaded.image for loaded in batch])
        seconds = (time.perf_counter() - started) / len(batch)
        for loaded, scores in zip(batch, probs, strict=True):
            loaded.seconds["seconds_forward"] = seconds
            if not torch.isfinite(scores).all():
                message = "the network's scores hold NaN or infinity; try predict.precision fp32, or another checkpoint"
                rejects.append(_reject_row(loaded.item, Rejected("predict", "scores_not_finite", message)))
                continue
            yield loaded, scores

    def _sharpen(self, loaded: _Loaded, probs: torch.Tensor) -> tuple[np.ndarray, np.ndarray | None, float, float]:
        """Mask (H, W), the mask before the CRF where there is one, mean confidence, mean entropy in nats."""
        raw = None
        if self.cfg.crf is not None:
            started = time.perf_counter()
            raw = _argmax(probs)
            sharpened = dense_crf(probs.cpu().numpy(), loaded.image, self.cfg.crf, self.cfg.cpus_per_actor)
            probs = torch.from_numpy(sharpened)
            loaded.seconds["seconds_crf"] = time.perf_counter() - started
        highest = probs.amax(dim=0)
        if self.cfg.metrics.calibration_bins and loaded.label is not None:
            loaded.confidence = highest.float().cpu().numpy()
        confidence = float(highest.mean())
        entropy = float(torch.special.entr(probs).sum(dim=0).mean())
        return _argmax(probs), raw, confidence, entropy

    def _row(self, loaded: _Loaded, mask: np.ndarray, raw: np.ndarray | None, confidence: float, entropy: float) -> Row:
        started = time.perf_counter()
        item, num_classes = loaded.item, self.space.num_classes
        encoded = encode_mask(mask)
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
            "height": mask.shape[0],
            "width": mask.shape[1],
            "mask": {"bytes": encoded, "path": f"{item.image_id}.png"},
            "pixels": np.bincount(mask.ravel(), minlength=num_classes).tolist(),
            **counts,
            "confidence": confidence,
            "entropy": entropy,
            **loaded.seconds,
            "seconds_encode": time.perf_counter() - started,
        }


def _argmax(probs: torch.Tensor) -> np.ndarray:
    return probs.argmax(dim=0).to(torch.uint8).cpu().numpy()


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
