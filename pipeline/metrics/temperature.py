"""Fit the temperature that logits are divided by, on labelled pixels, so that confidence agrees with accuracy.

Letters: P pixels, K passes whose softmax is averaged (networks, scales, mirror images), C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.compiled import compiled
from pipeline.errors import UserError

RANGE = 0.05, 20.0  # of the temperatures that are tried
_STEPS = 13  # temperatures of the first, coarse search over the range
_TOLERANCE = 1e-5  # of the temperature's logarithm
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class LabelledPixels:
    """Some labelled pixels of one image, drawn at random."""

    logits: np.ndarray  # (P, K, C) float32
    label: np.ndarray  # (P,) uint8 train ids
    labelled: int  # number of labelled pixels of the image, from which the P are drawn


def fit_temperature(images: Sequence[LabelledPixels]) -> float:
    """Return the temperature with the least `negative_log_likelihood`.

    With one pass the loss is convex in 1 / temperature, so it has one minimum. With several passes it may have more; the one
    around the best of 13 temperatures over the range is searched for.

    Raises:
        UserError: no pixel is labelled, or the minimum lies at an end of the range.
    Source: Guo et al. 2017 (arXiv:1706.04599), section 4.2.
    """
    if not any(len(image.label) for image in images):
        raise UserError("no pixel is labelled, so no temperature can be fitted; name a split with labels")

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(images, float(np.exp(log_temperature)))

    places = np.log(np.geomspace(*RANGE, _STEPS)).tolist()
    best = int(np.argmin([loss(place) for place in places]))
    if best in (0, _STEPS - 1):
        what = "right about every labelled pixel" if best == 0 else "no better than chance"
        raise UserError(
            f"the best temperature lies at an end of {RANGE[0]:g} to {RANGE[1]:g}, as of a network that is {what}; look at its "
            "masks, or name other images"
        )
    return float(np.exp(_least(loss, places[best - 1], places[best + 1])))


def negative_log_likelihood(images: Sequence[LabelledPixels], temperature: float) -> float:
    """Mean over labelled pixels of -log of the label's probability, nats; each image has the weight of its labelled pixels."""
    there = [image for image in images if len(image.label)]
    sums = [_summed(image.logits, image.label, 1 / temperature) / len(image.label) * image.labelled for image in there]
    return float(sum(sums) / sum(image.labelled for image in there))


def _least(loss: Callable[[float], float], low: float, high: float) -> float:
    """Find the minimum of a function that has one between low and high, by golden-section search."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > _TOLERANCE:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = loss(right)
    return (low + high) / 2


@compiled()
def _summed(logits: np.ndarray, label: np.ndarray, inverse: float) -> float:
    """Sum of -log(mean over K of softmax(logits * inverse)[label]): logarithms throughout, since a probability may be 0."""
    pixels, passes, classes = logits.shape
    total = 0.0
    for pixel in range(pixels):
        best, summed = -np.inf, 0.0  # of the passes' log-probabilities: the largest, and the sum of exp(each - largest)
        for one in range(passes):
            top = -np.inf
            for c in range(classes):
                top = max(top, logits[pixel, one, c] * inverse)
            exponentials = 0.0
            for c in range(classes):
                exponentials += np.exp(logits[pixel, one, c] * inverse - top)
            log_prob = logits[pixel, one, label[pixel]] * inverse - top - np.log(exponentials)
            if log_prob > best:
                summed = summed * np.exp(best - log_prob) + 1.0
                best = log_prob
            else:
                summed += np.exp(log_prob - best)
        total -= best + np.log(summed / passes)
    return total
