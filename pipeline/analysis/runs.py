"""A run as Dask sees it: exact counts by any group column, lazily read, one part a task."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import labels, storage
from pipeline.corpus import GROUP_FIELDS
from pipeline.imaging.masks import decode_mask
from pipeline.labels import LabelSpace
from pipeline.metrics.iou import class_iou, mean_accuracy, mean_iou, pixel_accuracy
from pipeline.run import SECONDS, describe, read_table

GROUPS = tuple(group.name for group in GROUP_FIELDS)
ALL = "all"  # index of the one row of an ungrouped answer


def open_run(uri: str) -> "RunView":
    """The run at a URI, finished or not; ValueError if there is none, or nothing is answered yet."""
    uri = storage.absolute(uri)
    description = describe(uri)
    view = RunView(uri, description, labels.space(description["label_space"]["name"]))
    if not view.parts("masks"):
        raise ValueError(f"run {uri}: no image is answered yet; run `maskmill segment` on it first")
    return view


@dataclass(frozen=True)
class RunView:
    """Read-only answers about one run."""

    uri: str
    description: dict[str, Any]  # run.json
    space: LabelSpace
    _parts: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def parts(self, kind: str) -> list[str]:
        """URIs of the committed parts of a kind, `masks` or `rejects`."""
        if kind not in self._parts:
            files = storage.list_files(storage.join(self.uri, kind))
            self._parts[kind] = [f.uri for f in files if f.path.startswith("part-") and f.path.endswith(".parquet")]
        return self._parts[kind]

    def frame(self, columns: Sequence[str] | None = None) -> dd.DataFrame:
        """The mask rows as a lazy Dask frame, one partition a part; name the columns, masks are large."""
        return dd.read_parquet(self.parts("masks"), columns=list(columns) if columns else None)

    def counts(self, column: str, by: Sequence[str] = ()) -> pd.DataFrame:
        """Sums of a count column (`pixels`, `confusion`, `confusion_raw`) over the images that have it.

        Returns:
            one row a group (or the row "all"); column `images`, then one int64 column a cell of the counts.
        Raises:
            ValueError: `by` names something that is not a group column.
        """
        for name in by:
            if name not in GROUPS:
                raise ValueError(f"cannot group by '{name}'; the group columns are {', '.join(GROUPS)}")
        cells = self.space.num_classes ** (1 if column == "pixels" else 2)
        empty = _sum_rows([], [], cells, by)
        sums = dd.from_map(
            _part_counts, self.parts("masks"), column=column, cells=cells, by=list(by), meta=empty
        ).compute()
        keys = [tuple(key) for key in sums[list(by)].itertuples(index=False)] if by else [(ALL,)] * len(sums)
        return _finish(_sum_rows(keys, sums.drop(columns=list(by)).to_numpy(np.int64), cells, by), by)

    def confusion(self, raw: bool = False) -> np.ndarray:
        """(C, C) int64 of the whole run, row = truth, column = prediction; `raw` = before the CRF."""
        counts = self.counts("confusion_raw" if raw else "confusion")
        return _matrix(counts.to_numpy(np.int64).sum(axis=0), self.space.num_classes)

    def has_raw(self) -> bool:
        """Whether the run kept the counts from before a CRF."""
        return self.description["config"]["crf"] is not None

    def iou(self, by: Sequence[str] = (), raw: bool = False) -> pd.DataFrame:
        """IoU of each class, `miou`, `mean_accuracy`, `pixel_accuracy` and `images`: one row a group.

        Counts are summed over the group's labelled images and divided once; a class in neither truth nor prediction is NaN.
        """
        counts = self.counts("confusion_raw" if raw else "confusion", by)
        rows = []
        for values in counts.to_numpy(np.int64):
            confusion = _matrix(values, self.space.num_classes)
            rows.append(
                {
                    **dict(zip(self.space.classes, class_iou(confusion), strict=True)),
                    "miou": mean_iou(confusion),
                    "mean_accuracy": mean_accuracy(confusion),
                    "pixel_accuracy": pixel_accuracy(confusion),
                    "images": int(values[0]),
                }
            )
        columns = [*self.space.classes, "miou", "mean_accuracy", "pixel_accuracy", "images"]
        return pd.DataFrame(rows, index=counts.index, columns=columns)

    def areas(self, by: Sequence[str] = ()) -> pd.DataFrame:
        """Predicted pixels of each class and `images`: one row a group. No mask is decoded."""
        counts = self.counts("pixels", by)
        counts.columns = ["images", *self.space.classes]
        return counts

    def worst(self, n: int, by: str = "miou") -> pd.DataFrame:
        """The n labelled images with the lowest per-image `miou`, `pixel_accuracy` or `confidence`."""
        allowed = ("miou", "pixel_accuracy", "confidence")
        if by not in allowed:
            raise ValueError(f"cannot rank by '{by}'; choose one of {', '.join(allowed)}")
        frame = self.frame(["image_id", "miou", "pixel_accuracy", "confidence"]).compute()
        return frame.dropna(subset=[by]).sort_values([by, "image_id"]).head(n).reset_index(drop=True)

    def masks(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """image id -> (H, W) uint8 mask; reads only the parts that hold them. ValueError names an id that has none."""
        plan = self.plan()
        shards = set(plan.filter(pc.is_in(plan["image_id"], pa.array(list(ids), pa.string())))["shard"].to_pylist())
        found = {}
        for uri in self.parts("masks"):
            if int(uri.rsplit("part-", 1)[1].removesuffix(".parquet")) in shards:
                table = read_table(storage.read(uri), ["image_id", "mask"])
                rows = table.filter(pc.is_in(table["image_id"], pa.array(list(ids), pa.string()))).to_pylist()
                found.update({row["image_id"]: decode_mask(row["mask"]["bytes"]) for row in rows})
        if missing := [image_id for image_id in ids if image_id not in found]:
            raise ValueError(
                f"run {self.uri}: no mask of image '{missing[0]}'; see .rejects() and .frame(['image_id'])"
            )
        return found

    def plan(self) -> pa.Table:
        """The run's plan, one row an image."""
        return read_table(storage.read(storage.join(self.uri, "plan", "plan.parquet")))

    def rejects(self) -> pd.DataFrame:
        """The reject rows: image_id, uri, member, stage, error, message, attempts."""
        tables = [read_table(storage.read(uri)) for uri in self.parts("rejects")]
        return (
            pa.concat_tables(tables).to_pandas() if tables else pd.DataFrame(columns=["image_id", "error", "message"])
        )

    def summary(self) -> dict[str, Any]:
        """Headline numbers: images, rejects by reason, mIoU and pixel accuracy (and raw), mean seconds of each stage."""
        rejects = Counter(self.rejects()["error"].tolist())
        seconds = self.frame(list(SECONDS)).mean().compute()
        images = int(self.areas()["images"].sum())
        iou = self.iou().loc[ALL] if self.is_labelled() else None
        raw = self.iou(raw=True).loc[ALL] if self.has_raw() and iou is not None else None
        return {
            "images": images,
            "rejects": dict(rejects.most_common()),
            "finished": self.finished(),
            "labelled": 0 if iou is None else int(iou["images"]),
            **{name: None if iou is None else float(iou[name]) for name in ("miou", "mean_accuracy", "pixel_accuracy")},
            **{f"{name}_raw": None if raw is None else float(raw[name]) for name in ("miou", "pixel_accuracy")},
            "seconds": {
                name.removeprefix("seconds_"): float(value) for name, value in seconds.items() if value == value
            },
        }

    def is_labelled(self) -> bool:
        """Whether at least one image had a label."""
        return len(self.counts("confusion")) > 0

    def finished(self) -> str | None:
        """When the run was finished; None if it is not."""
        try:
            return str(json.loads(storage.read(storage.join(self.uri, "_SUCCESS.json")))["finished"])
        except FileNotFoundError:
            return None


def _part_counts(uri: str, column: str, cells: int, by: list[str]) -> pd.DataFrame:
    """The sums of one part, by group."""
    table = read_table(storage.read(uri), [*by, column])
    table = table.filter(pc.is_valid(table[column]))
    if not table.num_rows:
        return _sum_rows([], [], cells, by)
    values = pc.list_flatten(table[column]).to_numpy().reshape(-1, cells)
    ones = np.ones((len(values), 1), np.int64)
    keys = list(zip(*(table[name].to_pylist() for name in by), strict=True)) if by else [(ALL,)] * len(values)
    return _sum_rows(keys, np.hstack([ones, values]), cells, by)


def _sum_rows(keys: list[tuple[Any, ...]], values: Any, cells: int, by: Sequence[str]) -> pd.DataFrame:
    """One row a distinct key: the key's columns, `images`, the cells; exact int64 sums."""
    order = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    sums = np.zeros((len(order), cells + 1), np.int64)
    if keys:
        np.add.at(sums, [order[key] for key in keys], values)
    frame = pd.DataFrame(sums, columns=["images", *range(cells)])
    for position, name in enumerate(by):
        frame.insert(position, name, pd.Series([key[position] for key in order], dtype=object))
    return frame


def _finish(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Groups as the index, sorted; groups without a value (null) last."""
    if not by:
        frame.index = pd.Index([ALL] * len(frame))
        return frame
    return frame.set_index(list(by) if len(by) > 1 else by[0]).sort_index(na_position="last")


def _matrix(values: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) from a row of `counts`, whose first value is the number of images."""
    return values[1:].reshape(num_classes, num_classes)
