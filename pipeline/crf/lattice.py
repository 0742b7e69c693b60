"""The permutohedral lattice: Gaussian filtering of P points in d dimensions in O(P d) (Adams, Baek & Davis 2010).

Conventions are those of Krahenbuhl & Koltun's code, so that results can be compared bit for bit up to summation order:
float32 features, simplex by rounding half to even, blur along axes 0..d over existing vertices only.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

_EMPTY = -1
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads neighbouring keys over the table


@dataclass(frozen=True)
class Lattice:
    """Where each point sits among the M vertices, and which vertices are neighbours."""

    vertex: np.ndarray  # (P, d+1) int32: the corners of each point's simplex
    weight: np.ndarray  # (P, d+1) float32: barycentric, sums to 1
    neighbour: np.ndarray  # (d+1, M, 2) int32: the vertices before and after along each axis; M where there is none
    num_vertices: int  # M

    @property
    def alpha(self) -> np.float32:
        """The factor that makes the blur's centre weight right: 1 / (1 + 2^-d)."""
        return np.float32(1 / (1 + 2.0 ** -(self.vertex.shape[1] - 1)))


def build_lattice(features: np.ndarray) -> Lattice:
    """The lattice of points with unit-variance features.

    Args:
        features: (P, d) float32, each axis already divided by its standard deviation.
    Raises:
        ValueError: the features span more of the lattice than a 63-bit key can tell apart (widths far too small).
    """
    d = features.shape[1]
    # Two roundings to float32, as the original's code has them: one more or fewer moves the weights by 1e-5.
    std = np.float64(np.float32(np.sqrt(2 / 3) * (d + 1)))
    scale = np.array([1 / np.sqrt((i + 1) * (i + 2)) * std for i in range(d)]).astype(np.float32)
    corner, rank, weight = _embed(np.ascontiguousarray(features, np.float32), scale)
    low = corner.min(axis=0).astype(np.int64) - 2 * (d + 1)  # room for the other corners and for neighbours
    high = corner.max(axis=0).astype(np.int64) + 2 * (d + 1)
    bits = np.array([int(span).bit_length() for span in high - low])
    if bits.sum() > 63:
        raise ValueError(
            f"CRF widths are too small: the lattice needs {bits.sum()} bits a key, 63 are there; widen them"
        )
    shift = np.concatenate([[0], np.cumsum(bits)[:-1]]).astype(np.int64)
    vertex, keys = _number_vertices(corner, rank, low, shift)
    return Lattice(vertex, weight, _find_neighbours(keys, shift), len(keys))


@njit(cache=True, nogil=True)
def _embed(features, scale):  # type: ignore[no-untyped-def]
    """Simplex of each point: its 0-coloured corner (P, d), the rank of each axis (P, d+1), barycentric weights (P, d+1)."""
    num_points, d = features.shape
    corner = np.empty((num_points, d), np.int32)
    rank = np.empty((num_points, d + 1), np.int8)
    weight = np.empty((num_points, d + 1), np.float32)
    elevated = np.empty(d + 1, np.float32)
    base = np.empty(d + 1, np.int32)
    bary = np.empty(d + 2, np.float32)
    down = np.float32(1) / np.float32(d + 1)
    for p in range(num_points):
        total = np.float32(0)
        for j in range(d, 0, -1):
            cf = features[p, j - 1] * scale[j - 1]
            elevated[j] = total - np.float32(j) * cf
            total += cf
        elevated[0] = total
        excess = np.int32(0)
        for i in range(d + 1):
            rounded = np.int32(np.rint(down * elevated[i]))
            base[i] = rounded * (d + 1)
            excess += rounded
            rank[p, i] = 0
        for i in range(d):
            here = elevated[i] - np.float32(base[i])
            for j in range(i + 1, d + 1):
                if here < elevated[j] - np.float32(base[j]):
                    rank[p, i] += 1
                else:
                    rank[p, j] += 1
        for i in range(d + 2):
            bary[i] = 0
        for i in range(d + 1):
            moved = rank[p, i] + excess
            if moved < 0:
                moved += d + 1
                base[i] += d + 1
            elif moved > d:
                moved -= d + 1
                base[i] -= d + 1
            rank[p, i] = moved
            v = (elevated[i] - np.float32(base[i])) * down
            bary[d - moved] += v
            bary[d + 1 - moved] -= v
        bary[0] += np.float32(1) + bary[d + 1]
        for i in range(d + 1):
            weight[p, i] = bary[i]
        for i in range(d):
            corner[p, i] = base[i]
    return corner, rank, weight


@njit(cache=True, nogil=True)
def _number_vertices(corner, rank, low, shift):  # type: ignore[no-untyped-def]
    """Number the distinct vertices in the order they are met: (P, d+1) int32 numbers, (M,) int64 packed keys."""
    num_points, d = corner.shape
    vertex = np.empty((num_points, d + 1), np.int32)
    size = np.int64(1 << 16)
    table = np.full(size, _EMPTY, np.int32)
    keys = np.empty(size, np.int64)
    count = 0
    for p in range(num_points):
        for remainder in range(d + 1):
            key = np.int64(0)
            for i in range(d):
                step = remainder - (d + 1) if rank[p, i] > d - remainder else remainder
                key |= (corner[p, i] + step - low[i]) << shift[i]
            slot = _slot(key, size)
            while table[slot] != _EMPTY and keys[table[slot]] != key:
                slot = (slot + 1) & (size - 1)
            if table[slot] == _EMPTY:
                table[slot] = count
                keys[count] = key
                count += 1
                vertex[p, remainder] = count - 1
                if 2 * count > size:
                    size, table, keys = _grow(size, keys, count)
            else:
                vertex[p, remainder] = table[slot]
    return vertex, keys[:count].copy()


@njit(cache=True, nogil=True)
def _slot(key, size):  # type: ignore[no-untyped-def]
    mixed = np.uint64(key) * _MIX
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(size - 1))


@njit(cache=True, nogil=True)
def _grow(size, keys, count):  # type: ignore[no-untyped-def]
    size *= 4
    larger = np.empty(size, np.int64)
    larger[:count] = keys[:count]
    return size, _index(larger, count, size), larger


@njit(cache=True, nogil=True)
def _index(keys, count, size):  # type: ignore[no-untyped-def]
    """Open-addressing table of `size` (a power of two): slot -> number of the key, or -1."""
    table = np.full(size, _EMPTY, np.int32)
    for number in range(count):
        slot = _slot(keys[number], size)
        while table[slot] != _EMPTY:
            slot = (slot + 1) & (size - 1)
        table[slot] = number
    return table


@njit(cache=True, nogil=True)
def _find_neighbours(keys, shift):  # type: ignore[no-untyped-def]
    """(d+1, M, 2) int32: along axis j a neighbour's key differs by d on component j and by -1 on all others."""
    count, d = len(keys), len(shift)
    size = np.int64(1 << 16)
    while size < 2 * count:
        size *= 2
    table = _index(keys, count, size)
    ones = np.int64(0)
    for i in range(d):
        ones += np.int64(1) << shift[i]
    neighbour = np.empty((d + 1, count, 2), np.int32)
    for j in range(d + 1):
        # Components never borrow from each other: `low` and the key's bits leave room on both sides.
        offset = -ones + ((np.int64(d + 1) << shift[j]) if j < d else np.int64(0))
        for number in range(count):
            for side in range(2):
                key = keys[number] + (offset if side == 0 else -offset)
                slot = _slot(key, size)
                while table[slot] != _EMPTY and keys[table[slot]] != key:
                    slot = (slot + 1) & (size - 1)
                neighbour[j, number, side] = count if table[slot] == _EMPTY else table[slot]
    return neighbour
