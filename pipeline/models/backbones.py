"""Classification networks as feature extractors: x -> (features at stride 4, features at the output stride)."""

import torch
import torchvision
from torch import nn

from pipeline.models.layers import SameConv2d, set_output_stride

Features = tuple[torch.Tensor, torch.Tensor]

# EfficientNet-Lite0: EfficientNet-B0 (arXiv:1905.11946, table 1) without squeeze-excite, with ReLU6 for swish, and with a
# fixed stem and head (github.com/tensorflow/tpu, efficientnet/lite). Rows: repeats, kernel, stride, expansion, channels.
_LITE0 = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))  # fmt: skip
_LITE0_FINE = 2  # blocks 0..2 end at stride 4


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)  # the released networks' own


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; with a shortcut where the shape stays: arXiv:1801.04381, figure 3."""

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


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier: (N, 3, H, W) -> 24 channels at stride 4, 320 at the output stride."""

    channels = (24, 320)
    mean = (127 / 255, 127 / 255, 127 / 255)  # the release's preprocessing: (level - 127) / 128
    std = (128 / 255, 128 / 255, 128 / 255)

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(SameConv2d(3, 32, 3, 2, bias=False), _norm(32), nn.ReLU6(inplace=True))
        blocks, width = [], 32
        for repeats, kernel, stride, expansion, channels in _LITE0:
            for index in range(repeats):
                blocks.append(InvertedResidual(width, channels, kernel, stride if index == 0 else 1, expansion))
                width = channels
        self.blocks = nn.ModuleList(blocks)
        set_output_stride(self, output_stride)

    def forward(self, x: torch.Tensor) -> Features:
        x = self.stem(x)
        fine = x
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == _LITE0_FINE:
                fine = x
        return fine, x


class MobileNetV3Large(nn.Module):
    """torchvision's MobileNetV3-Large (arXiv:1905.02244, table 1): 24 channels at stride 4, 960 at the output stride."""

    channels = (24, 960)
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, output_stride: int) -> None:
        super().__init__()
        self.features = torchvision.models.mobilenet_v3_large(weights=None).features
        set_output_stride(self.features, output_stride)

    def forward(self, x: torch.Tensor) -> Features:
        fine = self.features[:4](x)
        return fine, self.features[4:](fine)


def build_backbone(name: str, output_stride: int) -> EfficientNetLite0 | MobileNetV3Large:
    """The backbone of that name, with random weights."""
    match name:
        case "efficientnet_lite0":
            return EfficientNetLite0(output_stride)
        case "mobilenet_v3_large":
            return MobileNetV3Large(output_stride)
        case _:
            raise ValueError(f"backbone '{name}' is unknown; choose efficientnet_lite0 or mobilenet_v3_large")
