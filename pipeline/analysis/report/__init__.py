"""One static HTML file about a run: no external request, no script but the slider's; every number comes from its Parquet."""

import base64
import hashlib
import math
from typing import Any

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline import storage
from pipeline.analysis.intervals import Comparison, excludes_zero
from pipeline.analysis.report.gallery import ERRORS, cards, palettes
from pipeline.analysis.report.snippets import snippets
from pipeline.analysis.run_counts import ALL
from pipeline.analysis.run_view import RunView, open_run
from pipeline.corpus.groups import GROUPS
from pipeline.errors import UserError
from pipeline.labels import Colour
from pipeline.metrics.metric import Section, percent, points
from pipeline.metrics.registry import chosen

GROUP_TABLES = (("split",), ("city",), ("city", "sequence"))  # cities number their sequences each from 0
MAX_GROUP_ROWS = 60  # of a table by group; more are in the Parquet
MAX_HEAT_CLASSES = 40  # of the confusion matrix; the whole one is in the Parquet
NUM_PAIRS, IMAGES_A_PAIR = 8, 3  # confusions that are listed with their worst images


def write_report(run_uri: str, num_worst: int = 8, beside_uri: str | None = None) -> str:
    """Write `<run>/report.html` and return its URI.

    Args:
        num_worst: labelled images with the lowest IoU to show; without labels, those with the lowest confidence.
        beside_uri: another run over the same images, shown beside this one.
    Raises:
        UserError: there is no run, nothing is answered yet, or the other run cannot be compared.
    """
    view = open_run(run_uri)
    beside = None if beside_uri is None else open_run(beside_uri)
    environment = Environment(
        loader=PackageLoader("pipeline.analysis.report"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["percent"] = percent
    environment.filters["width"] = lambda value: "0" if value is None or math.isnan(value) else f"{100 * value:.2f}"
    environment.filters["points"] = points
    environment.filters["count"] = lambda value: f"{int(value):,}".replace(",", "\u202f")
    # The one script that may run is named by its hash; without it the masks stay at the opacity of the style sheet.
    script = environment.get_template("opacity.js").render().encode()
    sha256 = base64.b64encode(hashlib.sha256(script).digest()).decode()
    html = environment.get_template("report.html.j2").render(script_sha256=sha256, **_facts(view, num_worst, beside))
    uri = storage.join(view.uri, "report.html")
    storage.put(uri, html.encode())
    return uri


def _facts(view: RunView, num_worst: int, beside: RunView | None) -> dict[str, Any]:
    summary = view.summary()
    labelled = summary["labelled"] > 0
    if beside is not None and not labelled:
        raise UserError(f"run {view.uri}: none of its images has a label, so there is nothing to compare; leave it out")
    comparison = None if beside is None else beside.compare(view)
    rejects, heat = view.rejects(), _heat(view) if labelled else None
    worst = view.worst(num_worst, "miou" if labelled else "confidence")
    pairs = [] if heat is None else heat["pairs"]
    confused = _most_confused(view, pairs, shown=set(worst["image_id"]))
    return {
        "title": _title(view),
        "uri": view.uri,
        "summary": summary,
        "labelled": labelled,
        "intervals": view.intervals() if labelled else None,
        "scores": view.scores().loc[ALL] if labelled else None,
        "beside": None if comparison is None else _beside(view, beside, comparison),
        "classes": _classes(view, comparison) if labelled else _areas(view),
        "metrics": _metrics(view) if labelled else [],
        "heat": heat,
        "pairs": pairs,
        "groups": [table for table in (_group(view, by) for by in _group_tables(view)) if table] if labelled else [],
        "worst": _gallery(view, worst),
        "confused": confused,
        "places": {
            image_id: place
            for place, image_id in enumerate([*worst["image_id"], *(card["image_id"] for card in confused)])
        },
        "legend": _legend(view, labelled),
        "palettes": list(palettes(view.space)),
        "errors": {name: _hex(colour) for name, colour in ERRORS.items()},
        "rejects": [
            {"reason": reason, "count": len(rows), "examples": rows.head(3).to_dict("records")}
            for reason, rows in rejects.groupby("error", sort=False)
        ],
        "snippets": snippets(view.uri, "city", view.space.classes),
        "config": yaml.safe_dump(view.description.config, sort_keys=False),
        "description": view.description,
    }


def _group_tables(view: RunView) -> list[tuple[str, ...]]:
    """The groups that have a table: those of `GROUP_TABLES`, and each column that the corpus has of its own."""
    return [*GROUP_TABLES, *((name,) for name in view.groups if name not in GROUPS)]


def _legend(view: RunView, labelled: bool) -> list[dict[str, str]]:
    """Name and colours of each class that is in a mask or, where there are labels, in a label."""
    seen = view.areas().loc[ALL][list(view.space.classes)].to_numpy()
    if labelled:
        seen = seen + view.confusion().sum(axis=1)
    colours = palettes(view.space)
    return [
        {"name": name, **{palette: _hex(table[index]) for palette, table in colours.items()}}
        for index, name in enumerate(view.space.classes)
        if seen[index]
    ]


def _title(view: RunView) -> str:
    return view.uri.rstrip("/").rsplit("/", 1)[-1]


def _classes(view: RunView, comparison: Comparison | None) -> list[dict[str, Any]]:
    """Class rows: IoU, the raw IoU and the CRF's change, the other run's; classes that occur nowhere are left out."""
    final = view.iou().loc[ALL]
    raw = view.iou(raw=True).loc[ALL] if view.has_raw() else None
    rows = []
    for name, colour in zip(view.space.classes, view.space.colours, strict=True):
        other = None if comparison is None else comparison.table.loc[name]
        values = [final[name], *([] if raw is None else [raw[name]]), *([] if other is None else [other["before"]])]
        if all(math.isnan(value) for value in values):
            continue
        rows.append(
            {
                "name": name,
                "colour": _hex(colour),
                "iou": float(final[name]),
                "raw": None if raw is None else float(raw[name]),
                "change": None if raw is None else float(final[name] - raw[name]),
                "other": None if other is None else _difference(other),
            }
        )
    return rows


def _beside(view: RunView, beside: RunView | None, comparison: Comparison) -> dict[str, Any]:
    """The other run: its name, what was compared, and the difference of the headline."""
    assert beside is not None
    name = _title(beside) if _title(beside) != _title(view) else beside.uri
    left_out = comparison.only_before + comparison.only_after
    miou = _difference(comparison.table.loc["miou"])
    return {"name": name, "images": comparison.images, "left_out": left_out, "miou": miou}


def _difference(row: pd.Series) -> dict[str, Any]:
    return {
        "iou": float(row["before"]),
        "change": float(row["difference"]),
        "low": float(row["low"]),
        "high": float(row["high"]),
        "sure": excludes_zero(row),
    }


def _areas(view: RunView) -> list[dict[str, Any]]:
    """Class rows of a run without labels: the share of all pixels."""
    pixels = view.areas().loc[ALL]
    total = sum(int(pixels[name]) for name in view.space.classes)
    return [
        {
            "name": name,
            "colour": _hex(colour),
            "iou": int(pixels[name]) / total,
            "raw": None,
            "change": None,
            "other": None,
        }
        for name, colour in zip(view.space.classes, view.space.colours, strict=True)
        if pixels[name]
    ]


def _metrics(view: RunView) -> list[Section]:
    """What each metric that the run counted has to show, the result from before the CRF beside the final one."""
    return [
        metric.section(
            view.metric_scores(metric),
            view.metric_scores(metric, raw=True) if view.has_raw() and len(metric.columns) > 1 else None,
        )
        for metric, _ in chosen(view.settings)
    ]


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{level:02x}" for level in colour)


def _heat(view: RunView) -> dict[str, Any]:
    """The confusion matrix with each row divided by its truth, of the classes with most pixels; the largest confusions."""
    confusion, names = view.confusion(), view.space.classes
    pixels = confusion.sum(axis=0) + confusion.sum(axis=1)
    num_present = int(np.count_nonzero(pixels))
    present = sorted(np.argsort(-pixels, kind="stable")[: min(num_present, MAX_HEAT_CLASSES)].tolist())
    wrong = confusion * (1 - np.eye(len(confusion), dtype=np.int64))
    order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_PAIRS]
    largest = [(int(cell) // len(confusion), int(cell) % len(confusion)) for cell in order if wrong.flat[cell]]
    hits = view.confused(largest, IMAGES_A_PAIR)
    rows = []
    for i in present:
        labelled = int(confusion[i].sum())
        cells = [
            {
                "pixels": int(confusion[i, j]),
                "share": confusion[i, j] / labelled if labelled else 0.0,
                "pair": largest.index((i, j)) if (i, j) in largest else None,
            }
            for j in present
        ]
        rows.append({"name": names[i], "labelled": labelled, "cells": cells})
    pairs = [
        {"truth": names[i], "found": names[j], "pixels": int(confusion[i, j]), "images": hits[i, j],
         "share": float(confusion[i, j] / confusion[i].sum())}
        for i, j in largest
    ]  # fmt: skip
    return {"names": [names[i] for i in present], "num_present": num_present, "rows": rows, "pairs": pairs}


def _group(view: RunView, by: tuple[str, ...]) -> dict[str, Any] | None:
    """mIoU by group, the lowest first; None where all images are of one group."""
    table = view.iou(by)
    if len(table) < 2:
        return None
    names = [_group_name(key if isinstance(key, tuple) else (key,)) for key in table.index]
    numbers = table[["images", "miou", "pixel_accuracy"]].to_dict("records")
    rows = [{"name": name, **row} for name, row in zip(names, numbers, strict=True)]
    rows.sort(key=lambda row: (math.isnan(row["miou"]), row["miou"]))
    return {"name": by[-1], "rows": rows[:MAX_GROUP_ROWS], "num_rows": len(rows)}


def _group_name(key: tuple[Any, ...]) -> str:
    return " / ".join(str(value) for value in key if not pd.isna(value)) or "none"


def _gallery(view: RunView, worst: pd.DataFrame) -> list[dict[str, Any]]:
    """The lowest images with their numbers and pictures."""
    rows = worst.to_dict("records")
    pictures = cards(view, [row["image_id"] for row in rows])
    return [
        {"image_id": row["image_id"], "miou": row["miou"], "confidence": row["confidence"], **card}
        for row, card in zip(rows, pictures, strict=True)
    ]


def _most_confused(view: RunView, pairs: list[dict[str, Any]], shown: set[str]) -> list[dict[str, Any]]:
    """The images that hold most of each large confusion, where they are not shown already, and which ones they hold."""
    words: dict[str, list[str]] = {}
    for pair in pairs:
        pixels, image_id = pair["images"][0]
        if image_id not in shown:
            words.setdefault(image_id, []).append(f"{pair['truth']} → {pair['found']}: {pixels} pixels")
    return [
        {"image_id": image_id, "words": " · ".join(held), **card}
        for (image_id, held), card in zip(words.items(), cards(view, list(words)), strict=True)
    ]
