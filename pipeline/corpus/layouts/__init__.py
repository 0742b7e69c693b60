"""Dataset layouts, one a file. A new one stands in this list, and in the choices of config/corpus.py."""

from pipeline.corpus.layouts import camvid, cityscapes, manifest, pairs, parquet

LAYOUTS = {
    layout.name: layout for layout in (cityscapes.LAYOUT, camvid.LAYOUT, pairs.LAYOUT, manifest.LAYOUT, parquet.LAYOUT)
}
