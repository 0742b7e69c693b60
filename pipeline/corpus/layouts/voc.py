"""Pascal VOC (Everingham et al. 2010): JPEGImages/, SegmentationClass/, and the splits as lists of names."""

import re

from pipeline.corpus.groups import Groups
from pipeline.corpus.layouts.base import Layout, Patterns

IMAGE = re.compile(r"(?:^|/)JPEGImages/(?P<stem>[^/]+)\.jpe?g$", re.I)
SOURCE = "VOCtrainval_11-May-2012.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/, unpacked or as a tar"

_PATTERNS = Patterns(
    IMAGE,
    re.compile(r"(?:^|/)SegmentationClass/(?P<stem>[^/]+)\.png$", re.I),
    "JPEGImages/<name>.jpg, SegmentationClass/<name>.png, and ImageSets/Segmentation/<split>.txt",
)


def key(found: re.Match[str]) -> tuple[str, Groups]:
    """Return the name as the id, without groups: splits are in separate lists."""
    return found["stem"], {}


LAYOUT = Layout(
    "voc",
    patterns=_PATTERNS,
    key=key,
    lists=re.compile(r"(?:^|/)ImageSets/Segmentation/(?P<split>train|val|test)\.txt$"),  # trainval is both
    label_space="voc21",
    guessed=True,
    known_by_images=True,
    source=SOURCE,
)
