"""Features of grids of any dimension for `DenseCRF.add_kernel`, as pydensecrf's `create_pairwise_gaussian` and `_bilateral`.

Feature axes are in the order of the array's axes, (y, x) for images, as in these functions of pydensecrf. Its
`addPairwiseGaussian` and `addPairwiseBilateral`, and `add_gaussian` and `add_bilateral` here, use (x, y). The two orders give
different lattices: on photographs about 0.1 % of the labels differ. Code moved from pydensecrf should keep the order it used.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.crf.given import array_of, float32_of, widths_of
from pipeline.errors import UserError


def gaussian_features(px: float | Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """Return (P, d) float32: the positions of a grid of this shape, last axis fastest, divided by their widths.

    Args:
        px: standard deviation along each axis, in the order of `shape`, or one number for all axes.
    """
    widths = widths_of(px, len(shape), "px")
    places = np.indices(tuple(shape), np.float32).reshape(len(shape), -1)
    return np.ascontiguousarray((places / np.array(widths, np.float32)[:, None]).T)


def bilateral_features(
    px: float | Sequence[float], levels: float | Sequence[float], image: np.ndarray, chdim: int = -1
) -> np.ndarray:
    """Return (P, d + channels) float32: positions and values of an image or volume of real numbers, divided by their widths.

    Args:
        px: see `gaussian_features`.
        levels: standard deviation of each channel, or one for all. chdim: the axis of the channels, or -1 if there is none.
    """
    pixels = array_of(image, "the image's pixels")
    if not -pixels.ndim <= chdim < pixels.ndim:
        raise UserError(
            f"dense CRF: chdim is {chdim} of an image {pixels.shape}; it must be one of its axes, or -1 for none"
        )
    channels = float32_of(pixels[None] if chdim == -1 else np.moveaxis(pixels, chdim, 0))
    widths = widths_of(levels, len(channels), "levels")
    colours = channels.reshape(len(channels), -1) / np.array(widths, np.float32)[:, None]
    return np.concatenate([gaussian_features(px, channels.shape[1:]), colours.T], axis=1)
