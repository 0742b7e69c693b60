"""VGG16 (arXiv:1409.1556, table 1, column D) with the papers' layer names, as the encoder of FCN and DeepLab v1 and v2."""

import torch
import torch.nn.functional as F
from torch import nn

VGG16_WIDTHS = (64, 128, 256, 512, 512)
VGG16_DEPTHS = (2, 2, 3, 3, 3)


class Vgg16(nn.Module):
    """VGG16's thirteen convolutions: (N, 3, H, W) -> the five pooled maps, finest first.

    Args:
        first_padding: padding of conv1_1; FCN's released networks have 100, VGG has 1.
        pool: kernel of the poolings: 2, or 3 with padding as in DeepLab's released networks. Sizes are rounded up, as
            in Caffe.
        strides: strides of the five poolings; convolutions after a pooling whose stride is 1 instead of 2 are dilated (the hole
            algorithm, arXiv:1412.7062, section 3.1).
    """

    def __init__(
        self, first_padding: int = 1, pool: int = 2, strides: tuple[int, int, int, int, int] = (2, 2, 2, 2, 2)
    ) -> None:
        super().__init__()
        self.pool, self.strides = pool, strides
        width, dilation = 3, 1
        for stage, (channels, depth) in enumerate(zip(VGG16_WIDTHS, VGG16_DEPTHS, strict=True), start=1):
            for index in range(1, depth + 1):
                padding = first_padding if (stage, index) == (1, 1) else dilation
                conv = nn.Conv2d(width, channels, 3, padding=padding, dilation=dilation)
                nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one
                self.add_module(f"conv{stage}_{index}", conv)
                width = channels
            dilation *= 2 // strides[stage - 1]
        self.dilation = dilation  # for the next convolution

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        pooled = []
        for stage, (depth, stride) in enumerate(zip(VGG16_DEPTHS, self.strides, strict=True), start=1):
            for index in range(1, depth + 1):
                x = F.relu(self.get_submodule(f"conv{stage}_{index}")(x))
            x = F.max_pool2d(x, self.pool, stride, padding=(self.pool - 1) // 2, ceil_mode=True)
            pooled.append(x)
        return pooled
