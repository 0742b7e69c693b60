"""Dense logits from networks on a coarse grid, not enlarged by them. Letters: N batch, C classes, H rows, W columns."""

import torch
import torch.nn.functional as F

from pipeline.errors import UserError
from pipeline.models import Classifier, GridNetwork, Network, place_on_pixels


def shift_and_stitch(model: GridNetwork, x: torch.Tensor) -> torch.Tensor:
    """Dense logits (N, C, H, W) without learnt upsampling: the network's grid of scores, shifted to every pixel.

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
    """Logits (N, C, H, W) as before convolutional networks: the classifier runs on each window alone.

    Windows lie at the network's stride, each gives the scores of its middle, and logits between are interpolated.
    """
    height, width = x.shape[-2:]
    x = model.extend(x)
    steps = [range(0, size - model.window + 1, model.stride) for size in x.shape[-2:]]
    rows = [
        torch.cat([model.classify(x[..., i : i + model.window, j : j + model.window]) for j in steps[1]], dim=-1)
        for i in steps[0]
    ]
    return place_on_pixels(torch.cat(rows, dim=-2), model.stride, model.centre, height, width)


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
