"""Losses whose value does not depend on how a batch is divided among workers or parts.

Letters: N batch, C classes, H rows, W columns. A pixel term is divided by a weight of the whole batch, which is computed from
the labels; a region term and OHEM are means over images. So the losses of a batch's parts add up to the loss of the batch.
"""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.config import (
    CrossEntropyConfig,
    DiceConfig,
    FocalConfig,
    LossConfig,
    LossTerm,
    LovaszConfig,
    OhemConfig,
)
from pipeline.labels import IGNORE


class Loss:
    """The loss of a config. First compute `totals` from the labels of a whole batch, then the loss of each part."""

    def __init__(self, cfg: LossConfig, class_weights: Mapping[str, np.ndarray], device: torch.device | str) -> None:
        """Build the loss. `class_weights`: (C,) weights for each kind that the config uses."""
        self.cfg = cfg
        self._weights = {
            kind: torch.tensor(values, dtype=torch.float32, device=device) for kind, values in class_weights.items()
        }

    def totals(self, label: torch.Tensor) -> torch.Tensor:
        """Return (T,) float32, for each term the divisor of its sum over the batch: total pixel weight, or images.

        The totals of parts add up to those of the whole batch. `label` is (N, H, W) integer train ids.
        """
        return torch.stack([self._total(term, label) for term in self.cfg.terms])

    def __call__(self, logits: list[torch.Tensor], label: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
        """Return what this part contributes to the loss of the whole batch; 0 if it has no labelled pixel.

        Args:
            logits: each (N, C, H, W); the last is the prediction, the others are weighted by `aux_weight`.
            label: (N, H, W) int64 train ids, 255 = ignore.
            totals: totals of the whole batch.
        """
        loss = self._sum(logits[-1].float(), label, totals)
        if self.cfg.aux_weight and len(logits) > 1:
            loss = loss + self.cfg.aux_weight * sum(self._sum(aux.float(), label, totals) for aux in logits[:-1])
        return loss

    def _total(self, term: LossTerm, label: torch.Tensor) -> torch.Tensor:
        match term:
            case CrossEntropyConfig() | FocalConfig():
                total = self._pixel_weights(term.class_weights, label).sum()
            case _:
                total = torch.tensor(float(len(label)), device=label.device)
        return total.float()

    def _sum(self, logits: torch.Tensor, label: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
        loss = logits.new_zeros(())
        for term, total in zip(self.cfg.terms, totals, strict=True):
            loss = loss + term.weight * self._term(term, logits, label) / total.clamp(min=1e-12)
        return loss

    def _term(self, term: LossTerm, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        match term:
            case CrossEntropyConfig():
                loss = cross_entropy(logits, label, term.label_smoothing)
                return (self._pixel_weights(term.class_weights, label) * loss).sum()
            case FocalConfig():
                return (self._pixel_weights(term.class_weights, label) * focal(logits, label, term.gamma)).sum()
            case OhemConfig():
                weights = self._pixel_weights(term.class_weights, label)
                return ohem(logits, label, weights, term.threshold, term.min_kept).sum()
            case DiceConfig():
                return dice(logits, label).sum()
            case LovaszConfig():
                return lovasz_softmax(logits, label).sum()

    def _pixel_weights(self, kind: str, label: torch.Tensor) -> torch.Tensor:
        """Return (N, H, W) float32, the weight of each pixel's class; 0 where ignored."""
        labelled = label != IGNORE
        if kind == "none":
            return labelled.float()
        return self._weights[kind][torch.where(labelled, label, 0).long()] * labelled


def cross_entropy(logits: torch.Tensor, label: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
    """Return (N, H, W), minus the log of the true class's probability; 0 where ignored.

    Args:
        smoothing: share of the target that is spread evenly over all classes (arXiv:1512.00567, section 7).
    """
    return F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none", label_smoothing=smoothing)


def focal(logits: torch.Tensor, label: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return (N, H, W), (1 - p) ** gamma times the cross entropy, p of the true class: arXiv:1708.02002, eq. 4."""
    loss = cross_entropy(logits, label)
    # 1 - p is computed with expm1 and kept above 0, where a power below 1 has no derivative.
    return (-torch.expm1(-loss)).clamp(min=1e-8) ** gamma * loss


def ohem(
    logits: torch.Tensor, label: torch.Tensor, weights: torch.Tensor, threshold: float, min_kept: int
) -> torch.Tensor:
    """Return (N,), the weighted mean of the cross entropy over the hard pixels of each image.

    A pixel is hard if its true class has less than `threshold` probability. If there are fewer than `min_kept` of these, the
    `min_kept` pixels with the largest loss are used (or all labelled pixels, if there are fewer). Idea: arXiv:1604.03540.
    Deviation from the common code: pixels are chosen per image and not per worker's batch, so the choice is the same for any
    number of workers.
    """
    loss = cross_entropy(logits, label).flatten(1)
    labelled = (label != IGNORE).flatten(1)
    with torch.no_grad():
        ranked = loss.masked_fill(~labelled, -1).sort(dim=1, descending=True).values
        kth = ranked[:, min(min_kept, ranked.shape[1]) - 1, None]
        hard = labelled & ((loss > -float(np.log(threshold))) | (loss >= kth))
        kept = weights.flatten(1) * hard
    return (kept * loss).sum(1) / kept.sum(1).clamp(min=1e-12)


def dice(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return (N,), 1 - 2 |p g| / (|p|^2 + |g|^2), averaged over the classes in the image's label; 0 without labelled pixels.

    Source: arXiv:1606.04797, section 3.
    """
    probs, truth, there = _regions(logits, label)
    overlap = (probs * truth).sum(2)
    size = probs.square().sum(2) + truth.sum(2)
    return _mean_over_classes(1 - 2 * overlap / size.clamp(min=1e-12), there)


def lovasz_softmax(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return (N,), the Lovasz extension of the Jaccard loss, averaged over the classes in the image's label.

    Source: arXiv:1705.08790, algorithm 1, in its per-image form. 0 for an image without labelled pixels.
    """
    probs, truth, there = _regions(logits, label)
    labelled = (label != IGNORE).flatten(1)
    losses = []
    for image in range(len(label)):
        own = there[image]  # sorting dominates the cost, so only classes and pixels that count are sorted
        p, g = (values[image][own][:, labelled[image]] for values in (probs, truth))
        losses.append(_lovasz_extension(p, g).sum() / own.sum().clamp(min=1))
    return torch.stack(losses)


def _lovasz_extension(probs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return (K,) losses for (K, P) probs and truth of labelled pixels."""
    errors, order = (truth - probs).abs().sort(dim=1, descending=True)
    truth = truth.gather(1, order)
    size = truth.sum(1, keepdim=True)
    intersection = size - truth.cumsum(1)
    union = size + (1 - truth).cumsum(1)
    jaccard = 1 - intersection / union
    gradient = torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], dim=1)
    return (errors * gradient).sum(1)


def _regions(logits: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (N, C, P) probs and truth, both 0 where ignored, and (N, C) whether the label contains the class."""
    labelled = (label != IGNORE)[:, None]
    truth = (label[:, None] == torch.arange(logits.shape[1], device=label.device)[:, None, None]) & labelled
    probs = logits.softmax(dim=1) * labelled
    return probs.flatten(2), truth.flatten(2).to(probs.dtype), truth.flatten(2).any(2)


def _mean_over_classes(values: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    return (values * there).sum(1) / there.sum(1).clamp(min=1)
