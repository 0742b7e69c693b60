"""Splits that a config defines for a corpus: by lists of images, by fractions with a hash, or by groups."""

import hashlib
import re
from dataclasses import replace

from pipeline import storage
from pipeline.config import CorpusConfig
from pipeline.corpus.item import Item
from pipeline.corpus.layouts.base import IMAGE_SUFFIX
from pipeline.errors import UserError

_SUFFIX = re.compile(IMAGE_SUFFIX, re.I)
MOST_VALUES = 20  # most values of a group column in a message


class Lists:
    """Assigns splits by `splits.lists` while a corpus is listed; memory grows with the lists."""

    def __init__(self, cfg: CorpusConfig) -> None:
        assert cfg.splits is not None and cfg.splits.lists is not None
        self._corpus, self._uris = cfg.images, cfg.splits.lists
        self._splits: dict[str, str] = {}  # line without suffix -> split
        self._found: dict[str, str] = {}  # line without suffix -> id of the image that it names
        for split, uri in self._uris.items():
            for line in lines_of(uri):
                name = stem(line)
                if self._splits.setdefault(name, split) != split:
                    raise UserError(
                        f"'{line}' is in the lists of both '{self._splits[name]}' and '{split}'; an image is in one split"
                    )

    def __call__(self, item: Item) -> Item:
        """Return the item with its split; UserError if lists of different splits contain it."""
        wanted = {name: self._splits[name] for name in _names(item) if name in self._splits}
        if len(set(wanted.values())) > 1:
            raise UserError(
                f"image '{item.image_id}' is in the lists of both {' and '.join(map(repr, sorted(set(wanted.values()))))}; "
                "an image is in one split"
            )
        for name in wanted:
            if (other := self._found.setdefault(name, item.image_id)) != item.image_id:
                raise UserError(
                    f"{self._uris[wanted[name]]}: '{name}' is both image '{other}' and image '{item.image_id}'; give more of "
                    "its path"
                )
        return _in_split(item, next(iter(wanted.values()), None))

    def finish(self) -> None:
        """Call this after all images: raise UserError if a list names an image that does not exist."""
        for split, uri in self._uris.items():
            missing = [name for name, of in self._splits.items() if of == split and name not in self._found]
            if missing:
                raise UserError(
                    f"{uri}: {len(missing)} of its images are not in corpus {self._corpus}, e.g. '{missing[0]}'; a line is an "
                    "image's id or its path, with or without suffix"
                )


class Fractions:
    """Assigns splits by `splits.fractions`, from a hash of the image's id or group, so that other images have no influence."""

    def __init__(self, cfg: CorpusConfig) -> None:
        assert cfg.splits is not None and cfg.splits.fractions is not None
        self._corpus, self._splits, self._shares = cfg.images, cfg.splits, cfg.splits.fractions
        self._groups: set[str] = set()
        self._has_group = self._splits.by is None

    def __call__(self, item: Item) -> Item:
        self._groups |= item.groups.keys()
        value = item.groups.get(self._splits.by) if self._splits.by else None
        self._has_group |= value is not None
        # An image without a value in the group column is assigned separately.
        key = f"{self._splits.seed}\n{item.image_id if value is None else f'={value}'}"
        at = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
        for split, share in self._shares.items():
            at -= share
            if at < 0:
                return _in_split(item, split)
        return _in_split(item, None)

    def finish(self) -> None:
        """Call this after all images: raise UserError if none has the group column of the config."""
        if not self._has_group:
            groups = ", ".join(sorted(self._groups)) or "none"
            raise UserError(
                f"corpus {self._corpus}: splits.by is '{self._splits.by}', and no image has a group of that name; its groups "
                f"are: {groups}; leave `by` out to deal out each image by itself"
            )


class Groups:
    """Assigns splits by `splits.groups`, from the value of a group column."""

    def __init__(self, cfg: CorpusConfig) -> None:
        assert cfg.splits is not None and cfg.splits.groups is not None
        self._corpus, self._by = cfg.images, cfg.splits.by
        self._splits = {str(value): split for split, values in cfg.splits.groups.items() for value in values}
        self._seen: set[str] = set()

    def __call__(self, item: Item) -> Item:
        value = str(item.groups.get(self._by or ""))
        self._seen.add(value)
        return _in_split(item, self._splits.get(value))

    def finish(self) -> None:
        """Call this after all images: raise UserError if a value of the config has no image."""
        if missing := sorted(self._splits.keys() - self._seen):
            there = ", ".join(sorted(self._seen - {"None"})[:MOST_VALUES]) or "none"
            raise UserError(
                f"corpus {self._corpus}: splits.groups names '{missing[0]}', and no image has it as its {self._by}; the values "
                f"that are there: {there}"
            )


def splitter_of(cfg: CorpusConfig) -> Lists | Fractions | Groups | None:
    """Return what assigns splits to a corpus's items; None if the layout does."""
    if cfg.splits is None:
        return None
    if cfg.splits.groups is not None:
        return Groups(cfg)
    return Lists(cfg) if cfg.splits.lists is not None else Fractions(cfg)


def lines_of(uri: str) -> list[str]:
    """Read the non-empty lines of a list."""
    try:
        return lines(storage.read(uri), uri)
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"corpus.splits: there is no list {uri}; check the path") from None


def lines(data: bytes, uri: str) -> list[str]:
    """Return the non-empty lines of a text, each without a second column (of labels) after a tab or a space."""
    try:
        found = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise UserError(f"{uri}: it is not UTF-8 text; a list has one image per line") from None
    return [_first(line) for line in found if line]


def _first(line: str) -> str:
    columns = line.split("\t") if "\t" in line else line.split()
    pictures = len(columns) > 1 and all(_SUFFIX.search(column.strip()) for column in columns)
    return columns[0].strip() if pictures or "\t" in line else line  # a name may hold spaces


def stem(line: str) -> str:
    """Return a line's path without the suffix of a picture file."""
    return _SUFFIX.sub("", line.removeprefix("./"))


def _names(item: Item) -> list[str]:
    """Return the names by which a list may refer to an image: each trailing part of its id or path, split at slashes."""
    path = item.image.uri if item.image.member is None else item.image.member
    found: dict[str, None] = {}
    for whole in (item.image_id, stem(path)):
        parts = whole.split("/")
        found |= dict.fromkeys("/".join(parts[start:]) for start in range(len(parts)))
    return list(found)


def _in_split(item: Item, split: str | None) -> Item:
    groups = {name: value for name, value in item.groups.items() if name != "split"}
    return replace(item, groups=groups | ({"split": split} if split else {}))
