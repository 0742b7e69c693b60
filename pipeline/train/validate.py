"""Counts of the validation split, with the predictor that `segment` uses."""

import numpy as np
import torch

from pipeline import labels
from pipeline.batches import load_pair
from pipeline.config import PredictConfig, TrainConfig
from pipeline.corpus import Item
from pipeline.metrics.counts import count_confusion
from pipeline.models import Network
from pipeline.predict import Predictor

NUM_PICTURES = 4


def validate(network: Network, cfg: TrainConfig, items: list[Item], rank: int, world_size: int) -> np.ndarray:
    """(C, C) int64 counts of the whole validation split: each worker predicts its share at full size, then they sum."""
    device = next(network.parameters()).device
    if world_size > 1:
        for buffer in network.buffers():  # batch statistics drift apart between workers; rank 0's are what is saved
            torch.distributed.broadcast(buffer, src=0)
    space = labels.space(cfg.label_space)
    network.eval()
    predictor = Predictor(network, network.mean, network.std, PredictConfig(precision=cfg.precision), device)
    confusion = np.zeros((space.num_classes, space.num_classes), np.int64)
    for item in items[rank::world_size]:
        image, label = load_pair(item, space, cfg.max_pixels)
        confusion += count_confusion(label, _mask(predictor, image), space.num_classes)
    if world_size > 1:
        total = torch.from_numpy(confusion).to(device)
        torch.distributed.all_reduce(total)
        confusion = total.cpu().numpy()
    return confusion


def example_masks(network: Network, cfg: TrainConfig, items: list[Item]) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(image id, image, mask) of four images that are spread evenly over the split: the same ones each time."""
    device = next(network.parameters()).device
    predictor = Predictor(network.eval(), network.mean, network.std, PredictConfig(precision=cfg.precision), device)
    count = min(NUM_PICTURES, len(items))
    chosen = [items[index * len(items) // count] for index in range(count)]
    space = labels.space(cfg.label_space)
    images = [(item.image_id, load_pair(item, space, cfg.max_pixels)[0]) for item in chosen]
    return [(image_id, image, _mask(predictor, image)) for image_id, image in images]


def _mask(predictor: Predictor, image: np.ndarray) -> np.ndarray:
    mask: np.ndarray = predictor.probs([image])[0].argmax(0).to(torch.uint8).cpu().numpy()
    return mask
