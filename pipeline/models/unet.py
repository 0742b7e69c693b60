"""U-Net (arXiv:1505.04597): a decoder that concatenates the encoder's maps to its own. Letters: N batch, C classes."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config.models import UNetConfig
from pipeline.errors import UserError
from pipeline.models.backbones.timm_encoder import TimmEncoder
from pipeline.models.base import Network
from pipeline.models.upsampling import Upsample


class UNet(Network):
    """The U-Net of figure 1, with 3 input channels: 31.03 M parameters with 2 classes.

    With an encoder of timm, the encoder's maps are the skips. At strides for which it has no map, which always includes stride
    1, the decoder continues without a skip.

    Raises:
        UserError: an encoder of timm has no map at the decoder's first stride, or is used with `padding: valid`.
    """

    variants = (({"padding": "same"}, "arXiv:1505.04597"), ({"padding": "valid"}, "arXiv:1505.04597"))

    def __init__(self, cfg: UNetConfig, num_classes: int) -> None:
        super().__init__()
        step = 2**cfg.depth
        # Two valid convolutions remove 4 rows at each stage's stride, on the way down and up. Sizes are even at each pooling
        # if the extended size is 4 less than a multiple of `step`.
        lost = 2 * 4 * (step - 1) + 4 * step
        self.margin = (lost + (-4 - lost) % step) // 2 if cfg.padding == "valid" else 0
        self.multiple_of = step
        self.min_size = (self.margin // step + 1) * step  # a mirror image is smaller than its image
        widths = [cfg.channels * 2**level for level in range(cfg.depth + 1)]
        pad = 1 if cfg.padding == "same" else 0
        skips = widths[:-1]
        if cfg.backbone is None:
            self.backbone = _Encoder(widths, pad, cfg.batch_norm)
        else:
            self.backbone, skips, widths[-1] = self._timms(cfg.backbone, cfg)
        self.enlarge = nn.ModuleList(
            Upsample(cfg.upsampling, deep, out, 2, kernel=2)
            for out, deep in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.decoder = nn.ModuleList(
            _double(out + skip, out, pad, cfg.batch_norm) for out, skip in zip(widths[-2::-1], skips[::-1], strict=True)
        )
        self.classifier = nn.Conv2d(cfg.channels, num_classes, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [logits (N, C, H, W)]."""
        self.check_size(x)
        height, width = x.shape[-2:]
        if self.margin:
            x = F.pad(x, [self.margin] * 4, mode="reflect")
        *skips, x = self.backbone(x)
        for enlarge, decode in zip(self.enlarge, self.decoder, strict=True):
            x = enlarge(x)
            skip = [_middle(skips.pop(), x.shape[-2], x.shape[-1])] if skips else []
            x = decode(torch.cat([*skip, x], dim=1))
        return [self.classifier(_middle(x, height, width))]

    def _timms(self, name: str, cfg: UNetConfig) -> tuple[TimmEncoder, list[int], int]:
        """Return the encoder, the channels of its skips from stride 1 on (0 if there is none), and those of its last map."""
        if cfg.padding == "valid":
            raise UserError(f"unet: backbone {name} pads its maps with zeros; set padding: same")
        steps = [2**level for level in range(cfg.depth + 1)]
        encoder = TimmEncoder(name, steps[-1:], optional=steps[:-1])
        if encoder.strides != steps[-len(encoder.strides) :]:
            raise UserError(
                f"unet: backbone {name} has maps at strides {', '.join(map(str, encoder.strides))}, with a gap between them; "
                "choose another encoder of timm"
            )
        self.mean, self.std, self.every_parameter_learns = encoder.mean, encoder.std, False
        *skips, last = encoder.channels
        return encoder, [0] * (cfg.depth - len(skips)) + list(skips), last


class _Encoder(nn.Module):
    def __init__(self, widths: list[int], pad: int, batch_norm: bool) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_double(a, b, pad, batch_norm) for a, b in zip([3, *widths], widths, strict=False))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps: list[torch.Tensor] = []
        for stage in self.stages:
            maps.append(stage(F.max_pool2d(maps[-1], 2) if maps else x))
        return maps


def _double(in_channels: int, out_channels: int, pad: int, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (in_channels, out_channels):
        conv = nn.Conv2d(width, out_channels, 3, padding=pad, bias=not batch_norm)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")  # section 3: std sqrt(2 / fan in)
        layers += [conv, *([nn.BatchNorm2d(out_channels)] if batch_norm else []), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _middle(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
