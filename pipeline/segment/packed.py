"""Decoded images of a shard as one Arrow row, to be decoded on other nodes than the model's; pixels travel as they lie."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.corpus import Item
from pipeline.errors import Reject
from pipeline.segment.loading import Load, Loaded, Loader, Streamed

# `outcomes` is JSON: image id -> what became of it, with the places of its arrays in `pixels`. 64-bit offsets, since the
# pictures of one shard may be more than 2 GB.
FIELDS = [pa.field("shard", pa.int64()), pa.field("outcomes", pa.string()),
          pa.field("pixels", pa.large_list(pa.large_binary()))]  # fmt: skip

Outcome = Loaded | Streamed | Reject


def pack(shard: int, items: list[Item] | None, load: Loader | None = None, threads: int = 1) -> pa.Table:
    """One row: each item's image, or why there is none; nulls for a shard that is not decoded here (`items` None)."""
    pixels: list[memoryview] = []
    outcomes = None
    if items is not None:
        assert load is not None
        with ThreadPoolExecutor(threads) as pool:
            found = zip(items, pool.map(partial(_outcome, load=load), items), strict=True)
            outcomes = json.dumps({item.image_id: _described(outcome, pixels) for item, outcome in found})
    arrays = [pa.array([value], field.type) for value, field in zip((shard, outcomes, pixels), FIELDS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(FIELDS))


def unpack(row: pa.Table) -> Load | None:
    """What gives the images of a packed shard, without a copy; None where the shard was not decoded."""
    if not row["outcomes"][0].is_valid:
        return None
    outcomes = json.loads(row["outcomes"][0].as_py())
    pixels = [part.as_buffer() for part in row["pixels"][0]]

    def load(item: Item) -> Loaded | Streamed:
        found = outcomes[item.image_id]
        if "reject" in found:
            raise Reject(*found["reject"])
        arrays = {name: _array(place, pixels) for name, place in found["arrays"].items()}
        image, label = arrays["image"], arrays["label"]
        assert image is not None
        if "orientation" in found:
            return Loaded(item, image, label, found["orientation"], arrays["instances"], seconds=found["seconds"])
        return Streamed(item, image.tobytes(), None if label is None else label.tobytes(), found["seconds"])

    return load


def _outcome(item: Item, load: Loader) -> Outcome:
    try:
        return load(item)
    except Reject as error:
        return error


def _described(outcome: Outcome, pixels: list[memoryview]) -> dict[str, Any]:
    """JSON of an outcome, whose arrays join `pixels`."""
    if isinstance(outcome, Reject):
        return {"reject": [outcome.stage, outcome.reason, str(outcome)]}
    if isinstance(outcome, Loaded):
        arrays = {"image": outcome.image, "label": outcome.label, "instances": outcome.instances}
        rest: dict[str, Any] = {"orientation": outcome.orientation}
    else:
        stored = {"image": outcome.image, "label": outcome.label}
        arrays = {name: None if data is None else np.frombuffer(data, np.uint8) for name, data in stored.items()}
        rest = {}
    return {
        "arrays": {name: _place(array, pixels) for name, array in arrays.items()},
        "seconds": outcome.seconds,
        **rest,
    }


def _place(array: np.ndarray | None, pixels: list[memoryview]) -> tuple[int, tuple[int, ...], str] | None:
    """Index among `pixels`, shape and dtype."""
    if array is None:
        return None
    pixels.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return len(pixels) - 1, array.shape, array.dtype.str


def _array(place: list[Any] | None, pixels: list[pa.Buffer]) -> np.ndarray | None:
    if place is None:
        return None
    index, shape, dtype = place
    return np.frombuffer(pixels[index], dtype).reshape(shape)
