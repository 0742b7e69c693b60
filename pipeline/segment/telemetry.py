"""Metrics of a segmentation run for dashboards and alerts; Ray exports them to Prometheus, with the prefix `ray_`.

The driver sets them once per shard, so that a run is one set of series however many workers it has.
"""

from typing import Any

from ray.util.metrics import Counter, Gauge

from pipeline.runs import SECONDS
from pipeline.segment.progress import Progress

RUN = ("run",)  # every series carries its run's URI


class SegmentationMetrics:
    """The metrics of one segmentation run."""

    def __init__(self, run: str) -> None:
        self._run = {"run": run}
        self._planned = Gauge("maskmill_images_planned", "Images of the run's plan.", RUN)
        self._done = Gauge("maskmill_images_done", "Images answered so far, by earlier starts of the run too.", RUN)
        self._answered = Counter("maskmill_images_answered", "Images answered by this start.", RUN)
        self._rejects = Counter("maskmill_images_rejected", "Images rejected by this start.", (*RUN, "reason"))
        self._seconds = Counter("maskmill_stage_seconds", "Seconds of all actors in one stage.", (*RUN, "stage"))

    def begin(self, progress: Progress) -> None:
        """Set the gauges when a run begins, and after each shard."""
        # Each time: a value that is set once may disappear after the first export.
        self._planned.set(progress.images, self._run)
        self._done.set(progress.done, self._run)

    def add(self, row: dict[str, Any], progress: Progress) -> None:
        """Count a committed shard; `progress` includes it already."""
        self.begin(progress)
        self._answered.inc(row["images"], self._run)
        for reason in row["rejects"]:
            self._rejects.inc(1, {**self._run, "reason": reason})
        for name in SECONDS:
            if row[name] > 0:
                self._seconds.inc(row[name], {**self._run, "stage": name.removeprefix("seconds_")})
