"""NYU Depth v2 (Silberman et al. 2012) with 40 classes, in the two forms into which programs convert its .mat file: <split>/rgb
and <split>/labels_40 (ESANet), or RGB/ and Label/ with train.txt and test.txt (CMX, DFormer). The .mat itself is not read."""

import re

from pipeline.corpus.groups import Groups
from pipeline.corpus.layouts.base import IMAGE_SUFFIX, Layout, Patterns

_PATTERNS = Patterns(
    re.compile(r"(?:^|/)(?:(?P<split>train|test)/)?rgb/(?P<stem>[^/]+)" + IMAGE_SUFFIX, re.I),
    re.compile(r"(?:^|/)(?:(?P<split>train|test)/labels_40|Label)/(?P<stem>[^/]+)\.png$", re.I),
    "<split>/rgb/<name>.png and <split>/labels_40/<name>.png, or RGB/<name>.jpg and Label/<name>.png with <split>.txt",
)


def _key(found: re.Match[str]) -> tuple[str, Groups]:
    split, stem = found.group("split", "stem")
    return (f"{split}/{stem}", {"split": split}) if split else (stem, {})


LAYOUT = Layout(
    "nyu",
    patterns=_PATTERNS,
    key=_key,
    lists=re.compile(r"(?:^|/)(?P<split>train|test)\.txt$"),
    label_space="nyu40",
    guessed=True,
    source="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html, written out by ESANet's prepare_dataset.py",
)
