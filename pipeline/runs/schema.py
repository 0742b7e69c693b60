"""The tables of a run in declared schemas of plain Arrow types: a mask row per image, a reject row per failed image."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline.config import RegionsConfig
from pipeline.corpus import GROUP_FIELDS
from pipeline.errors import UserError
from pipeline.labels import LabelSpace
from pipeline.metrics.registry import METRICS, Settings

FORMAT = 2  # since 2, the plan is in parts, and rejects are in the footers of masks
# Of the `_SUCCESS.json` of a run with several generations, which code for single generations would misread.
GROWN_FORMAT = 3
FINGERPRINT, SHARDS = "maskmill.fingerprint", "maskmill.shards"  # keys of a part's metadata
SECONDS = ("seconds_decode", "seconds_forward", "seconds_crf", "seconds_encode")

REJECT_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string()),
        pa.field("stage", pa.string(), nullable=False),  # read, decode, label, predict, crf, encode
        pa.field("error", pa.string(), nullable=False),  # stable reason code
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)


GEOREFERENCE = "georeference"  # column in runs whose checkpoint declares bands
REGIONS = "regions"  # column and further table in runs whose config asks for regions
REGION_FIELDS = (
    pa.field("class_id", pa.int32(), nullable=False),
    pa.field("area", pa.int64(), nullable=False),  # pixels
    pa.field("box_top", pa.int32(), nullable=False),  # half-open: the region's last row is box_bottom - 1
    pa.field("box_left", pa.int32(), nullable=False),
    pa.field("box_bottom", pa.int32(), nullable=False),
    pa.field("box_right", pa.int32(), nullable=False),
    pa.field("centroid_row", pa.float32(), nullable=False),  # mean of the pixels' row indices
    pa.field("centroid_col", pa.float32(), nullable=False),
    pa.field("confidence", pa.float32()),  # mean of the highest probability; null if not known for each pixel
)
POLYGON = pa.field("polygon", pa.binary(), nullable=False)  # WKB
CONFIDENCE_MAP, UNKNOWN_PIXELS, UNKNOWN_LABELLED = "confidence_map", "unknown_pixels", "unknown_labelled"
PICTURE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])  # the form that other tools expect


class PixelConfidence(NamedTuple):
    """Config keys of these names, about the confidence of each pixel; each adds columns to the masks."""

    confidence_map: bool = False
    unknown_below: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "PixelConfidence":
        """Take them from a run's config or identity."""
        return cls(bool(values.get("confidence_map")), values.get("unknown_below"))

    @property
    def asked(self) -> bool:
        """Whether either is set."""
        return self.confidence_map or self.unknown_below is not None


NOT_ASKED = PixelConfidence()


def mask_schema(
    num_classes: int,
    settings: Settings | None = None,
    groups: tuple[pa.Field, ...] = GROUP_FIELDS,
    georeferenced: bool = False,
    regions: RegionsConfig | None = None,
    confidence: PixelConfidence = NOT_ASKED,
) -> pa.Schema:
    """Return the columns of a mask row; counts are pixels, seconds are this image's share of wall time.

    Args:
        settings: config section `metrics`; metrics add columns of their own.
        groups: group columns, those of every run first.
        georeferenced: add the column of CRS and transform (pipeline/imaging/bands.py), null for images without.
        regions: add the column of the mask's regions, in the raster order of their first pixels.
        confidence: add the columns for the confidence of each pixel that were asked for.
    Raises:
        UserError: a group has the name of another column.
    """
    schema = pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("member", pa.string()),
            *groups,
            pa.field("height", pa.int32(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            *([pa.field(GEOREFERENCE, pa.string())] if georeferenced else []),
            pa.field("mask", PICTURE),
            *([pa.field(CONFIDENCE_MAP, PICTURE)] if confidence.confidence_map else []),
            pa.field("pixels", pa.list_(pa.int64(), num_classes), nullable=False),  # of each class, predicted
            # C * C, row = truth, column = prediction; null without a label
            pa.field("confusion", pa.list_(pa.int64())),
            pa.field("confusion_raw", pa.list_(pa.int64())),  # the same before the CRF; null without CRF or label
            *(_unknown_fields() if confidence.unknown_below is not None else ()),
            *_metric_fields(settings or {}),
            pa.field("miou", pa.float32()),
            pa.field("pixel_accuracy", pa.float32()),
            pa.field("confidence", pa.float32()),  # mean over the scores' grid of the highest probability
            pa.field("entropy", pa.float32()),  # mean over the same, nats
            *(pa.field(name, pa.float32()) for name in SECONDS),
            *([pa.field(REGIONS, pa.list_(region_type(regions)), nullable=False)] if regions else []),
        ]
    )
    return _distinct(schema, groups, "every run has a column of that name")


def region_type(asked: RegionsConfig) -> pa.StructType:
    """Return the type of one region in a mask row."""
    return pa.struct([*REGION_FIELDS, *([POLYGON] if asked.polygons is not None else [])])


def region_schema(groups: tuple[pa.Field, ...] = GROUP_FIELDS, polygons: bool = False) -> pa.Schema:
    """Return the columns of the table of regions, one row per region; `groups`, and errors about them, as in `mask_schema`."""
    schema = pa.schema(
        [
            pa.field("image_id", pa.string(), nullable=False),
            *groups,
            pa.field("height", pa.int32(), nullable=False),  # of the image
            pa.field("width", pa.int32(), nullable=False),
            pa.field("class", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            *REGION_FIELDS,
            *(pa.field(f"touches_{edge}", pa.bool_(), nullable=False) for edge in ("top", "left", "bottom", "right")),
            *([POLYGON] if polygons else []),
        ]
    )
    return _distinct(schema, groups, "the table of regions has a column of that name")


def _distinct(schema: pa.Schema, groups: tuple[pa.Field, ...], why: str) -> pa.Schema:
    """Return the schema; UserError if a group has the name of another column."""
    for group in groups:
        if schema.names.count(group.name) > 1:
            raise UserError(f"'{group.name}' cannot be a group, {why}; rename it")
    return schema


def _unknown_fields() -> Iterator[pa.Field]:
    yield pa.field(UNKNOWN_PIXELS, pa.int64(), nullable=False)  # pixels of the image, with data
    yield pa.field(UNKNOWN_LABELLED, pa.list_(pa.int64()))  # C, of each true class; null without a label


def _metric_fields(settings: Settings) -> Iterator[pa.Field]:
    """Yield columns of counts, flattened; null if not asked for, or without a label."""
    for metric in METRICS:
        setting = settings.get(metric.key)
        if setting or metric.in_every_part:
            metadata = metric.metadata(setting or metric.declaration[1])
            yield from (pa.field(name, pa.list_(pa.int64()), metadata=metadata) for name in metric.columns)


def part_metadata(fingerprint: str, space: LabelSpace, first: int, last: int) -> dict[str, str]:
    """Return the Parquet key-value metadata that describes the part of shards `first` to `last`."""
    label_space = {"name": space.name, "classes": space.classes, "colours": space.colours, "ids": space.stored_ids}
    return {
        "maskmill.format": str(FORMAT),
        FINGERPRINT: fingerprint,
        "maskmill.label_space": json.dumps(label_space),
        SHARDS: f"{first}-{last}",
    }
