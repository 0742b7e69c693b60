"""The report's charts: scores of images, sizes of regions, throughput over time."""

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.analysis.pictures import Pictures
from pipeline.analysis.report.header import span
from pipeline.analysis.run_view import RunView
from pipeline.imaging.regions import region_sizes
from pipeline.labels import IGNORE, LabelSpace
from pipeline.metrics import charts
from pipeline.metrics.charts import Plot
from pipeline.metrics.metric import percent
from pipeline.runs.parts import part_at

REGION_IMAGES = 24  # images whose regions are measured
REGION_PIXELS = 16_000_000  # larger masks are left out, since measuring takes twelve bytes per pixel
SCORE_BINS = 20
STEPS = 40  # of the throughput chart
MAX_LATE_S = 60  # a part stored later than this after the run's end is a copy, whose time says nothing


class Regions:
    """Sizes, in pixels, of the regions of some images: predicted ones and, if there are labels, true ones."""

    def __init__(self, space: LabelSpace, ids: set[str]) -> None:
        self.images, self._space, self._ids = 0, space, ids
        self._sizes: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"prediction": [], "truth": []}

    def add(self, one: Pictures) -> None:
        """Measure an image if it is one of the sample; pixels that the label ignores are ignored in the prediction too."""
        if one.image_id not in self._ids or one.mask.size > REGION_PIXELS:
            return
        mask, label = one.mask, one.label
        self.images += 1
        if label is not None:
            mask = np.where(label == IGNORE, label, mask)
            self._sizes["truth"].append(region_sizes(label))
        self._sizes["prediction"].append(region_sizes(mask))

    def facts(self) -> dict[str, Any] | None:
        """Return chart and table; None if no region was measured."""
        found = {kind: _joined(parts) for kind, parts in self._sizes.items() if parts}
        if "prediction" not in found or not len(found["prediction"][0]):
            return None
        rows = []
        for index, name in enumerate(self._space.classes):
            cells = {kind: sizes[ids == index] for kind, (sizes, ids) in found.items()}
            if any(len(sizes) for sizes in cells.values()):
                rows.append({"name": name, **{kind: self._of_class(sizes) for kind, sizes in cells.items()}})
        return {"picture": self._chart(found), "rows": rows, "images": self.images, "truth": "truth" in found}

    def _of_class(self, sizes: np.ndarray) -> dict[str, float | None]:
        return {
            "an_image": len(sizes) / self.images,
            "median": float(np.median(sizes)) if len(sizes) else None,
        }

    def _chart(self, found: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
        """Draw the regions per image by size, two bins per decade, truth beside prediction."""
        top = max(int(sizes.max()) for sizes, _ in found.values() if len(sizes))
        decades = len(str(top))  # 10^decades is above the largest
        edges = np.logspace(0, decades, 2 * decades + 1)
        counts = {kind: np.histogram(sizes, edges)[0] / self.images for kind, (sizes, _) in found.items()}
        high, ticks = charts.scale(max(float(values.max()) for values in counts.values()))
        names = [(k / decades, charts.number(10**k)) for k in range(decades + 1)]
        words = f"Regions of {self.images} images by size in pixels, on a logarithmic axis."
        plot = Plot("size of a region, px", "regions an image", names, ticks, words)
        body, shown = [], [kind for kind in ("truth", "prediction") if kind in counts]
        for place, kind in enumerate(shown):
            for index, value in enumerate(counts[kind]):
                left = (index + 0.1 + 0.8 * place / len(shown)) / len(counts[kind])
                right = left + 0.8 / len(shown) / len(counts[kind])
                title = f"{kind}: {value:.2f} regions an image of {edges[index]:.0f} to {edges[index + 1]:.0f} px"
                colour = "raw" if kind == "truth" else "accent"
                body.append(plot.bar(left, right, 0, float(value) / high, colour, title))
        return plot.svg("".join(body))


def _joined(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    sizes, ids = zip(*parts, strict=True)
    return np.concatenate(sizes), np.concatenate(ids)


def score_chart(scores: np.ndarray, name: str) -> str | None:
    """Draw a histogram of the images' own scores (N,), fractions of 1; None for fewer than ten images."""
    if len(scores) < 10:
        return None
    counts, _ = np.histogram(scores, SCORE_BINS, (0, 1))
    high, ticks = charts.scale(float(counts.max()))
    median = float(np.median(scores))
    words = f"{name} of {len(scores)} images; the median is {percent(median)} percent."
    plot = Plot(f"{name} of one image, %", "images", charts.percent_ticks(), ticks, words)
    bars = [
        plot.bar((k + 0.08) / SCORE_BINS, (k + 0.92) / SCORE_BINS, 0, count / high, "accent", f"{count} images")
        for k, count in enumerate(counts)
    ]
    line = plot.line([(median, 0), (median, 1)], "stroke:var(--ink);stroke-dasharray:4 4")
    return plot.svg("".join(bars) + line)


def throughput(view: RunView) -> str | None:
    """Draw images per second over time, by when each part was stored; None if those times are not known or of a copy."""
    begun, finished = datetime.fromisoformat(view.description.created).timestamp(), view.finished()
    if not finished or view.description.compacted_from is not None or view.generation > 1:
        return None
    times, images = _stored(view)
    end = datetime.fromisoformat(finished).timestamp()
    if len(times) < 3 or times[0] < begun - 1 or times[-1] > end + MAX_LATE_S or times[-1] - begun < 3:
        return None
    steps = _steps(times - begun, images)
    length = steps[-1][1]
    high, ticks = charts.scale(max(rate for _, _, rate in steps))
    across = [(share, span(length * share)) for share in (0, 0.5, 1)]
    words = f"Images a second over {span(length)}, in {len(steps)} steps."
    plot = Plot("since the run was begun", "images/s", across, ticks, words)
    corners = [(x / length, rate / high) for start, stop, rate in steps for x in (start, stop)]
    area = plot.line([(0, 0), *corners, (1, 0)], "fill:var(--wash)")
    return plot.svg(area + plot.line(corners, "stroke:var(--accent);stroke-width:2"))


def _stored(view: RunView) -> tuple[np.ndarray, np.ndarray]:
    """Return when each masks part was stored, in seconds since 1970, in order, and how many images it answers."""
    sizes, found = view.plan().sizes(), []
    for file in storage.scan(storage.join(view.uri, "masks")):
        part = part_at(view.uri, "masks", file)
        if part and file.modified is not None:
            found.append((file.modified, int(sizes[part.first : part.last + 1].sum())))
    found.sort()
    return np.array([time for time, _ in found]), np.array([number for _, number in found])


def _steps(times: np.ndarray, images: np.ndarray) -> list[tuple[float, float, float]]:
    """Return (from, to, images per second) of at most STEPS spans with about equally many images; none is below 0.5 s."""
    ends = np.unique(np.linspace(0, len(times), min(STEPS, len(times)) + 1).round().astype(int))
    steps, start, number = [], 0.0, 0
    for first, last in pairwise(ends):
        number += int(images[first:last].sum())
        stop = float(times[last - 1])
        if stop - start >= 0.5:
            steps.append((start, stop, number / (stop - start)))
            start, number = stop, 0
    return steps
