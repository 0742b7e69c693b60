"""What is kept of scores."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.imaging.confidence_map import LEVELS


@dataclass(frozen=True)
class Prediction:
    """What is kept of one image's scores."""

    mask: np.ndarray  # (H, W) uint8, train ids
    confidence: float  # mean over pixels of the largest probability
    entropy: float  # mean over pixels, nats
    confidence_map: np.ndarray | None = None  # (H, W) uint8, the largest probability in 1/255; None where not asked for


def summarise(probs: torch.Tensor, confidence_map: bool = False) -> Prediction:
    """(C, H, W) class probabilities -> mask and means, and if asked for, the map of confidence; NaN in, NaN out."""
    largest = probs.amax(dim=0)
    return Prediction(
        mask=probs.argmax(dim=0).to(torch.uint8).cpu().numpy(),
        confidence=float(largest.mean()),
        entropy=float(torch.special.entr(probs).sum(dim=0).mean()),
        confidence_map=quantised(largest) if confidence_map else None,
    )


def quantised(probability: torch.Tensor) -> np.ndarray:
    """(H, W) uint8: probabilities to the nearest 1/255; NaN is 0."""
    levels = probability.float().mul(LEVELS).round_().nan_to_num_(0)
    array: np.ndarray = levels.to(torch.uint8).cpu().numpy()
    return array
