"""The shape of torchvision's segmentation networks. Letters: N batch, C classes, H rows, W columns."""

import torch
from torch import nn

from pipeline.models.base import GridNetwork
from pipeline.models.layers import upsample


class AuxHeadNetwork(GridNetwork):
    """A dilated encoder, a head on its last map, and for deep supervision a second head on the second-last map.

    Subclasses create `backbone` (x -> maps, the last two at stride `stride`), `classifier` and `aux_classifier`.
    """

    enlarges = True
    multiple_of, min_size = 1, 32
    centre = 0.0
    classifier: nn.Module
    aux_classifier: nn.Module | None

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, C, H / stride, W / stride)."""
        return self.classify(self.backbone(x)[-1])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """x (N, 3, H, W) normalised -> [auxiliary logits while training, logits], each (N, C, H, W)."""
        self.check_size(x)
        maps = self.backbone(x)
        aux = [upsample(self.aux_classifier(maps[-2]), like=x)] if self.aux_classifier and self.training else []
        return [*aux, upsample(self.classify(maps[-1]), like=x)]

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        """The encoder's last map (N, D, h, w) -> (N, C, h, w)."""
        logits: torch.Tensor = self.classifier(x)
        return logits
