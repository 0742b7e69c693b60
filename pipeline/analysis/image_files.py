"""Copy images of a run out of their corpus, unchanged, as files for other programs."""

import io
import posixpath

from PIL import Image

from pipeline import storage
from pipeline.corpus import Item, Place, read
from pipeline.corpus.signed import is_signed
from pipeline.errors import Reject, UserError

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif"}
_TABLES = (".parquet",)  # members of these are columns, without a file name


def read_image(item: Item) -> bytes:
    """Read an image's file as the corpus stores it; UserError if it cannot be read again."""
    try:
        return read(item.image)
    except (Reject, OSError) as error:
        raise UserError(
            f"image '{item.image_id}' cannot be read again from {item.image.uri}: {error}; put it back where the run found it"
        ) from None


def file_name(item: Item, data: bytes) -> str:
    """Return `<image id><suffix>`, with the suffix of the image's file, or of its picture format if it is in a table.

    Raises:
        UserError: the id leads out of the folder, or the bytes are not a picture.
    """
    if leads_out(item.image_id):
        raise UserError(f"image '{item.image_id}' leads out of the folder; rename it and segment again")
    return item.image_id + (_stored_suffix(item.image) or _suffix_of(item.image_id, data))


def leads_out(image_id: str) -> bool:
    """Whether a file that is named after an image's id would lie outside its folder."""
    return ".." in image_id.split("/") or image_id.startswith("/")


def copy_image(item: Item, data: bytes, out: str) -> str:
    """Write an image's file below a folder or prefix, and return its path there."""
    name = file_name(item, data)
    storage.put(storage.join(out, name), data)
    return name


def _stored_suffix(place: Place) -> str:
    if place.uri.endswith(_TABLES):
        return ""
    path = place.uri if place.member is None or is_signed(place) else place.member
    return posixpath.splitext(path)[1]


def _suffix_of(image_id: str, data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data), formats=tuple(_SUFFIXES)) as picture:
            return _SUFFIXES[picture.format or ""]
    except Exception as error:  # damaged headers raise anything
        raise UserError(f"image '{image_id}' is no {', '.join(_SUFFIXES)} picture ({type(error).__name__})") from None
