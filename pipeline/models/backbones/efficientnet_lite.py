"""EfficientNet-Lite as an encoder: EfficientNet (arXiv:1905.11946) without squeeze-excite, and with ReLU6 instead of swish."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from pipeline.models.layers import SameConv2d, round_to_8, set_output_stride

LiteName = Literal["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]

# arXiv:1905.11946, table 1. Rows: repeats, kernel, stride, expansion, channels.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
# Width and depth factors (github.com/tensorflow/tpu, efficientnet/lite); stem, first and last stage are not deepened.
_FACTORS = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
_STAGE_AT = {2: 0, 4: 1, 8: 2, 16: 4}  # stride -> the last stage there


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # the released networks' own


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; with a shortcut if the shape does not change: arXiv:1801.04381, figure 3."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = in_channels * expansion
        self.shortcut = stride == 1 and in_channels == out_channels
        self.expand = (
            nn.Sequential(nn.Conv2d(in_channels, middle, 1, bias=False), _norm(middle), nn.ReLU6(inplace=True))
            if expansion > 1
            else nn.Identity()
        )
        self.depthwise = nn.Sequential(
            SameConv2d(middle, middle, kernel, stride, groups=middle, bias=False), _norm(middle), nn.ReLU6(inplace=True)
        )
        self.project = nn.Sequential(nn.Conv2d(middle, out_channels, 1, bias=False), _norm(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0, 1 or 2 without its classifier: (N, 3, H, W) -> maps at `strides`, finest first, and the last."""

    mean = (127 / 255, 127 / 255, 127 / 255)  # the release's preprocessing: (level - 127) / 128
    std = (128 / 255, 128 / 255, 128 / 255)

    def __init__(self, name: LiteName, output_stride: int, strides: Sequence[int] = (4,)) -> None:
        super().__init__()
        self.name = name
        wider, deeper = _FACTORS[name]
        self.stem = nn.Sequential(SameConv2d(3, 32, 3, 2, bias=False), _norm(32), nn.ReLU6(inplace=True))
        blocks, width, ends = [], 32, []
        for stage, (repeats, kernel, stride, expansion, channels) in enumerate(_STAGES):
            if 0 < stage < len(_STAGES) - 1:
                repeats = math.ceil(repeats * deeper)
            for index in range(repeats):
                out = round_to_8(channels * wider)
                blocks.append(InvertedResidual(width, out, kernel, stride if index == 0 else 1, expansion))
                width = out
            ends.append((len(blocks) - 1, width))
        self.blocks = nn.ModuleList(blocks)
        taken = [ends[_STAGE_AT[stride]] for stride in strides]
        self.last_of = [block for block, _ in taken]
        self.channels = (*(channels for _, channels in taken), width)
        set_output_stride(self, output_stride)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(x)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.last_of:
                maps.append(x)
        return [*maps, x]
