"""Blur the lattice along each axis in turn: new = old + half the sum of its neighbours, of which one or both may be missing.

Neighbours along one axis form chains. A chain is blurred in place, reading and writing each row once. A vertex without
neighbours keeps its value and is never read; lattices of narrow kernels have many of these. Where a few axes connect vertices
into small components only, each component is blurred along all these axes in turn, so its rows are loaded from memory once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.compiled import compiled
from pipeline.crf.cpu.simd import add, element, multiply, multiply_add
from pipeline.crf.cpu.tables import Layout, load_row, prefetch_row, spread_row, store_row
from pipeline.crf.cpu.threads import Team

_AHEAD = 64  # distance in rows between the row that is blurred and the one that is prefetched


@dataclass(frozen=True)
class Sweep:
    """One pass of the blur: each kernel's chains of neighbours along one axis, or along several, component by component."""

    rows: np.ndarray  # int32; ~row for the last of a chain; one extra row at the end, so that each has a next
    parts: list[tuple[int, int]]  # start and stop in `rows` for each thread, cut between chains

    @staticmethod
    def of(team: Team, kernels: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> "Sweep":
        """Return the sweep over each kernel's rows; threads may divide them at the given ends, or if None, after any chain."""
        rows = np.concatenate([rows for rows, _ in kernels])
        starts = np.cumsum([0, *(len(rows) for rows, _ in kernels[:-1])])
        ends = np.concatenate(
            [
                start + (np.flatnonzero(own < 0) + 1 if given is None else given)
                for start, (own, given) in zip(starts, kernels, strict=True)
            ]
        )
        cuts = [0]
        for _, stop in team.bands(len(rows)):
            cuts.append(int(ends[np.searchsorted(ends, stop)]))
        return Sweep(
            np.append(rows, np.int32(0)),
            [(start, stop) for start, stop in pairwise(cuts) if start < stop],
        )


def blur(team: Team, values: np.ndarray, layout: Layout, sweeps: Sequence[Sweep], ghosts: np.ndarray) -> None:
    """Blur a table of R rows in place: sum each vertex over its bands, blur, and copy the result back to all its bands."""
    changes = np.flatnonzero(np.diff(ghosts[:, 1], append=-1)) + 1  # where the ghosts of a master end
    cuts = [0, *(int(changes[np.searchsorted(changes, stop)]) for _, stop in team.bands(len(ghosts)))]
    num_rows, form = len(values) // layout.width, (layout.quads, layout.groups)
    shares = [(values, num_rows, *form, ghosts, *part) for part in pairwise(cuts)]
    team.run(_gather_ghosts, shares)
    for sweep in sweeps:
        team.run(_blur_chains, [(values, num_rows, *form, sweep.rows, *part) for part in sweep.parts])
    team.run(_spread_ghosts, shares)


@compiled()
def _blur_chains(values, num_rows, quads, groups, rows, start, stop):  # type: ignore[no-untyped-def]
    half, zero = spread_row(np.float32(0.5), quads), spread_row(np.float32(0), quads)
    for g in range(len(groups)):
        here = _row(rows, start)
        before, value = zero, load_row(values, num_rows, here, quads, g)
        for i in range(start, stop):
            # Rows are scattered in memory, and waiting for each would take three quarters of the time: prefetch a later one.
            prefetch_row(values, num_rows, _row(rows, min(i + _AHEAD, stop)), quads, g)
            # A factor instead of a branch, since the ends of chains cannot be predicted.
            linked = spread_row(np.float32(1 + (element(rows, i) >> 31)), quads)
            there = _row(rows, i + 1)
            after = load_row(values, num_rows, there, quads, g)
            blurred = multiply_add(half, multiply_add(linked, after, before), value)
            store_row(values, num_rows, here, quads, g, blurred)
            before = multiply(linked, value)
            here, value = there, after


@compiled(inline="always")
def _row(rows, i):  # type: ignore[no-untyped-def]
    row = element(rows, i)
    return np.int64(row ^ (row >> 31))


@compiled(inline="always")
def _prefetch_pair(values, num_rows, quads, groups, pairs, i):  # type: ignore[no-untyped-def]
    for g in range(len(groups)):
        prefetch_row(values, num_rows, np.int64(pairs[i, 0]), quads, g)
        prefetch_row(values, num_rows, np.int64(pairs[i, 1]), quads, g)


@compiled()
def _gather_ghosts(values, num_rows, quads, groups, pairs, start, stop):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        ghost, master = np.int64(pairs[i, 0]), np.int64(pairs[i, 1])
        _prefetch_pair(values, num_rows, quads, groups, pairs, min(i + _AHEAD, stop - 1))
        for g in range(len(groups)):
            total = add(load_row(values, num_rows, master, quads, g), load_row(values, num_rows, ghost, quads, g))
            store_row(values, num_rows, master, quads, g, total)


@compiled()
def _spread_ghosts(values, num_rows, quads, groups, pairs, start, stop):  # type: ignore[no-untyped-def]
    for i in range(start, stop):
        ghost, master = np.int64(pairs[i, 0]), np.int64(pairs[i, 1])
        _prefetch_pair(values, num_rows, quads, groups, pairs, min(i + _AHEAD, stop - 1))
        for g in range(len(groups)):
            store_row(values, num_rows, ghost, quads, g, load_row(values, num_rows, master, quads, g))


def blur_sums(team: Team, sums: np.ndarray, sweeps: Sequence[Sweep], ghosts: np.ndarray) -> None:
    """Apply the same blur, in place, to one number per row (R,)."""
    np.add.at(sums, ghosts[:, 1], sums[ghosts[:, 0]])
    for sweep in sweeps:
        team.run(_blur_numbers, [(sums, sweep.rows, *part) for part in sweep.parts])
    sums[ghosts[:, 0]] = sums[ghosts[:, 1]]


@compiled()
def _blur_numbers(values, rows, start, stop):  # type: ignore[no-untyped-def]
    half = np.float32(0.5)
    before = np.float32(0)
    for i in range(start, stop):
        row = rows[i] if rows[i] >= 0 else ~rows[i]
        value = values[row]
        after = np.float32(0)
        if rows[i] >= 0:
            after = values[rows[i + 1] if rows[i + 1] >= 0 else ~rows[i + 1]]
        values[row] = value + half * (before + after)
        before = value if rows[i] >= 0 else np.float32(0)


@compiled()
def respond(  # type: ignore[no-untyped-def]
    vertex, weight, columns, offset, sums, alphas, factors, symmetric, response, start, stop
):
    """Write K 1 of pixels start..stop, and turn the band's vertex numbers into lattice rows by adding `offset`.

    Unless `factors`, one per kernel, are None: multiply the weights by them and, where `symmetric`, by the root of 1 / K 1.
    """
    for p in range(start, stop):
        for k in range(len(alphas)):
            total = np.float32(0)
            for j in range(columns[k], columns[k + 1]):
                row = vertex[p, j] + offset[k]
                vertex[p, j] = row
                total += weight[p, j] * sums[row] * alphas[k]
            response[k, p] = total
            if factors is not None:  # if they are None, the branch is not compiled
                norm = 1 / np.sqrt(np.float64(total) + 1e-20) if symmetric[k] else 1.0
                for j in range(columns[k], columns[k + 1]):
                    weight[p, j] *= np.float32(norm * factors[k])
