"""Where images come from: prefixes, zips, tars, tables in any store; dataset layouts; the shard plan."""

from pipeline import storage
from pipeline.corpus.item import BadBytes, Item, Place
from pipeline.corpus.listing import list_files, list_items, scan_items, unmatched_labels
from pipeline.corpus.plan import GROUP_FIELDS, PLAN_SCHEMA, items_of, plan_shards
from pipeline.corpus.tables import read_cell
from pipeline.corpus.tars import is_tar, read_tar_member
from pipeline.corpus.zips import read_member

__all__ = [
    "GROUP_FIELDS", "PLAN_SCHEMA", "BadBytes", "Item", "Place", "items_of", "list_files", "list_items", "plan_shards",
    "read", "scan_items", "unmatched_labels",
]  # fmt: skip


def read(place: Place) -> bytes:
    """The bytes of one file, in one request.

    Raises:
        BadBytes: the file is gone, or its bytes are not what the archive says.
    """
    try:
        if place.member is None:
            return storage.read(place.uri)
        if place.uri.endswith(".parquet"):
            return read_cell(place)
        return read_tar_member(place) if is_tar(place.uri) else read_member(place)
    except FileNotFoundError:
        raise BadBytes(
            "not_found", f"{place.uri}: it was listed and is gone; restore it, or plan the run anew"
        ) from None
