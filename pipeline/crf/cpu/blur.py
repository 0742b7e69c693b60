"""The lattice's blur: along each axis in turn, new = old + half of both neighbours, where there are any.

Neighbours along one axis form chains. A chain is blurred in place, reading and writing each row once; a vertex without
neighbours keeps its value and is not touched at all, and in lattices of sharp kernels many are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.compiled import compiled
from pipeline.crf.cpu.simd import LANES, add, load, multiply, multiply_add, prefetch, spread, store
from pipeline.crf.cpu.threads import Team

_SEGMENT = 64  # rows that stay in the first cache while one vector of each after another is blurred
_LINE = 16  # float32 numbers of a cache line


@dataclass(frozen=True)
class Sweep:
    """Chains of neighbours along one axis of each kernel."""

    rows: (
        np.ndarray
    )  # int32; the last of a chain is stored as ~row; one more at the end, so that there is always a next
    parts: list[tuple[int, int]]  # one a thread, cut between chains

    @staticmethod
    def of(team: Team, chains: Sequence[np.ndarray]) -> "Sweep":
        rows = np.concatenate(chains)
        ends = np.flatnonzero(rows < 0) + 1
        cuts = [0]
        for _, stop in team.bands(len(rows)):
            cuts.append(int(ends[np.searchsorted(ends, stop)]))
        return Sweep(
            np.append(rows, np.int32(0)),
            [(start, stop) for start, stop in pairwise(cuts) if start < stop],
        )


def blur(team: Team, values: np.ndarray, width: int, sweeps: Sequence[Sweep], ghosts: np.ndarray) -> None:
    """Blur flat values (R * width,) in place: sum each vertex over the bands, blur, give every band the result."""
    changes = np.flatnonzero(np.diff(ghosts[:, 1], append=-1)) + 1  # where a master's ghosts end
    cuts = [0, *(int(changes[np.searchsorted(changes, stop)]) for _, stop in team.bands(len(ghosts)))]
    shares = [(values, width, ghosts, *part) for part in pairwise(cuts)]
    team.run(_gather_ghosts, shares)
    for sweep in sweeps:
        team.run(_blur_chains, [(values, width, sweep.rows, start, stop) for start, stop in sweep.parts])
    team.run(_spread_ghosts, shares)


@compiled()
def _blur_chains(values, width, rows, start, stop):  # type: ignore[no-untyped-def]
    half, zero = spread(np.float32(0.5)), spread(np.float32(0))
    while start < stop:
        end = min(start + _SEGMENT, stop)
        while rows[end - 1] >= 0:
            end += 1
        # Rows jump about, and waiting for each would be three quarters of the time: ask for those of the next segment now.
        for i in range(end, min(end + _SEGMENT, len(rows) - 1)):
            row = np.int64(rows[i])
            for lane in range(0, width, _LINE):
                prefetch(values, (row ^ (row >> 63)) * width + lane)
            prefetch(values, (row ^ (row >> 63)) * width + width - 1)
        for lane in range(0, width, LANES):
            row = np.int64(rows[start])
            here = (row ^ (row >> 63)) * width + lane
            before, value = zero, load(values, here)
            for i in range(start, end):
                # A factor instead of a branch: where chains end is not to be guessed.
                linked = spread(np.float32(1 + (rows[i] >> 31)))
                row = np.int64(rows[i + 1])
                there = (row ^ (row >> 63)) * width + lane
                after = load(values, there)
                store(values, here, multiply_add(half, multiply_add(linked, after, before), value))
                before = multiply(linked, value)
                here, value = there, after
        start = end


@compiled()
def _gather_ghosts(values, width, pairs, start, stop):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        ghost, master = np.int64(pairs[i, 0]) * width, np.int64(pairs[i, 1]) * width
        for lane in range(0, width, LANES):
            store(values, master + lane, add(load(values, master + lane), load(values, ghost + lane)))


@compiled()
def _spread_ghosts(values, width, pairs, start, stop):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        ghost, master = np.int64(pairs[i, 0]) * width, np.int64(pairs[i, 1]) * width
        for lane in range(0, width, LANES):
            store(values, ghost + lane, load(values, master + lane))


def blur_sums(sums: np.ndarray, sweeps: Sequence[Sweep], ghosts: np.ndarray) -> None:
    """The same blur of one number a row (R,), in place."""
    np.add.at(sums, ghosts[:, 1], sums[ghosts[:, 0]])
    for sweep in sweeps:
        _blur_numbers(sums, sweep.rows)
    sums[ghosts[:, 0]] = sums[ghosts[:, 1]]


@compiled()
def _blur_numbers(values, rows):  # type: ignore[no-untyped-def]
    half = np.float32(0.5)
    before = np.float32(0)
    for i in range(len(rows) - 1):
        row = rows[i] if rows[i] >= 0 else ~rows[i]
        value = values[row]
        after = np.float32(0)
        if rows[i] >= 0:
            after = values[rows[i + 1] if rows[i + 1] >= 0 else ~rows[i + 1]]
        values[row] = value + half * (before + after)
        before = value if rows[i] >= 0 else np.float32(0)


@compiled()
def respond(vertex, weight, columns, offset, sums, alphas, start, stop, response):  # type: ignore[no-untyped-def]
    """Write K 1 of pixels start..stop, and add the band's first rows to its vertex numbers."""
    for p in range(start, stop):
        for k in range(len(alphas)):
            total = np.float32(0)
            for j in range(columns[k], columns[k + 1]):
                row = vertex[p, j] + offset[k]
                vertex[p, j] = row
                total += weight[p, j] * sums[row] * alphas[k]
            response[k, p] = total
