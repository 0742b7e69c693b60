"""The definition of a layout: how to recognise the images of a corpus, their labels and their groups."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.config import CorpusConfig
from pipeline.corpus.groups import Groups
from pipeline.corpus.item import Item

IMAGE_SUFFIX = r"\.(?:png|jpe?g|webp|bmp|gif|tiff?)$"


@dataclass(frozen=True)
class Patterns:
    """The paths of a layout. Both patterns are searched in paths, and capture the same parts of an image id.

    Anchor them at the start of a folder and not at the root, so that a prefix, a zip, and a zip with an additional outer folder
    give the same image ids.
    """

    image: re.Pattern[str]
    label: re.Pattern[str] | None
    expects: str  # for messages: what the paths look like


@dataclass(frozen=True)
class Layout:
    """One way to lay out a data set: by paths, or by rows of a table or description."""

    name: str
    # Layouts by paths: the patterns, and a function from a match to the image's id and groups.
    patterns: Patterns | Callable[[CorpusConfig], Patterns] | None = None
    key: Callable[[re.Match[str]], tuple[str, Groups]] = lambda found: (found[0], {})
    # Text files of the corpus that list the images of a split, by the last part of their ids; the path captures `split`.
    lists: re.Pattern[str] | None = None
    # Layouts by rows: the items with their groups. `patterns` then only serve to detect the layout.
    rows: Callable[[CorpusConfig], Iterator[Item]] | None = None
    keeps_order: bool = False  # items keep their listing order, because neighbours are read together
    label_space: str | None = None  # name of the label space, if the layout belongs to one data set
    guessed: bool = False  # whether it is tried if no layout is given
    known_by_images: bool = False  # whether its image paths are specific enough to detect it without labels
    source: str = ""  # where to get the data set, for messages

    def patterns_of(self, cfg: CorpusConfig) -> Patterns | None:
        """Return the patterns for this corpus; None if the layout has only rows."""
        return self.patterns(cfg) if callable(self.patterns) else self.patterns


def by_split_and_stem(found: re.Match[str]) -> tuple[str, Groups]:
    """The `key` of layouts whose images are identified by split and name: the id is <split>/<stem>."""
    return f"{found['split']}/{found['stem']}", {"split": found["split"]}


def frame_of(digits: str) -> int | None:
    """Return a frame number reduced to the 31 bits of its column; None if there are no digits."""
    return int(digits) % 2**31 if digits else None
