"""BDD100K's semantic segmentation (arXiv:1805.04687): images/10k/ and labels/sem_seg/masks/; `seg/` of its first release."""

import re

from pipeline.corpus.layouts.base import Layout, Patterns, by_split_and_stem

_PATTERNS = Patterns(
    re.compile(r"(?:^|/)(?:images/10k|seg/images)/(?P<split>[^/]+)/(?P<stem>[^/]+)\.jpe?g$", re.I),
    re.compile(
        r"(?:^|/)(?:labels/sem_seg/masks|seg/labels)/(?P<split>[^/]+)/(?P<stem>[^/]+?)(?:_train_id)?\.png$", re.I
    ),
    "images/10k/<split>/<name>.jpg and labels/sem_seg/masks/<split>/<name>.png",
)

LAYOUT = Layout(
    "bdd100k",
    patterns=_PATTERNS,
    key=by_split_and_stem,
    label_space="bdd100k",
    guessed=True,
    known_by_images=True,
    source="10K Images and Semantic Segmentation, after registration at http://bdd-data.berkeley.edu",
)
