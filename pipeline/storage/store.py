"""The interface of stores, which disk.py, s3.py and fsspec_store.py implement."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:  # imported only where an Arrow filesystem is needed, since it takes a tenth of a second
    import pyarrow.fs

LIST_PAGE = 1000  # objects per request, the most that S3 returns
LISTERS = 32  # pages that are requested in parallel


class Changed(OSError):
    """An object has changed since it was listed."""


class NoRanges(OSError):
    """A web server does not serve parts of its files; the message says what to do instead."""


class Listed(NamedTuple):
    """One object of a listing."""

    path: str
    bytes: int
    etag: str | None = None  # of the content, if the store has ETags
    modified: float | None = None  # seconds since 1970, if the listing has it


class Store(Protocol):
    """One store. A path is a URI without its scheme.

    Every method is safe to repeat, and retries transient errors itself (retry.retried). It finally raises an OSError, which is
    FileNotFoundError if there is no such object.
    """

    @property
    def exclusive_create(self) -> bool:
        """Whether `create` succeeds for only one of two writers at the same time."""

    def exists(self, path: str) -> bool: ...

    def is_dir(self, path: str) -> bool: ...

    def is_file(self, path: str) -> bool: ...

    def size(self, path: str) -> int: ...

    def modified(self, path: str) -> float | None:
        """Return when the object was last written, in seconds since 1970; None if the store does not say."""

    def etag(self, path: str) -> str | None:
        """Return the object's ETag, as a listing has it; None if the store has none."""

    def read(self, path: str, etag: str | None) -> bytes:
        """Read the whole object in one request; Changed if `etag` is given and differs. Stores without ETags ignore it."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Read at most `length` bytes from `offset` in one request."""

    def put(self, path: str, data: bytes) -> None:
        """Write the object atomically: readers see the old bytes or the new ones, never a part."""

    def create(self, path: str, data: bytes) -> bool:
        """Write the object if it does not exist; otherwise return False and leave it unchanged."""

    def delete(self, path: str) -> None: ...

    def scan(self, root: str) -> Iterator[Listed]:
        """Yield every file below a folder or prefix, with one page or folder in memory at a time; none if it does not exist."""

    def arrow_filesystem(self) -> "pyarrow.fs.FileSystem":
        """Return the store as an Arrow filesystem, for libraries that do their own reading and writing; it retries requests."""
