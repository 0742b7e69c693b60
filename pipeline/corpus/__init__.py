"""The sources of images: prefixes, zips, tars and tables in any store; dataset layouts; the shard plan."""

from pipeline.corpus.files import list_files
from pipeline.corpus.groups import GROUP_FIELDS, GROUPS
from pipeline.corpus.item import Item, Place
from pipeline.corpus.listing import list_items, scan_items, unmatched_labels
from pipeline.corpus.plain import open_file, read_plain
from pipeline.corpus.plan import group_fields, items_of, plan_shards
from pipeline.corpus.readers.coco import is_coco, read_coco

__all__ = [
    "GROUPS", "GROUP_FIELDS", "Item", "Place", "group_fields", "items_of", "list_files", "list_items", "open_file",
    "plan_shards", "read", "scan_items", "unmatched_labels",
]  # fmt: skip


def read(place: Place) -> bytes:
    """Read the bytes of one file; for a label that a JSON describes, the bytes of a PNG drawn from it.

    Raises:
        Reject: the file is gone (`not_found`), differs from the plan (`source_changed`), or its bytes contradict the archive.
    """
    return read_coco(place, read_plain) if is_coco(place) else read_plain(place)
