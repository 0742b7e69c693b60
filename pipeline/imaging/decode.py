"""Decode image and label files to uint8 pixels, or reject them with a reason.

Reasons, as in the table of rejects: `empty`, `not_an_image`, `truncated`, `corrupt`, `too_large`, `unsupported_mode`,
`label_not_indexed`, `label_out_of_range`.
"""

import io
import threading
import warnings
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, TiffImagePlugin

from pipeline.errors import Reject

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")  # excludes formats that run an interpreter (EPS) or old parsers
_EXIF_ORIENTATION = 0x0112
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
_MARKS = {"transparency", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}  # `info` keys a plain PNG does not have
_JPEG_DIVISORS = (8, 4, 2)  # by which libjpeg can reduce the sides while it decodes
_BIT_DEPTH_16 = ("I;16", "I;16B", "I;16L", "I", "F")
_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL = 258, 277  # TIFF 6.0, section 8

# EXIF orientation: counter-clockwise quarter turns, then whether to mirror left and right (EXIF 2.32, 4.6.4 A).
_TURNS = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False), 7: (1, True), 8: (1, False)}

_limit_lock = threading.Lock()


_NO_MEMORY = Reject(
    "decode",
    "out_of_memory",
    "the worker's memory does not hold this image's pixels; give the worker more and run `maskmill retry-rejects`, or "
    "lower max_pixels",
)


def decode_image(data: bytes, max_pixels: int) -> np.ndarray:
    """Return an image as (H, W, 3) uint8 RGB, upright (EXIF orientation applied).

    Grey, palette and CMYK images are converted to RGB, alpha is dropped, and an animation gives its first frame.

    Raises:
        Reject: with its reason; 16-bit and float images are refused, since their range is not known.
    """
    return decode_oriented(data, max_pixels)[0]


def decode_oriented(data: bytes, max_pixels: int) -> tuple[np.ndarray, int]:
    """Return the result of `decode_image` and the EXIF orientation 1..8 that was applied; 1 means stored upright."""
    return _decoded(open_header(data, max_pixels), data)


def _decoded(picture: Image.Image, data: bytes) -> tuple[np.ndarray, int]:
    """Return what `decode_oriented` does, of a picture whose header was read."""
    require_8_bits(picture)
    pixels = _by_torchcodec(picture, data)
    if pixels is not None:
        return pixels, 1
    before = orientation_tag(picture) if picture.format == "TIFF" else 1  # Pillow applies it while decoding
    picture = _load(picture, data)
    left = orientation_tag(picture)  # read after decoding: a PNG's tag may follow its pixels
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    return upright(np.asarray(picture), left), before if left == 1 else left


def decode_reduced(data: bytes, max_pixels: int, scale: float) -> tuple[np.ndarray, int, tuple[int, int]]:
    """Return the result of `decode_oriented`, of a JPEG at reduced size, and the upright (height, width) of the whole picture.

    A JPEG is reduced to 1/2, 1/4 or 1/8, the smallest that is not below `scale`: libjpeg omits the higher frequencies of each
    block. Other formats, and scales above 1/2, give all pixels.
    """
    picture = open_header(data, max_pixels)
    divisor = next((n for n in _JPEG_DIVISORS if scale * n <= 1), 1)
    if picture.format != "JPEG" or divisor == 1:
        pixels, orientation = _decoded(picture, data)
        return pixels, orientation, (pixels.shape[0], pixels.shape[1])
    width, height = picture.size
    picture.draft(None, (max(1, width // divisor), max(1, height // divisor)))
    orientation = orientation_tag(picture)
    size = (width, height) if _TURNS.get(orientation, (0, False))[0] % 2 else (height, width)
    return upright(np.asarray(_load(picture, data).convert("RGB")), orientation), orientation, size


def stored_orientation(data: bytes, max_pixels: int) -> int:
    """Return the EXIF orientation 1..8 of a stored image, as `decode_oriented` does; decode pixels only if necessary.

    Raises:
        Reject: the bytes are not an image, or it has too many pixels.
    """
    picture = open_header(data, max_pixels)
    if picture.format == "PNG" and (b"eXIf" in data or picture.info.keys() & _MARKS):
        picture = _load(picture, data)  # the tag may follow the pixels
    return orientation_tag(picture)


def decode_label(data: bytes, max_pixels: int, ids: bool = True, colours: bool = False) -> np.ndarray:
    """Return the values of a label picture as stored, without applying an EXIF orientation, since that of its image counts.

    Args:
        ids: grey values and palette indices (not the palette's colours) are ids.
        colours: colour pictures are allowed; grey and palette pictures give their colours unless they are ids.
    Returns:
        (H, W) uint8 or int32 ids, or (H, W, 3) uint8 colours; alpha is dropped.
    Raises:
        Reject: `label_not_indexed` for colour pictures if they are not allowed, or a reason as for images.
    """
    picture = open_header(data, max_pixels)
    turned = orientation_tag(picture) if picture.format == "TIFF" else 1  # Pillow applies it while decoding
    if picture.mode in ("L", "P", "1", *_BIT_DEPTH_16[:4]) and (ids or not colours):
        stored = np.asarray(_load(picture, data))
        return as_stored(stored if stored.dtype == np.uint8 else stored.astype(np.int32), turned)
    if not colours:
        raise _not_indexed(picture)
    require_8_bits(picture)
    return as_stored(np.asarray(_load(picture, data).convert("RGB")), turned)


def _not_indexed(picture: Image.Image) -> Reject:
    return Reject(
        "decode",
        "label_not_indexed",
        f"the label is a colour picture (mode {picture.mode}); store class ids, not colours, or say in label_space which "
        "colour means which class: `colour_labels: true`, or `stored_colours` of each class",
    )


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Return stored pixels (H, W, ...) turned upright by the EXIF orientation, as for a label or mask of a decoded image."""
    rotated, mirrored = _TURNS.get(orientation, (0, False))
    turned = np.rot90(stored, rotated)
    return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)


def as_stored(seen: np.ndarray, orientation: int) -> np.ndarray:
    """Return upright pixels in the stored orientation: the inverse of `upright`."""
    rotated, mirrored = _TURNS.get(orientation, (0, False))
    return np.ascontiguousarray(np.rot90(seen[:, ::-1] if mirrored else seen, -rotated))


def open_header(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header of an image and check its size, without decoding pixels."""
    if not data:
        raise Reject("decode", "empty", "the file is empty; copy it again")
    try:
        picture = open_of_any_size(data, FORMATS)
    except MemoryError:
        raise _NO_MEMORY from None
    except Exception as error:  # on hostile headers, parsers raise errors of any class
        if words := _deep_tiff(data):
            raise _not_declared(words) from None
        raise Reject(
            "decode",
            "not_an_image",
            f"no {', '.join(FORMATS)} image (it starts with {quoted(data[:12])}): {type(error).__name__}",
        ) from None
    require_size(picture.height, picture.width, max_pixels)
    return picture


def require_size(height: int, width: int, max_pixels: int) -> None:
    """Raise Reject if an image has too many pixels."""
    if width * height > max_pixels:
        raise Reject(
            "decode",
            "too_large",
            f"{height}x{width} pixels (height x width) are more than max_pixels {max_pixels}; "
            "raise max_pixels, or cut the image into tiles",
        )


def require_8_bits(picture: Image.Image) -> None:
    """Raise Reject if an image has more than 8 bits per channel, since its range is not known.

    Pillow's mode shows this only for grey images; of images with colours or alpha, Pillow would keep the upper byte.
    """
    words = f"mode {picture.mode}"
    deep = picture.mode in _BIT_DEPTH_16
    if picture.format == "PNG":
        raw = next((tile.args for tile in getattr(picture, "tile", ())), "")
        deep, words = deep or ";16" in str(raw), str(raw) or words
    elif picture.format == "TIFF":
        bits = picture.tag_v2.get(_BITS_PER_SAMPLE, (1,))  # type: ignore[attr-defined]
        most = max(bits) if isinstance(bits, tuple) else bits
        deep, words = deep or most > 8, f"{words}, {most} bits"
    if deep:
        raise _not_declared(f"more than 8 bits a channel ({words})")


def _not_declared(what: str) -> Reject:
    return Reject(
        "decode",
        "unsupported_mode",
        f"the image has {what}, and what they mean is not declared; convert it to 8 bits, or train with its bands and range: "
        "image: {bands: [1], range: [0, 4095]}",
    )


def _deep_tiff(data: bytes) -> str | None:
    """Return the bands and bits, in words, of a TIFF for which Pillow has no mode; None for any other file."""
    start = 16 if data[2:4] in (b"+\0", b"\0+") else 8  # BigTIFF's header is longer
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:start])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits = tags[_BITS_PER_SAMPLE]
        return f"{tags.get(_SAMPLES_PER_PIXEL, 1)} bands of {max(bits)} bits"
    except Exception:  # of any class, as in `open_header`
        return None


def open_of_any_size(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    """Read the header of an image without Pillow's size limit, which is global; callers must check the size themselves."""
    with _limit_lock, warnings.catch_warnings():
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(io.BytesIO(data), formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def orientation_tag(picture: Image.Image) -> int:
    """Return the EXIF orientation 1..8 from what has been read of the file; 1 if there is none."""
    try:
        # Not the PNG class's own `getexif`, which decodes all pixels first to look for a tag behind them.
        found = Image.Image.getexif(picture).get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged tag table; viewers show such a picture as stored, so it counts as upright
        return 1
    return found if found in _TURNS else 1


def _by_torchcodec(picture: Image.Image, data: bytes) -> np.ndarray | None:
    """Return the pixels (H, W, 3) of a plain PNG or JPEG, the same as Pillow's in a sixth less time; None: use Pillow.

    Files that torchcodec refuses go to Pillow too, so that Pillow determines every outcome and reason.
    """
    if picture.mode not in ("RGB", "L") or picture.format not in ("PNG", "JPEG"):
        return None
    # A PNG's orientation tag may be in any of `_MARKS`, or in a chunk behind the pixels.
    turned = (
        b"eXIf" in data or picture.info.keys() & _MARKS if picture.format == "PNG" else orientation_tag(picture) != 1
    )
    if turned:
        return None
    check_end(picture, data)
    decoders = _torchcodec()
    if decoders is None:
        return None
    try:
        pixels: Any = (decoders.decode_png if picture.format == "PNG" else decoders.decode_jpeg)(data, mode="RGB")
    except Exception:
        return None
    rows: np.ndarray = pixels.permute(1, 2, 0).numpy()
    return np.ascontiguousarray(rows) if rows.shape == (picture.height, picture.width, 3) else None


@cache
def _torchcodec() -> Any:
    """Return torchcodec's decoders, or None if it is missing or built for another torch; imported late, as it needs torch."""
    try:
        from torchcodec import decoders
    except (ImportError, OSError, RuntimeError):
        return None
    return decoders if hasattr(decoders, "decode_png") else None


def check_end(picture: Image.Image, data: bytes) -> None:
    """Raise Reject if the file has no end mark, since Pillow fills missing rows of some truncated files with grey."""
    if (picture.format == "PNG" and _PNG_END not in data[-4096:]) or (
        picture.format == "JPEG" and _JPEG_END not in data[-4096:]
    ):
        raise Reject("decode", "truncated", f"the {picture.format} has no end mark; copy it again")


def _load(picture: Image.Image, data: bytes) -> Image.Image:
    check_end(picture, data)
    try:
        picture.load()
    except MemoryError:
        raise _NO_MEMORY from None
    except Exception as error:  # of any class: zlib.error, SyntaxError, struct.error, OSError, ...
        reason = "truncated" if "truncated" in str(error) else "corrupt"
        raise Reject("decode", reason, f"the {picture.format} cannot be decoded ({error}); copy it again") from None
    return picture


def quoted(data: bytes) -> str:
    """Return bytes as text for a message, in single quotes in every case; `repr` uses double ones if the text contains a '."""
    return "'" + data.decode("latin-1").encode("unicode_escape").decode("ascii") + "'"
