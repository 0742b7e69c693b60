"""Mean-field inference over a permutohedral lattice: Krahenbuhl & Koltun 2011 (arXiv:1210.5644), algorithm 1.

Letters: P pixels, C classes, n corners of a pixel over all kernels, R rows of vertices.

Each step visits every pixel once: gather the filtered marginals of its corners, add the unary, apply softmax, scatter the new
marginals to the rows of the next step; P x C temporaries never exist. Pixels and vertices store their numbers, one per class,
as rows of tables (`tables`).
"""

import numpy as np

from pipeline.compiled import compiled
from pipeline.crf.cpu.blur import blur
from pipeline.crf.cpu.features import TILE_PX
from pipeline.crf.cpu.lattice import Lattice
from pipeline.crf.cpu.simd import (
    LANES,
    add,
    element,
    exp,
    is_less,
    keep_if_above,
    larger,
    log,
    max_of_lanes,
    multiply,
    multiply_add,
    one_over_sum,
    smaller,
    subtract,
    transpose,
)
from pipeline.crf.cpu.tables import Layout, load_row, spread_row, store_row
from pipeline.crf.cpu.threads import Team
from pipeline.crf.cpu.vertices import CHUNK

NEVER = np.float32(-np.inf)  # score of padding classes, whose probability is then 0
# Energies may include any constant per pixel, and float32 scores of this size have 15 fractional bits left. Beyond it, the
# pixel's best score is subtracted from all its scores; below it nothing is changed, so usual energies are not rounded again.
FAR = np.float32(256)
LEAST = np.float32(1e-5)  # given probabilities are clipped to it, so that energies are finite
TINY = np.float32(2.0**-60)  # smaller marginals become 0: denormal numbers would make a step several times slower
RUN = TILE_PX[1]  # most adjacent pixels processed together: a row of a tile
_SIXTEEN, _FOUR = (0, 1, 2, 3), (0,)  # as `quads` of `load_row`: vectors of 16 and of 4 numbers


def padded_weights(class_weights: np.ndarray, layout: Layout) -> np.ndarray:
    """Return a table of one row: the weights (C,) as float32, padded with zeros."""
    weights = class_weights.astype(np.float32)
    return np.pad(weights, (0, layout.width - len(weights)))


class Field:
    """State of the inference: the scores of the points, and the values at the vertices of the lattice.

    Args:
        lattice: its weights include the factors of the kernels, see `fold` of `build_lattice`.
        class_weights: (C,) float32 factors of the message for each class; None: 1, without a multiplication.
        counts: (P,) float32, number of pixels that each point represents; None: 1, without a multiplication.
    """

    def __init__(
        self, team: Team, lattice: Lattice, num_classes: int, class_weights: np.ndarray | None = None,
        counts: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.team, self.lattice, self.counts = team, lattice, counts
        self.layout = layout = Layout.of(num_classes)
        self.factors = None if class_weights is None else padded_weights(class_weights, layout)
        self.never = np.where(np.arange(layout.width) < num_classes, np.float32(0), NEVER)
        self.scores = team.empty(len(lattice.vertex) * layout.width)
        self.old, self.new = (team.empty(lattice.num_rows * layout.width) for _ in range(2))
        self.corners = lattice.vertex.reshape(-1), lattice.weight.reshape(-1), tuple(range(lattice.vertex.shape[1]))
        self.form = layout.quads, layout.groups, layout.columns()

    def step(
        self, source: np.ndarray, are_probs: bool, order: np.ndarray, result: np.ndarray, first: bool, last: bool,
        written: bool, floor: np.float32 = LEAST,
    ) -> None:  # fmt: skip
        """Compute the next marginals of all points; scatter them to the vertices unless `last`, copy to `result` if `written`.

        Args:
            source: (C, P) float32, probabilities (clipped to at least `floor`) or energies, pixels in row order.
            order: (P,) int32, the pixels in the order of the lattice.
            first: take the marginals of the source alone.
        """
        state = order, self.scores, *self.corners, self.counts, *self.form, self.old, self.new
        end = first, last, written, result, self.never, self.factors
        bands = zip(self.lattice.bands, self.lattice.fresh, strict=True)
        self.team.run(_pass, [(source, are_probs, floor, *state, fresh, *band, *end) for band, fresh in bands])
        if not last:
            self.blur()

    def blur(self) -> None:
        """Blur the values scattered to the vertices; the next step gathers the result."""
        blur(self.team, self.new, self.layout, self.lattice.sweeps, self.lattice.ghosts)
        self.old, self.new = self.new, self.old


def mean_field(
    team: Team, source: np.ndarray, are_probs: bool, order: np.ndarray, lattice: Lattice, iterations: int,
    class_weights: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Return marginals (C, P) float32 after `iterations` steps with Potts kernels, whose factors are in the lattice's weights.

    Args:
        source, order: see `Field.step`; lattice, class_weights: see `Field`.
    """
    field, result = Field(team, lattice, len(source), class_weights), np.empty_like(source)
    for step in range(iterations + 1):
        last = step == iterations
        field.step(source, are_probs, order, result, first=step == 0, last=last, written=last)
    return result


def non_finite(team: Team, values: np.ndarray, at_least: float) -> bool:
    """Return whether any number is NaN, infinite or below `at_least`."""
    flat = values.reshape(-1)
    return any(team.run(_is_unfit, [(flat, np.float32(at_least), *band) for band in team.bands(len(flat))]))


@compiled()
def _is_unfit(values, least, start, stop):  # type: ignore[no-untyped-def]
    part, whole = values[start:stop], (stop - start) // 16
    # A product with 0 is 0 for finite numbers and NaN for others; so is a sum of such products.
    products = zero = spread_row(np.float32(0), _SIXTEEN)
    lowest = spread_row(np.float32(np.inf), _SIXTEEN)
    for i in range(whole):
        value = load_row(part, 1, i, _SIXTEEN, 0)
        products = multiply_add(value, zero, products)
        lowest = smaller(lowest, value)
    rest = np.empty(32, np.float32)
    store_row(rest, 1, 0, _SIXTEEN, 0, products)
    store_row(rest, 1, 1, _SIXTEEN, 0, lowest)
    unfit = False
    for i in range(16):
        unfit |= not (rest[i] == 0 and rest[16 + i] >= least)
    for i in range(16 * whole, len(part)):
        unfit |= not (part[i] >= least and np.abs(part[i]) < np.float32(np.inf))
    return unfit


@compiled()
def _pass(  # type: ignore[no-untyped-def]
    source, are_probs, floor, order, scores, vertex, weight, corners, counts, quads, groups, columns, old, new, fresh, start,
    stop, first, last, written, result, never, factors,
):  # fmt: skip
    """Run one mean-field step for pixels start..stop, by chunks, and within a chunk by runs of adjacent pixels."""
    num_classes, width = source.shape[0], len(never)
    num_points, num_rows = len(order), len(new) // width
    rows = np.empty(RUN * width + LANES, np.float32)  # transposing writes whole vectors of LANES
    planes = np.ones((width + LANES) * RUN, np.float32)
    for chunk in range(len(fresh)):
        at, end = start + chunk * CHUNK, min(stop, start + (chunk + 1) * CHUNK)
        if not last:
            for k in range(fresh.shape[1]):
                for c in range(len(columns)):
                    base, lanes = columns[c, 0] * num_rows, columns[c, 1]
                    new[base + fresh[chunk, k, 0] * lanes : base + fresh[chunk, k, 1] * lanes] = 0
        while at < end:
            pixel, run = order[at], min(RUN, end - at)
            while order[at + run - 1] != pixel + run - 1:
                run -= 1
            if first:
                for c in range(num_classes):
                    planes[c * RUN : c * RUN + run] = source[c, pixel : pixel + run]
                score(planes, are_probs, floor, columns, scores, num_points, at, run, quads, groups, rows, never)
            else:
                gather(
                    scores,
                    num_points,
                    weight,
                    vertex,
                    corners,
                    quads,
                    groups,
                    old,
                    num_rows,
                    at,
                    run,
                    rows,
                    RUN,
                    factors,
                )
            softmax(rows, RUN, quads, groups, columns, run)
            if written:
                for c in range(len(columns)):
                    column, lanes = columns[c]
                    for i in range(0, run, LANES):
                        for b in range(0, lanes, LANES):
                            transpose(rows, column * RUN + i * lanes + b, lanes, planes, (column + b) * RUN + i, RUN)
                for c in range(num_classes):
                    result[c, pixel : pixel + run] = planes[c * RUN : c * RUN + run]
            if not last:
                scatter(rows, RUN, weight, vertex, corners, quads, groups, new, num_rows, at, run, counts)
            at += run


@compiled()
def score(planes, are_probs, floor, columns, scores, num_points, at, run, quads, groups, rows, never):  # type: ignore[no-untyped-def]
    """Write the scores (negative energies) of `run` pixels, given as planes by class, to `scores` and `rows`.

    The planes are overwritten.
    """
    zero, far, minus_far = spread_row(np.float32(0), quads), spread_row(FAR, quads), spread_row(-FAR, quads)
    if are_probs:
        for c in range(len(never)):
            _take_logs(planes[c * RUN : (c + 1) * RUN], floor, run)
    for c in range(len(columns)):
        column, lanes = columns[c]
        for i in range(0, run, LANES):
            for b in range(0, lanes, LANES):
                # A vector shorter than LANES also overwrites numbers of the next row, which are written afterwards.
                transpose(planes, (column + b) * RUN + i, RUN, rows, column * RUN + i * lanes + b, lanes)
    for i in range(run):
        for g in range(len(groups)):
            value = load_row(rows, RUN, i, quads, g)
            one = value if are_probs else subtract(zero, value)
            store_row(rows, RUN, i, quads, g, add(one, load_row(never, 1, 0, quads, g)))
        if not are_probs:
            best = load_row(rows, RUN, i, quads, 0)
            for g in range(1, len(groups)):
                best = larger(best, load_row(rows, RUN, i, quads, g))
            best = max_of_lanes(best)
            # A factor instead of a branch: the best score if it is far from 0, else 0.
            moved = multiply(add(is_less(far, best), is_less(best, minus_far)), best)
            for g in range(len(groups)):
                store_row(rows, RUN, i, quads, g, subtract(load_row(rows, RUN, i, quads, g), moved))
        for g in range(len(groups)):
            store_row(scores, num_points, at + i, quads, g, load_row(rows, RUN, i, quads, g))


@compiled()
def _take_logs(values, floor, count):  # type: ignore[no-untyped-def]
    """Replace the first `count` numbers, and those up to a whole vector, by the logarithms of what is at least `floor`."""
    least = spread_row(floor, _SIXTEEN)
    for i in range((count + 15) // 16):
        store_row(values, 1, i, _SIXTEEN, 0, log(larger(load_row(values, 1, i, _SIXTEEN, 0), least)))


@compiled()
def gather(  # type: ignore[no-untyped-def]
    scores, num_points, weight, vertex, corners, quads, groups, old, num_rows, start, run, rows, room, factors
):
    """Write the scores of `run` pixels to `rows`: the unary plus the message from their corners times the class factors."""
    n = len(corners)
    for i in range(run):
        p = start + i
        for g in range(len(groups)):
            # The unary is added last: rounding errors are smaller while the sum is small.
            message = spread_row(np.float32(0), quads)
            for j in range(n):
                share = spread_row(element(weight, p * n + j), quads)
                corner = load_row(old, num_rows, element(vertex, p * n + j), quads, g)
                message = multiply_add(share, corner, message)
            if factors is not None:  # if they are None, the branch is not compiled
                message = multiply(message, load_row(factors, 1, 0, quads, g))
            store_row(rows, room, i, quads, g, add(load_row(scores, num_points, p, quads, g), message))


@compiled()
def softmax(rows, room, quads, groups, columns, run):  # type: ignore[no-untyped-def]
    """Apply softmax, in place, to the first `run` rows of a table of `room` rows."""
    tiny = spread_row(TINY, quads)
    for i in range(run):
        top = load_row(rows, room, i, quads, 0)
        for g in range(1, len(groups)):
            top = larger(top, load_row(rows, room, i, quads, g))
        top = max_of_lanes(top)
        for g in range(len(groups)):
            store_row(rows, room, i, quads, g, subtract(load_row(rows, room, i, quads, g), top))
    for c in range(len(columns)):
        column, lanes = columns[c]
        _take_exps(rows[column * room : column * room + run * lanes])
    for i in range(run):
        total = spread_row(np.float32(0), quads)
        for g in range(len(groups)):
            total = add(total, load_row(rows, room, i, quads, g))
        scale = one_over_sum(total)
        for g in range(len(groups)):
            share = multiply(load_row(rows, room, i, quads, g), scale)
            store_row(rows, room, i, quads, g, keep_if_above(share, tiny))


@compiled()
def _take_exps(values):  # type: ignore[no-untyped-def]
    """Replace numbers by their exponentials; their count is a multiple of 4. Short vectors of several rows fill a long one."""
    whole = len(values) // 16
    for i in range(whole):
        store_row(values, 1, i, _SIXTEEN, 0, exp(load_row(values, 1, i, _SIXTEEN, 0)))
    for i in range(4 * whole, len(values) // 4):
        store_row(values, 1, i, _FOUR, 0, exp(load_row(values, 1, i, _FOUR, 0)))


@compiled()
def scatter(rows, room, weight, vertex, corners, quads, groups, new, num_rows, start, run, counts):  # type: ignore[no-untyped-def]
    """Add the marginals of `run` pixels, times their counts, to the rows of their corners."""
    n = len(corners)
    for i in range(run):
        p = start + i
        for g in range(len(groups)):
            marginals = load_row(rows, room, i, quads, g)
            if counts is not None:  # if they are None, the branch is not compiled
                marginals = multiply(marginals, spread_row(element(counts, p), quads))
            for j in range(n):
                row, share = element(vertex, p * n + j), spread_row(element(weight, p * n + j), quads)
                sum_before = load_row(new, num_rows, row, quads, g)
                store_row(new, num_rows, row, quads, g, multiply_add(share, marginals, sum_before))
