"""A run as Dask sees it: exact counts by any group column, lazily read, one part a task."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import labels, storage
from pipeline.analysis.sums import Key, Sums, matrices, over_parts, read_columns, sum_counts
from pipeline.corpus import GROUP_FIELDS
from pipeline.imaging.masks import decode_mask
from pipeline.labels import LabelSpace
from pipeline.metrics.iou import class_iou, mean_accuracy, mean_iou, pixel_accuracy
from pipeline.run import SECONDS, describe, read_table

GROUPS = tuple(group.name for group in GROUP_FIELDS)
RANKS = ("miou", "pixel_accuracy", "confidence")  # columns of one image that it can be ranked by
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
    """Read-only answers about one run, of the parts that were there at the first question; open it again for more."""

    uri: str
    description: dict[str, Any]  # run.json
    space: LabelSpace
    _parts: dict[str, list[str]] = field(default_factory=dict, repr=False)
    _answers: dict[tuple[str, Key], Sums] = field(default_factory=dict, repr=False)

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
            one row a group, sorted, null last (or the one row "all"); column `images`, then one int64 column a cell.
        Raises:
            ValueError: `by` names something that is not a group column.
        """
        for name in by:
            if name not in GROUPS:
                raise ValueError(f"cannot group by '{name}'; the group columns are {', '.join(GROUPS)}")
        cells = self.space.num_classes ** (1 if column == "pixels" else 2)
        question = (column, tuple(by))
        if question not in self._answers:
            self._answers[question] = sum_counts(self.parts("masks"), column, cells, by)
        sums = self._answers[question]
        keys = sorted(sums, key=lambda key: [(value is None, value) for value in key])
        if by:
            index = _index(keys, by)
        else:
            keys, index = [()], pd.Index([ALL])
        values = [sums.get(key, np.zeros(1 + cells, np.int64)) for key in keys]
        columns = ["images", *range(cells)]
        return pd.DataFrame(np.array(values, np.int64).reshape(-1, 1 + cells), index=index, columns=columns)

    def confusion(self, raw: bool = False) -> np.ndarray:
        """(C, C) int64 of the whole run, row = truth, column = prediction; `raw` = before the CRF."""
        counts = self.counts("confusion_raw" if raw else "confusion")
        return _matrix(counts.loc[ALL].to_numpy(), self.space.num_classes)

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
        """The n images with the lowest `miou`, `pixel_accuracy`, `confidence`, or IoU of one class (`class:car`).

        Images without that number are left out: those without a label, and those without the class.
        """
        allowed = (*RANKS, *(f"class:{name}" for name in self.space.classes))
        if by not in allowed:
            raise ValueError(f"cannot rank by '{by}'; choose one of {', '.join(allowed)}")
        index = None if by in RANKS else self.space.classes.index(by.removeprefix("class:"))
        found = over_parts(self.parts("masks"), lambda uris: _lowest(uris, n, by, index, self.space.num_classes))
        return pd.concat(found).sort_values([by, "image_id"]).head(n).reset_index(drop=True)

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
        """Headline numbers, each one None where the run does not have it.

        `images` (masks), `labelled`, `rejects` by reason, `finished`, `images_per_s` (from the run's creation to its end,
        start-up and pauses included), mean `seconds` of each stage, `miou`, `mean_accuracy`, `pixel_accuracy`, and
        `miou_raw` and `pixel_accuracy_raw` from before the CRF.
        """
        finished = self.finished()
        answered = int(self.areas().loc[ALL, "images"])
        rejects = Counter(self.rejects()["error"].tolist())
        created = datetime.fromisoformat(self.description["created"])
        elapsed_s = (datetime.fromisoformat(finished) - created).total_seconds() if finished else 0
        seconds = self.frame(SECONDS).mean().compute()
        iou = self.iou().loc[ALL] if self.is_labelled() else None
        raw = self.iou(raw=True).loc[ALL] if self.has_raw() and iou is not None else None
        return {
            "images": answered,
            "labelled": 0 if iou is None else int(iou["images"]),
            "rejects": dict(rejects.most_common()),
            "finished": finished,
            "images_per_s": (answered + rejects.total()) / elapsed_s if elapsed_s else None,
            "seconds": {name.removeprefix("seconds_"): float(s) for name, s in seconds.items() if not math.isnan(s)},
            **{name: None if iou is None else float(iou[name]) for name in ("miou", "mean_accuracy", "pixel_accuracy")},
            **{f"{name}_raw": None if raw is None else float(raw[name]) for name in ("miou", "pixel_accuracy")},
        }

    def is_labelled(self) -> bool:
        """Whether at least one image had a label."""
        return bool(self.counts("confusion").loc[ALL, "images"])

    def finished(self) -> str | None:
        """When the run was finished; None if it is not."""
        try:
            return str(json.loads(storage.read(storage.join(self.uri, "_SUCCESS.json")))["finished"])
        except FileNotFoundError:
            return None


def _index(keys: list[Key], by: Sequence[str]) -> pd.Index:
    """Group values as they are: numbers stay numbers, null stays None."""
    levels = [pd.Index([key[place] for key in keys], dtype=object, name=name) for place, name in enumerate(by)]
    return levels[0] if len(levels) == 1 else pd.MultiIndex.from_arrays(levels)


def _lowest(uris: list[str], n: int, by: str, index: int | None, num_classes: int) -> pd.DataFrame:
    """The n lowest rows of some parts; `index` is the class to rank by, None for a column."""
    frames = []
    for uri in uris:
        table = read_columns(uri, ["image_id", *RANKS, *([] if index is None else ["confusion"])])
        if index is not None:
            table = table.filter(pc.is_valid(table["confusion"]))
            confusions = matrices(table["confusion"], num_classes**2).reshape(-1, num_classes, num_classes)
            iou = [class_iou(confusion)[index] for confusion in confusions]
            table = table.drop(["confusion"]).append_column(by, pa.array(iou, pa.float64()))
        frames.append(table.to_pandas())
    return pd.concat(frames).dropna(subset=[by]).sort_values([by, "image_id"]).head(n)


def _matrix(values: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) from a row of `counts`, whose first value is the number of images."""
    return values[1:].reshape(num_classes, num_classes)
