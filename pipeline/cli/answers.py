"""The results of commands as documents and rows for programs; infra/docs/ask.md lists their keys.

Scores and shares are fractions of 1, sizes are bytes, times are seconds unless the key says hours.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.analysis.intervals import SCORES, Comparison, excludes_zero
from pipeline.analysis.run_counts import ALL
from pipeline.analysis.run_view import RunView
from pipeline.errors import UserError

if TYPE_CHECKING:  # checks and estimates import torch, which takes seconds
    from pipeline.analysis import Drift
    from pipeline.corpus.check import CorpusReport
    from pipeline.corpus.detect import Found
    from pipeline.segment.calibrate import Calibrated
    from pipeline.segment.estimate import Estimate
    from pipeline.segment.sizing import Prices

Row = dict[str, Any]


def evaluation(view: RunView, by: Sequence[str]) -> Row:
    """Return the result of `maskmill evaluate`."""
    answered = int(view.counts("pixels").loc[ALL, "images"])
    document: Row = {"run": view.uri, "label_space": view.space.name, "images": answered}
    if view.has_unknown():
        unknown = view.unknown()
        document["unknown"] = {name: unknown.loc[ALL, name] for name in ("share", "labelled_share", "miou_as_wrong")}
        document["unknown"]["pixels"] = int(unknown.loc[ALL, "pixels"])
    if not view.is_labelled():
        return document | {"labelled": 0, "areas": areas(view), "groups": areas(view, by) if by else []}
    final, raw = view.scores().loc[ALL], view.scores(raw=True).loc[ALL] if view.has_raw() else None
    intervals = view.intervals()
    scores: dict[str, Row] = {}
    for name in (*SCORES, "frequency_weighted_iou", "mean_dice"):
        scores[name] = {"value": final[name]}
        if name in SCORES:
            scores[name] |= {end: intervals.loc[name, end] for end in ("low", "high")}
        if raw is not None:
            scores[name]["raw"] = raw[name]
    classes, raw_iou = view.iou().loc[ALL], view.iou(raw=True).loc[ALL] if raw is not None else None
    rows = [
        {"class": name, "iou": classes[name], **{end: intervals.loc[name, end] for end in ("low", "high")}}
        | ({} if raw_iou is None else {"iou_raw": raw_iou[name]})
        for name in view.space.classes
    ]
    groups = list(group_scores(view, by)) if by else []
    return document | {"labelled": int(final["images"]), "scores": scores, "classes": rows, "groups": groups}


def evaluation_rows(view: RunView, by: Sequence[str]) -> Iterator[Row]:
    """Yield the same result as rows: one per group, or without groups one per score and class."""
    if not view.is_labelled():
        yield from areas(view, by)
    elif by:
        for group in group_scores(view, by):
            yield {**{key: value for key, value in group.items() if key != "iou"}, **group["iou"]}
    else:
        document = evaluation(view, ())
        for name, score in document["scores"].items():
            yield {"name": name, **{"iou_raw" if key == "raw" else key: value for key, value in score.items()}}
        for row in document["classes"]:
            yield {
                "name": row["class"],
                "value": row["iou"],
                **{key: row[key] for key in row if key not in ("class", "iou")},
            }


def group_scores(view: RunView, by: Sequence[str]) -> Iterator[Row]:
    """Yield the scores of each group; `iou` holds those of the classes."""
    for key, row in view.iou(by=by).iterrows():
        keys = key if isinstance(key, tuple) else (key,)
        yield {
            **dict(zip(by, keys, strict=True)),
            "images": int(row["images"]),
            **{name: row[name] for name in SCORES},
            "iou": {name: row[name] for name in view.space.classes},
        }


def areas(view: RunView, by: Sequence[str] = (), only: Sequence[str] = ()) -> list[Row]:
    """Return predicted pixels and share of each class (or of `only` some), by group; in each group the largest first."""
    for name in by:
        if name in ("images", "class", "pixels", "share"):
            raise UserError(
                f"areas cannot be grouped by '{name}' here: the rows have a column of that name; use open_run in Python"
            )
    rows = []
    for key, counts in view.areas(by).iterrows():
        keys = key if isinstance(key, tuple) else (key,)
        groups = dict(zip(by, keys, strict=True)) if by else {}
        pixels = counts[list(view.space.classes)]
        whole = int(pixels.sum())
        for name, number in pixels.sort_values(ascending=False, kind="stable").items():
            if not only or name in only:
                share = int(number) / whole if whole else 0.0
                rows.append(
                    {**groups, "images": int(counts["images"]), "class": name, "pixels": int(number), "share": share}
                )
    return rows


def comparison(before: RunView, after: RunView, found: Comparison) -> Row:
    """Return the result of `maskmill compare`."""
    rows = [
        {"name": name, **{key: row[key] for key in ("before", "after", "difference", "low", "high")}}
        | {"excludes_zero": excludes_zero(row)}
        for name, row in found.table.iterrows()
    ]
    counts = {"images": found.images, "only_before": found.only_before, "only_after": found.only_after}
    return {"before": before.uri, "after": after.uri, **counts, "rows": rows}


def comparisons(before: RunView, others: Sequence[tuple[RunView, Comparison]]) -> Row:
    """Return the same for several runs, each compared with the first."""
    return {"before": before.uri, "runs": [comparison(before, after, found) for after, found in others]}


def comparison_rows(document: Row) -> Iterator[Row]:
    """Yield the rows of several comparisons, each with its run."""
    for one in document["runs"]:
        yield from ({"after_run": one["after"], **row} for row in one["rows"])


def drift(found: "Drift") -> Row:
    """Return the result of `maskmill drift`."""
    head = {"newest": found.newest, "earlier": list(found.earlier), "by": list(found.asked.by)}
    counts = {"comparisons": found.comparisons, "changed": len(found.changed), "units": found.units}
    missing = {"only_newest": list(found.only_newest), "only_earlier": list(found.only_earlier)}
    return {
        **head,
        **counts,
        **missing,
        "rows": found.table.to_dict("records"),
        "runs": found.nights.to_dict("records"),
    }


def calibration(found: "Calibrated") -> Row:
    """Return the result of `maskmill calibrate`."""
    document = dataclasses.asdict(found) | {"helps": found.helps}
    rows = [{"name": name, **document.pop(name)} for name in ("ece", "nll")]
    return document | {"rows": rows}


def check(found: "Found", report: "CorpusReport") -> Row:
    """Return the result of `maskmill check`."""
    return {
        "layout": found.cfg.layout,
        "label_space": report.label_space or None,
        "images": report.images,
        "labelled": report.labelled,
        "bytes": report.bytes,
        "splits": report.splits,
        "sizes": [{"height": h, "width": w, "images": count} for (h, w), count in report.sizes.most_common()],
        "labelled_pixels": dict(zip(report.classes, report.pixels.tolist(), strict=True)),
        "labels_without_image": report.labels_without_image,
        "bad": report.bad,
        "foreign_values": dict(report.foreign.pixels),
        "checked": report.checked,
        "seconds": report.seconds,
        "estimated_s": report.estimated_s,
    }


def estimate(found: "Estimate", prices: "Prices", actors: int) -> Row:
    """Return the result of `maskmill estimate` and `maskmill segment --dry-run`; what is not known is null."""
    listing, sample, sizing = found.listing, found.sample, found.sizing
    return {
        "output": found.output,
        "engine": found.engine,
        "actors": actors,
        "images": listing.images if listing else None,
        "labelled": listing.labelled if listing else None,
        "bytes": listing.bytes if listing else None,
        "shards": len(listing.shard_images) if listing else None,
        "splits": dict(listing.splits) if listing else None,
        "answered": found.done,
        "pending_shards": found.pending_shards,
        "rates": dataclasses.asdict(found.rates),
        "sizing": None
        if sizing is None
        else {key: value for key, value in dataclasses.asdict(sizing).items() if key != "warnings"}
        | {"cost": sizing.cost(prices)},
        "sample": None if sample is None else dataclasses.asdict(sample),
        "warnings": found.warnings,
    }
