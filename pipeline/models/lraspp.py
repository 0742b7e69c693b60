"""Lite R-ASPP on MobileNetV3 (arXiv:1905.02244, section 6.4). Letters: N batch, C classes, H rows, W columns."""

import torch
from torch import nn

from pipeline.config.models import LrasppConfig
from pipeline.models.backbones.mobilenet import COARSE, FINE, MobileNetV3Large
from pipeline.models.base import Network
from pipeline.models.layers import conv_bn_relu, upsample


class Lraspp(Network):
    """A gated 1x1 branch at stride 16 and a skip at 8, identical to torchvision's lraspp_mobilenet_v3_large in every parameter.

    torchvision's deviation: it pools the whole image, whereas the paper pools 49x49 windows with stride (16, 20).
    """

    variants = (({}, "arXiv:1905.02244, torchvision"),)
    enlarges = True
    multiple_of, min_size = 1, 32

    def __init__(self, cfg: LrasppConfig, num_classes: int) -> None:
        super().__init__()
        self.backbone = MobileNetV3Large((FINE, COARSE), 16, torchvision_rates=True)
        fine, coarse = self.backbone.channels
        self.classifier = Head(fine, coarse, num_classes, cfg.inter_channels)

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        self.check_size(x)
        fine, coarse = self.backbone(x)
        logits: torch.Tensor = self.classifier(fine, coarse)
        return logits

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [logits (N, C, H, W)]."""
        return [upsample(self.coarse(x), like=x)]


class Head(nn.Module):
    """Two maps -> logits of the finer one's size."""

    def __init__(self, fine: int, coarse: int, num_classes: int, inter_channels: int) -> None:
        super().__init__()
        self.cbr = conv_bn_relu(coarse, inter_channels, 1)
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(coarse, inter_channels, 1, bias=False), nn.Sigmoid()
        )
        self.low_classifier = nn.Conv2d(fine, num_classes, 1)
        self.high_classifier = nn.Conv2d(inter_channels, num_classes, 1)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        gated = upsample(self.cbr(coarse) * self.scale(coarse), like=fine)
        logits: torch.Tensor = self.low_classifier(fine) + self.high_classifier(gated)
        return logits
