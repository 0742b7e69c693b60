"""Search for CRF settings on one half of the images, and judge them on the other half.

The caller does the counting: `Evaluate` returns the counts of settings over the images of one half, by Ray tasks or in a loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from pipeline.config import CrfConfig
from pipeline.corpus import Item
from pipeline.errors import UserError
from pipeline.metrics.bootstrap import interval, resample
from pipeline.metrics.boundary import boundary_iou, count_boundary
from pipeline.metrics.confusion import count_confusion
from pipeline.metrics.iou import class_iou, mean, mean_accuracy, mean_iou, summary_scores

# arXiv:1606.00915, section 4.1: w2 = 3, sigma_gamma = 3, ten steps; w1, sigma_alpha and sigma_beta are searched in RANGES.
SMOOTH_WEIGHT, SMOOTH_PX, STEPS = 3.0, 3.0, 10
RANGES = {"colour_weight": (3.0, 6.0), "colour_px": (30.0, 100.0), "colour_levels": (3.0, 6.0)}
# Weights to try for each class: below 0.5 a class disappears, above 2 it spreads over the image.
CLASS_WEIGHTS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
SEED = 0  # for the halves and the intervals
BOUNDARY_PX = 3  # width of the band of the boundary IoU
_FEWEST_SEQUENCES = 6  # with fewer, halves of whole sequences differ too much

Counts = np.ndarray  # (I, K) int64: confusion (C * C) and boundary counts (10 * C) of each image
Tried = dict[CrfConfig | None, Counts]
Evaluate = Callable[[Sequence[CrfConfig | None]], Tried]
Change = tuple[float, float, float]  # change, low end, high end


@dataclass(frozen=True)
class Setting:
    """One setting of the CRF (None: no CRF) and its scores over some images."""

    crf: CrfConfig | None
    miou: float
    class_accuracy: float


@dataclass(frozen=True)
class Found:
    """Result of a search over one half of the images."""

    settings: list[Setting]  # all that were tried, best first
    shared: CrfConfig  # the best of those that treat all classes alike
    weighted: CrfConfig | None  # the same with class weights, if they improve it on these images


@dataclass(frozen=True)
class Judged:
    """A setting on images that the search did not see, with its change from no CRF: 95 % intervals, resampled by image."""

    setting: Setting
    change: dict[str, Change]  # miou, class_accuracy, boundary_iou
    class_iou: dict[str, float]
    class_change: dict[str, Change]

    @property
    def helps(self) -> bool:
        """Whether the interval of the change in mIoU lies above 0."""
        return self.change["miou"][1] > 0


def halves(items: Sequence[Item]) -> tuple[list[int], list[int], str]:
    """Return indices of the items to search on and of those to judge on, and what was split: sequences or images.

    Frames of one sequence look alike, so sequences are kept whole if there are six or more.

    Raises:
        UserError: there are fewer than two items.
    """
    if len(items) < 2:
        raise UserError(f"the search needs two labelled images, one to judge on, and found {len(items)}; take more")
    sequences = [(item.groups.get("city"), item.groups.get("sequence")) for item in items]
    whole = len(set(sequences)) >= _FEWEST_SEQUENCES and all(sequence is not None for _, sequence in sequences)
    places: dict[object, list[int]] = {}
    for index, sequence in enumerate(sequences):
        places.setdefault(sequence if whole else index, []).append(index)
    dealt = list(places.values())
    both: tuple[list[int], list[int]] = ([], [])
    for number in np.random.default_rng(SEED).permutation(len(dealt)):
        both[len(both[0]) > len(both[1])].extend(dealt[number])
    return sorted(both[0]), sorted(both[1]), "sequences" if whole else "images"


def count(label: np.ndarray, mask: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the row of one image in `Counts`, from its label and the mask of a setting, both (H, W) uint8."""
    confusion = count_confusion(label, mask, num_classes)
    return np.concatenate([confusion.ravel(), count_boundary(label, mask, num_classes, (BOUNDARY_PX,)).ravel()])


def search(own: CrfConfig | None, evaluate: Evaluate, classes: Sequence[str]) -> Found:
    """Search coarse to fine over w1, sigma_alpha and sigma_beta, then for a weight of each class, one after the other.

    Args:
        own: a setting to try too, in the exact mode like all others; it sets the number of steps.
        evaluate: returns counts over the images to search on.
    """
    own = own and own.model_copy(update={"mode": "exact"})
    steps = own.iterations if own is not None and own.iterations else STEPS
    coarse = _grid(steps, {name: np.linspace(*ends, 3).tolist() for name, ends in RANGES.items()})
    tried = evaluate([None, *([own] if own is not None and own not in coarse else []), *coarse])
    best = _best(tried, classes)
    tried |= evaluate([crf for crf in _around(steps, best) if crf not in tried])
    shared = _best(tried, classes)
    starts = [shared, *([own] if own is not None and own.class_weights else [])]
    weighted = _weigh(max(starts, key=lambda crf: _miou(tried[crf], classes)), tried, evaluate, classes)
    settings = [setting_of(crf, counts, len(classes)) for crf, counts in tried.items()]
    return Found(sorted(settings, key=lambda one: -one.miou), shared, None if weighted == shared else weighted)


def _weigh(best: CrfConfig, tried: Tried, evaluate: Evaluate, classes: Sequence[str]) -> CrfConfig:
    """Improve a setting by a weight for each class, those first that it harms most; add all counts to `tried`."""
    before, after = (class_iou(_sum(tried[crf], len(classes))) for crf in (None, best))
    for index in np.argsort(after - before, kind="stable"):  # NaN, of absent classes, is last
        if np.isnan(after[index]):
            break
        own = best.class_weights.get(classes[index], 1.0)
        several = [_with_weight(best, classes[index], weight) for weight in CLASS_WEIGHTS if weight != own]
        tried |= evaluate([crf for crf in several if crf not in tried])
        best = max([best, *several], key=lambda crf: _miou(tried[crf], classes))  # ties: the first
    return best


def _with_weight(crf: CrfConfig, name: str, weight: float) -> CrfConfig:
    weights = {**crf.class_weights, name: weight}
    return crf.model_copy(update={"class_weights": {key: value for key, value in weights.items() if value != 1}})


def _grid(steps: int, values: dict[str, list[float]]) -> list[CrfConfig]:
    return [
        CrfConfig(
            iterations=steps, smooth_weight=SMOOTH_WEIGHT, smooth_px=SMOOTH_PX, **dict(zip(values, point, strict=True))
        )
        for point in product(*values.values())
    ]


def _around(steps: int, best: CrfConfig) -> list[CrfConfig]:
    """Return the settings half a coarse step from the best one, in every direction."""
    values = {}
    for name, (low, high) in RANGES.items():
        half, middle = (high - low) / 4, getattr(best, name)
        values[name] = [value for value in (middle - half, middle, middle + half) if value > 0]
    return _grid(steps, values)


def _best(tried: Tried, classes: Sequence[str]) -> CrfConfig:
    """Return the best setting that treats all classes alike."""
    alike = (crf for crf in tried if crf is not None and not crf.class_weights)
    return max(alike, key=lambda crf: _miou(tried[crf], classes))


def _miou(counts: Counts, classes: Sequence[str]) -> float:
    return mean_iou(_sum(counts, len(classes)))


def _sum(counts: Counts, num_classes: int) -> np.ndarray:
    return counts.sum(axis=0)[: num_classes**2].reshape(num_classes, num_classes)


def setting_of(crf: CrfConfig | None, counts: Counts, num_classes: int) -> Setting:
    """Return a setting with its scores over all images of the counts."""
    confusion = _sum(counts, num_classes)
    return Setting(crf, mean_iou(confusion), mean_accuracy(confusion))


def judge(crf: CrfConfig | None, tried: Tried, classes: Sequence[str]) -> Judged:
    """Compare a setting with no CRF on images that the search did not see; `tried` has the counts of both."""
    num_classes = len(classes)

    def changes(sums: np.ndarray) -> np.ndarray:
        """(D, 2 K) sums without and with the CRF -> (D, 3 + C) changes."""
        before, after = (_figures(half, num_classes) for half in np.split(sums, 2, axis=1))
        return after - before

    both = np.concatenate([tried[None], tried[crf]], axis=1)
    (change,) = changes(both.sum(axis=0, keepdims=True).astype(np.float64))
    low, high = interval(resample(both, changes, seed=SEED))
    ends = [(float(one), float(least), float(most)) for one, least, most in zip(change, low, high, strict=True)]
    each = class_iou(_sum(tried[crf], num_classes))
    return Judged(
        setting_of(crf, tried[crf], num_classes),
        dict(zip(("miou", "class_accuracy", "boundary_iou"), ends[:3], strict=True)),
        {name: float(iou) for name, iou in zip(classes, each, strict=True)},
        dict(zip(classes, ends[3:], strict=True)),
    )


def judge_all(found: Found, evaluate: Evaluate, classes: Sequence[str]) -> tuple[Judged, Judged, Judged | None]:
    """Judge no CRF, the shared setting and the one with class weights (None if the search found none).

    Args:
        evaluate: returns counts over images that the search did not see.
    """
    tried = evaluate([None, found.shared, *([found.weighted] if found.weighted else [])])
    weighted = judge(found.weighted, tried, classes) if found.weighted else None
    return judge(None, tried, classes), judge(found.shared, tried, classes), weighted


def _figures(sums: np.ndarray, num_classes: int) -> np.ndarray:
    """(D, K) sums -> (D, 3 + C): mIoU, mean class accuracy, mean boundary IoU, IoU of each class."""
    square = num_classes**2
    confusion = sums[:, :square].reshape(-1, num_classes, num_classes)
    scores = summary_scores(confusion)
    boundary = np.stack([mean(boundary_iou(row[square:].reshape(-1, num_classes))) for row in sums])
    return np.column_stack([scores["miou"], scores["mean_accuracy"], boundary, class_iou(confusion)])


def chosen(judged: Sequence[Judged]) -> CrfConfig | None:
    """Return the last setting that helps, or None; `judged` has those with fewer free parameters first."""
    return next((one.setting.crf for one in reversed(judged) if one.helps), None)
