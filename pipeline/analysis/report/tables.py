"""The report's tables: classes, confusions, groups, and the second run beside the first."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.analysis.intervals import Comparison, excludes_zero, group_intervals
from pipeline.analysis.run_counts import ALL
from pipeline.analysis.run_view import RunView
from pipeline.corpus.groups import GROUPS
from pipeline.labels import Colour
from pipeline.metrics.iou import class_accuracy, ratio

GROUP_TABLES = (("split",), ("city",), ("city", "sequence"))  # each city numbers its sequences from 0
MAX_GROUP_ROWS = 60  # of a table by group; the others are in the Parquet
MIN_INTERVAL_IMAGES = 5  # a smaller group has no interval, since a bootstrap of so few images says little
MAX_HEAT_CLASSES = 40  # in the confusion matrix; the whole one is in the Parquet
NUM_PAIRS, IMAGES_A_PAIR = 12, 3  # confusions that are listed with their worst images


def class_rows(view: RunView, comparison: Comparison | None) -> list[dict[str, Any]]:
    """Return a row per class that occurs: IoU, IoU before the CRF and the CRF's change, IoU of the other run."""
    final = view.iou().loc[ALL]
    raw = view.iou(raw=True).loc[ALL] if view.has_raw() else None
    confusion = view.confusion()
    num_classes = view.space.num_classes
    precision = ratio(np.diagonal(confusion), confusion.sum(axis=0)[:num_classes])
    recall, shares = class_accuracy(confusion), ratio(confusion.sum(axis=1), confusion.sum())
    rows = []
    for index, (name, colour) in enumerate(zip(view.space.classes, view.space.colours, strict=True)):
        other = None if comparison is None else comparison.table.loc[name]
        values = [final[name], *([] if raw is None else [raw[name]]), *([] if other is None else [other["before"]])]
        if all(math.isnan(value) for value in values):
            continue
        rows.append(
            {
                "name": name,
                "colour": hexed(colour),
                "iou": float(final[name]),
                "raw": None if raw is None else float(raw[name]),
                "change": None if raw is None else float(final[name] - raw[name]),
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "share": float(shares[index]),
                "other": None if other is None else difference(other),
            }
        )
    return rows


def area_rows(view: RunView) -> list[dict[str, Any]]:
    """Return a row per class for a run without labels: its share of all pixels."""
    pixels = view.areas().loc[ALL]
    total = sum(int(pixels[name]) for name in view.space.classes)
    absent = dict.fromkeys(("raw", "change", "precision", "recall", "share", "other"))
    return [
        {"name": name, "colour": hexed(colour), "iou": int(pixels[name]) / total, **absent}
        for name, colour in zip(view.space.classes, view.space.colours, strict=True)
        if pixels[name]
    ]


def beside_facts(view: RunView, beside: RunView, comparison: Comparison) -> dict[str, Any]:
    """Describe the other run: its name, what was compared, and the difference in mIoU."""
    name = title(beside) if title(beside) != title(view) else beside.uri
    left_out = comparison.only_before + comparison.only_after
    miou = difference(comparison.table.loc["miou"])
    return {"name": name, "images": comparison.images, "left_out": left_out, "miou": miou}


def difference(row: pd.Series) -> dict[str, Any]:
    return {
        "iou": float(row["before"]),
        "change": float(row["difference"]),
        "low": float(row["low"]),
        "high": float(row["high"]),
        "sure": excludes_zero(row),
    }


def heat(view: RunView) -> dict[str, Any]:
    """Return the confusion matrix of the classes with most pixels, as shares of each true class; the largest confusions."""
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


def group_tables(view: RunView) -> list[dict[str, Any]]:
    """Return a table for each of `GROUP_TABLES` and each of the corpus's own columns, if it has two groups or more."""
    columns = [*GROUP_TABLES, *((name,) for name in view.groups if name not in GROUPS)]
    return [table for table in (_group(view, by) for by in columns) if table]


def _group(view: RunView, by: Sequence[str]) -> dict[str, Any] | None:
    """Return mIoU by group with intervals, the lowest first; None if all images are in one group."""
    table = view.iou(by)
    if len(table) < 2:
        return None
    keys = [key if isinstance(key, tuple) else (key,) for key in table.index]
    keys = [tuple(None if pd.isna(value) else value for value in key) for key in keys]
    numbers = table[["images", "miou", "pixel_accuracy"]].to_dict("records")
    rows = [{"name": _group_name(key), "key": key, **row} for key, row in zip(keys, numbers, strict=True)]
    rows.sort(key=lambda row: (math.isnan(row["miou"]), row["miou"]))
    shown = rows[:MAX_GROUP_ROWS]
    intervals = group_intervals(view, by, [row["key"] for row in shown], seed=0)
    for row, (_, ends) in zip(shown, intervals.iterrows(), strict=True):
        enough = row["images"] >= MIN_INTERVAL_IMAGES
        row |= {"low": float(ends["low"]) if enough else math.nan, "high": float(ends["high"]) if enough else math.nan}
    return {"name": by[-1], "rows": shown, "num_rows": len(rows)}


def _group_name(key: tuple[Any, ...]) -> str:
    return " / ".join(str(value) for value in key if value is not None) or "none"


def title(view: RunView) -> str:
    return view.uri.rstrip("/").rsplit("/", 1)[-1]


def hexed(colour: Colour) -> str:
    return "#" + "".join(f"{level:02x}" for level in colour)
