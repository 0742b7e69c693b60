"""Pairs: two globs, of images and of labels; the id is what the wildcards stand for."""

import re

from pipeline.config import CorpusConfig
from pipeline.corpus.groups import Groups
from pipeline.corpus.layouts.base import Layout, Patterns


def _patterns(cfg: CorpusConfig) -> Patterns:
    assert cfg.image_glob is not None
    label = re.compile(_glob_pattern(cfg.label_glob)) if cfg.label_glob else None
    expects = cfg.image_glob + (f" and {cfg.label_glob}" if cfg.label_glob else "")
    return Patterns(re.compile(_glob_pattern(cfg.image_glob)), label, expects)


def _key(found: re.Match[str]) -> tuple[str, Groups]:
    return "/".join(part.strip("/") for part in found.groups() if part), {}


def _glob_pattern(glob: str) -> str:
    """A regex with one group a wildcard: `*` stays inside a folder, `**` crosses folders."""
    parts = re.split(r"(\*\*/|\*\*|\*)", glob.strip("/"))
    wild = {"**/": "((?:[^/]+/)*)", "**": "(.*)", "*": "([^/]*)"}
    return "^" + "".join(wild.get(part, re.escape(part)) for part in parts) + "$"


LAYOUT = Layout("pairs", patterns=_patterns, key=_key)
