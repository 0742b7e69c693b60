"""Counts near class boundaries, for all classes at once: boundary IoU, boundary F, and the trimap.

Distances are of a square window (Chebyshev), as in the reference code of Boundary IoU. Every pixel belongs to one class in
truth and one in prediction, so a class that neither holds is counted nowhere. Ignored pixels count nowhere: there the
prediction is taken as ignored too.
"""

from collections.abc import Callable
from typing import Annotated

import numpy as np
from pydantic import Field

from pipeline.compiled import compiled
from pipeline.errors import UserError
from pipeline.labels import IGNORE, LabelSpace
from pipeline.metrics import charts
from pipeline.metrics.iou import iou_of, mean, ratio
from pipeline.metrics.metric import LabelledImage, Metric, Section, percent, points

ROWS = (
    "band_right", "band_predicted", "band_labelled",  # pixels of a class within `width` of its edge
    "contour_predicted", "contour_predicted_hit", "contour_labelled", "contour_labelled_hit",  # pixels on its edge
    "trimap_right", "trimap_predicted", "trimap_labelled",  # all pixels within `width` of an edge of the truth
)  # fmt: skip
_FAR = 255
MAX_BARS = 40  # classes in the report's chart

Widths = tuple[int, ...]
Scores = dict[tuple[int, str], np.ndarray]  # (band width, score) -> (C,)


class Boundary(Metric):
    """Boundary IoU, boundary F and mIoU in the trimap; setting: band widths in pixels, () = off."""

    key, declaration = "boundary_px", (tuple[Annotated[int, Field(ge=1, le=_FAR - 1)], ...], ())
    doc = "[pixels] Widths of the bands along edges in which boundary IoU and F-score are counted, such as [1, 3]; empty = off."
    columns, in_every_part = ("boundary", "boundary_raw"), True  # widths * 10 * C, as count_boundary

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
    """One row a class that occurs, of the first `MAX_BARS`."""
    shown = np.flatnonzero(~np.isnan(values))[:MAX_BARS]
    series = [] if raw is None else [("raw", raw[shown].tolist())]
    names = [space.classes[index] for index in shown]
    return charts.share_bars(names, [*series, ("accent", values[shown].tolist())], "boundary IoU, %", words)


def count_boundary(label: np.ndarray, mask: np.ndarray, num_classes: int, widths_px: tuple[int, ...]) -> np.ndarray:
    """Count, per class, what lies near boundaries.

    A pixel is within `width` of its class's edge where the window of (2 width + 1)^2 around it holds another id, or leaves
    the image. A contour pixel has another class among its eight neighbours; it is hit where the other picture has a contour
    pixel of the same class within `width`. The trimap is where the truth's window holds two ids; the image's edge is no
    boundary there.

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
    if not all(1 <= width < _FAR for width in widths_px):
        raise UserError(f"band widths {list(widths_px)} px: each must be 1 to {_FAR - 1}")
    label = np.ascontiguousarray(label)
    mask = np.where(label == IGNORE, np.uint8(IGNORE), mask)
    counts = np.zeros((len(widths_px), len(ROWS), num_classes), np.int64)
    if label.size:
        far = [_distance(_edges(ids, False)) for ids in (label, mask)]
        contours = [_edges(ids, True) for ids in (label, mask)]
        for place, width in enumerate(widths_px):
            _bands(label, mask, far[0], far[1], width, counts[place])
            _contours(label, mask, contours[0], contours[1], width, counts[place])
    return counts


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


@compiled()
def _edges(ids: np.ndarray, between_classes: bool) -> np.ndarray:
    """(H, W) bool: one of the eight neighbours has another id; `between_classes`: and neither is ignored."""
    height, width = ids.shape
    edges = np.zeros((height, width), np.bool_)
    for y in range(height):
        for x in range(width):
            here = ids[y, x]
            if between_classes and here == IGNORE:
                continue
            for v in range(max(y - 1, 0), min(y + 2, height)):
                for u in range(max(x - 1, 0), min(x + 2, width)):
                    other = ids[v, u]
                    if other != here and not (between_classes and other == IGNORE):
                        edges[y, x] = True
    return edges


@compiled()
def _distance(edges: np.ndarray) -> np.ndarray:
    """(H, W) uint8 Chebyshev distance to the nearest edge pixel, 255 where it is farther: two passes are exact."""
    height, width = edges.shape
    far = np.full((height, width), _FAR, np.uint8)
    for y in range(height):
        for x in range(width):
            nearest = _FAR
            if edges[y, x]:
                nearest = -1
            elif y or x:
                if x:
                    nearest = min(nearest, far[y, x - 1])
                if y:
                    for u in range(max(x - 1, 0), min(x + 2, width)):
                        nearest = min(nearest, far[y - 1, u])
            far[y, x] = min(nearest + 1, _FAR)
    for y in range(height - 1, -1, -1):
        for x in range(width - 1, -1, -1):
            nearest = _FAR
            if x < width - 1:
                nearest = min(nearest, far[y, x + 1])
            if y < height - 1:
                for u in range(max(x - 1, 0), min(x + 2, width)):
                    nearest = min(nearest, far[y + 1, u])
            far[y, x] = min(nearest + 1, far[y, x])
    return far


@compiled()
def _bands(
    label: np.ndarray, mask: np.ndarray, label_far: np.ndarray, mask_far: np.ndarray, width_px: int, counts: np.ndarray
) -> None:
    """Rows 0-2 and 7-9 of one width. A window of radius w holds two ids where an edge pixel is within w - 1."""
    height, width = label.shape
    for y in range(height):
        for x in range(width):
            truth, found = label[y, x], mask[y, x]
            if truth == IGNORE:
                continue
            leaves = min(y, x, height - 1 - y, width - 1 - x) < width_px
            in_truth = leaves or label_far[y, x] < width_px
            in_found = leaves or mask_far[y, x] < width_px
            counts[0, truth] += truth == found and in_truth and in_found
            counts[1, found] += in_found
            counts[2, truth] += in_truth
            if label_far[y, x] < width_px:
                counts[7, truth] += truth == found
                counts[8, found] += 1
                counts[9, truth] += 1


@compiled()
def _contours(
    label: np.ndarray, mask: np.ndarray, label_on: np.ndarray, mask_on: np.ndarray, width_px: int, counts: np.ndarray
) -> None:
    """Rows 3-6 of one width."""
    height, width = label.shape
    for y in range(height):
        for x in range(width):
            if mask_on[y, x]:
                counts[3, mask[y, x]] += 1
                counts[4, mask[y, x]] += _hit(label, label_on, y, x, mask[y, x], width_px)
            if label_on[y, x]:
                counts[5, label[y, x]] += 1
                counts[6, label[y, x]] += _hit(mask, mask_on, y, x, label[y, x], width_px)


@compiled()
def _hit(ids: np.ndarray, on: np.ndarray, y: int, x: int, wanted: int, width_px: int) -> bool:
    """Whether a contour pixel of the class lies within the window; nearer rows first."""
    height, width = ids.shape
    for step in range(2 * width_px + 1):
        v = y + (step + 1) // 2 * (1 if step % 2 else -1)
        if 0 <= v < height:
            for u in range(max(x - width_px, 0), min(x + width_px + 1, width)):
                if on[v, u] and ids[v, u] == wanted:
                    return True
    return False
