"""What every store does, and what it says of itself: disk.py, s3.py and fsspec_store.py are the kinds there are."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:  # imported where an Arrow filesystem is asked for: a tenth of a second
    import pyarrow.fs

LIST_PAGE = 1000  # objects a request, the most that S3 gives
LISTERS = 32  # pages that are asked for at the same time


class Changed(OSError):
    """An object is no longer the one that was listed."""


class Listed(NamedTuple):
    """One object of a listing."""

    path: str
    bytes: int
    etag: str | None = None  # of the content, where the store has one
    modified: float | None = None  # seconds since 1970, where the listing says so


class Store(Protocol):
    """One store. A path is a URI without its scheme.

    Every method may be called again without harm, and repeats itself while an error is transient (retry.retried). What
    it raises in the end is an OSError, FileNotFoundError where there is no such object.
    """

    @property
    def exclusive_create(self) -> bool:
        """Whether `create` lets one of two win who write at the same moment."""

    def exists(self, path: str) -> bool: ...

    def is_dir(self, path: str) -> bool: ...

    def is_file(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def read(self, path: str, etag: str | None) -> bytes:
        """The whole object, in one request; Changed if a given etag, which stores without etags never list, is not its own."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`, in one request."""

    def put(self, path: str, data: bytes) -> None:
        """Readers see the old bytes or the new ones, never a part."""

    def create(self, path: str, data: bytes) -> bool:
        """False: there is an object already, which is left as it is."""

    def delete(self, path: str) -> None: ...

    def scan(self, root: str) -> Iterator[Listed]:
        """Every file below a folder or prefix, a page or a folder in memory at a time; none where there is no such prefix."""

    def arrow_filesystem(self) -> "pyarrow.fs.FileSystem":
        """The store for libraries that read and write their own files; it repeats failed requests itself."""
