"""Listing of every file of a prefix or an archive, with its place."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pipeline import storage
from pipeline.corpus.inventory import scan_inventory
from pipeline.corpus.item import MADE, Place
from pipeline.corpus.readers.tar import compressed_tar, is_compressed_tar, is_tar, scan_tar
from pipeline.corpus.readers.zip import is_zip, scan_zip
from pipeline.errors import UserError, nearest

_HIDDEN = ("__MACOSX", ".")


def list_files(uri: str) -> dict[str, Place]:
    """Return path -> place of every file of a prefix, a zip or a tar, sorted; UserError as in `scan_files`."""
    return dict(sorted(scan_files(uri)))


def scan_files(uri: str, inventory: str | None = None) -> Iterator[tuple[str, Place]]:
    """Yield (path, place) of every file of a prefix, a zip or a tar, unsorted, without hidden files and folders.

    With an inventory (corpus/inventory.py) a prefix itself is not listed. The members of tars below a prefix (WebDataset
    shards) are listed too; their paths begin with the tar's path without its suffix. Compressed tars below a prefix are left
    out. If the URI is a JSON file, it is the only file.

    Raises:
        UserError: there is no file, or nothing but compressed tars, or a file's name is not UTF-8.
    """
    for path, place in _scan(uri, inventory):
        if not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
            raise UserError(
                f"corpus {uri}: the file name {path.encode(errors='surrogateescape')!r} is not UTF-8; rename it"
            )
        if MADE in path:
            raise UserError(
                f"corpus {uri}: '{path}' contains '{MADE}', which is reserved for generated labels; rename it"
            )
        if not any(part.startswith(_HIDDEN) for part in path.split("/")):
            yield path, place


def _scan(uri: str, inventory: str | None) -> Iterator[tuple[str, Place]]:
    if is_zip(uri):
        yield from scan_zip(uri)
    elif is_tar(uri):
        yield from scan_tar(uri, _etag(uri))
    elif uri.endswith(".json") and storage.is_file(uri):
        yield uri.rsplit("/", 1)[-1], Place(uri, etag=storage.etag(uri))
    else:
        compressed, others = "", 0
        for path, place in scan_inventory(inventory, uri) if inventory else _listed(uri):
            if is_compressed_tar(path):  # what was unpacked from it may lie beside it
                compressed = place.uri
                continue
            others += 1
            if is_tar(path):
                members = scan_tar(place.uri, place.etag)
                yield from ((f"{path[: -len('.tar')]}/{member}", found) for member, found in members)
            else:
                yield path, place
        if compressed and not others:
            raise compressed_tar(compressed)


def _etag(uri: str) -> str | None:
    """Return the ETag of a tar; None if it is not there, which reading it will say."""
    with contextlib.suppress(FileNotFoundError):
        return storage.etag(uri)
    return None


def _listed(uri: str) -> Iterator[tuple[str, Place]]:
    file = None
    for file in storage.scan(uri):
        yield file.path, Place(file.uri, bytes=file.bytes, etag=file.etag)
    if file is None:
        raise UserError(
            f"corpus {uri}: there is no file; check the path or the bucket and its credentials{_beside(uri)}"
        )


def _beside(uri: str) -> str:
    """Return a hint with the most similar name beside a local path that does not exist."""
    path = Path(uri)
    if "://" in uri or path.exists() or not path.parent.is_dir():
        return ""
    return nearest(path, (str(other) for other in path.parent.iterdir()))
