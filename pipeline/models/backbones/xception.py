"""Xception-65 as DeepLabv3+ modifies it (arXiv:1802.02611, section 3.2 and figure 4), as an encoder."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

_MIDDLE_BLOCKS = 16


class Xception65(nn.Module):
    """Aligned Xception: deeper, with strided separable convolutions as poolings, and batch norm after depthwise convolutions.

    (N, 3, H, W) -> [256 channels at stride 4, 2048 at the output stride]; 37.87 M parameters.
    """

    channels = (256, 2048)
    mean = (0.5, 0.5, 0.5)  # the release's preprocessing: level / 127.5 - 1
    std = (0.5, 0.5, 0.5)

    def __init__(self, output_stride: Literal[8, 16, 32]) -> None:
        super().__init__()
        third = 2 if output_stride > 8 else 1
        last = 2 if output_stride > 16 else 1
        middle = 2 // third  # rate after the third block
        end = middle * 2 // last  # rate after the last subsampling
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), _norm(32), nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, 1, 1, bias=False), _norm(64), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.first = XceptionBlock(64, (128, 128, 128), 2, 1, "conv")
        self.second = XceptionBlock(128, (256, 256, 256), 2, 1, "conv")
        self.third = XceptionBlock(256, (728, 728, 728), third, 1, "conv")
        self.middle = nn.Sequential(
            *(XceptionBlock(728, (728, 728, 728), 1, middle, "sum") for _ in range(_MIDDLE_BLOCKS))
        )
        self.exit = nn.Sequential(
            XceptionBlock(728, (728, 1024, 1024), last, middle, "conv"),
            XceptionBlock(1024, (1536, 1536, 2048), 1, end, "none"),
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        fine, x = self.second.both(self.first(self.stem(x)))
        return [fine, self.exit(self.middle(self.third(x)))]


class XceptionBlock(nn.Module):
    """Three separable convolutions, the last one strided, with a convolutional, an identity or no shortcut.

    Without a shortcut (the last block) a ReLU follows each convolution; otherwise one precedes each separable convolution.
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int], stride: int, rate: int, shortcut: Literal["conv", "sum", "none"]
    ) -> None:
        super().__init__()
        self.plain = shortcut == "sum"
        after = shortcut == "none"
        steps = zip((in_channels, *widths), widths, (1, 1, stride), strict=False)
        self.convs = nn.ModuleList(_separable(a, b, step, rate, after) for a, b, step in steps)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(in_channels, widths[-1], 1, stride, bias=False), _norm(widths[-1]))
            if shortcut == "conv"
            else None
        )

    def both(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the map after two convolutions (the decoder's fine features, as released), and the block's output."""
        fine = self.convs[1](self.convs[0](x))
        y = self.convs[2](fine)
        if self.shortcut is not None:
            return fine, y + self.shortcut(x)
        return fine, y + x if self.plain else y

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.both(x)[1]


def _separable(in_channels: int, out_channels: int, stride: int, rate: int, relu_after: bool) -> nn.Sequential:
    relu = [nn.ReLU(inplace=True)] if relu_after else []
    return nn.Sequential(
        *([] if relu_after else [nn.ReLU()]),
        nn.Conv2d(in_channels, in_channels, 3, stride, rate, rate, groups=in_channels, bias=False),
        _norm(in_channels), *relu,
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        _norm(out_channels), *relu,
    )  # fmt: skip


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.0003)  # the release's own
