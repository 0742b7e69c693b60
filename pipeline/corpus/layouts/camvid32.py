"""CamVid in its 32 classes, labels in colours: Cambridge's two folders, or the same files by split (fast.ai, Kaggle)."""

import re

from pipeline.corpus.layouts.base import Layout, Patterns
from pipeline.corpus.layouts.camvid import key

_STEM = r"/(?P<stem>(?P<sequence>[^/_]+)_[^/]*?)"
_PATTERNS = Patterns(
    re.compile(r"(?:^|/)(?:(?P<split>train|val|test)|701_StillsRaw_full)" + _STEM + r"\.png$", re.I),
    re.compile(
        r"(?:^|/)(?:(?P<split>train|val|test)_labels|LabeledApproved_full)" + _STEM + r"_L\.png$",
        re.I,
    ),
    "701_StillsRaw_full/<sequence>_<frame>.png and LabeledApproved_full/<sequence>_<frame>_L.png, or "
    "<split>/<sequence>_<frame>.png and <split>_labels/<sequence>_<frame>_L.png",
)

LAYOUT = Layout(
    "camvid32",
    patterns=_PATTERNS,
    key=key,
    label_space="camvid32",
    guessed=True,
    source="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
)
