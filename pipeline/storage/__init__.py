"""URI -> bytes: the only file that opens a URI, so that a laptop's folder and an object store are one code path.

A URI is a local path or whatever fsspec knows (`s3://`, `memory://`, ...). Credentials and endpoints come from the
store's own standard environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), never from a config file.

Every call is repeated here, and only here, while a store's errors are of the kind that passes (pipeline/storage/retry.py); what
is raised in the end is an OSError. All calls may be repeated without harm: whole objects are written, never appended.
"""

import contextlib
import json
import logging
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.fs
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import UserError
from pipeline.storage.retry import patiently

# Answers of S3 to a conditional PUT that lost: to an object, or to another PUT at the same moment.
_ALREADY_THERE = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp", re.DOTALL)
# Names that fsspec has for stores whose client creates exclusively.
EXCLUSIVE = {"file", "local", "s3", "gs", "gcs", "az", "abfs"}
# What installs the client of a store.
_EXTRAS = {"gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
CONNECT_S, READ_S = 5, 30  # a silent store is a failed request after so long
logging.getLogger("fsspec.http").setLevel(logging.INFO)  # its debug lines are whole addresses, signatures too
LIST_PAGE = 1000  # objects a request, the most that S3 gives


@dataclass(frozen=True)
class FileInfo:
    """One file under a prefix: its URI, its path below the prefix (`/` between parts), its size."""

    uri: str
    path: str
    bytes: int
    etag: str | None = None  # of the content, where the store has one


class Changed(OSError):
    """An object is no longer the one that was listed."""


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
    fs, path = _filesystem(uri)
    return bool(patiently(lambda: fs.exists(path)))


def is_dir(uri: str) -> bool:
    """True for a folder or an object prefix with at least one object below it."""
    fs, path = _filesystem(uri)
    return bool(patiently(lambda: fs.isdir(path)))


def is_file(uri: str) -> bool:
    fs, path = _filesystem(uri)
    return bool(patiently(lambda: fs.isfile(path)))


def size(uri: str) -> int:
    """Bytes of one object; FileNotFoundError if there is none."""
    fs, path = _filesystem(uri)
    return int(patiently(lambda: fs.info(path))["size"])


def list_files(uri: str) -> list[FileInfo]:
    """Every file below a prefix, recursively, sorted by path. A prefix that does not exist lists nothing."""
    return sorted(scan(uri), key=lambda file: file.path)


def scan(uri: str) -> Iterator[FileInfo]:
    """Every file below a prefix, recursively, in the store's own order; a page or a folder in memory at a time."""
    fs, root = _filesystem(uri)
    root = root.rstrip("/")
    scheme = uri.split("://")[0] + "://" if "://" in uri else ""
    for name, size_bytes, etag in _walk(fs, root):
        if name != root:
            yield FileInfo(uri=scheme + name, path=name[len(root) + 1 :], bytes=size_bytes, etag=etag)


def read(uri: str, etag: str | None = None) -> bytes:
    """The whole object, in one request.

    Raises:
        Changed: `etag` is given and no longer the object's.
    """
    fs, path = _filesystem(uri)
    if (fetched := _fetched(fs, path, etag)) is not None:
        return fetched
    if etag is not None:
        return patiently(lambda: _read_listed(fs, path, etag))
    # One request: s3fs would ask for the size first, to read large objects in pieces.
    options = {"max_concurrency": 1} if "s3" in fs.protocol else {}
    data: bytes = patiently(lambda: fs.cat_file(path, **options))
    return data


def read_range(uri: str, offset: int, length: int) -> bytes:
    """`length` bytes from `offset`, in one request; fewer where the object ends before."""
    fs, path = _filesystem(uri)
    if (fetched := _fetched(fs, path, span=(offset, offset + length))) is not None:
        return fetched
    data: bytes = patiently(lambda: fs.cat_file(path, start=offset, end=offset + length))
    return data


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
    fs, path = _filesystem(uri)
    if isinstance(fs, LocalFileSystem):
        with _temporary(path, data) as temporary:
            os.replace(temporary, path)
        _sync_folder(path)
    else:
        patiently(lambda: fs.pipe_file(path, data))


def create(uri: str, data: bytes) -> bool:
    """Write an object only if there is none. True: the object that is there holds these bytes; False: it holds others,
    and nothing was changed. So bytes must be the writer's own where it matters who was first.

    An exclusive link on a disk, a conditional PUT on S3 and Azure (`If-None-Match: *`) and Google (`ifGenerationMatch=0`).
    Other stores look and then write, which two writers can do at once: `require_exclusive_create`. A refused PUT is looked
    at: the object may be ours, written by an earlier try whose answer was lost.
    """
    fs, path = _filesystem(uri)
    while True:
        if patiently(lambda: _create(fs, path, data)):
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
    fs, _ = _filesystem(uri)
    names = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if not names & EXCLUSIVE:
        raise UserError(
            f"{uri}: {what} cannot be written to {uri.partition('://')[0]}://, which has no exclusive create: two writers "
            "would not see each other; give a path, or s3://, gs:// or az://"
        )


def _create(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> bool:
    try:
        if isinstance(fs, LocalFileSystem):
            with _temporary(path, data) as temporary:
                os.link(temporary, path)
            _sync_folder(path)
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
        patiently(lambda: fs.rm_file(path))


def is_temporary(path: str) -> bool:
    """Whether a file on a disk is one that `put` or `create` left behind, killed before they gave it its name."""
    return bool(_TEMPORARY.fullmatch(path.rpartition("/")[2]))


def arrow_filesystem(uri: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The same store as an Arrow filesystem, for libraries that read and write their own files, and the path in it.

    Their requests do not pass through this file, so the store's client repeats them itself.
    """
    fs, path = _filesystem(uri, attempts=8)
    if isinstance(fs, LocalFileSystem):
        return pyarrow.fs.LocalFileSystem(), path  # Arrow's own: each read through Python costs as much as a small part
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), path


def _filesystem(uri: str, attempts: int = 1) -> tuple[fsspec.AbstractFileSystem, str]:
    """The store behind a URI and the path in it; `attempts` of its client for each request.

    Listings are never cached: other processes write here too.
    """
    if not uri.startswith(("s3://", "s3a://")):
        return _other(uri)
    retries = {"mode": "standard", "total_max_attempts": attempts}
    limits = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": retries, "max_pool_connections": 64}
    fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False, config_kwargs=limits)
    fs.retries = 1 if attempts == 1 else type(fs).retries  # s3fs has a loop of its own around botocore's
    return fs, path


def _other(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Of any store but S3.

    Raises:
        UserError: fsspec does not know the scheme, or the package for it is not installed.
    """
    scheme = uri.partition("://")[0]
    options = {"use_listings_cache": False} if scheme in _EXTRAS else {}
    try:
        fs, path = fsspec.core.url_to_fs(uri, **options)
    except ImportError as error:
        words = " ".join(str(error).split())
        if scheme in _EXTRAS:
            words = f"pip install 'maskmill[{_EXTRAS[scheme]}]'"
        raise UserError(
            f"{uri}: {scheme}:// needs a package that is not installed here ({words}); install it on every machine of the run, "
            "or put the data where s3:// or a path reaches it"
        ) from None
    except ValueError as error:
        if "Protocol not known" not in str(error):
            raise
        raise UserError(
            f"{uri}: no store is known as {scheme}://; give a path, s3://..., or a scheme that fsspec knows"
        ) from None
    return fs, path


def _fetched(
    fs: fsspec.AbstractFileSystem, path: str, etag: str | None = None, span: tuple[int, int] | None = None
) -> bytes | None:
    """The bytes where the store is S3 and answers at once; None: ask `fs`."""
    if "s3" not in fs.protocol:
        return None
    from pipeline.storage.s3 import fetch  # no other store needs its client

    return fetch(fs, path, etag, span)


def _read_listed(fs: fsspec.AbstractFileSystem, path: str, etag: str) -> bytes:
    """The whole S3 object, if it still has its etag: the store itself compares."""
    bucket, _, key = path.partition("/")
    try:
        answer = fs.call_s3("get_object", Bucket=bucket, Key=key, IfMatch=etag)
    except OSError as error:
        if getattr(error.__cause__, "response", {}).get("Error", {}).get("Code") in ("PreconditionFailed", "412"):
            raise Changed(f"{path} changed after it was listed") from error
        raise
    data: bytes = fsspec.asyn.sync(fs.loop, answer["Body"].read)
    return data


def _walk(fs: fsspec.AbstractFileSystem, root: str) -> Iterator[tuple[str, int, str | None]]:
    """(path, bytes, etag) of every file below a folder or prefix."""
    if isinstance(fs, LocalFileSystem):
        yield from _walk_folder(root)
    elif "s3" in fs.protocol:
        yield from _walk_bucket(fs, root)
    else:
        found: dict[str, dict[str, Any]] = patiently(lambda: fs.find(root, detail=True))
        yield from ((name, int(info["size"]), None) for name, info in found.items())


def _walk_folder(folder: str) -> Iterator[tuple[str, int, str | None]]:
    """A link to a file is the file it leads to; a link to a folder is not followed, it could lead round in a circle."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk_folder(entry.path)
        else:
            try:
                yield entry.path, entry.stat().st_size, None
            except FileNotFoundError:  # a link to nothing is listed, and not found when it is read
                yield entry.path, 0, None


def _walk_bucket(fs: fsspec.AbstractFileSystem, root: str) -> Iterator[tuple[str, int, str | None]]:
    bucket, _, prefix = root.partition("/")
    request = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else "", "MaxKeys": LIST_PAGE}
    while True:
        try:
            page = patiently(lambda: fs.call_s3("list_objects_v2", **request))
        except FileNotFoundError:  # no such bucket
            return
        for found in page.get("Contents", ()):
            if not found["Key"].endswith("/"):  # a folder's mark, as consoles make them
                yield f"{bucket}/{found['Key']}", found["Size"], found.get("ETag")
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


@contextlib.contextmanager
def _temporary(path: str, data: bytes) -> Iterator[str]:
    """A file of these bytes, safe on the disk, beside where they belong; gone afterwards under this name."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    # A leading dot: plain readers that glob `part-*` never see it.
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _sync_folder(path: str) -> None:
    """A new name survives a power cut only when its folder is on the disk too."""
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
