"""Compiled steps that prepare a lattice's blur: find neighbouring vertices, and the order in which they are blurred.

The vertices of all bands are numbered, band after band. A vertex of several bands has several numbers, all with the same key;
the lowest represents it.
"""

import numpy as np

from pipeline.compiled import compiled
from pipeline.crf.cpu.simd import element, prefetch

_NONE = -1
BEHIND = np.int64(2**63 - 1)  # larger than any key


@compiled()
def distinct(keys, order, master):  # type: ignore[no-untyped-def]
    """Find the distinct keys among some numbers, given the key of each number and the order that sorts these numbers' keys.

    Args:
        master: (numbers,) int32, into which the representative of each of these numbers is written.
    Returns:
        the distinct keys, ascending, and the lowest number of each.
    """
    found, first = np.empty(len(order), np.int64), np.empty(len(order), np.int32)
    count = at = 0
    while at < len(order):
        key, lowest, end = keys[order[at]], order[at], at + 1
        while end < len(order) and keys[order[end]] == key:
            lowest = min(lowest, order[end])
            end += 1
        for i in range(at, end):
            master[order[i]] = lowest
        found[count], first[count] = key, lowest
        count += 1
        at = end
    return found[:count], first[:count]


@compiled()
def link(found, first, units, axis, neighbours):  # type: ignore[no-untyped-def]
    """Write the neighbours along one axis to (numbers, 2 * axes) int32: the one behind, the one ahead, -1 if there is none.

    `found` holds the distinct keys, ascending, and at the end BEHIND; `first` the lowest number of each key.

    Along axis j a neighbour's coordinates differ by d on j and by -1 on all others. So the wanted keys ascend with the keys,
    separately for remainder 0 and for the others: two positions advance through the keys, and no search is needed.
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
    """Return the chains of neighbours along one axis: (length,) int32 rows (number + base), ~row for the last of a chain."""
    rows = np.empty(len(neighbours), np.int32)
    length = 0
    for number in range(len(neighbours)):
        if neighbours[number, 2 * axis] == _NONE and neighbours[number, 2 * axis + 1] != _NONE:
            length = _follow(neighbours, axis, base, number, rows, length)
    return rows[:length].copy()


@compiled()
def weave(neighbours, start, stop, most, base):  # type: ignore[no-untyped-def]
    """Return the chains along axes start..stop, grouped by connected component of the graph that these axes form.

    Components share no vertex, so each can be blurred along all these axes while its rows are in a cache.

    Returns:
        rows as in `chains`, and the end of each component; none of either if a component has more than `most` vertices.
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
                queue[size] = other  # no branch, since whether it is new cannot be predicted
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
    """Append the chain that begins at a number, and return the new number of rows.

    The blur reads the first row of the next chain before it writes the last row of a chain, so these must differ. If they would
    be the same, the chain is appended backwards, which blurs to the same bits.
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
