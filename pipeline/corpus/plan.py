"""Conversion of items to the plan of a run, Arrow tables with every image and its shard, and back."""

from collections.abc import Iterable, Iterator
from itertools import dropwhile

import pyarrow as pa

from pipeline.corpus.groups import GROUP_FIELDS, PLAN_COLUMNS, PLAN_FIELDS
from pipeline.corpus.item import Item, Place
from pipeline.corpus.listing import Listing

TABLE_ROWS = 4096  # rows that are read to answer a shard; a row is about 100 bytes in memory

_PLACE = ("uri", "member", "offset", "bytes", "crc32", "etag")  # columns of a Place, in the order of its fields


def plan_shards(items: Iterable[Item], images_per_shard: int, bytes_per_shard: int = 1 << 40) -> Iterator[pa.Table]:
    """Yield the plan as tables with one row per image, in the items' order; no shard is split between tables.

    A shard has at most `images_per_shard` images and `bytes_per_shard` bytes, but at least one image. A table ends with the
    first shard that ends at `TABLE_ROWS` rows or more.
    """
    groups = items.group_fields if isinstance(items, Listing) else GROUP_FIELDS
    schema, names = pa.schema([*PLAN_FIELDS, *groups]), [field.name for field in groups]
    rows: list[tuple[object, ...]] = []
    shard, images, size = 0, 0, 0
    for item in items:
        more = item.image.bytes + (item.label.bytes if item.label else 0)
        if images and (images == images_per_shard or size + more > bytes_per_shard):
            shard, images, size = shard + 1, 0, 0
            if len(rows) >= TABLE_ROWS:
                yield _table(rows, schema)
                rows = []
        images, size = images + 1, size + more
        rows.append(_row(item, shard, names))
    if rows:
        yield _table(rows, schema)


def items_of(plan: pa.Table) -> list[Item]:
    """Return the items of (part of) a plan, in its order; the oldest plans have no ETags."""
    names = [field.name for field in group_fields(plan.schema)]
    return [
        Item(
            image_id=row["image_id"],
            image=Place(*(row.get(name) for name in _PLACE)),
            label=None if row["label_uri"] is None else Place(*(row.get(f"label_{name}") for name in _PLACE)),
            groups={name: row[name] for name in names if row[name] is not None},
        )
        for row in plan.to_pylist()
    ]


def group_fields(plan: pa.Schema) -> tuple[pa.Field, ...]:
    """Return the group columns of a plan's schema, which follow its own columns; the oldest plans have fewer of these."""
    return tuple(field.remove_metadata() for field in dropwhile(lambda field: field.name in PLAN_COLUMNS, plan))


def _row(item: Item, shard: int, groups: list[str]) -> tuple[object, ...]:
    """Return the values of the plan's columns, in their order."""
    label = (None,) * len(_PLACE) if item.label is None else item.label.values
    return item.image_id, shard, *item.image.values, *label, *map(item.groups.get, groups)


def _table(rows: list[tuple[object, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(values, field.type) for field, values in zip(schema, columns, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
