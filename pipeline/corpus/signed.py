"""Web addresses with a user, a password or a signature: the plan holds them without, and reading looks into the manifest.

`Place.uri` is the address that may be shown, `Place.member` the manifest and its column, `Place.offset` the row. So nothing
secret is ever in a run's folder, and a manifest may be signed anew, row by row, while a run is not finished.
"""

import csv
import threading
from array import array
from collections.abc import Iterator

from pipeline import storage
from pipeline.corpus.item import Place
from pipeline.corpus.parquet import cell
from pipeline.errors import Reject, UserError

_ARCHIVES = (".zip", ".tar", ".parquet")  # a place with a member is of one of these, or signed
_MARK_ROWS = 64  # of a CSV: where each 64th row starts is kept
_BLOCK_BYTES, _SCAN_BYTES = 1 << 16, 1 << 22  # a request, to read a row and to find them all


def place_of(uri: str, manifest: str, column: str, row: int) -> Place:
    """The place of a file that a manifest names in a column of a row, from 0; what is secret stays in the manifest."""
    shown = storage.without_secrets(uri)
    if shown == uri:
        return Place(uri)
    if shown.lower().endswith(_ARCHIVES):
        raise UserError(f"manifest {manifest}: '{shown}' is an archive; a row names one image")
    return Place(shown, f"{manifest}#{column}", row)


def is_signed(place: Place) -> bool:
    """Whether the whole address of a file stands in its manifest alone."""
    web = place.uri.startswith(("http://", "https://")) and not place.uri.lower().endswith(_ARCHIVES)
    return web and place.member is not None


def read_signed(place: Place) -> bytes:
    """The bytes of a file, by the address that the manifest's row has now.

    Raises:
        Reject: `source_changed`, the row names another file; `not_found` or `store_error`, as the host answers. No message
            and no cause of these errors holds the whole address.
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
    except Exception as error:  # the client's, whose words hold the address
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
    raise refusal  # here, where no error with the address is its context


def _url(manifest: str, column: str, place: Place) -> str | None:
    """What the row names, if that is the planned file still."""
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
    """Lines of a file from a byte on; `position` is where the next one starts."""

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
    """(first byte, values) of each row that is not empty, as Arrow counts them when the manifest is listed."""
    reader = csv.reader(iter(lines))
    while True:
        start = lines.position
        values = next(reader, None)
        if values is None:
            return
        if values:
            yield start, values


class _CsvIndex:
    """The header of a CSV and where each 64th of its rows starts: 8 bytes for 64 rows, found in one pass."""

    def __init__(self, uri: str) -> None:
        self.bytes, self.starts = storage.size(uri), array("q")
        records = _records(_Lines(uri, 0, _SCAN_BYTES))
        self.names = next(records, (0, []))[1]
        for row, (start, _) in enumerate(records):
            if row % _MARK_ROWS == 0:
                self.starts.append(start)


_indexes: dict[str, _CsvIndex] = {}  # of the manifests that this process has read from
_indexing = threading.Lock()


def _csv_value(uri: str, column: str, row: int, wanted: str) -> str | None:
    """The value of a CSV's cell; its rows are looked for again where the file has changed and they are not where they were."""
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
    """A cell by the index; None where there is none."""
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
