"""Pack the decoded images of a shard into one Arrow row, so that other nodes than the model's can decode; pixels stay raw."""

import json
from concurrent.futures import Future
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.corpus import Item
from pipeline.errors import Reject
from pipeline.read_ahead import read_ahead
from pipeline.segment.loading import Load, Loaded, Loader, Streamed

# `outcomes` is JSON: image id -> its image or reject, with the positions of its arrays in `pixels`. Offsets have 64 bits,
# since the images of one shard may exceed 2 GB.
FIELDS = [pa.field("shard", pa.int64()), pa.field("outcomes", pa.string()),
          pa.field("pixels", pa.large_list(pa.large_binary()))]  # fmt: skip


def pack(shard: int, items: list[Item] | None, load: Loader | None = None, threads: int = 1) -> pa.Table:
    """Return one row with each item's image or reject; `outcomes` is null if the shard is not decoded (`items` None)."""
    pixels: list[memoryview] = []
    outcomes = None
    if items is not None:
        assert load is not None
        loading = read_ahead(load, items, threads)
        outcomes = json.dumps({item.image_id: _described(future, pixels) for item, future in loading})
    arrays = [pa.array([value], field.type) for value, field in zip((shard, outcomes, pixels), FIELDS, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(FIELDS))


def unpack(row: pa.Table) -> Load | None:
    """Return a function that gives the images of a packed shard without copying; None if the shard was not decoded."""
    if not row["outcomes"][0].is_valid:
        return None
    outcomes = json.loads(row["outcomes"][0].as_py())
    pixels = [part.as_buffer() for part in row["pixels"][0]]

    def load(item: Item) -> Loaded | Streamed:
        outcome = outcomes[item.image_id]
        if "reject" in outcome:
            raise Reject(*outcome["reject"])
        arrays = {name: _array(place, pixels) for name, place in outcome["arrays"].items()}
        image, label = arrays["image"], arrays["label"]
        if "orientation" in outcome:
            assert image is not None
            rest = outcome["orientation"], arrays["instances"], outcome["georeference"], tuple(outcome["size"])
            return Loaded(item, image, label, *rest, seconds=outcome["seconds"])
        encoded, truth = (None if array is None else array.tobytes() for array in (image, label))
        return Streamed(item, encoded, truth, outcome["seconds"])

    return load


def _described(loading: Future[Loaded | Streamed], pixels: list[memoryview]) -> dict[str, Any]:
    """Return an image or its reject as JSON values; arrays are appended to `pixels`."""
    try:
        outcome = loading.result()
    except Reject as reject:
        return {"reject": [reject.stage, reject.reason, str(reject)]}
    if isinstance(outcome, Loaded):
        arrays = {"image": outcome.image, "label": outcome.label, "instances": outcome.instances}
        rest: dict[str, Any] = {
            "orientation": outcome.orientation,
            "georeference": outcome.georeference,
            "size": outcome.size,
        }
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
    """Append an array to `pixels`; return its index there, its shape and dtype."""
    if array is None:
        return None
    pixels.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return len(pixels) - 1, array.shape, array.dtype.str


def _array(place: list[Any] | None, pixels: list[pa.Buffer]) -> np.ndarray | None:
    if place is None:
        return None
    index, shape, dtype = place
    return np.frombuffer(pixels[index], dtype).reshape(shape)
