"""FCN on ResNet, as torchvision publishes it. Letters: N batch, C classes, H rows, W columns."""

from typing import Literal

import torch
from torchvision.models.segmentation.fcn import FCNHead

from pipeline.models.layers import upsample
from pipeline.models.network import GridNetwork
from pipeline.models.resnet import ResNet


class FcnResNet(GridNetwork):
    """torchvision's fcn_resnet50 and fcn_resnet101, parameter for parameter: a dilated ResNet and a 3x3 + 1x1 head.

    Nearer to the PSPNet's baseline (arXiv:1612.01105) than to the FCN paper: no skips, stride 8, bilinear upsampling.

    Args:
        aux: a second head on the third stage, for deep supervision.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: Literal["resnet50", "resnet101"] = "resnet50",
        output_stride: Literal[8, 16, 32] = 8,
        aux: bool = True,
    ) -> None:
        super().__init__()
        self.enlarges = True
        self.stride, self.centre = output_stride, 0.0
        self.multiple_of, self.min_size = 1, 32
        self.backbone = ResNet(backbone, output_stride)
        self.classifier = FCNHead(self.backbone.channels[3], num_classes)
        self.aux_classifier = FCNHead(self.backbone.channels[2], num_classes) if aux else None

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, H / stride, W / stride)."""
        return self.classifier(self.backbone(x)[3])

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        self.check_size(x)
        return self.scores(x)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [auxiliary logits while training, logits], each (N, C, H, W)."""
        self.check_size(x)
        stages = self.backbone(x)
        aux = [upsample(self.aux_classifier(stages[2]), like=x)] if self.aux_classifier and self.training else []
        return [*aux, upsample(self.classifier(stages[3]), like=x)]
