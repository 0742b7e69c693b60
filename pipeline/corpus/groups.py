"""Group columns: what a layout says of an image beside its id, such as its split; answers of a run are asked for by them.

Every run has the four of `GROUP_FIELDS`; those that a layout adds come after them: text, or whole numbers.
"""

from collections.abc import Mapping

import pyarrow as pa

Group = str | int | None
Groups = Mapping[str, Group]

_TEXT = pa.dictionary(pa.int32(), pa.string())
GROUP_FIELDS = (
    pa.field("split", _TEXT),
    pa.field("city", _TEXT),
    pa.field("sequence", _TEXT),
    pa.field("frame", pa.int32()),
)
GROUPS = tuple(field.name for field in GROUP_FIELDS)

PLAN_FIELDS = (  # of every plan, before its groups
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("shard", pa.int32(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("member", pa.string()),
    pa.field("offset", pa.int64()),
    pa.field("bytes", pa.int64(), nullable=False),
    pa.field("crc32", pa.int64()),
    pa.field("etag", pa.string()),
    pa.field("label_uri", pa.string()),
    pa.field("label_member", pa.string()),
    pa.field("label_offset", pa.int64()),
    pa.field("label_bytes", pa.int64()),
    pa.field("label_crc32", pa.int64()),
    pa.field("label_etag", pa.string()),
)
PLAN_COLUMNS = tuple(field.name for field in PLAN_FIELDS)
# Columns that every mask row has: a table's column of one of these names is no group.
ROW_COLUMNS = (
    "height", "width", "mask", "pixels", "confusion", "confusion_raw", "boundary", "boundary_raw", "instances", "calibration",
    "miou", "pixel_accuracy", "confidence", "entropy", "seconds_decode", "seconds_forward", "seconds_crf", "seconds_encode",
)  # fmt: skip


def added_field(name: str, kind: type | None) -> pa.Field:
    """The column of a group that a layout adds; `kind` is str or int, or None where no image has a value."""
    return pa.field(name, pa.int64() if kind is int else _TEXT)
