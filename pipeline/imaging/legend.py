"""Draw a legend of a picture's colours below it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipeline.imaging.colours import IGNORED, RIGHT, WRONG
from pipeline.labels import Colour, LabelSpace

Entry = tuple[str, Colour]
CONFIDENCE_ENTRIES: tuple[Entry, ...] = (("0", (0, 0, 0)), ("0.5", (128, 128, 128)), ("1", (255, 255, 255)))
ERROR_ENTRIES: tuple[Entry, ...] = (("right", RIGHT), ("wrong", WRONG), ("ignored", IGNORED))
_INK, _PAPER, _EDGE = (27, 31, 36), (255, 255, 255), (150, 156, 163)
_TEXT_PX = (11, 28)  # smallest and largest size of the text


def class_entries(mask: np.ndarray, space: LabelSpace) -> list[Entry]:
    """Return the name and colour of each class in a mask (H, W) uint8, the one with most pixels first."""
    pixels = np.bincount(mask.ravel(), minlength=256)[: space.num_classes]
    order = [int(index) for index in np.argsort(-pixels, kind="stable") if pixels[index]]
    return [(space.classes[index], space.colours[index]) for index in order]


def with_legend(picture: np.ndarray, entries: Sequence[Entry]) -> np.ndarray:
    """Return the picture (H, W, 3) uint8 with a white strip below it that names its colours.

    The text size grows with the picture's width. The strip has as many lines as needed; a picture that is narrower than the
    longest name is widened with white.
    """
    if not entries:
        return picture
    height, width = picture.shape[:2]
    text_px = min(max(width // 45, _TEXT_PX[0]), _TEXT_PX[1])
    font, gap = ImageFont.load_default(text_px), text_px // 2
    widths = [text_px + gap + int(np.ceil(font.getlength(name))) + 2 * gap for name, _ in entries]
    width = max(width, max(widths) + gap)
    places, across, down = [], gap, gap
    for entry_px in widths:
        if across > gap and across + entry_px > width:
            across, down = gap, down + text_px + gap
        places.append((across, down))
        across += entry_px
    strip = Image.new("RGB", (width, down + text_px + 2 * gap), _PAPER)
    draw = ImageDraw.Draw(strip)
    for (name, colour), (x, y) in zip(entries, places, strict=True):
        draw.rectangle((x, y, x + text_px - 1, y + text_px - 1), fill=colour, outline=_EDGE)
        draw.text((x + text_px + gap, y + text_px / 2), name, fill=_INK, font=font, anchor="lm")
    whole = np.full((height + strip.height, width, 3), 255, np.uint8)
    whole[:height, : picture.shape[1]] = picture
    whole[height:] = np.asarray(strip)
    return whole
