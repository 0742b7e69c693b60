"""FCN on ResNet, as torchvision publishes it."""

from typing import Literal

from torchvision.models.segmentation.fcn import FCNHead

from pipeline.models.aux_head import AuxHeadNetwork
from pipeline.models.backbones.resnet import ResNet


class FcnResNet(AuxHeadNetwork):
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
        self.stride = output_stride
        self.backbone = ResNet(backbone, output_stride)
        self.classifier = FCNHead(self.backbone.channels[3], num_classes)
        self.aux_classifier = FCNHead(self.backbone.channels[2], num_classes) if aux else None
