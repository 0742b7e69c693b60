"""The first DeepLab (arXiv:1412.7062): fields of view, multi-scale features. Letters: N batch, C classes."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config.models import DeepLabV1Config
from pipeline.errors import UserError
from pipeline.models.backbones.vgg import VGG16_WIDTHS, Vgg16
from pipeline.models.base import GridNetwork
from pipeline.models.layers import upsample

_MLP = 128  # channels of both layers of each MLP (section 4, "multi-scale prediction")
# Maps with an MLP: channels, and the stride that reduces them to the grid, as in the release. The image, then four poolings.
_ATTACHED = ((3, 8), *zip(VGG16_WIDTHS[:4], (4, 2, 1, 1), strict=True))


class DeepLabV1(GridNetwork):
    """VGG16 at stride 8 by the hole algorithm, and an atrous fc6: 3x3 at rate 12 covers as much as the 7x7 that it replaces.

    Table 2: DeepLab-CRF-LargeFOV has 20.5 M parameters with 21 classes, 4x4 has 65.1 M, 7x7 134.3 M. The dense CRF is a
    setting of the segmentation run. Deviation: sizes are multiples of 8 and upsampling uses half-pixel centres, whereas the
    released network takes sizes of 8 k + 1 and aligns corners.

    With `multi_scale` a two-layer MLP (128 filters of 3x3, then of 1x1) on the image and on each of the first four poolings
    adds 5 * 128 channels to those of fc7, as input to the classifier. ReLU and dropout after each layer and the strides of the
    3x3 convolutions follow the release.

    Raises:
        UserError: a kernel of 4 taps with an odd rate.
    """

    variants = (
        ({}, "arXiv:1412.7062 LargeFOV"),
        ({"multi_scale": True}, "arXiv:1412.7062 MSc-LargeFOV"),
        ({"kernel": 4, "rate": 4}, "arXiv:1412.7062 table 2, DeepLab"),
        ({"kernel": 4, "rate": 8}, "arXiv:1412.7062 table 2, 4x4"),
        ({"kernel": 7, "rate": 4}, "arXiv:1412.7062 table 2, 7x7"),
    )
    enlarges = True
    centre = 0.0

    def __init__(self, cfg: DeepLabV1Config, num_classes: int) -> None:
        super().__init__()
        self.multiple_of = self.min_size = self.stride = 8
        self.backbone = Vgg16(pool=3, strides=(2, 2, 2, 1, 1))
        self.large_fov = cfg.kernel == 3
        reach = cfg.rate * (cfg.kernel - 1)
        if reach % 2:
            raise UserError(
                f"deeplabv1: kernel 4 needs an even rate, to be centred on a pixel, found {cfg.rate}; set rate: 4 or 8"
            )
        self.fc6 = nn.Conv2d(512, cfg.fc_channels, cfg.kernel, padding=reach // 2, dilation=cfg.rate)
        self.fc7 = nn.Conv2d(cfg.fc_channels, cfg.fc_channels, 1)
        for layer in (self.fc6, self.fc7):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.fc8 = nn.Conv2d(cfg.fc_channels, num_classes, 1)
        nn.init.normal_(self.fc8.weight, std=0.01)
        self.dropout = nn.Dropout(cfg.dropout)
        self.multi_scale = cfg.multi_scale
        if cfg.multi_scale:
            self.mlps = nn.ModuleList(_mlp(channels, stride, cfg.dropout) for channels, stride in _ATTACHED)
            self.fc8_mlps = nn.Conv2d(
                _MLP * len(_ATTACHED), num_classes, 1, bias=False
            )  # fc8's columns for the added channels
            nn.init.normal_(self.fc8_mlps.weight, std=0.01)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, H / 8 + 1, W / 8 + 1): the poolings round up, and score i belongs to pixel 8 i."""
        pooled = self.backbone(x)
        attached = [F.pad(x, (0, 1, 0, 1)), *pooled[:4]]  # to 8 k + 1, whose places at stride 8 are the grid's
        last = pooled[-1]
        if self.large_fov:
            last = F.avg_pool2d(last, 3, 1, padding=1)  # the released LargeFOV's pool5a
        last = self.dropout(F.relu(self.fc6(last)))
        last = self.dropout(F.relu(self.fc7(last)))
        if not self.multi_scale:
            return self.fc8(last)
        added = [mlp(feature) for mlp, feature in zip(self.mlps, attached, strict=True)]
        return self.fc8(last) + self.fc8_mlps(torch.cat(added, dim=1))

    def fine_tuned(self) -> list[nn.Module]:
        """Return all but fc8: the release fine-tunes VGG16's fc6 and fc7 at the encoder's rate, and fc8 10x faster.

        With multi-scale features fc8 is included, and the added layers are the head, which the paper trains separately.
        """
        return [self.backbone, self.fc6, self.fc7, *([self.fc8] if self.multi_scale else [])]

    def further_inputs(self) -> list[nn.Conv2d]:
        return [conv for conv in self.mlps[0].modules() if isinstance(conv, nn.Conv2d)][:1] if self.multi_scale else []

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [logits (N, C, H, W)]."""
        return [upsample(self.coarse(x), like=x)]


def _mlp(channels: int, stride: int, dropout: float) -> nn.Sequential:
    layers = nn.Sequential(
        nn.Conv2d(channels, _MLP, 3, stride, padding=1), nn.ReLU(inplace=True), nn.Dropout(dropout),
        nn.Conv2d(_MLP, _MLP, 1), nn.ReLU(inplace=True), nn.Dropout(dropout),
    )  # fmt: skip
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layers
