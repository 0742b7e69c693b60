"""Parquet: files whose rows hold the images themselves."""

from collections.abc import Iterator

from pipeline import storage
from pipeline.corpus.item import Item
from pipeline.corpus.layouts.base import Layout
from pipeline.corpus.readers.tables import parquet_items


def _rows(uri: str) -> Iterator[Item]:
    files = [uri] if uri.endswith(".parquet") else [file.uri for file in storage.list_files(uri)]
    return parquet_items([file for file in files if file.endswith(".parquet")])


LAYOUT = Layout("parquet", rows=_rows, keeps_order=True)
