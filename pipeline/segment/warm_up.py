"""Load in advance what a process would load at its first image."""

import numpy as np

from pipeline.imaging.decode import decode_image
from pipeline.imaging.mask_png import encode_mask
from pipeline.predict.upsample_argmax import enlarge_argmax


def warm_up() -> None:
    """Load the decoder, and Numba with a first kernel, which takes half a second; further kernels take 10 ms each."""
    decode_image(encode_mask(np.zeros((2, 2), np.uint8)), 4)
    enlarge_argmax(np.zeros((2, 2, 2), np.float32), (4, 4), (4, 4))
