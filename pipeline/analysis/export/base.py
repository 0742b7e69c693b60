"""What the formats share: the run's rows, and what was written."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pipeline.analysis.run_view import RunView
from pipeline.analysis.sums import BATCH_ROWS, batches


@dataclass(frozen=True)
class Exported:
    """What was written: the zip, folder or JSON file, and the masks in it."""

    uri: str
    masks: int


def rows_of(view: RunView, *columns: str, batch_rows: int = BATCH_ROWS) -> Iterator[dict[str, Any]]:
    """These columns of each answered image, so many rows in memory at a time."""
    for batch in batches(view.parts("masks"), list(columns), batch_rows):
        yield from batch.to_pylist()


def masks_of(view: RunView) -> Iterator[tuple[str, bytes]]:
    """(image id, PNG of train ids) of each answered image."""
    for row in rows_of(view, "image_id", "mask"):
        yield row["image_id"], row["mask"]["bytes"]


def png_of(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()
