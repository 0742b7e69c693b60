"""The interface of segmentation networks. Letters: N batch, C classes, H rows, W columns."""

from functools import cache
from typing import ClassVar

import torch
from torch import nn

from pipeline.config import EngineName, ModelConfig
from pipeline.errors import UserError

Triple = tuple[float, float, float]
Levels = tuple[float, ...]  # one value for each input band of a network
Variants = tuple[tuple[dict[str, object], str], ...]  # config settings, and the source of that network
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)  # RGB, on a scale of 0..1, as in the training of torchvision's weights
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


class Network(nn.Module):
    """A segmentation network: `__init__(cfg, num_classes)` takes its section of `pipeline.config.models`.

    `forward` takes normalised x (N, D, H, W), D = 3 unless `bands.widen` made it another number, H and W at least `min_size`
    and multiples of `multiple_of` (plus `beyond`), and returns logits (N, C, H, W), of which the last is the prediction; the
    others are for deep supervision while training.
    """

    backbone: nn.Module  # the encoder, which can start from ImageNet weights
    variants: ClassVar[Variants]  # those that `maskmill models` lists, which differ in size or GFLOPs
    row: ClassVar[tuple[str, str] | None] = (
        None  # for external networks, instead of variants: how to choose one, and its source
    )
    mean: Levels = IMAGENET_MEAN  # of each band, on a scale of 0..1, as the weights were trained with
    std: Levels = IMAGENET_STD
    min_size: int
    multiple_of: int
    beyond: int = 0  # 1: sides are a multiple plus 1, as in networks that align corners
    every_parameter_learns: bool = True  # whether every parameter gets a gradient in a step
    own_engine: EngineName = "torch"  # the engine that runs it if the config names none
    gives_scores: bool = True  # if False, logits only tell the best class of each pixel, not its confidence
    tile: tuple[int, int] | None = None  # the only (height, width) that it accepts, if there is only one
    enlarges: bool = False  # whether forward's last step is a bilinear enlargement of `coarse(x)`

    @classmethod
    def settle(cls, cfg: ModelConfig) -> ModelConfig:
        """Return the section with all that a checkpoint needs to build the network again, such as the hash of its code."""
        return cfg

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise (N, D, H, W) uint8, or float32 levels 0..255, to float32 on the same device; NaN (no data) becomes 0."""
        x = pixels.to(torch.float32, copy=True)
        x = x.sub_(_levels(self.mean, pixels.device)).div_(_levels(self.std, pixels.device))
        return torch.where(x.isnan(), 0.0, x) if pixels.is_floating_point() else x

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, C, h, w) logits whose bilinear enlargement to x's size is forward(x)[-1], if `enlarges` is true.

        Callers that need only the winning class use `predict.upsample_argmax`, which finds it without logits of x's size.
        """
        raise AssertionError(f"{type(self).__name__} does not end by enlarging its logits")

    def fine_tuned(self) -> list[nn.Module]:
        """Return the parts that learn at the backbone's rate: the encoder, and layers that the papers fine-tune with it.

        All other layers are the head, which is new and may learn faster.
        """
        return [self.backbone]

    def further_inputs(self) -> list[nn.Conv2d]:
        """Return the convolutions on the image itself, apart from the first one of the encoder."""
        return []

    def expect_bands(self, bands: int) -> None:
        """Prepare for images of so many bands, apart from the convolutions on them, which `bands.widen` replaces."""

    def shards(self) -> list[nn.Module]:
        """Return the parts whose parameters FSDP gathers separately; the rest is gathered together."""
        return [self.backbone]

    def place(self, device: torch.device) -> "Network":
        """Move the network to a device in channels-last memory format, in which convolutions are fastest; return it."""
        self.to(device)
        self.to(memory_format=torch.channels_last)
        return self

    def legal_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the smallest legal (height, width) that is large enough for an image of this size."""
        first, second = (
            max(self.min_size, -(-(size - self.beyond) // self.multiple_of) * self.multiple_of + self.beyond)
            for size in (height, width)
        )
        return first, second

    def check_size(self, x: torch.Tensor) -> None:
        """Raise UserError, naming the next legal size, if the network does not accept x's size."""
        height, width = x.shape[-2:]
        legal = self.legal_size(height, width)
        if (height, width) != legal:
            plus = f" plus {self.beyond}" if self.beyond else ""
            multiples = f"multiples of {self.multiple_of}{plus} and " if self.multiple_of > 1 else ""
            raise UserError(
                f"{type(self).__name__} takes sizes that are {multiples}at least {self.min_size}, "
                f"found {height}x{width}; the next legal size is {legal[0]}x{legal[1]} (pad the image)"
            )


@cache
def _levels(values: Levels, device: torch.device) -> torch.Tensor:
    """Return values of 0..1 as 8-bit levels (1, D, 1, 1). Cached per device, so that no batch waits for a copy to a GPU."""
    return torch.tensor(values, device=device).mul(255).view(1, -1, 1, 1)


class GridNetwork(Network):
    """A network whose logits are computed on a coarse grid and then only enlarged.

    Score (i, j) belongs to pixel (centre + i * stride, centre + j * stride), so that shift-and-stitch can fill the grid.
    """

    stride: int  # pixels between two scores
    centre: float  # pixel of the first score

    def scores(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits on the grid: (N, 3, H, W) -> (N, C, h, w)."""
        raise AssertionError(f"{type(self).__name__} has no scores()")

    def coarse(self, x: torch.Tensor) -> torch.Tensor:
        self.check_size(x)
        return self.scores(x)


def place_on_pixels(scores: torch.Tensor, stride: float, centre: float, height: int, width: int) -> torch.Tensor:
    """Enlarge (N, C, h, w) scores of pixels centre + i * stride to (N, C, height, width), bilinearly and constant outside."""
    for dim, size in ((-2, height), (-1, width)):
        count = scores.shape[dim]
        pixel = torch.arange(size, device=scores.device, dtype=torch.float32)
        place = ((pixel - centre) / stride).clamp(0, count - 1)
        below = place.floor().long().clamp(max=max(count - 2, 0))
        share = (place - below).to(scores.dtype)
        share = share[:, None] if dim == -2 else share
        above = (below + 1).clamp(max=count - 1)
        scores = scores.index_select(dim, below) * (1 - share) + scores.index_select(dim, above) * share
    return scores
