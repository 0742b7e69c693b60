"""The permutohedral lattice (Adams et al. 2010): the simplex in which each pixel lies, and the neighbours of each vertex.

Letters: P pixels, d feature axes, n corners of a pixel over all kernels (d + 1 per kernel), R rows of vertices.

Conventions are those of Krahenbuhl & Koltun's code, "the original code" below. Pixels are placed bit for bit as there: float32
in the same order, halves rounded to even. Only vertices touched by a pixel exist, and only these can be neighbours.

Pixels are processed in bands, whose number depends on the image and not on the threads, so that any number of threads gives the
same bits. Each band numbers its vertices in the order in which its pixels touch them, so that nearby pixels have nearby rows. A
vertex that several bands touch has a row in each: the first is its master, the others are ghosts, which are added to the master
before a blur and copied from it afterwards. So no two bands write to the same row, and large sums have smaller errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pipeline.crf.cpu.blur import Sweep, blur_sums, respond
from pipeline.crf.cpu.neighbours import BEHIND, chains, distinct, link, weave
from pipeline.crf.cpu.threads import Team
from pipeline.crf.cpu.vertices import CHUNK, number_band
from pipeline.errors import UserError

_KEY_BITS = 62  # of a vertex's key; on a device the 63rd bit and unused ones hold the number of the image
# Most feature axes of a kernel: a key has d.bit_length() bits for the remainder, at least 3 for the first axis, and at least
# 4 for each other axis that is not constant.
MOST_AXES = max(d for d in range(1, _KEY_BITS) if d.bit_length() + 4 * d - 1 <= _KEY_BITS)
# Up to this coordinate float32 resolves a sixteenth of the step between vertices. If it could not resolve the vertices
# themselves, the corners of a pixel would form no simplex, and ranks and keys would point outside the tables.
_MOST_REACH = 2.0**20
_WOVEN_AXES = 3  # axes blurred together: half of an RGB image's, so that components fit a core's L2 cache
_WOVEN_ROWS = 1 << 13  # most rows of a component that is blurred along several axes together
_SHARED_KEYS = 1 << 15  # from this many keys on, threads share them
_EMPTY = np.empty(0, np.int32)


@dataclass(frozen=True)
class Lattice:
    """The vertices of one or several kernels in one table of rows."""

    vertex: np.ndarray  # (P, n) int32: the row of each corner of a pixel
    weight: np.ndarray  # (P, n) float32: barycentric, sums to 1 over the corners of a kernel; times factors if folded
    corners: list[int]  # d + 1 for each kernel
    response: np.ndarray  # (kernels, P) float32: K 1, the sum of the kernel over all pixels
    sweeps: list[Sweep]  # the passes of the blur, in order
    ghosts: np.ndarray  # (G, 2) int32, ghost row and master row, sorted by master
    fresh: list[np.ndarray]  # per band (chunks, kernels, 2) int64: start and stop of the rows new in each chunk
    bands: list[tuple[int, int]]  # first pixel and end of each band, in whole chunks
    num_rows: int  # R


def alpha(corners: int) -> np.float32:
    """Return the factor that corrects the scale of the blur: 1 / (1 + 2^-d)."""
    return np.float32(1 / (1 + 2.0 ** -(corners - 1)))


def build_lattice(
    team: Team, features: Sequence[np.ndarray], num_points: int, most_woven: int = _WOVEN_ROWS,
    counts: np.ndarray | None = None, fold: Sequence[tuple[float, bool]] | None = None,
) -> Lattice:  # fmt: skip
    """Return the lattice of pixels with these features, one array per kernel.

    Args:
        features: (d, P or more) float32 per kernel, each axis divided by its standard deviation, padded with zeros to a whole
            number of vectors.
        most_woven: largest component, in rows, that is blurred along several axes together; 0: one axis per sweep. The result
            is the same. Lattices of up to four times as many rows are always blurred axis by axis.
        counts: (P,) float32, number of pixels that each point represents in K 1; None: 1.
        fold: weight of each kernel, and whether its normalisation is symmetric. If given, the weights of the pixels, which act
            before and after the blur, include the roots of kernel weight, blur factor and normalisation.
    Raises:
        UserError: features reach or span more of the lattice than float32 or a key can distinguish (widths far too small).
    """
    corners = [len(axes) + 1 for axes in features]
    columns = np.cumsum([0, *corners])
    vertex = team.empty(num_points, int(columns[-1]), dtype=np.int32)
    weight = team.empty(num_points, int(columns[-1]))
    bands = _bands(num_points)
    packings = [packing(axes[:, :num_points]) for axes in features]
    tasks = [
        (axes, *key[:3], tuple(range(len(axes))), start, stop, first, vertex, weight, counts)
        for axes, key, first in zip(features, packings, columns, strict=False)
        for start, stop in bands
    ]
    found = team.run(number_band, tasks)
    mine = [found[k * len(bands) : (k + 1) * len(bands)] for k in range(len(features))]
    counts = np.array([[len(keys) for keys, _, _ in kernel] for kernel in mine])
    starts = np.cumsum([0, *counts.ravel()])  # first row of each band, kernel by kernel
    offset, num_rows = starts[:-1].reshape(counts.shape), int(starts[-1])
    keys = [np.concatenate([keys for keys, _, _ in kernel]) for kernel in mine]
    merged = _merged(team, keys)
    neighbours = [
        # In memory order: `weave` reads all axes of one vertex, `chains` one axis of all vertices.
        team.empty(len(one), 2 * size, dtype=np.int32)
        if most_woven
        else team.empty(2 * size, len(one), dtype=np.int32).T
        for one, size in zip(keys, corners, strict=True)
    ]
    axes_of = [
        (found, first, key.units, axis, near)
        for (found, first, _), key, near in zip(merged, packings, neighbours, strict=True)
        for axis in range(len(key.units))
    ]
    team.run(link, axes_of)
    sweeps = _sweeps(team, neighbours, [int(base[0]) for base in offset], most_woven)
    master = np.concatenate([own + base[0] for (*_, own), base in zip(merged, offset, strict=True)]).astype(np.int32)
    ghost = np.flatnonzero(master != np.arange(num_rows, dtype=np.int32)).astype(np.int32)
    ghosts = np.stack([ghost, master[ghost]], axis=1)[np.argsort(master[ghost], kind="stable")]
    fresh = [
        np.stack([_spans(mine[k][b][2] + offset[k, b]) for k in range(len(features))], axis=1)
        for b in range(len(bands))
    ]
    sums = np.concatenate([sums for kernel in mine for _, sums, _ in kernel])
    blur_sums(team, sums, sweeps, ghosts)
    response = team.empty(len(features), num_points)
    alphas = np.array([alpha(size) for size in corners])
    factors = symmetric = None
    if fold is not None:
        factors = np.sqrt([kernel_weight * alpha(size) for (kernel_weight, _), size in zip(fold, corners, strict=True)])
        symmetric = np.array([is_symmetric for _, is_symmetric in fold])
    common = (sums, alphas, factors, symmetric, response)
    team.run(respond, [(vertex, weight, columns, offset[:, b].copy(), *common, *bands[b]) for b in range(len(bands))])
    return Lattice(vertex, weight, corners, response, sweeps, ghosts, fresh, bands, num_rows)


def _merged(team: Team, keys: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return, per kernel: the distinct keys, ascending, and BEHIND; the lowest number of each; every number's representative.

    Threads share the keys by their size, so that equal keys fall to one thread.
    """
    masters = [np.empty(len(one), np.int32) for one in keys]
    shares = []
    for one in keys:
        parts = team.num_threads if len(one) >= _SHARED_KEYS else 1
        sample = np.sort(one[:: max(1, len(one) >> 12)])
        cuts = [int(sample[len(sample) * part // parts]) for part in range(1, parts)]
        shares.append(list(pairwise([0, *cuts, int(BEHIND)])))
    tasks = [(one, master, *share) for one, master, own in zip(keys, masters, shares, strict=True) for share in own]
    found = iter(team.run(_merge, tasks))
    merged = []
    for own, master in zip(shares, masters, strict=True):
        parts_of_one = [next(found) for _ in own]
        distinct_keys = np.concatenate([part for part, _ in parts_of_one] + [np.array([BEHIND])])
        merged.append((distinct_keys, np.concatenate([first for _, first in parts_of_one]), master))
    return merged


def _merge(keys: np.ndarray, master: np.ndarray, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """Apply `distinct` to the numbers whose keys are in low..high."""
    if low == 0 and high == BEHIND:
        found, first = distinct(keys, np.argsort(keys), master)
    else:
        numbers = np.flatnonzero((keys >= low) & (keys < high))
        found, first = distinct(keys, numbers[np.argsort(keys[numbers])], master)
    return found, first


def _sweeps(team: Team, neighbours: Sequence[np.ndarray], bases: Sequence[int], most_woven: int) -> list[Sweep]:
    """Return the sweeps; the n-th sweeps of all kernels are combined into one, since kernels share no rows."""
    parts = [
        (near, start, min(start + _WOVEN_AXES, near.shape[1] // 2), most_woven, base)
        for near, base in zip(neighbours, bases, strict=True)
        if most_woven
        and near.shape[1] // 2 > _WOVEN_AXES
        and len(near) > 4 * most_woven  # smaller lattices fit in the cache anyway
        for start in range(0, near.shape[1] // 2, _WOVEN_AXES)
    ]
    woven = dict(zip([(part[-1], part[1]) for part in parts], team.run(weave, parts), strict=True))
    stages: list[list[tuple[np.ndarray, np.ndarray | None]]] = []
    for near, base in zip(neighbours, bases, strict=True):
        own: list[tuple[np.ndarray, np.ndarray | None]] = []
        for start in range(0, near.shape[1] // 2, _WOVEN_AXES):
            rows, ends = woven.get((base, start), (_EMPTY, _EMPTY))
            if len(rows):
                own.append((rows, ends))
            else:
                axes = range(start, min(start + _WOVEN_AXES, near.shape[1] // 2))
                own += [(one, None) for one in team.run(chains, [(near, axis, base) for axis in axes])]
        stages.append(own)
    return [Sweep.of(team, [one[n] for one in stages if n < len(one)]) for n in range(max(map(len, stages)))]


def _bands(num_points: int) -> list[tuple[int, int]]:
    """Return bands of nearly equal size in whole chunks: 16, or fewer if they would be small compared with their borders."""
    chunks = -(-num_points // CHUNK)
    count = next(count for count in (16, 8, 4, 2, 1) if chunks >= 8 * count or count == 1)
    cuts = [min(num_points, CHUNK * (chunks * band // count)) for band in range(count + 1)]
    return list(pairwise(cuts))


class Packing(NamedTuple):
    """How the vertices of a kernel are packed into keys."""

    scale: np.ndarray  # (d,) float32, factors of the features, see `_elevation`
    low: np.ndarray  # (d,) int64, smallest whole part of each coordinate, see `vertices`
    units: np.ndarray  # (d + 1,) int64, factor of each coordinate in a key, a power of two; 0 for the last
    bits: int  # of the largest key, at most 62


def packing(features: np.ndarray) -> Packing:
    """Return the packing of features (d, P), or of (d, 2) bounds between which they lie.

    Raises:
        UserError: the features reach further than float32 can distinguish, or span more than 62 bits can hold.
    """
    d = len(features)
    scale = _elevation(d)
    ends = check_reach(features) * scale
    low, high = np.empty(d), np.empty(d)
    for i in range(d):
        # Elevation: coordinate i is the sum of the scaled axes from i on, minus i times axis i - 1.
        above = ends[:, i:].sum(axis=1)
        low[i], high[i] = (above - i * ends[::-1, i - 1]) if i else above
    low, high = np.floor(low / (d + 1)) - 3, np.ceil(high / (d + 1)) + 3  # room for other corners and for neighbours
    bits = [int(d).bit_length()] + [int(span).bit_length() for span in high - low]
    if sum(bits) > _KEY_BITS:
        raise UserError(
            f"CRF widths are too small: the lattice needs {sum(bits)} bits a key, {_KEY_BITS} are there; widen them"
        )
    units = np.append(2 ** np.cumsum(bits[:-1]), 0).astype(np.int64)
    return Packing(scale, low.astype(np.int64), units, sum(bits))


def check_reach(features: np.ndarray) -> np.ndarray:
    """Return the minimum and maximum of each axis of features (d, P), as (2, d) float64.

    Raises:
        UserError: float32 cannot distinguish their positions on the lattice.
    """
    d = len(features)
    ends = np.stack([features.min(axis=1), features.max(axis=1)]).astype(np.float64)
    most = np.abs(ends * _elevation(d)).max(axis=0)
    reach = max(most[i:].sum() + (i * most[i - 1] if i else 0) for i in range(d + 1))
    if not reach <= _MOST_REACH:  # infinite or NaN if division by a width overflowed float32
        raise UserError(
            f"CRF widths are too small: coordinates on the lattice reach {reach:.3g}, and float32 tells them apart up to "
            f"{_MOST_REACH:.3g}; widen them"
        )
    return ends


def _elevation(d: int) -> np.ndarray:
    """Return (d,) float32: the factor by which each feature axis is scaled before it is mapped to lattice coordinates."""
    # Two roundings to float32, as in the original code: one more or fewer changes the weights by 1e-5.
    std = np.float64(np.float32(np.sqrt(2 / 3) * (d + 1)))
    return np.array([1 / np.sqrt((i + 1) * (i + 2)) * std for i in range(d)]).astype(np.float32)


def _spans(before: np.ndarray) -> np.ndarray:
    return np.stack([before[:-1], before[1:]], axis=1)
