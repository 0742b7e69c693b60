"""What of the machine that submits a job travels with it, and where a worker finds it: below a folder of its sys.path."""

import sys
from collections.abc import Iterator
from pathlib import Path

CODE, CHECKPOINTS = "code", "checkpoints"  # folders below the job's working directory


def places(path: str, folder: str) -> Iterator[Path]:
    """Where something may lie: at its path, or under its name in one of the folders that travelled."""
    yield Path(path)
    for entry in sys.path:
        yield Path(entry or ".") / folder / Path(path).name


def find_checkpoint(uri: str) -> str:
    """The address of a checkpoint on this machine, if it travelled; Ray may unpack it in another place on each node."""
    if "://" in uri:
        return uri
    return next((str(place.absolute()) for place in places(uri, CHECKPOINTS) if place.exists()), uri)
