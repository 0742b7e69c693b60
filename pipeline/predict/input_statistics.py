"""Check a run's first images, as the network sees them, for a grossly wrong mean, std or range.

The pixels do not show which mean and std a network was trained with: 0 and 1, 0.5 and 0.5, ImageNet's and Caffe's are all in
use. But no training has values that hardly vary, or that vary much less than their distance from zero. Both result from a mean
or std on the scale 0..255 instead of 0..1.
"""

import numpy as np
import torch

from pipeline.models import Network

IMAGES = 3  # number of images to check
STEP = 4  # distance between the rows, and between the columns, that are used
FLAT = 0.02  # least std of x; for a dim picture, with the network's mean 0 and std 1, it is 0.05
FAR = 100.0  # largest ratio |mean| / std of x; for a field of snow, with the network's mean 0 and std 1, it is 40
CLIPPED = 0.5  # largest share of values at the high end of the declared range
DARK = 16.0  # of 255: if the highest value is below it, the declared range is much too wide


class InputStatistics:
    """Collects the first images of a run, and says what is wrong with them.

    Args:
        model: its mean and std are checked.
        declared: whether images have a declared range, and are float32 levels of it.
    """

    def __init__(self, model: Network, declared: bool = False) -> None:
        self.model, self.declared = model, declared
        self._pixels: list[np.ndarray] = []

    def add(self, image: np.ndarray) -> None:
        """Keep a part of an image (H, W, D) uint8 or float32 levels; do nothing if there are `IMAGES` already."""
        if len(self._pixels) < IMAGES:
            self._pixels.append(image[::STEP, ::STEP].reshape(-1, image.shape[-1]).copy())

    @property
    def warning(self) -> str | None:
        """One sentence with numbers and what to set; None if nothing is grossly wrong, or there is no image yet."""
        if not self._pixels:
            return None
        pixels = np.concatenate(self._pixels)
        seen = f"in the first {len(self._pixels)} images"
        if self.declared and (wrong := _range_words(pixels)):
            return f"{wrong} {seen}; set image.range to the values that are black and white, and train again"
        known = pixels[~np.isnan(pixels).any(axis=1)]  # elsewhere there is no data, and the network sees 0
        if not len(known):
            return None
        x = self.model.normalise(torch.from_numpy(known.T[None, :, :, None]))[0]
        std, mean = float(x.var(dim=1, correction=0).mean().sqrt()), float(x.mean())  # std within a band
        blank = known.max() == known.min()
        if blank or (std >= FLAT and abs(mean) <= FAR * std):
            return None
        levels = [tuple(round(value, 3) for value in values) for values in (self.model.mean, self.model.std)]
        return (
            f"{seen} the network's input has mean {mean:.3g} and standard deviation {std:.3g} once mean {levels[0]} and std "
            f"{levels[1]} are applied, so that it hardly sees the pictures; both are of values in 0..1: divide those of 0..255 "
            "by 255, and import the network again"
        )


def _range_words(pixels: np.ndarray) -> str | None:
    """Return what is wrong with the declared range, or None; levels (P, D) are NaN where there is no data."""
    known = pixels[~np.isnan(pixels)]
    if not known.size:
        return None
    if (clipped := float((known >= 255).mean())) > CLIPPED:
        return f"{clipped:.0%} of the values are at or above the high end of image.range"
    if 0 < (highest := float(known.max())) < DARK:
        return f"no value is above {highest / 255:.1%} of image.range"
    return None
