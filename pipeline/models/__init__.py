"""Segmentation networks: one file a family, chosen here by the config's name."""

from collections.abc import Mapping
from importlib import import_module

import torch

from pipeline.config import ModelConfig
from pipeline.config.models import NETWORK_SECTIONS, NetworkSection
from pipeline.errors import UserError
from pipeline.models.bands import input_bands, widen
from pipeline.models.base import GridNetwork, Network, place_on_pixels
from pipeline.models.classifier import Classifier
from pipeline.models.exported import Exported
from pipeline.models.imagenet import load_imagenet
from pipeline.models.outside import Outside
from pipeline.models.weights import (
    check_encoder,
    fit_bands,
    published_config,
    published_weights,
    start_from,
)

__all__ = [
    "NETWORKS",
    "Classifier",
    "Exported",
    "GridNetwork",
    "Network",
    "Outside",
    "build",
    "check_encoder",
    "fit_bands",
    "input_bands",
    "place_on_pixels",
    "published_config",
    "published_weights",
    "settled",
    "start_from",
    "widen",
]


def _network_of(section: type[NetworkSection]) -> type[Network]:
    module, _, name = section.network.partition(".")
    network: type[Network] = getattr(import_module(f"{__name__}.{module}"), name)
    return network


NETWORKS = {name: _network_of(section) for name, section in NETWORK_SECTIONS.items()}


def settled(cfg: ModelConfig) -> ModelConfig:
    """The section of a network from outside with what it points at: the hash of its code, its architecture; others as they are.

    Raises:
        UserError: what it points at is not there.
    """
    return NETWORKS[cfg.name].settle(cfg)


def build(
    cfg: ModelConfig, num_classes: int, pretrained: bool | Mapping[str, torch.Tensor] = False, bands: int = 3
) -> Network:
    """The network a config describes; with `pretrained`, its backbone holds ImageNet weights: published, or of a file.

    Images of other than three bands get a first convolution of their own (`bands.widen`).

    >>> import torch
    >>> from pipeline.config import parse_model
    >>> cfg = parse_model({"name": "unet", "channels": 16}, where="example")
    >>> network = build(cfg, num_classes=19).eval()
    >>> [logits] = network(network.normalise(torch.zeros(1, 3, 64, 96, dtype=torch.uint8)))
    >>> logits.shape
    torch.Size([1, 19, 64, 96])

    Raises:
        UserError: settings that do not go together, or the published weights cannot be had on this machine.
    """
    network = NETWORKS[cfg.name](cfg, num_classes)
    if pretrained and isinstance(network, Outside):
        if pretrained is not True:
            raise UserError(
                f"weights: a file of ImageNet weights is for this package's own networks, found model {cfg.name}; set "
                "weights: imagenet or random"
            )
        network.start_pretrained()
    elif pretrained:
        load_imagenet(network, None if pretrained is True else pretrained)
    if bands != 3:
        widen(network, bands, inflate=bool(pretrained))
    return network
