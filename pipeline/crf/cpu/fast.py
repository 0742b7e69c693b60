"""Mean field of the fast mode: points that have settled keep their marginals, and only the active ones are updated further.

Letters: N points, M active points, C classes.

After a few steps most points have settled: they are certain and no longer change. Their message to the active points is then a
constant: the message of all points minus that of the active points. So the remaining steps need only the active points and
their vertices. The approximation is that later changes are no longer filtered through the other vertices.
"""

import numpy as np

from pipeline.compiled import compiled
from pipeline.crf.cpu.lattice import Lattice
from pipeline.crf.cpu.mean_field import RUN, TINY, Field, gather, scatter, score, softmax
from pipeline.crf.cpu.narrowed import narrowed
from pipeline.crf.cpu.simd import LANES, add, subtract
from pipeline.crf.cpu.tables import load_row, store_row
from pipeline.crf.cpu.threads import Team
from pipeline.crf.cpu.vertices import CHUNK

# Step: (certain, still). After this step, points drop out whose label has a probability of at least `certain`, and none of
# whose probabilities changed by more than `still` in the step.
_NARROWED_AT = {2: (0.995, 0.005), 5: (0.0, 0.0005)}


def fast_mean_field(
    team: Team, source: np.ndarray, are_probs: bool, lattice: Lattice, counts: np.ndarray, iterations: int,
    class_weights: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Return marginals (C, N) float32 after `iterations` steps, or after the step in which a point dropped out.

    Args:
        source: (C, N) float32, probabilities (clipped to at least 1e-5) or energies.
        lattice: lattice of the points, with one axis per sweep; its weights are those that `Field` requires.
        counts: (N,) float32, number of pixels that each point represents.
    """
    field = Field(team, lattice, len(source), class_weights, counts)
    result = marginals = team.empty(*source.shape)
    before = team.empty(*source.shape)
    order = np.arange(len(counts), dtype=np.int32)
    places: np.ndarray | None = None  # indices of the active points; None: all are active
    for step in range(iterations + 1):
        last, narrows = step == iterations, step in _NARROWED_AT
        into, written = (before, True) if not last and step + 1 in _NARROWED_AT else (marginals, last or narrows)
        field.step(source, are_probs, order, into, step == 0, last or narrows, written)
        if not last and not narrows:
            continue
        if places is not None:
            result[:, places] = marginals
        if last:
            break
        certain, still = np.array(_NARROWED_AT[step], np.float32)
        tasks = [(marginals, before, certain, still, *band) for band in lattice.bands]
        active = np.flatnonzero(np.concatenate(team.run(_unsettled, tasks)))
        if not len(active):
            break
        places = active if places is None else places[active]
        lattice, counts, order = narrowed(team, lattice, active), counts[active], order[: len(active)]
        marginals, before = (np.take(one, active, axis=1) for one in (marginals, before))
        field = Field(team, lattice, len(source), class_weights, counts)
        field.step(before, True, order, before, True, False, False, floor=TINY)
        _go_on(field, marginals)
    return result


@compiled()
def _unsettled(marginals, before, certain, still, start, stop):  # type: ignore[no-untyped-def]
    """Return (stop - start,) bool: whether each point is uncertain, or changed in the last step."""
    going = np.empty(stop - start, np.bool_)
    tops, changes = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    for begin in range(start, stop, CHUNK):
        count = min(CHUNK, stop - begin)
        tops[:count] = changes[:count] = 0
        for c in range(len(marginals)):
            now, then = marginals[c, begin : begin + count], before[c, begin : begin + count]
            for i in range(count):
                tops[i] = max(tops[i], now[i])
                changes[i] = max(changes[i], abs(now[i] - then[i]))
        for i in range(count):
            going[begin - start + i] = tops[i] < certain or changes[i] > still
    return going


def _go_on(field: Field, marginals: np.ndarray) -> None:
    """Set the scores so that, with the values now at the vertices, they give the marginals (C, M); then scatter these."""
    state = marginals, field.scores, *field.corners, field.counts, *field.form, field.old, field.new
    bands = zip(field.lattice.bands, field.lattice.fresh, strict=True)
    field.team.run(_rescore, [(*state, fresh, *band, field.never, field.factors) for band, fresh in bands])
    field.blur()


@compiled()
def _rescore(  # type: ignore[no-untyped-def]
    marginals,
    scores,
    vertex,
    weight,
    corners,
    counts,
    quads,
    groups,
    columns,
    old,
    new,
    fresh,
    start,
    stop,
    never,
    factors,
):
    num_classes, width = marginals.shape[0], len(never)
    num_points, num_rows = marginals.shape[1], len(new) // width
    rows = np.empty(RUN * width + LANES, np.float32)
    planes = np.ones((width + LANES) * RUN, np.float32)
    nothing = np.zeros(width, np.float32)
    for k in range(fresh.shape[1]):
        for c in range(len(columns)):
            base, lanes = columns[c, 0] * num_rows, columns[c, 1]
            for chunk in range(len(fresh)):
                new[base + fresh[chunk, k, 0] * lanes : base + fresh[chunk, k, 1] * lanes] = 0
    for at in range(start, stop, RUN):
        run = min(RUN, stop - at)
        for c in range(num_classes):
            planes[c * RUN : c * RUN + run] = marginals[c, at : at + run]
        score(planes, True, TINY, columns, scores, num_points, at, run, quads, groups, rows, nothing)
        gather(
            scores, num_points, weight, vertex, corners, quads, groups, old, num_rows, at, run, rows, RUN, factors
        )  # fmt: skip
        for i in range(run):
            for g in range(len(groups)):
                logarithm = load_row(scores, num_points, at + i, quads, g)
                message = subtract(load_row(rows, RUN, i, quads, g), logarithm)
                padding = load_row(never, 1, 0, quads, g)
                store_row(scores, num_points, at + i, quads, g, add(subtract(logarithm, message), padding))
                store_row(rows, RUN, i, quads, g, add(logarithm, padding))
        softmax(rows, RUN, quads, groups, columns, run)
        scatter(rows, RUN, weight, vertex, corners, quads, groups, new, num_rows, at, run, counts)
