"""Plot of the learning curves in a metrics.jsonl."""

import importlib.util
import io

import numpy as np

from pipeline import storage
from pipeline.train.metrics_log import loss_curve, read_records

_SMOOTH = 50  # the thick line is a moving mean over one part in this many of the run


def draw(metrics: str, picture: str) -> bool:
    """Write a PNG of loss and validation over the steps; False if there is no matplotlib or no step, and nothing is written."""
    records = read_records(metrics)
    losses = loss_curve(records)
    if importlib.util.find_spec("matplotlib") is None or not losses:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.arange(1, len(losses) + 1)
    left.plot(steps, losses, color="0.8", linewidth=0.8)
    window = max(1, len(losses) // _SMOOTH)
    left.plot(steps[window - 1 :], np.convolve(losses, np.full(window, 1 / window), "valid"), color="tab:blue")
    left.set(xlabel="step", ylabel="training loss")
    validations = [record for record in records if record["kind"] == "validation"]
    for name, words in (("miou", "mIoU"), ("pixel_accuracy", "pixel accuracy")):
        at = [record["step"] for record in validations]
        right.plot(at, [100 * record[name] for record in validations], marker="o", markersize=3, label=words)
    right.set(xlabel="step", ylabel="validation, percent")
    right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    storage.put(picture, file.getvalue())
    return True
