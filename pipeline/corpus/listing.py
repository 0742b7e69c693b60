"""Corpus -> its items, sorted: which images there are, and which label belongs to each."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline import storage
from pipeline.config import CorpusConfig
from pipeline.corpus.index import Catalogue
from pipeline.corpus.item import Item, Place
from pipeline.corpus.layouts import LAYOUTS
from pipeline.corpus.readers.tar import is_tar, scan_tar
from pipeline.corpus.readers.zip import is_zip, scan_zip
from pipeline.errors import UserError

_HIDDEN = ("__MACOSX", ".")


def list_files(uri: str) -> dict[str, Place]:
    """path -> place of every file of a prefix, a zip or a tar, sorted; UserError as `scan_files`."""
    return dict(sorted(scan_files(uri)))


def scan_files(uri: str) -> Iterator[tuple[str, Place]]:
    """(path, place) of every file of a prefix, a zip or a tar, as they come; hidden files and folders are left out.

    Tars below a prefix (WebDataset shards) are looked into: their members' paths begin with the tar's, without its suffix.

    Raises:
        UserError: nothing is there, or a file's name is not UTF-8.
    """
    for path, place in _scan(uri):
        if not path.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in path):
            raise UserError(
                f"corpus {uri}: the file name {path.encode(errors='surrogateescape')!r} is not UTF-8; rename it"
            )
        if not any(part.startswith(_HIDDEN) for part in path.split("/")):
            yield path, place


def _scan(uri: str) -> Iterator[tuple[str, Place]]:
    if is_zip(uri):
        yield from scan_zip(uri)
    elif is_tar(uri):
        yield from scan_tar(uri)
    else:
        file = None
        for file in storage.scan(uri):
            if is_tar(file.path):
                yield from ((f"{file.path[: -len('.tar')]}/{path}", place) for path, place in scan_tar(file.uri))
            else:
                yield file.path, Place(file.uri, bytes=file.bytes, etag=file.etag)
        if file is None:
            raise UserError(f"corpus {uri}: there is no file; check the path or the bucket and its credentials")


def list_items(cfg: CorpusConfig, split: str | None) -> list[Item]:
    """`scan_items` in a list."""
    return list(scan_items(cfg, split))


def scan_items(cfg: CorpusConfig, split: str | None) -> "Listing":
    """Every image of a split (None: of the corpus) with its label where there is one; memory does not grow with them.

    Sorted by image id; those of Parquet files in the files' order, so that neighbours lie in one row group.

    Raises:
        UserError: nothing is there or nothing matches the layout, the split is unknown, or two files are one image.
    """
    layout = LAYOUTS[cfg.layout]
    catalogue = _from_tables(cfg) if layout.rows else _from_files(cfg)
    splits = catalogue.splits()
    if split is not None and split not in splits:
        known = (
            f"choose one of {', '.join(splits)}" if splits else f"layout '{cfg.layout}' has none: leave the split out"
        )
        raise UserError(f"corpus {cfg.images}: split '{split}' is not there; {known}")
    return Listing(catalogue.items(split, layout.keeps_order), catalogue.group_fields)


@dataclass(frozen=True)
class Listing:
    """The items of a corpus, each given once, and the columns of their groups."""

    items: Iterator[Item]
    group_fields: tuple[pa.Field, ...]

    def __iter__(self) -> Iterator[Item]:
        return self.items


def unmatched_labels(cfg: CorpusConfig) -> list[str]:
    """Paths of labels without an image, by what would be its id."""
    patterns = LAYOUTS[cfg.layout].patterns
    if patterns is None or patterns(cfg).label is None:
        return []
    root = (cfg.labels or cfg.images) + "/"
    return [place.member or place.uri.removeprefix(root) for place in _from_files(cfg).labels_without_image()]


def _from_tables(cfg: CorpusConfig) -> Catalogue:
    catalogue, rows, item = Catalogue(cfg.images, rows=True), LAYOUTS[cfg.layout].rows, None
    assert rows is not None
    for item in rows(cfg.images):
        catalogue.add_image(item)
    if item is None:
        raise UserError(f"corpus {cfg.images}: there is no row in it; check the path or the bucket and its credentials")
    return catalogue


def _from_files(cfg: CorpusConfig) -> Catalogue:
    layout, catalogue = LAYOUTS[cfg.layout], Catalogue(cfg.images)
    assert layout.patterns is not None
    patterns = layout.patterns(cfg)
    apart = cfg.labels is not None and cfg.labels != cfg.images
    seen = _Seen(cfg.images)
    for path, place in scan_files(cfg.images):
        seen.add(path)
        if found := patterns.image.search(path):
            seen.matched += 1
            image_id, groups = layout.key(found)
            catalogue.add_image(Item(image_id, place, None, groups))
        if not apart and patterns.label and (found := patterns.label.search(path)):
            catalogue.add_label(layout.key(found)[0], place)
    if not seen.matched:
        raise UserError(
            f"corpus {seen} matches layout '{cfg.layout}' ({patterns.expects}); "
            f"found e.g. {seen.examples}: choose another layout or URI"
        )
    if cfg.labels and apart:
        seen = _Seen(cfg.labels)
        for path, place in scan_files(cfg.labels):
            seen.add(path)
            if patterns.label and (found := patterns.label.search(path)):
                catalogue.add_label(layout.key(found)[0], place)
    if cfg.labels and not catalogue.has_pair():
        raise UserError(
            f"corpus labels {seen} is the label of an image ({patterns.expects}); "
            f"found e.g. {seen.examples}: choose another URI, or leave corpus.labels out"
        )
    return catalogue


class _Seen:
    """How many files a scan saw, and which were the first: for messages."""

    def __init__(self, uri: str) -> None:
        self.uri, self.files, self.matched = uri, 0, 0
        self._first: list[str] = []

    def add(self, path: str) -> None:
        self.files += 1
        if len(self._first) < 2:
            self._first.append(path)

    @property
    def examples(self) -> str:
        return ", ".join(self._first) or "nothing"

    def __str__(self) -> str:
        return f"{self.uri}: none of its {self.files} files"
