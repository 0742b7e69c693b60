"""Test whether a ratio of sums changed from earlier runs to the newest, from its variance within and between runs.

A run is called a night here, as of an archive that is segmented every night.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma, pi

import numpy as np

LEVEL = 0.95
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_STEPS = 60  # of a bisection: enough for the last digits of a float


@dataclass(frozen=True)
class Ratios:
    """Some ratios in one night, (J,) each; NaN where the denominator is 0, a variance also where there is only one unit."""

    value: np.ndarray
    variance: np.ndarray
    units: np.ndarray
    weight: np.ndarray  # the denominator

    @classmethod
    def of(cls, above: np.ndarray, below: np.ndarray) -> "Ratios":
        """Divide sums once, and estimate the variance of each ratio.

        Args:
            above, below: numerators and denominators, (M, J), one row per sampling unit: an image, or a group of similar ones.
        Source: Cochran 1977, Sampling Techniques, section 6.3: the linearised variance of a ratio of sums over clusters.
        """
        weight, units = below.sum(axis=0), (below > 0).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            value = above.sum(axis=0) / weight
            squares = ((above - value * below) ** 2).sum(axis=0)
            variance = np.where(units > 1, units / np.maximum(units - 1, 1) * squares / weight**2, np.nan)
        return cls(value, variance, units, weight)

    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """Return low and high ends, (J,) each, of the 95 % interval of this night alone."""
        reach = quantile(self.units - 1.0) * np.sqrt(self.variance)
        return self.value - reach, self.value + reach


@dataclass(frozen=True)
class Changes:
    """(J,) each: the ratio of the earlier nights together, the change to the newest with its 95 % interval, and its p-value."""

    before: np.ndarray
    change: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray  # two-sided, of no change beyond that from night to night; NaN if there are too few nights to tell


def changes(newest: Ratios, earlier: Sequence[Ratios]) -> Changes:
    """Compute the change of each ratio from the earlier nights, pooled, to the newest.

    Its variance has three parts: that of the newest night, that of the earlier ones, and that between nights, to which the
    newest night is subject too. The variance between nights is that of the earlier nights' values beyond their own variances,
    at least 0; with one earlier night it is not known and taken as 0. If a night has only one unit, the nights themselves are
    the sample, and the variance is that of their values.

    Source: between nights, Hedges & Olkin 1985, Statistical Methods for Meta-Analysis, section 9.B (the variance component
        of a random effect, unweighted); a new night, Higgins, Thompson & Spiegelhalter 2009, section 3; degrees of freedom,
        Satterthwaite 1946.
    """
    value, variance, units, weight = (
        np.stack([getattr(night, name) for night in earlier]) for name in ("value", "variance", "units", "weight")
    )
    there = weight > 0
    nights = there.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = weight / weight.sum(axis=0)
        value, variance = np.where(there, value, 0), np.where(there, variance, 0)
        before = np.where(nights > 0, (share * value).sum(axis=0), np.nan)
        centre = value.sum(axis=0) / nights
        spread = np.where(there, (value - centre) ** 2, 0).sum(axis=0) / np.maximum(nights - 1, 1)
        squared = (share**2).sum(axis=0)
        between = (1 + squared) * np.maximum(spread - variance.sum(axis=0) / nights, 0)
        parts = np.concatenate([newest.variance[None], share**2 * variance, between[None]])
        free = np.concatenate([newest.units[None], units, nights[None]]) - 1.0
        total = parts.sum(axis=0)
        freedom = total**2 / (parts**2 / np.maximum(free, 1)).sum(axis=0)
        alone = np.isnan(total)  # one of the nights has only one unit
        total = np.where(alone, np.where(nights > 1, (1 + squared) * spread, np.nan), total)
        freedom = np.where(alone, np.maximum(nights - 1.0, 1), np.where(total > 0, np.maximum(freedom, 1), 1))
        change = newest.value - before
        reach = quantile(freedom) * np.sqrt(total)
        ratio = np.where((change == 0) & (total == 0), 0, np.abs(change) / np.sqrt(total))
    return Changes(before, change, change - reach, change + reach, two_sided(ratio, freedom))


def holm(p: np.ndarray) -> np.ndarray:
    """Adjust p-values for multiple tests, so that any false alarm among them is no more likely than in a single test.

    Args:
        p: (J,); NaN = no test.
    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure; it holds for tests with any dependence.
    """
    order = np.argsort(p)  # NaN last
    asked = np.count_nonzero(~np.isnan(p))
    factors = np.maximum(asked - np.arange(len(p)), 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return adjusted


def two_sided(ratio: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Return the probability that Student's t is as far from zero as `ratio` (J,) or farther; `freedom` (J,) may be fractional.

    The density is integrated over an angle, with tan(angle) = t / sqrt(freedom); there it is a power of the cosine.
    """
    ratio, freedom = np.broadcast_arrays(np.asarray(ratio, float), np.asarray(freedom, float))
    low = np.arctan(np.abs(ratio) / np.sqrt(freedom))
    # The power of the cosine vanishes beyond this multiple of its width, so the nodes are placed where it does not.
    high = np.minimum(pi / 2, low + 40 / np.sqrt(np.maximum(freedom, 1)) / np.maximum(1, np.abs(ratio) / 8))
    middle, half = (high + low) / 2, (high - low) / 2
    cosines = np.cos(middle[..., None] + half[..., None] * _NODES)
    with np.errstate(divide="ignore"):
        density = np.exp((freedom[..., None] - 1) * np.log(np.maximum(cosines, 1e-300)))
    constant = np.array([lgamma((f + 1) / 2) - lgamma(f / 2) if f > 0 else np.nan for f in freedom.ravel()])
    scale = 2 * np.exp(constant.reshape(freedom.shape)) / np.sqrt(pi)
    return np.clip(scale * half * (density @ _WEIGHTS), 0, 1)


def quantile(freedom: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Return (J,) the bound of |t| that Student's t keeps with probability `level`; NaN without a degree of freedom."""
    freedom = np.asarray(freedom, float)
    known = freedom > 0
    safe = np.where(known, freedom, 1.0)
    low, high = np.zeros(safe.shape), np.full(safe.shape, 1e6)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        above = two_sided(middle, safe) > 1 - level
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(known, (low + high) / 2, np.nan)
