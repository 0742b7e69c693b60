"""Mean field for any compatibility and normalisation, one kernel after another: simple, and several times slower.

Letters: P pixels, C classes, padded to `width` numbers. Scores and marginals are arrays with one row per pixel; intermediate
values exist for one block of pixels at a time, packed like the kernels' tables.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.crf.cpu.blur import blur
from pipeline.crf.cpu.lattice import Lattice, alpha
from pipeline.crf.cpu.mean_field import FAR, NEVER, gather, padded_weights, scatter, softmax
from pipeline.crf.cpu.simd import LANES
from pipeline.crf.cpu.tables import Layout
from pipeline.crf.cpu.threads import Team

_BLOCK = 1 << 14  # pixels; fixed, so that rounding does not depend on the number of threads


def general_mean_field(
    team: Team,
    source: np.ndarray,
    are_probs: bool,
    order: np.ndarray,
    lattices: Sequence[Lattice],
    compats: Sequence[np.ndarray],
    normalisations: Sequence[str],
    iterations: int,
    class_weights: np.ndarray | None = None,
) -> np.ndarray:
    """Return marginals (C, P) float32 after `iterations` steps.

    Args:
        source: (C, P) float32, probabilities or energies, pixels in row order; order: (P,) pixels in the lattice's order.
        lattices: one per kernel; compats: () Potts weights or (C, C) energies; normalisations: see `DenseCRF`.
        class_weights: (C,) float32 factors of the message for each class; None: 1.
    """
    num_classes, num_points = source.shape
    layout = Layout.in_groups(num_classes, LANES)
    factors = None if class_weights is None else padded_weights(class_weights, layout)
    scores, marginals = (np.empty((num_points, layout.width), np.float32) for _ in range(2))
    kernels = [_Kernel.of(*one, layout) for one in zip(lattices, compats, normalisations, strict=True)]
    blocks = list(_blocks(0, num_points))
    team.run(_open, [(source, are_probs, order, scores, marginals, *block) for block in blocks])
    for _ in range(iterations):
        for kernel in kernels:
            kernel.fill(team, marginals)
        team.run(_update, [(scores, kernels, num_classes, factors, marginals, *block) for block in blocks])
    del scores, kernels
    result = np.empty_like(source)
    team.run(_close, [(marginals, order, result, *block) for block in blocks])
    return result


@dataclass(frozen=True)
class _Kernel:
    """A kernel's lattice, the factors of each pixel before and after filtering, and the values at its vertices."""

    lattice: Lattice
    compat: np.ndarray
    into: np.ndarray  # (P,) float32, factors before filtering
    out: np.ndarray  # (P,) float32, factors after filtering
    values: np.ndarray  # table with one row per row of the lattice
    layout: Layout

    @staticmethod
    def of(lattice: Lattice, compat: np.ndarray, normalisation: str, layout: Layout) -> "_Kernel":
        into, out = _factors(lattice, normalisation)
        return _Kernel(lattice, compat, into, out, np.empty(lattice.num_rows * layout.width, np.float32), layout)

    def fill(self, team: Team, marginals: np.ndarray) -> None:
        """Scatter the marginals (P, width) to the vertices, and blur."""
        self.values.fill(0)
        team.run(self._scatter, [(marginals, *band) for band in self.lattice.bands])
        blur(team, self.values, self.layout, self.lattice.sweeps, self.lattice.ghosts)

    def _scatter(self, marginals: np.ndarray, start: int, stop: int) -> None:
        for first, last in _blocks(start, stop):
            rows, corners = self.layout.pack(marginals[first:last]), self._corners(self.into, first, last)
            scatter(rows, last - first, *corners, self.values, self.lattice.num_rows, 0, last - first, None)

    def message(self, start: int, stop: int) -> np.ndarray:
        """Return the filtered marginals of pixels start..stop, (pixels, width), interpolated from their corners."""
        count, corners = stop - start, self._corners(self.out, start, stop)
        rows, nothing = (np.zeros(count * self.layout.width, np.float32) for _ in range(2))
        gather(nothing, count, *corners, self.values, self.lattice.num_rows, 0, count, rows, count, None)
        return self.layout.unpack(rows)

    def _corners(self, factor: np.ndarray, start: int, stop: int) -> tuple[Any, ...]:
        """Return what `scatter` and `gather` need of pixels start..stop: weights * factor, vertices, corners, table layout."""
        weight = self.lattice.weight[start:stop] * factor[start:stop, None]
        corners = tuple(range(weight.shape[1]))
        vertex = self.lattice.vertex[start:stop].reshape(-1)
        return weight.reshape(-1), vertex, corners, self.layout.quads, self.layout.groups


def _factors(lattice: Lattice, normalisation: str) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's normalisation before filtering, and after it; the latter includes the blur's `alpha`."""
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
    return into.astype(np.float32), (out * alpha(lattice.corners[0])).astype(np.float32)


def _open(
    source: np.ndarray,
    are_probs: bool,
    order: np.ndarray,
    scores: np.ndarray,
    marginals: np.ndarray,
    start: int,
    stop: int,
) -> None:
    """Write the scores and first marginals of pixels start..stop."""
    num_classes = len(source)
    given = source[:, order[start:stop]].T
    scores[start:stop, num_classes:] = NEVER
    scores[start:stop, :num_classes] = np.log(np.maximum(given, np.float32(1e-5))) if are_probs else _reduced(-given)
    marginals[start:stop] = _softmax(scores[start:stop])


def _update(
    scores: np.ndarray, kernels: Sequence[_Kernel], num_classes: int, factors: np.ndarray | None,
    marginals: np.ndarray, start: int, stop: int,
) -> None:  # fmt: skip
    """Write the next marginals of pixels start..stop."""
    total = scores[start:stop].copy()
    for kernel in kernels:
        message = kernel.message(start, stop)
        if kernel.compat.ndim == 0:
            message *= kernel.compat
        else:
            message[:, :num_classes] = -(message[:, :num_classes] @ kernel.compat.T)
        total += message if factors is None else message * factors
    marginals[start:stop] = _softmax(total)


def _close(marginals: np.ndarray, order: np.ndarray, result: np.ndarray, start: int, stop: int) -> None:
    result[:, order[start:stop]] = marginals[start:stop, : len(result)].T


def _softmax(scores: np.ndarray) -> np.ndarray:
    layout = Layout.in_groups(scores.shape[1], LANES)
    table = layout.pack(scores)
    softmax(table, len(scores), layout.quads, layout.groups, layout.columns(), len(scores))
    return layout.unpack(table)


def _reduced(scores: np.ndarray) -> np.ndarray:
    """Return scores (P, C) minus the best score of the pixel if that is far from 0, as `mean_field.score` does."""
    best = scores.max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):  # a score that overflows to -infinity has probability 0 either way
        reduced: np.ndarray = scores - np.where(np.abs(best) > FAR, best, np.float32(0))
    return reduced


def _blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, _BLOCK):
        yield first, min(stop, first + _BLOCK)
