"""The metrics that a run can count in addition to the confusion matrix."""

from collections.abc import Mapping
from typing import Any

from pipeline.labels import LabelSpace
from pipeline.metrics.boundary import Boundary
from pipeline.metrics.calibration import Calibration
from pipeline.metrics.instances import Instances
from pipeline.metrics.metric import LabelledImage, Metric

METRICS: tuple[Metric, ...] = (Boundary(), Instances(), Calibration())  # in the order of their columns

Settings = Mapping[str, Any]  # config section `metrics`: key -> value; a metric without a key is off


def chosen(settings: Settings) -> list[tuple[Metric, Any]]:
    """Return the metrics that a run's config asks for, with their settings."""
    return [(metric, settings[metric.key]) for metric in METRICS if settings.get(metric.key)]


def needs(settings: Settings) -> set[str]:
    """Return what the chosen metrics need in addition to label and mask: `instances`, `confidence`."""
    return {need for metric, _ in chosen(settings) for need in metric.needs}


def check_metrics(settings: Settings, space: LabelSpace) -> None:
    """Raise UserError if a metric does not support the label space; called before a cluster starts."""
    for metric, _ in chosen(settings):
        metric.check(space)


def chosen_counts(settings: Settings, image: LabelledImage) -> dict[str, object]:
    """Return column -> flat list of counts of one image, for the chosen metrics whose inputs the image has."""
    counts: dict[str, object] = {}
    for metric, setting in chosen(settings):
        if all(getattr(image, need) is not None for need in metric.needs):
            counts |= {name: values.ravel().tolist() for name, values in metric.count(image, setting).items()}
    return counts
