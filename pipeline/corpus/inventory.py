"""Amazon S3 Inventory in place of listing a prefix: the files of a bucket from its nightly report, without a LIST request.

The report is a `manifest.json` that names data files, CSV with gzip, Parquet or ORC:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html
"""

import io
import json
from collections.abc import Iterator
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.csv
import pyarrow.orc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.corpus.item import Place
from pipeline.errors import UserError

_BATCH_ROWS = 1 << 16
# Column of the report -> its names in CSV's fileSchema, and in Parquet and ORC.
_NAMES = {"bucket": "bucket", "key": "key", "size": "size", "e_tag": "etag", "is_latest": "islatest",
          "is_delete_marker": "isdeletemarker"}  # fmt: skip
_NEEDED = ("bucket", "key", "size", "e_tag")


def scan_inventory(inventory: str, uri: str) -> Iterator[tuple[str, Place]]:
    """Yield (path below the prefix, place) of every object below a prefix, in the report's order.

    Args:
        inventory: URI of the report's manifest.json.
        uri: URI of the prefix, `s3://bucket/...`.
    Raises:
        UserError: the file is not a report, lacks sizes or ETags, is damaged, or has no object below the prefix.
    """
    if not uri.startswith("s3://"):
        raise UserError(f"corpus.inventory {inventory} lists a bucket of S3, and the images are at {uri}; leave it out")
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    found = 0
    for table in _tables(inventory):
        for row in _current(table, bucket, prefix):
            found += 1
            place = Place(f"s3://{bucket}/{row['key']}", bytes=row["size"] or 0, etag=quoted(row["e_tag"]))
            yield row["key"][len(prefix) :], place
    if not found:
        raise UserError(
            f"corpus {uri}: the inventory {inventory} lists no object below this URI; check that the "
            "report belongs to this bucket and is complete"
        )


def quoted(etag: str | None) -> str | None:
    """Return an ETag in quotes, as in listings and requests of S3."""
    return None if etag is None else '"' + etag.strip('"') + '"'


def _current(table: pa.Table, bucket: str, prefix: str) -> Iterator[dict]:
    """Yield the rows of the current versions of objects below a prefix."""
    for row in table.to_pylist():
        deleted, latest = row.get("is_delete_marker"), row.get("is_latest")
        there = str(deleted).lower() != "true" and str(latest).lower() != "false"
        below = row["bucket"] == bucket and row["key"].startswith(prefix) and not row["key"].endswith("/")
        if there and below:
            yield row


def _tables(inventory: str) -> Iterator[pa.Table]:
    """Yield the rows of all files of a report, with the column names of its Parquet form."""
    try:
        manifest = json.loads(storage.read(inventory))
        kind, files = manifest["fileFormat"], [file["key"] for file in manifest["files"]]
        schema = [name.strip() for name in manifest["fileSchema"].split(",")] if kind == "CSV" else []
        home = f"s3://{manifest['destinationBucket'].rpartition(':')[2]}"
    except FileNotFoundError:
        raise UserError(f"corpus.inventory {inventory}: there is no such file; check the path or the bucket") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"corpus.inventory {inventory} is not the manifest.json of an S3 Inventory report; give that file's URI"
        ) from None
    for key in files:
        uri = f"{home}/{key}"
        try:
            yield from _read(storage.read(uri), kind, schema, uri)
        except FileNotFoundError:
            raise UserError(f"corpus.inventory {inventory}: it names {uri}, which is not there") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"corpus.inventory {inventory}: {uri} cannot be read as {kind} ({error})") from None


def _read(data: bytes, kind: str, schema: list[str], uri: str) -> Iterator[pa.Table]:
    if kind == "CSV":
        wanted = {name: _of_csv(name) for name in schema}
        columns = _columns([parquet for parquet in wanted.values() if parquet], uri)
        types = dict.fromkeys(schema, pa.string()) | {name: pa.int64() for name, own in wanted.items() if own == "size"}
        with pyarrow.csv.open_csv(
            pa.CompressedInputStream(pa.BufferReader(data), "gzip"),
            read_options=pyarrow.csv.ReadOptions(column_names=schema),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=True),
        ) as reader:
            for batch in reader:
                table = pa.Table.from_batches([batch]).rename_columns([wanted[name] or name for name in schema])
                keys = pa.array([unquote_plus(key) for key in table["key"].to_pylist()], pa.string())
                yield table.set_column(table.column_names.index("key"), "key", keys).select(columns)
    elif kind == "Parquet":
        file = pq.ParquetFile(io.BytesIO(data))
        columns = _columns(file.schema_arrow.names, uri)
        yield from (pa.Table.from_batches([batch]) for batch in file.iter_batches(_BATCH_ROWS, columns=columns))
    else:
        orc = pyarrow.orc.ORCFile(io.BytesIO(data))
        columns = _columns(orc.schema.names, uri)
        yield from (pa.Table.from_batches([orc.read_stripe(stripe, columns)]) for stripe in range(orc.nstripes))


def _of_csv(name: str) -> str | None:
    """Return the Parquet name of a CSV column; None for a column that is not read."""
    return next((parquet for parquet, plain in _NAMES.items() if plain == name.lower()), None)


def _columns(names: list[str], uri: str) -> list[str]:
    """Return the columns to read; UserError if a required one is missing."""
    if missing := [name for name in _NEEDED if name not in names]:
        raise UserError(
            f"corpus.inventory: {uri} has no column {', '.join(missing)}; configure the report to include Size and ETag"
        )
    return [name for name in _NAMES if name in names]
