"""Items -> the plan of a run: every image with its shard, as one Arrow table, and back."""

from collections.abc import Iterable

import pyarrow as pa

from pipeline.corpus.item import Item, Place

GROUP_FIELDS = (
    pa.field("split", pa.dictionary(pa.int32(), pa.string())),
    pa.field("city", pa.dictionary(pa.int32(), pa.string())),
    pa.field("sequence", pa.dictionary(pa.int32(), pa.string())),
    pa.field("frame", pa.int32()),
)
PLAN_SCHEMA = pa.schema(
    [
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
        *GROUP_FIELDS,
    ]
)


def plan_shards(items: Iterable[Item], images_per_shard: int, bytes_per_shard: int = 1 << 40) -> pa.Table:
    """PLAN_SCHEMA, one row an image in the items' order; a shard ends at so many images, or before so many bytes."""
    rows, shard, images, size = [], 0, 0, 0
    for item in items:
        more = item.image.bytes + (item.label.bytes if item.label else 0)
        if images and (images == images_per_shard or size + more > bytes_per_shard):
            shard, images, size = shard + 1, 0, 0
        images, size = images + 1, size + more
        rows.append({"shard": shard, **_row(item)})
    return pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)


def items_of(plan: pa.Table) -> list[Item]:
    """The items of (part of) a plan, in its order."""
    return [
        Item(
            image_id=row["image_id"],
            image=Place(row["uri"], row["member"], row["offset"], row["bytes"], row["crc32"], row["etag"]),
            label=None
            if row["label_uri"] is None
            else Place(
                row["label_uri"],
                row["label_member"],
                row["label_offset"],
                row["label_bytes"],
                row["label_crc32"],
                row["label_etag"],
            ),
            **{field.name: row[field.name] for field in GROUP_FIELDS},
        )
        for row in plan.to_pylist()
    ]


def _row(item: Item) -> dict[str, object]:
    groups = {field.name: getattr(item, field.name) for field in GROUP_FIELDS}
    label = {} if item.label is None else {f"label_{name}": value for name, value in vars(item.label).items()}
    return {"image_id": item.image_id, **vars(item.image), **label, **groups}
