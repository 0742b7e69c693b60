"""Find an image that is in two runs, by its id or by its location."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.analysis.run_counts import RunCounts
from pipeline.analysis.sums import batches, over_parts


def shared_image(members: Mapping[str, RunCounts], columns: Sequence[str]) -> tuple[str, str, str] | None:
    """Find an image whose values of some columns are in two runs: its id, and the names of both; None if there is none."""
    hashes = [
        np.unique(np.concatenate([np.zeros(0, np.uint64), *over_parts(member.parts("masks"), _hashes_of(columns))]))
        for member in members.values()
    ]
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    doubled = values[counts > 1]
    if not len(doubled):
        return None
    seen: dict[tuple[object, ...], str] = {}  # hashes may collide: the values decide
    for name, member in members.items():
        mine = dict[tuple[object, ...], str]()
        for batch in batches(member.parts("masks"), list(dict.fromkeys(["image_id", *columns]))):
            rows = np.flatnonzero(np.isin(_hashed(batch, columns), doubled))
            for row in batch.take(pa.array(rows)).to_pylist():
                key = tuple(row[column] for column in columns)
                if key in seen:
                    return row["image_id"], seen[key], name
                mine[key] = name
        seen |= mine
    return None


def _hashes_of(columns: Sequence[str]) -> Callable[[list[str]], np.ndarray]:
    def ask(uris: list[str]) -> np.ndarray:
        found = [_hashed(batch, columns) for batch in batches(uris, columns)]
        return np.concatenate([np.zeros(0, np.uint64), *found])

    return ask


def _hashed(batch: pa.RecordBatch, columns: Sequence[str]) -> np.ndarray:
    """Hash each row's values of some text columns: (rows,) uint64."""
    frame = pa.Table.from_batches([batch]).select(list(columns)).to_pandas().fillna("")
    return pd.util.hash_pandas_object(frame, index=False).to_numpy(np.uint64)
