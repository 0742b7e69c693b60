"""Count a run's masks against labels that were made later, or that are in another label space."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa

from pipeline.analysis.derived import Columns, Derived, confusion_columns, derive
from pipeline.analysis.run_counts import RunCounts
from pipeline.config import ClassMap, CorpusConfig, parse, same_classes
from pipeline.corpus import Item, items_of, read
from pipeline.corpus.later import LaterLabels, find_labels
from pipeline.corpus.samples import decode_ids
from pipeline.errors import Reject, UserError
from pipeline.imaging.mask_png import decode_mask
from pipeline.labels import ForeignValues, LabelSpace, Outside, space
from pipeline.metrics.confusion import count_confusion
from pipeline.read_ahead import read_ahead
from pipeline.runs import Part

THREADS = 4  # number of labels read and counted at a time
_ROWS = 64  # rows with masks in memory at a time


@dataclass(frozen=True)
class Labels:
    """Labels of a run's images, their label space, and the tables that map the run's classes to it."""

    found: LaterLabels
    space: LabelSpace
    of_mask: np.ndarray  # (256,) uint8: train id in a mask of the run -> train id in the labels' space
    of_label: np.ndarray
    has_wrong: bool  # whether a prediction may be none of the labels' classes, and so wrong


def find(
    view: RunCounts,
    uri: str,
    class_map: ClassMap | None,
    label_space: LabelSpace | None,
    layout: str | None = None,
    glob: str | None = None,
) -> Labels:
    """Find the labels of a run's images below a URI.

    Raises:
        UserError: there are none, the map does not fit, or the label spaces differ and there is no map.
    """
    corpus = parse(CorpusConfig, view.description.config["corpus"], where=f"{view.uri}/run.json, corpus")
    images = (item for table in view.plan().tables() for item in items_of(table))
    found = find_labels(corpus, images, uri, layout, glob)
    named = found.layout.label_space
    truth = label_space or (space(named) if named else view.space)
    if class_map is None:
        if truth.classes != view.space.classes:
            raise UserError(
                f"labels {uri} are in {truth.name} and run {view.uri} in {view.space.name}: give a map from the run's classes "
                f"to theirs (--map), such as {{classes: {{{truth.classes[0]}: [{view.space.classes[0]}]}}}}, or the space "
                "that the labels are in (--label-space)"
            )
        return Labels(found, truth, *same_classes(truth).tables(view.space, truth, "map"), has_wrong=False)
    return Labels(found, truth, *class_map.tables(view.space, truth, "map"), has_wrong=class_map.has_wrong)


def counts_on(view: RunCounts, labels: Labels) -> Derived:
    """Count every mask against its label; masks without one have no counts.

    Raises:
        UserError: a label cannot be read or differs in size from its mask, or labels hold values that their space lacks (the
            message lists all of them).
    """
    max_pixels, sizes = view.description.config["max_pixels"], view.plan().sizes()
    items, foreign = labels.found.items(), ForeignValues()
    at = _Places(items, sizes)

    def recount(part: Part, batch: pa.RecordBatch) -> Columns:
        ids, masks = batch.column("image_id").to_pylist(), batch.column("mask")
        known = at.of(part)
        jobs = [(known[image_id], masks[row]["bytes"].as_py()) for row, image_id in enumerate(ids)]
        counted = read_ahead(lambda job: _count(*job, labels, max_pixels), jobs, THREADS)
        confusions, pixels = list[np.ndarray | None](), list[object]()
        for (item, _), look in counted:
            confusion, predicted = look.result()
            if isinstance(confusion, Outside):
                foreign.add(item.image_id, confusion.found)
                confusion = None
            confusions.append(confusion)
            pixels.append(predicted)
        return {**confusion_columns(confusions), "pixels": pixels}

    derived = derive(view, ["mask"], recount, labels.space.num_classes, _ROWS)
    if foreign.pixels:
        raise UserError(f"labels {labels.found.uri}: {foreign.sentence(labels.space.name)}")
    return derived


class _Places:
    """The items of each part, from one pass over all items, so that parts must be asked for in the order of their shards."""

    def __init__(self, items: Iterator[Item], sizes: np.ndarray) -> None:
        self._items, self._sizes, self._next = items, sizes, 0
        self._part: tuple[int, int] | None = None
        self._known: dict[str, Item] = {}

    def of(self, part: Part) -> dict[str, Item]:
        """Return image id -> item."""
        if self._part != (part.first, part.last):
            assert part.first >= self._next, "parts come in order"
            skipped = int(self._sizes[self._next : part.first].sum())
            wanted = int(self._sizes[part.first : part.last + 1].sum())
            chosen = islice(self._items, skipped, skipped + wanted)
            self._known = {item.image_id: item for item in chosen}
            self._part, self._next = (part.first, part.last), part.last + 1
        return self._known


def _count(item: Item, mask: bytes, labels: Labels, max_pixels: int) -> tuple[np.ndarray | Outside | None, np.ndarray]:
    """Return one image's confusion (or the values that its label space lacks), and its predicted pixels of each class."""
    size = labels.space.num_classes
    predicted = labels.of_mask[decode_mask(mask)]
    pixels = np.bincount(predicted.ravel(), minlength=256)[:size]
    if item.label is None:
        return None, pixels
    try:
        _, label = decode_ids(read(item.label), labels.space, max_pixels, f"label of {item.image_id}")
    except Outside as error:
        return error, pixels
    except Reject as error:
        raise UserError(f"{item.image_id}: its label cannot be used: {error}") from None
    (height, width), (rows, columns) = label.shape, predicted.shape
    if label.shape != predicted.shape:
        raise UserError(
            f"{item.image_id}: its label is {height}x{width}, its mask {rows}x{columns} (height x width); they must be equal: "
            "give labels of the images that were segmented"
        )
    truth = labels.of_label[label]
    truth[predicted == 255] = 255
    predicted = np.where(predicted == 255, 0, predicted).astype(np.uint8)  # any class: `truth` ignores these pixels
    counts = count_confusion(truth, predicted, size + labels.has_wrong)
    return counts[:size], pixels
