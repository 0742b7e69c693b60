"""Images and labels in two folders side by side with the same file names, the most common form of people's own data.

images/<path>.jpg and labels/<path>.png. The folder of labels may also be called masks, annotations or ann_dir, that of images
img_dir. A split may be a folder inside both or around both.
"""

import re

from pipeline.corpus.groups import Groups
from pipeline.corpus.layouts.base import IMAGE_SUFFIX, Layout, Patterns

_SPLITS = "train|training|val|valid|validation|test|testing"
_REST = rf"/(?:(?P<inner>{_SPLITS})/)?(?P<stem>.+?)"
_AROUND = rf"(?:^|/)(?:(?P<outer>{_SPLITS})/)?"
_PATTERNS = Patterns(
    re.compile(_AROUND + r"(?:images?|imgs?|img_dir)" + _REST + IMAGE_SUFFIX, re.I),
    re.compile(_AROUND + r"(?:labels?|masks?|annotations?|ann_dir)" + _REST + r"\.(?:png|tiff?|bmp|gif)$", re.I),
    "images/<name>.jpg and labels/<name>.png (or masks/, annotations/), maybe with a split in or around both",
)


def _key(found: re.Match[str]) -> tuple[str, Groups]:
    split = found["outer"] or found["inner"]
    return (f"{split}/{found['stem']}", {"split": split}) if split else (found["stem"], {})


LAYOUT = Layout("images_labels", patterns=_PATTERNS, key=_key, guessed=True)
