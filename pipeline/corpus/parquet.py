"""Reading cells of a corpus's Parquet files, whose row counts are checked against the file size."""

import threading

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.corpus.item import Place
from pipeline.errors import Reject


def open_parquet(uri: str) -> pq.ParquetFile:
    """Open a file and check its row counts; ArrowInvalid if it is not Parquet."""
    filesystem, path = storage.arrow_filesystem(uri)
    source = filesystem.open_input_file(path)
    return checked_rows(pq.ParquetFile(source), source.size())


def checked_rows(file: pq.ParquetFile, file_bytes: int) -> pq.ParquetFile:
    """Return the file; ArrowInvalid if its footer's row counts contradict each other or exceed the file's bytes.

    Column metadata is not checked here: Arrow's reader allocates no more memory than there are pages for, and reading
    `ColumnChunkMetaData` of a damaged footer would end the process (pyarrow 26).
    """
    rows = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    if min(rows, default=0) < 0 or sum(rows) > file_bytes:
        raise pa.ArrowInvalid(f"its footer says it has {sum(rows)} rows, in a file of {file_bytes} bytes")
    if sum(rows) != file.metadata.num_rows:
        raise pa.ArrowInvalid(
            f"its footer says it has {file.metadata.num_rows} rows, and {sum(rows)} in its row groups"
        )
    return file


def is_damage(error: Exception) -> bool:
    """Whether an error means that a Parquet file is damaged: one of several types of Arrow, or an OSError without errno."""
    return isinstance(error, (pa.ArrowException, UnicodeDecodeError)) or (
        type(error) is OSError and error.errno is None
    )


def read_cell(place: Place) -> bytes:
    """Read the bytes in one cell; a row group is read once for all its rows.

    Raises:
        Reject: `empty`, the cell is empty; `corrupt`, the file cannot be read.
    """
    value = cell(place.uri, place.member or "", place.offset or 0)
    if not value or not isinstance(value, bytes):
        where = f"{place.uri} row {place.offset} column '{place.member}'"
        raise Reject("read", "empty", f"{where}: no bytes; write the file again with them in this row")
    return value


def cell(uri: str, column: str, row: int, part: str = "bytes") -> bytes | str | int | None:
    """Return the value of one cell, of a struct that of one field; None if the column or field is not there.

    Raises:
        Reject: as in `read_cell`.
    """
    try:
        return _row_groups.cell(uri, column, row, part)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, UnicodeDecodeError, MemoryError, OSError) as error:
        raise Reject(
            "read", "corrupt", f"{uri} row {row} column '{column}': cannot be read ({error}); write the file again"
        ) from None


class _RowGroups:
    """Cache of the latest row group per thread and column. Shards hold neighbouring rows, so a group is read once or twice."""

    def __init__(self) -> None:
        self._local = threading.local()

    def cell(self, uri: str, column: str, row: int, part: str) -> bytes | str | int | None:
        held = self._local.__dict__.setdefault("held", {})
        found = held.get((column, part))
        if found is None or found[0] != uri or not found[1] <= row < found[1] + len(found[2]):
            found = held[column, part] = uri, *self._read(uri, column, row, part)
        value = found[2][row - found[1]].as_py()
        return value[part] if isinstance(value, dict) else value

    def _read(self, uri: str, column: str, row: int, part: str) -> tuple[int, pa.ChunkedArray | pa.Array]:
        file = open_parquet(uri)
        start = 0
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row < start + count:
                place = file.schema_arrow.get_field_index(column)
                kind = file.schema_arrow.field(place).type if place >= 0 else pa.null()
                is_struct = pa.types.is_struct(kind)
                if place < 0 or (is_struct and kind.get_field_index(part) < 0):
                    return start, pa.nulls(count)
                values = file.read_row_group(group, columns=[f"{column}.{part}" if is_struct else column])[column]
                if len(values) != count:
                    raise pa.ArrowInvalid(f"row group {group} has {len(values)} rows, its footer says {count}")
                return start, values
            start += count
        raise Reject(
            "read", "not_found", f"{uri}: row {row} is not there, it has {start}; the file changed, plan the run anew"
        )


_row_groups = _RowGroups()
