"""DeepLabv3 (arXiv:1706.05587)."""

import torch
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from pipeline.config.models import DeepLabV3Config
from pipeline.errors import UserError
from pipeline.models.aux_head import AuxHeadNetwork
from pipeline.models.backbones.mobilenet import COARSE, FINE, MobileNetV3Large
from pipeline.models.backbones.resnet import ResNet


class DeepLabV3(AuxHeadNetwork):
    """Atrous pyramid with image pooling over a dilated encoder; identical to torchvision's networks in every parameter.

    Raises:
        UserError: MobileNetV3 with an output stride other than 16, or with multi_grid.
    """

    variants = (
        ({"backbone": "resnet50"}, "arXiv:1706.05587, torchvision"),
        ({"backbone": "resnet101"}, "arXiv:1706.05587, torchvision"),
        ({"backbone": "mobilenet_v3_large", "output_stride": 16}, "torchvision"),
    )

    def __init__(self, cfg: DeepLabV3Config, num_classes: int) -> None:
        super().__init__()
        self.stride = cfg.output_stride
        if cfg.backbone == "mobilenet_v3_large":
            if cfg.output_stride != 16 or cfg.multi_grid is not None:
                raise UserError(
                    f"deeplabv3: backbone mobilenet_v3_large has output_stride 16 and no multi_grid, found "
                    f"{cfg.output_stride} and {cfg.multi_grid}; set output_stride: 16 and leave multi_grid out"
                )
            self.backbone: ResNet | MobileNetV3Large = MobileNetV3Large((FINE, COARSE), 16, torchvision_rates=True)
        else:
            self.backbone = ResNet(cfg.backbone, cfg.output_stride, cfg.multi_grid)
        middle, last = self.backbone.channels[-2:]
        self.classifier = DeepLabHead(last, num_classes, cfg.rates)
        self.aux_classifier = FCNHead(middle, num_classes) if cfg.aux else None

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) == 1:
            raise UserError(
                "deeplabv3 trains on at least 2 images a worker, found 1: the batch norm of its image pooling sees one "
                "value an image; raise batch_size, or choose deeplabv3plus, whose image pooling has no batch norm"
            )
        return super().classify(x)
