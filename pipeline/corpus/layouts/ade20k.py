"""ADE20K's scene parsing benchmark (Zhou et al. 2017): images/ and annotations/, each training/ and validation/."""

import re

from pipeline.corpus.layouts.base import Layout, Patterns, by_split_and_stem

_ID = r"(?P<split>training|validation|testing)/(?P<stem>ADE_[^/]+)"
_PATTERNS = Patterns(
    re.compile(r"(?:^|/)images/" + _ID + r"\.jpe?g$", re.I),
    re.compile(r"(?:^|/)annotations/" + _ID + r"\.png$", re.I),
    "images/<split>/ADE_*.jpg and annotations/<split>/ADE_*.png, split training or validation",
)

LAYOUT = Layout(
    "ade20k",
    patterns=_PATTERNS,
    key=by_split_and_stem,
    label_space="ade20k150",
    guessed=True,
    known_by_images=True,
    source="http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
)
