"""The prediction of an image: what is kept of its scores."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.imaging.confidence_map import LEVELS


@dataclass(frozen=True)
class Prediction:
    """Mask of one image, and its confidence."""

    mask: np.ndarray  # (H, W) uint8, train ids
    confidence: float  # mean over pixels of the largest probability
    entropy: float  # mean over pixels, nats
    confidence_map: np.ndarray | None = None  # (H, W) uint8, largest probability in 1/255; None if not requested


def summarise(probs: torch.Tensor, confidence_map: bool = False) -> Prediction:
    """Return mask and means, and if requested the confidence map, of probabilities (C, H, W); NaN gives NaN means."""
    largest = probs.amax(dim=0)
    return Prediction(
        mask=probs.argmax(dim=0).to(torch.uint8).cpu().numpy(),
        confidence=float(largest.mean()),
        entropy=float(torch.special.entr(probs).sum(dim=0).mean()),
        confidence_map=quantised(largest) if confidence_map else None,
    )


def quantised(probability: torch.Tensor) -> np.ndarray:
    """Return (H, W) uint8: probabilities rounded to the nearest 1/255; NaN becomes 0."""
    levels = probability.float().mul(LEVELS).round_().nan_to_num_(0)
    array: np.ndarray = levels.to(torch.uint8).cpu().numpy()
    return array
