"""The tables of a run: one mask row an image, one reject row a failed image, as plain Arrow types in one declared schema."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.corpus import GROUP_FIELDS
from pipeline.labels import LabelSpace

FORMAT = 1
SECONDS = ("seconds_decode", "seconds_forward", "seconds_crf", "seconds_encode")

REJECT_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string()),
        pa.field("stage", pa.string(), nullable=False),  # read, decode, label, predict, crf, encode
        pa.field("error", pa.string(), nullable=False),  # stable reason code
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)


def mask_schema(num_classes: int, boundary_px: tuple[int, ...] = ()) -> pa.Schema:
    """Columns of a mask row; counts are pixels, seconds are wall time of this image's share.

    Args:
        boundary_px: band widths of the boundary counts; kept as metadata of their columns.
    """
    widths = {"width_px": ",".join(str(width) for width in boundary_px)}
    return pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("member", pa.string()),
            *GROUP_FIELDS,
            pa.field("height", pa.int32(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("mask", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
            pa.field("pixels", pa.list_(pa.int64(), num_classes), nullable=False),  # of each class, predicted
            pa.field(
                "confusion", pa.list_(pa.int64())
            ),  # C * C, row = truth, column = prediction; null without a label
            pa.field("confusion_raw", pa.list_(pa.int64())),  # the same before the CRF; null without CRF or label
            # Counts that a run was asked for (config section `metrics`), flattened; null where not asked for or no label.
            pa.field("boundary", pa.list_(pa.int64()), metadata=widths),  # widths * 10 * C: metrics/boundary.py
            pa.field("boundary_raw", pa.list_(pa.int64()), metadata=widths),  # the same before the CRF
            pa.field("instances", pa.list_(pa.int64())),  # C * 6: metrics/instances.py
            pa.field("calibration", pa.list_(pa.int64())),  # 3 * bins: metrics/calibration.py
            pa.field("miou", pa.float32()),
            pa.field("pixel_accuracy", pa.float32()),
            pa.field("confidence", pa.float32()),  # mean over the scores' grid of the highest probability
            pa.field("entropy", pa.float32()),  # mean over the same, nats
            *(pa.field(name, pa.float32()) for name in SECONDS),
        ]
    )


def part_metadata(fingerprint: str, space: LabelSpace, shard: int) -> dict[str, str]:
    """What lets a part explain itself, as Parquet key-value metadata."""
    label_space = {"name": space.name, "classes": space.classes, "colours": space.colours, "ids": space.stored_ids}
    return {
        "maskmill.format": str(FORMAT),
        "maskmill.fingerprint": fingerprint,
        "maskmill.label_space": json.dumps(label_space),
        "maskmill.shard": str(shard),
    }


def write_table(table: pa.Table, metadata: dict[str, str]) -> bytes:
    """Parquet bytes of a table; the same rows always give the same bytes. Masks are compressed already, the rest is not."""
    file = io.BytesIO()
    names = [name for name in table.schema.names if name != "mask"]
    pq.write_table(
        table.replace_schema_metadata(metadata),
        file,
        compression={**dict.fromkeys(_leaves(table.schema, names), "zstd"), "mask.bytes": "none", "mask.path": "zstd"}
        if "mask" in table.schema.names
        else "zstd",
        store_schema=True,
    )
    return file.getvalue()


def read_table(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """The table of a part's bytes."""
    return pq.read_table(io.BytesIO(data), columns=columns)


def count_rows(uri: str) -> int:
    """Rows of a part, from its footer alone; -1 for a part that cannot be read."""
    filesystem, path = storage.arrow_filesystem(uri)
    try:
        return int(pq.read_metadata(path, filesystem=filesystem).num_rows)
    except (OSError, pa.ArrowInvalid):
        return -1


def _leaves(schema: pa.Schema, names: list[str]) -> list[str]:
    """Parquet leaf paths of columns: lists store their values one level down."""
    return [f"{name}.list.element" if _is_list(schema.field(name).type) else name for name in names]


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind))
