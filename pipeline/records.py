"""metrics.jsonl: what a training run reports while it runs, written by one worker and followed from anywhere."""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.metrics.iou import class_iou, mean_iou, pixel_accuracy

Record = dict[str, Any]  # one line of metrics.jsonl
RECORD_EVERY_S = 2.0  # between two step records


class MetricsLog:
    """metrics.jsonl, written by one worker: a mean over the steps since the last record, and every validation."""

    def __init__(self, output: str | None, records: list[Record]) -> None:
        self.output, self.records = output, list(records)
        self._losses: list[float] = []
        self._since = time.monotonic()

    def step(self, step: int, steps: int, epoch: int, loss: float, lr: float, batch_size: int) -> None:
        self._losses.append(loss)
        elapsed = time.monotonic() - self._since
        if elapsed < RECORD_EVERY_S and step < steps:
            return
        rate = len(self._losses) * batch_size / elapsed
        mean = sum(self._losses) / len(self._losses)
        self._write(
            {
                "kind": "step",
                "step": step,
                "steps": steps,
                "epoch": epoch,
                "loss": mean,
                "lr": lr,
                "images_per_s": rate,
                "step_rate": rate / batch_size,
            }
        )
        self._losses, self._since = [], time.monotonic()

    def validation(self, epoch: int, confusion: np.ndarray, classes: Sequence[str]) -> None:
        iou = {name: None if math.isnan(v) else float(v) for name, v in zip(classes, class_iou(confusion), strict=True)}
        accuracy = pixel_accuracy(confusion)
        self._write(
            {"kind": "validation", "epoch": epoch, "miou": mean_iou(confusion), "pixel_accuracy": accuracy, "iou": iou}
        )
        self._since = time.monotonic()

    def _write(self, record: Record) -> None:
        self.records.append(record)
        if self.output is not None:
            lines = "".join(json.dumps(line) + "\n" for line in self.records)
            storage.put(storage.join(self.output, "metrics.jsonl"), lines.encode())


@contextmanager
def following(uri: str, on_record: Callable[[Record], None]) -> Iterator[None]:
    """Hand each new line of metrics.jsonl to `on_record` while the block runs."""
    stop = threading.Event()

    def follow() -> None:
        seen = _records(uri)
        while True:
            last_round = stop.wait(1.0)
            records = _records(uri)
            for record in records[len(seen) :]:
                on_record(record)
            seen = records
            if last_round:
                return

    thread = threading.Thread(target=follow, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _records(uri: str) -> list[Record]:
    try:
        return [json.loads(line) for line in storage.read(uri).splitlines()]
    except FileNotFoundError:
        return []
