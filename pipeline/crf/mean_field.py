"""Mean-field inference over a permutohedral lattice: Krahenbuhl & Koltun 2011 (arXiv:1210.5644), algorithm 1.

Letters: P pixels, C classes, n corners of a pixel over all kernels, R rows of vertices.

One pass a step visits each pixel once: gather the filtered marginals of its corners, add the unary, softmax, and scatter the new
marginals to the next step's rows; P x C temporaries never exist. Rows hold the C numbers of a vertex, padded to whole vectors.
"""

import numpy as np
from numba import njit

from pipeline.crf.blur import blur
from pipeline.crf.lattice import Lattice
from pipeline.crf.numbering import CHUNK
from pipeline.crf.team import Team
from pipeline.crf.vectors import (
    LANES,
    add,
    aligned,
    divide,
    exp,
    keep_if_above,
    larger,
    load,
    log,
    max_of_lanes,
    multiply,
    multiply_add,
    spread,
    store,
    subtract,
    sum_of_lanes,
)

_NEVER = np.float32(-1e4)  # score of padding classes: their probability is 0
_TINY = np.float32(2.0**-60)  # below it a marginal is 0: denormal numbers would cost several times the whole step
_RUN = 64  # pixels that lie side by side in a tile


def padded(num_classes: int) -> int:
    """Classes and padding: whole vectors."""
    return -(-num_classes // LANES) * LANES


def mean_field(team: Team, source: np.ndarray, are_probs: bool, order: np.ndarray, lattice: Lattice, iterations: int) -> np.ndarray:
    """Marginals (C, P) float32 after `iterations` steps with Potts kernels, whose factors are in the lattice's weights.

    Args:
        source: (C, P) float32, probabilities (clipped to at least 1e-5) or energies, pixels in row order.
        order: (P,) int32, the pixel at each of the lattice's places.
        lattice: weights times the square root of kernel weight, blur factor and normalisation, in and out.
    """
    num_classes, num_points = source.shape
    width = padded(num_classes)
    scores = aligned(num_points * width)
    old, new = aligned(lattice.num_rows * width), aligned(lattice.num_rows * width)
    result = np.empty_like(source)
    state = order, scores, lattice.vertex.reshape(-1), lattice.weight.reshape(-1)
    corners = tuple(range(lattice.vertex.shape[1]))
    blocks = tuple(range(width // LANES)) if width <= 4 * LANES else (0,) * 0
    bands = list(zip(lattice.bands, lattice.fresh, strict=True))
    for step in range(iterations + 1):
        first, last = step == 0, step == iterations
        tasks = [
            (source, are_probs, *state, corners, width, old, new, fresh, *band, first, last, result)
            for band, fresh in bands
        ]
        team.run(_pass, tasks)
        if not last:
            blur(team, new, width, lattice.sweeps, lattice.ghosts)
            old, new = new, old
    return result


@njit(cache=True, nogil=True)
def _pass(source, are_probs, order, scores, vertex, weight, corners, width, old, new, fresh, start, stop, first, last, result):  # type: ignore[no-untyped-def]
    """One mean-field step of pixels start..stop, chunk by chunk."""
    num_classes = source.shape[0]
    rows = np.empty(_RUN * width, np.float32)
    scratch = np.empty(num_classes * _RUN, np.float32)
    for chunk in range(len(fresh)):
        at, end = start + chunk * CHUNK, min(stop, start + (chunk + 1) * CHUNK)
        if not last:
            for k in range(fresh.shape[1]):
                new[fresh[chunk, k, 0] * width : fresh[chunk, k, 1] * width] = 0
        while at < end:
            run = 1
            while run < _RUN and at + run < end and order[at + run] == order[at] + run:
                run += 1
            if first:
                _score(source, are_probs, order[at], run, scores, at, width, scratch)
            _update(scores, vertex, weight, corners, width, old, new, at, run, first, last, rows)
            if last:
                for c in range(num_classes):
                    for i in range(run):
                        result[c, order[at] + i] = rows[i * width + c]
            at += run


@njit(cache=True, nogil=True)
def _score(source, are_probs, pixel, run, scores, at, width, scratch):  # type: ignore[no-untyped-def]
    """Scores (minus the energies) of `run` pixels that lie side by side."""
    num_classes = source.shape[0]
    for c in range(num_classes):
        for i in range(run):
            scratch[c * _RUN + i] = source[c, pixel + i]
    if are_probs:
        floor = spread(np.float32(1e-5))
        for i in range(0, num_classes * _RUN, LANES):
            store(scratch, i, log(larger(load(scratch, i), floor)))
    else:
        for i in range(0, num_classes * _RUN, LANES):
            store(scratch, i, subtract(spread(np.float32(0)), load(scratch, i)))
    for i in range(run):
        base = (at + i) * width
        for c in range(num_classes):
            scores[base + c] = scratch[c * _RUN + i]
        for c in range(num_classes, width):
            scores[base + c] = _NEVER


@njit(cache=True, nogil=True)
def _update(scores, vertex, weight, corners, width, old, new, start, run, first, last, rows):  # type: ignore[no-untyped-def]
    """Marginals of `run` pixels: gather, softmax, and scatter, or on the last step keep in `rows`."""
    n = len(corners)
    tiny = spread(_TINY)
    for i in range(run):
        p = start + i
        q = i * width if last else 0
        top = spread(_NEVER)
        for c in range(0, width, LANES):
            score = load(scores, p * width + c)
            if not first:
                for j in range(n):
                    score = multiply_add(spread(weight[p * n + j]), load(old, np.int64(vertex[p * n + j]) * width + c), score)
            store(rows, q + c, score)
            top = larger(top, score)
        top = max_of_lanes(top)
        total = spread(np.float32(0))
        for c in range(0, width, LANES):
            raised = exp(subtract(load(rows, q + c), top))
            store(rows, q + c, raised)
            total = add(total, raised)
        scale = divide(spread(np.float32(1)), sum_of_lanes(total))
        for c in range(0, width, LANES):
            store(rows, q + c, keep_if_above(multiply(load(rows, q + c), scale), tiny))
        if not last:
            for j in range(n):
                row, share = np.int64(vertex[p * n + j]) * width, spread(weight[p * n + j])
                for c in range(0, width, LANES):
                    store(new, row + c, multiply_add(share, load(rows, c), load(new, row + c)))
