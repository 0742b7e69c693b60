"""CamVid (Brostow et al. 2008): images/ and labels/, each split/sequence_frame.*."""

import re

from pipeline.corpus.groups import Groups
from pipeline.corpus.layouts.base import IMAGE_SUFFIX, Layout, Patterns

_ID = r"(?P<split>[^/]+)/(?P<stem>(?P<sequence>[^/_]+)_[^/]*?)"
_PATTERNS = Patterns(
    re.compile(r"(?:^|/)images/" + _ID + IMAGE_SUFFIX, re.I),
    re.compile(r"(?:^|/)labels/" + _ID + r"\.png$", re.I),
    "images/<split>/<sequence>_<frame>.jpg and labels/<split>/<sequence>_<frame>.png",
)


def _key(found: re.Match[str]) -> tuple[str, Groups]:
    split, stem, sequence = found.group("split", "stem", "sequence")
    digits = re.sub(r"\D", "", stem.partition("_")[2])
    return f"{split}/{stem}", {
        "split": split,
        "sequence": sequence,
        "frame": int(digits) % 2**31 if digits else None,
    }


LAYOUT = Layout("camvid", patterns=lambda cfg: _PATTERNS, key=_key, label_space="camvid11", guessed=True)
