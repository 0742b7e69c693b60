"""Dataset layouts: a path inside a corpus -> which image it is, or whose label.

Patterns are anchored at a folder's start and not at the root, so a prefix, a zip, and a zip with one more folder around it
give the same image ids.
"""

import re
from dataclasses import dataclass

from pipeline.config import CorpusConfig


@dataclass(frozen=True)
class Key:
    """What a path says: the image's id and its groups."""

    image_id: str
    split: str | None = None
    city: str | None = None
    sequence: str | None = None
    frame: int | None = None


@dataclass(frozen=True)
class Layout:
    """The two patterns of a layout; both capture the parts of the same image id."""

    image: re.Pattern[str]
    label: re.Pattern[str] | None
    expects: str  # for messages


_CITYSCAPES_ID = r"(?P<split>[^/]+)/(?P<city>[^/]+)/(?P<stem>[^/]+?_(?P<sequence>\d+)_(?P<frame>\d+))"
_CAMVID_ID = r"(?P<split>[^/]+)/(?P<stem>(?P<sequence>[^/_]+)_[^/]*?)"
_IMAGE_SUFFIX = r"\.(?:png|jpe?g|webp|bmp|tiff?)$"


def layout_of(cfg: CorpusConfig) -> Layout:
    """The layout that a config names."""
    match cfg.layout:
        case "cityscapes":
            return Layout(
                re.compile(r"(?:^|/)leftImg8bit/" + _CITYSCAPES_ID + r"_leftImg8bit" + _IMAGE_SUFFIX, re.I),
                re.compile(r"(?:^|/)gtFine/" + _CITYSCAPES_ID + r"_gtFine_labelIds\.png$", re.I),
                "leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png and "
                "gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png",
            )
        case "camvid":
            return Layout(
                re.compile(r"(?:^|/)images/" + _CAMVID_ID + _IMAGE_SUFFIX, re.I),
                re.compile(r"(?:^|/)labels/" + _CAMVID_ID + r"\.png$", re.I),
                "images/<split>/<sequence>_<frame>.jpg and labels/<split>/<sequence>_<frame>.png",
            )
        case "pairs":
            assert cfg.image_glob is not None
            label = re.compile(_glob_pattern(cfg.label_glob)) if cfg.label_glob else None
            expects = cfg.image_glob + (f" and {cfg.label_glob}" if cfg.label_glob else "")
            return Layout(re.compile(_glob_pattern(cfg.image_glob)), label, expects)
        case "manifest" | "parquet":
            raise AssertionError("tables have no layout of paths")


def key_of(pattern: re.Pattern[str], path: str) -> Key | None:
    """The key of a path, or None where the pattern does not know it."""
    found = pattern.search(path)
    if found is None:
        return None
    parts = found.groupdict()
    if "stem" not in parts:  # globs: what the wildcards matched
        return Key("/".join(part.strip("/") for part in found.groups() if part))
    stem = parts["stem"]
    digits = re.sub(r"\D", "", parts.get("frame") or stem.partition("_")[2])
    folders = [part for part in (parts["split"], parts.get("city")) if part]
    return Key(
        image_id="/".join([*folders, stem]),
        split=parts["split"],
        city=parts.get("city"),
        sequence=parts["sequence"],
        frame=int(digits) % 2**31 if digits else None,
    )


def _glob_pattern(glob: str) -> str:
    """A regex with one group a wildcard: `*` stays inside a folder, `**` crosses folders."""
    parts = re.split(r"(\*\*/|\*\*|\*)", glob.strip("/"))
    wild = {"**/": "((?:[^/]+/)*)", "**": "(.*)", "*": "([^/]*)"}
    return "^" + "".join(wild.get(part, re.escape(part)) for part in parts) + "$"
