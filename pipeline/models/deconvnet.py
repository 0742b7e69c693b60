"""DeconvNet (arXiv:1505.04366): a mirrored network of unpooling and deconvolution. Letters: N batch, C classes."""

import torch
from torch import nn

from pipeline.config.models import DeconvNetConfig
from pipeline.models.backbones.vgg import VGG16_DEPTHS, VGG16_WIDTHS
from pipeline.models.base import Network
from pipeline.models.segnet import PooledEncoder
from pipeline.models.upsampling import Upsample


class DeconvNet(Network):
    """VGG16 down to a 1x1 map of 4096 channels (of a 224x224 proposal), and its mirror image back up; batch norm throughout.

    It has 251.8 M parameters with 21 classes (section 4.3: about 252 M). Deviation: it is fully convolutional, so it takes a
    whole image at once; `predict.mode: sub_windows` aggregates over parts of it, as the paper does over object proposals. The
    paper's training in two stages (objects cropped by their ground truth, then proposals) is not implemented.
    """

    variants = (({}, "arXiv:1505.04366"),)

    def __init__(self, cfg: DeconvNetConfig, num_classes: int) -> None:
        super().__init__()
        self.multiple_of, self.min_size = 32, 224
        self.backbone = PooledEncoder(VGG16_WIDTHS, VGG16_DEPTHS)
        self.fc = nn.Sequential(
            *_norm_relu(nn.Conv2d(512, cfg.fc_channels, 7)),
            *_norm_relu(nn.Conv2d(cfg.fc_channels, cfg.fc_channels, 1)),
            *_norm_relu(nn.ConvTranspose2d(cfg.fc_channels, 512, 7)),
        )
        self.enlarge, self.decoder = nn.ModuleList(), nn.ModuleList()
        for stage in reversed(range(len(VGG16_WIDTHS))):
            width, out = VGG16_WIDTHS[stage], VGG16_WIDTHS[max(stage - 1, 0)]
            self.enlarge.append(Upsample(cfg.upsampling, width, width, 2))
            layers: list[nn.Module] = []
            for index in range(VGG16_DEPTHS[stage]):
                end = out if index == VGG16_DEPTHS[stage] - 1 else width
                layers += _norm_relu(nn.ConvTranspose2d(width, end, 3, padding=1))
                width = end
            self.decoder.append(nn.Sequential(*layers))
        self.classifier = nn.Conv2d(VGG16_WIDTHS[0], num_classes, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [logits (N, C, H, W)]."""
        self.check_size(x)
        x, indices = self.backbone(x)
        x = self.fc(x)
        for enlarge, decode in zip(self.enlarge, self.decoder, strict=True):
            x = decode(enlarge(x, indices.pop()))
        return [self.classifier(x)]


def _norm_relu(conv: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)]
