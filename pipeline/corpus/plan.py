"""Items -> the plan of a run: every image with its shard, as one Arrow table, and back."""

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
        pa.field("label_uri", pa.string()),
        pa.field("label_member", pa.string()),
        pa.field("label_offset", pa.int64()),
        pa.field("label_bytes", pa.int64()),
        pa.field("label_crc32", pa.int64()),
        *GROUP_FIELDS,
    ]
)


def plan_shards(items: list[Item], images_per_shard: int) -> pa.Table:
    """PLAN_SCHEMA, one row an image in the items' order; shard k holds rows k * images_per_shard and on."""
    rows = [{"shard": index // images_per_shard, **_row(item)} for index, item in enumerate(items)]
    return pa.Table.from_pylist(rows, schema=PLAN_SCHEMA)


def items_of(plan: pa.Table) -> list[Item]:
    """The items of (part of) a plan, in its order."""
    return [
        Item(
            image_id=row["image_id"],
            image=Place(row["uri"], row["member"], row["offset"], row["bytes"], row["crc32"]),
            label=None
            if row["label_uri"] is None
            else Place(
                row["label_uri"], row["label_member"], row["label_offset"], row["label_bytes"], row["label_crc32"]
            ),
            **{field.name: row[field.name] for field in GROUP_FIELDS},
        )
        for row in plan.to_pylist()
    ]


def _row(item: Item) -> dict[str, object]:
    groups = {field.name: getattr(item, field.name) for field in GROUP_FIELDS}
    label = {} if item.label is None else {f"label_{name}": value for name, value in vars(item.label).items()}
    return {"image_id": item.image_id, **vars(item.image), **label, **groups}
