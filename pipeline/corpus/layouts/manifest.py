"""Manifest: a CSV or Parquet file with one row per image that names its files."""

from pipeline.corpus.layouts.base import Layout
from pipeline.corpus.readers.tables import manifest_items

LAYOUT = Layout("manifest", rows=lambda cfg: manifest_items(cfg.images))
