"""Training batches from corpus items: read, decoded and augmented ahead of the model, in an order fixed by the seed."""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice

import numpy as np
import torch

from pipeline.config import AugmentConfig, ImageConfig, LossConfig
from pipeline.corpus import Item, read
from pipeline.corpus.samples import decode_ids, load_pair, no_rejects
from pipeline.imaging.augment import augment, drop_cells
from pipeline.labels import LabelSpace, Outside
from pipeline.read_ahead import read_ahead

Batch = tuple[torch.Tensor, torch.Tensor]  # (N, D, h, w) images as `augment` returns them, (N, h, w) uint8 labels


def steps_per_epoch(num_items: int, batch_size: int) -> int:
    """Return the number of full batches per epoch; a corpus smaller than one batch gives one, with repeated images."""
    return max(1, num_items // batch_size)


class EpochOrder:
    """The image at each position of an epoch, and for a class-uniform view its class; determined by the seed.

    Args:
        counts: (I, C) labelled pixels of each item, needed if `class_uniform` is not 0.
    """

    def __init__(
        self, num_items: int, *, seed: int, epoch: int, class_uniform: float = 0, counts: np.ndarray | None = None
    ) -> None:
        self.seed, self.epoch = seed, epoch
        self._order = np.random.default_rng([seed, epoch]).permutation(num_items)
        self._share, self._counts = class_uniform, counts
        assert not class_uniform or (counts is not None and len(counts) == num_items)
        self._classes = (
            np.flatnonzero(counts.any(axis=0)) if class_uniform and counts is not None else np.array([], int)
        )

    def __getitem__(self, place: int) -> tuple[int, int | None]:
        """Return (index of the item, class that the crop must contain)."""
        index = int(self._order[place % len(self._order)])
        if not self._share:
            return index, None
        assert self._counts is not None
        rng = np.random.default_rng([self.seed, self.epoch, place, 1])
        if rng.random() >= self._share or not len(self._classes):
            return index, None
        wanted = int(rng.choice(self._classes))
        return int(rng.choice(np.flatnonzero(self._counts[:, wanted]))), wanted


def epoch_batches(
    items: list[Item],
    space: LabelSpace,
    cfg: AugmentConfig,
    *,
    batch_size: int,
    epoch: int,
    seed: int,
    rank: int,
    world_size: int,
    max_pixels: int,
    counts: np.ndarray | None = None,
    loss: LossConfig | None = None,
    declared: ImageConfig | None = None,
    first: int = 0,
    num_threads: int = 1,
    ahead: int = 3,
    pin: bool = False,
) -> Iterator[Batch]:
    """Yield this worker's share of each batch of one epoch.

    A view depends only on seed, epoch and its position in the epoch. So a run with another number of workers trains on the same
    global batches, and a run that resumes within an epoch sees the remaining batches.

    Args:
        batch_size: summed over all workers; a multiple of `world_size`.
        counts: (I, C) labelled pixels of each item, for class-uniform views.
        declared: bands and range of the images; absent = 8-bit pictures.
        loss: determines the share of the pixels that count; absent = all.
        first: number of batches of the epoch that are already done.
        ahead: number of batches to prepare in advance.
        pin: put batches into page-locked memory, so that copying to a GPU overlaps with computing.
    Raises:
        UserError: at the first bad image or label; `maskmill check` lists all of them.
    """
    order = EpochOrder(len(items), seed=seed, epoch=epoch, class_uniform=cfg.class_uniform, counts=counts)
    share = batch_size // world_size

    def view(place: int) -> Batch:
        index, holding = order[place]
        rng = np.random.default_rng([seed, epoch, place])
        image, label = augment(*load_pair(items[index], space, max_pixels, declared), cfg, rng, holding)
        return image, label if loss is None else drop_cells(label, loss.sample, loss.sample_px, rng)

    def collect(views: list[Batch]) -> Batch:
        images, labels = (torch.stack(tensors) for tensors in zip(*views, strict=True))
        return (images.pin_memory(), labels.pin_memory()) if pin else (images, labels)

    steps = range(first, steps_per_epoch(len(items), batch_size))
    places = (step * batch_size + rank * share + own for step in steps for own in range(share))
    with closing(read_ahead(view, places, num_threads, depth=ahead * share + 1)) as views:
        for _ in steps:
            yield collect([view.result() for _, view in islice(views, share)])


def count_label(item: Item, space: LabelSpace, max_pixels: int) -> np.ndarray:
    """Return (C,) int64 labelled pixels of each class in one item's label; Outside if it has values that the space lacks."""
    assert item.label is not None
    with no_rejects(item, but=(Outside,)):
        _, label = decode_ids(read(item.label), space, max_pixels)
    return np.bincount(label.ravel(), minlength=256)[: space.num_classes].astype(np.int64)
