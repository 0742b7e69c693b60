"""Dataset layouts, one per file. Add a new one to this list; if several fit a corpus equally well, the first is chosen."""

from pipeline.config import CorpusConfig
from pipeline.corpus.layouts import (
    ade20k,
    bdd100k,
    camvid,
    camvid32,
    cityscapes,
    coco,
    coco_json,
    coco_stuff,
    folder,
    images_labels,
    kitti,
    manifest,
    mapillary,
    mapillary_v2,
    nyu,
    pairs,
    parquet,
    voc,
    voc_aug,
)
from pipeline.corpus.layouts.base import Layout
from pipeline.errors import UserError, nearest

LAYOUTS = {
    layout.name: layout
    for layout in (
        cityscapes.LAYOUT, ade20k.LAYOUT, bdd100k.LAYOUT, kitti.LAYOUT, mapillary_v2.LAYOUT, mapillary.LAYOUT, voc_aug.LAYOUT,
        voc.LAYOUT, coco.LAYOUT, coco_stuff.LAYOUT, coco_json.LAYOUT, nyu.LAYOUT, camvid.LAYOUT, camvid32.LAYOUT,
        images_labels.LAYOUT, folder.LAYOUT, pairs.LAYOUT, manifest.LAYOUT, parquet.LAYOUT,
    )
}  # fmt: skip


def layout_of(cfg: CorpusConfig) -> Layout:
    """Return the layout that a config names; UserError lists the known ones."""
    assert cfg.layout is not None
    if cfg.layout not in LAYOUTS:
        raise UserError(
            f"corpus.layout: found '{cfg.layout}'; choose one of {', '.join(LAYOUTS)}, or leave it out to have it detected"
            f"{nearest(cfg.layout, LAYOUTS)}"
        )
    return LAYOUTS[cfg.layout]
