"""Folder: every picture in any folder is an image; labels in a separate place have the same path but for the suffix."""

import re

from pipeline.config import CorpusConfig
from pipeline.corpus.groups import Groups
from pipeline.corpus.layouts.base import IMAGE_SUFFIX, Layout, Patterns

_IMAGE = re.compile(r"^(.+)" + IMAGE_SUFFIX, re.I)
_LABEL = re.compile(r"^(.+)\.(?:png|tiff?|bmp|gif)$", re.I)  # JPEG would change ids


def _patterns(cfg: CorpusConfig) -> Patterns:
    if cfg.labels in (None, cfg.images):
        return Patterns(_IMAGE, None, "pictures: *.jpg, *.png, *.tif, *.webp")
    return Patterns(_IMAGE, _LABEL, "pictures, and under corpus.labels the label of a/b.jpg as a/b.png")


def _key(found: re.Match[str]) -> tuple[str, Groups]:
    return found[1], {}


LAYOUT = Layout("folder", patterns=_patterns, key=_key)
