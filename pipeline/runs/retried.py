"""Marks of images that were rejected and are tried again: they may have been mended since they were planned."""

import json

from pipeline import storage
from pipeline.errors import UserError

_RETRIED = "retried-"  # the files' names begin so


def mark_retried(marks: str, shard: int, ids: list[str]) -> None:
    """Note which images of a shard are tried again.

    Args:
        marks: the run's folder of marks.
    """
    storage.put(storage.join(marks, f"{_RETRIED}{shard:05d}"), json.dumps(ids).encode())


def retried_images(marks: str) -> dict[int, list[str]]:
    """Shard -> its images that are tried again; UserError where a mark is damaged."""
    found = [mark for mark in storage.scan(marks) if mark.path.startswith(_RETRIED)]
    return {int(mark.path.removeprefix(_RETRIED)): _ids(mark.uri) for mark in found}


def _ids(uri: str) -> list[str]:
    """What a mark of retried images holds."""
    try:
        ids = json.loads(storage.read(uri))
    except ValueError:
        ids = None
    if not isinstance(ids, list) or not all(isinstance(image_id, str) for image_id in ids):
        raise UserError(
            f"{uri} does not hold the images that are tried again; delete the file and run the same command again"
        )
    return ids
