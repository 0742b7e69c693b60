"""Intervals by image: how much a number would move had other images of the same kind been drawn."""

from collections.abc import Callable

import numpy as np

from pipeline.errors import UserError

DRAWS = 1000
LEVEL = 0.95
_CHUNK = 100  # draws at a time


def resample(
    counts: np.ndarray, score: Callable[[np.ndarray], np.ndarray], seed: int = 0, draws: int = DRAWS
) -> np.ndarray:
    """Scores of `draws` sets of images, each drawn with replacement from all of them.

    Args:
        counts: (R, K) integers, one row an image: what is summed.
        score: (D, K) sums -> (D, S) scores; counts are summed first and divided once, in every draw too.
        seed: the same seed and rows give the same draws, so two runs over the same images can be resampled as pairs.
    Returns:
        (draws, S) float64.
    Raises:
        UserError: there is no image.
    Source: Efron & Tibshirani 1993, chapter 6; percentile intervals, chapter 13.
    """
    if not len(counts):
        raise UserError("nothing to resample: none of the images has a label")
    rng, rows, number = np.random.default_rng(seed), [], len(counts)
    values = counts.astype(np.float64)  # sums stay exact below 2^53
    for start in range(0, draws, _CHUNK):
        times = rng.multinomial(number, np.full(number, 1 / number), size=min(_CHUNK, draws - start))
        rows.append(score(times.astype(np.float64) @ values))
    return np.concatenate(rows)


def interval(scores: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends, (S,) each, of the middle `level` of the draws; NaN draws (a class that was not drawn) left out."""
    ends = np.full((2, scores.shape[1]), np.nan)
    there = ~np.isnan(scores).all(axis=0)
    if there.any():
        ends[:, there] = np.nanpercentile(scores[:, there], [50 * (1 - level), 50 * (1 + level)], axis=0)
    return ends[0], ends[1]
