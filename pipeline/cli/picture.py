"""A picture in a terminal: two pixels per character, as the upper half block in one colour on another."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

HALF_BLOCK = "\u2580"
_LINES_BELOW = 4  # left free for the legend of a few lines and the prompt


def half_blocks(picture: np.ndarray, columns: int, lines: int) -> Text:
    """Return the picture (H, W, 3) uint8 as large as fits into the columns and lines, with its aspect ratio.

    A character is assumed to be twice as high as wide.
    """
    height, width = picture.shape[:2]
    scale = min(columns / width, 2 * lines / height, 1.0)
    size = max(1, round(width * scale)), max(2, 2 * round(height * scale / 2))
    pixels = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
    text = Text(no_wrap=True, end="")
    for upper, lower in zip(pixels[::2], pixels[1::2], strict=True):
        for above, below in zip(upper.tolist(), lower.tolist(), strict=True):
            text.append(HALF_BLOCK, Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    return text


def legend(entries: Sequence[tuple[str, tuple[int, int, int]]]) -> Text:
    """Return the names beside their colours."""
    text = Text()
    for name, colour in entries:
        text.append("  \u2588\u2588 ", Style(color=Color.from_rgb(*colour)))
        text.append(name.replace(" ", "\u00a0"))
    return text


def print_picture(console: Console, picture: np.ndarray, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> None:
    """Show a picture and what its colours mean."""
    console.print(half_blocks(picture, console.width, max(1, console.height - _LINES_BELOW)))
    console.print(legend(entries))
