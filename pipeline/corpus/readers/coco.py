"""Labels that COCO's JSON files describe, read as if each were a PNG of stored ids (the category ids of the file).

Panoptic labels are a picture of segment ids (R + 256 G + 65536 B) whose categories are in the JSON. Annotations are polygons
and run lengths, drawn with pycocotools: first crowds, as 255 (ignore), then the others from the largest to the smallest, so
that small objects are drawn over large ones, and of two with equal size the later one over the earlier. A pixel without an
annotation is 0, or 255 if a category has the id 0.

The place of such a label is that of the picture or of the JSON, with instructions appended to its URI:
`<png>#coco_panoptic=<etag of the json>|<json>` and `<json>#coco_json=<id of the image>`.
"""

import io
import json
import re
import threading
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from pipeline.corpus.item import MADE, Place
from pipeline.corpus.readers.siblings import members_of
from pipeline.errors import Reject, UserError
from pipeline.labels.label_space import MAX_VALUE

Read = Callable[[Place], bytes]
_MARK = re.compile(r"(?P<uri>.*)#(?P<kind>coco_panoptic|coco_json)=(?P<value>.*)", re.S)
_ARCHIVED = re.compile(r"(?P<uri>.*\.(?:zip|tar))!(?P<member>.*)", re.S | re.I)
_SPACE = re.compile(r"[ \t\r\n]*")
_CROWD = 255


def panoptic_place(picture: Place, description: Place) -> Place:
    """Return the place of a label that is a picture of segments, described by a JSON file."""
    json_uri = description.uri if description.member is None else f"{description.uri}!{description.member}"
    return Place(f"{picture.uri}#coco_panoptic={description.etag or ''}|{json_uri}", *picture.values[1:])


def drawn_place(description: Place, image: int | str) -> Place:
    """Return the place of a label that is drawn from the annotations of an image in a JSON file."""
    return Place(f"{description.uri}#coco_json={image}", description.member, etag=description.etag)


def is_coco(place: Place) -> bool:
    """Whether a place is a label that a JSON describes."""
    return MADE in place.uri and _MARK.fullmatch(place.uri) is not None


def sources_of(uri: str) -> tuple[str, ...]:
    """Return the URIs of the files that a label is made from; any other URI alone."""
    if MADE not in uri or (parts := _MARK.fullmatch(uri)) is None:
        return (uri,)
    if parts["kind"] == "coco_json":
        return (parts["uri"],)
    json_uri = parts["value"].partition("|")[2]
    archived = _ARCHIVED.fullmatch(json_uri)
    return parts["uri"], archived["uri"] if archived else json_uri


def read_coco(place: Place, read: Read) -> bytes:
    """Return the label as a PNG of stored ids; `read` reads the bytes of an ordinary place.

    Raises:
        Reject: `corrupt`, the JSON or an annotation is not in COCO's form, or does not fit the picture; or as in `read`.
    """
    parts = _MARK.fullmatch(place.uri)
    assert parts is not None
    if parts["kind"] == "coco_json":
        return _png(_drawn(_opened(_within(parts["uri"], place), read), parts["value"], place.uri))
    etag, _, json_uri = parts["value"].partition("|")
    archived = _ARCHIVED.fullmatch(json_uri)
    json_place = (
        _within(archived["uri"], Place("", archived["member"])) if archived else Place(json_uri, etag=etag or None)
    )
    picture = read(Place(parts["uri"], *place.values[1:]))
    name = (place.member or parts["uri"]).rsplit("/", 1)[-1]
    return _png(_categories(picture, _opened(json_place, read), name, place.uri))


class CocoFile:
    """A JSON in COCO's form: its text, with the positions of each image's annotations in it.

    The text is kept, and only one image is parsed at a time. This takes 1.2 times the file's bytes of memory, and 2 times while
    the file is read (instances_train2017.json has 450 MB); parsing it at once would take 5 and 6 times.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self.images: dict[str, tuple[str, int, int]] = {}  # id -> file name, height, width
        self._spans: dict[str, array[int]] = {}  # image id, or name of the picture of segments -> start, end, ...
        self.has_zero = self.is_deep = False  # whether a category is 0; whether one needs more than 8 bits
        for key, value, start, end in _elements(text):
            if key == "images":
                size = int(value.get("height", 0)), int(value.get("width", 0))
                self.images[str(value["id"])] = (str(value["file_name"]), *size)
            elif key == "annotations":
                of = value["file_name"] if "segments_info" in value else value["image_id"]
                self._spans.setdefault(str(of), array("q")).extend((start, end))
                for part in value.get("segments_info", (value,)):
                    category = int(part["category_id"])
                    if not 0 <= category <= MAX_VALUE:
                        raise ValueError(f"category_id {category}; ids of classes are 0..{MAX_VALUE}")
                    if "segments_info" in value and not 0 <= part["id"] < 1 << 24:
                        raise ValueError(f"segment {part['id']}; ids of segments are 0..{(1 << 24) - 1}")
                    self.has_zero |= category == 0
                    self.is_deep |= category >= _CROWD

    @property
    def nothing(self) -> int:
        """The stored id of pixels without an annotation."""
        return _CROWD if self.has_zero else 0

    def annotations(self, of: str) -> list[dict[str, Any]]:
        """Return the annotations of an image, in the file's order."""
        spans = self._spans.get(of, array("q"))
        return [json.loads(self._text[start:end]) for start, end in zip(spans[::2], spans[1::2], strict=True)]


def _elements(text: str) -> Iterator[tuple[str, Any, int, int]]:
    """Yield (key, element, start, end) of every element of the lists in a JSON object; ValueError if it is not an object."""
    decode, at = json.JSONDecoder().raw_decode, _after(text, 0, "{")
    while text[at : at + 1] != "}":
        key, at = decode(text, at)
        at = _after(text, at, ":")
        if text[at : at + 1] == "[":
            at = _after(text, at, "[")
            while text[at : at + 1] != "]":
                value, end = decode(text, at)
                yield key, value, at, end
                at = _next(text, end, "]")
            at = _next(text, at + 1, "}")
        else:
            at = _next(text, decode(text, at)[1], "}")


def _after(text: str, at: int, letter: str) -> int:
    """Return where the next value starts, after a character that must come next."""
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it also matches the empty string
    if text[at : at + 1] != letter:
        raise ValueError(f"no {letter} at letter {at}")
    return _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]


def _next(text: str, at: int, end: str) -> int:
    """Return where the next element starts, or where the list or the object ends."""
    at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
    return at if text[at : at + 1] == end else _after(text, at, ",")


_held: dict[tuple[str, str | None, str | None], CocoFile] = {}  # cache of this process
_opening = threading.Lock()


def _opened(place: Place, read: Read) -> CocoFile:
    key = place.uri, place.member, place.etag
    with _opening:
        if key not in _held:
            try:
                found = CocoFile(read(place).decode())
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise Reject("read", "corrupt", f"{_shown(place)}: not a JSON in COCO's form ({error!r})") from None
            while len(_held) >= 4:
                del _held[next(iter(_held))]
            _held[key] = found
        return _held[key]


def open_coco(place: Place, read: Read) -> CocoFile:
    """Open a JSON file of a corpus; UserError if it is not in COCO's form."""
    try:
        return _opened(place, read)
    except Reject as error:
        raise UserError(f"corpus {error}; export it again") from None


def _categories(data: bytes, described: CocoFile, name: str, where: str) -> np.ndarray:
    """Return the (H, W) category ids of a picture of segments."""
    try:
        colours = np.asarray(Image.open(io.BytesIO(data), formats=("PNG",)).convert("RGB"), np.uint32)
    except Exception as error:  # Pillow raises many types for bytes that are not a picture
        raise Reject("label", "corrupt", f"{where}: the picture of segments cannot be decoded ({error})") from None
    segments = [part for one in described.annotations(name) for part in one["segments_info"]]
    if not segments and not described.annotations(name):
        raise Reject("label", "not_found", f"{where}: the JSON describes no picture {name}")
    drawn = colours @ np.array([1, 256, 65536], np.uint32)
    ids = np.array([0, *(part["id"] for part in segments)], np.uint32)
    values = np.array([described.nothing, *(part["category_id"] for part in segments)])
    order = np.argsort(ids, kind="stable")
    ids, values = ids[order], values[order]
    at = np.searchsorted(ids, drawn).clip(max=len(ids) - 1)
    if (unknown := ids[at] != drawn).any():
        raise Reject(
            "label", "corrupt", f"{where}: segment {drawn[unknown][0]} of the picture is not described in the JSON"
        )
    return values[at].astype(np.uint16 if described.is_deep else np.uint8)


def _drawn(described: CocoFile, image: str, where: str) -> np.ndarray:
    """Return the (H, W) category ids of an image's polygons and run lengths."""
    from pycocotools import mask as runs

    if image not in described.images:
        raise Reject("label", "not_found", f"{where}: the JSON describes no image {image}")
    _, height, width = described.images[image]
    if height < 1 or width < 1:
        raise Reject(
            "label", "corrupt", f"{where}: the JSON gives the image no height and width; export it again with them"
        )
    canvas = np.full((height, width), described.nothing, np.uint16 if described.is_deep else np.uint8)
    shapes: list[tuple[bool, int, int, Any]] = []
    for one in described.annotations(image):
        if shape := one.get("segmentation"):
            try:
                coded = _runs(shape, height, width)
                shapes.append((not one.get("iscrowd"), -int(runs.area(coded)), int(one["category_id"]), coded))
            except Exception as error:  # pycocotools checks its input poorly
                raise Reject(
                    "label", "corrupt", f"{where}: annotation {one.get('id')} cannot be drawn ({error!r})"
                ) from None
    for is_one, _, category, coded in sorted(shapes, key=lambda shape: shape[:2]):
        canvas[runs.decode(coded) != 0] = category if is_one else _CROWD
    return canvas


def _runs(shape: Any, height: int, width: int) -> Any:
    """Convert polygons, or run lengths as numbers or text, to pycocotools' compressed run lengths."""
    from pycocotools import mask as runs

    if isinstance(shape, list):
        return runs.merge(runs.frPyObjects(shape, height, width))
    if list(shape["size"]) != [height, width]:
        raise ValueError(f"its size is {shape['size']}, the image's {[height, width]}")
    return runs.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape


def _png(ids: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(ids).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _shown(place: Place) -> str:
    return f"{place.uri} member '{place.member}'" if place.member else place.uri


def _within(uri: str, place: Place) -> Place:
    """Return the place of a JSON file or of a member of an archive."""
    if place.member is None:
        return Place(uri, etag=place.etag)
    if (found := members_of(uri).get(place.member)) is None:
        raise Reject("read", "not_found", f"{uri}: it holds no '{place.member}'; restore it, or plan the run anew")
    return found
