"""Parquet files of a corpus: opened, their numbers held against their length, one cell read."""

import threading
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.corpus.item import Place
from pipeline.errors import Reject


def open_parquet(uri: str) -> tuple[pq.ParquetFile, int]:
    """A file, and its bytes; ArrowInvalid if it is no Parquet."""
    filesystem, path = storage.arrow_filesystem(uri)
    source = filesystem.open_input_file(path)
    return pq.ParquetFile(source), source.size()


def rows_in(file: pq.ParquetFile, group: int, columns: Iterable[str], file_bytes: int) -> int:
    """Rows of a row group, once what its footer says of some columns is known to be possible: Arrow takes memory by it.

    Raises:
        pyarrow.ArrowInvalid: more rows than the file has bytes, pages that lie beyond its end, or counts that disagree.
    """
    rows = file.metadata.row_group(group)
    if not 0 <= rows.num_rows <= file_bytes:
        raise pa.ArrowInvalid(f"row group {group} says it has {rows.num_rows} rows, in a file of {file_bytes} bytes")
    for index in range(rows.num_columns):
        chunk = rows.column(index)
        if chunk.path_in_schema.split(".")[0] not in columns:
            continue
        starts = [start for start in (chunk.dictionary_page_offset, chunk.data_page_offset) if start is not None]
        if min(starts) < 0 or not 0 <= chunk.total_compressed_size <= file_bytes - min(starts):
            raise pa.ArrowInvalid(f"row group {group} says that '{chunk.path_in_schema}' lies beyond the file's end")
        if file.schema.column(index).max_repetition_level == 0 and chunk.num_values != rows.num_rows:
            raise pa.ArrowInvalid(
                f"row group {group} says it has {rows.num_rows} rows and {chunk.num_values} of '{chunk.path_in_schema}'"
            )
    return int(rows.num_rows)


def read_cell(place: Place) -> bytes:
    """The bytes in one cell; a row group is read once for all its rows.

    Raises:
        Reject: `empty`, the cell holds nothing; `corrupt`, the file cannot be read.
    """
    value = cell(place.uri, place.member or "", place.offset or 0)
    if not value or isinstance(value, str):
        where = f"{place.uri} row {place.offset} column '{place.member}'"
        raise Reject("read", "empty", f"{where}: no bytes; write the file again with them, or without the row")
    return value


def cell(uri: str, column: str, row: int) -> bytes | str | None:
    """The value of one cell, the field `bytes` of a struct; Reject as `read_cell`."""
    try:
        return _row_groups.cell(uri, column, row)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise Reject(
            "read", "corrupt", f"{uri} row {row} column '{column}': cannot be read ({error}); write the file again"
        ) from None


class _RowGroups:
    """Of each thread and column the newest row group: shards hold neighbouring rows, so each group is read once or twice."""

    def __init__(self) -> None:
        self._local = threading.local()

    def cell(self, uri: str, column: str, row: int) -> bytes | str | None:
        held = self._local.__dict__.setdefault("held", {})
        found = held.get(column)
        if found is None or found[0] != uri or not found[1] <= row < found[1] + len(found[2]):
            found = held[column] = uri, *self._read(uri, column, row)
        value = found[2][row - found[1]].as_py()
        return value["bytes"] if isinstance(value, dict) else value

    def _read(self, uri: str, column: str, row: int) -> tuple[int, pa.ChunkedArray]:
        file, file_bytes = open_parquet(uri)
        start = 0
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row < start + count:
                rows_in(file, group, [column], file_bytes)
                is_struct = pa.types.is_struct(file.schema_arrow.field(column).type)
                values = file.read_row_group(group, columns=[f"{column}.bytes" if is_struct else column])[column]
                if len(values) != count:
                    raise pa.ArrowInvalid(f"row group {group} has {len(values)} rows, its footer says {count}")
                return start, values
            start += count
        raise Reject(
            "read", "not_found", f"{uri}: row {row} is not there, it has {start}; the file changed, plan the run anew"
        )


_row_groups = _RowGroups()
