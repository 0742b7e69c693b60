"""SegNet (arXiv:1511.00561): a decoder that unpools with the encoder's pooling indices. Letters: N batch, C classes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config.models import SegNetConfig
from pipeline.models.backbones.vgg import VGG16_DEPTHS, VGG16_WIDTHS
from pipeline.models.base import Network
from pipeline.models.upsampling import Upsample


class PooledEncoder(nn.Module):
    """Stages of convolutions with batch norm and ReLU, each followed by a 2x2 pooling whose indices are kept.

    (N, 3, H, W) -> (the last pooled map, each stage's indices).
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], kernel: int = 3) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        width = 3
        for out, depth in zip(widths, depths, strict=True):
            self.stages.append(convs(width, [out] * depth, kernel, relu=True))
            width = out

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        indices = []
        for stage in self.stages:
            x, found = F.max_pool2d(stage(x), 2, return_indices=True)
            indices.append(found)
        return x, indices


def convs(in_channels: int, widths: Sequence[int], kernel: int, relu: bool) -> nn.Sequential:
    """Return convolutions that keep the size, with batch norm, and ReLU if requested."""
    layers: list[nn.Module] = []
    for out in widths:
        layers += [nn.Conv2d(in_channels, out, kernel, padding=kernel // 2), nn.BatchNorm2d(out)]
        layers += [nn.ReLU(inplace=True)] if relu else []
        in_channels = out
    return nn.Sequential(*layers)


class SegNet(Network):
    """SegNet on VGG16's thirteen convolutions, or SegNet-Basic with four 7x7 stages of 64 channels.

    Parameters with 11 classes: 29.44 M (the paper's table 6: 29.45 M), SegNet-Basic 1.418 M (table 1: 1.425 M; the paper
    does not say what the other 7 k are). SegNet-Basic's decoder has no ReLU, and batch norm replaces the local contrast
    normalisation of its input (section 3.1).
    """

    variants = (({"variant": "basic"}, "arXiv:1511.00561 table 1"), ({"variant": "vgg16"}, "arXiv:1511.00561"))

    def __init__(self, cfg: SegNetConfig, num_classes: int) -> None:
        super().__init__()
        basic = cfg.variant == "basic"
        widths = (64,) * 4 if basic else VGG16_WIDTHS
        depths = (1,) * 4 if basic else VGG16_DEPTHS
        kernel = 7 if basic else 3
        self.multiple_of = self.min_size = 2 ** len(widths)
        self.backbone = PooledEncoder(widths, depths, kernel)
        self.enlarge, self.decoder = nn.ModuleList(), nn.ModuleList()
        for stage in reversed(range(len(widths))):
            out = widths[max(stage - 1, 0)]
            self.enlarge.append(Upsample(cfg.upsampling, widths[stage], widths[stage], 2))
            mirrored = [widths[stage]] * (depths[stage] - 1)
            last = [] if stage == 0 and not basic else [out]  # the classifier is the last convolution
            self.decoder.append(convs(widths[stage], mirrored + last, kernel, relu=not basic))
        self.classifier = nn.Conv2d(widths[0], num_classes, 1 if basic else 3, padding=0 if basic else 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [logits (N, C, H, W)]."""
        self.check_size(x)
        x, indices = self.backbone(x)
        for enlarge, decode in zip(self.enlarge, self.decoder, strict=True):
            x = decode(enlarge(x, indices.pop()))
        return [self.classifier(x)]
