"""COCO-Stuff (arXiv:1612.03716): COCO's images and a picture of things and stuff for each, stuffthingmaps_trainval2017.zip."""

import re

from pipeline.corpus.layouts.base import Layout, Patterns, by_split_and_stem

_SPLIT = r"(?P<split>(?:train|val|test)20\d\d)/"
_PATTERNS = Patterns(
    re.compile(r"(?:^|/)" + _SPLIT + r"(?P<stem>[^/]+)\.jpe?g$", re.I),
    # Other programs write *_labelTrainIds.png beside the labels.
    re.compile(r"(?:^|/)(?:stuffthingmaps[^/]*|annotations|labels)/" + _SPLIT + r"(?P<stem>[^/_]+)\.png$", re.I),
    "<split>/<name>.jpg and stuffthingmaps/<split>/<name>.png, split e.g. val2017",
)

LAYOUT = Layout(
    "coco_stuff",
    patterns=_PATTERNS,
    key=by_split_and_stem,
    label_space="cocostuff171",
    guessed=True,
    source="the images of https://cocodataset.org/#download and stuffthingmaps_trainval2017.zip of "
    "https://github.com/nightrome/cocostuff",
)
