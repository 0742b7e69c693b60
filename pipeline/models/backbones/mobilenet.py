"""MobileNetV2 (arXiv:1801.04381, table 2) and MobileNetV3-Large (arXiv:1905.02244, table 1) as encoders, with torchvision's
parameter names."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from pipeline.models.layers import set_output_stride

FINE, COARSE = 4, 16  # layers whose maps are used: the end of stride 8, and the last
V2_FINE = 3  # MobileNetV2's last layer at stride 4
LAYER_AT = {2: 1, 4: 3, 8: 6, 16: 12}  # MobileNetV3's: stride -> the last layer there
_V2_LAYER_AT = {2: 1, 4: V2_FINE, 8: 6, 16: 13}
_CHANNELS = {1: 16, 3: 24, FINE: 40, 6: 40, 12: 112, COARSE: 960}
_V2_CHANNELS = {1: 16, V2_FINE: 24, 6: 32, 13: 96}


class MobileNetV3Large(nn.Sequential):
    """torchvision's features: (N, 3, H, W) -> maps of the requested layers.

    Args:
        layers: numbers of the layers whose maps are returned.
        output_stride: 32, or less by dilation.
        torchvision_rates: dilate as torchvision's segmentation networks do (stride 16 only), where the first dilated layer
            already has the new rate.
    """

    def __init__(
        self, layers: tuple[int, ...], output_stride: Literal[8, 16, 32], torchvision_rates: bool = False
    ) -> None:
        import torchvision

        options = {"dilated": True} if torchvision_rates else {}
        super().__init__(*torchvision.models.mobilenet_v3_large(weights=None, **options).features)
        self.layers = layers
        self.channels = tuple(_CHANNELS[layer] for layer in layers)
        if not torchvision_rates:
            set_output_stride(self, output_stride)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for index, layer in enumerate(self):
            x = layer(x)
            if index in self.layers:
                maps.append(x)
        return maps


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
