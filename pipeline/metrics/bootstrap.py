"""Bootstrap intervals over images: how much a score would vary with other images of the same kind."""

from collections.abc import Callable

import numpy as np

from pipeline.errors import UserError

DRAWS = 1000
LEVEL = 0.95
_CHUNK = 100  # draws at a time


def resample(
    counts: np.ndarray, score: Callable[[np.ndarray], np.ndarray], seed: int = 0, draws: int = DRAWS
) -> np.ndarray:
    """Return the scores of `draws` resampled sets of images, each drawn with replacement from all images.

    Args:
        counts: (R, K) integers to sum, one row per image.
        score: (D, K) sums -> (D, S) scores; within each draw, too, counts are summed first and divided once.
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
    """Return the ends, (S,) each, of the middle `level` of the draws; NaN draws (a class was not drawn) are left out."""
    ends = np.full((2, scores.shape[1]), np.nan)
    there = ~np.isnan(scores).all(axis=0)
    if there.any():
        ends[:, there] = np.nanpercentile(scores[:, there], [50 * (1 - level), 50 * (1 + level)], axis=0)
    return ends[0], ends[1]
