"""What is kept of scores."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Prediction:
    """What is kept of one image's scores."""

    mask: np.ndarray  # (H, W) uint8, train ids
    confidence: float  # mean over pixels of the largest probability
    entropy: float  # mean over pixels, nats


def summarise(probs: torch.Tensor) -> Prediction:
    """(C, H, W) class probabilities -> mask and means; NaN in, NaN out."""
    return Prediction(
        mask=probs.argmax(dim=0).to(torch.uint8).cpu().numpy(),
        confidence=float(probs.amax(dim=0).mean()),
        entropy=float(torch.special.entr(probs).sum(dim=0).mean()),
    )
