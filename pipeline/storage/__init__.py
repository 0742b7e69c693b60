"""URI -> bytes: the only room that opens a URI, so that a laptop's folder and an object store are one code path.

A URI is a local path, `s3://`, or whatever fsspec knows (`gs://`, `az://`, `memory://`, ...). Credentials and endpoints come
from the store's own standard environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), never from a config file.

Every store repeats its calls while their errors are transient (pipeline/storage/retry.py); what is raised in the end is an
OSError. All calls may be repeated without harm: whole objects are written, never appended.
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
from pipeline.storage.store import LIST_PAGE, LISTERS, Changed, Store

if TYPE_CHECKING:
    import pyarrow.fs

__all__ = [
    "LISTERS", "LIST_PAGE", "Changed", "FileInfo", "absolute", "arrow_filesystem", "create", "delete", "exists", "is_dir",
    "is_file", "is_temporary", "join", "list_files", "put", "read", "read_json", "read_range", "require_exclusive_create",
    "scan", "size", "without_secrets",
]  # fmt: skip


@dataclass(frozen=True)
class FileInfo:
    """One file under a prefix: its URI, its path below the prefix (`/` between parts), its size."""

    uri: str
    path: str
    bytes: int
    etag: str | None = None  # of the content, where the store has one
    modified: float | None = field(default=None, compare=False)  # when stored, seconds since 1970, where it is listed


def _store(uri: str) -> tuple[Store, str]:
    """The store of a URI, by its scheme, and the path in it. A new store is a file of this folder and a case here."""
    match uri.partition("://")[0] if "://" in uri else "file":
        case "file" | "local":
            return Disk.open(uri)
        case "s3" | "s3a":
            from pipeline.storage.s3 import S3  # no other store needs its clients, nor fsspec

            return S3.open(uri)
        case _:
            from pipeline.storage.fsspec_store import FsspecStore

            return FsspecStore.open(uri)


def absolute(uri: str) -> str:
    """The URI with a local relative path made absolute, so that it means the same on every worker of the machine."""
    if "://" in uri:
        return uri.rstrip("/") if not uri.endswith("://") else uri
    return str(Path(uri).expanduser().absolute())


def without_secrets(uri: str) -> str:
    """A URI as it may be shown: without the user, password, query (signatures stand there) and fragment of a web address, and
    without a password in any other. What is no URI stays as it is."""
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
    """`uri/part/part`, whatever the scheme."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(uri: str) -> bool:
    store, path = _store(uri)
    return store.exists(path)


def is_dir(uri: str) -> bool:
    """True for a folder or an object prefix with at least one object below it."""
    store, path = _store(uri)
    return store.is_dir(path)


def is_file(uri: str) -> bool:
    store, path = _store(uri)
    return store.is_file(path)


def size(uri: str) -> int:
    """Bytes of one object; FileNotFoundError if there is none."""
    store, path = _store(uri)
    return store.size(path)


def list_files(uri: str) -> list[FileInfo]:
    """Every file below a prefix, recursively, sorted by path. A prefix that does not exist lists nothing."""
    return sorted(scan(uri), key=lambda file: file.path)


def scan(uri: str) -> Iterator[FileInfo]:
    """Every file below a prefix, recursively, in the store's own order; a page or a folder in memory at a time."""
    store, root = _store(uri)
    root = root.rstrip("/")
    scheme = uri.split("://")[0] + "://" if "://" in uri else ""
    for name, size_bytes, etag, modified in store.scan(root):
        if name != root:
            yield FileInfo(scheme + name, name[len(root) + 1 :], size_bytes, etag, modified)


def read(uri: str, etag: str | None = None) -> bytes:
    """The whole object, in one request.

    Raises:
        Changed: `etag` is given and no longer the object's.
    """
    store, path = _store(uri)
    return store.read(path, etag)


def read_range(uri: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`, in one request; fewer where the object ends before."""
    store, path = _store(uri)
    return store.read_range(path, offset, length)


def read_json(uri: str) -> Any:
    """The value of a JSON file.

    Raises:
        FileNotFoundError: there is none.
        UserError: it is no JSON.
    """
    try:
        return json.loads(read(uri))
    except ValueError as error:  # of the text, or of its encoding
        raise UserError(f"{uri} is damaged: no JSON ({error}); restore it, or start again at another place") from None


def put(uri: str, data: bytes) -> None:
    """Write an object whole: readers see the old bytes or the new ones, never a part.

    A temporary name and a rename on a disk; one completed PUT on object storage.
    """
    store, path = _store(uri)
    store.put(path, data)


def create(uri: str, data: bytes) -> bool:
    """Write an object only if there is none. True: the object that is there holds these bytes; False: it holds others,
    and nothing was changed. So bytes must be the writer's own where it matters who was first.

    An exclusive link on a disk, a conditional PUT on S3 and Azure (`If-None-Match: *`) and Google (`ifGenerationMatch=0`).
    Other stores look and then write, which two writers can do at once: `require_exclusive_create`. A refused PUT is looked
    at: the object may be ours, written by an earlier try whose answer was lost.
    """
    store, path = _store(uri)
    while True:
        if store.create(path, data):
            return True
        try:
            return read(uri) == data
        except FileNotFoundError:
            continue  # removed between the two calls, or the other PUT failed


def require_exclusive_create(uri: str, what: str) -> None:
    """UserError where the store of a URI cannot create an object only if there is none, which one writer at a time needs.

    Args:
        what: is to be written there, for the sentence.
    """
    if not _store(uri)[0].exclusive_create:
        raise UserError(
            f"{uri}: {what} cannot be written to {uri.partition('://')[0]}://, which has no exclusive create: two writers "
            "would not see each other; give a path, or s3://, gs:// or az://"
        )


def delete(uri: str) -> None:
    """Remove one object; one that is not there is fine."""
    store, path = _store(uri)
    with contextlib.suppress(FileNotFoundError):
        store.delete(path)


def arrow_filesystem(uri: str) -> tuple["pyarrow.fs.FileSystem", str]:
    """The same store as an Arrow filesystem, for libraries that read and write their own files, and the path in it.

    Their requests do not pass through this file, so the store's client repeats them itself.
    """
    store, path = _store(uri)
    return store.arrow_filesystem(), path
