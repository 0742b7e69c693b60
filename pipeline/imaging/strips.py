"""Decode pictures that are too large for memory some rows at a time, from the top. Letters: H rows, W columns."""

import numpy as np

from pipeline.errors import Reject, UserError
from pipeline.imaging.decode import check_end, open_header, orientation_tag, require_8_bits

FORMATS = ("PNG", "JPEG", "TIFF")  # those that libvips can decode from the top down
_CHUNK_ROWS = 64  # rows requested from the decoder at once


class Strips:
    """An open PNG, JPEG or TIFF with 8 bits per channel.

    Args:
        ids: True for a label, grey values (H, W); False for an image, (H, W, 3) RGB without alpha, palettes as colours.
    Raises:
        Reject: as in `decode_image` and `decode_label`, or `unsupported_mode` if the picture can only be decoded whole.
        UserError: libvips is not installed.
    """

    def __init__(self, data: bytes, max_pixels: int, ids: bool = False) -> None:
        header = open_header(data, max_pixels)
        check_end(header, data)
        self.height, self.width = header.height, header.width
        if ids and header.mode != "L":
            raise Reject(
                "decode",
                "label_not_indexed",
                f"the label of a streamed image is 8-bit grey, or RGB where its label space has colours; found mode "
                f"{header.mode}: store class ids",
            )
        if not ids:
            require_8_bits(header)
        if header.format not in FORMATS or header.mode not in ("L", "LA", "P", "RGB", "RGBA"):
            raise Reject(
                "decode",
                "unsupported_mode",
                f"a {header.format} of mode {header.mode} cannot be read in strips; store it as {', '.join(FORMATS)} in RGB, "
                "or raise stream_above_pixels",
            )
        if not ids and orientation_tag(header) != 1:
            raise Reject(
                "decode",
                "unsupported_mode",
                "the image has an EXIF orientation and cannot be turned in strips; store it upright",
            )
        self._shape = (self.width,) if ids else (self.width, 3)
        self._region = _region(data, ids)
        self._first, self._kept = 0, np.empty((0, *self._shape), np.uint8)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Return rows (bottom - top, W) or (bottom - top, W, 3) uint8; `top` and `bottom` may never decrease.

        Raises:
            Reject: `truncated` or `corrupt`.
        """
        import pyvips

        have = self._first + len(self._kept)
        assert self._first <= top <= have <= bottom <= self.height, "rows are read once, from the top down"
        found = np.empty((bottom - top, *self._shape), np.uint8)
        found[: have - top] = self._kept[top - self._first :]
        for row in range(have, bottom, _CHUNK_ROWS):
            count = min(_CHUNK_ROWS, bottom - row)
            try:
                pixels = self._region.fetch(0, row, self.width, count)
            except pyvips.Error as error:
                sentence = " ".join(str(error).split())
                reason = "truncated" if "truncated" in sentence or "premature" in sentence.lower() else "corrupt"
                raise Reject(
                    "decode", reason, f"the picture cannot be decoded at row {row} ({sentence}); copy it again"
                ) from None
            found[row - top : row - top + count] = np.frombuffer(pixels, np.uint8).reshape(count, *self._shape)
        self._first, self._kept = top, found
        return found

    def __enter__(self) -> "Strips":
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing; only `Windows` has a file to close."""

    def levels(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows unchanged; only `Windows` scales stored values."""
        return rows

    def void(self, top: int, bottom: int) -> np.ndarray | None:
        """Return None: every pixel of an 8-bit picture has data."""
        return None

    georeference: str | None = None  # as in `Windows`: 8-bit pictures have none


def _region(data: bytes, ids: bool):  # type: ignore[no-untyped-def]  # libvips' wrapper has no types
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise UserError(
            f"stream_above_pixels needs libvips ({error}); run: pip install 'maskmill[stream]', on every node"
        ) from None
    pyvips.vips_lib.vips_concurrency_set(1)  # leave the cores to the model
    pyvips.cache_set_max(0)
    try:
        image = pyvips.Image.new_from_buffer(data, "", access="sequential", fail_on="error")
    except pyvips.Error as error:
        sentence = " ".join(str(error).split())
        raise Reject("decode", "corrupt", f"the picture cannot be decoded ({sentence}); copy it again") from None
    if not ids:
        image = image.colourspace("srgb")
        image = image.extract_band(0, n=3) if image.bands > 3 else image
    elif image.bands > 1:  # grey with a transparent value
        image = image.extract_band(0)
    return pyvips.Region.new(image.cast("uchar"))
