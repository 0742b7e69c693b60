"""The report's pictures: thumbnails as data: URIs, with masks as layers in the data set's and colour-blind-safe colours."""

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipeline.analysis.pictures import Pictures
from pipeline.analysis.run_view import RunView
from pipeline.analysis.sums import batches
from pipeline.imaging.colours import IGNORED, WRONG, palette_of, safe_colours
from pipeline.labels import IGNORE, Colour, LabelSpace

THUMBNAIL_PX = 360  # width
AT_A_TIME = 8  # whole images in memory at a time
ERRORS: dict[str, Colour] = {"wrong": WRONG, "ignored": IGNORED}
_CLEAR, _WRONG, _IGNORED = 0, 1, 2  # ids of the error layer


def cards(
    view: RunView,
    ids: Sequence[str],
    look: Callable[[Pictures], None] = lambda one: None,
    also: Sequence[str] = (),
    beside: RunView | None = None,
) -> list[dict[str, Any]]:
    """Return one card per image, in the order of `ids`: a `base` photograph, and `layers` over it by what they show.

    Args:
        look: called once with each image of `ids` and `also`, which are read a few at a time.
        also: further images for `look`, which get no card.
        beside: another run, whose predictions are a further layer of the images that it has.
    """
    made, every = {}, list(dict.fromkeys([*ids, *also]))
    compared = set() if beside is None else _answered(beside, ids)
    for start in range(0, len(every), AT_A_TIME):
        some = every[start : start + AT_A_TIME]
        others = {} if beside is None else beside.pictures([image_id for image_id in some if image_id in compared])
        for image_id, one in view.pictures(some).items():
            look(one)
            if image_id in ids:
                made[image_id] = _card(one, others.get(image_id))
    return [made[image_id] for image_id in ids]


def _answered(view: RunView, ids: Sequence[str]) -> set[str]:
    """Return which of these images a run has masks of."""
    wanted = pa.array(ids, pa.string())
    names = (batch.column("image_id") for batch in batches(view.parts("masks"), ["image_id"]))
    return {image_id for column in names for image_id in column.filter(pc.is_in(column, wanted)).to_pylist()}


def palettes(space: LabelSpace) -> dict[str, Sequence[Colour]]:
    """Return the palettes of the report: the data set's, and a colour-blind-safe one if there are enough safe colours."""
    safe = safe_colours(space.num_classes)
    return {"data": space.colours, **({} if safe is None else {"safe": safe})}


def _card(one: Pictures, other: Pictures | None) -> dict[str, Any]:
    """Return a card; `layers`: `truth`, `prediction`, `other`, `errors` as PNGs per palette; without image, `prediction`."""
    size = _size(*one.mask.shape)
    base = None if one.image is None else _photograph(one.image, size)
    colours = palettes(one.space)
    layers = {"prediction": _layers(one.mask, colours, size)}
    if base is not None and one.label is not None:
        wrong = np.where(one.label == one.mask, _CLEAR, _WRONG)
        errors = np.where(one.label == IGNORE, _IGNORED, wrong).astype(np.uint8)
        table = ((0, 0, 0), WRONG, IGNORED)
        layers = {
            "truth": _layers(one.label, colours, size),
            **layers,
            "errors": {"errors": _layer(errors, table, size, clear=_CLEAR)},
        }
    if base is not None and other is not None and other.mask.shape == one.mask.shape:
        layers["other"] = _layers(other.mask, colours, size)
    return {"width": size[0], "height": size[1], "missing": one.missing, "base": base, "layers": layers}


def _size(height: int, width: int) -> tuple[int, int]:
    """Return (width, height) of the thumbnail: at most THUMBNAIL_PX wide, and 4 * THUMBNAIL_PX high."""
    factor = min(1.0, THUMBNAIL_PX / width, 4 * THUMBNAIL_PX / height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _photograph(image: np.ndarray, size: tuple[int, int]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).resize(size, Image.Resampling.BOX).save(file, format="JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _layers(mask: np.ndarray, colours: dict[str, Sequence[Colour]], size: tuple[int, int]) -> dict[str, str]:
    return {name: _layer(mask, table, size, clear=IGNORE) for name, table in colours.items()}


def _layer(ids: np.ndarray, colours: Sequence[Colour], size: tuple[int, int], clear: int) -> str:
    """Return a palette PNG of ids; the id `clear` is transparent."""
    picture = Image.fromarray(ids).resize(size, Image.Resampling.NEAREST).convert("P")
    picture.putpalette(palette_of(colours))
    file = io.BytesIO()
    alpha = bytes(0 if index == clear else 255 for index in range(256))
    picture.save(file, format="PNG", optimize=True, transparency=alpha)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
