"""FiftyOne: a dataset folder of the type ImageSegmentationDirectory."""

import json

import numpy as np

from pipeline import storage
from pipeline.analysis.export.base import Answers, Exported
from pipeline.imaging.mask_png import encode_mask


def write(answers: Answers, out: str) -> Exported:
    """Write `data/<image>`, `labels/<image id>.png` and `mask_targets.json`.

    FiftyOne draws no pixel of value 0, so class k is stored as k + 1; 0 means no data. `mask_targets.json` names the values,
    for `dataset.default_mask_targets`.

    Source: https://docs.voxel51.com/user_guide/import_datasets.html, ImageSegmentationDirectory.
    """
    written = 0
    for shown in answers.shown():
        shown.copy(storage.join(out, "data"))
        values = shown.mask + np.uint8(1)  # at most 254 classes, and 255 becomes 0
        storage.put(storage.join(out, "labels", f"{shown.image_id}.png"), encode_mask(values))
        written += 1
    targets = dict(enumerate(answers.space.classes, start=1))
    storage.put(storage.join(out, "mask_targets.json"), json.dumps(targets, indent=2).encode())
    return Exported(out, written)
