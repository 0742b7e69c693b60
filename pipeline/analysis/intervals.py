"""Bootstrap intervals for the scores of a run, and comparison with another run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.analysis.run_counts import RunCounts
from pipeline.analysis.sums import Key, add_rows, batches, counted, group_places, over_parts, rows_at_once
from pipeline.errors import UserError
from pipeline.metrics.bootstrap import interval, resample
from pipeline.metrics.iou import margin_scores

MAX_IMAGES = 10_000  # drawn one by one; more are hashed by image id into this many bundles, which are drawn
GROUP_BUNDLES = 1000  # bundles per group of such a run
SCORES = ("miou", "mean_accuracy", "pixel_accuracy")


@dataclass(frozen=True)
class Comparison:
    """Two runs compared over the same images, which are drawn in pairs."""

    table: pd.DataFrame  # index: classes and SCORES; columns: before, after, difference, low, high
    images: int  # number of images labelled in both
    only_before: int
    only_after: int


def score_intervals(view: RunCounts, raw: bool, seed: int) -> pd.DataFrame:
    """See `RunView.intervals`."""
    margins = _units(view, raw).to_numpy()[:, 1:]
    low, high = interval(resample(margins, margin_scores, seed))
    return pd.DataFrame({"value": _value(margins), "low": low, "high": high}, index=_names(view))


def compare_runs(before: RunCounts, after: RunCounts, seed: int) -> Comparison:
    """See `RunView.compare`."""
    if before.space.classes != after.space.classes:
        raise UserError(
            f"{before.uri} is in {before.space.name} and {after.uri} in {after.space.name}, which have other classes: "
            "compare runs of one label space"
        )
    bundled = max(num_rows(before), num_rows(after)) > MAX_IMAGES
    one, two = _units(before, False, bundled), _units(after, False, bundled)
    only_before, only_after = len(one.index.difference(two.index)), len(two.index.difference(one.index))
    if bundled and not one["images"].equals(two["images"]):
        raise UserError(
            f"{before.uri} and {after.uri} have labels for different images: runs of more than {MAX_IMAGES} images "
            "are compared over one corpus"
        )
    common = one.index.intersection(two.index)
    if not len(common):
        raise UserError(
            f"{before.uri} and {after.uri} have no labelled image in common: compare runs over one corpus, or runs "
            "over different images without labels: maskmill drift"
        )
    one, two = one.loc[common], two.loc[common]
    first, second = one.to_numpy()[:, 1:], two.to_numpy()[:, 1:]
    # With the same seed, each draw has the same images in both.
    low, high = interval(resample(second, margin_scores, seed) - resample(first, margin_scores, seed))
    table = pd.DataFrame({"before": _value(first), "after": _value(second)}, index=_names(before))
    table["difference"] = table["after"] - table["before"]
    return Comparison(table.assign(low=low, high=high), int(one["images"].sum()), only_before, only_after)


def group_intervals(view: RunCounts, by: Sequence[str], groups: Sequence[Key], seed: int) -> pd.DataFrame:
    """Return mIoU of some groups with its interval, one row per group, in their order; see `RunView.intervals_by`."""
    bundled, places = num_rows(view) > MAX_IMAGES, {key: place for place, key in enumerate(groups)}
    found = over_parts(view.parts("masks"), lambda uris: _group_margins(uris, by, places, view.shape, bundled))
    units = pd.concat(found) if found else pd.DataFrame()
    rows = []
    for place in range(len(groups)):
        mine = units.loc[[place]] if place in units.index else units[:0]
        if bundled:
            mine = mine.groupby("unit").sum()
        margins = mine.drop(columns="unit", errors="ignore").to_numpy()
        draws = resample(margins, lambda sums: margin_scores(sums)[:, -3:-2], seed) if len(margins) > 1 else None
        low, high = (np.array([np.nan]),) * 2 if draws is None else interval(draws)
        rows.append((_value(margins)[-3] if len(margins) else np.nan, low[0], high[0]))
    return pd.DataFrame(rows, columns=["value", "low", "high"])


def _group_margins(
    uris: Sequence[str], by: Sequence[str], groups: Mapping[Key, int], shape: tuple[int, int], bundled: bool
) -> pd.DataFrame:
    """Return the margins of the images of some groups (index: place of the group), and `unit`: the bundle of the image."""
    frames = []
    for batch in batches(uris, ["image_id", *by, "confusion"], rows_at_once(shape[0] * shape[1])):
        batch, values = counted(batch, "confusion", shape[0] * shape[1])
        keys, where = group_places(batch, by)
        place = np.array([groups.get(key, -1) for key in keys], np.int64)[where]
        names = batch.column("image_id").to_numpy(zero_copy_only=False).astype(object)
        frame = pd.DataFrame(_margins_of(values.reshape(-1, *shape)), index=place)
        frame["unit"] = (pd.util.hash_array(names, categorize=False) % GROUP_BUNDLES).astype(np.int64) if bundled else 0
        frame = frame[frame.index >= 0]
        if bundled:  # so that a million images of one group become a thousand rows
            frame = frame.set_index([frame.index, "unit"]).groupby(level=[0, 1]).sum().reset_index("unit")
        frames.append(frame)
    return pd.concat(frames) if frames else pd.DataFrame()


def _margins_of(matrices: np.ndarray) -> np.ndarray:
    """Convert confusions (N, C, C or C + 1) to (N, 3 C) int64: right, predicted and labelled pixels of each class."""
    predicted = matrices.sum(1)[:, : matrices.shape[1]]
    return np.concatenate([np.diagonal(matrices, axis1=1, axis2=2), predicted, matrices.sum(2)], axis=1)


def excludes_zero(row: pd.Series) -> bool:
    """Whether the interval of a difference lies on one side of zero."""
    return bool(row["low"] > 0 or row["high"] < 0)


def _value(margins: np.ndarray) -> np.ndarray:
    """Return the (C + 3,) scores of the summed margins."""
    return margin_scores(margins.sum(axis=0, keepdims=True))[0]


def _units(view: RunCounts, raw: bool, bundled: bool | None = None) -> pd.DataFrame:
    """Return a row per image (index: image id) or bundle (index: its number): `images`, then 3 C margins, int64."""
    bundled = num_rows(view) > MAX_IMAGES if bundled is None else bundled
    column, shape = "confusion_raw" if raw else "confusion", view.shape
    found = over_parts(view.parts("masks"), lambda uris: _margins(uris, column, shape, bundled))
    table = pd.concat(found)
    return table.groupby(level=0).sum() if bundled else table.sort_index()


def _margins(uris: Sequence[str], column: str, shape: tuple[int, int], bundled: bool) -> pd.DataFrame:
    ids, rows, num_classes = [], [], shape[0]
    sums = np.zeros((MAX_IMAGES if bundled else 0, 1 + 3 * num_classes), np.int64)
    for batch in batches(uris, ["image_id", column], rows_at_once(shape[0] * shape[1])):
        batch, values = counted(batch, column, shape[0] * shape[1])
        margins = _margins_of(values.reshape(-1, *shape))
        names = batch.column("image_id").to_numpy(zero_copy_only=False)
        if bundled:
            places = pd.util.hash_array(names.astype(object), categorize=False) % MAX_IMAGES
            add_rows(margins, places.astype(np.int64), sums)
        else:
            ids.append(names)
            rows.append(np.column_stack([np.ones(len(margins), np.int64), margins]))
    if bundled:
        used = np.flatnonzero(sums[:, 0])
        return _frame(sums[used], used)
    return _frame(np.concatenate([np.zeros_like(sums), *rows]), np.concatenate([np.array([], object), *ids]))


def _frame(values: np.ndarray, index: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, index=index, columns=["images", *range(values.shape[1] - 1)])


def num_rows(view: RunCounts) -> int:
    """Count the mask rows of a run, from the footers of its parts."""
    return sum(over_parts(view.parts("masks"), lambda uris: sum(_footer_rows(uri) for uri in uris)))


def _footer_rows(uri: str) -> int:
    filesystem, path = storage.arrow_filesystem(uri)
    return int(pq.read_metadata(path, filesystem=filesystem).num_rows)


def _names(view: RunCounts) -> list[str]:
    return [*view.space.classes, *SCORES]
