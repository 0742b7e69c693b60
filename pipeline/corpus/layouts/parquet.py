"""Parquet: files whose rows contain the image bytes."""

from collections.abc import Iterator

from pipeline import storage
from pipeline.config import CorpusConfig
from pipeline.corpus.item import Item
from pipeline.corpus.layouts.base import Layout
from pipeline.corpus.readers.tables import parquet_items


def _rows(cfg: CorpusConfig) -> Iterator[Item]:
    uri = cfg.images
    if uri.endswith(".parquet") and not storage.is_dir(uri):
        return parquet_items([(uri, storage.etag(uri))])
    return parquet_items((file.uri, file.etag) for file in storage.list_files(uri) if file.uri.endswith(".parquet"))


LAYOUT = Layout("parquet", rows=_rows, keeps_order=True)
