"""The lattice's blur: along each axis in turn, new = old + half of both neighbours, where there are any.

Neighbours along one axis form chains. A chain is blurred in place, reading and writing each row once; a vertex without
neighbours keeps its value and is not touched at all, and in lattices of sharp kernels many are. Where a few axes join vertices
to small components only, a component is blurred along all these axes before the next: its rows come from memory once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pipeline.compiled import compiled
from pipeline.crf.cpu.simd import add, element, multiply, multiply_add
from pipeline.crf.cpu.tables import Layout, load_row, prefetch_row, spread_row, store_row
from pipeline.crf.cpu.threads import Team

_AHEAD = 64  # rows that are on their way while those before them are blurred


@dataclass(frozen=True)
class Sweep:
    """Chains of neighbours along one axis of each kernel, or along several, component by component."""

    rows: (
        np.ndarray
    )  # int32; the last of a chain is stored as ~row; one more at the end, so that there is always a next
    parts: list[tuple[int, int]]  # one a thread, cut between chains

    @staticmethod
    def of(team: Team, kernels: Sequence[tuple[np.ndarray, np.ndarray | None]]) -> "Sweep":
        """The sweep over each kernel's rows, which may be parted at the given ends, or after any chain."""
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
    """Blur a table of R rows in place: sum each vertex over the bands, blur, give every band the result."""
    changes = np.flatnonzero(np.diff(ghosts[:, 1], append=-1)) + 1  # where a master's ghosts end
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
            # Rows jump about, and waiting for each would be three quarters of the time: ask for a later one now.
            prefetch_row(values, num_rows, _row(rows, min(i + _AHEAD, stop)), quads, g)
            # A factor instead of a branch: where chains end is not to be guessed.
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
