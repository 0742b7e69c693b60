"""Decode PNGs of 16-bit instance ids."""

import sys

import numpy as np

from pipeline.errors import Reject
from pipeline.imaging.decode import open_header


def decode_instances(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """Return the ids (H, W) int32 of an instanceIds PNG.

    Args:
        size: (height, width) of the image's label; another size is refused before any pixel is decoded.
    Raises:
        Reject: `not_an_image`, `label_size` or `corrupt`.
    """
    picture = open_header(data, sys.maxsize)
    if picture.format != "PNG":
        raise Reject("label", "not_an_image", f"the instanceIds are a {picture.format}, not a PNG; copy them again")
    if (picture.height, picture.width) != size:
        raise Reject(
            "label",
            "label_size",
            f"the instanceIds are {picture.height}x{picture.width}, the label {size[0]}x{size[1]} (height x width); "
            "re-export them",
        )
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:  # raised by the decoder
        raise Reject("label", "corrupt", f"the instanceIds cannot be decoded ({error}); copy them again") from None
    return np.asarray(picture).astype(np.int32)
