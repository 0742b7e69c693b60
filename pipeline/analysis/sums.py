"""Exact sums over the parts of a run: each Dask task reads the columns it needs of some parts, integers come back."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dask.base import compute
from dask.delayed import delayed

from pipeline import storage

MAX_TASKS = 256  # a question; more parts than that share a task, since each task has its own cost

Key = tuple[Any, ...]  # the values of the group columns
Sums = dict[Key, np.ndarray]  # (1 + cells,) int64 each: images, then the summed cells
T = TypeVar("T")


def over_parts(parts: Sequence[str], ask: Callable[[list[str]], T]) -> list[T]:
    """`ask` of all parts, a few parts a Dask task, in the parts' order."""
    step = max(1, -(-len(parts) // MAX_TASKS))
    tasks = [delayed(ask)(list(parts[start : start + step])) for start in range(0, len(parts), step)]
    return list(compute(*tasks))


def sum_counts(parts: Sequence[str], column: str, cells: int, by: Sequence[str]) -> Sums:
    """Sums of a count column by group, over the images that have it. Null is a group like any other.

    Sums stay int64 from the Parquet to the answer: a float64 would lose pixels above 2^53, a float32 above 2^24.
    """
    total: Sums = {}
    for sums in over_parts(parts, lambda uris: _sum_parts(uris, column, cells, by)):
        _merge(total, sums)
    return total


def read_columns(uri: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a part; the bytes of the others, masks above all, are not read."""
    filesystem, path = storage.arrow_filesystem(uri)
    return pq.read_table(path, columns=list(columns), filesystem=filesystem, partitioning=None)


def matrices(column: pa.ChunkedArray, cells: int) -> np.ndarray:
    """(rows, cells) int64 of a list column without nulls."""
    return pc.list_flatten(column).to_numpy().reshape(-1, cells)


def _sum_parts(uris: list[str], column: str, cells: int, by: Sequence[str]) -> Sums:
    total: Sums = {}
    for uri in uris:
        table = read_columns(uri, [*by, column])
        table = table.filter(pc.is_valid(table[column]))
        keys: list[Key] = list(zip(*(table[name].to_pylist() for name in by), strict=True)) or [()] * table.num_rows
        order = {key: index for index, key in enumerate(dict.fromkeys(keys))}
        sums = np.zeros((len(order), 1 + cells), np.int64)
        if keys:
            rows = np.array([order[key] for key in keys])
            np.add.at(sums[:, 0], rows, 1)
            np.add.at(sums[:, 1:], rows, matrices(table[column], cells))
        _merge(total, dict(zip(order, sums, strict=True)))
    return total


def _merge(total: Sums, sums: Sums) -> None:
    for key, values in sums.items():
        total[key] = total[key] + values if key in total else values
