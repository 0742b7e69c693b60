"""Mapillary Vistas with the labels of version 2.0; its archive contains them beside those of 1.2."""

import re

from pipeline.corpus.layouts.base import Layout, Patterns, by_split_and_stem
from pipeline.corpus.layouts.mapillary import IMAGE, SOURCE

_PATTERNS = Patterns(
    IMAGE,
    re.compile(r"(?:^|/)(?P<split>training|validation|testing)/v2\.0/labels/(?P<stem>[^/]+)\.png$", re.I),
    "<split>/images/<name>.jpg and <split>/v2.0/labels/<name>.png, split training, validation or testing",
)

LAYOUT = Layout(
    "mapillary_v2",
    patterns=_PATTERNS,
    key=by_split_and_stem,
    label_space="mapillary124",
    guessed=True,
    source=SOURCE,
)
