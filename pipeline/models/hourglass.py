"""Stacked hourglass (arXiv:1603.06937): repeated bottom-up, top-down passes. Letters: N batch, C classes."""

import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config import UpsamplingName
from pipeline.config.models import HourglassConfig
from pipeline.models.base import Network
from pipeline.models.layers import upsample
from pipeline.models.upsampling import Upsample


class Hourglass(Network):
    """Hourglasses on a stride-4 map, each followed by its own prediction, which is also input to the next one (figure 1).

    Deviation: the paper predicts poses. Here each pixel gets a class, so logits are enlarged from stride 4 to the input's size.
    """

    variants = (({"stacks": 2}, "arXiv:1603.06937"), ({"stacks": 8}, "arXiv:1603.06937"))

    def __init__(self, cfg: HourglassConfig, num_classes: int) -> None:
        super().__init__()
        self.enlarges = True
        channels, stacks = cfg.channels, cfg.stacks
        self.multiple_of = self.min_size = 4 * 2**cfg.depth
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(inplace=True), Residual(64, channels // 2),
            nn.MaxPool2d(2), Residual(channels // 2, channels // 2), Residual(channels // 2, channels),
        )  # fmt: skip
        self.hourglasses = nn.ModuleList(_OneHourglass(cfg.depth, channels, cfg.upsampling) for _ in range(stacks))
        self.features = nn.ModuleList(
            nn.Sequential(
                Residual(channels, channels),
                nn.Conv2d(channels, channels, 1),
                nn.BatchNorm2d(channels),
                nn.ReLU(inplace=True),
            )
            for _ in range(stacks)
        )
        self.classifiers = nn.ModuleList(nn.Conv2d(channels, num_classes, 1) for _ in range(stacks))
        self.feed_features = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(stacks - 1))
        self.feed_scores = nn.ModuleList(nn.Conv2d(num_classes, channels, 1) for _ in range(stacks - 1))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> logits (N, C, H, W) after each hourglass."""
        return [upsample(scores, like=x) for scores in self._predictions(x)]

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        return self._predictions(x)[-1]

    def _predictions(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the logits at stride 4 after each hourglass."""
        self.check_size(x)
        found, y = [], self.backbone(x)
        for index, hourglass in enumerate(self.hourglasses):
            features = self.features[index](hourglass(y))
            scores = self.classifiers[index](features)
            found.append(scores)
            if index < len(self.feed_scores):
                y = y + self.feed_features[index](features) + self.feed_scores[index](scores)
        return found


class Residual(nn.Module):
    """Batch norm and ReLU before each of 1x1, 3x3, 1x1; half the channels in the middle (arXiv:1603.05027; figure 4)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        middle = out_channels // 2
        self.layers = nn.Sequential(
            nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, middle, 1),
            nn.BatchNorm2d(middle), nn.ReLU(inplace=True), nn.Conv2d(middle, middle, 3, padding=1),
            nn.BatchNorm2d(middle), nn.ReLU(inplace=True), nn.Conv2d(middle, out_channels, 1),
        )  # fmt: skip
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.layers(x)


class _OneHourglass(nn.Module):
    """One hourglass: halve, recurse, enlarge, and add a branch at each size (figure 3)."""

    def __init__(self, depth: int, channels: int, upsampling: UpsamplingName) -> None:
        super().__init__()
        self.branch, self.before, self.after = (Residual(channels, channels) for _ in range(3))
        self.inner: nn.Module = (
            _OneHourglass(depth - 1, channels, upsampling) if depth > 1 else Residual(channels, channels)
        )
        self.enlarge = Upsample(upsampling, channels, channels, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.after(self.inner(self.before(F.max_pool2d(x, 2))))
        return self.branch(x) + self.enlarge(inner)
