"""The rows of a run's tables: what one answered image, or one rejected image, becomes."""

import time

import numpy as np
import pyarrow as pa

from pipeline.config import MetricsConfig, RegionsConfig, SegmentConfig
from pipeline.corpus import GROUPS, Item
from pipeline.errors import Reject
from pipeline.imaging.bands import void_of
from pipeline.imaging.decode import as_stored
from pipeline.imaging.mask_png import encode_mask
from pipeline.imaging.regions import find_regions
from pipeline.labels import IGNORE, LabelSpace
from pipeline.metrics.confusion import count_confusion
from pipeline.metrics.iou import mean_iou, pixel_accuracy
from pipeline.metrics.metric import LabelledImage
from pipeline.metrics.registry import chosen_counts
from pipeline.predict import Prediction
from pipeline.runs import REGIONS, mask_schema, region_array, with_regions
from pipeline.segment.loading import Loaded

Row = dict[str, object]
UNSURE: Row = {"confidence": None, "entropy": None}  # of a network that says which class, and not how sure it is


def mask_columns(cfg: SegmentConfig, space: LabelSpace, declared: bool) -> pa.Schema:
    """Of the mask rows that a run's workers make; `declared`: its images have declared bands."""
    return mask_schema(space.num_classes, dict(cfg.metrics), georeferenced=declared, regions=cfg.regions is not None)


def mask_table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """The rows as a table; their regions are Arrow arrays already."""
    if REGIONS not in schema.names:
        return pa.Table.from_pylist(rows, schema=schema)
    place = schema.get_field_index(REGIONS)
    regions = [row.pop(REGIONS) for row in rows]
    return with_regions(pa.Table.from_pylist(rows, schema=schema.remove(place)), regions)


def mask_row(
    loaded: Loaded,
    prediction: Prediction,
    raw: np.ndarray | None,
    space: LabelSpace,
    metrics: MetricsConfig,
    regions: RegionsConfig | None = None,
) -> Row:
    """The row of one image; `raw` is its mask before the CRF, where there is one."""
    started = time.perf_counter()
    mask, num_classes = prediction.mask, space.num_classes
    kept = without_void(mask, void_of(loaded.image))
    stored = as_stored(kept, loaded.orientation)
    encoded = encode_mask(stored)
    counts: Row = {}
    if loaded.label is not None:
        counts = confusion_columns(count_confusion(loaded.label, mask, num_classes))
        if raw is not None:
            counts["confusion_raw"] = count_confusion(loaded.label, raw, num_classes).ravel().tolist()
        image = LabelledImage(space, loaded.label, mask, raw, loaded.instances, loaded.confidence)
        counts |= chosen_counts(dict(metrics), image)
    if regions is not None:
        sure = None if loaded.confidence is None else as_stored(loaded.confidence, loaded.orientation)
        counts[REGIONS] = region_array(find_regions(stored, regions.min_area, sure))
    return {
        **identity_columns(loaded.item),
        "height": stored.shape[0],
        "width": stored.shape[1],
        "mask": {"bytes": encoded, "path": f"{loaded.item.image_id}.png"},
        "georeference": loaded.georeference,
        "pixels": np.bincount(kept.ravel(), minlength=num_classes)[:num_classes].tolist(),
        **counts,
        "confidence": prediction.confidence,
        "entropy": prediction.entropy,
        **loaded.seconds,
        "seconds_encode": time.perf_counter() - started,
    }


def without_void(mask: np.ndarray, void: np.ndarray | None) -> np.ndarray:
    """A mask with 255 where the image has no data."""
    return mask if void is None else np.where(void, np.uint8(IGNORE), mask)


def reject_row(item: Item, error: Reject) -> Row:
    """The row of an image that cannot be answered."""
    return {
        "image_id": item.image_id,
        "uri": item.image.uri,
        "member": item.image.member,
        "stage": error.stage,
        "error": error.reason,
        "message": str(error),
        "attempts": 1,
    }


def confusion_columns(confusion: np.ndarray) -> Row:
    """(C, C) counts and what follows from them alone."""
    columns: Row = {"confusion": confusion.ravel().tolist()}
    if confusion.any():
        columns |= {"miou": mean_iou(confusion), "pixel_accuracy": pixel_accuracy(confusion)}
    return columns


def identity_columns(item: Item) -> Row:
    """Which image it is, and the groups that every run has; a run adds others from its plan when rows are committed."""
    return {
        "image_id": item.image_id,
        "uri": item.image.uri,
        "member": item.image.member,
        **{name: item.groups.get(name) for name in GROUPS},
    }
