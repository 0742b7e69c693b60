"""Parquet: files whose rows contain the image bytes."""

from collections.abc import Iterator

from pipeline import storage
from pipeline.config import CorpusConfig
from pipeline.corpus.item import Item
from pipeline.corpus.layouts.base import Layout
from pipeline.corpus.readers.tables import parquet_items


def _rows(cfg: CorpusConfig) -> Iterator[Item]:
    uri = cfg.images
    files = [uri] if uri.endswith(".parquet") else [file.uri for file in storage.list_files(uri)]
    return parquet_items([file for file in files if file.endswith(".parquet")])


LAYOUT = Layout("parquet", rows=_rows, keeps_order=True)
