"""Fully convolutional networks with skips (arXiv:1411.4038). Letters: N batch, C classes, H rows, W columns."""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config import UpsamplingName
from pipeline.config.models import FcnConfig
from pipeline.errors import UserError
from pipeline.models.backbones.timm_encoder import TimmEncoder
from pipeline.models.backbones.vgg import Vgg16
from pipeline.models.base import GridNetwork
from pipeline.models.layers import crop
from pipeline.models.upsampling import Upsample

_PADDING = 100  # of the first convolution in the released networks: it keeps the map large enough for fc6 at any size


class _AlexNet(nn.Module):
    """torchvision's AlexNet convolutions (arXiv:1404.5997), with one column and no local response normalisation, whereas the
    paper's CaffeNet has two groups and the normalisation. It is used because its weights are published."""

    def __init__(self) -> None:
        import torchvision

        super().__init__()
        self.features = torchvision.models.alexnet(weights=None).features
        self.features[0].padding = (_PADDING, _PADDING)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.features(x)]


class _GoogLeNet(nn.Module):
    """torchvision's GoogLeNet (arXiv:1409.4842, with batch norm) up to its last inception module, without average pooling, as
    in FCN section 4.1."""

    def __init__(self) -> None:
        import torchvision

        super().__init__()
        whole = torchvision.models.googlenet(weights=None, aux_logits=False, init_weights=True)
        for name, layer in list(whole.named_children())[: -len(("avgpool", "dropout", "fc"))]:
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        for layer in self.children():
            x = layer(x)
        return [x]


class Fcn(GridNetwork):
    """FCN-32s, -16s, -8s: class scores of coarse and fine maps, added after upsampling.

    Layer names, paddings and offsets are those of the released networks. score_fr is initialised with small random values
    instead of the paper's zeros, with which no gradient would reach the encoder in the first step. Skip scores start at zero as
    in the paper, so that a finer network begins with the predictions of the coarser one that it starts from.

    Raises:
        UserError: stride 16 or 8 without VGG16.
    """

    variants = (
        ({"backbone": "alexnet", "stride": 32}, "arXiv:1411.4038 table 1"),
        ({"backbone": "googlenet", "stride": 32}, "arXiv:1411.4038 table 1"),
        ({"backbone": "vgg16", "stride": 32}, "arXiv:1411.4038 table 2"),
        ({"backbone": "vgg16", "stride": 16}, "arXiv:1411.4038 table 2"),
        ({"backbone": "vgg16", "stride": 8}, "arXiv:1411.4038 table 2"),
    )

    def __init__(self, cfg: FcnConfig, num_classes: int) -> None:
        super().__init__()
        if cfg.backbone in ("alexnet", "googlenet") and cfg.stride != 32:
            raise UserError(
                f"fcn: stride {cfg.stride} needs the skips of backbone vgg16, found {cfg.backbone}; set stride: 32"
            )
        self.multiple_of, self.min_size, self.stride = 1, 32, 32
        self.skips = {32: 0, 16: 1, 8: 2}[cfg.stride]
        self.backbone_name, kernel, padding, pool4, pool3 = cfg.backbone, None, _PADDING, 512, 256
        match cfg.backbone:
            case "vgg16":
                self.backbone, width, size = Vgg16(first_padding=_PADDING), 512, 7
                # Shifts: conv1_1 1 - 100 pixels, the five poolings 1/2, 1, 2, 4, 8, and fc6 3 x 32 pixels.
                self.centre = 1 - _PADDING + 15.5 + 3 * 32
            case "alexnet":
                self.backbone, width, size = _AlexNet(), 256, 6
                self.centre = 5 - _PADDING + 4 + 8 + 16 + 2.5 * 32
                kernel = 63  # as released
            case "googlenet":
                self.backbone, width, size = _GoogLeNet(), 1024, 0
                self.mean = self.std = (0.5, 0.5, 0.5)  # torchvision's converts its input to -1..1
                # conv1 is centred; then come three poolings of 3 and one of 2, rounded up without padding.
                self.centre = 2 + 4 + 8 + 8
            case _:
                self.backbone, size, padding = TimmEncoder(cfg.backbone, (8, 16, 32)[-self.skips - 1 :]), 0, 1
                self.mean, self.std, self.every_parameter_learns = self.backbone.mean, self.backbone.std, False
                *finer, width = self.backbone.channels
                pool3, pool4 = [0, 0, *finer][-2:]
                self.multiple_of = 32
                self.centre = 15.5  # of a 32x32 block; encoders differ by up to 16 pixels, but do not declare it
        self.first_skip = 1 - padding  # pixel from which the poolings' half pixels are counted
        if size:
            self.fc6, self.fc7 = nn.Conv2d(width, cfg.fc_channels, size), nn.Conv2d(cfg.fc_channels, cfg.fc_channels, 1)
            for layer in (self.fc6, self.fc7):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            width = cfg.fc_channels
        self.dropout = nn.Dropout(cfg.dropout)
        self.score_fr = nn.Conv2d(width, num_classes, 1)
        nn.init.normal_(self.score_fr.weight, std=0.01)

        def enlarge(factor: int, how: UpsamplingName = cfg.upsampling) -> Upsample:
            return Upsample(how, num_classes, num_classes, factor, kernel, crop=False)

        if self.skips > 0:
            self.upscore2, self.score_pool4 = enlarge(2), _skip(pool4, num_classes)
        if self.skips > 1:
            self.upscore_pool4, self.score_pool3 = enlarge(2), _skip(pool3, num_classes)
        self.upscore = enlarge(cfg.stride, cfg.last_upsampling or cfg.upsampling)
        self.skip_scales = (0.01, 0.0001) if cfg.at_once else (1.0, 1.0)

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, h, w): the scores of FCN-32s.

        Raises:
            UserError: the network has skips, so its scores are not on a single grid.
        """
        if isinstance(self.backbone, TimmEncoder):
            raise UserError(
                "fcn: predict.mode shift_and_stitch needs the pixel of each score, which timm's encoders do not tell; set "
                "mode: whole"
            )
        if self.skips:
            raise UserError(
                "fcn: predict.mode shift_and_stitch needs one grid of scores, found skips; set stride: 32, or mode: whole"
            )
        return self._score(self.backbone(x)[-1])

    def fine_tuned(self) -> list[nn.Module]:
        """Return all but the scores and their upsampling, since fc6 and fc7 come from the pretrained classifier.

        With `freeze_all_but_head`, stride 32 and fixed upsampling the network is table 2's FCN-32s-fixed.
        """
        return [self.backbone, *([self.fc6, self.fc7] if hasattr(self, "fc6") else [])]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [logits (N, C, H, W)]."""
        self.check_size(x)
        pooled = self.backbone(x)
        scores, first = self._score(pooled[-1]), self.centre  # first: the pixel of the scores' first row
        spacing = 32
        if self.skips > 0:
            scores, first, spacing = self._fuse(scores, first, spacing, self.upscore2, self._skip(pooled, 4))
        if self.skips > 1:
            scores, first, spacing = self._fuse(scores, first, spacing, self.upscore_pool4, self._skip(pooled, 3))
        start = math.floor(self.upscore.first - first)
        return [crop(self.upscore(scores), start, x.shape[-2], x.shape[-1])]

    def _score(self, x: torch.Tensor) -> torch.Tensor:
        if hasattr(self, "fc6"):
            x = self.dropout(F.relu(self.fc6(x)))
            x = self.dropout(F.relu(self.fc7(x)))
        return self.score_fr(x)

    def _skip(self, pooled: list[torch.Tensor], pool: Literal[3, 4]) -> torch.Tensor:
        score, scale = (self.score_pool4, self.skip_scales[0]) if pool == 4 else (self.score_pool3, self.skip_scales[1])
        return score(pooled[pool - 6] * scale)

    def _fuse(
        self, scores: torch.Tensor, first: float, spacing: int, enlarge: Upsample, skip: torch.Tensor
    ) -> tuple[torch.Tensor, float, int]:
        """Upsample by 2, crop the skip to the result, and add them."""
        finer = spacing // 2
        enlarged = enlarge(scores)
        first -= enlarge.first * finer
        skip_first = self.first_skip + (finer - 1) / 2  # of pool4 and pool3: their poolings' half pixels
        start = round((first - skip_first) / finer)
        return enlarged + crop(skip, start, enlarged.shape[-2], enlarged.shape[-1]), first, finer


def _skip(channels: int, num_classes: int) -> nn.Conv2d:
    score = nn.Conv2d(channels, num_classes, 1)
    nn.init.zeros_(score.weight)
    nn.init.zeros_(score.bias)  # type: ignore[arg-type]  # it has one
    return score
