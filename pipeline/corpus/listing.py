"""Listing of a corpus: its images, sorted, each with its label."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline import storage
from pipeline.config import CorpusConfig
from pipeline.corpus.detect import settled
from pipeline.corpus.files import scan_files
from pipeline.corpus.index import Catalogue
from pipeline.corpus.item import Item, Place
from pipeline.corpus.layouts import layout_of
from pipeline.corpus.plain import read_plain
from pipeline.corpus.splits import lines, splitter_of, stem
from pipeline.errors import Reject, UserError, nearest


def list_items(cfg: CorpusConfig, split: str | None) -> list[Item]:
    """Return the items of `scan_items` as a list."""
    return list(scan_items(cfg, split))


def scan_items(cfg: CorpusConfig, split: str | None) -> "Listing":
    """List every image of a split (None: of the corpus) with its label, if any, in memory that does not grow with their number.

    Images are sorted by id; those of Parquet files are in the files' order, so that neighbours share a row group.

    Raises:
        UserError: there is no file, none matches the layout, the split is unknown, or two files have the same image id.
    """
    cfg = settled(cfg)
    layout, splitter = layout_of(cfg), splitter_of(cfg)
    if cfg.inventory and layout.rows:
        raise UserError(
            f"corpus.inventory lists files, and layout '{layout.name}' reads a table of its own; leave one of both out"
        )
    try:
        catalogue = (_from_rows if layout.rows else _from_files)(cfg, splitter or (lambda item: item))
    except UserError as error:
        if layout.source and not storage.exists(cfg.images) and not storage.is_dir(cfg.images):
            raise UserError(f"{error}{_source(cfg)}") from None
        raise
    if splitter:
        splitter.finish()
    if split is not None and split not in (splits := catalogue.splits()):
        raise UserError(f"corpus {cfg.images}: {_no_split(cfg, split, splits)}")
    return Listing(catalogue.items(split, layout.keeps_order), catalogue.group_fields)


def _no_split(cfg: CorpusConfig, split: str, splits: list[str]) -> str:
    """Return why a split has no image, and what to do."""
    if cfg.splits and split in (cfg.splits.lists or cfg.splits.fractions or cfg.splits.groups or {}):
        return f"split '{split}' is empty: corpus.splits puts no image into it; make its fraction or its list larger"
    known = f"choose one of {', '.join(splits)}{nearest(split, splits)}"
    if not splits:
        known = (
            f"layout '{cfg.layout}' has none: leave the split out, or say which images are in it with corpus.splits, e.g. "
            "{fractions: {train: 0.8, val: 0.2}}"
        )
    return f"there is no split '{split}'; {known}"


@dataclass(frozen=True)
class Listing:
    """The items of a corpus, which can be iterated once, and the columns of their groups."""

    items: Iterator[Item]
    group_fields: tuple[pa.Field, ...]

    def __iter__(self) -> Iterator[Item]:
        return self.items


def unmatched_labels(cfg: CorpusConfig) -> list[str]:
    """Return the paths of labels that have no image, sorted by the image id that they would belong to."""
    cfg = settled(cfg)
    layout = layout_of(cfg)
    patterns = layout.patterns_of(cfg)
    if layout.rows or patterns is None or patterns.label is None:
        return []
    root = (cfg.labels or cfg.images) + "/"
    found = _from_files(cfg, lambda item: item).labels_without_image()
    return [place.member or place.uri.removeprefix(root) for place in found]


def _from_rows(cfg: CorpusConfig, in_split: Callable[[Item], Item]) -> Catalogue:
    layout, item = layout_of(cfg), None
    catalogue = Catalogue(cfg.images, rows=layout.patterns is None)
    assert layout.rows is not None
    for item in layout.rows(cfg):
        catalogue.add_image(in_split(item))
    if item is None:
        if patterns := layout.patterns_of(cfg):
            expects = patterns.expects
            raise UserError(f"corpus {cfg.images}: it has no image of layout '{layout.name}' ({expects}){_source(cfg)}")
        raise UserError(f"corpus {cfg.images}: there is no row in it; check the path or the bucket and its credentials")
    return catalogue


def _from_files(cfg: CorpusConfig, in_split: Callable[[Item], Item]) -> Catalogue:
    layout, catalogue, lists = layout_of(cfg), Catalogue(cfg.images), dict[str, tuple[str, Place]]()
    patterns = layout.patterns_of(cfg)
    assert patterns is not None
    apart = cfg.labels is not None and cfg.labels != cfg.images
    seen = _Seen(cfg.images)
    for path, place in scan_files(cfg.images, cfg.inventory):
        seen.add(path)
        if found := patterns.image.search(path):
            seen.matched += 1
            image_id, groups = layout.key(found)
            catalogue.add_image(in_split(Item(image_id, place, None, groups)))
        if not apart and patterns.label and (found := patterns.label.search(path)):
            catalogue.add_label(layout.key(found)[0], place)
        if layout.lists and (found := layout.lists.search(path)):
            lists[path] = found["split"], place
    if not seen.matched:
        raise UserError(
            f"corpus {seen} matches layout '{cfg.layout}' ({patterns.expects}); "
            f"found e.g. {seen.examples}: choose another layout or URI{_source(cfg)}"
        )
    if cfg.labels and apart:
        seen = _Seen(cfg.labels)
        for path, place in scan_files(cfg.labels, cfg.inventory):
            seen.add(path)
            if patterns.label and (found := patterns.label.search(path)):
                catalogue.add_label(layout.key(found)[0], place)
            if layout.lists and (found := layout.lists.search(path)):
                lists[path] = found["split"], place
    if cfg.labels and not catalogue.has_pair():
        raise UserError(
            f"corpus labels {seen} is the label of an image ({patterns.expects}); "
            f"found e.g. {seen.examples}: choose another URI, or leave corpus.labels out"
        )
    if cfg.splits is None:
        for path, (split, place) in sorted(lists.items()):
            catalogue.put_into_split(split, _listed(path, place))
    return catalogue


def _listed(path: str, place: Place) -> list[str]:
    """Return the names in a list of the corpus itself: the last part of the path in the first column of each line."""
    try:
        text = read_plain(place)
    except Reject as error:
        raise UserError(f"{path}: {error}") from None
    return [stem(line.split()[0]).rpartition("/")[2] for line in lines(text, path)]


def _source(cfg: CorpusConfig) -> str:
    """Return where to get the layout's data set, as the end of a message."""
    source = layout_of(cfg).source
    return f". The data set: {source}" if source else ""


class _Seen:
    """The number of files in a scan and the first of them, for messages."""

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
