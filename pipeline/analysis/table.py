"""The answer of `maskmill evaluate` as a terminal table."""

import math

from rich.table import Table

from pipeline.analysis.runs import ALL, RunView


def iou_table(view: RunView) -> Table:
    """IoU of each class in percent, with the raw result and the CRF's difference beside it where the run has both.

    Raises:
        ValueError: no image of the run has a label.
    """
    if not view.is_labelled():
        raise ValueError(
            f"run {view.uri}: none of its images has a label, so there is no IoU; see `.areas()` for pixel counts"
        )
    final = view.iou().loc[ALL]
    raw = view.iou(raw=True).loc[ALL] if view.has_raw() else None
    title = f"IoU over {int(final['images'])} labelled images, {view.space.name}, counts summed, percent"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("class")
    for heading in ("raw", "with CRF", "difference") if raw is not None else ("IoU",):
        table.add_column(heading, justify="right")
    for name in view.space.classes:
        if not (math.isnan(final[name]) and (raw is None or math.isnan(raw[name]))):
            table.add_row(name, *_cells(final[name], None if raw is None else raw[name]))
    table.add_section()
    for name, text in (("miou", "mIoU"), ("mean_accuracy", "class accuracy"), ("pixel_accuracy", "pixel accuracy")):
        table.add_row(text, *_cells(final[name], None if raw is None else raw[name]), style="bold")
    return table


def _cells(final: float, raw: float | None) -> list[str]:
    if raw is None:
        return [_percent(final)]
    return [_percent(raw), _percent(final), _percent(final - raw, sign="+")]


def _percent(value: float, sign: str = "") -> str:
    return "–" if math.isnan(value) else f"{100 * value:{sign}.2f}"
