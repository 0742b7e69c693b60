"""The tables of a run: one mask row an image, one reject row a failed image, as plain Arrow types in one declared schema."""

import json

import pyarrow as pa

from pipeline.corpus import GROUP_FIELDS
from pipeline.errors import UserError
from pipeline.labels import LabelSpace

FORMAT = 2  # 2: the plan in parts, rejects in the footers of masks
FINGERPRINT, SHARDS = "maskmill.fingerprint", "maskmill.shards"  # keys of a part's metadata
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


def mask_schema(
    num_classes: int, boundary_px: tuple[int, ...] = (), groups: tuple[pa.Field, ...] = GROUP_FIELDS
) -> pa.Schema:
    """Columns of a mask row; counts are pixels, seconds are wall time of this image's share.

    Args:
        boundary_px: band widths of the boundary counts; kept as metadata of their columns.
        groups: the columns of groups, those that every run has first.
    Raises:
        UserError: a group is called like another column.
    """
    widths = {"width_px": ",".join(str(width) for width in boundary_px)}
    schema = pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("member", pa.string()),
            *groups,
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
    for group in groups:
        if schema.names.count(group.name) > 1:
            raise UserError(f"'{group.name}' cannot be a group, every run has a column of that name; rename it")
    return schema


def part_metadata(fingerprint: str, space: LabelSpace, first: int, last: int) -> dict[str, str]:
    """What lets the part of some shards, `first` to `last`, explain itself, as Parquet key-value metadata."""
    label_space = {"name": space.name, "classes": space.classes, "colours": space.colours, "ids": space.stored_ids}
    return {
        "maskmill.format": str(FORMAT),
        FINGERPRINT: fingerprint,
        "maskmill.label_space": json.dumps(label_space),
        SHARDS: f"{first}-{last}",
    }
