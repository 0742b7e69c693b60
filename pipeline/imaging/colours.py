"""Masks as pictures: in class colours or colour-blind-safe ones, blended with the image, or with the wrong pixels marked."""

from collections.abc import Sequence

import numpy as np

from pipeline.labels import IGNORE, Colour

RIGHT, WRONG, IGNORED = (232, 236, 240), (213, 33, 48), (120, 124, 130)

# Class colours that colour-blind people can distinguish, chosen greedily from a 6 x 6 x 6 grid: each colour is the farthest in
# CIELAB from those before it, as seen with normal sight and with protanopia, deuteranopia and tritanopia (Machado et al. 2009,
# severity 1). The first colour is the one that gives the largest minimum distance.
SAFE_COLOURS: tuple[Colour, ...] = (
    (102, 0, 102), (0, 255, 0), (255, 204, 255), (0, 0, 255), (153, 0, 0), (153, 204, 153), (255, 51, 255),
    (102, 102, 102), (204, 102, 0), (0, 51, 51), (51, 0, 153), (204, 102, 204), (255, 51, 153), (153, 255, 153),
    (153, 51, 255), (102, 153, 102), (255, 153, 255), (51, 204, 102), (153, 51, 153), (51, 102, 51), (204, 255, 204),
)  # fmt: skip


def colourise(mask: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Return ids (H, W) uint8 as class colours (H, W, 3) uint8; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    picture: np.ndarray = table[mask]
    return picture


def palette_of(colours: Sequence[Colour]) -> list[int]:
    """Return the 3 x 256 levels of a PNG's palette; ids beyond the colours are black.

    With a shorter palette Pillow stores ids in fewer bits, where 255 would become 15, 3 or 1, and viewers show ids beyond it in
    any colour.
    """
    return [level for colour in colours for level in colour] + [0, 0, 0] * (256 - len(colours))


def blend(image: np.ndarray, mask: np.ndarray, colours: Sequence[Colour], alpha: float) -> np.ndarray:
    """Return the image (H, W, 3) uint8 blended with class colours; alpha 0 is the image alone, 1 the colours alone."""
    mixed = image * (1 - alpha) + colourise(mask, colours) * alpha
    return mixed.round().astype(np.uint8)


def error_map(label: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) uint8 with wrong pixels red, right ones pale and ignored ones grey."""
    picture = np.where((label == mask)[..., None], np.array(RIGHT, np.uint8), np.array(WRONG, np.uint8))
    picture[label == IGNORE] = IGNORED
    return picture


def safe_colours(num_classes: int) -> tuple[Colour, ...] | None:
    """Return colour-blind-safe colours for the classes; None if there are more classes than such colours."""
    return SAFE_COLOURS[:num_classes] if num_classes <= len(SAFE_COLOURS) else None
