"""Web addresses with a user, a password or a signature: the plan holds them without, and reading looks them up in the manifest.

`Place.uri` is the address without its secret, `Place.member` the manifest and its column, `Place.offset` the row. So a run's
folder never contains a secret, and a manifest's addresses may be signed again, row by row, while a run is unfinished.
"""

import csv
import threading
from array import array
from collections.abc import Iterator

from pipeline import storage
from pipeline.corpus.item import Place
from pipeline.corpus.parquet import cell
from pipeline.errors import Reject, UserError

_ARCHIVES = (".zip", ".tar", ".parquet")  # a place with a member is in one of these, or signed
_MARK_ROWS = 64  # the index of a CSV holds the start of every 64th row
_BLOCK_BYTES, _SCAN_BYTES = 1 << 16, 1 << 22  # bytes per request: to read a row, and to index all rows


def place_of(uri: str, manifest: str, column: str, row: int) -> Place:
    """Return the place, without its secret, of a file in a manifest's column and row (from 0)."""
    shown = storage.without_secrets(uri)
    if shown == uri:
        return Place(uri)
    if shown.lower().endswith(_ARCHIVES):
        raise UserError(f"manifest {manifest}: '{shown}' is an archive; a row names one image")
    return Place(shown, f"{manifest}#{column}", row)


def is_signed(place: Place) -> bool:
    """Whether the full address of a file is only in its manifest."""
    web = place.uri.startswith(("http://", "https://")) and not place.uri.lower().endswith(_ARCHIVES)
    return web and place.member is not None


def read_signed(place: Place) -> bytes:
    """Read the bytes of a file from the address that the manifest's row holds now.

    Raises:
        Reject: `source_changed`, the row names another file; `not_found` or `store_error`, as the host answers. Neither message
            nor cause contains the full address.
    """
    assert place.member is not None and place.offset is not None
    manifest, _, column = place.member.rpartition("#")
    where = f"{place.uri} (row {place.offset + 1} of {manifest})"
    url = _url(manifest, column, place)
    if url is None:
        raise Reject(
            "read", "source_changed", f"{where}: the row names another file; restore the manifest, or plan the run anew"
        )
    try:
        return storage.read(url)
    except FileNotFoundError:
        refusal = Reject("read", "not_found", f"{where}: it is not there; restore it, or plan the run anew")
    except Exception as error:  # of the client, whose message contains the address
        status, said = (
            getattr(error.__cause__ or error, "status", None),
            getattr(error.__cause__ or error, "message", ""),
        )
        words = f"{status} {said}" if isinstance(status, int) else type(error).__name__
        refusal = Reject(
            "read",
            "store_error",
            f"{where}: the host answers {words}; if its signature has expired, sign it anew in the same row of the manifest "
            "and run `maskmill retry-rejects`",
        )
    raise refusal  # outside the except block, so that its context is not the error that contains the address


def _url(manifest: str, column: str, place: Place) -> str | None:
    """Return the full address in the row, or None if the row names another file than the plan."""
    assert place.offset is not None
    try:
        if manifest.endswith(".parquet"):
            found = cell(manifest, column, place.offset)
        else:
            found = _csv_value(manifest, column, place.offset, place.uri)
    except FileNotFoundError:
        raise Reject(
            "read", "not_found", f"manifest {manifest}: it is gone; restore it, or plan the run anew"
        ) from None
    return found if isinstance(found, str) and storage.without_secrets(found) == place.uri else None


class _Lines:
    """Lines of a file, beginning at a byte; `position` is the start of the next line."""

    def __init__(self, uri: str, position: int, block_bytes: int) -> None:
        self.position, self._uri, self._block_bytes = position, uri, block_bytes
        self._block, self._at = b"", 0

    def __iter__(self) -> Iterator[str]:
        while line := self._next():
            self.position += len(line)
            yield line.decode("utf-8-sig" if self.position == len(line) else "utf-8")

    def _next(self) -> bytes:
        while True:
            end = self._block.find(b"\n", self._at) + 1
            more = b""
            if not end:
                known = self.position + len(self._block) - self._at
                more = (
                    storage.read_range(self._uri, known, self._block_bytes) if known < storage.size(self._uri) else b""
                )
            if end or not more:
                end = end or len(self._block)
                line, self._at = self._block[self._at : end], end
                return line
            self._block, self._at = self._block[self._at :] + more, 0


def _records(lines: _Lines) -> Iterator[tuple[int, list[str]]]:
    """Yield (first byte, values) of each row that is not empty; Arrow counts rows the same way when it lists the manifest."""
    reader = csv.reader(iter(lines))
    while True:
        start = lines.position
        values = next(reader, None)
        if values is None:
            return
        if values:
            yield start, values


class _CsvIndex:
    """The header of a CSV and the start of every 64th row, found in one pass; takes 8 bytes per 64 rows."""

    def __init__(self, uri: str) -> None:
        self.bytes, self.starts = storage.size(uri), array("q")
        records = _records(_Lines(uri, 0, _SCAN_BYTES))
        self.names = next(records, (0, []))[1]
        for row, (start, _) in enumerate(records):
            if row % _MARK_ROWS == 0:
                self.starts.append(start)


_indexes: dict[str, _CsvIndex] = {}  # per manifest that this process has read
_indexing = threading.Lock()


def _csv_value(uri: str, column: str, row: int, wanted: str) -> str | None:
    """Return the value of a CSV's cell; the file is indexed again if it has changed and the cell does not match."""
    with _indexing:
        index = _indexes.get(uri) or _indexed(uri)
    found = _at(uri, index, column, row)
    if found is not None and storage.without_secrets(found) == wanted:
        return found
    with _indexing:
        if storage.size(uri) == _indexes[uri].bytes:
            return found
        index = _indexed(uri)
    return _at(uri, index, column, row)


def _indexed(uri: str) -> _CsvIndex:
    try:
        _indexes[uri] = _CsvIndex(uri)
    except (csv.Error, UnicodeDecodeError) as error:
        raise Reject("read", "corrupt", f"manifest {uri}: not a readable CSV ({error}); write it again") from None
    return _indexes[uri]


def _at(uri: str, index: _CsvIndex, column: str, row: int) -> str | None:
    """Return a cell found through the index; None if there is none."""
    if row // _MARK_ROWS >= len(index.starts) or column not in index.names:
        return None
    try:
        records = _records(_Lines(uri, index.starts[row // _MARK_ROWS], _BLOCK_BYTES))
        for number, (_, values) in enumerate(records, start=row - row % _MARK_ROWS):
            if number == row:
                return values[index.names.index(column)]
    except (csv.Error, UnicodeDecodeError, IndexError):
        pass
    return None
