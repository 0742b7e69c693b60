"""Items -> the plan of a run: every image with its shard, as one Arrow table, and back."""

from collections.abc import Iterable, Iterator

import pyarrow as pa

from pipeline.corpus.item import Item, Place

TABLE_ROWS = 4096  # what is read to answer a shard; a row is about 100 bytes in memory

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
_PLACE = ("uri", "member", "offset", "bytes", "crc32", "etag")  # columns of a Place, in its order


def plan_shards(items: Iterable[Item], images_per_shard: int, bytes_per_shard: int = 1 << 40) -> Iterator[pa.Table]:
    """The plan, table by table of PLAN_SCHEMA: one row an image in the items' order; no shard lies in two tables.

    A shard ends at so many images, or before so many bytes; a table at the first end of a shard from `TABLE_ROWS` rows on.
    """
    rows: list[tuple[object, ...]] = []
    shard, images, size = 0, 0, 0
    for item in items:
        more = item.image.bytes + (item.label.bytes if item.label else 0)
        if images and (images == images_per_shard or size + more > bytes_per_shard):
            shard, images, size = shard + 1, 0, 0
            if len(rows) >= TABLE_ROWS:
                yield _table(rows)
                rows = []
        images, size = images + 1, size + more
        rows.append(_row(item, shard))
    if rows:
        yield _table(rows)


def items_of(plan: pa.Table) -> list[Item]:
    """The items of (part of) a plan, in its order."""
    return [
        Item(
            image_id=row["image_id"],
            image=Place(*(row[name] for name in _PLACE)),
            label=None if row["label_uri"] is None else Place(*(row[f"label_{name}"] for name in _PLACE)),
            **{field.name: row[field.name] for field in GROUP_FIELDS},
        )
        for row in plan.to_pylist()
    ]


def _row(item: Item, shard: int) -> tuple[object, ...]:
    """The values of PLAN_SCHEMA, in its order."""
    label = (None,) * len(_PLACE) if item.label is None else item.label.values
    return (
        item.image_id, shard, *item.image.values, *label,
        item.split, item.city, item.sequence, item.frame,
    )  # fmt: skip


def _table(rows: list[tuple[object, ...]]) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for field, values in zip(PLAN_SCHEMA, columns, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PLAN_SCHEMA)
