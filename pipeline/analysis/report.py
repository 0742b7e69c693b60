"""One static HTML file about a run: no script, no external request; every number comes from the run's Parquet."""

import base64
import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from pipeline import storage
from pipeline.analysis.runs import ALL, RunView, open_run
from pipeline.corpus import items_of, read
from pipeline.imaging.decode import decode_image, decode_label
from pipeline.imaging.overlay import IGNORED, RIGHT, WRONG, blend, colourise, error_map
from pipeline.labels import Colour

THUMBNAIL_PX = 320  # width
ALPHA = 0.65  # of class colours over the image
GROUP_TABLES = (("split",), ("city",), ("city", "sequence"))  # cities number their sequences each from 0
MAX_GROUP_ROWS = 60  # of a table by group; more are in the Parquet


def write_report(run_uri: str, num_worst: int = 8) -> str:
    """Write `<run>/report.html` and return its URI.

    Args:
        num_worst: labelled images with the lowest IoU to show; without labels, those with the lowest confidence.
    Raises:
        ValueError: there is no run, or nothing is answered yet.
    """
    view = open_run(run_uri)
    environment = Environment(loader=PackageLoader("pipeline.analysis"), autoescape=True, undefined=StrictUndefined)
    environment.filters["percent"] = lambda value: "–" if value is None or math.isnan(value) else f"{100 * value:.2f}"
    environment.filters["width"] = lambda value: "0" if math.isnan(value) else f"{100 * value:.2f}"
    environment.filters["points"] = lambda value: (
        "–" if math.isnan(value) else f"{100 * value:+.2f}".replace("-", "\u2212")
    )
    environment.filters["count"] = lambda value: f"{int(value):,}".replace(",", "\u202f")
    html = environment.get_template("report.html.j2").render(**_facts(view, num_worst))
    uri = storage.join(view.uri, "report.html")
    storage.put(uri, html.encode())
    return uri


def _facts(view: RunView, num_worst: int) -> dict[str, Any]:
    summary = view.summary()
    labelled = summary["labelled"] > 0
    rejects = view.rejects()
    return {
        "title": view.uri.rstrip("/").rsplit("/", 1)[-1],
        "uri": view.uri,
        "summary": summary,
        "labelled": labelled,
        "classes": _classes(view) if labelled else _areas(view),
        "heat": _heat(view) if labelled else None,
        "groups": [table for table in (_group(view, by) for by in GROUP_TABLES) if table] if labelled else [],
        "worst": _worst(view, num_worst, "miou" if labelled else "confidence"),
        "errors": {"right": _hex(RIGHT), "wrong": _hex(WRONG), "ignored": _hex(IGNORED)},
        "rejects": [
            {"reason": reason, "count": len(rows), "examples": rows.head(3).to_dict("records")}
            for reason, rows in rejects.groupby("error", sort=False)
        ],
        "config": yaml.safe_dump(view.description["config"], sort_keys=False),
        "description": view.description,
    }


def _classes(view: RunView) -> list[dict[str, Any]]:
    """Class rows: IoU, the raw IoU and the CRF's change where there is one; classes that occur nowhere are left out."""
    final = view.iou().loc[ALL]
    raw = view.iou(raw=True).loc[ALL] if view.has_raw() else None
    return [
        {
            "name": name,
            "colour": _hex(colour),
            "iou": float(final[name]),
            "raw": None if raw is None else float(raw[name]),
            "change": None if raw is None else float(final[name] - raw[name]),
        }
        for name, colour in zip(view.space.classes, view.space.colours, strict=True)
        if not (math.isnan(final[name]) and (raw is None or math.isnan(raw[name])))
    ]


def _areas(view: RunView) -> list[dict[str, Any]]:
    """Class rows of a run without labels: the share of all pixels."""
    pixels = view.areas().loc[ALL]
    total = sum(int(pixels[name]) for name in view.space.classes)
    return [
        {"name": name, "colour": _hex(colour), "iou": int(pixels[name]) / total, "raw": None, "change": None}
        for name, colour in zip(view.space.classes, view.space.colours, strict=True)
        if pixels[name]
    ]


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{level:02x}" for level in colour)


def _heat(view: RunView) -> dict[str, Any]:
    """The confusion matrix with each row divided by its truth, for classes that occur."""
    confusion = view.confusion()
    present = [i for i in range(len(confusion)) if confusion[i].any() or confusion[:, i].any()]
    rows = []
    for i in present:
        labelled = int(confusion[i].sum())
        cells = [(int(confusion[i, j]), confusion[i, j] / labelled if labelled else 0.0) for j in present]
        rows.append({"name": view.space.classes[i], "labelled": labelled, "cells": cells})
    return {"names": [view.space.classes[i] for i in present], "rows": rows}


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


def _worst(view: RunView, n: int, by: str) -> list[dict[str, Any]]:
    """The lowest images with pictures: image, prediction over it, and where there is a label, truth and errors."""
    frame = view.worst(n, by)
    ids = frame["image_id"].tolist()
    masks = view.masks(ids)
    plan = view.plan()
    wanted = plan.filter(pc.is_in(plan["image_id"], pa.array(ids, pa.string())))
    items = {item.image_id: item for item in items_of(wanted)}
    max_pixels = view.description["config"]["max_pixels"]
    cards = []
    for row in frame.to_dict("records"):
        item, mask, colours = items[row["image_id"]], masks[row["image_id"]], view.space.colours
        try:
            image = decode_image(read(item.image), max_pixels)
            pictures = [("image", image), ("prediction", blend(image, mask, colours, ALPHA))]
            if item.label is not None:
                stored = decode_label(read(item.label), max_pixels)
                label = view.space.to_train(stored, where=item.image_id)
                truth = blend(image, label, colours, ALPHA)
                pictures = [pictures[0], ("truth", truth), pictures[1], ("errors", error_map(label, mask))]
            missing = None
        except (ValueError, OSError) as error:  # the corpus may have moved since the run: the numbers still stand
            pictures, missing = [("prediction", colourise(mask, colours))], str(error)
        cards.append(
            {
                "image_id": row["image_id"],
                "miou": row["miou"],
                "confidence": row["confidence"],
                "missing": missing,
                "pictures": [{"name": name, **_thumbnail(picture)} for name, picture in pictures],
            }
        )
    return cards


def _thumbnail(picture: np.ndarray) -> dict[str, Any]:
    """`src`, a data: URI of a picture (H, W, 3) uint8 shrunk to the thumbnail's width, with its `width` and `height`."""
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL_PX, 4 * THUMBNAIL_PX))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=80)
    source = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    return {"src": source, "width": image.width, "height": image.height}
