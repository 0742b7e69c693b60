"""Marks for rejected images that are tried again: their files may have been repaired since they were planned."""

import json

from pipeline import storage
from pipeline.errors import UserError

_RETRIED = "retried-"  # prefix of the files' names


def mark_retried(marks: str, shard: int, ids: list[str]) -> None:
    """Store which images of a shard are tried again.

    Args:
        marks: URI of the run's folder of marks.
    """
    storage.put(storage.join(marks, f"{_RETRIED}{shard:05d}"), json.dumps(ids).encode())


def retried_images(marks: str) -> dict[int, list[str]]:
    """Return shard -> ids of its images that are tried again; UserError if a mark is damaged."""
    found = [mark for mark in storage.scan(marks) if mark.path.startswith(_RETRIED)]
    return {int(mark.path.removeprefix(_RETRIED)): _ids(mark.uri) for mark in found}


def _ids(uri: str) -> list[str]:
    """Read the image ids in a mark."""
    try:
        ids = json.loads(storage.read(uri))
    except ValueError:
        ids = None
    if not isinstance(ids, list) or not all(isinstance(image_id, str) for image_id in ids):
        raise UserError(
            f"{uri} does not hold the images that are tried again; delete the file and run the same command again"
        )
    return ids
