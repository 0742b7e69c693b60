"""Confusion counts of the validation split, with the predictor that `segment` uses."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from pipeline.config import PredictConfig, TrainConfig
from pipeline.corpus import Item
from pipeline.corpus.samples import load_pair
from pipeline.crf import dense_crf
from pipeline.errors import UserError
from pipeline.imaging.bands import as_picture
from pipeline.labels import LabelSpace
from pipeline.metrics.confusion import count_confusion
from pipeline.models import Network
from pipeline.predict import Predictor, summarise
from pipeline.read_ahead import read_ahead

NUM_PICTURES = 4


def validate(network: Network, cfg: TrainConfig, items: list[Item], rank: int, world_size: int) -> np.ndarray:
    """Return (C, C) int64 counts over the whole validation split, with the CRF if the config has one.

    Each worker predicts its share at full size, then the counts are summed.
    """
    device = next(network.parameters()).device
    if world_size > 1:
        for buffer in network.buffers():  # batch statistics differ between workers; those of rank 0 are saved
            torch.distributed.broadcast(buffer, src=0)
    space = cfg.label_space.space
    mask_of = _masker(network, cfg)
    confusion = np.zeros((space.num_classes, space.num_classes), np.int64)
    for image, label in _loaded(items[rank::world_size], space, cfg):
        confusion += count_confusion(label, mask_of(image), space.num_classes)
    if world_size > 1:
        total = torch.from_numpy(confusion).to(device)
        torch.distributed.all_reduce(total)
        confusion = total.cpu().numpy()
    return confusion


def require_truth(cfg: TrainConfig, confusion: np.ndarray) -> None:
    """Raise UserError if no validation label has a pixel that `best_by` is about: it tells no checkpoints apart."""
    name = cfg.best_by.removeprefix("iou.")
    of_class = name != cfg.best_by
    truth = confusion[cfg.label_space.space.classes.index(name)] if of_class else confusion
    if not truth.any():
        choices = f"{'another score, or ' if of_class else ''}a val_split whose labels have some"
        raise UserError(
            f"best_by: {cfg.best_by}: no label of val_split '{cfg.val_split}' has a pixel of "
            f"{name if of_class else 'a class'}; choose {choices}, and another output"
        )


def example_masks(
    network: Network, cfg: TrainConfig, items: list[Item]
) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Return (image id, picture, label, mask) for four images that are evenly spaced over the split, always the same ones."""
    mask_of = _masker(network, cfg)
    count = min(NUM_PICTURES, len(items))
    chosen = [items[index * len(items) // count] for index in range(count)]
    space = cfg.label_space.space
    pairs = _loaded(chosen, space, cfg)
    return [
        (item.image_id, as_picture(image), label, mask_of(image))
        for item, (image, label) in zip(chosen, pairs, strict=True)
    ]


def _loaded(items: list[Item], space: LabelSpace, cfg: TrainConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield image and label of each item, read and decoded ahead of the network."""
    load = partial(load_pair, space=space, max_pixels=cfg.max_pixels, declared=cfg.image)
    for _, pair in read_ahead(load, items, cfg.read_threads, depth=cfg.read_threads + 1):
        yield pair.result()


def _masker(network: Network, cfg: TrainConfig) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from a decoded image to (H, W) uint8 train ids that makes the same calls as `segment`."""
    device = next(network.parameters()).device
    settings = PredictConfig(scales=(cfg.validate_scale,), precision=cfg.precision)
    predictor = Predictor(network.eval(), settings, device, num_threads=cfg.cpus_per_worker)

    def mask_of(image: np.ndarray) -> np.ndarray:
        if (crf := cfg.validate_crf) is None:
            return predictor.masks([image])[0].mask
        probs = predictor.probs([image])[0].cpu().numpy()
        sharp = dense_crf(probs, as_picture(image), crf, cfg.cpus_per_worker, cfg.label_space.space.classes)
        return summarise(torch.from_numpy(sharp)).mask

    return mask_of
