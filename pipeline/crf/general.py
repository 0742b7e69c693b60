"""Mean field for any compatibility and normalisation, one kernel after the other: readable, and several times slower.

Letters: P pixels, C classes, padded to `width` whole vectors.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.crf.blur import blur
from pipeline.crf.lattice import Lattice, alpha
from pipeline.crf.mean_field import FAR, NEVER, gather, padded, scatter, softmax
from pipeline.crf.team import Team
from pipeline.crf.vectors import LANES


def general_mean_field(
    team: Team,
    source: np.ndarray,
    are_probs: bool,
    order: np.ndarray,
    lattices: Sequence[Lattice],
    compats: Sequence[np.ndarray],
    normalisations: Sequence[str],
    iterations: int,
) -> np.ndarray:
    """Marginals (C, P) float32 after `iterations` steps.

    Args:
        source: (C, P) float32, probabilities or energies, pixels in row order; order: (P,) the pixel at each lattice place.
        lattices: one of each kernel; compats: () Potts weights or (C, C) energies; normalisations: see `DenseCRF`.
    """
    num_classes, num_points = source.shape
    width = padded(num_classes)
    scores = np.full((num_points, width), NEVER, np.float32)
    ordered = source.T[order]
    scores[:, :num_classes] = np.log(np.maximum(ordered, np.float32(1e-5))) if are_probs else _reduced(-ordered)
    marginals = _softmax(team, scores.copy())
    weights = [_weights(lattice, name) for lattice, name in zip(lattices, normalisations, strict=True)]
    for _ in range(iterations):
        total = scores.copy()
        for lattice, (into, out), compat in zip(lattices, weights, compats, strict=True):
            message = _filter(team, lattice, into, out, marginals)
            if compat.ndim == 0:
                total += compat * message
            else:
                total[:, :num_classes] -= message[:, :num_classes] @ compat.T
        marginals = _softmax(team, total)
    result = np.empty_like(source)
    result[:, order] = marginals[:, :num_classes].T
    return result


def _weights(lattice: Lattice, normalisation: str) -> tuple[np.ndarray, np.ndarray]:
    """Barycentric weights times the normalisation, on the way in and on the way out."""
    response = lattice.response[0].astype(np.float64) + 1e-20
    one = np.ones_like(response)
    match normalisation:
        case "symmetric":
            into = out = 1 / np.sqrt(response)
        case "before":
            into, out = 1 / response, one
        case "after":
            into, out = one, 1 / response
        case _:
            into = out = one
    out = out * alpha(lattice.corners[0])
    return lattice.weight * into.astype(np.float32)[:, None], lattice.weight * out.astype(np.float32)[:, None]


def _filter(team: Team, lattice: Lattice, into: np.ndarray, out: np.ndarray, marginals: np.ndarray) -> np.ndarray:
    width = marginals.shape[1]
    values = np.empty(lattice.num_rows * width, np.float32)
    values.fill(0)
    vertex, corners, blocks = lattice.vertex.reshape(-1), tuple(range(lattice.corners[0])), np.arange(width // LANES)
    flat = marginals.reshape(-1)
    shared = vertex, corners, blocks, values
    team.run(scatter, [(flat[a * width :], into.reshape(-1), *shared, a, b - a) for a, b in lattice.bands])
    blur(team, values, width, lattice.sweeps, lattice.ghosts)
    message, nothing = np.empty_like(marginals), np.zeros_like(marginals).reshape(-1)
    rows = message.reshape(-1)
    team.run(gather, [(nothing, out.reshape(-1), *shared, a, b - a, rows[a * width :]) for a, b in lattice.bands])
    return message


def _softmax(team: Team, scores: np.ndarray) -> np.ndarray:
    width = scores.shape[1]
    blocks = np.arange(width // LANES)
    rows = scores.reshape(-1)
    team.run(softmax, [(rows[a * width :], blocks, b - a) for a, b in team.bands(len(scores))])
    return scores


def _reduced(scores: np.ndarray) -> np.ndarray:
    """Scores (P, C) less the best of their pixel where it is far from 0, as on the fused path."""
    best = scores.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # infinitely far behind the best is as good as its distance
        reduced: np.ndarray = scores - np.where(np.abs(best) > FAR, best, np.float32(0))
    return reduced
