"""The results of `maskmill evaluate`, `areas` and `compare` as terminal tables."""

import math
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from pipeline.analysis.intervals import SCORES, Comparison, excludes_zero
from pipeline.analysis.run_counts import ALL
from pipeline.analysis.run_view import RunView
from pipeline.cli.printing import group_word
from pipeline.errors import UserError
from pipeline.metrics.metric import percent
from pipeline.metrics.registry import chosen

WORDS = {"miou": "mIoU", "mean_accuracy": "class accuracy", "pixel_accuracy": "pixel accuracy"}


def iou_table(view: RunView) -> Table:
    """Return IoU of each class in percent, with the raw IoU and the CRF's difference beside it if the run has both.

    Raises:
        UserError: no image of the run has a label.
    """
    _need_labels(view)
    final = view.iou().loc[ALL]
    raw = view.iou(raw=True).loc[ALL] if view.has_raw() else None
    title = f"IoU over {int(final['images'])} labelled images, {view.space.name}, counts summed, percent"
    table = _table(title, "class", *(("raw", "with CRF", "difference") if raw is not None else ("IoU",)))
    for name in view.space.classes:
        if not (math.isnan(final[name]) and (raw is None or math.isnan(raw[name]))):
            table.add_row(name, *_cells(final[name], None if raw is None else raw[name]))
    table.add_section()
    for name in SCORES:
        table.add_row(WORDS[name], *_cells(final[name], None if raw is None else raw[name]), style="bold")
    return table


def headline_table(view: RunView) -> Table:
    """Return the scores of the whole run, percent, with 95 % intervals over images if they have one, and those of metrics.

    Raises:
        UserError: no image of the run has a label.
    """
    _need_labels(view)
    intervals, scores = view.intervals(), view.scores().loc[ALL]
    table = _table("Headline, percent; 95 % intervals by bootstrap over images", "number", "value", "interval")
    for name in SCORES:
        value, low, high = intervals.loc[name, ["value", "low", "high"]]
        table.add_row(WORDS[name], percent(value), f"{percent(low)} to {percent(high)}", style="bold")
    table.add_row("frequency-weighted IoU", percent(scores["frequency_weighted_iou"]), "")
    table.add_row("Dice", percent(scores["mean_dice"]), "")
    if view.has_unknown():
        unknown = view.unknown().loc[ALL]
        table.add_row("labelled pixels left unknown", percent(unknown["labelled_share"]), "")
        table.add_row("mIoU, unknown as wrong", percent(unknown["miou_as_wrong"]), "")
    categories = [value for value in view.categories().values() if not math.isnan(value)]
    table.add_row("category IoU", percent(sum(categories) / len(categories) if categories else math.nan), "")
    for metric, _ in chosen(view.settings):
        for name, value in metric.headline(view.metric_scores(metric)).items():
            table.add_row(name, percent(value), "")
    return table


def areas_table(view: RunView, by: Sequence[str] = ()) -> Table:
    """Return each class's share of the predicted pixels, percent, largest first; by group, the three largest classes."""
    counts = view.areas(by)
    shares = counts[list(view.space.classes)].div(counts[list(view.space.classes)].sum(axis=1), axis=0)
    if not by:
        table = _table("Predicted pixels, percent", "class", "share")
        for name, share in shares.loc[ALL].sort_values(ascending=False, kind="stable").items():
            if share:
                table.add_row(str(name), percent(share))
        return table
    table = Table(title="Predicted pixels by group, percent", title_justify="left", header_style="bold")
    for name in (*by, "images", "largest classes"):
        table.add_column(name, overflow="fold")
    for (key, row), images in zip(shares.iterrows(), counts["images"], strict=True):
        largest = row.sort_values(ascending=False, kind="stable").iloc[:3]
        keys = [group_word(part) for part in (key if isinstance(key, tuple) else (key,))]
        table.add_row(
            *keys, str(images), ", ".join(f"{name} {percent(share)}" for name, share in largest.items() if share)
        )
    return table


def pixels_table(rows: Sequence[dict[str, Any]], by: Sequence[str]) -> Table:
    """Return predicted pixels and share of each class, by group; classes without a pixel are left out.

    Args:
        rows: as `answers.areas` gives them.
    """
    table = Table(title="Predicted pixels", title_justify="left", header_style="bold")
    for name in (*by, *(["images"] if by else []), "class"):
        table.add_column(name, overflow="fold")
    for heading in ("pixels", "share, %"):
        table.add_column(heading, justify="right", no_wrap=True)
    before = None
    for row in rows:
        if not row["pixels"]:
            continue
        group = [group_word(row[name]) for name in by]
        if before not in (None, group):
            table.add_section()
        head = [*group, str(row["images"])] if by else []
        table.add_row(
            *(head if group != before else [""] * len(head)), row["class"], f"{row['pixels']:,}", percent(row["share"])
        )
        before = group
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Return IoU before and after, and the difference with its paired 95 % interval, percent; a star if it excludes zero."""
    title = f"IoU over {comparison.images} images labelled in both, percent; intervals by paired bootstrap over images"
    table = _table(title, "class", "before", "after", "difference", "interval", "")
    for name, row in comparison.table.iterrows():
        if name == SCORES[0]:
            table.add_section()
        if row[["before", "after"]].isna().all():
            continue
        table.add_row(
            WORDS.get(str(name), str(name)),
            percent(row["before"]),
            percent(row["after"]),
            percent(row["difference"], sign="+"),
            f"{percent(row['low'], sign='+')} to {percent(row['high'], sign='+')}",
            "*" if excludes_zero(row) else "",
            style="bold" if name in SCORES else None,
        )
    return table


def comparisons_table(names: Sequence[str], found: Sequence[Comparison]) -> Table:
    """Return IoU of the first run, and of each other with its difference, percent; a star if the interval excludes zero.

    Args:
        names: names of the runs, beginning with the first.
        found: comparison of each other run with the first, over the images that are labelled in both.
    """
    images = sorted({one.images for one in found})
    words = f"{images[0]}" if len(images) == 1 else f"{images[0]} to {images[-1]}"
    title = f"IoU over {words} images labelled in both, percent; difference from {names[0]}, * where its interval excludes 0"
    table = _table(title, "class", *names)
    for name in found[0].table.index:
        if name == SCORES[0]:
            table.add_section()
        rows = [one.table.loc[name] for one in found]
        if all(row[["before", "after"]].isna().all() for row in rows):
            continue
        stars = ["*" if excludes_zero(row) else " " for row in rows]
        changes = [percent(row["difference"], sign="+") + star for row, star in zip(rows, stars, strict=True)]
        cells = [f"{percent(row['after'])} {change}" for row, change in zip(rows, changes, strict=True)]
        style = "bold" if name in SCORES else None
        table.add_row(WORDS.get(str(name), str(name)), percent(rows[0]["before"]), *cells, style=style)
    return table


def _need_labels(view: RunView) -> None:
    if not view.is_labelled():
        raise UserError(
            f"run {view.uri}: none of its images has a label, so there is no IoU; see `.areas()` for pixel counts"
        )


def _table(title: str, first: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column(first)
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _cells(final: float, raw: float | None) -> list[str]:
    if raw is None:
        return [percent(final)]
    return [percent(raw), percent(final), percent(final - raw, sign="+")]
