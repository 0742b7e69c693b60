"""Labels that were made after a run: each is matched to an image of the plan by the id in its path."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.config import CorpusConfig
from pipeline.corpus.files import scan_files
from pipeline.corpus.index import Catalogue
from pipeline.corpus.item import Item, Place
from pipeline.corpus.layouts import LAYOUTS, layout_of
from pipeline.corpus.layouts.base import Layout
from pipeline.corpus.listing import scan_items
from pipeline.errors import UserError

_TABLES = ("manifest", "parquet")


@dataclass(frozen=True)
class LaterLabels:
    """The labels' URI and layout, and the images with their labels."""

    uri: str
    layout: Layout
    _catalogue: Catalogue

    def items(self) -> Iterator[Item]:
        """Yield the images in their original order, each with its label if there is one."""
        yield from self._catalogue.items(None, as_added=True)


def find_labels(
    cfg: CorpusConfig, items: Iterable[Item], uri: str, layout: str | None, glob: str | None
) -> LaterLabels:
    """Match the labels below a URI to images.

    Layouts are tried in turn: the one of the images, `folder` (the image's path with another suffix), then those of data sets.

    Args:
        cfg: the corpus of the images.
        items: the images, in the order in which the result yields them.
        layout: layout of the labels; None = detected.
        glob: paths of the labels, if the images have layout `pairs`.
    Raises:
        UserError: there is no file, or no label belongs to any of the images.
    """
    catalogue, images = Catalogue(uri), 0
    for item in items:
        catalogue.add_image(Item(item.image_id, item.image))
        images += 1
    tried = []
    for candidate in _candidates(cfg, uri, layout, glob):
        tried.append(candidate.layout or "")
        for image_id, place in _labels(candidate, uri):
            catalogue.add_label(image_id, place)
        if catalogue.has_pair():
            return LaterLabels(uri, layout_of(candidate), catalogue)
        catalogue.forget_labels()
    raise UserError(
        f"labels {uri}: none of them belongs to any of the run's {images} images; tried layout {', '.join(tried)}: lay them "
        "out as the images are, or name their layout"
    )


def _candidates(cfg: CorpusConfig, uri: str, layout: str | None, glob: str | None) -> Iterator[CorpusConfig]:
    plain: dict[str, object] = {"labels": uri, "image_glob": None, "label_glob": None, "splits": None}
    own = LAYOUTS.get(cfg.layout or "")
    if layout in _TABLES or (layout is None and uri.endswith((".csv", ".parquet"))):
        yield CorpusConfig(images=uri, layout=layout or "manifest")
    elif cfg.layout != "pairs" and (layout == "pairs" or (layout is None and glob)):
        if glob is None:
            raise UserError("layout 'pairs' needs a glob of the labels, e.g. --labels-glob '**/*_mask.png'")
        yield cfg.model_copy(update=plain | {"layout": "pairs", "image_glob": "**", "label_glob": glob})
    elif layout is not None and layout != cfg.layout:
        yield cfg.model_copy(update=plain | {"layout": layout})
    elif own is not None and own.name not in _TABLES:
        yield cfg.model_copy(update={"labels": uri, "splits": None, **({"label_glob": glob} if glob else {})})
    if layout is not None or uri.endswith((".csv", ".parquet")):
        return
    if uri.endswith(".json"):
        yield cfg.model_copy(update=plain | {"layout": "coco_json"})
        return
    others = [one.name for one in LAYOUTS.values() if one.guessed and one.patterns and not one.rows]
    for name in dict.fromkeys(("folder", *others)):
        if name != cfg.layout:
            yield cfg.model_copy(update=plain | {"layout": name})


def _labels(cfg: CorpusConfig, uri: str) -> Iterator[tuple[str, Place]]:
    """Yield (image id, place of its label)."""
    layout = layout_of(cfg)
    if layout.rows:
        yield from ((item.image_id, item.label) for item in scan_items(cfg, None) if item.label is not None)
        return
    patterns = layout.patterns_of(cfg)
    if patterns is None or patterns.label is None:
        return
    for path, place in scan_files(uri):
        if found := patterns.label.search(path):
            yield layout.key(found)[0], place
