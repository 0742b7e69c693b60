"""Manifest: a CSV or Parquet file with a row an image, which names the files."""

from pipeline.corpus.layouts.base import Layout
from pipeline.corpus.readers.tables import manifest_items

LAYOUT = Layout("manifest", rows=lambda cfg: manifest_items(cfg.images))
