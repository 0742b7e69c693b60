"""`enlarge_argmax` and `enlarge_confidence` on a GPU without Triton, as torch operations. C classes, H rows, W columns.

Full-size scores exist for a few rows at a time.
"""

from collections.abc import Callable, Iterator

import torch

from pipeline.imaging.confidence_map import LEVELS

NUMBERS_AT_ONCE = 1 << 24  # full-size scores per step; a few tables of them, 64 MiB each, exist at once
Enlarge = Callable[[torch.Tensor, tuple[float, float], tuple[int, int]], torch.Tensor]


def gpu_enlargements() -> tuple[Enlarge, Enlarge]:
    """Return the functions that make masks and confidence maps on a GPU: Triton's, or those below if Triton cannot run."""
    from pipeline.crf.gpu.triton_ready import triton_works  # not at the top: runs without a CRF need not load it

    if not triton_works():
        return enlarge_argmax_torch, enlarge_confidence_torch
    from pipeline.predict.upsample_gpu import enlarge_argmax_gpu, enlarge_confidence_gpu

    return enlarge_argmax_gpu, enlarge_confidence_gpu


def enlarge_argmax_torch(scores: torch.Tensor, full: tuple[float, float], size: tuple[int, int]) -> torch.Tensor:
    """Return the best class of each pixel; arguments and result are those of `enlarge_argmax_gpu`."""
    mask = torch.empty(size, dtype=torch.uint8, device=scores.device)
    for rows, large in _strips(scores, full, size):
        mask[rows] = large.argmax(dim=0).to(torch.uint8)
    return mask


def enlarge_confidence_torch(scores: torch.Tensor, full: tuple[float, float], size: tuple[int, int]) -> torch.Tensor:
    """Return the largest probability of each pixel; arguments and result are those of `enlarge_confidence_gpu`."""
    confidence = torch.empty(size, dtype=torch.uint8, device=scores.device)
    for rows, large in _strips(scores, full, size):
        total = (large - large.amax(dim=0)).exp_().sum(dim=0)
        confidence[rows] = (LEVELS / total + 0.5).to(torch.uint8)
    return confidence


def _strips(
    scores: torch.Tensor, full: tuple[float, float], size: tuple[int, int]
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield slices of the result's rows, and their scores (C, rows, W)."""
    top, bottom, down = _sources(size[0], full[0], scores.shape[1], scores.device)
    left, right, across = _sources(size[1], full[1], scores.shape[2], scores.device)
    step = max(1, NUMBERS_AT_ONCE // (scores.shape[0] * size[1]))
    for start in range(0, size[0], step):
        rows = slice(start, min(start + step, size[0]))
        share = down[rows, None]
        narrow = (1 - share) * scores[:, top[rows]] + share * scores[:, bottom[rows]]
        yield rows, (1 - across) * narrow[..., left] + across * narrow[..., right]


def _sources(
    size: int, full: float, small: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return for each row (or column) the coarse one at or before it, the next, and its weight, for half-pixel centres."""
    place = torch.arange(size, dtype=torch.float32, device=device).add_(0.5).mul_(small / full).sub_(0.5).clamp_(min=0)
    first = place.long().clamp_(max=small - 1)
    return first, (first + 1).clamp_(max=small - 1), place - first
