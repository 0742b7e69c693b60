"""Mean-field inference over a permutohedral lattice: Krahenbuhl & Koltun 2011 (arXiv:1210.5644), algorithm 1.

Letters: P pixels, C classes, n corners of a pixel over all kernels, R rows of vertices.

One pass a step visits each pixel once: gather the filtered marginals of its corners, add the unary, softmax, scatter the new
marginals to the next step's rows; P x C temporaries never exist. Rows hold the C numbers of a vertex, padded to whole vectors.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.compiled import compiled
from pipeline.crf.cpu.blur import blur
from pipeline.crf.cpu.features import TILE_PX
from pipeline.crf.cpu.lattice import Lattice, alpha
from pipeline.crf.cpu.simd import (
    LANES,
    add,
    divide,
    exp,
    is_less,
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
    transpose,
)
from pipeline.crf.cpu.threads import Team
from pipeline.crf.cpu.vertices import CHUNK

NEVER = np.float32(-np.inf)  # score of padding classes: their probability is 0, whatever the others' are
# Energies count up to a number of their pixel, and scores of this size leave a message 15 bits behind the point: above it
# the pixel's best score is subtracted from all. Below it nothing is changed, so that usual energies are not rounded again.
FAR = np.float32(256)
_TINY = np.float32(2.0**-60)  # below it a marginal is 0: denormal numbers would cost several times the whole step
_RUN = TILE_PX[1]  # pixels that lie side by side in a tile


def padded(num_classes: int) -> int:
    """Classes and padding: whole vectors."""
    return -(-num_classes // LANES) * LANES


def padded_weights(class_weights: np.ndarray) -> np.ndarray:
    """(C,) weights and zeros for the padding, float32."""
    return np.pad(class_weights.astype(np.float32), (0, padded(len(class_weights)) - len(class_weights)))


def mean_field(
    team: Team, source: np.ndarray, are_probs: bool, order: np.ndarray, lattice: Lattice, iterations: int,
    class_weights: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Marginals (C, P) float32 after `iterations` steps with Potts kernels, whose factors are in the lattice's weights.

    Args:
        source: (C, P) float32, probabilities (clipped to at least 1e-5) or energies, pixels in row order.
        order: (P,) int32, the pixel at each of the lattice's places.
        lattice: weights times the square root of kernel weight, blur factor and normalisation, in and out.
        class_weights: (C,) float32 factors of each class's message; None: 1, and nothing is multiplied.
    """
    num_classes, num_points = source.shape
    width = padded(num_classes)
    factors = None if class_weights is None else padded_weights(class_weights)
    scores = team.empty(num_points * width)
    old, new = team.empty(lattice.num_rows * width), team.empty(lattice.num_rows * width)
    result = np.empty_like(source)
    state = order, scores, lattice.vertex.reshape(-1), lattice.weight.reshape(-1)
    corners = tuple(range(lattice.vertex.shape[1]))
    blocks = tuple(range(width // LANES)) if width <= 4 * LANES else np.arange(width // LANES)
    bands = list(zip(lattice.bands, lattice.fresh, strict=True))
    for step in range(iterations + 1):
        first, last = step == 0, step == iterations
        tasks = [
            (source, are_probs, *state, corners, blocks, old, new, fresh, *band, first, last, result, factors)
            for band, fresh in bands
        ]
        team.run(_pass, tasks)
        if not last:
            blur(team, new, width, lattice.sweeps, lattice.ghosts)
            old, new = new, old
    return result


def fold_kernels(team: Team, lattice: Lattice, weights: Sequence[float], symmetric: Sequence[bool]) -> None:
    """Multiply the lattice's weights by the roots of kernel weight, blur factor and normalisation: they act on both sides."""
    factors = np.sqrt([weight * alpha(corners) for weight, corners in zip(weights, lattice.corners, strict=True)])
    columns = np.cumsum([0, *lattice.corners])
    team.run(
        _fold,
        [(lattice.weight, columns, lattice.response, factors, np.array(symmetric), *band) for band in lattice.bands],
    )


@compiled()
def _fold(weight, columns, response, factors, symmetric, start, stop):  # type: ignore[no-untyped-def]
    for k in range(len(factors)):
        for p in range(start, stop):
            norm = 1 / np.sqrt(np.float64(response[k, p]) + 1e-20) if symmetric[k] else 1.0
            for j in range(columns[k], columns[k + 1]):
                weight[p, j] *= np.float32(norm * factors[k])


def non_finite(team: Team, values: np.ndarray, at_least: float) -> bool:
    """Whether any number is NaN, infinite or below `at_least`."""
    flat = values.reshape(-1)
    tasks = [(flat, np.float32(at_least), *band) for band in team.bands(len(flat))]
    return any(team.run(_count_unfit, tasks))


@compiled()
def _count_unfit(values, least, start, stop):  # type: ignore[no-untyped-def]
    count = 0
    for i in range(start, stop):
        count += not (values[i] >= least and np.abs(values[i]) < np.float32(np.inf))
    return count


@compiled()
def _pass(  # type: ignore[no-untyped-def]
    source, are_probs, order, scores, vertex, weight, corners, blocks, old, new, fresh, start, stop, first, last, result,
    factors,
):  # fmt: skip
    """One mean-field step of pixels start..stop, chunk by chunk and there by runs of pixels that lie side by side."""
    num_classes, width = source.shape[0], len(blocks) * LANES
    rows = np.empty(_RUN * width, np.float32)
    planes = np.ones(width * _RUN, np.float32)
    for chunk in range(len(fresh)):
        at, end = start + chunk * CHUNK, min(stop, start + (chunk + 1) * CHUNK)
        if not last:
            for k in range(fresh.shape[1]):
                new[fresh[chunk, k, 0] * width : fresh[chunk, k, 1] * width] = 0
        while at < end:
            pixel, run = order[at], min(_RUN, end - at)
            while order[at + run - 1] != pixel + run - 1:
                run -= 1
            if first:
                for c in range(num_classes):
                    planes[c * _RUN : c * _RUN + run] = source[c, pixel : pixel + run]
                _score(planes, are_probs, num_classes, scores, at, run, blocks, rows)
            else:
                gather(scores, weight, vertex, corners, blocks, old, at, run, rows, factors)
            softmax(rows, blocks, run)
            if last:
                for i in range(0, run, LANES):
                    for b in range(len(blocks)):
                        transpose(rows, i * width + b * LANES, width, planes, b * LANES * _RUN + i, _RUN)
                for c in range(num_classes):
                    result[c, pixel : pixel + run] = planes[c * _RUN : c * _RUN + run]
            else:
                scatter(rows, weight, vertex, corners, blocks, new, at, run)
            at += run


@compiled()
def _score(planes, are_probs, num_classes, scores, at, run, blocks, rows):  # type: ignore[no-untyped-def]
    """Scores (minus the energies) of `run` pixels from their planes by class."""
    width = len(blocks) * LANES
    floor, zero = spread(np.float32(1e-5)), spread(np.float32(0))
    far, minus_far = spread(FAR), spread(-FAR)
    for i in range(0, run, LANES):
        for b in range(len(blocks)):
            transpose(planes, b * LANES * _RUN + i, _RUN, rows, i * width + b * LANES, width)
    for i in range(run):
        for b in range(len(blocks)):
            value = load(rows, i * width + b * LANES)
            score = log(larger(value, floor)) if are_probs else subtract(zero, value)
            store(rows, i * width + b * LANES, score)
        for c in range(num_classes, width):
            rows[i * width + c] = NEVER
        if not are_probs:
            best = load(rows, i * width)
            for b in range(1, len(blocks)):
                best = larger(best, load(rows, i * width + b * LANES))
            best = max_of_lanes(best)
            # A factor instead of a branch: 1 where the best score is far from 0.
            moved = multiply(add(is_less(far, best), is_less(best, minus_far)), best)
            for b in range(len(blocks)):
                here = i * width + b * LANES
                store(rows, here, subtract(load(rows, here), moved))
        for b in range(len(blocks)):
            store(scores, (at + i) * width + b * LANES, load(rows, i * width + b * LANES))


@compiled()
def gather(scores, weight, vertex, corners, blocks, old, start, run, rows, factors):  # type: ignore[no-untyped-def]
    """Write the scores of `run` pixels to `rows`: the unary and what their corners hold, times the factors of the classes."""
    n, width = len(corners), len(blocks) * LANES
    for i in range(run):
        p = start + i
        for b in range(len(blocks)):
            # The unary last: sums round less while they are small.
            message = spread(np.float32(0))
            for j in range(n):
                row = np.int64(vertex[p * n + j]) * width
                message = multiply_add(spread(weight[p * n + j]), load(old, row + b * LANES), message)
            if factors is not None:  # without them the branch is not compiled
                message = multiply(message, load(factors, b * LANES))
            store(rows, i * width + b * LANES, add(load(scores, p * width + b * LANES), message))


@compiled()
def softmax(rows, blocks, run):  # type: ignore[no-untyped-def]
    """Softmax of each of `run` rows, in place."""
    width, tiny = len(blocks) * LANES, spread(_TINY)
    for i in range(run):
        top = load(rows, i * width)
        for b in range(1, len(blocks)):
            top = larger(top, load(rows, i * width + b * LANES))
        top = max_of_lanes(top)
        total = spread(np.float32(0))
        for b in range(len(blocks)):
            raised = exp(subtract(load(rows, i * width + b * LANES), top))
            store(rows, i * width + b * LANES, raised)
            total = add(total, raised)
        scale = divide(spread(np.float32(1)), sum_of_lanes(total))
        for b in range(len(blocks)):
            at = i * width + b * LANES
            store(rows, at, keep_if_above(multiply(load(rows, at), scale), tiny))


@compiled()
def scatter(rows, weight, vertex, corners, blocks, new, start, run):  # type: ignore[no-untyped-def]
    """Add the marginals of `run` pixels to the rows of their corners."""
    n, width = len(corners), len(blocks) * LANES
    for i in range(run):
        p = start + i
        for j in range(n):
            row, share = np.int64(vertex[p * n + j]) * width, spread(weight[p * n + j])
            for b in range(len(blocks)):
                at = row + b * LANES
                store(new, at, multiply_add(share, load(rows, i * width + b * LANES), load(new, at)))
