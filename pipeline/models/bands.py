"""Networks for images of other than three bands. Letters: N bands, D channels."""

import torch
from torch import nn

from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.models.base import Network

RGB = 3


def input_bands(network: Network) -> int:
    """How many bands a network sees."""
    return _first_convolution(network).in_channels


def first_convolution_words(cfg: TrainConfig) -> str | None:
    """What a training run's first convolution begins with, where bands are declared, as a sentence; else None."""
    if cfg.image is None:
        return None
    bands = len(cfg.image.bands)
    which = ", ".join(map(str, cfg.image.bands))
    if cfg.start_from is not None:
        begins = f"is that of {cfg.start_from}, inflated if it was trained on three bands"
    elif cfg.weights == "random":
        begins = "begins with random filters"
    elif bands == RGB:
        begins = "begins with ImageNet's filters for red, green and blue, in this order"
    else:
        begins = f"begins with the mean of ImageNet's red, green and blue filters, times 3/{bands}, for each band"
    return f"the network sees {bands} bands ({which}); its first convolution {begins}"


def widen(network: Network, bands: int, inflate: bool) -> None:
    """Let a network for RGB see `bands` bands: the convolutions that see the image, mean and std change, nothing else.

    Args:
        inflate: its weights are learnt. Every band then gets the mean of the three RGB filters, scaled by 3/N: an image whose
            bands are all alike gives what a grey picture gives, so that the layers behind see what they were trained on.
            Otherwise the filters are drawn anew, with the spread of those that were there, scaled by sqrt(3/N).
    """
    for conv in (_first_convolution(network), *network.further_inputs()):
        assert conv.in_channels == RGB, "a network is widened once"
        conv.in_channels, conv.weight = bands, nn.Parameter(_widened(conv, bands, inflate))
    network.mean, network.std = ((sum(levels) / RGB,) * bands for levels in (network.mean, network.std))


@torch.no_grad()
def _widened(conv: nn.Conv2d, bands: int, inflate: bool) -> torch.Tensor:
    """(channels, bands, h, w)."""
    if inflate:
        return conv.weight.mean(dim=1, keepdim=True).repeat(1, bands, 1, 1) * (RGB / bands)
    shape = (conv.out_channels, bands, *conv.kernel_size)
    return torch.randn(shape, device=conv.weight.device) * conv.weight.std() * (RGB / bands) ** 0.5


def _first_convolution(network: Network) -> nn.Conv2d:
    """The one that sees the image: the first of the encoder's, in every family."""
    for module in network.backbone.modules():
        if isinstance(module, nn.Conv2d):
            return module
    raise UserError(
        f"the encoder of {type(network).__name__} has no convolution that could be widened; leave image.bands out, or let the "
        "network see three bands"
    )
