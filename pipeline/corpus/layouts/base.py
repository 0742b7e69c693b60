"""What a layout is: how the images of a corpus are told apart, which labels are theirs, and which groups they belong to."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.config import CorpusConfig
from pipeline.corpus.groups import Groups
from pipeline.corpus.item import Item

IMAGE_SUFFIX = r"\.(?:png|jpe?g|webp|bmp|gif|tiff?)$"


@dataclass(frozen=True)
class Patterns:
    """The paths of a layout. Each pattern is searched in a path; both capture the parts of the same image id.

    Anchor them at a folder's start and not at the root, so that a prefix, a zip, and a zip with one more folder around it
    give the same image ids.
    """

    image: re.Pattern[str]
    label: re.Pattern[str] | None
    expects: str  # for messages: what the paths look like


@dataclass(frozen=True)
class Layout:
    """One way to lay out a data set: paths with a meaning, or rows that say what there is."""

    name: str
    # Of paths: the patterns, and what a match says: the image's id and its groups, whichever they are.
    patterns: Patterns | Callable[[CorpusConfig], Patterns] | None = None
    key: Callable[[re.Match[str]], tuple[str, Groups]] = lambda found: (found[0], {})
    # Text files of the corpus that list the images of a split, by the last part of their ids; the path captures `split`.
    lists: re.Pattern[str] | None = None
    # Of tables and of files that describe others: the items, with their groups. `patterns` then only tell the layout.
    rows: Callable[[CorpusConfig], Iterator[Item]] | None = None
    keeps_order: bool = False  # items stay as they are listed, not sorted by id: neighbours are read together
    label_space: str | None = None  # of its labels, where the layout is one data set's
    guessed: bool = False  # it is tried where no layout is given
    known_by_images: bool = False  # the paths of its images alone are its own, so it is found without labels too
    source: str = ""  # where the data set is to be had, for whoever has not got it

    def patterns_of(self, cfg: CorpusConfig) -> Patterns | None:
        """The patterns for this corpus; None where a layout has only rows."""
        return self.patterns(cfg) if callable(self.patterns) else self.patterns


def by_split_and_stem(found: re.Match[str]) -> tuple[str, Groups]:
    """The key of layouts whose images are told by a split and a name: the id is <split>/<stem>."""
    return f"{found['split']}/{found['stem']}", {"split": found["split"]}


def frame_of(digits: str) -> int | None:
    """The number of a frame as its column holds it, 31 bits; None where there are no digits."""
    return int(digits) % 2**31 if digits else None
