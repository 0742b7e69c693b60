"""Make the rows of a run's tables from answered and rejected images."""

import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.config import RegionsConfig, SegmentConfig
from pipeline.corpus import GROUPS, Item
from pipeline.errors import Reject
from pipeline.imaging.bands import void_of
from pipeline.imaging.confidence_map import LEVELS, is_unknown
from pipeline.imaging.decode import as_stored
from pipeline.imaging.mask_png import encode_mask
from pipeline.imaging.polygons import region_polygons
from pipeline.imaging.regions import find_regions
from pipeline.labels import IGNORE, LabelSpace
from pipeline.metrics.confusion import count_confusion, count_ids
from pipeline.metrics.iou import mean_iou, pixel_accuracy
from pipeline.metrics.metric import LabelledImage
from pipeline.metrics.registry import chosen_counts
from pipeline.predict import Prediction
from pipeline.runs import CONFIDENCE_MAP, REGIONS, PixelConfidence, mask_schema, region_array, with_regions
from pipeline.runs.schema import UNKNOWN_LABELLED, UNKNOWN_PIXELS
from pipeline.segment.loading import Loaded

Row = dict[str, object]
UNSURE: Row = {"confidence": None, "entropy": None}  # for a network that gives classes without scores


def mask_columns(cfg: SegmentConfig, space: LabelSpace, declared: bool) -> pa.Schema:
    """Return the schema of mask rows as workers make them; `declared`: whether the images have declared bands."""
    confidence = PixelConfidence(cfg.confidence_map, cfg.unknown_below)
    return mask_schema(
        space.num_classes, dict(cfg.metrics), georeferenced=declared, regions=cfg.regions, confidence=confidence
    )


def mask_table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    """Return the rows as a table; their regions are Arrow arrays already."""
    if REGIONS not in schema.names:
        return pa.Table.from_pylist(rows, schema=schema)
    place = schema.get_field_index(REGIONS)
    regions = [row.pop(REGIONS) for row in rows]
    kind = schema.field(place).type.value_type
    return with_regions(pa.Table.from_pylist(rows, schema=schema.remove(place)), regions, kind)


def mask_row(
    loaded: Loaded, prediction: Prediction, raw: np.ndarray | None, space: LabelSpace, cfg: SegmentConfig
) -> Row:
    """Return the row of one image; `raw` is its mask before the CRF, if there is one."""
    started = time.perf_counter()
    mask, num_classes, image_id = prediction.mask, space.num_classes, loaded.item.image_id
    kept = Kept.of(mask, prediction.confidence_map, void_of(loaded.image), cfg.unknown_below)
    stored = as_stored(kept.mask, loaded.orientation)
    encoded = encode_mask(stored)
    counts = _confidence_columns(kept, loaded, cfg, num_classes)
    if loaded.label is not None:
        label = kept.known(loaded.label)
        counts |= confusion_columns(count_confusion(label, mask, num_classes))
        if raw is not None:
            counts["confusion_raw"] = count_confusion(label, raw, num_classes).ravel().tolist()
        image = LabelledImage(space, label, mask, raw, kept.known_instances(loaded.instances), loaded.confidence)
        counts |= chosen_counts(dict(cfg.metrics), image)
    if cfg.regions is not None:
        sure = loaded.confidence if loaded.confidence is not None else kept.probability
        turned = None if sure is None else as_stored(sure, loaded.orientation)
        counts[REGIONS] = _regions(stored, turned, cfg.regions, loaded.georeference)
    return {
        **identity_columns(loaded.item),
        "height": stored.shape[0],
        "width": stored.shape[1],
        "mask": {"bytes": encoded, "path": f"{image_id}.png"},
        "georeference": loaded.georeference,
        "pixels": count_ids(kept.mask)[:num_classes].tolist(),
        **counts,
        "confidence": prediction.confidence,
        "entropy": prediction.entropy,
        **loaded.seconds,
        "seconds_encode": time.perf_counter() - started,
    }


def _regions(
    stored: np.ndarray, confidence: np.ndarray | None, asked: RegionsConfig, georeference: str | None
) -> pa.StructArray:
    """Return the regions of a mask as stored, each with its mean confidence if known."""
    found, polygons = find_regions(stored, asked.min_area, confidence), None
    if asked.polygons is not None:
        polygons = region_polygons(stored, found, asked.polygons, georeference)
    return region_array(found, polygons)


@dataclass(frozen=True)
class Kept:
    """What is stored of a prediction, for an image (H, W) or some rows of it."""

    mask: np.ndarray  # (H, W) uint8, 255 where there is no data, or the class is unknown
    confidence: np.ndarray | None  # (H, W) uint8, 0 where there is no data
    unknown: np.ndarray | None  # (H, W) bool: pixels with data, but of unknown class; None without `unknown_below`

    @classmethod
    def of(
        cls, mask: np.ndarray, confidence: np.ndarray | None, void: np.ndarray | None, unknown_below: float | None
    ) -> "Kept":
        """Make it of a prediction; `void`: pixels without data; `unknown_below`: the config key."""
        kept = without_void(mask, void)
        if confidence is None:
            return cls(kept, None, None)
        unknown = None
        if unknown_below is not None:
            unknown = is_unknown(confidence, unknown_below)
            kept = np.where(unknown, np.uint8(IGNORE), kept)
            unknown = unknown if void is None else unknown & ~void
        return cls(kept, confidence if void is None else np.where(void, np.uint8(0), confidence), unknown)

    @property
    def probability(self) -> np.ndarray | None:
        """`confidence` as probabilities, (H, W) float32."""
        return None if self.confidence is None else self.confidence.astype(np.float32) / LEVELS

    def known(self, label: np.ndarray) -> np.ndarray:
        """Return a label (H, W) with unknown pixels ignored, so that they are not counted."""
        return without_void(label, self.unknown)

    def known_instances(self, instances: np.ndarray | None) -> np.ndarray | None:
        """Return instanceIds (H, W) with 0, which is no instance, where the mask has no class; None if there are none."""
        return None if instances is None else np.where(self.mask == IGNORE, 0, instances)

    def count_unknown(self, label: np.ndarray | None, num_classes: int) -> tuple[int, np.ndarray | None]:
        """Return the number of unknown pixels, and (C,) by class of a label (H, W) if there is one."""
        assert self.unknown is not None
        labelled = None if label is None else count_ids(label[self.unknown][None])[:num_classes]
        return int(self.unknown.sum()), labelled


def _confidence_columns(kept: Kept, loaded: Loaded, cfg: SegmentConfig, num_classes: int) -> Row:
    """Return the confidence map and the counts of unknown pixels, as far as asked for."""
    columns: Row = {}
    if cfg.confidence_map:
        assert kept.confidence is not None
        encoded = encode_mask(as_stored(kept.confidence, loaded.orientation))
        columns[CONFIDENCE_MAP] = confidence_picture(encoded, loaded.item)
    if cfg.unknown_below is not None:
        columns |= unknown_columns(*kept.count_unknown(loaded.label, num_classes))
    return columns


def confidence_picture(encoded: bytes, item: Item) -> Row:
    """Return the value of column `confidence_map`, of the same form as `mask`."""
    return {"bytes": encoded, "path": f"{item.image_id}.confidence.png"}


def unknown_columns(pixels: int, labelled: np.ndarray | None) -> Row:
    """Return the columns for the unknown pixels of the image, and (C,) of each true class."""
    return {UNKNOWN_PIXELS: pixels, UNKNOWN_LABELLED: None if labelled is None else labelled.tolist()}


def without_void(mask: np.ndarray, void: np.ndarray | None) -> np.ndarray:
    """Return a mask with 255 where the image has no data."""
    return mask if void is None else np.where(void, np.uint8(IGNORE), mask)


def reject_row(item: Item, error: Reject) -> Row:
    """Return the reject row of an image that cannot be answered."""
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
    """Return the columns for (C, C) counts and for the scores that follow from them alone."""
    columns: Row = {"confusion": confusion.ravel().tolist()}
    if confusion.any():
        columns |= {"miou": mean_iou(confusion), "pixel_accuracy": pixel_accuracy(confusion)}
    return columns


def identity_columns(item: Item) -> Row:
    """Return the columns that identify an image, and its standard groups; other groups are added from the plan on commit."""
    return {
        "image_id": item.image_id,
        "uri": item.image.uri,
        "member": item.image.member,
        **{name: item.groups.get(name) for name in GROUPS},
    }
