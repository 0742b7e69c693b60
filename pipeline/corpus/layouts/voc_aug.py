"""Pascal VOC with the labels of SBD (Hariharan et al. 2011): SegmentationClassAug/, whose `train` is 10 582 images."""

import re

from pipeline.corpus.layouts.base import Layout, Patterns
from pipeline.corpus.layouts.voc import IMAGE, SOURCE, key

_PATTERNS = Patterns(
    IMAGE,
    re.compile(r"(?:^|/)SegmentationClassAug/(?P<stem>[^/]+)\.png$", re.I),
    "JPEGImages/<name>.jpg, SegmentationClassAug/<name>.png, and trainaug.txt or train_aug.txt beside val.txt",
)

LAYOUT = Layout(
    "voc_aug",
    patterns=_PATTERNS,
    key=key,
    # Main/, Layout/ and Action/ beside Segmentation/ have a val.txt of other tasks.
    lists=re.compile(r"(?:^|(?<!Main)(?<!Layout)(?<!Action)/)(?P<split>train(?=_?aug)|val(?=\.))(?:_?aug)?\.txt$"),
    label_space="voc21",
    guessed=True,
    source=f"{SOURCE}, with SegmentationClassAug of the Semantic Boundaries Dataset",
)
