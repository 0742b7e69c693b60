"""What a layout is: how the images of a corpus are told apart, which labels are theirs, and which groups they belong to."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.config import CorpusConfig
from pipeline.corpus.groups import Groups
from pipeline.corpus.item import Item

IMAGE_SUFFIX = r"\.(?:png|jpe?g|webp|bmp|tiff?)$"


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
    """One way to lay out a data set: either paths with a meaning, or a table with a row an image."""

    name: str
    # Of paths: the patterns, and what a match says: the image's id and its groups, whichever they are.
    patterns: Callable[[CorpusConfig], Patterns] | None = None
    key: Callable[[re.Match[str]], tuple[str, Groups]] = lambda found: (found[0], {})
    # Of tables: the items of the tables at a URI, with their groups.
    rows: Callable[[str], Iterator[Item]] | None = None
    keeps_order: bool = False  # items stay as they are listed, not sorted by id: neighbours are read together
    label_space: str | None = None  # of its labels, where the layout is one data set's
    guessed: bool = False  # `maskmill check` tries it where no layout is given
