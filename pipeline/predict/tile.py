"""Tiles, on which a network runs: a whole image, or a part of one."""

from dataclasses import dataclass

import numpy as np

Size = tuple[int, int]  # (height, width), pixels


@dataclass(frozen=True)
class Tile:
    """Pixels, and the size of their prediction, which is larger if the image was decoded at reduced size."""

    pixels: np.ndarray  # (h, w, D) uint8, or float32 levels
    size: Size

    @classmethod
    def of(cls, pixels: np.ndarray) -> "Tile":
        """Return a tile whose prediction has the size of its pixels."""
        return cls(pixels, (pixels.shape[0], pixels.shape[1]))

    @property
    def reduced(self) -> bool:
        return self.pixels.shape[:2] != self.size
