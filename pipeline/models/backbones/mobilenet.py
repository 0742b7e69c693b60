"""MobileNetV2 (arXiv:1801.04381, table 2) and MobileNetV3-Large (arXiv:1905.02244, table 1) as encoders, with torchvision's
parameter names."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.models.layers import dilate, round_to_8, set_output_stride

FINE, COARSE = 4, 16  # layers whose maps are used: the end of stride 8, and the last
V2_FINE = 3  # MobileNetV2's last layer at stride 4
LAYER_AT = {2: 1, 4: 3, 8: 6, 16: 12}  # MobileNetV3's: stride -> the last layer there
_V2_LAYER_AT = {2: 1, 4: V2_FINE, 8: 6, 16: 13}
# MobileNetV3-Large's blocks, table 1: kernel, expanded channels, channels, squeeze and excite, h-swish (else ReLU), stride.
_V3_ROWS = (
    (3, 16, 16, False, False, 1), (3, 64, 24, False, False, 2), (3, 72, 24, False, False, 1), (5, 72, 40, True, False, 2),
    (5, 120, 40, True, False, 1), (5, 120, 40, True, False, 1), (3, 240, 80, False, True, 2), (3, 200, 80, False, True, 1),
    (3, 184, 80, False, True, 1), (3, 184, 80, False, True, 1), (3, 480, 112, True, True, 1), (3, 672, 112, True, True, 1),
    (5, 672, 160, True, True, 2), (5, 960, 160, True, True, 1), (5, 960, 160, True, True, 1),
)  # fmt: skip
_FIRST_DILATED = 13  # the layer that subsamples to stride 32
_CHANNELS = {1: 16, 3: 24, FINE: 40, 6: 40, 12: 112, COARSE: 960}
_V2_CHANNELS = {1: 16, V2_FINE: 24, 6: 32, 13: 96}


class MobileNetV3Large(nn.Sequential):
    """torchvision's features: (N, 3, H, W) -> maps of the requested layers.

    Made here, since torchvision brings along the compiler of torch: 150 MB and over a second of each process that predicts.

    Args:
        layers: numbers of the layers whose maps are returned.
        output_stride: 32, or less by dilation.
        torchvision_rates: dilate as torchvision's segmentation networks do (stride 16 only), where the first dilated layer
            already has the new rate.
    """

    def __init__(
        self, layers: tuple[int, ...], output_stride: Literal[8, 16, 32], torchvision_rates: bool = False
    ) -> None:
        made: list[nn.Module] = [_layer(3, 16, 3, 2, nn.Hardswish)]
        width = 16
        for row in _V3_ROWS:
            made.append(InvertedResidual(width, *row))
            width = row[2]
        super().__init__(*made, _layer(width, 960, activation=nn.Hardswish))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.layers = layers
        self.channels = tuple(_CHANNELS[layer] for layer in layers)
        set_output_stride(self, output_stride)
        if torchvision_rates:
            dilate(self[_FIRST_DILATED], 2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for index, layer in enumerate(self):
            x = layer(x)
            if index in self.layers:
                maps.append(x)
        return maps


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze and excite, project; with a shortcut where the shape stays: arXiv:1905.02244, section 5."""

    def __init__(
        self, in_channels: int, kernel: int, middle: int, out_channels: int, excites: bool, hard: bool, stride: int
    ) -> None:
        super().__init__()
        activation = nn.Hardswish if hard else nn.ReLU
        layers: list[nn.Module] = [] if middle == in_channels else [_layer(in_channels, middle, activation=activation)]
        layers.append(_layer(middle, middle, kernel, stride, activation, groups=middle))
        if excites:
            layers.append(SqueezeExcitation(middle))
        self.block = nn.Sequential(*layers, _layer(middle, out_channels))
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.block(x)
        return y.add_(x) if self.shortcut else y


class SqueezeExcitation(nn.Module):
    """Each channel times a factor that all channels' means decide (arXiv:1709.01507); hard sigmoid: arXiv:1905.02244, 5.2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_to_8(channels // 4)
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factors = F.hardsigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))
        return factors * x


def _layer(
    in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1,
    activation: type[nn.Module] | None = None, groups: int = 1,
) -> nn.Sequential:  # fmt: skip
    """Convolution, batch norm, activation."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False)
    norm = nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01)
    return nn.Sequential(conv, norm) if activation is None else nn.Sequential(conv, norm, activation(inplace=True))


class MobileNetV2(nn.Sequential):
    """torchvision's features without the last 1x1 convolution: (N, 3, H, W) -> maps at `strides`, finest first, and
    the last, with 320 channels.

    DeepLab's releases end there too, since the 1280 channels belong to the classifier.
    """

    def __init__(self, output_stride: Literal[8, 16, 32], strides: Sequence[int] = (4,)) -> None:
        import torchvision

        super().__init__(*torchvision.models.mobilenet_v2(weights=None).features[:-1])
        self.layers = [_V2_LAYER_AT[stride] for stride in strides]
        self.channels = (*(_V2_CHANNELS[layer] for layer in self.layers), 320)
        set_output_stride(self, output_stride)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for index, layer in enumerate(self):
            x = layer(x)
            if index in self.layers:
                maps.append(x)
        return [*maps, x]
