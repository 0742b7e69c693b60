"""Find images of the newest run that differ most from earlier runs, by their distance from the nearest earlier image."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.analysis.drift import Asked, units_of
from pipeline.analysis.run_counts import RunCounts
from pipeline.analysis.sums import batches, over_parts
from pipeline.errors import UserError

EARLIER = 500  # sample of the images of the earlier runs: those with the lowest hashes of their ids
_ROWS = 1024  # images compared at a time


def find_unlike(members: Mapping[str, RunCounts], n: int, asked: Asked) -> pd.DataFrame:
    """See `RunsView.unlike`. The distance to the nearest is the outlier score of Ramaswamy et al. 2000 (SIGMOD), with k = 1."""
    names = list(members)
    if len(names) < 2:
        raise UserError("unlike compares a run with earlier ones: open two runs or more, the oldest first")
    frames = [_sample(members[name]).assign(nearest_run=name) for name in names[-asked.last - 1 : -1]]
    earlier = pd.concat(frames).nsmallest(EARLIER, "draw").reset_index(drop=True)
    if earlier.empty:
        raise UserError("unlike: none of the earlier runs has a mask; name another one")
    known = np.stack(earlier["shares"].to_numpy())

    def ask(uris: list[str]) -> list[pd.DataFrame]:
        columns = list(dict.fromkeys(["image_id", *asked.alike, "confidence", "entropy", "pixels"]))
        return [_nearest(batch, known, asked) for batch in batches(uris, columns, _ROWS) if batch.num_rows]

    found = [frame for part in over_parts(members[names[-1]].parts("masks"), ask) for frame in part]
    columns = ["image_id", "distance", "nearest", "nearest_run", "confidence", "entropy"]
    if not found:
        return pd.DataFrame(columns=columns)
    rows = pd.concat(found).sort_values(["distance", "image_id"], ascending=[False, True], ignore_index=True)
    rows = rows.assign(later=rows.groupby("unit").cumcount()).sort_values("later", kind="stable").head(n)
    near = earlier.loc[rows["place"], ["image_id", "nearest_run"]].to_numpy()
    return rows.assign(nearest=near[:, 0], nearest_run=near[:, 1])[columns].reset_index(drop=True)


def _shares(batch: pa.RecordBatch) -> np.ndarray:
    """Return the share of each class in the pixels, (rows, C) float32."""
    pixels = batch.column("pixels").flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)
    return (pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)).astype(np.float32)


def _sample(view: RunCounts) -> pd.DataFrame:
    """Sample at most EARLIER images of a run: `image_id`, `draw` (the hash of the id), `shares`."""

    def ask(uris: list[str]) -> pd.DataFrame:
        kept = pd.DataFrame({"image_id": [], "draw": np.zeros(0, np.uint64), "shares": []})
        for batch in batches(uris, ["image_id", "pixels"]):
            names = batch.column("image_id").to_numpy(zero_copy_only=False).astype(object)
            draws, shares = pd.util.hash_array(names, categorize=False), _shares(batch)
            some = np.argsort(draws)[:EARLIER]
            frame = pd.DataFrame({"image_id": names[some], "draw": draws[some], "shares": list(shares[some])})
            kept = pd.concat([kept, frame]).nsmallest(EARLIER, "draw") if len(kept) else frame
        return kept

    return pd.concat(over_parts(view.parts("masks"), ask))


def _nearest(batch: pa.RecordBatch, known: np.ndarray, asked: Asked) -> pd.DataFrame:
    """Return one row per image: its distance from the nearest of `known` (E, C), and the place of that one."""
    shares = _shares(batch)
    distances = np.zeros((len(shares), len(known)), np.float32)
    for index in range(known.shape[1]):  # a class at a time: (rows, E, C) would be large
        distances += np.abs(shares[:, index, None] - known[None, :, index])
    place = distances.argmin(axis=1)
    table = pa.Table.from_batches([batch])
    columns = {name: table[name].to_numpy() for name in ("image_id", "confidence", "entropy")}
    distance = distances[np.arange(len(shares)), place] / 2
    return pd.DataFrame(columns | {"distance": distance, "place": place, "unit": units_of(table, asked)})
