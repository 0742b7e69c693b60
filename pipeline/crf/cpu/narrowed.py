"""Reduce a lattice to some of its points: their vertices, and the neighbours among these."""

from itertools import pairwise

import numpy as np

from pipeline.compiled import compiled
from pipeline.crf.cpu.blur import Sweep
from pipeline.crf.cpu.lattice import Lattice
from pipeline.crf.cpu.threads import Team
from pipeline.crf.cpu.vertices import CHUNK


def narrowed(team: Team, lattice: Lattice, points: np.ndarray) -> Lattice:
    """Return the lattice of points (M,), in ascending order, with their weights and responses as they are.

    Each sweep of the given lattice must be one axis.
    """
    cuts = np.searchsorted(points, [0, *(stop for _, stop in lattice.bands)])
    bands = [(int(start), int(stop)) for start, stop in pairwise(cuts)]
    vertex, weight = lattice.vertex[points], lattice.weight[points]
    kept = np.zeros(lattice.num_rows, np.bool_)
    _keep(vertex.reshape(-1), lattice.ghosts, kept)
    before = np.append(np.int32(0), np.cumsum(kept, dtype=np.int32))  # number of kept rows before each row
    team.run(_renumber, [(vertex, before, *band) for band in bands])
    rows = team.run(_rows_of, [(sweep.rows, kept, before) for sweep in lattice.sweeps])
    pairs = lattice.ghosts[kept[lattice.ghosts[:, 0]]]
    fresh = [_fresh(before, given, stop - start) for given, (start, stop) in zip(lattice.fresh, bands, strict=True)]
    return Lattice(
        vertex,
        weight,
        lattice.corners,
        np.take(lattice.response, points, axis=1),
        [Sweep.of(team, [(one, None)]) for one in rows],
        before[pairs],
        fresh,
        bands,
        int(before[-1]),
    )


def _fresh(before: np.ndarray, given: np.ndarray, num_points: int) -> np.ndarray:
    """Return `Lattice.fresh` of a band, with all its rows assigned to the first chunk."""
    spans = np.empty((max(1, -(-num_points // CHUNK)), given.shape[1], 2), np.int64)
    spans[:] = before[given[-1, :, 1]][:, None]
    spans[0, :, 0] = before[given[0, :, 0]]
    return spans


@compiled()
def _keep(vertex, ghosts, kept):  # type: ignore[no-untyped-def]
    for i in range(len(vertex)):
        kept[vertex[i]] = True
    for i in range(len(ghosts)):
        if kept[ghosts[i, 0]]:
            kept[ghosts[i, 1]] = True


@compiled()
def _renumber(vertex, before, start, stop):  # type: ignore[no-untyped-def]
    for p in range(start, stop):
        for j in range(vertex.shape[1]):
            vertex[p, j] = before[vertex[p, j]]


@compiled()
def _rows_of(rows, kept, before):  # type: ignore[no-untyped-def]
    """Return the remaining chains of neighbours along one axis, in the form of `neighbours.chains`."""
    left = np.empty(len(rows), np.int32)
    length = first = 0
    for i in range(len(rows) - 1):
        row = rows[i] if rows[i] >= 0 else ~rows[i]
        if kept[row]:
            left[length] = before[row]
            length += 1
        if length > first and (rows[i] < 0 or not kept[row]):
            if length == first + 1:
                length = first  # a single row is not a chain
            else:
                left[length - 1] = ~left[length - 1]
            first = length
    return left[:length].copy()
