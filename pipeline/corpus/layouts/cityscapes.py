"""Cityscapes (arXiv:1604.01685): leftImg8bit/ and gtFine/, each split/city/city_sequence_frame_*."""

import re

from pipeline.corpus.groups import Groups
from pipeline.corpus.layouts.base import IMAGE_SUFFIX, Layout, Patterns, frame_of

_ID = r"(?P<split>[^/]+)/(?P<city>[^/]+)/(?P<stem>[^/]+?_(?P<sequence>\d+)_(?P<frame>\d+))"
_PATTERNS = Patterns(
    re.compile(r"(?:^|/)leftImg8bit/" + _ID + r"_leftImg8bit" + IMAGE_SUFFIX, re.I),
    re.compile(r"(?:^|/)gtFine/" + _ID + r"_gtFine_labelIds\.png$", re.I),
    "leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png and "
    "gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png",
)


def _key(found: re.Match[str]) -> tuple[str, Groups]:
    split, city, stem, sequence, frame = found.group("split", "city", "stem", "sequence", "frame")
    return f"{split}/{city}/{stem}", {"split": split, "city": city, "sequence": sequence, "frame": frame_of(frame)}


LAYOUT = Layout(
    "cityscapes",
    patterns=_PATTERNS,
    key=_key,
    label_space="cityscapes19",
    guessed=True,
    known_by_images=True,
    source="leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, after registration at "
    "https://www.cityscapes-dataset.com/downloads/",
)
