"""Label Studio's encoding of a brush region: run lengths of RGBA bytes, packed into bits."""

import numpy as np

from pipeline.errors import UserError

_WORD_BITS, _RUN_BITS = 8, 16
_MAX_RUN = 1 << _RUN_BITS
_HEADER_BITS = 32


def encode_brush(region: np.ndarray) -> list[int]:
    """Encode a region (H, W) bool, row by row; a pixel inside is 255 in all four channels, outside 0.

    The header holds the number of values (32 bits), the bits per value minus one (5), and the bits per run length minus one
    for four kinds of runs (4 each), of which one is used. A run is a 1 (1 bit), its kind (2), its length minus one, its value.

    Raises:
        UserError: the region has 2^30 pixels or more, which the header cannot count.
    Source: rle-pack (https://thi.ng/rle-pack), as label_studio_sdk's converter/brush.py reads it.
    """
    if 4 * region.size >> _HEADER_BITS:
        raise UserError(f"Label Studio's brush masks are of less than 2^30 pixels, found {region.shape}; export as png")
    pixels = region.ravel()
    starts = np.flatnonzero(np.diff(pixels, prepend=not pixels[0]))
    lengths, values = _pieces(4 * np.diff(starts, append=pixels.size), pixels[starts])
    header = _bits([4 * pixels.size], _HEADER_BITS).ravel()
    sizes = [_bits([_WORD_BITS - 1], 5).ravel(), _bits([_RUN_BITS - 1] * 4, 4).ravel()]
    run = np.concatenate(
        [_bits([4] * len(lengths), 3), _bits(lengths - 1, _RUN_BITS), _bits(255 * values, _WORD_BITS)], axis=1
    )
    packed: list[int] = np.packbits(np.concatenate([header, *sizes, run.ravel()])).tolist()
    return packed


def _pieces(lengths: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split the runs that are too long for the encoding."""
    number = -(-lengths // _MAX_RUN)
    pieces = np.full(number.sum(), _MAX_RUN, np.int64)
    last = np.cumsum(number) - 1
    pieces[last] = lengths - (number - 1) * _MAX_RUN
    return pieces, np.repeat(values.astype(np.int64), number)


def _bits(numbers: "np.ndarray | list[int]", width: int) -> np.ndarray:
    """Return (numbers, width) uint8: the binary digits of each number, the highest first."""
    return (np.asarray(numbers, np.int64)[:, None] >> np.arange(width - 1, -1, -1) & 1).astype(np.uint8)
