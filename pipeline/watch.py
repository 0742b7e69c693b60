"""What dashboards and alerts see of a run: metrics that Ray exports to Prometheus, there with the prefix `ray_`.

They are set by the driver, once a shard or a training record, so that a run is one set of series however many workers it has.
"""

from typing import Any

from ray.util.metrics import Counter, Gauge

from pipeline.records import Record
from pipeline.run import SECONDS

RUN = ("run",)  # every series carries its run's URI


class Segmentation:
    """The series of one segmentation run."""

    def __init__(self, run: str, images: int, done: int) -> None:
        self._run = {"run": run}
        self._images, self._planned = images, Gauge("maskmill_images_planned", "Images of the run's plan.", RUN)
        self._done = Gauge("maskmill_images_done", "Images answered so far, by earlier starts of the run too.", RUN)
        self._answered = Counter("maskmill_images_answered", "Images answered by this start.", RUN)
        self._rejects = Counter("maskmill_images_rejected", "Images rejected by this start.", (*RUN, "reason"))
        self._seconds = Counter("maskmill_stage_seconds", "Seconds of all actors in one stage.", (*RUN, "stage"))
        self._tell(done)

    def add(self, row: dict[str, Any], done: int) -> None:
        """A shard was committed; `done` images of the run are answered now."""
        self._tell(done)
        self._answered.inc(row["images"], self._run)
        for reason in row["rejects"]:
            self._rejects.inc(1, {**self._run, "reason": reason})
        for name in SECONDS:
            if row[name] > 0:
                self._seconds.inc(row[name], {**self._run, "stage": name.removeprefix("seconds_")})

    def _tell(self, done: int) -> None:
        self._planned.set(self._images, self._run)  # again each time: a value set once may leave with the first export
        self._done.set(done, self._run)


class Training:
    """The series of one training run."""

    def __init__(self, run: str) -> None:
        self._run = {"run": run}
        self._step = Gauge("maskmill_train_step", "Optimizer steps done.", RUN)
        self._steps = Gauge("maskmill_train_steps", "Optimizer steps of the whole run.", RUN)
        self._loss = Gauge("maskmill_train_loss", "Mean loss since the record before.", RUN)
        self._rate = Gauge("maskmill_train_images_per_s", "Training views a second, all workers.", RUN)
        self._miou = Gauge("maskmill_train_miou", "mIoU (0 to 1) of the newest validation.", RUN)

    def add(self, record: Record) -> None:
        """A new line of metrics.jsonl."""
        if record["kind"] == "validation":
            self._miou.set(record["miou"], self._run)
            return
        if record["kind"] == "step":
            self._step.set(record["step"], self._run)
            self._steps.set(record["steps"], self._run)
            self._loss.set(record["loss"], self._run)
            self._rate.set(record["images_per_s"], self._run)
