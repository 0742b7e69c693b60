"""Segmentation networks: one file a family, chosen here by the config's name."""

from importlib import import_module

from pipeline.config import ModelConfig
from pipeline.config.models import NETWORK_SECTIONS, NetworkSection
from pipeline.models.base import GridNetwork, Network, place_on_pixels
from pipeline.models.classifier import Classifier
from pipeline.models.weights import check_encoder, load_imagenet, published_config, published_weights, start_from

__all__ = [
    "NETWORKS",
    "Classifier",
    "GridNetwork",
    "Network",
    "build",
    "check_encoder",
    "place_on_pixels",
    "published_config",
    "published_weights",
    "start_from",
]


def _network_of(section: type[NetworkSection]) -> type[Network]:
    module, _, name = section.network.partition(".")
    network: type[Network] = getattr(import_module(f"{__name__}.{module}"), name)
    return network


NETWORKS = {name: _network_of(section) for name, section in NETWORK_SECTIONS.items()}


def build(cfg: ModelConfig, num_classes: int, pretrained: bool = False) -> Network:
    """The network a config describes; with `pretrained`, its backbone holds published ImageNet weights.

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
    if pretrained:
        load_imagenet(network)
    return network
