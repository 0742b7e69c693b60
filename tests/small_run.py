"""A finished run over hand-drawn labels and masks, written through the ledger as `maskmill segment` writes it."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline import labels, storage
from pipeline.config import MetricsConfig, RegionsConfig, SegmentConfig
from pipeline.corpus import Item, Place, plan_shards
from pipeline.corpus.groups import GROUP_FIELDS, added_field
from pipeline.corpus.listing import Listing
from pipeline.imaging.mask_png import encode_mask
from pipeline.imaging.polygons import region_polygons
from pipeline.imaging.regions import find_regions
from pipeline.labels import LabelSpace
from pipeline.metrics.confusion import count_confusion
from pipeline.metrics.iou import mean_iou, pixel_accuracy
from pipeline.metrics.metric import LabelledImage
from pipeline.metrics.registry import chosen_counts
from pipeline.runs import REGIONS, REJECT_SCHEMA, Run, region_array
from pipeline.segment.rows import mask_columns, mask_table

SPACE = labels.space("camvid11")


@dataclass(frozen=True)
class Drawn:
    """One image of the run: its rows of train ids as text, one digit a pixel ('.' = ignore), rows parted by '/'."""

    image_id: str
    mask: str | None  # None: rejected
    label: str | None = None
    raw: str | None = None  # before the CRF
    city: str | None = None
    sequence: str | None = None
    frame: int | None = None
    confidence: float = 0.9
    entropy: float = 0.1
    reason: str = "truncated"
    orientation: int = 1  # EXIF, of the image; mask and label are drawn as the corpus stores them
    groups: Mapping[str, int | str] = field(default_factory=dict)  # further group columns, the same for all images


def ids(drawing: str) -> np.ndarray:
    """(H, W) uint8 of a drawing: '01/.1' is [[0, 1], [255, 1]]."""
    rows = [[255 if sign == "." else int(sign, 16) for sign in row] for row in drawing.split("/")]
    return np.array(rows, np.uint8)


def make_run(
    uri: str, drawn: Sequence[Drawn], *, images_per_shard: int = 2, finish: bool = True, boundary_px: tuple[int, ...] = (),
    calibration_bins: int = 0, metrics: Mapping[str, object] = {}, space: LabelSpace = SPACE,
    regions: int | None = None, polygons: float | None = None
) -> str:  # fmt: skip
    """Write corpus (below `<uri>-corpus`) and run; `crf` is in the config where one of the images has a raw mask.

    Args:
        regions: min_area of the table of regions; None = there is none. Each has the confidence of its image.
        polygons: of the regions, as the config has it.
    """
    corpus = f"{uri}-corpus"
    cfg = SegmentConfig.model_validate(
        {
            "corpus": {"images": corpus, "layout": "pairs", "image_glob": "*.png"},
            "checkpoint": f"{uri}-model",
            "output": uri,
            "crf": {"iterations": 5, "smooth_weight": 1, "smooth_px": 1, "colour_weight": 2, "colour_px": 12,
                    "colour_levels": 12} if any(one.raw for one in drawn) else None,
            "metrics": {"boundary_px": boundary_px, "calibration_bins": calibration_bins, **metrics},
            "regions": None if regions is None else {"min_area": regions, "polygons": polygons},
            "images_per_shard": images_per_shard,
            "max_reject_rate": 1,
            "actors": 1,
            "cpus_per_actor": 1,
        }
    )  # fmt: skip
    items = [_item(corpus, index, one) for index, one in enumerate(drawn)]
    further = [added_field(name, type(value)) for name, value in drawn[0].groups.items()]
    run = Run.open_or_create(
        uri,
        {key: value for key, value in cfg.model_dump(mode="json").items() if key in ("crf", "regions")},
        cfg.model_dump(mode="json"),
        space,
        lambda: plan_shards(Listing(iter(items), (*GROUP_FIELDS, *further)), images_per_shard),
    )
    for shard in run.pending():
        here = list(zip(items, drawn, strict=True))[shard * images_per_shard : (shard + 1) * images_per_shard]
        masks = [_mask_row(item, one, cfg.metrics, space, cfg.regions) for item, one in here if one.mask is not None]
        rejects = [_reject_row(item, one) for item, one in here if one.mask is None]
        run.commit(
            shard,
            mask_table(masks, mask_columns(cfg, space, declared=False)),
            pa.Table.from_pylist(rejects, schema=REJECT_SCHEMA),
        )
    if finish:
        run.finish(max_reject_rate=1)
    return uri


def forget_hashes(uri: str) -> None:
    """Let a run be one from before `_SUCCESS.json` held the hashes of its other files, which a test then edits."""
    place = storage.join(uri, "_SUCCESS.json")
    said = storage.read_json(place)
    del said["files"], said["root_sha256"]
    storage.put(place, json.dumps(said).encode())


def _item(corpus: str, index: int, one: Drawn) -> Item:
    """The image (grey, the mask's size) and, where there is one, its label, stored under plain names."""
    picture = ids(one.mask or "00")
    places = {"image": np.stack([picture * 20] * 3, axis=-1)}
    if one.label is not None:
        places["label"] = ids(one.label)
    stored = {}
    for kind, pixels in places.items():
        file = io.BytesIO()
        exif = Image.Exif()
        if kind == "image" and one.orientation != 1:
            exif[0x0112] = one.orientation
        Image.fromarray(pixels).save(file, format="PNG", exif=exif)
        place = storage.join(corpus, f"{kind}{index}.png")
        storage.put(place, file.getvalue())
        stored[kind] = Place(place, bytes=len(file.getvalue()))
    groups = {"split": "val", "city": one.city, "sequence": one.sequence, "frame": one.frame}
    groups |= one.groups
    return Item(one.image_id, **stored, groups={name: value for name, value in groups.items() if value is not None})


def _mask_row(
    item: Item, one: Drawn, metrics: MetricsConfig, space: LabelSpace, regions: RegionsConfig | None
) -> dict[str, object]:
    assert one.mask is not None
    mask, num_classes = ids(one.mask), space.num_classes
    row: dict[str, object] = {
        "image_id": item.image_id,
        **item.groups,
        "uri": item.image.uri,
        "height": mask.shape[0],
        "width": mask.shape[1],
        "mask": {"bytes": encode_mask(mask), "path": f"{one.image_id}.png"},
        "pixels": np.bincount(mask.ravel(), minlength=num_classes)[:num_classes].tolist(),
        "confidence": one.confidence,
        "entropy": one.entropy,
        "seconds_decode": 0.25,
        "seconds_forward": 0.5,
        "seconds_encode": 0.25,
    }
    if one.label is not None:
        confusion = count_confusion(ids(one.label), mask, num_classes)
        row["confusion"] = confusion.ravel().tolist()
        if confusion.any():
            row |= {"miou": mean_iou(confusion), "pixel_accuracy": pixel_accuracy(confusion)}
        if one.raw is not None:
            row["confusion_raw"] = count_confusion(ids(one.label), ids(one.raw), num_classes).ravel().tolist()
        raw = None if one.raw is None else ids(one.raw)
        sure = np.full(mask.shape, one.confidence, np.float32) if metrics.calibration_bins else None
        row |= chosen_counts(dict(metrics), LabelledImage(space, ids(one.label), mask, raw, None, sure))
    if regions is not None:
        sure = np.full(mask.shape, one.confidence, np.float32)
        found = find_regions(mask, regions.min_area, sure)
        outlines = None if regions.polygons is None else region_polygons(mask, found, regions.polygons, None)
        row[REGIONS] = region_array(found, outlines)
    return row


def _reject_row(item: Item, one: Drawn) -> dict[str, object]:
    return {
        "image_id": item.image_id,
        "uri": item.image.uri,
        "stage": "decode",
        "error": one.reason,
        "message": f"{one.image_id} has no end mark; copy it again",
        "attempts": 1,
    }
