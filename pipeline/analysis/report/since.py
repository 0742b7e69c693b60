"""The report's section on earlier runs or generations: what changed, values from run to run, and unusual new images."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from pipeline.analysis.drift import CHANGED, LAST, Drift, cells
from pipeline.analysis.grown_run import open_generations
from pipeline.analysis.many_runs import RunsView, joined
from pipeline.analysis.report.gallery import cards
from pipeline.analysis.report.tables import hexed
from pipeline.analysis.run_view import RunView, open_run
from pipeline.metrics import charts
from pipeline.metrics.metric import percent

CLASS_COURSES = 9  # charts of classes, those with most pixels; more if more classes changed
PICTURES = 6  # number of images shown that are least like earlier ones


def since_facts(view: RunView, earlier_uris: Sequence[str]) -> dict[str, Any] | None:
    """Return what the section shows; None if no earlier run is named and the run has one generation."""
    if earlier_uris:
        runs = joined([*(open_run(uri) for uri in earlier_uris), view], allow_doubles=True)  # no counts are added up
    elif view.generation > 1 and view.derived is None:
        runs = open_generations(view.uri)
    else:
        return None
    if len(runs.members) < 2:
        return None
    found = runs.drift()
    rows = [
        {"cells": cells(row), "changed": row["verdict"] == CHANGED, "colour": _colour(view, row["class"])}
        for row in found.table.to_dict("records")
    ]
    return {
        "newest": found.newest,
        "earlier": list(found.earlier),
        "summary": found.summary(),
        "alike": " and ".join(found.asked.alike),
        "least": 100 * found.asked.least,
        "comparisons": found.comparisons,
        "other_settings": {name: words for name, words in runs.other_settings.items() if name in found.units},
        "rows": rows,
        "changed": [row for row in rows if row["changed"]],
        "courses": [_course(view, found, row) for row in _drawn(found)],
        "pictures": _pictures(runs),
    }


def _colour(view: RunView, name: str | None) -> str:
    return "" if name is None else hexed(view.space.colours[view.space.classes.index(name)])


def _drawn(found: Drift) -> list[dict[str, Any]]:
    """Return the rows to draw: confidence, entropy and rejects, then classes, changed ones first, then the largest."""
    table = found.table.assign(changed=found.table["verdict"] == CHANGED)
    table["size"] = table[["before", "after"]].max(axis=1)
    areas = table[table["measure"] == "area"].sort_values(["changed", "size"], ascending=False, kind="stable")
    most = max(CLASS_COURSES, int(areas["changed"].sum()))
    return [*table[table["measure"] != "area"].to_dict("records"), *areas.head(most).to_dict("records")]


def _course(view: RunView, found: Drift, row: dict[str, Any]) -> dict[str, Any]:
    """Return a small chart of one row, and the text above it."""
    nights = found.nights[found.nights["measure"] == row["measure"]]
    nights = nights[nights["class"].isna()] if row["class"] is None else nights[nights["class"] == row["class"]]
    points = [tuple(night) for night in nights[["run", "value", "low", "high"]].itertuples(index=False)]
    entropy, name = row["measure"] == "entropy", row["class"] or row["measure"]

    def show(value: float) -> str:
        if math.isnan(value):
            return "–"
        return f"{value:.2f}" if entropy else f"{100 * value:.1f}"

    unit = "nats" if entropy else "%"
    words = f"{name} in {len(points)} runs, {unit}: " + ", ".join(f"{one[0]} {show(one[1])}" for one in points)
    changed = row["verdict"] == CHANGED
    return {
        "name": name,
        "colour": _colour(view, row["class"]),
        "after": f"{show(row['after'])} {unit}",
        "before": show(row["before"]),
        "changed": changed,
        "picture": charts.course(points, show, "other" if changed else "accent", words),
    }


def _pictures(runs: RunsView) -> list[dict[str, Any]]:
    """Return images of the newest run that are least like earlier ones, each with its nearest earlier image."""
    found = runs.unlike(PICTURES, LAST)
    newest, made = list(runs.members.values())[-1], []
    mine = cards(newest, found["image_id"].tolist())
    for card, row in zip(mine, found.to_dict("records"), strict=True):
        near = cards(runs.members[row["nearest_run"]], [row["nearest"]])[0]
        words = f"{percent(row['distance'])} % away from the nearest earlier image"
        facts = [
            f"{name} {format(row[name], '.2f') if name == 'entropy' else percent(row[name]) + ' %'}"
            for name in ("confidence", "entropy")
            if not pd.isna(row[name])
        ]
        made.append({**row, "words": ", ".join([words, *facts]), "card": card, "near": near})
    return made
