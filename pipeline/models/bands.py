"""Networks for images of other than three bands. Letters: N bands, D channels."""

import torch
from torch import nn

from pipeline.models.base import Network

RGB = 3


def input_bands(network: Network) -> int:
    """How many bands a network sees."""
    return _first_convolution(network).in_channels


def widen(network: Network, bands: int, inflate: bool) -> None:
    """Let a network for RGB see `bands` bands: its first convolution, mean and std change, nothing else.

    Args:
        inflate: its weights are learnt. Every band then gets the mean of the three RGB filters, scaled by 3/N: an image whose
            bands are all alike gives what a grey picture gives, so that the layers behind see what they were trained on.
            Otherwise the filters are drawn anew, with the spread of those that were there, scaled by sqrt(3/N).
    """
    conv = _first_convolution(network)
    assert conv.in_channels == RGB, "a network is widened once"
    with torch.no_grad():
        if inflate:
            weight = conv.weight.mean(dim=1, keepdim=True).repeat(1, bands, 1, 1) * (RGB / bands)
        else:
            shape = (conv.out_channels, bands, *conv.kernel_size)
            weight = torch.randn(shape, device=conv.weight.device) * conv.weight.std() * (RGB / bands) ** 0.5
    conv.in_channels, conv.weight = bands, nn.Parameter(weight)
    network.mean, network.std = ((sum(levels) / RGB,) * bands for levels in (network.mean, network.std))


def _first_convolution(network: Network) -> nn.Conv2d:
    """The one that sees the image: the first of the encoder's, in every family."""
    return next(module for module in network.backbone.modules() if isinstance(module, nn.Conv2d))
