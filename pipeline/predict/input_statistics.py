"""Whether a run's first images reach the network as pixels should: mean, std and range that are grossly wrong show there.

Which mean and std a network was trained with cannot be told from pixels: 0 and 1, 0.5 and 0.5, ImageNet's and Caffe's are all
in use. What no training had are values that hardly vary, or that vary much less than they are off zero: both come of a mean or
std of 0..255 where one of 0..1 is meant.
"""

import numpy as np
import torch

from pipeline.models import Network

IMAGES = 3  # that are looked at
STEP = 4  # every so many rows and columns of them
FLAT = 0.02  # std of x: a dim picture with mean 0 and std 1 has 0.05
FAR = 100.0  # |mean| of x over its std: a field of snow with mean 0 and std 1 has 40
CLIPPED = 0.5  # share of values at the high end of the declared range
DARK = 16.0  # of 255: the highest value, where the declared range is many times the images'


class InputStatistics:
    """Takes images until it has seen enough of them, then says what is wrong.

    Args:
        model: with the mean and std that it is given pixels by.
        declared: whether its images have a declared range, of which they are float32 levels.
    """

    def __init__(self, model: Network, declared: bool = False) -> None:
        self.model, self.declared = model, declared
        self._pixels: list[np.ndarray] = []

    def add(self, image: np.ndarray) -> None:
        """(H, W, D) uint8 or float32 levels, of which a part is kept; nothing once `IMAGES` are there."""
        if len(self._pixels) < IMAGES:
            self._pixels.append(image[::STEP, ::STEP].reshape(-1, image.shape[-1]).copy())

    @property
    def warning(self) -> str | None:
        """One sentence with numbers and what to set; None where nothing is grossly off, or no image has been seen."""
        if not self._pixels:
            return None
        pixels = np.concatenate(self._pixels)
        seen = f"in the first {len(self._pixels)} images"
        if self.declared and (wrong := _range_words(pixels)):
            return f"{wrong} {seen}; set image.range to the values that are black and white, and train again"
        x = self.model.normalise(torch.from_numpy(pixels.T[None, :, :, None]))[0]
        std, mean = float(x.var(dim=1, correction=0).mean().sqrt()), float(x.mean())  # std within a band
        blank = float(np.nanmax(pixels)) == float(np.nanmin(pixels))
        if blank or (std >= FLAT and abs(mean) <= FAR * std):
            return None
        levels = [tuple(round(value, 3) for value in values) for values in (self.model.mean, self.model.std)]
        return (
            f"{seen} the network's input has mean {mean:.3g} and standard deviation {std:.3g} once mean {levels[0]} and std "
            f"{levels[1]} are applied, so that it hardly sees the pictures; both are of values in 0..1: divide those of 0..255 "
            "by 255, and import the network again"
        )


def _range_words(pixels: np.ndarray) -> str | None:
    """What is wrong with the declared range, of (P, D) levels with NaN where there is no data."""
    known = pixels[~np.isnan(pixels)]
    if not known.size:
        return None
    if (clipped := float((known >= 255).mean())) > CLIPPED:
        return f"{clipped:.0%} of the values are at or above the high end of image.range"
    if 0 < (highest := float(known.max())) < DARK:
        return f"no value is above {highest / 255:.1%} of image.range"
    return None
