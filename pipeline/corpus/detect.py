"""Detection of a corpus's layout from the paths of its files, and why the other layouts do not fit."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.config import CorpusConfig
from pipeline.corpus.files import scan_files
from pipeline.corpus.layouts import LAYOUTS
from pipeline.corpus.layouts.base import IMAGE_SUFFIX, Layout, Patterns
from pipeline.corpus.parquet import is_damage, open_parquet
from pipeline.errors import UserError

_PICTURE = re.compile(IMAGE_SUFFIX, re.I)
_FOLDER = "folder"


@dataclass(frozen=True)
class Found:
    """A config with its detected layout, and for each other layout that was tried the reason against it."""

    cfg: CorpusConfig
    others: dict[str, str] = field(default_factory=dict)


def settled(cfg: CorpusConfig, kept: Mapping[str, Any] | None = None) -> CorpusConfig:
    """Return the config with its layout: the one it names, else the one stored in a run, else the detected one.

    Args:
        kept: the corpus section of the run that is being continued.
    """
    if cfg.layout is not None:
        return cfg
    if kept and kept.get("layout") and cfg.images == kept["images"]:
        return _with(cfg, kept["layout"])
    if kept and cfg.labels is None and _is_pair_in(cfg.images, kept):
        return cfg.model_copy(update={name: kept[name] for name in ("images", "labels", "layout")})
    return find_layout(cfg).cfg


def find_layout(cfg: CorpusConfig) -> Found:
    """Detect the layout in one pass over all paths of a corpus. A layout fits if its images and labels are there.

    A layout whose image paths are not specific to it needs at least one label. If several fit, the one with the most labelled
    images is chosen, then the first of the list. Pictures that fit none of them have layout `folder`.

    Raises:
        UserError: there is no file, or no image.
    """
    if cfg.image_glob is not None:
        return Found(_with(cfg, "pairs"), {})
    if cfg.images.endswith((".csv", ".parquet")):
        return Found(_with(cfg, _layout_of_table(cfg.images)), {})
    tried = {layout.name: layout for layout in LAYOUTS.values() if layout.guessed or layout.name == _FOLDER}
    look = _Look(cfg, tried)
    why = {name: reason for name in tried if (reason := look.why_not(name)) is not None}
    fitting = [name for name in tried if name not in why]
    if not fitting:
        if cfg.labels is None and (pair := look.pair_of_zips()):
            return find_layout(cfg.model_copy(update=pair))
        if look.tables and not look.pictures:
            return Found(_with(cfg, "parquet"), why)
        raise UserError(look.nothing_fits(why))
    best = max(
        fitting, key=lambda name: (name != _FOLDER, min(look.labels[name], look.images[name]), look.images[name])
    )
    for name in fitting:
        if name != best:
            why[name] = (
                "it would take every picture as an image without a label"
                if name == _FOLDER
                else f"{look.labels[name]} labels fit it, and {look.labels[best]} fit '{best}'"
            )
    return Found(_with(cfg, best), why)


class _Look:
    """Counts of the paths of a corpus that match each layout."""

    def __init__(self, cfg: CorpusConfig, tried: Mapping[str, Layout]) -> None:
        self._cfg, self._tried = cfg, tried
        self._patterns: dict[str, Patterns] = {
            name: patterns for name, layout in tried.items() if (patterns := layout.patterns_of(cfg))
        }
        self.images, self.labels = dict.fromkeys(tried, 0), dict.fromkeys(tried, 0)
        self.files = self.pictures = self.tables = 0
        self._examples: list[str] = []
        self._zips: list[str] = []  # at the top of the corpus
        for uri in dict.fromkeys((cfg.images, cfg.labels or cfg.images)):
            for path, _ in scan_files(uri):
                self._add(path, uri)

    def _add(self, path: str, uri: str) -> None:
        of_images, of_labels = uri == self._cfg.images, uri == (self._cfg.labels or self._cfg.images)
        for name, patterns in self._patterns.items():
            self.images[name] += of_images and patterns.image.search(path) is not None
            self.labels[name] += of_labels and patterns.label is not None and patterns.label.search(path) is not None
        if of_images:
            self.files += 1
            self.pictures += _PICTURE.search(path) is not None
            self.tables += path.endswith(".parquet")
            if path.endswith(".zip") and "/" not in path:
                self._zips.append(path)
            if len(self._examples) < 2:
                self._examples.append(path)

    def why_not(self, name: str) -> str | None:
        """Return the reason why a layout does not fit; None if it fits."""
        expects = self._patterns[name].expects
        if not self.images[name]:
            return f"none of the {self.files} files is one of its images ({expects})"
        if self.labels[name] or (name == _FOLDER and self._cfg.labels in (None, self._cfg.images)):
            return None
        if self._cfg.labels is not None:
            return f"none of the files below {self._cfg.labels} is one of its labels ({expects})"
        if self._tried[name].known_by_images and self.images[name] == self.pictures:
            return None
        number = f"{self.images[name]} of {self.pictures} pictures"
        return f"{number} match its images, but none of its labels exists ({expects})"

    def pair_of_zips(self) -> dict[str, str] | None:
        """Return the URIs of images and labels if the corpus is a folder with Cityscapes' two zips."""
        images, truths = (
            {name.removeprefix(kind): name for name in sorted(self._zips) if name.startswith(kind)}
            for kind in ("leftImg8bit", "gtFine")
        )
        if not images or not truths:
            return None
        both = next((rest for rest in images if rest in truths), None)  # the same ending, such as _trainvaltest.zip
        one, other = (zips[both] if both else next(iter(zips.values())) for zips in (images, truths))
        return {"images": storage.join(self._cfg.images, one), "labels": storage.join(self._cfg.images, other)}

    def nothing_fits(self, why: Mapping[str, str]) -> str:
        """Return the message for a corpus without a layout."""
        found = (
            f"corpus {self._cfg.images}: no known layout fits its {self.files} files (e.g. {', '.join(self._examples)})"
        )
        if self._cfg.labels is not None and self.pictures:
            return (
                f"{found} and the labels at {self._cfg.labels}; tried {', '.join(why)}: give --layout pairs with --images-glob "
                "and --labels-glob (in a config layout, image_glob, label_glob)"
            )
        return (
            f"{found}; tried {', '.join(why)}: none of them is a picture: give the folder, zip or tar that holds pictures, a "
            "manifest, or, where pictures have other suffixes, --layout pairs with --images-glob"
        )


def _is_pair_in(folder: str, kept: Mapping[str, Any]) -> bool:
    """Whether a run used two zips in this folder as its corpus."""
    zips = [kept.get("images"), kept.get("labels")]
    return all(uri is not None and uri == storage.join(folder, uri.rpartition("/")[2]) for uri in zips)


def _with(cfg: CorpusConfig, layout: str) -> CorpusConfig:
    return cfg.model_copy(update={"layout": layout})


def _layout_of_table(uri: str) -> str:
    """Return `parquet` if the table's column of images holds their bytes, else `manifest`."""
    if uri.endswith(".csv") or storage.is_dir(uri):
        return "manifest" if uri.endswith(".csv") else "parquet"
    try:
        schema = open_parquet(uri).schema_arrow
    except FileNotFoundError:
        raise UserError(f"corpus {uri}: there is no such file; check the path or the bucket") from None
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if not is_damage(error):
            raise
        raise UserError(f"corpus {uri}: not a readable Parquet file ({error}); write it again") from None
    kind = schema.field("image").type if schema.names.count("image") == 1 else pa.string()
    named = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind)
    return "manifest" if named else "parquet"
