"""What holds for the members of every archive: they stay inside it, and each is there once."""

from collections.abc import Iterable

from pipeline.corpus.item import Place
from pipeline.errors import UserError


def checked_name(uri: str, name: str) -> str:
    """A member's path; UserError if it leads out of the archive or is no text."""
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"corpus {uri}: member '{name}' leads out of the archive; pack the corpus again without it")
    return name


def unique(uri: str, members: Iterable[tuple[str, Place]]) -> dict[str, Place]:
    """path -> place, sorted; UserError where a path appears twice."""
    found: dict[str, Place] = {}
    for name, place in members:
        if name in found:
            raise UserError(f"corpus {uri}: member '{name}' appears twice; pack the corpus again with one of them")
        found[name] = place
    return dict(sorted(found.items()))
