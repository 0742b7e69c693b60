"""DeepLab v2 (arXiv:1606.00915): the atrous spatial pyramid. Letters: N batch, C classes, H rows, W columns."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config.models import DeepLabV2Config
from pipeline.models.backbones.resnet import ResNet
from pipeline.models.backbones.vgg import Vgg16
from pipeline.models.base import GridNetwork
from pipeline.models.layers import upsample


class DeepLabV2(GridNetwork):
    """Parallel atrous branches whose scores are summed, at stride 8, optionally on an image pyramid fused by maximum.

    On VGG16 a branch is fc6 (3x3, atrous), fc7, fc8; on ResNet-101 it is one atrous 3x3 classifier (section 4.1.2).
    With several scales the logits of each scale are returned before their maximum, since the paper trains each with a loss.
    """

    variants = tuple(({"backbone": name}, "arXiv:1606.00915 ASPP-L") for name in ("vgg16", "resnet50", "resnet101"))
    enlarges = True
    centre = 0.0

    def __init__(self, cfg: DeepLabV2Config, num_classes: int) -> None:
        super().__init__()
        self.stride = 8
        self.multiple_of = 1 if cfg.resnet == "caffe" else 8
        self.min_size = 32
        self.scales = cfg.scales
        if cfg.backbone == "vgg16":
            self.backbone: Vgg16 | ResNet = Vgg16(pool=3, strides=(2, 2, 2, 1, 1))
            self.branches = nn.ModuleList(
                _fully_connected(rate, cfg.fc_channels, num_classes, cfg.dropout) for rate in cfg.rates
            )
        else:
            self.backbone = ResNet(cfg.backbone, output_stride=8, definition=cfg.resnet)
            width = self.backbone.channels[3]
            self.branches = nn.ModuleList(
                nn.Conv2d(width, num_classes, 3, padding=rate, dilation=rate) for rate in cfg.rates
            )
        for module in self.branches.modules():
            if isinstance(module, nn.Conv2d) and module.out_channels == num_classes:
                nn.init.normal_(module.weight, std=0.01)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, H / 8, W / 8), for scale 1."""
        x = self.backbone(x)[-1]
        return torch.stack([branch(x) for branch in self.branches]).sum(dim=0)

    def fine_tuned(self) -> list[nn.Module]:
        """Return all but the branches' fc8 on VGG16, as in the first DeepLab; only the encoder on a ResNet."""
        own = [branch[:-1] for branch in self.branches if isinstance(branch, nn.Sequential)]
        return [self.backbone, *own]

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        self.check_size(x)
        return self._coarse(x)[-1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [logits (N, C, H, W)], preceded by those of each scale if there are several."""
        self.check_size(x)
        return [upsample(scores, like=x) for scores in self._coarse(x)]

    def _coarse(self, x: torch.Tensor) -> list[torch.Tensor]:
        each = []
        for scale in self.scales:
            if self.multiple_of == 1:  # as the release does
                size = [math.floor(side * scale) for side in x.shape[-2:]]
            else:
                size = [max(self.min_size, round(side * scale)) for side in x.shape[-2:]]
            scaled = x if scale == 1 else F.interpolate(x, size, mode="bilinear", align_corners=False)
            each.append(self.scores(scaled))
        if len(each) == 1:
            return each
        return [*each, torch.stack([upsample(scores, like=each[0]) for scores in each]).amax(dim=0)]


def _fully_connected(rate: int, fc_channels: int, num_classes: int, dropout: float) -> nn.Sequential:
    layers = nn.Sequential(
        nn.Conv2d(512, fc_channels, 3, padding=rate, dilation=rate), nn.ReLU(inplace=True), nn.Dropout(dropout),
        nn.Conv2d(fc_channels, fc_channels, 1), nn.ReLU(inplace=True), nn.Dropout(dropout),
        nn.Conv2d(fc_channels, num_classes, 1),
    )  # fmt: skip
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layers
