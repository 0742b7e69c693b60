"""The report's pictures: thumbnails as data: URIs, masks as layers in the data set's colours and in safe ones."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pipeline.analysis.pictures import Pictures
from pipeline.analysis.run_view import RunView
from pipeline.imaging.colours import IGNORED, WRONG, safe_colours
from pipeline.labels import IGNORE, Colour, LabelSpace

THUMBNAIL_PX = 320  # width
AT_A_TIME = 8  # whole images in memory
ERRORS: dict[str, Colour] = {"wrong": WRONG, "ignored": IGNORED}
_CLEAR, _WRONG, _IGNORED = 0, 1, 2  # ids of the error layer


def cards(view: RunView, ids: Sequence[str]) -> list[dict[str, Any]]:
    """One card an image, in the order of `ids`: `pictures` with a `base` photograph and `layers` over it."""
    made = []
    for start in range(0, len(ids), AT_A_TIME):
        some = ids[start : start + AT_A_TIME]
        found = view.pictures(some)
        made += [_card(found[image_id]) for image_id in some]
    return made


def palettes(space: LabelSpace) -> dict[str, Sequence[Colour]]:
    """The colours that the report can show a mask in: the data set's, and colour-blind-safe ones where there are enough."""
    safe = safe_colours(space.num_classes)
    return {"data": space.colours, **({} if safe is None else {"safe": safe})}


def _card(one: Pictures) -> dict[str, Any]:
    size = _size(*one.mask.shape)
    base = None if one.image is None else _photograph(one.image, size)
    colours = palettes(one.space)
    prediction = {"name": "prediction", "base": base, "layers": _layers(one.mask, colours, size)}
    if base is None:
        pictures = [prediction]
    elif one.label is None:
        pictures = [{"name": "image", "base": base, "layers": {}}, prediction]
    else:
        wrong = np.where(one.label == one.mask, _CLEAR, _WRONG)
        errors = np.where(one.label == IGNORE, _IGNORED, wrong).astype(np.uint8)
        table = ((0, 0, 0), WRONG, IGNORED)
        pictures = [
            {"name": "image", "base": base, "layers": {}},
            {"name": "truth", "base": base, "layers": _layers(one.label, colours, size)},
            prediction,
            {"name": "errors", "base": base, "layers": {"errors": _layer(errors, table, size, clear=_CLEAR)}},
        ]
    return {"width": size[0], "height": size[1], "missing": one.missing, "pictures": pictures}


def _size(height: int, width: int) -> tuple[int, int]:
    """(width, height) of the thumbnail: at most THUMBNAIL_PX wide and four times as high."""
    factor = min(1.0, THUMBNAIL_PX / width, 4 * THUMBNAIL_PX / height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _photograph(image: np.ndarray, size: tuple[int, int]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).resize(size, Image.Resampling.BOX).save(file, format="JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _layers(mask: np.ndarray, colours: dict[str, Sequence[Colour]], size: tuple[int, int]) -> dict[str, str]:
    return {name: _layer(mask, table, size, clear=IGNORE) for name, table in colours.items()}


def _layer(ids: np.ndarray, colours: Sequence[Colour], size: tuple[int, int], clear: int) -> str:
    """A palette PNG of ids; `clear` is see-through."""
    picture = Image.fromarray(ids).resize(size, Image.Resampling.NEAREST).convert("P")
    # All 256: an id beyond a shorter palette is a colour of each reader's choice, and Pillow stores it in too few bits.
    picture.putpalette([level for colour in colours for level in colour] + [0, 0, 0] * (256 - len(colours)))
    file = io.BytesIO()
    alpha = bytes(0 if index == clear else 255 for index in range(256))
    picture.save(file, format="PNG", optimize=True, transparency=alpha)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
