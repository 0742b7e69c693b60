"""The dense CRF over all pixel pairs, O(P^2): what the lattice approximates, for small images and for tests.

Krahenbuhl & Koltun 2011 (arXiv:1210.5644), eq. 3 and algorithm 1. Letters: P pixels, C classes, d feature axes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from pipeline.errors import UserError


def brute_force(
    unary: np.ndarray,
    kernels: Sequence[tuple[ArrayLike, np.ndarray]],
    iterations: int,
    normalisation: str = "symmetric",
) -> np.ndarray:
    """Marginals (P, C) float64 after `iterations` steps, self term kept.

    Args:
        unary: (P, C) energies.
        kernels: (compatibility, features (P, d) divided by their standard deviations) of each Gaussian; the compatibility is
            a Potts weight or (C, C) energies, row = the pixel's own class.
        normalisation: symmetric, before, after or none, as in `DenseCRF`.
    """
    grams = []
    for compat, features in kernels:
        points = features.astype(np.float64)
        distance = ((points[:, None] - points[None]) ** 2).sum(axis=2)
        gram = np.exp(-distance / 2)
        response = gram.sum(axis=1)
        match normalisation:
            case "symmetric":
                gram = gram / np.sqrt(response[:, None] * response)
            case "before":
                gram = gram / response
            case "after":
                gram = gram / response[:, None]
            case "none":
                pass
            case _:
                raise UserError(f"normalisation {normalisation!r} is none of symmetric, before, after, none")
        energies = np.asarray(compat, np.float64)
        grams.append((gram, energies if energies.ndim == 2 else -energies * np.eye(unary.shape[1])))
    marginals = _softmax(-unary.astype(np.float64))
    for _ in range(iterations):
        marginals = _softmax(-unary - sum(gram @ marginals @ energies.T for gram, energies in grams))
    return marginals


def _softmax(scores: np.ndarray) -> np.ndarray:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    total: np.ndarray = raised / raised.sum(axis=1, keepdims=True)
    return total
