"""The dense CRF over all pixel pairs, O(P^2): what the lattice approximates, for small images and for tests.

Krahenbuhl & Koltun 2011 (arXiv:1210.5644), eq. 3 and algorithm 1.
"""

from collections.abc import Sequence

import numpy as np


def brute_force(unary: np.ndarray, kernels: Sequence[tuple[float, np.ndarray]], iterations: int) -> np.ndarray:
    """Marginals (P, C) float64 after `iterations` steps: Potts compatibility, symmetric normalisation, self term kept.

    Args:
        unary: (P, C) energies.
        kernels: (weight, features (P, d) divided by their standard deviations) of each Gaussian.
    """
    grams = []
    for weight, features in kernels:
        points = features.astype(np.float64)
        distance = ((points[:, None] - points[None]) ** 2).sum(axis=2)
        gram = np.exp(-distance / 2)
        norm = 1 / np.sqrt(gram.sum(axis=1))
        grams.append(weight * norm[:, None] * gram * norm)
    marginals = _softmax(-unary.astype(np.float64))
    for _ in range(iterations):
        marginals = _softmax(-unary + sum(gram @ marginals for gram in grams))
    return marginals


def _softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    total: np.ndarray = raised / raised.sum(axis=1, keepdims=True)
    return total
