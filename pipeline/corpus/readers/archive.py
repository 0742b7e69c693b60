"""Checks for the members of any archive: names stay inside it, each is unique, and offsets are within its bytes."""

from collections.abc import Iterable

from pipeline import storage
from pipeline.corpus.item import Place
from pipeline.errors import Reject, UserError

_SURE_BYTES = 1 << 26  # for a larger member the archive's size is requested first, before memory is allocated


def checked_name(uri: str, name: str) -> str:
    """Return a member's path; UserError if it leads out of the archive."""
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"corpus {uri}: member '{name}' leads out of the archive; pack the corpus again without it")
    return name


def unique(uri: str, members: Iterable[tuple[str, Place]]) -> dict[str, Place]:
    """Return path -> place, sorted; UserError if a path appears twice."""
    found: dict[str, Place] = {}
    for name, place in members:
        if name in found:
            raise UserError(f"corpus {uri}: member '{name}' appears twice; pack the corpus again with one of them")
        found[name] = place
    return dict(sorted(found.items()))


def start_of(place: Place) -> int:
    """Return the offset of a member after checking that its bytes are in the archive, which may have changed since its listing.

    Raises:
        Reject: `corrupt`, the headers place the member outside the archive; `truncated`, the archive has become shorter.
        FileNotFoundError: the archive is gone.
    """
    where = f"{place.uri} member '{place.member}'"
    if place.offset is None:
        raise Reject(
            "read",
            "corrupt",
            f"{where}: its header gives it a place or a size that the archive does not have; pack the archive again",
        )
    if place.bytes > _SURE_BYTES and place.offset + place.bytes > (size := storage.size(place.uri)):
        raise Reject(
            "read",
            "truncated",
            f"{where}: its {place.bytes} bytes at byte {place.offset} reach beyond the archive's {size}; copy it again",
        )
    return place.offset
