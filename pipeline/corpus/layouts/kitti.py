"""KITTI's semantic segmentation (Alhaija et al. 2018): training/image_2/ and training/semantic/, testing/image_2/."""

import re

from pipeline.corpus.groups import Groups
from pipeline.corpus.layouts.base import Layout, Patterns, frame_of

_STEM = r"/(?P<stem>(?P<sequence>\d+)_(?P<frame>\d+))\.png$"
_PATTERNS = Patterns(
    re.compile(r"(?:^|/)(?P<split>training|testing)/image_2" + _STEM, re.I),
    re.compile(r"(?:^|/)(?P<split>training)/semantic" + _STEM, re.I),
    "training/image_2/<sequence>_<frame>.png and training/semantic/<sequence>_<frame>.png",
)


def _key(found: re.Match[str]) -> tuple[str, Groups]:
    split, stem, sequence, frame = found.group("split", "stem", "sequence", "frame")
    return f"{split}/{stem}", {"split": split, "sequence": sequence, "frame": frame_of(frame)}


LAYOUT = Layout(
    "kitti",
    patterns=_PATTERNS,
    key=_key,
    label_space="kitti",
    guessed=True,
    known_by_images=True,
    source="data_semantics.zip of https://www.cvlibs.net/datasets/kitti/eval_semseg.php",
)
