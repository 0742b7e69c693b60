"""Mask <-> bytes: a lossless 8-bit grey PNG that every tool reads."""

import io

import numpy as np
from PIL import Image


def encode_mask(mask: np.ndarray) -> bytes:
    """PNG of a mask (H, W) uint8; the same mask always gives the same bytes."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, format="PNG", compress_level=1)
    return file.getvalue()


def decode_mask(data: bytes) -> np.ndarray:
    """(H, W) uint8 of a mask's PNG."""
    return np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)))
