"""Reading one file as it is stored: an object, a member of an archive, or a cell of a table."""

from collections.abc import Callable
from functools import partial

from pipeline import storage
from pipeline.corpus.item import Place
from pipeline.corpus.parquet import read_cell
from pipeline.corpus.readers.tar import is_tar, read_tar_member
from pipeline.corpus.readers.zip import read_member
from pipeline.corpus.signed import is_signed, read_signed
from pipeline.errors import Reject
from pipeline.storage.range_file import RangeFile

_TRIES = 3  # a proxy may cut off a body and adjust the Content-Length to fit


def read_plain(place: Place) -> bytes:
    """Read the bytes of one file in one request.

    Raises:
        Reject: the file is gone (`not_found`), differs from the plan (`source_changed`), or its bytes contradict the archive.
    """
    try:
        if place.member is None:
            return _read_file(place)
        if is_signed(place):
            return read_signed(place)
        if place.uri.endswith(".parquet"):
            return read_cell(place)
        return read_tar_member(place) if is_tar(place.uri) else read_member(place)
    except FileNotFoundError:
        raise _gone(place) from None


def open_file(place: Place) -> Callable[[], RangeFile]:
    """Return a function that opens a whole object for ranged reads, with the credentials and retries of the store's client.

    Raises:
        Reject: as in `read_plain`, but the ETag is not compared, since each range is a separate request.
    """
    assert place.member is None
    try:
        found = storage.size(place.uri)
    except FileNotFoundError:
        raise _gone(place) from None
    except OSError as error:
        raise Reject("read", "store_error", f"{type(error).__name__}: {error}") from error
    if place.bytes not in (0, found):
        raise _changed(place, f"it has {found} bytes, {place.bytes} were planned")
    return partial(RangeFile, place.uri)


def _read_file(place: Place) -> bytes:
    """Read a whole object and compare it with its listing: the size, and the ETag if the store has one."""
    data = b""
    try:
        for _ in range(_TRIES):
            data = storage.read(place.uri, place.etag)
            if place.bytes in (0, len(data)):
                return data
        what = f"it has {len(data)} bytes, {place.bytes} were planned"
    except storage.Changed:
        what = "its etag is not the planned one"
    raise _changed(place, what) from None


def _gone(place: Place) -> Reject:
    return Reject(
        "read", "not_found", f"{place.uri}: it was listed but no longer exists; restore it, or plan the run anew"
    )


def _changed(place: Place, what: str) -> Reject:
    return Reject(
        "read", "source_changed", f"{place.uri}: {what}; restore the file, or segment the new one into another output"
    )
