"""All stores that fsspec supports: Google's and Azure's, web servers, memory."""

import logging
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import fsspec

from pipeline.errors import UserError
from pipeline.storage.retry import is_past_end, retried
from pipeline.storage.store import Listed, NoRanges

if TYPE_CHECKING:
    import pyarrow.fs

# Scheme -> the extra of Maskmill that installs the store's client.
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
# The clients of Google (`ifGenerationMatch=0`) and Azure (`If-None-Match: *`) create exclusively; others check, then write.
_EXCLUSIVE = {"gs", "gcs", "az", "abfs"}
logging.getLogger("fsspec.http").setLevel(logging.INFO)  # its debug lines hold whole addresses, including signatures


class FsspecStore:
    """A filesystem of fsspec as a store."""

    def __init__(self, fs: fsspec.AbstractFileSystem) -> None:
        self._fs = fs

    @classmethod
    def open(cls, uri: str) -> tuple["FsspecStore", str]:
        """Return the store of a URI and the path in it.

        Raises:
            UserError: fsspec does not know the scheme, or its package is not installed.
        """
        scheme = uri.partition("://")[0]
        options = {"use_listings_cache": False} if scheme in _EXTRAS else {}  # other processes write here too
        try:
            fs, path = fsspec.core.url_to_fs(uri, **options)
        except ImportError as error:
            words = " ".join(str(error).split())
            if scheme in _EXTRAS:
                words = f"pip install 'maskmill[{_EXTRAS[scheme]}]'"
            raise UserError(
                f"{uri}: {scheme}:// needs a package that is not installed here ({words}); install it on every machine of "
                "the run, or put the data where s3:// or a path reaches it"
            ) from None
        except ValueError as error:
            if "Protocol not known" not in str(error):
                raise
            raise UserError(
                f"{uri}: no store is known as {scheme}://; give a path, s3://..., or a scheme that fsspec knows"
            ) from None
        return cls(fs), path

    @property
    def exclusive_create(self) -> bool:
        protocol = self._fs.protocol
        return not _EXCLUSIVE.isdisjoint({protocol} if isinstance(protocol, str) else protocol)

    @retried
    def exists(self, path: str) -> bool:
        return bool(self._fs.exists(path))

    @retried
    def is_dir(self, path: str) -> bool:
        return bool(self._fs.isdir(path))

    @retried
    def is_file(self, path: str) -> bool:
        return bool(self._fs.isfile(path))

    @retried
    def size(self, path: str) -> int:
        found = self._fs.info(path)["size"]
        if found is None:  # of a page that a web server makes up as it sends it
            raise _no_ranges(path, "does not say how many bytes it has")
        return int(found)

    @retried
    def modified(self, path: str) -> float | None:
        return _modified(self._fs.info(path))

    def etag(self, path: str) -> str | None:
        return None

    @retried
    def read(self, path: str, etag: str | None) -> bytes:
        return self._fs.cat_file(path)

    @retried
    def read_range(self, path: str, offset: int, length: int) -> bytes:
        if length <= 0:
            return b""
        try:
            data = self._fs.cat_file(path, start=offset, end=offset + length)
        except Exception as error:
            if is_past_end(error):
                return b""
            raise
        if len(data) > length:
            raise _no_ranges(path, "sends the whole file where a part of it is asked for")
        return data

    @retried
    def put(self, path: str, data: bytes) -> None:
        self._fs.pipe_file(path, data)

    @retried
    def create(self, path: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True

    @retried
    def delete(self, path: str) -> None:
        self._fs.rm_file(path)

    def scan(self, root: str) -> Iterator[Listed]:
        """Yield all files; fsspec returns a listing as a whole instead of in pages, and without ETags."""
        found = retried(self._fs.find)(root, detail=True)
        yield from (Listed(name, int(info["size"]), modified=_modified(info)) for name, info in found.items())

    def arrow_filesystem(self) -> "pyarrow.fs.FileSystem":
        import pyarrow.fs

        return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self._fs))


def _no_ranges(path: str, why: str) -> NoRanges:
    shown = path.partition("?")[0]  # a query may hold a signature
    return NoRanges(f"{shown}: its server {why}, so it cannot be read in parts; copy it to a disk or an object store")


def _modified(info: dict[str, Any]) -> float | None:
    """Return when an object was stored, in seconds since 1970, under any of the names that filesystems use for it."""
    for name in ("mtime", "last_modified", "LastModified", "created"):
        if isinstance(value := info.get(name), datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return None
