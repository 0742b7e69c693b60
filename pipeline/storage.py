"""URI -> bytes: the only file that opens a URI, so that a laptop's folder and an object store are one code path.

A URI is a local path or whatever fsspec knows (`s3://`, `memory://`, ...). Credentials and endpoints come from the
store's own standard environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), never from a config file.
"""

import contextlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

# Answers of S3 to a conditional PUT that lost: to an object, or to another PUT at the same moment.
_ALREADY_THERE = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


@dataclass(frozen=True)
class FileInfo:
    """One file under a prefix: its URI, its path below the prefix (`/` between parts), its size."""

    uri: str
    path: str
    bytes: int


def absolute(uri: str) -> str:
    """The URI with a local relative path made absolute, so that it means the same on every worker of the machine."""
    if "://" in uri:
        return uri.rstrip("/") if not uri.endswith("://") else uri
    return str(Path(uri).expanduser().absolute())


def join(uri: str, *parts: str) -> str:
    """`uri/part/part`, whatever the scheme."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(uri: str) -> bool:
    fs, path = _filesystem(uri)
    return bool(fs.exists(path))


def is_dir(uri: str) -> bool:
    """True for a folder or an object prefix with at least one object below it."""
    fs, path = _filesystem(uri)
    return bool(fs.isdir(path))


def size(uri: str) -> int:
    """Bytes of one object; FileNotFoundError if there is none."""
    fs, path = _filesystem(uri)
    return int(fs.info(path)["size"])


def list_files(uri: str) -> list[FileInfo]:
    """Every file below a prefix, recursively, sorted by path. A prefix that does not exist lists nothing."""
    fs, root = _filesystem(uri)
    root = root.rstrip("/")
    found: dict[str, dict[str, Any]] = fs.find(root, detail=True)
    scheme = uri.split("://")[0] + "://" if "://" in uri else ""
    files = [
        FileInfo(uri=scheme + name, path=name[len(root) + 1 :], bytes=int(info["size"]))
        for name, info in found.items()
        if name != root
    ]
    return sorted(files, key=lambda file: file.path)


def read(uri: str) -> bytes:
    """The whole object."""
    fs, path = _filesystem(uri)
    data: bytes = fs.cat_file(path)
    return data


def read_range(uri: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`, in one request; fewer where the object ends before."""
    fs, path = _filesystem(uri)
    data: bytes = fs.cat_file(path, start=offset, end=offset + length)
    return data


def put(uri: str, data: bytes) -> None:
    """Write an object whole: readers see the old bytes or the new ones, never a part.

    A temporary name and a rename on a disk; one completed PUT on object storage.
    """
    fs, path = _filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        temporary = _write_temporary(path, data)
        os.replace(temporary, path)
    else:
        fs.pipe_file(path, data)


def create(uri: str, data: bytes) -> bool:
    """Write an object only if there is none; False, and nothing changed, if another one was first.

    An exclusive link on a disk, a conditional PUT (`If-None-Match: *`) on S3.
    """
    fs, path = _filesystem(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            temporary = _write_temporary(path, data)
            try:
                os.link(temporary, path)
            finally:
                os.unlink(temporary)
        else:
            fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:  # s3fs has no error of its own for "precondition failed"
        response = getattr(error.__cause__, "response", {})
        if response.get("Error", {}).get("Code") in _ALREADY_THERE:
            return False
        raise
    return True


def delete(uri: str) -> None:
    """Remove one object; one that is not there is fine."""
    fs, path = _filesystem(uri)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The same store as an Arrow filesystem, for libraries that write their own files, and the path in it."""
    fs, path = _filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        return pyarrow.fs.LocalFileSystem(), path  # Arrow's own: each read through Python costs as much as a small part
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), path


def _filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The store behind a URI and the path in it. Listings are never cached: other processes write here too."""
    options = {"use_listings_cache": False} if uri.startswith(("s3://", "s3a://")) else {}
    fs, path = fsspec.core.url_to_fs(uri, **options)
    return fs, path


def _write_temporary(path: str, data: bytes) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # A leading dot: plain readers that glob `part-*` never see it.
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{uuid.uuid4().hex}.tmp")
    with open(temporary, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary
