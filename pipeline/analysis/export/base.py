"""What the formats share: the images to export, and the result of an export."""

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipeline import storage
from pipeline.analysis.image_files import file_name, leads_out, read_image
from pipeline.analysis.run_view import RunView
from pipeline.analysis.sums import BATCH_ROWS, batches
from pipeline.corpus import Item, items_of
from pipeline.errors import Reject, UserError
from pipeline.imaging.decode import decode_image, stored_orientation, upright
from pipeline.imaging.mask_png import decode_mask
from pipeline.labels import IGNORE, LabelSpace
from pipeline.read_ahead import read_ahead
from pipeline.runs import Part

_THREADS = 4  # threads that read images ahead


@dataclass(frozen=True)
class Exported:
    """What was written: the zip, folder or JSON file, and the masks in it."""

    uri: str
    masks: int


@dataclass(frozen=True)
class Shown:
    """An image's file and its mask, (H, W) uint8, 255 = no data, both upright for programs that ignore EXIF orientation.

    The file is the one in the corpus. If its EXIF data rotate the photograph, it is a PNG of the rotated pixels instead, so
    that labels drawn on it fit.
    """

    image_id: str
    name: str  # <image id><suffix>
    data: bytes
    mask: np.ndarray
    row: dict[str, Any]
    uri: str | None  # of the same file in the corpus, if it is an object of its own

    def copy(self, folder: str) -> None:
        """Write the file below a folder or a prefix."""
        storage.put(storage.join(folder, self.name), self.data)


def place_in(out: str, image_id: str, suffix: str) -> str:
    """Return the URI of an image's file below a folder or prefix; UserError if its id leads out of that."""
    if leads_out(image_id):
        raise UserError(f"image '{image_id}' leads out of {out}; rename it and segment again")
    return storage.join(out, f"{image_id}{suffix}")


def regions_by_class(mask: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (train id, its pixels as (H, W) bool) of each class in a mask (H, W) uint8, without 255 (no data)."""
    for index in np.unique(mask[mask != IGNORE]).tolist():
        yield index, mask == index


class Answers:
    """The images of a run to export, in the run's order: all that have a mask, or chosen ones."""

    def __init__(self, view: RunView, ids: Collection[str] | None = None) -> None:
        """Raise UserError if a chosen image has no mask."""
        self.view, self._chosen = view, None if ids is None else pa.array(sorted(set(ids)), pa.string())
        self._parts = view.listed("masks") if self._chosen is None else self._parts_with(self._chosen)

    @property
    def space(self) -> LabelSpace:
        return self.view.space

    def rows(self, *columns: str, batch_rows: int = BATCH_ROWS) -> Iterator[dict[str, Any]]:
        """Yield these columns of each image, which must include `image_id`, with `batch_rows` rows in memory at a time."""
        for part in self._parts:
            yield from self._rows(part, columns, batch_rows)

    def masks(self) -> Iterator[tuple[str, bytes]]:
        """Yield (image id, PNG of train ids) of each image, in the orientation in which the corpus stores it."""
        for row in self.rows("image_id", "mask"):
            yield row["image_id"], row["mask"]["bytes"]

    def shown(self, *columns: str) -> Iterator[Shown]:
        """Yield each image's file, read again from its corpus, with its mask.

        Args:
            columns: further columns of the run's rows.
        Raises:
            UserError: an image cannot be read again, or its id leads out of a folder.
        """
        max_pixels = self.view.description.config["max_pixels"]
        has_bands = self.view.description.image is not None  # such images have no EXIF orientation
        for (item, row), data in read_ahead(lambda pair: read_image(pair[0]), self._with_items(columns), _THREADS):
            image, mask = data.result(), decode_mask(row["mask"]["bytes"])
            turned = 1 if has_bands else _orientation(item, image, max_pixels)
            name = file_name(item, image)
            if turned == 1:
                uri = item.image.uri if item.image.member is None else None
                yield Shown(item.image_id, name, image, mask, row, uri)
            else:
                picture = png_of(Image.fromarray(decode_image(image, max_pixels)))
                yield Shown(item.image_id, f"{item.image_id}.png", picture, upright(mask, turned), row, None)

    def _with_items(self, columns: Collection[str]) -> Iterator[tuple[Item, dict[str, Any]]]:
        plan = self.view.plan()
        for part in self._parts:
            items: dict[str, Item] = {}
            for shard in range(part.first, part.last + 1):
                items |= {item.image_id: item for item in items_of(self._of_chosen(plan.shard(shard)))}
            for row in self._rows(part, ("image_id", "mask", *columns), batch_rows=16):
                yield items[row["image_id"]], row

    def _rows(self, part: Part, columns: Collection[str], batch_rows: int) -> Iterator[dict[str, Any]]:
        for batch in batches([part.uri], list(columns), batch_rows):
            yield from self._of_chosen(batch).to_pylist()

    def _of_chosen(self, rows: Any) -> Any:
        """Return the rows of chosen images in a batch or a table."""
        return rows if self._chosen is None else rows.filter(pc.is_in(rows.column("image_id"), self._chosen))

    def _parts_with(self, chosen: pa.Array) -> list[Part]:
        parts, found = [], set[str]()
        for part in self.view.listed("masks"):
            here = {row["image_id"] for row in self._rows(part, ("image_id",), BATCH_ROWS)}
            if here:
                parts.append(part)
                found |= here
        if missing := [image_id for image_id in chosen.to_pylist() if image_id not in found]:
            raise UserError(
                f"run {self.view.uri}: {len(missing)} of the {len(chosen)} chosen images have no mask, such as "
                f"'{missing[0]}': they were rejected, are not answered yet, or are of another run"
            )
        return parts


def png_of(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    return file.getvalue()


def _orientation(item: Item, data: bytes, max_pixels: int) -> int:
    """Return the EXIF orientation of an image; UserError if its file is no longer the one that was segmented."""
    try:
        return stored_orientation(data, max_pixels)
    except Reject as error:
        raise UserError(f"image '{item.image_id}' is not what was segmented: {error}") from None
