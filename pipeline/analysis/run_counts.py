"""Sums of a run's counts over any group, read lazily with Dask; every other result is computed from them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.analysis.sums import Key, Sums, sum_counts
from pipeline.corpus import GROUPS
from pipeline.errors import UserError, nearest
from pipeline.labels import LabelSpace
from pipeline.metrics.metric import Metric
from pipeline.metrics.registry import METRICS
from pipeline.runs import Part, Plan, RunInfo, listed_parts, plan_of, read_table, region_schema
from pipeline.runs.generations import num_images
from pipeline.runs.info import Success

if TYPE_CHECKING:
    import dask.dataframe as dd

ALL = "all"  # index of the one row of an ungrouped answer
METRIC_OF = {column: metric for metric in METRICS for column in metric.columns}  # count column -> its metric


@dataclass(frozen=True)
class RunCounts:
    """A run's parts and the sums of their counts; the parts are those that were there at the first query."""

    uri: str
    description: RunInfo
    space: LabelSpace
    state: Success | None = None  # its `_SUCCESS.json`, or that of one of its generations; None: it is not finished
    unmapped: bool = False  # whether confusions have an extra last column: predicted as none of the labels' classes
    _parts: dict[str, list[Part]] = field(default_factory=dict, repr=False)
    _answers: dict[tuple[str, Key], Sums] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of a confusion: truth, prediction."""
        return self.space.num_classes, self.space.num_classes + self.unmapped

    def parts(self, kind: str) -> list[str]:
        """Return URIs of the committed parts of a kind: `masks`, `rejects` or `regions`; UserError if one is another run's."""
        return [part.uri for part in self.listed(kind)]

    def listed(self, kind: str) -> list[Part]:
        """Return the same parts with the shards that they answer."""
        if kind not in self._parts:
            self._parts[kind] = listed_parts(self.uri, self.description, kind, self.state)
        return self._parts[kind]

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The run's group columns: those that every run has, then those of its corpus."""
        names = self.columns
        return names[names.index(GROUPS[0]) : names.index("height")]

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of a mask row."""
        filesystem, path = storage.arrow_filesystem(self.parts("masks")[0])
        return tuple(pq.read_schema(path, filesystem=filesystem).names)

    def frame(self, columns: Sequence[str] | None = None) -> "dd.DataFrame":
        """Return the mask rows as a lazy Dask frame, one partition per part; name the columns, since masks are large.

        UserError lists the run's columns if an unknown one is asked for.
        """
        if unknown := [name for name in columns or () if name not in self.columns]:
            raise UserError(f"run {self.uri} has no column '{unknown[0]}'; its columns are {', '.join(self.columns)}")
        import dask.dataframe as dd  # takes half a second, so only where a frame is needed

        return dd.read_parquet(self.parts("masks"), columns=list(columns) if columns else None)

    def regions(
        self, columns: Sequence[str] | None = None, classes: Sequence[str] = (), min_area: int = 1
    ) -> "dd.DataFrame":
        """Return the table of regions as a lazy Dask frame, one partition per part; no mask is decoded.

        Args:
            columns: columns to read; by default all, as infra/docs/run_format.md lists them.
            classes: names of the classes whose regions are wanted; by default all.
            min_area: [pixels] smallest area of the regions that are wanted.
        Raises:
            UserError: the run has no such table, or a class or column is unknown.
        """
        asked = self.description.regions
        if asked is None:
            raise UserError(f"run {self.uri} has no table of regions; set `regions: {{}}` in a new run's config")
        known = region_schema(self.plan().group_fields, asked.polygons is not None).names
        for names, allowed, what in ((columns or (), known, "column"), (classes, self.space.classes, "class")):
            for name in names:
                if name not in allowed:
                    raise UserError(
                        f"the regions of run {self.uri} have no {what} '{name}'; choose one of {', '.join(allowed)}"
                        f"{nearest(name, allowed)}"
                    )
        filters: list[tuple[str, str, Any]] = [("area", ">=", min_area)]
        if classes:
            filters.append(("class_id", "in", [self.space.classes.index(name) for name in classes]))
        import dask.dataframe as dd  # takes half a second, so only where a frame is needed

        return dd.read_parquet(self.parts("regions"), columns=list(columns) if columns else None, filters=filters)

    def counts(self, column: str, by: Sequence[str] = ()) -> pd.DataFrame:
        """Sum a count column over the images that have it.

        Args:
            column: `pixels`, `confusion`, `confusion_raw`, or a column of the metrics that the run's config asked for:
                `boundary`, `boundary_raw`, `instances`, `calibration`; with `unknown_below` also `unknown_pixels` and
                `unknown_labelled`, the unknown pixels of each true class.

        Returns:
            One row per group, sorted, null last (or the one row "all"); column `images`, then one int64 column per cell.
        Raises:
            UserError: `by` names something that is not a group column, or the run did not count this column.
        """
        for name in by:
            if name not in self.groups:
                raise UserError(
                    f"cannot group by '{name}'; the group columns are {', '.join(self.groups)}{nearest(name, self.groups)}"
                )
        cells, sums = self.cells(column), self.sums(column, by)
        keys = sorted(sums, key=lambda key: [(value is None, isinstance(value, str), value) for value in key])
        if by:
            index = _index(keys, by)
        else:
            keys, index = [()], pd.Index([ALL])
        values = [sums.get(key, np.zeros(1 + cells, np.int64)) for key in keys]
        columns = ["images", *range(cells)]
        return pd.DataFrame(np.array(values, np.int64).reshape(-1, 1 + cells), index=index, columns=columns)

    def sums(self, column: str, by: Sequence[str] = ()) -> Sums:
        """Return the sums that `counts` shows, by group; they are read only once."""
        question = (column, tuple(by))
        if question not in self._answers:
            found, _ = sum_counts(self.parts("masks"), {column: self.cells(column)}, by)
            self._answers[question] = found[column]
        return self._answers[question]

    def keep(self, sums: dict[str, Sums]) -> None:
        """Keep ungrouped sums by column that another query has computed, so that `counts` need not read them again."""
        self._answers.update({(column, ()): found for column, found in sums.items()})

    def confusion(self, raw: bool = False) -> np.ndarray:
        """Return (C, C) int64 of the whole run, row = truth, column = prediction (`unmapped`: C + 1); `raw`: before the CRF."""
        counts = self.counts("confusion_raw" if raw else "confusion")
        return _matrix(counts.loc[ALL].to_numpy(), self.shape)

    @property
    def settings(self) -> dict[str, Any]:
        """The config section `metrics`; empty for runs from before it existed."""
        return self.description.config.get("metrics") or {}

    def metric_scores(self, metric: Metric, raw: bool = False) -> Any:
        """Return a metric's scores over the whole run, `raw` = from before the CRF; UserError if the run did not count it."""
        setting = self.settings.get(metric.key)
        return metric.scores(lambda column: self.counts(column).loc[ALL].to_numpy()[1:], setting, self.space, raw)

    def cells(self, column: str) -> int:
        """Return how many numbers a row of a count column holds; UserError if the run has no such column."""
        num_classes = self.space.num_classes
        if metric := METRIC_OF.get(column):
            if not (setting := self.settings.get(metric.key)):
                raise UserError(
                    f"run {self.uri}: it did not count '{column}'; set metrics.{metric.key} in a new run's config"
                )
            return metric.cells(setting, num_classes)
        match column:
            case "pixels":
                return num_classes
            case "confusion" | "confusion_raw":
                return self.shape[0] * self.shape[1]
            case "unknown_pixels" | "unknown_labelled":
                if not self.has_unknown():
                    raise UserError(f"run {self.uri}: every pixel has a class; set unknown_below in a new run's config")
                return 1 if column == "unknown_pixels" else num_classes
        known = ", ".join(["pixels", "confusion", "confusion_raw", "unknown_pixels", "unknown_labelled", *METRIC_OF])
        raise UserError(f"'{column}' is not a count column; choose one of {known}")

    def has_raw(self) -> bool:
        """Whether the run kept the counts from before a CRF."""
        return self.description.config["crf"] is not None

    def has_unknown(self) -> bool:
        """Whether masks may hold unknown pixels, which the run then counted."""
        return self.description.config.get("unknown_below") is not None

    def plan(self) -> Plan:
        """Return the run's plan: every image and its shard, read only as far as it is used."""
        return plan_of(self.uri, self.description, self.state)

    def rejects(self) -> pd.DataFrame:
        """Return the reject rows: image_id, uri, member, stage, error, message, attempts."""
        tables = [read_table(storage.read(uri)) for uri in self.parts("rejects")]
        return (
            pa.concat_tables(tables).to_pandas() if tables else pd.DataFrame(columns=["image_id", "error", "message"])
        )

    def is_labelled(self) -> bool:
        """Whether at least one image had a label."""
        return bool(self.counts("confusion").loc[ALL, "images"])

    def finished(self) -> str | None:
        """When the run was finished; None if it is not."""
        return None if self.state is None else self.state.finished

    @property
    def generation(self) -> int:
        """Which generation of the run this is: 1 until `maskmill extend` adds another."""
        return 1 if self.state is None else self.state.generation

    @property
    def num_images(self) -> int:
        """Number of images of the archive that the run answers."""
        return num_images(self.description, self.state)


def _index(keys: list[Key], by: Sequence[str]) -> pd.Index:
    """Make an index of group values that keeps their types: numbers stay numbers, null stays None."""
    levels = [pd.Index([key[place] for key in keys], dtype=object, name=name) for place, name in enumerate(by)]
    return levels[0] if len(levels) == 1 else pd.MultiIndex.from_arrays(levels)


def _matrix(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the confusion in a row of `counts`, whose first value is the number of images."""
    return values[1:].reshape(shape)
