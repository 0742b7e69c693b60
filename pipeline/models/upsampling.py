"""Ways to enlarge a map, which a config chooses by name for any decoder. Letters: N batch, D channels, H rows, W columns."""

import warnings
from typing import get_args

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config import UpsamplingName
from pipeline.errors import UserError


class Upsample(nn.Module):
    """(N, in, H, W) -> (N, out, factor * H, factor * W), by name.

    nearest          each value repeated in a block
    bed_of_nails     each value once in a block of zeros, in the middle (above and left of it if the block's side is even)
    bilinear         half-pixel centres, as F.interpolate with align_corners=False
    bicubic          likewise
    transposed       trained transposed convolution with stride; it starts as bilinear interpolation if the number of channels
                     does not change (FCN, arXiv:1411.4038, section 3.3)
    transposed_fixed the same but not trained: bilinear interpolation, except at the border
    max_unpooling    each value where the encoder's pooling found its maximum (arXiv:1311.2901, section 2.1)

    All but the transposed convolutions keep the number of channels; a 1x1 convolution follows if `out` differs from `in`.

    Args:
        kernel: kernel size of the transposed convolutions; 2 * factor by default, which bilinear interpolation needs.
        crop: False keeps the transposed convolution's border, so that the result has (H - 1) * factor + kernel rows.
    Raises:
        UserError: transposed_fixed with a change of channels, which interpolation cannot do.
    """

    def __init__(
        self,
        name: UpsamplingName,
        in_channels: int,
        out_channels: int,
        factor: int,
        kernel: int | None = None,
        crop: bool = True,
    ) -> None:
        super().__init__()
        if name not in get_args(UpsamplingName):
            raise UserError(f"upsampling '{name}' is unknown; choose one of {', '.join(get_args(UpsamplingName))}")
        self.name, self.factor = name, factor
        self.first = (factor - 1) / 2  # index in the result of the centre of the first value
        self.transposed: nn.ConvTranspose2d | None = None
        if name in ("transposed", "transposed_fixed"):
            self.transposed = _transposed(name, in_channels, out_channels, factor, kernel or 2 * factor, crop)
            self.first = (self.transposed.kernel_size[0] - 1) / 2 - float(self.transposed.padding[0])
        keeps = self.transposed is not None or in_channels == out_channels
        self.project = nn.Identity() if keeps else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor, indices: torch.Tensor | None = None) -> torch.Tensor:
        """Enlarge x. `indices` of the pooling are needed for max_unpooling only."""
        if self.transposed is not None:
            return self.transposed(x)
        match self.name:
            case "max_unpooling":
                assert indices is not None, "max_unpooling needs the pooling's indices"
                x = F.max_unpool2d(x, indices, [self.factor] * 2)
            case "bed_of_nails":
                x = bed_of_nails(x, self.factor)
            case "nearest":
                x = F.interpolate(x, scale_factor=self.factor, mode="nearest")
            case _:
                x = F.interpolate(x, scale_factor=self.factor, mode=self.name, align_corners=False)
        return self.project(x)


def bed_of_nails(x: torch.Tensor, factor: int) -> torch.Tensor:
    """(N, D, H, W) -> (N, D, factor * H, factor * W): zeros except for one value per block."""
    n, d, h, w = x.shape
    middle = (factor - 1) // 2
    after = factor - 1 - middle
    return F.pad(x.view(n, d, h, 1, w, 1), (middle, after, 0, 0, middle, after)).reshape(n, d, h * factor, w * factor)


def bilinear_kernel(channels: int, kernel: int) -> torch.Tensor:
    """Return (channels, channels, kernel, kernel) that interpolates each channel bilinearly, by a triangle."""
    half = (kernel + 1) // 2
    middle = half - 1 if kernel % 2 else half - 0.5
    line = 1 - (torch.arange(kernel) - middle).abs() / half
    weight = torch.zeros(channels, channels, kernel, kernel)
    weight[range(channels), range(channels)] = line[:, None] * line
    return weight


def _transposed(
    name: str, in_channels: int, out_channels: int, factor: int, kernel: int, crop: bool
) -> nn.ConvTranspose2d:
    if kernel % factor:
        warnings.warn(
            f"transposed convolution: kernel {kernel} is not a multiple of stride {factor}, so that its steps overlap "
            f"unevenly and can draw a checkerboard; {-(-kernel // factor) * factor} would not (Odena et al. 2016)",
            stacklevel=4,
        )
    if name == "transposed_fixed" and in_channels != out_channels:
        raise UserError(
            f"upsampling 'transposed_fixed' keeps channels, but here {in_channels} become {out_channels}; "
            "choose 'transposed' or 'bilinear'"
        )
    padding = (kernel - factor) // 2 if crop else 0
    conv = nn.ConvTranspose2d(in_channels, out_channels, kernel, factor, padding, bias=in_channels != out_channels)
    if in_channels == out_channels:
        with torch.no_grad():
            conv.weight.copy_(bilinear_kernel(in_channels, kernel))
    conv.requires_grad_(name != "transposed_fixed")
    return conv
