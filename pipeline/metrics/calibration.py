"""Confidence histograms: how often the network is right at each confidence, as counts that can be summed."""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from pipeline.compiled import compiled
from pipeline.errors import UserError
from pipeline.labels import IGNORE, LabelSpace
from pipeline.metrics import charts
from pipeline.metrics.metric import Card, LabelledImage, Metric, Section, percent

LEVELS = 65535  # confidences are summed as whole numbers of 1/LEVELS, so that sums are exact in any order


class Calibration(Metric):
    """How far the network's confidence is from its accuracy; setting: bins of the confidence histogram, 0 = off."""

    key, declaration = "calibration_bins", (Annotated[int, Field(ge=0, le=1000)], 0)
    doc = "[bins] Bins of confidence in which it is compared with accuracy, such as 15; 0 = off."
    columns, in_every_part = ("calibration",), True  # 3 * bins numbers, see count_confidence
    needs = frozenset({"confidence"})
    section_id = "calibration"

    def cells(self, setting: int, num_classes: int) -> int:
        return 3 * setting

    def count(self, image: LabelledImage, setting: int) -> dict[str, np.ndarray]:
        assert image.confidence is not None
        return {"calibration": count_confidence(image.label, image.mask, image.confidence, setting)}

    def scores(
        self, summed: Callable[[str], np.ndarray], setting: int, space: LabelSpace, raw: bool = False
    ) -> dict[str, Any]:
        """`pixels`, `accuracy`, `confidence`: (bins,) each; `ece`: the expected calibration error."""
        counts = summed("calibration").reshape(3, -1)
        pixels, right, confidence = counts
        whole = np.where(pixels > 0, pixels, np.nan)
        bins = {"pixels": pixels, "accuracy": right / whole, "confidence": confidence / LEVELS / whole}
        return bins | {"ece": calibration_error(counts)}

    def headline(self, scores: dict[str, Any]) -> dict[str, float]:
        return {"calibration error (ECE)": scores["ece"]}

    def section(self, scores: dict[str, Any], raw: None, space: LabelSpace) -> Section:
        note = f"expected, {len(scores['pixels'])} bins"
        card = Card("ece", "calibration error, %", percent(scores["ece"]), note)
        words = (
            "Below the diagonal the network is surer than it is right. Grey: each bin's share of the labelled pixels."
        )
        return Section((card,), self.section_id, "Reliability", picture=reliability(scores), note=words)


def reliability(scores: dict[str, Any]) -> str:
    """Draw accuracy over confidence, bin by bin, with each bin's share of the pixels, as inline SVG.

    Source: Guo et al. 2017 (arXiv:1706.04599), figure 1.
    """
    pixels, accuracy, confidence = scores["pixels"], scores["accuracy"], scores["confidence"]
    bins, total = len(pixels), max(int(pixels.sum()), 1)
    words = f"Reliability diagram of {bins} bins; expected calibration error {percent(scores['ece'])} percent."
    plot = charts.Plot("confidence, %", "accuracy, %", charts.percent_ticks(), charts.percent_ticks(), words)
    body = []
    for index in range(bins):
        if not pixels[index]:
            continue
        left, right, share = index / bins, (index + 1) / bins, pixels[index] / total
        means = f"confidence {percent(confidence[index])} %, accuracy {percent(accuracy[index])} %"
        title = f"{means}, {percent(share)} % of the pixels"
        body.append(plot.bar(left + 0.1 / bins, right - 0.1 / bins, 0, accuracy[index], "accent", title))
        body.append(plot.bar(left + 0.35 / bins, right - 0.35 / bins, 0, share, "raw", title))
    body.append(plot.line([(0, 0), (1, 1)], "stroke:var(--ink);stroke-dasharray:4 4"))
    return plot.svg("".join(body))


def count_confidence(label: np.ndarray, mask: np.ndarray, confidence: np.ndarray, bins: int) -> np.ndarray:
    """Count, per confidence bin, the labelled pixels, those that are right, and their summed confidence.

    Args:
        label, mask: (H, W) uint8 train ids; pixels with label 255 count nowhere.
        confidence: (H, W) float32, the probability of the predicted class.
        bins: equal parts of 0..1; 1.0 belongs to the last.
    Returns:
        (3, bins) int64: pixels, right pixels, confidence in units of 1/LEVELS.
    Raises:
        UserError: shapes differ.
    Source: Guo et al. 2017 (arXiv:1706.04599), section 2, equations 1 and 2.
    """
    if not label.shape == mask.shape == confidence.shape:
        raise UserError(f"label {label.shape}, mask {mask.shape} and confidence {confidence.shape} differ in size")
    return _count(label.ravel(), mask.ravel(), confidence.ravel(), bins, IGNORE)


def calibration_error(counts: np.ndarray) -> float:
    """ECE: the mean gap between accuracy and confidence over bins, weighted by pixels; NaN where nothing was counted.

    Args:
        counts: (3, bins), summed.
    Source: Guo et al. 2017 (arXiv:1706.04599), equation 3.
    """
    pixels, right, confidence = counts
    total = pixels.sum()
    return float(np.abs(right - confidence / LEVELS).sum() / total) if total else float("nan")


@compiled()
def _count(label: np.ndarray, mask: np.ndarray, confidence: np.ndarray, bins: int, ignore: int) -> np.ndarray:
    counts = np.zeros((3, bins), np.int64)
    for pixel in range(label.size):
        if label[pixel] == ignore:
            continue
        value = min(max(confidence[pixel], 0.0), 1.0)
        place = min(int(value * bins), bins - 1)
        counts[0, place] += 1
        counts[1, place] += label[pixel] == mask[pixel]
        counts[2, place] += int(value * LEVELS + 0.5)
    return counts
