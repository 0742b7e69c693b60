"""ResNet (arXiv:1512.03385) as an encoder, with torchvision's parameter names, so that its weights load unchanged."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

ResNetName = Literal["resnet18", "resnet50", "resnet101"]
ResNetDefinition = Literal["torchvision", "caffe"]


class ResNet(nn.Module):
    """torchvision's ResNet without its classifier: (N, 3, H, W) -> the four stages' maps, at strides 4, 8, 16, 32.

    Stages after `output_stride` keep the size and are dilated (arXiv:1606.00915, section 3.1). As in torchvision, the first
    block of a stage still has the rate of the previous stage.

    Args:
        definition: variant of the network; parameters and their names are the same. `caffe` is the original ResNet, with which
            DeepLab v2 was released: a stage's first block subsamples in its first 1x1 convolution (torchvision: in the 3x3),
            the max pooling rounds its size up, and all blocks of a dilated stage have the stage's rate.
        multi_grid: rates of the last stage's blocks, relative to the stage's (arXiv:1706.05587, section 3.2.1).
        strides: strides of the maps to return in addition to the last, finest first; 2 is before the max pooling. Absent: 4, 8
            and 16, as far as `output_stride` has them, by stage.
    """

    def __init__(
        self,
        name: ResNetName,
        output_stride: int = 32,
        multi_grid: Sequence[int] | None = None,
        definition: ResNetDefinition = "torchvision",
        strides: Sequence[int] | None = None,
    ) -> None:
        import torchvision

        super().__init__()
        assert definition == "torchvision" or (name != "resnet18" and multi_grid is None)
        self.name, self.definition = name, definition
        dilated = [output_stride < 32 // 2**later for later in (2, 1, 0)]
        options = {} if name == "resnet18" else {"replace_stride_with_dilation": dilated}
        whole = torchvision.models.get_model(name, weights=None, **options)
        for child, layer in whole.named_children():
            if child not in ("avgpool", "fc"):
                self.add_module(child, layer)
        expansion = 1 if name == "resnet18" else 4
        self.channels = tuple(width * expansion for width in (64, 128, 256, 512))
        self.layers = ["layer1", "layer2", "layer3", "layer4"]
        if strides is not None:
            of_stride = {2: ("relu", 64), **{4 * 2**n: (f"layer{n + 1}", self.channels[n]) for n in range(3)}}
            self.layers = [*(of_stride[stride][0] for stride in strides), "layer4"]
            self.channels = (*(of_stride[stride][1] for stride in strides), self.channels[-1])
        if multi_grid is not None:
            base = 32 // output_stride
            for block, rate in zip(whole.layer4, multi_grid, strict=True):
                block.conv2.dilation = block.conv2.padding = (base * rate, base * rate)
        if definition == "caffe":
            whole.maxpool.ceil_mode = True
            for stage in (whole.layer2, whole.layer3, whole.layer4):
                first, second = stage[0], stage[1]
                first.conv1.stride, first.conv2.stride = first.conv2.stride, (1, 1)
                first.conv2.dilation, first.conv2.padding = second.conv2.dilation, second.conv2.padding

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for name, layer in self.named_children():
            x = layer(x)
            if name in self.layers:
                maps.append(x)
        return maps
