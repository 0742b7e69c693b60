"""Exact sums over the parts of a run: each Dask task streams the columns it needs from some parts and returns integers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dask.base import compute
from dask.delayed import delayed

from pipeline import storage
from pipeline.compiled import compiled

MAX_TASKS = 64  # per query; if there are more parts, several share a task, since each task returns its own sums
BATCH_ROWS = 4096  # rows in memory at a time: 12 MB of 19 x 19 counts
BATCH_BYTES = 64_000_000  # bytes of counts in memory at a time: fewer rows if there are many classes

Key = tuple[Any, ...]  # the values of the group columns
Sums = dict[Key, np.ndarray]  # (1 + cells,) int64 each: images, then the summed cells
T = TypeVar("T")


def over_parts(parts: Sequence[str], ask: Callable[[list[str]], T]) -> list[T]:
    """Call `ask` for all parts, a few parts per Dask task, and return its results in the parts' order."""
    step = max(1, -(-len(parts) // MAX_TASKS))
    tasks = [delayed(ask)(list(parts[start : start + step])) for start in range(0, len(parts), step)]
    return list(compute(*tasks))


def sum_counts(
    parts: Sequence[str], counts: Mapping[str, int], by: Sequence[str] = (), floats: Sequence[str] = ()
) -> tuple[dict[str, Sums], np.ndarray]:
    """Sum count columns by group over the images that have them, in one pass. Null is a group like any other.

    Sums stay int64 from the Parquet to the answer: a float64 would lose pixels above 2^53, a float32 above 2^24.

    Args:
        counts: column -> numbers in one row of it.
        floats: columns with one number per row, summed over all rows that have it.
    Returns:
        column -> sums by group; (2, floats) float64: sums and the rows that had a number.
    """
    totals: dict[str, Sums] = {column: {} for column in counts}
    means = np.zeros((2, len(floats)))
    for found, numbers in over_parts(parts, lambda uris: _sum_parts(uris, counts, by, floats)):
        means += numbers
        for column, sums in found.items():
            total = totals[column]
            for key, values in sums.items():
                total[key] = total[key] + values if key in total else values
    return totals, means


def rows_at_once(cells: int) -> int:
    """Return how many rows with this many counts each may be in memory together."""
    return max(1, min(BATCH_ROWS, BATCH_BYTES // (8 * max(cells, 1))))


def batches(uris: Sequence[str], columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """Yield some columns of parts, some rows at a time; the bytes of other columns, above all of masks, are not read."""
    for uri in uris:
        filesystem, path = storage.arrow_filesystem(uri)
        with filesystem.open_input_file(path) as file:
            yield from pq.ParquetFile(file, pre_buffer=True).iter_batches(
                rows, columns=list(columns), use_threads=False
            )


def counted(batch: pa.RecordBatch, column: str, cells: int) -> tuple[pa.RecordBatch, np.ndarray]:
    """Return the rows that have a value in a count column, and these values (rows, cells) int64."""
    if batch.column(column).null_count:
        batch = batch.filter(pc.is_valid(batch.column(column)))
    values = batch.column(column)
    if not pa.types.is_integer(values.type):  # a list of counts
        values = values.flatten()
    return batch, values.to_numpy(zero_copy_only=False).reshape(batch.num_rows, cells)


def _sum_parts(
    uris: list[str], counts: Mapping[str, int], by: Sequence[str], floats: Sequence[str]
) -> tuple[dict[str, Sums], np.ndarray]:
    totals = {column: _Totals(cells) for column, cells in counts.items()}
    means = np.zeros((2, len(floats)))
    for batch in batches(uris, [*by, *counts, *floats], rows_at_once(sum(counts.values()))):
        for column, total in totals.items():
            total.add(batch, column, by)
        for place, name in enumerate(floats):
            values = batch.column(name)
            if values.null_count < len(values):
                means[:, place] += pc.sum(values).as_py(), len(values) - values.null_count
    return {column: total.sums() for column, total in totals.items()}, means


class _Totals:
    """Sums of one count column, a row per group; it grows as new groups appear."""

    def __init__(self, cells: int) -> None:
        self._slots: dict[Key, int] = {}
        self._sums = np.zeros((1, 1 + cells), np.int64)

    def add(self, batch: pa.RecordBatch, column: str, by: Sequence[str]) -> None:
        batch, values = counted(batch, column, self._sums.shape[1] - 1)
        keys, places = group_places(batch, by)
        for key in keys:
            self._slots.setdefault(key, len(self._slots))
        if (more := len(self._slots) - len(self._sums)) > 0:
            room = np.zeros((more + len(self._slots), self._sums.shape[1]), np.int64)
            self._sums = np.concatenate([self._sums, room])
        add_rows(values, np.array([self._slots[key] for key in keys], np.int64)[places], self._sums)

    def sums(self) -> Sums:
        return {key: self._sums[slot] for key, slot in self._slots.items()}


def group_places(batch: pa.RecordBatch, by: Sequence[str]) -> tuple[list[Key], np.ndarray]:
    """Return the group keys of a batch, and the place of each row's key among them, (rows,)."""
    if not by:
        return [()] if batch.num_rows else [], np.zeros(batch.num_rows, np.int64)
    codes, levels = np.zeros(batch.num_rows, np.int64), []
    for name in by:
        column = batch.column(name)
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        level = [*column.dictionary.to_pylist(), None]
        codes = codes * len(level) + column.indices.fill_null(len(level) - 1).to_numpy(zero_copy_only=False)
        levels.append(level)
    found, places = np.unique(codes, return_inverse=True)
    keys = zip(*np.unravel_index(found, [len(level) for level in levels]), strict=True)
    return [tuple(level[code] for level, code in zip(levels, key, strict=True)) for key in keys], places


@compiled()
def add_rows(values: np.ndarray, places: np.ndarray, sums: np.ndarray) -> None:
    """Add each row of values (rows, cells) to the row of sums (groups, 1 + cells) at its place, and 1 to that row's images."""
    for row in range(values.shape[0]):
        place = places[row]
        sums[place, 0] += 1
        for cell in range(values.shape[1]):
            sums[place, cell + 1] += values[row, cell]
