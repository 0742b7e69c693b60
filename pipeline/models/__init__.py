"""Segmentation networks: one file per family, chosen here by the name in the config and imported only when it is used.

torchvision takes seconds to import, so code that needs it imports it only when a network is built.
"""

from collections.abc import Mapping
from functools import cache
from importlib import import_module

import torch

from pipeline.config import ModelConfig
from pipeline.config.models import NETWORK_SECTIONS
from pipeline.errors import UserError
from pipeline.models.bands import input_bands, widen
from pipeline.models.base import GridNetwork, Network, place_on_pixels
from pipeline.models.classifier import Classifier
from pipeline.models.exported import Exported
from pipeline.models.outside import Outside
from pipeline.models.weights import (
    check_encoder,
    fit_bands,
    matching,
    published_config,
    published_weights,
    start_from,
)

__all__ = [
    "Classifier",
    "Exported",
    "GridNetwork",
    "Network",
    "Outside",
    "build",
    "check_encoder",
    "fit_bands",
    "input_bands",
    "matching",
    "network_class",
    "place_on_pixels",
    "published_config",
    "published_weights",
    "settled",
    "start_from",
    "widen",
]


@cache
def network_class(name: str) -> type[Network]:
    """Return the network class for a name in a config."""
    module, _, class_name = NETWORK_SECTIONS[name].network.partition(".")
    network: type[Network] = getattr(import_module(f"{__name__}.{module}"), class_name)
    return network


def settled(cfg: ModelConfig) -> ModelConfig:
    """Resolve the section of an external network: add the hash of its code and its architecture. Return others unchanged.

    Raises:
        UserError: the code or the architecture does not exist.
    """
    return network_class(cfg.name).settle(cfg)


def build(
    cfg: ModelConfig, num_classes: int, pretrained: bool | Mapping[str, torch.Tensor] = False, bands: int = 3
) -> Network:
    """Build the network of a config; with `pretrained`, its backbone has ImageNet weights, published ones or from a file.

    For images with other than three bands the first convolution is replaced (`bands.widen`).

    >>> import torch
    >>> from pipeline.config import parse_model
    >>> cfg = parse_model({"name": "unet", "channels": 16}, where="example")
    >>> network = build(cfg, num_classes=19).eval()
    >>> [logits] = network(network.normalise(torch.zeros(1, 3, 64, 96, dtype=torch.uint8)))
    >>> logits.shape
    torch.Size([1, 19, 64, 96])

    Raises:
        UserError: settings contradict each other, or the published weights are not available on this machine.
    """
    network = network_class(cfg.name)(cfg, num_classes)
    if pretrained and isinstance(network, Outside):
        if pretrained is not True:
            raise UserError(
                f"weights: a file of ImageNet weights is for this package's own networks, found model {cfg.name}; set "
                "weights: imagenet or random"
            )
        network.start_pretrained()
    elif pretrained:
        from pipeline.models.imagenet import load_imagenet

        load_imagenet(network, None if pretrained is True else pretrained)
    if bands != 3:
        widen(network, bands, inflate=bool(pretrained))
    return network
