"""Compiled steps of building a lattice's blur: which vertices are neighbours, and in which order they are blurred.

Numbers are those of all bands' vertices, one band after the other; of those with one key the lowest stands for all.
"""

import numpy as np

from pipeline.compiled import compiled
from pipeline.crf.cpu.simd import element, prefetch

_NONE = -1
_BEHIND = np.int64(2**63 - 1)  # a key above all


@compiled()
def distinct(keys, order):  # type: ignore[no-untyped-def]
    """What numbers stand for, from keys and the order that sorts them.

    Returns:
        the distinct keys, ascending, and one above all; the lowest number of each; of every number, that which stands for it.
    """
    found, first = np.empty(len(keys) + 1, np.int64), np.empty(len(keys), np.int32)
    master = np.empty(len(keys), np.int32)
    count = at = 0
    while at < len(keys):
        key, lowest, end = keys[order[at]], order[at], at + 1
        while end < len(keys) and keys[order[end]] == key:
            lowest = min(lowest, order[end])
            end += 1
        for i in range(at, end):
            master[order[i]] = lowest
        found[count], first[count] = key, lowest
        count += 1
        at = end
    found[count] = _BEHIND
    return found[: count + 1], first[:count], master


@compiled()
def link(found, first, units, axis, neighbours):  # type: ignore[no-untyped-def]
    """Write the neighbours along one axis, (numbers, 2 * axes) int32: the one behind, the one ahead, -1 where there is none.

    Along axis j a neighbour's coordinates differ by d on j and by -1 on all others. So the keys looked for ascend as the keys
    do, and those of remainder 0 among themselves: two places move through the keys, and nothing is searched.
    """
    d = len(units) - 1
    remainder_mask = np.int64(1)
    while remainder_mask <= d:
        remainder_mask *= 2
    inner, outer = units[axis] - 1, units[axis] + d - units.sum()
    for number in range(len(neighbours)):
        neighbours[number, 2 * axis] = neighbours[number, 2 * axis + 1] = _NONE
    inside = outside = 0
    for i in range(len(first)):
        key = element(found, i)
        if key & (remainder_mask - 1) == 0:
            key += outer
            while element(found, outside) < key:
                outside += 1
            at = outside
        else:
            key += inner
            while element(found, inside) < key:
                inside += 1
            at = inside
        if element(found, at) == key:
            behind, ahead = element(first, i), element(first, at)
            neighbours[behind, 2 * axis + 1] = ahead
            neighbours[ahead, 2 * axis] = behind


@compiled()
def chains(neighbours, axis, base):  # type: ignore[no-untyped-def]
    """The chains of neighbours along one axis: (length,) int32 rows (number + base), ~row for the last of a chain."""
    rows = np.empty(len(neighbours), np.int32)
    length = 0
    for number in range(len(neighbours)):
        if neighbours[number, 2 * axis] == _NONE and neighbours[number, 2 * axis + 1] != _NONE:
            length = _follow(neighbours, axis, base, number, rows, length)
    return rows[:length].copy()


@compiled()
def weave(neighbours, start, stop, most, base):  # type: ignore[no-untyped-def]
    """The chains along axes start..stop, component by component: vertices that these axes join, directly or by way of others.

    Components have no vertex in common, so each can be blurred along all these axes while its rows are in a cache.

    Returns:
        rows as of `chains`; where each component ends. No rows where a component has more than `most` vertices.
    """
    count, axes = len(neighbours), neighbours.shape[1] // 2
    flat = neighbours.reshape(-1)
    rows = np.empty(count * (stop - start), np.int32)
    ends = np.empty(count // 2 + 1, np.int32)
    seen = np.zeros(count + 1, np.uint8)
    seen[_NONE] = 1
    queue = np.empty(most + 2 * (stop - start) + 1, np.int32)
    length = components = 0
    for number in range(count):
        if seen[number]:
            continue
        seen[number] = 1
        queue[0], at, size = number, 0, 1
        while at < size:
            for j in range(2 * start, 2 * stop):
                other = neighbours[queue[at], j]
                queue[size] = other  # without a branch: whether it is new is not to be guessed
                prefetch(flat, other * 2 * axes + 2 * start)
                size += 1 - seen[other]
                seen[other] = 1
            if size > most:
                return rows[:0].copy(), ends[:0].copy()
            at += 1
        if size > 1:
            for axis in range(start, stop):
                for i in range(size):
                    one = queue[i]
                    if neighbours[one, 2 * axis] == _NONE and neighbours[one, 2 * axis + 1] != _NONE:
                        length = _follow(neighbours, axis, base, one, rows, length)
            ends[components] = length
            components += 1
    return rows[:length].copy(), ends[:components].copy()


@compiled()
def _follow(neighbours, axis, base, number, rows, length):  # type: ignore[no-untyped-def]
    """Append the chain that begins at a number; how many rows there are now.

    While a chain's last row is blurred the next chain's first is read already, so they may not be the same: such a chain is
    appended backwards, which blurs to the same bits.
    """
    first = length
    while number != _NONE:
        rows[length] = number + base
        length += 1
        number = neighbours[number, 2 * axis + 1]
    if first > 0 and rows[first] == ~rows[first - 1]:
        for i in range((length - first) // 2):
            rows[first + i], rows[length - 1 - i] = rows[length - 1 - i], rows[first + i]
    rows[length - 1] = ~rows[length - 1]
    return length
