"""Networks for images with other than three bands. Letters: N bands, D channels."""

import torch
from torch import nn

from pipeline.config import TrainConfig
from pipeline.errors import UserError
from pipeline.models.base import Network

RGB = 3


def input_bands(network: Network) -> int:
    """Return the number of bands in a network's input."""
    return _first_convolution(network).in_channels


def first_convolution_words(cfg: TrainConfig) -> str | None:
    """Return how the first convolution of a training run is initialised, as a sentence, if bands are declared; else None."""
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
    """Adapt a network for RGB to `bands` bands. Only the convolutions on the image, the mean and the std change.

    Args:
        inflate: whether the weights are pretrained. If so, every band gets the mean of the three RGB filters, scaled by 3/N. An
            image whose bands are all equal then gives the same result as a grey picture, so the later layers get the input
            that they were trained on. Otherwise the filters are drawn at random, with the old ones' spread times sqrt(3/N).
    """
    for conv in (_first_convolution(network), *network.further_inputs()):
        assert conv.in_channels == RGB, "a network is widened once"
        conv.in_channels, conv.weight = bands, nn.Parameter(_widened(conv, bands, inflate))
    network.expect_bands(bands)
    network.mean, network.std = ((sum(levels) / RGB,) * bands for levels in (network.mean, network.std))


@torch.no_grad()
def _widened(conv: nn.Conv2d, bands: int, inflate: bool) -> torch.Tensor:
    """Return the new weights (channels, bands, h, w)."""
    if inflate:
        return conv.weight.mean(dim=1, keepdim=True).repeat(1, bands, 1, 1) * (RGB / bands)
    shape = (conv.out_channels, bands, *conv.kernel_size)
    return torch.randn(shape, device=conv.weight.device) * conv.weight.std() * (RGB / bands) ** 0.5


def _first_convolution(network: Network) -> nn.Conv2d:
    """Return the convolution on the image, which in every family is the encoder's first."""
    for module in network.backbone.modules():
        if isinstance(module, nn.Conv2d):
            return module
    raise UserError(
        f"the encoder of {type(network).__name__} has no convolution that could be widened; leave image.bands out, or let the "
        "network see three bands"
    )
