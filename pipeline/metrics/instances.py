"""Instance-weighted counts for iIoU: every object weighs the same, however large it appears in the image."""

import math
from collections.abc import Callable

import numpy as np

from pipeline.compiled import compiled
from pipeline.errors import UserError
from pipeline.labels import LabelSpace
from pipeline.metrics.iou import ratio
from pipeline.metrics.metric import LabelledImage, Metric

COLUMNS = ("instances", "pixels", "right", "right_share", "right_category", "right_category_share")
SHARE = 1 << 36  # shares of an instance are whole numbers of 1/SHARE, so that sums are exact in any order
_STEP = 1000  # instance id = stored class id * 1000 + number

# Mean pixels of an instance in Cityscapes: cityscapesscripts/evaluation/evalPixelLevelSemanticLabeling.py, avgClassSize.
MEAN_PIXELS: dict[str, dict[str, float]] = {
    "cityscapes19": {
        "person": 3462.4756337644,
        "rider": 3930.4788056518,
        "car": 12794.0202738185,
        "truck": 27855.1264367816,
        "bus": 35732.1511111111,
        "train": 67583.7075812274,
        "motorcycle": 6298.7200839748,
        "bicycle": 4672.3249222261,
    }
}


class Instances(Metric):
    """iIoU, from the instanceIds beside Cityscapes' labelIds; setting: on or off."""

    key, declaration = "instances", (bool, False)
    doc = "Count iIoU, which needs instanceIds beside the labels as Cityscapes has them."
    columns, in_every_part = ("instances",), True  # C * 6 numbers, see count_instances
    needs = frozenset({"instances"})

    def check(self, space: LabelSpace) -> None:
        if space.name not in MEAN_PIXELS:
            raise UserError(
                f"metrics.instances: label space {space.name} has no mean instance sizes, iIoU is defined for "
                f"{', '.join(MEAN_PIXELS)}; set it to false"
            )

    def cells(self, setting: bool, num_classes: int) -> int:
        return num_classes * len(COLUMNS)

    def count(self, image: LabelledImage, setting: bool) -> dict[str, np.ndarray]:
        assert image.instances is not None
        return {"instances": count_instances(image.instances, image.mask, image.space)}

    def scores(
        self, summed: Callable[[str], np.ndarray], setting: bool, space: LabelSpace, raw: bool = False
    ) -> dict[str, float]:
        """iIoU of the classes, then of the categories, that have instances."""
        counts, confusion = (summed(name).reshape(space.num_classes, -1) for name in ("instances", "confusion"))
        classes = zip(space.classes, instance_iou(counts, confusion, space), strict=True)
        scores = {name: float(iou) for name, iou in classes if not math.isnan(iou)}
        return scores | category_instance_iou(counts, confusion, space)

    def headline(self, scores: dict[str, float]) -> dict[str, float]:
        return {f"iIoU {name}": value for name, value in scores.items()}


def count_instances(instances: np.ndarray, mask: np.ndarray, space: LabelSpace) -> np.ndarray:
    """Count, per class, its instances and how many of their pixels were found.

    Args:
        instances: (H, W) integers as in Cityscapes' instanceIds: labelId * 1000 + number for an object, else labelId.
        mask: (H, W) uint8 train ids.
    Returns:
        (C, 6) int64, columns as COLUMNS: instances, their pixels, those predicted as the class and as any class of its
        category, and for both the share of each instance's own pixels, summed, in units of 1/SHARE.
    Raises:
        UserError: shapes differ, or an instance's class is not in the label space.
    Source: Cityscapes (arXiv:1604.01685), section 3.2, iIoU; evaluatePair of cityscapesScripts.
    """
    if instances.shape != mask.shape:
        raise UserError(f"instances {instances.shape} and mask {mask.shape} differ in size; both are of one image")
    counts = np.zeros((space.num_classes, len(COLUMNS)), np.int64)
    # Only ids above 1000 are objects; 1000 itself is none, as in cityscapesScripts.
    ids, places = np.unique(np.where(instances > _STEP, instances, 0), return_inverse=True)
    classes = _classes_of(ids, space)
    categories = np.full(256, -1)
    for number, members in enumerate(space.categories.values()):
        categories[list(members)] = number
    pixels = _pixels(places.reshape(-1), mask.reshape(-1), classes, categories)
    for index, (size, right, right_category) in zip(classes, pixels.tolist(), strict=True):
        if index >= 0:
            shares = ((SHARE * part + size // 2) // size for part in (right, right_category))
            share, category_share = shares
            counts[index] += [1, size, right, share, right_category, category_share]
    return counts


def instance_iou(counts: np.ndarray, confusion: np.ndarray, space: LabelSpace) -> np.ndarray:
    """(C,) float64 iIoU: found / (labelled instances + false positives), instances scaled to their class's mean size.

    NaN for classes without instances, and for those in neither truth nor prediction.

    Args:
        counts: (C, 6), summed; confusion: (C, C), summed over the same images.
    """
    mean = _mean_pixels(space)
    found, all_found = mean * counts[:, 3] / SHARE, mean * counts[:, 0]
    false_positive = confusion.sum(0) - np.diagonal(confusion)
    return np.where(mean > 0, ratio(found, all_found + false_positive), np.nan)


def category_instance_iou(counts: np.ndarray, confusion: np.ndarray, space: LabelSpace) -> dict[str, float]:
    """iIoU of the categories all of whose classes have instances."""
    mean = _mean_pixels(space)
    scores = {}
    for name, members in space.categories.items():
        inside = list(members)
        if not (mean[inside] > 0).all():
            continue
        found = (mean * counts[:, 5] / SHARE)[inside].sum()
        whole = (mean * counts[:, 0])[inside].sum() + confusion[:, inside].sum()
        whole -= confusion[np.ix_(inside, inside)].sum()
        scores[name] = float(ratio(found, whole))
    return scores


def _mean_pixels(space: LabelSpace) -> np.ndarray:
    """Return the mean pixels of an instance of each class: (C,) float64, 0 for a class without instances."""
    if space.name not in MEAN_PIXELS:
        raise UserError(
            f"label space {space.name} has no mean instance sizes; iIoU is defined for {', '.join(MEAN_PIXELS)}"
        )
    return np.array([MEAN_PIXELS[space.name].get(name, 0.0) for name in space.classes])


def _classes_of(ids: np.ndarray, space: LabelSpace) -> np.ndarray:
    """Return the class of each id, (len(ids),); -1 for ids that are not an instance or are ignored."""
    stored = {stored_id: index for index, stored_id in enumerate(space.stored_ids)}
    classes = np.full(len(ids), -1)
    for place, instance in enumerate(ids.tolist()):
        if instance == 0:
            continue
        label_id = instance // _STEP
        if label_id in stored:
            classes[place] = stored[label_id]
        elif label_id not in space.ignored_ids:
            raise UserError(f"instance id {instance} is of label id {label_id}, which {space.name} does not have")
    return classes


@compiled()
def _pixels(places: np.ndarray, mask: np.ndarray, classes: np.ndarray, categories: np.ndarray) -> np.ndarray:
    """(ids, 3) int64: pixels, right pixels, pixels right by category of each id."""
    pixels = np.zeros((classes.size, 3), np.int64)
    for pixel in range(places.size):
        place = places[pixel]
        wanted = classes[place]
        if wanted < 0:
            continue
        pixels[place, 0] += 1
        pixels[place, 1] += mask[pixel] == wanted
        pixels[place, 2] += categories[mask[pixel]] == categories[wanted]
    return pixels
