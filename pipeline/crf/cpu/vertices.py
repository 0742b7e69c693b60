"""Compiled steps that build a lattice: place pixels, and number their vertices.

A vertex has d + 1 coordinates c, which sum to 0 and all have the same remainder r modulo d + 1 (Adams et al. 2010, section 3).
Its key packs r into the lowest bits and, above them, the whole part (c - r) / (d + 1) of each of the first d coordinates.
"""

import numpy as np

from pipeline.compiled import compiled
from pipeline.crf.cpu.simd import LANES, add, is_less, load, multiply, nearest, spread, store, subtract

CHUNK = 4096  # pixels processed together: as many as in a tile (`features.TILE_PX`), whose vertices stay in the cache
_FREE = -1
_RECENT = 4096  # vertices in a cache in front of the hash table: a tile's, close in memory, unlike the table's
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: spreads neighbouring keys over the table


@compiled()
def _place(features, start, scale, axes, place, whole, rank):  # type: ignore[no-untyped-def]
    """Place LANES pixels: write, per coordinate, the whole part of the remainder-0 corner, the rank and the rest / (d + 1).

    Operations are in the order of the original code, all in float32, and nothing is contracted.
    """
    d = len(axes)
    stride = features.shape[1]
    flat = features.reshape(-1)
    up, down = spread(np.float32(d + 1)), spread(np.float32(1) / np.float32(d + 1))
    zero, one = spread(np.float32(0)), spread(np.float32(1))
    total = zero
    for j in range(d, 0, -1):
        scaled = multiply(load(flat, (j - 1) * stride + start), spread(scale[j - 1]))
        store(place, j * LANES, subtract(total, multiply(spread(np.float32(j)), scaled)))
        total = add(total, scaled)
    store(place, 0, total)
    excess = zero
    for i in range(d + 1):
        rounded = nearest(multiply(down, load(place, i * LANES)))
        store(whole, i * LANES, rounded)
        store(rank, i * LANES, zero)
        excess = add(excess, rounded)
    for i in range(d):
        here = subtract(load(place, i * LANES), multiply(up, load(whole, i * LANES)))
        for j in range(i + 1, d + 1):
            there = subtract(load(place, j * LANES), multiply(up, load(whole, j * LANES)))
            less = is_less(here, there)
            store(rank, i * LANES, add(load(rank, i * LANES), less))
            store(rank, j * LANES, add(load(rank, j * LANES), subtract(one, less)))
    for i in range(d + 1):
        moved = add(load(rank, i * LANES), excess)
        # Move by one period, d + 1: up where the rank is below 0, down where it is above d.
        turn = subtract(is_less(moved, zero), subtract(one, is_less(moved, up)))
        rounded = add(load(whole, i * LANES), turn)
        store(rank, i * LANES, add(moved, multiply(up, turn)))
        store(whole, i * LANES, rounded)
        store(place, i * LANES, multiply(subtract(load(place, i * LANES), multiply(up, rounded)), down))


@compiled()
def number_band(features, scale, low, units, axes, start, stop, first, vertex, weight, counts):  # type: ignore[no-untyped-def]
    """Number the vertices of pixels start..stop from 0, in the order in which pixels touch them.

    Args:
        features: (d, P or more) float32, padded with zeros to a whole number of vectors.
        scale, low, units: see `lattice.Packing`. axes: a tuple of length d, so that d is a constant in compiled code.
        counts: (P,) float32, number of pixels that each point represents; None: 1.
        first: first column of this kernel in `vertex` (P, n) and `weight` (P, n), which are written.
    Returns:
        the vertices' keys (M,) and sums of weights (M,) float32, and the number of vertices before each chunk (chunks + 1,).
    """
    d = len(axes)
    size = np.int64(1 << 16)
    table = np.full(2 * size, _FREE, np.int64)
    recent = np.full(2 * _RECENT, _FREE, np.int64)
    keys = np.empty(size, np.int64)
    sums = np.empty(size, np.float32)
    before = np.zeros((stop - start + CHUNK - 1) // CHUNK + 1, np.int64)
    count = np.int64(0)
    for chunk in range(len(before) - 1):
        before[chunk] = count
        # The table grows here and not in the loop over pixels, which would be slower if the table could change.
        if 2 * (count + (CHUNK + 1) * (d + 1)) > size:
            size *= 4
            keys, sums = _longer(keys, size), _longer(sums, size)
            table = _index(keys, count, size)
        at = start + chunk * CHUNK
        end = min(stop, at + CHUNK)
        count = _number(
            features, scale, low, units, axes, at, end, first, vertex, weight, counts, recent, table, keys, sums, count
        )
    before[-1] = count
    return keys[:count].copy(), sums[:count].copy(), before


@compiled()
def _number(  # type: ignore[no-untyped-def]
    features, scale, low, units, axes, start, stop, first, vertex, weight, counts, recent, table, keys, sums, count
):
    """Write the corners and weights of pixels start..stop, and return the number of vertices so far."""
    d = len(axes)
    size = len(table) // 2
    place, whole, rank = _scratch(d), _scratch(d), _scratch(d)
    axis_at = np.empty(d + 1, np.int64)
    rest = np.empty(d + 1, np.float32)
    # The original code processes four pixels at a time; missing ones of the last four touch vertices at features 0.
    end = stop + 1 if stop == vertex.shape[0] and stop % 4 else stop
    for block in range(start, end, LANES):
        _place(features, block, scale, axes, place, whole, rank)
        for lane in range(min(LANES, end - block)):
            p = block + lane
            key = np.int64(0)
            for i in range(d + 1):
                at = np.int64(rank[i * LANES + lane])
                axis_at[at] = i
                rest[at] = place[i * LANES + lane]
                if i < d:
                    key += (np.int64(whole[i * LANES + lane]) - low[i]) * units[i]
            for r in range(d + 1):
                if r == 0:
                    share = rest[d] + (np.float32(1) - rest[0])
                else:
                    share = rest[d - r] - rest[d - r + 1]
                    key += 1 - units[axis_at[d - r + 1]]
                near = _slot(key, _RECENT)
                number = recent[2 * near + 1]
                if recent[2 * near] != key:
                    slot = _slot(key, size)
                    while table[2 * slot + 1] != _FREE and table[2 * slot] != key:
                        slot = (slot + 1) & (size - 1)
                    number = table[2 * slot + 1]
                    if number == _FREE:
                        number = count
                        table[2 * slot] = key
                        table[2 * slot + 1] = number
                        keys[number] = key
                        sums[number] = 0
                        count += 1
                    recent[2 * near], recent[2 * near + 1] = key, number
                if p < stop:
                    vertex[p, first + r] = number
                    weight[p, first + r] = share
                    sums[number] += share if counts is None else share * counts[p]
    return count


@compiled()
def _scratch(d):  # type: ignore[no-untyped-def]
    return np.empty((d + 1) * LANES, np.float32)


@compiled(inline="always")
def _slot(key, size):  # type: ignore[no-untyped-def]
    mixed = np.uint64(key) * _MIX
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(size - 1))


@compiled()
def _longer(values, size):  # type: ignore[no-untyped-def]
    longer = np.empty(size, values.dtype)
    longer[: len(values)] = values
    return longer


@compiled()
def _index(keys, count, size):  # type: ignore[no-untyped-def]
    """Return an open-addressing table of `size` (a power of two) pairs (key, number), with number -1 in free slots."""
    table = np.full(2 * size, _FREE, np.int64)
    for number in range(count):
        slot = _slot(keys[number], size)
        while table[2 * slot + 1] != _FREE:
            slot = (slot + 1) & (size - 1)
        table[2 * slot], table[2 * slot + 1] = keys[number], number
    return table
