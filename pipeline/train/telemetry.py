"""Metrics of a training run for dashboards and alerts; Ray exports them to Prometheus with the prefix `ray_`."""

from ray.util.metrics import Gauge

from pipeline.train.metrics_log import Record

RUN = ("run",)  # label of every series: the run's URI


class TrainingMetrics:
    """The metrics of one training run."""

    def __init__(self, run: str) -> None:
        self._run = {"run": run}
        self._step = Gauge("maskmill_train_step", "Optimizer steps done.", RUN)
        self._steps = Gauge("maskmill_train_steps", "Optimizer steps of the whole run.", RUN)
        self._loss = Gauge("maskmill_train_loss", "Mean loss since the record before.", RUN)
        self._rate = Gauge("maskmill_train_images_per_s", "Training views a second, all workers.", RUN)
        self._miou = Gauge("maskmill_train_miou", "mIoU (0 to 1) of the newest validation.", RUN)

    def add(self, record: Record) -> None:
        """Update the metrics with a new line of metrics.jsonl."""
        if record["kind"] == "validation":
            self._miou.set(record["miou"], self._run)
            return
        if record["kind"] == "step":
            self._step.set(record["step"], self._run)
            self._steps.set(record["steps"], self._run)
            self._loss.set(record["loss"], self._run)
            self._rate.set(record["images_per_s"], self._run)
