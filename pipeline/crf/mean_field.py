"""Mean-field inference over permutohedral lattices: Krahenbuhl & Koltun 2011 (arXiv:1210.5644), algorithm 1.

Letters: P pixels, M lattice vertices, C classes padded to a whole number of vectors, T threads.

One pass a step visits each pixel once: gather the filtered marginals of its vertices, add the unary, softmax, and scatter
the new marginals into the next step's lattices; P x C temporaries never exist. Threads own a band of pixels and a lattice
of their own, summed before the blur.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from pipeline.crf.lattice import Lattice

LANES = 8  # float32 numbers that class rows are padded to
_NEVER = np.float32(1e4)  # unary of padding classes: their probability is 0
_TINY = np.float32(2.0**-60)  # below it a marginal is 0: denormal numbers would cost several times the whole step


def mean_field(
    unary: np.ndarray, kernels: Sequence[tuple[float, Lattice]], iterations: int, num_threads: int
) -> np.ndarray:
    """Marginals after `iterations` steps with Potts compatibility and symmetric normalisation.

    Args:
        unary: (P, C) float32 energies: -log of the probabilities.
        kernels: (weight, lattice) of each Gaussian, at least one.
        iterations: at least 1.
    Returns:
        (P, C) float32, sums to 1 over C.
    """
    num_points, num_classes = unary.shape
    width = -(-num_classes // LANES) * LANES
    energy = np.full((num_points, width), _NEVER, np.float32)
    energy[:, :num_classes] = unary
    marginals = np.empty_like(energy)
    with ThreadPoolExecutor(num_threads) as pool:
        lattices = [lattice for _, lattice in kernels]
        vertex = tuple(lattice.vertex for lattice in lattices)
        norm = [_normalisation(pool, num_threads, lattice) for lattice in lattices]
        # The symmetric normalisation scales a pixel on its way in and out: fold it, and the kernel's weight, into the weights.
        into = tuple(lattice.weight * n[:, None] for lattice, n in zip(lattices, norm, strict=True))
        out = tuple(w * np.float32(k * lattice.alpha) for w, (k, lattice) in zip(into, kernels, strict=True))
        old = tuple(np.zeros((lattice.num_vertices + 1, width), np.float32) for lattice in lattices)
        new = tuple(np.zeros((num_threads, *values.shape), np.float32) for values in old)
        for step in range(iterations + 1):
            first, last = step == 0, step == iterations
            for values in new:
                values.fill(0)
            state = energy, vertex, into, out, old, new, marginals, first, last
            _in_bands(pool, num_threads, num_points, _update, *state)
            if not last:
                old = tuple(
                    _sum_and_blur(pool, num_threads, private, values, lattice.neighbour)
                    for private, values, lattice in zip(new, old, lattices, strict=True)
                )
    return np.ascontiguousarray(marginals[:, :num_classes])


def _normalisation(pool: ThreadPoolExecutor, num_threads: int, lattice: Lattice) -> np.ndarray:
    """(P,) float32: 1 / sqrt(K 1 + 1e-20), the kernel's response to an image of ones."""
    num_vertices = lattice.num_vertices + 1
    values = np.zeros((1, num_vertices, 1), np.float32)
    _splat_ones(lattice.vertex, lattice.weight, values[0])
    blurred = _sum_and_blur(pool, num_threads, values, np.zeros((num_vertices, 1), np.float32), lattice.neighbour)
    response = np.einsum("pj,pj->p", lattice.weight, blurred[lattice.vertex, 0]) * lattice.alpha
    return (1 / np.sqrt(response + np.float32(1e-20))).astype(np.float32)


def _sum_and_blur(
    pool: ThreadPoolExecutor, num_threads: int, private: np.ndarray, spare: np.ndarray, neighbour: np.ndarray
) -> np.ndarray:
    """Sum the threads' lattices (T, M+1, C), then blur along each axis in turn; overwrites `private` and `spare`."""
    values = private[0]
    for other in private[1:]:
        _in_bands(pool, num_threads, len(values), _add, values, other)
    source, target = values, spare
    for axis in neighbour:
        _in_bands(pool, num_threads, len(axis), _blur, source, target, axis)
        source, target = target, source
    if source is values:  # `private` is filled with zeros next; what is returned must outlive it
        np.copyto(spare, source)
    return spare


def _in_bands(
    pool: ThreadPoolExecutor, num_threads: int, length: int, work: Callable[..., object], *state: object
) -> None:
    """work(*state, thread, start, stop) over equal bands of 0..length, one a thread; compiled code runs without the GIL."""
    edges = np.linspace(0, length, num_threads + 1).astype(int).tolist()
    for done in [pool.submit(work, *state, t, edges[t], edges[t + 1]) for t in range(num_threads)]:
        done.result()


def _add(values: np.ndarray, other: np.ndarray, thread: int, start: int, stop: int) -> None:
    values[start:stop] += other[start:stop]


@njit(cache=True, nogil=True, fastmath={"contract", "arcp", "nsz"})
def _update(energy, vertex, into, out, old, new, marginals, first, last, thread, start, stop):  # type: ignore[no-untyped-def]
    """One mean-field step of pixels start..stop: gather, add the unary, softmax, scatter."""
    width = energy.shape[1]
    row = np.empty(width, np.float32)
    wide = np.empty(width, np.float64)
    for p in range(start, stop):
        for c in range(width):
            row[c] = -energy[p, c]
        if not first:
            for k in range(len(vertex)):
                for j in range(vertex[k].shape[1]):
                    v, w = vertex[k][p, j], out[k][p, j]
                    for c in range(width):
                        row[c] += w * old[k][v, c]
        _softmax(row, wide)
        if last:
            for c in range(width):
                marginals[p, c] = row[c]
        else:
            for k in range(len(vertex)):
                for j in range(vertex[k].shape[1]):
                    v, w = vertex[k][p, j], into[k][p, j]
                    for c in range(width):
                        new[k][thread, v, c] += w * row[c]


@njit(cache=True, nogil=True, fastmath={"contract", "arcp", "nsz"}, inline="always")
def _softmax(row, wide):  # type: ignore[no-untyped-def]
    """Softmax in place, with an exponential that vectorises without a maths library.

    exp(x) = exp(x / 1024) ** 1024 by a degree-6 polynomial and ten squarings in float64: relative error below 1e-10.
    """
    top = row[0]
    for c in range(1, len(row)):
        top = max(top, row[c])
    total = 0.0
    for c in range(len(row)):
        x = max(np.float64(row[c] - top), -80.0) * (1 / 1024)
        e = 1 + x * (1 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120 + x * (1 / 720))))))
        for _ in range(10):
            e *= e
        wide[c] = e
    for c in range(len(row)):
        total += wide[c]
    scale = 1 / total
    for c in range(len(row)):
        q = np.float32(wide[c] * scale)
        row[c] = q if q >= _TINY else np.float32(0)


@njit(cache=True, nogil=True, fastmath={"contract", "arcp", "nsz"})
def _blur(source, target, neighbour, thread, start, stop):  # type: ignore[no-untyped-def]
    """target = source + half of both neighbours, for vertices start..stop; the last row stays 0: "no neighbour"."""
    half = np.float32(0.5)
    for v in range(start, stop):
        a, b = neighbour[v, 0], neighbour[v, 1]
        for c in range(source.shape[1]):
            target[v, c] = source[v, c] + half * (source[a, c] + source[b, c])


@njit(cache=True, nogil=True)
def _splat_ones(vertex, weight, values):  # type: ignore[no-untyped-def]
    for p in range(vertex.shape[0]):
        for j in range(vertex.shape[1]):
            values[vertex[p, j], 0] += weight[p, j]
