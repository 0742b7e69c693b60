"""metrics.jsonl: the log of a running training, written by one worker and readable from anywhere.

It has lines of kind `start` (a group of workers began: at which step, and where), `step` (a few steps: the loss and the data
wait of each, means of the other values) and `validation`.
"""

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.errors import StoreRefused, UserError
from pipeline.metrics.iou import class_iou, summary_scores

Record = dict[str, Any]  # one line of metrics.jsonl
RECORD_EVERY_S = 2.0  # least time between two step records
_WRITE_SHARE = 0.05  # largest share of the time spent on writing records, since the whole file is written each time


class MetricsLog:
    """metrics.jsonl, written by one worker.

    Args:
        output: the run's folder; None on the workers that write nothing.
        step: the step from which the run continues; records of later steps are dropped, since these are done again.
    """

    def __init__(self, output: str | None, step: int = 0) -> None:
        self.uri = None if output is None else storage.join(output, "metrics.jsonl")
        self.records = [] if self.uri is None else [r for r in read_records(self.uri) if r["step"] <= step]
        self._losses: list[float] = []
        self._waits: list[float] = []
        self._norms: list[float] = []
        self._seconds = 0.0
        self._last: Record = {}
        self._pause_s = RECORD_EVERY_S
        self._since = time.monotonic()

    def start(self, step: int, **where: Any) -> None:
        """Record that a group of workers begins after `step`."""
        self._write({"kind": "start", "step": step, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")} | where)
        self._since = time.monotonic()

    def step(
        self, *, step: int, steps: int, epoch: int, loss: float, lr: float, gradient_norm: float, seconds: float,
        data_wait: float, batch_size: int
    ) -> None:  # fmt: skip
        """Record a step, from 1 on: loss, learning rate, L2 norm of the gradient, time, and its share of waiting for data."""
        self._losses.append(loss)
        self._waits.append(data_wait)
        self._norms.append(gradient_norm)
        self._seconds += seconds
        self._last = {"step": step, "steps": steps, "epoch": epoch, "lr": lr, "batch_size": batch_size}
        if time.monotonic() - self._since >= self._pause_s or step == steps:
            self.flush()

    def flush(self) -> None:
        """Write the steps since the last record, if there are any."""
        if not self._losses:
            return
        count, elapsed = len(self._losses), max(self._seconds, 1e-9)
        batch_size = self._last.pop("batch_size")
        self._write(
            {
                "kind": "step",
                **self._last,
                "loss": sum(self._losses) / count,
                "gradient_norm": sum(self._norms) / count,
                "data_wait": sum(self._waits) / count,
                "images_per_s": count * batch_size / elapsed,
                "step_rate": count / elapsed,
                "losses": self._losses,
                "data_waits": [round(wait, 4) for wait in self._waits],
            }
        )
        self._losses, self._waits, self._norms, self._seconds = [], [], [], 0.0
        self._since = time.monotonic()

    def validation(self, step: int, epoch: int, confusion: np.ndarray, classes: Sequence[str]) -> Record:
        """Record the scores of a validation after `step`, computed from its counts, and return the record."""
        iou = {name: None if math.isnan(v) else float(v) for name, v in zip(classes, class_iou(confusion), strict=True)}
        record = {
            "kind": "validation",
            "step": step,
            "epoch": epoch,
            **{name: float(value) for name, value in summary_scores(confusion).items()},
            "iou": iou,
        }
        self.flush()
        self._write(record)
        self._since = time.monotonic()
        return record

    def _write(self, record: Record) -> None:
        self.records.append(record)
        if self.uri is not None:
            begun = time.monotonic()
            storage.put(self.uri, "".join(json.dumps(line) + "\n" for line in self.records).encode())
            self._pause_s = max(RECORD_EVERY_S, (time.monotonic() - begun) / _WRITE_SHARE)


def figure(record: Record, name: str) -> float:
    """Return one score of a validation record: one of the config's FIGURES, or iou.<class>; -1 if undefined."""
    value = record["iou"][name.removeprefix("iou.")] if name.startswith("iou.") else record[name]
    return -1.0 if value is None or math.isnan(value) else float(value)


def loss_curve(records: Sequence[Record]) -> list[float]:
    """Return the loss of each step, from step 1 on."""
    return [loss for record in records if record["kind"] == "step" for loss in record["losses"]]


@contextmanager
def following(uri: str, on_record: Callable[[Record], None]) -> Iterator[None]:
    """Pass each new line of metrics.jsonl to `on_record` while the block runs."""
    stop, told = threading.Event(), read_records(uri)

    def follow() -> None:
        nonlocal told
        while True:
            last_round = stop.wait(1.0)
            records = told
            with suppress(OSError, StoreRefused):  # the next round may reach the store again
                records = read_records(uri)
            for record in records[len(told) :]:
                on_record(record)
            told = records  # fewer than before if a restart continued from an earlier step
            if last_round:
                return

    thread = threading.Thread(target=follow, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def read_records(uri: str) -> list[Record]:
    """Return the lines of a metrics.jsonl; none if there is no file yet."""
    try:
        return [json.loads(line) for line in storage.read(uri).splitlines()]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise UserError(
            f"{uri} is damaged: a line of it is no JSON ({error}); restore the file, or delete it"
        ) from None
