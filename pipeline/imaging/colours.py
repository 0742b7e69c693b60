"""Masks as pictures: class colours, the colour-blind-safe ones too, blends with the image, right and wrong pixels."""

from collections.abc import Sequence

import numpy as np

from pipeline.labels import IGNORE, Colour

RIGHT, WRONG, IGNORED = (232, 236, 240), (213, 33, 48), (120, 124, 130)

# Class colours that stay apart for colour-blind eyes.
# Each colour is the farthest, in CIELAB, from those before it, as seen with normal sight and with protanopia, deuteranopia
# and tritanopia (Machado et al. 2009, severity 1); of all first colours of a 6 x 6 x 6 grid the one with the widest result.
SAFE_COLOURS: tuple[Colour, ...] = (
    (102, 0, 102), (0, 255, 0), (255, 204, 255), (0, 0, 255), (153, 0, 0), (153, 204, 153), (255, 51, 255),
    (102, 102, 102), (204, 102, 0), (0, 51, 51), (51, 0, 153), (204, 102, 204), (255, 51, 153), (153, 255, 153),
    (153, 51, 255), (102, 153, 102), (255, 153, 255), (51, 204, 102), (153, 51, 153), (51, 102, 51), (204, 255, 204),
)  # fmt: skip


def colourise(mask: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """(H, W) uint8 ids -> (H, W, 3) uint8 class colours; ignore is black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colours)] = colours
    picture: np.ndarray = table[mask]
    return picture


def blend(image: np.ndarray, mask: np.ndarray, colours: Sequence[Colour], alpha: float) -> np.ndarray:
    """The image with class colours over it: 0 = image alone, 1 = colours alone; (H, W, 3) uint8."""
    mixed = image * (1 - alpha) + colourise(mask, colours) * alpha
    return mixed.round().astype(np.uint8)


def error_map(label: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: wrong pixels red, right ones pale, ignored ones grey."""
    picture = np.where((label == mask)[..., None], np.array(RIGHT, np.uint8), np.array(WRONG, np.uint8))
    picture[label == IGNORE] = IGNORED
    return picture


def safe_colours(num_classes: int) -> tuple[Colour, ...] | None:
    """As many colours as classes; None for more classes than such colours can be told apart."""
    return SAFE_COLOURS[:num_classes] if num_classes <= len(SAFE_COLOURS) else None
