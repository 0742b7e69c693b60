"""Access to files by URI. Only this package opens URIs, so a laptop's folder and an object store share one code path.

A URI is a local path, `s3://`, or any scheme of fsspec (`gs://`, `az://`, `memory://`, ...). Credentials and endpoints come
from the standard environment of each store (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), never from a config file.

Every store retries calls whose errors are transient (pipeline/storage/retry.py), and finally raises an OSError. All calls are
safe to repeat: objects are written as a whole, never appended to.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError
from pipeline.storage.disk import Disk, is_temporary
from pipeline.storage.store import LIST_PAGE, LISTERS, Changed, NoRanges, Store

if TYPE_CHECKING:
    import pyarrow.fs

__all__ = [
    "LISTERS", "LIST_PAGE", "Changed", "FileInfo", "NoRanges", "absolute", "arrow_filesystem", "create", "delete", "etag",
    "exists", "is_dir", "is_file", "is_temporary", "join", "list_files", "modified", "put", "read", "read_json",
    "read_range", "require_exclusive_create", "scan", "size", "without_secrets",
]  # fmt: skip


@dataclass(frozen=True)
class FileInfo:
    """One file under a prefix: its URI, its path below the prefix (`/` between parts), its size."""

    uri: str
    path: str
    bytes: int
    etag: str | None = None  # of the content, if the store has ETags
    modified: float | None = field(default=None, compare=False)  # seconds since 1970, if the listing has it


def _store(uri: str) -> tuple[Store, str]:
    """Return the store for a URI's scheme, and the path in it. To add a store, add a file to this folder and a case here."""
    match uri.partition("://")[0] if "://" in uri else "file":
        case "file" | "local":
            return Disk.open(uri)
        case "s3" | "s3a":
            from pipeline.storage.s3 import S3  # imported only here, since other stores do not need its clients

            return S3.open(uri)
        case _:
            from pipeline.storage.fsspec_store import FsspecStore

            return FsspecStore.open(uri)


def absolute(uri: str) -> str:
    """Return the URI, with a relative local path made absolute so that it means the same in every worker on the machine."""
    if "://" in uri:
        return uri.rstrip("/") if not uri.endswith("://") else uri
    return str(Path(uri).expanduser().absolute())


def without_secrets(uri: str) -> str:
    """Return a URI without secrets: a web address without user, password, query (which may hold a signature) and fragment, any
    other URI without its password. Text that is not a URI is returned unchanged."""
    if len(chain := re.split(r"::(?=\w+://)", uri)) > 1:
        return "::".join(without_secrets(link) for link in chain)
    scheme, found, rest = uri.partition("://")
    if not found:
        return uri
    web = scheme.lower() in ("http", "https")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = rest[len(host) :]
    user, _, bare = host.rpartition("@")
    if user and (web or ":" in user):  # abfs://container@account holds no secret
        host = bare
    return f"{scheme}://{host}{re.split(r'[?#]', path, maxsplit=1)[0] if web else path}"


def join(uri: str, *parts: str) -> str:
    """Return `uri/part/part`, for any scheme."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(uri: str) -> bool:
    store, path = _store(uri)
    return store.exists(path)


def is_dir(uri: str) -> bool:
    """Whether a URI is a folder, or a prefix with at least one object below it."""
    store, path = _store(uri)
    return store.is_dir(path)


def is_file(uri: str) -> bool:
    store, path = _store(uri)
    return store.is_file(path)


def size(uri: str) -> int:
    """Return the size of an object in bytes; FileNotFoundError if there is none."""
    store, path = _store(uri)
    return store.size(path)


def modified(uri: str) -> float | None:
    """Return when an object was last written, in seconds since 1970; None if the store does not say."""
    store, path = _store(uri)
    return store.modified(path)


def etag(uri: str) -> str | None:
    """Return an object's ETag, as listings have it; None if the store has none; FileNotFoundError if there is no object."""
    store, path = _store(uri)
    return store.etag(path)


def list_files(uri: str) -> list[FileInfo]:
    """Return every file below a prefix, recursively, sorted by path; an empty list for a prefix that does not exist."""
    return sorted(scan(uri), key=lambda file: file.path)


def scan(uri: str) -> Iterator[FileInfo]:
    """Yield every file below a prefix, recursively, in the store's own order, with one page or folder in memory at a time."""
    store, root = _store(uri)
    root = root.rstrip("/")
    scheme = uri.split("://")[0] + "://" if "://" in uri else ""
    for name, size_bytes, etag, modified in store.scan(root):
        if name != root:
            yield FileInfo(scheme + name, name[len(root) + 1 :], size_bytes, etag, modified)


def read(uri: str, etag: str | None = None) -> bytes:
    """Read a whole object in one request.

    Raises:
        Changed: `etag` is given, and the object now has another.
    """
    store, path = _store(uri)
    return store.read(path, etag)


def read_range(uri: str, offset: int, length: int) -> bytes:
    """Read `length` bytes from `offset` in one request; fewer if the object ends before."""
    store, path = _store(uri)
    return store.read_range(path, offset, length)


def read_json(uri: str) -> Any:
    """Read the value of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: it is not JSON.
    """
    try:
        return json.loads(read(uri))
    except ValueError as error:  # of the text, or of its encoding
        raise UserError(f"{uri} is damaged: no JSON ({error}); restore it, or start again at another place") from None


def put(uri: str, data: bytes) -> None:
    """Write an object atomically: readers see the old bytes or the new ones, never a part.

    On a disk this is a temporary file and a rename, on object storage a single PUT.
    """
    store, path = _store(uri)
    store.put(path, data)


def create(uri: str, data: bytes) -> bool:
    """Write an object only if it does not exist. Return True if the object now holds these bytes, False if it holds others and
    nothing was changed. If it matters which writer was first, each must write different bytes.

    This is an exclusive link on a disk, and a conditional PUT on S3 and Azure (`If-None-Match: *`) and Google
    (`ifGenerationMatch=0`). Other stores check and then write, which two writers may do at the same time; see
    `require_exclusive_create`. After a refused PUT the object is read, since an earlier try, whose reply was lost, may have
    written it.
    """
    store, path = _store(uri)
    while True:
        if store.create(path, data):
            return True
        try:
            return read(uri) == data
        except FileNotFoundError:
            continue  # removed between the two calls, or the competing PUT failed


def require_exclusive_create(uri: str, what: str) -> None:
    """Raise UserError if the store of a URI has no exclusive create, which is needed to allow only one writer at a time.

    Args:
        what: what is to be written there, for the message.
    """
    if not _store(uri)[0].exclusive_create:
        raise UserError(
            f"{uri}: {what} cannot be written to {uri.partition('://')[0]}://, which has no exclusive create: two writers "
            "would not see each other; give a path, or s3://, gs:// or az://"
        )


def delete(uri: str) -> None:
    """Remove one object, if it exists."""
    store, path = _store(uri)
    with contextlib.suppress(FileNotFoundError):
        store.delete(path)


def arrow_filesystem(uri: str) -> tuple["pyarrow.fs.FileSystem", str]:
    """Return the store as an Arrow filesystem, for libraries that do their own reading and writing, and the path in it.

    Their requests do not pass through this module, so the store's client itself retries them.
    """
    store, path = _store(uri)
    return store.arrow_filesystem(), path
