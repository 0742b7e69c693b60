"""Files that `maskmill submit` uploads with a job, and where a worker finds them: below a folder of its sys.path."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

CODE, CHECKPOINTS = "code", "checkpoints"  # folders below the job's working directory
_UPLOADED = re.compile(r"[0-9a-f]{12}-.+")  # an uploaded checkpoint's name, which begins with a hash of its files


def places(path: str, folder: str) -> Iterator[Path]:
    """Yield where a file or folder may be: at its path, or under its name in one of the uploaded folders."""
    yield Path(path)
    for entry in sys.path:
        yield Path(entry or ".") / folder / Path(path).name


def find_checkpoint(uri: str) -> str:
    """Return where an uploaded checkpoint is on this node (Ray may unpack it elsewhere on each), or `uri` if it was not."""
    if uploaded(uri) is None:
        return uri
    return next((str(place.absolute()) for place in places(uri, CHECKPOINTS) if place.exists()), uri)


def uploaded(uri: str) -> str | None:
    """Return the name of an uploaded checkpoint, which is the same on every node and in every job; None for any other URI."""
    name = Path(uri).name
    return name if "://" not in uri and Path(uri).parent.name == CHECKPOINTS and _UPLOADED.fullmatch(name) else None
