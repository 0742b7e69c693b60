"""Decoded images of a shard as one Arrow row, to be decoded on other nodes than the model's; pixels travel as they lie."""

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from pipeline.corpus import Item
from pipeline.shard.loading import Loaded, Loader, Rejected, Streamed

# 64-bit offsets: the pictures of one shard may be more than 2 GB.
FIELDS = [pa.field("shard", pa.int64()), pa.field("outcomes", pa.large_binary()),
          pa.field("pixels", pa.large_list(pa.large_binary()))]  # fmt: skip


def pack(shard: int, items: list[Item] | None, load: Loader, threads: int) -> pa.Table:
    """One row: each item's image, or why there is none; nulls for a shard that is not decoded here (`items` None)."""
    pixels: list[pickle.PickleBuffer] = []
    head = None
    if items is not None:
        with ThreadPoolExecutor(threads) as pool:
            outcomes = list(pool.map(lambda item: (item.image_id, _outcome(item, load)), items))
        head = pickle.dumps(dict(outcomes), protocol=5, buffer_callback=pixels.append)
    values = (shard, head, [memoryview(part.raw()) for part in pixels])
    arrays = [pa.array([value], field.type) for value, field in zip(values, FIELDS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(FIELDS))


def unpack(row: pa.Table) -> Callable[[Item], Loaded | Streamed] | None:
    """What gives the images of a packed shard, without a copy; None where the shard was not decoded."""
    head = row["outcomes"][0]
    if not head.is_valid:
        return None
    outcomes: dict[str, Loaded | Streamed | Rejected] = pickle.loads(  # made by a task of this run
        head.as_buffer(), buffers=[part.as_buffer() for part in row["pixels"][0]]
    )

    def load(item: Item) -> Loaded | Streamed:
        outcome = outcomes.pop(item.image_id)
        if isinstance(outcome, Rejected):
            raise outcome
        return outcome

    return load


def _outcome(item: Item, load: Loader) -> Loaded | Streamed | Rejected:
    try:
        return load(item)
    except Rejected as error:
        return error
