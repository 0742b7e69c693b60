"""Counts near class boundaries, for all classes at once: boundary IoU, boundary F, and the trimap.

Distances use a square window (Chebyshev), as in the reference code of Boundary IoU. Every pixel belongs to one class in
truth and one in prediction, so a class that neither holds is counted nowhere. Ignored pixels count nowhere: there the
prediction is taken as ignored too.
"""

from collections.abc import Callable, Iterator
from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline.errors import UserError
from pipeline.labels import IGNORE, LabelSpace
from pipeline.metrics import charts
from pipeline.metrics.iou import iou_of, mean, ratio
from pipeline.metrics.metric import LabelledImage, Metric, Section, percent, points
from pipeline.metrics.near_edges import GROUP, count_bands, count_contours, count_hits, find_edges, mark_near

ROWS = (
    "band_right", "band_predicted", "band_labelled",  # pixels of a class within `width` of its edge
    "contour_predicted", "contour_predicted_hit", "contour_labelled", "contour_labelled_hit",  # pixels on its edge
    "trimap_right", "trimap_predicted", "trimap_labelled",  # all pixels within `width` of an edge of the truth
)  # fmt: skip
MAX_WIDTH_PX = 254  # largest width of a band
MAX_BARS = 40  # classes in the report's chart

Widths = tuple[int, ...]
Scores = dict[tuple[int, str], np.ndarray]  # (band width, score) -> (C,)


class Boundary(Metric):
    """Boundary IoU, boundary F and mIoU in the trimap; setting: band widths in pixels, () = off."""

    key, declaration = "boundary_px", (tuple[Annotated[int, Field(ge=1, le=MAX_WIDTH_PX)], ...], ())
    doc = "[pixels] Widths of the bands along edges in which boundary IoU and F-score are counted, such as [1, 3]; empty = off."
    columns, in_every_part = ("boundary", "boundary_raw"), True  # widths * 10 * C numbers, see count_boundary

    def metadata(self, setting: Widths) -> dict[str, str]:
        return {"width_px": ",".join(str(width) for width in setting)}

    def cells(self, setting: Widths, num_classes: int) -> int:
        return len(setting) * len(ROWS) * num_classes

    def count(self, image: LabelledImage, setting: Widths) -> dict[str, np.ndarray]:
        masks = {"boundary": image.mask, "boundary_raw": image.raw}
        return {
            name: count_boundary(image.label, mask, image.space.num_classes, setting)
            for name, mask in masks.items()
            if mask is not None
        }

    def scores(
        self, summed: Callable[[str], np.ndarray], setting: Widths, space: LabelSpace, raw: bool = False
    ) -> Scores:
        """(band width, `boundary_iou`, `boundary_f` or `trimap_iou`) -> (C,) float64."""
        counts = summed("boundary_raw" if raw else "boundary").reshape(len(setting), len(ROWS), -1)
        return {
            (width, score.__name__): score(values)
            for width, values in zip(setting, counts, strict=True)
            for score in (boundary_iou, boundary_f, trimap_iou)
        }

    def headline(self, scores: Scores) -> dict[str, float]:
        words = {"boundary_iou": "boundary IoU", "boundary_f": "boundary F", "trimap_iou": "trimap IoU"}
        return {f"{words[score]}, {width} px": float(mean(values)) for (width, score), values in scores.items()}

    def section(self, scores: Scores, raw: Scores | None, space: LabelSpace) -> Section:
        words = {"boundary_iou": "boundary IoU", "boundary_f": "boundary F", "trimap_iou": "mIoU in the trimap"}
        rows = []
        for (width, score), values in scores.items():
            value, row = float(mean(values)), [words[score], str(width)]
            if raw is None:
                rows.append([*row, percent(value)])
            else:
                before = float(mean(raw[width, score]))
                rows.append([*row, percent(before), percent(value), points(value - before)])
        shown = ["value"] if raw is None else ["raw", "with CRF", "change"]
        headings = ["score, mean of classes", "band, px", *shown]
        width_px = min(width for width, _ in scores)
        before_crf = "" if raw is None else "; grey: before the CRF"
        note = f"Bars: boundary IoU of each class in a band of {width_px} px, percent{before_crf}."
        of_raw = None if raw is None else raw[width_px, "boundary_iou"]
        picture = _class_bars(scores[width_px, "boundary_iou"], of_raw, space, note)
        return Section((), "boundary", "Near class boundaries, percent", headings, rows, picture, note)


def _class_bars(values: np.ndarray, raw: np.ndarray | None, space: LabelSpace, words: str) -> str:
    """Draw one row per class that occurs, at most `MAX_BARS`."""
    shown = np.flatnonzero(~np.isnan(values))[:MAX_BARS]
    series = [] if raw is None else [("raw", raw[shown].tolist())]
    names = [space.classes[index] for index in shown]
    return charts.share_bars(names, [*series, ("accent", values[shown].tolist())], "boundary IoU, %", words)


def count_boundary(label: np.ndarray, mask: np.ndarray, num_classes: int, widths_px: tuple[int, ...]) -> np.ndarray:
    """Count, per class, what lies near boundaries.

    A pixel is within `width` of its class's edge if the window of (2 width + 1)^2 around it holds another id or leaves the
    image. A contour pixel has another class among its eight neighbours; it is hit if the other picture has a contour pixel of
    the same class within `width`. The trimap is where the truth's window holds two ids; there, the image's border does not
    count as a boundary.

    Args:
        label: (H, W) uint8 train ids, 255 = ignore; mask: (H, W) uint8 train ids below `num_classes`.
        widths_px: band widths, 1 to 254 pixels.
    Returns:
        (len(widths_px), 10, C) int64, pixels; rows as ROWS.
    Raises:
        UserError: shapes differ, or a width is out of range.
    Source: Boundary IoU (arXiv:2103.16562), section 4; BF, Csurka et al. 2013, section 3 (a square window instead of a
        disc); trimap, Kohli et al. 2009, section 5.
    """
    if label.shape != mask.shape:
        raise UserError(f"label {label.shape} and mask {mask.shape} differ in size; both are of one image")
    if not all(1 <= width <= MAX_WIDTH_PX for width in widths_px):
        raise UserError(f"band widths {list(widths_px)} px: each must be 1 to {MAX_WIDTH_PX}")
    label = np.ascontiguousarray(label)
    mask = np.where(label == IGNORE, np.uint8(IGNORE), mask)
    counts = np.zeros((len(widths_px), len(ROWS), num_classes), np.int64)
    if not label.size:
        return counts
    label_edges, mask_edges = find_edges(label), find_edges(mask)
    contours = np.zeros((2, num_classes), np.int64)  # predicted, labelled
    count_contours(mask, mask_edges, contours[0])
    count_contours(label, label_edges, contours[1])
    groups = list(_groups(np.flatnonzero(contours.all(axis=0))))
    for rows, width in zip(counts, widths_px, strict=True):
        count_bands(label, mask, mark_near(label_edges, width - 1), mark_near(mask_edges, width - 1), width, rows)
        rows[3], rows[5] = contours
        for bits in groups:
            count_hits(mask, mask_edges, label, label_edges, width, bits, rows[4])
            count_hits(label, label_edges, mask, mask_edges, width, bits, rows[6])
    return counts


def _groups(classes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield (256,) uint64 per group of classes: a bit of its own for each class of the group, 0 for all others."""
    for first in range(0, len(classes), GROUP):
        bits = np.zeros(256, np.uint64)
        group = classes[first : first + GROUP]
        bits[group] = np.uint64(1) << np.arange(len(group), dtype=np.uint64)
        yield bits


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """(C,) float64 of summed counts (10, C); NaN for a class in neither band."""
    return iou_of(counts[0], counts[1], counts[2])


def boundary_f(counts: np.ndarray) -> np.ndarray:
    """(C,) float64: 2 P R / (P + R) of contour pixels; NaN for a class with no contour in either picture."""
    predicted, predicted_hit, labelled, labelled_hit = counts[3:7]
    precision, recall = ratio(predicted_hit, predicted), ratio(labelled_hit, labelled)
    both = np.nan_to_num(precision) + np.nan_to_num(recall)
    score = 2 * np.nan_to_num(precision) * np.nan_to_num(recall) / np.where(both > 0, both, 1)
    return np.where(predicted + labelled > 0, score, np.nan)


def trimap_iou(counts: np.ndarray) -> np.ndarray:
    """(C,) float64: IoU of the pixels within the band around the truth's boundaries."""
    return iou_of(counts[7], counts[8], counts[9])
