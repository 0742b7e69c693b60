"""A run as Dask sees it: exact counts by any group column, lazily read, one part a task."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline import labels, storage
from pipeline.analysis.intervals import Comparison, compare_runs, score_intervals
from pipeline.analysis.pictures import Pictures, pictures_of, read_masks
from pipeline.analysis.ranks import RANKS, lowest, most_confused
from pipeline.analysis.scores import boundary_scores, calibration_bins, instance_scores
from pipeline.analysis.summary import summarise
from pipeline.analysis.sums import Key, Sums, over_parts, sum_counts
from pipeline.corpus import GROUP_FIELDS
from pipeline.errors import UserError
from pipeline.labels import LabelSpace
from pipeline.metrics import boundary, instances
from pipeline.metrics.iou import category_iou, class_iou, summary_scores
from pipeline.run import Part, Plan, RunInfo, checked_parts, describe, read_success, read_table

GROUPS = tuple(group.name for group in GROUP_FIELDS)
ASKED_FOR = {"boundary": "boundary_px", "boundary_raw": "boundary_px", "instances": "instances",
             "calibration": "calibration_bins"}  # fmt: skip  # count column -> the key of config section `metrics`
ALL = "all"  # index of the one row of an ungrouped answer


def open_run(uri: str) -> "RunView":
    """The run at a URI, finished or not; UserError if there is none, nothing is answered yet, or a part is another run's."""
    uri = storage.absolute(uri)
    description = describe(uri)
    view = RunView(uri, description, labels.space(description.label_space.name))
    if not view.parts("masks"):
        raise UserError(f"run {uri}: no image is answered yet; run `maskmill segment` on it first")
    return view


@dataclass(frozen=True)
class RunView:
    """Read-only answers about one run, of the parts that were there at the first question; open it again for more."""

    uri: str
    description: RunInfo
    space: LabelSpace
    _parts: dict[str, list[Part]] = field(default_factory=dict, repr=False)
    _answers: dict[tuple[str, Key], Sums] = field(default_factory=dict, repr=False)

    def parts(self, kind: str) -> list[str]:
        """URIs of the committed parts of a kind, `masks` or `rejects`; UserError for one of another run."""
        return [part.uri for part in self.listed(kind)]

    def listed(self, kind: str) -> list[Part]:
        """The same parts with the shards that they answer."""
        if kind not in self._parts:
            self._parts[kind] = checked_parts(self.uri, kind, self.description.fingerprint)
        return self._parts[kind]

    def frame(self, columns: Sequence[str] | None = None) -> dd.DataFrame:
        """The mask rows as a lazy Dask frame, one partition a part; name the columns, masks are large."""
        return dd.read_parquet(self.parts("masks"), columns=list(columns) if columns else None)

    def counts(self, column: str, by: Sequence[str] = ()) -> pd.DataFrame:
        """Sums of a count column over the images that have it.

        Args:
            column: `pixels`, `confusion`, `confusion_raw`, and what the run was asked for in its config section `metrics`:
                `boundary`, `boundary_raw`, `instances`, `calibration`.

        Returns:
            one row a group, sorted, null last (or the one row "all"); column `images`, then one int64 column a cell.
        Raises:
            UserError: `by` names something that is not a group column, or the run did not count this column.
        """
        for name in by:
            if name not in GROUPS:
                raise UserError(f"cannot group by '{name}'; the group columns are {', '.join(GROUPS)}")
        cells = self.cells(column)
        question = (column, tuple(by))
        if question not in self._answers:
            found, _ = sum_counts(self.parts("masks"), {column: cells}, by)
            self._answers[question] = found[column]
        sums = self._answers[question]
        keys = sorted(sums, key=lambda key: [(value is None, value) for value in key])
        if by:
            index = _index(keys, by)
        else:
            keys, index = [()], pd.Index([ALL])
        values = [sums.get(key, np.zeros(1 + cells, np.int64)) for key in keys]
        columns = ["images", *range(cells)]
        return pd.DataFrame(np.array(values, np.int64).reshape(-1, 1 + cells), index=index, columns=columns)

    def keep(self, sums: dict[str, Sums]) -> None:
        """Ungrouped sums by column that another question found on its way: `counts` need not read for them again."""
        self._answers.update({(column, ()): found for column, found in sums.items()})

    def confusion(self, raw: bool = False) -> np.ndarray:
        """(C, C) int64 of the whole run, row = truth, column = prediction; `raw` = before the CRF."""
        counts = self.counts("confusion_raw" if raw else "confusion")
        return _matrix(counts.loc[ALL].to_numpy(), self.space.num_classes)

    @property
    def _metrics(self) -> dict[str, Any]:
        """Config section `metrics`; runs from before it had one counted nothing more."""
        return self.description.config.get("metrics") or {}

    def cells(self, column: str) -> int:
        """Numbers in one row of a count column. ValueError: there is no such column, or the run did not count it."""
        num_classes = self.space.num_classes
        if column in ASKED_FOR and not self._metrics.get(ASKED_FOR[column]):
            raise UserError(
                f"run {self.uri}: it did not count '{column}'; set metrics.{ASKED_FOR[column]} in a new run's config"
            )
        match column:
            case "pixels":
                return num_classes
            case "confusion" | "confusion_raw":
                return num_classes**2
            case "boundary" | "boundary_raw":
                return len(self._metrics["boundary_px"]) * len(boundary.ROWS) * num_classes
            case "instances":
                return num_classes * len(instances.COLUMNS)
            case "calibration":
                return 3 * int(self._metrics["calibration_bins"])
        known = ", ".join(["pixels", "confusion", "confusion_raw", *ASKED_FOR])
        raise UserError(f"'{column}' is no count column; choose one of {known}")

    def _confusions(self, by: Sequence[str], raw: bool) -> tuple[pd.DataFrame, np.ndarray]:
        """The counts by group, and (groups, C, C) of them."""
        counts = self.counts("confusion_raw" if raw else "confusion", by)
        num_classes = self.space.num_classes
        return counts, counts.to_numpy(np.int64)[:, 1:].reshape(-1, num_classes, num_classes)

    def counted(self, column: str) -> bool:
        """Whether the run was asked to keep `boundary`, `instances` or `calibration` counts."""
        return bool(self._metrics.get(ASKED_FOR[column]))

    def has_raw(self) -> bool:
        """Whether the run kept the counts from before a CRF."""
        return self.description.config["crf"] is not None

    def iou(self, by: Sequence[str] = (), raw: bool = False) -> pd.DataFrame:
        """IoU of each class, `miou`, `mean_accuracy`, `pixel_accuracy` and `images`: one row a group.

        Counts are summed over the group's labelled images and divided once; a class in neither truth nor prediction is NaN.
        """
        counts, confusions = self._confusions(by, raw)
        scores = summary_scores(confusions)
        table = pd.DataFrame(class_iou(confusions), index=counts.index, columns=list(self.space.classes))
        for name in ("miou", "mean_accuracy", "pixel_accuracy"):
            table[name] = scores[name]
        return table.assign(images=counts["images"])

    def scores(self, by: Sequence[str] = (), raw: bool = False) -> pd.DataFrame:
        """`miou`, `mean_accuracy`, `pixel_accuracy`, `frequency_weighted_iou`, `mean_dice`, `images`: one row a group."""
        counts, confusions = self._confusions(by, raw)
        return pd.DataFrame(summary_scores(confusions), index=counts.index).assign(images=counts["images"])

    def categories(self, raw: bool = False) -> dict[str, float]:
        """IoU of each category of the label space, its classes taken as one."""
        return category_iou(self.confusion(raw), self.space.categories)

    def boundary(self, raw: bool = False) -> pd.DataFrame:
        """Scores near class boundaries: one row a band width (index `width_px`) and score; columns: classes and `mean`.

        The second index level is `boundary_iou`, `boundary_f` or `trimap_iou`: metrics/boundary.py.
        """
        counts = self.counts("boundary_raw" if raw else "boundary").loc[ALL].to_numpy()[1:]
        return boundary_scores(counts, self._metrics["boundary_px"], self.space)

    def instance_iou(self) -> dict[str, float]:
        """iIoU of the classes and categories that have instances, as cityscapesScripts: metrics/instances.py."""
        counts = self.counts("instances").loc[ALL].to_numpy()[1:].reshape(self.space.num_classes, -1)
        return instance_scores(counts, self.confusion(), self.space)

    def calibration(self) -> pd.DataFrame:
        """One row a confidence bin: `pixels`, `accuracy`, `confidence`; the expected calibration error in `.attrs["ece"]`."""
        return calibration_bins(self.counts("calibration").loc[ALL].to_numpy()[1:].reshape(3, -1))

    def intervals(self, raw: bool = False, seed: int = 0) -> pd.DataFrame:
        """`value` with the `low` and `high` end of its 95 % bootstrap interval by image: each class IoU, `miou`,
        `mean_accuracy`, `pixel_accuracy`. UserError where no image has a label."""
        return score_intervals(self, raw, seed)

    def compare(self, other: "RunView", seed: int = 0) -> Comparison:
        """This run (before) against another (after) over the images labelled in both, with paired bootstrap intervals.

        Raises:
            UserError: the label spaces differ, or the runs have no labelled image in common.
        """
        return compare_runs(self, other, seed)

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
            raise UserError(f"cannot rank by '{by}'; choose one of {', '.join(allowed)}")
        index = None if by in RANKS else self.space.classes.index(by.removeprefix("class:"))
        found = over_parts(self.parts("masks"), lambda uris: lowest(uris, n, by, index, self.space.num_classes))
        return pd.concat(found).sort_values([by, "image_id"]).head(n).reset_index(drop=True)

    def confused(self, pairs: Sequence[tuple[int, int]], n: int) -> dict[tuple[int, int], list[tuple[int, str]]]:
        """(truth, prediction) -> (pixels, image id) of the n images with most pixels of that confusion, the most first."""
        found = over_parts(self.parts("masks"), lambda uris: most_confused(uris, pairs, n, self.space.num_classes))
        hits = {pair: [hit for part in found for hit in part[pair]] for pair in pairs}
        return {pair: sorted(those, key=lambda hit: (-hit[0], hit[1]))[:n] for pair, those in hits.items()}

    def masks(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """image id -> (H, W) uint8 mask, as the corpus stores its image (an EXIF orientation is not applied).

        Only the parts that hold them are read. UserError names an id that has none.
        """
        return read_masks(self, ids)

    def pictures(self, ids: Sequence[str]) -> dict[str, Pictures]:
        """image id -> its image, mask and label, upright, read again from where the corpus was."""
        return pictures_of(self, ids)

    def overlay(self, image_id: str, of: str = "prediction") -> np.ndarray:
        """(H, W, 3) uint8, upright: the image under the class colours of `prediction` or `truth`, or with its `errors` in red.

        Raises:
            UserError: the image has no mask, no label where one is asked for, or is gone from the corpus.
        """
        return self.pictures([image_id])[image_id].overlay(of)

    def plan(self) -> Plan:
        """The run's plan: every image and its shard, read as far as it is asked."""
        return Plan(self.uri, self.description.plan)

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
        return summarise(self)

    def is_labelled(self) -> bool:
        """Whether at least one image had a label."""
        return bool(self.counts("confusion").loc[ALL, "images"])

    def finished(self) -> str | None:
        """When the run was finished; None if it is not."""
        success = read_success(self.uri)
        return None if success is None else success.finished


def _index(keys: list[Key], by: Sequence[str]) -> pd.Index:
    """Group values as they are: numbers stay numbers, null stays None."""
    levels = [pd.Index([key[place] for key in keys], dtype=object, name=name) for place, name in enumerate(by)]
    return levels[0] if len(levels) == 1 else pd.MultiIndex.from_arrays(levels)


def _matrix(values: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) from a row of `counts`, whose first value is the number of images."""
    return values[1:].reshape(num_classes, num_classes)
