"""A run's headline numbers, all from one pass over its parts."""

from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.analysis.sums import sum_counts
from pipeline.run import SECONDS

if TYPE_CHECKING:
    from pipeline.analysis.runs import RunView


def summarise(view: "RunView") -> dict[str, Any]:
    """See `RunView.summary`."""
    seconds = _count(view)
    finished = view.finished()
    whole = view.areas().iloc[0]
    rejects = Counter(view.rejects()["error"].tolist())
    created = datetime.fromisoformat(view.description.created)
    elapsed_s = (datetime.fromisoformat(finished) - created).total_seconds() if finished else 0
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


def _count(view: "RunView") -> dict[str, float]:
    """Sum every count that a summary needs in one pass, kept for later questions; mean seconds of each stage."""
    columns = ["pixels", "confusion", *(["confusion_raw"] if view.has_raw() else [])]
    found, (sums, rows) = sum_counts(view.parts("masks"), {name: view.cells(name) for name in columns}, floats=SECONDS)
    view.keep(found)
    return {
        name.removeprefix("seconds_"): float(total / number)
        for name, total, number in zip(SECONDS, sums, rows, strict=True)
        if number
    }
