"""Corpora in the form of tables: a manifest of URIs (CSV or Parquet), or Parquet files with the image bytes."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.corpus.columns import check_columns, groups_of, id_of
from pipeline.corpus.groups import GROUPS
from pipeline.corpus.inventory import quoted
from pipeline.corpus.item import Item, Place
from pipeline.corpus.parquet import cell, checked_rows, is_damage, open_parquet
from pipeline.corpus.reach import resolved
from pipeline.corpus.signed import place_of
from pipeline.errors import Reject, UserError
from pipeline.storage.range_file import RangeFile

_BATCH_ROWS = 4096
_WHOLE = r"^-?(0|[1-9]\d{0,17})$"  # a number of 64 bits; 001 is text


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


def parquet_items(files: Iterable[tuple[str, str | None]]) -> Iterator[Item]:
    """Yield the items of Parquet files with a column `image` (binary, or a struct with `bytes` and `path`) and maybe `label`.

    The id is the column `image_id`, else the struct's path without its suffix, else <file>/<row>. A row whose label is null has
    none. Image bytes are not read; labels are, unless they are structs with a path, since only the values tell which are null.

    Args:
        files: URI and ETag of each file.
    Raises:
        UserError: not Parquet or damaged, no such column, or a column of a wrong type.
    """
    for uri, etag in files:
        try:
            yield from _parquet_items(uri, etag)
        except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
            if not is_damage(error):
                raise
            raise UserError(f"corpus {uri}: not a readable Parquet file ({error}); write it again") from None


def check_row(item: Item) -> None:
    """Raise Reject if an image's row of a Parquet file now names another image, as when the file was written again.

    Rows are compared by the column `image_id`, else by the image's path; without these, rows have no name.
    """
    place = item.image
    if place.member != "image" or place.offset is None or not place.uri.endswith(".parquet"):
        return
    path = cell(place.uri, "image", place.offset, "path")
    known = path.rsplit(".", 1)[0] if isinstance(path, str) and path else None
    named = id_of({"image_id": cell(place.uri, "image_id", place.offset)}) or known
    if named not in (None, item.image_id):
        raise Reject(
            "read",
            "source_changed",
            f"{place.uri} row {place.offset}: it is image '{named}' now; write the file again with all rows in their places, "
            "or plan the run anew",
        )


def _parquet_items(uri: str, etag: str | None) -> Iterator[Item]:
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
        labels = _labelled(file, group) if "label" in found else [False] * count
        end = row_number + count
        for row, labelled in zip(rows, labels, strict=True):
            path = (row.get("image") or {}).get("path")
            yield Item(
                image_id=id_of(row) or (path and path.rsplit(".", 1)[0]) or f"{stem}/{row_number:08d}",
                image=Place(uri, "image", row_number, etag=etag),
                label=Place(uri, "label", row_number, etag=etag) if labelled else None,
                groups=groups_of(row, uri),
            )
            row_number += 1
        if row_number != end:
            raise pa.ArrowInvalid(f"row group {group} has not the {count} rows that its footer says")


def _further_types(uri: str, known: dict[str, pa.DataType]) -> dict[str, pa.DataType]:
    """Return the types of a CSV's further columns that begin with whole numbers or nothing, whose first block may mislead.

    Such a column has whole numbers if all its values are, without leading zeros; else text.
    """
    with _open_csv(uri, known) as reader:
        names = reader.schema.names
        further = [field for field in reader.schema if field.name not in known and names.count(field.name) == 1]
    doubtful = [field.name for field in further if pa.types.is_integer(field.type) or pa.types.is_null(field.type)]
    if not doubtful:
        return {}
    numbers, filled = set(doubtful), set[str]()
    with _open_csv(uri, known | dict.fromkeys(doubtful, pa.string())) as reader:
        for batch in reader:
            for name in doubtful:
                values = batch[name].drop_null()
                filled |= {name} if len(values) else set()
                if name in numbers and pc.all(pc.match_substring_regex(values, _WHOLE)).as_py() is False:
                    numbers.remove(name)
    return {name: pa.int64() if name in numbers else pa.string() for name in filled}


def _open_csv(uri: str, types: dict[str, pa.DataType]) -> pyarrow.csv.CSVStreamingReader:
    return pyarrow.csv.open_csv(
        pa.PythonFile(RangeFile(uri), mode="r"),
        convert_options=pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True),
    )


def _labelled(file: pq.ParquetFile, group: int) -> list[bool]:
    """Return which rows of a row group have a label; of structs with a path, only the paths are read."""
    kind = file.schema_arrow.field("label").type
    has_path = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    column = file.read_row_group(group, columns=["label.path" if has_path else "label"])["label"]
    there: list[bool] = column.is_valid().to_pylist()
    return there


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
        strings |= _further_types(uri, strings)
        with _open_csv(uri, strings) as reader:
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
