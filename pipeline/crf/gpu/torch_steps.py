"""The steps as torch operations: they compute what the Triton kernels do, on CPU tensors and where Triton cannot run."""

import torch
import torch.nn.functional as F

from pipeline.crf.gpu.steps import FAR, FLOOR, NEVER, TINY, Sums, padded

BLUR_TABLES, BLUR_BYTES, UPDATE_TABLES = 4, 16, 5


def open(source: torch.Tensor, are_probs: bool) -> tuple[torch.Tensor, torch.Tensor]:
    num_images, num_classes, num_pixels = source.shape
    scores = source.new_full((num_images, num_pixels, padded(num_classes)), NEVER)
    # The logarithm in float64, as on the CPU path: ten steps amplify the rounding error of an energy.
    planes = source.clamp(min=FLOOR).double().log().float() if are_probs else _reduced(-source)
    scores[:, :, :num_classes] = planes.transpose(1, 2)
    scores = scores.flatten(0, 1)
    return scores, _softmax(scores)


def add_up(table: torch.Tensor, sums: Sums) -> torch.Tensor:
    return F.embedding_bag(
        sums.index, table, sums.start, mode="sum", per_sample_weights=sums.weight, include_last_offset=True
    )


def blur(values: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
    padding = torch.cat([values, torch.zeros_like(values[:1])])  # index -1 (no neighbour) reads this last row of zeros
    ahead, behind = neighbours
    return values.add(padding[ahead].add_(padding[behind]), alpha=0.5)


def update(
    values: torch.Tensor, vertex: torch.Tensor, weight: torch.Tensor, scores: torch.Tensor, factors: torch.Tensor | None
) -> torch.Tensor:
    message = F.embedding_bag(vertex, values, mode="sum", per_sample_weights=weight)
    if factors is not None:
        message.mul_(factors)
    return _softmax(message.add_(scores))


def close(
    values: torch.Tensor,
    vertex: torch.Tensor,
    weight: torch.Tensor,
    scores: torch.Tensor,
    factors: torch.Tensor | None,
    shape: tuple[int, int, int],
) -> torch.Tensor:
    num_images, num_classes, num_pixels = shape
    marginals = update(values, vertex, weight, scores, factors).view(num_images, num_pixels, -1)
    return marginals[:, :, :num_classes].transpose(1, 2).contiguous()


def _reduced(planes: torch.Tensor) -> torch.Tensor:
    best = planes.amax(dim=1, keepdim=True)
    return planes - torch.where(best.abs() > FAR, best, 0)


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    probs = scores.softmax(dim=1)
    return probs.masked_fill_(probs < TINY, 0)
