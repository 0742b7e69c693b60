"""Exact sums over the parts of a run: each Dask task streams the columns it needs of some parts, integers come back."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dask.base import compute
from dask.delayed import delayed
from numba import njit

from pipeline import storage

MAX_TASKS = 64  # a question; more parts than that share a task: each task brings its own sums
BATCH_ROWS = 4096  # rows in memory at a time: 12 MB of 19 x 19 counts

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
        for key, values in sums.items():
            total[key] = total[key] + values if key in total else values
    return total


def batches(uris: Sequence[str], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of parts, a few thousand rows at a time; the bytes of the others, masks above all, are not read."""
    for uri in uris:
        filesystem, path = storage.arrow_filesystem(uri)
        with filesystem.open_input_file(path) as file:
            yield from pq.ParquetFile(file, pre_buffer=True).iter_batches(
                BATCH_ROWS, columns=list(columns), use_threads=False
            )


def counted(batch: pa.RecordBatch, column: str, cells: int) -> tuple[pa.RecordBatch, np.ndarray]:
    """The rows that have a count column, and its values (rows, cells) int64."""
    if batch.column(column).null_count:
        batch = batch.filter(pc.is_valid(batch.column(column)))
    values = batch.column(column).flatten().to_numpy(zero_copy_only=False)
    return batch, values.reshape(batch.num_rows, cells)


def _sum_parts(uris: list[str], column: str, cells: int, by: Sequence[str]) -> Sums:
    slots: dict[Key, int] = {}
    sums = np.zeros((1, 1 + cells), np.int64)
    for batch in batches(uris, [*by, column]):
        batch, values = counted(batch, column, cells)
        keys, places = _groups(batch, by)
        for key in keys:
            slots.setdefault(key, len(slots))
        if len(slots) > len(sums):
            sums = np.concatenate([sums, np.zeros((2 * len(slots) - len(sums), 1 + cells), np.int64)])
        add_rows(values, np.array([slots[key] for key in keys], np.int64)[places], sums)
    return {key: sums[slot] for key, slot in slots.items()}


def _groups(batch: pa.RecordBatch, by: Sequence[str]) -> tuple[list[Key], np.ndarray]:
    """The group keys of a batch, and (rows,) which of them each row has."""
    codes, levels = np.zeros(batch.num_rows, np.int64), []
    for name in by:
        column = batch.column(name)
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        level = [*column.dictionary.to_pylist(), None]
        codes = codes * len(level) + column.indices.fill_null(len(level) - 1).to_numpy(zero_copy_only=False)
        levels.append(level)
    found, places = np.unique(codes, return_inverse=True)
    keys = zip(*np.unravel_index(found, [len(level) for level in levels]), strict=True) if by else [()] * len(found)
    return [tuple(level[code] for level, code in zip(levels, key, strict=True)) for key in keys], places


@njit(nogil=True, cache=True)
def add_rows(values: np.ndarray, places: np.ndarray, sums: np.ndarray) -> None:
    """Add each row of values (rows, cells) to the row of sums (groups, 1 + cells) at its place, and 1 to that row's images."""
    for row in range(values.shape[0]):
        place = places[row]
        sums[place, 0] += 1
        for cell in range(values.shape[1]):
            sums[place, cell + 1] += values[row, cell]
