"""COCO annotations (polygons and run lengths), drawn as class ids: instances_<split>.json, stuff_<split>.json, or any JSON of
that form, as labelling programs export it. The images are those that the JSON names."""

import re
from collections.abc import Iterator

from pipeline.config import CorpusConfig
from pipeline.corpus.files import scan_files
from pipeline.corpus.item import Item, Place
from pipeline.corpus.layouts.base import IMAGE_SUFFIX, Layout, Patterns
from pipeline.corpus.plain import read_plain
from pipeline.corpus.readers.coco import drawn_place, open_coco
from pipeline.errors import UserError

_EXPECTS = (
    "pictures, and a JSON in COCO's form: annotations/instances_<split>.json, <split>/_annotations.coco.json, or the one that "
    "corpus.labels names"
)
_PICTURE = re.compile(IMAGE_SUFFIX, re.I)
_JSON = re.compile(r"(?:^|/)(?:instances_(?P<split>\w+)|(?:(?P<folder>[^/]+)/)?_annotations\.coco)\.json$", re.I)
_ANY_JSON = re.compile(r"(?:^|/)(?:(?:instances|stuff)_(?P<split>\w+)|(?:(?P<folder>[^/]+)/)?[^/]*)\.json$", re.I)


def _patterns(cfg: CorpusConfig) -> Patterns:
    named = cfg.labels is not None and cfg.labels.endswith(".json")
    return Patterns(_PICTURE, _ANY_JSON if named else _JSON, _EXPECTS)


def _rows(cfg: CorpusConfig) -> Iterator[Item]:
    label = _patterns(cfg).label
    assert label is not None
    pictures = {path: place for path, place in scan_files(cfg.images) if _PICTURE.search(path)}
    by_tail = _tails(pictures)
    for path, described in scan_files(cfg.labels or cfg.images):
        if found := label.search(path):
            require_pycocotools()
            yield from _items(cfg, found["split"] or found["folder"], described, pictures, by_tail)


def _items(
    cfg: CorpusConfig, split: str | None, described: Place, pictures: dict[str, Place], by_tail: dict[str, str | None]
) -> Iterator[Item]:
    """Yield the images of one JSON; none if none of its pictures exists, as for a split that was not downloaded."""
    images = open_coco(described, read_plain).images
    paths = {number: _picture(name, split, by_tail) for number, (name, _, _) in images.items()}
    missing = [images[number][0] for number, path in paths.items() if path is None]
    if missing and len(missing) < len(images):
        raise UserError(
            f"corpus {cfg.images}: {described.member or described.uri} names {len(missing)} pictures that are not there, or "
            f"more than once, e.g. '{missing[0]}'; add them, or export the JSON again without them"
        )
    for number, path in paths.items():
        if path is not None:
            image_id = "/".join(part for part in (split, images[number][0].rsplit(".", 1)[0]) if part)
            groups = {"split": split} if split else {}
            yield Item(image_id, pictures[path], drawn_place(described, number), groups)


def _tails(paths: dict[str, Place]) -> dict[str, str | None]:
    """Return each path by all its trailing parts, split at slashes; None for a part that two paths share."""
    found: dict[str, str | None] = {}
    for path in paths:
        parts = path.split("/")
        for start in range(len(parts)):
            tail = "/".join(parts[start:])
            found[tail] = None if tail in found else path
    return found


def _picture(name: str, split: str | None, by_tail: dict[str, str | None]) -> str | None:
    """Return the picture that a JSON names, preferably in the folder of its split; None if there is none."""
    parts = name.replace("\\", "/").split("/")
    names = ["/".join(parts[start:]) for start in range(len(parts))]  # only the end of a longer path may exist here
    wanted = [f"{split}/{end}" for end in names if split] + names
    return next((path for end in wanted if (path := by_tail.get(end)) is not None), None)


def require_pycocotools() -> None:
    """Raise UserError if pycocotools is not installed."""
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError:
        raise UserError("polygons and runs are drawn by pycocotools: pip install 'maskmill[coco]'") from None


LAYOUT = Layout("coco_json", patterns=_patterns, rows=_rows, guessed=True)
