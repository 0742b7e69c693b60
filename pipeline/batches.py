"""Corpus items -> training batches: read, decoded and augmented ahead of the model, in an order fixed by the seed."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from pipeline.config import AugmentConfig
from pipeline.corpus import Item, read
from pipeline.imaging.augment import augment
from pipeline.imaging.decode import decode_image, decode_label
from pipeline.labels import LabelSpace

Batch = tuple[torch.Tensor, torch.Tensor]  # (N, 3, h, w) uint8 images, (N, h, w) uint8 labels


def load_pair(item: Item, space: LabelSpace, max_pixels: int) -> tuple[np.ndarray, np.ndarray]:
    """Image (H, W, 3) and label (H, W) in train ids of one item.

    Raises:
        ValueError: unreadable bytes, no label, a label of another size, or an id outside the label space.
    """
    image = decode_image(read(item.image), max_pixels)
    if item.label is None:
        raise ValueError(f"{item.image_id}: it has no label, which training needs; drop the image or add its label")
    label = space.to_train(decode_label(read(item.label), max_pixels), where=f"label of {item.image_id}")
    if label.shape != image.shape[:2]:
        raise ValueError(
            f"{item.image_id}: the label is {label.shape[0]}x{label.shape[1]}, the image "
            f"{image.shape[0]}x{image.shape[1]} (height x width); they must be equal: re-export the label"
        )
    return image, label


def steps_per_epoch(num_items: int, batch_size: int) -> int:
    """Whole batches an epoch; a corpus smaller than one batch gives one, with repeats."""
    return max(1, num_items // batch_size)


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
    num_threads: int = 1,
    ahead: int = 3,
) -> Iterator[Batch]:
    """This worker's share of each batch of one epoch.

    A view depends on (seed, epoch, its place in the epoch) alone: the same run with another number of workers trains on
    the same global batches.

    Args:
        batch_size: of all workers together; a multiple of `world_size`.
        ahead: batches prepared before they are asked for.
    Raises:
        ValueError: from the first bad image or label; `maskmill check` lists all of them.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(items))
    share = batch_size // world_size

    def view(place: int) -> Batch:
        item = items[order[place % len(order)]]
        image, label = load_pair(item, space, max_pixels)
        return augment(image, label, cfg, np.random.default_rng([seed, epoch, place]))

    def places(step: int) -> range:
        start = step * batch_size + rank * share
        return range(start, start + share)

    def collect(views: list[Future[Batch]]) -> Batch:
        pairs = [view.result() for view in views]
        return torch.stack([image for image, _ in pairs]), torch.stack([label for _, label in pairs])

    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="views")
    try:
        waiting: deque[list[Future[Batch]]] = deque()
        for step in range(steps_per_epoch(len(items), batch_size)):
            waiting.append([pool.submit(view, place) for place in places(step)])
            if len(waiting) > ahead:
                yield collect(waiting.popleft())
        while waiting:
            yield collect(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)
