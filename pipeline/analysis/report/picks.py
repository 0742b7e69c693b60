"""Choose the images of the report: worst, typical and random ones, of the run and of each class, group and confusion."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.analysis.run_view import RunView
from pipeline.analysis.sums import batches, over_parts, rows_at_once
from pipeline.metrics.iou import class_iou

KINDS = ("worst", "typical", "random")
MAX_IMAGES = 60  # in one report
SAMPLE = 2000  # random sample of the run: random images are the first of it, typical ones are near its median
MAX_GROUPS = 24  # group columns with more values are left out of the choices
DEPTH = 4  # images of each kind per class or group


@dataclass
class Choice:
    """A choice of the reader: all images, those with a class, those of a group, those with a confusion."""

    heading: str  # of the list that it is in: "", "class", a group column, "confusion"
    name: str
    images: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    class_id: int | None = None  # of a choice by class; a group column may be called `class` too


@dataclass(frozen=True)
class Picks:
    """`ids`: every image to show, the worst of the run first; `facts`: their scores; `sample`: random images of the run."""

    choices: list[Choice]
    ids: list[str]
    facts: dict[
        str, dict[Any, float]
    ]  # image id -> `score`, `confidence`, and the score of each class id, NaN without it
    sample: list[str]
    scores: np.ndarray  # (images of the sample,) mIoU, or confidence without labels


def pick(view: RunView, num: int, labelled: bool, pairs: Sequence[tuple[str, str]]) -> Picks:
    """Choose the images of a report.

    Args:
        num: images of each kind for the whole run.
        labelled: rank by IoU; else by confidence.
        pairs: name of a confusion, and the image that holds most of it.
    """
    groups = [name for name in view.groups if name != "frame" and 2 <= len(view.areas([name])) <= MAX_GROUPS]
    rows = _candidates(view, groups, max(num, DEPTH), labelled)
    whole = Choice("", "all images", {kind: ids[:num] for kind, ids in _kinds(rows, rows["score"]).items()})
    confusions = [Choice("confusion", name, {kind: [image_id] for kind in KINDS}) for name, image_id in pairs]
    shown = (image_id for choice in (whole, *confusions) for kind in KINDS for image_id in choice.images[kind])
    ids = list(dict.fromkeys(shown))
    deeper = [
        (Choice("class", name, class_id=index), _kinds(rows, rows[index]))
        for index, name in enumerate(view.space.classes)
        if rows[index].notna().any()
    ]
    for name in groups:
        values = rows.groupby(_group(name))
        deeper += [(Choice(name, str(value)), _kinds(part, part["score"])) for value, part in values]
    _fill(deeper, ids)
    sample = rows[rows["sampled"]].sort_values("draw")
    facts = rows.set_index("image_id").loc[ids, ["score", "confidence", *range(view.space.num_classes)]]
    return Picks(
        [whole, *(choice for choice, _ in deeper), *confusions],
        ids,
        facts.to_dict("index"),
        sample["image_id"].tolist(),
        sample["score"].dropna().to_numpy(np.float64),
    )


def _group(name: str) -> str:
    """Name the column of a group in the candidates, with a prefix, since a group may be named like another column."""
    return f"group {name}"


def _kinds(rows: pd.DataFrame, scores: pd.Series) -> dict[str, list[str]]:
    """Return image ids by kind, in the order of that kind; images without the score are left out."""
    rows = rows.assign(value=scores).dropna(subset=["value"])
    sample = rows[rows["sampled"]]
    near = sample.assign(away=(sample["value"] - sample["value"].median()).abs())
    ordered = {
        "worst": rows.sort_values(["value", "image_id"]),
        "typical": near.sort_values(["away", "image_id"]),
        "random": sample.sort_values("draw"),
    }
    return {kind: table["image_id"].tolist() for kind, table in ordered.items()}


def _fill(wishes: Sequence[tuple[Choice, dict[str, list[str]]]], ids: list[str]) -> None:
    """Give the choices images of each kind, in turn and in the order of the kind, while `ids` has room for more.

    A list ends at the first image that has no room, so that the worst stay the worst and random ones stay random.
    """
    closed = set()
    for place in range(DEPTH):
        for kind in KINDS:
            for number, (choice, lists) in enumerate(wishes):
                if (number, kind) in closed or place >= len(lists[kind]):
                    continue
                image_id = lists[kind][place]
                if image_id not in ids and len(ids) >= MAX_IMAGES:
                    closed.add((number, kind))
                    continue
                if image_id not in ids:
                    ids.append(image_id)
                choice.images[kind].append(image_id)


def _candidates(view: RunView, groups: list[str], num: int, labelled: bool) -> pd.DataFrame:
    """Return the rows that a choice may need: image_id, score, confidence, draw, sampled, groups, a score per class id."""

    def ask(uris: list[str]) -> pd.DataFrame:
        kept = _no_rows(view, groups)
        for frame in _frames(uris, groups, view, labelled):
            kept = _kept(pd.concat([kept, frame], ignore_index=True) if len(kept) else frame, groups, num)
        return kept

    found = [frame for frame in over_parts(view.parts("masks"), ask) if len(frame)]
    rows = pd.concat(found, ignore_index=True) if found else _no_rows(view, groups)
    return rows.assign(sampled=rows["draw"].rank(method="first") <= SAMPLE)


def _no_rows(view: RunView, groups: list[str]) -> pd.DataFrame:
    columns = ["image_id", "confidence", "score", "draw", *map(_group, groups), *range(view.space.num_classes)]
    return pd.DataFrame(columns=columns)


def _frames(uris: list[str], groups: list[str], view: RunView, labelled: bool) -> Iterator[pd.DataFrame]:
    """Yield some rows at a time, with a score per class: IoU, or without labels the confidence of images that have it."""
    counted, cells = "confusion" if labelled else "pixels", view.cells("confusion" if labelled else "pixels")
    columns = ["image_id", "miou", "confidence", *groups, counted]
    for batch in batches(uris, columns, rows_at_once(cells)):
        there = np.flatnonzero(batch.column(counted).is_valid().to_numpy(zero_copy_only=False))
        values = batch.column(counted).take(pa.array(there)).flatten().to_numpy(zero_copy_only=False)
        confidence = batch.column("confidence").to_numpy(zero_copy_only=False)
        names = batch.column("image_id").to_numpy(zero_copy_only=False).astype(object)
        scores = np.full((len(names), view.space.num_classes), np.nan)
        if labelled:
            scores[there] = class_iou(values.reshape(-1, *view.shape))
        else:
            scores[there] = np.where(values.reshape(len(there), cells) > 0, confidence[there, None], np.nan)
        head = {
            "image_id": names,
            "confidence": confidence,
            "score": batch.column("miou").to_numpy(zero_copy_only=False) if labelled else confidence,
            "draw": pd.util.hash_array(names, categorize=False),
            **{_group(name): batch.column(name).cast(pa.string()).to_numpy(zero_copy_only=False) for name in groups},
        }
        yield pd.concat([pd.DataFrame(head), pd.DataFrame(scores)], axis=1)


def _kept(rows: pd.DataFrame, groups: list[str], num: int) -> pd.DataFrame:
    """Keep the rows that may still be chosen, whatever rows follow."""
    names = rows["image_id"].to_numpy(str)
    wanted = set(_lowest(rows["draw"].to_numpy(np.float64), names, SAMPLE))
    for column in ["score", *(name for name in rows if isinstance(name, int))]:
        wanted.update(_lowest(rows[column].to_numpy(np.float64), names, num))
    for name in map(_group, groups):
        for places in rows.groupby(name).indices.values():
            wanted.update(places[_lowest(rows["score"].to_numpy(np.float64)[places], names[places], num)])
    return rows.iloc[sorted(wanted)]


def _lowest(values: np.ndarray, names: np.ndarray, num: int) -> np.ndarray:
    """Return the places of the lowest values, NaN left out; of equal values, those with the first names."""
    places = np.flatnonzero(~np.isnan(values))
    if len(places) > num:
        bound = np.partition(values[places], num - 1)[num - 1]
        places = places[values[places] <= bound]
    return places[np.lexsort((names[places], values[places]))[:num]]
