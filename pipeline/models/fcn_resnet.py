"""FCN on ResNet, as published by torchvision."""

from torchvision.models.segmentation.fcn import FCNHead

from pipeline.config.models import FcnResNetConfig
from pipeline.models.aux_head import AuxHeadNetwork
from pipeline.models.backbones.resnet import ResNet


class FcnResNet(AuxHeadNetwork):
    """A dilated ResNet and a 3x3 + 1x1 head, identical to torchvision's fcn_resnet50 and fcn_resnet101 in every parameter.

    It is closer to PSPNet's baseline (arXiv:1612.01105) than to the FCN paper: no skips, stride 8, bilinear upsampling.
    """

    variants = (({"backbone": "resnet50"}, "torchvision"), ({"backbone": "resnet101"}, "torchvision"))

    def __init__(self, cfg: FcnResNetConfig, num_classes: int) -> None:
        super().__init__()
        self.stride = cfg.output_stride
        self.backbone = ResNet(cfg.backbone, cfg.output_stride)
        self.classifier = FCNHead(self.backbone.channels[3], num_classes)
        self.aux_classifier = FCNHead(self.backbone.channels[2], num_classes) if cfg.aux else None
