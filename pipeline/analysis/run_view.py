"""The view of a run for notebooks: scores by any group, intervals, comparisons, pictures."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from pipeline import storage
from pipeline.analysis import card
from pipeline.analysis.derived import Derived
from pipeline.analysis.intervals import Comparison, compare_runs, group_intervals, score_intervals
from pipeline.analysis.merging import Merging, merged_counts
from pipeline.analysis.next_images import Wanted, choose_next
from pipeline.analysis.other_labels import counts_on, find
from pipeline.analysis.pictures import Pictures, pictures_of, read_confidence_maps, read_masks
from pipeline.analysis.ranking import RANKS, lowest, most_confused
from pipeline.analysis.run_counts import METRIC_OF, RunCounts
from pipeline.analysis.sums import over_parts, sum_counts
from pipeline.config import ClassMap
from pipeline.errors import UserError, nearest
from pipeline.labels import LabelSpace
from pipeline.metrics.iou import category_iou, class_iou, mean, ratio, summary_scores
from pipeline.runs import SECONDS, describe, newest_state, state_of


def open_run(uri: str, generation: int | None = None) -> "RunView":
    """Open the run at a URI, finished or not.

    Args:
        generation: which generation of a run that `maskmill extend` extended, from 1 on; None = the newest.
    Raises:
        UserError: there is no run or no such generation, nothing is answered yet, or a part belongs to another run.
    """
    uri = storage.absolute(uri)
    description, state = describe(uri), newest_state(uri)
    if generation is not None:
        if state is None:
            raise UserError(f"run {uri} is not finished, so it has no generations yet; leave the generation out")
        state = state_of(uri, state, generation)
    view = RunView(uri, description, description.label_space.space, state)
    if not view.parts("masks"):
        raise UserError(f"run {uri}: no image is answered yet; run `maskmill segment` on it first")
    return view


@dataclass(frozen=True, repr=False)
class RunView(RunCounts):
    """A read-only view of a run, with the parts that were there at the first query; open the run again to see newer ones."""

    derived: Derived | None = None  # counts that `merged` or `evaluated_on` made

    def __repr__(self) -> str:
        return card.lines(self)

    def _repr_html_(self) -> str:
        """Return the card that notebooks show; without mIoU for a very large run."""
        counted = self.num_images <= card.COUNTED_IMAGES and self.is_labelled()
        return card.html(self, float(self.iou()["miou"].iloc[0]) if counted else None)

    def _confusions(self, by: Sequence[str], raw: bool) -> tuple[pd.DataFrame, np.ndarray]:
        """Return the counts by group, and their confusions (groups, C, C)."""
        counts = self.counts("confusion_raw" if raw else "confusion", by)
        return counts, counts.to_numpy(np.int64)[:, 1:].reshape(-1, *self.shape)

    def iou(self, by: Sequence[str] = (), raw: bool = False) -> pd.DataFrame:
        """Return IoU of each class, `miou`, `mean_accuracy`, `pixel_accuracy` and `images`: one row per group.

        Counts are summed over the group's labelled images and divided once; a class in neither truth nor prediction is NaN.
        """
        counts, confusions = self._confusions(by, raw)
        scores = summary_scores(confusions)
        table = pd.DataFrame(class_iou(confusions), index=counts.index, columns=list(self.space.classes))
        for name in ("miou", "mean_accuracy", "pixel_accuracy"):
            table[name] = scores[name]
        return table.assign(images=counts["images"])

    def scores(self, by: Sequence[str] = (), raw: bool = False) -> pd.DataFrame:
        """Return `miou`, `mean_accuracy`, `pixel_accuracy`, `frequency_weighted_iou`, `mean_dice`, `images` per group."""
        counts, confusions = self._confusions(by, raw)
        return pd.DataFrame(summary_scores(confusions), index=counts.index).assign(images=counts["images"])

    def categories(self, raw: bool = False) -> dict[str, float]:
        """Return IoU of each category of the label space, its classes taken as one."""
        return category_iou(self.confusion(raw), self.space.categories)

    def boundary(self, raw: bool = False) -> pd.DataFrame:
        """Return scores near class boundaries: a row per band width (index `width_px`) and score; columns: classes and `mean`.

        The second index level is `boundary_iou`, `boundary_f` or `trimap_iou`: metrics/boundary.py.
        """
        scores = self.metric_scores(METRIC_OF["boundary"], raw)
        table = pd.DataFrame.from_dict(scores, orient="index", columns=list(self.space.classes))
        table.index = pd.MultiIndex.from_tuples(scores, names=["width_px", "score"])
        return table.assign(mean=mean(table.to_numpy()))

    def instance_iou(self) -> dict[str, float]:
        """Return iIoU of the classes and categories with instances, as cityscapesScripts computes it: metrics/instances.py."""
        scores: dict[str, float] = self.metric_scores(METRIC_OF["instances"])
        return scores

    def calibration(self) -> pd.DataFrame:
        """Return a row per confidence bin: `pixels`, `accuracy`, `confidence`. `.attrs["ece"]`: expected calibration error."""
        scores = self.metric_scores(METRIC_OF["calibration"])
        table = pd.DataFrame({name: scores[name] for name in ("pixels", "accuracy", "confidence")})
        table.attrs["ece"] = scores["ece"]
        return table

    def intervals(self, raw: bool = False, seed: int = 0) -> pd.DataFrame:
        """Return each class IoU, `miou`, `mean_accuracy` and `pixel_accuracy`: its `value`, and the ends `low` and `high` of
        its 95 % bootstrap interval over images. UserError if no image has a label."""
        return score_intervals(self, raw, seed)

    def intervals_by(self, by: Sequence[str], seed: int = 0) -> pd.DataFrame:
        """Return mIoU of each group (`value`), the ends `low` and `high` of its 95 % bootstrap interval, its labelled `images`.

        One row per group, as in `iou(by)`. A group of one image has no interval, and one of a few images a rough one.
        """
        table = self.iou(by)
        tuples = [key if isinstance(key, tuple) else (key,) for key in table.index] if by else [()]
        keys = [tuple(None if pd.isna(value) else value for value in key) for key in tuples]
        found = group_intervals(self, by, keys, seed)
        return found.set_index(table.index).assign(images=table["images"])

    def compare(self, other: "RunView", seed: int = 0) -> Comparison:
        """Compare this run (before) with another (after) over the images labelled in both, with paired bootstrap intervals.

        Raises:
            UserError: the label spaces differ, or the runs have no labelled image in common.
        """
        for view in (self, other):
            view.check_ids()
        return compare_runs(self, other, seed)

    def areas(self, by: Sequence[str] = ()) -> pd.DataFrame:
        """Return the predicted pixels of each class and `images`: one row per group. No mask is decoded."""
        counts = self.counts("pixels", by)
        counts.columns = ["images", *self.space.classes]
        return counts

    def unknown(self, by: Sequence[str] = ()) -> pd.DataFrame:
        """Count the pixels that `unknown_below` left without a class: one row per group.

        Columns: `images`; the unknown `pixels` and their `share` of the pixels with data; for labelled images their share of
        the labelled pixels, `labelled_share`, and `miou_as_wrong`: mIoU if unknown pixels count as wrong, while `iou()` leaves
        them out. The last two are NaN if no image has a label. UserError if the run's config has no `unknown_below`.
        """
        pixels, areas = self.counts("unknown_pixels", by), self.counts("pixels", by)
        unknown, known = pixels[0].to_numpy(), areas.to_numpy(np.int64)[:, 1:].sum(axis=1)
        labelled = self.counts("unknown_labelled", by).reindex(pixels.index, fill_value=0).to_numpy(np.int64)[:, 1:]
        confusions = self.counts("confusion", by).reindex(pixels.index, fill_value=0).to_numpy(np.int64)[:, 1:]
        # An unknown pixel is predicted as none of the classes.
        whole = np.concatenate([confusions.reshape(-1, *self.shape), labelled[..., None]], axis=2)
        return pd.DataFrame(
            {
                "images": pixels["images"],
                "pixels": unknown,
                "share": ratio(unknown, unknown + known),
                "labelled_share": ratio(labelled.sum(axis=1), whole.sum(axis=(1, 2))),
                "miou_as_wrong": summary_scores(whole)["miou"],
            },
            index=pixels.index,
        )

    def worst(self, n: int, by: str = "miou") -> pd.DataFrame:
        """Return the n images with the lowest `miou`, `pixel_accuracy`, `confidence`, or IoU of one class (`class:car`).

        Images without that score are left out: those without a label, and those without the class.
        """
        allowed = (*RANKS, *(f"class:{name}" for name in self.space.classes))
        if by not in allowed:
            raise UserError(f"cannot rank by '{by}'; choose one of {', '.join(allowed)}{nearest(by, allowed)}")
        index = None if by in RANKS else self.space.classes.index(by.removeprefix("class:"))
        found = over_parts(self.parts("masks"), lambda uris: lowest(uris, n, by, index, self.shape))
        return pd.concat(found).sort_values([by, "image_id"]).head(n).reset_index(drop=True)

    def next(
        self,
        n: int = 200,
        by: str = "entropy",
        beside: "RunView | None" = None,
        groups: Sequence[str] = ("city", "sequence"),
        labelled: bool = False,
        skip: Collection[str] = (),
    ) -> pd.DataFrame:
        """Choose the images worth labelling next: at most n, least certain first, with few similar ones among them.

        Args:
            by: mean `entropy` or `confidence` of the pixels, or `disagreement`: the share of pixels whose class differs in the
                run `beside`. Only `disagreement` decodes masks.
            groups: columns whose values together say which images are similar, such as the frames of one drive.
            labelled: also choose images that have labels already.
            skip: image ids to leave out.
        Returns:
            `image_id`, the groups, and the score chosen by; analysis/next_images.py describes the method.
        Raises:
            UserError: no image is left to choose, or the arguments do not fit the runs.
        """
        self.check_ids()
        if beside is not None:
            beside.check_ids()
            self.need_masks()
            beside.need_masks()
        return choose_next(self, Wanted(n, by, tuple(groups), labelled, frozenset(skip)), beside)

    def confused(self, pairs: Sequence[tuple[int, int]], n: int) -> dict[tuple[int, int], list[tuple[int, str]]]:
        """Return (truth, prediction) -> (pixels, image id) of the n images with most pixels of that confusion, most first."""
        found = over_parts(self.parts("masks"), lambda uris: most_confused(uris, pairs, n, self.shape))
        hits = {pair: [hit for part in found for hit in part[pair]] for pair in pairs}
        return {pair: sorted(those, key=lambda hit: (-hit[0], hit[1]))[:n] for pair, those in hits.items()}

    def merged(self, groups: Mapping[str, Sequence[str]]) -> "RunView":
        """Return the same run with classes merged: `run.merged({"vehicle": ["car", "truck", "bus"]})`.

        The new counts are sums of the run's counts, and stay integers; masks are not read. Counts of boundaries, instances and
        calibration are left out.

        Raises:
            UserError: a class is unknown or in two groups, or two classes would have one name.
        """
        merging = Merging.of(self.space, groups)
        return self._with(merged_counts(self, merging), merging.space, self.unmapped, self.has_raw())

    def evaluated_on(
        self,
        labels: str,
        class_map: ClassMap | None = None,
        label_space: LabelSpace | None = None,
        layout: str | None = None,
        label_glob: str | None = None,
    ) -> "RunView":
        """Return the same run counted against other labels; its masks are read, a few dozen at a time, not predicted again.

        Args:
            labels: URI of labels that are laid out as the run's images are, or by `layout`.
            class_map: which of the run's classes stand for each class of the labels, if their label spaces differ.
            label_space: label space of the labels; None = that of their layout, or the run's.
        Raises:
            UserError: no label belongs to an image, one cannot be used, or the map does not fit.
        """
        found = find(self, storage.absolute(labels), class_map, label_space, layout, label_glob)
        return self._with(counts_on(self, found), found.space, found.has_wrong, raw=False)

    def _with(self, derived: Derived, space: LabelSpace, unmapped: bool, raw: bool) -> "RunView":
        config = self.description.config | {"metrics": {}, "unknown_below": None} | ({} if raw else {"crf": None})
        identity = {key: value for key, value in self.description.identity.items() if key != "regions"}
        description = self.description.model_copy(update={"config": config, "identity": identity})
        kept = {"masks": derived.parts, "rejects": self.listed("rejects")}
        return RunView(self.uri, description, space, self.state, unmapped, kept, derived=derived)

    def masks(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Return image id -> (H, W) uint8 mask, as the corpus stores its image (an EXIF orientation is not applied).

        The masks are in the order of `ids`. Only the parts that hold them are read. UserError names an id without a mask.
        """
        self.need_masks()
        return read_masks(self, ids)

    def confidence_maps(self, ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Return image id -> (H, W) uint8: each pixel's largest class probability times 255, as `masks(ids)`; 0 without data.

        The maps are in the order of `ids`. UserError if the run's config has no `confidence_map: true`; it names an id without
        a map.
        """
        self.need_masks()
        return read_confidence_maps(self, ids)

    def pictures(self, ids: Sequence[str]) -> dict[str, Pictures]:
        """Return image id -> image, mask and label, upright, read again from the corpus's location; in the order of `ids`."""
        self.need_masks()
        return pictures_of(self, ids)

    def check_ids(self) -> None:
        """Raise UserError if two images of the view have one id; those of a single run never do."""

    def need_masks(self) -> None:
        """Raise UserError if the view has only counts."""
        if self.derived is not None:
            raise UserError(
                f"these are other counts of run {self.uri}, without masks; ask the run itself for its masks"
            )

    def overlay(self, image_id: str, of: str = "prediction", legend: bool = False) -> np.ndarray:
        """Return (H, W, 3) uint8, upright: the image under the class colours of `prediction` or `truth`, its `errors` in red,
        or its `confidence`, from black for 0 to white for 1.

        Args:
            legend: name the colours in a white strip below the image, which makes the array higher, and wider if the image is
                narrower than the longest name.
        Raises:
            UserError: the image has no mask, lacks a label that is needed, or is gone from the corpus.
        """
        return self.pictures([image_id])[image_id].overlay(of, legend)

    def summary(self) -> dict[str, Any]:
        """Return the headline numbers, each None if the run does not have it.

        Keys: `images` (masks), `labelled`, `rejects` by reason, `finished`, `images_per_s` (from the run's creation to its end,
        start-up and pauses included; only of a run with one generation), mean `seconds` of each stage, `miou`, `mean_accuracy`,
        `pixel_accuracy`, and `miou_raw` and `pixel_accuracy_raw` from before the CRF.
        """
        return _summarise(self)


def _summarise(view: "RunView") -> dict[str, Any]:
    """See `RunView.summary`."""
    seconds = _stage_seconds(view)
    finished = view.finished()
    whole = view.areas().iloc[0]
    rejects = Counter(view.rejects()["error"].tolist())
    created = datetime.fromisoformat(view.description.created)
    once = finished and view.generation == 1  # a later generation begins at any time after the first
    elapsed_s = (datetime.fromisoformat(finished) - created).total_seconds() if finished and once else 0
    iou = view.iou().iloc[0] if view.is_labelled() else None
    raw = view.iou(raw=True).iloc[0] if view.has_raw() and iou is not None else None
    answered = int(whole["images"])
    return {
        "images": answered,
        "labelled": 0 if iou is None else int(iou["images"]),
        "rejects": dict(rejects.most_common()),
        "finished": finished,
        "images_per_s": (answered + rejects.total()) / elapsed_s if elapsed_s else None,
        "seconds": seconds,
        **{name: None if iou is None else float(iou[name]) for name in ("miou", "mean_accuracy", "pixel_accuracy")},
        **{f"{name}_raw": None if raw is None else float(raw[name]) for name in ("miou", "pixel_accuracy")},
    }


def _stage_seconds(view: "RunView") -> dict[str, float]:
    """Return the mean seconds of each stage; the same pass sums, and keeps, every count that a summary needs."""
    columns = ["pixels", "confusion", *(["confusion_raw"] if view.has_raw() else [])]
    found, (sums, rows) = sum_counts(view.parts("masks"), {name: view.cells(name) for name in columns}, floats=SECONDS)
    view.keep(found)
    return {
        name.removeprefix("seconds_"): float(total / number)
        for name, total, number in zip(SECONDS, sums, rows, strict=True)
        if number
    }
