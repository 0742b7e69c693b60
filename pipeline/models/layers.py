"""Building blocks that the networks share. Letters: N batch, D channels, H rows, W columns."""

import torch
import torch.nn.functional as F
from torch import nn


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: if stride 2 needs an odd number of pixels, the extra one is at the end.

    Symmetric padding would shift the features by a pixel at each strided layer, which weights trained this way do not tolerate.
    Sizes are assumed to be multiples of the stride.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = [d * (k - 1) + 1 - s for k, d, s in zip(self.kernel_size, self.dilation, self.stride, strict=True)]
        before = [max(t, 0) // 2 for t in total]
        if all(t % 2 == 0 for t in total):
            return F.conv2d(x, self.weight, self.bias, self.stride, before, self.dilation, self.groups)
        x = F.pad(x, (before[1], max(total[1], 0) - before[1], before[0], max(total[0], 0) - before[0]))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def round_to_8(channels: float) -> int:
    """Round to a multiple of 8, but never down by more than a tenth, as the releases of MobileNet and EfficientNet do."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def separable_conv_bn_relu(in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """Depthwise atrous convolution, then pointwise, each with batch norm and ReLU: arXiv:1802.02611, section 3.2."""
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, kernel, padding=padding, dilation=dilation, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        *conv_bn_relu(in_channels, out_channels, 1),
    )


def upsample(x: torch.Tensor, like: torch.Tensor, align_corners: bool = False) -> torch.Tensor:
    """Enlarge bilinearly to the height and width of `like`."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=align_corners)


def crop(x: torch.Tensor, start: int, height: int, width: int) -> torch.Tensor:
    """Return `height` rows and `width` columns from `start` on, with zeros outside x."""
    end_h, end_w = start + height - x.shape[-2], start + width - x.shape[-1]
    return F.pad(x, (-start, end_w, -start, end_h))


def set_output_stride(network: nn.Module, output_stride: int) -> None:
    """Stop subsampling at `output_stride`: later strided convolutions keep the size, and all after them are dilated.

    The weights stay valid, since a dilated filter on the fine grid covers the same pixels as the plain one on the coarse grid
    (arXiv:1606.00915, section 3.1). Convolutions are processed in order, so the network must be a single chain.
    """
    stride = dilation = 1
    for conv in (module for module in network.modules() if isinstance(module, nn.Conv2d)):
        kernel, step = conv.kernel_size[0], conv.stride[0]
        if step > 1 and stride * step > output_stride:
            conv.stride = (1, 1)
            _dilate(conv, kernel, dilation)
            dilation *= step
        else:
            stride *= step
            _dilate(conv, kernel, dilation)


def dilate(network: nn.Module, dilation: int) -> None:
    """Give all convolutions of a part of a network this rate."""
    for conv in (module for module in network.modules() if isinstance(module, nn.Conv2d)):
        _dilate(conv, conv.kernel_size[0], dilation)


def _dilate(conv: nn.Conv2d, kernel: int, dilation: int) -> None:
    if kernel > 1 and dilation > 1:
        conv.dilation = (dilation, dilation)
        conv.padding = (dilation * (kernel - 1) // 2,) * 2
