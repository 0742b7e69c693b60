"""Bytes -> instance ids of 16 bits."""

import io

import numpy as np
from PIL import Image

from pipeline.errors import Reject


def decode_instances(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """(H, W) int32 ids of an instanceIds PNG.

    Args:
        size: (height, width) of the label beside it; another size is refused before any pixel is decoded.
    Raises:
        Reject: `not_an_image`, `label_size` or `corrupt`.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG",))
    except (OSError, SyntaxError, ValueError) as error:
        raise Reject(
            "label", "not_an_image", f"the instanceIds are no PNG ({type(error).__name__}); copy them again"
        ) from None
    if (picture.height, picture.width) != size:
        raise Reject(
            "label",
            "label_size",
            f"the instanceIds are {picture.height}x{picture.width}, the label {size[0]}x{size[1]} (height x width); "
            "re-export them",
        )
    try:
        return np.asarray(picture).astype(np.int32)
    except (OSError, SyntaxError, ValueError) as error:
        raise Reject("label", "corrupt", f"the instanceIds cannot be decoded ({error}); copy them again") from None
