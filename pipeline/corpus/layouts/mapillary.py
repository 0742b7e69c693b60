"""Mapillary Vistas (Neuhold et al. 2017) with the labels of version 1.2: training/images/ and training/labels/."""

import re

from pipeline.corpus.layouts.base import Layout, Patterns, by_split_and_stem

IMAGE = re.compile(r"(?:^|/)(?P<split>training|validation|testing)/images/(?P<stem>[^/]+)\.jpe?g$", re.I)
SOURCE = "https://www.mapillary.com/dataset/vistas, after registration"

_PATTERNS = Patterns(
    IMAGE,
    re.compile(r"(?:^|/)(?P<split>training|validation|testing)/(?:v1\.2/)?labels/(?P<stem>[^/]+)\.png$", re.I),
    "<split>/images/<name>.jpg and <split>/labels/<name>.png or <split>/v1.2/labels/<name>.png, split training, validation "
    "or testing",
)

LAYOUT = Layout(
    "mapillary",
    patterns=_PATTERNS,
    key=by_split_and_stem,
    label_space="mapillary65",
    guessed=True,
    source=SOURCE,
)
