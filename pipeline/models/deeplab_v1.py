"""DeepLab-LargeFOV, the first DeepLab (arXiv:1412.7062). Letters: N batch, C classes, H rows, W columns."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config.models import DeepLabV1Config
from pipeline.models.backbones.vgg import Vgg16
from pipeline.models.base import GridNetwork
from pipeline.models.layers import upsample


class DeepLabV1(GridNetwork):
    """VGG16 at stride 8 by the hole algorithm, and a 3x3 fc6 whose rate of 12 sees as much as the 7x7 it replaces.

    Table 2's DeepLab-CRF-LargeFOV: 20.5 M parameters with 21 classes. The dense CRF is a setting of the segmentation
    run. Deviation: sizes are multiples of 8 and upsampling has half-pixel centres, where the released network takes
    8 k + 1 and aligns corners.
    """

    variants = (({}, "arXiv:1412.7062 LargeFOV"),)
    enlarges = True
    centre = 0.0

    def __init__(self, cfg: DeepLabV1Config, num_classes: int) -> None:
        super().__init__()
        self.multiple_of = self.min_size = self.stride = 8
        self.backbone = Vgg16(pool=3, strides=(2, 2, 2, 1, 1))
        self.fc6 = nn.Conv2d(512, cfg.fc_channels, 3, padding=cfg.rate, dilation=cfg.rate)
        self.fc7 = nn.Conv2d(cfg.fc_channels, cfg.fc_channels, 1)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.fc8 = nn.Conv2d(cfg.fc_channels, num_classes, 1)
        nn.init.normal_(self.fc8.weight, std=0.01)
        self.dropout = nn.Dropout(cfg.dropout)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, H / 8, W / 8)."""
        x = F.avg_pool2d(self.backbone(x)[-1], 3, 1, padding=1)  # the released LargeFOV's pool5a
        x = self.dropout(F.relu(self.fc6(x)))
        x = self.dropout(F.relu(self.fc7(x)))
        return self.fc8(x)

    def fine_tuned(self) -> list[nn.Module]:
        """All but fc8: the release fine-tunes VGG16's fc6 and fc7 at the encoder's rate, and fc8 10x faster."""
        return [self.backbone, self.fc6, self.fc7]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [logits (N, C, H, W)]."""
        return [upsample(self.coarse(x), like=x)]
