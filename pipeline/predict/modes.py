"""Modes that make full-size logits from several passes of a network. Letters: N batch, C classes, H rows, W columns."""

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F

from pipeline.config import PredictConfig
from pipeline.errors import UserError
from pipeline.models import Classifier, GridNetwork, Network, place_on_pixels
from pipeline.models.deconvnet import DeconvNet


def shift_and_stitch(model: GridNetwork, x: torch.Tensor) -> torch.Tensor:
    """Return full-size logits (N, C, H, W) without learnt upsampling: the network's grid of scores, shifted to every pixel.

    The network runs stride^2 times, on x shifted left and up by 0 .. stride - 1 pixels, and the grids are interlaced
    (arXiv:1411.4038, section 3.2). Inside the image this equals the same weights with every stride turned into dilation.
    """
    height, width = x.shape[-2:]
    rows = []
    for down in range(model.stride):
        row = []
        for right in range(model.stride):
            shifted = F.pad(x, (-right, right, -down, down))
            row.append(model.scores(shifted.contiguous(memory_format=torch.channels_last)))
        rows.append(torch.stack(row, dim=-1).flatten(-2))  # (N, C, h, w * stride)
    dense = torch.stack(rows, dim=-2).flatten(-3, -2)
    return place_on_pixels(dense, 1, model.centre, height, width)


def slide_window(model: Classifier, x: torch.Tensor) -> torch.Tensor:
    """Return logits (N, C, H, W) as before fully convolutional networks: the classifier runs on each window separately.

    Windows are one stride of the network apart; each gives the logits at its centre, and those between are interpolated.
    """
    height, width = x.shape[-2:]
    x = model.extend(x)
    steps = [range(0, size - model.window + 1, model.stride) for size in x.shape[-2:]]
    rows = [
        torch.cat([model.classify(x[..., i : i + model.window, j : j + model.window]) for j in steps[1]], dim=-1)
        for i in steps[0]
    ]
    return place_on_pixels(torch.cat(rows, dim=-2), model.stride, model.centre, height, width)


def sub_windows(model: DeconvNet, x: torch.Tensor, shares: Sequence[float]) -> torch.Tensor:
    """Return logits (N, C, H, W) of an ensemble over parts of the image, each resized to the network's own 224x224.

    The scores of each part are put back at its position, with zeros elsewhere, and the maximum over parts is taken per pixel
    and class (arXiv:1505.04366, section 4.4). Deviation: the paper's parts are 50 object proposals (edge boxes), ours a grid.

    Args:
        shares: side lengths of the parts, as shares of the image's; parts of one size overlap by half.
    """
    size = [model.min_size] * 2
    total: torch.Tensor | None = None
    for share in shares:
        rows, columns = (_spans(side, share) for side in x.shape[-2:])
        for (top, bottom), (left, right) in product(rows, columns):
            part = F.interpolate(x[..., top:bottom, left:right], size, mode="bilinear", antialias=True)
            scores = model(part.contiguous(memory_format=torch.channels_last))[-1]
            scores = F.interpolate(scores, (bottom - top, right - left), mode="bilinear", antialias=True)
            if total is None:
                total = scores.new_zeros(*scores.shape[:2], *x.shape[-2:])
            place = total[..., top:bottom, left:right]
            place.copy_(torch.maximum(place, scores))
    assert total is not None
    return total


def _spans(side: int, share: float) -> list[tuple[int, int]]:
    """Return the first pixel and the end of each part along a side."""
    length = max(1, round(side * share))
    steps = -(-2 * (side - length) // length)
    return [(start, start + length) for start in (round(i * (side - length) / max(steps, 1)) for i in range(steps + 1))]


def as_deconvnet(model: Network) -> DeconvNet:
    if not isinstance(model, DeconvNet):
        raise UserError(
            f"predict.mode sub_windows is DeconvNet's, found {type(model).__name__}; set predict.mode: whole, or predict.tile "
            "for images that are too large"
        )
    return model


def mode_of(model: Network, cfg: PredictConfig) -> PredictConfig:
    """Return the config of another network in an ensemble: only DeconvNet uses sub_windows, as in the paper's EDeconvNet."""
    whole = cfg.mode == "sub_windows" and not isinstance(model, DeconvNet)
    return cfg.model_copy(update={"mode": "whole"}) if whole else cfg


def as_classifier(model: Network) -> Classifier:
    if not isinstance(model, Classifier):
        raise UserError(
            f"predict.mode sliding_window needs a classifier, found {type(model).__name__}; set model.name: classifier, "
            "or predict.mode: whole"
        )
    return model


def as_grid(model: Network) -> GridNetwork:
    if not isinstance(model, GridNetwork):
        raise UserError(
            "predict.mode shift_and_stitch needs a network whose scores lie on a coarse grid (classifier, fcn, fcn_resnet, "
            f"deeplabv1, deeplabv2, deeplabv3), found {type(model).__name__}; set predict.mode: whole"
        )
    return model
