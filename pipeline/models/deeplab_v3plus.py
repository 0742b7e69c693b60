"""DeepLabv3+: an atrous pyramid over a backbone, and a decoder that adds detail (arXiv:1802.02611)."""

from collections.abc import Sequence

import torch
from torch import nn

from pipeline.config.models import DeepLabV3PlusConfig
from pipeline.errors import UserError
from pipeline.models.backbones import build_backbone
from pipeline.models.backbones.timm_encoder import TimmEncoder
from pipeline.models.base import IMAGENET_MEAN, IMAGENET_STD, Network
from pipeline.models.layers import conv_bn_relu, separable_conv_bn_relu, upsample
from pipeline.models.upsampling import Upsample


class AtrousPyramid(nn.Module):
    """Parallel 1x1, atrous 3x3 and image-pooling branches, joined by a 1x1: arXiv:1706.05587, section 3.3.

    Deviation: the image-pooling branch has a bias instead of batch norm. Its features are 1x1, so batch norm would fail
    with one image per worker and is noisy with few.
    """

    def __init__(self, in_channels: int, channels: int, rates: Sequence[int], separable: bool, dropout: float) -> None:
        super().__init__()
        atrous = separable_conv_bn_relu if separable else conv_bn_relu
        self.branches = nn.ModuleList(
            [conv_bn_relu(in_channels, channels, 1), *(atrous(in_channels, channels, 3, rate) for rate in rates)]
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_channels, channels, 1), nn.ReLU(inplace=True))
        self.project = nn.Sequential(*conv_bn_relu(channels * (len(rates) + 2), channels, 1), nn.Dropout(dropout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, D, h, w) -> (N, channels, h, w)."""
        pooled = self.pool(x).expand(-1, -1, *x.shape[-2:])
        joined: torch.Tensor = self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1))
        return joined


class DeepLabV3Plus(Network):
    """DeepLabv3+ (arXiv:1802.02611, figure 2): logits at stride 4 from pyramid and fine features, then bilinear to full size.

    Without the decoder it is DeepLabv3 (arXiv:1706.05587), with logits at the output stride. The pyramid's rates are for output
    stride 16; they are doubled at 8 and halved at 32, so that they span the same part of the image (section 3.3 there).

    Raises:
        UserError: aligned corners with an upsampling other than bilinear.
    """

    variants = (
        ({"backbone": "efficientnet_lite0"}, "arXiv:1802.02611, 1905.11946"),
        ({"backbone": "efficientnet_lite1"}, "arXiv:1802.02611, 1905.11946"),
        ({"backbone": "efficientnet_lite2"}, "arXiv:1802.02611, 1905.11946"),
        ({"backbone": "mobilenet_v2"}, "arXiv:1802.02611, 1801.04381"),
        ({"backbone": "mobilenet_v2", "decoder": False, "aspp_rates": []}, "arXiv:1801.04381 s. 6.3"),
        ({"backbone": "mobilenet_v3_large"}, "arXiv:1802.02611, 1905.02244"),
        ({"backbone": "resnet50"}, "arXiv:1802.02611"),
        ({"backbone": "resnet101"}, "arXiv:1802.02611"),
        ({"backbone": "xception65"}, "arXiv:1802.02611"),
    )

    def __init__(self, cfg: DeepLabV3PlusConfig, num_classes: int) -> None:
        super().__init__()
        _check_skips(cfg)
        if cfg.align_corners and cfg.upsampling != "bilinear":
            raise UserError(
                f"deeplabv3plus: align_corners is of upsampling bilinear, found {cfg.upsampling}; leave one of them out"
            )
        self.align_corners = cfg.align_corners
        self.enlarges = cfg.upsampling == "bilinear" and not cfg.align_corners
        strides = sorted(cfg.skip_strides)
        features = build_backbone(cfg.backbone, cfg.output_stride, strides)
        self.backbone = features
        self.mean, self.std = getattr(features, "mean", IMAGENET_MEAN), getattr(features, "std", IMAGENET_STD)
        self.every_parameter_learns = not isinstance(features, TimmEncoder)  # timm may keep layers after the last map
        self.beyond = 1 if cfg.align_corners else 0
        self.multiple_of, self.min_size = cfg.output_stride, cfg.output_stride + self.beyond
        scaled = [max(1, rate * 16 // cfg.output_stride) for rate in cfg.aspp_rates]
        self.pyramid = AtrousPyramid(features.channels[-1], cfg.aspp_channels, scaled, cfg.separable, cfg.dropout)
        width, stride = cfg.aspp_channels, int(cfg.output_stride)
        if cfg.decoder:
            width, stride = self._add_decoder(cfg, dict(zip(strides, features.channels, strict=False)))
        self.has_decoder = cfg.decoder
        self.aux_classifier = nn.Conv2d(cfg.aspp_channels, num_classes, 1) if cfg.aux else None
        self.classifier = nn.Conv2d(width, num_classes, 1)
        self.enlarge_logits = Upsample(cfg.upsampling, num_classes, num_classes, stride)

    def _add_decoder(self, cfg: DeepLabV3PlusConfig, channels: dict[int, int]) -> tuple[int, int]:
        """Add the steps from the pyramid's stride to the finest skip's; return (channels, stride) of the last one.

        Args:
            channels: stride -> channels of the skip.
        """
        conv = separable_conv_bn_relu if cfg.separable else conv_bn_relu
        width, stride = cfg.aspp_channels, int(cfg.output_stride)
        enlarge, low_level, decoder = [], [], []
        for finer in cfg.skip_strides:
            enlarge.append(Upsample(cfg.upsampling, width, width, stride // finer))
            low_level.append(conv_bn_relu(channels[finer], cfg.low_level_channels, 1))
            out = cfg.decoder_channels // 2 if finer == 2 else cfg.decoder_channels
            convs = [conv(width + cfg.low_level_channels, out, 3)]
            if finer == cfg.skip_strides[-1]:
                convs.append(conv(out, out, 3))
            decoder.append(nn.Sequential(*convs))
            width, stride = out, finer
        *coarse, self.enlarge = enlarge
        *coarse_skips, self.low_level = low_level
        *coarse_steps, self.decoder = decoder
        self.steps = nn.ModuleList(map(_Step, coarse, coarse_skips, coarse_steps))
        return width, stride

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        return self._decoded(*self._encoded(x))

    def _encoded(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the pyramid's features, and the skips, finest first."""
        self.check_size(x)
        *skips, last = self.backbone(x)
        return self.pyramid(last), skips

    def _decoded(self, wide: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """Return the logits from the pyramid's features and the skips, finest first."""
        if not self.has_decoder:
            return self.classifier(wide)
        for step in self.steps:
            wide = step(wide, skips.pop())
        fine = self.low_level(skips.pop())
        enlarged = upsample(wide, fine, align_corners=True) if self.align_corners else self.enlarge(wide)
        return self.classifier(self.decoder(torch.cat([enlarged, fine], dim=1)))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [auxiliary logits while training, logits], each (N, C, H, W)."""
        wide, skips = self._encoded(x)
        aux = [upsample(self.aux_classifier(wide), x)] if self.aux_classifier is not None and self.training else []
        scores = self._decoded(wide, skips)
        return [*aux, upsample(scores, x, align_corners=True) if self.align_corners else self.enlarge_logits(scores)]


def _check_skips(cfg: DeepLabV3PlusConfig) -> None:
    strides = cfg.skip_strides
    if list(strides) != sorted(set(strides), reverse=True) or strides[0] >= cfg.output_stride:
        raise UserError(
            f"model.skip_strides: found {list(strides)} with output_stride {cfg.output_stride}; give strides below the "
            "output stride, each once, coarsest first, such as [8, 4]"
        )
    if strides != (4,) and (cfg.align_corners or cfg.backbone == "xception65" or not cfg.decoder):
        other = "align_corners" if cfg.align_corners else "backbone xception65" if cfg.decoder else "decoder: false"
        raise UserError(
            f"model.skip_strides: found {list(strides)} with {other}, which goes with [4] alone; leave one out"
        )


class _Step(nn.Module):
    """One step of the decoder: (N, D, h, w) and the encoder's map at the step's stride -> (N, D', h', w')."""

    def __init__(self, enlarge: nn.Module, low_level: nn.Module, convs: nn.Module) -> None:
        super().__init__()
        self.enlarge, self.low_level, self.convs = enlarge, low_level, convs

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        joined: torch.Tensor = self.convs(torch.cat([self.enlarge(x), self.low_level(skip)], dim=1))
        return joined
