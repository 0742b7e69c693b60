"""Group columns: attributes that a layout gives an image, such as its split; the results of a run can be queried by them.

Every run has the four columns of `GROUP_FIELDS`; columns that a layout adds, of text or whole numbers, come after them.
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

PLAN_FIELDS = (  # columns of every plan, before its groups
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
# Columns of mask rows: a column with one of these names in a table is not a group.
ROW_COLUMNS = (
    "height", "width", "mask", "pixels", "confusion", "confusion_raw", "boundary", "boundary_raw", "instances", "calibration",
    "miou", "pixel_accuracy", "confidence", "entropy", "seconds_decode", "seconds_forward", "seconds_crf", "seconds_encode",
)  # fmt: skip


def added_field(name: str, kind: type | None) -> pa.Field:
    """Return the column of a group that a layout adds; `kind` is str or int, or None if no image has a value."""
    return pa.field(name, pa.int64() if kind is int else _TEXT)
