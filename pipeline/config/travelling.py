"""Files that `maskmill submit` uploads with a job, and where a worker finds them: below a folder of its sys.path."""

import sys
from collections.abc import Iterator
from pathlib import Path

CODE, CHECKPOINTS = "code", "checkpoints"  # folders below the job's working directory


def places(path: str, folder: str) -> Iterator[Path]:
    """Yield where a file or folder may be: at its path, or under its name in one of the uploaded folders."""
    yield Path(path)
    for entry in sys.path:
        yield Path(entry or ".") / folder / Path(path).name


def find_checkpoint(uri: str) -> str:
    """Return where an uploaded checkpoint is on this node (Ray may unpack it elsewhere on each), or `uri` if it was not."""
    if "://" in uri:
        return uri
    return next((str(place.absolute()) for place in places(uri, CHECKPOINTS) if place.exists()), uri)
