"""Pairs: a glob for images and one for labels. What the wildcards match is the id; named wildcards are groups."""

import re

from pipeline.config import CorpusConfig
from pipeline.corpus.groups import Groups
from pipeline.corpus.layouts.base import Layout, Patterns, frame_of

_WILD = {"**/": "((?:[^/]+/)*)", "**": "(.*)", "*": "([^/]*)"}


def _patterns(cfg: CorpusConfig) -> Patterns:
    assert cfg.image_glob is not None
    label = re.compile(_glob_pattern(cfg.label_glob)) if cfg.label_glob else None
    expects = cfg.image_glob + (f" and {cfg.label_glob}" if cfg.label_glob else "")
    return Patterns(re.compile(_glob_pattern(cfg.image_glob)), label, expects)


def _key(found: re.Match[str]) -> tuple[str, Groups]:
    groups: dict[str, str | int | None] = dict(found.groupdict())
    if "frame" in groups:
        groups["frame"] = frame_of(re.sub(r"\D", "", found["frame"]))
    return "/".join(part.strip("/") for part in found.groups() if part), groups


def _glob_pattern(glob: str) -> str:
    """Return a regex with a group for each wildcard: `*` within a folder, `**` across folders, `{name}` a named `*`."""
    seen: set[str] = set()
    pattern = ""
    for part in re.split(r"(\*\*/|\*\*|\*|\{[A-Za-z]\w*\})", glob.strip("/")):
        if re.fullmatch(r"\{[A-Za-z]\w*\}", part):
            name = part[1:-1]
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            pattern += _WILD.get(part, re.escape(part))
    return "^" + pattern + "$"


LAYOUT = Layout("pairs", patterns=_patterns, key=_key)
