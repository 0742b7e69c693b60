"""DeepLabv3 (arXiv:1706.05587)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from pipeline.config.models import deeplabv3_rates
from pipeline.errors import UserError
from pipeline.models.aux_head import AuxHeadNetwork
from pipeline.models.backbones.mobilenet import COARSE, FINE, MobileNetV3Large
from pipeline.models.backbones.resnet import ResNet


class DeepLabV3(AuxHeadNetwork):
    """Atrous pyramid with image pooling over a dilated encoder; torchvision's networks, parameter for parameter.

    Args:
        output_stride: 8 or 16; MobileNetV3 has 16.
        multi_grid: relative rates of the last stage's three blocks; the paper's best is (1, 2, 4). None leaves
            torchvision's, which is (1, 1, 1) with the first block at the rate of the stage before.
        rates: of the pyramid, as they are; None: the paper's for the output stride (section 3.3), or torchvision's on
            MobileNetV3.
        aux: a second head on an earlier map, for deep supervision (not in the paper; torchvision's training has it).
    Raises:
        UserError: MobileNetV3 with another stride than 16 or with multi_grid.
    """

    def __init__(
        self,
        num_classes: int,
        backbone: Literal["resnet50", "resnet101", "mobilenet_v3_large"] = "resnet50",
        output_stride: Literal[8, 16] = 8,
        multi_grid: Sequence[int] | None = None,
        rates: Sequence[int] | None = None,
        aux: bool = True,
    ) -> None:
        super().__init__()
        self.stride = output_stride
        if backbone == "mobilenet_v3_large":
            if output_stride != 16 or multi_grid is not None:
                raise UserError(
                    f"deeplabv3: backbone mobilenet_v3_large has output_stride 16 and no multi_grid, found "
                    f"{output_stride} and {multi_grid}; set output_stride: 16 and leave multi_grid out"
                )
            self.backbone: ResNet | MobileNetV3Large = MobileNetV3Large((FINE, COARSE), 16, torchvision_rates=True)
        else:
            self.backbone = ResNet(backbone, output_stride, multi_grid)
        middle, last = self.backbone.channels[-2:]
        rates = deeplabv3_rates(backbone, output_stride) if rates is None else tuple(rates)
        self.classifier = DeepLabHead(last, num_classes, rates)
        self.aux_classifier = FCNHead(middle, num_classes) if aux else None

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and len(x) == 1:
            raise UserError(
                "deeplabv3 trains on at least 2 images a worker, found 1: the batch norm of its image pooling sees one "
                "value an image; raise batch_size, or choose deeplabv3plus, whose image pooling has no batch norm"
            )
        return super().classify(x)
