"""Corpora in the form of tables: a manifest of URIs (CSV or Parquet), or Parquet files with the image bytes."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.corpus.columns import check_columns, groups_of, id_of
from pipeline.corpus.groups import GROUPS
from pipeline.corpus.inventory import quoted
from pipeline.corpus.item import Item, Place
from pipeline.corpus.parquet import checked_rows, is_damage, open_parquet
from pipeline.corpus.reach import resolved
from pipeline.corpus.signed import place_of
from pipeline.errors import UserError
from pipeline.storage.range_file import RangeFile

_BATCH_ROWS = 4096


def manifest_items(uri: str) -> Iterator[Item]:
    """Yield the items of a CSV or Parquet file, read in blocks; its column `image` has URIs, maybe relative to its folder.

    Optional columns: `label`, `image_id` (default: the image's URI without its suffix), groups, and `bytes` and `etag` of the
    image, by which a replaced file is recognised. Ids and places omit the user, password and query of web addresses.

    Raises:
        UserError: no such file, no column `image`, a column of a wrong type, or a row without an image.
    """
    row_number = 0
    for rows in _manifest_rows(uri):
        for row in rows:
            if not row["image"]:
                raise UserError(f"manifest {uri}: row {row_number + 1} names no image; give one, or remove the row")
            image, label = (_named(row, column, uri, row_number) for column in ("image", "label"))
            assert image is not None
            image = _with_figures(image, row)
            shown = storage.without_secrets(row["image"])
            image_id = id_of(row) or shown.rsplit(".", 1)[0].split("://")[-1].lstrip("/")
            yield Item(image_id, image, label, groups=groups_of(row, uri))
            row_number += 1


def _named(row: dict[str, Any], column: str, uri: str, row_number: int) -> Place | None:
    """Return the place of the file that a manifest's row names in a column; None if it names none."""
    return place_of(resolved(row[column], uri), uri, column, row_number) if row.get(column) else None


def _with_figures(image: Place, row: dict[str, Any]) -> Place:
    """Return the place with the row's size and ETag; the ETag is used only for S3, where requests can be conditional on it."""
    etag = quoted(row.get("etag")) if image.uri.startswith("s3://") else None
    return replace(image, bytes=row.get("bytes") or 0, etag=etag)


def parquet_items(uris: list[str]) -> Iterator[Item]:
    """Yield the items of Parquet files with a column `image` (binary, or a struct with `bytes` and `path`) and maybe `label`.

    The id is the column `image_id`, else the struct's path without its suffix, else <file>/<row>. Image bytes are not read.

    Raises:
        UserError: not Parquet or damaged, no such column, or a column of a wrong type.
    """
    for uri in uris:
        try:
            yield from _parquet_items(uri)
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            if not is_damage(error):
                raise
            raise UserError(f"corpus {uri}: not a readable Parquet file ({error}); write it again") from None


def _parquet_items(uri: str) -> Iterator[Item]:
    file = open_parquet(uri)
    found = check_columns(file.schema_arrow, uri, "parquet")
    wanted = [name for name in found if name not in ("image", "label")]
    kind = file.schema_arrow.field("image").type
    columns = [*wanted, "image.path"] if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0 else wanted
    stem = uri.rsplit("/", 1)[-1].removesuffix(".parquet")
    row_number = 0
    for group in range(file.metadata.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        rows = file.read_row_group(group, columns=columns).to_pylist() if columns else ({} for _ in range(count))
        end = row_number + count
        for row in rows:
            path = (row.get("image") or {}).get("path")
            yield Item(
                image_id=id_of(row) or (path and path.rsplit(".", 1)[0]) or f"{stem}/{row_number:08d}",
                image=Place(uri, "image", row_number),
                label=Place(uri, "label", row_number) if "label" in found else None,
                groups=groups_of(row, uri),
            )
            row_number += 1
        if row_number != end:
            raise pa.ArrowInvalid(f"row group {group} has not the {count} rows that its footer says")


def _manifest_rows(uri: str) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a manifest, a few thousand at a time."""
    try:
        if uri.endswith(".parquet"):
            source = RangeFile(uri)
            file = checked_rows(pq.ParquetFile(source), source.size)
            wanted = check_columns(file.schema_arrow, uri, "manifest")
            yield from (batch.to_pylist() for batch in file.iter_batches(_BATCH_ROWS, columns=wanted))
            return
        strings = dict.fromkeys(("image", "label", "image_id", "etag", *GROUPS), pa.string())
        strings |= {"frame": pa.int32(), "bytes": pa.int64()}
        with pyarrow.csv.open_csv(
            pa.PythonFile(RangeFile(uri), mode="r"),
            convert_options=pyarrow.csv.ConvertOptions(column_types=strings, strings_can_be_null=True),
        ) as reader:
            wanted = check_columns(reader.schema, uri, "manifest")
            yield from (batch.select(wanted).to_pylist() for batch in reader)
    except FileNotFoundError:
        raise UserError(f"manifest {uri}: there is no such file; check the path or the bucket") from None
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if not is_damage(error):
            raise
        raise UserError(
            f"manifest {uri}: not a readable CSV or Parquet table ({error}); see `maskmill check`"
        ) from None
