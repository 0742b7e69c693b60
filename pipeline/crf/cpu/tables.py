"""Tables of R rows with one number per class, stored by columns of vectors: the first 16 numbers of all rows, then the next.

So a vector of 16 numbers never crosses a cache line, and shorter vectors at the end of a row share a line with those of the
rows beside it. A table is a flat array; a row is padded to `width` numbers.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from pipeline.crf.cpu.simd import (
    LANES,
    Row,
    instruction,
    joined,
    parts_of,
    pointer,
    prefetch_line,
    spread_over,
)

_QUAD = 4  # numbers in the shortest vector
_UNROLLED = 64  # longest row, in numbers, that is processed as a whole; longer ones in groups of equal size
_I64 = ir.IntType(64)


@dataclass(frozen=True)
class Layout:
    """How the numbers of a row are stored in a table; kernels use only the lengths of `quads` and `groups`."""

    quads: tuple[int, ...]  # one element per 4 numbers of a group; its length is constant in compiled code
    groups: tuple[int] | np.ndarray  # one element per group; a tuple if one, for a constant length
    width: int  # numbers in a row, all groups together

    @staticmethod
    def of(num_classes: int) -> "Layout":
        if num_classes <= _UNROLLED:
            count = -(-num_classes // _QUAD)
            count += count % 4 == 3  # 16 numbers take fewer instructions than 8 and 4
            return Layout(tuple(range(count)), (0,), count * _QUAD)
        least = _ceil(num_classes, LANES)
        return Layout.in_groups(
            num_classes, next(size for size in (32, 16, LANES) if _ceil(num_classes, size) <= 1.06 * least)
        )

    @staticmethod
    def in_groups(num_classes: int, size: int) -> "Layout":
        """Return the layout with groups of `size` numbers."""
        width = _ceil(num_classes, size)
        return Layout(tuple(range(size // _QUAD)), np.arange(width // size), width)

    def columns(self) -> np.ndarray:
        """Return (n, 2) int64: the first number and the length of each vector of a row."""
        lanes = lanes_of(len(self.quads)) * len(self.groups)
        return np.stack([np.cumsum([0, *lanes[:-1]]), lanes], axis=1)

    def pack(self, rows: np.ndarray) -> np.ndarray:
        """Return rows (R, width) as a table."""
        return np.concatenate([rows[:, first : first + lanes].reshape(-1) for first, lanes in self.columns()])

    def unpack(self, table: np.ndarray) -> np.ndarray:
        """Return the rows (R, width) of a table."""
        num_rows = len(table) // self.width
        parts = [table[first * num_rows : (first + lanes) * num_rows] for first, lanes in self.columns()]
        return np.concatenate([part.reshape(num_rows, -1) for part in parts], axis=1)


def lanes_of(quads: int) -> tuple[int, ...]:
    """Return the lengths of the vectors that make up 4 * quads numbers."""
    return (16,) * (quads // 4) + (8,) * (quads % 4 // 2) + (4,) * (quads % 2)


def _ceil(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _starts(builder: Any, lanes: tuple[int, ...], num_rows: Any, row: Any, group: Any) -> list[Any]:
    """Return the index at which each vector of a row's group begins in the table."""
    first = builder.mul(group, _I64(sum(lanes)))
    starts = []
    for i, count in enumerate(lanes):
        column = builder.mul(builder.add(first, _I64(sum(lanes[:i]))), num_rows)
        starts.append(builder.add(column, builder.mul(row, _I64(count))))
    return starts


@instruction
def load_row(typing, table, num_rows, row, quads, group):  # type: ignore[no-untyped-def]
    """Return the numbers of one group of a row."""
    kind = Row(lanes_of(len(quads)))

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        starts = _starts(builder, kind.lanes, args[1], args[2], args[4])
        parts = [
            builder.load(pointer(context, builder, signature.args[0], args[0], start, count), align=4)
            for start, count in zip(starts, kind.lanes, strict=True)
        ]
        return joined(context, builder, kind, parts)

    return kind(table, types.intp, types.intp, quads, types.intp), generate


@instruction
def store_row(typing, table, num_rows, row, quads, group, value):  # type: ignore[no-untyped-def]
    """Write the numbers of one group of a row."""
    kind = Row(lanes_of(len(quads)))

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        starts = _starts(builder, kind.lanes, args[1], args[2], args[4])
        for start, part in zip(starts, parts_of(builder, args[5]), strict=True):
            address = pointer(context, builder, signature.args[0], args[0], start, part.type.count)
            builder.store(part, address, align=4)
        return context.get_dummy_value()

    return types.void(table, types.intp, types.intp, quads, types.intp, kind), generate


@instruction
def prefetch_row(typing, table, num_rows, row, quads, group):  # type: ignore[no-untyped-def]
    """Prefetch, for writing, the cache lines of one group of a row."""
    lanes = lanes_of(len(quads))

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        for start in _starts(builder, lanes, args[1], args[2], args[4]):
            prefetch_line(context, builder, signature.args[0], args[0], start)
        return context.get_dummy_value()

    return types.void(table, types.intp, types.intp, quads, types.intp), generate


@instruction
def spread_row(typing, value, quads):  # type: ignore[no-untyped-def]
    """Return one group of a row filled with `value`."""
    kind = Row(lanes_of(len(quads)))

    def generate(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return joined(context, builder, kind, spread_over(builder, args[0], kind.lanes))

    return kind(types.float32, quads), generate
