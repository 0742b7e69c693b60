"""Check of a corpus without a model: its contents, unmatched labels, broken files, and the time of one pass."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pipeline import labels
from pipeline.config import CorpusConfig, ImageConfig, parse
from pipeline.corpus import Item, list_items, unmatched_labels
from pipeline.corpus.detect import Found, find_layout, settled
from pipeline.corpus.layouts import layout_of
from pipeline.corpus.samples import load
from pipeline.errors import Reject
from pipeline.labels import ForeignValues, LabelSpace, Outside
from pipeline.read_ahead import read_ahead

THREADS = 2


@dataclass
class CorpusReport:
    """Result of `check_corpus`."""

    images: int
    labelled: int
    labels_without_image: int
    splits: dict[str, int]
    bytes: int
    label_space: str = ""  # its name; empty if none is known
    classes: tuple[str, ...] = ()  # of the label space; empty if none is known
    checked: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)  # (height, width) -> images
    bad: dict[str, list[str]] = field(default_factory=dict)  # reason -> sentences
    foreign: ForeignValues = field(default_factory=ForeignValues)  # values in labels that are not in the label space
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # labelled pixels of each class
    seconds: float = 0.0  # wall time of the checked images, read and decoded on `THREADS` threads

    @property
    def estimated_s(self) -> float:
        """Wall time of reading and decoding the whole corpus once, at the measured rate."""
        return self.seconds / max(self.checked, 1) * self.images


def guess_corpus(uri: str, label_uri: str | None = None) -> Found:
    """Detect the layout below a URI, and why the others do not fit; UserError if there is no picture."""
    return find_layout(parse(CorpusConfig, {"images": uri, "labels": label_uri}, where="check"))


def check_corpus(
    cfg: CorpusConfig,
    split: str | None,
    space: LabelSpace | None,
    max_pixels: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    declared: ImageConfig | None = None,
) -> CorpusReport:
    """Read and decode every image and label of a split.

    Args:
        space: label space against which ids are checked; None uses the layout's own, if it has one.
        on_progress: called with (checked, total).
        declared: bands and range of the images; None = 8-bit pictures.
    Raises:
        UserError: nothing is there, or nothing matches the layout.
    """
    cfg = settled(cfg)
    items = list_items(cfg, split)
    named = layout_of(cfg).label_space
    space = space or (labels.space(named) if named else None)
    report = CorpusReport(
        images=len(items),
        labelled=sum(item.label is not None for item in items),
        labels_without_image=len(unmatched_labels(cfg)),
        splits=dict(Counter(str(item.groups.get("split") or "none") for item in items)),
        bytes=sum(item.image.bytes + (item.label.bytes if item.label else 0) for item in items),
        label_space=space.name if space else "",
        classes=space.classes if space else (),
        pixels=np.zeros(space.num_classes if space else 0, np.int64),
    )
    started = time.perf_counter()
    for item, look in read_ahead(lambda item: _look(item, space, max_pixels, declared), items, THREADS):
        found = look.result()
        report.checked += 1
        if isinstance(found, Reject):
            report.bad.setdefault(found.reason, []).append(f"{item.image_id}: {found}")
            if isinstance(found, Outside):
                report.foreign.add(item.image_id, found.found)
        else:
            size, pixels = found
            report.sizes[size] += 1
            report.pixels += pixels
        on_progress(report.checked, report.images)
    report.seconds = time.perf_counter() - started
    return report


def _look(
    item: Item, space: LabelSpace | None, max_pixels: int, declared: ImageConfig | None
) -> Reject | tuple[tuple[int, int], np.ndarray]:
    """Return (size, labelled pixels of each class) of a valid pair, or the reject that says what is wrong with it."""
    pixels = np.zeros(space.num_classes if space else 0, np.int64)
    try:
        sample = load(item, space, max_pixels, declared=declared)
    except Reject as error:
        return error
    if space is not None and sample.label is not None:
        pixels = np.bincount(sample.label.ravel(), minlength=256)[: space.num_classes]
    height, width = sample.image.shape[:2]
    return (height, width), pixels
