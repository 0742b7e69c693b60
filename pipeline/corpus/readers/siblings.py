"""Files beside a label: Cityscapes keeps the instances of `*_labelIds.png` in `*_instanceIds.png`."""

from functools import lru_cache

from pipeline.corpus.item import Place
from pipeline.corpus.readers.tar import is_tar, list_tar
from pipeline.corpus.readers.zip import list_members
from pipeline.corpus.signed import is_signed
from pipeline.errors import Reject

_LABELS, _INSTANCES = "_labelIds.", "_instanceIds."


def instances_of(label: Place) -> Place:
    """Return the place of a label's instanceIds.

    Raises:
        Reject: the label is not called `*_labelIds.*`, or its archive has no such member. Other files are not checked.
    """
    name = label.uri if label.member is None or is_signed(label) else label.member
    before, found, after = name.rpartition(_LABELS)
    if not found:
        raise Reject(
            "read",
            "not_found",
            f"{name}: instances lie beside labels called *{_LABELS}png; leave metrics.instances off for this corpus",
        )
    sibling = f"{before}{_INSTANCES}{after}"
    if label.member is None:
        return Place(sibling)
    if is_signed(label):
        raise Reject(
            "read",
            "not_found",
            f"{name}: its signature is for itself alone; leave metrics.instances off for this corpus",
        )
    place = members_of(label.uri).get(sibling)
    if place is None:
        raise Reject(
            "read", "not_found", f"{label.uri}: it holds no {sibling}; leave metrics.instances off for this corpus"
        )
    return place


@lru_cache(maxsize=4)
def members_of(uri: str) -> dict[str, Place]:
    """Return the places of a zip's or a tar's members, which are listed once per process."""
    return list_tar(uri) if is_tar(uri) else list_members(uri)
