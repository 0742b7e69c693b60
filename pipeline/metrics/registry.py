"""The counts a run was asked for beside the confusion matrix: one list column each."""

import numpy as np

from pipeline.config import MetricsConfig
from pipeline.errors import UserError
from pipeline.labels import LabelSpace
from pipeline.metrics.boundary import count_boundary
from pipeline.metrics.calibration import count_confidence
from pipeline.metrics.instances import MEAN_PIXELS, count_instances


def check_metrics(cfg: MetricsConfig, space: LabelSpace) -> None:
    """UserError if the label space has no such metric: asked before a cluster starts."""
    if cfg.instances and space.name not in MEAN_PIXELS:
        raise UserError(
            f"metrics.instances: label space {space.name} has no mean instance sizes, iIoU is defined for "
            f"{', '.join(MEAN_PIXELS)}; set it to false"
        )


def chosen_counts(
    cfg: MetricsConfig, space: LabelSpace, label: np.ndarray, mask: np.ndarray, raw: np.ndarray | None,
    instances: np.ndarray | None, confidence: np.ndarray | None
) -> dict[str, object]:  # fmt: skip
    """Column -> flattened int64 counts of one labelled image; columns that were not asked for are left out.

    Args:
        label, mask, raw: (H, W) uint8 train ids; `raw` is the mask before the CRF.
        instances: (H, W) instanceIds; confidence: (H, W) float32. Each is needed where its metric is on.
    """
    counts: dict[str, object] = {}
    if cfg.boundary_px:
        for name, found in (("boundary", mask), ("boundary_raw", raw)):
            if found is not None:
                counts[name] = count_boundary(label, found, space.num_classes, cfg.boundary_px).ravel().tolist()
    if instances is not None:
        counts["instances"] = count_instances(instances, mask, space).ravel().tolist()
    if confidence is not None:
        counts["calibration"] = count_confidence(label, mask, confidence, cfg.calibration_bins).ravel().tolist()
    return counts
