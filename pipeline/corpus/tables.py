"""Corpora that are tables: a manifest of URIs (CSV or Parquet), or Parquet files that hold the image bytes themselves."""

import functools
import ipaddress
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.corpus.item import Item, Place
from pipeline.corpus.ranges import RangeFile
from pipeline.errors import Reject, UserError

SCHEMES = ("file", "s3", "s3a", "gs", "gcs", "abfs", "az", "http", "https")  # that a manifest may name
GROUPS = {"split": pa.string(), "city": pa.string(), "sequence": pa.string(), "frame": pa.int32()}
_BATCH_ROWS = 4096


def manifest_items(uri: str) -> Iterator[Item]:
    """Items of a CSV or Parquet file with a column `image` of URIs, relative ones to the manifest's folder; read in blocks.

    Optional columns: `label`, `image_id` (else the image's URI without its suffix), split, city, sequence, frame.

    Raises:
        UserError: no such file, no column `image`, a column of another type, or a row without an image.
    """
    index = 0
    for rows in _manifest_rows(uri):
        for row in rows:
            index += 1
            if not row["image"]:
                raise UserError(f"manifest {uri}: row {index} names no image; give one, or remove the row")
            yield Item(
                image_id=str(row.get("image_id") or row["image"].rsplit(".", 1)[0].split("://")[-1].lstrip("/")),
                image=Place(_resolved(row["image"], uri)),
                label=Place(_resolved(row["label"], uri)) if row.get("label") else None,
                **_groups(row),
            )


def parquet_items(uris: list[str]) -> Iterator[Item]:
    """Items of Parquet files with a column `image` (binary, or a struct with `bytes` and `path`), and maybe `label` likewise.

    `image_id` is its column, else the struct's path without its suffix, else <file>/<row>. Image bytes are not read.

    Raises:
        UserError: no Parquet, or no such column.
    """
    for uri in uris:
        file = _open(uri)
        schema = file.schema_arrow
        _require(schema, uri, "image")
        wanted = [name for name in (*GROUPS, "image_id") if name in schema.names]
        has_path = pa.types.is_struct(schema.field("image").type)
        stem = uri.rsplit("/", 1)[-1].removesuffix(".parquet")
        row_number = 0
        for group in range(file.metadata.num_row_groups):
            columns = [*wanted, "image.path"] if has_path else wanted
            count = file.metadata.row_group(group).num_rows
            rows = file.read_row_group(group, columns=columns).to_pylist() if columns else [{}] * count
            for row in rows:
                path = (row.get("image") or {}).get("path")
                yield Item(
                    image_id=str(
                        row.get("image_id") or (path and path.rsplit(".", 1)[0]) or f"{stem}/{row_number:08d}"
                    ),
                    image=Place(uri, "image", row_number),
                    label=Place(uri, "label", row_number) if "label" in schema.names else None,
                    **_groups(row),
                )
                row_number += 1


def read_cell(place: Place) -> bytes:
    """The bytes in one cell; a row group is read once for all its rows.

    Raises:
        Reject: `empty`, the cell holds nothing; `corrupt`, the file cannot be read.
    """
    assert place.member is not None and place.offset is not None
    where = f"{place.uri} row {place.offset} column '{place.member}'"
    try:
        value = _row_groups.cell(place.uri, place.member, place.offset)
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise Reject("read", "corrupt", f"{where}: cannot be read ({error}); write the file again") from None
    if not value:
        raise Reject("read", "empty", f"{where}: no bytes; write the file again with them, or without the row")
    return value


class _RowGroups:
    """The newest row group of each thread: shards hold neighbouring rows, so each group is read once or twice."""

    def __init__(self) -> None:
        self._local = threading.local()

    def cell(self, uri: str, column: str, row: int) -> bytes | None:
        held = getattr(self._local, "held", None)
        if held is None or held[0] != (uri, column) or not held[1] <= row < held[1] + len(held[2]):
            held = (uri, column), *self._read(uri, column, row)
            self._local.held = held
        value = held[2][row - held[1]].as_py()
        return value["bytes"] if isinstance(value, dict) else value

    def _read(self, uri: str, column: str, row: int) -> tuple[int, pa.ChunkedArray]:
        file = _open(uri)
        start = 0
        for group in range(file.metadata.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row < start + count:
                return start, file.read_row_group(group, columns=[column])[column]
            start += count
        raise Reject(
            "read", "not_found", f"{uri}: row {row} is not there, it has {start}; the file changed, plan the run anew"
        )


_row_groups = _RowGroups()


def _open(uri: str) -> pq.ParquetFile:
    filesystem, path = storage.arrow_filesystem(uri)
    try:
        return pq.ParquetFile(path, filesystem=filesystem)
    except pa.ArrowInvalid as error:
        raise UserError(f"corpus {uri}: not a readable Parquet file ({error}); write it again") from None


def _manifest_rows(uri: str) -> Iterator[list[dict[str, Any]]]:
    """The rows of a manifest, some thousands at a time."""
    try:
        if uri.endswith(".parquet"):
            file = pq.ParquetFile(RangeFile(uri))
            _require(file.schema_arrow, uri, "image")
            wanted = [name for name in ("image", "label", "image_id", *GROUPS) if name in file.schema_arrow.names]
            yield from (batch.to_pylist() for batch in file.iter_batches(_BATCH_ROWS, columns=wanted))
            return
        strings = dict.fromkeys(("image", "label", "image_id", *GROUPS), pa.string()) | {"frame": pa.int32()}
        with pyarrow.csv.open_csv(
            pa.PythonFile(RangeFile(uri), mode="r"),
            convert_options=pyarrow.csv.ConvertOptions(column_types=strings, strings_can_be_null=True),
        ) as reader:
            _require(reader.schema, uri, "image")
            yield from (batch.to_pylist() for batch in reader)
    except FileNotFoundError:
        raise UserError(f"manifest {uri}: there is no such file; check the path or the bucket") from None
    except pa.ArrowInvalid as error:
        raise UserError(
            f"manifest {uri}: not a readable CSV or Parquet table ({error}); see `maskmill check`"
        ) from None


def _require(schema: pa.Schema, uri: str, column: str) -> None:
    if column not in schema.names:
        raise UserError(
            f"{uri}: it has no column '{column}', found {', '.join(schema.names)}; rename the column of images"
        )


def _groups(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in GROUPS if row.get(name) is not None}


def _resolved(uri: str, manifest: str) -> str:
    """The URI a manifest names; a manifest may come from anywhere, so it reaches only what its own place may.

    Raises:
        UserError: a chained URI, a path that leads out of the manifest's folder, a local file named by a remote manifest,
            a scheme that is no object store's, or a host of the machine itself.
    """
    scheme, found, _ = uri.partition("://")
    remote = "://" in manifest and not manifest.startswith("file://")
    what = f"manifest {manifest}: '{uri}'"
    if "::" in uri:
        raise UserError(f"{what} is a chain of stores; name the file itself")
    if not found:
        if remote and uri.startswith("/"):
            raise UserError(f"{what} is a local path, and the manifest is not; name an object of a store")
        if ".." in uri.split("/"):
            raise UserError(f"{what} leads out of the manifest's folder; name it from there, or as a whole URI")
        if uri.startswith("/"):
            return uri
        folder = manifest.rsplit("/", 1)[0]
        if "://" not in manifest and not _is_below(os.path.join(folder, uri), folder):
            raise UserError(f"{what} is a link that leads out of the manifest's folder; put the file itself there")
        return storage.join(folder, uri)
    if scheme not in SCHEMES or (scheme == "file" and remote):
        allowed = ", ".join(s for s in SCHEMES if s != "file" or not remote)
        raise UserError(f"{what} has the scheme '{scheme}'; allowed here: {allowed}")
    if scheme in ("http", "https"):
        host = urlsplit(uri).hostname or ""
        if _is_private(host):
            raise UserError(
                f"{what} names a host of this machine or its network ({host}); name a public one or an object store"
            )
    return uri


def _is_below(path: str, folder: str) -> bool:
    """Whether a local path, its links followed, lies in a folder."""
    root = os.path.realpath(folder)
    return os.path.commonpath([root, os.path.realpath(path)]) == root


@functools.lru_cache(maxsize=1024)
def _is_private(host: str) -> bool:
    """Whether a host is this machine or of its network: by its name, its address, or the addresses its name has now."""
    host = host.rstrip(".")
    if not host or host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except OSError:  # nobody of that name: nothing is reached
        return False
    return not all(ipaddress.ip_address(address.partition("%")[0]).is_global for address in found)
